//! A configuration that is wrong is refused before any file is read.

use super::*;

#[track_caller]
fn refused(change: (&str, &str), expected: &str) {
    assert!(HR.contains(change.0), "{}", change.0);
    let problems = Source::load("hr.yaml", &HR.replace(change.0, change.1)).unwrap_err();
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn mistakes_have_file_line_and_fix() {
    refused(
        ("kind: snapshot", "kind: snapshot\ncolums: red"),
        "`hr.yaml`:4:1: unknown field `colums`; fix: did you mean `columns`?",
    );
    refused(
        ("time_zone: America/New_York", "time_zone: America/NewYork"),
        "`hr.yaml`:6:12: there is no time zone `America/NewYork`; fix: did you mean `America/New_York`?",
    );
    refused(
        ("format: csv", "format: xml"),
        "`hr.yaml`:4:9: unknown value `xml`; fix: known values are `csv`, `json`, `jsonl`",
    );
    refused(
        ("required: [name]", "required: [nmae]"),
        "`hr.yaml`:16:12: `required` names `nmae`, which is not in `columns`; \
         fix: did you mean `name`? attributes are `cost_center`, `department`, `grade`, `name`, `site`, `skills`",
    );
    refused(
        ("by: name", "by: full_name"),
        "`hr.yaml`:18:30: the manager is named by `full_name`, which is not in `columns`; \
         fix: attributes are `cost_center`, `department`, `grade`, `name`, `site`, `skills`, `key`",
    );
    refused(
        ("slug(row.site)", "slug(site)"),
        "`hr.yaml`:14:9: the expression of attribute `site` at character 30: `site` is not known; \
         fix: variables are `row`; texts are written in quotes",
    );
    refused(
        ("slug(row.site)", "slug(row.site"),
        "`hr.yaml`:14:9: the expression of attribute `site` at character 38: the expression ends too early; \
         fix: finish the last part and close every bracket",
    );
    refused(
        ("  name: name", "  name: name\n  manager: boss"),
        "`hr.yaml`:11:12: the attribute `manager` has a meaning of its own; fix: set `manager:` of the source",
    );
    refused(
        ("  name: name", "  name: name\n  Full Name: x"),
        "`hr.yaml`:11:14: `Full Name` is no name for an attribute; \
         fix: use up to 64 small letters, digits and `_`, a letter first",
    );
    refused(
        ("  name: name", "  name: { column: name, cel: row.name }"),
        "`hr.yaml`:10:9: attribute `name` needs either `column` or `cel`; fix: write one of the two",
    );
    refused(
        ("  name: name", "  name: { column: name, separator: x }"),
        "`hr.yaml`:10:9: `separator` of attribute `name` has no meaning; fix: set `type: list`, or remove it",
    );
    refused(
        ("  name: name", "  name: { colum: name }"),
        "`hr.yaml`:10:11: unknown field `colum`; \
         fix: did you mean `column`? known fields are `column`, `cel`, `type`, `separator`, `date_format`",
    );
    refused(
        (
            "type: { cel: 'row.kind == \"C\" ? \"contractor\" : \"employee\"' }",
            "type: manager",
        ),
        "`hr.yaml`:17:1: expected `employee`, `contractor`, `guest` or a map with `cel`, found string \"manager\"; \
         fix: write the value in the expected form",
    );
    refused(
        ("until }", "until, date_format: '%Q' }"),
        "`hr.yaml`:20:53: `%Q` is no form of a date; fix: write it as `%Y-%m-%d` or `%d.%m.%Y`",
    );
    refused(
        ("cost_center.changed", "termination.effective"),
        "`hr.yaml`:22:31: a change of `cost_center` cannot be the event `termination.effective`; \
         fix: events of a change are `transfer`, `cost_center.changed`, `entity.transfer`",
    );
    refused(
        (
            "kind: snapshot",
            "kind: snapshot\nsignature: { secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw] }",
        ),
        "`hr.yaml`:4:24: a secret must be given as `env:NAME` or `file:/path`, never as a value; fix: write the value in the expected form",
    );
    refused(
        (
            "kind: snapshot",
            "kind: snapshot\nsignature: { secrets: [] }",
        ),
        "`hr.yaml`:4:23: `signature.secrets` has 0 entries; fix: name 1 to 4 places such as `env:HR_WEBHOOK_SECRET`",
    );
    refused(
        (
            "kind: snapshot",
            "kind: snapshot\nsignature: { secrets: [env:A], window: 2h }",
        ),
        "`hr.yaml`:4:40: `signature.window` is 2h; fix: give `1s` to `1h`",
    );
    refused(
        (
            "kind: snapshot\nformat: csv",
            "kind: query\nquery: { sqlite: x.db, sql: SELECT 1, every: 1h }",
        ),
        "`hr.yaml`:2:7: what a database answers comes in no file; \
         fix: remove `format`, `delimiter`, `as_of_file_name`, `manifest` and `final_newline`",
    );
    refused(
        (
            "kind: snapshot",
            "kind: snapshot\nquery: { sqlite: x.db, sql: SELECT 1, every: 1h }",
        ),
        "`hr.yaml`:4:29: only a source of the kind `query` has a `query`; fix: write `kind: query`, or take the query out",
    );
    let query = |query: &str, expected: &str| {
        let text = format!(
            "name: hr\nkind: query\n{query}\nkey: id\ntime_zone: UTC\ncolumns: {{ name: name }}\n"
        );
        let problems = Source::load("hr.yaml", &text).unwrap_err();
        assert_eq!(problems.to_string(), expected);
    };
    query(
        "complete: true",
        "`hr.yaml`:1:7: nothing says whom to ask; fix: add `query:` with `postgres` or `sqlite`, `sql` and `every`",
    );
    query(
        "query: { sql: SELECT 1, every: 1h }",
        "`hr.yaml`:3:15: a query asks one database; fix: give either `postgres` or `sqlite`",
    );
    query(
        "query: { sqlite: x.db, sql: ' ; ', every: 1h }",
        "`hr.yaml`:3:29: `sql` is empty; fix: write one SELECT",
    );
    query(
        "query: { sqlite: x.db, sql: SELECT 1, every: 1s }",
        "`hr.yaml`:3:46: `every` is 1s; fix: give `10s` to `7d`",
    );
    query(
        "query: { sqlite: x.db, sql: SELECT 1, every: 1h, timeout: 1h }",
        "`hr.yaml`:3:59: `timeout` is 1h; fix: give `1s` to `10m`",
    );
    query(
        "query: { postgres: { host: db.example.com, database: hr, user: u, sslmode: require }, sql: SELECT 1, every: 1h }",
        "`hr.yaml`:3:20: this `sslmode` lets somebody on the way read the login and the rows; \
         fix: use `sslmode: verify-full` with `ca_file`, or set `allow_plaintext: true`",
    );
    query(
        "query: { postgres: { host: '', database: hr, user: u, allow_plaintext: true }, sql: SELECT 1, every: 1h }",
        "`hr.yaml`:3:20: `host` is empty or holds a zero byte; fix: say where the database is, and who asks",
    );
    query(
        "query: { postgres: { host: db, database: hr, user: u, password: hunter2 }, sql: SELECT 1, every: 1h }",
        "`hr.yaml`:3:65: a secret must be given as `env:NAME` or `file:/path`, never as a value; fix: write the value in the expected form",
    );
    refused(
        ("kind: snapshot", "kind: snapshot\nsilent_after: 10s"),
        "`hr.yaml`:4:15: `silent_after` is 10s; fix: give `1m` to `400d`, some more than the longest pause between two deliveries",
    );
    refused(
        ("share_max: 1", "share_max: 5"),
        "`hr.yaml`:2:7: `guard.removals` has a `share_max` that is not between 0 and 1; \
         fix: write 0.05 for five per cent",
    );
    refused(
        ("share_max: 1", "slices: { team: { count_max: 3 } }"),
        "`hr.yaml`:2:7: `guard.removals.slices` names `team`, which is not in `columns`; \
         fix: attributes are `cost_center`, `department`, `grade`, `name`, `site`, `skills`",
    );
    refused(
        ("format: csv", "format: csv\ndelimiter: ';;'"),
        "`hr.yaml`:5:12: `delimiter` is not one ASCII character; fix: write `\",\"`, `\";\"`, `\"|\"` or `\"\\t\"`",
    );
}

#[test]
fn a_source_without_a_limit_is_warned_of() {
    let text = HR.replace("share_max: 1", "population_min: 3");
    let source = Source::load("hr.yaml", &text).unwrap();
    assert_eq!(
        source.warnings()[0].to_string(),
        "`hr.yaml`:2:7: nothing stops a damaged file from removing everybody; \
         fix: set `guard.removals.share_max` or `count_max`"
    );
}

#[test]
fn rules_learn_what_to_expect() {
    let declared: Vec<String> = hr()
        .declarations()
        .iter()
        .map(|(name, declaration)| {
            format!("{name} {:?} {}", declaration.kind, declaration.required)
        })
        .collect();
    assert_eq!(
        declared,
        [
            "cost_center Text false",
            "department Text false",
            "employment_end Date false",
            "employment_start Date false",
            "employment_status Text true",
            "grade Integer false",
            "manager Text false",
            "manager_name Text false",
            "name Text true",
            "projects List true",
            "site Text false",
            "skills List false",
            "type Text true",
        ]
    );
}

#[test]
fn the_schema_knows_every_field() {
    let schema = serde_json::to_value(schemars::schema_for!(SourceConfig)).unwrap();
    let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    for name in [
        "name",
        "key",
        "columns",
        "type",
        "guard",
        "final_newline",
        "change_events",
    ] {
        assert!(
            names.iter().any(|known| *known == name),
            "{name}: {names:?}"
        );
    }
}
