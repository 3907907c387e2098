//! Where the newest record of each key stands, within a fixed budget of memory: what compaction learns of the records that it has
//! yet to clean.
//!
//! Keys are not kept but their 128-bit SipHash, under a secret that is drawn for each map: whoever chooses keys can't make two of
//! them collide, or crowd one place of the table.
//!
//! A table of 20-byte entries is filled up to its load factor. Where the budget has room for the old table beside the new one, it begins
//! small and doubles: many records of few keys then need little memory, and most of it stays in the processor's cache. Otherwise it
//! has its final size from the start. A table that the machine has no memory for is smaller: it holds fewer keys, and the
//! next run does the rest.
//!
//! The table is open-addressed by Robin Hood's rule: going on from the slot that a hash asks for, no entry is nearer to its own
//! slot than the ones behind it could be to theirs. So a search for a key that is not there ends as soon as one that is.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hash128, SipHasher13};

/// Bytes of memory that one key takes.
pub(super) const ENTRY_SIZE: u64 = 20;

/// The most records that can have a place.
pub(super) const PLACES_MAX: u32 = u32::MAX - 1;

/// One slot; zeroed memory is a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: KeyHash,
    /// The record's place plus one; 0 for a free slot.
    place: u32,
}

const FREE: Entry = Entry { hash: KeyHash([0; 4]), place: 0 };

const _: () = assert!(size_of::<Entry>() as u64 == ENTRY_SIZE);

/// What stands for a key; see [`KeyMap::hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyHash([u32; 4]);

/// What [`KeyMap::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// The key is new.
    Added,
    /// The key was there; this is where its record before stands.
    Replaced(u32),
    /// The map is full and the key isn't in it: nothing changed.
    Full,
}

/// A table that may grow begins with half as many slots to twice as many.
const SLOTS_MIN: u64 = 2048;

/// The most bytes that a table takes before it holds a key, where it could not grow to that size within the budget.
const UPFRONT_SIZE_MAX: u64 = 1 << 30;

/// The share of a table that keys may fill before it grows: half empty, a search seldom leaves the slots that were fetched.
const LOAD_WHILE_GROWING: f64 = 0.5;

/// How many slots behind its own most entries stand at the farthest: within the next cache line.
const SLOTS_NEAR: usize = 3;

/// How many keys are best hashed before they are put or got; see [`KeyMap::fetch`].
pub(super) const FETCH_COUNT: usize = 64;

/// How large a [`KeyMap`] may get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct KeyMapLimits {
    /// Bytes of memory.
    pub budget: u64,
    /// The share of the table that keys may fill, below 1.
    pub load_factor: f64,
}

/// Hashes of keys with offsets.
#[derive(Debug)]
pub(super) struct KeyMap {
    hasher: SipHasher13,
    table: Box<[Entry]>,
    len: usize,
    /// Keys that fit before the table has to grow.
    capacity: usize,
    load_factor: f64,
    /// How often the table may still double.
    doublings: u32,
}

impl KeyMap {
    /// An empty map for at most `keys_max` keys, as far as the limits allow; for one key in any case.
    pub(super) fn new(limits: KeyMapLimits, keys_max: u64) -> Self {
        let load_factor = limits.load_factor.clamp(0.01, 0.95);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a size that is off by one in 2^53 is as good"
        )]
        let needed = (keys_max as f64 / load_factor).ceil() as u64;
        // Two slots hold one key at any load factor, and leave one free.
        let slots = (limits.budget / ENTRY_SIZE).min(needed.saturating_add(1)).max(2);
        let (slots, doublings) = Self::beginning(slots, limits.budget);
        let hasher = random_hasher();
        let mut map = Self { hasher, table: largest_table(slots), len: 0, capacity: 0, load_factor, doublings };
        map.set_capacity();
        map
    }

    /// With how many slots a table of `slots` in the end begins, and how often it doubles. Where the old table does not fit into
    /// the budget beside a new one of that size, it begins with its final size, or ends with a smaller one if it is large.
    fn beginning(slots: u64, budget: u64) -> (usize, u32) {
        let doublings_to = |slots: u64| (slots / SLOTS_MIN).checked_ilog2().unwrap_or(0);
        // Rounded up, so that the last doubling reaches what is needed.
        let doublings = doublings_to(slots);
        let small = slots.div_ceil(1 << doublings);
        // The last doubling has half as many slots beside the final ones.
        let reached = budget / ENTRY_SIZE / 3 * 2;
        let (slots, doublings) = if small << doublings <= reached {
            (small, doublings)
        } else if slots.saturating_mul(ENTRY_SIZE) <= UPFRONT_SIZE_MAX {
            (slots, 0)
        } else {
            let doublings = doublings_to(reached);
            (reached >> doublings, doublings)
        };
        (usize::try_from(slots).unwrap_or(usize::MAX), doublings)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and the number of slots"
    )]
    fn set_capacity(&mut self) {
        let slots = self.table.len();
        let load_factor = if self.doublings > 0 { self.load_factor.min(LOAD_WHILE_GROWING) } else { self.load_factor };
        self.capacity = ((slots as f64 * load_factor) as usize).clamp(1, slots - 1);
    }

    /// Doubles the table; returns false where it has its final size.
    fn grow(&mut self) -> bool {
        let Some(doublings) = self.doublings.checked_sub(1) else { return false };
        let Some(larger) = table(self.table.len().saturating_mul(2)) else {
            self.doublings = 0;
            // What the last size holds without growing; that may be more than it holds now.
            let before = self.capacity;
            self.set_capacity();
            return self.capacity > before;
        };
        self.doublings = doublings;
        let entries = std::mem::replace(&mut self.table, larger);
        self.set_capacity();
        // In the order of the slots they go to, so that memory is written front to back.
        for entry in entries.into_iter().filter(|entry| *entry != FREE) {
            if let Err((slot, distance)) = self.find(entry.hash) {
                self.place(entry, slot, distance);
            }
        }
        true
    }

    /// The number of keys.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The number of keys that it can hold.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of its table.
    pub(super) const fn size(&self) -> u64 {
        self.table.len() as u64 * ENTRY_SIZE
    }

    /// The hash of `key` under this map's secret.
    #[expect(clippy::cast_possible_truncation, reason = "cut in halves")]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        let Hash128 { h1, h2 } = self.hasher.hash(key);
        KeyHash([(h1 >> 32) as u32, h1 as u32, (h2 >> 32) as u32, h2 as u32])
    }

    /// Brings the slots of some keys into the processor's cache. A map is much larger than that, and one search after the other
    /// would wait for memory each time; these reads don't depend on each other, so they wait together.
    pub(super) fn fetch(&self, keys: impl Iterator<Item = KeyHash>) {
        let sum = keys.fold(0, |sum, key| {
            let home = self.home(key);
            sum ^ self.at(home).place ^ self.at(home + SLOTS_NEAR).place
        });
        // Otherwise nobody needs the sum, and the reads would be left out.
        std::hint::black_box(sum);
    }

    /// Sets where the newest record of a key stands: a place of at most [`PLACES_MAX`].
    pub(super) fn put(&mut self, key: KeyHash, place: u32) -> Put {
        let entry = Entry { hash: key, place: place.saturating_add(1) };
        let (slot, distance) = match self.find(key) {
            Ok(slot) => {
                let before = self.at(slot).place;
                self.set(slot, entry);
                return Put::Replaced(before.saturating_sub(1));
            }
            Err(place) => place,
        };
        if self.len < self.capacity {
            self.len += 1;
            self.place(entry, slot, distance);
            return Put::Added;
        }
        if self.grow() { self.put(key, place) } else { Put::Full }
    }

    /// Puts an entry that isn't there at a slot, so far from its own. Whoever stands nearer to its own slot than the newcomer gives
    /// way and looks on. A free slot ends it: there is one.
    fn place(&mut self, mut entry: Entry, mut slot: usize, mut distance: usize) {
        loop {
            let resident = self.at(slot);
            if resident == FREE {
                return self.set(slot, entry);
            }
            let residents = self.distance(resident.hash, slot);
            if residents < distance {
                self.set(slot, entry);
                (entry, distance) = (resident, residents);
            }
            (slot, distance) = (self.next(slot), distance + 1);
        }
    }

    /// Whether a record of the key has been put.
    pub(super) fn contains(&self, key: KeyHash) -> bool {
        self.find(key).is_ok()
    }

    /// The slot of an entry; for one that isn't there, the first slot that it could take and that slot's distance from its own.
    fn find(&self, hash: KeyHash) -> Result<usize, (usize, usize)> {
        let (mut slot, mut distance) = (self.home(hash), 0);
        loop {
            let resident = self.at(slot);
            if resident == FREE {
                return Err((slot, distance));
            }
            if resident.hash == hash {
                return Ok(slot);
            }
            if self.distance(resident.hash, slot) < distance {
                return Err((slot, distance));
            }
            (slot, distance) = (self.next(slot), distance + 1);
        }
    }

    /// The slot that a hash asks for: its first half as a share of the table.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of slots")]
    fn home(&self, KeyHash([first, second, ..]): KeyHash) -> usize {
        let high = u64::from(first) << 32 | u64::from(second);
        ((u128::from(high) * self.table.len() as u128) >> 64) as usize
    }

    fn distance(&self, hash: KeyHash, slot: usize) -> usize {
        let home = self.home(hash);
        if slot >= home { slot - home } else { slot + self.table.len() - home }
    }

    const fn next(&self, slot: usize) -> usize {
        if slot + 1 == self.table.len() { 0 } else { slot + 1 }
    }

    fn at(&self, slot: usize) -> Entry {
        self.table.get(slot).copied().unwrap_or(FREE)
    }

    fn set(&mut self, slot: usize, entry: Entry) {
        if let Some(place) = self.table.get_mut(slot) {
            *place = entry;
        }
    }
}

/// A table of free slots; `None` where there is no memory for it.
fn table(slots: usize) -> Option<Box<[Entry]>> {
    let mut table = Vec::new();
    table.try_reserve_exact(slots).ok()?;
    table.resize(slots, FREE);
    Some(table.into_boxed_slice())
}

/// A table of at most so many slots, and of the two at least that a map needs.
fn largest_table(mut slots: usize) -> Box<[Entry]> {
    while slots > 2 {
        if let Some(table) = table(slots) {
            return table;
        }
        slots /= 2;
    }
    vec![FREE; 2].into_boxed_slice()
}

/// A hash function with a secret of its own; the standard library draws the randomness.
fn random_hasher() -> SipHasher13 {
    let draw = || RandomState::new().build_hasher().finish();
    SipHasher13::new_with_keys(draw(), draw())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn map(slots: u64, load_factor: f64) -> KeyMap {
        KeyMap::new(KeyMapLimits { budget: slots * ENTRY_SIZE, load_factor }, u64::MAX)
    }

    fn put(map: &mut KeyMap, key: &[u8], place: u32) -> Put {
        map.put(map.hash(key), place)
    }

    fn contains(map: &KeyMap, key: &[u8]) -> bool {
        map.fetch([map.hash(key)].into_iter());
        map.contains(map.hash(key))
    }

    #[test]
    fn of_a_key_put_twice_the_place_before_comes_out() {
        let mut map = map(100, 0.9);
        assert_eq!((put(&mut map, b"k", 3), put(&mut map, b"k", 7)), (Put::Added, Put::Replaced(3)));
        assert_eq!((put(&mut map, b"k", 9), map.len()), (Put::Replaced(7), 1));
        assert!(contains(&map, b"k") && !contains(&map, b"other"));
    }

    #[test]
    fn a_full_map_takes_no_new_key_and_still_updates_and_misses() {
        let mut map = map(10, 0.9);
        assert_eq!(map.capacity(), 9);
        for key in 0..9_u8 {
            assert_eq!(put(&mut map, &[key], key.into()), Put::Added);
        }
        assert_eq!(put(&mut map, &[9], 9), Put::Full, "the tenth key");
        assert_eq!(put(&mut map, &[4], 40), Put::Replaced(4), "a key that is there");
        assert!(!contains(&map, &[9]) && map.len() == 9);
    }

    #[test]
    fn the_first_and_the_last_place_and_the_empty_key_are_like_any_other() {
        let mut map = map(2, 0.95);
        assert_eq!(map.capacity(), 1);
        assert_eq!(put(&mut map, b"", 0), Put::Added);
        assert_eq!(put(&mut map, b"", PLACES_MAX), Put::Replaced(0));
        assert_eq!(put(&mut map, b"", 1), Put::Replaced(PLACES_MAX));
    }

    #[test]
    fn the_table_is_as_large_as_the_keys_need_and_never_over_its_budget() {
        let limits = KeyMapLimits { budget: 134_217_728, load_factor: 0.9 };
        let small = KeyMap::new(limits, 100);
        assert!(small.capacity() >= 100 && small.size() < 3000, "{} bytes", small.size());
        let large = KeyMap::new(limits, u64::MAX);
        assert!(large.size() <= limits.budget);
        assert_eq!(large.capacity(), 6_039_797);
        assert_eq!(KeyMap::new(KeyMapLimits { budget: 0, load_factor: 0.9 }, 0).capacity(), 1);
    }

    #[test]
    fn a_full_map_takes_less_than_24_bytes_a_key() {
        let large = KeyMap::new(KeyMapLimits { budget: 134_217_728, load_factor: 0.9 }, u64::MAX);
        assert!(large.size() < 24 * large.capacity() as u64);
    }

    #[test]
    fn a_table_grows_while_the_budget_holds_the_old_one_beside_the_new_one() {
        let budget = 31_000_000;
        let mut map = KeyMap::new(KeyMapLimits { budget, load_factor: 0.9 }, 900_000);
        assert!(map.size() < 100_000, "{} bytes before the first key", map.size());
        let mut before = map.size();
        for key in 0..900_000_u32 {
            assert_eq!(put(&mut map, &key.to_be_bytes(), key), Put::Added);
            assert!(map.size() == before || map.size() + before <= budget, "{before} to {}", map.size());
            before = map.size();
        }
        for key in 0..900_000_u32 {
            assert_eq!(put(&mut map, &key.to_be_bytes(), 0), Put::Replaced(key));
        }
        let fixed = KeyMap::new(KeyMapLimits { budget: 20_000_000, load_factor: 0.9 }, 900_000);
        assert!(fixed.size() <= 20_000_000 && fixed.capacity() > 899_000);
    }

    #[test]
    fn a_budget_beyond_all_memory_is_as_good_as_the_memory_that_there_is() {
        for budget in [u64::MAX, u64::MAX / 2, i64::MAX.unsigned_abs(), 1 << 60, 1 << 55, (1 << 50) + 1, 1 << 31] {
            for keys_max in [0, 1, 1 << 20, 1 << 40, u64::MAX - 1, u64::MAX] {
                let mut map = KeyMap::new(KeyMapLimits { budget, load_factor: 0.95 }, keys_max);
                assert!(map.size() < 1 << 20, "{} bytes before the first key", map.size());
                assert_eq!(put(&mut map, b"k", 0), Put::Added);
            }
        }
    }

    #[test]
    fn a_large_table_ends_within_its_budget() {
        for budget in [(1 << 30) + 20, 1 << 31, 1 << 40, u64::MAX] {
            let (slots, doublings) = KeyMap::beginning(budget / ENTRY_SIZE, budget);
            let last = u128::try_from(slots).expect("small") << doublings;
            assert!(last * u128::from(ENTRY_SIZE) * 3 / 2 <= u128::from(budget));
            assert!(last * u128::from(ENTRY_SIZE) * 2 >= u128::from(budget));
        }
    }

    #[test]
    fn a_table_that_cannot_be_had_is_smaller() {
        assert!(table(usize::MAX).is_none() && table(usize::MAX / size_of::<Entry>()).is_none());
        assert!(largest_table(0).len() == 2 && largest_table(1).len() == 2 && largest_table(3).len() == 3);
    }

    #[test]
    fn no_two_maps_hash_alike() {
        assert_ne!(map(2, 0.9).hash(b"key"), map(2, 0.9).hash(b"key"));
    }

    /// Numbers at which arithmetic goes wrong, if it does, and some between.
    fn extreme() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(1),
            Just(2),
            Just(19),
            Just(20),
            Just(39),
            Just(40),
            Just(1023),
            Just(1024),
            0..1_000_000_u64
        ]
    }

    proptest! {
        #[test]
        fn any_limits_make_a_map_that_keeps_to_them(
            budget in extreme(),
            load_factor in prop_oneof![
                Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(f64::MIN_POSITIVE), Just(1.0), 0.0..2.0
            ],
            keys_max in prop_oneof![extreme(), Just(u64::MAX), Just(u64::MAX - 1), Just(i64::MAX.unsigned_abs())],
        ) {
            let mut map = KeyMap::new(KeyMapLimits { budget, load_factor }, keys_max);
            prop_assert!(map.size() <= budget.max(2 * ENTRY_SIZE));
            let mut added = 0;
            for key in 0..2000_u32 {
                match put(&mut map, &key.to_be_bytes(), PLACES_MAX - key) {
                    Put::Added => added += 1,
                    other => prop_assert_eq!(other, Put::Full),
                }
                prop_assert!(map.size() <= budget.max(2 * ENTRY_SIZE));
                prop_assert!(contains(&map, &0_u32.to_be_bytes()));
            }
            prop_assert!(added >= 1 && added == map.len() && added <= map.capacity());
        }

        #[test]
        fn it_is_a_map(slots in 2_u64..64, keys in prop::collection::vec(0_u8..80, 0..400)) {
            let mut map = map(slots, 0.9);
            let mut model = HashMap::new();
            for (place, key) in keys.into_iter().enumerate() {
                let place = u32::try_from(place).expect("small");
                let expected = match model.get(&key) {
                    Some(before) => Put::Replaced(*before),
                    None if model.len() < map.capacity() => Put::Added,
                    None => Put::Full,
                };
                prop_assert_eq!(put(&mut map, &[key], place), expected);
                if expected != Put::Full {
                    model.insert(key, place);
                }
                prop_assert_eq!(map.len(), model.len());
            }
            for key in 0_u8..80 {
                prop_assert_eq!(contains(&map, &[key]), model.contains_key(&key));
            }
        }
    }
}
