//! People whom a rollout left out: it is open who they are, or a rule has no answer for them.
//!
//! They are remembered in the transaction that moves the cursor past them, each with why. As soon as nothing is open about somebody
//! any more, the rest is looked at once more; and every [`LEFT_OUT_PAUSE`] anyway, because an answer may come from what is no
//! event, as from another template of a system. Whoever may come by then is measured together with what the rollout did so far,
//! so that no more gets through in pieces than the limits allow for the whole, and gets the case that they would have got in the
//! rollout. Who is not at work any more is left out of nothing: a leaver waits for nobody.
//!
//! The row of a person and the message that starts their case are written in one transaction, so whoever dies in between leaves
//! the person where they were. A later rollout looks at everybody, and takes over whom it leaves out, too.

use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::store::InboxRow;

use super::measure::{Measured, count, united};
use super::{Advance, ROLLOUT_PAGE, RolloutError, Rollouts, next};
use crate::actions::{NoAnswer, difference};
use crate::directory::{
    Holdings, IdentityStatus, LeftOutReason, LeftOutRow, Remainder, RolloutRow,
};
use crate::policies::short;
use crate::policy::PolicySet;
use crate::policy::guard::{Effect, Gathering, POLICY, attributes_of, remembered};

/// Between two looks at those for whom a rule had no answer.
pub const LEFT_OUT_PAUSE: TimeDelta = TimeDelta::minutes(10);

/// What is to be done about somebody.
enum Verdict {
    /// Not at work any more.
    Gone,
    InLine,
    /// They hold something else, or have a case that may have been planned under the policy before.
    Starts(Vec<Effect>),
    Open,
    NoAnswer(NoAnswer),
}

/// What came of a look at some people.
#[derive(Default)]
pub(super) struct Looked<'a> {
    pub starts: Vec<InboxRow>,
    pub remainder: Remainder,
    /// For whom a rule has no answer.
    pub undecided: u64,
    /// Whose cases are started, with what these do.
    began: Vec<(&'a Holdings, Vec<Effect>)>,
}

impl Rollouts {
    /// Decides about some people: who gets a case, and who is left out.
    pub(super) async fn look<'a>(
        &self,
        row: &mut RolloutRow,
        policy: &PolicySet,
        people: &'a [Holdings],
        now: Timestamp,
    ) -> Result<Looked<'a>, RolloutError> {
        let busy = self.busy(people).await?;
        let mut looked = Looked::default();
        for holdings in people {
            let is_busy = busy.contains(holdings.identity.identity_key.as_str());
            match self.verdict(policy, holdings, is_busy, now) {
                Verdict::Gone | Verdict::InLine => looked.remainder.gone.push(place(holdings)),
                Verdict::Starts(effects) => {
                    looked.starts.extend(self.starts(row, holdings, now)?);
                    looked.remainder.gone.push(place(holdings));
                    looked.began.push((holdings, effects));
                    row.started += 1;
                }
                Verdict::Open => {
                    let questions = holdings.identity.disputes.join(", ");
                    let left = LeftOutRow {
                        why: format!("it is open who they are: {questions}"),
                        ..left_out(row, holdings, LeftOutReason::Question, questions, now)
                    };
                    looked.remainder.put.push(left);
                }
                Verdict::NoAnswer(no) => {
                    looked.undecided += 1;
                    let left = LeftOutRow {
                        attribute: no.attribute().map(str::to_owned),
                        why: no.why,
                        ..left_out(row, holdings, LeftOutReason::Rule, no.rule, now)
                    };
                    looked.remainder.put.push(left);
                }
            }
        }
        Ok(looked)
    }

    fn verdict(
        &self,
        policy: &PolicySet,
        holdings: &Holdings,
        is_busy: bool,
        now: Timestamp,
    ) -> Verdict {
        if holdings.identity.status != IdentityStatus::Active {
            return Verdict::Gone;
        }
        if is_open(holdings) {
            return Verdict::Open;
        }
        match difference(policy, &self.systems, holdings, now) {
            Err(no) => Verdict::NoAnswer(no),
            Ok(Some(effects)) => Verdict::Starts(effects),
            // What is on its way may have been planned under the policy before, and is not held yet.
            Ok(None) if is_busy => Verdict::Starts(Vec::new()),
            Ok(None) => Verdict::InLine,
        }
    }

    /// Whether those who were left out have to be looked at.
    pub(super) async fn left_out_is_due(
        &self,
        row: &RolloutRow,
        now: Timestamp,
    ) -> Result<bool, RolloutError> {
        let looked = row.left_out_looked_at;
        let anybody = looked.is_none_or(|looked| looked + LEFT_OUT_PAUSE <= now);
        Ok(self.directory.left_out_is_due(anybody).await?)
    }

    /// Counts what would become of those who were left out and may come now.
    pub(super) async fn measure_left_out(
        &self,
        row: &RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Measured, RolloutError> {
        let before = self.before(row).await?;
        let rules = before.rules(policy);
        let attributes = attributes_of(&rules.limits);
        let mut gathering = Gathering::default();
        let mut ready = Vec::new();
        let mut everybody = self.directory.everybody_left_out();
        loop {
            let page = everybody.page().await?;
            if page.is_empty() {
                break;
            }
            for holdings in &page {
                match self.verdict(policy, holdings, false, now) {
                    Verdict::Gone | Verdict::InLine => ready.push(place(holdings)),
                    Verdict::Starts(effects) => {
                        count(&mut gathering, rules, &attributes, holdings, &effects);
                        ready.push(place(holdings));
                    }
                    Verdict::Open => {}
                    Verdict::NoAnswer(no) => gathering.unanswered(|| no.why),
                }
            }
        }
        let blast = gathering.finish();
        let reasons = self.reasons(row, &before, policy, &blast, None).await?;
        Ok(Measured {
            blast,
            reasons,
            people: row.people,
            counted: Vec::new(),
            ready,
        })
    }

    /// Starts what brings those under the policy who were left out and may come now; lets them wait for a person when that is too
    /// much.
    pub(super) async fn look_at_left_out(
        &self,
        row: RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Advance, RolloutError> {
        let mut row = row;
        // One that a program ended which did not know of this.
        row.finished_at.get_or_insert(row.changed_at);
        let measured = self.measure_left_out(&row, policy, now).await?;
        if !measured.reasons.is_empty() {
            tracing::warn!(
                policy = short(&row.policy_hash),
                rollout = row.rollout_id,
                "people whom the rollout of the policy left out would change too much; a person has to decide"
            );
            let next = next(row, now).measured(measured);
            let nobody = Remainder::default();
            self.directory
                .move_rollout(&next, None, Vec::new(), nobody)
                .await?;
            return Ok(Advance::default());
        }
        let before = self.before(&row).await?;
        let rules = before.rules(policy);
        let attributes = attributes_of(&rules.limits);
        let mut advance = Advance::default();
        let mut everybody = self.directory.everybody_left_out().by(ROLLOUT_PAGE);
        let mut people = everybody.page().await?;
        while !people.is_empty() {
            let following = everybody.page().await?;
            let mut next = next(row, now);
            // Only when that was all of them: who dies before is followed by one who looks again.
            if following.is_empty() {
                next.left_out_looked_at = Some(now);
            }
            let looked = self.look(&mut next, policy, &people, now).await?;
            let mut gathering = Gathering::default();
            for (holdings, effects) in &looked.began {
                count(&mut gathering, rules, &attributes, holdings, effects);
            }
            let came = remembered(&rules.limits, POLICY, &gathering.finish());
            let counted = next.counted.take().unwrap_or_default();
            next.counted = Some(united(counted, came, |before, now| before + now));
            let started = looked.starts.len() as u64;
            let written = self
                .directory
                .move_rollout(&next, None, looked.starts, looked.remainder)
                .await?;
            if !written {
                advance.more = true;
                return Ok(advance);
            }
            advance.started += started;
            row = next;
            people = following;
        }
        Ok(advance)
    }
}

/// Whether it is open who somebody is: then nothing is given to them.
pub(super) fn is_open(holdings: &Holdings) -> bool {
    !holdings.identity.disputes.is_empty()
}

fn place(holdings: &Holdings) -> (i32, String) {
    let identity = &holdings.identity;
    (identity.shard_id, identity.identity_key.clone())
}

fn left_out(
    row: &RolloutRow,
    holdings: &Holdings,
    reason: LeftOutReason,
    about: String,
    now: Timestamp,
) -> LeftOutRow {
    let (shard_id, identity_key) = place(holdings);
    LeftOutRow {
        shard_id,
        identity_key,
        rollout_id: row.rollout_id.clone(),
        reason,
        about,
        attribute: None,
        why: String::new(),
        since: now,
        since_rollout_id: row.rollout_id.clone(),
    }
}
