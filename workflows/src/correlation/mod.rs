//! Whether a record of one source is about somebody who is known from another. Pure.
//!
//! Each [`Rule`] compares one thing and gives points: for what agrees, for what nearly does, and points off for what
//! contradicts. A value that one of the two does not have neither helps nor hurts. The sum is compared with two thresholds:
//!
//! | points | what follows |
//! |---|---|
//! | `link_at` or more, by one alone | it is that person |
//! | a unique identifier agrees, and nothing contradicts | it is that person |
//! | `ask_at` or more | a person decides, and nothing is given meanwhile |
//! | fewer | it is somebody new |
//!
//! Two records that one source has at the same time are two people to that source: they are never linked without being
//! asked about, whatever the points. A score says rule by rule how it came about ([`Score::rules`]).
//!
//! So that a record is not compared with everybody, both are given [`blocks`]: short texts of which two people that are
//! alike have one in common. Who has none in common is not looked at.

mod document;
mod names;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::document::{CORRELATION_FILE, Compare, Correlation, Rule, SecondAccounts};
use self::names::{Alike, Name};

/// The most candidates that a person is asked about at once, best first.
pub const CANDIDATES_MAX: usize = 5;
/// The most values of one attribute that are compared.
const VALUES_MAX: usize = 10;
/// The longest block, in bytes: the rest of a long value tells nobody apart.
const BLOCK_BYTES_MAX: usize = 200;

type Attributes = BTreeMap<String, Value>;

/// How two values compare. The order is from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// One of the two says nothing.
    Absent,
    Differs,
    Part,
    Close,
    Agrees,
}

impl Grade {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Differs => "differs",
            Self::Part => "part",
            Self::Close => "close",
            Self::Agrees => "agrees",
        }
    }
}

/// What one rule says about two people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub rule: String,
    pub grade: Grade,
    pub points: i32,
}

/// How alike two people are, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    pub points: i32,
    /// An identifier that no two people share agrees, and nothing speaks against it.
    pub unique: bool,
    pub rules: Vec<Told>,
}

/// Somebody who may be the person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    pub key: &'a str,
    pub attributes: &'a Attributes,
    /// The source of the record has them, too, at this moment: to it they are two people.
    pub beside: bool,
}

/// A candidate with the points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    pub key: String,
    pub score: Score,
}

/// What follows for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is about this person.
    Link(Scored),
    /// It may be about one of these, best first; at most [`CANDIDATES_MAX`].
    Ask(Vec<Scored>),
    New,
}

/// What follows for a record with these attributes.
#[must_use]
pub fn decide(
    correlation: &Correlation,
    record: &Attributes,
    candidates: &[Candidate<'_>],
) -> Verdict {
    let mut scored: Vec<(bool, Scored)> = candidates
        .iter()
        .map(|candidate| {
            let score = score(correlation, record, candidate.attributes);
            let links = !candidate.beside && (score.unique || score.points >= correlation.link_at);
            let key = candidate.key.to_owned();
            (links, Scored { key, score })
        })
        .filter(|(links, scored)| {
            *links
                || scored.score.points >= correlation.ask_at
                || names_one(correlation, &scored.score)
        })
        .collect();
    scored.sort_by(|(_, a), (_, b)| (b.score.points, &a.key).cmp(&(a.score.points, &b.key)));
    let mut certain = scored.iter().filter(|(links, _)| *links);
    match (certain.next(), certain.next()) {
        (Some((_, one)), None) => Verdict::Link(one.clone()),
        _ if scored.is_empty() => Verdict::New,
        _ => {
            let asked = scored.into_iter().map(|(_, scored)| scored);
            Verdict::Ask(asked.take(CANDIDATES_MAX).collect())
        }
    }
}

/// A unique identifier agrees. When something else contradicts, one of the two is wrong, and a person finds out which.
fn names_one(correlation: &Correlation, score: &Score) -> bool {
    let rules = correlation.rules.iter().zip(&score.rules);
    rules
        .into_iter()
        .any(|(rule, told)| rule.unique && told.grade == Grade::Agrees)
}

/// How alike two people are. The same whichever comes first.
#[must_use]
pub fn score(correlation: &Correlation, a: &Attributes, b: &Attributes) -> Score {
    let rules: Vec<Told> = correlation
        .rules
        .iter()
        .map(|rule| {
            let grade = rule.grade(a, b);
            Told {
                rule: rule.name.clone(),
                grade,
                points: rule.points(grade),
            }
        })
        .collect();
    let contradicts = rules.iter().any(|told| told.points < 0);
    let mut score = Score {
        points: rules.iter().map(|told| told.points).sum(),
        unique: false,
        rules,
    };
    score.unique = !contradicts && names_one(correlation, &score);
    score
}

/// Of two people who are alike, one of these texts is the same.
#[must_use]
pub fn blocks(correlation: &Correlation, attributes: &Attributes) -> BTreeSet<String> {
    let mut blocks = BTreeSet::new();
    for rule in &correlation.rules {
        for value in rule.values(attributes) {
            let parts: BTreeSet<String> = match value {
                Normal::Name(name) => name.pairs(),
                Normal::Day(day) => {
                    let swapped = values::swapped(day);
                    let days = [Some(day), swapped].into_iter().flatten();
                    days.map(|day| day.to_string()).collect()
                }
                Normal::Text(text) if rule.compare != Compare::Text => BTreeSet::from([text]),
                Normal::Text(_) => BTreeSet::new(),
            };
            blocks.extend(parts.into_iter().map(|part| {
                let mut block = format!("{}|{part}", rule.name);
                let mut end = block.len().min(BLOCK_BYTES_MAX);
                while !block.is_char_boundary(end) {
                    end -= 1;
                }
                block.truncate(end);
                block
            }));
        }
    }
    blocks
}

/// A value in the form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Normal {
    Text(String),
    Name(Name),
    Day(chrono::NaiveDate),
}

impl Normal {
    fn grade(&self, other: &Self) -> Grade {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => match a.alike(b) {
                Alike::Same => Grade::Agrees,
                Alike::Closely => Grade::Close,
                Alike::Partly => Grade::Part,
                Alike::No => Grade::Differs,
            },
            (Self::Day(a), Self::Day(b)) if a != b && values::swapped(*a) == Some(*b) => {
                Grade::Close
            }
            (a, b) if a == b => Grade::Agrees,
            _ => Grade::Differs,
        }
    }
}

impl Rule {
    fn points(&self, grade: Grade) -> i32 {
        match grade {
            Grade::Absent => 0,
            Grade::Differs => self.differs,
            Grade::Part => self.part,
            Grade::Close => self.close.unwrap_or(self.agrees * 3 / 4),
            Grade::Agrees => self.agrees,
        }
    }

    /// The best of all pairs of values.
    fn grade(&self, a: &Attributes, b: &Attributes) -> Grade {
        let others = self.values(b);
        let values = self.values(a);
        let pairs = values
            .iter()
            .flat_map(|value| others.iter().map(move |other| value.grade(other)));
        pairs.max().unwrap_or(Grade::Absent)
    }

    /// All values that somebody has here.
    fn values(&self, attributes: &Attributes) -> Vec<Normal> {
        let texts = self.attributes.iter().flat_map(|names| {
            let mut parts = names.split('+').map(str::trim);
            match (parts.next(), parts.next()) {
                (Some(name), None) => attributes.get(name).map(texts).unwrap_or_default(),
                _ => joined(names, attributes).into_iter().collect(),
            }
        });
        let mut values: Vec<Normal> = Vec::new();
        for text in texts.take(VALUES_MAX) {
            let value = match self.compare {
                Compare::Name => Name::of(&text).map(Normal::Name),
                Compare::Date => values::day(&text).map(Normal::Day),
                Compare::Identifier => values::identifier(&text).map(Normal::Text),
                Compare::Phone => values::phone(&text, self.country.as_deref()).map(Normal::Text),
                Compare::Email => values::email(&text).map(Normal::Text),
                Compare::Text => values::text(&text).map(Normal::Text),
            };
            values.extend(value);
        }
        values
    }
}

/// The attributes `a+b`, with a blank between; `None` when one is missing, for half a name is nobody's.
fn joined(names: &str, attributes: &Attributes) -> Option<String> {
    let mut whole = Vec::new();
    for name in names.split('+') {
        whole.push(attributes.get(name.trim()).map(texts)?.into_iter().next()?);
    }
    Some(whole.join(" "))
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Array(values) => values.iter().flat_map(texts).take(VALUES_MAX).collect(),
        Value::Null | Value::Bool(_) | Value::Object(_) => Vec::new(),
    }
}
