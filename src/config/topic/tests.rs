//! Every key of a topic against the table: its default, the edges of its range, and the way there and back.

use std::collections::BTreeMap;

use super::*;

/// Key, default, legal values, illegal values.
type Row = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const INT_MAX: &str = "2147483647";
const ABOVE_INT: &str = "2147483648";
const LONG: &str = "9223372036854775807";
const ABOVE_LONG: &str = "9223372036854775808";
const FROM_0: (&[&str], &[&str]) = (&["0", "1", LONG], &["-1", ABOVE_LONG, "", "x", "1.5", "1 2", "0x1", "1_000"]);
const FROM_1: (&[&str], &[&str]) = (&["1", "2", LONG], &["0", "-1", ABOVE_LONG, "", "x"]);
const BOOL: (&[&str], &[&str]) = (&["true", "false"], &["", "yes", "1", "truee"]);
const THROTTLED: (&[&str], &[&str]) = (&["", "*", "0:1", "0:1,2:3"], &["0", "0:x", "*,*", "none", "0:-1"]);

const TABLE: [Row; 28] = [
    (
        "cleanup.policy",
        "delete",
        &["", "compact", "delete", "compact,delete"],
        &["both", "Delete", "delete,,compact", "delete;compact"],
    ),
    (
        "compression.type",
        "producer",
        &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
        &["", "none", "ZSTD", "brotli"],
    ),
    ("compression.gzip.level", "-1", &["-1", "1", "2", "8", "9"], &["-2", "0", "10", "x"]),
    ("compression.lz4.level", "9", &["1", "2", "16", "17"], &["0", "18", "-1"]),
    ("compression.zstd.level", "3", &["-131072", "-131071", "0", "21", "22"], &["-131073", "23"]),
    ("delete.retention.ms", "86400000", FROM_0.0, FROM_0.1),
    ("file.delete.delay.ms", "60000", FROM_0.0, FROM_0.1),
    ("flush.messages", LONG, FROM_1.0, FROM_1.1),
    ("flush.ms", LONG, FROM_0.0, FROM_0.1),
    ("index.interval.bytes", "4096", &["0", "1", INT_MAX], &["-1", ABOVE_INT]),
    ("max.message.bytes", "1048588", &["0", "1", INT_MAX], &["-1", ABOVE_INT]),
    ("max.compaction.lag.ms", LONG, FROM_1.0, FROM_1.1),
    ("min.compaction.lag.ms", "0", FROM_0.0, FROM_0.1),
    ("min.cleanable.dirty.ratio", "0.5", &["0.0", "0.001", "0.999", "1.0"], &["-0.001", "1.001", "NaN", "inf", ""]),
    ("min.insync.replicas", "1", &["1", "2", INT_MAX], &["0", ABOVE_INT]),
    ("message.timestamp.type", "CreateTime", &["CreateTime", "LogAppendTime"], &["", "createtime", "AppendTime"]),
    ("message.timestamp.before.max.ms", LONG, FROM_0.0, FROM_0.1),
    ("message.timestamp.after.max.ms", "3600000", FROM_0.0, FROM_0.1),
    ("preallocate", "false", BOOL.0, BOOL.1),
    ("retention.bytes", "-1", &["-1", "0", "1", LONG], &[ABOVE_LONG, "-9223372036854775809", "", "1k"]),
    ("retention.ms", "604800000", &["-1", "0", "1", LONG], &["-2", ABOVE_LONG, "", "7d"]),
    ("segment.bytes", "1073741824", &["14", "15", "1048575", INT_MAX], &["13", "-1", ABOVE_INT]),
    ("segment.index.bytes", "10485760", &["4", "5", INT_MAX], &["3", ABOVE_INT]),
    ("segment.ms", "604800000", FROM_1.0, FROM_1.1),
    ("segment.jitter.ms", "0", FROM_0.0, FROM_0.1),
    ("unclean.leader.election.enable", "false", BOOL.0, BOOL.1),
    ("leader.replication.throttled.replicas", "", THROTTLED.0, THROTTLED.1),
    ("follower.replication.throttled.replicas", "", THROTTLED.0, THROTTLED.1),
];

#[test]
fn every_default_is_kafkas_and_no_key_is_left_out() {
    let listed: Vec<_> = TopicConfig::new().entries().collect();
    assert_eq!(listed, TABLE.map(|(key, default, _, _)| (key, default.to_owned())));
    assert_eq!(TopicConfig::new().explicit_entries().count(), 0);
}

#[test]
fn every_default_is_within_its_own_range() {
    let config = TopicConfig::from_map(TopicConfig::new().entries()).unwrap();
    assert_eq!(config.resolve(&TopicConfig::new()).unwrap(), TopicSettings::default());
}

#[test]
fn values_up_to_the_edges_are_kept_as_they_are() {
    for (key, _, legal, _) in TABLE {
        for value in legal {
            let mut config = TopicConfig::new();
            config.set(key, value).unwrap();
            assert_eq!(config.get(key).unwrap(), *value, "{key}");
            assert_eq!(config.explicit(key), Some(*value));
            config.validate().unwrap();
        }
    }
}

#[test]
fn values_past_the_edges_are_refused_by_key_value_and_range_and_change_nothing() {
    for (key, default, _, illegal) in TABLE {
        for value in illegal {
            let mut config = TopicConfig::new();
            let error = config.set(key, value).unwrap_err();
            assert!(matches!(&error, ConfigError::Invalid { key: k, value: v, .. } if *k == key && v == value));
            let message = error.to_string();
            assert!(message.contains(key) && message.contains(&format!("{value:?}")), "{message}");
            assert_eq!(config.get(key).unwrap(), default);
            assert_eq!(config, TopicConfig::new());
        }
    }
}

#[test]
fn values_are_trimmed_and_kept_in_their_plain_form() {
    for (key, given, kept) in [
        ("retention.ms", " \t604800000\n", "604800000"),
        ("retention.bytes", " -77 ", "-1"),
        ("segment.bytes", "+0064", "64"),
        ("cleanup.policy", " delete , compact ", "compact,delete"),
        ("cleanup.policy", "  ", ""),
        ("preallocate", "TRUE", "true"),
        ("min.cleanable.dirty.ratio", "1", "1.0"),
        ("leader.replication.throttled.replicas", " 0:1 , 2:3 ", "0:1,2:3"),
    ] {
        let mut config = TopicConfig::new();
        config.set(key, given).unwrap();
        assert_eq!(config.get(key).unwrap(), kept, "{key}={given:?}");
    }
}

#[test]
fn keys_that_kafka_removed_are_refused_by_name() {
    for key in ["message.timestamp.difference.max.ms", "message.format.version", "message.downconversion.enable"] {
        let error = TopicConfig::new().set(key, "1").unwrap_err();
        assert!(matches!(error, ConfigError::RemovedKey { key: k, .. } if k == key), "{error}");
    }
}

#[test]
fn keys_of_tiered_storage_are_refused_by_name() {
    for key in [
        "remote.storage.enable",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.copy.lag.ms",
        "remote.copy.lag.bytes",
        "local.retention.ms",
        "local.retention.bytes",
    ] {
        let error = TopicConfig::new().set(key, "1").unwrap_err();
        assert!(matches!(&error, ConfigError::UnsupportedKey { key: k, .. } if k == key), "{error}");
        assert_eq!(error.kind(), crate::types::ErrorKind::Unsupported);
    }
}

#[test]
fn unknown_keys_are_refused_wherever_a_key_is_taken() {
    let mut config = TopicConfig::new();
    let huge = "k".repeat(100_000);
    for key in ["retention", "Retention.ms", " retention.ms", "", "max.decompressed.message.bytes", &huge] {
        for error in [
            config.set(key, "1").unwrap_err(),
            config.get(key).unwrap_err(),
            config.unset(key).unwrap_err(),
            TopicConfig::from_map([(key, "1")]).unwrap_err(),
        ] {
            assert!(matches!(error, ConfigError::UnknownKey { .. }), "{error}");
            assert!(error.to_string().len() < 100, "{error}");
        }
        assert_eq!(config.explicit(key), None);
    }
}

#[test]
fn a_least_lag_above_the_greatest_is_a_conflict() {
    let config = |min, max| TopicConfig::new().min_compaction_lag_ms(min).max_compaction_lag_ms(max);
    config(5, 5).validate().unwrap();
    config(4, 5).validate().unwrap();
    let error = config(6, 5).validate().unwrap_err();
    assert!(matches!(error, ConfigError::Conflict { .. }), "{error}");
    for part in ["min.compaction.lag.ms=6", "max.compaction.lag.ms=5"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(TopicConfig::from_map([("min.compaction.lag.ms", "6"), ("max.compaction.lag.ms", "5")]).is_err());
}

#[test]
fn a_conflict_with_the_stores_defaults_is_found_too() {
    let defaults = TopicConfig::new().max_compaction_lag_ms(5);
    let config = TopicConfig::new().min_compaction_lag_ms(6);
    config.validate().unwrap();
    assert!(matches!(config.resolve(&defaults), Err(ConfigError::Conflict { .. })));
}

#[test]
fn a_topics_value_wins_over_the_stores_and_that_over_kafkas() {
    let defaults = TopicConfig::new().retention_ms(None).segment_ms(5);
    let config = TopicConfig::new().segment_ms(7);
    let settings = config.resolve(&defaults).unwrap();
    assert_eq!((settings.retention_ms, settings.segment_ms, settings.segment_jitter_ms), (None, 7, 0));
    assert_eq!(config.over(&defaults).get("retention.ms").unwrap(), "-1");
    assert_eq!(config.explicit_entries().collect::<Vec<_>>(), [("segment.ms", "7")]);
}

#[test]
fn a_value_equal_to_the_default_still_counts_as_set_until_it_is_unset() {
    let defaults = TopicConfig::new().segment_ms(5);
    let mut config = TopicConfig::new().segment_ms(604_800_000);
    assert_eq!(config.resolve(&defaults).unwrap().segment_ms, 604_800_000);
    assert_eq!(config.unset("segment.ms"), Ok(true));
    assert_eq!(config.unset("segment.ms"), Ok(false));
    assert_eq!(config.resolve(&defaults).unwrap().segment_ms, 5);
}

#[test]
fn built_values_out_of_range_are_found_by_validate() {
    for (config, key) in [
        (TopicConfig::new().segment_bytes(13), "segment.bytes"),
        (TopicConfig::new().segment_bytes(1 << 31), "segment.bytes"),
        (TopicConfig::new().retention_ms(Some(1 << 63)), "retention.ms"),
        (TopicConfig::new().min_cleanable_dirty_ratio(f64::NAN), "min.cleanable.dirty.ratio"),
        (TopicConfig::new().compression_gzip_level(0), "compression.gzip.level"),
        (TopicConfig::new().flush_messages(0), "flush.messages"),
    ] {
        assert_eq!(config.validate().unwrap_err().key(), key);
    }
}

#[test]
fn what_was_set_survives_the_way_through_its_entries() {
    let config = TopicConfig::new()
        .cleanup_policy(CleanupPolicy::KEEP)
        .compression_type(CompressionType::Zstd)
        .message_timestamp_type(TimestampType::LogAppend)
        .retention_ms(None)
        .retention_bytes(Some(1 << 40))
        .min_cleanable_dirty_ratio(0.1)
        .leader_replication_throttled_replicas(ThrottledReplicas::All)
        .preallocate(true);
    let stored: BTreeMap<_, _> = config.explicit_entries().collect();
    assert_eq!(stored.len(), 8);
    assert_eq!(TopicConfig::from_map(&stored).unwrap(), config);
    let settings = config.resolve(&TopicConfig::new()).unwrap();
    assert_eq!(settings.cleanup_policy, CleanupPolicy::KEEP);
    assert_eq!(settings.compression_type, CompressionType::Zstd);
    assert_eq!(settings.message_timestamp_type, TimestampType::LogAppend);
    assert_eq!((settings.retention_ms, settings.retention_bytes), (None, Some(1 << 40)));
    assert!(settings.preallocate);
}

#[test]
fn every_refusal_says_what_is_legal_at_its_edges() {
    for (key, _, legal, _) in TABLE {
        let row = TOPIC_KEYS.iter().find(|row| row.name == key).unwrap();
        let lowest = legal.first().unwrap();
        let numeric = row.expected.contains("number from") || row.expected.contains("at least");
        if numeric {
            let bare = lowest.strip_suffix(".0").unwrap_or(lowest);
            assert!(row.expected.contains(bare), "{key}: {} against {lowest}", row.expected);
        }
    }
}
