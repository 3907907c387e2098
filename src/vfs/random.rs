//! One small seeded generator (SplitMix64), so that a fault or a crash image comes back with its seed.
//!
//! It guarantees the same numbers for the same seed on every machine. It is no source of secrets.

/// A sequence of numbers that its seed decides.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        let drawn = self.next().checked_rem(bound).unwrap_or(0);
        usize::try_from(drawn).unwrap_or(0)
    }

    /// True once in `1 / probability` draws.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what a double holds exactly.
        let drawn = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_numbers_again_and_bounds_hold() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        for _ in 0..1000 {
            assert_eq!(one.next(), two.next());
            assert!(one.below(10) < 10);
            two.below(10);
        }
        assert_eq!(one.below(0), 0);
        assert!(!one.happens(0.0));
        assert!(one.happens(1.0));
    }
}
