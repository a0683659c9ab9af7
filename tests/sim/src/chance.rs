//! Chance from a seed. An own generator, so that a seed means the same run whatever a crate does in its next version.

use std::sync::{Mutex, PoisonError};

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Debug)]
pub struct Chance(Mutex<u64>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// A stream of its own: what is drawn from it moves no other draw.
    pub fn fork(&self, label: u64) -> Self {
        Self::new(self.number() ^ label.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn number(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but not including, `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// A number of both ends or between.
    pub fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    pub fn percent(&self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        &from[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let chance = Chance::new(1);
        assert_eq!(chance.number(), 0x910a_2dec_8902_5cc1);
        let other = Chance::new(1);
        other.number();
        assert_eq!(chance.number(), other.number());
    }
}
