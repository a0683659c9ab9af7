//! From the YAML form to the checked one. Collects every problem instead of stopping at the first.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::conflict::{Conflicts, OnConflict};
use super::super::duration::Span;
use super::super::expression::Expression;
use super::super::id::{DefinitionHash, StepIndex};
use super::source::{At, Scalar, StepSource, WorkflowSource, whole_file};
use super::{
    Approval, DEFINITION_BYTES_MAX, Definition, OnFailure, OnSilence, OnTimeout, Problem, Problems,
    STEPS_MAX, Start, Step, Task, Template, Undo, WEIGHT_DEFAULT, WEIGHT_MAX, WaitFor, Work,
};

/// The time limit of one attempt where the definition gives none.
const TIMEOUT_DEFAULT: Span = Span::from_s(60);
/// Roots that every expression may read.
const ROOTS: [&str; 3] = ["case", "input", "steps"];
/// Stands for every other workflow in rules about conflicts.
const ANY: &str = "any";
/// The `uses` that are no actions.
const BUILT_IN: [&str; 3] = ["approval", "task", "wait_for"];

impl Definition {
    /// Reads and checks a definition. `file` is its name in messages; `facts` are the roots that the layer
    /// above can provide; `actions` says whether an action exists.
    ///
    /// # Errors
    /// Every problem found, each with its line and what to do about it.
    pub fn parse(
        file: &str,
        text: &str,
        facts: &[&str],
        actions: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Problems> {
        if text.len() > DEFINITION_BYTES_MAX {
            let what = format!(
                "the file has {} bytes, more than {DEFINITION_BYTES_MAX}",
                text.len()
            );
            return Err(Problems(vec![whole_file(file, what, "split the workflow")]));
        }
        let source: WorkflowSource = serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) = error
                .location()
                .map_or((1, 1), |location| (location.line(), location.column()));
            let what = error.without_snippet().to_string();
            Problems(vec![Problem {
                file: file.to_owned(),
                line,
                column,
                what,
                fix: "compare with the workflow schema: `tenure workflow schema`".to_owned(),
            }])
        })?;
        Checker {
            file,
            facts,
            actions,
            problems: Vec::new(),
            ids: BTreeMap::new(),
        }
        .definition(source, text)
    }
}

struct Checker<'a> {
    file: &'a str,
    facts: &'a [&'a str],
    actions: &'a dyn Fn(&str) -> bool,
    problems: Vec<Problem>,
    ids: BTreeMap<String, StepIndex>,
}

impl Checker<'_> {
    fn definition(mut self, source: WorkflowSource, text: &str) -> Result<Definition, Problems> {
        self.name(&source.name);
        if source.steps.is_empty() || source.steps.len() > STEPS_MAX {
            let what = format!(
                "a workflow has 1 to {STEPS_MAX} steps, this one has {}",
                source.steps.len()
            );
            self.problem(&source.name, what, "add or merge steps");
        }
        for (position, step) in source.steps.iter().enumerate() {
            self.step_id(&step.id);
            let index = StepIndex(u16::try_from(position).unwrap_or(u16::MAX));
            if let Some(first) = self.ids.insert(step.id.value.clone(), index) {
                let what = format!(
                    "step `{}` is defined twice, first as step {}",
                    step.id.value,
                    first.0 + 1
                );
                self.problem(&step.id, what, "give one of them another id");
            }
        }
        self.offset(&source);
        let weight = self.weight(source.weight.as_ref());
        let conflicts = self.conflicts(&source);
        let needs = self.needs(&source.steps);
        let ancestors = self.ancestors(&source.steps, &needs);
        let mut steps = Vec::with_capacity(source.steps.len());
        for (position, step) in source.steps.iter().enumerate() {
            let before = ancestors.get(position).cloned().unwrap_or_default();
            let needs = needs.get(position).cloned().unwrap_or_default();
            let has_deadline = source.deadline.is_some();
            steps.extend(self.step(step, needs, &before, has_deadline, source.on_failure));
        }
        if !self.problems.is_empty() {
            self.problems
                .sort_by_key(|problem| (problem.line, problem.column));
            return Err(Problems(self.problems));
        }
        let mut dependents = vec![Vec::new(); steps.len()];
        for (position, step) in steps.iter().enumerate() {
            for need in &step.needs {
                if let Some(list) = dependents.get_mut(usize::from(need.0)) {
                    list.push(StepIndex(u16::try_from(position).unwrap_or(u16::MAX)));
                }
            }
        }
        Ok(Definition {
            name: source.name.value,
            description: source.description,
            on: source.on,
            ahead: source.ahead.map(|span| span.value),
            after: source.after.map(|span| span.value),
            lane: source.lane,
            weight,
            on_failure: source.on_failure,
            deadline: source.deadline,
            conflicts,
            steps,
            hash: hash(text),
            source: text.to_owned(),
            dependents,
        })
    }

    /// The rules, those of `preempts` with them.
    fn conflicts(&mut self, source: &WorkflowSource) -> Conflicts {
        let own = source.name.value.as_str();
        let mut conflicts = Conflicts::default();
        for name in &source.preempts {
            conflicts
                .rules
                .insert(name.value.clone(), OnConflict::Preempt);
        }
        let mut any = None;
        for rule in &source.conflicts {
            let (with, then) = (rule.with.value.as_str(), rule.then);
            if then == OnConflict::Merge && with != own {
                let what = format!(
                    "a start of `{own}` cannot be merged into a case of `{with}`: only a case of the same workflow does the same"
                );
                self.problem(
                    &rule.with,
                    what,
                    format!("write `with: {own}`, or another verdict"),
                );
                continue;
            }
            let before = if with == ANY {
                any.replace(then)
            } else {
                conflicts.rules.insert(with.to_owned(), then)
            };
            if let Some(before) = before {
                let what = format!(
                    "there are two rules about `{with}`: `{}` and `{}`",
                    before.as_str(),
                    then.as_str()
                );
                self.problem(
                    &rule.with,
                    what,
                    "keep one of them; a name in `preempts` is a rule too",
                );
            }
        }
        conflicts.any = any.unwrap_or_default();
        conflicts
    }

    fn problem<T>(&mut self, at: &At<T>, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            what: what.into(),
            fix: fix.into(),
        });
    }

    fn offset(&mut self, source: &WorkflowSource) {
        let (ahead, after) = (source.ahead.as_ref(), source.after.as_ref());
        if let (Some(ahead), Some(_)) = (ahead, after) {
            let what = "a workflow starts before its event takes effect or after it, not both";
            self.problem(
                ahead,
                what,
                "keep `ahead` or `after`, and make two workflows if both are meant",
            );
        }
        for span in [ahead, after].into_iter().flatten() {
            if span.value.ms() == 0 {
                let what =
                    "a workflow without `ahead` and `after` starts when its event takes effect";
                self.problem(span, what, "give a length above zero, or leave it out");
            }
            if source.on.is_empty() {
                let what =
                    "no event starts this workflow, so there is nothing to be before or after";
                self.problem(span, what, "name events in `on`");
            }
        }
    }

    fn weight(&mut self, weight: Option<&At<u32>>) -> u32 {
        let Some(weight) = weight else {
            return WEIGHT_DEFAULT;
        };
        if !(1..=WEIGHT_MAX).contains(&weight.value) {
            let what = format!("`weight` is {}", weight.value);
            self.problem(weight, what, format!("give 1 to {WEIGHT_MAX}"));
        }
        weight.value
    }

    fn name(&mut self, name: &At<String>) {
        let good = !name.value.is_empty()
            && name.value.len() <= 64
            && name
                .value
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
            && name.value != ANY;
        if !good {
            let what = format!("`{}` is no workflow name", name.value);
            self.problem(name, what, "use 1 to 64 of `a-z`, `0-9`, `-`, `_`, `.`");
        }
    }

    fn step_id(&mut self, id: &At<String>) {
        let mut chars = id.value.chars();
        let good = id.value.len() <= 64
            && chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !good {
            let what = format!("`{}` is no step id", id.value);
            self.problem(id, what, "start with a letter and use `a-z`, `0-9`, `_`, at most 64, so that expressions can name it");
        }
    }

    /// The explicit needs, or the step before.
    fn needs(&mut self, steps: &[StepSource]) -> Vec<Vec<StepIndex>> {
        let mut all = Vec::with_capacity(steps.len());
        for (position, step) in steps.iter().enumerate() {
            let mut needs = Vec::new();
            match &step.needs {
                None => {
                    if let Some(before) = position.checked_sub(1) {
                        needs.push(StepIndex(u16::try_from(before).unwrap_or(u16::MAX)));
                    }
                }
                Some(names) => {
                    for name in names {
                        match self.ids.get(&name.value) {
                            Some(index) if !needs.contains(index) => needs.push(*index),
                            Some(_) => {}
                            None => {
                                let what = format!(
                                    "step `{}` needs `{}`, which does not exist",
                                    step.id.value, name.value
                                );
                                let fix = self.suggestion(&name.value);
                                self.problem(name, what, fix);
                            }
                        }
                    }
                }
            }
            all.push(needs);
        }
        all
    }

    fn suggestion(&self, name: &str) -> String {
        let known: Vec<&str> = self.ids.keys().map(String::as_str).collect();
        format!("name one of {}; `{name}` is none of them", list(&known))
    }

    /// All steps that are finished before each step starts. Reports a cycle with its path.
    fn ancestors(
        &mut self,
        steps: &[StepSource],
        needs: &[Vec<StepIndex>],
    ) -> Vec<BTreeSet<usize>> {
        let mut done: Vec<Option<BTreeSet<usize>>> = vec![None; steps.len()];
        loop {
            let mut moved = false;
            for position in 0..steps.len() {
                if done.get(position).is_none_or(Option::is_some) {
                    continue;
                }
                let mut before = BTreeSet::new();
                let ready = needs.get(position).into_iter().flatten().all(|need| {
                    let need = usize::from(need.0);
                    done.get(need)
                        .and_then(Option::as_ref)
                        .is_some_and(|earlier| {
                            before.extend(earlier.iter().copied());
                            before.insert(need);
                            true
                        })
                });
                if ready {
                    if let Some(slot) = done.get_mut(position) {
                        *slot = Some(before);
                    }
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let stuck: Vec<usize> = done
            .iter()
            .enumerate()
            .filter(|(_, set)| set.is_none())
            .map(|(position, _)| position)
            .collect();
        if let Some(first) = stuck.first() {
            let path = cycle(*first, needs, &stuck);
            let names: Vec<&str> = path
                .iter()
                .filter_map(|position| steps.get(*position))
                .map(|step| step.id.value.as_str())
                .collect();
            if let Some(step) = path.first().and_then(|position| steps.get(*position)) {
                let what = format!(
                    "steps wait for each other, so the workflow can never end: {}",
                    names.join(" -> ")
                );
                self.problem(&step.id, what, "remove one of these `needs`");
            }
        }
        done.into_iter().map(Option::unwrap_or_default).collect()
    }

    fn step(
        &mut self,
        step: &StepSource,
        needs: Vec<StepIndex>,
        before: &BTreeSet<usize>,
        has_deadline: bool,
        on_failure: OnFailure,
    ) -> Option<Step> {
        let mut facts = BTreeSet::new();
        let condition = match &step.condition {
            None => None,
            Some(at) => {
                let text = match &at.value {
                    Scalar::Bool(value) => value.to_string(),
                    Scalar::Text(text) => text.clone(),
                };
                self.expression(at, &text, before, &[], &mut facts)
            }
        };
        let for_each = step
            .for_each
            .as_ref()
            .and_then(|at| self.expression(at, &at.value, before, &[], &mut facts));
        let start = match (&step.after, &step.at) {
            (None, None) => Start::AtOnce,
            (Some(after), None) => Start::After(after.value),
            (None, Some(at)) => self
                .expression(at, &at.value, before, &[], &mut facts)
                .map_or(Start::AtOnce, Start::At),
            (Some(_), Some(at)) => {
                self.problem(
                    at,
                    format!("step `{}` has both `after` and `at`", step.id.value),
                    "keep one of them",
                );
                Start::AtOnce
            }
        };
        let in_each = step.for_each.is_some();
        let work = self.work(step, before, in_each, has_deadline, &mut facts)?;
        let words = match &work {
            Work::Approval(_) | Work::Task(_) => self.words(step, before, in_each),
            Work::Action { .. } | Work::WaitFor(_) => Template::default(),
        };
        let undo = match &step.undo {
            None => None,
            Some(undo) => {
                self.action(&undo.uses);
                let with = self.template(undo.with.as_ref(), before, in_each, true, &mut facts);
                if on_failure != OnFailure::Undo {
                    let what = format!(
                        "step `{}` has an `undo`, but the workflow never undoes",
                        step.id.value
                    );
                    self.problem(
                        &undo.uses,
                        what,
                        "say `on_failure: undo` at the top, or remove the `undo`",
                    );
                }
                Some(Undo {
                    uses: undo.uses.value.clone(),
                    with,
                })
            }
        };
        if let Some(at) = &step.on_failure
            && (at.value != OnFailure::Park || on_failure != OnFailure::Undo)
        {
            let what = format!(
                "step `{}` says what happens when it fails, which the whole workflow says",
                step.id.value
            );
            self.problem(
                at,
                what,
                "a step may say `on_failure: park` where the workflow says `undo`; else remove it",
            );
        }
        let timeout = match &step.timeout {
            None => TIMEOUT_DEFAULT,
            Some(at) if at.value.ms() == 0 => {
                self.problem(
                    at,
                    "a time limit of zero fails every attempt".to_owned(),
                    "give it at least `1s`",
                );
                TIMEOUT_DEFAULT
            }
            Some(at) => at.value,
        };
        let retry = step.retry.clone().unwrap_or_default();
        if !(1.0..=100.0).contains(&retry.factor) || !(1..=1_000).contains(&retry.attempts) {
            let what = format!("step `{}` has a retry outside its bounds", step.id.value);
            self.problem(
                &step.id,
                what,
                "`factor` is 1 to 100 and `attempts` 1 to 1000",
            );
        }
        Some(Step {
            id: step.id.value.clone(),
            work,
            needs,
            condition,
            for_each,
            start,
            retry,
            timeout,
            undo,
            parks: step.on_failure.is_some(),
            words,
            facts,
        })
    }

    /// The expressions of a question. It may be put again later, so it says nothing that may be otherwise by then.
    fn words(&mut self, step: &StepSource, before: &BTreeSet<usize>, in_each: bool) -> Template {
        let mut facts = BTreeSet::new();
        let words = self.template(step.with.as_ref(), before, in_each, false, &mut facts);
        if let (false, Some(at)) = (facts.is_empty(), &step.with) {
            let what = format!(
                "step `{}` reads facts in what it asks, which may have changed when it is asked again",
                step.id.value
            );
            self.problem(at, what, "read `input`, `steps`, `item` or `case` instead");
        }
        words
    }

    fn work(
        &mut self,
        step: &StepSource,
        before: &BTreeSet<usize>,
        in_each: bool,
        has_deadline: bool,
        facts: &mut BTreeSet<String>,
    ) -> Option<Work> {
        let work = match step.uses.value.as_str() {
            "approval" => {
                let approval: Approval = self.typed(step, "approval")?;
                if approval.ask.is_empty() || approval.quorum == 0 {
                    self.problem(
                        &step.uses,
                        "nobody is asked".to_owned(),
                        "give `ask` at least one entry and `quorum` at least 1",
                    );
                }
                let endless = approval.timeout.is_none();
                self.waits(step, endless, has_deadline, "an approval");
                if approval.timeout.is_none() && approval.on_timeout != OnTimeout::Park {
                    self.problem(
                        &step.uses,
                        "`on_timeout` without `timeout` never happens".to_owned(),
                        "add `timeout:`",
                    );
                }
                Work::Approval(approval)
            }
            "task" => {
                let task: Task = self.typed(step, "task")?;
                let endless = task.timeout.is_none();
                self.waits(step, endless, has_deadline, "a person");
                Work::Task(task)
            }
            "wait_for" => {
                let wait: WaitFor = self.typed(step, "wait_for")?;
                let endless = wait.timeout.is_none();
                self.waits(step, endless, has_deadline, "a signal");
                if endless && wait.on_timeout == OnSilence::Continue {
                    self.problem(
                        &step.uses,
                        "`on_timeout` without `timeout` never happens".to_owned(),
                        "add `timeout:`",
                    );
                }
                Work::WaitFor(wait)
            }
            uses => {
                self.action(&step.uses);
                let with = self.template(step.with.as_ref(), before, in_each, false, facts);
                Work::Action {
                    uses: uses.to_owned(),
                    with,
                }
            }
        };
        Some(work)
    }

    /// A step that waits for the outside world must have an end.
    fn waits(&mut self, step: &StepSource, endless: bool, has_deadline: bool, whom: &str) {
        if endless && !has_deadline {
            let what = format!(
                "step `{}` waits for {whom} with no `timeout`, and the workflow has no `deadline`: it may never end",
                step.id.value
            );
            self.problem(
                &step.uses,
                what,
                "add `timeout:` to the step's `with`, or a `deadline:` to the workflow",
            );
        }
    }

    fn action(&mut self, uses: &At<String>) {
        if BUILT_IN.contains(&uses.value.as_str()) {
            self.problem(
                uses,
                format!("`{}` cannot undo a step", uses.value),
                "use an action",
            );
        } else if !(self.actions)(&uses.value) {
            let what = format!("unknown action `{}`", uses.value);
            self.problem(
                uses,
                what,
                "list the actions with `tenure workflow actions`",
            );
        }
    }

    fn typed<T: DeserializeOwned>(&mut self, step: &StepSource, kind: &str) -> Option<T> {
        let value = step.with.as_ref().map_or_else(
            || Value::Object(serde_json::Map::new()),
            |at| at.value.clone(),
        );
        match serde_json::from_value(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let what = format!("`with` of {kind} `{}`: {error}", step.id.value);
                let (line, column) = step
                    .with
                    .as_ref()
                    .map_or((step.uses.line, step.uses.column), |at| {
                        (at.line, at.column)
                    });
                let fix = "compare with the workflow schema: `tenure workflow schema`".to_owned();
                self.problems.push(Problem {
                    file: self.file.to_owned(),
                    line,
                    column,
                    what,
                    fix,
                });
                None
            }
        }
    }

    fn expression<T>(
        &mut self,
        at: &At<T>,
        text: &str,
        before: &BTreeSet<usize>,
        extra: &[&'static str],
        facts: &mut BTreeSet<String>,
    ) -> Option<Expression> {
        let expression = match Expression::compile(text) {
            Ok(expression) => expression,
            Err(error) => {
                self.problem(at, error.to_string(), "see the CEL language definition");
                return None;
            }
        };
        for root in expression.roots() {
            if ROOTS.contains(&root.as_str()) || extra.contains(&root.as_str()) {
                continue;
            }
            if self.facts.contains(&root.as_str()) {
                facts.insert(root.clone());
                continue;
            }
            let mut known: Vec<&str> = ROOTS.to_vec();
            known.extend(self.facts);
            known.extend(extra);
            let what = format!("expression `{text}` reads `{root}`, which does not exist here");
            self.problem(at, what, format!("it can read {}", list(&known)));
        }
        for name in expression.steps() {
            match self.ids.get(name) {
                None => {
                    let fix = self.suggestion(name);
                    self.problem(
                        at,
                        format!("expression `{text}` reads `steps.{name}`, which does not exist"),
                        fix,
                    );
                }
                Some(index) if !before.contains(&usize::from(index.0)) => {
                    let what = format!(
                        "expression `{text}` reads `steps.{name}`, which need not be finished by then"
                    );
                    self.problem(at, what, format!("add `{name}` to the step's `needs`"));
                }
                Some(_) => {}
            }
        }
        Some(expression)
    }

    fn template(
        &mut self,
        at: Option<&At<Value>>,
        before: &BTreeSet<usize>,
        in_each: bool,
        in_undo: bool,
        facts: &mut BTreeSet<String>,
    ) -> Template {
        let Some(at) = at else {
            return Template::default();
        };
        let mut found = Vec::new();
        let mut broken = Vec::new();
        collect_expressions(&at.value, &mut found, &mut broken);
        for text in broken {
            self.problem(
                at,
                format!("`{text}` opens `${{{{` and does not close it"),
                "end the expression with `}}`",
            );
        }
        let extra: &[&'static str] = match (in_each, in_undo) {
            (true, true) => &["item", "output"],
            (true, false) => &["item"],
            (false, true) => &["output"],
            (false, false) => &[],
        };
        let mut expressions = BTreeMap::new();
        for text in found {
            let mut read = BTreeSet::new();
            if let Some(expression) = self.expression(at, &text, before, extra, &mut read) {
                if in_undo && !read.is_empty() {
                    let what = format!(
                        "`{text}` reads facts that may have changed by the time of an undo"
                    );
                    self.problem(at, what, "read `item`, `input` or `steps` instead");
                }
                facts.append(&mut read);
                expressions.insert(text, expression);
            }
        }
        Template {
            value: at.value.clone(),
            expressions,
        }
    }
}

fn collect_expressions(value: &Value, found: &mut Vec<String>, broken: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, tail)) = rest.split_once("${{") {
                let Some((inside, after)) = tail.split_once("}}") else {
                    broken.push(text.clone());
                    break;
                };
                found.push(inside.trim().to_owned());
                rest = after;
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_expressions(item, found, broken)),
        Value::Object(fields) => fields
            .values()
            .for_each(|field| collect_expressions(field, found, broken)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A cycle among the stuck steps, closed: its first step stands at the end again.
fn cycle(start: usize, needs: &[Vec<StepIndex>], stuck: &[usize]) -> Vec<usize> {
    let mut path = vec![start];
    let mut at = start;
    loop {
        let next = needs
            .get(at)
            .into_iter()
            .flatten()
            .map(|need| usize::from(need.0))
            .find(|need| stuck.contains(need));
        let Some(next) = next else { return path };
        if let Some(begin) = path.iter().position(|seen| *seen == next) {
            path.push(next);
            return path.split_off(begin);
        }
        path.push(next);
        at = next;
    }
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The version of a definition: over its bytes, so that any change is another version.
fn hash(text: &str) -> DefinitionHash {
    let digest = Sha256::digest(text.as_bytes());
    DefinitionHash(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
