//! Schedules over HTTP.

use super::*;

fn body() -> Value {
    // Does not come while a test runs.
    json!({"workflow": "question", "cron": "0 2 29 2 *", "zone": "Europe/Berlin", "subject": "company"})
}

fn reason() -> Value {
    json!({"reason": "audit"})
}

impl Caller<'_> {
    async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body.to_string())
            .await
    }
}

#[tokio::test]
async fn a_schedule_is_made_paused_run_backfilled_and_removed() {
    whole_life(&Server::start().await).await;
}

#[tokio::test]
async fn a_schedule_lives_on_postgres_too() {
    whole_life(&Server::on_postgres().await).await;
}

async fn whole_life(server: &Server) {
    let admin = server.admin().await;
    let path = "/v1/schedules/leap";
    admin.get(path).await.problem(404, "not-found");
    admin.put(path, body()).await.expect(200);
    let detail = admin.get(path).await.expect(200);
    assert_eq!(
        (
            &detail["state"],
            &detail["overlap"],
            &detail["catch_up"],
            &detail["origin"]
        ),
        (
            &json!("active"),
            &json!("skip"),
            &json!("1d"),
            &json!("person")
        )
    );
    assert_eq!(detail["upcoming"].as_array().unwrap().len(), 5);
    let next = detail["next"]["local"].as_str().unwrap();
    assert!(next.ends_with("-02-29T02:00:00+01:00"), "{next}");

    // A run now, by hand; the key makes it one.
    let run = || {
        let request = server.client.post(format!("{}{path}/run", server.url));
        let request = request
            .bearer_auth(&admin.token)
            .header("idempotency-key", "k1");
        request.json(&reason()).send()
    };
    let first = Answer::of(run().await.unwrap()).await.expect(200);
    assert_eq!(Answer::of(run().await.unwrap()).await.expect(200), first);
    let case = first["message"]
        .as_str()
        .unwrap()
        .strip_prefix("case ")
        .unwrap()
        .to_owned();
    server.settled().await;
    let cases = admin.get("/v1/cases?subject=company").await.expect(200);
    assert_eq!(cases["items"].as_array().unwrap().len(), 1, "{cases}");
    assert_eq!(
        (&cases["items"][0]["id"], &cases["items"][0]["initiator"]),
        (&json!(case), &json!("token:admin"))
    );
    // It asks somebody, so it is open, and the next one is not started.
    let busy = admin
        .post(&format!("{path}/run"), reason())
        .await
        .problem(409, "conflict");
    assert!(busy["detail"].as_str().unwrap().contains(&case), "{busy}");
    admin
        .post(&format!("/v1/cases/{case}/cancel"), reason())
        .await
        .expect(200);
    server.settled().await;

    admin
        .post(&format!("{path}/pause"), reason())
        .await
        .expect(200);
    admin
        .post(&format!("{path}/pause"), reason())
        .await
        .problem(409, "conflict");
    let paused = admin.get(path).await.expect(200);
    assert_eq!(
        (
            &paused["state"],
            &paused["paused"]["reason"],
            &paused["next"]
        ),
        (&json!("paused"), &json!("audit"), &Value::Null)
    );
    admin
        .post(&format!("{path}/resume"), reason())
        .await
        .expect(200);

    let period = |preview: bool| json!({"from": "2020-01-01T00:00:00Z", "to": "2024-12-31T00:00:00Z", "reason": "lost", "preview": preview});
    let backfill = format!("{path}/backfill");
    let seen = admin.post(&backfill, period(true)).await.expect(200);
    let fires: Vec<&str> = seen["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["fire_at"].as_str().unwrap())
        .collect();
    assert_eq!(fires, ["2020-02-29T01:00:00Z", "2024-02-29T01:00:00Z"]);
    let done = admin.post(&backfill, period(false)).await.expect(200);
    assert_eq!(done["message"], "2 runs");
    admin
        .post(&backfill, period(false))
        .await
        .problem(409, "conflict");
    let command = format!("{path}/commands/{}", done["id"].as_str().unwrap());
    assert_eq!(admin.get(&command).await.expect(200)["state"], "accepted");
    server.settled().await;
    let detail = admin.get(path).await.expect(200);
    let runs: Vec<_> = detail["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["cause"].clone(), run["outcome"].clone()))
        .collect();
    assert_eq!(
        runs,
        [
            (json!("by_hand"), json!("started")),
            (json!("backfill"), json!("queued")),
            (json!("backfill"), json!("started")),
        ]
    );
    let changes: Vec<&str> = detail["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["operation"].as_str().unwrap())
        .collect();
    assert_eq!(changes, ["backfill", "resume", "pause", "run", "create"]);

    let listed = admin.get("/v1/schedules?limit=1").await.expect(200);
    assert_eq!(
        (&listed["items"][0]["name"], &listed["next"]),
        (&json!("leap"), &Value::Null)
    );
    admin
        .post(&format!("{path}/remove"), reason())
        .await
        .expect(200);
    admin.get(path).await.problem(404, "not-found");
    admin
        .post(&format!("{path}/run"), reason())
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn a_wrong_schedule_says_what_is_wrong() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut wrong = body();
    wrong["workflow"] = json!("questoin");
    wrong["cron"] = json!("61 * * * *");
    wrong["zone"] = json!("Mars");
    let told = admin
        .put("/v1/schedules/x", wrong)
        .await
        .problem(422, "invalid");
    let places: Vec<&str> = told["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mistake| mistake["at"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/workflow", "/zone", "/cron"]);
    assert!(
        told["mistakes"][0]["what"]
            .as_str()
            .unwrap()
            .contains("did you mean `question`?"),
        "{told}"
    );
    let mut slip = body();
    slip["corn"] = json!("x");
    admin
        .put("/v1/schedules/x", slip)
        .await
        .problem(422, "invalid");
    admin
        .put("/v1/schedules/a%20b", body())
        .await
        .problem(422, "invalid");
    admin.put("/v1/schedules/x", body()).await.expect(200);
    for (what, body) in [
        ("pause", json!({"reason": " "})),
        (
            "backfill",
            json!({"from": "2024-01-01T00:00:00Z", "to": "2020-01-01T00:00:00Z", "reason": "x"}),
        ),
        (
            "backfill",
            json!({"from": "2024-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "reason": "x"}),
        ),
        (
            "backfill",
            json!({"from": "yesterday", "to": "2024-01-01T00:00:00Z", "reason": "x"}),
        ),
    ] {
        admin
            .post(&format!("/v1/schedules/x/{what}"), body)
            .await
            .problem(422, "invalid");
    }
    admin.put("/v1/schedules/y", body()).await.expect(200);
    let first = admin.get("/v1/schedules?limit=1").await.expect(200);
    let next = first["next"].as_str().unwrap();
    let second = admin
        .get(&format!("/v1/schedules?limit=1&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(
        (&first["items"][0]["name"], &second["items"][0]["name"]),
        (&json!("x"), &json!("y"))
    );
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn what_stands_in_a_file_is_there_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = "name: monthly\nworkflow: question\ncron: '@monthly'\nzone: UTC\nsubject: company\n";
    write(folder.path(), "schedules/monthly.yaml", file);
    let address = StoreAddress::Sqlite(folder.path().join("t.db"));
    let mut server = Server::on(folder, &address).await;
    let admin = server.admin().await;
    let listed = admin.get("/v1/schedules").await.expect(200);
    assert_eq!(
        (&listed["items"][0]["name"], &listed["items"][0]["origin"]),
        (&json!("monthly"), &json!("configuration"))
    );
    let changed =
        json!({"workflow": "question", "cron": "@daily", "zone": "UTC", "subject": "company"});
    admin
        .put("/v1/schedules/monthly", changed)
        .await
        .problem(409, "conflict");
    admin
        .post("/v1/schedules/monthly/remove", reason())
        .await
        .problem(409, "conflict");
    admin
        .post("/v1/schedules/monthly/pause", reason())
        .await
        .expect(200);

    // The next life of the node: the file again changes nothing, and the pause stays; no file, no schedule.
    for (text, expected) in [(Some(file), 1), (None, 0)] {
        let running = server.running.take().unwrap();
        running
            .drain(std::time::Duration::from_secs(5))
            .await
            .unwrap();
        let path = server._folder.path().join("schedules/monthly.yaml");
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let configuration = Arc::new(Configuration::load(server._folder.path()).unwrap());
        let database = Database::prepare(&address, engine::store::SHARDS_DEFAULT)
            .await
            .unwrap();
        let running = Running::start(configuration, database.clone(), &Telemetry::default())
            .await
            .unwrap();
        running.idle().await;
        running.idle().await;
        server.running = Some(running);
        let rows = crate::shell::schedules::all(&*database.store)
            .await
            .unwrap();
        assert_eq!(rows.len(), expected);
        assert!(
            rows.iter()
                .all(|row| row.state.paused.is_some() && row.state.version == 2)
        );
    }
}
