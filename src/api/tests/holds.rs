//! Legal holds, and questions that go to somebody else.

use super::*;

#[tokio::test]
async fn a_hold_is_placed_listed_and_released() {
    holds(&Server::start().await).await;
}

#[tokio::test]
async fn a_hold_is_placed_listed_and_released_on_postgres_too() {
    holds(&Server::on_postgres().await).await;
}

async fn holds(server: &Server) {
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    let path = "/v1/identities/E1/holds";
    assert_eq!(admin.get(path).await.expect(200), json!([]));
    admin
        .get("/v1/identities/E9/holds")
        .await
        .problem(404, "not-found");
    let hold = json!({"hold": "matter-17", "reason": "litigation"});
    let placed = admin.post(path, hold.clone()).await.expect(201);
    assert_eq!(
        (&placed["placed_by"], &placed["released_at"]),
        (&json!("token:admin"), &json!(null))
    );
    admin
        .post(path, hold.clone())
        .await
        .problem(409, "conflict");
    admin
        .post("/v1/identities/E9/holds", hold)
        .await
        .problem(404, "not-found");
    for (wrong, says) in [
        (json!({"hold": "", "reason": "r"}), "name of the hold"),
        (json!({"hold": "x", "reason": " "}), "reason"),
        (json!({"hold": "x", "reason": "r\u{0}"}), "control"),
        (json!({"hold": "x".repeat(101), "reason": "r"}), "longer"),
        (
            json!({"hold": "x", "reason": "r", "until": "2020-01-01T00:00:00Z"}),
            "past",
        ),
        (
            json!({"hold": "x", "reason": "r", "until": "2026-02-30T00:00:00Z"}),
            "out of range",
        ),
        (json!({"hold": 1, "reason": "r"}), "expected a string"),
        (json!({"hold": "x", "reason": "r", "for": "1d"}), "for"),
    ] {
        let refused = admin
            .post(path, wrong.clone())
            .await
            .problem(422, "invalid");
        assert!(refused.to_string().contains(says), "{wrong}: {refused}");
    }
    let shown = admin.get("/v1/identities/E1").await.expect(200);
    assert_eq!(shown["holds"][0]["hold"], "matter-17");
    let release = format!("{path}/matter-17/release");
    admin
        .post(&release, json!({"reason": ""}))
        .await
        .problem(422, "invalid");
    let released = admin
        .post(&release, json!({"reason": "settled"}))
        .await
        .expect(200);
    assert_eq!(
        (&released["released_by"], &released["released_because"]),
        (&json!("token:admin"), &json!("settled"))
    );
    admin
        .post(&release, json!({"reason": "settled"}))
        .await
        .problem(404, "not-found");
    // The record of both stays.
    let listed = admin.get(path).await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_goes_to_somebody_else() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let answer = admin.event(&hire("1", "E1")).await.expect(202);
    let case = answer["events"][0]["cases"][0].as_str().unwrap().to_owned();
    server.settled().await;
    let task = admin.get("/v1/tasks").await.expect(200)["items"][0].clone();
    let assignee = task["ask"]["assignee"].as_str().unwrap().to_owned();
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    let step = view["waits"][0]["step"].as_str().unwrap();
    let path = format!("/v1/cases/{case}/reassign");
    let body = |from: &str, to: &str, reason: &str| {
        json!({
            "step": step, "instance": task["instance"], "from": from, "to": to, "reason": reason,
        })
    };
    admin
        .post(&path, body("role:nobody", "role:desk", "away"))
        .await
        .problem(409, "conflict");
    admin
        .post(&path, body(&assignee, " ", "away"))
        .await
        .problem(422, "invalid");
    admin
        .post(&path, body(&assignee, "role:desk", ""))
        .await
        .problem(422, "invalid");
    admin
        .post(&path, body(&assignee, "role:desk", "away until May"))
        .await
        .expect(200);
    let task = admin.get("/v1/tasks").await.expect(200)["items"][0].clone();
    assert_eq!(task["ask"]["assignee"], "role:desk");
    let told = admin
        .get(&format!("/v1/cases/{case}/timeline"))
        .await
        .expect(200)
        .to_string();
    assert!(told.contains("away until May"), "{told}");
}
