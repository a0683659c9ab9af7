//! Bad news on the way: strangers know the old one, the new one or both, said at every stage of a rotation; said again while the one
//! because of it is under way; and through the death of the node. What follows is what the table of docs/rotation.md says.
//!
//! At each moment what is shown works, and never more work than may ([`super::world`]).

use connectors::connector::OperationName as Op;

use super::dying::{DEATHS_MAX, Death, rotated_because};
use super::*;
use crate::nhi::declare::ReplaceMode;
use crate::rotation::{Follows, Found, follows, mode};

on_both! {
    alternating_wherever_it_is,
    two_slots_wherever_they_are,
    one_slot_wherever_it_is,
    what_comes_into_use_is_known_too,
    what_is_ended_by_a_person_is_not_forgotten,
    alternating_through_deaths,
    two_slots_through_deaths,
    retries_that_run_out_wait_for_a_person_once_the_new_one_is_in_use,
}

const WAITS: &str = "overlap: { reload: 1h }
          soak: 7d";

impl Shop {
    /// One whose rotations wait where they can.
    async fn waiting(on_postgres: bool, mode: ReplaceMode) -> Self {
        let more = match mode {
            ReplaceMode::SingleSlot => "every: 300d",
            _ => WAITS,
        };
        Self::open(on_postgres, name(mode), more).await
    }

    /// What opens the database now.
    fn opens(&self) -> BTreeSet<String> {
        let users: &[&str] = if self.world.told().len() == 3 {
            &["app_a", "app_b"]
        } else {
            &["app"]
        };
        let mut found = BTreeSet::new();
        for user in users {
            self.world.login(user, |login| {
                if login.enabled {
                    found.extend(login.password.clone());
                }
                let keys = login.keys.values().filter(|key| key.active);
                found.extend(keys.map(|key| key.secret.clone()));
            });
        }
        found
    }

    /// Begins one and brings it to where so much is found; gives what opens the database besides what did before.
    async fn brought(&self, node: &NodeHandle, mode: ReplaceMode, found: Found) -> Option<String> {
        self.company
            .directory
            .start_rotations(self.clock.now())
            .await
            .unwrap();
        let before = self.opens();
        let (held, phase) = match (found, mode) {
            (Found::OldOnly, ReplaceMode::TwoSlot) => (Some(Op::IssueCredential), Phase::Preflight),
            (Found::OldOnly, _) => (Some(Op::StoreCredential), Phase::Preflight),
            (Found::Made, ReplaceMode::SingleSlot) => (Some(Op::ActivateCredential), Phase::Minted),
            (Found::Made, _) => (Some(Op::ActivateCredential), Phase::Verified),
            (Found::InUse, ReplaceMode::SingleSlot) => {
                (Some(Op::DestroyCredential), Phase::Verified)
            }
            (Found::InUse, _) => (None, Phase::Overlap),
        };
        self.world.hold(held);
        self.ask(false).await.unwrap();
        self.until(node, phase).await;
        if found == Found::OldOnly {
            assert_eq!(self.opens(), before, "{mode:?}");
            return None;
        }
        let new = self.opens_besides(&before).await;
        if mode != ReplaceMode::SingleSlot {
            assert!(self.opens().is_superset(&before), "{mode:?} {found:?}");
        }
        Some(new)
    }

    /// Waits until something else opens the database too.
    async fn opens_besides(&self, known: &BTreeSet<String>) -> String {
        for _ in 0..500 {
            if let Some(other) = self.opens().difference(known).next() {
                return other.clone();
            }
            // sleeps: between two looks at the database
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}", self.company.failures().await);
    }

    /// One opens the database, which is what the place shows, and nothing else is kept.
    #[track_caller]
    fn is_tidy(&self, moment: &str) {
        let shown = self.world.shown("password");
        assert_eq!(self.opens(), BTreeSet::from([shown]), "{moment}");
        let told = self.world.told();
        assert_eq!(
            told.last().map(String::as_str),
            Some("kept: 1"),
            "{moment}: {told:?}"
        );
    }

    /// Plans and begins what is due, as a node does by itself; gives how many begin.
    async fn look(&self) -> usize {
        let directory = &self.company.directory;
        let begun = directory.start_rotations(self.clock.now()).await;
        begun.unwrap().cases.len()
    }
}

fn name(mode: ReplaceMode) -> &'static str {
    match mode {
        ReplaceMode::Alternating => "alternating",
        ReplaceMode::TwoSlot => "two_slot",
        ReplaceMode::SingleSlot => "single_slot",
        ReplaceMode::Reissue | ReplaceMode::FourPhase => panic!("they have tests of their own"),
    }
}

async fn wherever_it_is(on_postgres: bool, mode: ReplaceMode) {
    let shop = Shop::waiting(on_postgres, mode).await;
    let node = shop.company.node().await;
    for found in Found::ALL {
        for said in Exposed::ALL {
            let moment = format!("{mode:?} {found:?} {said:?}");
            let old = shop.world.shown("password");
            let new = shop.brought(&node, mode, found).await;
            let shown = shop.world.shown("password");
            let is_new = new.as_ref() == Some(&shown);
            assert_eq!(is_new, found == Found::InUse, "{moment}");
            assert!(is_new || shown == old, "{moment}");
            assert_eq!(shop.say(Some(said)).await, Ok(true), "{moment}");
            let row = shop.row().await;
            assert!(row.exposed_at.is_some() && row.compromised, "{moment}");
            shop.world.hold(None);
            let row = shop.until(&node, Phase::Closed).await;
            shop.is_tidy(&moment);
            let shown = shop.world.shown("password");
            assert_ne!(shown, old, "{moment}");
            let stays = new.as_ref() == Some(&shown);
            let goes_on = follows(mode, found, said) == Follows::TakenUp;
            assert_eq!(stays, goes_on, "{moment}");
            assert_eq!(
                (row.exposed_at, row.exposed_again),
                (None, false),
                "{moment}"
            );
            assert_eq!(shop.look().await, 0, "{moment}");
        }
    }
    shop.close(node).await;
}

async fn alternating_wherever_it_is(on_postgres: bool) {
    wherever_it_is(on_postgres, ReplaceMode::Alternating).await;
}

async fn two_slots_wherever_they_are(on_postgres: bool) {
    wherever_it_is(on_postgres, ReplaceMode::TwoSlot).await;
}

async fn one_slot_wherever_it_is(on_postgres: bool) {
    wherever_it_is(on_postgres, ReplaceMode::SingleSlot).await;
}

async fn what_comes_into_use_is_known_too(on_postgres: bool) {
    for mode in [
        ReplaceMode::Alternating,
        ReplaceMode::TwoSlot,
        ReplaceMode::SingleSlot,
    ] {
        let shop = Shop::waiting(on_postgres, mode).await;
        let node = shop.company.node().await;
        let first = shop.world.shown("password");
        let second = shop.brought(&node, mode, Found::InUse).await.unwrap();
        shop.world.hold(Some(Op::ActivateCredential));
        assert_eq!(shop.say(Some(Exposed::Both)).await, Ok(true));
        // The one because of it has made another, which nobody reads yet: strangers know that too.
        let made = if mode == ReplaceMode::SingleSlot {
            Phase::Minted
        } else {
            Phase::Verified
        };
        let row = shop.until(&node, made).await;
        assert!(row.compromised && !row.exposed_again, "{mode:?}: {row:?}");
        let known = BTreeSet::from([first, second]);
        let third = BTreeSet::from([shop.opens_besides(&known).await]);
        assert_eq!(shop.say(Some(Exposed::Old)).await, Ok(false));
        assert!(!shop.row().await.exposed_again, "it is on its way out");
        assert_eq!(shop.say(Some(Exposed::New)).await, Ok(false));
        assert_eq!(shop.say(Some(Exposed::Both)).await, Ok(false));
        assert!(shop.row().await.exposed_again);
        shop.world.hold(None);
        shop.jump(&node, shop.clock.now() + TimeDelta::minutes(2));
        let row = shop.until(&node, Phase::Closed).await;
        assert!(row.exposed_at.is_some(), "{row:?}");
        assert_eq!(shop.opens(), third, "{mode:?}");
        // Another begins by itself, and once.
        assert_eq!(shop.look().await, 1, "{mode:?}");
        assert_eq!(shop.look().await, 0, "{mode:?}");
        let row = shop.row().await;
        assert_eq!(row.because, Some(Because::Compromised));
        assert!(row.compromised, "{row:?}");
        let row = shop.until(&node, Phase::Closed).await;
        assert_eq!((row.exposed_at, row.exposed_again), (None, false));
        assert!(third.is_disjoint(&shop.opens()), "{mode:?}");
        shop.is_tidy(name(mode));
        assert_eq!(shop.look().await, 0, "{mode:?}");
        shop.close(node).await;
    }
}

async fn what_is_ended_by_a_person_is_not_forgotten(on_postgres: bool) {
    let mode = ReplaceMode::Alternating;
    let shop = Shop::waiting(on_postgres, mode).await;
    let node = shop.company.node().await;
    shop.brought(&node, mode, Found::InUse).await;
    shop.world.hold(Some(Op::ActivateCredential));
    shop.say(Some(Exposed::New)).await.unwrap();
    shop.until(&node, Phase::Verified).await;
    let case = shop.case("rotation_alternating_at_once").await;
    let cancel = Command::Cancel {
        by: actor("user:ann"),
        reason: "not today".to_owned(),
    };
    shop.company.command(&case, cancel).await;
    let row = shop.until(&node, Phase::Abandoned).await;
    let said = row.exposed_at.unwrap();
    shop.world.hold(None);
    // Not at once, as after each that failed, and still because of it.
    assert_eq!(shop.look().await, 0);
    let row = shop.row().await;
    assert_eq!(
        (row.because, row.exposed_at),
        (Some(Because::Compromised), Some(said))
    );
    let begins = row.starts_at.unwrap();
    assert!(begins > shop.clock.now() && begins < shop.clock.now() + TimeDelta::hours(2));
    shop.jump(&node, begins);
    assert_eq!(shop.look().await, 1);
    let row = shop.until(&node, Phase::Closed).await;
    assert_eq!(row.exposed_at, None);
    shop.is_tidy("ended by a person");
    shop.close(node).await;
}

/// One that was brought so far is because of bad news another one, whose node dies at the moment of a number.
async fn through_deaths(on_postgres: bool, mode: ReplaceMode) {
    let shop = Shop::waiting(on_postgres, mode).await;
    let step = if on_postgres { 23 } else { 9 };
    for death in [Death::Commit, Death::Call { has_effect: true }] {
        let mut deaths = 0;
        let sayings = Exposed::ALL.iter().cycle();
        for (moment, said) in (1..DEATHS_MAX).step_by(step).zip(sayings) {
            let told = format!("{mode:?} {said:?} moment {moment}");
            let old = shop.world.shown("password");
            let node = shop.company.node().await;
            let new = shop.brought(&node, mode, Found::InUse).await;
            node.drain(Duration::from_secs(10)).await.unwrap();
            let died = rotated_because(&shop, Some(*said), death, moment).await;
            shop.is_tidy(&told);
            let shown = shop.world.shown("password");
            assert_ne!(shown, old, "{told}");
            let goes_on = *said == Exposed::Old;
            assert_eq!(new.as_ref() == Some(&shown), goes_on, "{told}");
            assert_eq!(shop.row().await.exposed_at, None, "{told}");
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths >= 1, "{deaths}");
    }
    shop.company.remove().await;
}

async fn alternating_through_deaths(on_postgres: bool) {
    through_deaths(on_postgres, ReplaceMode::Alternating).await;
}

async fn two_slots_through_deaths(on_postgres: bool) {
    through_deaths(on_postgres, ReplaceMode::TwoSlot).await;
}

async fn retries_that_run_out_wait_for_a_person_once_the_new_one_is_in_use(on_postgres: bool) {
    let mode = ReplaceMode::Alternating;
    let shop = Shop::waiting(on_postgres, mode).await;
    let node = shop.company.node().await;
    shop.brought(&node, mode, Found::InUse).await;
    let shown = shop.world.shown("password");
    shop.world.hold(Some(Op::DisableAccount));
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    for _ in 0..1_000 {
        if shop.row().await.phase == Phase::Blocked {
            break;
        }
        shop.jump(&node, shop.clock.now() + TimeDelta::minutes(5));
        // sleeps: between two tries
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let row = shop.until(&node, Phase::Blocked).await;
    assert!(row.reason.unwrap().starts_with("`disable_old`"));
    assert_eq!(shop.world.shown("password"), shown, "nobody goes back");
    // Somebody mends it and says so.
    shop.world.hold(None);
    let case = shop.case("rotation_alternating").await;
    let stored = shop
        .company
        .definitions
        .by_name("rotation_alternating")
        .unwrap();
    let step = stored.find("disable_old").unwrap();
    let retry = Command::Retry {
        place: Some(Place::new(StepIndex(step.0), 0)),
        step: None,
        by: actor("user:ann"),
        reason: String::new(),
    };
    shop.company.command(&case, retry).await;
    shop.until(&node, Phase::OldDisabled).await;
    shop.jump(&node, shop.clock.now() + TimeDelta::days(8));
    shop.until(&node, Phase::Closed).await;
    assert_eq!(shop.world.shown("password"), shown);
    shop.is_tidy("mended");
    shop.close(node).await;
}

/// Every step after the one that puts the new one into use waits for a person when it fails for good.
#[test]
fn nobody_goes_back_by_themselves_once_the_new_one_is_in_use() {
    let definitions = crate::definitions::load(&[]).unwrap();
    for declared in [
        ReplaceMode::Alternating,
        ReplaceMode::TwoSlot,
        ReplaceMode::SingleSlot,
        ReplaceMode::Reissue,
        ReplaceMode::FourPhase,
    ] {
        let workflow = mode(declared).workflows.unwrap().in_time;
        let mut all = definitions.iter();
        let definition = all.find(|one| one.name == workflow).unwrap();
        let uses = ["rotation.promote", "rotation.switch", "rotation.sign"];
        let steps = definition.steps.iter();
        let mut after = steps.skip_while(|step| !uses.contains(&step.work.uses()));
        assert!(after.next().is_some(), "{workflow}");
        let back: Vec<&str> = after
            .filter(|step| !step.parks)
            .map(|step| step.id.as_str())
            .collect();
        // Of one slot the login shows whether it works at all.
        let expected: &[&str] = if declared == ReplaceMode::SingleSlot {
            &["verify"]
        } else {
            &[]
        };
        assert_eq!(back, expected, "{workflow}");
    }
}
