//! Rotations over HTTP: planned, begun, looked at, taken back; and what is refused.

use super::*;

#[tokio::test]
async fn one_is_planned_begun_looked_at_and_taken_back() {
    rotated(&Server::start().await).await;
}

#[tokio::test]
async fn one_is_planned_begun_looked_at_and_taken_back_on_postgres_too() {
    rotated(&Server::on_postgres().await).await;
}

/// `badges` keeps no credentials, so whatever begins stands in preflight.
const THREE: &str = "
nhis:
  - {key: sync, kind: bot, environment: production, purpose: syncs, team: data, owner: E1, backup: E2, review: 2099-01-31,
     credentials: [
       {system: badges, id: 'card:1', kind: api_key, issued: 2026-01-01T00:00:00Z, replaced_by: two_slot,
        rotation: {place: {system: badges, bundle: x}, users: [svc], every: 3600d, overlap: {reload: 5m, cache: 1h}}},
       {system: badges, id: 'card/2', kind: api_key, issued: 2026-01-02T00:00:00Z, replaced_by: two_slot,
        rotation: {place: {system: badges, bundle: y}, users: [svc], every: 3600d}}]}
  - {key: web, kind: bot, environment: production, purpose: serves, team: data, owner: E2, backup: E1, review: 2099-01-31,
     credentials: [
       {system: badges, id: 'card:3', kind: api_key, issued: 2026-01-03T00:00:00Z, replaced_by: two_slot,
        rotation: {place: {system: badges, bundle: z}, users: [svc], every: 3600d}}]}
";

async fn declared(server: &Server) -> Caller<'_> {
    let admin = server.admin().await;
    for key in ["E1", "E2"] {
        admin.event(&hire(key, key)).await.expect(202);
    }
    server.settled().await;
    let path = "/v1/nhis?reason=inventory";
    let taken = admin.send(Method::POST, path, "application/yaml", THREE);
    assert_eq!(taken.await.expect(200)["new"], json!(["sync", "web"]));
    // As the next look of the node does.
    let directory = &server.database.directory;
    assert!(directory.plan_rotations(now()).await.unwrap() <= 3);
    admin
}

fn names(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect()
}

async fn rotated(server: &Server) {
    let admin = declared(server).await;
    let reader = Caller {
        server,
        token: server.token("reader", &[Role::Read]).await,
    };
    let page = reader.get("/v1/rotations?limit=2").await.expect(200);
    assert_eq!(names(&page), ["badges/card/2", "badges/card:1"]);
    let next = page["next"].as_str().unwrap();
    let page = reader
        .get(&format!("/v1/rotations?limit=2&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(
        (names(&page), &page["next"]),
        (vec!["badges/card:3"], &json!(null))
    );
    for (system, count) in [("badges", 3), ("badge", 0), ("badges%2Fcard", 0)] {
        let path = format!("/v1/rotations?system={system}");
        let of = reader.get(&path).await.expect(200);
        assert_eq!(names(&of).len(), count, "{system}");
    }
    let of = reader.get("/v1/rotations?nhi=web").await.expect(200);
    assert_eq!(names(&of), ["badges/card:3"]);
    let open = reader.get("/v1/rotations?open=true").await.expect(200);
    assert_eq!(open["items"], json!([]));
    let overlap = reader.get("/v1/rotations?phase=overlap").await.expect(200);
    assert_eq!(overlap["items"], json!([]));

    // The plan follows the time, page by page.
    let plan = "/v1/rotations/plan?until=2099-01-01T00:00:00Z&limit=2";
    let page = reader.get(plan).await.expect(200);
    assert_eq!(names(&page), ["badges/card:1", "badges/card/2"]);
    let next = page["next"].as_str().unwrap();
    let page = reader
        .get(&format!("{plan}&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(
        (names(&page), &page["next"]),
        (vec!["badges/card:3"], &json!(null))
    );
    let soon = reader
        .get("/v1/rotations/plan?until=2030-01-01T00:00:00Z")
        .await
        .expect(200);
    assert_eq!(soon["items"], json!([]));

    let one = reader
        .get("/v1/rotations/badges/card%2F2")
        .await
        .expect(200);
    assert_eq!(
        (&one["phase"], &one["can_roll_back"], &one["timeline"]),
        (&json!("scheduled"), &json!(false), &json!([]))
    );

    let path = "/v1/rotations/badges/card:1";
    let answer = admin
        .post(&format!("{path}/run"), json!({"reason": "Bob has seen it"}))
        .await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let begun = answer.expect(202);
    assert_eq!(begun["name"], "badges/card:1");
    assert_eq!(
        location,
        format!("/v1/cases/{}", begun["case"].as_str().unwrap())
    );
    server.settled().await;
    let again = admin
        .post(&format!("{path}/run"), json!({"reason": "again"}))
        .await
        .problem(409, "conflict");
    assert!(
        again["detail"]
            .as_str()
            .unwrap()
            .contains("is being replaced"),
        "{again}"
    );
    // Who asked, and why.
    let case = reader.get(&location).await.expect(200);
    assert_eq!(
        (&case["initiator"], &case["input"]["reason"]),
        (&json!("token:admin"), &json!("Bob has seen it"))
    );
    let one = reader.get(path).await.expect(200);
    assert_eq!(one["open_case"], begun["case"]);
    assert!(one["waits"].is_string(), "{one}");
    assert!(!one["timeline"].as_array().unwrap().is_empty(), "{one}");
    let open = reader.get("/v1/rotations?open=true").await.expect(200);
    assert_eq!(names(&open), ["badges/card:1"]);

    let back = json!({"reason": "the nightly job fails"});
    admin
        .post(&format!("{path}/rollback"), back.clone())
        .await
        .expect(200);
    server.settled().await;
    let one = reader.get(path).await.expect(200);
    assert_eq!(
        (&one["open_case"], &one["last_case"]),
        (&json!(null), &begun["case"])
    );
    let timeline = reader
        .get(&format!("{location}/timeline"))
        .await
        .expect(200);
    let timeline = timeline.to_string();
    assert!(
        timeline.contains("token:admin") && timeline.contains("the nightly job fails"),
        "{timeline}"
    );
    admin
        .post(&format!("{path}/rollback"), back)
        .await
        .problem(409, "conflict");

    // A compromise ends what is under way, and nobody goes back.
    admin
        .post(&format!("{path}/run"), json!({"reason": "a"}))
        .await
        .expect(202);
    server.settled().await;
    let stolen = json!({"reason": "it was in a log", "compromised": true});
    admin
        .post(&format!("{path}/run"), stolen.clone())
        .await
        .expect(202);
    admin
        .post(
            &format!("{path}/run"),
            json!({"reason": "c", "which": "new"}),
        )
        .await
        .problem(422, "invalid");
    // Said again it is not lost, and begins nothing beside what is under way.
    let again = admin.post(&format!("{path}/run"), stolen).await.expect(202);
    let one = reader.get(path).await.expect(200);
    assert_eq!(
        (&again["begins"], &again["case"], &one["exposed_again"]),
        (&json!(false), &one["open_case"], &json!(true))
    );
    assert!(one["follows"].as_str().unwrap().contains("again"), "{one}");
    server.settled().await;
    let no_way = admin
        .post(&format!("{path}/rollback"), json!({"reason": "b"}))
        .await
        .problem(409, "conflict");
    assert!(
        no_way["detail"].as_str().unwrap().contains("strangers"),
        "{no_way}"
    );
}

#[tokio::test]
async fn what_is_wrong_or_not_allowed_is_refused() {
    refused(&Server::start().await).await;
}

#[tokio::test]
async fn what_is_wrong_or_not_allowed_is_refused_on_postgres_too() {
    refused(&Server::on_postgres().await).await;
}

async fn refused(server: &Server) {
    let admin = declared(server).await;
    let why = || json!({"reason": "a"});
    for path in [
        "/v1/rotations/badges/nothing",
        "/v1/rotations/nowhere/card:1",
        "/v1/rotations/badges/card%00",
        "/v1/rotations/badges/%2e%2e%2fcard:1",
        "/v1/rotations/badges/';DROP TABLE rotation;--",
    ] {
        admin.get(path).await.problem(404, "not-found");
        for what in ["run", "rollback"] {
            admin
                .post(&format!("{path}/{what}"), why())
                .await
                .problem(404, "not-found");
        }
    }
    let path = "/v1/rotations/badges/card:1";
    for what in ["run", "rollback"] {
        let path = format!("{path}/{what}");
        for body in [
            json!({}),
            json!({"reason": " "}),
            json!({"reason": "a\u{0}"}),
            json!({"reason": "x".repeat(5_000)}),
            json!({"reason": "a", "colour": "red"}),
            json!({"reason": ["a"]}),
        ] {
            admin.post(&path, body).await.problem(422, "invalid");
        }
        admin
            .send(Method::POST, &path, "application/json", "{")
            .await
            .problem(400, "malformed");
        admin
            .send(Method::POST, &path, "text/plain", "{}")
            .await
            .problem(415, "unsupported-media-type");
        for role in [Role::Read, Role::Approve, Role::Provision] {
            let other = Caller {
                server,
                token: server
                    .token(&format!("{what}-{}", role.as_str()), &[role])
                    .await,
            };
            other.post(&path, why()).await.problem(403, "forbidden");
        }
    }
    // Nothing of it began.
    let one = admin.get(path).await.expect(200);
    assert_eq!(
        (&one["open_case"], &one["last_case"]),
        (&json!(null), &json!(null))
    );
    admin
        .post(&format!("{path}/rollback"), why())
        .await
        .problem(409, "conflict");

    for query in [
        "limit=0",
        "limit=501",
        "cursor=%21",
        "cursor=AAAA",
        "nhi=%00",
        "system=%00",
    ] {
        admin
            .get(&format!("/v1/rotations?{query}"))
            .await
            .problem(422, "invalid");
    }
    for query in ["phase=asleep", "open=maybe", "colour=red"] {
        admin
            .get(&format!("/v1/rotations?{query}"))
            .await
            .problem(400, "malformed");
    }
    let plan = "/v1/rotations/plan";
    admin.get(plan).await.problem(400, "malformed");
    for query in ["until=tomorrow", "until=2026-02-30T00:00:00Z"] {
        admin
            .get(&format!("{plan}?{query}"))
            .await
            .problem(400, "malformed");
    }
    for query in [
        "until=%2B262000-01-01T00:00:00Z",
        "until=2099-01-01T00:00:00Z&cursor=%21",
        "until=2099-01-01T00:00:00Z&cursor=eA",
        "until=2099-01-01T00:00:00Z&limit=0",
    ] {
        admin
            .get(&format!("{plan}?{query}"))
            .await
            .problem(422, "invalid");
    }
    let pusher = Caller {
        server,
        token: server.token("pusher", &[Role::Provision]).await,
    };
    for path in [
        "/v1/rotations",
        path,
        "/v1/rotations/plan?until=2099-01-01T00:00:00Z",
    ] {
        pusher.get(path).await.problem(403, "forbidden");
    }
}
