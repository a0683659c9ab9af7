//! What the log of a system says of uses: who logged in with what, and for how long the log has watched. Pure.
//!
//! A line says that something was used; that nothing was takes a log that has seen every use from one moment to another. So
//! both are taken together: the lines, and what is said of the [log](Log) as a whole.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::check::Coverage;
use super::declare::Declared;
use super::found::Thing;
use super::graph::{Confidence, Edge, NAME_BYTES_MAX, Node, NodeKind, Relation};
use crate::policy::{Problem, Problems};

/// The longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// The most different uses of one log: what is used, and by what.
pub const USES_MAX: usize = 100_000;
/// How a user is called whom a line does not name.
const NOBODY_NAMED: &str = "somebody";

/// Of what a log shows each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// Which account logged in, not with which of its credentials.
    Accounts,
    /// With which credential, too.
    Credentials,
}

/// What is said of a log as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The system whose accounts and credentials its lines name.
    pub system: String,
    /// How it is called in the graph.
    pub source: String,
    /// From when until when it has seen every use.
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// How late a use gets into it, in seconds.
    pub delay_s: u64,
    /// What it does not see, in words. With any it proves no silence.
    pub blind_spots: Vec<String>,
    /// Nobody believes in silence without it.
    pub required: bool,
    pub sees: Sees,
}

impl Log {
    /// Why this cannot be said of a log, and how to mend it.
    #[must_use]
    pub fn mistake(&self, now: DateTime<Utc>) -> Option<(String, &'static str)> {
        let unusable = |text: &str| {
            text.trim().is_empty()
                || text.len() > NAME_BYTES_MAX
                || text.chars().any(char::is_control)
        };
        if unusable(&self.source) {
            return Some((
                "the name of the log is empty, too long, or has control characters".to_owned(),
                "give it a short name, such as `log:warehouse`",
            ));
        }
        if self.blind_spots.iter().any(|spot| unusable(spot)) {
            return Some((
                "a blind spot is empty, too long, or has control characters".to_owned(),
                "say in a few words what the log does not see",
            ));
        }
        if self.until <= self.from {
            return Some((
                format!("it watched until {}, not after {}", self.until, self.from),
                "say from when until when it has seen every use",
            ));
        }
        (self.until > now).then(|| {
            (
                format!("it watched until {}, which is still to come", self.until),
                "say until when the log goes",
            )
        })
    }
}

/// When something was used first and last, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    pub times: u64,
}

/// The uses of a log so far: a bounded summary of however many lines.
#[derive(Debug)]
pub struct Uses<'a> {
    file: &'a str,
    log: &'a Log,
    lines: u64,
    seen: BTreeMap<(Thing, Node), Seen>,
    problems: Problems,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at: DateTime<Utc>,
    account: Option<String>,
    credential: Option<String>,
    by: Option<String>,
}

impl<'a> Uses<'a> {
    #[must_use]
    pub fn new(file: &'a str, log: &'a Log) -> Self {
        Self {
            file,
            log,
            lines: 0,
            seen: BTreeMap::new(),
            problems: Problems::default(),
        }
    }

    /// Takes the next line. False when so much is wrong that no further line is worth reading.
    pub fn take(&mut self, line: &[u8]) -> bool {
        self.lines += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return true;
        }
        if let Err((what, fix)) = self.understand(line) {
            self.problems
                .push(Problem::on_line(self.file, self.lines, what, fix));
        }
        !self.problems.is_full() && self.seen.len() <= USES_MAX
    }

    fn understand(&mut self, line: &[u8]) -> Result<(), (String, &'static str)> {
        const SHAPE: &str =
            r#"write `{"at": "2026-11-03T02:00:00Z", "account": "sync", "by": "10.0.0.7"}`"#;
        if line.len() > LINE_BYTES_MAX {
            let what = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err((what, SHAPE));
        }
        let line: Line = serde_json::from_slice(line)
            .map_err(|error| (format!("the line is no use: {error}"), SHAPE))?;
        let thing = match (line.account, line.credential) {
            (Some(account), None) => Thing::Account(account),
            (None, Some(credential)) => Thing::Credential(credential),
            _ => {
                return Err((
                    "the line has to name either an account or a credential".to_owned(),
                    SHAPE,
                ));
            }
        };
        let by = user(line.by.as_deref().unwrap_or(NOBODY_NAMED))
            .map_err(|what| (what, "say in `by` what used it, in one short line"))?;
        if line.at < self.log.from || line.at > self.log.until {
            return Err((
                format!(
                    "it was used at {}, and the log is said to go from {} until {}",
                    line.at, self.log.from, self.log.until
                ),
                "say from when until when the log really goes",
            ));
        }
        match self.seen.entry((thing, by)) {
            Entry::Vacant(entry) => {
                entry.insert(Seen {
                    first: line.at,
                    last: line.at,
                    times: 1,
                });
            }
            Entry::Occupied(mut entry) => {
                let seen = entry.get_mut();
                seen.first = seen.first.min(line.at);
                seen.last = seen.last.max(line.at);
                seen.times += 1;
            }
        }
        Ok(())
    }

    /// All of it, when nothing is wrong.
    ///
    /// # Errors
    /// The mistakes, each with its line.
    pub fn finish(mut self) -> Result<Summary, Problems> {
        if self.seen.len() > USES_MAX {
            self.problems.push(Problem::on_line(
                self.file,
                self.lines,
                format!("more than {USES_MAX} different uses"),
                "leave out of `by` what differs each time, such as a port, or split the log by time",
            ));
        }
        let (lines, seen) = (self.lines, self.seen);
        self.problems.into_result(|| Summary { lines, seen })
    }
}

/// Who used something: a node as it is written, or else the name of a program or machine.
fn user(text: &str) -> Result<Node, String> {
    let kinds = [NodeKind::Person, NodeKind::Nhi, NodeKind::Consumer];
    let written = text
        .split_once(':')
        .is_some_and(|(kind, _)| kinds.iter().any(|known| known.as_str() == kind));
    let node = match written {
        true => text.to_owned(),
        false => format!("{}:{text}", NodeKind::Consumer.as_str()),
    };
    node.parse()
}

/// What a log said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub lines: u64,
    pub seen: BTreeMap<(Thing, Node), Seen>,
}

/// What follows of a log for the graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    pub edges: Vec<Edge>,
    pub coverage: Vec<Coverage>,
    /// The identities of which something was said.
    pub keys: Vec<String>,
}

impl Summary {
    /// What this says of some of the identities, in any parts: what is not theirs is left out.
    #[must_use]
    pub fn follow<'a>(&self, log: &Log, nhis: impl IntoIterator<Item = &'a Declared>) -> Followed {
        let mut followed = Followed::default();
        for declared in nhis {
            let before = (followed.edges.len(), followed.coverage.len());
            self.follow_one(log, declared, &mut followed);
            if before != (followed.edges.len(), followed.coverage.len()) {
                followed.keys.push(declared.key.clone());
            }
        }
        followed
    }

    fn follow_one(&self, log: &Log, declared: &Declared, followed: &mut Followed) {
        let nhi = Node::nhi(&declared.key);
        let mut edges = Vec::new();
        let (here, elsewhere): (Vec<_>, Vec<_>) = declared
            .accounts
            .iter()
            .partition(|account| account.system == log.system);
        for account in &here {
            let thing = Thing::Account(account.name.clone());
            edges.extend(self.edges(log, &thing, &nhi));
        }
        let logins = edges.len();
        let mut credentials = Vec::new();
        for credential in &declared.credentials {
            if credential.system == log.system {
                let thing = Thing::Credential(credential.id.clone());
                let node = Node::credential(credential.name());
                let uses = self.edges(log, &thing, &node);
                // Whoever proves with its credential uses the identity.
                let of_it: Vec<Edge> = uses
                    .iter()
                    .filter(|edge| edge.from != nhi)
                    .map(|edge| Edge {
                        to: nhi.clone(),
                        ..edge.clone()
                    })
                    .collect();
                edges.extend(uses);
                edges.extend(of_it);
                credentials.push(node);
            }
        }
        let looks = |node: &Node, more: &mut dyn Iterator<Item = String>| Coverage {
            node: node.clone(),
            source: log.source.clone(),
            from: log.from,
            until: log.until,
            delay_s: log.delay_s,
            blind_spots: log.blind_spots.iter().cloned().chain(more).collect(),
            required: log.required,
        };
        if !here.is_empty() {
            let mut others = elsewhere
                .iter()
                .map(|account| format!("its account on {}", account.system));
            followed.coverage.push(looks(&nhi, &mut others));
        }
        // Where nobody logged in at all, nobody did with any of its credentials.
        let silent = !here.is_empty() && logins == 0;
        if log.sees == Sees::Credentials || silent {
            let watched = credentials
                .iter()
                .map(|node| looks(node, &mut std::iter::empty()));
            followed.coverage.extend(watched);
        }
        followed.edges.extend(merged(edges));
    }

    fn edges(&self, log: &Log, thing: &Thing, to: &Node) -> Vec<Edge> {
        let nobody = Node::new(NodeKind::Person, "");
        let from = (thing.clone(), nobody);
        let of_it = self
            .seen
            .range(from..)
            .take_while(|((seen, _), _)| seen == thing);
        of_it
            .filter(|((_, by), _)| by != to)
            .map(|((_, by), seen)| Edge {
                from: by.clone(),
                relation: Relation::Uses,
                to: to.clone(),
                source: log.source.clone(),
                first_seen_at: seen.first,
                last_seen_at: seen.last,
                confidence: Confidence::Observed,
            })
            .collect()
    }

    /// What was used and is nobody's of `known`, the most used first.
    #[must_use]
    pub fn unknown(&self, known: &BTreeSet<Thing>) -> Vec<(Thing, u64)> {
        let mut times: BTreeMap<&Thing, u64> = BTreeMap::new();
        for ((thing, _), seen) in &self.seen {
            if !known.contains(thing) {
                *times.entry(thing).or_default() += seen.times;
            }
        }
        let mut found: Vec<(Thing, u64)> = times
            .into_iter()
            .map(|(thing, times)| (thing.clone(), times))
            .collect();
        found.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        found
    }
}

/// Of edges that differ in their times alone, one over all of the time.
fn merged(edges: Vec<Edge>) -> Vec<Edge> {
    let mut one: BTreeMap<(Node, Node), Edge> = BTreeMap::new();
    for edge in edges {
        match one.entry((edge.to.clone(), edge.from.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(edge);
            }
            Entry::Occupied(mut entry) => {
                let kept = entry.get_mut();
                kept.first_seen_at = kept.first_seen_at.min(edge.first_seen_at);
                kept.last_seen_at = kept.last_seen_at.max(edge.last_seen_at);
            }
        }
    }
    one.into_values().collect()
}

/// The accounts and credentials of an identity on a system, as a log may name them.
pub fn things<'a>(declared: &'a Declared, system: &'a str) -> impl Iterator<Item = Thing> + 'a {
    let accounts = declared.accounts.iter();
    let accounts = accounts.filter(move |account| account.system == system);
    let credentials = declared.credentials.iter();
    let credentials = credentials.filter(move |credential| credential.system == system);
    accounts
        .map(|account| Thing::Account(account.name.clone()))
        .chain(credentials.map(|credential| Thing::Credential(credential.id.clone())))
}

/// What is known of a source's looking after it has said more: two stretches of time that touch are one, and of two with a gap
/// between them the later one counts.
#[must_use]
pub fn joined(before: &Coverage, more: Coverage) -> Coverage {
    let touch = more.from <= before.until && before.from <= more.until;
    if !touch {
        return if more.until > before.until {
            more
        } else {
            before.clone()
        };
    }
    let mut blind_spots = more.blind_spots.clone();
    // A stretch in which something could not be seen stays one in which it could not.
    for spot in &before.blind_spots {
        if more.from > before.from && !blind_spots.contains(spot) {
            blind_spots.push(spot.clone());
        }
    }
    Coverage {
        from: before.from.min(more.from),
        until: before.until.max(more.until),
        delay_s: before.delay_s.max(more.delay_s),
        blind_spots,
        required: more.required,
        ..more
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn at(day: u32, hour: u32) -> DateTime<Utc> {
        format!("2026-11-{day:02}T{hour:02}:00:00Z")
            .parse()
            .unwrap()
    }

    fn log() -> Log {
        Log {
            system: "warehouse".to_owned(),
            source: "log:warehouse".to_owned(),
            from: at(1, 0),
            until: at(20, 0),
            delay_s: 60,
            blind_spots: Vec::new(),
            required: false,
            sees: Sees::Accounts,
        }
    }

    fn declared(accounts: &[(&str, &str)], credentials: &[(&str, &str)]) -> Declared {
        let accounts: Vec<_> = accounts
            .iter()
            .map(|(system, name)| serde_json::json!({ "system": system, "name": name }))
            .collect();
        let credentials: Vec<_> = credentials
            .iter()
            .map(|(system, id)| serde_json::json!({ "system": system, "id": id, "kind": "password" }))
            .collect();
        serde_json::from_value(serde_json::json!({
            "key": "sync", "kind": "service_account", "environment": "production", "purpose": "copies",
            "team": "data", "owner": "ann", "backup": "bob", "review": "2027-01-31",
            "accounts": accounts, "credentials": credentials,
        }))
        .unwrap()
    }

    fn summary(log: &Log, lines: &[&str]) -> Summary {
        let mut uses = Uses::new("access.jsonl", log);
        for line in lines {
            assert!(uses.take(line.as_bytes()));
        }
        uses.finish().unwrap()
    }

    fn refused(line: &[u8]) -> String {
        let log = log();
        let mut uses = Uses::new("access.jsonl", &log);
        uses.take(line);
        uses.finish().unwrap_err().to_string()
    }

    #[test]
    fn many_lines_become_one_use_with_its_first_and_last_moment() {
        let log = log();
        let summary = summary(
            &log,
            &[
                r#"{"at":"2026-11-05T02:00:00Z","account":"sync","by":"10.0.0.7"}"#,
                "",
                r#"{"at":"2026-11-03T02:00:00Z","account":"sync","by":"consumer:10.0.0.7"}"#,
                r#"{"at":"2026-11-04T02:00:00Z","account":"ann"}"#,
            ],
        );
        assert_eq!(summary.lines, 4);
        let of = declared(&[("warehouse", "sync")], &[]);
        let followed = summary.follow(&log, [&of]);
        let [edge] = followed.edges.as_slice() else {
            panic!("{followed:?}");
        };
        assert_eq!(edge.from.to_string(), "consumer:10.0.0.7");
        assert_eq!(edge.to.to_string(), "nhi:sync");
        assert_eq!(
            (edge.first_seen_at, edge.last_seen_at),
            (at(3, 2), at(5, 2))
        );
        assert_eq!(edge.misfit(), None);
        assert_eq!(followed.keys, ["sync"]);
        assert_eq!(followed.coverage.len(), 1);
        let known = things(&of, "warehouse").collect();
        assert_eq!(
            summary.unknown(&known),
            [(Thing::Account("ann".to_owned()), 1)]
        );
    }

    #[test]
    fn a_use_of_a_credential_is_one_of_its_identity() {
        let mut log = log();
        log.sees = Sees::Credentials;
        let line =
            r#"{"at":"2026-11-05T02:00:00Z","credential":"password:sync","by":"cron/billing"}"#;
        let summary = summary(&log, &[line]);
        let of = declared(
            &[],
            &[("warehouse", "password:sync"), ("other", "password:sync")],
        );
        let followed = summary.follow(&log, [&of]);
        let to: Vec<String> = followed
            .edges
            .iter()
            .map(|edge| edge.to.to_string())
            .collect();
        assert_eq!(to, ["nhi:sync", "credential:warehouse/password:sync"]);
        let watched: Vec<String> = followed
            .coverage
            .iter()
            .map(|one| one.node.to_string())
            .collect();
        assert_eq!(watched, ["credential:warehouse/password:sync"]);
    }

    #[test]
    fn a_log_of_one_system_does_not_see_the_accounts_on_others() {
        let log = log();
        let of = declared(
            &[("warehouse", "sync"), ("mail", "sync")],
            &[("warehouse", "password:sync")],
        );
        let followed = summary(&log, &[]).follow(&log, [&of]);
        let [nhi, password] = followed.coverage.as_slice() else {
            panic!("{followed:?}");
        };
        assert_eq!(nhi.blind_spots, ["its account on mail"]);
        assert_eq!(
            password.node.to_string(),
            "credential:warehouse/password:sync"
        );
        // It says which account logged in, not with what: once one did, nothing is known of the password.
        let line = r#"{"at":"2026-11-05T02:00:00Z","account":"sync"}"#;
        let followed = summary(&log, &[line]).follow(&log, [&of]);
        let watched: Vec<String> = followed
            .coverage
            .iter()
            .map(|one| one.node.to_string())
            .collect();
        assert_eq!(watched, ["nhi:sync"]);
    }

    #[test]
    fn one_without_accounts_there_is_not_watched() {
        let log = log();
        let of = declared(&[("mail", "sync")], &[]);
        assert_eq!(summary(&log, &[]).follow(&log, [&of]), Followed::default());
    }

    #[test]
    fn a_wrong_line_is_told_with_its_place() {
        for (line, told) in [
            (
                &b"{\"at\":\"2026-11-05T02:00:00Z\"}"[..],
                "either an account or a credential",
            ),
            (
                b"{\"at\":\"2026-11-05T02:00:00Z\",\"account\":\"a\",\"credential\":\"b\"}",
                "either an account or a credential",
            ),
            (b"{\"at\":\"yesterday\",\"account\":\"a\"}", "no use"),
            (
                b"{\"at\":\"2026-02-30T02:00:00Z\",\"account\":\"a\"}",
                "no use",
            ),
            (
                b"{\"at\":\"2026-11-05T02:00:00Z\",\"user\":\"a\"}",
                "unknown field `user`",
            ),
            (
                b"{\"at\":\"2026-10-05T02:00:00Z\",\"account\":\"a\"}",
                "said to go from",
            ),
            (
                b"{\"at\":\"2026-11-21T02:00:00Z\",\"account\":\"a\"}",
                "said to go from",
            ),
            (
                b"{\"at\":\"2026-11-05T02:00:00Z\",\"account\":\"a\",\"by\":\"person:\"}",
                "no usable name",
            ),
            (
                b"{\"at\":\"2026-11-05T02:00:00Z\",\"account\":\"a\",\"by\":\"a\\u001bb\"}",
                "no usable name",
            ),
            (b"\xff\xfe", "no use"),
            (b"[]", "no use"),
        ] {
            let said = refused(line);
            assert!(
                said.contains(told) && said.contains("`access.jsonl`:1"),
                "{said}"
            );
        }
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert!(refused(&long).contains("longer than"));
    }

    #[test]
    fn a_log_that_cannot_be_is_refused() {
        let now = at(20, 0);
        assert_eq!(log().mistake(now), None);
        let turned = Log {
            until: at(1, 0),
            ..log()
        };
        let to_come = Log {
            until: at(21, 0),
            ..log()
        };
        let nameless = Log {
            source: " ".to_owned(),
            ..log()
        };
        let blind = Log {
            blind_spots: vec!["a\nb".to_owned()],
            ..log()
        };
        for wrong in [turned, to_come, nameless, blind] {
            assert!(wrong.mistake(now).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn stretches_that_touch_are_one_and_a_gap_is_none() {
        let looks = |from: u32, until: u32, blind: &[&str]| Coverage {
            node: Node::nhi("sync"),
            source: "log".to_owned(),
            from: at(from, 0),
            until: at(until, 0),
            delay_s: 0,
            blind_spots: blind.iter().map(|spot| (*spot).to_owned()).collect(),
            required: false,
        };
        let known = looks(5, 10, &[]);
        assert_eq!(joined(&known, looks(10, 15, &[])), looks(5, 15, &[]));
        assert_eq!(joined(&known, looks(1, 6, &[])), looks(1, 10, &[]));
        assert_eq!(joined(&known, looks(11, 15, &[])), looks(11, 15, &[]));
        assert_eq!(joined(&known, looks(1, 4, &[])), known);
        let blind = looks(5, 10, &["copies"]);
        assert_eq!(
            joined(&blind, looks(10, 15, &[])),
            looks(5, 15, &["copies"])
        );
        // Said anew over all of the time, without it: it was mistaken before.
        assert_eq!(joined(&blind, looks(5, 15, &[])), looks(5, 15, &[]));
    }
}
