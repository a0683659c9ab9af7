//! People who are pushed over SCIM: what a user is read as, and which facts follow from a change.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::policy::{LeaverRules, Problems};
use crate::sources::pushed::{Named, Pushed};
use crate::sources::{ChangeKind, Key, Record, Source, Told, differ_pushed, shared_tokens};

const TENURE: &str = "urn:ietf:params:scim:schemas:extension:tenure:2.0:User";

const IDP: &str = "\
name: idp
kind: scim
tokens: [idp]
key: externalId
time_zone: Europe/Zurich
columns:
  name: displayName
  department: department
  mail: emails[type eq \"work\"].value
  level: { cel: 'row.userName == \"boss\" ? 9 : 1', type: integer }
  groups: { column: groups.display, type: list }
required: [name]
project: { column: roles.value }
change_events: { department: cost_center.changed }
";

fn idp() -> Source {
    Source::load("idp.yaml", IDP).unwrap()
}

fn now() -> DateTime<Utc> {
    "2027-03-10T15:00:00.000001Z".parse().unwrap()
}

fn fields(more: Value) -> Map<String, Value> {
    let mut user =
        json!({ "userName": "ada", "externalId": "E1", "displayName": "Ada", "active": true });
    let user = user.as_object_mut().unwrap();
    user.extend(more.as_object().unwrap().clone());
    user.clone()
}

fn record(more: Value) -> Record {
    Pushed::read(&idp(), &fields(more)).unwrap().record(None)
}

#[test]
fn a_user_is_read_by_paths_and_expressions() {
    let user = fields(json!({
        "emails": [{ "value": "h@x", "type": "home" }, { "value": "w1@x", "type": "work" },
            { "value": "w2@x", "type": "work", "primary": true }],
        "groups": [{ "value": "1", "display": "b; c" }, { "value": "2", "display": "a" }],
        "roles": [{ "value": "P2" }, { "value": "P1" }],
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab", "manager": { "value": "m1" } },
        TENURE: { "startDate": "2027-04-01", "contractStart": "2027-03-01", "personType": "guest", "onLeave": true,
            "workTimeZone": "Asia/Tokyo" },
    }));
    let pushed = Pushed::read(&idp(), &user).unwrap();
    assert_eq!(pushed.key, Key::new("E1"));
    assert_eq!(pushed.manager, Some(Named::Id("m1".to_owned())));
    let read = pushed.clone().record(Some("E9"));
    let expected = json!({
        "name": "Ada", "department": "Lab", "mail": "w2@x", "level": 1, "groups": ["a", "b; c"], "projects": ["P1", "P2"],
        "type": "guest", "employment_start": "2027-04-01", "employment_status": "leave", "time_zone": "Asia/Tokyo",
        "manager": "E9",
    });
    assert_eq!(json!(read.attributes), expected);
    // A manager nobody knows is a name.
    let read = pushed.record(None);
    assert_eq!(read.text("manager_name"), Some("m1"));
    assert_eq!(read.text("manager"), None);
}

#[test]
fn what_cannot_be_read_is_told() {
    for (more, says) in [
        (json!({ "externalId": null }), "the key is empty"),
        (
            json!({ "displayName": "" }),
            "the required attribute `name` is empty; fix: fill in column `displayName`",
        ),
        (
            json!({ TENURE: { "endDate": "31.12.2027" } }),
            "`endDate` is `31.12.2027`, not a date",
        ),
        (
            json!({ TENURE: { "workTimeZone": "Zurich" } }),
            "`time_zone` is `Zurich`, which is no time zone",
        ),
        (
            json!({ TENURE: { "personType": "robot" } }),
            "the type is `robot`",
        ),
    ] {
        let mut user = fields(more.clone());
        user.retain(|_, value| !value.is_null());
        let told = Pushed::read(&idp(), &user).unwrap_err().join("; ");
        assert!(told.contains(says), "{more}: {told}");
    }
}

/// `type@effective_at kind` of each fact.
#[track_caller]
fn check(before: Option<Value>, next: Option<Value>, expected: &[&str]) {
    let told = Told {
        before: before.map(record),
        next: next.map(record),
        gone: false,
        said: 7,
    };
    let changes = differ_pushed(&idp(), &LeaverRules::default(), &told, now());
    let facts: Vec<String> = changes
        .iter()
        .map(|change| {
            let at = change.event.effective_at.to_rfc3339();
            let at = if change.event.effective_at == now() {
                "now".to_owned()
            } else {
                at
            };
            format!("{} {at} {:?}", change.event.event_type, change.kind)
        })
        .collect();
    assert_eq!(facts, expected);
    for change in &changes {
        assert_eq!(
            (change.event.occurred_at, change.event.version),
            (now(), now().timestamp())
        );
    }
}

fn starts(day: &str) -> Value {
    json!({ TENURE: { "startDate": day } })
}

#[test]
fn a_push_holds_from_now_or_from_the_day_it_names() {
    let active = json!({});
    let inactive = json!({ "active": false });
    check(None, Some(active.clone()), &["hire now Create"]);
    check(None, Some(inactive.clone()), &[]);
    check(None, Some(starts("2019-01-01")), &["hire now Create"]);
    check(None, Some(starts("2027-03-10")), &["hire now Create"]);
    check(
        None,
        Some(starts("2027-04-01")),
        &["hire 2027-03-31T22:00:00+00:00 Create"],
    );
    let tokyo = json!({ TENURE: { "startDate": "2027-04-01", "workTimeZone": "Asia/Tokyo" } });
    check(
        None,
        Some(tokyo),
        &["hire 2027-03-31T15:00:00+00:00 Create"],
    );
    check(
        Some(active.clone()),
        Some(inactive.clone()),
        &["termination.effective now Remove"],
    );
    check(
        Some(inactive.clone()),
        Some(active.clone()),
        &["rehire now Create"],
    );
    check(
        Some(active.clone()),
        None,
        &["termination.effective now Remove"],
    );
    check(Some(inactive), None, &[]);
    check(Some(active.clone()), Some(active.clone()), &[]);
    let department = json!({ "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab" } });
    check(
        Some(active.clone()),
        Some(department),
        &["cost_center.changed now Update"],
    );
    let ends = json!({ TENURE: { "endDate": "2027-03-31" } });
    check(
        Some(active.clone()),
        Some(ends.clone()),
        &["termination.scheduled 2027-03-31T22:00:00+00:00 Remove"],
    );
    check(
        Some(ends),
        Some(active.clone()),
        &["termination.cancelled now Update"],
    );
    // Of an end that is past already: at the end of that day.
    let ended = json!({ "active": false, TENURE: { "endDate": "2027-03-01" } });
    check(
        Some(active),
        Some(ended),
        &["termination.effective 2027-03-01T23:00:00+00:00 Remove"],
    );
}

#[test]
fn a_first_day_that_has_not_come_is_moved_or_taken_back() {
    let april = || Some(starts("2027-04-01"));
    check(
        april(),
        Some(starts("2027-05-01")),
        &[
            "hire 2027-04-30T22:00:00+00:00 Update",
            "transfer now Update",
        ],
    );
    check(
        april(),
        Some(starts("2027-03-01")),
        &["hire now Update", "transfer now Update"],
    );
    let off = json!({ "active": false, TENURE: { "startDate": "2027-04-01" } });
    check(april(), Some(off), &["hire.rescinded now Remove"]);
    check(april(), None, &["hire.rescinded now Remove"]);
}

#[test]
fn statements_within_a_second_still_follow_one_another() {
    let told = |said| Told {
        before: Some(record(json!({}))),
        next: None,
        gone: false,
        said,
    };
    let version = |said| {
        differ_pushed(&idp(), &LeaverRules::default(), &told(said), now())[0]
            .event
            .version
    };
    let second = now().timestamp();
    assert_eq!(version(i64::MIN), second);
    assert_eq!(version(second), second + 1);
    assert_eq!(version(second + 40), second + 41);
    assert_eq!(version(i64::MAX), i64::MAX);
    let changes = differ_pushed(&idp(), &LeaverRules::default(), &told(0), now());
    assert_eq!(changes[0].kind, ChangeKind::Remove);
    let later = differ_pushed(
        &idp(),
        &LeaverRules::default(),
        &told(0),
        now() + TimeDelta::microseconds(1),
    );
    assert_ne!(changes[0].event.id, later[0].event.id);
}

#[test]
fn removals_that_come_one_by_one_are_held_against_the_limit_together() {
    let guarded = format!(
        "{IDP}guard: {{ removals: {{ count_max: 5, share_max: 0.1, population_min: 20 }} }}\n"
    );
    let source = Source::load("idp.yaml", &guarded).unwrap();
    let stops = |count, population| source.guard().assess_removals(count, population).is_some();
    assert!(!stops(2, 20) && stops(3, 20));
    assert!(!stops(5, 19) && stops(6, 19));
    assert!(!stops(5, 1_000) && stops(6, 1_000));
    // Counting no further than that says the same as counting everybody.
    let shares = IDP.to_owned() + "guard: { removals: { share_max: 0.001, population_min: 20 } }\n";
    let guard = Source::load("idp.yaml", &shares).unwrap().guard().clone();
    for count in 1..50 {
        let most = guard.population_to_count(count);
        for population in (0..60_000).step_by(997) {
            let stops = |population| guard.assess_removals(count, population).is_some();
            assert_eq!(
                stops(population),
                stops(population.min(most)),
                "{count} of {population}"
            );
        }
    }
}

#[track_caller]
fn refused(change: (&str, &str), says: &str) {
    assert!(IDP.contains(change.0), "{}", change.0);
    let problems: Problems =
        Source::load("idp.yaml", &IDP.replace(change.0, change.1)).unwrap_err();
    let told = problems.to_string();
    assert!(told.contains(says), "{told}");
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    refused(
        ("displayName", "dispalyName"),
        "`idp.yaml`:7:9: `dispalyName` is no path of SCIM",
    );
    refused(
        ("externalId", "\"emails[type\""),
        "is no path of SCIM: the bracket in the path is not closed",
    );
    refused(
        ("tokens: [idp]", "tokens: [idp]\nformat: csv"),
        "what is pushed over SCIM comes in no file",
    );
    refused(
        ("tokens: [idp]", "tokens: [idp]\ncomplete: true"),
        "what is pushed over SCIM comes in no file",
    );
    refused(
        (
            "required:",
            "manager: { column: manager.value, by: shoe }\nrequired:",
        ),
        "nobody can be found by `shoe`; fix: ways to name a manager are `id`, `key`, `userName`, `externalId`",
    );
    refused(
        ("required:", "employment: { zone: sone }\nrequired:"),
        "the time zone is told by `sone`, which is not in `columns`",
    );
    refused(
        ("required:", "employment: { start: begin }\nrequired:"),
        "`begin` is no path of SCIM",
    );
    refused(
        ("required:", "guard: { window_minutes: 0 }\nrequired:"),
        "`guard.window_minutes` is 0; fix: write 1 to 10080",
    );
    let snapshot = IDP.replace("kind: scim", "kind: snapshot");
    let told = Source::load("idp.yaml", &snapshot).unwrap_err().to_string();
    assert!(
        told.contains("nothing says how the files are written; fix: write `format: csv`"),
        "{told}"
    );
    assert!(
        told.contains("`tokens` has no meaning for a snapshot"),
        "{told}"
    );
    let lonely = Source::load("idp.yaml", &IDP.replace("tokens: [idp]\n", "")).unwrap();
    assert!(
        lonely.warnings()[0]
            .to_string()
            .contains("no token may push people"),
        "{:?}",
        lonely.warnings()
    );
    let two = [IDP.to_owned(), IDP.replace("name: idp", "name: other")];
    let two = two.map(|text| Arc::new(Source::load("idp.yaml", &text).unwrap()));
    let told = shared_tokens(two.iter())[0].to_string();
    assert!(
        told.contains("the token `idp` is named by `idp` and by `other`"),
        "{told}"
    );
    assert_eq!(shared_tokens(two[..1].iter()), []);
    assert!(idp().reads_groups());
    assert!(
        !Source::load("idp.yaml", &IDP.replace("groups.display", "roles.value"))
            .unwrap()
            .reads_groups()
    );
}
