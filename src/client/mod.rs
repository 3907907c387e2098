//! The client side of the log, in-process: no network, no thread of its own.
//!
//! Today it holds the one rule that producers of different programs must share: which partition a key goes to.

pub mod partitioner;
