//! What happened between two snapshots.

use super::*;

/// One line an event: what, who, from when, and what is special about it.
fn told(difference: &Difference) -> Vec<String> {
    difference
        .changes
        .iter()
        .map(|change| {
            let event = &change.event;
            let mut special = event.data.as_object().unwrap().clone();
            special.remove("attributes");
            let special = if special.is_empty() {
                String::new()
            } else {
                format!(" {}", serde_json::Value::Object(special))
            };
            format!(
                "{} {} {}{special}",
                event.event_type,
                event.subject,
                event.effective_at.format("%Y-%m-%dT%H:%MZ"),
            )
        })
        .collect()
}

#[track_caller]
fn check(before: &[&str], after: &[&str], expected: &[&str]) {
    let source = hr();
    let before = snapshot(&source, "2024-01-31", before);
    let after = snapshot(&source, "2024-02-29", after);
    assert_eq!(told(&changes(&source, &before, &after)), expected);
}

// The columns: id,name,dept,grade,skills,site,cc,kind,boss,projects,from,until,status

#[test]
fn people_join() {
    check(
        &["0,Boss"],
        &[
            "0,Boss",
            "1,Ann",
            "2,Ben,,,,,,C,,,,2024-12-31",
            "3,Cid,,,,,,,,,2024-03-15",
            "4,Dan,,,,,,,,,2024-02-20",
        ],
        &[
            "hire 1 2024-02-29T05:00Z",
            "contract.start 2 2024-02-29T05:00Z",
            r#"contract.expired 2 2025-01-01T05:00Z {"last_day":"2024-12-31","previous_last_day":null}"#,
            // Announced: not before the first day.
            "hire 3 2024-03-15T04:00Z",
            // Told late: they have been waiting since then.
            "hire 4 2024-02-20T05:00Z",
        ],
    );
}

#[test]
fn the_first_snapshot_of_all_makes_nobody_late() {
    let source = hr();
    let first = snapshot(
        &source,
        "2024-02-29",
        &["1,Ann,,,,,,,,,1999-01-01", "2,Ben,,,,,,,,,2024-03-01"],
    );
    let difference = diff(
        &source,
        &LeaverRules::default(),
        &Records::new(),
        &first,
        &BTreeSet::new(),
    );
    assert_eq!(
        told(&difference),
        ["hire 1 2024-02-29T05:00Z", "hire 2 2024-03-01T05:00Z"]
    );
}

#[test]
fn people_move() {
    check(
        &["1,Ann,Eng,3,a|b,Main,C1,,,P1;P2", "2,Ben"],
        &["1,Ann,Sales,4,b|a,Main,C2,,Ben,P2;P3", "2,Ben"],
        &[
            r#"transfer 1 2024-02-29T05:00Z {"changes":{"department":{"from":"Eng","to":"Sales"},"grade":{"from":3,"to":4}}}"#,
            r#"cost_center.changed 1 2024-02-29T05:00Z {"changes":{"cost_center":{"from":"C1","to":"C2"}}}"#,
            r#"manager.changed 1 2024-02-29T05:00Z {"from":{"key":null,"name":null},"to":{"key":"2","name":"Ben"}}"#,
            r#"project.end 1 2024-02-29T05:00Z {"project":"P1"}"#,
            r#"project.start 1 2024-02-29T05:00Z {"project":"P3"}"#,
        ],
    );
}

#[test]
fn contractors_become_employees_and_stay_the_same_person() {
    check(
        &["1,Ann,,,,,,C"],
        &["1,Ann"],
        &[
            r#"conversion 1 2024-02-29T05:00Z {"changes":{"type":{"from":"contractor","to":"employee"}}}"#,
        ],
    );
}

#[test]
fn people_leave() {
    check(
        &[
            "1,Ann",
            "2,Ben",
            "3,Cid,,,,,,,,,,2024-02-10",
            "4,Dan,,,,,,,,,2024-06-01",
        ],
        &["2,Ben,,,,,,,,,,,gone"],
        &[
            r#"termination.effective 1 2024-02-29T05:00Z {"inferred":true,"last_day":null}"#,
            r#"termination.effective 2 2024-02-29T05:00Z {"inferred":false,"last_day":null}"#,
            // Cid's end was announced before and is over; Dan never began.
            r#"hire.rescinded 4 2024-02-29T05:00Z {"inferred":true,"last_day":null}"#,
        ],
    );
}

#[test]
fn ends_are_announced_moved_and_taken_back() {
    check(
        &[
            "1,Ann",
            "2,Ben,,,,,,,,,,2024-03-31",
            "3,Cid,,,,,,,,,,2024-03-31",
            "4,Dan,,,,,,,,,,2024-03-31",
        ],
        &[
            "1,Ann,,,,,,,,,,2024-03-31",
            "2,Ben,,,,,,,,,,2024-03-09",
            "3,Cid",
            "4,Dan,,,,,,,,,,2024-02-15",
        ],
        &[
            // The end of the last day, on the other side of the change of clocks.
            r#"termination.scheduled 1 2024-04-01T04:00Z {"last_day":"2024-03-31","previous_last_day":null}"#,
            r#"termination.corrected 2 2024-03-10T05:00Z {"last_day":"2024-03-09","previous_last_day":"2024-03-31"}"#,
            r#"termination.cancelled 3 2024-02-29T05:00Z {"last_day":null,"previous_last_day":"2024-03-31"}"#,
            // Told too late: over since the end of that day.
            r#"termination.effective 4 2024-02-16T05:00Z {"inferred":false,"last_day":"2024-02-15"}"#,
        ],
    );
    check(
        &["1,Ann,,,,,,C,,,,2024-03-31"],
        &["1,Ann,,,,,,C,,,,2024-06-30"],
        &[
            r#"contract.extended 1 2024-02-29T05:00Z {"last_day":"2024-06-30","previous_last_day":"2024-03-31"}"#,
            r#"contract.expired 1 2024-07-01T04:00Z {"last_day":"2024-06-30","previous_last_day":"2024-03-31"}"#,
        ],
    );
}

#[test]
fn people_are_away_and_back() {
    check(
        &["1,Ann", "2,Ben,,,,,,,,,,,away"],
        &["1,Ann,,,,,,,,,,,Away", "2,Ben"],
        &[
            "leave.start 1 2024-02-29T05:00Z",
            "leave.end 2 2024-02-29T05:00Z",
        ],
    );
}

#[test]
fn people_come_back() {
    // From the feed's own word.
    check(
        &["1,Ann,,,,,,,,,,,gone", "2,Ben,,,,,,,,,,2024-02-10", "9,Zoe"],
        &["1,Ann", "2,Ben,,,,,,,,,,2024-12-31", "9,Zoe"],
        &[
            "rehire 1 2024-02-29T05:00Z",
            "rehire 2 2024-02-29T05:00Z",
            r#"termination.scheduled 2 2025-01-01T05:00Z {"last_day":"2024-12-31","previous_last_day":null}"#,
        ],
    );
    // From what is remembered.
    let source = hr();
    let before = snapshot(&source, "2024-01-31", &["9,Zoe"]);
    let after = snapshot(
        &source,
        "2024-02-29",
        &["1,Ann,,,,,,,,,2019-05-01", "9,Zoe"],
    );
    let gone = BTreeSet::from([Key::new("1")]);
    let difference = diff(
        &source,
        &LeaverRules::default(),
        &before.records,
        &after,
        &gone,
    );
    assert_eq!(told(&difference), ["rehire 1 2024-02-29T05:00Z"]);
    assert_eq!(difference.changes[0].kind, ChangeKind::Create);
}

#[test]
fn those_who_were_gone_before_we_looked_make_no_events() {
    check(
        &["9,Zoe"],
        &["1,Ann,,,,,,,,,,,gone", "2,Ben,,,,,,,,,,2020-01-01", "9,Zoe"],
        &[],
    );
    check(&["1,Ann,,,,,,,,,,,gone", "9,Zoe"], &["9,Zoe"], &[]);
    check(&["1,Ann,,,,,,,,,,,gone"], &["1,Ann,Eng,,,,,,,,,,gone"], &[]);
}

#[test]
fn absence_says_nothing_in_a_file_that_is_not_complete() {
    let source = Source::load("s", &HR.replace("complete: true", "complete: false")).unwrap();
    let before = snapshot(&source, "2024-01-31", &["1,Ann", "2,Ben"]);
    let after = snapshot(&source, "2024-02-29", &["2,Ben,Eng", "3,Cid"]);
    let difference = changes(&source, &before, &after);
    assert_eq!(difference.missing, [Key::new("1")]);
    assert!(
        difference
            .changes
            .iter()
            .all(|change| change.kind != ChangeKind::Remove)
    );
    let kept: Vec<String> = remember(&before.records, &after)
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(kept, ["1", "2", "3"]);
}

#[test]
fn the_same_file_again_gives_the_same_identifiers_or_nothing() {
    let source = hr();
    let before = snapshot(&source, "2024-01-31", &["1,Ann,Eng", "2,Ben"]);
    let after = snapshot(&source, "2024-02-29", &["1,Ann,Sales,,,,,,,P1", "3,Cid"]);
    let first = changes(&source, &before, &after);
    let again = changes(&source, &before, &after);
    assert_eq!(first, again);
    assert_eq!(first.changes.len(), 4);
    let ids: BTreeSet<&String> = first
        .changes
        .iter()
        .map(|change| &change.event.id)
        .collect();
    assert_eq!(ids.len(), 4, "identifiers differ among themselves");
    assert!(changes(&source, &after, &after).changes.is_empty());
    // The same change on another day is another fact, and needs another approval.
    let later = snapshot(&source, "2024-03-31", &["1,Ann,Sales,,,,,,,P1", "3,Cid"]);
    let other = changes(&source, &before, &later);
    assert_ne!(other.id, first.id);
    assert!(
        other
            .changes
            .iter()
            .all(|change| !ids.contains(&change.event.id))
    );
    assert!(other.changes[0].event.version > first.changes[0].event.version);
}

// --- when a last day is over ------------------------------------------------------------------------------

fn leavers(text: &str) -> LeaverRules {
    let files = [(
        "p.yaml".to_owned(),
        format!("leavers: {text}\nroles: [{{ name: all, when: 'true' }}]\n"),
    )];
    let schema = crate::policy::Schema::new([""; 0]).with_source(&hr().declarations());
    let policy = crate::policy::PolicySet::load(&files, &schema).unwrap();
    policy.leavers().clone()
}

#[test]
fn a_last_day_is_over_when_policy_says() {
    let source = hr();
    let before = [
        "1,Ann",
        "2,Ben,,,,,,C,,,,2024-06-30",
        "3,Cid,,,,,,,,,,2024-04-30",
        "4,Dan",
    ];
    let after = [
        // An end is announced, one of a contract, one is moved, and one is told late.
        "1,Ann,,,,,,,,,,2024-03-31",
        "2,Ben,,,,,,C,,,,2024-03-31",
        "3,Cid,,,,,,,,,,2024-03-31",
        "4,Dan,,,,,,,,,,2024-02-15",
        // Somebody begins whose end is known.
        "5,Eve,,,,,,,,,2024-03-01,2024-03-31",
    ];
    let (before, after) = (
        snapshot(&source, "2024-01-31", &before),
        snapshot(&source, "2024-02-29", &after),
    );
    let ends = |rules: &str| -> Vec<String> {
        let none = BTreeSet::new();
        let difference = diff(&source, &leavers(rules), &before.records, &after, &none);
        let lines = told(&difference).into_iter();
        let lines = lines.filter(|line| line.contains("last_day"));
        let words = lines.map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "));
        words.collect()
    };
    let over = ends("{ last_day: end_of_day }");
    assert_eq!(
        over,
        [
            "termination.scheduled 1 2024-04-01T04:00Z",
            "contract.expired 2 2024-04-01T04:00Z",
            "termination.corrected 3 2024-04-01T04:00Z",
            "termination.effective 4 2024-02-16T05:00Z",
            "termination.scheduled 5 2024-04-01T04:00Z",
        ]
    );
    assert_eq!(
        ends("{ last_day: last_shift, shift_end: '18:00' }"),
        [
            "termination.scheduled 1 2024-03-31T22:00Z",
            "contract.expired 2 2024-03-31T22:00Z",
            "termination.corrected 3 2024-03-31T22:00Z",
            "termination.effective 4 2024-02-15T23:00Z",
            "termination.scheduled 5 2024-03-31T22:00Z",
        ]
    );
    // Only who is there and is told to go goes at once: no contract ends before its day, and nobody before they begin.
    assert_eq!(
        ends("{ last_day: at_once }"),
        [
            "termination.scheduled 1 2024-02-29T05:00Z",
            "contract.expired 2 2024-04-01T04:00Z",
            "termination.corrected 3 2024-02-29T05:00Z",
            "termination.effective 4 2024-02-16T05:00Z",
            "termination.scheduled 5 2024-04-01T04:00Z",
        ]
    );
}
