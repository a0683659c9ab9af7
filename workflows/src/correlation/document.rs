//! `correlation.yaml`: the rules, as data.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{self, Problem, Problems, yaml};

/// The file in the configuration folder.
pub const CORRELATION_FILE: &str = "correlation.yaml";
/// The most rules.
pub const RULES_MAX: usize = 50;
/// The most points of one rule, either way.
pub const POINTS_MAX: i32 = 1_000;
const NAME_BYTES_MAX: usize = 100;

/// When a record of a source is about somebody who is known already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Correlation {
    /// From so many points on, the one who has them is the person.
    pub link_at: i32,
    /// From so many points on, a person is asked.
    pub ask_at: i32,
    /// Who is asked: `role:NAME` or an address.
    pub owner: String,
    /// What becomes of a second account on a system on which the other of two merged identities has one already.
    #[serde(default)]
    pub second_accounts: SecondAccounts,
    pub rules: Vec<Rule>,
}

/// What becomes of the accounts of a merged identity that the surviving one cannot take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecondAccounts {
    /// They are closed, with their sessions and rights.
    #[default]
    Disable,
    /// They stay, and end together with the person.
    Keep,
}

/// One thing that is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// How explanations call it.
    pub name: String,
    /// Where the value is: attributes, each enough by itself; `given_name+family_name` are both, with a blank between.
    pub attributes: Vec<String>,
    pub compare: Compare,
    /// The points when both say the same.
    pub agrees: i32,
    /// When they nearly do: short forms and slips in names, day and month swapped. Three quarters without it.
    #[serde(default)]
    pub close: Option<i32>,
    /// When part of a name agrees and part contradicts.
    #[serde(default)]
    pub part: i32,
    /// The points, below zero, when both say something and it is not the same.
    #[serde(default)]
    pub differs: i32,
    /// No two people have the same: who agrees here is the person, unless another rule speaks against it.
    #[serde(default)]
    pub unique: bool,
    /// For `phone`: the country of numbers that name none, as `49`.
    #[serde(default)]
    pub country: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Letters and digits alone.
    Identifier,
    /// Words in any order and script, with short forms.
    Name,
    /// A day.
    Date,
    Phone,
    Email,
    /// Any text, without regard to case and accents.
    Text,
}

impl Correlation {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(file: &str, text: &str) -> Result<Self, Problems> {
        let read: Self = yaml::parse(file, text)?;
        let mut problems = Problems::default();
        read.check(file, &mut problems);
        if problems.is_empty() {
            Ok(read)
        } else {
            Err(problems)
        }
    }

    /// Names these rules: what was made by others has to be made anew.
    #[must_use]
    pub fn hash(&self) -> String {
        policy::digest(&serde_json::to_value(&self.rules).unwrap_or_default())
    }

    fn check(&self, file: &str, problems: &mut Problems) {
        let mut wrong =
            |what: String, fix: &str| problems.push(Problem::new(file, None, what, fix));
        if self.ask_at < 1 || self.link_at <= self.ask_at {
            wrong(
                format!("`ask_at` is {} and `link_at` {}", self.ask_at, self.link_at),
                "give `ask_at` at least 1, and `link_at` more than `ask_at`",
            );
        }
        if self.owner.trim().is_empty() {
            wrong(
                "`owner` is empty".to_owned(),
                "say who is asked, as `role:hr`",
            );
        }
        if self.rules.is_empty() || self.rules.len() > RULES_MAX {
            wrong(
                format!("there are {} rules", self.rules.len()),
                &format!("give 1 to {RULES_MAX}"),
            );
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            let name = &rule.name;
            if name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.contains('|') {
                wrong(
                    format!("`{name}` is no name for a rule"),
                    &format!("give up to {NAME_BYTES_MAX} bytes without `|`"),
                );
            }
            if !names.insert(name) {
                wrong(
                    format!("rule `{name}` is there twice"),
                    "rename one of them",
                );
            }
            let empty =
                |attribute: &String| attribute.split('+').any(|part| part.trim().is_empty());
            if rule.attributes.is_empty() || rule.attributes.iter().any(empty) {
                wrong(
                    format!("rule `{name}` names no attribute"),
                    "write `attributes: [name]`, or `[given_name+family_name]`",
                );
            }
            let points = [
                Some(rule.agrees),
                rule.close,
                Some(rule.part),
                Some(rule.differs),
            ];
            if points
                .into_iter()
                .flatten()
                .any(|points| points.abs() > POINTS_MAX)
            {
                wrong(
                    format!("rule `{name}` gives more than {POINTS_MAX} points"),
                    "give fewer",
                );
            }
            if rule.agrees < 1 || rule.differs > 0 {
                wrong(
                    format!(
                        "rule `{name}` gives {} for what agrees and {} for what differs",
                        rule.agrees, rule.differs
                    ),
                    "give points above zero for what agrees, and none or fewer for what differs",
                );
            }
            let digits = |country: &String| {
                !country.is_empty() && country.bytes().all(|b| b.is_ascii_digit())
            };
            match &rule.country {
                Some(_) if rule.compare != Compare::Phone => wrong(
                    format!("rule `{name}` has a `country` and compares no phone numbers"),
                    "remove it, or write `compare: phone`",
                ),
                Some(country) if !digits(country) => wrong(
                    format!("rule `{name}` has the country `{country}`"),
                    "write the digits alone, as `\"49\"`",
                ),
                _ => {}
            }
        }
        let best: i32 = self
            .rules
            .iter()
            .map(|rule| rule.agrees.min(POINTS_MAX))
            .sum();
        if best < self.ask_at && self.rules.iter().all(|rule| !rule.unique) {
            wrong(
                format!(
                    "all rules together give {best} points, and `ask_at` is {}",
                    self.ask_at
                ),
                "lower `ask_at`, or give more points",
            );
        }
    }
}
