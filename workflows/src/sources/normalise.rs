//! From a row in the words of the file to a record in ours.
//!
//! Blanks around a value are dropped, and what is empty is absent. Lists are sorted and each item kept once,
//! so that a feed that changes its order has changed nothing. Dates become `YYYY-MM-DD`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::csv::shown;
use super::declare::{Attribute, Extract, Source, Status};
use super::record::{IdentityType, Key, attribute};
use super::row::{Limits, Row};
use crate::policy::expression::Scope;
use crate::policy::schema::AttributeKind;

/// Something is wrong with one value: message and fix.
pub(super) type Complaint = (String, String);

/// A row in our words; the manager is not looked up yet.
#[derive(Debug)]
pub(super) struct Normalised {
    pub key: Key,
    pub attributes: BTreeMap<String, Value>,
    /// How the row names the manager.
    pub manager: Option<String>,
}

/// Makes a record of a row, or says everything that is wrong with the row.
pub(super) fn normalise(
    source: &Source,
    limits: &Limits,
    row: &Row<'_>,
) -> Result<Normalised, Vec<Complaint>> {
    let mut work = Work {
        limits,
        row,
        scope: None,
        complaints: Vec::new(),
    };
    let key = work.key(&source.key);
    let mut attributes = BTreeMap::new();
    for attribute in &source.attributes {
        match work.attribute(attribute) {
            Some(value) => {
                attributes.insert(attribute.name.clone(), value);
            }
            None if attribute.required => work.complain(
                format!("the required attribute `{}` is empty", attribute.name),
                match &attribute.from {
                    Extract::Column(column) => format!("fill in column `{column}`"),
                    Extract::Cel(..) => "fill in the columns its expression reads".to_owned(),
                },
            ),
            None => {}
        }
    }
    let kind = work.identity_type(source);
    attributes.insert(attribute::TYPE.to_owned(), json!(kind.as_str()));
    if let Some((column, separator)) = &source.project {
        let projects = work.projects(column, separator.as_deref());
        attributes.insert(attribute::PROJECTS.to_owned(), json!(projects));
    }
    for (name, columns) in [
        (attribute::EMPLOYMENT_START, &source.start),
        (attribute::EMPLOYMENT_END, &source.end),
    ] {
        let said = columns
            .iter()
            .find_map(|column| Some((column, work.text(column)?)));
        if let Some((column, text)) = said
            && let Some(day) = work.date(column, &text, &source.date_format)
        {
            attributes.insert(name.to_owned(), json!(day));
        }
    }
    if let Some(name) = &source.zone_attribute
        && let Some(Value::String(zone)) = attributes.get(name)
        && zone.parse::<Tz>().is_err()
    {
        work.complain(
            format!("`{name}` is `{}`, which is no time zone", shown(zone)),
            "deliver an IANA name such as `Europe/Berlin`",
        );
    }
    if let Some(status) = &source.status {
        let value = work.status(status);
        attributes.insert(attribute::EMPLOYMENT_STATUS.to_owned(), json!(value));
    }
    let manager = source
        .manager
        .as_ref()
        .and_then(|(column, _)| work.text(column));
    match key {
        Some(key) if work.complaints.is_empty() => Ok(Normalised {
            key,
            attributes,
            manager,
        }),
        _ => Err(work.complaints),
    }
}

struct Work<'a> {
    limits: &'a Limits,
    row: &'a Row<'a>,
    /// Made when the first expression needs it.
    scope: Option<Scope>,
    complaints: Vec<Complaint>,
}

impl Work<'_> {
    fn complain(&mut self, message: impl Into<String>, fix: impl Into<String>) {
        self.complaints.push((message.into(), fix.into()));
    }

    fn key(&mut self, from: &Extract) -> Option<Key> {
        let value = self.value("the key", from)?;
        let text = match value {
            None => None,
            Some(Value::String(text)) => {
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            }
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                Some(number.to_string())
            }
            Some(_) => {
                self.complain(
                    "the key is neither a text nor a whole number",
                    "deliver keys as texts; large numbers lose digits",
                );
                return None;
            }
        };
        let Some(text) = text else {
            self.complain(
                "the key is empty",
                "give every person a key that never changes",
            );
            return None;
        };
        if text.len() > self.limits.key_bytes_max || text.chars().any(char::is_control) {
            self.complain(
                format!(
                    "`{}` cannot be a key",
                    shown(&text.replace(char::is_control, "?"))
                ),
                format!(
                    "use at most {} bytes without control characters",
                    self.limits.key_bytes_max
                ),
            );
            return None;
        }
        Some(Key::new(text))
    }

    /// The raw value; `None` outside when it was complained of, inside when there is none.
    #[expect(
        clippy::option_option,
        reason = "failed, absent and present are three things"
    )]
    fn value(&mut self, what: &str, from: &Extract) -> Option<Option<Value>> {
        match from {
            Extract::Column(column) => Some(
                self.row
                    .get(column)
                    .map(Cow::into_owned)
                    .filter(|value| !value.is_null()),
            ),
            Extract::Cel(expression, _) => {
                let row = self.row;
                let scope = self.scope.get_or_insert_with(|| {
                    let members = row.members();
                    let mut scope = Scope::new();
                    scope.bind_record(
                        "row",
                        members.iter().map(|(name, value)| (*name, value.as_ref())),
                    );
                    scope
                });
                match expression.json(scope) {
                    Ok(value) => Some(Some(value).filter(|value| !value.is_null())),
                    Err(failure) => {
                        self.complain(
                            format!("the expression of {what} fails: {failure}"),
                            format!("mend the row, or the expression `{}`", expression.text()),
                        );
                        None
                    }
                }
            }
        }
    }

    fn attribute(&mut self, attribute: &Attribute) -> Option<Value> {
        let what = format!("attribute `{}`", attribute.name);
        let value = self.value(&what, &attribute.from)??;
        if attribute.kind == AttributeKind::List {
            return self.list(&what, value, &attribute.separator);
        }
        let value = match attribute.from {
            Extract::Column(_) => self.row.first(value),
            Extract::Cel(..) => value,
        };
        let text = match &value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                self.complain(
                    format!("{what} is a list or an object, not one value"),
                    "set `type: list`, or take a part of it with `cel`",
                );
                return None;
            }
        };
        if text.is_empty() {
            return None;
        }
        match attribute.kind {
            AttributeKind::Text | AttributeKind::List => Some(Value::String(text)),
            AttributeKind::Integer => match text.parse::<i64>() {
                Ok(number) => Some(json!(number)),
                Err(_) => {
                    self.complain(
                        format!("{what} is `{}`, not a whole number", shown(&text)),
                        "deliver digits only",
                    );
                    None
                }
            },
            AttributeKind::Boolean => match text.to_lowercase().as_str() {
                "true" | "yes" | "y" | "1" => Some(json!(true)),
                "false" | "no" | "n" | "0" => Some(json!(false)),
                _ => {
                    self.complain(
                        format!("{what} is `{}`, not true or false", shown(&text)),
                        "deliver `true` or `false`",
                    );
                    None
                }
            },
            AttributeKind::Date => self
                .date(&attribute.name, &text, &attribute.date_format)
                .map(|day| json!(day)),
        }
    }

    fn list(&mut self, what: &str, value: Value, separator: &str) -> Option<Value> {
        let items: BTreeSet<String> = match value {
            Value::String(text) => split(&text, Some(separator)),
            Value::Array(items) => {
                let mut texts = BTreeSet::new();
                for item in items {
                    match item {
                        Value::String(text) => texts.extend(split(&text, None)),
                        Value::Number(number) => {
                            texts.insert(number.to_string());
                        }
                        Value::Null => {}
                        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                            self.complain(
                                format!("{what} holds something that is not a text"),
                                "deliver a list of texts",
                            );
                            return None;
                        }
                    }
                }
                texts
            }
            Value::Number(number) => BTreeSet::from([number.to_string()]),
            Value::Null | Value::Bool(_) | Value::Object(_) => {
                self.complain(format!("{what} is not a list"), "deliver a list of texts");
                return None;
            }
        };
        Some(json!(items))
    }

    fn identity_type(&mut self, source: &Source) -> IdentityType {
        let Some(rule) = &source.type_rule else {
            return source.fixed_type;
        };
        let Some(value) = self.value("the type", rule) else {
            return IdentityType::default();
        };
        // A column that says nothing leaves it open; an expression has to decide.
        if value.is_none() && matches!(rule, Extract::Column(_)) {
            return source.fixed_type;
        }
        let text = value.as_ref().and_then(Value::as_str).unwrap_or_default();
        if let Some(kind) = IdentityType::parse(text) {
            return kind;
        }
        let message = format!("the type is `{}`", shown(text));
        self.complain(
            message,
            "let the expression give `employee`, `contractor` or `guest`",
        );
        IdentityType::default()
    }

    fn projects(&mut self, column: &str, separator: Option<&str>) -> BTreeSet<String> {
        match self.row.get(column).map(Cow::into_owned) {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::String(text)) => split(&text, separator),
            Some(other) => match self.list("the projects", other, separator.unwrap_or(";")) {
                Some(Value::Array(items)) => items
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
                _ => BTreeSet::new(),
            },
        }
    }

    /// The trimmed text of a column; nothing when it is empty.
    fn text(&mut self, column: &str) -> Option<String> {
        let value = self.row.first(self.row.get(column)?.into_owned());
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text.trim().to_owned(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                self.complain(format!("`{column}` is not one value"), "deliver a text");
                return None;
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }

    fn date(&mut self, what: &str, text: &str, format: &str) -> Option<NaiveDate> {
        match NaiveDate::parse_from_str(text, format) {
            Ok(day) => Some(day),
            Err(error) => {
                let why = match error.kind() {
                    chrono::format::ParseErrorKind::OutOfRange
                    | chrono::format::ParseErrorKind::Impossible => "a day that does not exist",
                    _ => "not a date of that form",
                };
                self.complain(
                    format!("`{what}` is `{}`, {why}", shown(text)),
                    format!("deliver dates as `{format}`"),
                );
                None
            }
        }
    }

    fn is_away(&self, status: &Status) -> bool {
        let away = status.away.as_ref();
        let said = away.and_then(|column| self.row.get(column));
        said.is_some_and(|said| *said == Value::Bool(true))
    }

    fn status(&mut self, status: &Status) -> &'static str {
        let value = self.text(&status.column).unwrap_or_default().to_lowercase();
        if status.ended.contains(&value) {
            "ended"
        } else if status.leave.contains(&value) || self.is_away(status) {
            "leave"
        } else {
            if !status.active.is_empty() && !status.active.contains(&value) {
                self.complain(
                    format!(
                        "`{}` is `{}`, which means nothing",
                        status.column,
                        shown(&value)
                    ),
                    "add it to `active`, `leave` or `ended` of `status`",
                );
            }
            "active"
        }
    }
}

fn split(text: &str, separator: Option<&str>) -> BTreeSet<String> {
    let parts: Vec<&str> = match separator {
        Some(separator) if !separator.is_empty() => text.split(separator).collect(),
        _ => vec![text],
    };
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
