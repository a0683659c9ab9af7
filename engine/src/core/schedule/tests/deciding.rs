//! What a schedule makes of what happens.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::core::id::CaseId;

const EPOCH: &str = "2026-01-01T00:00:00Z";

/// Seconds after the beginning of 2026.
fn s(seconds: i64) -> Timestamp {
    at(EPOCH) + chrono::TimeDelta::seconds(seconds)
}

fn person() -> Actor {
    Actor("cli:ada".to_owned())
}

/// A schedule and everything that it ever said.
struct Bench {
    state: Option<State>,
    /// Every case that was started and not closed, in order.
    open: Vec<CaseId>,
    log: Vec<String>,
}

impl Bench {
    /// Fires every ten seconds.
    fn new(overlap: Overlap) -> Self {
        let mut bench = Self {
            state: None,
            open: Vec::new(),
            log: Vec::new(),
        };
        let spec = Spec {
            overlap,
            catch_up: Span::from_s(60),
            ..spec("*/10 * * * * *", "UTC")
        };
        bench.put(spec, 0).unwrap();
        bench.log.clear();
        bench
    }

    fn put(&mut self, spec: Spec, second: i64) -> Result<(), Illegal> {
        let input = Input::Put {
            spec,
            origin: Origin::Person,
            salt: [7; 16],
            by: person(),
            reason: "why".into(),
        };
        self.give(input, second)
    }

    fn give(&mut self, input: Input, second: i64) -> Result<(), Illegal> {
        let decision = decide("nightly", self.state.as_ref(), input, s(second))?;
        let Some(decision) = decision else {
            return Ok(());
        };
        let before = self.state.as_ref().map_or(0, |state| state.version);
        assert_eq!(decision.state.version, before + 1);
        for end in &decision.ends {
            let verb = if end.force { "terminate" } else { "cancel" };
            self.log.push(format!("{verb} {}", self.named(end.case)));
        }
        for run in &decision.runs {
            let name = run.outcome.as_str();
            self.log
                .push(format!("{name} {}", (run.key.fire_at - s(0)).num_seconds()));
        }
        for start in &decision.starts {
            assert!(!self.open.contains(&start.case), "a case is started once");
            self.open.push(start.case);
        }
        if let Some(change) = &decision.change {
            assert_eq!(change.version, decision.state.version);
            self.log
                .push(format!("{} by {}", change.operation.as_str(), change.by.0));
        }
        self.state = Some(decision.state);
        Ok(())
    }

    /// The second at which a case's run was due.
    fn named(&self, case: CaseId) -> i64 {
        let open = &self.state.as_ref().unwrap().open;
        let run = open.iter().find(|open| open.case == case).unwrap();
        (run.key.fire_at - s(0)).num_seconds()
    }

    fn clock(&mut self, second: i64) {
        self.give(Input::Clock, second).unwrap();
    }

    fn end_first(&mut self, second: i64) {
        let case = self.open.remove(0);
        self.give(Input::Settled(vec![(case, Settled::Ended)]), second)
            .unwrap();
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

#[track_caller]
fn check(overlap: Overlap, expected: &[&str]) {
    let mut bench = Bench::new(overlap);
    for second in [10, 20, 30] {
        bench.clock(second);
    }
    bench.end_first(35);
    bench.clock(40);
    assert_eq!(bench.told(), expected, "{overlap:?}");
}

#[test]
fn each_overlap_policy_does_what_its_row_says() {
    check(
        Overlap::Skip,
        &[
            "started 10",
            "skipped_overlap 20",
            "skipped_overlap 30",
            "started 40",
        ],
    );
    check(
        Overlap::QueueOne,
        &[
            "started 10",
            "queued 20",
            "skipped_overlap 30",
            "started 20",
            "queued 40",
        ],
    );
    check(
        Overlap::QueueAll,
        &[
            "started 10",
            "queued 20",
            "queued 30",
            "started 20",
            "queued 40",
        ],
    );
    check(
        Overlap::CancelRunning,
        &[
            "started 10",
            "cancel 10",
            "started 20",
            "cancel 20",
            "started 30",
            "cancel 30",
            "started 40",
        ],
    );
    check(
        Overlap::TerminateRunning,
        &[
            "started 10",
            "terminate 10",
            "started 20",
            "terminate 20",
            "started 30",
            "terminate 30",
            "started 40",
        ],
    );
    check(
        Overlap::Allow,
        &["started 10", "started 20", "started 30", "started 40"],
    );
}

#[test]
fn after_a_time_without_a_node_what_lies_in_the_window_is_run_and_the_rest_is_missed() {
    let after_two_minutes = |overlap, expected: &[&str]| {
        let mut bench = Bench::new(overlap);
        bench.clock(125);
        let told = bench.told();
        let missed: Vec<String> = [10, 20, 30, 40, 50, 60]
            .map(|second| format!("missed {second}"))
            .into();
        assert_eq!(told[..6], missed, "{overlap:?}");
        assert_eq!(told[6..], *expected, "{overlap:?}");
    };
    let skipped = |seconds: [i64; 5]| seconds.map(|second| format!("skipped_overlap {second}"));
    let skips = skipped([80, 90, 100, 110, 120]);
    let skips: Vec<&str> = std::iter::once("started 70")
        .chain(skips.iter().map(String::as_str))
        .collect();
    after_two_minutes(Overlap::Skip, &skips);
    after_two_minutes(
        Overlap::QueueAll,
        &[
            "started 70",
            "queued 80",
            "queued 90",
            "queued 100",
            "queued 110",
            "queued 120",
        ],
    );
    after_two_minutes(
        Overlap::Allow,
        &[
            "started 70",
            "started 80",
            "started 90",
            "started 100",
            "started 110",
            "started 120",
        ],
    );
    // The others would be ended at once.
    let skips = skipped([70, 80, 90, 100, 110]);
    let last: Vec<&str> = skips
        .iter()
        .map(String::as_str)
        .chain(["started 120"])
        .collect();
    after_two_minutes(Overlap::CancelRunning, &last);
    after_two_minutes(Overlap::TerminateRunning, &last);
}

#[test]
fn a_long_time_without_a_node_is_written_down_in_few_words() {
    let mut bench = Bench::new(Overlap::Skip);
    let decision = decide("nightly", bench.state.as_ref(), Input::Clock, s(3_600_000))
        .unwrap()
        .unwrap();
    let missed: Vec<&Run> = decision
        .runs
        .iter()
        .filter(|run| run.outcome == Outcome::Missed)
        .collect();
    assert_eq!(missed.len(), 100);
    assert!(
        missed[99]
            .reason
            .contains("up to 2026-02-11T15:58:59Z were missed too"),
        "{}",
        missed[99].reason
    );
    assert!(missed[98].reason.ends_with("no node ran within 1m of it"));
    bench.clock(3_600_000);
    assert_eq!(bench.told()[100], "started 3599940");
    assert_eq!(bench.state.as_ref().unwrap().seen, s(3_600_000));
}

#[test]
fn a_pause_holds_everything_but_a_run_by_hand() {
    let mut bench = Bench::new(Overlap::QueueAll);
    bench.clock(10);
    bench.clock(20);
    let pause = Input::Pause {
        by: person(),
        reason: "audit".into(),
    };
    bench.give(pause.clone(), 25).unwrap();
    bench.clock(30);
    bench.end_first(35);
    assert_eq!(
        bench.told(),
        ["started 10", "queued 20", "pause by cli:ada"]
    );
    assert_eq!(
        bench.give(pause, 36).unwrap_err().to_string(),
        "schedule `nightly` is paused already, by cli:ada"
    );
    let backfill = Input::Backfill {
        from: s(0),
        to: s(10),
        done: BTreeSet::new(),
        by: person(),
        reason: String::new(),
    };
    assert_eq!(
        bench.give(backfill, 36),
        Err(Illegal::Held("nightly".into()))
    );
    // What waits is not in its way.
    let run = |second| Input::Run {
        at: s(second),
        by: person(),
        reason: "now".into(),
    };
    bench.give(run(37), 37).unwrap();
    let resume = Input::Resume {
        by: person(),
        reason: String::new(),
    };
    bench.give(resume.clone(), 45).unwrap();
    bench.clock(50);
    assert_eq!(
        bench.told(),
        [
            "started 37",
            "run by cli:ada",
            "resume by cli:ada",
            "queued 50"
        ]
    );
    assert_eq!(
        bench.give(resume, 46),
        Err(Illegal::NotPaused("nightly".into()))
    );
}

#[test]
fn a_run_by_hand_follows_the_overlap_policy_and_names_who_wanted_it() {
    let mut bench = Bench::new(Overlap::Skip);
    let run = |second| Input::Run {
        at: s(second),
        by: person(),
        reason: "because".into(),
    };
    let decision = decide("nightly", bench.state.as_ref(), run(3), s(3))
        .unwrap()
        .unwrap();
    assert_eq!(
        (
            decision.starts[0].initiator.clone(),
            decision.starts[0].cause
        ),
        (person(), Cause::ByHand)
    );
    let key = RunKey {
        fire_at: s(10),
        by_hand: true,
    };
    // One by hand and one by the clock at the same moment are two.
    assert_ne!(
        case_id("nightly", key),
        case_id(
            "nightly",
            RunKey {
                by_hand: false,
                ..key
            }
        )
    );
    bench.give(run(3), 3).unwrap();
    let busy = bench.give(run(4), 4).unwrap_err().to_string();
    assert!(
        busy.contains("is still open, and its overlap policy is `skip`"),
        "{busy}"
    );
    bench.clock(10);
    bench.end_first(11);
    bench.clock(20);
    assert_eq!(
        bench.told(),
        [
            "started 3",
            "run by cli:ada",
            "skipped_overlap 10",
            "started 20"
        ]
    );
}

#[test]
fn a_backfill_runs_each_time_of_its_period_that_has_not_run() {
    let backfill = |from, to, done: &[i64]| Input::Backfill {
        from: s(from),
        to: s(to),
        done: done.iter().map(|second| s(*second)).collect(),
        by: person(),
        reason: "lost".into(),
    };
    let mut bench = Bench::new(Overlap::Skip);
    bench.clock(60);
    bench.end_first(61);
    bench.told();
    bench.give(backfill(-30, 20, &[0, 10]), 61).unwrap();
    assert_eq!(
        bench.told(),
        [
            "queued -20",
            "queued -10",
            "queued 20",
            "started -30",
            "backfill by cli:ada"
        ]
    );
    // Known to wait or to run.
    assert_eq!(
        bench.give(backfill(-30, 20, &[0, 10]), 62),
        Err(Illegal::NothingToDo)
    );
    bench.clock(70);
    for second in 71..75 {
        bench.end_first(second);
    }
    assert_eq!(
        bench.told(),
        [
            "skipped_overlap 70",
            "started -20",
            "started -10",
            "started 20"
        ]
    );
    assert_eq!(bench.give(backfill(0, 600, &[]), 80), Err(Illegal::Period));
    assert_eq!(bench.give(backfill(10, 0, &[]), 80), Err(Illegal::Period));
    assert_eq!(
        bench.give(backfill(-10_000, 0, &[]), 80),
        Err(Illegal::TooMany)
    );

    let mut all = Bench::new(Overlap::Allow);
    all.give(backfill(-20, 0, &[]), 5).unwrap();
    assert_eq!(
        all.told(),
        [
            "started -20",
            "started -10",
            "started 0",
            "backfill by cli:ada"
        ]
    );
}

#[test]
fn a_case_that_was_not_made_is_written_down_and_makes_room() {
    let mut bench = Bench::new(Overlap::QueueOne);
    bench.clock(10);
    bench.clock(20);
    let case = bench.open[0];
    bench
        .give(Input::Settled(vec![(case, Settled::Open)]), 21)
        .unwrap();
    assert!(bench.state.as_ref().unwrap().open[0].seen);
    // Twice the same says nothing new.
    let again = Input::Settled(vec![(case, Settled::Open)]);
    assert_eq!(
        decide("nightly", bench.state.as_ref(), again, s(22)),
        Ok(None)
    );
    let refused = Input::Settled(vec![(
        case,
        Settled::Refused("there is no workflow `review`".into()),
    )]);
    bench.give(refused, 23).unwrap();
    assert_eq!(
        bench.told(),
        ["started 10", "queued 20", "refused 10", "started 20"]
    );
}

#[test]
fn a_change_of_times_counts_from_now_and_any_other_does_not() {
    let mut bench = Bench::new(Overlap::Skip);
    let spec = bench.state.as_ref().unwrap().spec.clone();
    bench
        .put(
            Spec {
                description: "new words".into(),
                ..spec.clone()
            },
            15,
        )
        .unwrap();
    bench.clock(16);
    assert_eq!(bench.told(), ["change by cli:ada", "started 10"]);
    bench.end_first(17);
    bench
        .put(
            Spec {
                cron: "*/4 * * * * *".into(),
                ..spec.clone()
            },
            35,
        )
        .unwrap();
    bench.clock(36);
    assert_eq!(bench.told(), ["change by cli:ada", "started 36"]);
    // The same again is nothing.
    let version = bench.state.as_ref().unwrap().version;
    bench
        .put(
            Spec {
                cron: "*/4 * * * * *".into(),
                ..spec.clone()
            },
            37,
        )
        .unwrap();
    assert_eq!(bench.state.as_ref().unwrap().version, version);
    let wrong = bench
        .put(
            Spec {
                zone: "Mars".into(),
                ..spec
            },
            38,
        )
        .unwrap_err();
    assert!(
        wrong
            .to_string()
            .starts_with("the schedule is wrong: `zone`: `Mars`"),
        "{wrong}"
    );
}

#[test]
fn what_stands_in_a_file_is_changed_by_the_file_only() {
    let mut bench = Bench::new(Overlap::QueueAll);
    let spec = Spec {
        paused: true,
        ..bench.state.as_ref().unwrap().spec.clone()
    };
    let by_file = |spec| Input::Put {
        spec,
        origin: Origin::Configuration,
        salt: [8; 16],
        by: Actor("configuration".into()),
        reason: String::new(),
    };
    bench.give(by_file(spec.clone()), 5).unwrap();
    bench.clock(10);
    assert_eq!(bench.told(), ["change by configuration"]);
    assert_eq!(
        bench.put(spec.clone(), 6),
        Err(Illegal::Configured("nightly".into()))
    );
    let remove = |origin| Input::Remove {
        origin,
        by: person(),
        reason: String::new(),
    };
    assert_eq!(
        bench.give(remove(Origin::Person), 6),
        Err(Illegal::Configured("nightly".into()))
    );
    let resume = Input::Resume {
        by: person(),
        reason: String::new(),
    };
    assert_eq!(
        bench.give(resume, 6),
        Err(Illegal::PausedByFile("nightly".into()))
    );
    // Unpaused in the file: from now on.
    bench
        .give(
            by_file(Spec {
                paused: false,
                ..spec
            }),
            25,
        )
        .unwrap();
    bench.clock(30);
    bench.clock(40);
    bench.give(remove(Origin::Configuration), 45).unwrap();
    bench.clock(50);
    assert_eq!(
        bench.told(),
        [
            "change by configuration",
            "started 30",
            "queued 40",
            "dropped 40",
            "remove by cli:ada"
        ]
    );
    assert_eq!(
        bench.give(
            Input::Pause {
                by: person(),
                reason: String::new()
            },
            51
        ),
        Err(Illegal::Unknown("nightly".into()))
    );
    // Made again: the open case of before still counts.
    let again = bench.state.as_ref().unwrap().spec.clone();
    bench
        .put(
            Spec {
                overlap: Overlap::Skip,
                ..again
            },
            52,
        )
        .unwrap();
    bench.clock(60);
    assert_eq!(bench.told(), ["create by cli:ada", "skipped_overlap 60"]);
}

#[test]
fn a_state_reads_back_as_it_was_written() {
    let mut bench = Bench::new(Overlap::QueueAll);
    bench.clock(10);
    bench.clock(20);
    bench
        .give(
            Input::Pause {
                by: person(),
                reason: "x".into(),
            },
            21,
        )
        .unwrap();
    let state = bench.state.unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}

fn some_input() -> impl Strategy<Value = u8> {
    0..9_u8
}

proptest! {
    /// Whatever happens: each fire time starts at most one case, cases start in order, and with every policy but
    /// `allow` and the two that end open runs, at most one is open.
    #[test]
    fn one_case_a_fire_time_whatever_happens(
        overlap in 0..Overlap::ALL.len(),
        inputs in proptest::collection::vec((some_input(), 0..30_i64), 1..60),
    ) {
        let overlap = Overlap::ALL[overlap];
        let mut bench = Bench::new(overlap);
        let (mut now, mut started) = (0, BTreeSet::new());
        for (what, pause) in inputs {
            now += pause;
            let input = match what {
                0..=3 => Input::Clock,
                4 | 5 if !bench.open.is_empty() => {
                    let case = bench.open.remove(0);
                    Input::Settled(vec![(case, Settled::Ended)])
                }
                6 => Input::Run { at: s(now), by: person(), reason: String::new() },
                7 => Input::Pause { by: person(), reason: String::new() },
                _ => Input::Resume { by: person(), reason: String::new() },
            };
            let decision = match decide("nightly", bench.state.as_ref(), input, s(now)) {
                Ok(Some(decision)) => decision,
                Ok(None) | Err(_) => continue,
            };
            for start in &decision.starts {
                prop_assert!(started.insert(start.key), "{:?} twice", start.key);
                prop_assert!(start.key.fire_at < s(now + 1));
                bench.open.push(start.case);
            }
            let ended: BTreeSet<CaseId> = decision.ends.iter().map(|end| end.case).collect();
            prop_assert!(decision.starts.iter().all(|start| !ended.contains(&start.case)));
            prop_assert!(decision.state.queue.len() <= QUEUE_MAX);
            let alone = matches!(overlap, Overlap::Skip | Overlap::QueueOne | Overlap::QueueAll);
            prop_assert!(!alone || decision.state.open.len() <= 1);
            prop_assert!(overlap != Overlap::QueueOne || decision.state.queue.len() <= 1);
            prop_assert!(decision.state.seen >= bench.state.as_ref().unwrap().seen);
            bench.state = Some(decision.state);
        }
    }
}
