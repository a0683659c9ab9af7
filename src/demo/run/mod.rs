//! The story of `tenure demo`: hire day, a month of changes, a mass of leavers, and an independent look at
//! every system at the end.
//!
//! Everything goes the public way: a configuration folder on disk, exports with manifests, the intake, a node,
//! connectors that speak HTTP and the exec protocol, commands in the inbox. Nothing is reached around.

mod access;
mod facilities;
mod folder;
mod node;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::Days;
use engine::core::case::Case;
use engine::store::{CaseFilter, PAGE_ROWS_MAX};
use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::time::Instant;
use uuid::Uuid;
use workflows::actions::name;
use workflows::directory::{IdentityStatus, LagSummary};
use workflows::intake::{ImportReport, ImportStatus};

use super::company::{Changes, Company, Export};
use super::scim_server::ScimServer;
use crate::shell::case_view::{self, TimelineLine};
use crate::shell::now;

use access::WORKSPACE;
use facilities::Facilities;
use folder::Folder;
use node::Tenure;
use world::{Comparison, Doors, Workspace};

/// How long the company has existed when the mass of leavers comes, in days: hire day, a month, a day.
const DAYS: u64 = 31;
/// How often progress is looked at while nothing else happens.
const LOOK: Duration = Duration::from_millis(50);
/// A phase in which nothing at all happens for so long has failed.
const STALL: Duration = Duration::from_secs(60);

/// What the demo is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub people: usize,
    pub seed: u64,
    /// Where the folder is made.
    pub root: PathBuf,
}

/// What happens, while it happens.
#[derive(Debug, Clone)]
pub enum Told {
    Phase { title: String, cases: u64 },
    Progress { closed: u64, cases: u64, tasks: u64 },
    Note(String),
    PhaseEnded(Phase),
}

/// A part of the story.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    pub title: &'static str,
    pub as_of: chrono::NaiveDate,
    pub joined: usize,
    pub moved: usize,
    pub left: usize,
    pub cases: u64,
    pub took_ms: u64,
}

/// How the guard stopped the mass of leavers.
#[derive(Debug, Clone, Serialize)]
pub struct Guarded {
    pub stopped: bool,
    pub reasons: Vec<String>,
    pub difference_id: String,
    pub population: u64,
    pub created: u64,
    pub changed: u64,
    pub removed: u64,
    pub examples: Vec<String>,
}

/// One system, as it says itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SystemTally {
    pub kind: &'static str,
    pub accounts_created: u64,
    pub accounts_disabled: u64,
    pub accounts_open: u64,
    pub rights: u64,
}

/// One person's end, as the evidence has it.
#[derive(Debug, Clone, Serialize)]
pub struct Leaver {
    pub key: String,
    pub name: String,
    pub department: String,
    pub title: String,
    pub case: String,
    pub state: &'static str,
    /// Who stands behind the case.
    pub initiator: String,
    /// The event that started it.
    pub why: String,
    pub effective_at: Option<chrono::DateTime<chrono::Utc>>,
    pub received_at: chrono::DateTime<chrono::Utc>,
    pub closed_at: Option<chrono::DateTime<chrono::Utc>>,
    pub timeline: Vec<TimelineLine>,
}

/// Everything the demo has to say at its end.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    pub identities: u64,
    pub identities_by_status: BTreeMap<String, u64>,
    /// By state.
    pub cases: BTreeMap<String, u64>,
    pub cases_by_workflow: BTreeMap<String, u64>,
    pub accounts_created: u64,
    pub accounts_disabled: u64,
    /// Steps that nothing proved.
    pub unverified: u64,
    pub lag_p50_ms: Option<u64>,
    pub lag_p99_ms: Option<u64>,
    pub lag: Vec<LagSummary>,
    pub systems: BTreeMap<&'static str, SystemTally>,
    pub tasks_by_hand: u64,
    pub phases: Vec<Phase>,
    pub guard: Guarded,
    pub leaver: Option<Leaver>,
    /// Accounts and rights that were read from the systems and held against the company.
    pub checked: u64,
    pub differences: Vec<String>,
    pub differences_more: u64,
    pub took_ms: u64,
    pub folder: PathBuf,
}

impl Report {
    /// Whether everything that was expected happened.
    #[must_use]
    pub fn good(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Runs the whole story.
///
/// # Errors
/// When something cannot be started, or a phase stands still. That a system is not as it should be is no error
/// but stands in the report.
pub async fn run(options: &Options, tell: &(dyn Fn(Told) + Send + Sync)) -> anyhow::Result<Report> {
    let began = Instant::now();
    let folder = Folder::make(&options.root)?;
    let start = now()
        .date_naive()
        .checked_sub_days(Days::new(DAYS))
        .context("the clock is wrong")?;
    let company = Company::new(options.seed, options.people, start);
    let token = Uuid::new_v4().simple().to_string();
    let server = ScimServer::start(&folder.workspace_file(), 0, &token).await?;
    let workspace = Workspace::new(&server.base_url(), &token)?;
    let groups = access::groups(company.projects());
    for group in &groups {
        workspace.make_group(group).await?;
    }
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    folder.write(&server.base_url(), &token, &program, company.projects())?;
    let mut story = Story {
        tenure: Tenure::start(&folder.root).await?,
        company,
        folder,
        facilities: Facilities::default(),
        tell,
        phases: Vec::new(),
        comparison: Comparison::default(),
        cases_expected: BTreeMap::new(),
    };
    let guard = story.live().await?;
    let leaver = story.leaver().await?;
    let mut systems = story.compare(&workspace).await?;
    let changes = server.changes().await?;
    let of = |what: &str| changes.get(what).copied().unwrap_or(0);
    if let Some(tally) = systems.get_mut(WORKSPACE) {
        tally.accounts_created = of("created").saturating_sub(groups.len() as u64);
        tally.accounts_disabled = of("disabled");
    }
    let report = story.report(options, guard, leaver, systems, began).await?;
    story.tenure.stop().await?;
    server.stop().await;
    Ok(report)
}

struct Story<'a> {
    tenure: Tenure,
    company: Company,
    folder: Folder,
    facilities: Facilities,
    tell: &'a (dyn Fn(Told) + Send + Sync),
    phases: Vec<Phase>,
    comparison: Comparison,
    cases_expected: BTreeMap<&'static str, u64>,
}

impl Story<'_> {
    async fn live(&mut self) -> anyhow::Result<Guarded> {
        let hired = Changes {
            joined: self
                .company
                .people()
                .iter()
                .map(|person| person.id.clone())
                .collect(),
            ..Changes::default()
        };
        let export = self.company.snapshot();
        let began = Instant::now();
        let report = self.import(&export).await?;
        self.applied("hire day", &report)?;
        self.phase("hire day", &hired, &report, began).await?;

        let changes = self.company.month();
        let export = self.company.snapshot();
        let began = Instant::now();
        let report = self.import(&export).await?;
        self.applied("a month of changes", &report)?;
        self.phase("a month of changes", &changes, &report, began)
            .await?;

        let changes = self.company.layoff();
        let export = self.company.snapshot();
        let began = Instant::now();
        let report = self.import(&export).await?;
        let guard = self.guarded(&report);
        let report = match (&report.difference_id, guard.stopped) {
            (Some(difference), true) => self.tenure.approve(difference).await?,
            _ => report,
        };
        self.applied("the mass of leavers", &report)?;
        self.phase("a mass of leavers", &changes, &report, began)
            .await?;
        Ok(guard)
    }

    async fn import(&self, export: &Export) -> anyhow::Result<ImportReport> {
        let file = export
            .write(&self.folder.exports())
            .context("cannot write an export")?;
        self.tenure.import(&file).await
    }

    fn applied(&mut self, what: &str, report: &ImportReport) -> anyhow::Result<()> {
        match &report.status {
            ImportStatus::Applied => Ok(()),
            ImportStatus::Unchanged | ImportStatus::Previewed { .. } => {
                bail!("the export of {what} changed nothing")
            }
            ImportStatus::WaitingForApproval { reasons, .. } => {
                bail!(
                    "the export of {what} was stopped by the guard: {}",
                    reasons.join("; ")
                )
            }
        }
    }

    fn guarded(&mut self, report: &ImportReport) -> Guarded {
        let mut guard = Guarded {
            stopped: false,
            reasons: Vec::new(),
            difference_id: report.difference_id.clone().unwrap_or_default(),
            population: 0,
            created: report.created,
            changed: report.changed,
            removed: report.removed,
            examples: Vec::new(),
        };
        if let ImportStatus::WaitingForApproval {
            reasons,
            population,
            examples,
        } = &report.status
        {
            guard.stopped = true;
            guard.reasons.clone_from(reasons);
            guard.population = *population;
            guard.examples = examples
                .values()
                .flatten()
                .map(|key| key.as_str().to_owned())
                .collect();
            let reasons = reasons.join("; ");
            (self.tell)(Told::Note(format!("the guard stopped the file: {reasons}")));
            (self.tell)(Told::Note(format!(
                "approving exactly {}",
                guard.difference_id
            )));
        } else {
            self.comparison
                .differs("the guard did not stop the mass of leavers".to_owned());
        }
        guard
    }

    /// Waits until every case is closed, doing the tasks by hand meanwhile.
    async fn phase(
        &mut self,
        title: &'static str,
        changes: &Changes,
        report: &ImportReport,
        began: Instant,
    ) -> anyhow::Result<()> {
        let cases = report.cases.values().sum();
        (self.tell)(Told::Phase {
            title: title.to_owned(),
            cases,
        });
        for (workflow, count) in [
            ("joiner", changes.joined.len()),
            ("mover", changes.moved.len()),
            ("leaver", changes.left.len()),
        ] {
            *self.cases_expected.entry(workflow).or_default() += count as u64;
        }
        let before = self.phases.iter().map(|phase| phase.cases).sum::<u64>();
        let mut seen = (0, 0, 0);
        let mut changed = Instant::now();
        loop {
            let idle = tokio::time::timeout(LOOK, self.tenure.node.idle()).await;
            if idle == Ok(false) {
                bail!("the node ended in the middle of `{title}`");
            }
            let tasks = self.facilities.work(self.tenure.database()).await?;
            if tasks > 0 {
                self.tenure.node.nudge();
            }
            let (mut open, mut closed) = (0, 0);
            for (_, state, count) in self.tenure.database().store.counts().await? {
                *(if state.is_closed() {
                    &mut closed
                } else {
                    &mut open
                }) += count;
            }
            let done = self.facilities.done.values().sum();
            (self.tell)(Told::Progress {
                closed: closed.saturating_sub(before),
                cases,
                tasks: done,
            });
            if idle.is_ok() && open == 0 && tasks == 0 && closed >= before + cases {
                break;
            }
            let now_seen = (closed, done, self.tenure.node.status().transitions);
            if now_seen != seen {
                (seen, changed) = (now_seen, Instant::now());
            } else if changed.elapsed() > STALL {
                bail!(
                    "nothing happens any more in `{title}`: {open} cases are open; look with `tenure case list --open --store sqlite:{}`",
                    self.folder.root.join("tenure.sqlite").display()
                );
            } else if idle.is_ok() && tasks == 0 {
                tokio::time::sleep(LOOK).await;
            }
        }
        let phase = Phase {
            title,
            as_of: self.company.today(),
            joined: changes.joined.len(),
            moved: changes.moved.len(),
            left: changes.left.len(),
            cases,
            took_ms: ms(began.elapsed()),
        };
        (self.tell)(Told::PhaseEnded(phase.clone()));
        self.phases.push(phase);
        Ok(())
    }

    /// Asks the systems themselves.
    async fn compare(
        &mut self,
        workspace: &Workspace,
    ) -> anyhow::Result<BTreeMap<&'static str, SystemTally>> {
        let doors = Doors::read(&self.folder).await?;
        let done = |uses: &str| self.facilities.done.get(uses).copied().unwrap_or(0);
        let changed = |what: &str| doors.changes.get(what).copied().unwrap_or(0);
        let created = [0, changed("created"), done(name::ACCOUNT_CREATE)];
        let disabled = [0, changed("disabled"), done(name::ACCOUNT_DISABLE)];
        let accounts = [
            workspace.accounts().await?,
            doors.accounts,
            world::key_holders(&self.facilities),
        ];
        let mut tallies = BTreeMap::new();
        let mut systems = Vec::new();
        let kinds = ["scim", "exec", "manual"];
        for ((((system, accounts), kind), created), disabled) in world::SYSTEMS
            .into_iter()
            .zip(accounts)
            .zip(kinds)
            .zip(created)
            .zip(disabled)
        {
            let open = accounts.iter().filter(|account| account.enabled).count() as u64;
            let rights = accounts
                .iter()
                .map(|account| account.rights.len() as u64)
                .sum();
            let tally = SystemTally {
                kind,
                accounts_created: created,
                accounts_disabled: disabled,
                accounts_open: open,
                rights,
            };
            tallies.insert(system, tally);
            systems.push((system, accounts));
        }
        let found = world::compare(self.company.people(), &systems);
        self.comparison.checked += found.checked;
        self.comparison.differences_more += found.differences_more;
        for difference in found.differences {
            self.comparison.differs(difference);
        }
        Ok(tallies)
    }

    /// Somebody who had much to lose.
    async fn leaver(&self) -> anyhow::Result<Option<Leaver>> {
        let database = self.tenure.database();
        let filter = CaseFilter {
            workflow: Some("leaver".to_owned()),
            ..CaseFilter::default()
        };
        let mut most: Option<(u64, Leaver)> = None;
        // The first page is the newest: the mass of leavers.
        for summary in database
            .store
            .list(&filter, None, LEAVERS_LOOKED_AT)
            .await?
        {
            let case = database.case(summary.head.case).await?;
            let steps: u64 = case
                .steps
                .iter()
                .map(|run| run.instances.len() as u64)
                .sum();
            if most.as_ref().is_some_and(|(most, _)| *most >= steps) {
                continue;
            }
            let Some(holdings) = database.directory.holdings(&case.subject.0).await? else {
                continue;
            };
            let history = database.store.history(case.shard, case.id).await?;
            let evidence = database.store.evidence(case.shard, case.id).await?;
            let attribute = |name: &str| {
                let value = holdings
                    .identity
                    .attributes
                    .get(name)
                    .and_then(serde_json::Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            let event = |field: &str| {
                let value = case
                    .input
                    .get("event")
                    .and_then(|event| event.get(field))
                    .and_then(serde_json::Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            let earlier = database.earlier(&history).await?;
            let mut timeline = case_view::timeline(&case, &history, &evidence, &earlier);
            tell_gaps(&case, &mut timeline);
            let leaver = Leaver {
                key: case.subject.0.clone(),
                name: holdings.identity.display_name.clone(),
                department: attribute("department"),
                title: attribute("title"),
                case: case.id.to_string(),
                state: case.state.as_str(),
                initiator: case.initiator.0.clone(),
                why: format!("{} from `{}`", event("type"), event("source")),
                effective_at: case.effective_at,
                received_at: case.received_at,
                closed_at: case.closed_at,
                timeline,
            };
            most = Some((steps, leaver));
        }
        Ok(most.map(|(_, leaver)| leaver))
    }

    async fn report(
        &mut self,
        options: &Options,
        guard: Guarded,
        leaver: Option<Leaver>,
        systems: BTreeMap<&'static str, SystemTally>,
        began: Instant,
    ) -> anyhow::Result<Report> {
        let database = self.tenure.database().clone();
        let (mut cases, mut by_workflow) = (
            BTreeMap::<String, u64>::new(),
            BTreeMap::<String, u64>::new(),
        );
        for (workflow, state, count) in database.store.counts().await? {
            *cases.entry(state.as_str().to_owned()).or_default() += count;
            *by_workflow.entry(workflow).or_default() += count;
        }
        let unsettled: u64 = cases
            .iter()
            .filter(|(state, _)| *state != "succeeded")
            .map(|(_, count)| count)
            .sum();
        if unsettled > 0 {
            self.comparison
                .differs(format!("{unsettled} cases did not succeed: {cases:?}"));
        }
        for (workflow, expected) in &self.cases_expected {
            let found = by_workflow.get(*workflow).copied().unwrap_or(0);
            if found != *expected {
                self.comparison.differs(format!(
                    "there are {found} cases of `{workflow}`, and {expected} were expected"
                ));
            }
        }
        let by_status: BTreeMap<IdentityStatus, u64> = database
            .directory
            .identity_counts()
            .await?
            .into_iter()
            .collect();
        let left: u64 = self.phases.iter().map(|phase| phase.left as u64).sum();
        for (status, expected) in [
            (IdentityStatus::Active, self.company.people().len() as u64),
            (IdentityStatus::Departed, left),
        ] {
            let found = by_status.get(&status).copied().unwrap_or(0);
            if found != expected {
                let status = status.as_str();
                self.comparison.differs(format!(
                    "{found} people are `{status}`, and {expected} should be"
                ));
            }
        }
        let unverified = self.unverified().await?;
        if unverified > 0 {
            self.comparison
                .differs(format!("{unverified} steps were not verified"));
        }
        let (lag_p50_ms, lag_p99_ms) = self.lag_overall().await?;
        Ok(Report {
            seed: options.seed,
            identities: by_status.values().sum(),
            identities_by_status: by_status
                .iter()
                .map(|(status, count)| (status.as_str().to_owned(), *count))
                .collect(),
            cases,
            cases_by_workflow: by_workflow,
            accounts_created: systems.values().map(|tally| tally.accounts_created).sum(),
            accounts_disabled: systems.values().map(|tally| tally.accounts_disabled).sum(),
            unverified,
            lag_p50_ms,
            lag_p99_ms,
            lag: database.directory.lag(None).await?,
            systems,
            tasks_by_hand: self.facilities.done.values().sum(),
            phases: self.phases.clone(),
            guard,
            leaver,
            checked: self.comparison.checked,
            differences: std::mem::take(&mut self.comparison.differences),
            differences_more: self.comparison.differences_more,
            took_ms: ms(began.elapsed()),
            folder: self.folder.root.clone(),
        })
    }

    async fn unverified(&self) -> anyhow::Result<u64> {
        let mut unverified = 0;
        let mut after = None;
        loop {
            let page = self
                .tenure
                .database()
                .store
                .list(&CaseFilter::default(), after, PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else {
                return Ok(unverified);
            };
            after = Some(engine::store::CaseCursor {
                created_at: last.head.created_at,
                case: last.head.case,
            });
            unverified += page
                .iter()
                .map(|summary| u64::from(summary.state.unverified))
                .sum::<u64>();
        }
    }

    /// The lag over all systems and both directions; only what was verified or attested counts.
    async fn lag_overall(&self) -> anyhow::Result<(Option<u64>, Option<u64>)> {
        let file = self.folder.root.join("tenure.sqlite");
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let all: Vec<i64> = sqlx::query_scalar(LAG_OVERALL)
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        // Nearest rank: every number shown is one that happened.
        let at = |percent: usize| {
            let rank = (all.len() * percent).div_ceil(100).checked_sub(1)?;
            all.get(rank).and_then(|lag| u64::try_from(*lag).ok())
        };
        Ok((at(50), at(99)))
    }
}

/// What a system cannot do was not done, and the timeline says so.
fn tell_gaps(case: &Case, timeline: &mut [TimelineLine]) {
    for (step, run) in case.definition.steps.iter().zip(&case.steps) {
        for instance in &run.instances {
            let Some(gap) = instance
                .output
                .get("gap")
                .and_then(serde_json::Value::as_str)
            else {
                continue;
            };
            let label = case_view::label(&instance.item, &instance.with);
            for line in timeline
                .iter_mut()
                .filter(|line| line.event == "done" && line.label == label)
            {
                if line.step.as_ref() == Some(&step.id) {
                    line.text = format!("nothing done: {gap}");
                }
            }
        }
    }
}

/// How many of the newest leavers are looked at for the one whose story is told.
const LEAVERS_LOOKED_AT: u32 = 60;

const LAG_OVERALL: &str = "
    SELECT max(0, CAST(round((unixepoch(finished_at, 'subsec') - unixepoch(max(effective_at, received_at), 'subsec')) * 1000)
        AS INTEGER)) AS lag_ms
    FROM access_lag WHERE unverified_count = 0 ORDER BY lag_ms";

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
