//! Rotations between systems that are real: what the tests of each of them share.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use connectors::connector::Connector;
use engine::runner::Command;
use serde_json::{Value, json};

use super::world::World;
use super::{NotBegun, Shop, start};
use crate::testbed::{Company, FastClock, Leaving, More, actor};

/// A system of this kind, as a configuration would have it.
pub(super) fn system(kind: &str, settings: Value) -> Arc<dyn Connector> {
    connectors::registry::build(kind, kind, settings).unwrap()
}

/// A folder as the place, with a bundle `app` of these parts.
pub(super) fn folder(root: &Path, parts: &[&str]) -> Arc<dyn Connector> {
    let parts = parts
        .iter()
        .map(|part| ((*part).to_owned(), json!({ "file": part })));
    let parts: serde_json::Map<String, Value> = parts.collect();
    system(
        "file",
        json!({ "root": root, "bundles": { "app": { "parts": parts } } }),
    )
}

/// What is declared about one credential of `db` that lies in `secrets`.
pub(super) fn declared(id: &str, kind: &str, mode: &str, rotation: &[&str]) -> String {
    let mut text = format!(
        "
nhis:
  - key: app
    kind: service_account
    environment: production
    purpose: serves the shop
    team: shop
    owner: A1
    backup: B2
    review: 2027-01-31
    credentials:
      - system: db
        id: '{id}'
        kind: {kind}
        replaced_by: {mode}
        used_by: [shop/web]
        rotation:
          place: {{ system: secrets, bundle: app }}
          every: 30d
"
    );
    for line in rotation {
        let _ = writeln!(text, "          {line}");
    }
    text
}

impl Shop {
    /// A company with `db` and `secrets`, where `text` declares the credential `id` of `db`.
    pub(super) async fn real(
        on_postgres: bool,
        db: Arc<dyn Connector>,
        secrets: Arc<dyn Connector>,
        id: &str,
        text: &str,
    ) -> Self {
        let clock = Arc::new(FastClock::new(start(), 1));
        let leaving = Leaving {
            systems: More(vec![("db", db), ("secrets", secrets)]),
            ..Leaving::default()
        };
        let company = Company::leaving(clock.clone(), on_postgres, leaving).await;
        let people = ["A1,Ann Lee,Sales", "B2,Bob Ray,Sales"];
        company.import("2026-01-01", &people).await;
        let node = company.node().await;
        let both = ["joiner A1 succeeded", "joiner B2 succeeded"];
        company.until(&both).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let shop = Self {
            company,
            clock,
            // Looks on at nothing here.
            world: World::new(&["none"], 1),
            named: Box::leak(format!("db/{id}").into_boxed_str()),
        };
        shop.declare(text).await;
        shop
    }

    /// Plans what was declared or has ended, as a node does by itself.
    pub(super) async fn plan(&self) {
        let directory = &self.company.directory;
        directory.start_rotations(start()).await.unwrap();
    }

    /// Begins the next one, unless it has begun because it is due.
    pub(super) async fn begin(&self) {
        self.plan().await;
        if let Err(why) = self.ask(false).await {
            assert!(matches!(why, NotBegun::UnderWay { .. }), "{why}");
        }
    }

    /// Takes the rotation that is under way back.
    pub(super) async fn take_back(&self, reason: &str) {
        let open = self.row().await.open_case.unwrap();
        let cases = self.company.cases().await.into_iter();
        let mut open = cases.filter(|case| case.head.case.to_string() == open);
        let undo = Command::Undo {
            by: actor("user:ann"),
            reason: reason.to_owned(),
        };
        self.company.command(&open.next().unwrap(), undo).await;
    }

    /// No secret has reached the database of Tenure.
    pub(super) async fn knows_none_of(&self, secrets: &[String]) {
        let stored = self.company.failures().await;
        for secret in secrets {
            assert!(!secret.is_empty() && !stored.contains(secret.as_str()));
        }
    }
}
