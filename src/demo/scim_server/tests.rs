#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use connectors::conformance::{self, Fixture};
use connectors::connector::EntitlementName;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "a-token-for-tests";

struct Running {
    server: ScimServer,
    client: Client,
    folder: tempfile::TempDir,
}

async fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let server = ScimServer::start(&folder.path().join("scim.db"), 0, TOKEN)
        .await
        .unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().build().unwrap();
    Running {
        server,
        client,
        folder,
    }
}

impl Running {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.server.base_url()))
            .bearer_auth(TOKEN);
        if let Some(version) = if_match {
            request = request.header("if-match", version);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn make(&self, kind: Kind, fields: Value) -> Value {
        let mut body = json!({ "schemas": [kind.schema()] });
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let path = format!("/{}", kind.endpoint());
        let (status, made) = self.ask(Method::POST, &path, None, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made
    }
}

#[tokio::test]
async fn the_connector_finds_everything_it_needs() {
    let running = running().await;
    let mut fixture = Fixture::new("conf");
    for name in ["One", "Two"] {
        running
            .make(Kind::Group, json!({ "displayName": name }))
            .await;
        fixture.entitlements.push(EntitlementName::new(name));
    }
    fixture.text_attribute = Some("title".to_owned());
    let token = running.folder.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let settings = json!({
        "base_url": running.server.base_url(),
        "token": format!("file:{}", token.display()),
        "page_size": 5,
    });
    fixture.page_size = Some(5);
    let connector = connectors::registry::build("workspace", "scim", settings).unwrap();
    let report = conformance::run(connector, fixture).await;
    assert!(report.is_good(), "{report}");
    assert!(report.count(conformance::Verdict::Passed) >= 20, "{report}");
    running.server.stop().await;
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let running = running().await;
    for token in ["", "wrong", "a-token-for-test"] {
        let url = format!("{}/Users", running.server.base_url());
        let response = running.client.get(url).bearer_auth(token).send().await;
        assert_eq!(response.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_version_that_is_old_is_refused() {
    let running = running().await;
    let user = running.make(Kind::User, json!({ "userName": "Ada" })).await;
    let path = format!("/Users/{}", user["id"].as_str().unwrap());
    let version = user["meta"]["version"].as_str().unwrap();
    let patch = |active: bool| {
        let operations = json!([{ "op": "replace", "path": "active", "value": active }]);
        Some(json!({ "schemas": [workflows::scim::PATCH_OP], "Operations": operations }))
    };
    let ask = |version, active| running.ask(Method::PATCH, &path, Some(version), patch(active));
    let (first, _) = ask(version, false).await;
    let (second, refused) = ask(version, true).await;
    assert_eq!(
        (first, second),
        (StatusCode::OK, StatusCode::PRECONDITION_FAILED),
        "{refused}"
    );
    let changes = running.server.changes().await.unwrap();
    assert_eq!((changes["created"], changes["disabled"]), (1, 1));
}

#[tokio::test]
async fn a_name_is_given_once_whatever_its_case() {
    let running = running().await;
    running.make(Kind::User, json!({ "userName": "Ada" })).await;
    let again = json!({ "schemas": [schema::USER], "userName": "aDA" });
    let (status, refused) = running.ask(Method::POST, "/Users", None, Some(again)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(refused["scimType"], "uniqueness");
}

#[tokio::test]
async fn what_is_stored_survives_a_restart() {
    let running = running().await;
    running.make(Kind::User, json!({ "userName": "ada" })).await;
    running.server.stop().await;
    let server = ScimServer::start(&running.folder.path().join("scim.db"), 0, TOKEN)
        .await
        .unwrap();
    let url = format!(
        "{}/Users?filter=userName%20eq%20%22ADA%22",
        server.base_url()
    );
    let response = running.client.get(url).bearer_auth(TOKEN).send().await;
    let found: Value = response.unwrap().json().await.unwrap();
    assert_eq!(found["totalResults"], 1);
}
