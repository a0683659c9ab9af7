//! How much may change before a person looks.

use super::*;

fn people(count: usize, department: &str) -> Vec<String> {
    (0..count)
        .map(|person| format!("{department}{person:04},Name {person},{department}"))
        .collect()
}

fn verdict(guard: &str, before: &[String], after: &[String]) -> Verdict {
    let text = HR.replace(
        "  removals: { share_max: 1 }",
        &format!("  {}", guard.replace('\n', "\n  ")),
    );
    let source = Source::load("hr.yaml", &text).unwrap();
    let rows = |people: &[String]| -> Snapshot {
        let rows: Vec<&str> = people.iter().map(String::as_str).collect();
        snapshot(&source, "2024-01-31", &rows)
    };
    let before = if before.is_empty() {
        Records::new()
    } else {
        rows(before).records
    };
    let after = rows(after);
    let difference = diff(
        &source,
        &LeaverRules::default(),
        &before,
        &after,
        &BTreeSet::new(),
    );
    assess(&difference, &before, &after.records, source.guard())
}

#[track_caller]
fn passes(guard: &str, before: &[String], after: &[String]) -> Summary {
    match verdict(guard, before, after) {
        Verdict::Pass { summary } => summary,
        Verdict::Stop { reasons, .. } => panic!("{reasons:?}"),
    }
}

#[track_caller]
fn stops(guard: &str, before: &[String], after: &[String], expected: &[&str]) -> Summary {
    match verdict(guard, before, after) {
        Verdict::Pass { summary } => panic!("passed: {summary:?}"),
        Verdict::Stop { reasons, summary } => {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            assert_eq!(reasons, expected);
            summary
        }
    }
}

#[test]
fn exactly_the_limit_still_passes() {
    let before = people(100, "Eng");
    let guard = "removals: { share_max: 0.05, count_max: 100, population_min: 50 }";
    passes(guard, &before, &before[5..]);
    let summary = stops(
        guard,
        &before,
        &before[6..],
        &["6 of 100 people (6.0 %) would leave; the limit is 5.0 %"],
    );
    assert_eq!(summary.people[&ChangeKind::Remove], 6);
    assert_eq!(summary.events["termination.effective"], 6);
    assert_eq!(
        summary.examples[&ChangeKind::Remove][0],
        Key::new("Eng0000")
    );
    let guard = "removals: { share_max: 0.5, count_max: 5 }";
    passes(guard, &before, &before[5..]);
    stops(
        guard,
        &before,
        &before[60..],
        &["60 of 100 people (60.0 %) would leave; the limits are 5 and 50.0 %"],
    );
}

#[test]
fn a_small_population_is_counted_only() {
    let before = people(10, "Eng");
    let guard = "removals: { share_max: 0.05, count_max: 3, population_min: 50 }";
    passes(guard, &before, &before[3..]);
    stops(
        guard,
        &before,
        &before[4..],
        &["4 of 10 people (40.0 %) would leave; the limit is 3"],
    );
}

#[test]
fn sixty_per_cent_of_the_company_do_not_leave_unseen() {
    let before = people(2_000, "Eng");
    // Without a word about it in the configuration.
    let text = HR.replace("guard:\n  removals: { share_max: 1 }\n", "");
    let source = Source::load("hr.yaml", &text).unwrap();
    let rows = |people: &[String]| -> Snapshot {
        let rows: Vec<&str> = people.iter().map(String::as_str).collect();
        snapshot(&source, "2024-01-31", &rows)
    };
    let (before, after) = (rows(&before), rows(&before[1_200..]));
    let difference = changes(&source, &before, &after);
    let Verdict::Stop { reasons, summary } =
        assess(&difference, &before.records, &after.records, source.guard())
    else {
        panic!("passed");
    };
    assert_eq!(
        reasons[0].to_string(),
        "1200 of 2000 people (60.0 %) would leave; the limit is 10.0 %"
    );
    assert_eq!(summary.difference_id, difference.id);
    assert_eq!(summary.examples[&ChangeKind::Remove].len(), 20);
}

#[test]
fn a_department_is_guarded_within_the_company() {
    let mut before = people(100, "Eng");
    before.extend(people(20, "Law"));
    let guard = "removals:\n  share_max: 0.2\n  slices: { department: { share_max: 0.25, population_min: 10 } }";
    passes(guard, &before, &before[..115]);
    stops(
        guard,
        &before,
        &before[..114],
        &["6 of 20 people with department `Law` (30.0 %) would leave; the limit is 25.0 %"],
    );
}

#[test]
fn joiners_and_changes_have_limits_of_their_own() {
    let before = people(100, "Eng");
    let mut after = before.clone();
    after.extend(people(50, "New"));
    stops(
        "creations: { count_max: 40, population_min: 0 }",
        &before,
        &after,
        &["50 of 100 people (50.0 %) would join; the limit is 40"],
    );
    // The first import has no population to take a share of.
    passes("creations: { share_max: 0.1 }", &[], &before);
    // A column that is suddenly empty is a change of everybody.
    let emptied: Vec<String> = before.iter().map(|row| row.replace(",Eng", ",")).collect();
    stops(
        "changes: { share_max: 0.5 }",
        &before,
        &emptied,
        &["100 of 100 people (100.0 %) would change; the limit is 50.0 %"],
    );
}

#[test]
fn an_announced_end_for_everybody_counts_as_leaving() {
    let before = people(100, "Eng");
    let after: Vec<String> = before
        .iter()
        .map(|row| format!("{row},,,,,,,,,2024-02-28"))
        .collect();
    stops(
        "removals: { share_max: 0.5 }",
        &before,
        &after,
        &["100 of 100 people (100.0 %) would leave; the limit is 50.0 %"],
    );
}
