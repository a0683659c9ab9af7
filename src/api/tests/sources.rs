//! Sources that are heard, and silent ones.

use super::signed::{SINGLE, Signed, hired};
use super::*;

const HEARTBEAT: &str = "/v1/sources/payroll/heartbeat";

fn heartbeat(at: i64, body: &[u8]) -> Signed {
    Signed::at("application/json", body.to_vec(), SECRETS[0], at).to(HEARTBEAT)
}

/// What is told about a source.
async fn told(caller: &Caller<'_>, source: &str) -> Value {
    let list = caller.get("/v1/sources").await.expect(200);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    let item = items
        .iter()
        .find(|item| item["name"] == source)
        .unwrap()
        .clone();
    let detail = caller
        .get(&format!("/v1/sources/{source}"))
        .await
        .expect(200);
    for (field, value) in item.as_object().unwrap() {
        assert_eq!(detail[field], *value, "{field}");
    }
    item
}

fn time(value: &Value) -> chrono::DateTime<chrono::Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_source_is_heard_or_silent() {
    heard_or_silent(&Server::start().await).await;
}

#[tokio::test]
async fn a_source_is_heard_or_silent_on_postgres_too() {
    heard_or_silent(&Server::on_postgres().await).await;
}

async fn heard_or_silent(server: &Server) {
    let admin = server.admin().await;
    // Nobody has come yet; the clock runs from the moment the source was known.
    let payroll = told(&admin, "payroll").await;
    assert_eq!(
        (&payroll["state"], &payroll["heard_at"], &payroll["signs"]),
        (&json!("never_heard"), &Value::Null, &json!(true))
    );
    let due = time(&payroll["known_since"]) + TimeDelta::days(1);
    assert_eq!(time(&payroll["silent_from"]), due);
    let hr = told(&admin, "hr").await;
    assert_eq!(
        (&hr["state"], &hr["silent_after"], &hr["silent_from"]),
        (&json!("never_heard"), &Value::Null, &Value::Null)
    );

    let intake = &server.running.as_ref().unwrap().intake;
    let long_ago = now() - TimeDelta::days(2);
    intake.heard("payroll", long_ago, true).await.unwrap();
    let payroll = told(&admin, "payroll").await;
    assert_eq!(payroll["state"], "silent");
    assert_eq!(
        (time(&payroll["heard_at"]), time(&payroll["news_at"])),
        (long_ago, long_ago)
    );
    let metrics = admin.get("/metrics").await.expect(200);
    let metrics = metrics.as_str().unwrap();
    let line = |name: &str, source: &str| {
        let label = format!("source=\"{source}\"");
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name) && line.contains(&label));
        line.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    assert_eq!(line("tenure_source_silent", "payroll"), Some(1.0));
    assert_eq!(line("tenure_source_silent", "hr"), None);
    assert!(line("tenure_source_heard_age_seconds", "payroll").unwrap() >= 172_800.0);
    assert!(line("tenure_source_heard_age_seconds", "hr").unwrap() < 600.0);

    // It says that it lives: news are as old as before. Sent again, it is no younger for it.
    let signed_at = now().timestamp() - 100;
    for _ in 0..2 {
        let answer = heartbeat(signed_at, b"").send(server).await.expect(200);
        assert_eq!(time(&answer["heard_at"]).timestamp(), signed_at);
        let payroll = told(&admin, "payroll").await;
        assert_eq!(
            (
                time(&payroll["heard_at"]).timestamp(),
                time(&payroll["news_at"])
            ),
            (signed_at, long_ago)
        );
        assert_eq!(payroll["state"], "heard");
    }
    // A clock that is ahead does not count.
    let answer = heartbeat(now().timestamp() + 200, b" {}\n")
        .send(server)
        .await
        .expect(200);
    assert!(time(&answer["heard_at"]) <= now());

    let event = Signed::new(SINGLE, &hired("1", "E1"));
    event.send(server).await.expect(202);
    let payroll = told(&admin, "payroll").await;
    assert!(time(&payroll["news_at"]) > now() - TimeDelta::minutes(1));

    // A file counts, one that says nothing new too; one that is refused does not.
    admin
        .import("2026-02-01", "id,name\nE2,\"Bob\n")
        .await
        .problem(422, "invalid");
    let hr = told(&admin, "hr").await;
    assert_eq!(
        (&hr["state"], &hr["heard_at"]),
        (&json!("doubted"), &json!(null))
    );
    assert!(hr["doubt"].is_string(), "{hr}");
    admin
        .import("2026-01-01", "id,name,department\nE2,Bob,Sales\n")
        .await
        .expect(200);
    let hr = told(&admin, "hr").await;
    assert_eq!(
        (&hr["state"], &hr["as_of"]),
        (&json!("heard"), &json!("2026-01-01"))
    );
    let detail = admin.get("/v1/sources/hr").await.expect(200);
    assert_eq!(detail["files"][0]["status"], "applied");
    // Events of sources that nobody configured are noted nowhere.
    admin.event(&hire("1", "E3")).await.expect(202);
    told(&admin, "hr").await;
    admin
        .get("/v1/sources/hr-events")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn a_heartbeat_says_nothing_else() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let now_s = now().timestamp();
    for body in [&b"{\"a\":1}"[..], b"[]", b"\xff"] {
        heartbeat(now_s, body)
            .send(&server)
            .await
            .problem(422, "invalid");
    }
    heartbeat(now_s, &[b' '; 65])
        .send(&server)
        .await
        .problem(413, "too-large");
    // Signed for another body, by nobody, too long ago, or by a source that has no secret.
    let events = Signed::new(SINGLE, &hired("1", "E1")).to(HEARTBEAT);
    events.send(&server).await.problem(413, "too-large");
    let stranger = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    Signed::bytes("application/json", Vec::new(), stranger)
        .to(HEARTBEAT)
        .send(&server)
        .await
        .problem(401, "unauthenticated");
    for request in [
        heartbeat(now_s - 400, b""),
        heartbeat(now_s, b"").to("/v1/sources/hr/heartbeat"),
        heartbeat(now_s, b"").to("/v1/sources/nobody/heartbeat"),
    ] {
        request.send(&server).await.problem(401, "unauthenticated");
    }
    assert_eq!(told(&admin, "payroll").await["state"], "never_heard");
    // With a token: any configured source, but not by anybody.
    let send = |path: &'static str| admin.send(Method::POST, path, "application/json", "");
    send("/v1/sources/hr/heartbeat").await.expect(200);
    assert_eq!(told(&admin, "hr").await["state"], "heard");
    send("/v1/sources/nobody/heartbeat")
        .await
        .problem(404, "not-found");
    let token = server.token("reader", &[Role::Read]).await;
    let reader = Caller {
        server: &server,
        token,
    };
    let answer = reader
        .send(Method::POST, HEARTBEAT, "application/json", "")
        .await;
    answer.problem(403, "forbidden");
}
