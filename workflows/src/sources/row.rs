//! One row of a file, before anybody knows what it means, and how large it may be.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::scim::{Kind, ValuePath};

/// How much of a file is taken. Beyond it reading stops with a problem, never with less memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One row, in bytes. A 40 MB line is given up after this much of it.
    pub record_bytes_max: usize,
    /// One value, in bytes.
    pub field_bytes_max: usize,
    pub columns_max: usize,
    pub rows_max: u64,
    /// The whole file, in bytes.
    pub file_bytes_max: u64,
    /// The key of a person, in bytes.
    pub key_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes_max: 1024 * 1024,
            field_bytes_max: 64 * 1024,
            columns_max: 512,
            rows_max: 5_000_000,
            file_bytes_max: 8 * 1024 * 1024 * 1024,
            key_bytes_max: 256,
        }
    }
}

/// The columns of a CSV file.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Header {
    pub fn new(names: Vec<String>) -> Self {
        let index = names
            .iter()
            .enumerate()
            .map(|(place, name)| (name.clone(), place))
            .collect();
        Self { names, index }
    }

    pub fn place(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

/// One row, still in the words of the file.
#[derive(Debug)]
pub(super) enum Row<'a> {
    /// As many fields as the header has names.
    Csv {
        header: &'a Header,
        fields: &'a [Cow<'a, str>],
    },
    Json(&'a Map<String, Value>),
    /// A user as SCIM has it; a column is a path.
    Scim(&'a Map<String, Value>),
}

impl Row<'_> {
    /// The value in `column`; nothing when the row has no such column.
    pub fn get(&self, column: &str) -> Option<Cow<'_, Value>> {
        match self {
            Self::Csv { header, fields } => header
                .place(column)
                .and_then(|place| fields.get(place))
                .map(|field| Cow::Owned(Value::String(field.to_string()))),
            Self::Json(members) => members.get(column).map(Cow::Borrowed),
            Self::Scim(user) => ValuePath::parse_short(Kind::Person, column)
                .ok()
                .and_then(|path| path.value(user))
                .map(Cow::Owned),
        }
    }

    /// Of a list that a path of SCIM finds, the first: what is meant where one value is wanted.
    pub fn first(&self, value: Value) -> Value {
        match (self, value) {
            (Self::Scim(_), Value::Array(mut items)) if !items.is_empty() => items.swap_remove(0),
            (_, value) => value,
        }
    }

    /// All columns with their values, for expressions.
    pub fn members(&self) -> Vec<(&str, Cow<'_, Value>)> {
        match self {
            Self::Csv { header, fields } => header
                .names
                .iter()
                .zip(fields.iter())
                .map(|(name, field)| (name.as_str(), Cow::Owned(Value::String(field.to_string()))))
                .collect(),
            Self::Json(members) | Self::Scim(members) => members
                .iter()
                .map(|(name, value)| (name.as_str(), Cow::Borrowed(value)))
                .collect(),
        }
    }
}
