//! From files to a checked policy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::json;
use serde_saphyr::Spanned;

use super::{
    Bundled, ENTITLEMENT_BYTES_MAX, GRANTS_PER_ROLE_MAX, Grant, Moves, PolicySet,
    ROLE_NAME_BYTES_MAX, ROLES_MAX, Role,
};
use crate::policy::canonical::digest;
use crate::policy::compile::{Origin, compile};
use crate::policy::contracts::{ContractRules, ContractorDocument};
use crate::policy::credentials::{CredentialDocument, CredentialRule};
use crate::policy::document::{
    AccountDocument, AccountTemplate, AttributeDocument, GrantDocument, MoveOrder, MovesDocument,
    OnLeave, PolicyFile, RoleDocument,
};
use crate::policy::exceptions::{ExceptionDocument, ExceptionRules};
use crate::policy::expression::Expression;
use crate::policy::expression::check::{Kind, Variable};
use crate::policy::guard::{GuardDocument, GuardRules};
use crate::policy::leavers::{LeaverDocument, LeaverRules};
use crate::policy::problem::{Problem, Problems, suggest};
use crate::policy::schema::Schema;
use crate::policy::template::CompiledTemplate;
use crate::timeline::Precedence;

/// A policy in the making.
pub(super) struct Loading<'a> {
    schema: &'a Schema,
    roles: BTreeMap<String, Role>,
    /// Where each `includes` entry stands, for messages.
    includes: BTreeMap<String, Vec<Spanned<String>>>,
    templates: BTreeMap<String, CompiledTemplate>,
    canonical_templates: Vec<serde_json::Value>,
    /// With the file that says it.
    guard: Option<(String, GuardRules)>,
    precedence: Option<(String, Precedence)>,
    /// The rules, and the file they stand in.
    contracts: Option<(ContractRules, String)>,
    attributes: BTreeMap<String, AttributeDocument>,
    moves: Option<Moves>,
    /// The rules, and the file they stand in.
    leavers: Option<(LeaverRules, String)>,
    /// The rules, and the file they stand in.
    exceptions: Option<(ExceptionRules, String)>,
    credentials: BTreeMap<String, CredentialRule>,
    pub problems: Problems,
    warnings: Vec<Problem>,
}

impl<'a> Loading<'a> {
    pub fn new(schema: &'a Schema) -> Self {
        Self {
            schema,
            roles: BTreeMap::new(),
            includes: BTreeMap::new(),
            templates: BTreeMap::new(),
            canonical_templates: Vec::new(),
            guard: None,
            precedence: None,
            contracts: None,
            attributes: BTreeMap::new(),
            moves: None,
            leavers: None,
            exceptions: None,
            credentials: BTreeMap::new(),
            problems: Problems::default(),
            warnings: Vec::new(),
        }
    }

    pub fn add(&mut self, file: &str, document: PolicyFile) {
        for role in document.roles {
            self.add_role(file, role);
        }
        for account in document.accounts {
            self.add_account(file, account);
        }
        if let Some(guard) = document.guard {
            self.add_guard(file, guard);
        }
        for (name, attribute) in document.attributes {
            self.add_attribute(file, name, attribute);
        }
        if let Some(moves) = document.moves {
            self.add_moves(file, moves);
        }
        if let Some(leavers) = document.leavers {
            self.add_leavers(file, &leavers);
        }
        if let Some(exceptions) = document.exceptions {
            self.add_exceptions(file, &exceptions);
        }
        for rule in document.credentials {
            self.add_credential_rule(file, &rule);
        }
        match (document.precedence, &self.precedence) {
            (None, _) => {}
            (Some(precedence), None) => self.precedence = Some((file.to_owned(), precedence)),
            (Some(_), Some((first, _))) => self.problems.push(Problem::new(
                file,
                None,
                format!("there is a `precedence` in `{first}` and another one here"),
                "keep one of them",
            )),
        }
        if let Some(contractors) = document.contractors {
            self.add_contractors(file, &contractors);
        }
    }

    fn add_guard(&mut self, file: &str, document: GuardDocument) {
        if let Some((first, _)) = &self.guard {
            self.problems.push(Problem::new(
                file,
                None,
                format!("there is a `guard` in `{first}` and another one here"),
                "keep one of them",
            ));
            return;
        }
        let rules = GuardRules::read(
            file,
            document,
            self.schema,
            &mut self.problems,
            &mut self.warnings,
        );
        self.guard = Some((file.to_owned(), rules));
    }

    fn add_contractors(&mut self, file: &str, document: &ContractorDocument) {
        if let Some((_, first)) = &self.contracts {
            let message = format!("`contractors` is written twice; the first is in `{first}`");
            self.problem(file, &document.owner, message, "keep one of the two");
            return;
        }
        match ContractRules::compile(file, document, self.schema) {
            Ok(rules) => self.contracts = Some((rules, file.to_owned())),
            Err(found) => self.problems.extend(found.list),
        }
    }

    fn add_credential_rule(&mut self, file: &str, document: &CredentialDocument) {
        let name = &document.name.value;
        if self.credentials.contains_key(name) {
            let message = format!("the rule `{name}` about credentials is written twice");
            self.problem(
                file,
                &document.name,
                message,
                "give one of the two another name",
            );
            return;
        }
        match CredentialRule::compile(file, document) {
            Ok(rule) => drop(self.credentials.insert(name.clone(), rule)),
            Err(found) => self.problems.extend(found.list),
        }
    }

    fn add_leavers(&mut self, file: &str, document: &LeaverDocument) {
        if let Some((_, first)) = &self.leavers {
            self.problems.push(Problem::new(
                file,
                None,
                format!("there is a `leavers` in `{first}` and another one here"),
                "keep one of them",
            ));
            return;
        }
        match LeaverRules::compile(file, document, self.schema) {
            Ok(rules) => self.leavers = Some((rules, file.to_owned())),
            Err(found) => self.problems.extend(found.list),
        }
    }

    fn add_exceptions(&mut self, file: &str, document: &ExceptionDocument) {
        if let Some((_, first)) = &self.exceptions {
            self.problems.push(Problem::new(
                file,
                None,
                format!("there is an `exceptions` in `{first}` and another one here"),
                "keep one of them",
            ));
            return;
        }
        match ExceptionRules::compile(file, document) {
            Ok(rules) => self.exceptions = Some((rules, file.to_owned())),
            Err(found) => self.problems.extend(found.list),
        }
    }

    fn add_attribute(&mut self, file: &str, name: String, attribute: AttributeDocument) {
        let problem = if !self.schema.attributes.contains_key(&name) {
            let known = self.schema.attributes.keys().map(String::as_str);
            Some((
                format!("no source delivers an attribute `{name}`"),
                suggest(&name, "attributes", known),
            ))
        } else if attribute
            .owner
            .as_ref()
            .is_some_and(|it| it.trim().is_empty())
        {
            Some((
                format!("the owner of attribute `{name}` is empty"),
                "name a role or a mailbox, or leave it out".to_owned(),
            ))
        } else if self.attributes.contains_key(&name) {
            Some((
                format!("attribute `{name}` is described twice"),
                "keep one of the two".to_owned(),
            ))
        } else {
            None
        };
        match problem {
            Some((what, fix)) => self.problems.push(Problem::new(file, None, what, fix)),
            None => {
                self.attributes.insert(name, attribute);
            }
        }
    }

    fn add_moves(&mut self, file: &str, document: MovesDocument) {
        if self.moves.is_some() {
            self.problems.push(Problem::new(
                file,
                None,
                "`moves` stands in two files".to_owned(),
                "keep one of the two",
            ));
            return;
        }
        let mut moves = Moves {
            order: document.order,
            ..Moves::default()
        };
        for (one, other) in &document.exclusive {
            self.check_system(file, &one.system);
            self.check_system(file, &other.system);
            let grant = |document: &GrantDocument| Grant {
                system: document.system.value.clone(),
                entitlement: document.entitlement.value.clone(),
            };
            if one.system.value != other.system.value {
                self.problem(
                    file,
                    &other.system,
                    format!(
                        "`{}` and `{}` are two systems; the order is kept within one",
                        one.system.value, other.system.value
                    ),
                    "name two rights of one system",
                );
            }
            let pair = (grant(one), grant(other));
            if pair.0 == pair.1 {
                self.problem(
                    file,
                    &other.entitlement,
                    format!("`{}` cannot exclude itself", other.entitlement.value),
                    "name two rights",
                );
            }
            moves.exclusive.insert(pair);
        }
        self.moves = Some(moves);
    }

    fn add_role(&mut self, file: &str, document: RoleDocument) {
        let name = document.name.value.clone();
        let line = document.name.defined.line();
        if self.roles.len() >= ROLES_MAX {
            self.problem(
                file,
                &document.name,
                format!("more than {ROLES_MAX} roles"),
                "merge roles",
            );
            return;
        }
        if !is_name(&name) {
            self.problem(
                file,
                &document.name,
                format!("`{name}` is no name for a role"),
                "use up to 100 letters, digits, `-`, `_`, `.` and `:`",
            );
            return;
        }
        if let Some(first) = self.roles.get(&name) {
            let message = format!(
                "role `{name}` is defined twice; the first is at `{}`:{}",
                first.file, first.line
            );
            self.problem(
                file,
                &document.name,
                message,
                "rename or remove one of them",
            );
            return;
        }
        let rule = document
            .when
            .as_ref()
            .and_then(|rule| self.rule(file, &name, rule));
        let grants = self.grants(file, &name, &document);
        for system in &document.accounts {
            self.check_system(file, system);
        }
        if grants.is_empty() && document.accounts.is_empty() && document.includes.is_empty() {
            self.warn(
                file,
                &document.name,
                format!("role `{name}` gives nothing"),
                "add `grants`, `accounts` or `includes`, or remove it",
            );
        }
        self.roles.insert(
            name.clone(),
            Role {
                name: name.clone(),
                description: document.description,
                rule,
                includes: document
                    .includes
                    .iter()
                    .map(|included| included.value.clone())
                    .collect(),
                grants,
                accounts: document
                    .accounts
                    .into_iter()
                    .map(|system| system.value)
                    .collect(),
                on_leave: document.on_leave,
                grace: document.grace,
                file: file.to_owned(),
                line,
            },
        );
        self.includes.insert(name, document.includes);
    }

    fn rule(&mut self, file: &str, role: &str, rule: &Spanned<String>) -> Option<Expression> {
        let what = format!("the rule of role `{role}`");
        let variables = BTreeMap::from([("identity", Variable::Record(&self.schema.attributes))]);
        compile(
            Origin { file, what: &what },
            rule,
            &variables,
            Kind::Boolean,
            &mut self.problems,
            &mut self.warnings,
        )
        .map(|(expression, _)| expression)
    }

    fn grants(&mut self, file: &str, role: &str, document: &RoleDocument) -> Vec<Grant> {
        if document.grants.len() > GRANTS_PER_ROLE_MAX {
            self.problem(
                file,
                &document.name,
                format!("role `{role}` has more than {GRANTS_PER_ROLE_MAX} grants"),
                "split it and include the parts",
            );
        }
        let mut grants = BTreeSet::new();
        for grant in &document.grants {
            self.check_system(file, &grant.system);
            let entitlement = &grant.entitlement;
            if entitlement.value.trim().is_empty()
                || entitlement.value.len() > ENTITLEMENT_BYTES_MAX
            {
                self.problem(
                    file,
                    entitlement,
                    format!("`{}` is no name for an entitlement", entitlement.value),
                    "write the name the system uses, 1 to 512 bytes",
                );
            }
            let new = grants.insert(Grant {
                system: grant.system.value.clone(),
                entitlement: entitlement.value.clone(),
            });
            if !new {
                self.warn(
                    file,
                    entitlement,
                    format!("role `{role}` grants `{}` twice", entitlement.value),
                    "remove one of them",
                );
            }
        }
        grants.into_iter().collect()
    }

    fn add_account(&mut self, file: &str, document: AccountDocument) {
        self.check_system(file, &document.system);
        let system = document.system.clone();
        if self.templates.contains_key(&system.value) {
            let message = format!("accounts of system `{}` are described twice", system.value);
            self.problem(file, &system, message, "keep one of the two");
            return;
        }
        let template = AccountTemplate::from(document);
        self.canonical_templates.push(json!({
            "system": system.value,
            "name": template.name.value.trim(),
            "attributes": template
                .attributes
                .iter()
                .map(|(name, text)| (name.clone(), json!(text.value.trim())))
                .collect::<serde_json::Map<_, _>>(),
            "enabled": template.enabled,
        }));
        match CompiledTemplate::compile(file, &system.value, &template, self.schema) {
            Ok((compiled, warnings)) => {
                self.warnings.extend(warnings);
                self.templates.insert(system.value, compiled);
            }
            Err(problems) => self.problems.extend(problems.list),
        }
    }

    pub fn finish(mut self) -> Result<PolicySet, Problems> {
        if self.roles.is_empty() && self.problems.is_empty() {
            self.problems.push(Problem::new(
                "policy",
                None,
                "the policy has no roles, so it would take all access from everybody",
                "add at least one role",
            ));
        }
        self.check_includes();
        let bundles = if self.problems.is_empty() {
            self.bundles()
        } else {
            BTreeMap::new()
        };
        self.warn_unreachable(&bundles);
        let guard = self
            .guard
            .take()
            .map(|(_, guard)| guard)
            .unwrap_or_default();
        let precedence = self.precedence.take();
        let precedence = precedence
            .map(|(_, precedence)| precedence)
            .unwrap_or_default();
        let hash = self.hash(&guard, &precedence);
        let Self {
            roles,
            templates,
            contracts,
            attributes,
            moves,
            leavers,
            exceptions,
            credentials,
            problems,
            warnings,
            ..
        } = self;
        let mut grants = roles.values().flat_map(|role| &role.grants);
        let gives_privileged =
            grants.any(|grant| guard.is_privileged(&grant.system, &grant.entitlement));
        problems.into_result(|| PolicySet {
            roles,
            bundles,
            templates,
            guard,
            gives_privileged,
            precedence,
            files: Vec::new(),
            contracts: contracts.map(|(rules, _)| rules),
            attributes,
            moves: moves.unwrap_or_default(),
            leavers: leavers.map(|(rules, _)| rules).unwrap_or_default(),
            exceptions: exceptions.map(|(rules, _)| rules).unwrap_or_default(),
            credentials: credentials.into_values().collect(),
            hash,
            warnings,
        })
    }

    fn check_includes(&mut self) {
        let mut found = Vec::new();
        for (name, includes) in &self.includes {
            let Some(role) = self.roles.get(name) else {
                continue;
            };
            for included in includes {
                if !self.roles.contains_key(&included.value) {
                    found.push(at(
                        &role.file,
                        included,
                        format!(
                            "role `{name}` includes `{}`, which does not exist",
                            included.value
                        ),
                        suggest(
                            &included.value,
                            "roles",
                            self.roles.keys().map(String::as_str),
                        ),
                    ));
                }
            }
        }
        self.problems.extend(found);
        let mut told = BTreeSet::new();
        let mut cycles = Vec::new();
        for name in self.roles.keys() {
            let Some(path) = self.cycle_from(name) else {
                continue;
            };
            let members: BTreeSet<&str> = path.iter().copied().collect();
            if told.insert(members)
                && let Some(role) = self.roles.get(name)
            {
                cycles.push(Problem::on_line(
                    role.file.clone(),
                    role.line,
                    format!(
                        "roles include each other in a circle: {}",
                        path.join(" -> ")
                    ),
                    "remove one of these `includes`",
                ));
            }
        }
        self.problems.extend(cycles);
    }

    /// The shortest way from `start` back to itself.
    fn cycle_from(&self, start: &'_ str) -> Option<Vec<&str>> {
        let (start, _) = self.roles.get_key_value(start)?;
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([start.as_str()]);
        while let Some(current) = queue.pop_front() {
            for next in self
                .roles
                .get(current)
                .into_iter()
                .flat_map(|role| &role.includes)
            {
                if next == start {
                    let mut path = vec![start.as_str(), current];
                    let mut here = current;
                    while let Some(before) = came_from.get(here) {
                        path.push(before);
                        here = before;
                    }
                    if here != start {
                        path.push(start);
                    }
                    if current == start {
                        path.truncate(2);
                    }
                    path.reverse();
                    return Some(path);
                }
                if self.roles.contains_key(next) && !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, current);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Each role once, by the shortest way: a diamond of includes does not multiply.
    fn bundles(&self) -> BTreeMap<String, Vec<Bundled>> {
        self.roles
            .values()
            .filter(|role| role.rule.is_some())
            .map(|role| {
                let mut seen = BTreeSet::from([role.name.as_str()]);
                let mut bundle = vec![Bundled {
                    role: role.name.clone(),
                    via: vec![role.name.clone()],
                }];
                let mut next = 0;
                while let Some(current) = bundle.get(next).cloned() {
                    next += 1;
                    for included in self
                        .roles
                        .get(&current.role)
                        .into_iter()
                        .flat_map(|role| &role.includes)
                    {
                        if seen.insert(included) {
                            let mut via = current.via.clone();
                            via.push(included.clone());
                            bundle.push(Bundled {
                                role: included.clone(),
                                via,
                            });
                        }
                    }
                }
                (role.name.clone(), bundle)
            })
            .collect()
    }

    fn warn_unreachable(&mut self, bundles: &BTreeMap<String, Vec<Bundled>>) {
        if bundles.is_empty() {
            return;
        }
        let reachable: BTreeSet<&str> = bundles
            .values()
            .flatten()
            .map(|bundled| bundled.role.as_str())
            .collect();
        let found: Vec<Problem> = self
            .roles
            .values()
            .filter(|role| !reachable.contains(role.name.as_str()))
            .map(|role| {
                Problem::on_line(
                    role.file.clone(),
                    role.line,
                    format!(
                        "nobody can have role `{}`: it has no rule and no role with a rule includes it",
                        role.name
                    ),
                    "add `when`, or include it somewhere",
                )
            })
            .collect();
        self.warnings.extend(found);
    }

    /// Over everything that can change a decision, in an order that does not depend on files.
    fn hash(&mut self, guard: &GuardRules, precedence: &Precedence) -> String {
        self.canonical_templates
            .sort_by_key(|template| template.get("system").map(ToString::to_string));
        let roles: Vec<serde_json::Value> = self
            .roles
            .values()
            .map(|role| {
                let mut canonical = json!({
                    "name": role.name,
                    "when": role.rule.as_ref().map(Expression::text),
                    "includes": role.includes.iter().collect::<BTreeSet<_>>(),
                    "grants": role.grants,
                    "accounts": role.accounts.iter().collect::<BTreeSet<_>>(),
                });
                // What is as it always was has the hash that it always had.
                if role.on_leave == OnLeave::Keep
                    && let Some(role) = canonical.as_object_mut()
                {
                    role.insert("on_leave".to_owned(), json!("keep"));
                }
                if let (Some(grace), Some(role)) = (role.grace, canonical.as_object_mut()) {
                    role.insert("grace".to_owned(), json!(grace));
                }
                canonical
            })
            .collect();
        let mut canonical = json!({
            "format": 1,
            "roles": roles,
            "accounts": self.canonical_templates,
        });
        if let Some(guard) = guard.canonical()
            && let Some(canonical) = canonical.as_object_mut()
        {
            canonical.insert("guard".to_owned(), guard);
        }
        if !precedence.is_empty()
            && let Some(canonical) = canonical.as_object_mut()
        {
            canonical.insert("precedence".to_owned(), json!(precedence));
        }
        if let (Some((rules, _)), Some(canonical)) = (&self.contracts, canonical.as_object_mut()) {
            canonical.insert("contractors".to_owned(), json!(rules));
        }
        if let Some(canonical) = canonical.as_object_mut() {
            let required: Vec<&String> = self
                .attributes
                .iter()
                .filter(|(_, attribute)| attribute.required)
                .map(|(name, _)| name)
                .collect();
            if !required.is_empty() {
                canonical.insert("required".to_owned(), json!(required));
            }
            let leavers = self.leavers.as_ref().map(|(rules, _)| rules);
            if let Some(rules) = leavers.filter(|it| **it != LeaverRules::default()) {
                canonical.insert("leavers".to_owned(), json!(rules));
            }
            let exceptions = self.exceptions.as_ref().map(|(rules, _)| rules);
            if let Some(rules) = exceptions.filter(|it| **it != ExceptionRules::default()) {
                canonical.insert("exceptions".to_owned(), json!(rules));
            }
            if !self.credentials.is_empty() {
                let rules: Vec<&CredentialRule> = self.credentials.values().collect();
                canonical.insert("credentials".to_owned(), json!(rules));
            }
            if let Some(moves) = self.moves.as_ref().filter(|it| **it != Moves::default()) {
                let add_first = moves.order == MoveOrder::AddFirst;
                let told = json!({"add_first": add_first, "exclusive": moves.exclusive});
                canonical.insert("moves".to_owned(), told);
            }
        }
        digest(&canonical)
    }

    fn check_system(&mut self, file: &str, system: &Spanned<String>) {
        if !self.schema.systems.contains(&system.value) {
            let fix = suggest(
                &system.value,
                "configured systems",
                self.schema.systems.iter().map(String::as_str),
            );
            let message = format!("there is no system `{}`", system.value);
            self.problem(file, system, message, fix);
        }
    }

    fn problem(
        &mut self,
        file: &str,
        place: &Spanned<String>,
        message: String,
        fix: impl Into<String>,
    ) {
        self.problems.push(at(file, place, message, fix));
    }

    fn warn(
        &mut self,
        file: &str,
        place: &Spanned<String>,
        message: String,
        fix: impl Into<String>,
    ) {
        self.warnings.push(at(file, place, message, fix));
    }
}

fn at(
    file: &str,
    place: &Spanned<String>,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    Problem::new(
        file,
        Some((place.defined.line(), place.defined.column())),
        message,
        fix,
    )
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= ROLE_NAME_BYTES_MAX
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
}
