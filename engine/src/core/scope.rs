//! What expressions see, and templates filled in from it.

use serde_json::{Map, Value, json};

use super::case::{Case, InstanceState, StepRun, Verification};
use super::definition::Template;
use super::expression::{Expression, ExpressionError};

/// The variables of one evaluation. Roots are made only when an expression names them.
pub(super) struct Scope<'a> {
    case: &'a Case,
    facts: &'a Value,
    item: Option<&'a Value>,
    output: Option<&'a Value>,
}

impl<'a> Scope<'a> {
    pub fn new(case: &'a Case, facts: &'a Value) -> Self {
        Self {
            case,
            facts,
            item: None,
            output: None,
        }
    }

    pub fn with_item(mut self, item: &'a Value) -> Self {
        self.item = Some(item);
        self
    }

    pub fn with_output(mut self, output: &'a Value) -> Self {
        self.output = Some(output);
        self
    }

    pub fn evaluate(&self, expression: &Expression) -> Result<Value, ExpressionError> {
        let steps = self.steps(expression);
        let case = self.case_root(expression);
        let mut variables: Vec<(&str, &Value)> = vec![("input", &*self.case.input)];
        variables.extend(steps.as_ref().map(|steps| ("steps", steps)));
        variables.extend(case.as_ref().map(|case| ("case", case)));
        variables.extend(self.item.map(|item| ("item", item)));
        variables.extend(self.output.map(|output| ("output", output)));
        if let Value::Object(facts) = self.facts {
            variables.extend(facts.iter().map(|(name, value)| (name.as_str(), value)));
        }
        expression.evaluate(&variables)
    }

    pub fn evaluate_bool(&self, expression: &Expression) -> Result<bool, ExpressionError> {
        match self.evaluate(expression)? {
            Value::Bool(value) => Ok(value),
            other => Err(expression.wrong_type(&other, "true or false")),
        }
    }

    pub fn evaluate_list(&self, expression: &Expression) -> Result<Vec<Value>, ExpressionError> {
        match self.evaluate(expression)? {
            Value::Array(items) => Ok(items),
            other => Err(expression.wrong_type(&other, "a list")),
        }
    }

    /// Fills a template in.
    pub fn fill(&self, template: &Template) -> Result<Value, ExpressionError> {
        if template.is_constant() {
            return Ok(template.value.clone());
        }
        self.fill_value(&template.value, template)
    }

    fn fill_value(&self, value: &Value, template: &Template) -> Result<Value, ExpressionError> {
        match value {
            Value::String(text) => self.fill_text(text, template),
            Value::Array(items) => items
                .iter()
                .map(|item| self.fill_value(item, template))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| Ok((name.clone(), self.fill_value(field, template)?)))
                .collect::<Result<Map<_, _>, _>>()
                .map(Value::Object),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
        }
    }

    fn fill_text(&self, text: &str, template: &Template) -> Result<Value, ExpressionError> {
        let mut written = String::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once("${{") {
            let Some((inside, after)) = tail.split_once("}}") else {
                break;
            };
            let Some(expression) = template.expressions.get(inside.trim()) else {
                break;
            };
            let value = self.evaluate(expression)?;
            if literal.is_empty() && after.is_empty() && written.is_empty() {
                return Ok(value);
            }
            written.push_str(literal);
            match value {
                Value::String(text) => written.push_str(&text),
                other => written.push_str(&other.to_string()),
            }
            rest = after;
        }
        written.push_str(rest);
        Ok(Value::String(written))
    }

    fn steps(&self, expression: &Expression) -> Option<Value> {
        if !expression.roots().contains("steps") {
            return None;
        }
        let mut steps = Map::new();
        for name in expression.steps() {
            if let Some(run) = self
                .case
                .definition
                .find(name)
                .and_then(|index| self.case.step_run(index))
            {
                steps.insert(name.clone(), step_value(run));
            }
        }
        Some(Value::Object(steps))
    }

    fn case_root(&self, expression: &Expression) -> Option<Value> {
        expression.roots().contains("case").then(|| {
            json!({
                "id": self.case.id.to_string(),
                "workflow": self.case.definition.name,
                "subject": self.case.subject.0,
                "generation": self.case.generation,
                "created_at": self.case.created_at.to_rfc3339(),
                "effective_at": self.case.effective_at.unwrap_or(self.case.received_at).to_rfc3339(),
            })
        })
    }
}

/// A finished step as expressions see it: the fields of its output (when that is a map), and beside them
/// `state`, `output`, `outputs` (one for each instance) and `all_verified`.
fn step_value(run: &StepRun) -> Value {
    let present = run.present();
    let mut fields = match present {
        [only] => match &only.output {
            Value::Object(fields) => fields.clone(),
            _ => Map::new(),
        },
        _ => Map::new(),
    };
    let done = |instance: &&super::case::Instance| matches!(instance.state, InstanceState::Done);
    let outputs: Vec<Value> = present
        .iter()
        .filter(done)
        .map(|instance| instance.output.clone())
        .collect();
    let all_verified = present.iter().all(|instance| {
        matches!(
            instance.verification,
            Some(Verification::Verified | Verification::Attested { .. } | Verification::NotNeeded)
        )
    });
    fields.insert(
        "state".to_owned(),
        Value::String(run.state.as_str().to_owned()),
    );
    fields.insert(
        "output".to_owned(),
        outputs.first().cloned().unwrap_or(Value::Null),
    );
    fields.insert("outputs".to_owned(), Value::Array(outputs));
    fields.insert("all_verified".to_owned(), Value::Bool(all_verified));
    Value::Object(fields)
}
