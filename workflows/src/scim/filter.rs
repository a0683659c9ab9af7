//! Filters (RFC 7644, 3.4.2.2): parsed once against the schema, then asked of resources.
//!
//! ```text
//! filter = and *("or" and)     and = term *("and" term)     term = "not" "(" filter ")" / "(" filter ")" / test
//! test   = path "pr" / path op value / path "[" filter "]"
//! ```

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::path::AttributePath;
use super::refusal::Refusal;
use super::schema::Kind;

/// The longest filter that is read.
const FILTER_BYTES_MAX: usize = 8 * 1024;
/// How deep parentheses and brackets may nest.
const DEPTH_MAX: usize = 16;

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

#[derive(Debug, Clone)]
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
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Refusal> {
        Self::parse_within(kind, None, text)
    }

    /// A filter on the elements of `list`, as it stands in brackets.
    pub fn parse_within(
        kind: Kind,
        list: Option<AttributePath>,
        text: &str,
    ) -> Result<Self, Refusal> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(Refusal::invalid_filter("the filter is too long"));
        }
        let mut parser = Parser {
            kind,
            within: list,
            rest: text,
            depth: 0,
        };
        let filter = parser.any()?;
        if parser.rest.trim().is_empty() {
            Ok(filter)
        } else {
            Err(parser.wrong("the end of the filter"))
        }
    }

    pub fn matches(&self, fields: &Map<String, Value>) -> bool {
        match self {
            Self::And(left, right) => left.matches(fields) && right.matches(fields),
            Self::Or(left, right) => left.matches(fields) || right.matches(fields),
            Self::Not(inner) => !inner.matches(fields),
            Self::Present(path) => path.place(fields).is_some() && !path.values(fields).is_empty(),
            Self::Compare(path, comparison, wanted) => {
                let values = path.values(fields);
                let exact = path.compared().exact;
                let holds = |value: &&Value| compares(value, *comparison, wanted, exact);
                match comparison {
                    // "Not equal" is the opposite of "equal", also for a list or no value at all.
                    Comparison::NotEqual => !values
                        .iter()
                        .any(|it| compares(it, Comparison::Equal, wanted, exact)),
                    Comparison::Equal if wanted.is_null() => values.is_empty(),
                    _ => values.iter().any(holds),
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

fn compares(value: &Value, comparison: Comparison, wanted: &Value, exact: bool) -> bool {
    match (value, wanted) {
        (Value::String(value), Value::String(wanted)) => {
            let fold = |text: &str| {
                if exact {
                    text.to_owned()
                } else {
                    text.to_lowercase()
                }
            };
            let (value, wanted) = (fold(value), fold(wanted));
            match comparison {
                Comparison::Equal => value == wanted,
                Comparison::NotEqual => value != wanted,
                Comparison::Contains => value.contains(&wanted),
                Comparison::StartsWith => value.starts_with(&wanted),
                Comparison::EndsWith => value.ends_with(&wanted),
                ordered => in_order(value.cmp(&wanted), ordered),
            }
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
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        _ => false,
    }
}

struct Parser<'a> {
    kind: Kind,
    /// Inside brackets names are sub-attributes of this list.
    within: Option<AttributePath>,
    rest: &'a str,
    depth: usize,
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
        if self.depth > DEPTH_MAX {
            return Err(Refusal::invalid_filter("the filter nests too deep"));
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
        let name =
            self.take(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '-' | '$'));
        if name.is_empty() {
            return Err(self.wrong("an attribute name"));
        }
        let path = self.path(name)?;
        if self.symbol('[') {
            if self.within.is_some() || path.sub.is_some() {
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
        let operator = self.take(|c| c.is_ascii_alphabetic()).to_ascii_lowercase();
        let comparison = match operator.as_str() {
            "pr" => return Ok(Filter::Present(path)),
            "eq" => Comparison::Equal,
            "ne" => Comparison::NotEqual,
            "co" => Comparison::Contains,
            "sw" => Comparison::StartsWith,
            "ew" => Comparison::EndsWith,
            "gt" => Comparison::Greater,
            "ge" => Comparison::GreaterOrEqual,
            "lt" => Comparison::Less,
            "le" => Comparison::LessOrEqual,
            _ => return Err(self.wrong("an operator: eq, ne, co, sw, ew, pr, gt, ge, lt, le")),
        };
        let value = self.value()?;
        Ok(Filter::Compare(path, comparison, value))
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
        let value = match serde_json::from_str(text) {
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

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use serde_json::json;

    use super::*;

    fn matches(filter: &str) -> bool {
        let user = json!({
            "userName": "Ada",
            "externalId": "E1",
            "active": true,
            "name": { "familyName": "Łuk" },
            "emails": [{ "value": "ada@example.org", "type": "work" }, { "value": "a@home.example", "type": "home" }],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab" },
        });
        Filter::parse(Kind::User, filter)
            .unwrap()
            .matches(user.as_object().unwrap())
    }

    #[test]
    fn filters_mean_what_the_rfc_says() {
        for (filter, expected) in [
            (r#"userName eq "ada""#, true),
            (r#"externalId eq "e1""#, false),
            (r#"externalId eq "E1""#, true),
            (r#"USERNAME Eq "ADA" and active eq true"#, true),
            (r#"userName eq "bob" or name.familyName sw "ł""#, true),
            (r#"not (userName eq "ada")"#, false),
            (r#"emails co "home""#, true),
            (r#"emails[type eq "work" and value co "home"]"#, false),
            (
                r#"emails[type eq "home" and value co "home"] and (title pr or active eq true)"#,
                true,
            ),
            (r#"title pr"#, false),
            (r#"title ne "x""#, true),
            (
                r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "lab""#,
                true,
            ),
            (
                r#"urn:ietf:params:scim:schemas:core:2.0:User:userName ew "DA""#,
                true,
            ),
            (r#"userName gt "a" and userName lt "b""#, true),
            (r#"userName eq "a\"b""#, false),
        ] {
            assert_eq!(matches(filter), expected, "{filter}");
        }
    }

    #[test]
    fn a_broken_filter_is_refused() {
        let deep = format!("{}userName pr{}", "(".repeat(40), ")".repeat(40));
        for filter in [
            "",
            "userName",
            "userName eq",
            "userName is \"x\"",
            "nothing eq \"x\"",
            "userName eq \"x\" and",
            "(userName pr",
            "emails[type eq \"work\"",
            "userName eq x",
            "userName pr extra",
            deep.as_str(),
            "userName eq [1]",
        ] {
            assert!(Filter::parse(Kind::User, filter).is_err(), "{filter}");
        }
    }
}
