//! How an account is named and filled on one system.
//!
//! A name may be taken, by somebody else or by an account that nobody knows of. So a template gives names
//! one after the other, with `n` = 0, 1, 2, ..., and whoever creates the account takes the first that is
//! free.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compile::{Origin, compile};
use super::document::AccountTemplate;
use super::evaluate::IdentityFacts;
use super::expression::check::{Kind, Variable};
use super::expression::{Expression, Scope};
use super::problem::{Problem, Problems};
use super::schema::Schema;

/// How many names are tried before a person has to choose one.
pub const CANDIDATES_MAX: i64 = 50;
/// The longest account name, in bytes.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 256;

/// A checked template.
#[derive(Debug)]
pub struct CompiledTemplate {
    system: String,
    name: Expression,
    attributes: BTreeMap<String, Expression>,
    enabled: bool,
    file: String,
    line: u64,
}

/// A template has no answer for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} of accounts on `{system}` at `{file}`:{line} cannot be made for `{person}`: {message}; \
     the expression is `{expression}`"
)]
pub struct TemplateError {
    /// `name` or ``attribute `x` ``.
    pub what: String,
    pub system: String,
    pub file: String,
    pub line: u64,
    pub person: String,
    pub message: String,
    pub expression: String,
}

impl CompiledTemplate {
    /// Compiles and checks `template`, which was read from `file`. Gives the warnings beside it.
    ///
    /// # Errors
    /// Every expression that is wrong.
    pub fn compile(
        file: &str,
        system: &str,
        template: &AccountTemplate,
        schema: &Schema,
    ) -> Result<(Self, Vec<Problem>), Problems> {
        let mut problems = Problems::default();
        let mut warnings = Vec::new();
        let identity = ("identity", Variable::Record(&schema.attributes));
        let with_n = BTreeMap::from([identity, ("n", Variable::Integer)]);
        let what = format!("the name of accounts on `{system}`");
        let name = compile(
            Origin { file, what: &what },
            &template.name,
            &with_n,
            Kind::Text,
            &mut problems,
            &mut warnings,
        );
        let without_n = BTreeMap::from([identity]);
        let mut attributes = BTreeMap::new();
        for (attribute, text) in &template.attributes {
            let what = format!("attribute `{attribute}` of accounts on `{system}`");
            let compiled = compile(
                Origin { file, what: &what },
                text,
                &without_n,
                Kind::Any,
                &mut problems,
                &mut warnings,
            );
            if let Some((expression, _)) = compiled {
                attributes.insert(attribute.clone(), expression);
            }
        }
        match name {
            Some((name, _)) if problems.is_empty() => Ok((
                Self {
                    system: system.to_owned(),
                    name,
                    attributes,
                    enabled: template.enabled,
                    file: file.to_owned(),
                    line: template.name.defined.line(),
                },
                warnings,
            )),
            _ => Err(problems),
        }
    }

    /// Whether a new account can log in at once.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The names to try, in order, at most [`CANDIDATES_MAX`]. Ends early when a name comes again, so that a
    /// template that does not use `n` gives one name.
    pub fn candidates<'a>(
        &'a self,
        facts: &'a IdentityFacts,
    ) -> impl Iterator<Item = Result<String, Box<TemplateError>>> + 'a {
        let mut scope = facts.scope();
        let mut seen = BTreeSet::new();
        let mut failed = false;
        (0..CANDIDATES_MAX).map_while(move |n| {
            if failed {
                return None;
            }
            scope.bind_integer("n", n);
            match self.name(facts, &scope) {
                Ok(name) => seen.insert(name.clone()).then_some(Ok(name)),
                Err(error) => {
                    failed = true;
                    Some(Err(error))
                }
            }
        })
    }

    /// The attributes of the account.
    ///
    /// # Errors
    /// When an expression has no value, or one that no system stores.
    pub fn attributes(
        &self,
        facts: &IdentityFacts,
    ) -> Result<BTreeMap<String, Value>, Box<TemplateError>> {
        let scope = facts.scope();
        let mut attributes = BTreeMap::new();
        for (name, expression) in &self.attributes {
            let error =
                |message| self.error(format!("attribute `{name}`"), expression, facts, message);
            let value = expression
                .json(&scope)
                .map_err(|failure| error(failure.0))?;
            match value {
                Value::Null => {}
                Value::Object(_) => return Err(error("the value is a map".to_owned())),
                value => {
                    attributes.insert(name.clone(), value);
                }
            }
        }
        Ok(attributes)
    }

    fn name(&self, facts: &IdentityFacts, scope: &Scope) -> Result<String, Box<TemplateError>> {
        let error = |message| self.error("name".to_owned(), &self.name, facts, message);
        let value = self.name.json(scope).map_err(|failure| error(failure.0))?;
        let Value::String(name) = value else {
            return Err(error("the value is not a text".to_owned()));
        };
        if name.trim().is_empty() {
            return Err(error("the name is empty".to_owned()));
        }
        if name.len() > ACCOUNT_NAME_BYTES_MAX {
            return Err(error(format!(
                "the name is longer than {ACCOUNT_NAME_BYTES_MAX} bytes"
            )));
        }
        if name.chars().any(char::is_control) {
            return Err(error("the name holds a control character".to_owned()));
        }
        Ok(name)
    }

    fn error(
        &self,
        what: String,
        expression: &Expression,
        facts: &IdentityFacts,
        message: String,
    ) -> Box<TemplateError> {
        Box::new(TemplateError {
            what,
            system: self.system.clone(),
            file: self.file.clone(),
            line: self.line,
            person: facts.key.clone(),
            message,
            expression: expression.text().to_owned(),
        })
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
    use crate::policy::schema::{AttributeDeclaration, AttributeKind};
    use crate::policy::yaml;

    fn schema() -> Schema {
        Schema::new(["ldap"]).with_source(&BTreeMap::from([
            (
                "name".to_owned(),
                AttributeDeclaration::required(AttributeKind::Text),
            ),
            (
                "title".to_owned(),
                AttributeDeclaration::optional(AttributeKind::Text),
            ),
        ]))
    }

    fn compiled(text: &str) -> Result<(CompiledTemplate, Vec<Problem>), Problems> {
        let template: AccountTemplate = yaml::parse("t.yaml", text)?;
        CompiledTemplate::compile("t.yaml", "ldap", &template, &schema())
    }

    fn facts(name: &str) -> IdentityFacts {
        IdentityFacts {
            key: "U1".to_owned(),
            attributes: BTreeMap::from([("name".to_owned(), json!(name))]),
            active: true,
            on_leave: false,
        }
    }

    #[test]
    fn names_go_on_until_one_is_free() {
        let (template, warnings) =
            compiled("name: lower(join(words(ascii(identity.name)), '.')) + suffix(n)").unwrap();
        assert_eq!(warnings, []);
        let facts = facts("Éva Groß");
        let names: Vec<String> = template
            .candidates(&facts)
            .take(3)
            .map(Result::unwrap)
            .collect();
        assert_eq!(names, ["eva.gross", "eva.gross2", "eva.gross3"]);
        assert_eq!(template.candidates(&facts).count(), 50);
    }

    #[test]
    fn a_name_without_n_is_one_candidate() {
        let (template, _) = compiled("name: lower(identity.key)").unwrap();
        let names: Vec<_> = template.candidates(&facts("x")).collect();
        assert_eq!(names, [Ok("u1".to_owned())]);
    }

    #[test]
    fn attributes_are_made_and_null_leaves_out() {
        let (template, warnings) = compiled(
            "name: identity.key\nattributes:\n  cn: identity.name\n  sn: words(identity.name)[size(words(identity.name)) - 1]\n  title: 'has(identity.title) ? identity.title : null'\n",
        )
        .unwrap();
        assert_eq!(warnings, []);
        assert!(template.enabled());
        assert_eq!(
            template.attributes(&facts("Ann Lee")).unwrap(),
            BTreeMap::from([
                ("cn".to_owned(), json!("Ann Lee")),
                ("sn".to_owned(), json!("Lee"))
            ])
        );
    }

    #[test]
    fn mistakes_are_told() {
        let error = compiled("name: identity.nme + n\nattributes: { cn: 'n' }").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`t.yaml`:1:7: the name of accounts on `ldap` at character 9: `identity` has no attribute `nme`; \
             fix: did you mean `name`? attributes are `key`, `name`, `title`\n\
             `t.yaml`:2:19: attribute `cn` of accounts on `ldap` at character 1: `n` is not known; \
             fix: variables are `identity`; texts are written in quotes"
        );
        let (template, warnings) = compiled("name: identity.title").unwrap();
        assert_eq!(warnings.len(), 1);
        let facts = facts("x");
        let failures: Vec<_> = template.candidates(&facts).collect();
        assert_eq!(failures.len(), 1);
        assert_eq!(
            failures[0].as_ref().unwrap_err().to_string(),
            "name of accounts on `ldap` at `t.yaml`:1 cannot be made for `U1`: `title` is not set; \
             guard it with `has(...)`; the expression is `identity.title`"
        );
        let (template, _) = compiled("name: trim(identity.name)").unwrap();
        let blank = facts_named(" ");
        assert!(
            template
                .candidates(&blank)
                .next()
                .unwrap()
                .unwrap_err()
                .to_string()
                .contains("the name is empty")
        );
    }

    fn facts_named(name: &str) -> IdentityFacts {
        facts(name)
    }
}
