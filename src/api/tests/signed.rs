//! Events that their source signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::*;
use crate::api::input::BODY_BYTES_MAX;

pub(super) const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const DOOR: &str = "/v1/sources/payroll/events";

fn signature(secret: &str, id: &str, at: i64, body: &[u8]) -> String {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A signed request, to be spoiled.
#[derive(Clone)]
pub(super) struct Signed {
    path: &'static str,
    media: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Signed {
    pub(super) fn new(media: &'static str, body: &Value) -> Self {
        Self::bytes(media, body.to_string().into_bytes(), SECRETS[0])
    }

    pub(super) fn bytes(media: &'static str, body: Vec<u8>, secret: &str) -> Self {
        Self::at(media, body, secret, now().timestamp())
    }

    pub(super) fn at(media: &'static str, body: Vec<u8>, secret: &str, at: i64) -> Self {
        let headers = vec![
            ("webhook-id", "msg_1".to_owned()),
            ("webhook-timestamp", at.to_string()),
            ("webhook-signature", signature(secret, "msg_1", at, &body)),
        ];
        Self {
            path: DOOR,
            media,
            headers,
            body,
        }
    }

    fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers
            .extend(value.map(|value| (name, value.to_owned())));
        self
    }

    pub(super) fn to(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    pub(super) async fn send(&self, server: &Server) -> Answer {
        let url = format!("{}{}", server.url, self.path);
        let mut request = server.client.post(url).header("content-type", self.media);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        Answer::of(request.body(self.body.clone()).send().await.unwrap()).await
    }
}

/// A hire by the source that signs.
pub(super) fn hired(id: &str, subject: &str) -> Value {
    let mut event = hire(id, subject);
    event["source"] = json!("payroll");
    event
}

async fn people(caller: &Caller<'_>) -> usize {
    let people = caller.get("/v1/identities").await.expect(200);
    people["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_signed_event_counts_once() {
    let server = Server::start().await;
    counts_once(&server, &server).await;
}

#[tokio::test]
async fn a_signed_event_counts_once_on_all_nodes() {
    let address = postgres_schema().await;
    let first = Server::on(tempfile::tempdir().unwrap(), &address).await;
    let second = Server::on(tempfile::tempdir().unwrap(), &address).await;
    counts_once(&first, &second).await;
}

async fn counts_once(server: &Server, other: &Server) {
    let request = Signed::new(SINGLE, &hired("1", "E1"));
    let first = request.send(server).await.expect(202);
    assert_eq!(first["events"][0]["new"], true);
    for replayed in [request.send(other).await, request.send(server).await] {
        let event = &replayed.expect(202)["events"][0];
        assert_eq!(
            (&event["new"], &event["cases"]),
            (&json!(false), &json!([]))
        );
        assert_eq!(event["event_id"], first["events"][0]["event_id"]);
    }
    // What is known already and what is not may come in one batch, signed with the next secret.
    let batch = json!([hired("1", "E1"), hired("2", "E2")]).to_string();
    let batch = Signed::bytes(BATCH, batch.into_bytes(), SECRETS[1]);
    let taken = batch.send(other).await.expect(202);
    assert_eq!(
        (&taken["events"][0]["new"], &taken["events"][1]["new"]),
        (&json!(false), &json!(true))
    );
    server.settled().await;
    other.settled().await;
    let admin = server.admin().await;
    let cases = admin.get("/v1/cases").await.expect(200);
    assert_eq!(cases["items"].as_array().unwrap().len(), 2);
    assert_eq!(cases["items"][0]["initiator"], "source:payroll");
}

#[tokio::test]
async fn two_deliveries_at_once_make_one_case() {
    let server = Server::on(tempfile::tempdir().unwrap(), &postgres_schema().await).await;
    let request = Signed::new(SINGLE, &hired("1", "E1"));
    let sends = (0..8).map(|_| request.send(&server));
    let answers = futures_util::future::join_all(sends).await;
    let new = answers
        .into_iter()
        .filter(|answer| answer.body["events"][0]["new"] == true);
    assert_eq!(new.count(), 1);
}

#[tokio::test]
async fn what_is_not_signed_well_is_refused_without_a_reason() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let good = Signed::new(SINGLE, &hired("1", "E1"));
    let now_s = now().timestamp();
    let at = |seconds: i64| Signed::at(SINGLE, good.body.clone(), SECRETS[0], now_s + seconds);
    let stranger = format!("whsec_{}", STANDARD.encode([9; 32]));
    let mut changed = good.clone();
    changed.body = hired("1", "E2").to_string().into_bytes();
    let mut not_text = good.clone();
    not_text.body = b"\xff\xfe".to_vec();
    let signed = good.headers[2].1.clone();
    let refused = [
        changed,
        not_text,
        at(-310),
        at(310),
        at(-86_400),
        Signed::bytes(SINGLE, good.body.clone(), &stranger),
        good.clone().with("webhook-id", Some("msg_2")),
        good.clone()
            .with("webhook-timestamp", Some(&(now_s + 1).to_string())),
        good.clone().with("webhook-timestamp", Some("now")),
        good.clone().with("webhook-signature", Some("v1,***")),
        good.clone()
            .with("webhook-signature", Some(&signed.replacen("v1", "v2", 1))),
        good.clone().with("webhook-signature", Some("")),
        good.clone().with("webhook-id", None),
        good.clone().with("webhook-timestamp", None),
        good.clone().with("webhook-signature", None),
        // A source that may not sign, and one that is not there.
        good.clone().to("/v1/sources/hr/events"),
        good.clone().to("/v1/sources/nobody/events"),
        good.clone().to("/v1/sources/payroll%00/events"),
    ];
    let mut answers = BTreeSet::new();
    for request in refused {
        let answer = request.send(&server).await;
        assert!(answer.headers.contains_key("www-authenticate"));
        answers.insert(answer.problem(401, "unauthenticated").to_string());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(people(&admin).await, 0);
    // Both clocks may differ a little, and other signatures may stand beside a good one.
    at(-290).send(&server).await.expect(202);
    at(290).send(&server).await.expect(202);
    let several = format!("v1,AAAA v1a,zzz {signed}");
    let several = good.with("webhook-signature", Some(&several));
    several.send(&server).await.expect(202);
    assert_eq!(people(&admin).await, 1);
}

#[tokio::test]
async fn a_signature_opens_one_door_only() {
    let server = Server::start().await;
    let admin = server.admin().await;
    // Another source's events are not this source's to send.
    let foreign = Signed::new(SINGLE, &hire("1", "E1"));
    let problem = foreign.send(&server).await.problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/source");
    let foreign = Signed::new(BATCH, &json!([hired("1", "E1"), hire("2", "E2")]));
    let problem = foreign.send(&server).await.problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/1/source");
    // Headers are not signed, so nothing that counts may stand in them.
    let mut binary = Signed::new("application/json", &json!({}));
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "payroll"),
        ("ce-type", "hire"),
        ("ce-subject", "E1"),
        ("ce-time", "2026-01-05T08:00:00Z"),
    ] {
        binary.headers.push((name, value.to_owned()));
    }
    let problem = binary.send(&server).await;
    problem.problem(415, "unsupported-media-type");
    // It is no token for anything else.
    let good = Signed::new(SINGLE, &hired("1", "E1"));
    for path in [
        "/v1/events",
        "/v1/sources/payroll",
        "/v1/sources/payroll/events/",
        "/v1/sources/payroll/heartbeats",
        "/v1/sources/a/b/events",
        "/v1/sources//events",
    ] {
        good.clone()
            .to(path)
            .send(&server)
            .await
            .problem(401, "unauthenticated");
    }
    let get = server.client.get(format!("{}{DOOR}", server.url)).send();
    Answer::of(get.await.unwrap())
        .await
        .problem(401, "unauthenticated");
    // A token does not open this one.
    let answer = admin
        .send(Method::POST, DOOR, SINGLE, hired("1", "E1").to_string())
        .await;
    answer.problem(401, "unauthenticated");
    assert_eq!(people(&admin).await, 0);
}

#[tokio::test]
async fn what_is_signed_is_still_checked() {
    let server = Server::start().await;
    let send = |media, body: Vec<u8>| {
        let (request, server) = (Signed::bytes(media, body, SECRETS[0]), &server);
        async move { request.send(server).await }
    };
    let mut wrong = hired("1", "E1");
    wrong["time"] = json!("yesterday");
    let problem = send(SINGLE, wrong.to_string().into()).await;
    assert_eq!(
        problem.problem(422, "invalid")["mistakes"][0]["at"],
        "/time"
    );
    send(SINGLE, b"{\"id\":\"\xc3\x28\"}".to_vec())
        .await
        .problem(400, "malformed");
    send("text/plain", b"a".to_vec())
        .await
        .problem(415, "unsupported-media-type");
    send(SINGLE, vec![b' '; BODY_BYTES_MAX + 1])
        .await
        .problem(413, "too-large");
    let many: Vec<Value> = (0..501).map(|id| hired(&id.to_string(), "E1")).collect();
    send(BATCH, json!(many).to_string().into())
        .await
        .problem(422, "invalid");
    // Refused the first time because nobody knew the person: the same request is taken once somebody does.
    let mut revoke = hired("2", "E1");
    revoke["type"] = json!("access.revoke_now");
    let revoke = Signed::new(SINGLE, &revoke);
    revoke.send(&server).await.problem(422, "invalid");
    Signed::new(SINGLE, &hired("1", "E1"))
        .send(&server)
        .await
        .expect(202);
    let taken = revoke.send(&server).await.expect(202);
    assert_eq!(taken["events"][0]["new"], true);
}
