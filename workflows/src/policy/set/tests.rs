#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use std::collections::BTreeMap;

use super::*;
use crate::policy::schema::{AttributeDeclaration, AttributeKind};

pub(crate) fn schema() -> Schema {
    Schema::new(["ldap", "scim"]).with_source(&BTreeMap::from([
        (
            "department".to_owned(),
            AttributeDeclaration::optional(AttributeKind::Text),
        ),
        (
            "name".to_owned(),
            AttributeDeclaration::required(AttributeKind::Text),
        ),
    ]))
}

fn load(text: &str) -> Result<PolicySet, Problems> {
    PolicySet::load(&[("roles/a.yaml".to_owned(), text.to_owned())], &schema())
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(load(text).unwrap_err().to_string(), expected);
}

#[track_caller]
fn warned(text: &str, expected: &[&str]) {
    let set = load(text).unwrap();
    let warnings: Vec<String> = set.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, expected);
}

const GOOD: &str = r#"
roles:
  - name: everybody
    when: "true"
    accounts: [ldap]
    grants: [{ system: ldap, entitlement: staff }]
  - name: engineer
    when: has(identity.department) && identity.department == "Engineering"
    includes: [developer-tools]
  - name: developer-tools
    grants:
      - { system: scim, entitlement: git }
      - { system: ldap, entitlement: dev }
"#;

#[test]
fn a_good_policy_loads() {
    let set = load(GOOD).unwrap();
    assert_eq!(set.warnings(), []);
    assert_eq!(set.roles().count(), 3);
    assert_eq!(set.governed().len(), 3);
    assert_eq!(
        set.bundle("engineer")[1].via,
        ["engineer", "developer-tools"]
    );
    assert_eq!(set.hash().len(), 64);
}

#[test]
fn the_version_depends_on_meaning_alone() {
    let hash = load(GOOD).unwrap().hash().to_owned();
    // Comments, order of roles and grants, files: no difference.
    let (first, second) = GOOD.split_at(GOOD.find("  - name: engineer").unwrap());
    let split = PolicySet::load(
        &[
            ("b.yaml".to_owned(), format!("# moved\n{first}")),
            ("a.yaml".to_owned(), format!("roles:\n{second}")),
        ],
        &schema(),
    )
    .unwrap();
    assert_eq!(split.hash(), hash);
    let changed = GOOD.replace("git", "svn");
    assert_ne!(load(&changed).unwrap().hash(), hash);
    let rule = GOOD.replace("\"Engineering\"", "\"Sales\"");
    assert_ne!(load(&rule).unwrap().hash(), hash);
}

#[test]
fn what_holds_for_joiners_and_movers_is_checked() {
    let good = format!(
        "{GOOD}attributes:\n  department: {{ owner: 'role:hr', required: true }}\nmoves:\n  order: add_first\n  exclusive:\n    - [{{ system: ldap, entitlement: dev }}, {{ system: ldap, entitlement: staff }}]\n"
    );
    let set = load(&good).unwrap();
    assert!(set.attributes()["department"].required);
    let grant = |entitlement: &str| Grant {
        system: "ldap".to_owned(),
        entitlement: entitlement.to_owned(),
    };
    let goes_first = |old: &str, new: &str| set.moves().goes_first(&grant(old), &grant(new));
    assert!(goes_first("staff", "dev") && goes_first("dev", "staff"));
    assert!(!goes_first("staff", "vpn"));
    assert_ne!(set.hash(), load(GOOD).unwrap().hash());
    // Whom to ask decides nothing.
    let other = good.replace("role:hr", "role:people");
    assert_eq!(load(&other).unwrap().hash(), set.hash());
    let grace = GOOD.replace(
        "  - name: engineer\n",
        "  - name: engineer\n    grace: 14d\n",
    );
    let set = load(&grace).unwrap();
    assert_eq!(
        set.role("engineer").unwrap().grace.unwrap().to_string(),
        "14d"
    );
    assert_ne!(set.hash(), load(GOOD).unwrap().hash());
    refused(
        "attributes: { departmnt: { required: true } }\n",
        "`roles/a.yaml`: no source delivers an attribute `departmnt`; fix: did you mean `department`? attributes are `department`, `key`, `name`",
    );
    refused(
        "attributes: { department: { owner: ' ' } }\n",
        "`roles/a.yaml`: the owner of attribute `department` is empty; fix: name a role or a mailbox, or leave it out",
    );
    refused(
        "moves:\n  exclusive:\n    - [{ system: ldap, entitlement: a }, { system: scim, entitlement: b }]\n",
        "`roles/a.yaml`:3:52: `ldap` and `scim` are two systems; the order is kept within one; fix: name two rights of one system",
    );
    refused(
        "moves:\n  exclusive:\n    - [{ system: ldap, entitlement: a }, { system: ldap, entitlement: a }]\n",
        "`roles/a.yaml`:3:71: `a` cannot exclude itself; fix: name two rights",
    );
    for (wrong, says) in [
        ("moves: { order: first }\n", "add_first"),
        ("moves: { exclusive: [[]] }\n", "roles/a.yaml"),
        (
            "roles: [{ name: a, when: 'true', grace: 14 }]\n",
            "`14` is not a length of time",
        ),
        (
            "roles: [{ name: a, when: 'true', grace: soon }]\n",
            "`soon` is not a length of time",
        ),
        (
            "roles: [{ name: a, when: 'true', grace: 9000d }]\n",
            "is not a length of time",
        ),
        ("attributes: { department: yes }\n", "roles/a.yaml"),
    ] {
        let problems = load(wrong).unwrap_err().to_string();
        assert!(problems.contains(says), "{wrong}: {problems}");
    }
}

#[test]
fn a_circle_is_printed_as_a_path() {
    refused(
        "roles:\n- { name: a, when: 'true', includes: [b] }\n- { name: b, includes: [c] }\n- { name: c, includes: [a] }\n",
        "`roles/a.yaml`:2: roles include each other in a circle: a -> b -> c -> a; fix: remove one of these `includes`",
    );
    refused(
        "roles:\n- { name: a, when: 'true', includes: [a] }\n",
        "`roles/a.yaml`:2: roles include each other in a circle: a -> a; fix: remove one of these `includes`",
    );
}

#[test]
fn two_circles_are_two_problems() {
    let problems = load(
            "roles:\n- { name: a, includes: [b] }\n- { name: b, includes: [a, c] }\n- { name: c, includes: [d] }\n- { name: d, includes: [c] }\n",
        )
        .unwrap_err();
    assert_eq!(problems.list.len(), 2, "{problems}");
}

#[test]
fn names_that_do_not_exist_are_told() {
    refused(
        "roles:\n- name: a\n  when: 'true'\n  grants: [{ system: ldpa, entitlement: x }]\n",
        "`roles/a.yaml`:4:22: there is no system `ldpa`; fix: did you mean `ldap`? configured systems are `ldap`, `scim`",
    );
    refused(
        "roles:\n- name: a\n  when: 'true'\n  accounts: [oracle]\n",
        "`roles/a.yaml`:4:14: there is no system `oracle`; fix: configured systems are `ldap`, `scim`",
    );
    refused(
        "roles:\n- name: staff\n  when: 'true'\n  includes: [staf]\n",
        "`roles/a.yaml`:4:14: role `staff` includes `staf`, which does not exist; fix: did you mean `staff`? roles are `staff`",
    );
}

#[test]
fn rules_are_checked_at_load() {
    refused(
        "roles:\n- name: a\n  when: identity.department = 'x'\n",
        "`roles/a.yaml`:3:9: the rule of role `a` at character 21: a single `=` means nothing; fix: compare with `==`",
    );
    refused(
        "roles:\n- name: a\n  when: |\n    true &&\n    identity.deprtment == 'x'\n",
        "`roles/a.yaml`:4:5: the rule of role `a` at line 2, character 9: `identity` has no attribute `deprtment`; \
             fix: did you mean `department`? attributes are `department`, `key`, `name`",
    );
    refused(
        "roles:\n- name: a\n  when: identity.name\n",
        "`roles/a.yaml`:3:9: the rule of role `a`: the expression gives a text, not true or false; \
             fix: compare it with something, as in `identity.x == \"y\"`",
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let problems = load(
            "roles:\n- { name: a, when: 'x' }\n- { name: a, when: 'true' }\n- { name: 'b c', when: 'true' }\n",
        )
        .unwrap_err();
    assert_eq!(
        problems.to_string(),
        "`roles/a.yaml`:2:20: the rule of role `a` at character 1: `x` is not known; \
             fix: variables are `identity`; texts are written in quotes\n\
             `roles/a.yaml`:3:11: role `a` is defined twice; the first is at `roles/a.yaml`:2; fix: rename or remove one of them\n\
             `roles/a.yaml`:4:11: `b c` is no name for a role; fix: use up to 100 letters, digits, `-`, `_`, `.` and `:`"
    );
}

#[test]
fn an_empty_policy_is_refused() {
    refused(
        "roles: []\n",
        "`policy`: the policy has no roles, so it would take all access from everybody; fix: add at least one role",
    );
    assert!(PolicySet::load(&[], &schema()).is_err());
}

#[test]
fn likely_slips_are_warnings() {
    warned(
        "roles:\n- { name: a, when: 'true' }\n- { name: b, grants: [{ system: ldap, entitlement: x }, { system: ldap, entitlement: x }] }\n",
        &[
            "`roles/a.yaml`:2:11: role `a` gives nothing; fix: add `grants`, `accounts` or `includes`, or remove it",
            "`roles/a.yaml`:3:86: role `b` grants `x` twice; fix: remove one of them",
            "`roles/a.yaml`:3: nobody can have role `b`: it has no rule and no role with a rule includes it; \
                 fix: add `when`, or include it somewhere",
        ],
    );
    warned(
        "roles:\n- name: a\n  when: identity.department == 'x'\n  accounts: [ldap]\n",
        &[
            "`roles/a.yaml`:3:9: the rule of role `a` at character 9: `identity.department` may be missing; \
               the rule then fails for that person; fix: write `has(identity.department) && ...`",
        ],
    );
}

/// One policy serves all workers at the same time.
#[test]
fn a_policy_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<PolicySet>();
    shared::<crate::sources::Source>();
}

#[test]
fn a_role_comes_once_however_many_ways_lead_to_it() {
    let set = load(
        "roles:\n- { name: a, when: 'true', includes: [b, c] }\n- { name: b, includes: [d] }\n\
         - { name: c, includes: [d] }\n- { name: d, accounts: [ldap] }\n",
    )
    .unwrap();
    let ways: Vec<String> = set
        .bundle("a")
        .iter()
        .map(|bundled| bundled.via.join(">"))
        .collect();
    assert_eq!(ways, ["a", "a>b", "a>c", "a>b>d"]);
}
