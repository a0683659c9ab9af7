//! Rotations between systems that are real: what the tests of each of them share.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use connectors::connector::Connector;
use engine::runner::{Clock as _, Command};
use serde_json::{Value, json};

use super::dying::{DEATHS_MAX, Death, rotated};
use super::served::Mortal;
use super::world::World;
use super::{NotBegun, Shop};
use crate::testbed::{FastClock, More, actor, now};

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

/// The calls at which nodes die in tests: some of them, or all in the long form.
pub(super) fn calls(on_postgres: bool) -> impl Iterator<Item = u32> {
    let step = match (std::env::var_os("TENURE_LONG"), on_postgres) {
        (Some(_), false) => 1,
        (_, false) => 8,
        (_, true) => 23,
    };
    (1..DEATHS_MAX).step_by(step)
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
        // Looks on at nothing here.
        let world = World::new(&["none"], 1);
        Self::in_world(on_postgres, world, db, secrets, id, text).await
    }

    /// As [`Self::real`]; at calls of both systems the node may die, and never more than two credentials of `holder` are good.
    pub(super) async fn mortal(
        on_postgres: bool,
        holder: Option<&str>,
        (db, secrets): (Arc<dyn Connector>, Arc<dyn Connector>),
        id: &str,
        text: &str,
    ) -> Self {
        let world = World::new(&["none"], 1);
        let holder: Option<&'static str> =
            holder.map(|holder| &*Box::leak(holder.to_owned().into_boxed_str()));
        let db = Mortal::over(db, &world, holder);
        let secrets = Mortal::over(secrets, &world, None);
        Self::in_world(on_postgres, world, db, secrets, id, text).await
    }

    async fn in_world(
        on_postgres: bool,
        world: World,
        db: Arc<dyn Connector>,
        secrets: Arc<dyn Connector>,
        id: &str,
        text: &str,
    ) -> Self {
        let clock = Arc::new(FastClock::new(now(), 1));
        let systems = More(vec![("db", db), ("secrets", secrets)]);
        let (company, node) = super::company(&clock, on_postgres, systems).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let shop = Self {
            company,
            clock,
            world,
            named: Box::leak(format!("db/{id}").into_boxed_str()),
        };
        shop.declare(text).await;
        shop
    }

    /// Plans what was declared or has ended, as a node does by itself.
    pub(super) async fn plan(&self) {
        let directory = &self.company.directory;
        let now = self.clock.now();
        directory.start_rotations(now).await.unwrap();
    }

    /// Begins the next one, unless it has begun because it is due.
    pub(super) async fn begin(&self) {
        self.plan().await;
        if let Err(why) = self.ask(false).await {
            assert!(matches!(why, NotBegun::UnderWay { .. }), "{why}");
        }
    }

    /// One rotation whose node dies at the call of a number; gives whether it came to that.
    pub(super) async fn survives(&self, has_effect: bool, call: u32) -> bool {
        self.plan().await;
        let died = rotated(self, Death::Call { has_effect }, call).await;
        assert_eq!(self.world.broken(), Vec::<String>::new(), "call {call}");
        died
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
