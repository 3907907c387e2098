//! The Kafka log as a Rust library.

#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod format;
pub mod location;
pub mod maintenance;
pub mod metrics;
pub mod name;
pub mod partition;
pub mod segment;
pub mod store;
pub mod types;
pub mod vfs;
