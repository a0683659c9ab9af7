//! What has to be known of a contractor before anything is given to them, and who is told before their contract ends.
//!
//! Nothing is guessed: a contract whose end nobody said is no reason for access that has an end.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::offsets::{self, at};
use super::problem::{Problem, Problems, suggest};
use super::schema::Schema;
use crate::sources::Attributes;

const DAY_S: u32 = 86_400;

/// `contractors` of a policy file.
///
/// ```yaml
/// contractors:
///   sponsor: sponsor
///   purchase: [purchase_order, project_code]
///   notices: [30d, 7d, 1d]
///   owner: role:vendor-management
///   extension: { max: 180d, approve: role:vendor-management }
/// ```
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContractorDocument {
    /// The types of identity that have a window.
    #[serde(default = "types")]
    #[schemars(with = "Vec<String>")]
    pub types: Vec<Spanned<String>>,
    /// The attribute that holds the key of whoever answers for them. Left out: nobody has to.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub sponsor: Option<Spanned<String>>,
    /// At least one of these attributes has to be there: what the work is bought for.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub purchase: Vec<Spanned<String>>,
    /// How long before the end the sponsor is told.
    #[serde(default = "notices")]
    #[schemars(with = "Vec<Span>")]
    pub notices: Vec<Spanned<Span>>,
    /// After this time without anybody who answers for them, `owner` is told again.
    #[serde(default = "sponsor_deadline")]
    pub sponsor_deadline: Span,
    /// Who is told what is missing, and when there is no sponsor any more: `role:NAME` or an address.
    #[schemars(with = "String")]
    pub owner: Spanned<String>,
    #[serde(default)]
    pub extension: ExtensionDocument,
}

/// How far a contract may be made longer here.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtensionDocument {
    /// At once, counted from the end that stands.
    #[serde(default = "extension_max")]
    pub max: Span,
    /// Who is asked whether it may be: `role:NAME` or an address. Left out: `owner`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub approve: Option<Spanned<String>>,
}

impl Default for ExtensionDocument {
    fn default() -> Self {
        Self {
            max: extension_max(),
            approve: None,
        }
    }
}

fn types() -> Vec<Spanned<String>> {
    serde_saphyr::from_str("[contractor]").unwrap_or_default()
}

fn notices() -> Vec<Spanned<Span>> {
    serde_saphyr::from_str("[30d, 7d, 1d]").unwrap_or_default()
}

fn sponsor_deadline() -> Span {
    Span::from_s(14 * DAY_S)
}

fn extension_max() -> Span {
    Span::from_s(180 * DAY_S)
}

/// The rules, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContractRules {
    types: BTreeSet<String>,
    sponsor: Option<String>,
    purchase: Vec<String>,
    /// The longest first.
    notices: Vec<Span>,
    sponsor_deadline: Span,
    owner: String,
    extension_max: Span,
    extension_approve: String,
}

/// Why a contract may not be made longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionRefused {
    #[error("`{0}` is none whose contracts have an end")]
    NoContractor(String),
    #[error("no end of a contract is known that could be moved")]
    NoEnd,
    #[error("the new end, {asked}, is not after the one that stands, {stands}")]
    NotLater {
        asked: DateTime<Utc>,
        stands: DateTime<Utc>,
    },
    #[error(
        "the new end, {asked}, is more than {max} after the one that stands, {stands}; the policy allows no more at once"
    )]
    TooLong {
        asked: DateTime<Utc>,
        stands: DateTime<Utc>,
        max: Span,
    },
}

impl ContractRules {
    /// # Errors
    /// Everything that is wrong, with its place in `file`.
    pub fn compile(
        file: &str,
        document: &ContractorDocument,
        schema: &Schema,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut wrong = |place: Option<(u64, u64)>, message: String, fix: String| {
            problems.push(Problem::new(file, place, message, fix));
        };
        let known = ["employee", "contractor", "guest"];
        for name in &document.types {
            if !known.contains(&name.value.as_str()) {
                let fix = suggest(&name.value, "types", known);
                wrong(
                    at(name),
                    format!("`{}` is no type of identity", name.value),
                    fix,
                );
            }
        }
        for attribute in document.sponsor.iter().chain(&document.purchase) {
            if !schema.attributes.contains_key(&attribute.value) {
                let names = schema.attributes.keys().map(String::as_str);
                wrong(
                    at(attribute),
                    format!("no source delivers an attribute `{}`", attribute.value),
                    suggest(&attribute.value, "attributes", names),
                );
            }
        }
        let max = document.extension.max;
        if max.ms() <= 0 {
            wrong(
                None,
                format!("`contractors.extension.max` is {max}"),
                "give for example `180d`".to_owned(),
            );
        }
        let text =
            |names: &[Spanned<String>]| names.iter().map(|name| name.value.clone()).collect();
        let notices = offsets::compile(file, "contractors", &document.notices, &mut problems);
        let types: Vec<String> = text(&document.types);
        problems.into_result(|| Self {
            types: types.into_iter().collect(),
            sponsor: document.sponsor.as_ref().map(|name| name.value.clone()),
            purchase: text(&document.purchase),
            notices,
            sponsor_deadline: document.sponsor_deadline,
            owner: document.owner.value.clone(),
            extension_max: max,
            extension_approve: document
                .extension
                .approve
                .as_ref()
                .unwrap_or(&document.owner)
                .value
                .clone(),
        })
    }

    /// Whether people of this type have a window.
    #[must_use]
    pub fn concern(&self, identity_type: &str) -> bool {
        self.types.contains(identity_type)
    }

    /// Who is told what is missing, as it is written.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Who is asked whether a contract may be made longer, as it is written.
    #[must_use]
    pub fn approver(&self) -> &str {
        &self.extension_approve
    }

    /// The longest that it may be made longer at once.
    #[must_use]
    pub fn extension_max(&self) -> Span {
        self.extension_max
    }

    /// The attribute that names whoever answers for them.
    #[must_use]
    pub fn sponsor(&self) -> Option<&str> {
        self.sponsor.as_deref()
    }

    /// The types of identity that have a window.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.types.iter().map(String::as_str)
    }

    /// How long nobody may answer for them.
    #[must_use]
    pub fn sponsor_deadline(&self) -> Span {
        self.sponsor_deadline
    }

    /// What has to be known before anything is given, and is not; nothing is missing when it is empty.
    #[must_use]
    pub fn missing(&self, attributes: &Attributes, until: Option<DateTime<Utc>>) -> Vec<String> {
        let has = |name: &String| match attributes.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(Value::Array(several)) => !several.is_empty(),
            Some(_) => true,
        };
        let mut missing = Vec::new();
        if until.is_none() {
            missing.push("the end of the contract".to_owned());
        }
        if let Some(sponsor) = self.sponsor.as_ref().filter(|sponsor| !has(sponsor)) {
            missing.push(format!("`{sponsor}`, who answers for them"));
        }
        if !self.purchase.is_empty() && !self.purchase.iter().any(has) {
            let names: Vec<String> = self
                .purchase
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            missing.push(format!(
                "{}: what the work is bought for",
                names.join(" or ")
            ));
        }
        missing
    }

    /// When the sponsor is told of an end, each with how long before it that is, as seen at `now`: those that are still to
    /// come, and of those whose time has passed the last. So who hears late of a near end hears once.
    #[must_use]
    pub fn told_before(
        &self,
        end: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Vec<(Span, DateTime<Utc>)> {
        offsets::told_before(&self.notices, end, now)
    }

    /// Whether the end that stands may be moved to `asked`.
    ///
    /// # Errors
    /// Why not.
    pub fn may_extend(
        &self,
        identity_type: &str,
        stands: Option<DateTime<Utc>>,
        asked: DateTime<Utc>,
    ) -> Result<(), ExtensionRefused> {
        if !self.concern(identity_type) {
            return Err(ExtensionRefused::NoContractor(identity_type.to_owned()));
        }
        let stands = stands.ok_or(ExtensionRefused::NoEnd)?;
        if asked <= stands {
            return Err(ExtensionRefused::NotLater { asked, stands });
        }
        // Ends are those of days, and days are not all of one length.
        if asked - stands > self.extension_max.delta() + TimeDelta::hours(2) {
            return Err(ExtensionRefused::TooLong {
                asked,
                stands,
                max: self.extension_max,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::policy::schema::{AttributeDeclaration, AttributeKind};
    use crate::policy::yaml;

    fn compile(text: &str) -> Result<ContractRules, Problems> {
        let text_kind = AttributeDeclaration::optional(AttributeKind::Text);
        let names = ["sponsor", "order", "project"];
        let declared = names.map(|name| (name.to_owned(), text_kind)).into();
        let schema = Schema::new(["ldap"]).with_source(&declared);
        let document: ContractorDocument = yaml::parse("c.yaml", text)?;
        ContractRules::compile("c.yaml", &document, &schema)
    }

    const RULES: &str = "sponsor: sponsor\npurchase: [order, project]\nnotices: [1d, 30d, 7d]\nowner: role:vendors\n";

    fn day(text: &str) -> DateTime<Utc> {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    #[test]
    fn what_is_missing_is_named() {
        let rules = compile(RULES).unwrap();
        let missing = |attributes: Value, until: Option<&str>| {
            let attributes: BTreeMap<String, Value> = serde_json::from_value(attributes).unwrap();
            rules.missing(&attributes, until.map(day)).join("; ")
        };
        let whole = json!({ "sponsor": "E1", "order": "4711" });
        assert_eq!(missing(whole.clone(), Some("2026-05-01")), "");
        assert_eq!(missing(whole, None), "the end of the contract");
        assert_eq!(
            missing(
                json!({ "sponsor": " ", "project": null }),
                Some("2026-05-01")
            ),
            "`sponsor`, who answers for them; `order` or `project`: what the work is bought for"
        );
        assert!(rules.concern("contractor") && !rules.concern("employee"));
    }

    #[test]
    fn notices_come_at_their_offsets_and_late_ones_once() {
        let rules = compile(RULES).unwrap();
        let told = |now: &str| -> Vec<String> {
            let told = rules.told_before(day("2026-05-31"), day(now));
            told.iter()
                .map(|(span, at)| format!("{span} {}", at.date_naive()))
                .collect()
        };
        assert_eq!(
            told("2026-03-01"),
            ["30d 2026-05-01", "7d 2026-05-24", "1d 2026-05-30"]
        );
        assert_eq!(
            told("2026-05-20"),
            ["30d 2026-05-20", "7d 2026-05-24", "1d 2026-05-30"]
        );
        assert_eq!(told("2026-05-25"), ["7d 2026-05-25", "1d 2026-05-30"]);
        assert_eq!(told("2026-05-31"), [""; 0]);
    }

    #[test]
    fn an_end_moves_as_far_as_the_policy_says() {
        let rules = compile(RULES).unwrap();
        let asked = |text: &str| {
            let stands = Some(day("2026-05-31"));
            let refused = rules.may_extend("contractor", stands, day(text));
            refused.map_err(|error| error.to_string())
        };
        assert_eq!(asked("2026-11-27"), Ok(()));
        assert!(asked("2026-11-28").unwrap_err().contains("more than 180d"));
        assert!(asked("2026-05-31").unwrap_err().contains("is not after"));
        assert_eq!(
            rules.may_extend("contractor", None, day("2026-05-31")),
            Err(ExtensionRefused::NoEnd)
        );
        assert!(
            rules
                .may_extend("employee", None, day("2026-05-31"))
                .is_err()
        );
    }

    #[test]
    fn mistakes_are_told() {
        let check = |text: &str, expected: &str| {
            let problems = compile(text).unwrap_err().to_string();
            assert!(problems.contains(expected), "{problems}");
        };
        check(
            "sponsor: sponser\nowner: role:v",
            "`c.yaml`:1:10: no source delivers an attribute `sponser`; fix: did you mean `sponsor`?",
        );
        check(
            "types: [contracter]\nowner: role:v",
            "did you mean `contractor`?",
        );
        check("notices: [0s]\nowner: role:v", "a notice 0s before the end");
        check("notices: [1d]", "the field `owner` is missing");
        check(
            "owner: role:v\nextension: { max: 0s }",
            "`contractors.extension.max` is 0s",
        );
    }
}
