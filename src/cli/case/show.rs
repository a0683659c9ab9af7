//! `tenure case show`: the graph, why it waits, and what happened.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use engine::core::case::Verification;
use serde::Serialize;
use serde_json::Value;

use crate::cli::format::graph::{Node, draw};
use crate::cli::format::{Tone, paint, plain, shortened, time};
use crate::cli::{Context, Exit};
use crate::shell::case_view::{
    self, CaseView, InstanceView, StepView, TimelineLine, Wait, WaitKind,
};
use crate::shell::{Database, now};

/// How many instances of a step are named; the rest is counted.
const INSTANCES_SHOWN: usize = 8;
/// How many reasons to wait are told.
const WAITS_SHOWN: usize = 12;
/// How many lines of the timeline are shown without `--all`.
const LINES_SHOWN: usize = 60;

/// Show one case: its steps, why it waits, when it acts next, and its timeline
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case show E10023          the newest case of this person
  tenure case show 6f2c1a9e --all  every instance and every line
  tenure case show 6f2c1a9e --json")]
pub struct Show {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// Every instance and every line of the timeline
    #[arg(long)]
    all: bool,
}

/// A case with its timeline.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub case: CaseView,
    /// The person's name, as the directory has it.
    pub name: Option<String>,
    pub timeline: Vec<TimelineLine>,
}

pub(super) async fn run(context: &Context, show: Show) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let id = database.find_case(&show.case).await?;
    let shown = read(&database, id).await?;
    context
        .output
        .result(&shown, |shown| render(shown, now(), show.all))?;
    Ok(Exit::Good)
}

/// Reads a case with everything that is shown of it.
pub(crate) async fn read(
    database: &Database,
    id: engine::core::id::CaseId,
) -> anyhow::Result<Shown> {
    let case = database.case(id).await?;
    let surroundings = database.surroundings(&case).await?;
    let history = database.store.history(case.shard, case.id).await?;
    let evidence = database.store.evidence(case.shard, case.id).await?;
    let earlier = database.earlier(&history).await?;
    let holdings = database.directory.holdings(&case.subject.0).await?;
    Ok(Shown {
        case: case_view::view(&case, &surroundings),
        name: holdings.map(|holdings| holdings.identity.display_name),
        timeline: case_view::timeline(&case, &history, &evidence, &earlier),
    })
}

/// The whole page.
#[must_use]
pub fn render(shown: &Shown, now: DateTime<Utc>, all: bool) -> String {
    let case = &shown.case;
    let mut text = heading(shown, now);
    text.push_str("\n\n");
    for line in graph(case, all) {
        let _ = writeln!(text, "{line}");
    }
    let plan = plan_lines(case, now);
    if !plan.is_empty() {
        let _ = writeln!(text, "\n{}", paint("Plan", Tone::Strong));
        for line in plan {
            let _ = writeln!(text, "  {line}");
        }
    }
    if !case.waits.is_empty() {
        let _ = writeln!(text, "\n{}", paint("Waits", Tone::Strong));
        let limit = if all { usize::MAX } else { WAITS_SHOWN };
        for wait in case.waits.iter().take(limit) {
            let _ = writeln!(text, "{}", wait_line(case, wait, now));
        }
        if case.waits.len() > limit {
            let _ = writeln!(
                text,
                "  {}",
                paint(
                    format!("and {} more; --all shows them", case.waits.len() - limit),
                    Tone::Dim
                )
            );
        }
    }
    let _ = writeln!(text, "\n{}", paint("Timeline", Tone::Strong));
    text.push_str(&timeline(&shown.timeline, case.received_at, all));
    text
}

/// What the case found it has to change: what comes, what goes, what goes later and what is asked about.
fn plan_lines(case: &CaseView, now: DateTime<Utc>) -> Vec<String> {
    let steps = case.steps.iter();
    let Some(plan) = steps
        .filter(|step| step.uses == workflows::actions::name::ACCESS_PLAN)
        .filter_map(|step| step.instances.last())
        .map(|instance| &instance.output)
        .next_back()
    else {
        return Vec::new();
    };
    let text = |item: &Value, name: &str| {
        item.get(name)
            .and_then(Value::as_str)
            .map(plain)
            .unwrap_or_default()
    };
    let mut lines = Vec::new();
    for (list, sign, what, tone) in [
        ("create", "+", "account", Tone::Good),
        ("enable", "+", "account, opened again", Tone::Good),
        ("add", "+", "", Tone::Good),
        ("update", "~", "account, other attributes", Tone::Plain),
        ("remove", "-", "", Tone::Bad),
        ("disable", "-", "account, closed", Tone::Bad),
        ("later", "-", "", Tone::Warn),
        ("disable_later", "-", "account, closed", Tone::Warn),
        ("review", "?", "", Tone::Warn),
    ] {
        let items = plan.get(list).and_then(Value::as_array);
        for item in items.into_iter().flatten() {
            let right = text(item, "entitlement");
            let about = if right.is_empty() { what } else { &right };
            let reasons: Vec<String> = item
                .get("reasons")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|reason| text(reason, "role"))
                .collect();
            let mut beside = reasons.join(", ");
            if let Some(due) = item.get("due").and_then(Value::as_str) {
                beside = format!("kept until {}", moment(due, now));
            } else if let Some(until) = item.get("until").and_then(Value::as_str) {
                beside = format!("asked about, until {}", moment(until, now));
            }
            lines.push(format!(
                "{} {} · {about}  {}",
                paint(sign, tone),
                paint(text(item, "system"), Tone::Strong),
                paint(beside, Tone::Dim)
            ));
        }
    }
    if !lines.is_empty()
        && let Some(stays) = plan
            .get("stays")
            .and_then(Value::as_u64)
            .filter(|it| *it > 0)
    {
        let rights = if stays == 1 { "right" } else { "rights" };
        lines.push(format!("{} {stays} {rights} stay", paint("=", Tone::Dim)));
    }
    lines
}

/// A moment as the plan says it, as the rest of the page says moments.
fn moment(text: &str, now: DateTime<Utc>) -> String {
    text.parse()
        .map_or_else(|_| plain(text), |moment| time::clock(moment, now))
}

fn heading(shown: &Shown, now: DateTime<Utc>) -> String {
    let case = &shown.case;
    let tone = Tone::of_state(case.state);
    let name = shown
        .name
        .as_deref()
        .filter(|name| *name != case.subject)
        .map(|name| format!("  {}", plain(name)));
    let mut text = format!(
        "{}  {}{}  {}\n",
        paint(plain(&case.workflow), Tone::Strong),
        paint(plain(&case.subject), Tone::Strong),
        name.unwrap_or_default(),
        paint(format!("{} {}", tone.sign(), case.state), tone)
    );
    let _ = writeln!(text, "{}", paint(format!("case {}", case.id), Tone::Dim));
    let mut facts = vec![
        format!("by {}", plain(&case.initiator)),
        format!("received {}", time::with_distance(case.received_at, now)),
    ];
    if let Some(effective) = case.effective_at {
        facts.push(format!("effective {}", time::clock(effective, now)));
    }
    match (case.closed_at, case.deadline_at) {
        (Some(closed), _) => {
            facts.push(format!("took {}", time::length(closed - case.received_at)))
        }
        (None, Some(deadline)) if case.deadline_passed => {
            facts.push(paint(
                format!("deadline passed {}", time::relative(deadline, now)),
                Tone::Bad,
            ));
        }
        (None, Some(deadline)) => facts.push(format!("deadline {}", time::relative(deadline, now))),
        (None, None) => {}
    }
    text.push_str(&facts.join(" · "));
    text
}

fn graph(case: &CaseView, all: bool) -> Vec<String> {
    let width = case
        .steps
        .iter()
        .map(|step| step.id.chars().count())
        .max()
        .unwrap_or(0);
    let uses = case
        .steps
        .iter()
        .map(|step| step.uses.chars().count())
        .max()
        .unwrap_or(0);
    let nodes: Vec<Node> = case
        .steps
        .iter()
        .map(|step| {
            let tone = step_tone(step);
            let mut lines = vec![format!(
                "{}  {}  {}",
                paint(format!("{:<width$}", step.id), Tone::Strong),
                paint(format!("{:<uses$}", step.uses), Tone::Dim),
                paint(step_summary(step), tone)
            )];
            lines.extend(instance_lines(step, all));
            Node {
                tone,
                lines,
                needs: step.needs.clone(),
            }
        })
        .collect();
    draw(&nodes)
}

/// The tone of the worst thing in a step.
fn step_tone(step: &StepView) -> Tone {
    let count = |state: &str| step.counts.get(state).copied().unwrap_or(0);
    if count("parked") + count("failed") + count("unknown") > 0 || step.state == "stuck" {
        Tone::Bad
    } else if step.unverified > 0 || count("given_up") > 0 || count("asking") + count("waiting") > 0
    {
        Tone::Warn
    } else {
        Tone::of_state(step.state)
    }
}

fn step_summary(step: &StepView) -> String {
    if step.instances.is_empty() {
        return match (&step.failure, step.state) {
            (Some(failure), "skipped" | "stuck") => {
                format!("{}: {}", step.state, shortened(failure, 60))
            }
            (_, state) => state.to_owned(),
        };
    }
    let total = step.instances.len();
    let mut parts: Vec<String> = if step.fan_out {
        step.counts
            .iter()
            .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
            .collect()
    } else {
        step.counts
            .keys()
            .map(|state| state.replace('_', " "))
            .collect()
    };
    let done = step.counts.get("done").copied().unwrap_or(0);
    let mut proof = |count: usize, word: &str| {
        if count > 0 {
            parts.push(if count == total && done == total {
                word.to_owned()
            } else {
                format!("{count} {word}")
            });
        }
    };
    proof(step.verified, "verified");
    proof(step.attested, "attested");
    proof(step.unverified, "unverified");
    parts.join(", ")
}

/// Instances worth a line of their own: all that are not simply done, or every one with `all`.
fn instance_lines(step: &StepView, all: bool) -> Vec<String> {
    if !step.fan_out {
        return Vec::new();
    }
    let remarkable = |instance: &&InstanceView| {
        instance.state != "done"
            || matches!(instance.verification, Some(Verification::Unverified { .. }))
    };
    let chosen: Vec<&InstanceView> = step
        .instances
        .iter()
        .filter(|it| all || remarkable(it))
        .collect();
    let limit = if all { usize::MAX } else { INSTANCES_SHOWN };
    let mut lines: Vec<String> = chosen
        .iter()
        .take(limit)
        .map(|instance| {
            let tone = match instance.verification {
                Some(Verification::Unverified { .. }) => Tone::Warn,
                _ => Tone::of_state(instance.state),
            };
            let detail = match (&instance.verification, &instance.failure) {
                (Some(Verification::Unverified { reason }), _) => {
                    format!(": {}", shortened(reason, 60))
                }
                (_, Some(failure)) => format!(": {}", shortened(&failure.message, 60)),
                _ => String::new(),
            };
            format!(
                "  {} {} {}",
                paint(tone.sign(), tone),
                shortened(&instance.label, 50),
                paint(
                    format!("{}{detail}", instance.state.replace('_', " ")),
                    Tone::Dim
                )
            )
        })
        .collect();
    if chosen.len() > limit {
        lines.push(paint(
            format!("  and {} more", chosen.len() - limit),
            Tone::Dim,
        ));
    }
    lines
}

fn wait_line(case: &CaseView, wait: &Wait, now: DateTime<Utc>) -> String {
    let tone = match wait.kind {
        WaitKind::Parked | WaitKind::Paused => Tone::Bad,
        WaitKind::InFlight => Tone::Busy,
        _ => Tone::Warn,
    };
    let place: Vec<String> = [
        wait.step.clone(),
        (!wait.label.is_empty()).then(|| plain(&wait.label)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let place = if place.is_empty() {
        String::new()
    } else {
        format!("{}: ", place.join(" "))
    };
    let mut line = format!(
        "  {} {}{}",
        paint(tone.sign(), tone),
        paint(place, Tone::Strong),
        shortened(&wait.why, 200)
    );
    if let Some(since) = wait.since.filter(|_| wait.kind == WaitKind::SystemAway) {
        let _ = write!(line, "\n    since {}", time::with_distance(since, now));
    }
    if let Some(next) = wait.next_at {
        let acts = match wait.kind {
            WaitKind::Approval | WaitKind::Task | WaitKind::Signal => "due",
            WaitKind::SystemAway => "next look",
            _ => "acts next",
        };
        let _ = write!(line, "\n    {acts} {}", time::with_distance(next, now));
    }
    if let Some(command) = command(case, wait) {
        let _ = write!(line, "\n    {}", paint(command, Tone::Code));
    }
    line
}

/// What a person can type about it.
fn command(case: &CaseView, wait: &Wait) -> Option<String> {
    let short = case_view::short(&case.id);
    let step = wait.step.as_deref().unwrap_or_default();
    let at = match wait.instance {
        Some(instance) => format!("{short} --step {step} --instance {instance}"),
        None => format!("{short} --step {step}"),
    };
    Some(match wait.kind {
        WaitKind::Parked => {
            format!("tenure case retry {at}    or: tenure case skip {at} --reason '...'")
        }
        WaitKind::Paused => format!("tenure case resume {short} --reason '...'"),
        WaitKind::Approval => format!("tenure case approve {at}    or: tenure case reject {at}"),
        WaitKind::Task => format!("tenure case complete-task {at} --proof '...'"),
        _ => return None,
    })
}

/// The timeline, with times counted from `zero`.
#[must_use]
pub fn timeline(lines: &[TimelineLine], zero: DateTime<Utc>, all: bool) -> String {
    let limit = if all { usize::MAX } else { LINES_SHOWN };
    let hidden = lines.len().saturating_sub(limit);
    // The beginning says why, the end says where it stands: what is left out lies between.
    let head = if hidden > 0 { limit / 2 } else { lines.len() };
    let tail = lines.len() - head.min(lines.len()) - hidden;
    let mut text = String::new();
    for (position, line) in lines.iter().enumerate() {
        if hidden > 0 && position == head {
            let _ = writeln!(
                text,
                "{}",
                paint(
                    format!("             … {hidden} more; --all shows them"),
                    Tone::Dim
                )
            );
        }
        if position >= head && position < lines.len() - tail {
            continue;
        }
        let _ = writeln!(text, "{}", timeline_line(line, zero));
    }
    text.pop();
    text
}

fn timeline_line(line: &TimelineLine, zero: DateTime<Utc>) -> String {
    let offset = line.at - zero;
    let stamp = if offset < chrono::TimeDelta::days(1) {
        format!("+{}", time::length(offset))
    } else {
        line.at.format("%Y-%m-%d %H:%M").to_string()
    };
    let tone = match line.event {
        "done" | "undone" if line.text.contains("unverified") => Tone::Warn,
        "done" | "undone" | "approved" => Tone::Good,
        "parked" | "failed" | "step_stuck" | "unknown" | "deadline_passed" => Tone::Bad,
        "waiting" | "asked" | "overdue" | "step_delayed" => Tone::Warn,
        "started" | "closed" => Tone::Strong,
        _ => Tone::Plain,
    };
    let place: Vec<&str> = [
        line.step.as_deref(),
        Some(line.label.as_str()).filter(|label| !label.is_empty()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let place = if place.is_empty() {
        String::new()
    } else {
        format!("{}  ", shortened(&place.join(" "), 44))
    };
    let by = if line.by == "engine" {
        String::new()
    } else {
        paint(format!("  by {}", plain(&line.by)), Tone::Dim)
    };
    format!(
        "{}  {place}{}{by}",
        paint(format!("{stamp:>12}"), Tone::Dim),
        paint(shortened(&line.text, 160), tone)
    )
}
