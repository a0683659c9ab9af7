#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "tests"
)]
use proptest::prelude::*;

use super::*;
use crate::policy::schema::{AttributeDeclaration, AttributeKind, Schema};

fn schema() -> Schema {
    Schema::new(["ldap", "scim"]).with_source(&BTreeMap::from([(
        "department".to_owned(),
        AttributeDeclaration::optional(AttributeKind::Text),
    )]))
}

fn load(text: &str) -> Result<PolicySet, String> {
    let files = [("p.yaml".to_owned(), text.to_owned())];
    PolicySet::load(&files, &schema()).map_err(|problems| problems.to_string())
}

const ROLES: &str = r#"
roles:
  - { name: staff, when: "true", accounts: [ldap], grants: [{ system: ldap, entitlement: staff }] }
  - name: ops
    when: has(identity.department) && identity.department == "IT"
    grants: [{ system: ldap, entitlement: Domain Admins }, { system: scim, entitlement: tools }]
"#;

fn person(key: usize, department: &str) -> IdentityFacts {
    IdentityFacts {
        key: format!("E{key:03}"),
        attributes: BTreeMap::from([("department".to_owned(), json!(department))]),
        active: true,
        on_leave: false,
    }
}

fn told(blast: &Blast) -> Vec<String> {
    let slices = blast.slices.iter();
    slices
        .map(|slice| {
            format!(
                "{} {}={} {}",
                slice.operation, slice.by, slice.value, slice.count
            )
        })
        .collect()
}

#[test]
fn effects_are_counted_by_operation_and_slice() {
    let policy = load(ROLES).unwrap();
    let attributes = BTreeSet::from(["department".to_owned()]);
    let moved = Pair {
        before: Some(person(1, "Sales")),
        after: Some(person(1, "IT")),
    };
    let gone = Pair {
        before: Some(person(2, "Sales")),
        after: None,
    };
    let blast = blast(&policy, &policy, policy.guard(), &attributes, [moved, gone]);
    assert_eq!(
        told(&blast),
        [
            "identity.change all= 1",
            "identity.change department=IT 1",
            "identity.remove all= 1",
            "identity.remove department=Sales 1",
            "account.create all= 1",
            "account.create department=IT 1",
            "account.create role=ops 1",
            "account.create system=scim 1",
            "account.close all= 1",
            "account.close department=Sales 1",
            "account.close role=staff 1",
            "account.close system=ldap 1",
            "grant.give all= 1",
            "grant.give department=IT 1",
            "grant.give entitlement=ldap/Domain Admins 1",
            "grant.give entitlement=scim/tools 1",
            "grant.give privileged= 1",
            "grant.give role=ops 1",
            "grant.give system=ldap 1",
            "grant.give system=scim 1",
            "grant.take all= 1",
            "grant.take department=Sales 1",
            "grant.take entitlement=ldap/staff 1",
            "grant.take role=staff 1",
            "grant.take system=ldap 1",
        ]
    );
    assert_eq!(blast.losers, BTreeSet::from(["E002".to_owned()]));
}

#[test]
fn the_digest_is_of_every_single_effect() {
    let policy = load(ROLES).unwrap();
    let of = |keys: &[usize]| {
        let pairs = keys.iter().map(|key| Pair {
            before: Some(person(*key, "IT")),
            after: None,
        });
        blast(&policy, &policy, policy.guard(), &BTreeSet::new(), pairs).digest
    };
    assert_eq!(of(&[1, 2]), of(&[2, 1]));
    assert_ne!(of(&[1, 2]), of(&[1, 3]));
}

#[test]
fn mistakes_in_the_guard_are_told_with_their_place() {
    let check = |guard: &str, expected: &str| {
        let error = load(&format!("{ROLES}guard:\n  {guard}\n")).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "limits: [{ operation: grant.give, by: privilege, count_max: 1 }]",
        "there is no slice `privilege`; fix: did you mean `privileged`?",
    );
    check(
        "limits: [{ operation: grant.giv, count_max: 1 }]",
        "there is no operation `grant.giv`; fix: did you mean `grant.give`?",
    );
    check(
        "limits: [{ operation: identity.remove, by: system, count_max: 1 }]",
        "`identity.remove` has no slices by `system`",
    );
    check(
        "limits: [{ operation: identity.remove }]",
        "a limit says neither `share_max` nor `count_max`",
    );
    check(
        "limits: [{ operation: identity.remove, share_max: 5 }]",
        "`share_max` is 5; fix: give a share between `0` and `1`",
    );
    check("window: 1s", "`window` is 1s; fix: give `1m` to `31d`");
    check(
        "protected: [{ system: ldap }]",
        "says not exactly one thing",
    );
    check(
        "protected: [{ when: 'identity.dep == 1' }]",
        "`guard.protected`",
    );
    check("limit: []", "unknown field `limit`");
    let two = [
        ("a.yaml", "guard: {}\n"),
        ("b.yaml", "guard: {}\n"),
        ("c.yaml", ROLES),
    ];
    let two = two.map(|(file, text)| (file.to_owned(), text.to_owned()));
    let error = PolicySet::load(&two, &schema()).unwrap_err().to_string();
    assert!(error.contains("there is a `guard` in `a.yaml`"), "{error}");
}

#[test]
fn an_own_limit_takes_the_place_of_the_built_in_one() {
    let policy = load(&format!(
        "{ROLES}guard:\n  limits:\n    - {{ operation: grant.give, by: privileged, count_max: 3 }}\n"
    ))
    .unwrap();
    let limits = policy.guard().limits.iter();
    let ours: Vec<_> = limits
        .filter(|limit| limit.operation == Operation::GrantGive && limit.by == "privileged")
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].count_max, Some(3));
    assert_ne!(policy.hash(), load(ROLES).unwrap().hash());
}

#[test]
fn a_rule_without_an_answer_protects() {
    let policy = load(&format!(
        "{ROLES}guard:\n  protected:\n    - {{ key: E001 }}\n    - {{ when: 'identity.department == \"Board\"' }}\n    \
         - {{ system: ldap, account: \"break*\" }}\n"
    ))
    .unwrap();
    let rules = policy.guard();
    assert!(rules.protects(&person(1, "Sales")));
    assert!(rules.protects(&person(2, "Board")));
    assert!(!rules.protects(&person(2, "Sales")));
    let mut unknown = person(2, "Sales");
    unknown.attributes.clear();
    assert!(rules.protects(&unknown));
    assert!(
        rules.protects_account("ldap", "breakglass")
            && !rules.protects_account("scim", "breakglass")
    );
}

fn removals(count: u64) -> Blast {
    Blast {
        slices: vec![Slice {
            operation: Operation::IdentityRemove,
            by: "all".to_owned(),
            value: String::new(),
            count,
            population: 0,
            people: Vec::new(),
        }],
        ..Blast::default()
    }
}

fn limit(share_max: Option<f64>, count_max: Option<u64>, population_min: u64) -> LimitRule {
    LimitRule {
        operation: Operation::IdentityRemove,
        by: "all".to_owned(),
        sources: None,
        share_max,
        count_max,
        population_min,
    }
}

/// Takes people away in pieces, as long as the guard lets them; says how many are gone.
fn taken(limits: &[LimitRule], company: u64, pieces: &[u64]) -> u64 {
    let mut past: Vec<Slice> = Vec::new();
    let mut present = company;
    for piece in pieces {
        let piece = (*piece).min(present);
        let now = removals(piece);
        let asked = questions(limits, "hr", &past, &now);
        let populations: Populations = asked
            .into_iter()
            .map(|question| {
                let place = (question.operation, question.by, question.value);
                (place, present.min(question.enough))
            })
            .collect();
        if piece > 0 && judge(limits, "hr", &past, &now, &populations).is_empty() {
            past.extend(remembered(limits, "hr", &now));
            present -= piece;
        }
    }
    company - present
}

proptest! {
    /// However a bad file is cut, no more gets through than the limit allows for the whole.
    #[test]
    fn no_slicing_gets_more_through_than_the_limit(
        company in 1..3_000_u64,
        pieces in prop::collection::vec(0..400_u64, 1..60),
        share in prop::option::of(1..100_u32),
        count in prop::option::of(0..300_u64),
        least in 0..60_u64,
    ) {
        prop_assume!(share.is_some() || count.is_some());
        let share = share.map(|share| f64::from(share) / 100.0);
        let limits = [limit(share, count, least)];
        let gone = taken(&limits, company, &pieces);
        if let Some(count) = count {
            prop_assert!(gone <= count);
        }
        if let Some(share) = share && company >= least {
            prop_assert!(gone as f64 <= share * company as f64 + 1e-9, "{gone} of {company}");
        }
    }

    /// And the whole in one piece passes exactly when it keeps the limit.
    #[test]
    fn one_piece_within_the_limit_passes(company in 20..3_000_u64, gone in 1..3_000_u64) {
        let gone = gone.min(company);
        let limits = [limit(Some(0.1), None, 20)];
        let passes = taken(&limits, company, &[gone]) == gone;
        prop_assert_eq!(passes, gone as f64 / company as f64 <= 0.1);
    }
}
