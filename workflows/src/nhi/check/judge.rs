//! The verdicts, one question at a time.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::coverage::silence;
use super::{CredentialFacts, Finding, Intent, NhiFacts, Reason, Snapshot, Verdict};
use crate::nhi::graph::{Confidence, Graph, Node, NodeKind, Relation, ordered};

/// Who answers for a node when the subject of the question does not.
pub(super) fn answers_for(snapshot: &Snapshot, node: &Node) -> Option<Node> {
    Judge::new(snapshot).answers_for(node, &snapshot.question.subject)
}

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut judge = Judge::new(snapshot);
    let subject = &snapshot.question.subject;
    match snapshot.question.intent {
        Intent::Leave => judge.leaves(subject),
        Intent::Disable | Intent::Delete => judge.ends(subject),
        Intent::Rotate => judge.rotates(subject),
    }
    judge.limit_critical();
    judge.in_order()
}

/// Whether anything uses a thing.
enum Use {
    By(BTreeMap<Node, DateTime<Utc>>),
    /// For this many days at least.
    Nobody(i64),
    /// It is out of use by intent: since when it may be removed, and whether that is over.
    Quiet {
        until: DateTime<Utc>,
        over: bool,
    },
    Unclear(BTreeSet<Reason>),
}

struct Judge<'a> {
    snapshot: &'a Snapshot,
    graph: Graph<'a>,
    credentials_of: BTreeMap<&'a Node, BTreeSet<&'a Node>>,
    found: BTreeMap<Node, Finding>,
}

/// The credentials of each owner, whether its record or an edge says so.
fn credentials_of(snapshot: &Snapshot) -> BTreeMap<&Node, BTreeSet<&Node>> {
    let mut credentials: BTreeMap<&Node, BTreeSet<&Node>> = BTreeMap::new();
    for (node, facts) in &snapshot.credentials {
        if let Some(of) = &facts.of {
            credentials.entry(of).or_default().insert(node);
        }
    }
    for edge in &snapshot.edges {
        if edge.relation == Relation::Owns
            && edge.from.kind == NodeKind::Nhi
            && edge.to.kind == NodeKind::Credential
        {
            credentials.entry(&edge.from).or_default().insert(&edge.to);
        }
    }
    credentials
}

impl<'a> Judge<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            graph: Graph::new(&snapshot.edges),
            credentials_of: credentials_of(snapshot),
            found: BTreeMap::new(),
        }
    }

    // --- a person leaves ---------------------------------------------------------------------------------

    fn leaves(&mut self, person: &'a Node) {
        let owned: BTreeSet<&Node> = self
            .graph
            .outward(person, Relation::Owns)
            .map(|edge| &edge.to)
            .chain(self.named_by(person))
            .collect();
        for node in owned {
            self.owned(node, person);
        }

        let mut known = BTreeSet::new();
        for edge in self.graph.outward(person, Relation::Knows) {
            match edge.to.kind {
                NodeKind::Credential => drop(known.insert(&edge.to)),
                _ => known.extend(self.credentials(&edge.to)),
            }
        }
        for credential in known {
            // One's own ends anyway.
            if self.holder(credential) != Some(person) {
                self.known(credential);
            }
        }

        let personal: BTreeSet<&Node> = self.credentials(person).collect();
        for credential in &personal {
            self.personal(credential);
        }
        for start in std::iter::once(person).chain(personal.iter().copied()) {
            for child in self.graph.reached(start, &[Relation::Minted]) {
                if !personal.contains(child) {
                    self.minted(child, start);
                }
            }
        }
        // What somebody made ends with what they made it with, so it has to be seen to before.
        for credential in personal {
            let children: BTreeSet<Node> = self.live_children(credential);
            self.needs(credential, children);
        }
    }

    /// Those whose record names the person.
    fn named_by(&self, person: &Node) -> Vec<&'a Node> {
        let names = |facts: &NhiFacts| {
            [&facts.owner, &facts.backup]
                .into_iter()
                .flatten()
                .any(|key| *key == person.name)
        };
        let nhis = self.snapshot.nhis.iter();
        nhis.filter(|(_, facts)| person.kind == NodeKind::Person && names(facts))
            .map(|(node, _)| node)
            .collect()
    }

    fn owned(&mut self, node: &Node, person: &Node) {
        let mut reasons = BTreeSet::from([Reason::Owned]);
        if self.nhi(node).is_some_and(|facts| facts.break_glass) {
            reasons.insert(Reason::BreakGlass);
        }
        match self.answers_for(node, person) {
            Some(to) => {
                let mut finding = self.finding(node, Verdict::Reassign, reasons);
                finding.to = Some(to);
                self.add(finding);
            }
            None => {
                reasons.insert(Reason::NobodyLeft);
                let finding = self.finding(node, Verdict::Block, reasons);
                self.add(finding);
            }
        }
    }

    /// The subject has seen the secret.
    fn known(&mut self, credential: &Node) {
        let mut reasons = BTreeSet::from([Reason::Known]);
        let facts = self.credential(credential);
        let (replaceable, reversible) = (
            facts.is_some_and(|facts| facts.replaceable),
            facts.is_some_and(|facts| facts.reversible),
        );
        if facts.is_none() {
            reasons.insert(Reason::Unknown);
        }
        let used = self.used(credential);
        if replaceable {
            let users = used.by(&mut reasons);
            let mut finding = self.finding(credential, Verdict::RotateFirst, reasons);
            if self.hostile() {
                finding.breaks = users;
            }
            self.add(finding);
            let children = self.live_children(credential);
            for child in &children {
                self.minted(child, credential);
            }
            self.needs(credential, children);
            return;
        }
        reasons.insert(Reason::NotReplaceable);
        let verdict = used.verdict(reversible, &mut reasons);
        self.add_ending(credential, verdict, reasons, &used);
    }

    /// It is of the person, and ends with them.
    fn personal(&mut self, credential: &Node) {
        let mut reasons = BTreeSet::from([Reason::Personal]);
        let reversible = self
            .credential(credential)
            .is_some_and(|facts| facts.reversible);
        let used = self.used(credential);
        let verdict = match &used {
            Use::By(_) if !self.hostile() => {
                used.by(&mut reasons);
                Verdict::Rebind
            }
            _ => used.verdict(reversible, &mut reasons),
        };
        self.add_ending(credential, verdict, reasons, &used);
    }

    /// It exists by right of something that ends.
    fn minted(&mut self, child: &Node, by: &Node) {
        let mut reasons = BTreeSet::from([Reason::Minted { by: by.clone() }]);
        if self.unknown(child) {
            reasons.insert(Reason::Unknown);
        }
        let used = self.used(child);
        let verdict = match &used {
            Use::By(_) => {
                used.by(&mut reasons);
                Verdict::Rebind
            }
            _ => used.verdict(self.reversible(child), &mut reasons),
        };
        let mut finding = self.finding(child, verdict, reasons);
        if self.hostile() && verdict == Verdict::Rebind {
            finding.breaks = used.users();
        }
        self.add(finding);
        let children = self.live_children(child);
        self.needs(child, children);
    }

    // --- a non-human identity or a credential ends ---------------------------------------------------------

    fn ends(&mut self, node: &'a Node) {
        let mut reasons = BTreeSet::from([Reason::Asked]);
        let starts: Vec<&Node> = std::iter::once(node)
            .chain(self.credentials(node))
            .collect();
        let mut children = BTreeSet::new();
        for start in &starts {
            for child in self.graph.reached(start, &[Relation::Minted]) {
                if !starts.contains(&child) {
                    self.minted(child, start);
                }
            }
            children.extend(self.live_children(start));
        }
        let used = self.used(node);
        let verdict = self.ending(node, &used, &mut reasons);
        self.add_ending(node, verdict, reasons, &used);
        for start in starts {
            children.remove(start);
        }
        self.needs(node, children);
    }

    fn ending(&self, node: &Node, used: &Use, reasons: &mut BTreeSet<Reason>) -> Verdict {
        if self.unknown(node) {
            reasons.insert(Reason::Unknown);
            used.verdict(false, reasons);
            return self.unless_hostile(Verdict::InsufficientEvidence);
        }
        if self.nhi(node).is_some_and(|facts| facts.break_glass) {
            reasons.insert(Reason::BreakGlass);
            used.by(reasons);
            return self.unless_hostile(Verdict::Block);
        }
        let reversible = self.reversible(node);
        let verdict = used.verdict(reversible, reasons);
        let deletes = self.snapshot.question.intent == Intent::Delete;
        if deletes && verdict == Verdict::Proceed && matches!(used, Use::Nobody(_)) {
            if reversible {
                // Silence is believed, and still the watch comes before what cannot be taken back.
                return self.unless_hostile(Verdict::SoftDisable);
            }
            reasons.insert(Reason::NotReversible);
        }
        verdict
    }

    // --- a secret is replaced --------------------------------------------------------------------------------

    fn rotates(&mut self, node: &'a Node) {
        let credentials: Vec<&Node> = match node.kind {
            NodeKind::Credential => vec![node],
            _ => self.credentials(node).collect(),
        };
        if credentials.is_empty() {
            let reasons = BTreeSet::from([Reason::Asked, Reason::Unknown]);
            let finding = self.finding(node, Verdict::InsufficientEvidence, reasons);
            self.add(finding);
        }
        for credential in credentials {
            self.rotate(credential);
        }
    }

    fn rotate(&mut self, credential: &Node) {
        let mut reasons = BTreeSet::from([Reason::Asked]);
        let facts = self.credential(credential);
        let used = self.used(credential);
        let verdict = match facts {
            None => {
                reasons.insert(Reason::Unknown);
                Verdict::InsufficientEvidence
            }
            Some(facts) if !facts.replaceable => {
                reasons.insert(Reason::NotReplaceable);
                Verdict::Block
            }
            // Who has to take up the new one is not known; the old one is watched before it goes, if it can be put back.
            Some(facts) => match used.verdict(facts.reversible, &mut reasons) {
                Verdict::InsufficientEvidence => self.unless_hostile(Verdict::InsufficientEvidence),
                _ => Verdict::Proceed,
            },
        };
        used.by(&mut reasons);
        let mut finding = self.finding(credential, verdict, reasons);
        if self.hostile() {
            finding.breaks = used.users();
        }
        self.add(finding);
        for child in self.graph.reached(credential, &[Relation::Minted]) {
            self.minted(child, credential);
        }
        let children = self.live_children(credential);
        self.needs(credential, children);
    }

    // --- what is known -----------------------------------------------------------------------------------------

    fn hostile(&self) -> bool {
        self.snapshot.question.hostile
    }

    fn unless_hostile(&self, verdict: Verdict) -> Verdict {
        if self.hostile() {
            Verdict::Proceed
        } else {
            verdict
        }
    }

    fn within(&self, seconds: u64) -> DateTime<Utc> {
        let now = self.snapshot.at;
        if self.hostile() {
            return now;
        }
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        TimeDelta::try_seconds(seconds)
            .and_then(|delta| now.checked_add_signed(delta))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn credential(&self, node: &Node) -> Option<&'a CredentialFacts> {
        self.snapshot.credentials.get(node)
    }

    /// The non-human identity that a node is, or belongs to.
    fn nhi(&self, node: &Node) -> Option<&'a NhiFacts> {
        let nhis = &self.snapshot.nhis;
        nhis.get(node).or_else(|| nhis.get(self.holder(node)?))
    }

    /// Whose a credential is.
    fn holder(&self, credential: &Node) -> Option<&'a Node> {
        let recorded = self
            .credential(credential)
            .and_then(|facts| facts.of.as_ref());
        recorded.or_else(|| {
            let mut owners = self.graph.inward(credential, Relation::Owns);
            owners
                .find(|edge| edge.from.kind == NodeKind::Nhi)
                .map(|edge| &edge.from)
        })
    }

    fn credentials(&self, of: &Node) -> impl Iterator<Item = &'a Node> + use<'a> {
        let credentials = self.credentials_of.get(of).cloned().unwrap_or_default();
        credentials.into_iter()
    }

    fn unknown(&self, node: &Node) -> bool {
        !self.snapshot.nhis.contains_key(node) && !self.snapshot.credentials.contains_key(node)
    }

    fn reversible(&self, node: &Node) -> bool {
        match (self.snapshot.nhis.get(node), self.credential(node)) {
            (Some(nhi), _) => nhi.restore_s.is_some(),
            (None, Some(credential)) => credential.reversible,
            (None, None) => false,
        }
    }

    /// Who answers for a node, when `gone` does not: a person who is there, or a team.
    fn answers_for(&self, node: &Node, gone: &Node) -> Option<Node> {
        let facts = self.nhi(node)?;
        let person = [&facts.owner, &facts.backup]
            .into_iter()
            .flatten()
            .find(|key| {
                self.snapshot.present.contains(*key) && *gone != Node::person(key.as_str())
            });
        let team = facts.team.as_ref();
        person
            .map(Node::person)
            .or_else(|| team.map(|team| Node::new(NodeKind::Team, team)))
    }

    /// Whether anything but the subject uses it, or one of its credentials.
    fn used(&self, node: &Node) -> Use {
        let (snapshot, now) = (self.snapshot, self.snapshot.at);
        let window = snapshot.rules.window(self.nhi(node));
        let stale = window.max(TimeDelta::days(i64::from(snapshot.rules.stale_days)));
        let quiet_since = self
            .snapshot
            .nhis
            .get(node)
            .and_then(|facts| facts.quiet_since)
            .or_else(|| self.credential(node).and_then(|facts| facts.quiet_since));
        let mut live: BTreeMap<Node, DateTime<Utc>> = BTreeMap::new();
        let mut once = BTreeSet::new();
        let nodes: Vec<&Node> = std::iter::once(node)
            .chain(self.credentials(node))
            .collect();
        for edge in nodes
            .iter()
            .flat_map(|node| self.graph.inward(node, Relation::Uses))
        {
            if edge.from == snapshot.question.subject || nodes.contains(&&edge.from) {
                continue;
            }
            let (by, seen) = (edge.from.clone(), edge.last_seen_at);
            // What was seen before a thing was put out of use says nothing about whether it is missed since.
            let counts = match (quiet_since, edge.confidence) {
                (Some(since), _) => seen > since,
                (None, Confidence::Observed) => now - seen <= stale,
                (None, Confidence::Declared | Confidence::Configured) => true,
            };
            if counts {
                let last = live.entry(by).or_insert(seen);
                *last = seen.max(*last);
            } else {
                once.insert(Reason::UsedOnce { by, seen });
            }
        }
        if !live.is_empty() {
            return Use::By(live);
        }
        if let Some(since) = quiet_since {
            let soak = i64::try_from(snapshot.rules.soak_s).unwrap_or(i64::MAX);
            let soak = TimeDelta::try_seconds(soak).unwrap_or(TimeDelta::MAX);
            let until = since
                .checked_add_signed(soak)
                .unwrap_or(DateTime::<Utc>::MAX_UTC);
            return Use::Quiet {
                until,
                over: until <= now,
            };
        }
        // A thing is as well watched as the worst watched of the ways to use it.
        let mut days = i64::MAX;
        for node in &nodes {
            if nodes.len() > 1 && node.kind == NodeKind::Nhi && !self.looked_at(node) {
                continue;
            }
            match silence(node, &snapshot.coverage, now, window) {
                Ok(watched) => days = days.min(watched),
                Err(gaps) => {
                    once.extend(gaps.into_iter().map(|gap| Reason::NotCovered { gap }));
                    return Use::Unclear(once);
                }
            }
        }
        Use::Nobody(days)
    }

    /// Whether any source looks at this very node, and not at its credentials.
    fn looked_at(&self, node: &Node) -> bool {
        self.snapshot
            .coverage
            .iter()
            .any(|looks| looks.node == *node)
    }

    /// What was made by `node`, or by what it made, and is in use: it may end with it.
    fn live_children(&self, node: &Node) -> BTreeSet<Node> {
        let reached = self.graph.reached(node, &[Relation::Minted]);
        let live = reached
            .into_iter()
            .filter(|child| matches!(self.used(child), Use::By(_)));
        live.cloned().collect()
    }

    // --- what is found -----------------------------------------------------------------------------------------

    /// By when, and whom, follows from the verdict.
    fn finding(&self, node: &Node, verdict: Verdict, reasons: BTreeSet<Reason>) -> Finding {
        let rules = &self.snapshot.rules;
        let (within_s, asks) = match verdict {
            Verdict::Block | Verdict::InsufficientEvidence => (Some(rules.decide_within_s), true),
            Verdict::Rebind => (Some(rules.rotate_within_s), true),
            Verdict::RotateFirst => (Some(rules.rotate_within_s), false),
            Verdict::SoftDisable => (Some(rules.soak_s), false),
            Verdict::Proceed | Verdict::Reassign => (None, false),
        };
        let subject = &self.snapshot.question.subject;
        Finding {
            node: node.clone(),
            verdict,
            reasons,
            to: asks.then(|| self.answers_for(node, subject)).flatten(),
            needs: BTreeSet::new(),
            deadline: within_s.map(|within_s| self.within(within_s)),
            breaks: BTreeSet::new(),
        }
    }

    /// Adds what ends, and who is asked or what breaks by it.
    fn add_ending(&mut self, node: &Node, verdict: Verdict, reasons: BTreeSet<Reason>, used: &Use) {
        let hostile = self.hostile();
        let verdict = if hostile && (verdict.stops() || verdict == Verdict::SoftDisable) {
            Verdict::Proceed
        } else {
            verdict
        };
        let mut finding = self.finding(node, verdict, reasons);
        if let (Verdict::SoftDisable, Use::Quiet { until, .. }) = (verdict, used) {
            finding.deadline = Some(*until);
        }
        if hostile {
            finding.breaks = used.users();
        }
        self.add(finding);
    }

    /// Two findings about one thing are one: the weightier verdict, and all that was said.
    fn add(&mut self, finding: Finding) {
        let Some(known) = self.found.get_mut(&finding.node) else {
            self.found.insert(finding.node.clone(), finding);
            return;
        };
        let (mut more, less) = if weight(finding.verdict) > weight(known.verdict) {
            (finding, known.clone())
        } else {
            (known.clone(), finding)
        };
        more.reasons.extend(less.reasons);
        more.needs.extend(less.needs);
        more.breaks.extend(less.breaks);
        more.to = more.to.or(less.to);
        more.deadline = [more.deadline, less.deadline].into_iter().flatten().min();
        *known = more;
    }

    fn needs(&mut self, node: &Node, before: BTreeSet<Node>) {
        if let Some(finding) = self.found.get_mut(node) {
            finding.needs.extend(before);
        }
    }

    /// One question changes no more critical things than the rules allow; a person looks at the rest.
    fn limit_critical(&mut self) {
        if self.hostile() {
            return;
        }
        let most = self.snapshot.rules.critical_max;
        let changing: Vec<Node> = self
            .found
            .values()
            .filter(|finding| {
                !finding.verdict.stops()
                    && finding.verdict != Verdict::Reassign
                    && self.nhi(&finding.node).is_some_and(|facts| facts.critical)
            })
            .map(|finding| finding.node.clone())
            .collect();
        let critical = changing.len();
        for node in changing.into_iter().skip(most) {
            let reason = Reason::TooMany { critical, most };
            self.stop(&node, reason);
        }
    }

    fn stop(&mut self, node: &Node, reason: Reason) {
        let subject = &self.snapshot.question.subject;
        let (to, deadline) = (
            self.answers_for(node, subject),
            self.within(self.snapshot.rules.decide_within_s),
        );
        if let Some(finding) = self.found.get_mut(node) {
            finding.verdict = Verdict::Block;
            finding.reasons.insert(reason);
            finding.to = finding.to.take().or(to);
            finding.deadline = [finding.deadline, Some(deadline)]
                .into_iter()
                .flatten()
                .min();
        }
    }

    /// Each after what it needs. What needs itself over others is for a person to untie.
    fn in_order(mut self) -> Vec<Finding> {
        let needs: BTreeMap<Node, BTreeSet<Node>> = self
            .found
            .iter()
            .map(|(node, finding)| (node.clone(), finding.needs.clone()))
            .collect();
        let (mut order, stuck) = ordered(&needs);
        for node in &stuck {
            let with = stuck
                .iter()
                .filter(|other| *other != node)
                .cloned()
                .collect();
            if !self.hostile() {
                self.stop(node, Reason::Cycle { with });
            }
        }
        order.extend(stuck);
        order
            .iter()
            .filter_map(|node| self.found.remove(node))
            .collect()
    }
}

impl Use {
    /// What ends when this is all that is known: nothing holds it, or somebody has to look.
    fn verdict(&self, reversible: bool, reasons: &mut BTreeSet<Reason>) -> Verdict {
        match self {
            Self::By(_) => {
                self.by(reasons);
                Verdict::Block
            }
            Self::Nobody(days) => {
                reasons.insert(Reason::Unused { days: *days });
                Verdict::Proceed
            }
            Self::Quiet { until, over: false } => {
                reasons.insert(Reason::Soaking { until: *until });
                Verdict::SoftDisable
            }
            Self::Quiet { over: true, .. } => {
                reasons.insert(Reason::Soaked);
                Verdict::Proceed
            }
            Self::Unclear(why) => {
                reasons.extend(why.iter().cloned());
                if reversible {
                    Verdict::SoftDisable
                } else {
                    reasons.insert(Reason::NotReversible);
                    Verdict::InsufficientEvidence
                }
            }
        }
    }

    /// Adds who uses it, and gives their names.
    fn by(&self, reasons: &mut BTreeSet<Reason>) -> BTreeSet<Node> {
        if let Self::By(users) = self {
            let told = users.iter().map(|(by, seen)| Reason::InUse {
                by: by.clone(),
                seen: *seen,
            });
            reasons.extend(told);
        }
        self.users()
    }

    fn users(&self) -> BTreeSet<Node> {
        match self {
            Self::By(users) => users.keys().cloned().collect(),
            _ => BTreeSet::new(),
        }
    }
}

/// Which of two verdicts about one thing stands. What is bound anew gets a new secret by it.
fn weight(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Proceed => 0,
        Verdict::Reassign => 1,
        Verdict::SoftDisable => 2,
        Verdict::RotateFirst => 3,
        Verdict::Rebind => 4,
        Verdict::InsufficientEvidence => 5,
        Verdict::Block => 6,
    }
}
