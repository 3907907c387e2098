//! The types that config values have, each with the text Kafka writes for it.
//!
//! Parsers take a trimmed text and say `None` for everything that is not legal; the range is the key's business and
//! comes in as an argument. What a parser accepts and [`Value::to_text`] prints parses back to the same value.

use std::fmt;
use std::ops::RangeInclusive;

use crate::types::TimestampType;

/// The largest number that Kafka's `long` holds; as a time or a count it means "never".
pub(super) const LONG_MAX: u64 = i64::MAX.unsigned_abs();

/// A config value that can be written as Kafka writes it.
pub(super) trait Value {
    /// The text that parses back to this value.
    fn to_text(&self) -> String;
}

macro_rules! value_by_display {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn to_text(&self) -> String {
                self.to_string()
            }
        })+
    };
}

value_by_display!(u32, u64, i32, bool, CleanupPolicy, CompressionType, ThrottledReplicas);

impl Value for f64 {
    fn to_text(&self) -> String {
        // Unlike `Display`, this keeps the `.0` that Kafka prints; an exponent stands behind a capital letter there.
        format!("{self:?}").replace('e', "E")
    }
}

/// No bound is Kafka's `-1`.
impl Value for Option<u64> {
    fn to_text(&self) -> String {
        self.map_or_else(|| "-1".to_owned(), |value| value.to_string())
    }
}

impl Value for TimestampType {
    fn to_text(&self) -> String {
        match self {
            Self::Create => "CreateTime",
            Self::LogAppend => "LogAppendTime",
        }
        .to_owned()
    }
}

/// A whole number of 32 bits within `range`.
pub(super) fn int(text: &str, range: RangeInclusive<i32>) -> Option<i32> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// A size or count of at least `least` that fits Kafka's `int`.
pub(super) fn size(text: &str, least: u32) -> Option<u32> {
    u32::try_from(text.parse::<i32>().ok()?).ok().filter(|number| *number >= least)
}

/// A number of at least `least` that fits Kafka's `long`.
pub(super) fn long(text: &str, least: u64) -> Option<u64> {
    u64::try_from(text.parse::<i64>().ok()?).ok().filter(|number| *number >= least)
}

/// A number that may be absent: `none` says which negative numbers mean that it is.
pub(super) fn long_or_none(text: &str, none: RangeInclusive<i64>) -> Option<Option<u64>> {
    let number = text.parse::<i64>().ok()?;
    u64::try_from(number).map_or_else(|_| none.contains(&number).then_some(None), |number| Some(Some(number)))
}

/// A number within `range`.
pub(super) fn number(text: &str, range: RangeInclusive<f64>) -> Option<f64> {
    // Adding 0.0 turns -0.0 into 0.0.
    text.parse::<f64>().ok().filter(|number| range.contains(number)).map(|number| number + 0.0)
}

/// A share from 0 to 1.
pub(super) fn ratio(text: &str) -> Option<f64> {
    number(text, 0.0..=1.0)
}

/// `true` or `false`, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    [("true", true), ("false", false)]
        .into_iter()
        .find_map(|(word, value)| text.eq_ignore_ascii_case(word).then_some(value))
}

/// `CreateTime` or `LogAppendTime`.
pub(super) fn timestamp_type(text: &str) -> Option<TimestampType> {
    match text {
        "CreateTime" => Some(TimestampType::Create),
        "LogAppendTime" => Some(TimestampType::LogAppend),
        _ => None,
    }
}

/// What happens to old records: any mix of deleting and compacting, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CleanupPolicy {
    deletes: bool,
    compacts: bool,
}

impl CleanupPolicy {
    /// Segments past `retention.ms` or `retention.bytes` are deleted.
    pub const DELETE: Self = Self { deletes: true, compacts: false };
    /// Of each key the latest record is kept.
    pub const COMPACT: Self = Self { deletes: false, compacts: true };
    /// Both.
    pub const COMPACT_DELETE: Self = Self { deletes: true, compacts: true };
    /// Neither: records stay until somebody deletes them by offset.
    pub const KEEP: Self = Self { deletes: false, compacts: false };

    /// Whether segments are deleted by age and size.
    #[must_use]
    pub const fn deletes(self) -> bool {
        self.deletes
    }

    /// Whether older records of a key are removed.
    #[must_use]
    pub const fn compacts(self) -> bool {
        self.compacts
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        list(text).try_fold(Self::KEEP, |policy, word| match word {
            "delete" => Some(Self { deletes: true, ..policy }),
            "compact" => Some(Self { compacts: true, ..policy }),
            _ => None,
        })
    }
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.compacts, self.deletes) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, true) => "delete",
            (false, false) => "",
        })
    }
}

/// How a topic's batches are compressed on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompressionType {
    /// As they came in.
    Producer,
    /// Not at all.
    Uncompressed,
    /// With gzip.
    Gzip,
    /// With snappy.
    Snappy,
    /// With LZ4.
    Lz4,
    /// With Zstandard.
    Zstd,
}

impl CompressionType {
    const ALL: [Self; 6] = [Self::Producer, Self::Uncompressed, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name in Kafka's config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == text)
    }
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One replica whose replication is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicaThrottle {
    /// The partition.
    pub partition: u32,
    /// The broker that holds the replica.
    pub broker: u32,
}

/// The replicas of a topic whose replication is held back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ThrottledReplicas {
    /// All of them (`*`).
    All,
    /// Those listed (`0:1,2:3`); none when empty.
    Listed(Vec<ReplicaThrottle>),
}

impl ThrottledReplicas {
    /// No replica.
    pub const NONE: Self = Self::Listed(Vec::new());

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let pair = |word: &str| {
            let (partition, broker) = word.split_once(':')?;
            Some(ReplicaThrottle { partition: size(partition, 0)?, broker: size(broker, 0)? })
        };
        list(text).map(pair).collect::<Option<Vec<_>>>().map(Self::Listed)
    }
}

impl fmt::Display for ThrottledReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Listed(replicas) = self else { return f.write_str("*") };
        for (index, replica) in replicas.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{}:{}", replica.partition, replica.broker)?;
        }
        Ok(())
    }
}

/// The words of a comma-separated list, trimmed; an empty text is an empty list.
fn list(text: &str) -> impl Iterator<Item = &str> {
    let words = if text.is_empty() { None } else { Some(text.split(',').map(str::trim)) };
    words.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cleanup_policy_is_any_mix_in_any_order_or_empty() {
        for (text, policy, plain) in [
            ("", CleanupPolicy::KEEP, ""),
            ("delete", CleanupPolicy::DELETE, "delete"),
            ("compact", CleanupPolicy::COMPACT, "compact"),
            ("delete , compact", CleanupPolicy::COMPACT_DELETE, "compact,delete"),
            ("compact,compact", CleanupPolicy::COMPACT, "compact"),
        ] {
            assert_eq!(CleanupPolicy::parse(text), Some(policy), "{text:?}");
            assert_eq!(policy.to_text(), plain);
        }
        for text in ["Delete", "delete,", ",", "keep", "delete compact"] {
            assert_eq!(CleanupPolicy::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn throttled_replicas_are_pairs_or_a_star() {
        let pairs = vec![ReplicaThrottle { partition: 0, broker: 1 }, ReplicaThrottle { partition: 2, broker: 3 }];
        assert_eq!(ThrottledReplicas::parse("0:1, 2:3"), Some(ThrottledReplicas::Listed(pairs.clone())));
        assert_eq!(ThrottledReplicas::Listed(pairs).to_text(), "0:1,2:3");
        assert_eq!(ThrottledReplicas::parse("*"), Some(ThrottledReplicas::All));
        assert_eq!(ThrottledReplicas::parse(""), Some(ThrottledReplicas::NONE));
        for text in ["0", "0:", ":1", "0:1,", "0:1:2", "*,0:1", "-1:0", "a:b", "0:1,*"] {
            assert_eq!(ThrottledReplicas::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_codec_is_found_by_its_name() {
        for codec in CompressionType::ALL {
            assert_eq!(CompressionType::parse(&codec.to_text()), Some(codec));
        }
        assert_eq!(CompressionType::parse("none"), None);
        assert_eq!(CompressionType::parse("GZIP"), None);
    }

    #[test]
    fn a_ratio_is_a_plain_number_from_zero_to_one() {
        assert_eq!(ratio("0.25"), Some(0.25));
        assert_eq!(ratio("-0").unwrap().to_text(), "0.0");
        for text in ["NaN", "inf", "1.0000001", "-0.1", "", "half"] {
            assert_eq!(ratio(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_parser_accepts_parses_back(text in "[-+*:,.0-9a-z ]{0,24}") {
            if let Some(value) = ThrottledReplicas::parse(&text) {
                prop_assert_eq!(ThrottledReplicas::parse(&value.to_text()), Some(value));
            }
            if let Some(value) = ratio(&text) {
                prop_assert_eq!(ratio(&value.to_text()), Some(value));
            }
            if let Some(value) = long(&text, 0) {
                prop_assert_eq!(long(&value.to_text(), 0), Some(value));
            }
        }
    }
}
