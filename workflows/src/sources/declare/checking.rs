//! Everything a configuration can get wrong.

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use serde_saphyr::Spanned;

use super::{ATTRIBUTES_MAX, Attribute, Extract, NAME_BYTES_MAX, Source, Status};
use crate::policy::expression::check::{Kind, Variable};
use crate::policy::problem::{Problem, Problems, suggest};
use crate::policy::schema::AttributeKind;
use crate::policy::{Origin, compile};
use crate::scim::{Kind as Resource, ValuePath};
use crate::sources::config::{
    ColumnSource, DetailedColumn, Format, ManifestRule, Presence, SILENT_AFTER_MS, SourceConfig,
    SourceKind, TypeSource,
};
use crate::sources::event::EventType;
use crate::sources::guard::{GuardConfig, SliceLimit};
use crate::sources::record::{IdentityType, attribute};
use crate::sources::signature::{SECRETS_MAX, WINDOW_MS};

/// A configuration under examination.
pub(super) struct Checking<'a> {
    file: &'a str,
    problems: Problems,
    warnings: Vec<Problem>,
}

impl<'a> Checking<'a> {
    pub fn new(file: &'a str) -> Self {
        Self {
            file,
            problems: Problems::default(),
            warnings: Vec::new(),
        }
    }

    pub fn finish(mut self, config: SourceConfig) -> Result<Source, Problems> {
        match self.source(config) {
            Some(source) if self.problems.is_empty() => Ok(Source {
                warnings: self.warnings,
                ..source
            }),
            _ => Err(self.problems),
        }
    }

    fn source(&mut self, config: SourceConfig) -> Option<Source> {
        if !is_identifier(&config.name.value, true) {
            self.problem(
                &config.name,
                format!("`{}` is no name for a source", config.name.value),
                "use up to 64 small letters, digits, `_` and `-`, a letter first",
            );
        }
        let scim = config.kind == SourceKind::Scim;
        self.check_kind(&config);
        let zone = self.zone(&config.time_zone);
        let delimiter = self.delimiter(&config);
        let key = self.extract("the key", &config.key, Kind::Any);
        let mut attributes = self.attributes(&config);
        let names: BTreeSet<&str> = config.columns.keys().map(String::as_str).collect();
        self.check_names(&config, &names);
        let change_events = self.change_events(&config, &names);
        self.check_guard(&config, &names);
        self.check_signature(&config);
        self.check_silence(&config);
        let (fixed_type, type_rule) = self.identity_type(config.identity_type.as_ref());
        let date_format = config
            .employment
            .as_ref()
            .and_then(|employment| employment.date_format.as_ref());
        if let Some(format) = date_format {
            self.check_date_format(format, &format.value);
        }
        let status = config.status.map(|status| {
            let lower = |values: Vec<String>| {
                values
                    .iter()
                    .map(|value| value.trim().to_lowercase())
                    .collect()
            };
            Status {
                column: status.column.value,
                ended: lower(status.ended),
                leave: lower(status.leave),
                active: lower(status.active),
                away: None,
            }
        });
        let status = status.or_else(|| scim.then(scim_status));
        let manager = config
            .manager
            .map(|manager| (manager.column.value, manager.by.value));
        let manager = manager.or_else(|| scim.then(|| (SCIM_MANAGER.to_owned(), "id".to_owned())));
        let days = |said: Option<&Spanned<String>>, usual: [&str; 2]| match said {
            Some(column) => vec![column.value.clone()],
            None if scim => usual.map(str::to_owned).to_vec(),
            None => Vec::new(),
        };
        let said = config.employment.as_ref();
        let start = days(said.and_then(|it| it.start.as_ref()), SCIM_START);
        let end = days(said.and_then(|it| it.end.as_ref()), SCIM_END);
        let zone_attribute = said.and_then(|employment| employment.zone.as_ref());
        let mut zone_attribute = zone_attribute.map(|zone| zone.value.clone());
        if scim && zone_attribute.is_none() && !config.columns.contains_key(SCIM_ZONE_ATTRIBUTE) {
            attributes.push(scim_zone());
            zone_attribute = Some(SCIM_ZONE_ATTRIBUTE.to_owned());
        }
        let type_rule = match (&config.identity_type, type_rule) {
            (None, None) if scim => Some(Extract::Column(SCIM_TYPE.to_owned())),
            (_, rule) => rule,
        };
        Some(Source {
            name: config.name.value,
            kind: config.kind,
            // What a database answers comes as one object a line.
            format: match config.kind {
                SourceKind::Query | SourceKind::Pull => Some(Format::Jsonl),
                SourceKind::Snapshot | SourceKind::Scim => config.format,
            },
            tokens: config.tokens.into_iter().map(|token| token.value).collect(),
            delimiter: delimiter?,
            zone: zone?,
            as_of_file_name: config.as_of_file_name.map(|format| format.value),
            complete: config.complete,
            manifest: config.manifest,
            final_newline: config.final_newline,
            key: key?,
            attributes,
            fixed_type,
            type_rule,
            manager,
            project: config
                .project
                .map(|project| (project.column.value, project.separator)),
            start,
            end,
            zone_attribute,
            date_format: date_format
                .map_or_else(|| ISO_DATE.to_owned(), |format| format.value.clone()),
            status,
            change_events,
            guard: config.guard,
            trust: config.trust,
            signature: config.signature,
            query: config.query,
            pull: config.pull,
            silent_after: config.silent_after.map(|span| span.value),
            warnings: Vec::new(),
        })
    }

    /// What belongs to one kind of source only.
    fn check_kind(&mut self, config: &SourceConfig) {
        let place = &config.name;
        if config.kind != SourceKind::Query
            && let Some(query) = &config.query
        {
            self.problem(
                &query.sql,
                "only a source of the kind `query` has a `query`",
                "write `kind: query`, or take the query out",
            );
        }
        if config.kind != SourceKind::Pull
            && let Some(pull) = &config.pull
        {
            self.problem(
                &pull.url,
                "only a source of the kind `pull` has a `pull`",
                "write `kind: pull`, or take it out",
            );
        }
        match config.kind {
            SourceKind::Pull => self.check_pulled(config),
            SourceKind::Snapshot => {
                if config.format.is_none() {
                    self.problem(
                        place,
                        "nothing says how the files are written".to_owned(),
                        "write `format: csv`, `format: json` or `format: jsonl`",
                    );
                }
                if let Some(token) = config.tokens.first() {
                    self.problem(
                        token,
                        "`tokens` has no meaning for a snapshot".to_owned(),
                        "set `kind: scim`, or remove it",
                    );
                }
            }
            SourceKind::Scim => {
                let file = config.format.is_some()
                    || config.delimiter.is_some()
                    || config.as_of_file_name.is_some()
                    || config.complete
                    || config.manifest != ManifestRule::default()
                    || config.final_newline != Presence::default();
                if file {
                    self.problem(
                        place,
                        "what is pushed over SCIM comes in no file".to_owned(),
                        "remove `format`, `delimiter`, `as_of_file_name`, `complete`, `manifest` and `final_newline`",
                    );
                }
                if config.tokens.is_empty() {
                    self.warnings.push(at(
                        self.file,
                        place,
                        "no token may push people of this source".to_owned(),
                        "name one in `tokens`, and make it with `tenure token create NAME --role provision`",
                    ));
                }
                self.check_paths(config);
            }
            SourceKind::Query => {
                let file = config.format.is_some()
                    || config.delimiter.is_some()
                    || config.as_of_file_name.is_some()
                    || config.manifest != ManifestRule::default()
                    || config.final_newline != Presence::default();
                if file {
                    self.problem(
                        place,
                        "what a database answers comes in no file",
                        "remove `format`, `delimiter`, `as_of_file_name`, `manifest` and `final_newline`",
                    );
                }
                if let Some(token) = config.tokens.first() {
                    self.problem(
                        token,
                        "`tokens` has no meaning for a query",
                        "set `kind: scim`, or remove it",
                    );
                }
                match &config.query {
                    Some(query) => self.check_query(query),
                    None => self.problem(
                        place,
                        "nothing says whom to ask",
                        "add `query:` with `postgres` or `sqlite`, `sql` and `every`",
                    ),
                }
            }
        }
    }

    /// Every column of a source that is pushed is a path of SCIM.
    fn check_paths(&mut self, config: &SourceConfig) {
        let mut check = |place: &Spanned<()>, column: &str| {
            if let Err(refusal) = ValuePath::parse_short(Resource::Person, column) {
                self.problem(
                    place,
                    format!("`{column}` is no path of SCIM: {refusal}"),
                    "write one as `userName`, `name.familyName`, `department` or `emails[type eq \"work\"].value`",
                );
            }
        };
        fn place<T>(of: &Spanned<T>) -> Spanned<()> {
            Spanned::new((), of.referenced, of.defined)
        }
        let sources = std::iter::once(&config.key).chain(config.columns.values());
        for source in sources {
            let column = match &source.value {
                ColumnSource::Column(column) => Some(column),
                ColumnSource::Detailed(detail) => detail.column.as_ref(),
            };
            if let Some(column) = column {
                check(&place(source), column);
            }
        }
        let said = config.employment.as_ref();
        let plain = [
            config.manager.as_ref().map(|it| &it.column),
            config.project.as_ref().map(|it| &it.column),
            config.status.as_ref().map(|it| &it.column),
            said.and_then(|it| it.start.as_ref()),
            said.and_then(|it| it.end.as_ref()),
        ];
        for column in plain.into_iter().flatten() {
            check(&place(column), &column.value);
        }
    }

    fn zone(&mut self, name: &Spanned<String>) -> Option<Tz> {
        let zone = name.value.parse::<Tz>().ok();
        if zone.is_none() {
            let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let fix = match crate::policy::problem::similar(&name.value, known) {
                Some(zone) => format!("did you mean `{zone}`?"),
                None => "use an IANA name such as `Europe/Berlin`".to_owned(),
            };
            self.problem(name, format!("there is no time zone `{}`", name.value), fix);
        }
        zone
    }

    fn delimiter(&mut self, config: &SourceConfig) -> Option<u8> {
        let Some(delimiter) = &config.delimiter else {
            return Some(b',');
        };
        match delimiter.value.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Some(*byte),
            _ => {
                self.problem(
                    delimiter,
                    "`delimiter` is not one ASCII character".to_owned(),
                    "write `\",\"`, `\";\"`, `\"|\"` or `\"\\t\"`",
                );
                None
            }
        }
    }

    fn attributes(&mut self, config: &SourceConfig) -> Vec<Attribute> {
        let mut attributes = Vec::new();
        if config.columns.len() > ATTRIBUTES_MAX {
            self.problem(
                &config.name,
                format!("the source has more than {ATTRIBUTES_MAX} attributes"),
                "keep those that rules and accounts use",
            );
            return attributes;
        }
        for (name, source) in &config.columns {
            if attribute::RESERVED.contains(&name.as_str()) {
                let fix = match name.as_str() {
                    attribute::TYPE => "set `type:` of the source",
                    attribute::PROJECTS => "set `project:` of the source",
                    attribute::MANAGER | attribute::MANAGER_NAME => "set `manager:` of the source",
                    attribute::KEY => "set `key:` of the source",
                    attribute::EMPLOYMENT_STATUS => "set `status:` of the source",
                    _ => "set `employment:` of the source",
                };
                self.problem(
                    source,
                    format!("the attribute `{name}` has a meaning of its own"),
                    fix,
                );
                continue;
            }
            if !is_identifier(name, false) {
                self.problem(
                    source,
                    format!("`{name}` is no name for an attribute"),
                    "use up to 64 small letters, digits and `_`, a letter first",
                );
                continue;
            }
            let detail = match &source.value {
                ColumnSource::Column(_) => None,
                ColumnSource::Detailed(detail) => Some(detail),
            };
            let kind = detail.map_or(AttributeKind::Text, |detail| detail.kind);
            let wanted = match kind {
                AttributeKind::Text | AttributeKind::Date => Kind::Any,
                other => Kind::from(other),
            };
            let what = format!("attribute `{name}`");
            let Some(from) = self.extract(&what, source, wanted) else {
                continue;
            };
            let date_format = self.details(name, source, detail);
            attributes.push(Attribute {
                name: name.clone(),
                from,
                kind,
                separator: detail
                    .and_then(|detail| detail.separator.clone())
                    .filter(|separator| !separator.is_empty())
                    .unwrap_or_else(|| ";".to_owned()),
                date_format,
                required: config
                    .required
                    .iter()
                    .any(|required| required.value == *name),
            });
        }
        attributes
    }

    /// Settings that belong to one kind of value only. Gives the form of dates.
    fn details(
        &mut self,
        name: &str,
        place: &Spanned<ColumnSource>,
        detail: Option<&DetailedColumn>,
    ) -> String {
        let Some(detail) = detail else {
            return ISO_DATE.to_owned();
        };
        if detail.separator.is_some() && detail.kind != AttributeKind::List {
            self.problem(
                place,
                format!("`separator` of attribute `{name}` has no meaning"),
                "set `type: list`, or remove it",
            );
        }
        match &detail.date_format {
            Some(_) if detail.kind != AttributeKind::Date => {
                self.problem(
                    place,
                    format!("`date_format` of attribute `{name}` has no meaning"),
                    "set `type: date`, or remove it",
                );
                ISO_DATE.to_owned()
            }
            Some(format) => {
                self.check_date_format(place, format);
                format.clone()
            }
            None => ISO_DATE.to_owned(),
        }
    }

    fn extract(
        &mut self,
        what: &str,
        source: &Spanned<ColumnSource>,
        wanted: Kind,
    ) -> Option<Extract> {
        match &source.value {
            ColumnSource::Column(column) => self.column(what, source, column),
            ColumnSource::Detailed(detail) => match (&detail.column, &detail.cel) {
                (Some(column), None) => self.column(what, source, column),
                (None, Some(text)) => self.cel(what, source, text, wanted),
                (Some(_), Some(_)) | (None, None) => {
                    self.problem(
                        source,
                        format!("{what} needs either `column` or `cel`"),
                        "write one of the two",
                    );
                    None
                }
            },
        }
    }

    fn column<T>(&mut self, what: &str, place: &Spanned<T>, column: &str) -> Option<Extract> {
        if column.trim().is_empty() {
            self.problem(
                place,
                format!("{what} has no column"),
                "write the name of a column",
            );
            return None;
        }
        Some(Extract::Column(column.to_owned()))
    }

    fn cel<T>(
        &mut self,
        what: &str,
        place: &Spanned<T>,
        text: &str,
        wanted: Kind,
    ) -> Option<Extract> {
        let spanned = Spanned::new(text.to_owned(), place.referenced, place.defined);
        let origin = Origin {
            file: self.file,
            what: &format!("the expression of {what}"),
        };
        compile(
            origin,
            &spanned,
            &BTreeMap::from([("row", Variable::Open)]),
            wanted,
            &mut self.problems,
            &mut self.warnings,
        )
        .map(|(expression, report)| {
            let reads = report.reads.into_iter().map(|(_, column)| column).collect();
            Extract::Cel(expression, reads)
        })
    }

    fn identity_type(
        &mut self,
        source: Option<&Spanned<TypeSource>>,
    ) -> (IdentityType, Option<Extract>) {
        match source.map(|source| (&source.value, source)) {
            None => (IdentityType::Employee, None),
            Some((TypeSource::Fixed(kind), _)) => (*kind, None),
            Some((TypeSource::Cel(rule), place)) => (
                IdentityType::Employee,
                self.cel("the type", place, &rule.cel, Kind::Text),
            ),
        }
    }

    fn check_names(&mut self, config: &SourceConfig, names: &BTreeSet<&str>) {
        for required in &config.required {
            if !names.contains(required.value.as_str()) {
                self.problem(
                    required,
                    format!(
                        "`required` names `{}`, which is not in `columns`",
                        required.value
                    ),
                    suggest(&required.value, "attributes", names.iter().copied()),
                );
            }
        }
        let zone = config.employment.as_ref().and_then(|it| it.zone.as_ref());
        if let Some(zone) = zone
            && !names.contains(zone.value.as_str())
        {
            self.problem(
                zone,
                format!(
                    "the time zone is told by `{}`, which is not in `columns`",
                    zone.value
                ),
                suggest(&zone.value, "attributes", names.iter().copied()),
            );
        }
        if config.kind == SourceKind::Scim {
            if let Some(manager) = &config.manager
                && !MANAGERS_BY.contains(&manager.by.value.as_str())
            {
                self.problem(
                    &manager.by,
                    format!("nobody can be found by `{}`", manager.by.value),
                    suggest(&manager.by.value, "ways to name a manager", MANAGERS_BY),
                );
            }
        } else if let Some(manager) = &config.manager
            && manager.by.value != attribute::KEY
            && !names.contains(manager.by.value.as_str())
        {
            let by = &manager.by;
            self.problem(
                by,
                format!(
                    "the manager is named by `{}`, which is not in `columns`",
                    by.value
                ),
                suggest(
                    &by.value,
                    "attributes",
                    names.iter().copied().chain(["key"]),
                ),
            );
        }
        if let Some(status) = &config.status
            && status.ended.is_empty()
            && status.leave.is_empty()
        {
            self.problem(
                &status.column,
                "`status` says nothing about its values".to_owned(),
                "list the values that mean the end in `ended`",
            );
        }
    }

    fn change_events(
        &mut self,
        config: &SourceConfig,
        names: &BTreeSet<&str>,
    ) -> BTreeMap<String, EventType> {
        const ALLOWED: [EventType; 3] = [
            EventType::Transfer,
            EventType::CostCenterChanged,
            EventType::EntityTransfer,
        ];
        let mut events = BTreeMap::new();
        for (name, event) in &config.change_events {
            if !names.contains(name.as_str()) {
                self.problem(
                    event,
                    format!("`change_events` names `{name}`, which is not in `columns`"),
                    suggest(name, "attributes", names.iter().copied()),
                );
            }
            match ALLOWED
                .into_iter()
                .find(|allowed| allowed.as_str() == event.value)
            {
                Some(event) => {
                    events.insert(name.clone(), event);
                }
                None => self.problem(
                    event,
                    format!("a change of `{name}` cannot be the event `{}`", event.value),
                    suggest(
                        &event.value,
                        "events of a change",
                        ALLOWED.map(EventType::as_str),
                    ),
                ),
            }
        }
        events
    }

    fn check_guard(&mut self, config: &SourceConfig, names: &BTreeSet<&str>) {
        let guard = &config.guard;
        for (what, limit) in [
            ("removals", &guard.removals),
            ("creations", &guard.creations),
            ("changes", &guard.changes),
        ] {
            let whole = SliceLimit {
                share_max: limit.share_max,
                ..SliceLimit::default()
            };
            let all = std::iter::once(&whole).chain(limit.slices.values());
            if all
                .filter_map(|limit| limit.share_max)
                .any(|share| !(0.0..=1.0).contains(&share))
            {
                self.problem(
                    &config.name,
                    format!("`guard.{what}` has a `share_max` that is not between 0 and 1"),
                    "write 0.05 for five per cent",
                );
            }
            for slice in limit.slices.keys() {
                if !names.contains(slice.as_str()) && slice != attribute::TYPE {
                    self.problem(
                        &config.name,
                        format!("`guard.{what}.slices` names `{slice}`, which is not in `columns`"),
                        suggest(slice, "attributes", names.iter().copied()),
                    );
                }
            }
        }
        if !(1..=GuardConfig::WINDOW_MINUTES_MAX).contains(&guard.window_minutes) {
            self.problem(
                &config.name,
                format!("`guard.window_minutes` is {}", guard.window_minutes),
                format!("write 1 to {}", GuardConfig::WINDOW_MINUTES_MAX),
            );
        }
        let trust = &config.trust;
        if !(0.0..=1.0).contains(&trust.shrink_max) {
            self.problem(
                &config.name,
                format!("`trust.shrink_max` is {}", trust.shrink_max),
                "write a share as a number from 0 to 1, such as `0.25`",
            );
        }
        if trust.same_for.ms() < 1 {
            self.problem(
                &config.name,
                "`trust.same_for` is nothing",
                "write a length of time such as `28d`",
            );
        }
        if guard.removals.share_max.is_none() && guard.removals.count_max.is_none() {
            self.warnings.push(at(
                self.file,
                &config.name,
                "nothing stops a damaged file from removing everybody".to_owned(),
                "set `guard.removals.share_max` or `count_max`",
            ));
        }
    }

    fn check_signature(&mut self, config: &SourceConfig) {
        let Some(signature) = &config.signature else {
            return;
        };
        let count = signature.secrets.value.len();
        if !(1..=SECRETS_MAX).contains(&count) {
            self.problem(
                &signature.secrets,
                format!("`signature.secrets` has {count} entries"),
                format!("name 1 to {SECRETS_MAX} places such as `env:HR_WEBHOOK_SECRET`"),
            );
        }
        if let Some(window) = &signature.window
            && !WINDOW_MS.contains(&window.value.ms())
        {
            self.problem(
                window,
                format!("`signature.window` is {}", window.value),
                "give `1s` to `1h`",
            );
        }
    }

    fn check_silence(&mut self, config: &SourceConfig) {
        if let Some(span) = &config.silent_after
            && !SILENT_AFTER_MS.contains(&span.value.ms())
        {
            self.problem(
                span,
                format!("`silent_after` is {}", span.value),
                "give `1m` to `400d`, some more than the longest pause between two deliveries",
            );
        }
    }

    fn check_date_format<T>(&mut self, place: &Spanned<T>, format: &str) {
        let unknown = chrono::format::StrftimeItems::new(format)
            .any(|item| matches!(item, chrono::format::Item::Error));
        if unknown
            || !["%Y", "%y", "%F", "%D", "%x"]
                .iter()
                .any(|part| format.contains(part))
        {
            self.problem(
                place,
                format!("`{format}` is no form of a date"),
                "write it as `%Y-%m-%d` or `%d.%m.%Y`",
            );
        }
    }

    pub(super) fn problem<T>(
        &mut self,
        place: &Spanned<T>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems
            .push(at(self.file, place, message.into(), fix));
    }
}

const ISO_DATE: &str = "%Y-%m-%d";

/// What people who are pushed over SCIM are read from when the configuration does not say.
const SCIM_MANAGER: &str = "manager.value";
const SCIM_TYPE: &str = "personType";
const SCIM_ZONE: &str = "workTimeZone";
/// The attribute it becomes.
const SCIM_ZONE_ATTRIBUTE: &str = "time_zone";
const SCIM_START: [&str; 2] = ["startDate", "contractStart"];
const SCIM_END: [&str; 2] = ["endDate", "contractEnd"];
/// What a pushed manager may be named by: the identifier SCIM gave, the key, or another name that is unique.
const MANAGERS_BY: [&str; 4] = ["id", attribute::KEY, "userName", "externalId"];

fn scim_zone() -> Attribute {
    Attribute {
        name: SCIM_ZONE_ATTRIBUTE.to_owned(),
        from: Extract::Column(SCIM_ZONE.to_owned()),
        kind: AttributeKind::Text,
        separator: String::new(),
        date_format: ISO_DATE.to_owned(),
        required: false,
    }
}

fn scim_status() -> Status {
    Status {
        column: "active".to_owned(),
        ended: BTreeSet::from(["false".to_owned()]),
        leave: BTreeSet::new(),
        active: BTreeSet::new(),
        away: Some("onLeave".to_owned()),
    }
}

fn at<T>(file: &str, place: &Spanned<T>, message: String, fix: impl Into<String>) -> Problem {
    Problem::new(
        file,
        Some((place.defined.line(), place.defined.column())),
        message,
        fix,
    )
}

fn is_identifier(name: &str, hyphen: bool) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || (hyphen && c == '-')
        })
}
