//! `tenure workflow diff`: what differs between two versions, field by field.

use std::fmt::Write as _;

use engine::core::definition::{Change, Difference, StepDifference, diff};
use serde::Serialize;
use serde_json::Value;

use super::super::format::{Tone, paint, shortened};
use super::super::{Context, Exit};
use super::versions;

/// The longest value that is shown whole.
const VALUE_CHARS_MAX: usize = 60;

/// Compare two versions of a workflow, field by field
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Steps are compared by their ids. A change of the text that changes nothing of what is done is no difference.
Exit code 1 says that there are differences.

Examples:
  tenure workflow diff 3f0c9a1e leaver                a stored version and the one in force
  tenure workflow diff leaver leaver.new.yaml         the one in force and a file
  tenure workflow diff 3f0c9a1e 77b2d04c --json")]
pub(super) struct Diff {
    /// The older version: a workflow's name, the beginning of a stored version's hash, or a YAML file
    #[arg(value_name = "FROM")]
    from: String,
    /// The newer one
    #[arg(value_name = "TO")]
    to: String,
}

#[derive(Serialize)]
struct Compared {
    from: String,
    to: String,
    #[serde(flatten)]
    difference: Difference,
}

/// Compares.
///
/// # Errors
/// When there is no such version.
pub(super) async fn run(context: &Context, compare: Diff) -> anyhow::Result<Exit> {
    let from = versions::find(context, &compare.from).await?;
    let to = versions::find(context, &compare.to).await?;
    let compared = Compared {
        difference: diff(&from, &to),
        from: from.hash.to_string(),
        to: to.hash.to_string(),
    };
    context.output.result(&compared, |compared| {
        format!(
            "{}\n\n{}",
            paint(
                format!(
                    "{} {} -> {} {}",
                    from.name,
                    from.hash.short(),
                    to.name,
                    to.hash.short()
                ),
                Tone::Dim
            ),
            told(&compared.difference)
        )
    })?;
    Ok(if compared.difference.is_empty() {
        Exit::Good
    } else {
        Exit::Bad
    })
}

fn told(difference: &Difference) -> String {
    if difference.is_empty() {
        return "both do the same".to_owned();
    }
    let mut text = String::new();
    for change in &difference.fields {
        let _ = writeln!(text, "{} {}", paint('~', Tone::Warn), change_line(change));
    }
    for step in &difference.steps {
        match step {
            StepDifference::Added { step, uses } => {
                let _ = writeln!(
                    text,
                    "{} {}  {}",
                    paint('+', Tone::Good),
                    paint(step, Tone::Strong),
                    paint(uses, Tone::Code)
                );
            }
            StepDifference::Removed {
                step,
                uses,
                perhaps,
            } => {
                let perhaps = perhaps
                    .as_ref()
                    .map(|other| format!("  does what `{other}` does now: --map {step}={other}"))
                    .unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{} {}  {}{}",
                    paint('-', Tone::Bad),
                    paint(step, Tone::Strong),
                    paint(uses, Tone::Code),
                    paint(perhaps, Tone::Dim)
                );
            }
            StepDifference::Changed { step, changes } => {
                let _ = writeln!(
                    text,
                    "{} {}",
                    paint('~', Tone::Warn),
                    paint(step, Tone::Strong)
                );
                for change in changes {
                    let _ = writeln!(text, "    {}", change_line(change));
                }
            }
        }
    }
    text.trim_end().to_owned()
}

fn change_line(change: &Change) -> String {
    format!(
        "{}: {} {} {}",
        change.field,
        value(&change.from),
        paint("->", Tone::Dim),
        value(&change.to)
    )
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => paint("nothing", Tone::Dim),
        Value::String(text) => shortened(text, VALUE_CHARS_MAX),
        other => shortened(&other.to_string(), VALUE_CHARS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_reads_from_left_to_right() {
        let change = |field: &str, from: Value, to: Value| Change {
            field: field.to_owned(),
            from,
            to,
        };
        let difference = Difference {
            fields: vec![change("lane", json!("normal"), json!("revocation"))],
            steps: vec![
                StepDifference::Changed {
                    step: "disable".to_owned(),
                    changes: vec![
                        change("retry.attempts", json!(8), json!(12)),
                        change("after", Value::Null, json!("5m")),
                    ],
                },
                StepDifference::Added {
                    step: "new".to_owned(),
                    uses: "approval".to_owned(),
                },
                StepDifference::Removed {
                    step: "old".to_owned(),
                    uses: "approval".to_owned(),
                    perhaps: Some("new".to_owned()),
                },
            ],
        };
        let text = anstream::adapter::strip_str(&told(&difference)).to_string();
        assert_eq!(
            text,
            "~ lane: normal -> revocation\n\
             ~ disable\n    retry.attempts: 8 -> 12\n    after: nothing -> 5m\n\
             + new  approval\n\
             - old  approval  does what `new` does now: --map old=new"
        );
    }
}
