//! What a caller may send and no good caller does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::api::events::EVENTS_MAX;
use crate::api::imports::FILE_BYTES_MAX;
use crate::api::input::BODY_BYTES_MAX;

#[tokio::test]
async fn a_wrong_event_is_refused_with_its_place() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/specversion", json!("0.3"), "/specversion"),
        ("/id", json!(""), "/id"),
        ("/id", json!("x".repeat(300)), "/id"),
        ("/subject", json!("a\u{0}b"), "/subject"),
        ("/subject", json!(" E1"), "/subject"),
        ("/source", json!("\n"), "/source"),
        ("/type", json!("promotion"), "/type"),
        ("/time", json!("yesterday"), "/time"),
        ("/time", json!("2026-02-30T00:00:00Z"), "/time"),
        ("/time", json!("2026-01-01T25:00:00Z"), "/time"),
        ("/time", json!("2026-01-01"), "/time"),
        ("/time", json!("9999-12-31T23:59:59Z"), "/time"),
        (
            "/data/effective_at",
            json!("0001-01-01T00:00:00Z"),
            "/data/effective_at",
        ),
        ("/data/effective_at", json!(""), "/data/effective_at"),
        ("/data/zone", json!("Mars/Olympus"), "/data/zone"),
        ("/datacontenttype", json!("text/plain"), "/datacontenttype"),
        ("/data_base64", json!("e30="), "/data_base64"),
        ("/Effective-At", json!("x"), "/Effective-At"),
        (
            "/data/attributes/deep",
            json!({"a": {"b": 1}}),
            "/data/attributes/deep",
        ),
        ("/data/attributes/name", json!("a\u{0}b"), "/data"),
    ];
    for (field, value, at) in cases {
        let mut event = hire("1", "E1");
        let (parent, name) = field.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[name] = value.clone();
        let problem = admin.event(&event).await.problem(422, "invalid");
        assert_eq!(
            problem["mistakes"][0]["at"], at,
            "{field} = {value}: {problem}"
        );
    }
    // Wrong types and unknown fields are named by the reader of JSON.
    for (field, value) in [
        ("/time", json!(17)),
        ("/id", json!(null)),
        ("/data", json!([1])),
        ("/data/version", json!("seven")),
        ("/data/version", json!(1.5)),
        ("/data/attributes", json!("none")),
        ("/data/efective_at", json!("2026-01-01T00:00:00Z")),
    ] {
        let mut event = hire("1", "E1");
        let (parent, name) = field.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[name] = value.clone();
        admin.event(&event).await.problem(422, "invalid");
    }
    for field in ["specversion", "id", "source", "type", "subject", "time"] {
        let mut event = hire("1", "E1");
        event.as_object_mut().unwrap().remove(field);
        let problem = admin.event(&event).await.problem(422, "invalid");
        assert!(
            problem["detail"].as_str().unwrap().contains(field),
            "{problem}"
        );
    }
    // A demand that somebody's access ends makes nobody.
    let mut event = hire("1", "E1");
    event["type"] = json!("access.revoke_now");
    admin.event(&event).await.problem(422, "invalid");
    let none = admin.get("/v1/identities").await.expect(200);
    assert_eq!(none["items"], json!([]));
    // An extension that the format allows is let through.
    let mut event = hire("1", "E1");
    event["traceparent"] = json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    admin.event(&event).await.expect(202);
}

#[tokio::test]
async fn a_batch_is_checked_whole_before_any_of_it_counts() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let batch = |events: Vec<Value>| {
        admin.send(
            Method::POST,
            "/v1/events",
            "application/cloudevents-batch+json",
            json!(events).to_string(),
        )
    };
    let mut wrong = hire("2", "E2");
    wrong["time"] = json!("2026-02-30T00:00:00Z");
    let problem = batch(vec![hire("1", "E1"), wrong])
        .await
        .problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/1/time");
    let problem = batch(vec![hire("1", "E1"), hire("1", "E2")])
        .await
        .problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/1/id");
    batch(Vec::new()).await.problem(422, "invalid");
    batch(
        (0..=EVENTS_MAX)
            .map(|number| hire(&number.to_string(), "E1"))
            .collect(),
    )
    .await
    .problem(422, "invalid");
    assert_eq!(
        admin.get("/v1/identities").await.expect(200)["items"],
        json!([])
    );
    let taken = batch(vec![hire("1", "E1"), hire("2", "E2")])
        .await
        .expect(202);
    assert_eq!(taken["events"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_no_json_is_malformed() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let deep = "[".repeat(100_000);
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{".to_vec(),
        b"\xff\xfe{\"a\":1}".to_vec(),
        b"{\"id\":\"\xc3\x28\"}".to_vec(),
        deep.into_bytes(),
        b"nonsense".to_vec(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
        let answer = admin
            .send(
                Method::POST,
                "/v1/events",
                "application/cloudevents+json",
                body,
            )
            .await;
        assert!(matches!(answer.status, 400 | 422), "{shown}: {answer:?}");
    }
    let event = hire("1", "E1").to_string();
    for media in ["text/xml", "", "application/cloudevents+xml"] {
        admin
            .send(Method::POST, "/v1/events", media, event.clone())
            .await
            .problem(415, "unsupported-media-type");
    }
    let twice = event.replacen("\"id\":\"1\"", "\"id\":\"1\",\"id\":\"2\"", 1);
    admin
        .send(
            Method::POST,
            "/v1/events",
            "application/cloudevents+json",
            twice,
        )
        .await
        .problem(422, "invalid");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let large = "x".repeat(BODY_BYTES_MAX + 1);
    admin
        .send(
            Method::POST,
            "/v1/events",
            "application/cloudevents+json",
            large,
        )
        .await
        .problem(413, "too-large");
    // Only announced: the answer comes before the body.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = format!(
        "POST /v1/imports?source=hr HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: text/csv\r\ncontent-length: {}\r\n\r\n",
        admin.token,
        FILE_BYTES_MAX + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn paths_methods_and_parameters_that_are_not_ours() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.get("/v1/nothing").await.problem(404, "not-found");
    admin
        .get("/v1/cases/not-a-uuid")
        .await
        .problem(404, "not-found");
    admin
        .get("/v1/cases/00000000-0000-4000-8000-000000000000")
        .await
        .problem(404, "not-found");
    admin
        .get("/v1/identities/nobody")
        .await
        .problem(404, "not-found");
    admin
        .get("/v1/identities/%00")
        .await
        .problem(404, "not-found");
    admin
        .send(Method::PUT, "/v1/cases", "application/json", "{}")
        .await
        .problem(405, "method-not-allowed");
    for query in [
        "limit=0",
        "limit=501",
        "state=asleep",
        "cursor=zzz",
        "cursor=%00",
    ] {
        admin
            .get(&format!("/v1/cases?{query}"))
            .await
            .problem(422, "invalid");
    }
    for query in ["limit=-1", "limit=x", "colour=red", "open=maybe"] {
        admin
            .get(&format!("/v1/cases?{query}"))
            .await
            .problem(400, "malformed");
    }
    admin
        .get(&format!("/v1/identities?search={}", "a".repeat(300)))
        .await
        .problem(422, "invalid");
    admin
        .get("/v1/identities?search=%25%27--")
        .await
        .expect(200);
    admin
        .get("/v1/identities?status=asleep")
        .await
        .problem(422, "invalid");
    let case = "/v1/cases/00000000-0000-4000-8000-000000000000";
    admin
        .post(&format!("{case}/cancel"), json!({"reason": "x"}))
        .await
        .problem(404, "not-found");
    admin
        .post(&format!("{case}/cancel"), json!({"reason": "x", "more": 1}))
        .await
        .problem(422, "invalid");
}

#[tokio::test]
async fn commands_are_bounded_and_say_why() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let taken = admin.event(&hire("1", "E1")).await.expect(202);
    let case = format!(
        "/v1/cases/{}",
        taken["events"][0]["cases"][0].as_str().unwrap()
    );
    server.settled().await;
    admin
        .post(&format!("{case}/cancel"), json!({"reason": " "}))
        .await
        .problem(422, "invalid");
    admin
        .post(
            &format!("{case}/cancel"),
            json!({"reason": "x".repeat(5_000)}),
        )
        .await
        .problem(422, "invalid");
    admin
        .post(&format!("{case}/cancel"), json!({"reason": "\u{1b}[2J"}))
        .await
        .problem(422, "invalid");
    admin
        .post(
            &format!("{case}/skip"),
            json!({"step": "creat", "reason": "x"}),
        )
        .await
        .problem(422, "invalid");
    admin
        .post(&format!("{case}/retry"), json!({"instance": 1}))
        .await
        .problem(422, "invalid");
    admin
        .post(&format!("{case}/retry"), json!({}))
        .await
        .problem(409, "conflict");
    admin
        .post(
            &format!("{case}/retry"),
            json!({"step": "create", "instance": 4_000_000_000_u32}),
        )
        .await
        .problem(409, "conflict");
    admin
        .post(
            &format!("{case}/signal"),
            json!({"name": "a", "payload": {"b\u{0}": 1}}),
        )
        .await
        .problem(422, "invalid");
    let id = taken["events"][0]["cases"][0].as_str().unwrap();
    admin
        .post(
            &format!("/v1/approvals/{id}/65535/4294967295"),
            json!({"approve": true}),
        )
        .await
        .problem(409, "conflict");
    admin
        .post(
            &format!("/v1/approvals/{id}/65536/0"),
            json!({"approve": true}),
        )
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_where() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for (csv, expected) in [
        ("", "empty"),
        ("id,name\nE1,Ada\n", "department"),
        ("id,name,department\nE1,Ada,Sales\nE1,Bob,Sales\n", "E1"),
        ("id,name,department\nE1,Ada\n", ""),
    ] {
        let problem = admin
            .import("2026-01-01", csv)
            .await
            .problem(422, "invalid");
        assert!(problem.to_string().contains(expected), "{csv:?}: {problem}");
    }
    let path = "/v1/imports?source=hr&file=people.csv&as_of=2026-01-01";
    let bytes = b"id,name,department\nE1,\xff\xfe,Sales\n".to_vec();
    admin
        .send(Method::POST, path, "text/csv", bytes)
        .await
        .problem(422, "invalid");
    for query in ["as_of=2026-02-30", "colour=red"] {
        let path = format!("/v1/imports?source=hr&{query}");
        admin
            .send(Method::POST, &path, "text/csv", "a")
            .await
            .problem(400, "malformed");
    }
    for query in ["file=..%2Fetc", "manifest=nonsense"] {
        let path = format!("/v1/imports?source=hr&{query}");
        admin
            .send(Method::POST, &path, "text/csv", "a")
            .await
            .problem(422, "invalid");
    }
    admin
        .send(Method::POST, path, "image/png", "a")
        .await
        .problem(415, "unsupported-media-type");
    assert_eq!(
        admin.get("/v1/identities").await.expect(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn answers_tell_no_more_than_they_should() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let answer = admin.get("/v1/cases").await;
    for absent in ["server", "x-powered-by", "access-control-allow-origin"] {
        assert!(!answer.headers.contains_key(absent), "{absent}");
    }
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert!(!answer.headers["x-request-id"].is_empty());
    for (given, kept) in [("abc-1", true), ("a b", false), (&*"x".repeat(65), false)] {
        let request = server
            .client
            .get(format!("{}/healthz", server.url))
            .header("x-request-id", given);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["x-request-id"] == given, kept, "{given}");
    }
}

#[tokio::test]
async fn what_is_no_http_does_not_hurt() {
    let server = Server::start().await;
    let many_headers = (0..200)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect::<String>();
    let long_header = "x".repeat(100_000);
    for text in [
        "\x16\x03\x01\x02\x00\x01\x00".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: x\r\n{many_headers}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: x\r\na: {long_header}\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        // The server may hang up while we still write.
        let _ = stream.write_all(text.as_bytes()).await;
        let line = first_line(&mut stream).await;
        assert!(line.is_empty() || line.starts_with("HTTP/1.1 4"), "{line}");
    }
    server.admin().await.get("/healthz").await.expect(200);
}

/// The first line of an answer; empty when the server hung up.
async fn first_line(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 4_096];
    let read = stream.read(&mut answer).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&answer[..read]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}
