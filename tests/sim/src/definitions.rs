//! What runs: definitions drawn at random, and the built-in joiner, mover and leaver as they are shipped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use engine::core::definition::{Definition, OnFailure};
use engine::core::id::{DefinitionHash, Subject};
use serde_json::{Value, json};

use crate::chance::Chance;

const BUILT_IN: [(&str, &str); 3] = [
    (
        "joiner",
        include_str!("../../../workflows/definitions/joiner.yaml"),
    ),
    (
        "mover",
        include_str!("../../../workflows/definitions/mover.yaml"),
    ),
    (
        "leaver",
        include_str!("../../../workflows/definitions/leaver.yaml"),
    ),
];

/// Everything that is settled before a run begins.
pub struct Plan {
    pub systems: Vec<String>,
    /// The versions of the program's definitions: a node that is restarted may come with the next one.
    pub versions: Vec<Vec<Arc<Definition>>>,
    pub by_hash: BTreeMap<DefinitionHash, Arc<Definition>>,
    pub names: Vec<String>,
    pub shards: u32,
    pub lease_ms: u32,
    pub nodes: usize,
    pub subjects: Vec<Subject>,
    pub starts: usize,
    /// How long things go wrong.
    pub chaos_ms: u64,
    salt: u64,
}

impl Plan {
    pub fn draw(chance: &Chance) -> Self {
        let systems: Vec<String> = (0..chance.between(1, 4))
            .map(|number| format!("s{number}"))
            .collect();
        let drawn = usize::try_from(chance.between(1, 4)).unwrap();
        let mut names: Vec<String> = (0..drawn).map(|number| format!("w{number}")).collect();
        names.extend(BUILT_IN.iter().map(|(name, _)| (*name).to_owned()));
        let mut versions = Vec::new();
        let mut by_hash = BTreeMap::new();
        for version in 0..2 {
            let mut all: Vec<Arc<Definition>> = BUILT_IN
                .iter()
                .map(|(_, text)| parsed(&format!("{text}\n# version {version}\n")))
                .collect();
            for number in 0..drawn {
                all.push(parsed(&draw(chance, number, drawn, &systems)));
            }
            for definition in &all {
                by_hash.insert(definition.hash.clone(), Arc::clone(definition));
            }
            versions.push(all);
        }
        let people = chance.between(1, 6);
        Self {
            systems,
            versions,
            by_hash,
            names,
            shards: u32::try_from(chance.between(1, 6)).unwrap(),
            lease_ms: *chance.pick(&[900, 2_000, 4_000, 8_000]),
            nodes: usize::try_from(chance.between(1, 3)).unwrap(),
            subjects: (0..people)
                .map(|number| Subject(format!("p{number}")))
                .collect(),
            starts: usize::try_from(chance.between(2, 18)).unwrap(),
            chaos_ms: chance.between(4_000, 40_000),
            salt: chance.number(),
        }
    }

    /// The same for every node at every time: facts that change are the layer above's affair.
    pub fn facts(&self, subject: &Subject) -> Value {
        let seed = subject.0.bytes().fold(self.salt, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let chance = Chance::new(seed);
        json!({"identity": {
            "accounts": self.items(&chance, "a"),
            "grants": self.items(&chance, "g"),
            "important": chance.percent(50),
        }})
    }

    fn items(&self, chance: &Chance, kind: &str) -> Vec<Value> {
        (0..chance.below(4))
            .map(|number| {
                json!({"id": format!("{kind}{number}"), "system": chance.pick(&self.systems)})
            })
            .collect()
    }

    pub fn starts_input(&self, chance: &Chance) -> Value {
        json!({
            "flag": chance.percent(60),
            "list": self.items(chance, "i"),
            "when": format!("2026-03-02T08:00:{:02}Z", chance.below(60)),
        })
    }
}

/// The output of `access.plan`: what the steps of the built-in workflows fan out over.
pub fn planned(subject: &Subject, salt: u32) -> Value {
    let seed = subject.0.bytes().map(u64::from).sum::<u64>() + u64::from(salt);
    let chance = Chance::new(seed);
    let mut lists = serde_json::Map::new();
    for name in [
        "create",
        "enable",
        "add",
        "remove",
        "disable",
        "update",
        "list",
        "later",
        "disable_later",
        "review",
    ] {
        let items: Vec<Value> = (0..chance.below(3))
            .map(|number| {
                json!({
                    "id": format!("{name}{number}"), "system": "s0", "entitlement": "e", "account": "a", "policy": "p",
                })
            })
            .collect();
        lists.insert(name.to_owned(), Value::Array(items));
    }
    Value::Object(lists)
}

fn parsed(text: &str) -> Arc<Definition> {
    match Definition::parse("drawn.yaml", text, &["identity"], &|_| true) {
        Ok(definition) => Arc::new(definition),
        Err(problems) => panic!("a drawn definition is wrong: {problems}\n{text}"),
    }
}

/// One definition in YAML.
fn draw(chance: &Chance, number: usize, of: usize, systems: &[String]) -> String {
    let on_failure = *chance.pick(&[OnFailure::Park, OnFailure::Undo, OnFailure::Forward]);
    let mut text = format!("name: w{number}\n");
    let word = match on_failure {
        OnFailure::Park => "park",
        OnFailure::Undo => "undo",
        OnFailure::Forward => "forward",
    };
    let _ = writeln!(text, "on_failure: {word}");
    if chance.percent(30) {
        text.push_str("lane: revocation\n");
    }
    if chance.percent(20) {
        let other = chance.below(of as u64);
        let _ = writeln!(text, "preempts: [w{other}, joiner]");
    } else {
        conflicts(chance, &mut text, number, of);
    }
    let deadline = chance.percent(50);
    if deadline {
        let seconds = chance.between(1, 40);
        let _ = writeln!(
            text,
            "deadline: {{ after: {seconds}s, escalate_to: role:x }}"
        );
    }
    text.push_str("steps:\n");
    let count = usize::try_from(chance.between(1, 7)).unwrap();
    let mut plans: Vec<usize> = Vec::new();
    for index in 0..count {
        step(
            chance, &mut text, index, on_failure, deadline, systems, &mut plans,
        );
    }
    text
}

/// Rules about some of the other workflows, and perhaps about all the rest.
fn conflicts(chance: &Chance, text: &mut String, number: usize, of: usize) {
    let drawn = (0..of).map(|other| format!("w{other}"));
    let built_in = BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
    let mut rules = Vec::new();
    for with in drawn.chain(built_in).chain(["any".to_owned()]) {
        let own = with == format!("w{number}");
        if !chance.percent(if own { 60 } else { 30 }) {
            continue;
        }
        let verdicts: &[&str] = if own {
            &["queue", "preempt", "merge", "merge", "merge", "reject"]
        } else {
            &["queue", "preempt", "preempt", "reject"]
        };
        let then = chance.pick(verdicts);
        rules.push(format!("{{ with: {with}, then: {then} }}"));
    }
    let _ = writeln!(text, "conflicts: [{}]", rules.join(", "));
}

fn step(
    chance: &Chance,
    text: &mut String,
    index: usize,
    on_failure: OnFailure,
    deadline: bool,
    systems: &[String],
    plans: &mut Vec<usize>,
) {
    let _ = writeln!(text, "  - id: t{index}");
    // What it needs: the step before by saying nothing, or some of those before.
    let mut before: Vec<usize> = Vec::new();
    let says_needs = index > 0 && chance.percent(60);
    if says_needs {
        before = (0..index).filter(|_| chance.percent(40)).collect();
        let names: Vec<String> = before.iter().map(|need| format!("t{need}")).collect();
        let _ = writeln!(text, "    needs: [{}]", names.join(", "));
    } else if index > 0 {
        before.push(index - 1);
    }
    let plan = before.iter().find(|need| plans.contains(need)).copied();
    let mut action = true;
    match chance.below(20) {
        0..=1 => text.push_str("    uses: noop\n"),
        2..=3 => text.push_str("    uses: local\n"),
        4..=5 => {
            plans.push(index);
            text.push_str("    uses: access.plan\n");
        }
        6..=7 => {
            action = false;
            let quorum = chance.between(1, 2);
            let timeout = timeout(chance, deadline, &["approve", "reject", "park"]);
            let _ = writeln!(
                text,
                "    uses: approval\n    with: {{ ask: [manager], quorum: {quorum}{timeout} }}"
            );
        }
        8 => {
            action = false;
            let proof = chance.percent(50);
            let timeout = timeout(chance, deadline, &[]);
            let _ = writeln!(
                text,
                "    uses: task\n    with: {{ assignee: role:x, title: do it, proof_required: {proof}{timeout} }}"
            );
        }
        9..=10 => {
            action = false;
            let timeout = timeout(chance, deadline, &["continue", "park"]);
            let _ = writeln!(
                text,
                "    uses: wait_for\n    with: {{ signal: go{timeout} }}"
            );
        }
        _ => {
            let system = chance.pick(systems);
            let _ = writeln!(text, "    uses: {system}.set");
            if on_failure == OnFailure::Undo && chance.percent(75) {
                let _ = writeln!(
                    text,
                    "    undo: {{ uses: {system}.unset, with: {{ was: \"${{{{ output.attempt }}}}\" }} }}"
                );
            }
        }
    }
    if chance.percent(30) {
        let list = match (plan, chance.below(3)) {
            (Some(plan), _) => format!("steps.t{plan}.list"),
            (None, 0) => "input.list".to_owned(),
            (None, _) => "identity.accounts".to_owned(),
        };
        let _ = writeln!(text, "    for_each: {list}");
        if action && chance.percent(50) {
            text.push_str("    with: { id: \"${{ item.id }}\" }\n");
        }
    }
    if chance.percent(25) {
        let condition = match (before.first(), chance.below(6)) {
            (Some(need), 0) => format!("steps.t{need}.all_verified"),
            (_, 1) => "identity.important".to_owned(),
            (_, 2) => "false".to_owned(),
            // Fails: the step is stuck until a person skips it.
            (_, 3) => "input.nothing == 1".to_owned(),
            _ => "input.flag".to_owned(),
        };
        let _ = writeln!(text, "    if: {condition}");
    }
    match chance.below(10) {
        0 => {
            let ms = chance.between(50, 15_000);
            let _ = writeln!(text, "    after: {ms}ms");
        }
        1 => text.push_str("    at: input.when\n"),
        2 => text.push_str("    at: case.effective_at\n"),
        _ => {}
    }
    if action {
        let (first, attempts) = (chance.between(50, 2_000), chance.between(1, 5));
        let _ = writeln!(
            text,
            "    retry: {{ first: {first}ms, factor: 2, max: 5s, attempts: {attempts} }}"
        );
        let seconds = chance.between(1, 12);
        let _ = writeln!(text, "    timeout: {seconds}s");
    }
}

fn timeout(chance: &Chance, deadline: bool, on_timeout: &[&str]) -> String {
    if deadline && chance.percent(30) {
        return String::new();
    }
    let ms = chance.between(200, 20_000);
    let mut text = format!(", timeout: {ms}ms");
    if !on_timeout.is_empty() {
        let _ = write!(text, ", on_timeout: {}", chance.pick(on_timeout));
    }
    text
}
