//! What the demo's policy gives whom, once as a policy file for Tenure and once as plain code.
//!
//! The second is written apart from the first on purpose: at the end the systems are held against it, and a
//! mistake in how rules are evaluated or carried out must not be on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::demo::company::{Company, Person};

/// The application with a SCIM interface.
pub const WORKSPACE: &str = "workspace";
/// The door register, an `exec` plugin.
pub const DOORS: &str = "doors";
/// The key cabinet, which only a person can open.
pub const KEYS: &str = "keys";

/// Zones of the door register.
pub const ZONES: [&str; 5] = [
    "eastvale",
    "northport",
    "plant-floor",
    "server-room",
    "southmere",
];

/// The systems somebody should have an account on, each with the rights there.
pub type Wanted = BTreeMap<&'static str, BTreeSet<String>>;

/// What somebody who works today should have.
#[must_use]
pub fn wanted(person: &Person) -> Wanted {
    let mut wanted = Wanted::new();
    let mut give = |system: &'static str, right: &str| {
        wanted.entry(system).or_default().insert(right.to_owned());
    };
    give(WORKSPACE, "everyone");
    give(WORKSPACE, &department_group(person.department));
    give(
        WORKSPACE,
        if person.contractor {
            "contractors"
        } else {
            "handbook"
        },
    );
    if Company::departments().any(|(_, head)| head == person.title) {
        give(WORKSPACE, "leadership");
    }
    if let Some(project) = &person.project {
        give(WORKSPACE, &project_group(project));
    }
    match person.location {
        "Northport" => give(DOORS, "northport"),
        "Eastvale" => give(DOORS, "eastvale"),
        "Southmere" => give(DOORS, "southmere"),
        _ => {}
    }
    if person.department == "Operations" {
        give(DOORS, "plant-floor");
    }
    if person.department == "Security" || person.title == "Site Reliability Engineer" {
        give(DOORS, "server-room");
    }
    match (person.department, person.title) {
        ("Legal", _) => give(KEYS, "contract-archive"),
        ("People", _) => give(KEYS, "personnel-files"),
        ("Finance", "CFO" | "Controller") => give(KEYS, "safe"),
        _ => {}
    }
    wanted
}

/// Every group of the workspace.
#[must_use]
pub fn groups(projects: &[String]) -> BTreeSet<String> {
    let fixed = ["everyone", "contractors", "handbook", "leadership"].map(str::to_owned);
    let departments = Company::departments().map(|(name, _)| department_group(name));
    fixed
        .into_iter()
        .chain(departments)
        .chain(projects.iter().map(|project| project_group(project)))
        .collect()
}

fn department_group(department: &str) -> String {
    format!("team-{}", department.to_lowercase())
}

fn project_group(project: &str) -> String {
    format!("project-{}", project.to_lowercase().replace(' ', "-"))
}

/// The same as a policy file.
#[must_use]
pub fn policy(projects: &[String]) -> String {
    let mut text = String::from("# Who has what, and why. Made by `tenure demo`.\nroles:\n");
    let mut role = |name: &str, when: &str, system: &str, right: &str| {
        let _ = writeln!(
            text,
            "  - name: {name}\n    when: {}\n    grants:\n      - {{ system: {system}, entitlement: {right} }}",
            serde_json::Value::from(when)
        );
    };
    role("staff", "true", WORKSPACE, "everyone");
    role(
        "employee",
        "identity.type == 'employee'",
        WORKSPACE,
        "handbook",
    );
    role(
        "contractor",
        "identity.type == 'contractor'",
        WORKSPACE,
        "contractors",
    );
    let heads: Vec<String> = Company::departments()
        .map(|(_, head)| format!("'{head}'"))
        .collect();
    role(
        "leadership",
        &format!("identity.title in [{}]", heads.join(", ")),
        WORKSPACE,
        "leadership",
    );
    for (department, _) in Company::departments() {
        let when = format!("identity.department == '{department}'");
        role(
            &department_group(department),
            &when,
            WORKSPACE,
            &department_group(department),
        );
    }
    for project in projects {
        role(
            &project_group(project),
            &format!("'{project}' in identity.projects"),
            WORKSPACE,
            &project_group(project),
        );
    }
    for site in ["Northport", "Eastvale", "Southmere"] {
        let zone = site.to_lowercase();
        role(
            &format!("site-{zone}"),
            &format!("identity.location == '{site}'"),
            DOORS,
            &zone,
        );
    }
    role(
        "plant",
        "identity.department == 'Operations'",
        DOORS,
        "plant-floor",
    );
    let servers =
        "identity.department == 'Security' || identity.title == 'Site Reliability Engineer'";
    role("servers", servers, DOORS, "server-room");
    role(
        "legal-keys",
        "identity.department == 'Legal'",
        KEYS,
        "contract-archive",
    );
    role(
        "people-keys",
        "identity.department == 'People'",
        KEYS,
        "personnel-files",
    );
    let safe = "identity.department == 'Finance' && identity.title in ['CFO', 'Controller']";
    role("finance-keys", safe, KEYS, "safe");
    text
}
