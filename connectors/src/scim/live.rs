//! Against scim2-server, a SCIM application that we did not write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::Failure;
use super::*;
use crate::conformance::Fixture;
use crate::connector::{Attributes, NewAccount};

const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/scim.sh start /tmp/lab-scim && . /tmp/lab-scim/env")
    })
}

fn connector(page_size: u32) -> Scim {
    let settings = json!({
        "base_url": lab("TENURE_LAB_SCIM_URL"),
        "token": "env:TENURE_LAB_SCIM_TOKEN",
        "page_size": page_size,
        "set_password": true,
    });
    Scim::from_settings("scim", settings).unwrap()
}

/// The application's own door, not through the connector.
async fn request(method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client
        .request(method, format!("{}{path}", lab("TENURE_LAB_SCIM_URL")))
        .bearer_auth(lab("TENURE_LAB_SCIM_TOKEN"))
        .header("content-type", "application/scim+json");
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null),
    )
}

async fn make_group(name: &str) -> String {
    let group =
        json!({ "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name });
    let (status, made) = request(Method::POST, "/Groups", Some(group)).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

fn fresh(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: fresh("key"),
        attempt: 1,
        epoch: 1,
    }
}

fn new(name: &str) -> NewAccount {
    NewAccount {
        name: name.to_owned(),
        owner: format!("owner-{name}"),
        attributes: Attributes::from([
            ("name.givenName".to_owned(), json!("Ada")),
            ("name.familyName".to_owned(), json!("Lovelace")),
            ("emails".to_owned(), json!(format!("{name}@example.org"))),
            (format!("{ENTERPRISE}:department"), json!("Engines")),
        ]),
        enabled: true,
        password: None,
    }
}

async fn make(connector: &Scim, name: &str) -> NativeId {
    match connector
        .apply(&Operation::CreateAccount(new(name)), &key())
        .await
        .unwrap()
    {
        Outcome::Done(receipt) => receipt.account.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn apply(connector: &Scim, operation: Operation) -> Outcome {
    connector.apply(&operation, &key()).await.unwrap()
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let mut fixture = Fixture::new(fresh("c"));
    fixture.prefix.truncate(12);
    for _ in 0..2 {
        let name = fresh("g");
        make_group(&name).await;
        fixture.entitlements.push(EntitlementName::new(name));
    }
    fixture.attributes = Attributes::from([
        ("name.givenName".to_owned(), json!("Ada")),
        ("name.familyName".to_owned(), json!("Lovelace")),
        ("emails".to_owned(), json!("{name}@example.org")),
        ("phoneNumbers[mobile]".to_owned(), json!("+44 20 7946 0001")),
    ]);
    fixture.changed = Attributes::from([
        ("name.familyName".to_owned(), json!("King")),
        ("emails".to_owned(), json!("{name}.king@example.org")),
        ("phoneNumbers[mobile]".to_owned(), json!("+44 20 7946 0002")),
        (format!("{ENTERPRISE}:department"), json!("Engines")),
    ]);
    fixture.text_attribute = Some("displayName".to_owned());
    let report = crate::conformance::run(Arc::new(connector(100)), fixture).await;
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn the_application_holds_what_the_connector_says() {
    let connector = connector(100);
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let (_, user) = request(Method::GET, &format!("/Users/{id}"), None).await;
    assert_eq!(user["userName"], json!(name));
    assert_eq!(user["externalId"], json!(format!("owner-{name}")));
    assert_eq!(user["active"], json!(true));
    assert_eq!(user["name"]["givenName"], json!("Ada"));
    assert_eq!(
        user["emails"][0]["value"],
        json!(format!("{name}@example.org"))
    );
    assert_eq!(user[ENTERPRISE]["department"], json!("Engines"));

    let attributes = Attributes::from([
        ("title".to_owned(), json!("Countess")),
        ("emails[home]".to_owned(), json!("ada@home.example")),
        ("name.familyName".to_owned(), json!("King")),
        (format!("{ENTERPRISE}:department"), Value::Null),
    ]);
    let update = Operation::UpdateAccount {
        account: id.clone(),
        attributes,
    };
    assert!(matches!(
        apply(&connector, update.clone()).await,
        Outcome::Done(_)
    ));
    assert!(matches!(
        apply(&connector, update).await,
        Outcome::AlreadySo(_)
    ));
    let disable = Operation::DisableAccount {
        account: id.clone(),
    };
    assert!(matches!(apply(&connector, disable).await, Outcome::Done(_)));
    let (_, user) = request(Method::GET, &format!("/Users/{id}"), None).await;
    assert_eq!(user["active"], json!(false));
    assert_eq!(user["title"], json!("Countess"));
    assert_eq!(
        user["name"],
        json!({ "familyName": "King", "givenName": "Ada" })
    );
    assert_eq!(user["emails"].as_array().unwrap().len(), 2);
    assert!(user[ENTERPRISE]["department"].is_null());

    assert!(matches!(
        apply(
            &connector,
            Operation::DeleteAccount {
                account: id.clone()
            }
        )
        .await,
        Outcome::Done(_)
    ));
    assert_eq!(
        request(Method::GET, &format!("/Users/{id}"), None).await.0,
        404
    );
}

#[tokio::test]
async fn a_stale_version_is_refused_by_the_server() {
    let connector = connector(100);
    let id = make(&connector, &fresh("u")).await;
    let patch = |active: bool| {
        json!({
            "schemas": [groups::PATCH_SCHEMA],
            "Operations": [{ "op": "replace", "path": "active", "value": active }],
        })
    };
    let stale = connector.user(&id).await.unwrap().unwrap().etag.unwrap();
    let (status, _) = request(Method::PATCH, &format!("/Users/{id}"), Some(patch(false))).await;
    assert_eq!(status, 204);

    let (path, body) = (["Users", id.as_str()], patch(true));
    let request = Request {
        body: Some(&body),
        if_match: Some(&stale),
        ..Request::new(Method::PATCH, &path)
    };
    let failure = connector.http.send(request).await.unwrap_err();
    assert_eq!(failure.status(), Some(412));
    assert_eq!(failure.of_change().unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(
        connector.user(&id).await.unwrap().unwrap().body["active"],
        json!(false),
        "nothing was overwritten"
    );
}

#[tokio::test]
async fn a_group_made_anew_under_its_old_name_is_found_again() {
    let connector = connector(100);
    let group = EntitlementName::new(fresh("g"));
    let old = make_group(group.as_str()).await;
    let first = make(&connector, &fresh("u")).await;
    let second = make(&connector, &fresh("u")).await;
    let grant = |account: &NativeId| Operation::Grant {
        account: account.clone(),
        entitlement: group.clone(),
    };
    assert!(matches!(
        apply(&connector, grant(&first)).await,
        Outcome::Done(_)
    ));

    assert_eq!(
        request(Method::DELETE, &format!("/Groups/{old}"), None)
            .await
            .0,
        204
    );
    let new = make_group(group.as_str()).await;
    let not_granted = Claim::NotGranted {
        account: first.clone(),
        entitlement: group.clone(),
    };
    assert!(matches!(
        connector.verify(&not_granted).await.unwrap(),
        Verdict::Proven(_)
    ));
    assert!(matches!(
        apply(&connector, grant(&second)).await,
        Outcome::Done(_)
    ));
    let (_, found) = request(Method::GET, &format!("/Groups/{new}"), None).await;
    assert_eq!(found["members"][0]["value"], json!(second.as_str()));
}

#[tokio::test]
async fn a_revocation_takes_one_member_and_leaves_the_others() {
    let connector = connector(100);
    let group = EntitlementName::new(fresh("staff \"quoted\" \\ "));
    let group_id = make_group(group.as_str()).await;
    let mut accounts = Vec::new();
    for _ in 0..3 {
        let account = make(&connector, &fresh("u")).await;
        let grant = Operation::Grant {
            account: account.clone(),
            entitlement: group.clone(),
        };
        assert!(matches!(apply(&connector, grant).await, Outcome::Done(_)));
        accounts.push(account);
    }
    let revoke = Operation::Revoke {
        account: accounts[1].clone(),
        entitlement: group.clone(),
    };
    assert!(matches!(apply(&connector, revoke).await, Outcome::Done(_)));
    let (_, found) = request(Method::GET, &format!("/Groups/{group_id}"), None).await;
    let mut left: Vec<&str> = found["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["value"].as_str().unwrap())
        .collect();
    left.sort_unstable();
    let mut expected = [accounts[0].as_str(), accounts[2].as_str()];
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert_eq!(
        connector.groups.filter_works_for_tests(),
        Some(true),
        "this server can filter by member"
    );
}

#[tokio::test]
async fn small_pages_list_everybody_exactly_once() {
    // Other tests add and remove users meanwhile; a listing that saw that must say so and be repeated.
    let connector = connector(7);
    let mut made = Vec::new();
    for _ in 0..30 {
        made.push(make(&connector, &fresh("u")).await);
    }
    for _ in 0..50 {
        let mut seen: Vec<NativeId> = Vec::new();
        let mut cursor = None;
        let complete = loop {
            let page = connector.list(Kind::Account, cursor).await.unwrap();
            seen.extend(
                page.items
                    .into_iter()
                    .filter_map(Object::into_account)
                    .map(|account| account.id),
            );
            match page.next {
                Some(next) => cursor = Some(next),
                None => break page.complete,
            }
        };
        if complete {
            for id in &made {
                assert_eq!(seen.iter().filter(|it| *it == id).count(), 1, "{id}");
            }
            return;
        }
    }
    panic!("no listing was complete in fifty");
}

#[tokio::test]
async fn a_wrong_token_is_a_refused_login() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let connector = Scim::from_settings(
        "scim",
        json!({ "base_url": lab("TENURE_LAB_SCIM_URL"), "token": format!("file:{}", file.path().display()) }),
    )
    .unwrap();
    let error = connector
        .get(&ObjectRef::AccountNamed("x".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::AuthExpired);
    let health = connector.check().await.unwrap();
    let bad: Vec<&str> = health
        .findings
        .iter()
        .filter(|it| !it.good)
        .map(|it| it.what.as_str())
        .collect();
    assert_eq!(bad, ["login"]);
}

#[tokio::test]
async fn the_wrong_address_is_told() {
    let mut url = lab("TENURE_LAB_SCIM_URL");
    url.truncate(url.len() - "/v2".len());
    let settings =
        json!({ "base_url": format!("{url}/nowhere"), "token": "env:TENURE_LAB_SCIM_TOKEN" });
    let health = Scim::from_settings("scim", settings)
        .unwrap()
        .check()
        .await
        .unwrap();
    assert!(!health.is_good(), "{health:?}");
}

#[tokio::test]
async fn only_a_trusted_certificate_is_talked_to() {
    let over_tls = |ca_file: Option<&str>| {
        let settings = json!({
            "base_url": lab("TENURE_LAB_SCIM_TLS_URL"),
            "token": "env:TENURE_LAB_SCIM_TOKEN",
            "ca_file": ca_file.map(lab),
        });
        Scim::from_settings("scim", settings).unwrap()
    };
    assert!(
        over_tls(Some("TENURE_LAB_SCIM_CA"))
            .check()
            .await
            .unwrap()
            .is_good()
    );
    for untrusted in [Some("TENURE_LAB_SCIM_OTHER_CA"), None] {
        let error = over_tls(untrusted)
            .apply(&Operation::CreateAccount(new("x")), &key())
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());
        assert!(error.whole().contains("certificate"), "{}", error.whole());
    }
}

#[tokio::test]
async fn an_error_carries_what_the_server_said() {
    let connector = connector(100);
    let failure = connector
        .search("Users", "userName eq", ("attributes", "id"))
        .await
        .unwrap_err();
    let Failure::Refused(refusal) = &failure else {
        panic!("{failure:?}")
    };
    assert_eq!(refusal.scim_type.as_deref(), Some("invalidFilter"));
    let error = failure.of_read();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("invalidFilter"), "{}", error.message);
}

/// How long one operation takes when the application holds 2,000 users and one group holds them all. For
/// people who size a run against this server: `cargo test -p connectors scim::live::speed -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, takes minutes"]
#[expect(clippy::print_stderr, reason = "a measurement is for reading")]
async fn speed_at_two_thousand_users() {
    let connector = connector(100);
    let group = EntitlementName::new(fresh("everybody"));
    make_group(group.as_str()).await;
    let mut ids: Vec<NativeId> = Vec::new();
    for block in 0..4 {
        let mut took = [0.0_f64; 6];
        for _ in 0..500 {
            let started = tokio::time::Instant::now();
            let name = fresh("s");
            let id = make(&connector, &name).await;
            took[0] += started.elapsed().as_secs_f64();
            let claim = Claim::AccountExists {
                owner: format!("owner-{name}"),
            };
            took[1] += timed(connector.verify(&claim)).await;
            let grant = Operation::Grant {
                account: id.clone(),
                entitlement: group.clone(),
            };
            took[2] += timed(connector.apply(&grant, &key())).await;
            let granted = Claim::Granted {
                account: id.clone(),
                entitlement: group.clone(),
            };
            took[3] += timed(connector.verify(&granted)).await;
            let disable = Operation::DisableAccount {
                account: id.clone(),
            };
            took[4] += timed(connector.apply(&disable, &key())).await;
            ids.push(id);
        }
        for id in ids.iter().take(20) {
            took[5] += timed(connector.get(&ObjectRef::Account(id.clone()))).await * 25.0;
        }
        let ms: Vec<String> = took
            .iter()
            .map(|total| format!("{:.1}", total / 500.0 * 1000.0))
            .collect();
        eprintln!(
            "{} users: create {} ms, verify exists {}, grant {}, verify granted {}, disable {}, get {}",
            (block + 1) * 500,
            ms[0],
            ms[1],
            ms[2],
            ms[3],
            ms[4],
            ms[5]
        );
    }
    let started = tokio::time::Instant::now();
    for id in ids.iter().take(20) {
        let revoke = Operation::Revoke {
            account: id.clone(),
            entitlement: group.clone(),
        };
        assert!(matches!(apply(&connector, revoke).await, Outcome::Done(_)));
    }
    eprintln!(
        "revoke {:.1} ms",
        started.elapsed().as_secs_f64() / 20.0 * 1000.0
    );
}

async fn timed<T: std::fmt::Debug>(work: impl Future<Output = Result<T, Error>>) -> f64 {
    let started = tokio::time::Instant::now();
    work.await.unwrap();
    started.elapsed().as_secs_f64()
}
