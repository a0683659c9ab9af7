//! Moving a case to another version, looking for it, and carrying it into another database.

use engine::core::definition::Definition;
use engine::core::id::{CaseId, DefinitionHash};
use workflows::actions::FACT_ROOTS;

use super::*;
use crate::shell::transfer;

/// Asks somebody else first, and calls the question otherwise.
const ANOTHER: &str = "
name: question
on: [owner.changed]
steps:
  - id: check
    uses: approval
    with: { ask: [manager], timeout: 1d }
  - id: consent
    uses: approval
    needs: [check]
    with: { ask: [owner], question: May it be?, timeout: 1d }
  - id: word
    uses: wait_for
    needs: [consent]
    with: { signal: go, timeout: 1d, on_timeout: park }
";

async fn put(server: &Server, text: &str) -> String {
    let definition = Definition::parse("x.yaml", text, FACT_ROOTS, &|_| true).unwrap();
    let (hash, name) = (&definition.hash, &definition.name);
    let store = &server.database.store;
    store.put_definition(hash, name, text, now()).await.unwrap();
    hash.0.clone()
}

/// A case that asks its first question.
async fn asking(server: &Server, admin: &Caller<'_>, subject: &str) -> String {
    admin
        .event(&hire(&format!("hire {subject}"), subject))
        .await
        .expect(202);
    let mut event = hire(&format!("owner {subject}"), subject);
    event["type"] = json!("owner.changed");
    let answer = admin.event(&event).await.expect(202);
    server.settled().await;
    let case = answer["events"][0]["cases"][0].as_str().unwrap().to_owned();
    // The joiner before it has a task.
    let tasks = admin.get("/v1/tasks").await.expect(200);
    for task in tasks["items"].as_array().unwrap() {
        let path = format!(
            "/v1/tasks/{}/{}/{}/complete",
            task["case"].as_str().unwrap(),
            task["step"],
            task["instance"]
        );
        admin
            .post(&path, json!({"proof": "seen"}))
            .await
            .expect(200);
    }
    server.settled().await;
    case
}

#[tokio::test]
async fn a_case_moves_and_is_found_on_an_embedded_database() {
    move_and_find(&Server::start().await).await;
}

#[tokio::test]
async fn a_case_moves_and_is_found_on_postgres() {
    move_and_find(&Server::on_postgres().await).await;
}

async fn move_and_find(server: &Server) {
    let admin = server.admin().await;
    let case = asking(server, &admin, "E1").await;
    let path = format!("/v1/cases/{case}/migrate");
    let before = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    let to = put(server, ANOTHER).await;

    let body = |extra: Value| {
        let mut body =
            json!({"to": to, "steps": {"ask": "consent"}, "reason": "the manager first"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    };
    // The question is asked already, and in the new version it needs an answer from somebody else.
    let verdict = admin
        .post(&path, body(json!({"dry_run": true})))
        .await
        .expect(200);
    assert_eq!(verdict["possible"], false, "{verdict}");
    let refused = admin
        .post(&path, body(json!({})))
        .await
        .problem(409, "conflict");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("needs `check`"),
        "{refused}"
    );
    for (wrong, status) in [
        (json!({"to": "0000"}), 422),
        (json!({"reason": " "}), 422),
        (json!({"skip": ["nothing"]}), 409),
        (json!({"from": "0000"}), 409),
    ] {
        let answer = admin.post(&path, body(wrong.clone())).await;
        assert_eq!(answer.status, status, "{wrong} {answer:?}");
    }
    let good = json!({"skip": ["check"], "dry_run": true});
    let verdict = admin.post(&path, body(good)).await.expect(200);
    assert_eq!(verdict["possible"], true, "{verdict}");
    assert_eq!(
        admin.get(&format!("/v1/cases/{case}")).await.expect(200)["definition"],
        before["definition"]
    );
    admin
        .post(&path, body(json!({"skip": ["check"]})))
        .await
        .expect(200);
    server.settled().await;
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(view["definition"], json!(to));
    assert_eq!(view["steps"][0]["state"], "skipped");
    assert_eq!(view["waits"][0]["step"], "consent");
    let timeline = admin
        .get(&format!("/v1/cases/{case}/timeline"))
        .await
        .expect(200);
    let last = timeline["items"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&last["input"], &last["by"]),
        (&json!("migrate"), &json!("token:admin"))
    );
    assert_eq!(last["events"][0]["from"], before["definition"]);

    for (query, found) in [
        (format!("version={}", &to[..12]), true),
        (
            format!("version={}", before["definition"].as_str().unwrap()),
            false,
        ),
        ("waits=person,signal&workflow=question".to_owned(), true),
        ("waits=signal".to_owned(), false),
        ("step=consent".to_owned(), true),
        ("step=ask&workflow=question".to_owned(), false),
        ("older_than=1h&workflow=question".to_owned(), false),
        ("newer_than=1h&step=consent".to_owned(), true),
        ("system=badges".to_owned(), false),
        ("error=timeout".to_owned(), false),
    ] {
        let page = admin.get(&format!("/v1/cases?{query}")).await.expect(200);
        let ids: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["id"])
            .collect();
        assert_eq!(ids.contains(&&json!(case)), found, "{query}: {page}");
    }
    for (query, at) in [
        ("waits=coffee", "waits"),
        ("step=nowhere", "step"),
        ("workflow=questoin", "workflow"),
        ("version=zz", "version"),
        ("version=0000000000", "version"),
        ("older_than=yesterday", "older_than"),
        ("older_than=2h&newer_than=1h", "older_than"),
        ("state=succeeded&waits=person", "state"),
        ("system=No%20System", "system"),
        ("error=%22", "error"),
        ("subject=%00", "subject"),
    ] {
        let problem = admin
            .get(&format!("/v1/cases?{query}"))
            .await
            .problem(422, "invalid");
        assert!(
            problem.to_string().contains(&format!("\"{at}\"")),
            "{query}: {problem}"
        );
    }

    // It goes on under the new version, to its end.
    let answer = format!("/v1/approvals/{case}/1/0");
    admin
        .post(&answer, json!({"approve": true}))
        .await
        .expect(200);
    server.settled().await;
    let signal = format!("/v1/cases/{case}/signal");
    admin.post(&signal, json!({"name": "go"})).await.expect(200);
    server.settled().await;
    let view = admin.get(&format!("/v1/cases/{case}")).await.expect(200);
    assert_eq!(view["state"], "succeeded");
}

/// Another database without a node.
async fn other_database() -> Database {
    let url = std::env::var(STORE_URL).unwrap_or_else(|_| panic!("`{STORE_URL}` is not set"));
    let schema = format!("transfer_{}", Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(create)
        .execute(&mut connection)
        .await
        .unwrap();
    let url = format!("{url}?options=-csearch_path%3D{schema}");
    // Another number of shards: where a case lies follows from its subject.
    Database::prepare(&StoreAddress::Postgres(url.into()), 64)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_case_is_the_same_in_another_database_and_goes_on_there() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let open = asking(&server, &admin, "E1").await;
    let to = put(&server, ANOTHER).await;
    let moved = json!({"to": to, "steps": {"ask": "consent"}, "skip": ["check"], "reason": "r"});
    admin
        .post(&format!("/v1/cases/{open}/migrate"), moved)
        .await
        .expect(200);
    server.settled().await;
    let cases = admin.get("/v1/cases?subject=E1").await.expect(200);
    let cases = cases["items"].as_array().unwrap();
    let ids: Vec<CaseId> = cases
        .iter()
        .map(|case| CaseId(case["id"].as_str().unwrap().parse().unwrap()))
        .collect();
    assert_eq!(
        ids.len(),
        2,
        "the joiner, which is closed, and the question"
    );

    let text = transfer::export(&server.database, &ids).await.unwrap();
    assert_eq!(
        text.lines().count(),
        1 + 3 + 2,
        "two versions of the question, one of the joiner"
    );
    let one = admin
        .get(&format!("/v1/cases/{open}/export"))
        .await
        .expect(200);
    assert!(text.contains(one.as_str().unwrap().lines().last().unwrap()));

    let other = other_database().await;
    let import = |text: String, take_over| {
        let other = other.clone();
        async move { transfer::import(&other, text.as_bytes(), take_over).await }
    };
    let refused = import(text.clone(), false).await.unwrap_err();
    assert!(
        refused.to_string().contains("never run the same case"),
        "{refused}"
    );
    let imported = import(text.clone(), true).await.unwrap();
    assert_eq!(imported.written.len(), 2);
    assert_eq!(transfer::export(&other, &ids).await.unwrap(), text);

    // Lives are carried along: what belongs to an earlier one must not fire there either.
    let third = other_database().await;
    let later = text.replace("\"generation\":1", "\"generation\":2");
    transfer::import(&third, later.as_bytes(), true)
        .await
        .unwrap();
    let shards = third.store.shards().await.unwrap();
    let shards: Vec<_> = shards.iter().map(|row| row.shard).collect();
    let lives = third.store.generations(&shards).await.unwrap();
    let lives: Vec<_> = lives
        .iter()
        .map(|row| (row.subject.0.as_str(), row.generation))
        .collect();
    assert_eq!(lives, [("E1", 2)]);

    // Again is nothing; otherwise is refused, as are files that were changed.
    assert_eq!(import(text.clone(), false).await.unwrap().same.len(), 2);
    for (old, new, says) in [
        ("\"attempt\":1", "\"attempt\":2", "other content"),
        (
            "\"initiator\":\"token:admin\"",
            "\"initiator\":\"token:eve\"",
            "other content",
        ),
        (transfer::FORMAT, "tenure.case.v9", "form `tenure.case.v9`"),
        (
            "\"timers\":[{",
            "\"timers\":[{\"due\":\"2026-01-01T00:00:00.000000Z\",\"instance\":null,\"step\":null},{",
            "timers",
        ),
        ("name: question", "name: other", "not the one its hash"),
    ] {
        let changed = text.replacen(old, new, 1);
        assert_ne!(changed, text, "{old}");
        let error = format!("{:#}", import(changed, true).await.unwrap_err());
        assert!(error.contains(says), "{old}: {error}");
    }
    let running = transfer::import(&server.database, "".as_bytes(), true)
        .await
        .unwrap_err();
    assert!(running.to_string().contains("no cases"), "{running}");
    let hash = DefinitionHash(to);
    assert!(other.store.definition(&hash).await.unwrap().is_some());
    other.close().await;
}

async fn questions_name_who_answers_now(server: &Server) {
    let admin = server.admin().await;
    let case = asking(server, &admin, "E1").await;
    let people = async || {
        let open = admin.get("/v1/approvals").await.expect(200);
        open["items"][0]["people"].clone()
    };
    assert_eq!(people().await, json!([]), "`owner` names nobody here");
    let manager = async |id: &str, key: &str, version: u32| {
        let mut event = hire(id, "E1");
        event["type"] = json!("manager.changed");
        event["data"] = json!({"to": {"key": key}, "version": 2_000_000_000 + version});
        admin.event(&event).await.expect(202);
        server.settled().await;
    };
    manager("m1", "E8", 1).await;
    let to_manager = json!({"step": "ask", "from": "owner", "to": "manager", "reason": "r"});
    admin
        .post(&format!("/v1/cases/{case}/reassign"), to_manager)
        .await
        .expect(200);
    server.settled().await;
    assert_eq!(people().await, json!(["E8"]));
    manager("m2", "E9", 2).await;
    assert_eq!(people().await, json!(["E9"]), "another manager, at once");
    let to_somebody = json!({"step": "ask", "from": "manager", "to": "person:E7", "reason": "r"});
    admin
        .post(&format!("/v1/cases/{case}/reassign"), to_somebody)
        .await
        .expect(200);
    server.settled().await;
    assert_eq!(people().await, json!(["E7"]));
}

#[tokio::test]
async fn questions_name_who_answers_now_on_an_embedded_database() {
    questions_name_who_answers_now(&Server::start().await).await;
}

#[tokio::test]
async fn questions_name_who_answers_now_on_postgres() {
    questions_name_who_answers_now(&Server::on_postgres().await).await;
}
