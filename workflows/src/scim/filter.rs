//! Filters (RFC 7644, 3.4.2.2): parsed once against the schema, then asked of resources.
//!
//! ```text
//! filter = and *("or" and)     and = term *("and" term)     term = "not" "(" filter ")" / "(" filter ")" / test
//! test   = path "pr" / path op value / path "[" filter "]"
//! ```
//!
//! A filter written out ([`Display`](fmt::Display)) and read again is the same filter.

use std::cmp::Ordering;
use std::fmt;

use chrono::DateTime;
use serde_json::{Map, Value};

use super::path::AttributePath;
use super::refusal::Refusal;
use super::schema::{Kind, Type};

/// The longest filter that is read.
pub const FILTER_BYTES_MAX: usize = 8 * 1024;
/// How deep parentheses and brackets may nest.
pub const FILTER_DEPTH_MAX: usize = 16;
/// How many comparisons a filter may make.
pub const FILTER_TESTS_MAX: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    const ALL: [(&'static str, Self); 9] = [
        ("eq", Self::Equal),
        ("ne", Self::NotEqual),
        ("co", Self::Contains),
        ("sw", Self::StartsWith),
        ("ew", Self::EndsWith),
        ("gt", Self::Greater),
        ("ge", Self::GreaterOrEqual),
        ("lt", Self::Less),
        ("le", Self::LessOrEqual),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, comparison)| comparison)
    }

    fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(_, comparison)| *comparison == self)
            .map_or("eq", |(name, _)| name)
    }

    /// Whether values that only are or are not the same can be compared so.
    fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Present(AttributePath),
    Compare(AttributePath, Comparison, Value),
    /// Some element of the list satisfies the inner filter, which is about its sub-attributes.
    Element(AttributePath, Box<Filter>),
}

impl Filter {
    /// # Errors
    /// `invalidFilter`, with the place and what was expected there.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Refusal> {
        Self::parse_within(kind, None, text)
    }

    /// A filter on the elements of `list`, as it stands in brackets.
    ///
    /// # Errors
    /// As [`Filter::parse`].
    pub fn parse_within(
        kind: Kind,
        list: Option<AttributePath>,
        text: &str,
    ) -> Result<Self, Refusal> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(Refusal::invalid_filter(&format!(
                "the filter is longer than {FILTER_BYTES_MAX} bytes"
            )));
        }
        let mut parser = Parser {
            kind,
            within: list,
            rest: text,
            depth: 0,
            tests: 0,
        };
        let filter = parser.any()?;
        if parser.rest.trim().is_empty() {
            Ok(filter)
        } else {
            Err(parser.wrong("the end of the filter"))
        }
    }

    /// Whether a resource with canonical names satisfies it.
    #[must_use]
    pub fn matches(&self, fields: &Map<String, Value>) -> bool {
        match self {
            Self::And(left, right) => left.matches(fields) && right.matches(fields),
            Self::Or(left, right) => left.matches(fields) || right.matches(fields),
            Self::Not(inner) => !inner.matches(fields),
            Self::Present(path) => path.values(fields).into_iter().any(present),
            Self::Compare(path, comparison, wanted) => {
                let values = path.values(fields);
                let compared = path.compared();
                let holds = |value: &&Value, comparison| {
                    compares(value, comparison, wanted, compared.exact, compared.of)
                };
                match comparison {
                    // "Not equal" is the opposite of "equal", also for a list or no value at all.
                    Comparison::NotEqual if wanted.is_null() => !values.is_empty(),
                    Comparison::NotEqual => !values.iter().any(|it| holds(it, Comparison::Equal)),
                    Comparison::Equal if wanted.is_null() => values.is_empty(),
                    _ => values.iter().any(|it| holds(it, *comparison)),
                }
            }
            Self::Element(path, inner) => match path.place(fields) {
                Some(Value::Array(items)) => items
                    .iter()
                    .filter_map(Value::as_object)
                    .any(|item| inner.matches(item)),
                Some(Value::Object(item)) => inner.matches(item),
                _ => false,
            },
        }
    }

    /// The parts that must all hold.
    #[must_use]
    pub fn conjuncts(self) -> Vec<Self> {
        match self {
            Self::And(left, right) => {
                let mut parts = left.conjuncts();
                parts.extend(right.conjuncts());
                parts
            }
            other => vec![other],
        }
    }

    /// Whether it looks at this attribute of the core schema.
    #[must_use]
    pub fn reads(&self, name: &str) -> bool {
        match self {
            Self::And(left, right) | Self::Or(left, right) => left.reads(name) || right.reads(name),
            Self::Not(inner) => inner.reads(name),
            Self::Present(path) | Self::Compare(path, ..) | Self::Element(path, _) => {
                path.schema.is_none() && path.attribute.name == name
            }
        }
    }
}

/// Writes a filter out. What stands in another order than the text is read in gets parentheses.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Or(left, right) => {
                write!(f, "{left} or ")?;
                enclosed(f, right, matches!(**right, Self::Or(..)))
            }
            Self::And(left, right) => {
                enclosed(f, left, matches!(**left, Self::Or(..)))?;
                f.write_str(" and ")?;
                enclosed(f, right, matches!(**right, Self::Or(..) | Self::And(..)))
            }
            Self::Not(inner) => write!(f, "not ({inner})"),
            Self::Present(path) => write!(f, "{path} pr"),
            Self::Compare(path, comparison, value) => {
                write!(f, "{path} {} {value}", comparison.name())
            }
            Self::Element(path, inner) => write!(f, "{path}[{inner}]"),
        }
    }
}

fn enclosed(f: &mut fmt::Formatter<'_>, filter: &Filter, within: bool) -> fmt::Result {
    if within {
        write!(f, "({filter})")
    } else {
        write!(f, "{filter}")
    }
}

/// A value that says something (RFC 7644, 3.4.2.2: "non-empty").
fn present(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(present),
        Value::Object(fields) => fields.values().any(present),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn compares(value: &Value, comparison: Comparison, wanted: &Value, exact: bool, of: Type) -> bool {
    match (value, wanted) {
        (Value::String(value), Value::String(wanted)) => {
            if of == Type::Time
                && let (Ok(value), Ok(wanted)) = (
                    DateTime::parse_from_rfc3339(value),
                    DateTime::parse_from_rfc3339(wanted),
                )
            {
                return in_order(value.cmp(&wanted), comparison);
            }
            let fold = |text: &str| {
                if exact {
                    text.to_owned()
                } else {
                    text.to_lowercase()
                }
            };
            let (value, wanted) = (fold(value), fold(wanted));
            match comparison {
                Comparison::Contains => value.contains(&wanted),
                Comparison::StartsWith => value.starts_with(&wanted),
                Comparison::EndsWith => value.ends_with(&wanted),
                ordered => in_order(value.cmp(&wanted), ordered),
            }
        }
        (Value::Number(value), Value::Number(wanted)) => {
            let ordering = match (value.as_i64(), wanted.as_i64()) {
                (Some(value), Some(wanted)) => Some(value.cmp(&wanted)),
                _ => match (value.as_f64(), wanted.as_f64()) {
                    (Some(value), Some(wanted)) => value.partial_cmp(&wanted),
                    _ => None,
                },
            };
            ordering.is_some_and(|ordering| in_order(ordering, comparison))
        }
        (value, wanted) => match comparison {
            Comparison::Equal => value == wanted,
            Comparison::NotEqual => value != wanted,
            _ => false,
        },
    }
}

fn in_order(ordering: Ordering, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith => false,
    }
}

struct Parser<'a> {
    kind: Kind,
    /// Inside brackets names are sub-attributes of this list.
    within: Option<AttributePath>,
    rest: &'a str,
    depth: usize,
    tests: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Filter, Refusal> {
        let mut filter = self.all()?;
        while self.word("or") {
            filter = Filter::Or(Box::new(filter), Box::new(self.all()?));
        }
        Ok(filter)
    }

    fn all(&mut self) -> Result<Filter, Refusal> {
        let mut filter = self.term()?;
        while self.word("and") {
            filter = Filter::And(Box::new(filter), Box::new(self.term()?));
        }
        Ok(filter)
    }

    fn term(&mut self) -> Result<Filter, Refusal> {
        self.depth += 1;
        if self.depth > FILTER_DEPTH_MAX {
            return Err(Refusal::invalid_filter(&format!(
                "the filter nests deeper than {FILTER_DEPTH_MAX} parentheses"
            )));
        }
        let term = if self.word("not") {
            if !self.symbol('(') {
                return Err(self.wrong("`(` after `not`"));
            }
            Filter::Not(Box::new(self.closed()?))
        } else if self.symbol('(') {
            self.closed()?
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(term)
    }

    fn closed(&mut self) -> Result<Filter, Refusal> {
        let inner = self.any()?;
        if self.symbol(')') {
            Ok(inner)
        } else {
            Err(self.wrong("`)`"))
        }
    }

    fn test(&mut self) -> Result<Filter, Refusal> {
        self.tests += 1;
        if self.tests > FILTER_TESTS_MAX {
            return Err(Refusal::invalid_filter(&format!(
                "the filter makes more than {FILTER_TESTS_MAX} comparisons"
            )));
        }
        let name =
            self.take(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '-' | '$'));
        if name.is_empty() {
            return Err(self.wrong("an attribute name"));
        }
        let path = self.path(name)?;
        if self.symbol('[') {
            if self.within.is_some() || path.sub.is_some() || path.attribute.of != Type::Complex {
                return Err(self.wrong("an operator"));
            }
            self.within = Some(path);
            let inner = self.any()?;
            self.within = None;
            return if self.symbol(']') {
                Ok(Filter::Element(path, Box::new(inner)))
            } else {
                Err(self.wrong("`]`"))
            };
        }
        let operator = self.take(|c| c.is_ascii_alphabetic());
        if operator.eq_ignore_ascii_case("pr") {
            return Ok(Filter::Present(path));
        }
        let Some(comparison) = Comparison::parse(operator) else {
            return Err(self.wrong("an operator: eq, ne, co, sw, ew, pr, gt, ge, lt, le"));
        };
        let value = self.value()?;
        compared(path, comparison, value)
    }

    fn path(&self, name: &str) -> Result<AttributePath, Refusal> {
        match self.within {
            None => {
                AttributePath::parse(self.kind, name).map_err(|why| Refusal::invalid_filter(&why))
            }
            Some(list) => {
                let sub = list.attribute.sub(name).ok_or_else(|| {
                    Refusal::invalid_filter(&format!(
                        "`{}` has no attribute `{name}`",
                        list.attribute.name
                    ))
                })?;
                // Elements are looked at as if they were resources of their own.
                Ok(AttributePath {
                    schema: None,
                    attribute: sub,
                    sub: None,
                })
            }
        }
    }

    fn value(&mut self) -> Result<Value, Refusal> {
        self.rest = self.rest.trim_start();
        let end = if self.rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            match stream.next() {
                Some(Ok(_)) => stream.byte_offset(),
                _ => return Err(self.wrong("the closing quote of a text")),
            }
        } else {
            self.rest
                .find(|c: char| c.is_whitespace() || matches!(c, ')' | ']'))
                .unwrap_or(self.rest.len())
        };
        let (text, rest) = self.rest.split_at(end);
        // Words are read in any case: widely used clients write `True`.
        let word = ["true", "false", "null"]
            .into_iter()
            .find(|word| word.eq_ignore_ascii_case(text));
        let value = match serde_json::from_str(word.unwrap_or(text)) {
            Ok(value @ (Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Null)) => {
                value
            }
            _ => {
                return Err(
                    self.wrong("a value: a text in double quotes, a number, true, false or null")
                );
            }
        };
        self.rest = rest;
        Ok(value)
    }

    fn word(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start();
        let Some((head, tail)) = rest.split_at_checked(word.len()) else {
            return false;
        };
        let ends = tail
            .chars()
            .next()
            .is_none_or(|c| c.is_whitespace() || c == '(');
        if head.eq_ignore_ascii_case(word) && ends {
            self.rest = tail;
            return true;
        }
        false
    }

    fn symbol(&mut self, symbol: char) -> bool {
        match self.rest.trim_start().strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest.trim_start();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let (taken, rest) = rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn wrong(&self, expected: &str) -> Refusal {
        let near: String = self.rest.trim_start().chars().take(20).collect();
        Refusal::invalid_filter(&format!("expected {expected} at `{near}`"))
    }
}

/// A comparison that has a meaning for this attribute.
fn compared(path: AttributePath, comparison: Comparison, value: Value) -> Result<Filter, Refusal> {
    let attribute = path.compared();
    let refused = |what: &str| {
        let name = attribute.name;
        Err(Refusal::invalid_filter(&format!("`{name}` {what}")))
    };
    match attribute.of {
        Type::Complex => {
            return refused("has parts; name the one to compare, as in `name.familyName`");
        }
        Type::Boolean | Type::Binary if !comparison.is_equality() => {
            return refused("is or is not the same; only `eq`, `ne` and `pr` compare it");
        }
        _ => {}
    }
    let value = match (attribute.of, value) {
        // Widely used clients put the word in quotes.
        (Type::Boolean, Value::String(text)) if text.eq_ignore_ascii_case("true") => true.into(),
        (Type::Boolean, Value::String(text)) if text.eq_ignore_ascii_case("false") => false.into(),
        (Type::Boolean, value) if !(value.is_boolean() || value.is_null()) => {
            return refused("is true or false");
        }
        (_, value) => value,
    };
    Ok(Filter::Compare(path, comparison, value))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn matches(filter: &str) -> bool {
        let user = json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": "Ada",
            "externalId": "E1",
            "active": true,
            "nickName": "",
            "name": { "familyName": "Łuk" },
            "emails": [{ "value": "ada@example.org", "type": "work" }, { "value": "a@home.example", "type": "home" }],
            "meta": { "created": "2026-03-01T08:00:00Z", "resourceType": "User" },
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab", "manager": { "value": "m1" } },
        });
        Filter::parse(Kind::Person, filter)
            .unwrap_or_else(|refusal| panic!("{filter}: {refusal}"))
            .matches(user.as_object().unwrap())
    }

    #[test]
    fn filters_mean_what_the_rfc_says() {
        for (filter, expected) in [
            (r#"userName eq "ada""#, true),
            (r#"externalId eq "e1""#, false),
            (r#"externalId eq "E1""#, true),
            (r#"USERNAME Eq "ADA" and active eq true"#, true),
            (r#"active eq "True" and active ne False"#, true),
            (r#"userName eq "bob" or name.familyName sw "ł""#, true),
            (r#"not (userName eq "ada")"#, false),
            (r#"NOT(userName eq "bob")AND(active pr)"#, true),
            (r#"emails co "home""#, true),
            (r#"emails[type eq "work" and value co "home"]"#, false),
            (
                r#"emails[type eq "home" and value co "home"] and (title pr or active eq true)"#,
                true,
            ),
            (
                r#"emails[not (type eq "work") or value ew "nowhere"]"#,
                true,
            ),
            (r#"emails.type eq "work""#, true),
            (r#"title pr"#, false),
            (r#"nickName pr"#, false),
            (r#"emails pr and name pr and active pr"#, true),
            (r#"title ne "x""#, true),
            (r#"title eq null"#, true),
            (r#"userName ne null"#, true),
            (
                r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "lab""#,
                true,
            ),
            (
                r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value eq "m1""#,
                true,
            ),
            (
                r#"urn:ietf:params:scim:schemas:core:2.0:User:userName ew "DA""#,
                true,
            ),
            (r#"userName gt "a" and userName lt "b""#, true),
            (r#"userName ge "ada" and userName le "ada""#, true),
            (r#"userName eq "a\"b""#, false),
            // An instant is the same in every zone.
            (r#"meta.created eq "2026-03-01T09:00:00+01:00""#, true),
            (r#"meta.created gt "2026-03-01T08:30:00+01:00""#, true),
            (
                r#"schemas eq "urn:ietf:params:scim:schemas:core:2.0:User""#,
                true,
            ),
            // `and` binds tighter than `or`.
            (
                r#"userName eq "ada" or userName eq "bob" and userName eq "eve""#,
                true,
            ),
            (
                r#"(userName eq "ada" or userName eq "bob") and userName eq "eve""#,
                false,
            ),
        ] {
            assert_eq!(matches(filter), expected, "{filter}");
        }
    }

    #[test]
    fn a_broken_filter_is_refused() {
        let deep = format!("{}userName pr{}", "(".repeat(40), ")".repeat(40));
        let long = format!("userName eq \"{}\"", "x".repeat(FILTER_BYTES_MAX));
        let wide = vec!["id pr"; FILTER_TESTS_MAX + 1].join(" or ");
        for filter in [
            "",
            " ",
            "userName",
            "userName eq",
            "userName is \"x\"",
            "nothing eq \"x\"",
            "urn:example:User:userName eq \"x\"",
            "userName eq \"x\" and",
            "userName eq \"x\" userName",
            "(userName pr",
            "userName pr)",
            "not userName pr",
            "emails[type eq \"work\"",
            "emails[type eq \"work\"]]",
            "emails[emails[type pr]]",
            "userName[value pr]",
            "userName eq x",
            "userName eq \"x",
            "userName eq 'x'",
            "userName pr extra",
            "name eq \"x\"",
            "active gt true",
            "active co \"t\"",
            "active eq 1",
            "x509Certificates.value gt \"a\"",
            deep.as_str(),
            long.as_str(),
            wide.as_str(),
            "userName eq [1]",
        ] {
            let refusal = Filter::parse(Kind::Person, filter).unwrap_err();
            assert_eq!(refusal.scim_type, Some("invalidFilter"), "{filter}");
        }
    }

    /// Names with the sub-attributes a bracket may ask for.
    const TEXTS: [&str; 6] = [
        "userName",
        "externalId",
        "name.familyName",
        "emails.type",
        "meta.lastModified",
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value",
    ];

    fn path(name: &str) -> AttributePath {
        AttributePath::parse(Kind::Person, name).unwrap()
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1.0e6..1.0e6_f64).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ]
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        prop::sample::select(Comparison::ALL.map(|(_, comparison)| comparison).to_vec())
    }

    fn test(names: Vec<AttributePath>) -> impl Strategy<Value = Filter> {
        (prop::sample::select(names), comparison(), value(), 0..4_u8).prop_map(
            |(path, comparison, value, choice)| match (path.compared().of, choice) {
                (_, 0) => Filter::Present(path),
                (Type::Boolean, choice) => {
                    let comparison = if comparison.is_equality() {
                        comparison
                    } else {
                        Comparison::Equal
                    };
                    Filter::Compare(path, comparison, Value::Bool(choice == 1))
                }
                _ => Filter::Compare(path, comparison, value),
            },
        )
    }

    fn nested(leaf: impl Strategy<Value = Filter> + 'static) -> BoxedStrategy<Filter> {
        leaf.prop_recursive(4, 24, 2, |inner| {
            let both = (inner.clone(), inner.clone());
            prop_oneof![
                both.clone()
                    .prop_map(|(left, right)| Filter::And(Box::new(left), Box::new(right))),
                both.prop_map(|(left, right)| Filter::Or(Box::new(left), Box::new(right))),
                inner.prop_map(|inner| Filter::Not(Box::new(inner))),
            ]
        })
        .boxed()
    }

    fn filter() -> BoxedStrategy<Filter> {
        let mut names: Vec<AttributePath> = TEXTS.map(path).to_vec();
        names.push(path("active"));
        let emails = path("emails");
        let inside = |name| AttributePath {
            schema: None,
            attribute: emails.attribute.sub(name).unwrap(),
            sub: None,
        };
        let element = nested(test(["value", "type", "primary"].map(inside).to_vec()))
            .prop_map(move |inner| Filter::Element(emails, Box::new(inner)));
        nested(prop_oneof![4 => test(names), 1 => element])
    }

    proptest! {
        #[test]
        fn a_filter_written_out_and_read_again_is_the_same(filter in filter()) {
            let text = filter.to_string();
            prop_assume!(text.len() <= FILTER_BYTES_MAX);
            let read = Filter::parse(Kind::Person, &text);
            prop_assert_eq!(read.map_err(|refusal| refusal.detail), Ok(filter), "{}", text);
        }

        /// Whatever comes in, it is understood or refused; what is understood can be written and read again.
        #[test]
        fn hostile_texts_are_understood_or_refused(text in prop_oneof![
            any::<String>(),
            prop::collection::vec(prop::sample::select(vec![
                "userName", "emails", "active", "meta.created", "x", "[", "]", "(", ")", " ", "and", "or", "not", "eq",
                "pr", "co", "gt", "\"", "\"a\"", "\\", "\u{0}", "1", "-1e9", "true", "null", "urn:", ":", ".", "\u{1F600}",
                "urn:ietf:params:scim:schemas:core:2.0:User:", "é", "{", "}", ",",
            ]), 0..24).prop_map(|parts| parts.concat()),
            prop::collection::vec(prop::sample::select(vec![
                "userName ", "emails[", "active ", "] ", "( ", ") ", "and ", "or ", "not ", "eq ", "pr ", "\"a\" ", "true ",
                "type ", "value ",
            ]), 0..24).prop_map(|parts| parts.concat()),
        ]) {
            if let Ok(filter) = Filter::parse(Kind::Person, &text) {
                let written = filter.to_string();
                let read = Filter::parse(Kind::Person, &written);
                prop_assert_eq!(read.map_err(|refusal| refusal.detail), Ok(filter.clone()), "{}", written);
                let _ = filter.matches(&Map::new());
            }
        }
    }
}
