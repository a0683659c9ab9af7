//! A whole file as a checked state: all rows understood, or the reasons why not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::config::{Format, ManifestRule, Presence};
use super::csv::{self, Tail, shown};
use super::declare::Source;
use super::input::{GaveUp, Input};
use super::json;
use super::manifest::{Manifest, Stated, manifest_name};
use super::normalise::{Normalised, normalise};
use super::record::{Key, Record, Records, attribute};
use super::row::{Header, Limits, Row};
use super::time::start_of_day;
use crate::policy::hex;
use crate::policy::problem::{Problem, Problems, suggest};

/// How many warnings about managers are kept word by word.
pub const WARNINGS_MAX: usize = 50;

/// What is told about a file beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct SnapshotInput<'a> {
    /// For messages, and for the day when the configuration reads it from the name.
    pub file: &'a str,
    pub manifest: Option<&'a Manifest>,
    /// The day the caller states. Stands over manifest and file name.
    pub as_of: Option<NaiveDate>,
    pub limits: Limits,
}

/// The day of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AsOf {
    /// In the zone of the source.
    pub day: NaiveDate,
    /// The stated instant, else the start of the day.
    pub instant: DateTime<Utc>,
}

/// A file, understood.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub source: String,
    pub file: String,
    pub as_of: AsOf,
    /// The file holds everybody: who is missing has left.
    pub complete: bool,
    pub records: Records,
    pub rows: u64,
    /// Of the file, in hex.
    pub sha256: String,
    /// Over the records: two files with the same digest say the same.
    pub digest: String,
    /// Managers that could not be told, and the like.
    pub warnings: Vec<Problem>,
    /// Warnings beyond the first [`WARNINGS_MAX`].
    pub warnings_more: u64,
}

/// Reads a file. Bounded in memory by the limits and by what the records hold.
///
/// # Errors
/// Everything that is wrong with the file, up to the limit of [`Problems`]. A file with one bad row is
/// refused as a whole: half of the truth would look like people who left.
pub fn read_snapshot(
    source: &Source,
    reader: impl Read,
    input: &SnapshotInput<'_>,
) -> Result<Snapshot, Problems> {
    let file = input.file;
    let Some(format) = source.format else {
        return Err(Problem::new(
            file,
            None,
            format!(
                "`{}` takes no files: its people are pushed over SCIM",
                source.name()
            ),
            "name a source of `kind: snapshot`",
        )
        .into());
    };
    let manifest = match source.manifest_rule() {
        ManifestRule::None => None,
        ManifestRule::Optional => input.manifest,
        ManifestRule::Required if input.manifest.is_some() => input.manifest,
        ManifestRule::Required => {
            return Err(Problem::new(
                file,
                None,
                format!("the manifest `{}` is missing", manifest_name(file)),
                "deliver it with the file, or set `manifest: optional` in the source",
            )
            .into());
        }
    };
    let as_of = as_of(source, input, manifest)?;
    let mut bytes = Input::open(reader, file, input.limits)?;
    let mut gathering = Gathering::default();
    let tail = gathering.read(source, format, &mut bytes);
    let (sha256, mut problems) = bytes.finish();
    let Ok(tail) = tail else {
        problems.more |= problems.is_full();
        return Err(problems);
    };
    let complete = manifest
        .and_then(|manifest| manifest.complete)
        .unwrap_or(source.complete);
    problems.extend(gathering.never_seen(source, format, file, tail));
    problems.extend(check_end(source, format, file, manifest, complete, tail));
    problems.extend(check_manifest(file, manifest, tail, &sha256));
    if !problems.is_empty() {
        return Err(problems);
    }
    let warnings = gathering.resolve_managers(source, file);
    let records: Records = gathering
        .people
        .into_iter()
        .map(|(key, person)| (key.clone(), Record::new(key, person.attributes)))
        .collect();
    Ok(Snapshot {
        source: source.name().to_owned(),
        file: file.to_owned(),
        as_of,
        complete,
        digest: digest(&records),
        records,
        rows: tail.rows,
        sha256,
        warnings_more: (warnings.len().saturating_sub(WARNINGS_MAX)) as u64,
        warnings: warnings.into_iter().take(WARNINGS_MAX).collect(),
    })
}

fn digest(records: &Records) -> String {
    let mut hash = Sha256::new();
    for record in records.values() {
        hash.update(&record.digest);
    }
    hex(&hash.finalize())
}

fn as_of(
    source: &Source,
    input: &SnapshotInput<'_>,
    manifest: Option<&Manifest>,
) -> Result<AsOf, Problem> {
    let at_start = |day| AsOf {
        day,
        instant: start_of_day(day, source.zone()),
    };
    if let Some(day) = input.as_of {
        return Ok(at_start(day));
    }
    match manifest.and_then(|manifest| manifest.as_of) {
        Some(Stated::Day(day)) => return Ok(at_start(day)),
        Some(Stated::Moment(instant)) => {
            return Ok(AsOf {
                day: instant.with_timezone(&source.zone()).date_naive(),
                instant,
            });
        }
        None => {}
    }
    let name = input.file.rsplit('/').next().unwrap_or(input.file);
    let Some(format) = &source.as_of_file_name else {
        return Err(Problem::new(
            input.file,
            None,
            "nothing says which day the file is of",
            "state the day at the import, in the manifest as `as_of`, or set `as_of_file_name` in the source",
        ));
    };
    day_of_name(name, format).map(at_start).ok_or_else(|| {
        Problem::new(
            input.file,
            None,
            format!("the file name `{name}` has no day of the form `{format}`"),
            "rename the file, or state the day at the import",
        )
    })
}

/// Reads the beginning of a name; a form without a day means the first of the month.
fn day_of_name(name: &str, format: &str) -> Option<NaiveDate> {
    NaiveDate::parse_and_remainder(name, format)
        .map(|(day, _)| day)
        .or_else(|_| {
            // The day is put in front, so that the rest of the name may follow the pattern.
            NaiveDate::parse_and_remainder(&format!("1 {name}"), &format!("%d {format}"))
                .map(|(day, _)| day)
        })
        .ok()
}

/// People while the file is read.
#[derive(Debug, Default)]
struct Gathering {
    people: BTreeMap<Key, Person>,
    /// JSON has no header: which of the columns we need has any row had.
    seen: BTreeSet<String>,
}

#[derive(Debug)]
struct Person {
    line: u64,
    attributes: BTreeMap<String, Value>,
    manager: Option<String>,
}

impl Gathering {
    fn read<R: Read>(
        &mut self,
        source: &Source,
        format: Format,
        bytes: &mut Input<'_, R>,
    ) -> Result<Tail, GaveUp> {
        let limits = *bytes.limits();
        let needed: BTreeSet<String> = source
            .columns()
            .into_iter()
            .map(|(column, _)| column)
            .collect();
        let each = |bytes: &mut Input<'_, R>, line: u64, row: &Row<'_>| {
            if let Row::Json(members) = row
                && self.seen.len() < needed.len()
            {
                let new = members.keys().filter(|name| needed.contains(*name));
                self.seen.extend(new.cloned());
            }
            match normalise(source, &limits, row) {
                Ok(normalised) => self.add(bytes, line, normalised),
                Err(complaints) => complaints
                    .into_iter()
                    .try_for_each(|(message, fix)| bytes.problem_on_line(line, message, fix)),
            }
        };
        match format {
            Format::Csv => csv::read(
                bytes,
                source.delimiter,
                |bytes, header| check_header(source, bytes, header),
                each,
            ),
            Format::Json => json::read_array(bytes, each),
            Format::Jsonl => json::read_lines(bytes, each),
        }
    }

    fn add<R: Read>(
        &mut self,
        bytes: &mut Input<'_, R>,
        line: u64,
        normalised: Normalised,
    ) -> Result<(), GaveUp> {
        let Normalised {
            key,
            attributes,
            manager,
        } = normalised;
        if let Some(first) = self.people.get(&key) {
            let message = format!(
                "the key `{key}` is on line {} and again on line {line}",
                first.line
            );
            return bytes.problem_on_line(line, message, "keep one row a person".to_owned());
        }
        self.people.insert(
            key,
            Person {
                line,
                attributes,
                manager,
            },
        );
        Ok(())
    }

    /// JSON: a column that no object has is most likely misspelt.
    fn never_seen(&self, source: &Source, format: Format, file: &str, tail: Tail) -> Vec<Problem> {
        if format == Format::Csv {
            return Vec::new();
        }
        if tail.rows == 0 {
            return vec![nobody(file)];
        }
        source
            .columns()
            .into_iter()
            .filter(|(column, _)| !self.seen.contains(column))
            .map(|(column, what)| {
                Problem::new(
                    file,
                    None,
                    format!("no object has the member `{column}`, which {what} needs"),
                    "correct the name in the source, or deliver the member",
                )
            })
            .collect()
    }

    /// Turns what the feed says of managers into keys. What cannot be told stays as a name, with a warning.
    fn resolve_managers(&mut self, source: &Source, file: &str) -> Vec<Problem> {
        let Some((_, by)) = &source.manager else {
            return Vec::new();
        };
        let by_key = by == attribute::KEY;
        let mut index: HashMap<String, Vec<Key>> = HashMap::new();
        if !by_key {
            for (key, person) in &self.people {
                if let Some(Value::String(text)) = person.attributes.get(by) {
                    index.entry(text.clone()).or_default().push(key.clone());
                }
            }
        }
        let keys: BTreeSet<Key> = self.people.keys().cloned().collect();
        let mut warnings = Vec::new();
        for person in self.people.values_mut() {
            let Some(named) = person.manager.take() else {
                continue;
            };
            if by_key {
                if !keys.contains(named.as_str()) {
                    warnings.push(Problem::on_line(
                        file,
                        person.line,
                        format!("the manager `{}` is not in this file", shown(&named)),
                        "deliver the manager, too, unless another source does",
                    ));
                }
                person
                    .attributes
                    .insert(attribute::MANAGER.to_owned(), json!(named));
                continue;
            }
            match index.get(&named).map(Vec::as_slice) {
                Some([key]) => {
                    person
                        .attributes
                        .insert(attribute::MANAGER.to_owned(), json!(key));
                }
                Some(several) => warnings.push(Problem::on_line(
                    file,
                    person.line,
                    format!(
                        "the manager `{}` could be any of {} people",
                        shown(&named),
                        several.len()
                    ),
                    "deliver the manager's key",
                )),
                None => warnings.push(Problem::on_line(
                    file,
                    person.line,
                    format!("the manager `{}` is not in this file", shown(&named)),
                    "deliver the manager's key, or the manager, too",
                )),
            }
            person
                .attributes
                .insert(attribute::MANAGER_NAME.to_owned(), json!(named));
        }
        warnings
    }
}

fn check_header<R: Read>(
    source: &Source,
    bytes: &mut Input<'_, R>,
    header: &Header,
) -> Result<(), GaveUp> {
    let mut missing = false;
    for (column, what) in source.columns() {
        if header.place(&column).is_some() {
            continue;
        }
        missing = true;
        let fix = suggest(
            &column,
            "the columns of the file",
            header.names.iter().map(String::as_str),
        );
        bytes.problem_on_line(
            1,
            format!("the column `{column}`, which {what} needs, is missing"),
            fix,
        )?;
    }
    // Without its columns every row would be told again.
    if missing { Err(GaveUp) } else { Ok(()) }
}

fn nobody(file: &str) -> Problem {
    Problem::new(
        file,
        None,
        "the file holds nobody",
        "deliver the whole file again; a company without people is not believed",
    )
}

/// A file that was cut exactly between two rows looks whole; the missing newline tells most such cuts.
fn check_end(
    source: &Source,
    format: Format,
    file: &str,
    manifest: Option<&Manifest>,
    complete: bool,
    tail: Tail,
) -> Option<Problem> {
    if format == Format::Csv && tail.rows == 0 {
        return Some(nobody(file));
    }
    let proven =
        manifest.is_some_and(|manifest| manifest.rows.is_some() || manifest.sha256.is_some());
    (complete && !proven && !tail.terminated && source.final_newline == Presence::Required).then(|| {
        Problem::on_line(
            file,
            tail.last_line,
            "the last line has no end, so the file may have been cut",
            "deliver the whole file again; if this feed never ends its last line, deliver a manifest \
             or set `final_newline: optional` in the source",
        )
    })
}

fn check_manifest(
    file: &str,
    manifest: Option<&Manifest>,
    tail: Tail,
    sha256: &str,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(manifest) = manifest else {
        return problems;
    };
    let fix = "deliver file and manifest of the same run again";
    if let Some(rows) = manifest.rows
        && rows != tail.rows
    {
        problems.push(Problem::new(
            file,
            None,
            format!("the file has {} rows, its manifest says {rows}", tail.rows),
            fix,
        ));
    }
    if let Some(stated) = &manifest.sha256
        && !stated.eq_ignore_ascii_case(sha256)
    {
        problems.push(Problem::new(
            file,
            None,
            format!("the file has the hash {sha256}, its manifest says {stated}"),
            fix,
        ));
    }
    problems
}
