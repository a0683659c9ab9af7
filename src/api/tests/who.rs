//! Which keys are one person.

use super::*;

#[tokio::test]
async fn keys_are_merged_and_split() {
    merge_and_split(&Server::start().await).await;
}

#[tokio::test]
async fn keys_are_merged_and_split_on_postgres_too() {
    merge_and_split(&Server::on_postgres().await).await;
}

async fn merge_and_split(server: &Server) {
    let admin = server.admin().await;
    for (id, key) in [("1", "E1"), ("2", "E2")] {
        admin.event(&hire(id, key)).await.expect(202);
    }
    let merge = async |key: &str, body: Value| {
        let path = format!("/v1/identities/{key}/merge");
        admin.post(&path, body).await
    };
    let why = "the same person";
    for wrong in [
        json!({"absorbed": "E2"}),
        json!({"absorbed": "E2", "reason": " "}),
        json!({"absorbed": 7, "reason": why}),
        json!({"absorbed": "E2", "reason": why, "then": "x"}),
    ] {
        merge("E1", wrong).await.problem(422, "invalid");
    }
    let unknown = json!({"absorbed": "E9", "reason": why});
    merge("E1", unknown).await.problem(404, "not-found");
    let own = json!({"absorbed": "E1", "reason": why});
    merge("E1", own).await.problem(409, "conflict");

    let body = json!({"absorbed": "E2", "reason": why});
    let report = merge("E1", body.clone()).await.expect(202);
    assert_eq!(
        (&report["survivor"], &report["absorbed"]),
        (&json!("E1"), &json!("E2"))
    );
    merge("E1", body).await.problem(409, "conflict");
    let absorbed = admin.get("/v1/identities/E2").await.expect(200);
    assert_eq!(absorbed["identity"]["status"], "merged");
    assert_eq!(absorbed["identity"]["merged_into"], "E1");
    let merges = admin.get("/v1/identities/E1/merges").await.expect(200);
    assert_eq!(merges[0]["merged_reason"], why);
    assert!(
        merges[0]["merged_by"].as_str().unwrap().contains("admin"),
        "{merges}"
    );
    let listed = admin.get("/v1/identities?status=merged").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);

    let split = json!({"reason": "two after all"});
    let report = admin
        .post("/v1/identities/E2/split", split.clone())
        .await
        .expect(202);
    assert_eq!(report["absorbed"], "E2");
    admin
        .post("/v1/identities/E2/split", split)
        .await
        .problem(409, "conflict");
    let parted = admin.get("/v1/identities/E2").await.expect(200);
    assert_eq!(parted["identity"]["merged_into"], Value::Null);

    // A source says it as an event; one that names nobody says nothing.
    let mut event = hire("3", "E1");
    event["type"] = json!("identity.merged");
    event["time"] = json!(now());
    event["data"] = json!({"from": {"key": "E2"}});
    admin.event(&event).await.expect(202);
    event["id"] = json!("4");
    event["data"] = json!({"from": {"name": "Ann"}});
    admin.event(&event).await.problem(409, "conflict");
    let absorbed = admin.get("/v1/identities/E2").await.expect(200);
    assert_eq!(absorbed["identity"]["merged_into"], "E1");
}

#[tokio::test]
async fn what_does_not_exist_or_cannot_be_read_is_told() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let reviews = admin.get("/v1/correlation/reviews").await.expect(200);
    assert_eq!(reviews["items"], json!([]));
    let nobody = "/v1/correlation/reviews/cor_1";
    admin.get(nobody).await.problem(404, "not-found");
    for (path, body) in [
        ("link", json!({"key": "E1", "reason": "x"})),
        ("separate", json!({"reason": "x"})),
    ] {
        let path = format!("{nobody}/{path}");
        admin.post(&path, body).await.problem(404, "not-found");
    }
    let nothing = "/v1/correlation/collisions?system=nothing";
    admin.get(nothing).await.problem(404, "not-found");
    // Somebody's list on paper cannot be read.
    let badges = "/v1/correlation/collisions?system=badges";
    admin.get(badges).await.problem(409, "conflict");
    admin
        .get("/v1/systems/badges/wave")
        .await
        .problem(409, "conflict");
    admin
        .get("/v1/systems/nothing/wave?where=x")
        .await
        .problem(404, "not-found");
    admin
        .get("/v1/systems/badges/wave?where=x")
        .await
        .problem(422, "invalid");
}
