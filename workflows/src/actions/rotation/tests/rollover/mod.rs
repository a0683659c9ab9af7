//! One authority takes the place of another, between systems that are real: on both databases, through the death of the node at
//! every moment, and under clients that connect all the time.

mod bad_news;
mod dying;
mod live;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::{
    Attributes, Claim, CredentialId, CredentialKind, HandOver, Material, NativeId, NewCredential,
    Operation, StoredCredential, Verdict,
};
use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::runner::{Clock as _, Command, NodeHandle};
use serde_json::json;

use self::world::{NAME, TRUSTS, World, count, key};
use super::start;
use crate::directory::RotationRow;
use crate::nhi::declare;
use crate::rotation::{Exposed, Phase};
use crate::testbed::{Company, FastClock, More, actor, on_both};

const AUTHORITY: &str = "ca/authority";
const LEAF: &str = "ca/web";
/// How fast time goes: a second is a bit more than half an hour.
const SPEED: u32 = 2_000;

/// A certificate that somebody asks for by hand.
pub(super) fn asked(name: &str, holder: &str) -> NewCredential {
    NewCredential {
        account: NativeId::new(holder),
        kind: CredentialKind::Certificate,
        material: Material::BySystem,
        attributes: [("names".to_owned(), json!([name]))].into(),
        lifetime_s: None,
        label: None,
        into: HandOver::slot().0,
    }
}

fn declared(authority: &str, leaf: &str, port: u16) -> String {
    format!(
        "
nhis:
  - key: pki
    kind: workload
    environment: production
    purpose: certifies what runs inside
    team: platform
    owner: A1
    backup: B2
    review: 2027-01-31
    credentials:
      - system: ca
        id: authority
        kind: certificate
        replaced_by: four_phase
        used_by: [shop/web]
        rotation:
          place: {{ system: places, bundle: trust }}
          trusted_in: [{{ system: places, bundle: partners }}]
          users: [authority]
          {authority}
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
        id: web
        kind: certificate
        replaced_by: reissue
        minted_by: credential:ca/authority
        used_by: [shop/web]
        rotation:
          place: {{ system: places, bundle: web }}
          users: [web]
          attributes: {{ names: [{NAME}] }}
          serves: {{ system: edge, endpoint: '127.0.0.1:{port}?name={NAME}' }}
          {leaf}
"
    )
}

/// A company with an authority, whose certificate a server shows.
struct Realm {
    company: Company,
    clock: Arc<FastClock>,
    world: Arc<World>,
    /// The root of somebody else in the second place.
    other: String,
}

impl Realm {
    async fn open(on_postgres: bool, speed: u32, authority: &str, leaf: &str) -> Self {
        let clock = Arc::new(FastClock::new(start(), speed));
        let world = World::open(Arc::clone(&clock)).await;
        let systems = More(world.systems());
        let (company, node) = super::company(&clock, on_postgres, systems).await;
        let text = declared(authority, leaf, world.server.port);
        let systems = BTreeSet::from(["ca", "places", "edge"]);
        let all = declare::parse("nhis.yaml", &text, &systems).unwrap();
        let report = company
            .directory
            .declare(&all, &actor("user:ann"), "so", clock.now())
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
        let mut realm = Self {
            company,
            clock,
            world,
            other: String::new(),
        };
        // The first certificate makes the authority; from then on it is trusted.
        realm.plan().await;
        realm.ask(LEAF, false).await;
        realm.until(&node, LEAF, Phase::Closed).await;
        realm.other = realm.world.first_trust().await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        realm.holds();
        realm
    }

    async fn plan(&self) {
        let now = self.clock.now();
        self.company.directory.plan_rotations(now).await.unwrap();
    }

    async fn ask(&self, named: &str, compromised: bool) {
        let exposed = compromised.then_some(Exposed::Both);
        self.say(named, exposed).await;
    }

    /// Asks for it, perhaps because strangers know one of two; gives whether it begins.
    async fn say(&self, named: &str, exposed: Option<Exposed>) -> bool {
        let by = Actor("user:ann".into());
        let directory = &self.company.directory;
        let asked = directory
            .ask_rotation(named, exposed, &by, "because", self.clock.now())
            .await;
        asked.unwrap().unwrap().begins
    }

    async fn row(&self, named: &str) -> RotationRow {
        let row = self.company.directory.rotation(named).await.unwrap();
        row.unwrap()
    }

    async fn until(&self, node: &NodeHandle, named: &str, phase: Phase) -> RotationRow {
        for _ in 0..12_000 {
            let row = self.row(named).await;
            if row.phase == phase {
                return row;
            }
            node.nudge();
            // sleeps: between two looks at the rotation
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{:?}, not {phase:?}\n{}\n{:?}",
            self.row(named).await,
            self.company.failures().await,
            self.world.broken.lock().unwrap()
        );
    }

    /// Waits until something stands in a case.
    async fn told(&self, node: &NodeHandle, what: &str) {
        for _ in 0..6_000 {
            if self.company.failures().await.contains(what) {
                return;
            }
            node.nudge();
            // sleeps: between two looks at the case
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{}", self.company.failures().await);
    }

    fn jump(&self, node: &NodeHandle, to: Timestamp) {
        self.clock.jump(to);
        node.nudge();
    }

    async fn command(&self, command: Command) {
        let subject = format!("credential:{AUTHORITY}");
        let case = self.company.case("rotation_four_phase", &subject).await;
        self.company.command(&case, command).await;
    }

    /// Nothing was broken at any moment.
    #[track_caller]
    fn holds(&self) {
        assert_eq!(*self.world.broken.lock().unwrap(), Vec::<String>::new());
    }

    /// How many roots each place shows, and whether the root of somebody else is still among them.
    fn trusts(&self) -> (usize, usize) {
        let [first, second] = TRUSTS.map(|place| self.world.bundle(place));
        let line = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
        assert!(second.contains(&line(&self.other)), "{second}");
        (count(&first), count(&second) - 1)
    }

    async fn close(self, node: NodeHandle) {
        node.drain(Duration::from_secs(10)).await.unwrap();
        self.company.remove().await;
    }
}

async fn an_authority_is_replaced_in_four_phases(on_postgres: bool) {
    let terms = "overlap: { reload: 1h, derived: 3h }\n          soak: 7d\n          every: 90d";
    let realm = Realm::open(on_postgres, 100, terms, "every: 30d").await;
    let before = realm.world.generations().await;
    assert_eq!((before.len(), realm.trusts()), (1, (1, 1)));
    let leaf = realm.world.server.shown().unwrap();
    let node = realm.company.node().await;
    realm.ask(AUTHORITY, false).await;

    // 2: everybody trusts both, and nothing is signed by the new one before they had the time to read it.
    let row = realm.until(&node, AUTHORITY, Phase::Staged).await;
    assert_eq!(row.overlap_s, Some(3 * 3_600));
    assert_eq!(row.dominated_by.as_deref(), Some("derived"));
    assert_eq!(realm.trusts(), (2, 2));
    let both = realm.world.generations().await;
    assert_eq!((both.len(), &both[0]), (2, &before[0]));
    assert_eq!(realm.world.server.shown().as_ref(), Some(&leaf));

    // 3: the new one signs, and what the old one signed is issued anew by a rotation of its own.
    realm.jump(&node, realm.clock.now() + TimeDelta::hours(1));
    realm.until(&node, AUTHORITY, Phase::Overlap).await;
    assert_ne!(realm.world.server.shown(), Some(leaf.clone()));
    assert!(!realm.world.issued_to("web").await.contains(&leaf));
    realm.until(&node, LEAF, Phase::Closed).await;
    assert_eq!(realm.trusts(), (2, 2));

    // 4: nobody trusts the old one; it ends after a time.
    realm.jump(&node, realm.clock.now() + TimeDelta::hours(3));
    realm.until(&node, AUTHORITY, Phase::OldDisabled).await;
    assert_eq!(realm.trusts(), (1, 1));
    assert_eq!(realm.world.generations().await.len(), 2);
    realm.jump(&node, realm.clock.now() + TimeDelta::days(7));
    let closed = realm.until(&node, AUTHORITY, Phase::Closed).await;
    assert_eq!(realm.world.generations().await, both[1..]);
    assert!(closed.expires_at.unwrap() > realm.clock.now() + TimeDelta::days(1_800));
    assert_eq!((closed.failures, realm.trusts()), (0, (1, 1)));
    for place in TRUSTS {
        assert_eq!(realm.world.kept(place).await, 1, "{place}");
    }
    let old_key = realm.world.root.path().join("ca/g1/ca.key");
    assert!(!old_key.exists());
    realm.holds();
    realm.close(node).await;
}

async fn it_is_taken_back_and_everything_is_issued_anew_by_the_old_one(on_postgres: bool) {
    let terms = "soak: 7d\n          every: 90d";
    let realm = Realm::open(on_postgres, 100, terms, "every: 30d").await;
    let before = realm.world.generations().await;
    let node = realm.company.node().await;
    realm.ask(AUTHORITY, false).await;
    realm.until(&node, AUTHORITY, Phase::OldDisabled).await;
    let by_new = realm.world.server.shown().unwrap();
    assert_eq!(realm.trusts(), (1, 1));
    realm
        .command(Command::Undo {
            by: actor("user:ann"),
            reason: "an old device cannot read the new root".to_owned(),
        })
        .await;
    let row = realm.until(&node, AUTHORITY, Phase::RolledBack).await;
    assert_eq!((row.failures, row.last_rotated_at), (1, None));
    assert_eq!(realm.world.generations().await, before);
    assert!(!realm.world.issued_to("web").await.contains(&by_new));
    assert_ne!(realm.world.server.shown(), Some(by_new));
    assert_eq!(realm.trusts(), (1, 1));
    realm.holds();
    // The next time it comes to its end.
    realm.plan().await;
    realm.ask(AUTHORITY, false).await;
    realm.until(&node, AUTHORITY, Phase::OldDisabled).await;
    realm.jump(&node, realm.clock.now() + TimeDelta::days(7));
    realm.until(&node, AUTHORITY, Phase::Closed).await;
    assert_ne!(realm.world.generations().await, before);
    realm.holds();
    realm.close(node).await;
}

async fn what_nothing_replaces_is_told_and_waited_for(on_postgres: bool) {
    let realm = Realm::open(on_postgres, 100, "every: 90d", "every: 30d").await;
    // Somebody got a certificate that Tenure knows nothing of.
    let stray = Operation::IssueCredential(asked("old.example.org", "old"));
    realm.world.ca.apply(&stray, &key("stray")).await.unwrap();
    let stray = realm.world.issued_to("old").await.remove(0);
    let node = realm.company.node().await;
    realm.ask(AUTHORITY, false).await;
    realm.told(&node, "replaced by nothing").await;
    realm.told(&node, "of `old`").await;
    let row = realm.row(AUTHORITY).await;
    assert_eq!(row.phase, Phase::Promoted);
    assert_eq!(row.dominated_by.as_deref(), Some("leaf"));
    assert!(row.overlap_s.unwrap() > 29 * 86_400, "{row:?}");
    assert_eq!(realm.trusts(), (2, 2));
    let destroy = Operation::DestroyCredential {
        account: NativeId::new("old"),
        credential: stray,
    };
    realm
        .world
        .ca
        .apply(&destroy, &key("by hand"))
        .await
        .unwrap();
    realm.until(&node, AUTHORITY, Phase::Closed).await;
    assert_eq!(
        (realm.world.generations().await.len(), realm.trusts()),
        (1, (1, 1))
    );
    realm.holds();
    realm.close(node).await;
}

async fn what_was_left_is_taken_up_and_not_made_again(on_postgres: bool) {
    let terms = "overlap: { reload: 1d }\n          every: 90d";
    let realm = Realm::open(on_postgres, 100, terms, "every: 30d").await;
    let node = realm.company.node().await;
    let mut left: Vec<CredentialId> = Vec::new();
    for phase in [Phase::Staged, Phase::Overlap] {
        realm.ask(AUTHORITY, false).await;
        realm.until(&node, AUTHORITY, Phase::Staged).await;
        if phase == Phase::Overlap {
            realm.jump(&node, realm.clock.now() + TimeDelta::days(1));
            realm.until(&node, AUTHORITY, Phase::Overlap).await;
        }
        realm
            .command(Command::Cancel {
                by: actor("user:ann"),
                reason: "not today".to_owned(),
            })
            .await;
        realm.until(&node, AUTHORITY, Phase::Abandoned).await;
        let now = realm.world.generations().await;
        assert_eq!(now.len(), 2);
        assert!(left.is_empty() || left == now, "{left:?} {now:?}");
        left = now;
    }
    realm.plan().await;
    realm.ask(AUTHORITY, false).await;
    for phase in [Phase::Staged, Phase::Overlap] {
        realm.until(&node, AUTHORITY, phase).await;
        realm.jump(&node, realm.clock.now() + TimeDelta::days(1));
    }
    realm.until(&node, AUTHORITY, Phase::Closed).await;
    assert_eq!(realm.world.generations().await, left[1..]);
    realm.holds();
    realm.close(node).await;
}

async fn when_strangers_have_its_key_nothing_is_waited_for(on_postgres: bool) {
    let terms = "overlap: { reload: 7d }
          soak: 30d
          every: 90d
          approval: true";
    let realm = Realm::open(on_postgres, 100, terms, "every: 30d").await;
    let before = realm.world.generations().await;
    let leaf = realm.world.server.shown().unwrap();
    let node = realm.company.node().await;
    realm.ask(AUTHORITY, true).await;
    let closed = realm.until(&node, AUTHORITY, Phase::Closed).await;
    assert!(
        realm.clock.now() < start() + TimeDelta::days(1),
        "{closed:?}"
    );
    let after = realm.world.generations().await;
    assert_eq!((after.len(), realm.trusts()), (1, (1, 1)));
    assert_ne!(after, before);
    assert!(!realm.world.issued_to("web").await.contains(&leaf));
    realm.holds();
    realm.close(node).await;
}

/// What looks on sees what must not be: a bundle that does not trust what is served, and a third authority.
async fn what_looks_on_is_not_blind(on_postgres: bool) {
    let realm = Realm::open(on_postgres, 100, "every: 90d", "every: 30d").await;
    let systems = realm.world.systems();
    let [ca, places] = ["ca", "places"].map(|name| {
        let found = systems.iter().find(|(known, _)| *known == name);
        Arc::clone(&found.unwrap().1)
    });
    let authority = NativeId::new("authority");
    let next = NewCredential {
        attributes: Attributes::new(),
        ..asked("", "authority")
    };
    ca.apply(&Operation::IssueCredential(next), &key("next"))
        .await
        .unwrap();
    realm.holds();
    let new = realm.world.generations().await.remove(1);
    let claim = Claim::CredentialActive {
        account: authority,
        credential: new,
    };
    let Verdict::Refuted(seen) = ca.verify(&claim).await.unwrap() else {
        panic!("it signs already");
    };
    let root = seen.certificate().unwrap().to_owned();
    let (account, credential) = (NativeId::new(TRUSTS[0]), CredentialId::new("too-early"));
    let store = Operation::StoreCredential(StoredCredential {
        account: account.clone(),
        credential: credential.clone(),
        parts: [("bundle".to_owned(), root.clone().into())].into(),
    });
    places.apply(&store, &key("store")).await.unwrap();
    realm.holds();
    let show = Operation::ActivateCredential {
        account,
        credential,
    };
    places.apply(&show, &key("show")).await.unwrap();
    let broken = realm.world.broken.lock().unwrap().clone();
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(
        broken[0].starts_with("trust does not accept it after activate_credential"),
        "{broken:?}"
    );
    // And so does a client.
    let now = realm.clock.now();
    assert!(realm.world.server.connect(&root, now).await.is_err());
    let good = realm.world.bundle(TRUSTS[1]);
    assert_eq!(realm.world.server.connect(&good, now).await, Ok(()));
    realm.company.remove().await;
}

on_both! {
    what_looks_on_is_not_blind,
    an_authority_is_replaced_in_four_phases,
    it_is_taken_back_and_everything_is_issued_anew_by_the_old_one,
    what_nothing_replaces_is_told_and_waited_for,
    what_was_left_is_taken_up_and_not_made_again,
    when_strangers_have_its_key_nothing_is_waited_for,
}
