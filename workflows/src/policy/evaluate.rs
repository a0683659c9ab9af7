//! What a person should have: facts and rules in, wanted access with its reasons out.
//!
//! A rule that cannot be evaluated for a person fails the person, not the rule: nothing is decided for them
//! until somebody mends the rule or the data. Skipping the rule instead would take access away, or leave it,
//! because of a slip. Somebody who is no longer active wants nothing, and no rule is asked: no slip can keep
//! a leaver's access.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::OnLeave;
use super::expression::Scope;
use super::set::{Bundled, Grant, PolicySet, Role};

/// What is known about one identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentityFacts {
    /// The stable key; rules see it as `identity.key`.
    pub key: String,
    /// Everything else rules see as `identity.<name>`. A missing attribute is absent, never null.
    pub attributes: BTreeMap<String, Value>,
    /// Whether there is a business reason for any access at all.
    pub active: bool,
    /// Whether they are away for a time: of their roles only those that are kept then count.
    #[serde(default)]
    pub on_leave: bool,
}

impl IdentityFacts {
    /// The variables that rules see.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let key = Value::String(self.key.clone());
        let mut scope = Scope::new();
        scope.bind_record(
            "identity",
            self.attributes
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.as_str(), value))
                .chain([("key", &key)]),
        );
        scope
    }
}

/// Why somebody should have something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    /// The role that gives it.
    pub role: String,
    /// From the role whose rule holds to the role that gives it, both included.
    pub via: Vec<String>,
    /// The rule that holds, as written.
    pub rule: String,
    /// Where the role whose rule holds is defined.
    pub file: String,
    pub line: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedAccount {
    pub system: String,
    pub reasons: Vec<Reason>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedGrant {
    pub system: String,
    pub entitlement: String,
    pub reasons: Vec<Reason>,
}

/// What one person should have. Sorted by system and entitlement; reasons by role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// As in the facts. A person who is not active wants nothing and loses everything.
    pub active: bool,
    pub accounts: Vec<WantedAccount>,
    pub grants: Vec<WantedGrant>,
    /// What waits for somebody on leave to come back: rights that are neither given nor taken while their account is
    /// disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Vec<WantedGrant>>,
    pub policy_hash: String,
}

/// A rule has no answer for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error(
    "rule of role `{role}` at `{file}`:{line} cannot be evaluated for `{person}`: {message}; the rule is `{rule}`"
)]
pub struct EvaluationError {
    pub person: String,
    pub role: String,
    pub rule: String,
    pub file: String,
    pub line: u64,
    pub message: String,
}

/// Decides what `facts` should have.
///
/// # Errors
/// The first rule, by name of role, that has no answer; then nothing is decided.
pub fn evaluate(policy: &PolicySet, facts: &IdentityFacts) -> Result<Wanted, Box<EvaluationError>> {
    let mut accounts: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
    let mut grants: BTreeMap<Grant, Vec<Reason>> = BTreeMap::new();
    let mut suspended: BTreeMap<Grant, Vec<Reason>> = BTreeMap::new();
    if facts.active {
        let scope = facts.scope();
        for role in policy.roles() {
            if !holds(role, facts, &scope)? {
                continue;
            }
            for bundled in policy.bundle(&role.name) {
                let Some(giver) = policy.role(&bundled.role) else {
                    continue;
                };
                let reason = reason(role, bundled);
                let away = facts.on_leave && role.on_leave == OnLeave::Suspend;
                let given = if away { &mut suspended } else { &mut grants };
                for grant in &giver.grants {
                    given.entry(grant.clone()).or_default().push(reason.clone());
                }
                if away {
                    continue;
                }
                let mut systems: Vec<&String> = giver
                    .accounts
                    .iter()
                    .chain(giver.grants.iter().map(|grant| &grant.system))
                    .collect();
                systems.sort();
                systems.dedup();
                for system in systems {
                    accounts
                        .entry(system.clone())
                        .or_default()
                        .push(reason.clone());
                }
            }
        }
    }
    Ok(Wanted {
        active: facts.active,
        accounts: accounts
            .into_iter()
            .map(|(system, reasons)| WantedAccount { system, reasons })
            .collect(),
        grants: listed(grants),
        suspended: facts.on_leave.then(|| listed(suspended)),
        policy_hash: policy.hash().to_owned(),
    })
}

fn listed(grants: BTreeMap<Grant, Vec<Reason>>) -> Vec<WantedGrant> {
    let grants = grants.into_iter().map(|(grant, reasons)| WantedGrant {
        system: grant.system,
        entitlement: grant.entitlement,
        reasons,
    });
    grants.collect()
}

fn holds(role: &Role, facts: &IdentityFacts, scope: &Scope) -> Result<bool, Box<EvaluationError>> {
    let Some(rule) = &role.rule else {
        return Ok(false);
    };
    rule.holds(scope).map_err(|failure| {
        Box::new(EvaluationError {
            person: facts.key.clone(),
            role: role.name.clone(),
            rule: rule.text().to_owned(),
            file: role.file.clone(),
            line: role.line,
            message: failure.0,
        })
    })
}

/// Why `holder`, whose rule holds, brings `bundled`.
pub(super) fn reason(holder: &Role, bundled: &Bundled) -> Reason {
    Reason {
        role: bundled.role.clone(),
        via: bundled.via.clone(),
        rule: holder
            .rule
            .as_ref()
            .map_or_else(String::new, |rule| rule.text().to_owned()),
        file: holder.file.clone(),
        line: holder.line,
    }
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::policy::schema::{AttributeDeclaration, AttributeKind, Schema};

    fn schema() -> Schema {
        Schema::new(["ldap", "scim"]).with_source(&BTreeMap::from([
            (
                "department".to_owned(),
                AttributeDeclaration::optional(AttributeKind::Text),
            ),
            (
                "projects".to_owned(),
                AttributeDeclaration::required(AttributeKind::List),
            ),
        ]))
    }

    fn policy(text: &str) -> PolicySet {
        PolicySet::load(&[("roles.yaml".to_owned(), text.to_owned())], &schema()).unwrap()
    }

    fn facts(attributes: Value) -> IdentityFacts {
        IdentityFacts {
            key: "U1".to_owned(),
            attributes: serde_json::from_value(attributes).unwrap(),
            active: true,
            on_leave: false,
        }
    }

    const POLICY: &str = r#"
roles:
  - name: everybody
    when: "true"
    accounts: [ldap]
  - name: engineer
    when: has(identity.department) && identity.department == "Engineering"
    includes: [tools]
    grants: [{ system: ldap, entitlement: engineers }]
  - name: tools
    grants: [{ system: scim, entitlement: git }]
  - name: project
    when: size(identity.projects) > 0
    includes: [tools]
"#;

    #[test]
    fn every_right_has_all_its_reasons() {
        let policy = policy(POLICY);
        let wanted = evaluate(
            &policy,
            &facts(json!({"department": "Engineering", "projects": ["P1"]})),
        )
        .unwrap();
        let told: Vec<String> = wanted
            .grants
            .iter()
            .map(|grant| {
                let ways: Vec<String> = grant
                    .reasons
                    .iter()
                    .map(|reason| reason.via.join(">"))
                    .collect();
                format!(
                    "{}/{}: {}",
                    grant.system,
                    grant.entitlement,
                    ways.join(", ")
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "ldap/engineers: engineer",
                "scim/git: engineer>tools, project>tools"
            ]
        );
        let systems: Vec<&str> = wanted
            .accounts
            .iter()
            .map(|account| account.system.as_str())
            .collect();
        assert_eq!(systems, ["ldap", "scim"]);
        assert_eq!(wanted.grants[0].reasons[0].line, 6);
        assert_eq!(
            wanted.grants[0].reasons[0].rule,
            "has(identity.department) && identity.department == \"Engineering\""
        );
        assert_eq!(wanted.policy_hash, policy.hash());
    }

    #[test]
    fn a_leaver_wants_nothing_even_when_a_rule_is_broken() {
        let policy =
            policy("roles: [{ name: a, when: identity.department == 'x', accounts: [ldap] }]");
        let mut facts = facts(json!({}));
        facts.active = false;
        let wanted = evaluate(&policy, &facts).unwrap();
        assert!(wanted.accounts.is_empty() && wanted.grants.is_empty() && !wanted.active);
    }

    #[test]
    fn a_rule_without_an_answer_fails_the_person() {
        let policy =
            policy("roles: [{ name: a, when: identity.department == 'x', accounts: [ldap] }]");
        let error = evaluate(&policy, &facts(json!({"department": null}))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rule of role `a` at `roles.yaml`:1 cannot be evaluated for `U1`: `department` is not set; \
             guard it with `has(...)`; the rule is `identity.department == 'x'`"
        );
    }

    /// The target is 2,000 people by 40 rules well under a second in a release build. A debug build is
    /// several times slower and shares the machine, so the bound here only catches a change of order.
    #[test]
    fn a_company_is_evaluated_quickly() {
        use std::fmt::Write as _;
        let mut text = String::from("roles:\n");
        for role in 0..40 {
            let _ = writeln!(
                text,
                "- name: r{role}\n  when: has(identity.department) && identity.department == 'd{role}'\n  \
                 grants: [{{ system: ldap, entitlement: g{role} }}]"
            );
        }
        let policy = policy(&text);
        let people: Vec<IdentityFacts> = (0..2_000)
            .map(|person| facts(json!({"department": format!("d{}", person % 40), "projects": []})))
            .collect();
        #[expect(clippy::disallowed_methods, reason = "this test measures real time")]
        let start = std::time::Instant::now();
        let grants: usize = people
            .iter()
            .map(|person| evaluate(&policy, person).unwrap().grants.len())
            .sum();
        let took = start.elapsed();
        assert_eq!(grants, 2_000);
        assert!(took.as_secs() < 10, "took {took:?}");
        #[expect(
            clippy::print_stderr,
            reason = "the number is wanted when this test is run alone"
        )]
        {
            eprintln!("2,000 people x 40 rules: {took:?}");
        }
    }

    proptest! {
        /// Facts alone decide: the order of files, roles and attributes does not.
        #[test]
        fn the_same_facts_give_the_same_answer(
            department in prop::option::of("[A-C]"),
            projects in prop::collection::vec("[p-r]", 0..3),
            swap in any::<bool>(),
        ) {
            let mut files = vec![
                ("a.yaml".to_owned(), "roles:\n- name: dep\n  when: has(identity.department) && identity.department == 'A'\n  grants: [{ system: ldap, entitlement: a }]\n".to_owned()),
                ("b.yaml".to_owned(), "roles:\n- name: pro\n  when: \"'p' in identity.projects\"\n  grants: [{ system: ldap, entitlement: a }, { system: scim, entitlement: p }]\n".to_owned()),
            ];
            if swap {
                files.reverse();
            }
            let policy = PolicySet::load(&files, &schema()).unwrap();
            let mut attributes = json!({"projects": projects});
            if let Some(department) = &department {
                attributes["department"] = json!(department);
            }
            let wanted = evaluate(&policy, &facts(attributes)).unwrap();
            let in_a = department.as_deref() == Some("A");
            let in_p = projects.iter().any(|project| project == "p");
            let mut expected = Vec::new();
            if in_a || in_p { expected.push("a"); }
            if in_p { expected.push("p"); }
            let got: Vec<&str> = wanted.grants.iter().map(|grant| grant.entitlement.as_str()).collect();
            prop_assert_eq!(got, expected);
            let reasons = usize::from(in_a) + 2 * usize::from(in_p);
            prop_assert_eq!(wanted.grants.iter().map(|grant| grant.reasons.len()).sum::<usize>(), reasons);
        }
    }
}
