//! CEL expressions: compiled once, evaluated over JSON, bounded.
//!
//! An expression sees named roots (`input`, `steps`, `item`, `case`, and the *facts* the layer above offers,
//! such as `identity`). Which roots it names is known when it is compiled, so that facts are fetched only for
//! steps that ask for them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program};
use serde_json::Value;

/// The longest expression accepted, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4_096;
/// The deepest nesting of brackets accepted; the parser recurses.
const NESTING_MAX: usize = 64;

static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression. Two are equal when their source is.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
    roots: Arc<BTreeSet<String>>,
    steps: Arc<BTreeSet<String>>,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ExpressionError {
    #[error("expression `{source_text}` does not parse: {message}")]
    Parse {
        source_text: String,
        message: String,
    },
    #[error("expression of {bytes} bytes is longer than {EXPRESSION_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("expression is nested deeper than {NESTING_MAX}")]
    TooDeep,
    #[error("expression `{source_text}` failed: {message}")]
    Evaluate {
        source_text: String,
        message: String,
    },
    #[error("expression `{source_text}` gives {found}, but {wanted} is needed")]
    Type {
        source_text: String,
        found: &'static str,
        wanted: &'static str,
    },
}

impl Expression {
    /// # Errors
    /// When `source` is too long, too deep or not CEL; the message carries the parser's position.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionError::TooLong {
                bytes: source.len(),
            });
        }
        if nesting(source) > NESTING_MAX {
            return Err(ExpressionError::TooDeep);
        }
        let program = Program::compile(source).map_err(|errors| ExpressionError::Parse {
            source_text: source.to_owned(),
            message: errors
                .errors
                .iter()
                .map(|error| format!("at {}:{} {}", error.pos.0, error.pos.1, error.msg))
                .collect::<Vec<_>>()
                .join("; "),
        })?;
        let mut roots = BTreeSet::new();
        variables_read(program.expression(), &mut Vec::new(), &mut roots);
        let mut steps = BTreeSet::new();
        steps_named(program.expression(), &mut steps);
        Ok(Self {
            source: source.into(),
            program: Arc::new(program),
            roots: Arc::new(roots),
            steps: Arc::new(steps),
        })
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the variables it reads.
    #[must_use]
    pub fn roots(&self) -> &BTreeSet<String> {
        &self.roots
    }

    /// The steps it reads as `steps.<id>`.
    #[must_use]
    pub fn steps(&self) -> &BTreeSet<String> {
        &self.steps
    }

    /// Evaluates over `variables`; a root that is not among them is an error when it is read.
    ///
    /// # Errors
    /// [`ExpressionError::Evaluate`] with CEL's message.
    pub fn evaluate(&self, variables: &[(&str, &Value)]) -> Result<Value, ExpressionError> {
        let failed = |message: String| ExpressionError::Evaluate {
            source_text: self.source.to_string(),
            message,
        };
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        for (name, value) in variables {
            if self.roots.contains(*name) {
                context.add_variable_from_value(*name, to_cel(value));
            }
        }
        let value = self
            .program
            .execute(&context)
            .map_err(|error| failed(error.to_string()))?;
        to_json(value).map_err(failed)
    }

    /// Evaluates to a truth value.
    ///
    /// # Errors
    /// [`ExpressionError::Type`] when it gives anything but a boolean.
    pub fn evaluate_bool(&self, variables: &[(&str, &Value)]) -> Result<bool, ExpressionError> {
        match self.evaluate(variables)? {
            Value::Bool(value) => Ok(value),
            other => Err(self.wrong_type(&other, "true or false")),
        }
    }

    /// Evaluates to a list.
    ///
    /// # Errors
    /// [`ExpressionError::Type`] when it gives anything but a list.
    pub fn evaluate_list(
        &self,
        variables: &[(&str, &Value)],
    ) -> Result<Vec<Value>, ExpressionError> {
        match self.evaluate(variables)? {
            Value::Array(items) => Ok(items),
            other => Err(self.wrong_type(&other, "a list")),
        }
    }

    pub(crate) fn wrong_type(&self, found: &Value, wanted: &'static str) -> ExpressionError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "a map",
        };
        ExpressionError::Type {
            source_text: self.source.to_string(),
            found,
            wanted,
        }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.source)
    }
}

/// The depth of brackets outside strings, counted before the recursive parser sees them.
fn nesting(source: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for c in source.chars() {
        match c {
            '(' | '[' | '{' | '!' | '-' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            'a'..='z' | 'A'..='Z' | '0'..='9' if depth > deepest => deepest = depth,
            _ => {}
        }
    }
    deepest
}

/// Collects the variables an expression reads, without those that a loop in it brings itself.
fn variables_read<'a>(
    expression: &'a IdedExpr,
    own: &mut Vec<&'a str>,
    found: &mut BTreeSet<String>,
) {
    match &expression.expr {
        Expr::Ident(name) => {
            if !own.contains(&name.as_str()) && !name.starts_with('@') {
                found.insert(name.clone());
            }
        }
        Expr::Select(select) => variables_read(&select.operand, own, found),
        Expr::Call(call) => {
            for part in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
                variables_read(part, own, found);
            }
        }
        Expr::Comprehension(comprehension) => {
            for part in [&comprehension.iter_range, &comprehension.accu_init] {
                variables_read(part, own, found);
            }
            let before = own.len();
            own.extend([
                comprehension.iter_var.as_str(),
                comprehension.accu_var.as_str(),
            ]);
            own.extend(comprehension.iter_var2.as_deref());
            for part in [
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ] {
                variables_read(part, own, found);
            }
            own.truncate(before);
        }
        Expr::List(list) => {
            for element in &list.elements {
                variables_read(element, own, found);
            }
        }
        Expr::Map(map) => entries_read(&map.entries, own, found),
        Expr::Struct(structure) => entries_read(&structure.entries, own, found),
        Expr::Unspecified | Expr::Literal(_) => {}
    }
}

fn entries_read<'a>(
    entries: &'a [IdedEntryExpr],
    own: &mut Vec<&'a str>,
    found: &mut BTreeSet<String>,
) {
    for entry in entries {
        match &entry.expr {
            EntryExpr::MapEntry(pair) => {
                variables_read(&pair.key, own, found);
                variables_read(&pair.value, own, found);
            }
            EntryExpr::StructField(field) => variables_read(&field.value, own, found),
        }
    }
}

/// Collects the `x` of every `steps.x` and `steps["x"]`.
fn steps_named(expression: &IdedExpr, found: &mut BTreeSet<String>) {
    match &expression.expr {
        Expr::Select(select) => {
            if matches!(&select.operand.expr, Expr::Ident(name) if name == "steps") {
                found.insert(select.field.clone());
            }
            steps_named(&select.operand, found);
        }
        Expr::Call(call) => {
            if let Some(target) = &call.target {
                steps_named(target, found);
            }
            for argument in &call.args {
                steps_named(argument, found);
            }
        }
        Expr::Comprehension(comprehension) => {
            for part in [
                &comprehension.iter_range,
                &comprehension.accu_init,
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ] {
                steps_named(part, found);
            }
        }
        Expr::List(list) => list
            .elements
            .iter()
            .for_each(|element| steps_named(element, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(pair) => {
                steps_named(&pair.key, found);
                steps_named(&pair.value, found);
            }
            EntryExpr::StructField(field) => steps_named(&field.value, found),
        }),
        Expr::Struct(structure) => structure
            .entries
            .iter()
            .for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(pair) => steps_named(&pair.value, found),
                EntryExpr::StructField(field) => steps_named(&field.value, found),
            }),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

/// JSON as CEL sees it: whole numbers are `int`, so that they compare with literals.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => number
            .as_i64()
            .map(cel::Value::Int)
            .or_else(|| number.as_u64().map(cel::Value::UInt))
            .unwrap_or_else(|| cel::Value::Float(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => cel::Value::Map(Map {
            map: Arc::new(
                fields
                    .iter()
                    .map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)))
                    .collect(),
            ),
        }),
    }
}

fn to_json(value: cel::Value) -> Result<Value, String> {
    match value {
        cel::Value::Timestamp(at) => Ok(Value::String(at.to_rfc3339())),
        other => other.json().map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(source: &str, expected: &Value) {
        let steps = json!({"impact": {"blocking": [1, 2]}});
        let identity = json!({"department": "R&D", "accounts": [{"system": "ldap"}], "age": 3});
        let value = Expression::compile(source)
            .unwrap()
            .evaluate(&[("steps", &steps), ("identity", &identity)])
            .unwrap();
        assert_eq!(&value, expected, "{source}");
    }

    #[test]
    fn expressions_read_the_roots_they_name() {
        check("steps.impact.blocking.size() > 1", &json!(true));
        check("identity.accounts.map(a, a.system)", &json!(["ldap"]));
        check(
            "identity.department == 'R&D' && identity.age < 5",
            &json!(true),
        );
        check(
            "has(identity.team) ? identity.team : 'none'",
            &json!("none"),
        );
        check(
            "{'a': [1, 2.5, true, null]}",
            &json!({"a": [1, 2.5, true, null]}),
        );
    }

    #[test]
    fn roots_and_steps_are_known_before_evaluation() {
        let expression =
            Expression::compile("steps.a.x == identity.y || [1].exists(i, i == steps.b.z)")
                .unwrap();
        assert_eq!(expression.steps().iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            expression.roots().iter().collect::<Vec<_>>(),
            ["identity", "steps"],
            "what a loop brings itself is no root"
        );
    }

    #[test]
    fn hostile_expressions_are_errors_not_crashes() {
        for source in [
            "",
            "1 +",
            "((((",
            "a.b.",
            "\u{0}",
            "'",
            "1/",
            "]",
            "{",
            "𝕏 ==",
            "a ? b",
            "\"\\u{110000}\"",
        ] {
            assert!(Expression::compile(source).is_err(), "{source:?}");
        }
        assert_eq!(
            Expression::compile(&"(".repeat(4_000)),
            Err(ExpressionError::TooDeep)
        );
        assert_eq!(
            Expression::compile(&"!".repeat(4_000)),
            Err(ExpressionError::TooDeep)
        );
        assert!(matches!(
            Expression::compile(&"a".repeat(5_000)),
            Err(ExpressionError::TooLong { .. })
        ));
    }

    #[test]
    fn a_failing_evaluation_says_which_expression() {
        let identity = json!({});
        let error = Expression::compile("identity.team == 'x'")
            .unwrap()
            .evaluate(&[("identity", &identity)]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "expression `identity.team == 'x'` failed: No such key: team"
        );
        let error = Expression::compile("1 + 1")
            .unwrap()
            .evaluate_bool(&[])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "expression `1 + 1` gives a number, but true or false is needed"
        );
    }
}
