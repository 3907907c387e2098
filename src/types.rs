//! The units of the log, one type each, so that an offset is never mistaken for a position.
//!
//! Kafka writes "none" as `-1` in most of these places. That `-1` becomes `Option::None` at the edge of
//! `format/` and never travels inward; the constructors named `from_wire` and the methods named `to_wire` are that edge.

use std::fmt;

/// Declares a newtype over a signed integer whose legal values are `0..=MAX`.
macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// The smallest legal value.
            pub const ZERO: Self = Self(0);
            /// The largest legal value.
            pub const MAX: Self = Self(<$inner>::MAX);

            /// Wraps `value`; `None` when it is negative.
            #[must_use]
            pub const fn new(value: $inner) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value)) }
            }

            /// The plain number.
            #[must_use]
            pub const fn value(self) -> $inner {
                self.0
            }

            /// Kafka's number for an optional value: `-1` for none.
            #[must_use]
            pub const fn to_wire(value: Option<Self>) -> $inner {
                match value {
                    Some(value) => value.0,
                    None => -1,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit! {
    /// The number of a record in its partition: 0, 1, 2, ... in the order of appending.
    Offset(i64)
}
unit! {
    /// The term of a partition's leader; each new leader starts a greater one.
    LeaderEpoch(i32)
}
unit! {
    /// The identity of an idempotent or transactional producer.
    ProducerId(i64)
}
unit! {
    /// The generation of a producer id; a greater one fences the smaller.
    ProducerEpoch(i16)
}
unit! {
    /// A producer's running number of a record in one partition; 2147483647 is followed by 0.
    Sequence(i32)
}

impl Offset {
    /// This offset plus `count` records; `None` past the end of the number range.
    #[must_use]
    pub fn checked_add(self, count: u64) -> Option<Self> {
        let count = i64::try_from(count).ok()?;
        self.0.checked_add(count).map(Self)
    }

    /// The offset right after this one; the last legal offset has no next one and stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// How many offsets lie between `earlier` and this one; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl Sequence {
    /// The sequence `count` records later, wrapping after 2147483647 to 0 (Kafka's rule).
    #[must_use]
    pub const fn wrapping_add(self, count: u32) -> Self {
        let sum = (self.0 as i64 + count as i64) & 0x7fff_ffff;
        Self(sum as i32)
    }

    /// The sequence `count` records earlier, wrapping before 0 to 2147483647.
    #[must_use]
    pub const fn wrapping_sub(self, count: u32) -> Self {
        let difference = (self.0 as i64 - count as i64) & 0x7fff_ffff;
        Self(difference as i32)
    }
}

/// Milliseconds since the Unix epoch, as Kafka stores them. Never negative: "no timestamp" is `Option::None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);
    /// The last millisecond that fits.
    pub const MAX: Self = Self(i64::MAX);

    /// Wraps milliseconds since the Unix epoch; `None` when negative.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Option<Self> {
        if millis < 0 { None } else { Some(Self(millis)) }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Kafka's number for an optional timestamp: `-1` for none.
    #[must_use]
    pub const fn to_wire(value: Option<Self>) -> i64 {
        match value {
            Some(value) => value.0,
            None => -1,
        }
    }

    /// This time plus `millis`, held at the last legal time.
    #[must_use]
    pub const fn saturating_add(self, millis: u64) -> Self {
        let room = i64::MAX.abs_diff(self.0);
        if millis >= room { Self::MAX } else { Self(self.0.saturating_add_unsigned(millis)) }
    }

    /// Milliseconds from `earlier` to this time; negative when `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes from the start of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// The start of the file.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` from the start of the file.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the start of the file.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The position `size` bytes further on.
    #[must_use]
    pub const fn plus(self, size: u64) -> Self {
        Self(self.0.saturating_add(size))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who set the timestamps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer (`CreateTime`).
    #[default]
    Create,
    /// The log, when it appended the batch (`LogAppendTime`).
    LogAppend,
}

/// What an error means for the caller, whatever layer it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The disk or the operating system failed.
    Io,
    /// The disk is full; appending works again once there is room.
    StorageFull,
    /// Bytes on disk or handed in are not what their format says.
    Corrupt,
    /// A feature of this crate that the data needs is switched off, or its version is unknown.
    Unsupported,
    /// An argument, a name, a config or a record breaks a rule.
    InvalidInput,
    /// An offset outside the log.
    OffsetOutOfRange,
    /// A record or batch over a size limit.
    TooLarge,
    /// No such topic or partition.
    NotFound,
    /// A topic of that name is there already.
    AlreadyExists,
    /// Somebody else holds the folder, or the store is open read-only.
    Locked,
    /// The partition went offline after a failed write or sync, or the store is closed.
    Offline,
    /// What was appended may be in the log or not: it was cut or reopened meanwhile.
    OutcomeUnknown,
    /// Another process changed the log while it was read; the same call finds what is there now.
    Changed,
    /// A newer producer or transaction coordinator has taken over.
    Fenced,
    /// A producer's batch doesn't follow the last one.
    OutOfOrder,
    /// The operation doesn't fit the state of the producer's transaction.
    InvalidTransaction,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_are_none_and_none_is_minus_one() {
        assert_eq!(Offset::new(-1), None);
        assert_eq!(Offset::to_wire(None), -1);
        assert_eq!(Timestamp::from_millis(-5), None);
        assert_eq!(Timestamp::to_wire(Timestamp::from_millis(7)), 7);
    }

    #[test]
    fn sequence_after_the_largest_is_zero() {
        assert_eq!(Sequence::MAX.wrapping_add(1), Sequence::ZERO);
        assert_eq!(Sequence::MAX.wrapping_add(0), Sequence::MAX);
        assert_eq!(Sequence::ZERO.wrapping_sub(1), Sequence::MAX);
    }

    #[test]
    fn sums_are_held_at_the_end_of_the_range() {
        assert_eq!(Offset::MAX.checked_add(1), None);
        assert_eq!(Timestamp::MAX.saturating_add(1), Timestamp::MAX);
        assert_eq!(Timestamp::ZERO.saturating_add(5).millis(), 5);
        assert_eq!(Offset::ZERO.since(Offset::MAX), 0);
    }
}
