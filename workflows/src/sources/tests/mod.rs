#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
//! Tests of the sources as a whole: files in, states, events and verdicts out.

mod bad_files;
mod cert;
mod configuration;
mod differences;
mod guarding;
mod properties;
mod pushed;
mod vocabulary;

use std::collections::BTreeSet;

use super::*;
use crate::policy::LeaverRules;
use crate::policy::problem::Problems;

/// A configuration that uses most of what there is.
pub(super) const HR: &str = r#"
name: hr
kind: snapshot
format: csv
key: id
time_zone: America/New_York
as_of_file_name: "hr-%Y-%m-%d"
complete: true
columns:
  name: name
  department: dept
  grade: { column: grade, type: integer }
  skills: { column: skills, type: list, separator: "|" }
  site: { cel: 'row.site == "" ? null : slug(row.site)' }
  cost_center: cc
required: [name]
type: { cel: 'row.kind == "C" ? "contractor" : "employee"' }
manager: { column: boss, by: name }
project: { column: projects, separator: ";" }
employment: { start: from, end: until }
status: { column: status, ended: [gone], leave: [away] }
change_events: { cost_center: cost_center.changed }
guard:
  removals: { share_max: 1 }
"#;

/// The columns of [`HR`].
pub(super) const HEADER: &str =
    "id,name,dept,grade,skills,site,cc,kind,boss,projects,from,until,status";

pub(super) fn hr() -> Source {
    Source::load("hr.yaml", HR).unwrap()
}

pub(super) fn read(source: &Source, day: &str, bytes: &[u8]) -> Result<Snapshot, Problems> {
    let file = format!("in/hr-{day}.csv");
    read_snapshot(
        source,
        bytes,
        &SnapshotInput {
            file: &file,
            ..SnapshotInput::default()
        },
    )
}

/// A snapshot of these rows, given as the fields after which all others are empty.
pub(super) fn snapshot(source: &Source, day: &str, rows: &[&str]) -> Snapshot {
    let columns = HEADER.split(',').count();
    let mut text = format!("{HEADER}\n");
    for row in rows {
        let fields = row.split(',').count();
        text.push_str(row);
        text.push_str(&",".repeat(columns - fields));
        text.push('\n');
    }
    read(source, day, text.as_bytes()).unwrap()
}

pub(super) fn changes(source: &Source, before: &Snapshot, after: &Snapshot) -> Difference {
    diff(
        source,
        &LeaverRules::default(),
        &before.records,
        after,
        &BTreeSet::new(),
    )
}
