//! What each resource does.

use super::*;

#[tokio::test]
async fn an_event_starts_a_case_whose_task_is_finished_by_hand() {
    from_hire_to_badge(&Server::start().await).await;
}

#[tokio::test]
async fn an_event_starts_a_case_on_postgres_too() {
    from_hire_to_badge(&Server::on_postgres().await).await;
}

async fn from_hire_to_badge(server: &Server) {
    let admin = server.admin().await;
    let answer = admin.event(&hire("1", "E1")).await.expect(202);
    let acknowledged = &answer["events"][0];
    assert_eq!(
        (&acknowledged["new"], &acknowledged["status"]),
        (&json!(true), &json!("started"))
    );
    let case = acknowledged["cases"][0].as_str().unwrap().to_owned();

    // The same event again is acknowledged again, and nothing happens.
    let again = admin.event(&hire("1", "E1")).await.expect(202);
    assert_eq!(again["events"][0]["new"], false);
    assert_eq!(again["events"][0]["event_id"], acknowledged["event_id"]);
    server.settled().await;
    let cases = admin.get("/v1/cases?subject=E1").await.expect(200);
    assert_eq!(cases["items"].as_array().unwrap().len(), 1);
    assert_eq!(cases["items"][0]["initiator"], "token:admin");

    let tasks = admin.get("/v1/tasks").await.expect(200);
    let task = &tasks["items"][0];
    assert_eq!(
        (&task["case"], &task["subject"], &task["label"]),
        (&json!(case), &json!("E1"), &json!("badges"))
    );
    assert_eq!(
        admin.get("/v1/approvals").await.expect(200)["items"],
        json!([])
    );
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(
        (&view["state"], &view["waits"][0]["kind"]),
        (&json!("running"), &json!("task"))
    );

    let path = format!(
        "/v1/tasks/{case}/{}/{}/complete",
        task["step"], task["instance"]
    );
    let refused = admin.post(&path, json!({})).await.problem(409, "conflict");
    assert!(
        refused["detail"].as_str().unwrap().contains("proof"),
        "{refused}"
    );
    let done = admin
        .post(&path, json!({"proof": "badge list, line 12"}))
        .await
        .expect(200);
    assert_eq!(done["state"], "accepted");
    let command = format!("/v1/cases/{case}/commands/{}", done["id"].as_str().unwrap());
    assert_eq!(admin.get(&command).await.expect(200)["state"], "accepted");
    server.settled().await;
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(view["state"], "succeeded", "{view}");

    let identity = admin.get("/v1/identities/E1").await.expect(200);
    assert_eq!(
        (
            &identity["identity"]["status"],
            &identity["accounts"][0]["system"]
        ),
        (&json!("active"), &json!("badges"))
    );
    assert_eq!(admin.get("/v1/tasks").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn an_approval_is_answered_and_a_signal_is_heard() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    server.settled().await;
    let hired = admin.get("/v1/cases?open=true").await.expect(200)["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // A key makes the same command sent twice one command.
    let cancel = |key: &'static str| {
        let request = server
            .client
            .post(format!("{}/v1/cases/{hired}/cancel", server.url))
            .bearer_auth(&admin.token);
        request
            .header("idempotency-key", key)
            .json(&json!({"reason": "a mistake"}))
            .send()
    };
    let first = Answer::of(cancel("k1").await.unwrap()).await.expect(200);
    assert_eq!(
        Answer::of(cancel("k1").await.unwrap()).await.expect(200),
        first
    );
    Answer::of(cancel("k2").await.unwrap())
        .await
        .problem(409, "conflict");

    let mut event = hire("2", "E1");
    event["type"] = json!("owner.changed");
    let answer = admin.event(&event).await.expect(202);
    let case = answer["events"][0]["cases"][0].as_str().unwrap().to_owned();
    server.settled().await;
    let open = admin.get("/v1/approvals").await.expect(200);
    assert_eq!(open["items"][0]["ask"]["question"], "May it be?");
    let path = format!("/v1/approvals/{case}/0/0");
    admin
        .post(&format!("/v1/cases/{case}/signal"), json!({"name": "go"}))
        .await
        .problem(409, "conflict");
    admin
        .post(&path, json!({"approve": true, "note": "fine"}))
        .await
        .expect(200);
    admin
        .post(&path, json!({"approve": true}))
        .await
        .problem(409, "conflict");
    server.settled().await;
    admin
        .post(
            &format!("/v1/cases/{case}/signal"),
            json!({"name": "go", "payload": {"a": 1}}),
        )
        .await
        .expect(200);
    server.settled().await;
    assert_eq!(
        admin.get(&format!("/v1/cases/{case}")).await.expect(200)["state"],
        "succeeded"
    );

    let timeline = admin
        .get(&format!("/v1/cases/{case}/timeline?limit=1"))
        .await
        .expect(200);
    let next = timeline["next"].as_str().unwrap();
    let rest = admin
        .get(&format!("/v1/cases/{case}/timeline?cursor={next}"))
        .await
        .expect(200);
    let rest = rest["items"].as_array().unwrap();
    assert_eq!(
        timeline["items"][0]["version"].as_u64().unwrap() + 1,
        rest[0]["version"].as_u64().unwrap()
    );
    assert!(
        rest.iter().any(|moment| moment["by"] == "token:admin"),
        "{rest:?}"
    );
    let instances = admin
        .get(&format!("/v1/cases/{case}/steps/ask"))
        .await
        .expect(200);
    assert_eq!(instances["items"][0]["state"], "done");
    admin
        .get(&format!("/v1/cases/{case}/steps/nothing"))
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn a_file_that_removes_too_many_waits_for_a_person() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let three = "id,name,department\nE1,Ada,Research\nE2,Bob,Sales\nE3,Cid,Sales\n";
    let applied = admin.import("2026-01-01", three).await.expect(200);
    assert_eq!(
        (&applied["status"]["status"], &applied["created"]),
        (&json!("applied"), &json!(3))
    );
    assert_eq!(
        admin.import("2026-01-01", three).await.expect(200)["status"]["status"],
        "unchanged"
    );

    let one = "id,name,department\nE1,Ada,Research\n";
    let stopped = admin.import("2026-02-01", one).await.expect(202);
    let id = stopped["difference_id"].as_str().unwrap().to_owned();
    let waiting = admin.get("/v1/imports?waiting=true").await.expect(200);
    assert_eq!(waiting["items"][0]["id"], json!(id));
    admin
        .post(
            &format!("/v1/imports/{id}/reject"),
            json!({"note": "half a file"}),
        )
        .await
        .expect(204);
    admin
        .post(&format!("/v1/imports/{id}/approve"), json!({}))
        .await
        .problem(409, "conflict");
    assert_eq!(
        admin.get(&format!("/v1/imports/{id}")).await.expect(200)["status"],
        "rejected"
    );

    let id = admin.import("2026-02-02", one).await.expect(202)["difference_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let approved = admin
        .post(&format!("/v1/imports/{id}/approve"), json!({}))
        .await
        .expect(200);
    assert_eq!(approved["removed"], 2, "{approved}");
    admin
        .get("/v1/imports/nothing")
        .await
        .problem(404, "not-found");
    admin
        .import("2026-01-15", one)
        .await
        .problem(422, "invalid");
    let path = "/v1/imports?source=other";
    admin
        .send(Method::POST, path, "text/csv", three)
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    read_lists(&Server::start().await).await;
}

#[tokio::test]
async fn lists_are_read_page_by_page_on_postgres_too() {
    read_lists(&Server::on_postgres().await).await;
}

async fn read_lists(server: &Server) {
    let admin = server.admin().await;
    let people: String = (0..7)
        .map(|number| format!("E{number},N{number},Sales\n"))
        .collect();
    admin
        .import("2026-01-01", &format!("id,name,department\n{people}"))
        .await
        .expect(200);
    server.settled().await;
    for (path, key) in [
        ("/v1/cases", "id"),
        ("/v1/identities", "identity_key"),
        ("/v1/tasks", "case"),
    ] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = admin
                .get(&format!("{path}?limit=2{cursor}"))
                .await
                .expect(200);
            seen.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item[key].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        let different: BTreeSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), different.len()), (7, 7), "{path}: {seen:?}");
    }
    let found = admin.get("/v1/identities?search=n3").await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let parked = admin
        .get("/v1/cases?parked=true&state=parked,running&workflow=joiner")
        .await
        .expect(200);
    assert_eq!(parked["items"], json!([]));
}

#[tokio::test]
async fn what_is_configured_can_be_read() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.event(&hire("1", "E1")).await.expect(202);
    server.settled().await;
    let systems = admin.get("/v1/systems").await.expect(200);
    assert_eq!(
        (
            &systems["items"][0]["name"],
            &systems["items"][0]["availability"]["state"]
        ),
        (&json!("badges"), &json!("ready"))
    );
    let workflows = admin.get("/v1/workflows").await.expect(200);
    let leaver = workflows["items"].as_array().unwrap().iter();
    let leaver = leaver.clone().find(|workflow| workflow["name"] == "leaver");
    assert_eq!(
        leaver.unwrap()["conflicts"],
        json!({"any": "queue", "deletion": "preempt", "handover": "preempt", "joiner": "preempt", "leaver": "merge", "mover": "preempt"})
    );
    let question = admin.get("/v1/workflows/question").await.expect(200);
    assert_eq!(question["source"], QUESTION);
    admin
        .get("/v1/workflows/nothing")
        .await
        .problem(404, "not-found");
    let why = admin
        .get("/v1/explain?identity=E1&system=badges&entitlement=gold")
        .await
        .expect(200);
    assert_eq!(why["wanted"]["answer"], "nobody_gives_it");
    admin
        .get("/v1/explain?identity=E9&system=badges&entitlement=gold")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn health_and_metrics_tell_the_truth() {
    read_health(&Server::start().await).await;
}

#[tokio::test]
async fn health_and_metrics_tell_the_truth_on_postgres_too() {
    read_health(&Server::on_postgres().await).await;
}

async fn read_health(server: &Server) {
    let admin = server.admin().await;
    assert_eq!(admin.get("/healthz").await.expect(200)["status"], "alive");
    let ready = admin.get("/readyz").await.expect(200);
    assert_eq!(
        (&ready["owned"], &ready["schema"]),
        (&json!(true), &json!(true)),
        "{ready}"
    );
    admin.event(&hire("1", "E1")).await.expect(202);
    server.settled().await;
    let answer = admin.get("/metrics").await;
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let text = answer.expect(200).as_str().unwrap().to_owned();
    for line in [
        r#"tenure_cases_started_total{workflow="joiner"} 1"#,
        r#"tenure_system_held{system="badges"} 0"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "`{line}` is not in\n{text}"
        );
    }
    let attempts = text.lines().find(|line| {
        line.starts_with("tenure_attempts_total{") && line.contains(r#""account.create""#)
    });
    let attempts = attempts.unwrap_or_else(|| panic!("no attempts in\n{text}"));
    for part in [r#"outcome="needs_human""#, r#"system="badges""#, "} 1"] {
        assert!(attempts.contains(part), "{attempts}");
    }
    assert!(!text.contains("E1"), "a person became a label");
}

#[tokio::test]
async fn without_a_database_nothing_is_acknowledged() {
    let mut server = Server::start().await;
    let token = server.token("feed", &[Role::Operate]).await;
    let running = server.running.take().unwrap();
    // Draining ends the database too; the API is normally gone by then.
    running
        .drain(std::time::Duration::from_secs(10))
        .await
        .unwrap();
    let feed = Caller {
        server: &server,
        token,
    };
    let ready = feed.get("/readyz").await.expect(503);
    assert_eq!(
        (&ready["ready"], &ready["store"]),
        (&json!(false), &json!(false))
    );
    feed.event(&hire("1", "E1"))
        .await
        .problem(503, "unavailable");
    feed.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_shard_that_nobody_owns_makes_it_not_ready() {
    let server = Server::start().await;
    let admin = server.admin().await;
    admin.get("/readyz").await.expect(200);
    let store = &server.database.store;
    let owner = store.shards().await.unwrap()[0].owner.clone().unwrap();
    let shard = &store.shards().await.unwrap()[0];
    let lease = engine::store::ShardLease {
        shard: shard.shard,
        epoch: shard.epoch,
    };
    store.release(&owner, &[lease]).await.unwrap();
    let ready = admin.get("/readyz").await.expect(503);
    assert_eq!(
        (&ready["store"], &ready["owned"]),
        (&json!(true), &json!(false))
    );
}
