//! What a notice says: one file a notice, a subject, a plain text and, beside it, HTML.
//!
//! The language is that of Jinja. The expressions of policy (CEL) give values and not texts: they have no loops over what a
//! digest gathers, and nothing that escapes HTML by itself, which must not be left to whoever writes a template.
//!
//! A file of the configuration lies over the built-in one of its name, field by field. What a template may name is known
//! beforehand, so a slip is told when the configuration is read, whichever branch it stands in. When a notice is rendered,
//! something that is missing is left blank: a notice with a gap is better than none.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use engine::core::duration::Span;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, State, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::recipient::Recipient;
use crate::policy::problem::suggest;
use crate::policy::{Problem, Problems, yaml};

macro_rules! built_in {
    ($name:literal) => {
        ($name, include_str!(concat!("../../notices/", $name)))
    };
}

/// The built-in templates: file name and text.
pub const BUILT_IN: [(&str, &str); 16] = [
    built_in!("approval.asked.yaml"),
    built_in!("approval.due.yaml"),
    built_in!("task.asked.yaml"),
    built_in!("task.due.yaml"),
    built_in!("task.overdue.yaml"),
    built_in!("case.deadline.yaml"),
    built_in!("case.parked.yaml"),
    built_in!("source.silent.yaml"),
    built_in!("contract.incomplete.yaml"),
    built_in!("contract.ending.yaml"),
    built_in!("contract.sponsor_gone.yaml"),
    built_in!("credential.expiring.yaml"),
    built_in!("exception.ending.yaml"),
    built_in!("digest.yaml"),
    built_in!("message.yaml"),
    built_in!("test.yaml"),
];

/// The names of the built-in templates.
pub mod kind {
    pub const APPROVAL_ASKED: &str = "approval.asked";
    pub const APPROVAL_DUE: &str = "approval.due";
    pub const TASK_ASKED: &str = "task.asked";
    pub const TASK_DUE: &str = "task.due";
    pub const TASK_OVERDUE: &str = "task.overdue";
    pub const CASE_DEADLINE: &str = "case.deadline";
    pub const CASE_PARKED: &str = "case.parked";
    pub const SOURCE_SILENT: &str = "source.silent";
    pub const CONTRACT_INCOMPLETE: &str = "contract.incomplete";
    pub const CONTRACT_ENDING: &str = "contract.ending";
    pub const CONTRACT_SPONSOR_GONE: &str = "contract.sponsor_gone";
    pub const CREDENTIAL_EXPIRING: &str = "credential.expiring";
    pub const EXCEPTION_ENDING: &str = "exception.ending";
    pub const DIGEST: &str = "digest";
    pub const MESSAGE: &str = "message";
    pub const TEST: &str = "test";
}

/// What `vars` has in the notices whose cause is built in; those of `uses: notify` have what the step gives.
const VARS: [(&str, &[&str]); 16] = [
    (kind::APPROVAL_ASKED, &["question", "quorum", "due"]),
    (kind::APPROVAL_DUE, &["question", "quorum", "due"]),
    (kind::TASK_ASKED, &["title", "instructions", "proof", "due"]),
    (kind::TASK_DUE, &["title", "instructions", "proof", "due"]),
    (kind::TASK_OVERDUE, &["title", "instructions", "proof"]),
    (kind::CASE_DEADLINE, &[]),
    (kind::CASE_PARKED, &["failure", "kind", "uses"]),
    (kind::SOURCE_SILENT, &["source", "since", "silent_after"]),
    (kind::CONTRACT_INCOMPLETE, &["missing", "withheld"]),
    (kind::CONTRACT_ENDING, &["end", "before"]),
    (
        kind::CONTRACT_SPONSOR_GONE,
        &["sponsor", "late", "deadline"],
    ),
    (
        kind::CREDENTIAL_EXPIRING,
        &[
            "credential",
            "kind",
            "nhi",
            "environment",
            "team",
            "owner",
            "end",
            "before",
            "expired",
        ],
    ),
    (
        kind::EXCEPTION_ENDING,
        &["system", "entitlement", "end", "before"],
    ),
    (kind::DIGEST, &[]),
    (kind::MESSAGE, &["subject", "text"]),
    (kind::TEST, &[]),
];

/// What every template may name, with the fields that are there.
const ROOTS: [(&str, &[&str]); 3] = [
    ("case", &["id", "workflow", "step", "place", "revocation"]),
    ("recipient", &["name", "address", "asked_as", "instead_of"]),
    ("notice", &["id", "name", "urgent", "created_at"]),
];
/// What only a digest has.
const ITEM_ROOTS: [&str; 2] = ["items", "left_out"];
/// Beside the attributes.
const PERSON_FIELDS: [&str; 3] = ["key", "name", "type"];

/// The longest subject, in characters, and the longest text, in bytes.
const SUBJECT_CHARS_MAX: usize = 200;
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// How much work one text may be.
const FUEL_MAX: u64 = 1_000_000;
/// The longest name of a template, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A notice: whom it goes to, and what it says.
///
/// ```yaml
/// name: approval.asked
/// subject: "Please decide: {{ vars.question }}"
/// text: |
///   Hello {{ recipient.name }}, ...
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tenure notice", rename = "Notice")]
pub struct TemplateFile {
    /// A built-in notice whose fields these take the place of, or a new one for `uses: notify`.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    #[serde(default)]
    pub description: String,
    /// Who is told when the cause names nobody.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub to: Option<Vec<Recipient>>,
    /// Who is told in any case.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub also: Option<Vec<Recipient>>,
    /// Waits neither for quiet hours to end nor to be gathered. Notices of revocations never wait.
    #[serde(default)]
    pub urgent: Option<bool>,
    /// How long it may wait for others to the same address, to be one message with them.
    #[serde(default)]
    pub digest: Option<Span>,
    /// `false`: nobody is told.
    #[serde(default)]
    pub send: Option<bool>,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub subject: Option<Spanned<String>>,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub text: Option<Spanned<String>>,
    /// What is put in here is escaped. Left out while `text` is given: the mail is plain.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub html: Option<Spanned<String>>,
}

/// How a notice is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    pub description: String,
    pub to: Vec<Recipient>,
    pub also: Vec<Recipient>,
    pub urgent: bool,
    pub digest: Option<Span>,
    pub send: bool,
    html: bool,
}

/// A message as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
}

/// All templates, checked.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    manners: BTreeMap<String, Manner>,
}

/// What a template may name.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// The attributes that sources deliver.
    pub attributes: BTreeSet<String>,
    /// What the steps that use a template give it.
    pub step_vars: BTreeMap<String, BTreeSet<String>>,
}

/// A notice cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("there is no notice `{0}` in the configuration; add it to `notices/`, and retry")]
    Unknown(String),
    #[error("{part} of notice `{name}` cannot be made: {message}")]
    Failed {
        name: String,
        part: &'static str,
        message: String,
    },
}

const SUBJECT: &str = "subject";
const TEXT: &str = "text";
const HTML: &str = "html";

impl Templates {
    /// The built-in templates with those of `files` (name and text) laid over them.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(files: &[(String, String)], vocabulary: &Vocabulary) -> Result<Self, Problems> {
        let mut templates = Self {
            environment: environment(),
            manners: BTreeMap::new(),
        };
        let mut problems = Problems::default();
        for (file, text) in BUILT_IN {
            templates.add(&format!("notices/{file}"), text, vocabulary, &mut problems);
        }
        let mut own: BTreeMap<String, &str> = BTreeMap::new();
        for (file, text) in files {
            let Some(name) = templates.add(file, text, vocabulary, &mut problems) else {
                continue;
            };
            if let Some(first) = own.insert(name.clone(), file) {
                problems.push(Problem::new(
                    file,
                    None,
                    format!("notice `{name}` is written twice, first in `{first}`"),
                    "rename or remove one of them",
                ));
            }
        }
        problems.into_result(|| templates)
    }

    /// The built-in templates alone.
    ///
    /// # Errors
    /// When one of them is wrong, which a test forbids.
    pub fn built_in() -> Result<Self, Problems> {
        Self::load(&[], &Vocabulary::default())
    }

    /// How the notice `name` is treated, if there is one.
    #[must_use]
    pub fn manner(&self, name: &str) -> Option<&Manner> {
        self.manners.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manners.keys().map(String::as_str)
    }

    /// Every notice with how it is treated, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Manner)> {
        self.manners
            .iter()
            .map(|(name, manner)| (name.as_str(), manner))
    }

    /// What the notice `name` says. `zone` is the one in which times are shown.
    ///
    /// # Errors
    /// When there is none, or it fails on what it is given.
    pub fn render(&self, name: &str, context: &Value, zone: Tz) -> Result<Rendered, RenderError> {
        let manner = self
            .manner(name)
            .ok_or_else(|| RenderError::Unknown(name.to_owned()))?;
        let mut context = context.clone();
        if let Value::Object(fields) = &mut context {
            fields.insert(ZONE.to_owned(), zone.name().into());
        }
        let part = |part: &'static str| {
            let failed = |error: minijinja::Error| RenderError::Failed {
                name: name.to_owned(),
                part,
                message: told(&error),
            };
            self.environment
                .get_template(&template_name(name, part))
                .and_then(|template| template.render(Serde(&context)))
                .map_err(failed)
        };
        let text = without_gaps(&part(TEXT)?);
        let html = manner.html.then(|| part(HTML)).transpose()?;
        for (part, made) in [(TEXT, Some(&text)), (HTML, html.as_ref())] {
            if made.is_some_and(|made| made.len() > TEXT_BYTES_MAX) {
                return Err(RenderError::Failed {
                    name: name.to_owned(),
                    part,
                    message: format!("it is longer than {TEXT_BYTES_MAX} bytes"),
                });
            }
        }
        Ok(Rendered {
            subject: one_line(&part(SUBJECT)?),
            text,
            html,
        })
    }

    /// Lays one file over what is there; gives the name when it can be read.
    fn add(
        &mut self,
        file: &str,
        text: &str,
        vocabulary: &Vocabulary,
        problems: &mut Problems,
    ) -> Option<String> {
        let written: TemplateFile = match yaml::parse(file, text) {
            Ok(written) => written,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        let name = written.name.value.clone();
        let at = place(&written.name);
        let word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(word) {
            problems.push(Problem::new(
                file,
                at,
                format!("`{name}` is no name of a notice"),
                "write letters, digits, full stops and hyphens",
            ));
            return None;
        }
        let before = self.manners.get(&name);
        let known = before.is_some();
        for (part, given) in [(SUBJECT, &written.subject), (TEXT, &written.text)] {
            if !known && given.is_none() {
                problems.push(Problem::new(
                    file,
                    at,
                    format!("notice `{name}` has no `{part}`, and there is no built-in notice of that name"),
                    format!(
                        "add `{part}:`, or {}",
                        suggest(&name, "built-in notices", VARS.iter().map(|(name, _)| *name))
                    ),
                ));
            }
        }
        let manner = Manner {
            description: match before {
                Some(before) if written.description.is_empty() => before.description.clone(),
                _ => written.description,
            },
            to: written
                .to
                .or_else(|| before.map(|before| before.to.clone()))
                .unwrap_or_default(),
            also: written
                .also
                .or_else(|| before.map(|before| before.also.clone()))
                .unwrap_or_default(),
            urgent: (written.urgent).unwrap_or_else(|| before.is_some_and(|before| before.urgent)),
            digest: written
                .digest
                .filter(|span| span.ms() > 0)
                .or_else(|| match written.digest {
                    Some(_) => None,
                    None => before.and_then(|before| before.digest),
                }),
            send: written
                .send
                .unwrap_or_else(|| before.is_none_or(|before| before.send)),
            html: written.html.is_some()
                || (written.text.is_none() && before.is_some_and(|before| before.html)),
        };
        for (part, given) in [
            (SUBJECT, written.subject),
            (TEXT, written.text),
            (HTML, written.html),
        ] {
            if let Some(given) = given {
                self.compile(file, &name, part, given, vocabulary, problems);
            }
        }
        self.manners.insert(name.clone(), manner);
        Some(name)
    }

    fn compile(
        &mut self,
        file: &str,
        name: &str,
        part: &'static str,
        given: Spanned<String>,
        vocabulary: &Vocabulary,
        problems: &mut Problems,
    ) {
        let at = place(&given);
        let full = template_name(name, part);
        let added = self
            .environment
            .add_template_owned(full.clone(), given.value)
            .and_then(|()| self.environment.get_template(&full));
        let template = match added {
            Ok(template) => template,
            Err(error) => {
                let within = error.line().unwrap_or(1).saturating_sub(1) as u64;
                let message = format!("`{part}` cannot be read: {}", told(&error));
                let fix = "see the language of templates in docs/notifications.md";
                problems.push(match at {
                    // A text begins where it is defined, so its lines are those of the file.
                    Some((line, _)) => Problem::on_line(file, line + within, message, fix),
                    None => Problem::new(file, None, message, fix),
                });
                return;
            }
        };
        let mut named: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        named.sort();
        for variable in named {
            if let Some((what, fix)) = unknown(&variable, name, vocabulary) {
                problems.push(Problem::new(
                    file,
                    at,
                    format!("`{part}` names {what}"),
                    fix,
                ));
            }
        }
    }
}

/// Where the environment keeps the zone in which times are shown.
const ZONE: &str = "zone";

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL_MAX));
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(&format!("/{HTML}")) {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    environment.add_filter("when", when);
    environment
}

/// `{{ vars.due | when }}`: a moment on the recipient's clock.
fn when(state: &State<'_, '_>, moment: &minijinja::Value) -> String {
    let text = moment.as_str().unwrap_or_default();
    let Ok(at) = text.parse::<DateTime<Utc>>() else {
        return text.to_owned();
    };
    let zone = state.lookup(ZONE);
    let zone: Tz = zone
        .as_ref()
        .and_then(minijinja::Value::as_str)
        .and_then(|zone| zone.parse().ok())
        .unwrap_or(Tz::UTC);
    at.with_timezone(&zone)
        .format("%a %-d %b %Y %H:%M %Z")
        .to_string()
}

fn template_name(name: &str, part: &str) -> String {
    format!("{name}/{part}")
}

fn place<T>(spanned: &Spanned<T>) -> Option<(u64, u64)> {
    let line = spanned.defined.line();
    (line > 0).then(|| (line, spanned.defined.column()))
}

/// What is wrong with a variable and how to put it right; `None` when it is known.
fn unknown(variable: &str, notice: &str, vocabulary: &Vocabulary) -> Option<(String, String)> {
    let mut path = variable.split('.');
    let root = path.next().unwrap_or_default();
    let field = path.next();
    let fields: Vec<&str> = match root {
        "link" | "confirm" | "range" | ZONE => return None,
        "vars" => {
            let built_in = VARS.iter().find(|(name, _)| *name == notice);
            let own = vocabulary.step_vars.get(notice);
            // Nothing is known of a notice that no step sends yet.
            if built_in.is_none() && own.is_none() {
                return None;
            }
            let built_in = built_in.map_or(&[][..], |(_, vars)| vars);
            let own = own.into_iter().flatten().map(String::as_str);
            built_in.iter().copied().chain(own).collect()
        }
        "person" => {
            let attributes = vocabulary.attributes.iter().map(String::as_str);
            PERSON_FIELDS.into_iter().chain(attributes).collect()
        }
        _ => {
            if notice == kind::DIGEST && ITEM_ROOTS.contains(&root) {
                return None;
            }
            let found = ROOTS.iter().find(|(name, _)| *name == root);
            let Some((_, fields)) = found else {
                let roots = ROOTS.iter().map(|(name, _)| *name);
                let all = roots.chain(["person", "vars", "link", "confirm"]);
                return Some((
                    format!("`{root}`, which is not known"),
                    suggest(root, "names", all),
                ));
            };
            fields.to_vec()
        }
    };
    let field = field.filter(|field| !fields.contains(field))?;
    Some((
        format!("`{root}.{field}`, which is not known"),
        suggest(field, &format!("fields of `{root}`"), fields),
    ))
}

fn told(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// What is left out of a plain text leaves no hole: at most one empty line in a row, none at the end.
fn without_gaps(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.lines().map(str::trim_end) {
        empty = if line.is_empty() { empty + 1 } else { 0 };
        if empty <= 1 {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    let end = kept.trim_end_matches('\n').len();
    kept.truncate(end);
    kept.push('\n');
    kept.trim_start_matches('\n').to_owned()
}

/// A header is one line, whatever stands in the values.
fn one_line(text: &str) -> String {
    let mut words = text.split(|c: char| c.is_control() || c.is_whitespace());
    let mut line = String::new();
    for word in words.by_ref().filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > SUBJECT_CHARS_MAX {
        line = line.chars().take(SUBJECT_CHARS_MAX - 1).collect();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary {
            attributes: BTreeSet::from(["department".to_owned()]),
            step_vars: BTreeMap::from([(
                "welcome".to_owned(),
                BTreeSet::from(["desk".to_owned()]),
            )]),
        }
    }

    fn load(text: &str) -> Result<Templates, Problems> {
        Templates::load(
            &[("notices/a.yaml".to_owned(), text.to_owned())],
            &vocabulary(),
        )
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let problems = load(text).unwrap_err();
        let told: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "`{expected}` is not in: {told}");
        }
    }

    fn context() -> Value {
        json!({
            "person": { "key": "E1", "name": "Ann <Lee>", "type": "employee", "department": "R&D" },
            "recipient": { "name": "Bo", "address": "bo@example.org", "asked_as": "manager" },
            "notice": { "id": "n", "name": "x", "urgent": false, "created_at": "2026-03-02T12:00:00Z" },
            "case": { "id": "c", "workflow": "leaver", "step": "hold", "place": "1/0" },
            "vars": {
                "question": "Keep <b>?", "quorum": 1, "due": "2026-03-02T12:00:00Z", "title": "t",
                "instructions": "i", "proof": true, "failure": "f", "kind": "k", "uses": "u",
                "missing": ["the end"], "withheld": true, "end": "2026-03-02T12:00:00Z", "before": "7d",
                "sponsor": "S1", "late": false, "deadline": "2026-03-02T12:00:00Z",
                "source": "hr", "since": "2026-03-01T12:00:00Z", "silent_after": "1d",
                "subject": "s", "text": "Hello"
            },
            "items": [{ "subject": "one", "text": "first" }, { "subject": "two", "text": "second" }],
            "left_out": 3,
        })
    }

    /// What stands in the table of variables is what the built-in templates may name, and they are all good.
    #[test]
    fn the_built_in_notices_say_something() {
        let templates = Templates::built_in().unwrap();
        let names: Vec<&str> = templates.names().collect();
        let mut listed: Vec<&str> = VARS.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        assert_eq!(names, listed);
        for (file, _) in BUILT_IN {
            let name = file.strip_suffix(".yaml").unwrap();
            let made = templates
                .render(name, &context(), Tz::Europe__Berlin)
                .unwrap();
            assert!(!made.subject.is_empty() && !made.text.is_empty(), "{name}");
            let html = made.html.unwrap();
            assert!(!html.contains("<Lee>") && !html.contains("<b>?"), "{html}");
            assert!(!templates.manner(name).unwrap().description.is_empty());
        }
        let asked = templates
            .render(kind::APPROVAL_ASKED, &context(), Tz::Europe__Berlin)
            .unwrap();
        assert!(
            asked.text.contains("Mon 2 Mar 2026 13:00 CET"),
            "{}",
            asked.text
        );
        assert!(asked.html.unwrap().contains("Keep &lt;b&gt;?"));
        assert!(asked.subject.contains("Keep <b>?"));
    }

    #[test]
    fn a_file_lies_over_the_built_in_one() {
        let templates = load("name: case.parked\nalso: ['role:x']\ndigest: 1h\n").unwrap();
        let manner = templates.manner("case.parked").unwrap();
        assert_eq!(manner.also, [Recipient::Role("x".to_owned())]);
        assert_eq!(manner.digest, Some(Span::from_s(3_600)));
        assert!(manner.html && manner.send);
        let templates =
            load("name: case.parked\ntext: 'parked: {{ vars.failure }}'\ndigest: 0s\n").unwrap();
        assert_eq!(templates.manner("case.parked").unwrap().digest, None);
        let made = templates
            .render("case.parked", &context(), Tz::UTC)
            .unwrap();
        assert_eq!((made.text.as_str(), made.html), ("parked: f\n", None));
    }

    #[test]
    fn slips_are_told_when_the_files_are_read() {
        check(
            "name: approval.asked\ntext: |\n  {% if false %}{{ person.nmae }}{% endif %}\n",
            &["`text` names `person.nmae`, which is not known; fix: did you mean `name`?"],
        );
        check(
            "name: approval.asked\ntext: '{{ vars.qestion }} {{ persn.name }}'\nhtml: '{{ items }}'\n",
            &[
                "`text` names `persn`",
                "`text` names `vars.qestion`, which is not known; fix: did you mean `question`?",
                "`html` names `items`",
            ],
        );
        check(
            "name: approval.asked\nsubject: a\ntext: |\n  one\n  {% if %}\n",
            &["`notices/a.yaml`:5: `text` cannot be read: syntax error"],
        );
        check(
            "name: approval.askd\nurgent: true\n",
            &["has no `subject`", "did you mean `approval.asked`?"],
        );
        check(
            "name: 'a b'\nsubject: a\ntext: b\n",
            &["no name of a notice"],
        );
        check("name: test\nto: [mangaer]\n", &["did you mean `manager`?"]);
        check("name: test\nbody: x\n", &["unknown field `body`"]);
        check(
            "name: welcome\nsubject: Hi\ntext: 'Desk {{ vars.dsk }}'\n",
            &["`vars.dsk`, which is not known; fix: did you mean `desk`?"],
        );
    }

    #[test]
    fn what_is_missing_is_left_blank_and_a_subject_is_one_line() {
        let templates = load(
            "name: welcome\nsubject: \"Hi {{ person.name }}\\r\\nBcc: x@y\"\ntext: 'Desk {{ vars.desk }}, {{ person.department }}'\n",
        )
        .unwrap();
        let made = templates
            .render("welcome", &json!({ "vars": { "desk": 7 } }), Tz::UTC)
            .unwrap();
        assert_eq!(made.subject, "Hi Bcc: x@y");
        assert_eq!(made.text, "Desk 7,\n");
        let long = json!({ "person": { "name": "x".repeat(500) } });
        let made = templates.render("welcome", &long, Tz::UTC).unwrap();
        assert_eq!(made.subject.chars().count(), 200);
        assert_eq!(
            templates.render("other", &json!({}), Tz::UTC),
            Err(RenderError::Unknown("other".to_owned()))
        );
    }

    #[test]
    fn a_template_ends() {
        let templates = load(
            "name: welcome\nsubject: a\ntext: '{% for a in range(9000) %}{% for b in range(9000) %}x{% endfor %}{% endfor %}'\n",
        )
        .unwrap();
        let error = templates
            .render("welcome", &json!({}), Tz::UTC)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("text of notice `welcome` cannot be made"),
            "{error}"
        );
    }
}
