//! How long somebody keeps a right that no role gives and that a person confirmed.

use chrono::{DateTime, Utc};
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::offsets;
use super::problem::{Problem, Problems};

const DAY_S: u32 = 86_400;

/// `exceptions` of a policy file.
///
/// ```yaml
/// exceptions:
///   length: 180d
///   max: 365d
///   notices: [14d, 3d]
/// ```
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExceptionDocument {
    /// How long a right is kept when whoever confirms it says no end; `180d` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub length: Option<Spanned<Span>>,
    /// How long it is kept at most, whatever is said; `365d` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub max: Option<Spanned<Span>>,
    /// How long before the end the person's manager is told; `[14d, 3d]` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Span>>")]
    pub notices: Option<Vec<Spanned<Span>>>,
}

/// The rules, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExceptionRules {
    length: Span,
    max: Span,
    /// The longest first.
    notices: Vec<Span>,
}

impl Default for ExceptionRules {
    fn default() -> Self {
        let days = |days: u32| Span::from_s(days * DAY_S);
        Self {
            length: days(180),
            max: days(365),
            notices: vec![days(14), days(3)],
        }
    }
}

impl ExceptionRules {
    /// # Errors
    /// Everything that is wrong, with its place in `file`.
    pub fn compile(file: &str, document: &ExceptionDocument) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        for (name, span) in [("length", &document.length), ("max", &document.max)] {
            if let Some(span) = span.as_ref().filter(|span| span.value.ms() <= 0) {
                problems.push(Problem::new(
                    file,
                    offsets::at(span),
                    format!("`exceptions.{name}` is {}", span.value),
                    "give for example `180d`",
                ));
            }
        }
        let usual = Self::default();
        let said =
            |span: Option<&Spanned<Span>>, usual: Span| span.map_or(usual, |span| span.value);
        let length = said(document.length.as_ref(), usual.length);
        let max = said(document.max.as_ref(), usual.max);
        if length > max {
            let place = document.length.as_ref().or(document.max.as_ref());
            problems.push(Problem::new(
                file,
                place.and_then(offsets::at),
                format!("`exceptions.length` is {length}, more than `exceptions.max`, {max}"),
                "make the one shorter, or the other longer",
            ));
        }
        let notices = match &document.notices {
            Some(notices) => offsets::compile(file, "exceptions", notices, &mut problems),
            None => usual.notices,
        };
        problems.into_result(|| Self {
            length,
            max,
            notices,
        })
    }

    /// When a right that was confirmed as of `from` goes: at `asked`, as far as that may be, or after the usual time.
    #[must_use]
    pub fn end(&self, from: DateTime<Utc>, asked: Option<DateTime<Utc>>) -> DateTime<Utc> {
        match asked {
            Some(asked) => asked.min(from + self.max.delta()),
            None => from + self.length.delta(),
        }
    }

    /// When the manager is told of an end, each with how long before it that is, as seen at `now`.
    #[must_use]
    pub fn told_before(
        &self,
        end: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Vec<(Span, DateTime<Utc>)> {
        offsets::told_before(&self.notices, end, now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::policy::PolicySet;
    use crate::policy::set::tests::schema;

    fn load(text: &str) -> Result<PolicySet, Problems> {
        let text = format!("{text}roles: [{{ name: all, when: 'true' }}]\n");
        PolicySet::load(&[("policy/a.yaml".to_owned(), text)], &schema())
    }

    fn day(text: &str) -> DateTime<Utc> {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    #[test]
    fn an_end_is_the_usual_one_or_as_it_was_said_and_never_later_than_policy_lets_it() {
        let check = |text: &str, asked: Option<&str>, expected: &str| {
            let set = load(text).unwrap();
            let end = set.exceptions().end(day("2026-01-01"), asked.map(day));
            assert_eq!(end, day(expected), "{text} {asked:?}");
        };
        check("", None, "2026-06-30");
        check("", Some("2026-02-01"), "2026-02-01");
        check("", Some("2027-01-01"), "2027-01-01");
        check("", Some("2027-01-02"), "2027-01-01");
        check("exceptions: { length: 30d }\n", None, "2026-01-31");
        let short = "exceptions: { length: 1d, max: 10d }\n";
        check(short, Some("2026-01-11"), "2026-01-11");
        check(short, Some("2026-01-12"), "2026-01-11");
    }

    #[test]
    fn a_policy_that_says_what_holds_anyway_has_the_hash_it_always_had() {
        let hash = |text: &str| {
            let set = load(text).unwrap();
            set.hash().to_owned()
        };
        let without = hash("");
        assert_eq!(hash("exceptions: {}\n"), without);
        let usual = "exceptions: { length: 180d, max: 365d, notices: [3d, 14d] }\n";
        assert_eq!(hash(usual), without);
        assert_ne!(hash("exceptions: { length: 90d }\n"), without);
        assert_ne!(hash("exceptions: { notices: [] }\n"), without);
    }

    #[test]
    fn mistakes_are_told() {
        let check = |text: &str, expected: &str| {
            let problems = load(text).unwrap_err().to_string();
            assert!(problems.contains(expected), "{problems}");
        };
        check(
            "exceptions: { length: 0s }\n",
            "`policy/a.yaml`:1:23: `exceptions.length` is 0s; fix: give for example `180d`",
        );
        check(
            "exceptions: { length: 400d }\n",
            "`exceptions.length` is 400d, more than `exceptions.max`, 365d",
        );
        check(
            "exceptions: { max: 5d }\n",
            "more than `exceptions.max`, 5d",
        );
        check(
            "exceptions: { notices: [0s] }\n",
            "a notice 0s before the end",
        );
        check("exceptions: { lenght: 9d }\n", "lenght");
    }
}
