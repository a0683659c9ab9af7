//! Events in binary mode, and what an identifier stands for.

use super::*;

/// Sends the event with its attributes in headers, changed by `change`.
async fn binary(caller: &Caller<'_>, event: &Value, change: &[(&str, Option<&str>)]) -> Answer {
    let mut headers: Vec<(String, Vec<u8>)> = event
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "data")
        .map(|(name, value)| (format!("ce-{name}"), value.as_str().unwrap().into()))
        .collect();
    headers.push(("content-type".to_owned(), b"application/json".to_vec()));
    for (name, value) in change {
        headers.retain(|(known, _)| known != name);
        headers.extend(value.map(|value| ((*name).to_owned(), value.as_bytes().to_vec())));
    }
    sent(caller, headers, event["data"].to_string()).await
}

async fn sent(
    caller: &Caller<'_>,
    headers: Vec<(String, Vec<u8>)>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let url = format!("{}/v1/events", caller.server.url);
    let mut request = caller.server.client.post(url).bearer_auth(&caller.token);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    Answer::of(request.body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn an_event_in_binary_mode_is_the_same_event() {
    the_same_event(&Server::start().await).await;
}

#[tokio::test]
async fn an_event_in_binary_mode_is_the_same_event_on_postgres_too() {
    the_same_event(&Server::on_postgres().await).await;
}

async fn the_same_event(server: &Server) {
    let admin = server.admin().await;
    let first = binary(&admin, &hire("1", "Zo%C3%AB"), &[])
        .await
        .expect(202);
    assert_eq!(first["events"][0]["status"], "started");
    let again = admin.event(&hire("1", "Zoë")).await.expect(202);
    assert_eq!(
        (&again["events"][0]["new"], &again["events"][0]["event_id"]),
        (&json!(false), &first["events"][0]["event_id"])
    );
    let person = admin.get("/v1/identities/Zo%C3%AB").await.expect(200);
    assert_eq!(person["identity"]["attributes"]["department"], "Research");
    let more = [
        ("content-type", Some("application/json; charset=utf-8")),
        (
            "ce-traceparent",
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ),
        ("ce-dataschema", Some("https://example.com/hire")),
    ];
    binary(&admin, &hire("2", "E2"), &more).await.expect(202);
}

#[tokio::test]
async fn a_wrong_event_in_binary_mode_is_refused_with_its_place() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for (header, value, at) in [
        ("ce-specversion", None, "/specversion"),
        ("ce-specversion", Some("0.3"), "/specversion"),
        ("ce-id", None, "/id"),
        ("ce-id", Some(""), "/id"),
        ("ce-source", None, "/source"),
        ("ce-type", None, "/type"),
        ("ce-type", Some("promotion"), "/type"),
        ("ce-subject", None, "/subject"),
        ("ce-subject", Some("%ff"), "/subject"),
        ("ce-subject", Some("a%00b"), "/subject"),
        ("ce-time", None, "/time"),
        ("ce-time", Some("2026-02-30T00:00:00Z"), "/time"),
        ("ce-data", Some("{}"), "/data"),
        ("ce-data_base64", Some("e30="), "/data_base64"),
        ("ce-effective-at", Some("x"), "/effective-at"),
        (
            "ce-datacontenttype",
            Some("application/json"),
            "/datacontenttype",
        ),
        ("content-type", Some("text/plain"), "/datacontenttype"),
    ] {
        let answer = binary(&admin, &hire("1", "E1"), &[(header, value)]).await;
        let problem = answer.problem(422, "invalid");
        assert_eq!(problem["mistakes"][0]["at"], at, "{header}: {problem}");
    }
    let mut event = hire("1", "E1");
    event["data"]["zone"] = json!("Mars/Olympus");
    let problem = binary(&admin, &event, &[]).await.problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/data/zone");
    event["data"] = json!({"efective_at": "2026-01-01T00:00:00Z"});
    binary(&admin, &event, &[]).await.problem(422, "invalid");

    let id = |value: &[u8]| ("ce-id".to_owned(), value.to_vec());
    let problem = sent(&admin, vec![id(b"1"), id(b"2")], "{}").await;
    let problem = problem.problem(422, "invalid");
    assert_eq!(problem["mistakes"][0]["at"], "/id");
    let problem = sent(&admin, vec![id(b"\xff\xfe")], "{}").await;
    problem.problem(422, "invalid");
    let all = |body: Vec<u8>| {
        let names = ["specversion", "id", "source", "type", "subject", "time"];
        let values = ["1.0", "1", "hr", "hire", "E1", "2026-01-05T08:00:00Z"];
        let headers = names.iter().zip(values);
        let headers = headers.map(|(name, value)| (format!("ce-{name}"), value.into()));
        sent(&admin, headers.collect(), body)
    };
    all(b"{\"reason\":\"\xc3\x28\"}".to_vec())
        .await
        .problem(400, "malformed");
    all(b"nonsense".to_vec()).await.problem(400, "malformed");
    all(vec![b' '; crate::api::input::BODY_BYTES_MAX + 1])
        .await
        .problem(413, "too-large");
    let none = admin.get("/v1/identities").await.expect(200);
    assert_eq!(none["items"], json!([]));
    // The structured form of another version is not taken for data.
    let media = ("content-type", Some("application/cloudevents+xml"));
    let answer = binary(&admin, &hire("1", "E1"), &[media]).await;
    answer.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn another_event_with_a_known_id_is_refused() {
    another_event(&Server::start().await).await;
}

#[tokio::test]
async fn another_event_with_a_known_id_is_refused_on_postgres_too() {
    another_event(&Server::on_postgres().await).await;
}

async fn another_event(server: &Server) {
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    let problem = admin.event(&hire("1", "E2")).await;
    assert_eq!(
        problem.problem(409, "conflict")["detail"],
        "event `1` of `hr-events` is known already and differs in `/subject`; give a new fact an `id` of its own, and \
         repeat a known one every word as it was"
    );
    let mut other = hire("1", "E1");
    other["type"] = json!("termination.effective");
    other["data"]["effective_at"] = json!("2026-01-06T08:00:00Z");
    let batch = json!([hire("2", "E2"), other, hire("3", "E3")]);
    let media = "application/cloudevents-batch+json";
    let send = |batch: &Value| admin.send(Method::POST, "/v1/events", media, batch.to_string());
    let problem = send(&batch).await.problem(409, "conflict");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("differs in `/1/type`, `/1/data`;"),
        "{detail}"
    );
    // None of them was taken; with its own identifier all of them are.
    admin
        .get("/v1/identities/E2")
        .await
        .problem(404, "not-found");
    let mut mended = batch;
    mended[1]["id"] = json!("4");
    let taken = send(&mended).await.expect(202);
    let new: Vec<_> = (0..3)
        .map(|index| taken["events"][index]["new"].clone())
        .collect();
    assert_eq!(new, [true, true, true]);
    // The same identifier of another source is another event.
    let mut foreign = hire("1", "E4");
    foreign["source"] = json!("vms");
    let taken = admin.event(&foreign).await.expect(202);
    assert_eq!(taken["events"][0]["new"], true);
    server.settled().await;
    let cases = admin.get("/v1/cases?subject=E2").await.expect(200);
    assert_eq!(cases["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn data_is_what_its_type_has() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    let said = |id: &str, event_type: &str, data: Value| {
        let mut event = hire(id, "E1");
        event["type"] = json!(event_type);
        event["data"] = data;
        event
    };
    let decided = |decision: &str, until: &str| json!({"system": "ldap", "entitlement": "pay", "decision": decision, "until": until});
    for (event_type, data, at) in [
        (
            "certification.decided",
            decided("keep", "2026-01-01"),
            "/data/until",
        ),
        (
            "certification.decided",
            decided("keep", "soon"),
            "/data/until",
        ),
        (
            "certification.decided",
            decided("keep", "9999-12-31"),
            "/data/until",
        ),
        (
            "certification.decided",
            decided("revoke", "2099-12-31"),
            "/data/until",
        ),
        (
            "certification.decided",
            decided("ended", "2099-12-31"),
            "/data/decision",
        ),
        ("hire", json!({"project": "x"}), "/data/project"),
        ("project.start", json!({}), "/data/project"),
        ("transfer", json!({"reason": "x"}), "/data"),
        ("transfer", json!({"changes": {"a": 1}}), "/data/changes/a"),
        ("termination.scheduled", json!({}), "/data"),
        (
            "termination.scheduled",
            json!({"last_day": "2026-02-30"}),
            "/data/last_day",
        ),
        (
            "termination.scheduled",
            json!({"last_day": "9999-12-31"}),
            "/data/last_day",
        ),
        (
            "termination.scheduled",
            json!({"last_day": "-9999-12-31"}),
            "/data/last_day",
        ),
        ("manager.changed", json!({"to": "E7"}), "/data/to"),
    ] {
        let answer = admin.event(&said("2", event_type, data)).await;
        let problem = answer.problem(422, "invalid");
        assert_eq!(problem["mistakes"][0]["at"], at, "{problem}");
    }
    // Somebody's last day ends where they are.
    let data = json!({"last_day": "2099-03-31", "zone": "Asia/Tokyo"});
    let answer = admin
        .event(&said("2", "termination.scheduled", data))
        .await
        .expect(202);
    assert_eq!(answer["events"][0]["status"], "waiting");
    let person = admin.get("/v1/identities/E1").await.expect(200);
    let events = person["events"].as_array().unwrap();
    let end = events
        .iter()
        .find(|event| event["event_type"] == "termination.scheduled");
    let effective_at = end.unwrap()["effective_at"].as_str().unwrap();
    let effective_at: chrono::DateTime<chrono::Utc> = effective_at.parse().unwrap();
    assert_eq!(effective_at.to_rfc3339(), "2099-03-31T15:00:00+00:00");
    let manager = json!({"to": {"key": "E7"}});
    admin
        .event(&said("3", "manager.changed", manager))
        .await
        .expect(202);
    let person = admin.get("/v1/identities/E1").await.expect(200);
    let attributes = &person["identity"]["attributes"];
    assert_eq!(
        (&attributes["manager"], &attributes["department"]),
        (&json!("E7"), &json!("Research"))
    );
}

#[tokio::test]
async fn schemas_of_events_are_there() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let answer = admin.get("/v1/schemas/events").await;
    assert_eq!(answer.headers["content-type"], "application/schema+json");
    assert_eq!(answer.expect(200)["oneOf"].as_array().unwrap().len(), 26);
    let one = admin
        .get("/v1/schemas/events/project.start")
        .await
        .expect(200);
    assert_eq!(one["properties"]["data"]["required"], json!(["project"]));
    let problem = admin
        .get("/v1/schemas/events/project.begin")
        .await
        .problem(404, "not-found");
    assert!(
        problem["detail"].as_str().unwrap().contains("did you mean"),
        "{problem}"
    );
}
