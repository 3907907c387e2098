//! The Kafka log as a Rust library.

pub mod clock;
pub mod config;
pub mod format;
pub mod location;
pub mod metrics;
pub mod name;
pub mod partition;
pub mod segment;
pub mod types;
pub mod vfs;
