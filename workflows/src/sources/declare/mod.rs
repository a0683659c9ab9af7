//! A checked source: everything in its configuration that can be wrong is refused here, before any file.

mod asking;
mod checking;

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use engine::core::duration::Span;

use self::checking::Checking;
use super::config::{Format, ManifestRule, Presence, SourceConfig, SourceKind};
use super::doubt::TrustConfig;
use super::event::EventType;
use super::guard::GuardConfig;
use super::pull::PullConfig;
use super::query::QueryConfig;
use super::record::{IdentityType, Record, attribute};
use super::signature::SignatureConfig;
use crate::policy::expression::Expression;
use crate::policy::problem::{Problem, Problems};
use crate::policy::schema::{AttributeDeclaration, AttributeDeclarations, AttributeKind};
use crate::policy::yaml;

/// The longest name of a source or an attribute, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The most attributes of a source.
pub const ATTRIBUTES_MAX: usize = 256;

/// Where a value comes from.
#[derive(Debug)]
pub(super) enum Extract {
    Column(String),
    /// An expression, and the columns it surely reads.
    Cel(Expression, BTreeSet<String>),
}

/// How one attribute is made.
#[derive(Debug)]
pub(super) struct Attribute {
    pub name: String,
    pub from: Extract,
    pub kind: AttributeKind,
    pub separator: String,
    pub date_format: String,
    pub required: bool,
}

/// A status column and what its values mean, in lower case.
#[derive(Debug)]
pub(super) struct Status {
    pub column: String,
    pub ended: BTreeSet<String>,
    pub leave: BTreeSet<String>,
    pub active: BTreeSet<String>,
    /// A column that is true while somebody who works is away.
    pub away: Option<String>,
}

/// A checked source.
#[derive(Debug)]
pub struct Source {
    pub(super) name: String,
    kind: SourceKind,
    /// `None` for what does not come as files.
    pub(super) format: Option<Format>,
    tokens: Vec<String>,
    pub(super) delimiter: u8,
    pub(super) zone: Tz,
    pub(super) as_of_file_name: Option<String>,
    pub(super) complete: bool,
    pub(super) manifest: ManifestRule,
    pub(super) final_newline: Presence,
    pub(super) key: Extract,
    pub(super) attributes: Vec<Attribute>,
    pub(super) fixed_type: IdentityType,
    pub(super) type_rule: Option<Extract>,
    /// Column, and what it names the manager by.
    pub(super) manager: Option<(String, String)>,
    /// Column, and what separates projects.
    pub(super) project: Option<(String, Option<String>)>,
    /// Columns with the first and the last day; of several the first that says something.
    pub(super) start: Vec<String>,
    pub(super) end: Vec<String>,
    pub(super) date_format: String,
    /// The attribute that tells a person's zone.
    pub(super) zone_attribute: Option<String>,
    pub(super) status: Option<Status>,
    change_events: BTreeMap<String, EventType>,
    guard: GuardConfig,
    trust: TrustConfig,
    signature: Option<SignatureConfig>,
    query: Option<QueryConfig>,
    pull: Option<PullConfig>,
    silent_after: Option<Span>,
    warnings: Vec<Problem>,
}

impl Source {
    /// Reads and checks a configuration. `file` is its name, for messages.
    ///
    /// # Errors
    /// Everything that is wrong, up to the limit of [`Problems`].
    pub fn load(file: &str, text: &str) -> Result<Self, Problems> {
        let config: SourceConfig = yaml::parse(file, text)?;
        Self::from_config(file, config)
    }

    /// Checks a configuration that was read already.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn from_config(file: &str, config: SourceConfig) -> Result<Self, Problems> {
        Checking::new(file).finish(config)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    #[must_use]
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The zone of a person's days.
    pub(super) fn zone_of(&self, record: &Record) -> Tz {
        let own = self.zone_attribute.as_ref();
        own.and_then(|name| record.text(name)?.parse().ok())
            .unwrap_or(self.zone)
    }

    /// Whether people are pushed over SCIM.
    #[must_use]
    pub fn is_scim(&self) -> bool {
        self.kind == SourceKind::Scim
    }

    /// The names of the tokens that may push.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Whether an attribute is made of the groups that somebody is in.
    #[must_use]
    pub fn reads_groups(&self) -> bool {
        let columns = self.columns();
        columns
            .iter()
            .any(|(column, _)| column.to_ascii_lowercase().starts_with("groups"))
    }

    #[must_use]
    pub fn guard(&self) -> &GuardConfig {
        &self.guard
    }

    /// When its files are not believed.
    #[must_use]
    pub fn trust(&self) -> &TrustConfig {
        &self.trust
    }

    /// How it signs what it sends; `None` lets nothing signed in.
    #[must_use]
    pub fn signature(&self) -> Option<&SignatureConfig> {
        self.signature.as_ref()
    }

    /// Whom it is asked of, and what; `None` when it comes in files and events.
    #[must_use]
    pub fn query(&self) -> Option<&QueryConfig> {
        self.query.as_ref()
    }

    /// Which API it is asked of; `None` when it comes otherwise.
    #[must_use]
    pub fn pull(&self) -> Option<&PullConfig> {
        self.pull.as_ref()
    }

    /// The names of all columns it reads.
    #[must_use]
    pub fn column_names(&self) -> Vec<String> {
        self.columns()
            .into_iter()
            .map(|(column, _)| column)
            .collect()
    }

    /// How long nothing may be heard of it before it counts as silent.
    #[must_use]
    pub fn silent_after(&self) -> Option<Span> {
        self.silent_after
    }

    #[must_use]
    pub fn manifest_rule(&self) -> ManifestRule {
        self.manifest
    }

    /// What is allowed but likely a slip.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// What rules may expect of identities from this source.
    #[must_use]
    pub fn declarations(&self) -> AttributeDeclarations {
        use AttributeKind::{Date, List, Text};
        let mut declarations: AttributeDeclarations = self
            .attributes
            .iter()
            .map(|attribute| {
                let declaration = AttributeDeclaration {
                    kind: attribute.kind,
                    required: attribute.required,
                };
                (attribute.name.clone(), declaration)
            })
            .collect();
        let mut add = |name: &str, declaration| {
            declarations.insert(name.to_owned(), declaration);
        };
        add(attribute::TYPE, AttributeDeclaration::required(Text));
        if self.project.is_some() {
            add(attribute::PROJECTS, AttributeDeclaration::required(List));
        }
        if self.manager.is_some() {
            add(attribute::MANAGER, AttributeDeclaration::optional(Text));
            add(
                attribute::MANAGER_NAME,
                AttributeDeclaration::optional(Text),
            );
        }
        if !self.start.is_empty() {
            add(
                attribute::EMPLOYMENT_START,
                AttributeDeclaration::optional(Date),
            );
        }
        if !self.end.is_empty() {
            add(
                attribute::EMPLOYMENT_END,
                AttributeDeclaration::optional(Date),
            );
        }
        if self.status.is_some() {
            add(
                attribute::EMPLOYMENT_STATUS,
                AttributeDeclaration::required(Text),
            );
        }
        declarations
    }

    /// The event that a change of `attribute` makes.
    pub(super) fn change_event(&self, attribute: &str) -> EventType {
        self.change_events
            .get(attribute)
            .copied()
            .unwrap_or(EventType::Transfer)
    }

    /// Every column that must be in the file, with what needs it.
    pub(super) fn columns(&self) -> Vec<(String, String)> {
        let mut columns = Vec::new();
        let mut extract = |from: &Extract, what: String| match from {
            Extract::Column(column) => columns.push((column.clone(), what)),
            Extract::Cel(_, reads) => {
                columns.extend(reads.iter().map(|column| (column.clone(), what.clone())));
            }
        };
        extract(&self.key, "the key".to_owned());
        for attribute in &self.attributes {
            extract(&attribute.from, format!("attribute `{}`", attribute.name));
        }
        if let Some(rule) = &self.type_rule {
            extract(rule, "the type".to_owned());
        }
        let plain = [
            (
                self.manager.as_ref().map(|(column, _)| column),
                "the manager",
            ),
            (
                self.project.as_ref().map(|(column, _)| column),
                "the projects",
            ),
            (
                self.status.as_ref().map(|status| &status.column),
                "the status",
            ),
        ];
        let days = [(&self.start, "the first day"), (&self.end, "the last day")];
        let days = days
            .iter()
            .flat_map(|(columns, what)| columns.iter().map(|column| (Some(column), *what)));
        for (column, what) in plain.into_iter().chain(days) {
            if let Some(column) = column {
                columns.push((column.clone(), what.to_owned()));
            }
        }
        columns
    }
}
