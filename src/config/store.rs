//! The config of a store: how it recovers and how often its background work looks.
//!
//! Names and defaults are those of Kafka's broker, with one exception that [`StoreConfig::flush_scheduler_interval_ms`]
//! explains. Nothing here starts a thread: the intervals say what `tick` does when it is called.

use super::error::ConfigError;
use super::keys::{Key, Overrides, Settings, config_keys};
use super::topic::TopicConfig;
use super::values::{boolean, long, number, size};

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

    /// `log.initial.task.delay.ms`: milliseconds from the start of maintenance to the first look for segments to delete, the
    /// first flush and the first checkpoint, unless their interval is shorter. Default 30000; at least 0.
    ///
    /// Lower it where a program runs for less than the retention's interval at a time.
    "log.initial.task.delay.ms" => initial_task_delay_ms: u64 = 30_000,
        "a whole number of at least 0", |text| long(text, 0);

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

    /// `log.cleaner.enable`: whether background work compacts at all. Default true.
    ///
    /// With false, topics of the policy `compact` grow until somebody compacts them by hand.
    "log.cleaner.enable" => cleaner_enable: bool = true,
        "true or false", boolean;

    /// `log.cleaner.dedupe.buffer.size`: bytes of memory that compacting a partition may take for its map of keys. Default
    /// 134217728; at least 1024.
    ///
    /// An entry takes 20 bytes, so a key takes 22.2 at the default load factor. What doesn't fit is compacted by the next runs: raise it where a partition gets more keys between
    /// two runs than fit. A run takes no more than the records it looks at can need.
    "log.cleaner.dedupe.buffer.size" => cleaner_dedupe_buffer_size: u64 = 134_217_728,
        "a whole number of at least 1024", |text| long(text, 1024);

    /// `log.cleaner.io.buffer.load.factor`: the share of that map which keys may fill. Default 0.9; 0.01 to 0.95.
    ///
    /// Leave it alone: a fuller map holds more keys and is slower.
    "log.cleaner.io.buffer.load.factor" => cleaner_io_buffer_load_factor: f64 = 0.9,
        "a number from 0.01 to 0.95", |text| number(text, 0.01..=0.95);

    /// `log.cleaner.io.max.bytes.per.second`: bytes that background compaction reads and writes in a second. Default
    /// 1.7976931348623157E308, which is no limit; at least 1.
    ///
    /// Lower it where compaction takes the disk away from appends and reads.
    "log.cleaner.io.max.bytes.per.second" => cleaner_io_max_bytes_per_second: f64 = f64::MAX,
        "a number of at least 1", |text| number(text, 1.0..=f64::MAX);

    /// `log.cleaner.backoff.ms`: milliseconds between two looks for partitions to compact. Default 15000; at least 0.
    ///
    /// Lower it together with short compaction lags.
    "log.cleaner.backoff.ms" => cleaner_backoff_ms: u64 = 15_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `producer.id.expiration.ms`: milliseconds after which an idle producer is forgotten. Default 86400000; at least 1.
    ///
    /// A producer that was forgotten can write one batch again that the log already has. Raise it where producers pause longer.
    "producer.id.expiration.ms" => producer_id_expiration_ms: u64 = 86_400_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `producer.id.expiration.check.interval.ms`: milliseconds between two looks for idle producers. Default 600000; at
    /// least 1.
    ///
    /// Leave it alone.
    "producer.id.expiration.check.interval.ms" => producer_id_expiration_check_interval_ms: u64 = 600_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `transaction.max.timeout.ms`: the longest timeout in milliseconds that a transaction may ask for. Default 900000; at
    /// least 1.
    ///
    /// Readers of committed records wait for an open transaction: lower it where they must not wait that long.
    "transaction.max.timeout.ms" => transaction_max_timeout_ms: u64 = 900_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `transactional.id.expiration.ms`: milliseconds after which an idle transactional id is forgotten. Default 604800000; at
    /// least 1.
    ///
    /// A producer that comes back later gets a new producer id. Raise it where producers pause longer.
    "transactional.id.expiration.ms" => transactional_id_expiration_ms: u64 = 604_800_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `transaction.state.log.num.partitions`: partitions of `__transaction_state` when it is created. Default 50; 1 to
    /// 2147483647.
    ///
    /// Never change it for a store that has the topic.
    "transaction.state.log.num.partitions" => transaction_state_log_num_partitions: u32 = 50,
        "a whole number from 1 to 2147483647", |text| size(text, 1);

    /// `offsets.topic.num.partitions`: partitions of `__consumer_offsets` when it is created. Default 50; 1 to 2147483647.
    ///
    /// Never change it for a store that has the topic.
    "offsets.topic.num.partitions" => offsets_topic_num_partitions: u32 = 50,
        "a whole number from 1 to 2147483647", |text| size(text, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_and_lowest_value_is_the_documented_one() {
        let table = [
            ("num.recovery.threads.per.data.dir", "2", "1"),
            ("log.initial.task.delay.ms", "30000", "0"),
            ("log.flush.offset.checkpoint.interval.ms", "60000", "0"),
            ("log.flush.start.offset.checkpoint.interval.ms", "60000", "0"),
            ("replica.high.watermark.checkpoint.interval.ms", "5000", "0"),
            ("log.retention.check.interval.ms", "300000", "1"),
            ("log.flush.scheduler.interval.ms", "1000", "0"),
            ("log.cleaner.enable", "true", "false"),
            ("log.cleaner.dedupe.buffer.size", "134217728", "1024"),
            ("log.cleaner.io.buffer.load.factor", "0.9", "0.01"),
            ("log.cleaner.io.max.bytes.per.second", "1.7976931348623157E308", "1.0"),
            ("log.cleaner.backoff.ms", "15000", "0"),
            ("producer.id.expiration.ms", "86400000", "1"),
            ("producer.id.expiration.check.interval.ms", "600000", "1"),
            ("transaction.max.timeout.ms", "900000", "1"),
            ("transactional.id.expiration.ms", "604800000", "1"),
            ("transaction.state.log.num.partitions", "50", "1"),
            ("offsets.topic.num.partitions", "50", "1"),
        ];
        let listed: Vec<_> = StoreConfig::new().entries().collect();
        assert_eq!(listed, table.map(|(key, default, _)| (key, default.to_owned())));
        for (key, _, least) in table {
            let mut config = StoreConfig::new();
            config.set(key, &format!(" {least}\n")).unwrap();
            assert_eq!(config.get(key).unwrap(), least);
            let below = least.parse::<f64>().map_or("maybe".to_owned(), |least| (least - 1.0).to_string());
            assert!(matches!(config.set(key, &below), Err(ConfigError::Invalid { .. })), "{key}={below}");
            assert_eq!(config.get(key).unwrap(), least);
            config.resolve().unwrap();
        }
    }

    #[test]
    fn a_share_or_rate_past_its_end_is_refused() {
        for (key, value) in [
            ("log.cleaner.io.buffer.load.factor", "1.0"),
            ("log.cleaner.io.buffer.load.factor", "NaN"),
            ("log.cleaner.io.max.bytes.per.second", "inf"),
            ("num.recovery.threads.per.data.dir", "2147483648"),
        ] {
            assert!(matches!(StoreConfig::new().set(key, value), Err(ConfigError::Invalid { .. })), "{key}={value}");
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
