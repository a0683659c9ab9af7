//! Schedules as people write them: one file of the `schedules` folder each.

use engine::core::duration::Span;
use engine::core::id::Subject;
use engine::core::schedule::{CATCH_UP_DEFAULT, Overlap, Schedule, Spec};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::policy::problem::suggest;
use crate::policy::{Problem, Problems, yaml};

/// A schedule: starts cases of a workflow by the clock.
///
/// ```yaml
/// name: nightly-review
/// workflow: review
/// cron: "30 2 * * MON-FRI"
/// zone: Europe/Berlin
/// subject: company
/// overlap: skip
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tenure schedule", rename = "Schedule")]
pub struct ScheduleFile {
    /// The schedule's name, unique in the installation. Its runs are named after it: do not reuse one.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// The workflow whose cases it starts.
    #[schemars(with = "String")]
    pub workflow: Spanned<String>,
    /// Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), as in a crontab; six fields
    /// begin with the second. Or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schemars(with = "String")]
    pub cron: Spanned<String>,
    /// The IANA time zone whose clock it goes by, for example `Europe/Berlin`.
    #[schemars(with = "String")]
    pub zone: Spanned<String>,
    /// Who or what the cases are about. One subject has one case at a time.
    #[schemars(with = "String")]
    pub subject: Spanned<String>,
    /// What each case is started with. `schedule` is added: the name, the fire time, the zone, the cause.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub input: Option<Spanned<Value>>,
    /// Starts up to so much later, by an amount that follows from the name and the fire time.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub jitter: Option<Spanned<Span>>,
    /// What happens at a fire time while an earlier run is still open.
    #[serde(default)]
    pub overlap: Overlap,
    /// After a time without a node, runs whose fire time is no longer ago than this are made up for; older ones are
    /// recorded as missed. `24h` without it.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub catch_up: Option<Spanned<Span>>,
    /// Does not fire. Only the file can end this pause.
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub description: Option<Spanned<String>>,
}

/// Reads one schedule. `file` is its name in messages; `workflows` are those that exist.
///
/// # Errors
/// Everything that is wrong with it, with line and fix.
pub fn load<'w>(
    file: &str,
    text: &str,
    workflows: impl IntoIterator<Item = &'w str>,
) -> Result<Spec, Problems> {
    let written: ScheduleFile = yaml::parse(file, text)?;
    let places = Places::of(&written);
    let mut problems = Problems::default();
    let known: Vec<&str> = workflows.into_iter().collect();
    let workflow = &written.workflow.value;
    if !known.contains(&workflow.as_str()) {
        problems.push(Problem::new(
            file,
            places.of_field("workflow"),
            format!("there is no workflow `{workflow}`"),
            suggest(workflow, "workflows", known),
        ));
    }
    let spec = written.into_spec();
    match Schedule::new(spec) {
        Ok(schedule) => problems.into_result(|| schedule.spec().clone()),
        Err(mistakes) => {
            let already = !problems.is_empty();
            for mistake in mistakes.0 {
                // A name that no workflow can have is told once.
                if !(already && mistake.field == "workflow") {
                    let at = places.of_field(mistake.field);
                    problems.push(Problem::new(file, at, mistake.what, mistake.fix));
                }
            }
            Err(problems)
        }
    }
}

impl ScheduleFile {
    fn into_spec(self) -> Spec {
        Spec {
            name: self.name.value,
            workflow: self.workflow.value,
            cron: self.cron.value,
            zone: self.zone.value,
            subject: Subject(self.subject.value),
            input: self.input.map_or(Value::Null, |input| input.value),
            jitter: self.jitter.map_or(Span::from_ms(0), |jitter| jitter.value),
            overlap: self.overlap,
            catch_up: self
                .catch_up
                .map_or(CATCH_UP_DEFAULT, |catch_up| catch_up.value),
            paused: self.paused,
            description: self
                .description
                .map(|description| description.value)
                .unwrap_or_default(),
        }
    }
}

/// Where each field stands.
struct Places(Vec<(&'static str, (u64, u64))>);

impl Places {
    fn of(written: &ScheduleFile) -> Self {
        fn at<T>(value: &Spanned<T>) -> (u64, u64) {
            (value.defined.line(), value.defined.column())
        }
        let mut places = vec![
            ("name", at(&written.name)),
            ("workflow", at(&written.workflow)),
            ("cron", at(&written.cron)),
            ("zone", at(&written.zone)),
            ("subject", at(&written.subject)),
        ];
        places.extend(written.input.as_ref().map(|it| ("input", at(it))));
        places.extend(written.jitter.as_ref().map(|it| ("jitter", at(it))));
        places.extend(written.catch_up.as_ref().map(|it| ("catch_up", at(it))));
        places.extend(
            written
                .description
                .as_ref()
                .map(|it| ("description", at(it))),
        );
        Self(places)
    }

    fn of_field(&self, field: &str) -> Option<(u64, u64)> {
        let found = self.0.iter().find(|(name, _)| *name == field);
        found.map(|(_, at)| *at)
    }
}

/// The JSON Schema of the YAML form, for editors.
#[must_use]
pub fn schema() -> Value {
    schemars::SchemaGenerator::default()
        .into_root_schema_for::<ScheduleFile>()
        .to_value()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const GOOD: &str = "\
name: nightly
workflow: review
cron: 30 2 * * MON-FRI
zone: Europe/Berlin
subject: company
input: { scope: [a, b] }
jitter: 5m
overlap: queue_one
catch_up: 2h
description: Looks through everything
";

    #[test]
    fn a_file_is_read() {
        let spec = load("s.yaml", GOOD, ["joiner", "review"]).unwrap();
        assert_eq!(spec.cron, "30 2 * * MON-FRI");
        assert_eq!(spec.overlap, Overlap::QueueOne);
        assert_eq!((spec.jitter.ms(), spec.catch_up.ms()), (300_000, 7_200_000));
        assert_eq!(spec.input, serde_json::json!({"scope": ["a", "b"]}));
        let short = "name: a\nworkflow: review\ncron: '@daily'\nzone: UTC\nsubject: x\n";
        let spec = load("s.yaml", short, ["review"]).unwrap();
        assert_eq!(spec.overlap, Overlap::Skip);
        assert_eq!(spec.catch_up, CATCH_UP_DEFAULT);
        assert!(!spec.paused && spec.input.is_null());
    }

    #[track_caller]
    fn check(from: &str, to: &str, expected: &[&str]) {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "`{from}` is not in the file");
        let problems = load("schedules/s.yaml", &text, ["joiner", "review"]).unwrap_err();
        let told: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn mistakes_are_told_with_line_and_fix() {
        check(
            "30 2 * * MON-FRI",
            "61 2 * * *",
            &[
                "`schedules/s.yaml`:3:7: `61` is no minute; fix: write 0-59, `*`, lists (`1,15`), ranges (`1-5`) or steps (`*/2`)",
            ],
        );
        check(
            "30 2 * * MON-FRI",
            "0 0 30 2 *",
            &[
                "`schedules/s.yaml`:3:7: `0 0 30 2 *` never comes; fix: no month it names has such a day",
            ],
        );
        check(
            "Europe/Berlin",
            "Europe/Berln",
            &[
                "`schedules/s.yaml`:4:7: `Europe/Berln` is no IANA time zone; fix: write one like `Europe/Berlin`, or `UTC`",
            ],
        );
        check(
            "workflow: review",
            "workflow: joinr",
            &[
                "`schedules/s.yaml`:2:11: there is no workflow `joinr`; fix: did you mean `joiner`? workflows are `joiner`, `review`",
            ],
        );
        check(
            "overlap: queue_one",
            "overlap: skp",
            &[
                "`schedules/s.yaml`:8:10: unknown value `skp`; fix: did you mean `skip`? known values are `skip`, \
               `queue_one`, `queue_all`, `cancel_running`, `terminate_running`, `allow`",
            ],
        );
        check(
            "catch_up: 2h",
            "catch_up: 1s",
            &[
                "`schedules/s.yaml`:9:11: `1s` is shorter than `10s`: a node that is only busy would miss runs; fix: give `10s` or more",
            ],
        );
        check(
            "subject: company\n",
            "",
            &[
                "`schedules/s.yaml`:9:1: the field `subject` is missing; fix: add `subject:` to this entry",
            ],
        );
        check(
            "zone: Europe/Berlin\nsubject: company",
            "zone: Mars\nsubject: ''",
            &[
                "`schedules/s.yaml`:5:10: `` is no subject; fix: name who or what the cases are about in 1 to 256 bytes, without blanks around it",
                "`schedules/s.yaml`:4:7: `Mars` is no IANA time zone; fix: write one like `Europe/Berlin`, or `UTC`",
            ],
        );
    }

    #[test]
    fn the_schema_is_the_one_checked_in() {
        let generated = format!("{:#}\n", schema());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schedule.schema.json");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        if stored != generated && std::env::var_os("TENURE_BLESS").is_some() {
            std::fs::write(path, &generated).unwrap();
            return;
        }
        assert_eq!(
            stored, generated,
            "run `TENURE_BLESS=1 cargo test -p workflows schema` and commit the file"
        );
    }
}
