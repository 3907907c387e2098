//! Which partition a record goes to, by the rule of Kafka's own clients.
//!
//! A record with a key goes where the murmur2 hash of the key points, so that every program that follows the rule, Kafka's
//! clients included, sends a key to the same partition. A record without a key goes round robin.
//!
//! Everything here is pure: the turn of the round robin is the caller's number. Adding partitions to a topic moves keys,
//! here as in Kafka; the order of a key's records across that moment is the caller's affair.

use std::num::NonZeroU32;

/// The seed of Kafka's hash.
const SEED: u32 = 0x9747_b28c;
/// The multiplier of murmur2.
const MULTIPLIER: u32 = 0x5bd1_e995;
/// The shift of murmur2.
const SHIFT: u32 = 24;

/// The 32-bit murmur2 hash of `bytes` with Kafka's seed, as the signed number Kafka's clients see.
///
/// Only the low 32 bits of the length take part, as in Kafka, where no array is longer.
#[must_use]
pub const fn murmur2(bytes: &[u8]) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "the hash takes the length modulo 2^32")]
    let mut hash = SEED ^ (bytes.len() as u32);
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<4>() {
        hash = hash.wrapping_mul(MULTIPLIER) ^ mix(u32::from_le_bytes(*word));
        rest = after;
    }
    hash = match *rest {
        [a, b, c] => (hash ^ u32::from_le_bytes([a, b, c, 0])).wrapping_mul(MULTIPLIER),
        [a, b] => (hash ^ u32::from_le_bytes([a, b, 0, 0])).wrapping_mul(MULTIPLIER),
        [a] => (hash ^ u32::from_le_bytes([a, 0, 0, 0])).wrapping_mul(MULTIPLIER),
        _ => hash,
    };
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)).cast_signed()
}

/// One word of the input, stirred before it enters the hash.
const fn mix(word: u32) -> u32 {
    let word = word.wrapping_mul(MULTIPLIER);
    (word ^ (word >> SHIFT)).wrapping_mul(MULTIPLIER)
}

/// `hash` without its sign bit: Kafka's `toPositive`, which is not the absolute value.
#[must_use]
pub const fn to_positive(hash: i32) -> u32 {
    hash.cast_unsigned() & 0x7fff_ffff
}

/// The partition of `key` in a topic of `partitions` partitions: `to_positive(murmur2(key)) % partitions`.
///
/// # Example
/// ```
/// use std::num::NonZeroU32;
/// use stratalog::client::partitioner::partition_for_key;
///
/// let partitions = NonZeroU32::new(4).unwrap();
/// assert_eq!(partition_for_key(b"foobar", partitions), partition_for_key(b"foobar", partitions));
/// assert!(partition_for_key(b"21", partitions) < 4);
/// ```
#[must_use]
pub const fn partition_for_key(key: &[u8], partitions: NonZeroU32) -> u32 {
    to_positive(murmur2(key)) % partitions.get()
}

/// The partition of a record: by its key, or by `turn` when it has none.
///
/// The caller counts `turn` up by one for each record without a key; an empty key is a key.
#[must_use]
pub const fn choose_partition(key: Option<&[u8]>, turn: u32, partitions: NonZeroU32) -> u32 {
    match key {
        Some(key) => partition_for_key(key, partitions),
        None => turn % partitions.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: NonZeroU32 = NonZeroU32::new(4).unwrap();

    #[test]
    fn hashes_equal_those_of_kafka_s_clients() {
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (bytes, hash) in known {
            assert_eq!(murmur2(bytes), hash, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_sign_is_masked_and_not_negated() {
        assert_eq!(to_positive(-1), 0x7fff_ffff);
        assert_eq!(to_positive(i32::MIN), 0);
        assert_eq!(to_positive(i32::MAX), 0x7fff_ffff);
        assert_eq!(to_positive(0), 0);
    }

    #[test]
    fn a_key_goes_to_its_hash_modulo_the_partitions_whatever_the_turn() {
        let partition = (-790_332_482_i32).cast_unsigned() & 0x7fff_ffff;
        for turn in 0..9 {
            assert_eq!(choose_partition(Some(b"foobar"), turn, FOUR), partition % 4);
        }
    }

    #[test]
    fn records_without_a_key_take_turns_and_an_empty_key_does_not() {
        let turns: Vec<u32> = (0..6).map(|turn| choose_partition(None, turn, FOUR)).collect();
        assert_eq!(turns, [0, 1, 2, 3, 0, 1]);
        assert_eq!(choose_partition(Some(b""), 0, FOUR), choose_partition(Some(b""), 1, FOUR));
    }

    #[test]
    fn keys_of_every_length_spread_over_all_partitions() {
        let mut hits = [0_u32; 4];
        for number in 0..4000_u32 {
            let key = number.to_string().repeat(1 + number as usize % 5);
            hits[partition_for_key(key.as_bytes(), FOUR) as usize] += 1;
        }
        assert!(hits.iter().all(|&count| (800..1200).contains(&count)), "{hits:?}");
    }
}
