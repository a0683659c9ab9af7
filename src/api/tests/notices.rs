//! Notices over HTTP.

use workflows::notices::{NoticeRow, NoticeState, Outbox};

use super::*;

fn notice(number: u32, state: NoticeState) -> NoticeRow {
    let at = now() - TimeDelta::seconds(i64::from(number));
    NoticeRow {
        shard_id: 7,
        notice_id: format!("00000000-0000-0000-0000-{number:012}"),
        name: "case.parked".to_owned(),
        subject: Some(format!("E{number}")),
        case_id: None,
        workflow: None,
        step: None,
        place: None,
        recipient: "role:operations".to_owned(),
        urgent: false,
        revocation: false,
        vars: json!({ "failure": "it broke" }),
        open_until: None,
        ends_at: None,
        created_at: at,
        due_at: at,
        state,
        reason: None,
        changed_at: at,
    }
}

async fn notices_are_looked_at_and_sent_again(server: &Server) {
    let outbox = Outbox::new(server.database.directory.clone());
    let states = [
        NoticeState::Sent,
        NoticeState::Undeliverable,
        NoticeState::Waiting,
    ];
    let rows: Vec<NoticeRow> = (1..)
        .zip(states)
        .map(|(n, state)| notice(n, state))
        .collect();
    outbox.put(&rows).await.unwrap();
    let admin = server.admin().await;
    let ids = |answer: &Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap();
        let ids = items.iter().map(|item| item["id"].as_str().unwrap());
        ids.map(|id| id[35..].to_owned()).collect()
    };
    let all = admin.get("/v1/notices").await.expect(200);
    assert_eq!(ids(&all), ["1", "2", "3"]);
    let first = admin.get("/v1/notices?limit=2").await.expect(200);
    assert_eq!(ids(&first), ["1", "2"]);
    let cursor = first["next"].as_str().unwrap();
    let path = format!("/v1/notices?limit=2&cursor={cursor}");
    assert_eq!(ids(&admin.get(&path).await.expect(200)), ["3"]);
    for (query, expected) in [
        ("state=undeliverable", vec!["2"]),
        ("subject=E3", vec!["3"]),
        ("name=case.parked&state=sent", vec!["1"]),
        ("name=other", vec![]),
        ("case=x", vec![]),
    ] {
        let found = admin.get(&format!("/v1/notices?{query}")).await.expect(200);
        assert_eq!(ids(&found), expected, "{query}");
    }
    for bad in ["state=done", "limit=0", "cursor=%20"] {
        let answer = admin.get(&format!("/v1/notices?{bad}")).await;
        answer.problem(422, "invalid");
    }
    let path = "/v1/notices/00000000-0000-0000-0000-000000000002";
    let detail = admin.get(path).await.expect(200);
    assert_eq!(
        (&detail["state"], &detail["vars"]["failure"], &detail["to"]),
        (
            &json!("undeliverable"),
            &json!("it broke"),
            &json!("role:operations")
        )
    );
    // Only the whole identifier.
    admin
        .get("/v1/notices/00000000")
        .await
        .problem(404, "not-found");
    admin.get("/v1/notices/x'y").await.problem(404, "not-found");
    let retry = format!("{path}/retry");
    admin.post(&retry, json!({})).await.problem(422, "invalid");
    let reason = json!({ "reason": "somebody is there now" });
    let again = admin.post(&retry, reason.clone()).await.expect(200);
    assert_eq!(again["state"], "waiting");
    assert_eq!(again["changes"][0]["by"], "token:admin");
    assert_eq!(again["changes"][0]["reason"], "somebody is there now");
    admin.post(&retry, reason).await.problem(409, "conflict");
}

#[tokio::test]
async fn notices_are_looked_at_and_sent_again_on_sqlite() {
    notices_are_looked_at_and_sent_again(&Server::start().await).await;
}

#[tokio::test]
async fn notices_are_looked_at_and_sent_again_on_postgres() {
    notices_are_looked_at_and_sent_again(&Server::on_postgres().await).await;
}
