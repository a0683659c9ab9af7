//! The guard over HTTP: previews, events that are held back, policies.

use super::*;

async fn what_is_too_much_waits(server: &Server) {
    let admin = server.admin().await;
    let row = |number: u32| format!("E{number},Name {number},Sales\n");
    let file = |count: u32| {
        let rows: String = (0..count).map(row).collect();
        format!("id,name,department\n{rows}")
    };
    admin.import("2026-01-01", &file(10)).await.expect(200);
    let path = "/v1/imports?source=hr&file=people.csv&as_of=2026-01-02&preview=true";
    let shown = admin
        .send(Method::POST, path, "text/csv", file(2))
        .await
        .expect(200);
    assert_eq!(shown["status"]["status"], "previewed");
    assert_eq!(shown["removed"], 8);
    assert!(
        shown["status"]["reasons"][0]
            .as_str()
            .unwrap()
            .contains("8 of 10 people"),
        "{shown}"
    );
    assert!(
        !shown["blast"]["slices"].as_array().unwrap().is_empty(),
        "{shown}"
    );
    let waiting = admin.get("/v1/imports?waiting=true").await.expect(200);
    assert_eq!(waiting["items"], json!([]));
    let stopped = admin.import("2026-01-02", &file(2)).await.expect(202);
    assert_eq!(stopped["difference_id"], shown["difference_id"]);

    for number in 0..25 {
        let hired = hire(&format!("h{number}"), &format!("X{number}"));
        admin.event(&hired).await.expect(202);
    }
    let mut held = 0;
    for number in 0..5 {
        let mut gone = hire(&format!("t{number}"), &format!("X{number}"));
        gone["type"] = json!("termination.effective");
        gone["time"] = json!("2026-01-06T08:00:00Z");
        gone["data"] = json!({ "zone": "Europe/London" });
        let answer = admin.event(&gone).await.expect(202);
        held += u32::from(answer["events"][0]["status"] == "held");
    }
    // A tenth of twenty-five may go: two.
    assert_eq!(held, 3);
    let mut revoked = hire("r", "X9");
    revoked["type"] = json!("access.revoke_now");
    revoked["data"] = json!({});
    let answer = admin.event(&revoked).await.expect(202);
    assert_eq!(answer["events"][0]["status"], "started");
    let waiting = admin
        .get("/v1/imports?waiting=true&source=hr-events")
        .await
        .expect(200);
    let id = waiting["items"][0]["id"].as_str().unwrap();
    let approved = admin
        .post(&format!("/v1/imports/{id}/approve"), json!({}))
        .await
        .expect(200);
    assert_eq!(approved["events"]["termination.effective"], 3, "{approved}");

    let policies = admin.get("/v1/policies").await.expect(200);
    assert_eq!(policies["items"][0]["status"], "in_force");
    for what in ["approve", "reject"] {
        let path = format!("/v1/policies/dif_nothing/{what}");
        admin
            .post(&path, json!({ "note": "n" }))
            .await
            .problem(404, "not-found");
    }
    // Nothing took the place of another policy.
    let rollouts = admin.get("/v1/rollouts").await.expect(200);
    assert_eq!(rollouts["items"], json!([]));
    let nothing = admin.get("/v1/rollouts/rol_nothing").await;
    nothing.problem(404, "not-found");
    let wrong = admin.get("/v1/rollouts/rol_nothing?limit=0").await;
    wrong.problem(422, "invalid");
    for what in ["approve", "reject", "pause", "resume"] {
        let path = format!("/v1/rollouts/rol_nothing/{what}");
        let name = if what.ends_with('e') && what != "approve" {
            "reason"
        } else {
            "note"
        };
        admin
            .post(&path, json!({ name: "n" }))
            .await
            .problem(404, "not-found");
        admin.post(&path, json!({})).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn what_is_too_much_waits_on_sqlite() {
    what_is_too_much_waits(&Server::start().await).await;
}

#[tokio::test]
async fn what_is_too_much_waits_on_postgres() {
    what_is_too_much_waits(&Server::on_postgres().await).await;
}
