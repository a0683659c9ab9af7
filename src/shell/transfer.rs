//! A case with its whole history, as lines of JSON: out of one database, into another.
//!
//! # The form
//!
//! The first line names the form, then come the versions of workflows that the cases need, then the cases, one a
//! line. Fields stand in the order of their names and times have six digits, so the same case gives the same bytes
//! from every database. Rows of steps and events of the history stand as the text they are stored as: what evidence
//! digests must not be written anew. Fields may be added to the form, with a default; another meaning is another
//! name. The shard is left out: it follows from the subject and the number of shards of the database.
//!
//! The file holds what the database holds: personal data and the salts of its digests, and no secrets of systems.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use engine::core::admission::FIRST_LIFE;
use engine::core::case::{CaseState, Ending, Pause};
use engine::core::definition::{Definition, Lane};
use engine::core::id::{Actor, CaseId, DefinitionHash, ShardId, Subject};
use engine::core::input::TimerTarget;
use engine::core::migration::standing_timers;
use engine::store::{
    Acquire, Batch, EvidenceRow, GenerationRow, HeadRow, HistoryRow, NoProjection, PauseRow,
    ShardLease, StateRow, StepRow, Store, StoredCase, TimerRow, assemble,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use workflows::actions::FACT_ROOTS;

use super::Database;
use super::case_view::versions_left;

/// The name of this form.
pub const FORMAT: &str = "tenure.case.v1";
/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long an import holds the database, and how many cases it writes at once.
const LEASE_MS: u32 = 60_000;
const BATCH_CASES: usize = 100;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    format: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Definition(DefinitionForm),
    Case(Box<CaseForm>),
}

/// A version of a workflow. Fields of all forms stand in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DefinitionForm {
    hash: String,
    name: String,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CaseForm {
    evidence: Vec<LeafForm>,
    head: HeadForm,
    history: Vec<HistoryForm>,
    state: StateForm,
    steps: Vec<StepForm>,
    timers: Vec<TimerForm>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HeadForm {
    case: Uuid,
    created_at: String,
    definition: String,
    effective_at: Option<String>,
    generation: u32,
    initiator: String,
    input: Value,
    lane: Lane,
    received_at: String,
    salt: String,
    subject: String,
    workflow: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StateForm {
    changed_at: String,
    closed_at: Option<String>,
    deadline_at: Option<String>,
    deadline_passed: bool,
    ending: Option<Ending>,
    given_up: u32,
    in_flight: u32,
    parked: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<PauseForm>,
    state: CaseState,
    steps_done: u32,
    unfinished: u32,
    unverified: u32,
    version: u64,
}

/// Who holds the case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PauseForm {
    at: String,
    by: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StepForm {
    attempt: u32,
    away: u32,
    /// The stored form, as text.
    body: String,
    changed_at: String,
    failures: u32,
    /// Null for the step itself.
    instance: Option<u32>,
    state: String,
    step: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HistoryForm {
    at: String,
    by: String,
    /// A list of events, as text.
    events: String,
    input: String,
    version: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LeafForm {
    at: String,
    /// The canonical bytes, which are text.
    leaf: String,
    version: u64,
}

/// A timer that stands; it follows from the rows of steps and is written for whoever reads the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct TimerForm {
    due: String,
    instance: Option<u32>,
    step: Option<u16>,
}

// --- out ------------------------------------------------------------------------------------------------

/// The cases as text, a line each, with the versions they need before the first that needs them.
///
/// # Errors
/// When a case does not exist, or the database does not answer.
pub async fn export(database: &Database, cases: &[CaseId]) -> anyhow::Result<String> {
    let mut text = line(&First {
        format: FORMAT.to_owned(),
    })?;
    let mut written = BTreeSet::new();
    for case in cases {
        let (form, versions) = read(database, *case).await?;
        for version in versions {
            if written.insert(version.hash.clone()) {
                text.push_str(&line(&Line::Definition(version))?);
            }
        }
        text.push_str(&line(&Line::Case(Box::new(form)))?);
    }
    Ok(text)
}

fn line<T: Serialize>(form: &T) -> anyhow::Result<String> {
    let mut line = serde_json::to_string(form)?;
    line.push('\n');
    Ok(line)
}

async fn read(database: &Database, id: CaseId) -> anyhow::Result<(CaseForm, Vec<DefinitionForm>)> {
    let store = &database.store;
    let missing = || format!("there is no case `{id}`");
    let shard = store.locate(id).await?.with_context(missing)?;
    // What happens to the case from here on is left out of what is read after its state.
    let stored = store.load(shard, id).await?.with_context(missing)?;
    let version = stored.state.version;
    let mut history = store.history(shard, id).await?;
    history.retain(|row| row.version <= version);
    let mut evidence = store.evidence(shard, id).await?;
    evidence.retain(|row| row.version <= version);
    let mut hashes = versions_left(&history);
    hashes.push(stored.head.definition.clone());
    let mut versions = Vec::new();
    let mut current = None;
    for hash in hashes {
        let source = store.definition(&hash).await?;
        let source = source.with_context(|| {
            format!("workflow version `{hash}` of case `{id}` is not stored any more")
        })?;
        let definition = parse(&hash, &source)?;
        versions.push(DefinitionForm {
            hash: hash.0.clone(),
            name: definition.name.clone(),
            source,
        });
        current = Some(definition);
    }
    let definition = current.with_context(missing)?;
    Ok((form(stored, history, evidence, definition)?, versions))
}

fn parse(hash: &DefinitionHash, source: &str) -> anyhow::Result<Definition> {
    Definition::parse(hash.short(), source, FACT_ROOTS, &|_| true)
        .with_context(|| format!("workflow version `{}` cannot be read", hash.short()))
}

fn form(
    stored: StoredCase,
    history: Vec<HistoryRow>,
    evidence: Vec<EvidenceRow>,
    definition: Definition,
) -> anyhow::Result<CaseForm> {
    let case = assemble(Arc::new(definition), stored.clone())?;
    let StoredCase { head, state, steps } = stored;
    let mut timers: Vec<TimerForm> = standing_timers(&case)
        .into_iter()
        .map(|(target, due)| timer_form(target, due))
        .collect();
    timers.sort_unstable();
    Ok(CaseForm {
        evidence: evidence
            .into_iter()
            .map(|row| {
                Ok(LeafForm {
                    at: stamp(row.at),
                    leaf: String::from_utf8(row.leaf)?,
                    version: row.version,
                })
            })
            .collect::<Result<_, std::string::FromUtf8Error>>()?,
        head: HeadForm {
            case: head.case.0,
            created_at: stamp(head.created_at),
            definition: head.definition.0,
            effective_at: head.effective_at.map(stamp),
            generation: head.generation,
            initiator: head.initiator.0,
            input: head.input,
            lane: head.lane,
            received_at: stamp(head.received_at),
            salt: hex(&head.salt),
            subject: head.subject.0,
            workflow: head.workflow,
        },
        history: history
            .into_iter()
            .map(|row| HistoryForm {
                at: stamp(row.at),
                by: row.by,
                events: row.events,
                input: row.input,
                version: row.version,
            })
            .collect(),
        state: StateForm {
            changed_at: stamp(state.changed_at),
            closed_at: state.closed_at.map(stamp),
            deadline_at: state.deadline_at.map(stamp),
            deadline_passed: state.deadline_passed,
            ending: state.ending,
            given_up: state.given_up,
            in_flight: state.in_flight,
            parked: state.parked,
            paused: state.paused.map(|pause| PauseForm {
                at: stamp(pause.at),
                by: pause.by.0,
                reason: pause.reason,
            }),
            state: state.state,
            steps_done: state.steps_done,
            unfinished: state.unfinished,
            unverified: state.unverified,
            version: state.version,
        },
        steps: steps
            .into_iter()
            .map(|row| StepForm {
                attempt: row.attempt,
                away: row.away,
                body: row.body,
                changed_at: stamp(row.changed_at),
                failures: row.failures,
                instance: row.instance,
                state: row.state,
                step: row.step,
            })
            .collect(),
        timers,
    })
}

fn timer_form(target: TimerTarget, due: DateTime<Utc>) -> TimerForm {
    let (step, instance) = match target {
        TimerTarget::Case => (None, None),
        TimerTarget::Step(step) => (Some(step.0), None),
        TimerTarget::Instance(place) => (Some(place.step.0), Some(place.instance.0)),
    };
    TimerForm {
        due: stamp(due),
        instance,
        step,
    }
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

// --- in -------------------------------------------------------------------------------------------------

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Cases that were written.
    pub written: Vec<Uuid>,
    /// Cases that were there already, just so.
    pub same: Vec<Uuid>,
}

/// Writes the cases of a file. Everything is checked before anything is written; an import that broke off is finished
/// by running it again.
///
/// An open case is refused unless `take_over` says that nobody runs it any more where it came from: the same case
/// run by two databases would do everything twice.
///
/// # Errors
/// When the file is not of this form, a case is there with other content, or a node runs on the database.
pub async fn import(
    database: &Database,
    file: impl BufRead,
    take_over: bool,
) -> anyhow::Result<Imported> {
    let Parsed { definitions, cases } = parse_file(file)?;
    let mut imported = Imported::default();
    let mut wanted = Vec::new();
    let count = database.store.shard_count().await?;
    for form in cases {
        let id = CaseId(form.head.case);
        let rows = Rows::of(&form, &definitions, count)
            .with_context(|| format!("case `{id}` of the file is damaged"))?;
        if database.store.locate(id).await?.is_some() {
            let (there, _) = read(database, id).await?;
            ensure!(
                there == form,
                "case `{id}` is in this database already, with other content; nothing was imported"
            );
            imported.same.push(id.0);
            continue;
        }
        if !form.state.state.is_closed() && !take_over {
            bail!(
                "case `{id}` is {}, not closed: two databases must never run the same case. Stop the nodes it came from, \
                 or pause it there and export it again; then import with `--take-over`",
                form.state.state.as_str()
            );
        }
        imported.written.push(id.0);
        wanted.push(rows);
    }
    if wanted.is_empty() {
        return Ok(imported);
    }
    let leases = hold(&*database.store, &wanted).await?;
    let done = write(&*database.store, &definitions, wanted, &leases).await;
    database.store.release(&holder(), &leases).await?;
    done.map(|()| imported)
}

struct Parsed {
    definitions: BTreeMap<String, DefinitionForm>,
    cases: Vec<CaseForm>,
}

fn parse_file(mut file: impl BufRead) -> anyhow::Result<Parsed> {
    let mut parsed = Parsed {
        definitions: BTreeMap::new(),
        cases: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    let mut number = 0_u64;
    loop {
        number += 1;
        let mut text = String::new();
        let mut limited = std::io::Read::take(&mut file, LINE_BYTES_MAX + 1);
        let bytes = limited
            .read_line(&mut text)
            .with_context(|| format!("line {number} cannot be read"))?;
        ensure!(
            bytes as u64 <= LINE_BYTES_MAX,
            "line {number} is longer than {LINE_BYTES_MAX} bytes"
        );
        if bytes == 0 {
            break;
        }
        if number == 1 {
            let first: First = serde_json::from_str(&text)
                .context("line 1 does not name a form; is this a file of `tenure case export`?")?;
            ensure!(
                first.format == FORMAT,
                "the file has form `{}`, and this program reads `{FORMAT}`",
                first.format
            );
            continue;
        }
        let line: Line = serde_json::from_str(&text)
            .with_context(|| format!("line {number} is not of the form `{FORMAT}`"))?;
        match line {
            Line::Definition(form) => {
                let definition = parse(&DefinitionHash(form.hash.clone()), &form.source)?;
                ensure!(
                    definition.hash.0 == form.hash && definition.name == form.name,
                    "line {number}: the definition is not the one its hash or name says"
                );
                parsed.definitions.insert(form.hash.clone(), form);
            }
            Line::Case(form) => {
                ensure!(
                    seen.insert(form.head.case),
                    "line {number}: case `{}` is in the file twice",
                    form.head.case
                );
                parsed.cases.push(*form);
            }
        }
    }
    ensure!(number > 2, "the file has no cases");
    Ok(parsed)
}

/// A case as rows, checked.
struct Rows {
    stored: StoredCase,
    history: Vec<HistoryRow>,
    evidence: Vec<EvidenceRow>,
    timers: Vec<TimerRow>,
}

impl Rows {
    fn of(
        form: &CaseForm,
        definitions: &BTreeMap<String, DefinitionForm>,
        shards: u32,
    ) -> anyhow::Result<Self> {
        let hash = DefinitionHash(form.head.definition.clone());
        let definition = definitions
            .get(&hash.0)
            .with_context(|| format!("the file lacks workflow version `{hash}`"))?;
        let definition = parse(&hash, &definition.source)?;
        ensure!(
            definition.name == form.head.workflow,
            "its version is one of `{}`, not of `{}`",
            definition.name,
            form.head.workflow
        );
        let shard = Subject(form.head.subject.clone()).shard(shards);
        let stored = stored(form, shard)?;
        let case = assemble(Arc::new(definition), stored.clone())?;
        let timers: BTreeSet<(TimerTarget, DateTime<Utc>)> = standing_timers(&case);
        let mut written: Vec<TimerForm> = timers
            .iter()
            .map(|(target, due)| timer_form(*target, *due))
            .collect();
        written.sort_unstable();
        ensure!(
            written == form.timers,
            "its timers do not follow from its steps"
        );
        let id = case.id;
        let versions = form.history.iter().map(|row| row.version);
        ensure!(
            versions.eq(form.evidence.iter().map(|row| row.version))
                && form.history.last().map_or(0, |row| row.version) == form.state.version,
            "its history, its evidence and its state do not belong together"
        );
        let history = form.history.iter().map(|row| {
            Ok(HistoryRow {
                shard,
                case: id,
                version: row.version,
                at: time(&row.at)?,
                input: row.input.clone(),
                by: row.by.clone(),
                events: row.events.clone(),
            })
        });
        let evidence = form.evidence.iter().map(|row| {
            Ok(EvidenceRow {
                shard,
                case: id,
                version: row.version,
                at: time(&row.at)?,
                leaf: row.leaf.clone().into_bytes(),
            })
        });
        Ok(Self {
            history: history.collect::<anyhow::Result<_>>()?,
            evidence: evidence.collect::<anyhow::Result<_>>()?,
            timers: timers
                .into_iter()
                .map(|(target, due)| TimerRow {
                    shard,
                    due,
                    case: id,
                    target,
                })
                .collect(),
            stored,
        })
    }
}

fn stored(form: &CaseForm, shard: ShardId) -> anyhow::Result<StoredCase> {
    let case = CaseId(form.head.case);
    let (head, state) = (&form.head, &form.state);
    let steps = form.steps.iter().map(|row| {
        Ok(StepRow {
            shard,
            case,
            step: row.step,
            instance: row.instance,
            state: row.state.clone(),
            attempt: row.attempt,
            failures: row.failures,
            away: row.away,
            planned_version: None,
            body: row.body.clone(),
            changed_at: time(&row.changed_at)?,
        })
    });
    Ok(StoredCase {
        head: HeadRow {
            shard,
            case,
            subject: Subject(head.subject.clone()),
            workflow: head.workflow.clone(),
            definition: DefinitionHash(head.definition.clone()),
            lane: head.lane,
            generation: head.generation,
            input: head.input.clone(),
            salt: salt(&head.salt)?,
            initiator: Actor(head.initiator.clone()),
            effective_at: maybe_time(head.effective_at.as_deref())?,
            received_at: time(&head.received_at)?,
            created_at: time(&head.created_at)?,
        },
        state: StateRow {
            shard,
            case,
            from_version: None,
            version: state.version,
            state: state.state,
            ending: state.ending,
            in_flight: state.in_flight,
            parked: state.parked,
            unfinished: state.unfinished,
            unverified: state.unverified,
            given_up: state.given_up,
            steps_done: state.steps_done,
            deadline_at: maybe_time(state.deadline_at.as_deref())?,
            deadline_passed: state.deadline_passed,
            closed_at: maybe_time(state.closed_at.as_deref())?,
            changed_at: time(&state.changed_at)?,
            paused: paused(state.paused.as_ref())?,
        },
        steps: steps.collect::<anyhow::Result<_>>()?,
    })
}

fn paused(form: Option<&PauseForm>) -> anyhow::Result<Option<Pause>> {
    form.map(|form| {
        Ok(Pause {
            at: time(&form.at)?,
            by: Actor(form.by.clone()),
            reason: form.reason.clone(),
        })
    })
    .transpose()
}

fn time(text: &str) -> anyhow::Result<DateTime<Utc>> {
    text.parse().with_context(|| format!("`{text}` is no time"))
}

fn maybe_time(text: Option<&str>) -> anyhow::Result<Option<DateTime<Utc>>> {
    text.map(time).transpose()
}

fn salt(text: &str) -> anyhow::Result<[u8; 16]> {
    let wrong = || "its salt is not 32 hexadecimal digits";
    let number = u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 32);
    Ok(number.with_context(wrong)?.to_be_bytes())
}

fn holder() -> String {
    format!("import-{}", std::process::id())
}

/// Takes the shards, as a node would: whoever holds them writes alone.
async fn hold(store: &dyn Store, wanted: &[Rows]) -> anyhow::Result<Vec<ShardLease>> {
    let wanted_shards = Acquire {
        node: &holder(),
        lease_ms: LEASE_MS,
        replaces: &[],
        holding: &[],
        shards_max: u32::MAX,
    };
    let leases = store.acquire(&wanted_shards).await?;
    let held: BTreeSet<ShardId> = leases.iter().map(|lease| lease.shard).collect();
    if wanted
        .iter()
        .any(|rows| !held.contains(&rows.stored.head.shard))
    {
        store.release(&holder(), &leases).await?;
        bail!(
            "a node is running on this database; stop it for the import, and start it again after"
        );
    }
    Ok(leases)
}

async fn write(
    store: &dyn Store,
    definitions: &BTreeMap<String, DefinitionForm>,
    wanted: Vec<Rows>,
    leases: &[ShardLease],
) -> anyhow::Result<()> {
    for form in definitions.values() {
        let hash = DefinitionHash(form.hash.clone());
        store
            .put_definition(&hash, &form.name, &form.source, super::now())
            .await?;
    }
    let mut wanted = wanted.into_iter().peekable();
    while wanted.peek().is_some() {
        let mut batch = Batch::default();
        let mut lives: BTreeMap<Subject, GenerationRow> = BTreeMap::new();
        for rows in wanted.by_ref().take(BATCH_CASES) {
            let head = &rows.stored.head;
            if head.generation > FIRST_LIFE {
                let row = lives.entry(head.subject.clone()).or_insert(GenerationRow {
                    shard: head.shard,
                    subject: head.subject.clone(),
                    generation: head.generation,
                });
                row.generation = row.generation.max(head.generation);
            }
            if let Some(pause) = &rows.stored.state.paused {
                batch.pauses.push(PauseRow {
                    shard: rows.stored.head.shard,
                    case: rows.stored.head.case,
                    pause: Some(pause.clone()),
                });
            }
            batch.heads.push(rows.stored.head);
            batch.states.push(rows.stored.state);
            batch.steps.extend(rows.stored.steps);
            batch.history.extend(rows.history);
            batch.evidence.extend(rows.evidence);
            batch.timers_set.extend(rows.timers);
        }
        batch.generations = lives.into_values().collect();
        let shards: BTreeSet<ShardId> = batch.heads.iter().map(|head| head.shard).collect();
        let mine = leases.iter().filter(|lease| shards.contains(&lease.shard));
        batch.leases = mine.copied().collect();
        store.commit(&batch, &NoProjection).await?;
    }
    Ok(())
}
