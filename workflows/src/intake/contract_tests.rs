//! Contractors, from what is said about them to what they have and who is told, on virtual time, on both databases.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use engine::core::Timestamp;
use engine::core::id::{Place, StepIndex};
use engine::evidence::salted_digest;
use engine::runner::{Clock as _, Command, NodeHandle};
use engine::store::{CaseFilter, CaseSummary, SHARDS_DEFAULT};
use serde_json::{Value, json};

use super::{ExtendError, Extension, ExtensionInput, Intake, PolicyCell};
use crate::actions::IdentityActions;
use crate::notices::{
    NoticeFilter, NoticeRow, Notices, NotificationSettings, Outbox, Router, Sponsors, kind,
};
use crate::policy::{AttributeDeclaration, AttributeKind, ExtensionRefused, PolicySet};
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, FastClock, Leaving, ROLES, actor, on_both, schema};

const CONTRACTORS: &str = "
contractors:
  sponsor: sponsor
  purchase: [order, project]
  notices: [30d, 7d, 1d]
  owner: role:vendors
  extension: { max: 60d }
";

const SETTINGS: &str = "
email: { server: 127.0.0.1, tls: none, from: tenure@example.org }
roles: { vendors: [vendors@example.org] }
";

fn moment(day: i64) -> Timestamp {
    "2026-03-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(day)
}

const PREPARE: &str = "
name: prepare
on: [contract.start]
ahead: 7d
steps: [{ id: look, uses: access.plan }]
";

fn policy() -> PolicySet {
    policy_of(CONTRACTORS)
}

fn policy_of(contractors: &str) -> PolicySet {
    let declared = ["sponsor", "order", "project"].map(|name| {
        let text = AttributeDeclaration::optional(AttributeKind::Text);
        (name.to_owned(), text)
    });
    let schema = schema(&["ldap", "scim"]).with_source(&declared.into());
    let files = [
        ("roles.yaml".to_owned(), ROLES.to_owned()),
        ("contractors.yaml".to_owned(), contractors.to_owned()),
    ];
    // Rules of the roles ask for attributes that one source alone delivers.
    PolicySet::load(&files, &schema).unwrap()
}

fn notices() -> Arc<Notices> {
    let settings: NotificationSettings = serde_saphyr::from_str(SETTINGS).unwrap();
    let schema = schema(&["ldap"]);
    Arc::new(Notices::load(Some(settings), &[], &schema, &[]).unwrap())
}

/// The company, its time, and its intake with the rules for contractors.
struct World {
    company: Company,
    clock: Arc<FastClock>,
    policy: PolicyCell,
    intake: Intake,
    outbox: Outbox,
    router: Router,
    node: NodeHandle,
    said: i64,
}

impl World {
    async fn new(on_postgres: bool) -> Self {
        let clock = Arc::new(FastClock::new(moment(0), 1));
        let own = Leaving {
            workflows: &[("prepare.yaml", PREPARE)],
            ..Leaving::default()
        };
        let mut company = Company::leaving(clock.clone(), on_postgres, own).await;
        let notices = notices();
        let policy = PolicyCell::new(Arc::new(policy()));
        let intake = company
            .intake
            .clone()
            .with_contracts(policy.clone(), Arc::clone(&notices));
        let outbox = Outbox::new(company.directory.clone());
        let actions = IdentityActions::new(
            company.directory.clone(),
            company.actions.systems_shared(),
            company.policy.get().unwrap(),
            clock.clone(),
        );
        company.actions = Arc::new(actions.with_intake(intake.clone()));
        Self {
            node: company.node().await,
            router: Router::new(outbox.clone(), notices, Vec::new()),
            company,
            clock,
            policy,
            intake,
            outbox,
            said: 0,
        }
    }

    /// Goes to a day, and waits until all that follows is done.
    async fn go_to(&self, at: Timestamp) {
        self.clock.jump(at);
        self.intake.start_due(self.clock.now()).await.unwrap();
        self.settled().await;
    }

    async fn settled(&self) {
        self.node.nudge();
        let open = CaseFilter {
            open_only: true,
            ..CaseFilter::default()
        };
        for _ in 0..1_000 {
            assert!(self.node.idle().await);
            let found = self.company.store.list(&open, None, 1).await.unwrap();
            if found.is_empty() {
                return;
            }
            // sleeps: a case waits for its time
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{}", self.company.failures().await);
    }

    /// Says something of `C1`, to hold from a day on.
    async fn say(&mut self, event_type: EventType, from: i64, data: Value) {
        self.say_of("C1", event_type, from, data).await;
    }

    async fn say_of(&mut self, key: &str, event_type: EventType, from: i64, data: Value) {
        self.tell(key, event_type, from, data).await;
        self.settled().await;
    }

    async fn tell(&mut self, key: &str, event_type: EventType, from: i64, data: Value) {
        self.said += 1;
        let now = self.clock.now();
        let event = BusinessEvent {
            id: format!("e{}", self.said),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new(key),
            occurred_at: now,
            effective_at: moment(from),
            zone: "UTC".to_owned(),
            version: self.said,
            supersedes: None,
            data,
        };
        let by = actor("hr");
        self.intake.event(&event, &by, now).await.unwrap();
        self.node.nudge();
        assert!(self.node.idle().await);
    }

    fn access(&self) -> Vec<String> {
        self.company.ldap.shown()
    }

    async fn rows(&self, name: &str) -> Vec<NoticeRow> {
        let filter = NoticeFilter {
            name: Some(name.to_owned()),
            ..NoticeFilter::default()
        };
        let mut rows = self.outbox.list(&filter, None, 100).await.unwrap();
        rows.sort_by_key(|row| row.due_at);
        rows
    }

    /// The notices of ends, each as `before day state`.
    async fn ends(&self) -> Vec<String> {
        let rows = self.rows(kind::CONTRACT_ENDING).await;
        rows.iter()
            .map(|row| {
                let before = row.vars["before"].as_str().unwrap();
                let day = (row.due_at - moment(0)).num_days();
                format!("{before} {day} {}", row.state.as_str())
            })
            .collect()
    }

    async fn route(&self) {
        let shards: Vec<i32> = (0..i32::try_from(SHARDS_DEFAULT).unwrap()).collect();
        self.router.look(&shards, self.clock.now()).await.unwrap();
    }

    async fn end(self) {
        self.node.drain(Duration::from_secs(10)).await.unwrap();
        self.company.remove().await;
    }
}

fn attributes(more: Value) -> Value {
    let mut attributes = json!({ "type": "contractor", "name": "Cy", "department": "Sales" });
    if let (Value::Object(all), Value::Object(more)) = (&mut attributes, more) {
        all.extend(more);
    }
    json!({ "attributes": attributes })
}

async fn nothing_begins_before_its_end_is_known(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let nothing: [&str; 0] = [];
    world
        .say(
            EventType::ContractStart,
            0,
            attributes(json!({ "sponsor": "S1" })),
        )
        .await;
    assert_eq!(world.access(), nothing);
    assert_eq!(world.company.cases().await.len(), 0);
    let told = world.rows(kind::CONTRACT_INCOMPLETE).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].recipient, "role:vendors");
    assert_eq!(
        told[0].vars["missing"],
        json!([
            "the end of the contract",
            "`order` or `project`: what the work is bought for"
        ])
    );
    // Half of it is not enough, and told as what it is.
    world
        .say(
            EventType::ContractExpired,
            60,
            json!({ "last_day": "2026-04-29" }),
        )
        .await;
    assert_eq!(world.access(), nothing);
    assert_eq!(world.rows(kind::CONTRACT_INCOMPLETE).await.len(), 2);
    // Time alone changes nothing.
    world.go_to(moment(5)).await;
    assert_eq!(world.access(), nothing);
    let whole = json!({ "changes": { "order": { "from": null, "to": "PO-1" } } });
    world.say(EventType::Transfer, 5, whole).await;
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    assert_eq!(world.rows(kind::CONTRACT_INCOMPLETE).await.len(), 2);
    // It ends on the instant, and not before.
    world.go_to(moment(60) - TimeDelta::seconds(2)).await;
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    world.go_to(moment(60)).await;
    assert_eq!(world.access(), ["c1: off"]);
    world.end().await;
}

async fn whoever_answers_for_them_is_told_and_once(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let whole = attributes(json!({ "sponsor": "S1", "order": "PO-1" }));
    world.say(EventType::ContractStart, 0, whole).await;
    world
        .say(
            EventType::ContractExpired,
            60,
            json!({ "last_day": "2026-04-29" }),
        )
        .await;
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    let planned = ["30d 30 waiting", "7d 53 waiting", "1d 59 waiting"];
    assert_eq!(world.ends().await, planned);
    assert_eq!(
        world.rows(kind::CONTRACT_ENDING).await[0].recipient,
        "sponsor|role:vendors"
    );
    // Whatever else is said, and however often.
    let changed = json!({ "changes": { "department": { "from": "Sales", "to": "Engineering" } } });
    world.say(EventType::Transfer, 0, changed).await;
    assert_eq!(world.ends().await, planned);
    world.go_to(moment(30)).await;
    world.route().await;
    world.route().await;
    assert_eq!(world.ends().await[0], "30d 30 sending");
    let told = world
        .outbox
        .detail(world.rows(kind::CONTRACT_ENDING).await.remove(0))
        .await;
    let told = told.unwrap().deliveries;
    // Nobody is known as S1: whom the policy names is told instead, and why.
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].address, "vendors@example.org");
    assert_eq!(
        told[0].instead_of.as_deref(),
        Some("nobody is known as `S1`")
    );
    // The end moves: what was planned for the old one is void, and the new one has its own.
    let extend = async |world: &World, until: &str| {
        let asked = ExtensionInput {
            identity: "C1".to_owned(),
            name: "Cy".to_owned(),
            contract: None,
            until: until.parse::<NaiveDate>().unwrap(),
            ends: moment(60),
            reason: "goes on".to_owned(),
            asked_by: "cli:ann".to_owned(),
            ask: "role:vendors".to_owned(),
        };
        let (intake, by) = (&world.intake, ["cli:bo".to_owned()]);
        intake.extend_contract(&asked, &by, world.clock.now()).await
    };
    let refused = extend(&world, "2026-07-30").await.unwrap_err();
    assert!(
        matches!(
            refused,
            ExtendError::Refused(ExtensionRefused::TooLong { .. })
        ),
        "{refused}"
    );
    let extended = extend(&world, "2026-06-08").await.unwrap();
    assert_eq!((extended.from, extended.to), (moment(60), moment(100)));
    world.settled().await;
    let again = extend(&world, "2026-06-08").await.unwrap();
    assert!(again.unchanged);
    assert_eq!(
        world.ends().await,
        [
            "30d 30 sending",
            "7d 53 waiting",
            "1d 59 waiting",
            "30d 70 waiting",
            "7d 93 waiting",
            "1d 99 waiting"
        ]
    );
    world.go_to(moment(60)).await;
    world.route().await;
    assert_eq!(world.access(), ["c1: on engineers staff"]);
    let ends = world.ends().await;
    assert_eq!(ends[1..3], ["7d 53 void", "1d 59 void"]);
    world.go_to(moment(99)).await;
    world.route().await;
    assert_eq!(world.ends().await[5], "1d 99 sending");
    world.go_to(moment(100)).await;
    assert_eq!(world.access(), ["c1: off"]);
    assert!(extend(&world, "2026-07-01").await.is_err());
    world.end().await;
}

async fn a_sponsor_who_is_gone_is_noticed_and_noticed_again(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let whole = attributes(json!({ "sponsor": "S1", "order": "PO-1" }));
    world.say(EventType::ContractStart, 0, whole).await;
    world
        .say(
            EventType::ContractExpired,
            60,
            json!({ "last_day": "2026-04-29" }),
        )
        .await;
    let sponsor = |department: &str| json!({ "attributes": { "type": "employee", "name": "Sue", "department": department } });
    world.say_of("S1", EventType::Hire, 0, sponsor("Law")).await;
    let rules = policy().contracts().unwrap().clone();
    let sponsors = Sponsors::new(world.outbox.clone(), notices(), rules);
    let shards: Vec<i32> = (0..i32::try_from(SHARDS_DEFAULT).unwrap()).collect();
    let told = async |world: &World| {
        let rows = world.rows(kind::CONTRACT_SPONSOR_GONE).await;
        let mut told: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {}", row.vars["late"], row.recipient))
            .collect();
        told.sort();
        told
    };
    assert_eq!(sponsors.look(&shards, world.clock.now()).await.unwrap(), 0);
    world
        .say_of("S1", EventType::TerminationEffective, 0, json!({}))
        .await;
    for _ in 0..2 {
        assert_eq!(sponsors.look(&shards, world.clock.now()).await.unwrap(), 1);
        assert_eq!(told(&world).await, ["false sponsor|role:vendors"]);
    }
    world.go_to(moment(14) + TimeDelta::minutes(1)).await;
    for _ in 0..2 {
        sponsors.look(&shards, world.clock.now()).await.unwrap();
    }
    assert_eq!(
        told(&world).await,
        ["false sponsor|role:vendors", "true role:vendors"]
    );
    // Access is not taken for it.
    assert!(world.access().contains(&"c1: on sellers staff".to_owned()));
    world.end().await;
}

async fn contracts_that_follow_each_other_have_one_end(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let with = |contract: &str| {
        let mut data = attributes(json!({ "sponsor": "S1", "order": "PO-1" }));
        data["contract"] = json!(contract);
        data
    };
    world.say(EventType::ContractStart, 0, with("A")).await;
    let ends = |contract: &str, day: &str| json!({ "contract": contract, "last_day": day });
    world
        .say(EventType::ContractExpired, 40, ends("A", "2026-04-09"))
        .await;
    world.say(EventType::ContractStart, 40, with("B")).await;
    world
        .say(EventType::ContractExpired, 80, ends("B", "2026-05-19"))
        .await;
    world.go_to(moment(39)).await;
    world.route().await;
    let sent = |rows: Vec<String>| {
        let sent = rows.into_iter().filter(|row| row.ends_with("sending"));
        sent.collect::<Vec<_>>()
    };
    // That A ends takes nothing from anybody, as long as it is known that B follows.
    assert_eq!(sent(world.ends().await), [""; 0]);
    world.go_to(moment(41)).await;
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    for day in [50, 73] {
        world.go_to(moment(day)).await;
        world.route().await;
    }
    assert_eq!(
        sent(world.ends().await),
        ["30d 50 sending", "7d 73 sending"]
    );
    world.go_to(moment(80)).await;
    assert_eq!(world.access(), ["c1: off"]);
    world.end().await;
}

impl World {
    /// Somebody asks for the contract of `C1` to end later; gives the case.
    async fn ask(&self, by: &str, until: &str) -> Result<Option<CaseSummary>, ExtendError> {
        let extension = Extension {
            key: "C1",
            contract: None,
            ends: None,
            until: until.parse().unwrap(),
        };
        let (by, now) = (actor(by), self.clock.now());
        let asked = self
            .intake
            .ask_for_extension(&extension, "goes on", &by, now)
            .await?;
        self.node.nudge();
        assert!(self.node.idle().await);
        let cases = self.company.cases().await;
        Ok(cases
            .into_iter()
            .find(|case| Some(case.head.case) == asked.case))
    }

    async fn answer(&self, case: &CaseSummary, by: &str, approve: bool) -> String {
        let command = Command::Answer {
            place: Place::new(StepIndex(0), 0),
            by: actor(by),
            approve,
            note: String::new(),
        };
        self.company.command(case, command).await;
        self.node.nudge();
        assert!(self.node.idle().await);
        let cases = self.company.cases().await;
        let mut now = cases.iter().filter(|one| one.head.case == case.head.case);
        now.next().unwrap().state.state.as_str().to_owned()
    }
}

/// Nobody moves an end alone, and what is open about it holds up nothing.
async fn an_end_moves_when_somebody_else_agrees(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let whole = attributes(json!({ "sponsor": "S1", "order": "PO-1" }));
    world.say(EventType::ContractStart, 0, whole).await;
    let until = json!({ "last_day": "2026-04-29" });
    world.say(EventType::ContractExpired, 60, until).await;
    // Too far is not even asked, and what is so already asks nothing.
    let far = world.ask("cli:ann", "2026-07-30").await.unwrap_err();
    assert!(far.to_string().contains("more than 60d"), "{far}");
    assert!(world.ask("cli:ann", "2026-04-29").await.unwrap().is_none());
    let case = world.ask("cli:ann", "2026-06-08").await.unwrap().unwrap();
    let again = world.ask("cli:ann", "2026-06-08").await.unwrap().unwrap();
    assert_eq!(again.head.case, case.head.case);
    assert_eq!(case.head.subject.0, "contract:C1");
    let stored = world.company.store.load(case.head.shard, case.head.case);
    let question = stored.await.unwrap().unwrap().steps[0].body.clone();
    for part in [
        "role:vendors",
        "Cy (C1)",
        "2026-06-08",
        "cli:ann asks: goes on",
    ] {
        assert!(question.contains(part), "{question}");
    }
    // Whatever else happens to the person does not wait for the answer.
    let moved = json!({ "changes": { "department": { "from": "Sales", "to": "Engineering" } } });
    world.tell("C1", EventType::Transfer, 0, moved).await;
    assert_eq!(world.access(), ["c1: on engineers staff"]);
    let stands = world.ends().await.len();
    assert_eq!(world.answer(&case, "cli:ann", true).await, "running");
    assert_eq!(world.ends().await.len(), stands);
    assert_eq!(world.answer(&case, "token:bo", true).await, "succeeded");
    assert_eq!(world.ends().await.len(), 2 * stands);
    let person = world.company.directory.identity("C1").await.unwrap();
    let person = person.unwrap();
    assert_eq!(person.identity.source, "hr", "whose people they are stays");
    let mut events = person.events.iter();
    let moved = events.find(|row| row.event_type == EventType::ContractExtended);
    let moved = &moved.unwrap().data;
    assert_eq!(moved["asked_by"], "cli:ann");
    assert_eq!(moved["approved_by"], json!(["token:bo"]));
    // The leaf of it names both, each by a digest.
    let leaves = world
        .company
        .store
        .evidence(case.head.shard, case.head.case);
    let leaves: Vec<Value> = leaves
        .await
        .unwrap()
        .iter()
        .map(|row| serde_json::from_slice(&row.leaf).unwrap())
        .collect();
    let done = leaves
        .iter()
        .find(|leaf| leaf["operation"] == "extend_contract")
        .unwrap();
    let digest = |name: &str| json!(salted_digest(&case.head.salt, name.as_bytes()));
    assert_eq!(
        (&done["initiator"], &done["approver"], &done["reason"]),
        (&digest("cli:ann"), &digest("token:bo"), &digest("goes on"))
    );
    // What is rejected moves nothing, and neither does what the policy does not allow any more.
    let case = world.ask("cli:ann", "2026-06-20").await.unwrap().unwrap();
    assert_eq!(world.answer(&case, "token:bo", false).await, "undone");
    let case = world.ask("cli:ann", "2026-07-20").await.unwrap().unwrap();
    let strict = CONTRACTORS.replace("max: 60d", "max: 10d");
    world.policy.set(Arc::new(policy_of(&strict)));
    assert_eq!(world.answer(&case, "token:bo", true).await, "undone");
    assert_eq!(world.ends().await.len(), 2 * stands);
    world.go_to(moment(60)).await;
    assert_eq!(world.access(), ["c1: on engineers staff"]);
    world.go_to(moment(100)).await;
    assert_eq!(world.access(), ["c1: off"]);
    world.end().await;
}

/// What is prepared for a first day waits for the window as the day itself does.
async fn nothing_is_prepared_before_its_end_is_known(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let nothing: [&str; 0] = [];
    let start = attributes(json!({ "sponsor": "S1" }));
    world.say(EventType::ContractStart, 20, start).await;
    world.go_to(moment(13)).await;
    world.go_to(moment(14)).await;
    assert_eq!(world.company.shown().await, nothing);
    let until = json!({ "last_day": "2026-04-29" });
    world.say(EventType::ContractExpired, 60, until).await;
    assert_eq!(world.company.shown().await, nothing, "half of it");
    let order = json!({ "changes": { "order": { "from": null, "to": "PO-1" } } });
    world.say(EventType::Transfer, 14, order).await;
    assert_eq!(world.company.shown().await, ["prepare C1 succeeded"]);
    world.go_to(moment(20)).await;
    assert_eq!(
        world.company.shown().await,
        ["joiner C1 succeeded", "prepare C1 succeeded"]
    );
    world.end().await;
}

/// Who waits for what another policy does not ask for does not wait any more.
async fn another_policy_lets_go_on_who_waits(on_postgres: bool) {
    let mut world = World::new(on_postgres).await;
    let nothing: [&str; 0] = [];
    let start = attributes(json!({ "sponsor": "S1" }));
    world.say(EventType::ContractStart, 0, start.clone()).await;
    world
        .say_of("C2", EventType::ContractStart, 20, start)
        .await;
    for key in ["C1", "C2"] {
        let until = json!({ "last_day": "2026-04-29" });
        world
            .say_of(key, EventType::ContractExpired, 60, until)
            .await;
    }
    world.go_to(moment(13)).await;
    let reconsider = async |world: &World| {
        let now = world.clock.now();
        let cases = world.intake.reconsider(now).await.unwrap();
        world.settled().await;
        cases.into_iter().collect::<Vec<_>>()
    };
    // The same policy changes nothing.
    assert_eq!(reconsider(&world).await, []);
    assert_eq!(world.access(), nothing);
    let lenient = CONTRACTORS.replace("purchase: [order, project]", "purchase: []");
    world.policy.set(Arc::new(policy_of(&lenient)));
    let began = [("joiner".to_owned(), 1), ("prepare".to_owned(), 1)];
    assert_eq!(reconsider(&world).await, began);
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    assert_eq!(reconsider(&world).await, []);
    assert_eq!(
        world.company.shown().await,
        ["joiner C1 succeeded", "prepare C2 succeeded"]
    );
    // And what is asked for later is asked of those who begin later.
    world.policy.set(Arc::new(policy()));
    world.go_to(moment(20)).await;
    assert_eq!(world.access(), ["c1: on sellers staff"]);
    world.end().await;
}

on_both! {
    nothing_begins_before_its_end_is_known,
    whoever_answers_for_them_is_told_and_once,
    contracts_that_follow_each_other_have_one_end,
    a_sponsor_who_is_gone_is_noticed_and_noticed_again,
    nothing_is_prepared_before_its_end_is_known,
    another_policy_lets_go_on_who_waits,
    an_end_moves_when_somebody_else_agrees,
}
