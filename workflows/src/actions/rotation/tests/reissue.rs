//! Certificates are issued anew between real systems: an authority, a folder, a TLS server that reads it when it is told to, and a
//! prober. Clients connect all the time, look at everything, and none of them is ever refused.
//!
//! The internal authority lives in the time of the test, and so do the clients; an authority that we did not write (Pebble) has a
//! clock of its own, and the test begins when that says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::{
    Connector, CredentialId, CredentialKind, HandOver, Material, NativeId, NewCredential,
    Operation, OperationKey, StoredCredential,
};
use connectors::tls::Tls;
use connectors::x509::X509;
use engine::core::Timestamp;
use engine::runner::{Clock as _, Command, NodeHandle};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::dying::{DEATHS_MAX, Death, rotated, step};
use super::pebble::Pebble;
use super::real::system;
use super::served::{Clients, Mood, Mortal, Server, Trust};
use super::{Shop, World, actor, start};
use crate::nhi::declare;
use crate::rotation::{Because, Exposed, Phase};
use crate::testbed::{FastClock, More, now, on_both};

const NAMED: &str = "ca/certificate:web";
const HOLDER: &str = "web";

/// A shop whose server shows what an authority issues.
struct Edge {
    shop: Shop,
    server: Server,
    trust: Arc<Trust>,
    /// What is certified.
    name: String,
    /// Past the wrapper at whose calls the node dies.
    ca: Arc<dyn Connector>,
    secrets: Arc<dyn Connector>,
    _folder: tempfile::TempDir,
}

impl Edge {
    async fn open(on_postgres: bool, rotation: &str) -> Self {
        let parts = ["certificate", "id", "key"];
        Self::with(on_postgres, rotation, &parts, false).await
    }

    /// With a bundle that has these parts; perhaps with a foreign authority instead of the internal one.
    async fn with(on_postgres: bool, rotation: &str, parts: &[&str], foreign: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, place) = (folder.path().join("ca"), folder.path().join("place"));
        std::fs::create_dir(&place).unwrap();
        let server = Server::start(&place).await;
        let begins = if foreign { now() } else { start() };
        let clock = Arc::new(FastClock::new(begins, 1));
        let time: connectors::layer::Clock = {
            let clock = Arc::clone(&clock);
            Arc::new(move || clock.now())
        };
        let (ca, name, roots, lists): (Arc<dyn Connector>, _, _, _) = if foreign {
            let pebble = Pebble::of_the_lab();
            let roots = folder.path().join("root.pem");
            std::fs::write(&roots, pebble.root().await).unwrap();
            let ca = system("acme", pebble.settings(&authority, &pebble.directory));
            (ca, pebble.name("web"), roots, None)
        } else {
            let settings = json!({
                "folder": authority, "subject": "Shop", "create": true, "names": [".svc.example"],
            });
            let ca = X509::with_clock("ca", settings, Arc::clone(&time)).unwrap();
            let (roots, list) = (authority.join("bundle.pem"), authority.join("crl.pem"));
            (
                Arc::new(ca),
                "web.svc.example".to_owned(),
                roots,
                Some(list),
            )
        };
        let mut bundle = server.bundle();
        let all = bundle["parts"].as_object_mut().unwrap();
        all.retain(|name, _| parts.contains(&name.as_str()));
        let secrets = system(
            "file",
            json!({ "root": place, "bundles": { "web": bundle } }),
        );
        let settings = json!({ "anywhere": true, "timeout_ms": 2_000 });
        let edge = Tls::with_clock("edge", settings, time).unwrap();

        let world = World::new(&["none"], 1);
        let edge = Mortal::over(Arc::new(edge), &world, None);
        let systems = vec![
            ("ca", Mortal::over(Arc::clone(&ca), &world, Some(HOLDER))),
            ("secrets", Mortal::over(Arc::clone(&secrets), &world, None)),
            ("edge", edge),
        ];
        let (company, node) = super::company(&clock, on_postgres, More(systems)).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let shop = Shop {
            company,
            clock: Arc::clone(&clock),
            world,
            named: NAMED,
        };
        let trust = Arc::new(Trust::new(roots, lists, clock));
        let edge = Self {
            shop,
            server,
            trust,
            name,
            ca,
            secrets,
            _folder: folder,
        };
        edge.declare(rotation).await;
        edge
    }

    async fn declare(&self, rotation: &str) {
        let text = format!(
            "
nhis:
  - key: web
    kind: workload
    environment: production
    purpose: serves the shop
    team: shop
    owner: A1
    backup: B2
    review: 2027-01-31
    credentials:
      - system: ca
        id: certificate:web
        kind: certificate
        replaced_by: reissue
        used_by: [edge/web]
        rotation:
          place: {{ system: secrets, bundle: web }}
          users: [{HOLDER}]
          attributes: {{ names: [{}] }}
          serves: {{ system: edge, endpoint: '{}' }}
          {rotation}
",
            self.name,
            self.server.endpoint(&self.name)
        );
        let systems = BTreeSet::from(["ca", "secrets", "edge"]);
        let declared = declare::parse("nhis.yaml", &text, &systems).unwrap();
        let directory = &self.shop.company.directory;
        let report = directory
            .declare(&declared, &actor("user:ann"), "so", self.shop.clock.now())
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
    }

    /// Plans and begins what is due, as a node does by itself.
    async fn look(&self) -> Option<Timestamp> {
        let directory = &self.shop.company.directory;
        let begun = directory.start_rotations(self.shop.clock.now()).await;
        begun.unwrap().next
    }

    /// The first one is in use; whatever takes its place works beside it for an hour.
    async fn in_use_with_overlap(on_postgres: bool) -> (Self, NodeHandle) {
        let more = "lifetime: 3d\n          overlap: { reload: 1h }";
        let edge = Self::open(on_postgres, more).await;
        let node = edge.shop.company.node().await;
        edge.look().await;
        edge.shop.until(&node, Phase::Overlap).await;
        edge.later(&node, TimeDelta::hours(1));
        edge.shop.until(&node, Phase::Closed).await;
        (edge, node)
    }

    /// The first one is issued without anybody asking for it.
    async fn first(&self, node: &NodeHandle) {
        self.look().await;
        let row = self.shop.row().await;
        assert_eq!(row.because, Some(Because::First));
        assert!(row.open_case.is_some());
        self.shop.until(node, Phase::Closed).await;
    }

    /// What the server shows to whoever trusts the authority.
    async fn shown(&self) -> Vec<CertificateDer<'static>> {
        let connected = self.trust.connect(self.server.port, &self.name).await;
        connected.unwrap()
    }

    /// Why nobody accepts it now.
    fn refused(&self, chain: &[CertificateDer<'static>]) -> String {
        self.trust.refused(chain, &self.name).unwrap_or_default()
    }

    /// Waits until it is on the list of the revoked.
    async fn until_refused(&self, chain: &[CertificateDer<'static>]) {
        for _ in 0..500 {
            if self.refused(chain).contains("Revoked") {
                return;
            }
            // sleeps: between two looks at the list
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}", self.shop.company.failures().await);
    }

    /// As below, and never were more than two good on the way.
    async fn is_tidy(&self, chain: &[CertificateDer<'static>], moment: &str) {
        self.ends_tidy(chain, moment).await;
        let broken = self.shop.world.broken();
        assert_eq!(broken, Vec::<String>::new(), "{moment}");
    }

    /// Only what is shown is good, and the place keeps nothing else.
    async fn ends_tidy(&self, chain: &[CertificateDer<'static>], moment: &str) {
        let listed = self.ca.credentials(&NativeId::new(HOLDER)).await.unwrap();
        let good = listed.value.into_iter();
        let good = good.filter(|one| one.active == Some(true));
        let good: Vec<CredentialId> = good.map(|one| one.id).collect();
        let shown = CredentialId::of_certificate(&chain[0]);
        assert_eq!(good, [shown], "{moment}");
        let kept = self.secrets.credentials(&NativeId::new("web")).await;
        assert_eq!(kept.unwrap().value.len(), 1, "{moment}");
    }

    fn clients(&self) -> Clients {
        let names = Arc::new(vec![self.name.clone()]);
        let pause = Duration::from_millis(5);
        Clients::start(3, pause, &self.trust, self.server.port, &names)
    }

    fn later(&self, node: &NodeHandle, by: TimeDelta) {
        self.shop.jump(node, self.shop.clock.now() + by);
    }
}

async fn no_handshake_fails_while_certificates_are_issued_anew(on_postgres: bool) {
    let (edge, node) = Edge::in_use_with_overlap(on_postgres).await;
    let clients = edge.clients();
    let mut before = edge.shown().await;
    for _ in 0..4 {
        // When two thirds of its life are over, by the life that the authority gave it.
        let next = edge.look().await.unwrap();
        let row = edge.shop.row().await;
        assert_eq!(row.because, Some(Because::Expiry));
        let life = row.expires_at.unwrap() - row.since;
        assert!((life - TimeDelta::days(3)).abs() < TimeDelta::minutes(1));
        let due = row.expires_at.unwrap() - life / 3;
        assert!(
            (next - due).abs() < TimeDelta::milliseconds(1),
            "{next} {due}"
        );
        edge.shop.jump(&node, next);
        edge.look().await;
        edge.shop.until(&node, Phase::Overlap).await;
        let now = edge.shown().await;
        assert_ne!(before[0], now[0]);
        // Whoever has not read it again is still let in.
        assert_eq!(edge.refused(&before), "");
        edge.later(&node, TimeDelta::hours(1));
        let row = edge.shop.until(&node, Phase::Closed).await;
        assert_eq!(
            (row.failures, row.dominated_by.as_deref()),
            (0, Some("reload"))
        );
        assert!(edge.refused(&before).contains("Revoked"));
        edge.is_tidy(&now, "").await;
        edge.revoked(&clients, &before);
        before = now;
    }
    // What is declared anew does not forget until when what is used is good.
    let expires = edge.shop.row().await.expires_at;
    edge.declare("lifetime: 2d\n          overlap: { reload: 1h }")
        .await;
    edge.look().await;
    assert_eq!(edge.shop.row().await.expires_at, expires);
    assert!(expires.is_some());

    // Taken back in the overlap: the old one is shown again, and the new one is worth nothing.
    edge.shop.ask(false).await.unwrap();
    edge.shop.until(&node, Phase::Overlap).await;
    let gone = edge.shown().await;
    assert_ne!(gone[0], before[0]);
    let subject = format!("credential:{NAMED}");
    let cases = edge.shop.company.cases().await.into_iter();
    let mut open =
        cases.filter(|case| case.head.subject.0 == subject && !case.state.state.is_closed());
    let undo = Command::Undo {
        by: actor("user:ann"),
        reason: "the shop stands still".to_owned(),
    };
    edge.shop.company.command(&open.next().unwrap(), undo).await;
    edge.shop.until(&node, Phase::RolledBack).await;
    let now = edge.shown().await;
    assert_eq!(now[0], before[0]);
    assert!(edge.refused(&gone).contains("Revoked"));
    edge.revoked(&clients, &gone);
    edge.is_tidy(&now, "taken back").await;

    let handshakes = clients.stop().await;
    assert!(handshakes > 100, "{handshakes}");
    println!("{handshakes} handshakes, none failed");
    // No key has reached the database of Tenure.
    assert!(!edge.shop.company.failures().await.contains("PRIVATE KEY"));
    edge.shop.close(node).await;
}

impl Edge {
    /// Whoever is shown it from now on is lied to.
    fn revoked(&self, clients: &Clients, chain: &[CertificateDer<'static>]) {
        let id = CredentialId::of_certificate(&chain[0]);
        clients.seen.revoked(id);
    }
}

async fn a_server_that_goes_on_with_the_old_one_is_seen_and_waited_for(on_postgres: bool) {
    let edge = Edge::open(on_postgres, "lifetime: 3d").await;
    let node = edge.shop.company.node().await;
    edge.first(&node).await;
    let clients = edge.clients();
    let before = edge.shown().await;
    edge.look().await;

    // It says that it has read again, and has not.
    edge.server.set(Mood::Deaf);
    edge.shop.ask(false).await.unwrap();
    edge.shop
        .told(&node, "shows another certificate than the new one")
        .await;
    assert_eq!(edge.shown().await[0], before[0]);
    assert_eq!(edge.refused(&before), "");
    edge.server.set(Mood::Reads);
    edge.server.read("web");
    edge.later(&node, TimeDelta::hours(1));
    edge.shop.until(&node, Phase::Closed).await;
    assert!(edge.refused(&before).contains("Revoked"));

    // It refuses to read: the version before is in place again, and it is tried again.
    let before = edge.shown().await;
    edge.look().await;
    edge.server.set(Mood::Refuses);
    edge.shop.ask(false).await.unwrap();
    edge.shop.told(&node, "there is a mistake in line 7").await;
    assert_eq!(edge.shown().await[0], before[0]);
    edge.server.set(Mood::Reads);
    edge.later(&node, TimeDelta::hours(1));
    edge.shop.until(&node, Phase::Closed).await;
    let now = edge.shown().await;
    assert_ne!(now[0], before[0]);
    edge.is_tidy(&now, "refused").await;
    clients.stop().await;

    // Strangers have the key: the old one ends at once, whoever still shows it.
    let before = now;
    edge.look().await;
    edge.server.set(Mood::Deaf);
    edge.shop.ask(true).await.unwrap();
    edge.until_refused(&before).await;
    edge.shop
        .told(&node, "shows another certificate than the new one")
        .await;
    edge.server.set(Mood::Reads);
    edge.server.read("web");
    edge.later(&node, TimeDelta::hours(1));
    edge.shop.until(&node, Phase::Closed).await;
    let now = edge.shown().await;
    edge.is_tidy(&now, "at once").await;
    edge.shop.close(node).await;
}

/// Strangers know the old one, the new one or both, while both are good.
async fn what_is_known_while_it_is_replaced_ends(on_postgres: bool) {
    let (edge, node) = Edge::in_use_with_overlap(on_postgres).await;
    for said in Exposed::ALL {
        let told = format!("{said:?}");
        edge.look().await;
        let old = edge.shown().await;
        edge.shop.ask(false).await.unwrap();
        edge.shop.until(&node, Phase::Overlap).await;
        let new = edge.shown().await;
        assert_ne!(old[0], new[0]);
        assert_eq!(edge.shop.say(Some(said)).await, Ok(true), "{told}");
        let row = edge.shop.until(&node, Phase::Closed).await;
        assert_eq!(row.exposed_at, None, "{told}");
        assert!(row.expires_at.is_some(), "{told}");
        let now = edge.shown().await;
        assert!(edge.refused(&old).contains("Revoked"), "{told}");
        // What was not named stays, and what was is worth nothing.
        assert_eq!(now[0] == new[0], said == Exposed::Old, "{told}");
        assert_eq!(
            edge.refused(&new).is_empty(),
            said == Exposed::Old,
            "{told}"
        );
        edge.is_tidy(&now, &told).await;
    }
    edge.shop.close(node).await;
}

/// A rotation that was ended on the way has left a certificate in the place that nobody reads: the next one ends it.
async fn what_an_ended_rotation_left_is_ended_by_the_next(on_postgres: bool) {
    let edge = Edge::open(on_postgres, "lifetime: 3d").await;
    let node = edge.shop.company.node().await;
    edge.first(&node).await;
    let (into, slot) = HandOver::slot();
    let key = |idempotency: &str| OperationKey {
        idempotency: idempotency.to_owned(),
        attempt: 1,
        epoch: 1,
    };
    let new = NewCredential {
        account: NativeId::new(HOLDER),
        kind: CredentialKind::Certificate,
        material: Material::BySystem,
        attributes: [("names".to_owned(), json!([edge.name]))].into(),
        lifetime_s: None,
        label: None,
        into,
    };
    let issued = Operation::IssueCredential(new);
    edge.ca.apply(&issued, &key("ended")).await.unwrap();
    let left = slot.take().unwrap();
    let parts = [
        ("certificate", left.public.unwrap()),
        ("id", left.credential.id.to_string()),
        ("key", left.secret.unwrap().expose_secret().to_owned()),
    ];
    let parts = parts.map(|(name, text)| (name.to_owned(), SecretString::from(text)));
    let stored = Operation::StoreCredential(StoredCredential {
        account: NativeId::new("web"),
        credential: CredentialId::new("web.ended"),
        parts: parts.into(),
    });
    edge.secrets.apply(&stored, &key("kept")).await.unwrap();
    edge.look().await;
    edge.shop.ask(false).await.unwrap();
    edge.shop.until(&node, Phase::Closed).await;
    edge.ends_tidy(&edge.shown().await, "ended").await;
    edge.shop.close(node).await;
}

/// Nothing is issued that the place could not keep.
async fn a_place_that_is_set_up_for_something_else_is_told(on_postgres: bool) {
    let parts = ["certificate", "key"];
    let edge = Edge::with(on_postgres, "lifetime: 3d", &parts, false).await;
    let node = edge.shop.company.node().await;
    edge.look().await;
    let told =
        "keeps `certificate`, `key`, and what is made consists of `certificate`, `id`, `key`";
    edge.shop.told(&node, told).await;
    let listed = edge.ca.credentials(&NativeId::new(HOLDER)).await;
    assert_eq!(listed.unwrap().value, []);
    edge.shop.close(node).await;
}

/// The node dies once in each rotation, each time at another moment; clients connect all the time.
async fn every(edge: Edge, death: Death, step: usize) {
    let node = edge.shop.company.node().await;
    edge.first(&node).await;
    node.drain(Duration::from_secs(10)).await.unwrap();
    let clients = edge.clients();
    let mut before = edge.shown().await;
    let mut deaths = 0;
    for moment in (1..DEATHS_MAX).step_by(step) {
        edge.look().await;
        let died = rotated(&edge.shop, death, moment).await;
        let now = edge.shown().await;
        let moment = format!("moment {moment}");
        assert_ne!(now[0], before[0], "{moment}");
        if edge.trust.has_lists() {
            assert!(edge.refused(&before).contains("Revoked"), "{moment}");
        }
        edge.is_tidy(&now, &moment).await;
        edge.revoked(&clients, &before);
        before = now;
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= if step == 1 { 4 } else { 2 }, "{deaths}");
    let handshakes = clients.stop().await;
    println!("{deaths} deaths, {handshakes} handshakes, none failed");
    edge.shop.company.remove().await;
}

async fn before_every_effect(on_postgres: bool) {
    let edge = Edge::open(on_postgres, "lifetime: 3d").await;
    every(edge, Death::Call { has_effect: false }, step(on_postgres)).await;
}

async fn after_every_effect(on_postgres: bool) {
    let edge = Edge::open(on_postgres, "lifetime: 3d").await;
    every(edge, Death::Call { has_effect: true }, step(on_postgres)).await;
}

async fn at_every_commit(on_postgres: bool) {
    let edge = Edge::open(on_postgres, "lifetime: 3d").await;
    every(edge, Death::Commit, 1).await;
}

/// As above, at every third call: an order takes its time.
async fn deaths_while_a_foreign_authority_issues(has_effect: bool) {
    let parts = ["certificate", "id", "key"];
    let edge = Edge::with(false, "jitter: 0s", &parts, true).await;
    every(edge, Death::Call { has_effect }, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_effects_at_a_foreign_authority() {
    deaths_while_a_foreign_authority_issues(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_effects_at_a_foreign_authority() {
    deaths_while_a_foreign_authority_issues(true).await;
}

on_both! {
    no_handshake_fails_while_certificates_are_issued_anew,
    a_server_that_goes_on_with_the_old_one_is_seen_and_waited_for,
    what_is_known_while_it_is_replaced_ends,
    what_an_ended_rotation_left_is_ended_by_the_next,
    a_place_that_is_set_up_for_something_else_is_told,
    before_every_effect,
    after_every_effect,
    at_every_commit,
}
