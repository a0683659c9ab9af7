//! The page behind the link of a mail.

use chrono::{DateTime, Utc};
use engine::core::duration::Span;
use workflows::notices::{LinkRow, Outbox};
use workflows::sources::signature::SigningKey;

use super::*;

fn links() -> Arc<Links> {
    let key = SigningKey::of_bytes(vec![3; 32]);
    Arc::new(Links::new(key, "", Span::from_s(86_400)))
}

/// A server whose policy says something of contractors.
async fn start(on_postgres: bool) -> Server {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "policy/contractors.yaml",
        "contractors: { owner: 'role:vendors', extension: { max: 60d } }\n",
    );
    let address = if on_postgres {
        postgres_schema().await
    } else {
        StoreAddress::Sqlite(folder.path().join("t.db"))
    };
    Server::linked(folder, &address, Some(links())).await
}

#[tokio::test]
async fn a_sponsor_asks_by_the_link_of_a_mail_and_once() {
    asks_once(&start(false).await).await;
}

#[tokio::test]
async fn a_sponsor_asks_by_the_link_of_a_mail_and_once_on_postgres_too() {
    asks_once(&start(true).await).await;
}

/// What a browser without any token does.
struct Browser<'a>(&'a Server);

impl Browser<'_> {
    async fn look(&self, link: &str) -> (u16, String) {
        let response = self.0.client.get(format!("{}{link}", self.0.url));
        let response = response.send().await.unwrap();
        let policy = response.headers().get("content-security-policy");
        let is_page = policy.is_some_and(|policy| policy.to_str().unwrap().contains("'none'"));
        assert!(is_page || response.status() == 401, "{response:?}");
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn send(&self, body: &str) -> (u16, String) {
        let request = self.0.client.post(format!("{}/contract", self.0.url));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let response = request.body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

async fn asks_once(server: &Server) {
    let admin = server.admin().await;
    let ends: DateTime<Utc> = now() + TimeDelta::days(30);
    let ends = ends.date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
    let mut start = hire("s", "C1");
    start["type"] = json!("contract.start");
    start["data"] = json!({ "attributes": { "name": "Cy <b>&\"", "type": "contractor" } });
    admin.event(&start).await.expect(202);
    let mut end = hire("e", "C1");
    end["type"] = json!("contract.expired");
    let last = ends.date_naive() - TimeDelta::days(1);
    end["data"] = json!({ "last_day": last, "zone": "UTC" });
    admin.event(&end).await.expect(202);
    server.settled().await;

    let outbox = Outbox::new(server.database.directory.clone());
    let row = |delivery: &str, ends_at, expires_at| LinkRow {
        shard_id: 0,
        link_hash: String::new(),
        delivery_id: delivery.to_owned(),
        address: "sue@example.org".to_owned(),
        identity_key: "C1".to_owned(),
        ends_at,
        created_at: now(),
        expires_at,
        used_at: None,
        used_case: None,
    };
    let soon = now() + TimeDelta::hours(1);
    let made = async |row: LinkRow| outbox.put_link(&links(), row).await.unwrap();
    let link = made(row("d1", ends, soon)).await;
    let expired = made(row("d2", ends, now() - TimeDelta::seconds(1))).await;
    // It says nothing about an end that is another one by now.
    let moved = made(row("d3", ends + TimeDelta::days(1), soon)).await;
    let (_, token) = link.split_once("?t=").unwrap();
    // Signed by somebody else.
    let other = Links::new(SigningKey::of_bytes(vec![4; 32]), "", Span::from_s(1));
    let unknown = outbox
        .put_link(&other, row("d4", ends, soon))
        .await
        .unwrap();

    let browser = Browser(server);
    for wrong in [
        "/contract",
        "/contract?t=",
        "/contract?t=x",
        &expired,
        &unknown,
    ] {
        let (status, text) = browser.look(wrong).await;
        assert_eq!(status, 404, "{wrong}");
        assert!(
            text.contains("not good any more") && !text.contains("C1"),
            "{text}"
        );
    }
    // Nothing else is open beside it.
    for closed in ["/contract/", "/contract/x", "/contracts", "/v1/contract"] {
        assert_eq!(browser.look(closed).await.0, 401, "{closed}");
    }
    // However often it is looked at.
    for _ in 0..3 {
        let (status, text) = browser.look(&link).await;
        assert_eq!(status, 200);
        assert!(
            text.contains("Cy &lt;b&gt;&amp;&quot;") && !text.contains("<b>"),
            "{text}"
        );
    }
    let extensions = async || {
        let open = admin.get("/v1/approvals").await.expect(200);
        open["items"].as_array().unwrap().clone()
    };
    assert_eq!(extensions().await, [json!(null); 0]);
    let until = ends.date_naive() + TimeDelta::days(20);
    let good = format!("t={token}&until={until}&reason=phase+two+%3Cb%3E");
    // What is wrong asks nothing, and leaves the link as it is.
    for (wrong, status) in [
        (String::new(), 422),
        ("t=x".to_owned(), 422),
        (format!("t={token}&until=2026-02-30&reason=r"), 422),
        (format!("t={token}&until={until}&reason=+"), 422),
        (
            format!("t={token}&until={until}&reason={}", "r".repeat(5_000)),
            422,
        ),
        (format!("t={token}&until={until}&reason=%00"), 422),
        (format!("t={token}&until={until}&reason=\u{e4}\u{0}"), 422),
        (format!("t={token}&until=9999-12-31&reason=r"), 422),
        (
            format!(
                "t={token}&until={}&reason=r",
                ends.date_naive() - TimeDelta::days(9)
            ),
            422,
        ),
        (format!("t=x&until={until}&reason=r"), 404),
        (good.replace(token, moved.split_once("?t=").unwrap().1), 422),
        ("x".repeat(20_000), 413),
    ] {
        let (answered, text) = browser.send(&wrong).await;
        assert_eq!(answered, status, "{wrong}: {text}");
    }
    assert_eq!(extensions().await, [json!(null); 0]);
    let (status, text) = browser.send(&good).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("role:vendors"), "{text}");
    assert_eq!(browser.send(&good).await.0, 404, "once");
    assert_eq!(browser.look(&link).await.0, 404);
    server.settled().await;
    let open = extensions().await;
    assert_eq!(open.len(), 1);
    let question = open[0]["ask"]["question"].as_str().unwrap();
    assert!(
        question.contains("mail:sue@example.org asks: phase two <b>"),
        "{question}"
    );
    // It only asks: another person decides.
    let before = admin.get("/v1/identities/C1/belief").await.expect(200);
    assert!(!before.to_string().contains(&until.to_string()), "{before}");
    let case = open[0]["case"].as_str().unwrap();
    let path = format!("/v1/approvals/{case}/0/0");
    admin
        .post(&path, json!({ "approve": true }))
        .await
        .expect(200);
    server.settled().await;
    let shown = admin.get("/v1/identities/C1").await.expect(200);
    let shown = shown.to_string();
    for part in ["contract.extended", "mail:sue@example.org", "token:admin"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let log = outbox
        .link(&links().read(token, now()).unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(log.used_case.as_deref(), Some(case));
}

/// Without the setting there is no such page.
#[tokio::test]
async fn there_is_no_page_unless_it_is_wanted() {
    let server = Server::start().await;
    let response = server.client.get(format!("{}/contract?t=x", server.url));
    assert_eq!(response.send().await.unwrap().status(), 401);
    assert_eq!(Browser(&server).send("t=x").await.0, 401);
    let admin = server.admin().await;
    assert_eq!(admin.get("/contract?t=x").await.status, 404);
}

/// Asking with a token is the same, and nobody approves what they asked for.
#[tokio::test]
async fn asking_takes_one_role_and_deciding_another_person() {
    let server = start(false).await;
    let admin = server.admin().await;
    let ends = (now() + TimeDelta::days(30)).date_naive();
    let mut start = hire("s", "C1");
    start["type"] = json!("contract.start");
    start["data"] = json!({ "attributes": { "name": "Cy", "type": "contractor" } });
    admin.event(&start).await.expect(202);
    let mut end = hire("e", "C1");
    end["type"] = json!("contract.expired");
    end["data"] = json!({ "last_day": ends });
    admin.event(&end).await.expect(202);
    server.settled().await;
    let both = [Role::Operate, Role::Approve];
    let bob = Caller {
        server: &server,
        token: server.token("bob", &both).await,
    };
    let path = "/v1/identities/C1/contract";
    let until = ends + TimeDelta::days(20);
    let body = json!({ "until": until, "reason": "phase two" });
    let asked = bob.post(path, body.clone()).await.expect(202);
    assert_eq!(asked["ask"], "role:vendors");
    assert_eq!(
        bob.post(path, body).await.expect(202)["case"],
        asked["case"]
    );
    let far = json!({ "until": ends + TimeDelta::days(90), "reason": "r" });
    bob.post(path, far).await.problem(409, "conflict");
    server.settled().await;
    let answer = format!("/v1/approvals/{}/0/0", asked["case"].as_str().unwrap());
    let refused = bob
        .post(&answer, json!({ "approve": true }))
        .await
        .expect(409);
    assert!(
        refused.to_string().contains("somebody else has to approve"),
        "{refused}"
    );
    admin
        .post(&answer, json!({ "approve": true }))
        .await
        .expect(200);
    server.settled().await;
    let same = json!({ "until": until, "reason": "again" });
    let same = bob.post(path, same).await.expect(200);
    assert_eq!(
        (&same["unchanged"], &same["case"]),
        (&json!(true), &json!(null))
    );
}
