//! The config of one topic: every key of Kafka 4.2 that a log can obey, in one table.
//!
//! The replication keys are checked and kept, so that a topic's config survives the way through this store; nothing
//! reads them here. Keys that Kafka 4.0 removed and those of tiered storage are refused by name. One range is wider
//! than Kafka's: `segment.bytes` may be as small as 14, where Kafka 4 asks for 1048576.

use super::error::ConfigError;
use super::keys::{Key, Overrides, Settings, config_keys};
use super::values::{
    CleanupPolicy, CompressionType, LONG_MAX, ThrottledReplicas, boolean, int, long, long_or_none, ratio, size,
    timestamp_type,
};
use crate::name::shortened;
use crate::types::TimestampType;

/// What was set for one topic, over defaults that it doesn't repeat.
///
/// Build it with the methods named after Kafka's keys, or from texts with [`TopicConfig::set`]. The builder methods
/// check nothing: an illegal value is reported by [`TopicConfig::validate`], which creating and altering a topic call.
///
/// # Example
///
/// ```
/// use stratalog::config::{CleanupPolicy, TopicConfig};
///
/// let mut config = TopicConfig::new().segment_bytes(64 << 20).cleanup_policy(CleanupPolicy::COMPACT);
/// config.set("retention.ms", "86400000")?;
/// assert_eq!(config.get("segment.bytes")?, "67108864");
/// assert_eq!(config.get("segment.ms")?, "604800000"); // not set, so Kafka's default
/// config.validate()?;
/// # Ok::<(), stratalog::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicConfig {
    overrides: Overrides,
}

impl TopicConfig {
    /// A config in which nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A config of the given keys and values; of a key that comes twice the last value stays.
    ///
    /// # Errors
    ///
    /// As [`TopicConfig::set`], and as [`TopicConfig::validate`] for values that exclude each other.
    pub fn from_map<K, V>(entries: impl IntoIterator<Item = (K, V)>) -> Result<Self, ConfigError>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut config = Self::new();
        for (key, value) in entries {
            config.set(key.as_ref(), value.as_ref())?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Sets `key` to `value`, which is trimmed. On an error nothing has changed.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownKey`], [`ConfigError::RemovedKey`], [`ConfigError::UnsupportedKey`] for the key,
    /// [`ConfigError::Invalid`] for the value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        self.overrides.set::<TopicSettings>(key, value)
    }

    /// Takes `key` back to its default; whether it had been set.
    ///
    /// # Errors
    ///
    /// As [`TopicConfig::set`] for the key.
    pub fn unset(&mut self, key: &str) -> Result<bool, ConfigError> {
        self.overrides.unset::<TopicSettings>(key)
    }

    /// The value of `key` as Kafka writes it: the one that was set, else Kafka's default.
    ///
    /// # Errors
    ///
    /// As [`TopicConfig::set`] for the key.
    pub fn get(&self, key: &str) -> Result<String, ConfigError> {
        self.overrides.get::<TopicSettings>(key)
    }

    /// The value of `key` if it was set; `None` too for a key that doesn't exist.
    #[must_use]
    pub fn explicit(&self, key: &str) -> Option<&str> {
        self.overrides.explicit(key)
    }

    /// Every key with its value, set or default.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.overrides.entries::<TopicSettings>()
    }

    /// The keys that were set, with their values; [`TopicConfig::from_map`] of them is this config again.
    pub fn explicit_entries(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.overrides.explicit_entries::<TopicSettings>()
    }

    /// This config, and for the keys not set in it what `defaults` sets.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        Self { overrides: self.overrides.over(&defaults.overrides) }
    }

    /// The values that hold for a topic with this config in a store with these `defaults`, typed and checked.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for a value outside its range, [`ConfigError::Conflict`] for two that exclude each other.
    pub fn resolve(&self, defaults: &Self) -> Result<TopicSettings, ConfigError> {
        self.over(defaults).overrides.resolve()
    }

    /// Checks every value, over Kafka's defaults.
    ///
    /// # Errors
    ///
    /// As [`TopicConfig::resolve`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.overrides.resolve::<TopicSettings>().map(drop)
    }
}

impl Settings for TopicSettings {
    const KEYS: &'static [Key<Self>] = TOPIC_KEYS;

    fn refusal(name: &str) -> ConfigError {
        if let Some((key, reason)) = REMOVED_KEYS.into_iter().find(|(key, _)| *key == name) {
            return ConfigError::RemovedKey { key, reason };
        }
        if name.starts_with("remote.") || name.starts_with("local.retention.") {
            return ConfigError::UnsupportedKey { key: shortened(name), reason: "there is no tiered storage" };
        }
        ConfigError::UnknownKey { key: shortened(name) }
    }

    fn check_together(&self) -> Result<(), ConfigError> {
        if self.min_compaction_lag_ms <= self.max_compaction_lag_ms {
            return Ok(());
        }
        Err(ConfigError::Conflict {
            key: "min.compaction.lag.ms",
            value: self.min_compaction_lag_ms.to_string(),
            other_key: "max.compaction.lag.ms",
            other_value: self.max_compaction_lag_ms.to_string(),
            expected: "the minimum to be at most the maximum",
        })
    }
}

/// The keys that Kafka 4.0 removed, and what to do instead.
const REMOVED_KEYS: [(&str, &str); 3] = [
    (
        "message.timestamp.difference.max.ms",
        "set message.timestamp.before.max.ms and message.timestamp.after.max.ms instead",
    ),
    ("message.format.version", "new records are always written in batch format v2"),
    ("message.downconversion.enable", "records are never converted to an older format"),
];

config_keys! {
    /// The values that hold for a topic, typed and within their ranges: what the engine reads.
    ///
    /// Made by [`TopicConfig::resolve`]; [`TopicSettings::default`] is Kafka 4.2's defaults.
    settings TopicSettings of TopicConfig, keys TOPIC_KEYS;

    /// `cleanup.policy`: what happens to old records. Default `delete`; any of `compact` and `delete`, or empty.
    ///
    /// Deleting goes by `retention.ms` and `retention.bytes`; compacting keeps the latest record of each key and
    /// refuses records without one; empty keeps everything. Leave it alone for streams of events; compact tables.
    "cleanup.policy" => cleanup_policy: CleanupPolicy = CleanupPolicy::DELETE,
        "a comma-separated list of compact and delete, or nothing", CleanupPolicy::parse;

    /// `compression.type`: the codec of the batches on disk. Default `producer`; `producer`, `uncompressed`, `gzip`,
    /// `snappy`, `lz4`, `zstd`.
    ///
    /// With any other value than `producer`, batches that come in another codec are compressed anew, which costs time
    /// on every append. Leave it alone where the producers can be told which codec to use.
    "compression.type" => compression_type: CompressionType = CompressionType::Producer,
        "producer, uncompressed, gzip, snappy, lz4 or zstd", CompressionType::parse;

    /// `compression.gzip.level`: how hard gzip tries. Default -1 (the codec's own choice); -1 or 1 to 9.
    ///
    /// Read only when `compression.type` is `gzip`. Leave it alone unless size or time was measured.
    "compression.gzip.level" => compression_gzip_level: i32 = -1,
        "-1 or a whole number from 1 to 9", |text| int(text, -1..=9).filter(|level| *level != 0);

    /// `compression.lz4.level`: how hard LZ4 tries. Default 9; 1 to 17.
    ///
    /// Read only when `compression.type` is `lz4`. Leave it alone unless size or time was measured.
    "compression.lz4.level" => compression_lz4_level: i32 = 9,
        "a whole number from 1 to 17", |text| int(text, 1..=17);

    /// `compression.zstd.level`: how hard Zstandard tries. Default 3; -131072 to 22.
    ///
    /// Read only when `compression.type` is `zstd`. Leave it alone unless size or time was measured.
    "compression.zstd.level" => compression_zstd_level: i32 = 3,
        "a whole number from -131072 to 22", |text| int(text, -131_072..=22);

    /// `delete.retention.ms`: milliseconds that compaction keeps a tombstone after first seeing it. Default 86400000
    /// (a day); at least 0.
    ///
    /// A reader that takes longer than this from the start to the end of the log may miss that a key was deleted.
    /// Leave it alone unless readers are slower than that.
    "delete.retention.ms" => delete_retention_ms: u64 = 86_400_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `file.delete.delay.ms`: milliseconds from taking a segment out of the log to deleting its files. Default 60000;
    /// at least 0.
    ///
    /// Readers here keep what they hold anyway; the delay is for other processes that read the folder. Leave it alone.
    "file.delete.delay.ms" => file_delete_delay_ms: u64 = 60_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `flush.messages`: records after which an append syncs the log. Default 9223372036854775807 (never); at least 1.
    ///
    /// A small number makes every appender wait for the disk. Leave it alone, and ask for durability with those
    /// appends that need it.
    "flush.messages" => flush_messages: u64 = LONG_MAX,
        "a whole number of at least 1", |text| long(text, 1);

    /// `flush.ms`: milliseconds after which maintenance syncs what was appended. Default 9223372036854775807 (never);
    /// at least 0.
    ///
    /// It bounds what a power loss can take, while maintenance runs; how often that looks is
    /// `log.flush.scheduler.interval.ms` of the store. Leave it alone where appends ask for durability themselves.
    "flush.ms" => flush_ms: u64 = LONG_MAX,
        "a whole number of at least 0", |text| long(text, 0);

    /// `index.interval.bytes`: bytes of log between two entries of a segment's indexes. Default 4096; 0 to 2147483647.
    ///
    /// Smaller finds an offset with less reading and makes larger indexes. Leave it alone.
    "index.interval.bytes" => index_interval_bytes: u32 = 4096,
        "a whole number from 0 to 2147483647", |text| size(text, 0);

    /// `max.message.bytes`: bytes of the largest batch that may be appended, header included and after compression.
    /// Default 1048588; 0 to 2147483647.
    ///
    /// Larger batches are refused. Every reader must be ready for one batch of this size. Raise it only for records
    /// that are larger themselves.
    "max.message.bytes" => max_message_bytes: u32 = 1_048_588,
        "a whole number from 0 to 2147483647", |text| size(text, 0);

    /// `max.compaction.lag.ms`: milliseconds after which a record must be compacted, however little there is to gain.
    /// Default 9223372036854775807 (no limit); at least 1, and at least `min.compaction.lag.ms`.
    ///
    /// On a compacted topic it also rolls segments that are older. Set it where deleted data must be gone in time.
    "max.compaction.lag.ms" => max_compaction_lag_ms: u64 = LONG_MAX,
        "a whole number of at least 1", |text| long(text, 1);

    /// `min.compaction.lag.ms`: milliseconds during which a record is not compacted. Default 0; at least 0, at most
    /// `max.compaction.lag.ms`.
    ///
    /// Set it where readers must see every record if they come in time. Leave it alone otherwise.
    "min.compaction.lag.ms" => min_compaction_lag_ms: u64 = 0,
        "a whole number of at least 0", |text| long(text, 0);

    /// `min.cleanable.dirty.ratio`: the share of a log, in bytes, that must be uncompacted before compaction starts.
    /// Default 0.5; 0 to 1.
    ///
    /// Lower keeps the log smaller and rewrites it more often. Leave it alone unless the space matters.
    "min.cleanable.dirty.ratio" => min_cleanable_dirty_ratio: f64 = 0.5,
        "a number from 0 to 1", ratio;

    /// `min.insync.replicas`: replicas that must have a record before it counts as replicated. Default 1; 1 to
    /// 2147483647.
    ///
    /// Kept for replication; a log alone has one replica. Leave it alone.
    "min.insync.replicas" => min_insync_replicas: u32 = 1,
        "a whole number from 1 to 2147483647", |text| size(text, 1);

    /// `message.timestamp.type`: who sets a record's time. Default `CreateTime` (the producer); or `LogAppendTime`
    /// (the log, when it appends).
    ///
    /// Set `LogAppendTime` where producers' clocks can't be trusted; it replaces the times they give.
    "message.timestamp.type" => message_timestamp_type: TimestampType = TimestampType::Create,
        "CreateTime or LogAppendTime", timestamp_type;

    /// `message.timestamp.before.max.ms`: milliseconds that a record's time may lie in the past. Default
    /// 9223372036854775807 (no limit); at least 0.
    ///
    /// Older records are refused; `LogAppendTime` topics don't look. Leave it alone where old data is loaded.
    "message.timestamp.before.max.ms" => message_timestamp_before_max_ms: u64 = LONG_MAX,
        "a whole number of at least 0", |text| long(text, 0);

    /// `message.timestamp.after.max.ms`: milliseconds that a record's time may lie in the future. Default 3600000 (an
    /// hour); at least 0.
    ///
    /// Later records are refused; `LogAppendTime` topics don't look. One record far in the future keeps its segment
    /// and all later ones from being deleted by age: leave it alone.
    "message.timestamp.after.max.ms" => message_timestamp_after_max_ms: u64 = 3_600_000,
        "a whole number of at least 0", |text| long(text, 0);

    /// `preallocate`: whether a new segment's file gets its full size at once. Default `false`.
    ///
    /// It saves the disk some work on each sync, and takes `segment.bytes` for every partition. Leave it alone
    /// unless durable appends were measured to gain.
    "preallocate" => preallocate: bool = false,
        "true or false", boolean;

    /// `retention.bytes`: bytes of `.log` files that a partition keeps, `None` for no limit. Default -1 (no limit);
    /// every negative number is no limit.
    ///
    /// It is what remains at least: the oldest segment goes only when the others hold this much, so up to one segment more
    /// stays. It holds for each partition, not for the topic. Set it where the disk is the limit.
    "retention.bytes" => retention_bytes: Option<u64> = None,
        "a whole number, negative for no limit", |text| long_or_none(text, i64::MIN..=-1);

    /// `retention.ms`: milliseconds that a segment is kept after its latest record, `None` for ever. Default 604800000
    /// (a week); at least 0, or -1 for ever.
    ///
    /// Whole segments go, oldest first, so records live longer than this by up to one segment. Set it to what readers
    /// need.
    "retention.ms" => retention_ms: Option<u64> = Some(604_800_000),
        "a whole number of at least 0, or -1 for no limit", |text| long_or_none(text, -1..=-1);

    /// `segment.bytes`: bytes of a segment's `.log` at which the next one is begun. Default 1073741824; 14 to
    /// 2147483647.
    ///
    /// Retention and compaction work by the segment, so smaller ones free space sooner; each costs files. No batch can
    /// be larger. Kafka 4 itself accepts no value under 1048576. Leave it alone above a few megabytes a second.
    "segment.bytes" => segment_bytes: u32 = 1_073_741_824,
        "a whole number from 14 to 2147483647", |text| size(text, 14);

    /// `segment.index.bytes`: bytes that a segment's index may grow to before the next segment is begun. Default
    /// 10485760; 4 to 2147483647.
    ///
    /// Leave it alone: it is reached before `segment.bytes` only where `index.interval.bytes` is small.
    "segment.index.bytes" => segment_index_bytes: u32 = 10_485_760,
        "a whole number from 4 to 2147483647", |text| size(text, 4);

    /// `segment.ms`: milliseconds after which the next segment is begun even if `segment.bytes` is not reached. Default
    /// 604800000 (a week); at least 1.
    ///
    /// Counted in the records' own time, and looked at on each append. Lower it together with `retention.ms`, so that
    /// slow topics expire in time.
    "segment.ms" => segment_ms: u64 = 604_800_000,
        "a whole number of at least 1", |text| long(text, 1);

    /// `segment.jitter.ms`: the most milliseconds by which `segment.ms` is shortened, at random for each segment. Default
    /// 0; at least 0.
    ///
    /// It keeps many partitions from beginning new segments at once. Leave it alone with few partitions.
    "segment.jitter.ms" => segment_jitter_ms: u64 = 0,
        "a whole number of at least 0", |text| long(text, 0);

    /// `unclean.leader.election.enable`: whether a replica that lags may become leader. Default `false`.
    ///
    /// Kept for replication; `true` can lose acknowledged records. Leave it alone.
    "unclean.leader.election.enable" => unclean_leader_election_enable: bool = false,
        "true or false", boolean;

    /// `leader.replication.throttled.replicas`: replicas whose leader sends slowly. Default none; pairs
    /// `partition:broker`, or `*` for all.
    ///
    /// Kept for replication, where tools set it while they move partitions. Leave it alone.
    "leader.replication.throttled.replicas" => leader_replication_throttled_replicas: ThrottledReplicas =
        ThrottledReplicas::NONE, "a comma-separated list of partition:broker, or *", ThrottledReplicas::parse;

    /// `follower.replication.throttled.replicas`: replicas that fetch slowly. Default none; pairs `partition:broker`,
    /// or `*` for all.
    ///
    /// Kept for replication, where tools set it while they move partitions. Leave it alone.
    "follower.replication.throttled.replicas" => follower_replication_throttled_replicas: ThrottledReplicas =
        ThrottledReplicas::NONE, "a comma-separated list of partition:broker, or *", ThrottledReplicas::parse;
}

#[cfg(test)]
mod tests;
