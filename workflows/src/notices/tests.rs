//! From a transition to a message that was taken, on virtual time, on both databases.
//!
//! Longer than 800 lines: what can become of a message is one story, told with one set of helpers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::{ErrorKind, OperationName};
use engine::core::duration::Span;
use engine::core::id::{Actor, Place, StepIndex};
use engine::runner::{Clock, Command};
use engine::store::SHARDS_DEFAULT;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::sources::signature::SigningKey;
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, actor};

const SETTINGS: &str = "
email: { server: 127.0.0.1, tls: none, from: tenure@example.org }
roles:
  security: [sec@example.org, 'person:E2']
  operations: [ops@example.org]
fallback: [desk@example.org]
retry: { first: 30s, factor: 2, max: 5m, attempts: 4 }
give_up_after: 1h
quiet_hours: { from: '20:00', to: '07:00', zone: UTC, weekend: true }
";

/// Asks, tells, and does something that can fail.
const JOINER: &str = "
name: joiner
on: [hire]
on_failure: forward
steps:
  - id: begin
    uses: identity.activate
  - id: tell
    uses: notify
    needs: [begin]
    with: { to: [person, ann@example.org], subject: 'Welcome', text: 'On ${{ case.workflow }}', urgent: true }
  - id: hold
    uses: approval
    needs: [begin]
    with: { ask: [manager, 'role:security'], question: 'Let them in?', timeout: 8h }
  - id: make
    uses: account.create
    needs: [begin]
    with: { system: ldap }
";

/// The time of the tests.
struct Watch(Mutex<DateTime<Utc>>);

impl Clock for Watch {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// What came, and what is answered next; good when nothing is said.
#[derive(Clone, Default)]
struct Recorder {
    came: Arc<Mutex<Vec<Parcel>>>,
    answers: Arc<Mutex<VecDeque<Said>>>,
    away: Arc<AtomicBool>,
    /// It takes a message and never answers.
    mute: Arc<AtomicBool>,
}

#[async_trait]
impl Carrier for Recorder {
    fn way(&self) -> Way {
        Way::Email
    }

    fn limit(&self) -> TimeDelta {
        TimeDelta::seconds(30)
    }

    async fn open(&self) -> Result<Box<dyn Line>, Away> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Away("connection refused".to_owned()));
        }
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Line for Recorder {
    fn is_open(&self) -> bool {
        true
    }

    async fn send(&mut self, parcel: &Parcel) -> Said {
        self.came.lock().unwrap().push(parcel.clone());
        if self.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let next = self.answers.lock().unwrap().pop_front();
        next.unwrap_or(Said::Taken {
            answer: "250 OK".to_owned(),
        })
    }

    async fn close(&mut self) {}
}

struct Post {
    outbox: Outbox,
    notices: Arc<Notices>,
    clock: Arc<Watch>,
    recorder: Recorder,
    router: Router,
    courier: Courier,
}

fn shards() -> Vec<i32> {
    (0..i32::try_from(SHARDS_DEFAULT).unwrap()).collect()
}

fn notices(files: &[(&str, &str)]) -> Arc<Notices> {
    let settings: NotificationSettings = serde_saphyr::from_str(SETTINGS).unwrap();
    settings.check("tenure.yaml").unwrap();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let schema = crate::testbed::schema(&["ldap", "scim"]);
    Arc::new(Notices::load(Some(settings), &files, &schema, &[]).unwrap())
}

impl Post {
    fn new(company: &Company, at: &str) -> Self {
        Self::with(company, at, notices(&[]))
    }

    fn with(company: &Company, at: &str, notices: Arc<Notices>) -> Self {
        let outbox = Outbox::new(company.directory.clone());
        let clock = Arc::new(Watch(Mutex::new(at.parse().unwrap())));
        let recorder = Recorder::default();
        Self {
            router: Router::new(outbox.clone(), Arc::clone(&notices), Vec::new()),
            courier: Courier::new(
                outbox.clone(),
                Arc::clone(&notices),
                Box::new(recorder.clone()),
                "a",
                clock.clone(),
            ),
            outbox,
            notices,
            clock,
            recorder,
        }
    }

    fn go_to(&self, at: DateTime<Utc>) {
        *self.clock.0.lock().unwrap() = at;
    }

    fn wait(&self, delta: TimeDelta) {
        let now = self.clock.now();
        self.go_to(now + delta);
    }

    async fn put(&self, rows: &[NoticeRow]) {
        self.outbox.put(rows).await.unwrap();
    }

    /// One look and one round at the time it is.
    async fn turn(&mut self) -> Round {
        self.router.look(&shards(), self.clock.now()).await.unwrap();
        self.courier.round(&shards()).await.unwrap()
    }

    fn came(&self) -> Vec<Parcel> {
        std::mem::take(&mut self.recorder.came.lock().unwrap())
    }

    /// Each notice as `name to: state`, sorted.
    async fn shown(&self) -> Vec<String> {
        let rows = self
            .outbox
            .list(&NoticeFilter::default(), None, 1_000)
            .await;
        let mut shown: Vec<String> = rows
            .unwrap()
            .iter()
            .map(|row| format!("{} {}: {}", row.name, row.recipient, row.state.as_str()))
            .collect();
        shown.sort();
        shown
    }

    async fn only(&self) -> NoticeDetail {
        let rows = self.outbox.list(&NoticeFilter::default(), None, 10).await;
        let row = rows.unwrap().remove(0);
        self.outbox.detail(row).await.unwrap()
    }
}

/// A notice with a number, to `ops@example.org`.
fn row(number: u32, name: &str, at: DateTime<Utc>) -> NoticeRow {
    NoticeRow {
        shard_id: i32::try_from(number % SHARDS_DEFAULT).unwrap(),
        notice_id: format!("00000000-0000-0000-0000-{number:012}"),
        name: name.to_owned(),
        subject: None,
        case_id: None,
        workflow: Some("joiner".to_owned()),
        step: Some("make".to_owned()),
        place: None,
        recipient: "ops@example.org".to_owned(),
        urgent: name == kind::MESSAGE,
        revocation: false,
        vars: json!({ "subject": format!("number {number}"), "text": "Hello", "failure": "it broke", "uses": "x" }),
        open_until: None,
        ends_at: None,
        created_at: at,
        due_at: at,
        state: NoticeState::Waiting,
        reason: None,
        changed_at: at,
    }
}

fn later(answer: &str) -> Said {
    Said::NotNow {
        answer: answer.to_owned(),
        until: None,
    }
}

/// Makes of each test a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&super::company(false).await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let company = super::company(true).await;
                super::$name(&company).await;
                company.remove().await;
            })*
        }
    };
}

on_both! {
    a_case_tells_whom_it_concerns,
    what_parks_is_told_and_a_revocation_does_not_wait,
    a_night_is_one_message_in_the_morning,
    a_storm_is_a_few_messages,
    a_message_keeps_its_name_until_it_is_taken,
    what_is_refused_waits_for_a_person,
    a_way_that_is_away_burns_no_attempts,
    a_node_that_died_is_followed_by_another,
    two_couriers_send_once,
    what_is_over_is_forgotten,
    what_cannot_be_made_parks_alone,
    hostile_values_change_nothing_around_them,
    a_silence_is_told_once,
    the_link_of_a_mail_is_for_whom_it_was_sent_to,
}

async fn company(on_postgres: bool) -> Company {
    Company::with_workflows(&[("joiner.yaml", JOINER)], on_postgres).await
}

async fn run(company: &Company, notices: &Arc<Notices>, people: &[&str], cases: usize) {
    let written = Arc::new(Notify::new());
    let projection = Arc::new(NoticeProjection::new(Arc::clone(notices), written));
    let node = company.node_anew(projection, 3_000).await;
    company.import("2026-03-02", people).await;
    node.nudge();
    company
        .intake
        .start_due(crate::testbed::now())
        .await
        .unwrap();
    node.nudge();
    for _ in 0..1_500 {
        let found = company.cases().await;
        let asks = found.len() == cases && found.iter().all(|case| case.state.in_flight == 0);
        if asks && node.idle().await {
            break;
        }
        // sleeps: between two looks at the cases
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(node);
}

async fn a_case_tells_whom_it_concerns(company: &Company) {
    let notices = notices(&[]);
    run(company, &notices, &["E1,Ada,Engineering", "E2,Bo,Sales"], 2).await;
    company
        .run_sql("UPDATE identity SET attributes = '{\"email\": \"bo@example.org\", \"name\": \"Bo\"}' WHERE identity_key = 'E2'")
        .await;
    company
        .run_sql(
            "UPDATE identity SET attributes = '{\"manager\": \"E2\"}' WHERE identity_key = 'E1'",
        )
        .await;
    let now = crate::testbed::now();
    let mut post = Post::with(company, "2026-03-02T12:00:00Z", notices);
    post.go_to(now);
    let mut asked: Vec<String> = post.shown().await;
    asked.dedup();
    assert_eq!(
        asked,
        [
            "approval.asked manager: waiting",
            "approval.asked role:security: waiting",
            "approval.due manager: waiting",
            "approval.due role:security: waiting",
            "message ann@example.org: waiting",
            "message person: waiting",
        ]
    );
    post.turn().await;
    let came = post.came();
    let mut to: Vec<(String, String)> = came
        .iter()
        .map(|parcel| (parcel.address.clone(), parcel.says.subject.clone()))
        .collect();
    to.sort();
    let decide = "Please decide: Let them in?";
    assert_eq!(
        to,
        [
            ("ann@example.org", "Welcome"),
            ("ann@example.org", "Welcome"),
            ("bo@example.org", decide),
            ("bo@example.org", decide),
            ("bo@example.org", decide),
            ("bo@example.org", "Welcome"),
            // E1 has no address, E2 no manager.
            ("desk@example.org", decide),
            ("desk@example.org", "Welcome"),
            ("sec@example.org", decide),
            ("sec@example.org", decide),
        ]
        .map(|(to, subject)| (to.to_owned(), subject.to_owned()))
    );
    let instead = came
        .iter()
        .find(|parcel| parcel.address == "desk@example.org");
    let text = &instead.unwrap().says.text;
    assert!(text.contains("This comes to you because"), "{text}");
    let to_bo = came
        .iter()
        .find(|parcel| parcel.address == "bo@example.org" && parcel.says.subject == decide);
    assert!(to_bo.unwrap().says.text.starts_with("Hello Bo,\n"));
    // One of the two questions is answered before its reminder is due.
    let case = company.case("joiner", "E1").await;
    let node = company
        .node_anew(
            Arc::new(NoticeProjection::new(
                Arc::clone(&post.notices),
                Arc::default(),
            )),
            3_000,
        )
        .await;
    let answer = Command::Answer {
        place: Place::new(StepIndex(2), 0),
        by: Actor("bo".to_owned()),
        approve: true,
        note: String::new(),
    };
    company.command(&case, answer).await;
    node.nudge();
    for _ in 0..500 {
        if company.case("joiner", "E1").await.state.state.is_closed() {
            break;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(node);
    post.wait(TimeDelta::hours(4) + TimeDelta::minutes(1));
    post.turn().await;
    let subjects: BTreeSet<String> = (post.came().into_iter())
        .map(|parcel| format!("{} {}", parcel.address, &parcel.says.subject[..16]))
        .collect();
    let expected = ["bo@example.org", "desk@example.org", "sec@example.org"];
    assert_eq!(
        subjects,
        expected
            .map(|address| format!("{address} Still open until"))
            .into()
    );
    let shown = post.shown().await;
    let count = |text: &str| shown.iter().filter(|line| line.ends_with(text)).count();
    assert_eq!((count(": void"), count(": sent"), shown.len()), (2, 10, 12));
}

async fn what_parks_is_told_and_a_revocation_does_not_wait(company: &Company) {
    let notices = notices(&[]);
    company
        .ldap
        .fail(OperationName::CreateAccount, ErrorKind::Denied, 1_000);
    run(company, &notices, &["E1,Ada,Engineering"], 1).await;
    let mut post = Post::with(company, "2026-03-02T12:00:00Z", notices);
    post.go_to(crate::testbed::now());
    let mut rows = post
        .outbox
        .list(&NoticeFilter::default(), None, 100)
        .await
        .unwrap();
    rows.retain(|row| row.name == kind::CASE_PARKED);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].recipient, "role:operations");
    assert_eq!(rows[0].step.as_deref(), Some("make"));
    assert!(
        rows[0].vars["failure"]
            .as_str()
            .unwrap()
            .contains("told to fail")
    );
    assert!(!rows[0].urgent);
    // The same of a leaver.
    let at: DateTime<Utc> = "2026-03-07T23:00:00Z".parse().unwrap();
    post.go_to(at);
    let revocation = NoticeRow {
        urgent: true,
        revocation: true,
        ..row(1, kind::CASE_PARKED, at)
    };
    post.put(&[revocation, row(2, kind::CASE_PARKED, at)]).await;
    post.turn().await;
    let came = post.came();
    let ops: Vec<_> = came
        .iter()
        .filter(|parcel| parcel.address == "ops@example.org" && parcel.date == at)
        .collect();
    assert_eq!(ops.len(), 1, "{ops:#?}");
}

async fn a_night_is_one_message_in_the_morning(company: &Company) {
    // A Friday evening.
    let mut post = Post::new(company, "2026-03-06T21:00:00Z");
    let at = post.clock.now();
    post.put(&[row(1, kind::CASE_PARKED, at), row(2, kind::MESSAGE, at)])
        .await;
    post.turn().await;
    let came = post.came();
    assert_eq!(came.len(), 1, "the urgent one passes: {came:#?}");
    assert_eq!(came[0].says.subject, "number 2");
    let sunday = "2026-03-08T12:00:00Z".parse().unwrap();
    post.go_to(sunday);
    post.put(&[row(3, kind::CASE_PARKED, sunday)]).await;
    let round = post.turn().await;
    assert_eq!(post.came(), []);
    assert_eq!(
        round.next,
        Some("2026-03-09T07:00:00Z".parse().unwrap()),
        "Monday"
    );
    post.go_to("2026-03-09T06:59:59Z".parse().unwrap());
    assert_eq!(post.turn().await.tried, []);
    post.go_to("2026-03-09T07:00:00Z".parse().unwrap());
    let round = post.turn().await;
    assert_eq!(round.tried, [("digest".to_owned(), "sent")]);
    let came = post.came();
    assert_eq!(came.len(), 1);
    assert_eq!(came[0].says.subject, "2 notices from Tenure");
    assert_eq!(came[0].says.text.matches("it broke").count(), 2);
    assert!(
        post.shown()
            .await
            .iter()
            .all(|line| line.ends_with(": sent"))
    );
    // By day what may be gathered waits for its window, counted from the first.
    let noon: DateTime<Utc> = "2026-03-09T12:00:00Z".parse().unwrap();
    post.go_to(noon);
    post.put(&[row(4, kind::CASE_PARKED, noon)]).await;
    assert_eq!(post.turn().await.tried, []);
    post.wait(TimeDelta::minutes(4));
    post.put(&[row(5, kind::CASE_PARKED, post.clock.now())])
        .await;
    assert_eq!(post.turn().await.tried, []);
    post.wait(TimeDelta::minutes(1));
    assert_eq!(post.turn().await.tried.len(), 1);
    assert_eq!(post.came().len(), 1);
    // One alone is itself.
    let at = post.clock.now();
    post.put(&[row(6, kind::CASE_PARKED, at)]).await;
    post.turn().await;
    post.wait(TimeDelta::minutes(5));
    post.turn().await;
    assert!(post.came()[0].says.subject.starts_with("Parked: joiner"));
}

async fn a_storm_is_a_few_messages(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    let rows: Vec<NoticeRow> = (0..1_200).map(|n| row(n, kind::CASE_PARKED, at)).collect();
    post.put(&rows).await;
    for _ in 0..3 {
        post.router.look(&shards(), at).await.unwrap();
    }
    post.wait(TimeDelta::minutes(5));
    let mut came = Vec::new();
    for _ in 0..3 {
        post.courier.round(&shards()).await.unwrap();
        came.extend(post.came());
    }
    let subjects: Vec<&str> = came
        .iter()
        .map(|parcel| parcel.says.subject.as_str())
        .collect();
    assert_eq!(
        subjects,
        ["1000 notices from Tenure", "200 notices from Tenure"]
    );
    assert!(came[0].says.text.contains("... and 950 more"));
    let counts = post.outbox.counts().await.unwrap();
    assert_eq!(counts, []);
}

async fn a_message_keeps_its_name_until_it_is_taken(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    post.put(&[row(1, kind::MESSAGE, post.clock.now())]).await;
    *post.recorder.answers.lock().unwrap() = VecDeque::from([
        later("451 try later"),
        Said::Broken {
            reason: "reset".to_owned(),
        },
    ]);
    assert_eq!(post.turn().await.tried, [("message".to_owned(), "later")]);
    assert_eq!(post.turn().await.tried, [], "not before 30 s");
    post.wait(TimeDelta::seconds(30));
    let round = post.turn().await;
    assert_eq!(round.away.as_deref(), Some("reset"));
    let detail = post.only().await;
    assert_eq!(detail.deliveries[0].attempts, 2);
    assert_eq!(detail.deliveries[0].answer.as_deref(), Some("reset"));
    post.wait(TimeDelta::seconds(60));
    assert_eq!(post.turn().await.tried, [("message".to_owned(), "sent")]);
    let came = post.came();
    assert_eq!(came.len(), 3);
    let names: BTreeSet<&str> = came
        .iter()
        .map(|parcel| parcel.message_id.as_str())
        .collect();
    assert_eq!(names.len(), 1);
    let dates: BTreeSet<_> = came.iter().map(|parcel| parcel.date).collect();
    assert_eq!(dates.len(), 1);
    let detail = post.only().await;
    assert_eq!(detail.notice.state, NoticeState::Sent);
    assert_eq!(detail.deliveries[0].answer.as_deref(), Some("250 OK"));
    // The same cause again is the same notice.
    post.put(&[row(1, kind::MESSAGE, post.clock.now())]).await;
    post.turn().await;
    assert_eq!(post.came(), []);
}

/// A link stands in the mail, its hash in the database, and it is the same when the mail is sent again.
async fn the_link_of_a_mail_is_for_whom_it_was_sent_to(company: &Company) {
    let key = SigningKey::of_bytes(vec![7; 32]);
    let links = Arc::new(Links::new(key, "https://t.example/", Span::from_s(86_400)));
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    post.courier = post.courier.with_links(Some(Arc::clone(&links)));
    let now = post.clock.now();
    // Somebody who is there until then, so that the notice still holds.
    let contract = |event_type, at: DateTime<Utc>, version| BusinessEvent {
        id: format!("c{version}"),
        source: "hr".to_owned(),
        event_type,
        subject: Key::new("C1"),
        occurred_at: now,
        effective_at: at,
        zone: "UTC".to_owned(),
        version,
        supersedes: None,
        data: json!({ "attributes": { "name": "Cy", "department": "Law" } }),
    };
    let ends_at = now + TimeDelta::days(7);
    for event in [
        contract(EventType::ContractStart, now - TimeDelta::days(1), 1),
        contract(EventType::ContractExpired, ends_at, 2),
    ] {
        let told = company.intake.event(&event, &actor("hr"), now).await;
        told.unwrap();
    }
    let ending = NoticeRow {
        subject: Some("C1".to_owned()),
        vars: json!({ "end": ends_at, "before": "7d" }),
        ends_at: Some(ends_at),
        ..row(1, kind::CONTRACT_ENDING, now)
    };
    // Others have none.
    let other = row(2, kind::MESSAGE, now);
    post.put(&[ending, other]).await;
    *post.recorder.answers.lock().unwrap() = VecDeque::from([later("451"), later("451")]);
    post.turn().await;
    post.wait(TimeDelta::seconds(30));
    post.turn().await;
    let came = post.came();
    let linked = |parcel: &Parcel| {
        let (_, rest) = parcel
            .says
            .text
            .split_once("https://t.example/contract?t=")?;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let found: Vec<String> = came.iter().filter_map(linked).collect();
    assert_eq!((came.len(), found.len()), (4, 2), "{came:#?}");
    assert_eq!(found[0], found[1]);
    let html = came.iter().find_map(|parcel| {
        let html = parcel.says.html.as_ref()?;
        html.contains(&found[0]).then_some(())
    });
    assert!(html.is_some());
    let hash = links.read(&found[0], post.clock.now()).unwrap();
    assert!(!hash.contains(&found[0]));
    let kept = post.outbox.link(&hash).await.unwrap().unwrap();
    assert_eq!(
        (kept.address.as_str(), kept.identity_key.as_str()),
        ("ops@example.org", "C1")
    );
    assert_eq!((kept.ends_at, kept.used_at), (ends_at, None));
    assert!(kept.expires_at <= now + TimeDelta::days(1));
    post.outbox.forget_links(now).await.unwrap();
    assert!(post.outbox.link(&hash).await.unwrap().is_some());
    post.outbox
        .forget_links(now + TimeDelta::days(2))
        .await
        .unwrap();
    assert!(post.outbox.link(&hash).await.unwrap().is_none());
}

async fn what_is_refused_waits_for_a_person(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    let nobody = NoticeRow {
        recipient: "role:nobody".to_owned(),
        ..row(2, kind::MESSAGE, at)
    };
    post.put(&[row(1, kind::MESSAGE, at)]).await;
    let refused = Said::Refused {
        answer: "550 no such user".to_owned(),
    };
    *post.recorder.answers.lock().unwrap() = VecDeque::from([refused]);
    assert_eq!(post.turn().await.tried, [("message".to_owned(), "refused")]);
    let detail = post.only().await;
    assert_eq!(detail.notice.state, NoticeState::Parked);
    assert_eq!(
        detail.deliveries[0].answer.as_deref(),
        Some("550 no such user")
    );
    post.wait(TimeDelta::days(1));
    assert_eq!(post.turn().await.tried, [], "it stays");
    let first = post.came().remove(0);
    let by = Actor("cli:ann".to_owned());
    let now = post.clock.now();
    post.outbox
        .retry(&detail.notice, &by, "mended", now)
        .await
        .unwrap();
    assert_eq!(post.turn().await.tried, [("message".to_owned(), "sent")]);
    assert_eq!(post.came()[0].message_id, first.message_id);
    let detail = post.only().await;
    assert_eq!(detail.notice.state, NoticeState::Sent);
    let change = &detail.changes[0];
    assert_eq!(
        (
            change.actor.as_str(),
            change.action.as_str(),
            change.reason.as_str()
        ),
        ("cli:ann", "retry", "mended")
    );
    // Nobody, and no fallback.
    let mut settings: NotificationSettings = serde_saphyr::from_str(SETTINGS).unwrap();
    settings.fallback.clear();
    let schema = crate::testbed::schema(&["ldap"]);
    let alone = Arc::new(Notices::load(Some(settings), &[], &schema, &[]).unwrap());
    let mut other = Post::with(company, "2026-03-04T12:00:00Z", alone);
    other.put(std::slice::from_ref(&nobody)).await;
    other.turn().await;
    let row = other.outbox.find(&nobody.notice_id).await.unwrap();
    let Found::One(found) = row else {
        panic!("{row:?}")
    };
    assert_eq!(found.state, NoticeState::Undeliverable);
    assert_eq!(
        found.reason.as_deref(),
        Some("nobody stands behind role `nobody`; there is no `notifications.fallback` either")
    );
    assert!(matches!(
        other.outbox.find("00000000").await.unwrap(),
        Found::Several
    ));
    // With a fallback it is told that somebody else was meant.
    let now = post.clock.now();
    post.outbox
        .retry(&found, &by, "there is one now", now)
        .await
        .unwrap();
    post.turn().await;
    assert_eq!(post.came()[0].address, "desk@example.org");
}

async fn a_way_that_is_away_burns_no_attempts(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    post.recorder.away.store(true, Ordering::SeqCst);
    post.put(&[row(1, kind::MESSAGE, post.clock.now())]).await;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let round = post.turn().await;
        assert_eq!(round.away.as_deref(), Some("connection refused"));
        let next = round.next.unwrap();
        pauses.push((next - post.clock.now()).num_seconds());
        // Until then nobody even looks.
        assert_eq!(post.turn().await.away, None);
        post.go_to(next);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
    let detail = post.only().await;
    assert_eq!(
        (detail.notice.state, detail.deliveries[0].attempts),
        (NoticeState::Sending, 0)
    );
    // A way that opens and has nobody behind it is no better, and no worse.
    post.recorder.away.store(false, Ordering::SeqCst);
    let nobody = Said::NotSent {
        reason: "connection refused".to_owned(),
    };
    *post.recorder.answers.lock().unwrap() = VecDeque::from([nobody]);
    let round = post.turn().await;
    assert_eq!(round.tried, [("message".to_owned(), "not_sent")]);
    assert_eq!(post.only().await.deliveries[0].attempts, 0);
    // It is there again before the hour is over.
    post.recorder.away.store(false, Ordering::SeqCst);
    post.wait(TimeDelta::minutes(5));
    assert_eq!(post.turn().await.tried.len(), 1);
    // An hour of it parks.
    post.recorder.away.store(true, Ordering::SeqCst);
    post.put(&[row(2, kind::MESSAGE, post.clock.now())]).await;
    post.turn().await;
    post.wait(TimeDelta::hours(1));
    post.turn().await;
    assert_eq!(
        post.shown().await,
        [
            "message ops@example.org: parked",
            "message ops@example.org: sent"
        ]
    );
    let detail = post.only().await;
    assert_eq!(
        detail.deliveries[0].answer.as_deref(),
        Some("not sent in 1h: connection refused")
    );
}

async fn a_node_that_died_is_followed_by_another(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    post.put(&[row(1, kind::MESSAGE, post.clock.now())]).await;
    post.recorder.mute.store(true, Ordering::SeqCst);
    post.router.look(&shards(), post.clock.now()).await.unwrap();
    let dying = shards();
    tokio::select! {
        round = post.courier.round(&dying) => panic!("{round:?}"),
        // sleeps: the message is out, and the node that waits for its answer dies
        () = async { while post.recorder.came.lock().unwrap().is_empty() { tokio::time::sleep(std::time::Duration::from_millis(5)).await; } } => {}
    }
    assert_eq!(
        post.only().await.deliveries[0].state,
        DeliveryState::Sending
    );
    post.recorder.mute.store(false, Ordering::SeqCst);
    // The same name: it may still be sending. Another one took its shards over, so it is not.
    assert_eq!(post.turn().await.tried, []);
    let mut heir = Courier::new(
        post.outbox.clone(),
        Arc::clone(&post.notices),
        Box::new(post.recorder.clone()),
        "b",
        post.clock.clone(),
    );
    let round = heir.round(&shards()).await.unwrap();
    assert_eq!(round.tried, [("message".to_owned(), "sent")]);
    let came = post.came();
    assert_eq!(came.len(), 2);
    assert_eq!(came[0].message_id, came[1].message_id);
    assert_eq!(came[0].says, came[1].says);
    assert_eq!(post.only().await.notice.state, NoticeState::Sent);
}

async fn two_couriers_send_once(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    let rows: Vec<NoticeRow> = (0..20).map(|n| row(n, kind::MESSAGE, at)).collect();
    post.put(&rows).await;
    post.router.look(&shards(), at).await.unwrap();
    let second = Router::new(post.outbox.clone(), Arc::clone(&post.notices), Vec::new());
    second.look(&shards(), at).await.unwrap();
    let mut other = Courier::new(
        post.outbox.clone(),
        Arc::clone(&post.notices),
        Box::new(post.recorder.clone()),
        "a",
        post.clock.clone(),
    );
    let all = shards();
    let (one, two) = tokio::join!(post.courier.round(&all), other.round(&all));
    let tried = one.unwrap().tried.len() + two.unwrap().tried.len();
    let mut names: Vec<String> = post
        .came()
        .into_iter()
        .map(|parcel| parcel.message_id)
        .collect();
    names.sort();
    names.dedup();
    assert_eq!((tried, names.len()), (20, 20));
}

async fn what_is_over_is_forgotten(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    post.put(&[row(1, kind::MESSAGE, post.clock.now())]).await;
    post.turn().await;
    let waits = NoticeRow {
        due_at: "2027-01-01T00:00:00Z".parse().unwrap(),
        ..row(2, kind::MESSAGE, post.clock.now())
    };
    post.put(&[waits]).await;
    let before = post.clock.now();
    assert_eq!(post.outbox.forget(&shards(), before).await.unwrap(), 0);
    let after = before + TimeDelta::seconds(1);
    assert_eq!(post.outbox.forget(&[200], after).await.unwrap(), 0);
    assert_eq!(post.outbox.forget(&shards(), after).await.unwrap(), 1);
    assert_eq!(post.shown().await, ["message ops@example.org: waiting"]);
}

async fn what_cannot_be_made_parks_alone(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    post.put(&[row(1, "gone", at), row(2, kind::MESSAGE, at)])
        .await;
    let mut tried = post.turn().await.tried;
    tried.sort();
    // Before the quiet hours nothing is gathered.
    assert_eq!(
        tried,
        [
            ("message".to_owned(), "sent"),
            ("unknown".to_owned(), "refused")
        ]
    );
    let shown = post.shown().await;
    assert_eq!(
        shown,
        [
            "gone ops@example.org: parked",
            "message ops@example.org: sent"
        ]
    );
}

async fn hostile_values_change_nothing_around_them(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    let mut hostile = row(1, kind::MESSAGE, at);
    hostile.vars = json!({ "subject": "a\r\nBcc: x@example.org\u{202e}", "text": "<script>{{ link }}{% raw %}</script>" });
    let bad = NoticeRow {
        recipient: "person:a\nb".to_owned(),
        ..row(2, kind::MESSAGE, at)
    };
    post.put(&[hostile, bad]).await;
    post.turn().await;
    let came = post.came();
    let parcel = came
        .iter()
        .find(|parcel| parcel.address == "ops@example.org");
    let says = &parcel.unwrap().says;
    assert!(says.subject.starts_with("a Bcc: x@example.org"), "{says:?}");
    assert!(!says.subject.contains('\n'));
    assert!(says.text.contains("{{ link }}"));
    assert!(says.html.as_ref().unwrap().contains("&lt;script&gt;"));
    let other = came
        .iter()
        .find(|parcel| parcel.address == "desk@example.org");
    assert!(other.is_some(), "{came:#?}");
}

async fn a_silence_is_told_once(company: &Company) {
    let mut post = Post::new(company, "2026-03-02T12:00:00Z");
    let at = post.clock.now();
    company
        .intake
        .expect_sources(["hr", "vms"].into_iter(), at)
        .await
        .unwrap();
    let watched = vec![("hr".to_owned(), Span::from_s(86_400))];
    post.router = Router::new(
        post.outbox.clone(),
        Arc::clone(&post.notices),
        watched.clone(),
    );
    let looked = post.router.look(&shards(), at).await.unwrap();
    assert_eq!(looked.next, Some(at + TimeDelta::days(1)));
    assert_eq!(post.shown().await, [""; 0]);
    for _ in 0..2 {
        post.wait(TimeDelta::days(1));
        post.turn().await;
        // After a restart, too.
        post.router = Router::new(
            post.outbox.clone(),
            Arc::clone(&post.notices),
            watched.clone(),
        );
    }
    let told = ["source.silent role:operations: sent"];
    assert_eq!(post.shown().await, told);
    let came = post.came();
    assert_eq!(came[0].says.subject, "Silent: hr");
    let since = "since Mon 2 Mar 2026 12:00 UTC";
    assert!(came[0].says.text.contains(since), "{}", came[0].says.text);
    // It is heard, and falls silent again.
    let now = post.clock.now();
    company.intake.heard("hr", now, false).await.unwrap();
    post.turn().await;
    post.wait(TimeDelta::days(1));
    post.turn().await;
    assert_eq!(post.shown().await, [told[0], told[0]]);
}

#[test]
fn a_step_that_names_nobody_is_told() {
    let check = |with: Value, expected: &str| {
        let error = NotifyStep::read(&Value::Null, &with).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(json!({}), "`notify` names nobody");
    check(json!({ "to": [] }), "names 0");
    check(json!({ "to": "mangaer" }), "did you mean `manager`?");
    check(json!({ "to": ["a@b@c"] }), "no address for mail");
    check(json!({ "to": 7 }), "names nobody");
    check(json!({ "to": [7] }), "nobody to tell");
    check(json!({ "to": "person", "vars": [] }), "is no map");
    check(json!({ "to": "person", "template": 1 }), "is no name");
    check(
        json!({ "to": "person", "text": "x".repeat(VARS_BYTES_MAX) }),
        "bytes, more than",
    );
    let step = NotifyStep::read(
        &json!({ "to": "owner", "system": "crm" }),
        &json!({ "template": "welcome", "vars": { "a": 1 } }),
    );
    let step = step.unwrap();
    assert_eq!((step.template.as_str(), step.to.len()), ("welcome", 1));
}

#[test]
fn what_a_workflow_tells_is_checked_when_it_is_read() {
    let workflow = "
name: w
steps:
  - { id: a, uses: notify, with: { to: [mangaer, '${{ input.who }}'], template: welcom } }
  - { id: b, uses: notify, with: { to: role:desk, template: welcome, vars: { desk: 7 } } }
";
    let definitions = [crate::definitions::parse("w.yaml", workflow).unwrap()];
    let welcome = (
        "notices/welcome.yaml".to_owned(),
        "name: welcome\nsubject: Hi\ntext: 'Desk {{ vars.desk }}'\n".to_owned(),
    );
    let schema = crate::testbed::schema(&["ldap"]);
    let load = |files: &[(String, String)]| Notices::load(None, files, &schema, &definitions);
    let problems = load(std::slice::from_ref(&welcome))
        .unwrap_err()
        .to_string();
    for expected in [
        "step `a` of workflow `w`: `to`: `mangaer` is nobody to tell",
        "step `a` of workflow `w`: there is no notice `welcom`; fix: did you mean `welcome`?",
    ] {
        assert!(problems.contains(expected), "{problems}");
    }
    assert!(!problems.contains("step `b`"));
    let wrong = (
        "notices/w.yaml".to_owned(),
        welcome.1.replace("vars.desk", "vars.dsk"),
    );
    let problems = load(&[wrong]).unwrap_err().to_string();
    assert!(
        problems.contains("`vars.dsk`, which is not known"),
        "{problems}"
    );
}
