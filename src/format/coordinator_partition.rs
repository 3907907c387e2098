//! Which partition of `__consumer_offsets` keeps a group, and which of `__transaction_state` a transactional id: Kafka's
//! rule, so that either finds what the other wrote.

use std::num::NonZeroU32;

/// The hash that Java gives a string: over its UTF-16 code units, in wrapping 32-bit arithmetic.
#[must_use]
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition, of `partitions`, that keeps the group or transactional id `id`.
///
/// # Example
/// ```
/// use std::num::NonZeroU32;
/// use stratalog::format::coordinator_partition;
///
/// assert_eq!(coordinator_partition("my-group", NonZeroU32::new(50).unwrap()), 12);
/// ```
#[must_use]
pub fn coordinator_partition(id: &str, partitions: NonZeroU32) -> u32 {
    // The one hash that has no absolute value counts as 0.
    java_hash(id).checked_abs().map_or(0, i32::unsigned_abs) % partitions.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_where_kafka_puts_them() {
        let fifty = NonZeroU32::new(50).expect("not zero");
        for (id, hash, partition) in [
            ("", 0, 0),
            ("group", 98_629_247, 47),
            ("my-group", -1_906_497_762, 12),
            ("consumer-group-1", 147_483_020, 20),
            ("test-group", 627_841_412, 12),
            ("grp", 102_629, 29),
            ("foo", 101_574, 24),
            ("bar", 97_299, 49),
            ("analytics", -1_693_017_210, 10),
            ("payments-service", 332_086_293, 43),
            ("polygenelubricants", i32::MIN, 0),
            ("orders.v1", -390_712_796, 46),
            ("Aa", 2112, 12),
            ("BB", 2112, 12),
            ("connect-cluster", 1_440_343_063, 13),
            ("日本語", 25_921_943, 43),
            ("😀", 1_772_899, 49),
            ("group-a", 293_427_347, 47),
            ("group-0", 293_427_298, 48),
        ] {
            assert_eq!((java_hash(id), coordinator_partition(id, fifty)), (hash, partition), "{id:?}");
        }
    }
}
