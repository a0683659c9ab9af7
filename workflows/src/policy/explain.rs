//! Why somebody holds something, or why not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::evaluate::{IdentityFacts, Reason, reason};
use super::expression::check::{Kind, Variable, check};
use super::expression::{Expression, Scope, Split, split_top};
use super::problem::suggest;
use super::set::{PolicySet, Role};

/// How deep a rule is taken apart.
const TRACE_DEPTH_MAX: usize = 8;

/// The answer to "why does this person hold this, or not".
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Explanation {
    /// Policy wants it, for each of these reasons.
    Held { reasons: Vec<Reason> },
    /// Policy does not want it: here is each role that would give it.
    NotHeld { chances: Vec<Chance> },
    /// No role gives this right at all.
    NobodyGivesIt { hint: String },
    /// The person is not active, so policy wants nothing for them.
    NotActive,
}

/// A role that would give the right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chance {
    /// The role whose rule would have to hold.
    pub role: String,
    /// From there to the role that gives the right.
    pub via: Vec<String>,
    pub file: String,
    pub line: u64,
    /// The rule taken apart; `None` when the role has no rule and cannot be had by itself.
    pub rule: Option<Trace>,
}

/// A rule, or a part of one, with its outcome for this person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    pub text: String,
    pub outcome: Outcome,
    /// What the person has where this part looks; `None` where nothing is set. Only at the smallest parts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Option<Value>>,
    /// The parts between `&&` or `||`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Yes,
    No,
    /// It has no answer, and why.
    Fails(String),
}

impl Trace {
    /// The smallest parts that keep the rule from holding, in the order of the text.
    #[must_use]
    pub fn in_the_way(&self) -> Vec<&Self> {
        if self.outcome == Outcome::Yes {
            return Vec::new();
        }
        let parts: Vec<&Self> = self.parts.iter().flat_map(Self::in_the_way).collect();
        if parts.is_empty() { vec![self] } else { parts }
    }
}

/// Explains whether `policy` wants `entitlement` on `system` for `facts`.
#[must_use]
pub fn explain(
    policy: &PolicySet,
    facts: &IdentityFacts,
    system: &str,
    entitlement: &str,
) -> Explanation {
    let gives = |role: &Role| {
        role.grants
            .iter()
            .any(|grant| grant.system == system && grant.entitlement == entitlement)
    };
    let givers: BTreeSet<&str> = policy
        .roles()
        .filter(|role| gives(role))
        .map(|role| role.name.as_str())
        .collect();
    if givers.is_empty() {
        let known = policy.governed();
        let on_system: BTreeSet<&str> = known
            .iter()
            .filter(|grant| grant.system == system)
            .map(|grant| grant.entitlement.as_str())
            .collect();
        let what = format!("the rights that roles give on `{system}`");
        return Explanation::NobodyGivesIt {
            hint: suggest(entitlement, &what, on_system),
        };
    }
    if !facts.active {
        return Explanation::NotActive;
    }
    let scope = facts.scope();
    let mut reasons = Vec::new();
    let mut chances = Vec::new();
    let mut reached = BTreeSet::new();
    for role in policy.roles() {
        for bundled in policy.bundle(&role.name) {
            if !givers.contains(bundled.role.as_str()) {
                continue;
            }
            reached.insert(bundled.role.as_str());
            let rule = role
                .rule
                .as_ref()
                .map(|rule| trace(rule.text(), facts, &scope, 0));
            if rule
                .as_ref()
                .is_some_and(|rule| rule.outcome == Outcome::Yes)
            {
                reasons.push(reason(role, bundled));
            } else {
                chances.push(Chance {
                    role: role.name.clone(),
                    via: bundled.via.clone(),
                    file: role.file.clone(),
                    line: role.line,
                    rule,
                });
            }
        }
    }
    for role in policy.roles() {
        if givers.contains(role.name.as_str()) && !reached.contains(role.name.as_str()) {
            chances.push(Chance {
                role: role.name.clone(),
                via: vec![role.name.clone()],
                file: role.file.clone(),
                line: role.line,
                rule: None,
            });
        }
    }
    if reasons.is_empty() {
        Explanation::NotHeld { chances }
    } else {
        Explanation::Held { reasons }
    }
}

fn trace(text: &str, facts: &IdentityFacts, scope: &Scope, depth: usize) -> Trace {
    let expression = match Expression::compile(text) {
        Ok(expression) => expression,
        // The whole rule compiled; a part that does not was cut wrongly and is told as it is.
        Err(error) => {
            return Trace {
                text: text.to_owned(),
                outcome: Outcome::Fails(error.message),
                attributes: BTreeMap::new(),
                parts: Vec::new(),
            };
        }
    };
    let outcome = match expression.holds(scope) {
        Ok(true) => Outcome::Yes,
        Ok(false) => Outcome::No,
        Err(failure) => Outcome::Fails(failure.0),
    };
    let (split, parts) = split_top(text);
    let parts = if split == Split::None || depth >= TRACE_DEPTH_MAX {
        Vec::new()
    } else {
        parts
            .into_iter()
            .map(|part| trace(part, facts, scope, depth + 1))
            .collect()
    };
    Trace {
        text: expression.text().to_owned(),
        outcome,
        attributes: if parts.is_empty() {
            looked_at(&expression, facts)
        } else {
            BTreeMap::new()
        },
        parts,
    }
}

/// The attributes an expression reads, with the person's values.
fn looked_at(expression: &Expression, facts: &IdentityFacts) -> BTreeMap<String, Option<Value>> {
    let variables = BTreeMap::from([("identity", Variable::Open)]);
    check(expression, &variables, Kind::Any)
        .reads
        .into_iter()
        .map(|(_, name)| {
            let value = if name == "key" {
                Some(Value::String(facts.key.clone()))
            } else {
                facts
                    .attributes
                    .get(&name)
                    .filter(|value| !value.is_null())
                    .cloned()
            };
            (name, value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use serde_json::json;

    use super::*;
    use crate::policy::schema::{AttributeDeclaration, AttributeKind, Schema};

    fn policy() -> PolicySet {
        let optional = AttributeDeclaration::optional(AttributeKind::Text);
        let schema = Schema::new(["ldap"]).with_source(&BTreeMap::from([
            ("department".to_owned(), optional),
            ("title".to_owned(), optional),
            ("team".to_owned(), optional),
        ]));
        let text = r#"
roles:
  - name: lead
    when: has(identity.department) && identity.department == "Eng" && (has(identity.title) && identity.title == "Lead" || has(identity.team) && identity.team == "Core")
    includes: [tools]
  - name: tools
    grants: [{ system: ldap, entitlement: git }]
  - name: odd
    when: has(identity.department) && identity.department.startsWith("E")
    grants: [{ system: ldap, entitlement: odd }]
  - name: nobody
    grants: [{ system: ldap, entitlement: dust }]
"#;
        PolicySet::load(&[("r.yaml".to_owned(), text.to_owned())], &schema).unwrap()
    }

    fn facts(attributes: Value) -> IdentityFacts {
        IdentityFacts {
            key: "U1".to_owned(),
            attributes: serde_json::from_value(attributes).unwrap(),
            active: true,
            on_leave: false,
        }
    }

    #[test]
    fn held_gives_the_reasons() {
        let answer = explain(
            &policy(),
            &facts(json!({"department": "Eng", "team": "Core"})),
            "ldap",
            "git",
        );
        let Explanation::Held { reasons } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].via, ["lead", "tools"]);
        assert_eq!((reasons[0].file.as_str(), reasons[0].line), ("r.yaml", 3));
    }

    #[test]
    fn not_held_names_the_part_that_is_false() {
        let answer = explain(
            &policy(),
            &facts(json!({"department": "Eng", "title": "Clerk"})),
            "ldap",
            "git",
        );
        let Explanation::NotHeld { chances } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(chances.len(), 1);
        let rule = chances[0].rule.as_ref().unwrap();
        let in_the_way: Vec<(&str, String)> = rule
            .in_the_way()
            .into_iter()
            .map(|part| (part.text.as_str(), json!(part.attributes).to_string()))
            .collect();
        assert_eq!(
            in_the_way,
            [
                (
                    r#"identity.title == "Lead""#,
                    r#"{"title":"Clerk"}"#.to_owned()
                ),
                ("has(identity.team)", r#"{"team":null}"#.to_owned()),
                (r#"identity.team == "Core""#, r#"{"team":null}"#.to_owned()),
            ]
        );
    }

    #[test]
    fn the_other_answers() {
        let policy = policy();
        let person = facts(json!({}));
        let Explanation::NotHeld { chances } = explain(&policy, &person, "ldap", "dust") else {
            panic!();
        };
        assert_eq!(
            (chances[0].role.as_str(), &chances[0].rule),
            ("nobody", &None)
        );
        assert_eq!(
            explain(&policy, &person, "ldap", "gti"),
            Explanation::NobodyGivesIt {
                hint: "did you mean `git`? the rights that roles give on `ldap` are `dust`, `git`, `odd`"
                    .to_owned()
            }
        );
        let mut leaver = person;
        leaver.active = false;
        assert_eq!(
            explain(&policy, &leaver, "ldap", "git"),
            Explanation::NotActive
        );
    }

    /// `explain` and `evaluate` must never disagree.
    #[test]
    fn explain_agrees_with_evaluate() {
        let policy = policy();
        for department in [None, Some("Eng"), Some("Ops")] {
            for title in [None, Some("Lead"), Some("Clerk")] {
                for team in [None, Some("Core")] {
                    let mut attributes = json!({});
                    for (name, value) in
                        [("department", department), ("title", title), ("team", team)]
                    {
                        if let Some(value) = value {
                            attributes[name] = json!(value);
                        }
                    }
                    let person = facts(attributes);
                    let wanted = super::super::evaluate::evaluate(&policy, &person).unwrap();
                    for grant in policy.governed() {
                        let held = wanted
                            .grants
                            .iter()
                            .any(|wanted| wanted.entitlement == grant.entitlement);
                        let answer = explain(&policy, &person, &grant.system, &grant.entitlement);
                        assert_eq!(
                            held,
                            matches!(answer, Explanation::Held { .. }),
                            "{answer:?}"
                        );
                    }
                }
            }
        }
    }
}
