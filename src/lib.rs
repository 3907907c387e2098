//! The Kafka log as a Rust library.

#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod config;
pub mod format;
pub mod location;
pub mod metrics;
pub mod name;
pub mod types;
pub mod vfs;
