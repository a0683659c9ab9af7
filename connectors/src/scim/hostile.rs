//! A peer that misbehaves in every way a network and a bad server can, and what the connector makes of it:
//! an error only when it is certain that nothing was changed, `Ambiguous` whenever it is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connector::{Attributes, NewAccount};

/// What the peer does once it has read a whole request.
enum Reply {
    /// Status and body of an orderly answer.
    Json(u16, Value),
    /// These bytes, then the connection is closed.
    Raw(String),
    /// Nothing, for ever.
    Hang,
    /// Nothing, and the connection is closed.
    Close,
}

/// What the peer saw: method, path with query, body.
type Seen = (String, String, String);

struct Peer {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Peer {
    async fn start(behave: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/v2", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (record, behave) = (Arc::clone(&seen), Arc::new(behave));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, behave) = (Arc::clone(&record), Arc::clone(&behave));
                tokio::spawn(async move {
                    let _ = serve(stream, &record, behave.as_ref()).await;
                });
            }
        });
        Self { address, seen }
    }

    fn connector(&self) -> Scim {
        connector(&self.address)
    }

    fn count(&self, method: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|(seen, ..)| seen == method)
            .count()
    }
}

async fn serve(
    mut stream: TcpStream,
    record: &Mutex<Vec<Seen>>,
    behave: &(dyn Fn(&Seen) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    loop {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
        let length: usize = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|n| n.trim().parse().unwrap())
            })
            .unwrap_or(0);
        while bytes.len() < head_end + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let mut line = head.split(' ');
        let seen = (
            line.next().unwrap().to_owned(),
            line.next().unwrap().to_owned(),
            String::from_utf8_lossy(&bytes[head_end..]).into_owned(),
        );
        record.lock().unwrap().push(seen.clone());
        match behave(&seen) {
            Reply::Json(status, body) => {
                let body = if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/scim+json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await?;
            }
            Reply::Raw(text) => {
                stream.write_all(text.as_bytes()).await?;
                return stream.shutdown().await;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Close => return Ok(()),
        }
    }
}

fn connector(address: &str) -> Scim {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cr3t-token\n").unwrap();
    let settings = json!({
        "base_url": address,
        "token": format!("file:{}", token.path().display()),
        "timeout_ms": 300,
        "set_password": true,
    });
    Scim::from_settings("app", settings).unwrap()
}

fn raw(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Raw(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn list(resources: Value) -> Reply {
    Reply::Json(
        200,
        json!({ "totalResults": resources.as_array().unwrap().len(), "Resources": resources }),
    )
}

fn ada() -> Value {
    json!({ "id": "u1", "userName": "ada", "externalId": "k1", "active": true, "meta": { "version": "W/\"1\"" } })
}

fn scim_error(status: u16, detail: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": status.to_string(),
        "detail": detail,
    })
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: "k".to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

fn account() -> NativeId {
    NativeId::new("u1")
}

fn new_ada() -> Operation {
    Operation::CreateAccount(NewAccount {
        name: "ada".to_owned(),
        owner: "k1".to_owned(),
        attributes: Attributes::new(),
        enabled: true,
        password: Some(SecretString::from("pa55word".to_owned())),
    })
}

/// Every operation that changes something, and whether it reads first.
fn changes() -> Vec<Operation> {
    vec![
        new_ada(),
        Operation::UpdateAccount {
            account: account(),
            attributes: Attributes::from([("title".to_owned(), json!("Dr"))]),
        },
        Operation::DisableAccount { account: account() },
        Operation::DeleteAccount { account: account() },
        Operation::Grant {
            account: account(),
            entitlement: EntitlementName::new("staff"),
        },
        Operation::Revoke {
            account: account(),
            entitlement: EntitlementName::new("admins"),
        },
        Operation::SetPassword {
            account: account(),
            password: SecretString::from("pa55word".to_owned()),
        },
    ]
}

/// Reads are answered as a good server with Ada in `admins` would; changes get what `misbehave` gives.
fn good_reader(
    misbehave: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let admins = || json!({ "id": "g1", "displayName": "admins", "members": [{ "value": "u1" }] });
    move |(method, path, _)| {
        if method != "GET" {
            return misbehave();
        }
        let (route, query) = path.split_once('?').unwrap_or((path, ""));
        match route {
            "/v2/Users/u1" => Reply::Json(200, ada()),
            "/v2/Users" => list(json!([])),
            "/v2/Groups" if query.contains("nobody") => list(json!([])),
            "/v2/Groups"
                if query.contains("filter")
                    && query.contains("staff")
                    && query.contains("members.value") =>
            {
                list(json!([]))
            }
            "/v2/Groups" if query.contains("filter") && query.contains("staff") => {
                list(json!([{ "id": "g2", "displayName": "staff" }]))
            }
            "/v2/Groups" => list(json!([admins()])),
            _ => Reply::Json(404, scim_error(404, "no such thing")),
        }
    }
}

/// Runs every change against a peer whose answers to changes are `misbehave`, and says what came of each.
async fn outcomes(
    misbehave: impl Fn() -> Reply + Send + Sync + 'static,
) -> Vec<(OperationName, Result<Outcome, Error>)> {
    let peer = Peer::start(good_reader(misbehave)).await;
    let connector = peer.connector();
    let mut all = Vec::new();
    for operation in changes() {
        all.push((operation.name(), connector.apply(&operation, &key()).await));
    }
    all
}

async fn check_ambiguous(why: &str, misbehave: impl Fn() -> Reply + Send + Sync + 'static) {
    for (name, outcome) in outcomes(misbehave).await {
        match outcome {
            Ok(Outcome::Ambiguous { reason }) => {
                assert!(reason.contains(why), "{}: {reason}", name.as_str())
            }
            other => panic!("{}: expected ambiguous, got {other:?}", name.as_str()),
        }
    }
}

async fn check_refused(kind: &str, misbehave: impl Fn() -> Reply + Send + Sync + 'static) {
    for (name, outcome) in outcomes(misbehave).await {
        match outcome {
            Err(error) => assert_eq!(
                error.kind.as_str(),
                kind,
                "{}: {}",
                name.as_str(),
                error.whole()
            ),
            other => panic!("{}: expected {kind}, got {other:?}", name.as_str()),
        }
    }
}

async fn read_error(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Error {
    let peer = Peer::start(reply).await;
    peer.connector()
        .get(&ObjectRef::Account(account()))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_change_without_an_answer_is_ambiguous() {
    check_ambiguous("not answered within 300 ms", || Reply::Hang).await;
}

#[tokio::test]
async fn a_change_whose_connection_is_closed_is_ambiguous() {
    check_ambiguous("connection was lost", || Reply::Close).await;
}

#[tokio::test]
async fn a_change_with_half_an_answer_is_ambiguous() {
    check_ambiguous("connection was lost", || {
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"id\": \"u".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_change_answered_with_a_web_page_is_ambiguous() {
    check_ambiguous("<html>", || raw("200 OK", "", "<html>Please log in</html>")).await;
}

#[tokio::test]
async fn a_change_that_broke_inside_the_server_is_ambiguous() {
    for status in [
        "500 Internal Server Error",
        "502 Bad Gateway",
        "504 Gateway Timeout",
    ] {
        check_ambiguous(&status[..3], move || raw(status, "", "<html>oops</html>")).await;
    }
}

#[tokio::test]
async fn a_change_that_was_refused_is_an_error_of_its_kind() {
    check_refused("auth_expired", || raw("401 Unauthorized", "", "")).await;
    check_refused("denied", || {
        Reply::Json(403, scim_error(403, "read only token"))
    })
    .await;
    check_refused("invalid", || Reply::Json(400, scim_error(400, "no"))).await;
    check_refused("invalid", || raw("413 Payload Too Large", "", "")).await;
    check_refused("rate_limited", || {
        raw("429 Too Many Requests", "retry-after: 7\r\n", "")
    })
    .await;
    check_refused("rate_limited", || {
        raw("503 Service Unavailable", "retry-after: 7\r\n", "")
    })
    .await;
    check_refused("transient", || raw("503 Service Unavailable", "", "")).await;
    check_refused("unsupported", || raw("501 Not Implemented", "", "")).await;
}

#[tokio::test]
async fn a_server_says_how_long_to_stay_away() {
    let peer = Peer::start(|_| raw("429 Too Many Requests", "retry-after: 120\r\n", "")).await;
    let mut connector = peer.connector();
    connector.http.set_clock(chrono::DateTime::UNIX_EPOCH);
    let error = connector
        .get(&ObjectRef::Account(account()))
        .await
        .unwrap_err();
    let ErrorKind::RateLimited { until } = error.kind else {
        panic!("{error:?}")
    };
    assert_eq!(until.timestamp(), 120);
}

#[tokio::test]
async fn a_read_without_an_answer_is_an_error_of_its_kind() {
    assert_eq!(read_error(|_| Reply::Hang).await.kind, ErrorKind::Timeout);
    assert_eq!(
        read_error(|_| Reply::Close).await.kind,
        ErrorKind::Transient
    );
    let half =
        read_error(|_| Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_owned()))
            .await;
    assert_eq!(half.kind, ErrorKind::Transient);
    assert_eq!(
        read_error(|_| raw("500 X", "", "")).await.kind,
        ErrorKind::Transient
    );

    let page = read_error(|_| raw("200 OK", "", "<html>\n <b>Please log in</b></html>")).await;
    assert_eq!(page.kind, ErrorKind::Bug);
    assert!(
        page.message
            .contains("`<html> <b>Please log in</b></html>`"),
        "{}",
        page.message
    );
    let cut = read_error(|_| raw("200 OK", "", "{\"id\": \"u")).await;
    assert_eq!(cut.kind, ErrorKind::Bug);
    let other = read_error(|_| Reply::Json(200, json!({ "id": "u2", "userName": "eve" }))).await;
    assert_eq!(other.kind, ErrorKind::Bug, "another user than asked for");
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(&format!("http://{}/v2", listener.local_addr().unwrap()));
    drop(listener);
    for operation in changes() {
        let error = connector.apply(&operation, &key()).await.unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::Unreachable,
            "{}",
            operation.name().as_str()
        );
    }
    let health = connector.check().await.unwrap();
    assert_eq!(health.findings.len(), 1);
    assert!(!health.is_good());
    assert_eq!(health.findings[0].what, "reach");
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v2", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let chunk = vec![b' '; 1 << 20];
                while stream.write_all(&chunk).await.is_ok() {}
            });
        }
    });
    let mut endless = connector(&address);
    endless.http = {
        let settings = json!({ "base_url": address, "token": "env:PATH", "timeout_ms": 60_000 });
        let (settings, base) = Settings::parse("app", settings).unwrap();
        Http::new("app", &settings, base).unwrap()
    };
    let error = endless
        .get(&ObjectRef::Account(account()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Bug);
    assert!(error.message.contains("more than"), "{}", error.message);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let thief = Peer::start(|_| Reply::Json(200, ada())).await;
    let target = format!("location: {}/Users/u1\r\n", thief.address);
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let target = target.clone();
        let error = read_error(move |_| raw(status, &target, "")).await;
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains(&thief.address), "{}", error.message);
    }
    assert_eq!(
        thief.count("GET"),
        0,
        "the token was handed to another server"
    );
}

#[tokio::test]
async fn a_404_that_scim_did_not_say_is_not_absence() {
    let page = || raw("404 Not Found", "", "<html>nginx</html>");
    let error = read_error(move |_| page()).await;
    assert_eq!(error.kind, ErrorKind::Bug);
    assert!(error.message.contains("base_url"), "{}", error.message);

    // Confirmed by a search, it is.
    let peer = Peer::start(move |(_, path, _)| {
        if path.contains("filter") {
            list(json!([]))
        } else {
            page()
        }
    })
    .await;
    assert!(
        peer.connector()
            .get(&ObjectRef::Account(account()))
            .await
            .unwrap()
            .is_none()
    );

    let denied = Peer::start(|_| Reply::Json(404, scim_error(404, "gone"))).await;
    let claim = Claim::AccountAbsent { account: account() };
    assert!(matches!(
        denied.connector().verify(&claim).await.unwrap(),
        Verdict::Proven(_)
    ));
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_found_by_its_owner() {
    let made = Arc::new(Mutex::new(false));
    let state = Arc::clone(&made);
    let peer = Peer::start(move |(method, path, _)| match (method.as_str(), path) {
        ("POST", _) => {
            *state.lock().unwrap() = true;
            Reply::Close
        }
        (_, path) if path.contains("filter=externalId") && *state.lock().unwrap() => {
            list(json!([ada()]))
        }
        _ => list(json!([])),
    })
    .await;
    let connector = peer.connector();
    assert!(matches!(
        connector.apply(&new_ada(), &key()).await.unwrap(),
        Outcome::Ambiguous { .. }
    ));
    let claim = Claim::AccountExists {
        owner: "k1".to_owned(),
    };
    assert!(matches!(
        connector.verify(&claim).await.unwrap(),
        Verdict::Proven(_)
    ));
    let Outcome::AlreadySo(receipt) = connector.apply(&new_ada(), &key()).await.unwrap() else {
        panic!()
    };
    assert_eq!(receipt.account, Some(account()));
    assert_eq!(peer.count("POST"), 1);
}

#[tokio::test]
async fn a_create_that_lost_the_race_against_itself_is_already_so() {
    let tried = Arc::new(Mutex::new(false));
    let peer = Peer::start(move |(method, path, _)| match (method.as_str(), path) {
        ("POST", _) => {
            *tried.lock().unwrap() = true;
            Reply::Json(409, scim_error(409, "taken"))
        }
        (_, path) if path.contains("filter=externalId") && *tried.lock().unwrap() => {
            list(json!([ada()]))
        }
        _ => list(json!([])),
    })
    .await;
    assert!(matches!(
        peer.connector().apply(&new_ada(), &key()).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
}

#[tokio::test]
async fn a_name_that_belongs_to_somebody_else_is_a_conflict_that_says_who() {
    let peer = Peer::start(|(method, path, _)| match (method.as_str(), path) {
        ("POST", _) => Reply::Json(409, scim_error(409, "taken")),
        (_, path) if path.contains("filter=userName") => {
            list(json!([{ "id": "u9", "userName": "Ada", "externalId": "k9" }]))
        }
        _ => list(json!([])),
    })
    .await;
    let error = peer
        .connector()
        .apply(&new_ada(), &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("owner `k9`"), "{}", error.message);
}

#[tokio::test]
async fn a_user_changed_in_between_is_read_again() {
    let disable = Operation::DisableAccount { account: account() };
    let meanwhile = |active: bool| {
        let patched = Mutex::new(false);
        move |(method, _, _): &Seen| {
            if method == "PATCH" {
                *patched.lock().unwrap() = true;
                return Reply::Json(412, scim_error(412, "changed"));
            }
            let mut user = ada();
            user["active"] = json!(active || !*patched.lock().unwrap());
            Reply::Json(200, user)
        }
    };
    let same_wish = Peer::start(meanwhile(false)).await;
    assert!(matches!(
        same_wish.connector().apply(&disable, &key()).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
    let other_wish = Peer::start(meanwhile(true)).await;
    assert_eq!(
        other_wish
            .connector()
            .apply(&disable, &key())
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Conflict
    );
    assert_eq!(other_wish.count("PATCH"), 1, "only the engine retries");
}

/// Groups on a server that misunderstands the membership filter, with Ada in `admins` only.
fn bad_filter(
    answer: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |(_, path, _)| {
        let (route, query) = path.split_once('?').unwrap_or((path, ""));
        let admins = json!({ "id": "g1", "displayName": "admins", "members": [{ "value": "u1" }] });
        let staff = json!({ "id": "g2", "displayName": "staff", "members": [{ "value": "u2" }] });
        match route {
            "/v2/Groups/g1" => Reply::Json(200, admins),
            "/v2/Groups/g2" => Reply::Json(200, staff),
            "/v2/Users/u1" => Reply::Json(200, ada()),
            "/v2/Groups" if query.contains("members.value") => answer(),
            "/v2/Groups" if query.contains("filter") && query.contains("staff") => {
                list(json!([staff]))
            }
            "/v2/Groups" if query.contains("filter") => list(json!([admins])),
            "/v2/Groups" => {
                let start = query
                    .split('&')
                    .find_map(|it| it.strip_prefix("startIndex="))
                    .unwrap();
                let all = [admins, staff];
                let from = start.parse::<usize>().unwrap() - 1;
                Reply::Json(200, json!({ "totalResults": 2, "Resources": all[from..] }))
            }
            _ => Reply::Json(404, scim_error(404, "no such thing")),
        }
    }
}

async fn check_memberships(answer: impl Fn() -> Reply + Send + Sync + 'static) {
    let peer = Peer::start(bad_filter(answer)).await;
    let connector = peer.connector();
    let (admins, staff) = (
        EntitlementName::new("admins"),
        EntitlementName::new("staff"),
    );
    for (entitlement, held) in [(&admins, true), (&staff, false)] {
        let (account, entitlement) = (account(), entitlement.clone());
        let granted = Claim::Granted {
            account: account.clone(),
            entitlement: entitlement.clone(),
        };
        let not_granted = Claim::NotGranted {
            account,
            entitlement,
        };
        assert_eq!(
            matches!(
                connector.verify(&granted).await.unwrap(),
                Verdict::Proven(_)
            ),
            held
        );
        assert_eq!(
            matches!(
                connector.verify(&not_granted).await.unwrap(),
                Verdict::Proven(_)
            ),
            !held
        );
    }
    let found = connector
        .get(&ObjectRef::Account(account()))
        .await
        .unwrap()
        .unwrap()
        .into_account()
        .unwrap();
    assert_eq!(found.entitlements, Some([admins].into()));
}

#[tokio::test]
async fn a_server_that_cannot_filter_by_member_cannot_prove_a_revocation_that_way() {
    check_memberships(|| list(json!([]))).await;
}

#[tokio::test]
async fn a_server_that_ignores_the_member_in_a_filter_cannot_prove_a_grant_that_way() {
    let everybody =
        || json!([{ "id": "g1", "displayName": "admins" }, { "id": "g2", "displayName": "staff" }]);
    check_memberships(move || list(everybody())).await;
}

#[tokio::test]
async fn a_server_that_refuses_the_member_filter_is_asked_for_the_group() {
    check_memberships(|| Reply::Json(400, scim_error(400, "invalidFilter"))).await;
}

#[tokio::test]
async fn two_groups_of_one_name_are_not_chosen_between() {
    let peer = Peer::start(|(_, path, _)| {
        if path.contains("/Users/u1") {
            return Reply::Json(200, ada());
        }
        let both = [
            json!({ "id": "g1", "displayName": "staff" }),
            json!({ "id": "g2", "displayName": "staff" }),
        ];
        let from = if path.contains("startIndex=2") { 1 } else { 0 };
        Reply::Json(200, json!({ "totalResults": 2, "Resources": both[from..] }))
    })
    .await;
    let grant = Operation::Grant {
        account: account(),
        entitlement: EntitlementName::new("staff"),
    };
    let error = peer.connector().apply(&grant, &key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(peer.count("PATCH"), 0);
}

#[tokio::test]
async fn a_server_that_does_not_filter_users_finds_nobody_by_mistake() {
    let peer = Peer::start(|_| list(json!([ada()]))).await;
    let error = peer
        .connector()
        .get(&ObjectRef::AccountNamed("eve".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Bug);
    assert!(
        error.message.contains("does not filter"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn the_token_and_the_password_appear_in_no_message() {
    let echo = |(_, _, body): &Seen| {
        raw(
            "400 Bad Request",
            "",
            &format!("token s3cr3t-token body {body}"),
        )
    };
    let peer = Peer::start(move |seen| {
        if seen.0 == "GET" {
            list(json!([]))
        } else {
            echo(seen)
        }
    })
    .await;
    let error = peer
        .connector()
        .apply(&new_ada(), &key())
        .await
        .unwrap_err();
    assert!(!error.whole().contains("s3cr3t-token"), "{}", error.whole());
    assert!(!error.whole().contains("pa55word"), "{}", error.whole());
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_connector_usable() {
    let peer = Peer::start(good_reader(|| Reply::Hang)).await;
    let connector = peer.connector();
    let disable = Operation::DisableAccount { account: account() };
    for _ in 0..5 {
        let key = key();
        let given_up =
            tokio::time::timeout(Duration::from_millis(20), connector.apply(&disable, &key));
        assert!(given_up.await.is_err());
    }
    assert!(
        connector
            .verify(&Claim::AccountEnabled { account: account() })
            .await
            .is_ok()
    );
}
