//! The config of a store: how it recovers and how often its background work looks.
//!
//! Names and defaults are those of Kafka's broker, with one exception that [`StoreConfig::flush_scheduler_interval_ms`]
//! explains. Nothing here starts a thread: the intervals say what `tick` does when it is called.

use super::error::ConfigError;
use super::keys::{Key, Overrides, Settings, config_keys};
use super::topic::TopicConfig;
use super::values::{long, size};

/// What was set for a store, and the defaults of its topics.
///
/// # Example
///
/// ```
/// use stratalog::config::{StoreConfig, TopicConfig};
///
/// let config = StoreConfig::new()
///     .num_recovery_threads(4)
///     .topic_defaults(TopicConfig::new().retention_ms(Some(3_600_000)));
/// assert_eq!(config.resolve()?.num_recovery_threads, 4);
/// # Ok::<(), stratalog::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreConfig {
    overrides: Overrides,
    topic_defaults: TopicConfig,
}

impl StoreConfig {
    /// A config in which nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What holds for topics in the keys that they don't set themselves. Default: Kafka's defaults.
    ///
    /// A folder that Kafka wrote has no config of its own, so this is its config; see the store about its retention.
    #[must_use]
    pub fn topic_defaults(self, defaults: TopicConfig) -> Self {
        Self { topic_defaults: defaults, ..self }
    }

    /// What holds for topics in the keys that they don't set themselves.
    #[must_use]
    pub const fn default_topic_config(&self) -> &TopicConfig {
        &self.topic_defaults
    }

    /// Sets `key` to `value`, which is trimmed. On an error nothing has changed.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownKey`] for the key, [`ConfigError::Invalid`] for the value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        self.overrides.set::<StoreSettings>(key, value)
    }

    /// The value of `key` as Kafka writes it, set or default.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownKey`].
    pub fn get(&self, key: &str) -> Result<String, ConfigError> {
        self.overrides.get::<StoreSettings>(key)
    }

    /// Every key of the store with its value, set or default; those of its topics not included.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.overrides.entries::<StoreSettings>()
    }

    /// The values that hold, typed and checked; the defaults for topics are checked too.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for a value outside its range, [`ConfigError::Conflict`] for two that exclude each other.
    pub fn resolve(&self) -> Result<StoreSettings, ConfigError> {
        self.topic_defaults.validate()?;
        self.overrides.resolve()
    }
}

impl Settings for StoreSettings {
    const KEYS: &'static [Key<Self>] = STORE_KEYS;
}

config_keys! {
    /// The values that hold for a store, typed and within their ranges: what the engine reads.
    ///
    /// Made by [`StoreConfig::resolve`].
    settings StoreSettings of StoreConfig, keys STORE_KEYS;

    /// `num.recovery.threads.per.data.dir`: partitions opened and closed at the same time. Default 2; 1 to 2147483647.
    ///
    /// Raise it where many partitions must be recovered after a crash and the disk keeps up; more threads than
    /// partitions are never started.
    "num.recovery.threads.per.data.dir" => num_recovery_threads: u32 = 2,
        "a whole number from 1 to 2147483647", |text| size(text, 1);

    /// `log.flush.offset.checkpoint.interval.ms`: milliseconds between writes of the recovery points. Default 60000; at
    /// least 0.
    ///
    /// Whatever was synced since the last write is scanned again after a crash. Leave it alone.
    "log.flush.offset.checkpoint.interval.ms" => flush_offset_checkpoint_interval_ms: u64 = 60_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `log.flush.start.offset.checkpoint.interval.ms`: milliseconds between writes of the log start offsets. Default
    /// 60000; at least 0.
    ///
    /// A deletion of records since the last write may be forgotten in a crash. Leave it alone.
    "log.flush.start.offset.checkpoint.interval.ms" => flush_start_offset_checkpoint_interval_ms: u64 = 60_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `replica.high.watermark.checkpoint.interval.ms`: milliseconds between writes of the high watermarks. Default
    /// 5000; at least 0.
    ///
    /// Leave it alone: it matters to replicated partitions only.
    "replica.high.watermark.checkpoint.interval.ms" => high_watermark_checkpoint_interval_ms: u64 = 5_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `log.retention.check.interval.ms`: milliseconds between two looks for segments to delete. Default 300000; at
    /// least 1.
    ///
    /// Lower it together with short retentions.
    "log.retention.check.interval.ms" => retention_check_interval_ms: u64 = 300_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `log.flush.scheduler.interval.ms`: milliseconds between two looks for partitions past their `flush.ms`. Default
    /// 1000; at least 0.
    ///
    /// Kafka's default is 9223372036854775807, with which a topic's `flush.ms` is accepted and never acted upon. Here a
    /// topic that sets `flush.ms` gets it. As in Kafka, a `flush.ms` below this interval is rounded up to it.
    "log.flush.scheduler.interval.ms" => flush_scheduler_interval_ms: u64 = 1_000,
        "a whole number of at least 0", |text| long(text, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_and_lowest_value_is_the_documented_one() {
        let table = [
            ("num.recovery.threads.per.data.dir", "2", "1"),
            ("log.flush.offset.checkpoint.interval.ms", "60000", "0"),
            ("log.flush.start.offset.checkpoint.interval.ms", "60000", "0"),
            ("replica.high.watermark.checkpoint.interval.ms", "5000", "0"),
            ("log.retention.check.interval.ms", "300000", "1"),
            ("log.flush.scheduler.interval.ms", "1000", "0"),
        ];
        let listed: Vec<_> = StoreConfig::new().entries().collect();
        assert_eq!(listed, table.map(|(key, default, _)| (key, default.to_owned())));
        for (key, _, least) in table {
            let mut config = StoreConfig::new();
            config.set(key, &format!(" {least}\n")).unwrap();
            assert_eq!(config.get(key).unwrap(), least);
            let below = (least.parse::<i64>().unwrap() - 1).to_string();
            assert!(matches!(config.set(key, &below), Err(ConfigError::Invalid { .. })), "{key}={below}");
            assert_eq!(config.get(key).unwrap(), least);
            config.resolve().unwrap();
        }
    }

    #[test]
    fn a_topics_key_is_unknown_to_the_store_itself() {
        let error = StoreConfig::new().set("retention.ms", "1").unwrap_err();
        assert_eq!(error, ConfigError::UnknownKey { key: "retention.ms".into() });
    }

    #[test]
    fn illegal_defaults_for_topics_and_illegal_built_values_are_found_on_resolving() {
        let topics = StoreConfig::new().topic_defaults(TopicConfig::new().segment_bytes(13));
        assert_eq!(topics.resolve().unwrap_err().key(), "segment.bytes");
        let threads = StoreConfig::new().num_recovery_threads(0);
        assert_eq!(threads.resolve().unwrap_err().key(), "num.recovery.threads.per.data.dir");
    }
}
