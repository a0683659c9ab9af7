//! Whether a case can move to another version of its workflow, as people are told.

use chrono::{DateTime, Utc};
use engine::core::case::Case;
use engine::core::definition::Definition;
use engine::core::id::StepIndex;
use engine::core::input::Migrate;
use engine::core::migration::{Plan, plan};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// The answer for one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    pub case: Uuid,
    pub subject: String,
    pub state: &'static str,
    pub possible: bool,
    /// Every reason why not.
    pub obstacles: Vec<String>,
    /// What is worth knowing of how it goes on.
    pub remarks: Vec<String>,
}

/// Asks the core, and changes nothing.
#[must_use]
pub fn verdict(case: &Case, migrate: &Migrate, now: DateTime<Utc>) -> Verdict {
    let (obstacles, remarks) = match plan(case, migrate, now) {
        Ok(plan) => (Vec::new(), remarks(&case.definition, &migrate.to, &plan)),
        Err(obstacles) => (
            obstacles.iter().map(ToString::to_string).collect(),
            Vec::new(),
        ),
    };
    Verdict {
        case: case.id.0,
        subject: case.subject.0.clone(),
        state: case.state.as_str(),
        possible: obstacles.is_empty(),
        obstacles,
        remarks,
    }
}

fn remarks(from: &Definition, to: &Definition, plan: &Plan) -> Vec<String> {
    let name = |definition: &Definition, step: StepIndex| {
        let step = definition.step(step);
        step.map(|step| step.id.clone()).unwrap_or_default()
    };
    let mut remarks = Vec::new();
    for (step, new) in from.steps.iter().zip(&plan.steps) {
        match new {
            None => remarks.push(format!("leaves `{}` out", step.id)),
            Some(new) if name(to, *new) != step.id => {
                remarks.push(format!("`{}` becomes `{}`", step.id, name(to, *new)));
            }
            Some(_) => {}
        }
    }
    for step in &plan.again {
        remarks.push(format!("`{}` waits again", name(to, *step)));
    }
    for step in &plan.skipped {
        remarks.push(format!("is past `{}` and skips it", name(to, *step)));
    }
    remarks
}
