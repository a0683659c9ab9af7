//! Rotations by name on both databases: page after page, whatever is wanted of them, read off an index.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde_json::{Value, json};
use sqlx::Row as _;

use super::database::{Reader, Sql, execute, time_text};
use super::rotation_statements::RENEWABLE;
use super::rotations::names_of;
use super::{RotationFilter, RotationRow};
use crate::nhi::declare;
use crate::rotation::Phase;
use crate::testbed::{Company, actor, on_both_databases};

/// Systems whose names are near each other's.
const SYSTEMS: [&str; 5] = ["ldap", "ldap-2", "ldap.x", "ldap0", "scim"];
/// Ids that are in another order where people read them.
const IDS: [&str; 5] = ["a", "B", "a/b", "~", "ä"];

fn now() -> DateTime<Utc> {
    "2026-11-02T00:00:00Z".parse().unwrap()
}

async fn declared(company: &Company, nhis: impl IntoIterator<Item = (String, Vec<String>)>) {
    let people = ["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"];
    company.import("2026-01-01", &people).await;
    let mut text = "nhis:\n".to_owned();
    for (key, names) in nhis {
        let credentials: Vec<String> = (names.iter())
            .map(|name| {
                let (system, id) = name.split_once('/').unwrap();
                format!(
                    "{{system: {system}, id: '{id}', kind: password, replaced_by: single_slot, \
                     rotation: {{place: {{system: ldap, bundle: x}}, users: [u], every: 30d}}}}"
                )
            })
            .collect();
        let _ = writeln!(
            text,
            "  - {{key: {key}, kind: bot, environment: test, purpose: syncs, team: t, owner: A1, backup: B2, \
             review: 2099-01-31, credentials: [{}]}}",
            credentials.join(", ")
        );
    }
    let declared = declare::parse("n.yaml", &text, &BTreeSet::from(SYSTEMS)).unwrap();
    let by = actor("user:ann");
    let report = company.directory.declare(&declared, &by, "so", now()).await;
    assert_eq!(report.unwrap().refused, Vec::<String>::new());
}

/// As if those whose name begins so were under way.
struct Open(&'static str);

#[async_trait::async_trait]
impl Work for Open {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        const OPEN: Sql = Sql {
            table: "rotation",
            postgres: "UPDATE rotation SET open_case = 'c', phase = CASE WHEN name LIKE '%b' THEN 'blocked' ELSE 'overlap' END
                WHERE starts_with(name, $1::jsonb->>'prefix')",
            sqlite: "UPDATE rotation SET open_case = 'c', phase = CASE WHEN name LIKE '%b' THEN 'blocked' ELSE 'overlap' END
                WHERE substr(name, 1, length(?1 ->> 'prefix')) = ?1 ->> 'prefix'",
        };
        execute(transaction, &OPEN, &json!({ "prefix": self.0 })).await?;
        Ok(Vec::new())
    }
}

async fn pages(company: &Company, filter: &RotationFilter, limit: u32) -> Vec<RotationRow> {
    let mut found: Vec<RotationRow> = Vec::new();
    loop {
        let after = found.last().map(|row| row.name.as_str());
        let page = company.directory.rotations(filter, after, limit).await;
        let page = page.unwrap();
        assert!(page.len() <= limit as usize);
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

fn is_wanted(filter: &RotationFilter, row: &RotationRow) -> bool {
    let system = row.name.split_once('/').unwrap().0;
    filter
        .system
        .as_deref()
        .is_none_or(|wanted| wanted == system)
        && filter
            .nhi
            .as_deref()
            .is_none_or(|wanted| wanted == row.nhi_key)
        && (!filter.open_only || row.open_case.is_some())
        && filter.phase.is_none_or(|wanted| wanted == row.phase)
}

fn texts(of: &[&str]) -> Vec<Option<String>> {
    let some = of.iter().map(|text| Some((*text).to_owned()));
    std::iter::once(None).chain(some).collect()
}

async fn every_page_holds_what_is_wanted_and_none_is_left_out(company: &Company) {
    let names = |id: &&str| SYSTEMS.map(|system| format!("{system}/{id}")).to_vec();
    let nhis = (IDS.iter().enumerate()).map(|(number, id)| (format!("bot-{number}"), names(id)));
    declared(company, nhis).await;
    company.directory.write(&Open("ldap-2/")).await.unwrap();
    company.directory.write(&Open("ldap/a")).await.unwrap();
    let all = pages(company, &RotationFilter::default(), 100).await;
    assert_eq!(all.len(), SYSTEMS.len() * IDS.len());
    assert!(all.is_sorted_by(|one, next| one.name < next.name));
    let mut seen = 0;
    for system in texts(&["ldap", "ldap-2", "ldap.x", "ldap0", "ldap/a", "l", ""]) {
        for nhi in texts(&["bot-0", "bot-2", "bot"]) {
            for phase in [
                None,
                Some(Phase::Overlap),
                Some(Phase::Scheduled),
                Some(Phase::Closed),
            ] {
                for open_only in [false, true] {
                    let filter = RotationFilter {
                        system: system.clone(),
                        nhi: nhi.clone(),
                        open_only,
                        phase,
                    };
                    let wanted = all.iter().filter(|row| is_wanted(&filter, row));
                    let wanted: Vec<&str> = wanted.map(|row| row.name.as_str()).collect();
                    let found = pages(company, &filter, 3).await;
                    let found: Vec<&str> = found.iter().map(|row| row.name.as_str()).collect();
                    assert_eq!(found, wanted, "{filter:?}");
                    seen += found.len();
                }
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// How the database reads what it is asked for. PostgreSQL is told not to sort and not to walk over the table: what it cannot do
/// otherwise it does all the same.
async fn plan(company: &Company, sql: &Sql, parameter: &Value) -> String {
    let parameter = parameter.to_string();
    let lines: Vec<String> = match company.directory.reader() {
        Reader::Postgres(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            let means = "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
                         ANALYZE rotation";
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
            sqlx::raw_sql(means)
                .execute(&mut *transaction)
                .await
                .unwrap();
            let explained = sqlx::query_scalar(explain).bind(parameter);
            explained.fetch_all(&mut *transaction).await.unwrap()
        }
        Reader::Sqlite(pool) => {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.sqlite));
            let explained = sqlx::query(explain).bind(parameter);
            let rows = explained.fetch_all(pool).await.unwrap();
            rows.iter().map(|row| row.get("detail")).collect()
        }
    };
    lines.join("\n")
}

async fn a_page_is_read_off_an_index(company: &Company) {
    let nhis = (0..60).map(|bot| {
        let names = (0..10).map(|number| format!("ldap/{bot}-{number}"));
        (format!("bot-{bot}"), names.collect())
    });
    declared(company, nhis).await;
    company.directory.write(&Open("ldap/7-")).await.unwrap();
    let mut plans = Vec::new();
    for (filter, index) in [
        (RotationFilter::default(), "rotation_name"),
        (
            RotationFilter {
                nhi: Some("bot-7".to_owned()),
                ..RotationFilter::default()
            },
            "rotation_nhi_name",
        ),
        (
            RotationFilter {
                open_only: true,
                ..RotationFilter::default()
            },
            "rotation_open_name",
        ),
        (
            RotationFilter {
                phase: Some(Phase::Overlap),
                ..RotationFilter::default()
            },
            "rotation_phase_name",
        ),
    ] {
        let parameter = filter.page(Some("ldap/3-0"), 3);
        let read = plan(company, filter.statement(), &parameter).await;
        plans.push((read, index));
    }
    let (after, before) = names_of(Some("ldap"));
    let parameter =
        json!({ "after": after, "before": before, "by": time_text(now()), "limit": 500 });
    let read = plan(company, &RENEWABLE, &parameter).await;
    plans.push((read, "rotation_name"));
    for (plan, index) in &plans {
        let is_sorted = plan.contains("Sort") || plan.contains("TEMP B-TREE");
        let is_bounded = plan.contains("name>? AND name<?") || plan.contains("Index Cond");
        assert!(!is_sorted && is_bounded, "{plan}");
        let is_used = |mark: &str| plan.contains(&format!("{mark} {index} "));
        assert!(is_used("INDEX") || is_used("using"), "{index}: {plan}");
    }
}

on_both_databases! {
    every_page_holds_what_is_wanted_and_none_is_left_out,
    a_page_is_read_off_an_index,
}
