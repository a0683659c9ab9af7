//! A fleet over a window, without a burst: as many in each part of it as in any other.
//!
//! Drawing for each alone leaves bursts: of a thousand draws over a hundred minutes some minute gets twenty. So those that are
//! planned together are put into an order that looks random, and follow each other at even distances.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use engine::core::Timestamp;

use super::drawn;
use super::window::Open;

/// When each of `names` begins within a window, in the order of the time. The same names give the same times.
#[must_use]
pub fn spread<'a>(
    names: impl IntoIterator<Item = &'a str>,
    open: Open,
) -> Vec<(Timestamp, &'a str)> {
    let begins = open.from.to_rfc3339();
    let ranked: BTreeSet<(u64, &str)> = names
        .into_iter()
        .map(|name| (drawn(&[name, &begins, "spread"]), name))
        .collect();
    let length = i128::from(
        (open.until - open.from)
            .num_microseconds()
            .unwrap_or(0)
            .max(0),
    );
    let count = i128::try_from(ranked.len()).unwrap_or(i128::MAX).max(1);
    let at = |rank: i128| {
        let into = i64::try_from(length * rank / count).unwrap_or(0);
        open.from + TimeDelta::microseconds(into)
    };
    (0..)
        .zip(ranked)
        .map(|(rank, (_, name))| (at(rank), name))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_fleet_is_spread_evenly_whatever_its_size() {
        let open = Open {
            from: "2026-11-28T02:00:00Z".parse().unwrap(),
            until: "2026-11-28T06:00:00Z".parse().unwrap(),
        };
        for count in [0, 1, 7, 240, 10_000] {
            let names: Vec<String> = (0..count).map(|number| format!("db/{number}")).collect();
            let times = spread(names.iter().map(String::as_str), open);
            assert_eq!(times.len(), count);
            let mut minutes = vec![0; 240];
            for (at, _) in &times {
                assert!(*at >= open.from && *at < open.until);
                minutes[usize::try_from((*at - open.from).num_minutes()).unwrap()] += 1;
            }
            let most = minutes.iter().max().copied().unwrap_or(0);
            assert!(most <= count / 240 + 1, "{count}: {most} in one minute");
            let backwards = spread(names.iter().rev().map(String::as_str), open);
            assert_eq!(
                backwards, times,
                "the order in which they are named says nothing"
            );
        }
    }

    #[test]
    fn names_that_follow_each_other_do_not_begin_after_each_other() {
        let open = Open {
            from: "2026-11-28T02:00:00Z".parse().unwrap(),
            until: "2026-11-28T06:00:00Z".parse().unwrap(),
        };
        let names: Vec<String> = (100..200).map(|number| format!("db/{number}")).collect();
        let times = spread(names.iter().map(String::as_str), open);
        let neighbours = times
            .windows(2)
            .filter(|pair| pair[0].1 < pair[1].1)
            .count();
        assert!((25..75).contains(&neighbours), "{neighbours}");
    }
}
