//! CEL expressions: rules over attributes, bounded and compiled once.
//!
//! A policy is written by people who are trusted with it, but a slip must not stop a server: the length,
//! the nesting and the number of operators are bounded *before* the parser sees the text, because the
//! parser and the interpreter recurse, and a stack that runs out cannot be caught. Loops can come only from
//! the macros (`exists`, `map`, ...) and may be nested [`LOOPS_NESTED_MAX`] deep.
//!
//! What the language offers beside the standard: [`functions`].

pub mod check;
pub mod functions;
mod scan;

use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, ExecutionError, Program, Value};

pub use self::scan::{Split, split_top};

/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 8 * 1024;
/// How deep brackets may be nested.
pub const BRACKETS_NESTED_MAX: usize = 24;
/// How many arithmetic operators, member accesses, conditionals and brackets an expression may have. `&&`
/// and `||` are not counted: the parser balances them.
pub const OPERATORS_MAX: usize = 400;
/// How deep loops may be nested.
pub const LOOPS_NESTED_MAX: usize = 2;

/// Where in the text of an expression: line and column, both from one, in characters.
pub type Place = (u64, u64);

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    pub place: Option<Place>,
    pub message: String,
    pub fix: String,
}

/// Why an expression has no value for these facts. Carries types and names, never values: it ends up in
/// logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationFailure(pub String);

/// What stands behind the name of an attribute that is not there.
const NOT_SET: &str = "` is not set; guard it with `has(...)`";

/// The attribute that an expression asks for and a person has not, as a message about it says.
#[must_use]
pub fn missing_attribute(message: &str) -> Option<&str> {
    let (name, _) = message.strip_prefix('`')?.split_once(NOT_SET)?;
    (!name.contains('`')).then_some(name)
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    text: String,
    program: Program,
}

/// The standard environment with our functions; made once, shared by all.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    functions::register(&mut env);
    Arc::new(env)
});

impl Expression {
    /// Compiles `text`.
    ///
    /// # Errors
    /// When it breaks a bound or is not CEL.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        scan::check_bounds(text)?;
        let program = ENVIRONMENT
            .compile(text)
            .map_err(|errors| first_error(&errors))?;
        let loops = loop_depth(program.expression());
        if loops > LOOPS_NESTED_MAX {
            return Err(CompileError {
                place: None,
                message: format!(
                    "loops are nested {loops} deep, more than the {LOOPS_NESTED_MAX} allowed"
                ),
                fix: "use `in` or a separate role instead of a loop in a loop".to_owned(),
            });
        }
        Ok(Self {
            text: text.trim().to_owned(),
            program,
        })
    }

    /// The text as written, without the blanks around it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates to any value.
    ///
    /// # Errors
    /// When an attribute is missing, types do not fit, or a function refuses its argument.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, EvaluationFailure> {
        self.program.execute(&scope.context).map_err(describe)
    }

    /// Evaluates to a truth value.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], and when the value is not a truth value.
    pub fn holds(&self, scope: &Scope) -> Result<bool, EvaluationFailure> {
        match self.evaluate(scope)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(EvaluationFailure(format!(
                "the rule gives {} where true or false is needed",
                type_name(&other)
            ))),
        }
    }

    /// Evaluates to JSON.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], and when the value has no JSON form.
    pub fn json(&self, scope: &Scope) -> Result<serde_json::Value, EvaluationFailure> {
        let value = self.evaluate(scope)?;
        value.json().map_err(|_| {
            EvaluationFailure(format!("{} cannot be stored as a value", type_name(&value)))
        })
    }

    fn program(&self) -> &Program {
        &self.program
    }
}

/// The variables an expression sees.
pub struct Scope {
    context: Context<'static, 'static>,
}

impl Scope {
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: Context::with_env(Arc::clone(&ENVIRONMENT)),
        }
    }

    /// Binds `name` to an object with these members.
    pub fn bind_record<'a>(
        &mut self,
        name: &str,
        members: impl IntoIterator<Item = (&'a str, &'a serde_json::Value)>,
    ) {
        let map: std::collections::HashMap<String, Value> = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), to_cel(value)))
            .collect();
        self.context.add_variable_from_value(name, Value::from(map));
    }

    /// Binds `name` to a whole number.
    pub fn bind_integer(&mut self, name: &str, value: i64) {
        self.context.add_variable_from_value(name, value);
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

/// Whole numbers become CEL `int` when they fit, so that `identity.level == 3` and arithmetic just work.
fn to_cel(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::Int(integer),
            (None, Some(integer)) => Value::UInt(integer),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(items) => {
            Value::List(Arc::new(items.iter().map(to_cel).collect()))
        }
        serde_json::Value::Object(members) => Value::from(
            members
                .iter()
                .map(|(name, value)| (name.clone(), to_cel(value)))
                .collect::<std::collections::HashMap<String, Value>>(),
        ),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "true or false",
        Value::Null => "null",
        _ => "another kind of value",
    }
}

/// Says what went wrong without the values, which are personal data.
fn describe(error: ExecutionError) -> EvaluationFailure {
    let text = match error {
        ExecutionError::NoSuchKey(name) => {
            format!("`{name}{NOT_SET}")
        }
        ExecutionError::NoSuchOverload(overload) => format!(
            "`{}` cannot be applied to ({})",
            overload.function().trim_matches('_'),
            overload.argument_types().join(", ")
        ),
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::UnexpectedType { got, want } => format!("expected {want}, found {got}"),
        ExecutionError::FunctionError { function, message }
            if functions::OWN.iter().any(|(own, _)| *own == function) =>
        {
            format!("`{function}`: {message}")
        }
        // What the standard functions say quotes the value.
        ExecutionError::FunctionError { function, .. } => {
            format!("`{function}` does not take this argument")
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "division by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number becomes too large".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "the list has no such place".to_owned(),
        ExecutionError::ValuesNotComparable(left, right) => format!(
            "{} and {} cannot be compared",
            type_name(&left),
            type_name(&right)
        ),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => format!(
            "`{operator}` cannot be applied to {} and {}",
            type_name(&left),
            type_name(&right)
        ),
        _ => "the expression cannot be evaluated on these values".to_owned(),
    };
    EvaluationFailure(text)
}

/// The parser reports in order of place; later errors mostly follow from the first.
fn first_error(errors: &cel::ParseErrors) -> CompileError {
    let Some(error) = errors.errors.first() else {
        return CompileError {
            place: None,
            message: "not a CEL expression".to_owned(),
            fix: "write a CEL expression".to_owned(),
        };
    };
    let place = match (u64::try_from(error.pos.0), u64::try_from(error.pos.1)) {
        (Ok(line), Ok(column)) if line > 0 => Some((line, column.max(1))),
        _ => None,
    };
    let text = error.msg.trim();
    let text = text.strip_prefix("Syntax error: ").unwrap_or(text);
    let lowered = text.to_lowercase();
    // The list of everything the grammar would have taken here helps nobody.
    let short = match text.find(" expecting {") {
        Some(end) => text.get(..end).unwrap_or(text),
        None => text,
    };
    let (message, fix) = if let Some(rest) = text.strip_prefix("token recognition error at: ") {
        if rest.trim_matches('\'').starts_with('=') {
            (
                "a single `=` means nothing".to_owned(),
                "compare with `==`".to_owned(),
            )
        } else if rest.trim_start_matches('\'').starts_with('"') || rest.starts_with("''") {
            (
                "a text is not closed".to_owned(),
                "put the closing quote".to_owned(),
            )
        } else {
            (
                format!("{} means nothing here", quote(rest)),
                "put texts in quotes; use `&&`, `||`, `!`, `==`, `in`".to_owned(),
            )
        }
    } else if short.contains("'<EOF>'") || lowered.contains("incomplete") {
        (
            "the expression ends too early".to_owned(),
            "finish the last part and close every bracket".to_owned(),
        )
    } else if let Some(word) = ["and", "or", "not"]
        .into_iter()
        .find(|word| short.contains(&format!("'{word}'")))
    {
        (
            format!("`{word}` is not an operator"),
            "write `&&`, `||` or `!`".to_owned(),
        )
    } else {
        (
            short.replace('\'', "`"),
            "see https://cel.dev for the language".to_owned(),
        )
    };
    CompileError {
        place,
        message,
        fix,
    }
}

fn quote(text: &str) -> String {
    format!("`{}`", text.trim_matches('\''))
}

fn loop_depth(expression: &IdedExpr) -> usize {
    let inner = children(expression).into_iter().map(loop_depth).max();
    inner.unwrap_or(0) + usize::from(matches!(expression.expr, Expr::Comprehension(_)))
}

/// The direct parts of an expression.
fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call
            .target
            .iter()
            .map(AsRef::as_ref)
            .chain(&call.args)
            .collect(),
        Expr::Comprehension(comprehension) => vec![
            &comprehension.iter_range,
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(message) => entries(&message.entries),
    }
}

fn entries(entries: &[cel::common::ast::IdedEntryExpr]) -> Vec<&IdedExpr> {
    entries
        .iter()
        .flat_map(|entry| match &entry.expr {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })
        .collect()
}

#[cfg(test)]
mod tests;
