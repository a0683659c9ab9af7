#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;

fn parse(text: &str) -> Result<Definition, Problems> {
    Definition::parse("leaver.yaml", text, &["identity"], &|uses| {
        uses != "accnt.disable"
    })
}

/// Asserts the exact message.
#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(parse(text).unwrap_err().to_string(), expected.trim());
}

#[test]
fn a_step_parks_only_where_the_workflow_undoes() {
    let text = |workflow: &str, step: &str| {
        format!(
            "name: t\non_failure: {workflow}\nsteps: [{{id: a, uses: x, on_failure: {step}}}]\n"
        )
    };
    assert!(parse(&text("undo", "park")).unwrap().steps[0].parks);
    for (workflow, step) in [("undo", "undo"), ("park", "park"), ("undo", "forward")] {
        let said = parse(&text(workflow, step)).unwrap_err().to_string();
        assert!(
            said.contains("a step may say `on_failure: park` where the workflow says `undo`"),
            "{workflow} {step}: {said}"
        );
    }
}

#[test]
fn a_whole_workflow_is_read() {
    let definition = parse(
        r"
name: leaver
on: [termination.effective, access.revoke_now]
lane: revocation
on_failure: forward
preempts: [joiner]
deadline: { after: 1h, escalate_to: role:security }
steps:
  - id: contain
    uses: sessions.revoke
    for_each: identity.accounts
  - id: hold
    uses: approval
    if: steps.contain.all_verified
    with: { ask: [owner, manager], quorum: 1, timeout: 4h, on_timeout: approve }
  - id: disable
    uses: account.disable
    needs: [contain]
    for_each: identity.accounts
    retry: { first: 2s, factor: 2, max: 5m, attempts: 12 }
    with: { account: '${{ item.id }}', note: 'left ${{ case.subject }}' }
  - id: delete
    uses: account.delete
    after: 30d
",
    )
    .unwrap();
    assert_eq!(definition.lane, Lane::Revocation);
    assert_eq!(
        definition.steps[1].needs,
        [StepIndex(0)],
        "without `needs` a step needs the one before"
    );
    assert_eq!(definition.steps[2].retry.attempts, 12);
    assert_eq!(definition.dependents[0], [StepIndex(1), StepIndex(2)]);
    assert!(definition.steps[0].facts.contains("identity"));
    assert_eq!(definition.hash.0.len(), 64);
}

#[test]
fn another_byte_is_another_version() {
    let one = parse("name: a\nsteps: [{id: x, uses: noop}]\n").unwrap();
    let two = parse("name: a\nsteps: [{id: x, uses: noop}] # comment\n").unwrap();
    assert_ne!(one.hash, two.hash);
}

#[test]
fn an_unknown_action_is_named_with_its_line() {
    refused(
        "name: a\nsteps:\n  - id: x\n    uses: accnt.disable\n",
        "leaver.yaml:4:11: unknown action `accnt.disable`\n  fix: list the actions with `tenure workflow actions`",
    );
}

#[test]
fn a_cycle_is_shown_as_a_path() {
    refused(
        "name: a\nsteps:\n  - {id: x, uses: noop, needs: [z]}\n  - {id: y, uses: noop, needs: [x]}\n  - {id: z, uses: noop, needs: [y]}\n",
        "leaver.yaml:3:10: steps wait for each other, so the workflow can never end: x -> z -> y -> x\n  fix: remove one of these `needs`",
    );
}

#[test]
fn a_workflow_that_may_never_end_is_refused() {
    refused(
        "name: a\nsteps:\n  - id: x\n    uses: wait_for\n    with: {signal: go}\n",
        "leaver.yaml:4:11: step `x` waits for a signal with no `timeout`, and the workflow has no `deadline`: it may never end\n  fix: add `timeout:` to the step's `with`, or a `deadline:` to the workflow",
    );
}

#[test]
fn a_broken_expression_carries_cels_message() {
    let problems =
        parse("name: a\nsteps:\n  - id: x\n    uses: noop\n    if: identity.age >\n").unwrap_err();
    assert_eq!((problems.0[0].line, problems.0[0].column), (5, 9));
    assert!(
        problems.0[0]
            .what
            .starts_with("expression `identity.age >` does not parse: at "),
        "{problems}"
    );
}

#[test]
fn an_expression_reads_only_what_is_there_by_then() {
    refused(
        "name: a\nsteps:\n  - {id: x, uses: noop, if: steps.y.ok}\n  - {id: y, uses: noop}\n",
        "leaver.yaml:3:29: expression `steps.y.ok` reads `steps.y`, which need not be finished by then\n  fix: add `y` to the step's `needs`",
    );
    refused(
        "name: a\nsteps:\n  - {id: x, uses: noop, if: person.ok}\n",
        "leaver.yaml:3:29: expression `person.ok` reads `person`, which does not exist here\n  fix: it can read `case`, `input`, `steps`, `identity`",
    );
}

#[test]
fn every_problem_is_reported_not_only_the_first() {
    let problems = parse(
        "name: A B\nsteps:\n  - {id: X, uses: noop}\n  - {id: y, uses: noop, needs: [q]}\n  - {id: y, uses: noop, after: 1h, at: input.t}\n",
    )
    .unwrap_err();
    let lines: Vec<u64> = problems.0.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 5], "{problems}");
}

#[test]
fn what_is_no_workflow_at_all_says_where() {
    for (text, line) in [
        ("", 1),
        ("name: a\nsteps: 5\n", 2),
        ("name: a\nsteps:\n  - {id: x, uses: noop, colour: red}\n", 3),
        ("name: a\nsteps:\n  - {id: x, uses: noop, after: 5}\n", 3),
        ("name: [\n", 2),
        ("name: a\nsteps: []\n", 1),
    ] {
        let problems = parse(text).unwrap_err();
        assert!(
            problems.0[0].line.abs_diff(line) <= 1,
            "{text:?}: {problems}"
        );
    }
    assert!(parse(&"#".repeat(2 * DEFINITION_BYTES_MAX)).is_err());
}

#[test]
fn the_schema_is_the_one_checked_in() {
    let generated = format!("{:#}\n", schema());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/workflow.schema.json");
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    if stored != generated && std::env::var_os("TENURE_BLESS").is_some() {
        std::fs::write(path, &generated).unwrap();
        return;
    }
    assert_eq!(
        stored, generated,
        "run `TENURE_BLESS=1 cargo test -p engine schema` and commit the file"
    );
}

#[test]
fn contradictory_rules_about_conflicts_are_told_with_their_line() {
    let rules = "name: w\npreempts: [a]\nconflicts:\n  - {with: a, then: queue}\n  - {with: b, then: merge}\n  - {with: any, then: queue}\n  - {with: any, then: reject}\n  - {with: w, then: merge}\nsteps: [{id: s, uses: noop}]\n";
    let problems = Definition::parse("w.yaml", rules, &[], &|_| true).unwrap_err();
    let told: Vec<(u64, &str)> = problems
        .0
        .iter()
        .map(|problem| (problem.line, problem.what.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (4, "there are two rules about `a`: `preempt` and `queue`"),
            (
                5,
                "a start of `w` cannot be merged into a case of `b`: only a case of the same workflow does the same"
            ),
            (7, "there are two rules about `any`: `queue` and `reject`"),
        ]
    );
}

#[test]
fn what_starts_before_or_after_its_event_says_so_in_one_way() {
    let with = |head: &str| format!("name: w\n{head}\nsteps: [{{id: s, uses: noop}}]\n");
    let parse = |head: &str| Definition::parse("w.yaml", &with(head), &[], &|_| true);
    for (head, started_by, is_offset) in [
        ("on: [hire]", "hire", false),
        (
            "on: [hire, rehire]\nahead: 7d",
            "7d before hire, rehire",
            true,
        ),
        ("on: [hire]\nafter: 1d12h", "1d12h after hire", true),
    ] {
        let definition = parse(head).unwrap();
        assert_eq!(definition.started_by(), started_by);
        assert_eq!(definition.is_offset(), is_offset, "{head}");
    }
    for (head, what) in [
        (
            "on: [hire]\nahead: 7d\nafter: 7d",
            "before its event takes effect or after it, not both",
        ),
        (
            "on: [hire]\nahead: 0s",
            "starts when its event takes effect",
        ),
        ("after: 7d", "nothing to be before or after"),
        ("on: [hire]\nahead: -7d", "is not a length of time"),
        ("on: [hire]\nahead: 7", ""),
    ] {
        let problems = parse(head).unwrap_err().to_string();
        assert!(problems.contains(what), "{head}: {problems}");
        assert!(problems.contains("w.yaml:"), "{head}: {problems}");
    }
}
