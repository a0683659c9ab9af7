//! The simulation itself: that it repeats, and that it can fail.

use clap::ValueEnum;

use crate::plant::Plant;
use crate::world::run;

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..12 {
        let (first, second) = (run(seed, None, false), run(seed, None, false));
        assert_eq!(first.wrong, None, "seed {seed}");
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert!(first.transitions() > 0, "seed {seed}");
    }
    assert_ne!(run(0, None, false).hash, run(1, None, false).hash);
}

#[test]
fn a_planted_bug_is_found() {
    for plant in Plant::value_variants() {
        let found = (0..1_000).find(|seed| run(*seed, Some(*plant), false).wrong.is_some());
        assert!(
            found.is_some(),
            "{plant:?} is not found in a thousand worlds"
        );
    }
}
