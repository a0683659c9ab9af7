//! The table of docs/dependency-checks.md: each row is a small world, a question, and the whole answer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::coverage::Gap;
use super::*;
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::testbed::page_is;

/// What happens, the world (one fact a line), and what is found: one line a thing, in order.
struct Row {
    what: &'static str,
    world: &'static str,
    found: &'static str,
}

const fn row(what: &'static str, world: &'static str, found: &'static str) -> Row {
    Row { what, world, found }
}

/// The words of a world. Times are days before the question; `sync` is `nhi:sync`, `#db` is `credential:db`, `@cron` is
/// `consumer:cron`; ann and bob are people.
///
/// ```text
/// leave ann | leave! ann (hostile) | disable sync | delete sync | rotate #db
/// here bob
/// nhi sync owner=ann backup=bob team=data restore quiet=9 idle=30 critical breakglass yearly
/// key #db of=sync new (can be replaced) back (can be put back) quiet=2
/// ann owns sync / ann knows #db / #pat minted #deploy
/// @cron uses #db 3 (observed 3 days ago) | @cron uses #db (declared)
/// #db seen by=log 100..0 | blind=copies | required
/// ```
const ROWS: [Row; 41] = [
    row(
        "an owner leaves, the backup is there",
        "leave ann; here bob; nhi sync owner=ann backup=bob team=data",
        "sync reassign to bob: owned",
    ),
    row(
        "an owner leaves, the backup has left, there is a team",
        "leave ann; nhi sync owner=ann backup=bob team=data",
        "sync reassign to team:data: owned",
    ),
    row(
        "the backup leaves: whoever owns it has to name another",
        "leave bob; here ann; nhi sync owner=ann backup=bob",
        "sync reassign to ann: owned",
    ),
    row(
        "an owner leaves, and nobody is left",
        "leave ann; nhi sync owner=ann",
        "sync block by +1d: owned, nobody left",
    ),
    row(
        "ownership known from an edge alone, of something nobody declared",
        "leave ann; here bob; ann owns sync",
        "sync block by +1d: owned, nobody left",
    ),
    row(
        "a leaver knew the secret of something they do not own",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync new; ann knows #db; @cron uses #db 1",
        "#db rotate_first by +1d: known, used by @cron",
    ),
    row(
        "a leaver owned it and knew its secret: both",
        "leave ann; here bob; nhi sync owner=ann backup=bob; key #db of=sync new; ann knows #db; @cron uses #db",
        "sync reassign to bob: owned; #db rotate_first by +1d: known, used by @cron",
    ),
    row(
        "a leaver knew the identity as a whole: each of its secrets",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync new; key #api of=sync new; ann knows sync",
        "#api rotate_first by +1d: known; #db rotate_first by +1d: known",
    ),
    row(
        "a known secret that nothing can replace, in use",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync; ann knows #db; @cron uses #db 1",
        "#db block to bob by +1d: known, used by @cron, not replaceable",
    ),
    row(
        "a known secret that nothing can replace, and nothing uses",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync; ann knows #db; #db seen by=log 120..0",
        "#db proceed: known, unused for 90 days, not replaceable",
    ),
    row(
        "a known secret that nothing can replace, and nobody watches",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync; ann knows #db",
        "#db insufficient_evidence to bob by +1d: known, nobody looks, not replaceable, not reversible",
    ),
    row(
        "the same, but it can be put back: it is put out of use and watched",
        "leave ann; here bob; nhi sync owner=bob; key #db of=sync back; ann knows #db",
        "#db soft_disable by +7d: known, nobody looks, not replaceable",
    ),
    row(
        "a secret that is known, and of which nothing is known",
        "leave ann; ann knows #db",
        "#db insufficient_evidence by +1d: known, nobody looks, not replaceable, not reversible, unknown",
    ),
    row(
        "a personal token that only its owner used",
        "leave ann; key #pat of=ann; ann uses #pat 1; #pat seen by=log 200..0",
        "#pat proceed: personal, unused for 90 days",
    ),
    row(
        "a personal token that production uses",
        "leave ann; key #pat of=ann; @build uses #pat 1",
        "#pat rebind by +1d: personal, used by @build",
    ),
    row(
        "a deploy key that was made with a personal token, in use: first the child",
        "leave ann; here bob; nhi ci owner=bob; key #pat of=ann; key #deploy of=ci; #pat minted #deploy; @build uses #deploy 1; #pat seen by=log 200..0",
        "#deploy rebind to bob by +1d: minted by #pat, used by @build; #pat proceed after #deploy: personal, unused for 90 days",
    ),
    row(
        "a deploy key that was made with a personal token, unused",
        "leave ann; here bob; nhi ci owner=bob; key #pat of=ann; key #deploy of=ci; #pat minted #deploy; #pat seen by=log 200..0; #deploy seen by=log 200..0",
        "#deploy proceed: minted by #pat, unused for 90 days; #pat proceed: personal, unused for 90 days",
    ),
    row(
        "a child of a child",
        "leave ann; here bob; nhi ci owner=bob; key #pat of=ann; key #app of=ci back; key #hook of=ci; #pat minted #app; #app minted #hook; @site uses #hook 2; #pat seen by=log 200..0",
        "#hook rebind to bob by +1d: minted by #pat, used by @site; #app soft_disable after #hook by +7d: minted by #pat, nobody looks; #pat proceed after #hook: personal, unused for 90 days",
    ),
    row(
        "two keys that made each other: a person has to untie them",
        "leave ann; here bob; nhi ci owner=bob; ann minted #a; key #a of=ci; key #b of=ci; #a minted #b; #b minted #a; @x uses #a 1; @y uses #b 1",
        "#a block to bob after #b by +1d: minted by ann, used by @x, cycle; #b block to bob after #a by +1d: minted by ann, used by @y, cycle",
    ),
    row(
        "a hostile leaver: at once, and what breaks is listed",
        "leave! ann; here bob; nhi sync owner=ann backup=bob; key #db of=sync new; key #pat of=ann; ann knows #db; @cron uses #db 1; @build uses #pat 1",
        "sync reassign to bob: owned; #db rotate_first by +0d, breaks @cron: known, used by @cron; #pat proceed, breaks @build: personal, used by @build",
    ),
    row(
        "a hostile leaver, and nobody knows who uses what they knew",
        "leave! ann; here bob; nhi sync owner=bob; key #db of=sync; ann knows #db",
        "#db proceed: known, nobody looks, not replaceable, not reversible",
    ),
    row(
        "unused, fully watched: it may be put out of use",
        "disable sync; nhi sync owner=bob; sync seen by=log 100..0",
        "sync proceed: asked, unused for 90 days",
    ),
    row(
        "in use: somebody decides",
        "disable sync; here bob; nhi sync owner=bob restore; key #db of=sync; @cron uses #db 1",
        "sync block to bob by +1d: asked, used by @cron",
    ),
    row(
        "a declared use counts for as long as it is declared",
        "disable sync; here bob; nhi sync owner=bob; sync seen by=log 100..0; @cron uses sync",
        "sync block to bob by +1d: asked, used by @cron",
    ),
    row(
        "a use that was seen too long ago is none, but it tells what to look for",
        "disable sync; nhi sync owner=bob restore; @cron uses sync 200",
        "sync soft_disable by +7d: asked, once used by @cron, nobody looks",
    ),
    row(
        "watched for too short a time",
        "disable sync; here bob; nhi sync owner=bob; sync seen by=log 30..0",
        "sync insufficient_evidence to bob by +1d: asked, log watched 30 of 90 days, not reversible",
    ),
    row(
        "a source with a blind spot proves no silence",
        "disable sync; here bob; nhi sync owner=bob; sync seen by=scan 400..0 blind=copies",
        "sync insufficient_evidence to bob by +1d: asked, scan does not see copies, not reversible",
    ),
    row(
        "one with a blind spot beside one that sees all",
        "disable sync; nhi sync owner=bob; sync seen by=scan 400..0 blind=copies; sync seen by=log 100..0",
        "sync proceed: asked, unused for 90 days",
    ),
    row(
        "the one that has to look has not looked lately",
        "disable sync; here bob; nhi sync owner=bob restore; sync seen by=log 400..20 required; sync seen by=scan 400..0",
        "sync soft_disable by +7d: asked, log is stale",
    ),
    row(
        "a job that runs once a quarter has to be watched for longer than that",
        "disable sync; nhi sync owner=bob restore idle=92; sync seen by=log 100..0",
        "sync soft_disable by +7d: asked, log watched 100 of 110 days",
    ),
    row(
        "a job of the end of the year, last seen eleven months ago, is in use",
        "disable sync; here bob; nhi sync owner=bob restore yearly; @closing uses sync 330; sync seen by=log 500..0",
        "sync block to bob by +1d: asked, used by @closing",
    ),
    row(
        "nothing is removed that was not out of use before",
        "delete sync; nhi sync owner=bob restore; sync seen by=log 100..0",
        "sync soft_disable by +7d: asked, unused for 90 days",
    ),
    row(
        "out of use, and the watch goes on",
        "delete sync; nhi sync owner=bob restore quiet=3",
        "sync soft_disable by +4d: asked, watch goes on",
    ),
    row(
        "out of use for long enough, and nothing missed it",
        "delete sync; nhi sync owner=bob restore quiet=8; @cron uses sync 20",
        "sync proceed: asked, nothing missed it",
    ),
    row(
        "out of use, and something tried to use it",
        "delete sync; here bob; nhi sync owner=bob restore quiet=8; @cron uses sync 2",
        "sync block to bob by +1d: asked, used by @cron",
    ),
    row(
        "the way in when everything else fails",
        "disable root; here bob; nhi root owner=bob breakglass restore; root seen by=log 500..0",
        "root block to bob by +1d: asked, break glass",
    ),
    row(
        "a secret is replaced while it is in use",
        "rotate #db; nhi sync owner=bob; key #db of=sync new; @cron uses #db 1",
        "#db proceed: asked, used by @cron",
    ),
    row(
        "a secret is replaced, and nobody knows who has to take up the new one",
        "rotate #db; here bob; nhi sync owner=bob; key #db of=sync new",
        "#db insufficient_evidence to bob by +1d: asked, nobody looks, not reversible",
    ),
    row(
        "the same, but the old one can be put back: it is watched before it goes",
        "rotate sync; nhi sync owner=bob; key #db of=sync new back",
        "#db proceed: asked, nobody looks",
    ),
    row(
        "a secret that strangers know is replaced at once",
        "rotate! #db; nhi sync owner=bob; key #db of=sync new; @cron uses #db 1",
        "#db proceed, breaks @cron: asked, used by @cron",
    ),
    row(
        "more critical things than may change at once",
        "leave ann; here bob; nhi c1 owner=bob critical; nhi c2 owner=bob critical; nhi c3 owner=bob critical; \
         key #k1 of=c1 new; key #k2 of=c2 new; key #k3 of=c3 new; ann knows #k1; ann knows #k2; ann knows #k3",
        "#k1 rotate_first by +1d: known; #k2 rotate_first by +1d: known; \
         #k3 block to bob by +1d: known, 3 critical of at most 2",
    ),
];

// --- a world from its words ---------------------------------------------------------------------------------

fn now() -> DateTime<Utc> {
    "2026-03-02T08:00:00Z".parse().unwrap()
}

fn days(days: &str) -> TimeDelta {
    TimeDelta::days(days.parse().unwrap())
}

fn node(word: &str) -> Node {
    if let Some(name) = word.strip_prefix('#') {
        return Node::credential(name);
    }
    if let Some(name) = word.strip_prefix('@') {
        return Node::new(NodeKind::Consumer, name);
    }
    match word {
        "ann" | "bob" => Node::person(word),
        _ => Node::nhi(word),
    }
}

fn written(node: &Node) -> String {
    match node.kind {
        NodeKind::Credential => format!("#{}", node.name),
        NodeKind::Consumer => format!("@{}", node.name),
        NodeKind::Team => node.to_string(),
        _ => node.name.clone(),
    }
}

fn world(text: &str) -> Snapshot {
    let mut facts = text.split(';').map(str::trim);
    let (intent, subject) = facts.next().unwrap().split_once(' ').unwrap();
    let mut snapshot = Snapshot {
        question: Question {
            subject: node(subject),
            intent: match intent.trim_end_matches('!') {
                "leave" => Intent::Leave,
                "disable" => Intent::Disable,
                "delete" => Intent::Delete,
                "rotate" => Intent::Rotate,
                other => panic!("{other}"),
            },
            hostile: intent.ends_with('!'),
        },
        at: now(),
        rules: Rules {
            critical_max: 2,
            ..Rules::default()
        },
        present: BTreeSet::new(),
        nhis: BTreeMap::new(),
        credentials: BTreeMap::new(),
        edges: Vec::new(),
        coverage: Vec::new(),
    };
    for fact in facts {
        let words: Vec<&str> = fact.split_whitespace().collect();
        match words.as_slice() {
            ["here", person] => drop(snapshot.present.insert((*person).into())),
            ["nhi", name, rest @ ..] => {
                drop(snapshot.nhis.insert(node(name), nhi(rest)));
            }
            ["key", name, rest @ ..] => {
                drop(snapshot.credentials.insert(node(name), credential(rest)));
            }
            [of, "seen", rest @ ..] => snapshot.coverage.push(coverage(of, rest)),
            [from, relation, to, seen @ ..] => {
                snapshot.edges.push(edge(from, relation, to, seen.first()));
            }
            other => panic!("{other:?}"),
        }
    }
    snapshot
}

fn nhi(words: &[&str]) -> NhiFacts {
    let mut facts = NhiFacts::default();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("owner", who) => facts.owner = Some(who.into()),
            ("backup", who) => facts.backup = Some(who.into()),
            ("team", team) => facts.team = Some(team.into()),
            ("idle", idle) => facts.idle_s_max = Some(days(idle).num_seconds().unsigned_abs()),
            ("quiet", since) => facts.quiet_since = Some(now() - days(since)),
            ("restore", _) => facts.restore_s = Some(20),
            ("critical", _) => facts.critical = true,
            ("breakglass", _) => facts.break_glass = true,
            ("yearly", _) => facts.yearly = true,
            other => panic!("{other:?}"),
        }
    }
    facts
}

fn credential(words: &[&str]) -> CredentialFacts {
    let mut facts = CredentialFacts::default();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("of", of) => facts.of = Some(node(of)),
            ("new", _) => facts.replaceable = true,
            ("back", _) => facts.reversible = true,
            ("quiet", since) => facts.quiet_since = Some(now() - days(since)),
            other => panic!("{other:?}"),
        }
    }
    facts
}

fn coverage(of: &str, words: &[&str]) -> Coverage {
    let mut coverage = Coverage {
        node: node(of),
        source: String::new(),
        from: now(),
        until: now(),
        delay_s: 0,
        blind_spots: Vec::new(),
        required: false,
    };
    for word in words {
        match (word.split_once('='), word.split_once("..")) {
            (Some(("by", source)), _) => coverage.source = source.into(),
            (Some(("blind", what)), _) => coverage.blind_spots.push(what.into()),
            (None, Some((from, until))) => {
                (coverage.from, coverage.until) = (now() - days(from), now() - days(until));
            }
            (None, None) if *word == "required" => coverage.required = true,
            other => panic!("{other:?}"),
        }
    }
    coverage
}

fn edge(from: &str, relation: &str, to: &str, seen: Option<&&str>) -> Edge {
    let named = Relation::ALL
        .into_iter()
        .find(|known| known.as_str() == relation);
    let last = now() - seen.map_or(TimeDelta::zero(), |ago| days(ago));
    let edge = Edge {
        from: node(from),
        relation: named.unwrap(),
        to: node(to),
        source: "test".into(),
        first_seen_at: last,
        last_seen_at: last,
        confidence: match seen {
            Some(_) => Confidence::Observed,
            None => Confidence::Declared,
        },
    };
    assert_eq!(edge.misfit(), None);
    edge
}

// --- an answer in words ---------------------------------------------------------------------------------------

fn told(answer: &Answer) -> Vec<String> {
    answer.findings.iter().map(finding).collect()
}

fn finding(finding: &Finding) -> String {
    let all = |nodes: &BTreeSet<Node>| nodes.iter().map(written).collect::<Vec<_>>().join(" ");
    let mut text = format!("{} {}", written(&finding.node), finding.verdict.as_str());
    if let Some(to) = &finding.to {
        text += &format!(" to {}", written(to));
    }
    if !finding.needs.is_empty() {
        text += &format!(" after {}", all(&finding.needs));
    }
    if let Some(deadline) = finding.deadline {
        text += &format!(" by +{}d", (deadline - now()).num_days());
    }
    if !finding.breaks.is_empty() {
        text += &format!(", breaks {}", all(&finding.breaks));
    }
    let reasons: Vec<String> = finding.reasons.iter().map(reason).collect();
    format!("{text}: {}", reasons.join(", "))
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Owned => "owned".into(),
        Reason::Known => "known".into(),
        Reason::Minted { by } => format!("minted by {}", written(by)),
        Reason::Personal => "personal".into(),
        Reason::Asked => "asked".into(),
        Reason::InUse { by, .. } => format!("used by {}", written(by)),
        Reason::UsedOnce { by, .. } => format!("once used by {}", written(by)),
        Reason::Unused { days } => format!("unused for {days} days"),
        Reason::Soaked => "nothing missed it".into(),
        Reason::Soaking { .. } => "watch goes on".into(),
        Reason::NotCovered { gap } => match gap {
            Gap::NobodyLooks => "nobody looks".into(),
            Gap::BlindSpot { source, what } => format!("{source} does not see {what}"),
            Gap::TooShort {
                source,
                days,
                wanted,
            } => {
                format!("{source} watched {days} of {wanted} days")
            }
            Gap::Stale { source, .. } => format!("{source} is stale"),
        },
        Reason::BreakGlass => "break glass".into(),
        Reason::NobodyLeft => "nobody left".into(),
        Reason::NotReplaceable => "not replaceable".into(),
        Reason::NotReversible => "not reversible".into(),
        Reason::Cycle { .. } => "cycle".into(),
        Reason::TooMany { critical, most } => format!("{critical} critical of at most {most}"),
        Reason::Unknown => "unknown".into(),
    }
}

#[test]
fn every_row_is_answered_as_the_table_says() {
    let wrong: Vec<String> = ROWS
        .iter()
        .filter_map(|row| {
            let found = told(&check(&world(row.world))).join("; ");
            (found != row.found).then(|| format!("{}\n  {}\n  {found}", row.what, row.found))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whatever the order in which facts are kept, and a minute later: the same answer, under the same digest.
#[test]
fn the_order_of_facts_and_a_minute_change_nothing() {
    for row in &ROWS {
        let before = world(row.world);
        let mut after = before.clone();
        after.edges.reverse();
        after.coverage.reverse();
        after.at += TimeDelta::minutes(1);
        let (before, after) = (check(&before), check(&after));
        assert_eq!(before.digest, after.digest, "{}", row.what);
        let nodes = |answer: &Answer| -> Vec<(Node, Verdict)> {
            let findings = answer.findings.iter();
            findings
                .map(|finding| (finding.node.clone(), finding.verdict))
                .collect()
        };
        assert_eq!(nodes(&before), nodes(&after), "{}", row.what);
    }
}

#[test]
fn another_fact_is_another_digest() {
    let base = "disable sync; here bob; nhi sync owner=bob restore; sync seen by=log 100..0";
    let digest = check(&world(base)).digest;
    for more in [
        "@cron uses sync 1",
        "ann knows sync",
        "key #db of=sync",
        "here ann",
    ] {
        let changed = check(&world(&format!("{base}; {more}"))).digest;
        assert_ne!(changed, digest, "{more}");
    }
    assert_ne!(check(&world(&base.replace("100", "120"))).digest, digest);
}

/// The most that a person can hang on: it stays quick, and every thing is found once.
#[test]
fn a_leaver_with_thousands_of_things_is_answered_in_one_go() {
    let mut text = String::from("leave ann; here bob");
    for number in 0..3_000 {
        text += &format!(
            "; nhi n{number} owner=ann backup=bob; key #k{number} of=n{number} new; ann knows #k{number}; @c uses #k{number} 1"
        );
    }
    let mut snapshot = world(&text);
    snapshot.rules.critical_max = 10_000;
    assert_eq!(check(&snapshot).findings.len(), 6_000);
}

#[test]
fn the_page_is_the_table() {
    let mut text =
        String::from("| | what happens | the world | what is found |\n|--:|---|---|---|\n");
    for (number, row) in (1..).zip(&ROWS) {
        let lines = |text: &str| {
            let parts = text.split(';').map(str::trim);
            parts
                .map(|part| format!("`{part}`"))
                .collect::<Vec<_>>()
                .join("<br>")
        };
        text += &format!(
            "| {number} | {} | {} | {} |\n",
            row.what,
            lines(row.world),
            lines(row.found)
        );
    }
    page_is("dependency-checks.md", &text);
}
