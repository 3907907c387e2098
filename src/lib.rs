//! The Kafka log as a Rust library.

pub mod format;
pub mod types;
pub mod vfs;
