//! Non-human identities over HTTP: declared, listed, and asked about; and what is refused.

use super::*;

#[tokio::test]
async fn they_are_declared_listed_and_asked_about() {
    declared(&Server::start().await).await;
}

#[tokio::test]
async fn they_are_declared_listed_and_asked_about_on_postgres_too() {
    declared(&Server::on_postgres().await).await;
}

const TWO: &str = "
nhis:
  - {key: sync, kind: bot, environment: production, purpose: syncs, team: data, owner: E1, backup: E2, review: 2027-01-31,
     credentials: [{system: badges, id: 'card:1', kind: api_key, known_by: [E1], expires: 2027-02-01T00:00:00Z}]}
  - {key: web, kind: bot, environment: production, purpose: serves, team: data, owner: E2, backup: E1, review: 2026-03-31}
";

async fn declared(server: &Server) {
    let admin = server.admin().await;
    for key in ["E1", "E2"] {
        admin.event(&hire(key, key)).await.expect(202);
    }
    server.settled().await;
    let path = "/v1/nhis?reason=inventory";
    let take = |text: &str| admin.send(Method::POST, path, "application/yaml", text.to_owned());
    let report = take(TWO).await.expect(200);
    assert_eq!(report["new"], json!(["sync", "web"]));
    assert_eq!(take(TWO).await.expect(200)["unchanged"], 2);

    let page = admin.get("/v1/nhis?limit=1").await.expect(200);
    assert_eq!(page["items"][0]["nhi_key"], "sync");
    let next = page["next"].as_str().unwrap();
    let page = admin
        .get(&format!("/v1/nhis?limit=1&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(
        (&page["items"][0]["nhi_key"], &page["next"]),
        (&json!("web"), &json!(null))
    );
    let due = admin.get("/v1/nhis?review_by=2026-12-31").await.expect(200);
    assert_eq!(due["items"].as_array().unwrap().len(), 1);
    let one = admin.get("/v1/nhis/sync").await.expect(200);
    assert_eq!(
        (&one["owner"], &one["changes"][0]["by_actor"]),
        (&json!("E1"), &json!("token:admin"))
    );
    assert_eq!(one["changes"][0]["reason"], "inventory");
    assert!(one["edges"].as_array().unwrap().len() >= 4, "{one}");
    let soon = admin
        .get("/v1/credentials?expires_before=2027-03-01T00:00:00Z")
        .await
        .expect(200);
    assert_eq!(soon["items"][0]["name"], "badges/card:1");

    let answer = admin
        .get("/v1/dependencies?node=person:E1&to=leave")
        .await
        .expect(200);
    let found = answer["findings"].as_array().unwrap();
    let verdict = |node: &str| {
        let finding = found
            .iter()
            .find(|finding| finding["node"] == node)
            .unwrap();
        finding["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("nhi:sync"), "reassign");
    assert_eq!(verdict("credential:badges/card:1"), "insufficient_evidence");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_place() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    let path = "/v1/nhis?reason=inventory";
    let take = |media: &str, text: String| {
        let media = media.to_owned();
        let admin = &admin;
        async move { admin.send(Method::POST, path, &media, text).await }
    };
    let refused = take("application/yaml", TWO.to_owned()).await.expect(409);
    assert!(refused["refused"].to_string().contains("E2"), "{refused}");
    let wrong = take("application/yaml", TWO.replace("kind: bot", "kind: robot")).await;
    let wrong = wrong.problem(422, "invalid").to_string();
    assert!(wrong.contains("line 3"), "{wrong}");
    let alone = take(
        "application/json",
        json!({"nhis": [{"key": "x"}]}).to_string(),
    )
    .await;
    assert!(
        alone
            .problem(422, "invalid")
            .to_string()
            .contains("missing")
    );
    take("application/json", "{".into())
        .await
        .problem(422, "invalid");
    take("text/plain", TWO.into())
        .await
        .problem(415, "unsupported-media-type");
    let bytes = admin
        .send(Method::POST, path, "application/yaml", vec![0xff, 0xfe])
        .await;
    bytes.problem(400, "malformed");
    admin
        .send(Method::POST, "/v1/nhis?reason=%20", "application/yaml", TWO)
        .await
        .problem(422, "invalid");
    admin.get("/v1/nhis/nobody").await.problem(404, "not-found");
    admin
        .get("/v1/nhis?cursor=%21")
        .await
        .problem(422, "invalid");
    admin
        .get("/v1/nhis?review_by=2026-02-30")
        .await
        .problem(400, "malformed");
    admin
        .get("/v1/dependencies?node=E1&to=leave")
        .await
        .problem(422, "invalid");
    admin
        .get("/v1/dependencies?node=person:E1&to=explode")
        .await
        .problem(400, "malformed");
    let reader = server.token("reader", &[Role::Read]).await;
    let reader = Caller {
        server: &server,
        token: reader,
    };
    reader
        .send(Method::POST, path, "application/yaml", TWO)
        .await
        .problem(403, "forbidden");
    reader.get("/v1/nhis").await.expect(200);
}

#[tokio::test]
async fn a_log_is_taken_or_told_what_is_wrong_with_it() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for key in ["E1", "E2"] {
        admin.event(&hire(key, key)).await.expect(202);
    }
    server.settled().await;
    let account = "accounts: [{system: badges, name: sync_a}], purpose: ";
    let nhis = TWO.replacen("purpose: ", account, 1);
    let declare = admin.send(Method::POST, "/v1/nhis?reason=a", "application/yaml", nhis);
    declare.await.expect(200);
    let path = |query: &str| {
        let times = "from=2026-01-01T00:00:00Z&until=2026-01-31T00:00:00Z";
        format!("/v1/observations?{times}&reason=export{query}")
    };
    let media = "application/x-ndjson";
    let line = json!({ "at": "2026-01-03T02:00:00Z", "account": "sync_a", "by": "10.0.0.7" });
    let lines = format!("{line}\n{line}\n");
    let good = path("&system=badges&delay=1h&sees=accounts");
    let report = admin.send(Method::POST, &good, media, lines.clone());
    let report = report.await.expect(200);
    assert_eq!(report["uses"], 1, "{report}");
    let one = admin.get("/v1/nhis/sync").await.expect(200);
    assert!(
        one["edges"].to_string().contains("consumer:10.0.0.7"),
        "{one}"
    );
    assert!(one["changes"].to_string().contains("observed"), "{one}");

    let send = async |query: &str, media: &str, body: &str| {
        let path = path(query);
        admin
            .send(Method::POST, &path, media, body.to_owned())
            .await
    };
    let nowhere = send("&system=nowhere", media, "").await;
    nowhere.problem(404, "not-found");
    let text = send("&system=badges", "text/plain", "").await;
    text.problem(415, "unsupported-media-type");
    let delay = send("&system=badges&delay=soon", media, "").await;
    delay.problem(422, "invalid");
    let said = send("&system=badges&source=%20", media, "").await;
    said.problem(422, "invalid");
    let wrong = send("&system=badges", media, "\n{\"at\": 1}\n").await;
    let wrong = wrong.problem(422, "invalid").to_string();
    assert!(wrong.contains("line 2"), "{wrong}");
    let turned = "/v1/observations?system=badges&from=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z&reason=a";
    let turned = admin.send(Method::POST, turned, media, "").await;
    turned.problem(422, "invalid");
}
