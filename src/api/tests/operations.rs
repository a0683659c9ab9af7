//! What people do to cases, one by one and in bulk.

use super::*;

#[tokio::test]
async fn a_paused_case_is_in_the_inbox_and_bulk_does_what_it_showed() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for number in 1..=3 {
        let subject = format!("E{number}");
        admin
            .event(&hire(&number.to_string(), &subject))
            .await
            .expect(202);
    }
    server.settled().await;
    let bulk = |operation: &str, filter: Value, more: Value| {
        let mut body = json!({"operation": operation, "reason": "a test", "filter": filter});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let path = "/v1/cases/bulk";
    let shown = admin
        .post(
            path,
            bulk("pause", json!({"workflow": "joiner"}), json!({})),
        )
        .await
        .expect(200);
    assert_eq!(
        (&shown["count"], &shown["dry_run"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(
        admin.get("/v1/parked").await.expect(200)["items"],
        json!([])
    );
    // Acting takes the name of the set, and only the set that was shown.
    let act = |set: Value| {
        bulk(
            "pause",
            json!({"workflow": "joiner"}),
            json!({"dry_run": false, "set": set}),
        )
    };
    let refused = admin.post(path, act(Value::Null)).await;
    refused.problem(422, "invalid");
    admin.event(&hire("4", "E4")).await.expect(202);
    server.settled().await;
    admin
        .post(path, act(shown["set"].clone()))
        .await
        .problem(409, "conflict");
    let shown = admin
        .post(
            path,
            bulk("pause", json!({"workflow": "joiner"}), json!({})),
        )
        .await
        .expect(200);
    let done = admin
        .post(path, act(shown["set"].clone()))
        .await
        .expect(200);
    let verdicts = done["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), 4, "{done}");
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict["state"] == "accepted"),
        "{done}"
    );

    // What is paused waits for somebody, page by page, and refuses to be paused again.
    let first = admin.get("/v1/parked?limit=3").await.expect(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["items"][0]["kind"], "paused");
    assert_eq!(first["items"][0]["owner"], json!(["token:admin"]));
    let cursor = first["next"].as_str().unwrap();
    let rest = admin
        .get(&format!("/v1/parked?limit=3&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    let again = admin
        .post(path, bulk("pause", json!({}), json!({})))
        .await
        .expect(200);
    assert_eq!(
        (&again["count"], &again["refusals"][0]["count"]),
        (&json!(0), &json!(4))
    );

    // One of them alone: seen, resumed, run again, undone, ended.
    let case = first["items"][0]["case"].as_str().unwrap();
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(view["waits"][0]["kind"], "paused", "{view}");
    let ask =
        async |what: &str, body: Value| admin.post(&format!("/v1/cases/{case}/{what}"), body).await;
    ask("resume", json!({"reason": " "}))
        .await
        .problem(422, "invalid");
    ask("resume", json!({"reason": "on"})).await.expect(200);
    ask("resume", json!({"reason": "on"}))
        .await
        .problem(409, "conflict");
    ask("rerun", json!({"step": "plan", "reason": "again"}))
        .await
        .expect(200);
    server.settled().await;
    ask("cancel", json!({"reason": "enough", "force": true}))
        .await
        .expect(200);
    server.settled().await;
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(view["state"], "cancelled", "{view}");
    let timeline = admin
        .get(&format!("/v1/cases/{case}/timeline"))
        .await
        .expect(200);
    let told: Vec<&str> = timeline["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|moment| moment["events"].as_array().unwrap())
        .filter_map(|event| event["event"].as_str())
        .collect();
    for event in ["paused", "resumed", "step_rerun", "ending"] {
        assert!(told.contains(&event), "{told:?}");
    }
}
