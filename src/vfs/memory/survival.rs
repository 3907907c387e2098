//! Which changes that were never synced outlive a power loss: a seeded choice.
//!
//! Seed 0 keeps none of them. Any other seed draws one of three weathers for the whole image: everything survives; of
//! every file a beginning survives, in the order of writing; or each change has its own fate.

use crate::vfs::random::Random;

/// What becomes of one unsynced change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It reached the disk.
    Kept,
    /// It is gone.
    Dropped,
    /// A part of it reached the disk; the number decides which. A name can't be torn: for names it means `Dropped`.
    Torn(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    NothingSurvives,
    EverythingSurvives,
    BeginningsSurvive,
    EachForItself,
}

/// The seeded choice of one crash image.
#[derive(Debug)]
pub(super) struct Survival {
    weather: Weather,
    random: Random,
}

impl Survival {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let weather = match random.below(4) {
            _ if seed == 0 => Weather::NothingSurvives,
            0 => Weather::EverythingSurvives,
            1 => Weather::BeginningsSurvive,
            _ => Weather::EachForItself,
        };
        Self { weather, random }
    }

    /// The fates of `count` changes of one file, or of all names, in the order in which they were made.
    pub(super) fn fates(&mut self, count: usize) -> Vec<Fate> {
        let torn_at = self.random.below(count.saturating_add(1));
        (0..count).map(|index| self.fate(index, torn_at)).collect()
    }

    fn fate(&mut self, index: usize, torn_at: usize) -> Fate {
        match self.weather {
            Weather::NothingSurvives => Fate::Dropped,
            Weather::EverythingSurvives => Fate::Kept,
            Weather::BeginningsSurvive if index < torn_at => Fate::Kept,
            Weather::BeginningsSurvive if index == torn_at => Fate::Torn(self.random.next()),
            Weather::BeginningsSurvive => Fate::Dropped,
            Weather::EachForItself => match self.random.below(3) {
                0 => Fate::Kept,
                1 => Fate::Dropped,
                _ => Fate::Torn(self.random.next()),
            },
        }
    }
}
