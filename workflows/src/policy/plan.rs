//! The way from what is held to what is wanted.
//!
//! Only what policy gave is taken back: a grant that an approved exception carries, or that was there before
//! Tenure came, stays until its own end. The one exception is a person who is no longer active: then nothing
//! is left, whoever gave it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::evaluate::{Wanted, WantedAccount, WantedGrant};
use super::set::Grant;

/// Why a grant is held, as the directory knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// A role gave it; when no role does any more, it goes.
    Policy,
    /// An approved departure with an end of its own.
    Exception,
    /// Found on the system, given by nobody we know.
    Unmanaged,
}

/// What somebody has now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// By system: whether the account can log in.
    pub accounts: BTreeMap<String, bool>,
    pub grants: BTreeMap<Grant, HeldBy>,
}

/// The steps, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub create_accounts: Vec<WantedAccount>,
    /// Held, disabled, wanted again: somebody came back.
    pub accounts_to_enable: Vec<WantedAccount>,
    pub grants_to_add: Vec<WantedGrant>,
    /// (system, entitlement)
    pub grants_to_remove: Vec<(String, String)>,
    /// Systems whose account is held, can log in, and is no longer wanted.
    pub accounts_to_disable: Vec<String>,
}

impl Plan {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Plans the way from `held` to `wanted`.
#[must_use]
pub fn plan(wanted: &Wanted, held: &Held) -> Plan {
    let wanted_grants: BTreeSet<(&str, &str)> = wanted
        .grants
        .iter()
        .map(|grant| (grant.system.as_str(), grant.entitlement.as_str()))
        .collect();
    let wanted_systems: BTreeSet<&str> = wanted
        .accounts
        .iter()
        .map(|account| account.system.as_str())
        .collect();
    let with_state = |state: Option<bool>| -> Vec<WantedAccount> {
        wanted
            .accounts
            .iter()
            .filter(|account| held.accounts.get(&account.system).copied() == state)
            .cloned()
            .collect()
    };
    Plan {
        create_accounts: with_state(None),
        accounts_to_enable: with_state(Some(false)),
        grants_to_add: wanted
            .grants
            .iter()
            .filter(|grant| {
                !held.grants.contains_key(&Grant {
                    system: grant.system.clone(),
                    entitlement: grant.entitlement.clone(),
                })
            })
            .cloned()
            .collect(),
        grants_to_remove: held
            .grants
            .iter()
            .filter(|(grant, by)| {
                !wanted_grants.contains(&(grant.system.as_str(), grant.entitlement.as_str()))
                    && !rests(wanted, &wanted_systems, grant)
                    && (**by == HeldBy::Policy || !wanted.active)
            })
            .map(|(grant, _)| (grant.system.clone(), grant.entitlement.clone()))
            .collect(),
        accounts_to_disable: held
            .accounts
            .iter()
            .filter(|(system, enabled)| **enabled && !wanted_systems.contains(system.as_str()))
            // An exception may be the reason for the account.
            .filter(|(system, _)| {
                !wanted.active || wanted.suspended.is_some() || !keeps_account(held, system)
            })
            .map(|(system, _)| system.clone())
            .collect(),
    }
}

/// Whether a right waits, on a disabled account, for somebody to come back.
fn rests(wanted: &Wanted, open: &BTreeSet<&str>, grant: &Grant) -> bool {
    let mut suspended = wanted.suspended.iter().flatten();
    !open.contains(grant.system.as_str())
        && suspended
            .any(|waits| waits.system == grant.system && waits.entitlement == grant.entitlement)
}

fn keeps_account(held: &Held, system: &str) -> bool {
    held.grants
        .iter()
        .any(|(grant, by)| grant.system == system && *by == HeldBy::Exception)
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

    use super::*;

    fn wanted(active: bool, accounts: &[&str], grants: &[(&str, &str)]) -> Wanted {
        Wanted {
            active,
            accounts: accounts
                .iter()
                .map(|system| WantedAccount {
                    system: (*system).to_owned(),
                    reasons: Vec::new(),
                })
                .collect(),
            grants: grants
                .iter()
                .map(|(system, entitlement)| WantedGrant {
                    system: (*system).to_owned(),
                    entitlement: (*entitlement).to_owned(),
                    reasons: Vec::new(),
                })
                .collect(),
            suspended: None,
            policy_hash: String::new(),
        }
    }

    fn held(accounts: &[(&str, bool)], grants: &[(&str, &str, HeldBy)]) -> Held {
        Held {
            accounts: accounts
                .iter()
                .map(|(system, enabled)| ((*system).to_owned(), *enabled))
                .collect(),
            grants: grants
                .iter()
                .map(|(system, entitlement, by)| {
                    (
                        Grant {
                            system: (*system).to_owned(),
                            entitlement: (*entitlement).to_owned(),
                        },
                        *by,
                    )
                })
                .collect(),
        }
    }

    fn told(plan: &Plan) -> String {
        let mut lines = Vec::new();
        for account in &plan.create_accounts {
            lines.push(format!("create {}", account.system));
        }
        for account in &plan.accounts_to_enable {
            lines.push(format!("enable {}", account.system));
        }
        for grant in &plan.grants_to_add {
            lines.push(format!("add {}/{}", grant.system, grant.entitlement));
        }
        for (system, entitlement) in &plan.grants_to_remove {
            lines.push(format!("remove {system}/{entitlement}"));
        }
        for system in &plan.accounts_to_disable {
            lines.push(format!("disable {system}"));
        }
        lines.join("\n")
    }

    #[track_caller]
    fn check(wanted: &Wanted, held: &Held, expected: &str) {
        assert_eq!(told(&plan(wanted, held)), expected);
    }

    #[test]
    fn joiner_mover_leaver_and_rehire() {
        use HeldBy::{Exception, Policy, Unmanaged};
        check(
            &wanted(true, &["ldap", "scim"], &[("ldap", "a")]),
            &Held::default(),
            "create ldap\ncreate scim\nadd ldap/a",
        );
        check(
            &wanted(true, &["ldap"], &[("ldap", "b")]),
            &held(
                &[("ldap", true), ("scim", true)],
                &[("ldap", "a", Policy), ("scim", "x", Policy)],
            ),
            "add ldap/b\nremove ldap/a\nremove scim/x\ndisable scim",
        );
        check(
            &wanted(false, &[], &[]),
            &held(
                &[("ldap", true), ("scim", false)],
                &[
                    ("ldap", "a", Policy),
                    ("ldap", "e", Exception),
                    ("ldap", "u", Unmanaged),
                ],
            ),
            "remove ldap/a\nremove ldap/e\nremove ldap/u\ndisable ldap",
        );
        check(
            &wanted(true, &["ldap"], &[("ldap", "a")]),
            &held(&[("ldap", false)], &[]),
            "enable ldap\nadd ldap/a",
        );
    }

    #[test]
    fn what_policy_did_not_give_it_does_not_take() {
        use HeldBy::{Exception, Unmanaged};
        check(
            &wanted(true, &["ldap"], &[]),
            &held(
                &[("ldap", true)],
                &[("ldap", "e", Exception), ("ldap", "u", Unmanaged)],
            ),
            "",
        );
        // The exception is a reason for the account, too.
        check(
            &wanted(true, &[], &[]),
            &held(&[("ldap", true)], &[("ldap", "e", Exception)]),
            "",
        );
    }

    #[test]
    fn somebody_on_leave_keeps_what_waits_for_them_behind_a_closed_door() {
        use HeldBy::{Exception, Policy, Unmanaged};
        let away = |accounts: &[&str], kept: &[(&str, &str)], waits: &[(&str, &str)]| Wanted {
            suspended: Some(wanted(true, &[], waits).grants),
            ..wanted(true, accounts, kept)
        };
        let has = held(
            &[("ldap", true), ("scim", true)],
            &[
                ("ldap", "a", Policy),
                ("ldap", "old", Policy),
                ("scim", "x", Policy),
                ("scim", "e", Exception),
                ("scim", "u", Unmanaged),
            ],
        );
        check(
            &away(&[], &[], &[("ldap", "a"), ("scim", "x")]),
            &has,
            "remove ldap/old\ndisable ldap\ndisable scim",
        );
        // The account on ldap stays open for what is kept: what waits may not be used there.
        check(
            &away(
                &["ldap"],
                &[("ldap", "mail")],
                &[("ldap", "a"), ("scim", "x")],
            ),
            &has,
            "add ldap/mail\nremove ldap/a\nremove ldap/old\ndisable scim",
        );
        // Back again: exactly what was there.
        check(
            &wanted(true, &["ldap", "scim"], &[("ldap", "a"), ("scim", "x")]),
            &held(
                &[("ldap", false), ("scim", false)],
                &[
                    ("ldap", "a", Policy),
                    ("scim", "x", Policy),
                    ("scim", "e", Exception),
                    ("scim", "u", Unmanaged),
                ],
            ),
            "enable ldap\nenable scim",
        );
    }

    proptest! {
        /// Carrying the plan out leaves nothing to plan, and a leaver with nothing.
        #[test]
        fn one_plan_is_enough(
            active in any::<bool>(),
            want in prop::collection::btree_set((0..3_u8, 0..4_u8), 0..8),
            have in prop::collection::btree_map((0..3_u8, 0..4_u8), 0..3_u8, 0..8),
            logins in prop::collection::btree_map(0..3_u8, any::<bool>(), 0..3),
        ) {
            let name = |(system, entitlement): &(u8, u8)| (format!("s{system}"), format!("e{entitlement}"));
            let grants: Vec<(String, String)> = if active { want.iter().map(name).collect() } else { Vec::new() };
            let grants: Vec<(&str, &str)> = grants.iter().map(|(s, e)| (s.as_str(), e.as_str())).collect();
            let systems: BTreeSet<&str> = grants.iter().map(|(system, _)| *system).collect();
            let wanted = wanted(active, &systems.into_iter().collect::<Vec<_>>(), &grants);
            let mut held = Held {
                accounts: logins.iter().map(|(system, enabled)| (format!("s{system}"), *enabled)).collect(),
                grants: have.iter().map(|(grant, by)| {
                    let (system, entitlement) = name(grant);
                    (Grant { system, entitlement }, [HeldBy::Policy, HeldBy::Exception, HeldBy::Unmanaged][usize::from(*by)])
                }).collect(),
            };
            let first = plan(&wanted, &held);
            for account in first.create_accounts.iter().chain(&first.accounts_to_enable) {
                held.accounts.insert(account.system.clone(), true);
            }
            for system in &first.accounts_to_disable {
                held.accounts.insert(system.clone(), false);
            }
            for grant in &first.grants_to_add {
                held.grants.insert(
                    Grant { system: grant.system.clone(), entitlement: grant.entitlement.clone() },
                    HeldBy::Policy,
                );
            }
            for (system, entitlement) in &first.grants_to_remove {
                held.grants.remove(&Grant { system: system.clone(), entitlement: entitlement.clone() });
            }
            prop_assert!(plan(&wanted, &held).is_empty());
            if !active {
                prop_assert!(held.grants.is_empty());
                prop_assert!(held.accounts.values().all(|enabled| !enabled));
            }
        }
    }
}
