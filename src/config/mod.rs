//! What may be tuned, under Kafka's own names.
//!
//! - [`TopicConfig`] holds what was set for one topic, and nothing else: overrides that lie over the store's defaults,
//!   which lie over Kafka's. It is what users build, what is persisted, and what is altered.
//! - [`TopicConfig::resolve`] turns it into [`TopicSettings`], the typed, checked values that the engine reads. That is
//!   the one place where validation happens.
//! - [`StoreConfig`] and [`StoreSettings`] are the same pair for the whole store.
//!
//! A refused key or value is a [`ConfigError`] that names it and says what would have been legal.

mod error;
mod keys;
mod store;
mod topic;
mod values;

pub use error::ConfigError;
pub use store::{StoreConfig, StoreSettings};
pub use topic::{TopicConfig, TopicSettings};
pub use values::{CleanupPolicy, CompressionType, ReplicaThrottle, ThrottledReplicas};
