//! Looking at a compiled expression before it meets a person: unknown names, types that cannot fit, and
//! attributes that may be missing and are not asked for with `has(..)`.
//!
//! The interpreter is dynamically typed, so a slip would show only when the first person it concerns is
//! evaluated, perhaps on the day somebody leaves. This pass infers as much as the declarations tell; what
//! it cannot know it lets pass, and the interpreter judges.

use std::collections::{BTreeMap, BTreeSet};

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr};

use super::{Expression, Place, children, functions, scan};
use crate::policy::problem::suggest;
use crate::policy::schema::{AttributeDeclarations, AttributeKind};

/// What a variable is.
#[derive(Debug, Clone, Copy)]
pub enum Variable<'a> {
    /// An object with declared members, such as `identity`.
    Record(&'a AttributeDeclarations),
    /// An object whose members are texts and are known only later, such as `row`.
    Open,
    Integer,
}

/// The kind of a value, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Any,
    Boolean,
    Number,
    Text,
    List,
    Map,
    Null,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Boolean => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Null => "null",
        }
    }
    fn fits(self, other: Self) -> bool {
        self == Self::Any || other == Self::Any || self == other
    }
}

impl From<AttributeKind> for Kind {
    fn from(kind: AttributeKind) -> Self {
        match kind {
            AttributeKind::Text | AttributeKind::Date => Self::Text,
            AttributeKind::Integer => Self::Number,
            AttributeKind::Boolean => Self::Boolean,
            AttributeKind::List => Self::List,
        }
    }
}

/// One thing to say about an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: Option<Place>,
    pub message: String,
    pub fix: String,
}

/// What the check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The expression must not be used.
    pub errors: Vec<Finding>,
    /// It will fail for some people.
    pub warnings: Vec<Finding>,
    /// Which members of which variables it reads.
    pub reads: BTreeSet<(String, String)>,
}

/// Checks `expression` against the variables it will see. `wanted` is the kind its value must have.
#[must_use]
pub fn check(
    expression: &Expression,
    variables: &BTreeMap<&str, Variable<'_>>,
    wanted: Kind,
) -> Report {
    let mut checker = Checker {
        expression,
        variables,
        loops: Vec::new(),
        report: Report::default(),
    };
    let root = expression.program().expression();
    let kind = checker.infer(root, &BTreeSet::new());
    if checker.report.errors.is_empty() && !kind.fits(wanted) {
        checker.error(
            None,
            format!(
                "the expression gives {}, not {}",
                kind.name(),
                wanted.name()
            ),
            match wanted {
                Kind::Boolean => "compare it with something, as in `identity.x == \"y\"`",
                _ => "write an expression of the wanted kind",
            },
        );
    }
    checker.report
}

/// Attributes that are known to be there, as (variable, member).
type Present<'e> = BTreeSet<(&'e str, &'e str)>;

struct Checker<'a> {
    expression: &'a Expression,
    variables: &'a BTreeMap<&'a str, Variable<'a>>,
    /// Names that loops bind, innermost last.
    loops: Vec<(&'a str, Kind)>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn infer(&mut self, node: &'a IdedExpr, present: &Present<'a>) -> Kind {
        match &node.expr {
            Expr::Unspecified => Kind::Any,
            Expr::Literal(literal) => literal_kind(literal),
            Expr::Ident(name) => self.identifier(node, name),
            Expr::Select(select) => self.select(node, select, present),
            Expr::Call(call) => self.call(node, call, present),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, present),
            Expr::List(_) => {
                self.visit_children(node, present);
                Kind::List
            }
            Expr::Map(_) => {
                self.visit_children(node, present);
                Kind::Map
            }
            Expr::Struct(message) => {
                self.error(
                    self.place(node),
                    format!(
                        "`{}{{..}}` makes a message, and there are none",
                        message.type_name
                    ),
                    "write a map with quoted keys, or remove it",
                );
                Kind::Any
            }
        }
    }

    fn visit_children(&mut self, node: &'a IdedExpr, present: &Present<'a>) {
        for child in children(node) {
            self.infer(child, present);
        }
    }

    fn identifier(&mut self, node: &IdedExpr, name: &str) -> Kind {
        if let Some((_, kind)) = self.loops.iter().rev().find(|(bound, _)| *bound == name) {
            return *kind;
        }
        match self.variables.get(name) {
            Some(Variable::Record(_) | Variable::Open) => Kind::Map,
            Some(Variable::Integer) => Kind::Number,
            None if TYPES.contains(&name) => Kind::Any,
            None => {
                self.error(
                    self.place(node),
                    format!("`{name}` is not known"),
                    self.instead(name),
                );
                Kind::Any
            }
        }
    }

    /// What to write instead of an unknown name: most often the variable was forgotten.
    fn instead(&self, name: &str) -> String {
        for (variable, kind) in self.variables {
            if let Variable::Record(members) = kind
                && members.contains_key(name)
            {
                return format!("write `{variable}.{name}`");
            }
        }
        let known: Vec<&str> = self.variables.keys().copied().collect();
        format!(
            "{}; texts are written in quotes",
            suggest(name, "variables", known)
        )
    }

    fn select(&mut self, node: &IdedExpr, select: &'a SelectExpr, present: &Present<'a>) -> Kind {
        let Some(variable) = self.variable(&select.operand) else {
            self.infer(&select.operand, present);
            return if select.test {
                Kind::Boolean
            } else {
                Kind::Any
            };
        };
        let kind = self.member(node, variable, &select.field, select.test, present);
        if select.test { Kind::Boolean } else { kind }
    }

    /// The name of the variable that `node` is, unless a loop hides it.
    fn variable(&self, node: &'a IdedExpr) -> Option<&'a str> {
        match &node.expr {
            Expr::Ident(name)
                if self.variables.contains_key(name.as_str())
                    && !self.loops.iter().any(|(bound, _)| bound == name) =>
            {
                Some(name)
            }
            _ => None,
        }
    }

    fn member(
        &mut self,
        node: &IdedExpr,
        variable: &'a str,
        member: &'a str,
        tested: bool,
        present: &Present<'a>,
    ) -> Kind {
        self.report
            .reads
            .insert((variable.to_owned(), member.to_owned()));
        match self.variables.get(variable) {
            Some(Variable::Record(members)) => {
                let Some(declaration) = members.get(member) else {
                    let fix = suggest(member, "attributes", members.keys().map(String::as_str));
                    self.error(
                        self.place(node),
                        format!("`{variable}` has no attribute `{member}`"),
                        fix,
                    );
                    return Kind::Any;
                };
                if !declaration.required && !tested && !present.contains(&(variable, member)) {
                    self.report.warnings.push(Finding {
                        place: self.place(node),
                        message: format!(
                            "`{variable}.{member}` may be missing; the rule then fails for that person"
                        ),
                        fix: format!("write `has({variable}.{member}) && ...`"),
                    });
                }
                declaration.kind.into()
            }
            Some(Variable::Open) | None => Kind::Any,
            Some(Variable::Integer) => {
                self.error(
                    self.place(node),
                    format!("`{variable}` is a number and has no `{member}`"),
                    "use the number itself",
                );
                Kind::Any
            }
        }
    }

    fn call(&mut self, node: &IdedExpr, call: &'a CallExpr, present: &Present<'a>) -> Kind {
        if call.target.is_none()
            && let [left, right] = call.args.as_slice()
        {
            match call.func_name.as_str() {
                "_&&_" | "_||_" => return self.logic(call, left, right, present),
                "_[_]" => return self.index(node, left, right, present),
                name if name.starts_with('_') || name == "@in" => {
                    return self.binary(node, name, left, right, present);
                }
                _ => {}
            }
        }
        if call.func_name == "_?_:_"
            && let [condition, yes, no] = call.args.as_slice()
        {
            let kind = self.infer(condition, present);
            self.want(condition, kind, Kind::Boolean, "the condition before `?`");
            let yes_kind = self.infer(yes, &joined(present, asserted(condition)));
            let no_kind = self.infer(no, &joined(present, denied(condition)));
            return if yes_kind == no_kind {
                yes_kind
            } else {
                Kind::Any
            };
        }
        if let Some(target) = &call.target {
            self.infer(target, present);
        }
        let kinds: Vec<Kind> = call
            .args
            .iter()
            .map(|argument| self.infer(argument, present))
            .collect();
        match call.func_name.as_str() {
            "!_" => {
                if let (Some(argument), Some(kind)) = (call.args.first(), kinds.first()) {
                    self.want(argument, *kind, Kind::Boolean, "what `!` denies");
                }
                Kind::Boolean
            }
            "-_" => Kind::Number,
            "@not_strictly_false" => Kind::Boolean,
            name => self.function(node, name, call),
        }
    }

    fn function(&mut self, node: &IdedExpr, name: &str, call: &CallExpr) -> Kind {
        let member = call.target.is_some();
        let arguments = call.args.len();
        let own = functions::OWN.iter().find(|(own, _)| *own == name);
        if let Some((_, count)) = own {
            if member || arguments != *count {
                self.error(
                    self.place(node),
                    format!("`{name}` is called wrongly"),
                    format!("call it as `{name}(..)` with {count} argument(s)"),
                );
            }
            return if name == "words" {
                Kind::List
            } else {
                Kind::Text
            };
        }
        let Some((_, kind)) = STANDARD.iter().find(|(known, _)| *known == name) else {
            let names = functions::OWN
                .iter()
                .map(|(name, _)| *name)
                .chain(STANDARD.iter().map(|(name, _)| *name))
                .chain(MACROS);
            let fix = suggest(name, "functions", names);
            self.error(
                self.place(node),
                format!("there is no function `{name}`"),
                fix,
            );
            return Kind::Any;
        };
        *kind
    }

    /// `&&` and `||`. CEL takes them in any order: what one side asks, the other may rely on.
    fn logic(
        &mut self,
        call: &'a CallExpr,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
        present: &Present<'a>,
    ) -> Kind {
        let (operator, of): (_, fn(&'a IdedExpr) -> Present<'a>) = if call.func_name == "_&&_" {
            ("&&", asserted)
        } else {
            ("||", denied)
        };
        for (side, other) in [(left, right), (right, left)] {
            let kind = self.infer(side, &joined(present, of(other)));
            self.want(
                side,
                kind,
                Kind::Boolean,
                &format!("each side of `{operator}`"),
            );
        }
        Kind::Boolean
    }

    fn index(
        &mut self,
        node: &IdedExpr,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
        present: &Present<'a>,
    ) -> Kind {
        self.infer(right, present);
        if let (Some(variable), Expr::Literal(LiteralValue::String(member))) =
            (self.variable(left), &right.expr)
        {
            return self.member(node, variable, member.inner(), false, present);
        }
        self.infer(left, present);
        Kind::Any
    }

    fn binary(
        &mut self,
        node: &IdedExpr,
        operator: &str,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
        present: &Present<'a>,
    ) -> Kind {
        let kinds = (self.infer(left, present), self.infer(right, present));
        let sign = operator.trim_matches(['_', '@']);
        match sign {
            "in" => {
                if !kinds.1.fits(Kind::List) && !kinds.1.fits(Kind::Map) {
                    self.error(
                        self.place(node),
                        format!("the right side of `in` is {}, not a list", kinds.1.name()),
                        "write a list: `x in [\"a\", \"b\"]`",
                    );
                }
                Kind::Boolean
            }
            "==" | "!=" | "<" | "<=" | ">" | ">=" => {
                let null = kinds.0 == Kind::Null || kinds.1 == Kind::Null;
                if !kinds.0.fits(kinds.1) && !null {
                    self.error(
                        self.place(node),
                        format!(
                            "`{sign}` compares {} with {}, which are never equal",
                            kinds.0.name(),
                            kinds.1.name()
                        ),
                        if kinds.0 == Kind::List || kinds.1 == Kind::List {
                            "ask with `in`: `\"a\" in identity.list`"
                        } else {
                            "compare values of one kind"
                        },
                    );
                }
                Kind::Boolean
            }
            "+" if kinds.0 != Kind::Any => kinds.0,
            "+" => kinds.1,
            _ => Kind::Number,
        }
    }

    fn comprehension(&mut self, node: &'a ComprehensionExpr, present: &Present<'a>) -> Kind {
        self.infer(&node.iter_range, present);
        let result = self.infer(&node.accu_init, present);
        self.loops.push((&node.accu_var, result));
        self.loops.push((&node.iter_var, Kind::Any));
        self.infer(&node.loop_cond, present);
        self.infer(&node.loop_step, present);
        let kind = self.infer(&node.result, present);
        self.loops.truncate(self.loops.len().saturating_sub(2));
        kind
    }

    fn want(&mut self, node: &IdedExpr, kind: Kind, wanted: Kind, what: &str) {
        if !kind.fits(wanted) {
            self.error(
                self.place(node),
                format!("{what} must be {}, not {}", wanted.name(), kind.name()),
                "compare it with something, as in `identity.x == \"y\"`",
            );
        }
    }

    fn error(&mut self, place: Option<Place>, message: String, fix: impl Into<String>) {
        self.report.errors.push(Finding {
            place,
            message,
            fix: fix.into(),
        });
    }

    /// The parser counts in characters.
    fn place(&self, node: &IdedExpr) -> Option<Place> {
        let info = self.expression.program().source_info();
        let (start, _) = info.offset_for(node.id)?;
        let characters = usize::try_from(start).ok()?;
        let offset = info
            .source
            .char_indices()
            .nth(characters)
            .map(|(offset, _)| offset)?;
        Some(scan::place(&info.source, offset))
    }
}

/// What is certainly there when `node` is true.
fn asserted(node: &IdedExpr) -> Present<'_> {
    match &node.expr {
        Expr::Select(select) if select.test => tested(select),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            ("_&&_", [left, right]) => joined(&asserted(left), asserted(right)),
            ("_||_", [left, right]) => common(&asserted(left), &asserted(right)),
            ("!_", [inner]) => denied(inner),
            _ => Present::new(),
        },
        _ => Present::new(),
    }
}

/// What is certainly there when `node` is false.
fn denied(node: &IdedExpr) -> Present<'_> {
    match &node.expr {
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            ("_||_", [left, right]) => joined(&denied(left), denied(right)),
            ("_&&_", [left, right]) => common(&denied(left), &denied(right)),
            ("!_", [inner]) => asserted(inner),
            _ => Present::new(),
        },
        _ => Present::new(),
    }
}

fn tested(select: &SelectExpr) -> Present<'_> {
    match &select.operand.expr {
        Expr::Ident(variable) => Present::from([(variable.as_str(), select.field.as_str())]),
        _ => Present::new(),
    }
}

fn joined<'e>(known: &Present<'e>, more: Present<'e>) -> Present<'e> {
    let mut all = more;
    all.extend(known);
    all
}

fn common<'e>(left: &Present<'e>, right: &Present<'e>) -> Present<'e> {
    left.intersection(right).copied().collect()
}

fn literal_kind(literal: &LiteralValue) -> Kind {
    match literal {
        LiteralValue::Boolean(_) => Kind::Boolean,
        LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
        LiteralValue::String(_) => Kind::Text,
        LiteralValue::Null => Kind::Null,
        LiteralValue::Bytes(_) => Kind::Any,
    }
}

/// Names of types, for `type(x) == string`.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// Macros disappear at parsing; these are here for "did you mean".
const MACROS: [&str; 6] = ["has", "all", "exists", "exists_one", "map", "filter"];

/// The functions of the CEL standard, with what they give.
const STANDARD: [(&str, Kind); 27] = [
    ("bool", Kind::Boolean),
    ("bytes", Kind::Any),
    ("contains", Kind::Boolean),
    ("double", Kind::Number),
    ("duration", Kind::Any),
    ("dyn", Kind::Any),
    ("endsWith", Kind::Boolean),
    ("getDate", Kind::Number),
    ("getDayOfMonth", Kind::Number),
    ("getDayOfWeek", Kind::Number),
    ("getDayOfYear", Kind::Number),
    ("getFullYear", Kind::Number),
    ("getHours", Kind::Number),
    ("getMilliseconds", Kind::Number),
    ("getMinutes", Kind::Number),
    ("getMonth", Kind::Number),
    ("getSeconds", Kind::Number),
    ("int", Kind::Number),
    ("matches", Kind::Boolean),
    ("max", Kind::Any),
    ("min", Kind::Any),
    ("size", Kind::Number),
    ("startsWith", Kind::Boolean),
    ("string", Kind::Text),
    ("timestamp", Kind::Any),
    ("type", Kind::Any),
    ("uint", Kind::Number),
];

#[cfg(test)]
mod tests;
