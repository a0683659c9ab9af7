//! Who may do what.

use super::*;
use crate::api::openapi;

/// The operations of the document: method, path with variables filled in, and the role it says it takes.
fn operations() -> Vec<(Method, String, Option<Role>)> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{id}", "00000000-0000-4000-8000-000000000000")
            .replace("{case}", "00000000-0000-4000-8000-000000000000")
            .replace("{command}", "00000000-0000-4000-8000-000000000000")
            .replace("{step}", "0")
            .replace("{instance}", "0")
            .replace("{name}", "nothing")
            .replace("{hold}", "matter")
            .replace("{key}", "nobody")
            .replace("{system}", "nothing");
        let path = match path.as_str() {
            "/v1/explain" => "/v1/explain?identity=a&system=b&entitlement=c".to_owned(),
            "/v1/imports" => "/v1/imports?source=hr".to_owned(),
            "/v1/correlation/collisions" => "/v1/correlation/collisions?system=a".to_owned(),
            "/v1/dependencies" => "/v1/dependencies?node=person:a&to=leave".to_owned(),
            "/v1/credentials" => "/v1/credentials?expires_before=2026-01-01T00:00:00Z".to_owned(),
            "/v1/rotations/plan" => "/v1/rotations/plan?until=2026-01-01T00:00:00Z".to_owned(),
            _ => path,
        };
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else {
                continue;
            };
            let path = match (&method, path.as_str()) {
                (&Method::POST, "/v1/nhis") => "/v1/nhis?reason=a".to_owned(),
                (&Method::POST, "/v1/observations") => {
                    let times = "from=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z";
                    format!("/v1/observations?system=nothing&{times}&reason=a")
                }
                _ => path.clone(),
            };
            let role = operation["security"][0]["token"][0]
                .as_str()
                .and_then(Role::parse);
            operations.push((method, path, role));
        }
    }
    operations
}

/// A body that the operation can read, so that only the role decides.
fn body(path: &str) -> (&'static str, String) {
    let json = "application/json";
    match path.rsplit('/').next().unwrap() {
        "events" => ("application/cloudevents+json", hire("1", "E1").to_string()),
        "imports?source=hr" => ("text/csv", String::new()),
        "skip" | "rerun" => (json, json!({"step": "a", "reason": "b"}).to_string()),
        "cancel" | "pause" | "resume" | "undo" | "migrate" => {
            (json, json!({"reason": "b"}).to_string())
        }
        "bulk" => (
            json,
            json!({"operation": "retry", "reason": "b", "filter": {}}).to_string(),
        ),
        "run" | "rollback" | "remove" | "split" | "separate" => {
            (json, json!({"reason": "b"}).to_string())
        }
        "backfill" => (
            json,
            json!({"from": "2024-01-01T00:00:00Z", "to": "2024-01-02T00:00:00Z", "reason": "b"})
                .to_string(),
        ),
        "nothing" => (
            json,
            json!({"workflow": "leaver", "cron": "0 0 29 2 *", "zone": "UTC", "subject": "b"})
                .to_string(),
        ),
        "reassign" => (
            json,
            json!({"step": "a", "from": "manager", "to": "role:b", "reason": "b"}).to_string(),
        ),
        "holds" => (json, json!({"hold": "a", "reason": "b"}).to_string()),
        "release" => (json, json!({"reason": "b"}).to_string()),
        "contract" => (
            json,
            json!({"until": "2026-01-01", "reason": "b"}).to_string(),
        ),
        "signal" => (json, json!({"name": "b"}).to_string()),
        "reject" | "approve" => (json, json!({"note": "b"}).to_string()),
        "merge" => (json, json!({"absorbed": "a", "reason": "b"}).to_string()),
        "link" => (json, json!({"key": "a", "reason": "b"}).to_string()),
        "wave" => (json, json!({"exactly": "a", "reason": "b"}).to_string()),
        "0" => (json, json!({"approve": true}).to_string()),
        "tokens" => (
            json,
            json!({"name": "a b", "roles": [], "expires_at": "2026-01-01T00:00:00Z"}).to_string(),
        ),
        _ => (json, json!({}).to_string()),
    }
}

#[tokio::test]
async fn every_operation_takes_the_role_it_says_and_no_less() {
    let server = Server::start().await;
    let mut callers = Vec::new();
    for role in Role::ALL {
        callers.push((
            role,
            Caller {
                server: &server,
                token: server.token(role.as_str(), &[role]).await,
            },
        ));
    }
    let operations = operations();
    assert!(operations.len() > 25, "{operations:?}");
    let mut open = Vec::new();
    for (method, path, needs) in operations {
        let (media, body) = body(&path);
        let stranger = server
            .client
            .request(method.clone(), format!("{}{path}", server.url));
        let answer = Answer::of(
            stranger
                .header("content-type", media)
                .body(body.clone())
                .send()
                .await
                .unwrap(),
        )
        .await;
        let Some(needs) = needs else {
            // The signature that it takes instead is missing.
            let signed = path.starts_with("/v1/sources/");
            assert_eq!(answer.status == 401, signed, "{method} {path}");
            open.push(path);
            continue;
        };
        answer.problem(401, "unauthenticated");
        for (role, caller) in &callers {
            let answer = caller
                .send(method.clone(), &path, media, body.clone())
                .await;
            let looks = needs == Role::Read && *role != Role::Provision;
            let may = *role == needs || *role == Role::Admin || looks;
            assert_eq!(
                answer.status != 403,
                may,
                "{method} {path} as {role:?}: {answer:?}"
            );
        }
    }
    open.sort();
    assert_eq!(
        open,
        [
            "/healthz",
            "/readyz",
            "/v1/sources/{source}/events",
            "/v1/sources/{source}/hints"
        ]
    );
}

#[tokio::test]
async fn strangers_do_not_learn_which_paths_exist() {
    let server = Server::start().await;
    for path in [
        "/v1/cases",
        "/v1/nothing",
        "/",
        "/v1/cases/00000000-0000-4000-8000-000000000000",
    ] {
        let answer = Answer::of(
            server
                .client
                .get(format!("{}{path}", server.url))
                .send()
                .await
                .unwrap(),
        )
        .await;
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
        answer.problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn only_a_good_token_opens() {
    try_tokens(&Server::start().await).await;
}

#[tokio::test]
async fn only_a_good_token_opens_on_postgres_too() {
    try_tokens(&Server::on_postgres().await).await;
}

async fn try_tokens(server: &Server) {
    let admin = server.admin().await;
    let good = server.token("reader", &[Role::Read]).await;
    let ask = |authorization: String| {
        let request = server
            .client
            .get(format!("{}/v1/cases", server.url))
            .header("authorization", authorization);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(format!("Bearer {good}")).await, 200);
    assert_eq!(ask(format!("bearer {good}")).await, 200);
    let mut other = good.clone();
    let last = if other.pop() == Some('A') { 'B' } else { 'A' };
    other.push(last);
    for bad in [
        format!("Bearer {other}"),
        format!("Basic {good}"),
        good.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {}", &good[..good.len() - 1]),
        format!("Bearer {}", good.trim_start_matches("tnr_")),
        "Bearer ' OR 1=1 --".to_owned(),
    ] {
        assert_eq!(ask(bad.clone()).await, 401, "{bad}");
    }

    // What expires does so at its moment; what is revoked, at once.
    let tokens = Tokens::new(server.database.clone());
    let later = now() + TimeDelta::hours(2);
    assert!(tokens.authenticate(&good, now()).await.unwrap().is_some());
    assert!(tokens.authenticate(&good, later).await.unwrap().is_none());
    let listed = admin.get("/v1/tokens").await.expect(200);
    let reader = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["name"] == "reader")
        .unwrap()
        .clone();
    assert_eq!(reader["last_used_day"], json!(now().date_naive()));
    assert!(!listed.to_string().contains(&good));
    admin
        .send(Method::DELETE, "/v1/tokens/reader", "application/json", "")
        .await
        .expect(204);
    admin
        .send(Method::DELETE, "/v1/tokens/reader", "application/json", "")
        .await
        .problem(404, "not-found");
    assert_eq!(ask(format!("Bearer {good}")).await, 401);

    // A name that stood in evidence is not given out again.
    let wish =
        json!({"name": "reader", "roles": ["read"], "expires_at": now() + TimeDelta::days(1)});
    admin
        .post("/v1/tokens", wish)
        .await
        .problem(409, "conflict");
    let wish =
        json!({"name": "writer", "roles": ["operate"], "expires_at": now() + TimeDelta::days(1)});
    let made = admin.post("/v1/tokens", wish).await.expect(201)["token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(ask(format!("Bearer {made}")).await, 200);
    for expires_at in [now(), now() + TimeDelta::days(400)] {
        let wish = json!({"name": "other", "roles": ["read"], "expires_at": expires_at});
        admin.post("/v1/tokens", wish).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn the_database_keeps_no_token() {
    let server = Server::start().await;
    let token = server.token("reader", &[Role::Read]).await;
    let secret = token.trim_start_matches("tnr_").as_bytes();
    let folder = server._folder.path();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{}",
                path.display()
            );
        }
    }
}
