//! What a user becomes, over a life.

use chrono::{DateTime, Utc};
use engine::core::id::Actor;
use futures_util::future::join_all;
use workflows::intake::{Action, Push};
use workflows::scim::Kind;

use super::*;

#[tokio::test]
async fn somebody_who_starts_later_joins_when_their_day_begins() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let day = now().date_naive() + TimeDelta::days(30);
        let more = json!({ TENURE: { "startDate": day, "workTimeZone": "Pacific/Auckland" } });
        provider.hired("ada", more).await;
        assert_eq!(server.cases(&admin, "ADA").await, Vec::<String>::new());
        let person = admin.get("/v1/identities/ADA").await.expect(200);
        let event = &person["events"][0];
        assert_eq!(
            (&event["event_type"], &event["status"]),
            (&json!("hire"), &json!("waiting"))
        );
        assert_eq!(
            (&event["zone"], &event["source"]),
            (&json!("Pacific/Auckland"), &json!("entra"))
        );
        let begins: DateTime<Utc> = event["effective_at"].as_str().unwrap().parse().unwrap();
        let local = begins.with_timezone(&chrono_tz::Pacific::Auckland);
        assert_eq!(local.naive_local(), day.and_hms_opt(0, 0, 0).unwrap());
        let intake = &server.running.as_ref().unwrap().intake;
        let early = intake
            .start_due(begins - TimeDelta::milliseconds(1))
            .await
            .unwrap();
        assert!(early.cases.is_empty(), "{early:?}");
        let due = intake.start_due(begins).await.unwrap();
        assert_eq!(due.cases, [("joiner".to_owned(), 1)].into());
        server.running.as_ref().unwrap().nudge();
        assert_eq!(server.cases(&admin, "ADA").await, ["joiner"]);
    }
}

#[tokio::test]
async fn the_life_of_a_user_is_the_life_of_a_person() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let boss = provider.hired("bob", json!({})).await;
        let more = json!({ ENTERPRISE: { "department": "Lab", "manager": { "value": boss } } });
        let id = provider.hired("ada", more).await;
        assert_eq!(server.cases(&admin, "ADA").await, ["joiner"]);
        let person = admin.get("/v1/identities/ADA").await.expect(200);
        let attributes = &person["identity"]["attributes"];
        assert_eq!(attributes["department"], "Lab");
        assert_eq!(attributes["email"], "ada@example.org");
        assert_eq!(attributes["manager"], "BOB");
        assert_eq!(attributes["type"], "employee");
        let source = admin.get("/v1/sources/entra").await.expect(200);
        assert_eq!(
            (&source["state"], &source["format"]),
            (&json!("heard"), &json!("scim"))
        );
        // The department changes: a mover.
        let path = format!("{ENTERPRISE}:department");
        let operations = json!([{ "op": "replace", "path": path, "value": "Field" }]);
        provider.patch(&id, operations.clone()).await.expect(200);
        assert_eq!(server.cases(&admin, "ADA").await, ["joiner", "mover"]);
        // The same again is nothing new, and no new version.
        let again = provider.patch(&id, operations).await.expect(200);
        assert_eq!(again["meta"]["version"], "W/\"2\"");
        // What no column reads makes no event.
        provider
            .patch(&id, json!([{ "op": "add", "value": { "nickName": "A" } }]))
            .await
            .expect(200);
        assert_eq!(server.cases(&admin, "ADA").await, ["joiner", "mover"]);
        // Inactive: a leaver. Active again: a joiner of a new life.
        provider.patch(&id, active(false)).await.expect(200);
        assert_eq!(
            server.cases(&admin, "ADA").await,
            ["joiner", "leaver", "mover"]
        );
        provider.patch(&id, active(true)).await.expect(200);
        let cases = server.cases(&admin, "ADA").await;
        assert_eq!(cases, ["joiner", "joiner", "leaver", "mover"]);
        let person = admin.get("/v1/identities/ADA").await.expect(200);
        assert_eq!(person["identity"]["generation"], 2);
        // Deleted: the same as leaving. Made anew: they come back.
        let path = format!("/Users/{id}");
        provider
            .ask(Method::DELETE, &path, Value::Null)
            .await
            .expect(204);
        provider.get(&path).await.refusal(404, None);
        let cases = server.cases(&admin, "ADA").await;
        assert_eq!(cases, ["joiner", "joiner", "leaver", "leaver", "mover"]);
        provider.hired("ada", json!({})).await;
        let person = admin.get("/v1/identities/ADA").await.expect(200);
        let types: Vec<&str> = person["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["event_type"].as_str().unwrap())
            .collect();
        let expected = [
            "rehire",
            "termination.effective",
            "rehire",
            "termination.effective",
            "transfer",
            "hire",
        ];
        assert_eq!(types, expected);
    }
}

#[tokio::test]
async fn an_end_is_announced_moved_and_taken_back() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let id = provider
            .hired(
                "eve",
                json!({ TENURE: { "personType": "contractor", "contractEnd": "2099-12-31" } }),
            )
            .await;
        let end = |value: Value| json!([{ "op": "replace", "path": format!("{TENURE}:contractEnd"), "value": value }]);
        provider
            .patch(&id, end(json!("2099-06-30")))
            .await
            .expect(200);
        provider
            .patch(&id, end(json!("2100-01-31")))
            .await
            .expect(200);
        let person = admin.get("/v1/identities/EVE").await.expect(200);
        let waiting: Vec<(&str, &str)> = person["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["status"] == "waiting")
            .map(|event| {
                (
                    event["event_type"].as_str().unwrap(),
                    event["effective_at"].as_str().unwrap(),
                )
            })
            .collect();
        // The end of the last day in Zurich.
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        assert_eq!(waiting[0].0, "contract.expired");
        let at: DateTime<Utc> = waiting[0].1.parse().unwrap();
        assert_eq!(at.to_rfc3339(), "2100-01-31T23:00:00+00:00");
        // A start that never came is no end.
        let later = json!({ TENURE: { "startDate": "2099-01-01" } });
        let id = provider.hired("fay", later).await;
        provider.patch(&id, active(false)).await.expect(200);
        let person = admin.get("/v1/identities/FAY").await.expect(200);
        let told: Vec<String> = person["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| {
                format!(
                    "{} {}",
                    event["event_type"].as_str().unwrap(),
                    event["status"].as_str().unwrap()
                )
            })
            .collect();
        assert!(told.contains(&"hire superseded".to_owned()), "{told:?}");
        assert!(
            told.iter().any(|event| event.starts_with("hire.rescinded")),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn groups_are_attributes_of_their_members() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let ada = provider.hired("ada", json!({})).await;
        let bob = provider.hired("bob", json!({})).await;
        let group = provider.group("Engineers; all", &[&ada, &bob]).await;
        let groups = async |person: &str| {
            let person = admin
                .get(&format!("/v1/identities/{person}"))
                .await
                .expect(200);
            person["identity"]["attributes"]["groups"].clone()
        };
        assert_eq!(groups("ADA").await, json!(["Engineers; all"]));
        assert_eq!(server.cases(&admin, "ADA").await, ["joiner", "mover"]);
        let shown = provider.get(&format!("/Users/{ada}")).await.expect(200);
        assert_eq!(shown["groups"][0]["value"], json!(group));
        assert_eq!(shown["meta"]["version"], "W/\"2\"");
        let path = format!("/Groups/{group}");
        let patch = async |operations: Value| {
            let body = json!({ "schemas": [PATCH], "Operations": operations });
            provider.ask(Method::PATCH, &path, body).await
        };
        // Only who leaves the group is concerned.
        let one = format!("members[value eq \"{bob}\"]");
        patch(json!([{ "op": "remove", "path": one }]))
            .await
            .expect(200);
        assert_eq!(
            (groups("ADA").await, groups("BOB").await),
            (json!(["Engineers; all"]), Value::Null)
        );
        // A new name is everybody's.
        patch(json!([{ "op": "replace", "value": { "displayName": "Builders" } }]))
            .await
            .expect(200);
        assert_eq!(groups("ADA").await, json!(["Builders"]));
        let member = json!([{ "op": "add", "path": "members", "value": [{ "value": "nobody" }] }]);
        patch(member).await.refusal(400, Some("invalidValue"));
        // Whoever is deleted is in no group any more, and the group has another version.
        provider
            .ask(Method::DELETE, &format!("/Users/{ada}"), Value::Null)
            .await
            .expect(204);
        let shown = provider.get(&path).await.expect(200);
        assert_eq!(
            (&shown["members"], &shown["meta"]["version"]),
            (&Value::Null, &json!("W/\"4\""))
        );
        let group = provider.group("Temporary", &[&bob]).await;
        assert_eq!(groups("BOB").await, json!(["Temporary"]));
        provider
            .ask(Method::DELETE, &format!("/Groups/{group}"), Value::Null)
            .await
            .expect(204);
        assert_eq!(groups("BOB").await, Value::Null);
    }
}

#[tokio::test]
async fn many_who_leave_at_once_wait_for_a_person() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let mut people = Vec::new();
        for number in 0..8 {
            people.push(provider.hired(&format!("p{number}"), json!({})).await);
        }
        server.settled().await;
        // The guard lets three go within an hour; the sender hears no difference.
        for id in &people {
            let answer = provider.patch(id, active(false)).await.expect(200);
            assert_eq!(answer["active"], false);
        }
        let left = async || {
            let mut left = Vec::new();
            for number in 0..8 {
                let cases = server.cases(&admin, &format!("P{number}")).await;
                if cases.contains(&"leaver".to_owned()) {
                    left.push(number);
                }
            }
            left
        };
        assert_eq!(left().await, [0, 1, 2]);
        let waiting =
            async || admin.get("/v1/imports?waiting=true").await.expect(200)["items"].clone();
        let held = waiting().await;
        assert_eq!(held.as_array().unwrap().len(), 1, "{held}");
        assert_eq!(held[0]["summary"]["people"]["remove"], 5);
        assert_eq!(held[0]["source"], "entra");
        let told = held[0]["stopped_by"][0].as_str().unwrap();
        assert!(
            told.contains("5 people are held back") && told.contains("the limit is 3"),
            "{told}"
        );
        // Whoever is taken back waits no more, and what was shown before cannot be approved.
        provider.patch(&people[7], active(true)).await.expect(200);
        let stale = held[0]["id"].as_str().unwrap();
        admin
            .post(&format!("/v1/imports/{stale}/approve"), json!({}))
            .await
            .expect(404);
        let held = waiting().await;
        assert_eq!(held[0]["summary"]["people"]["remove"], 4);
        // Something else about somebody who waits changes nothing about their waiting.
        provider
            .patch(
                &people[6],
                json!([{ "op": "replace", "value": { "displayName": "Six" } }]),
            )
            .await
            .expect(200);
        let held = waiting().await;
        assert_eq!(held[0]["summary"]["people"]["remove"], 4);
        // Nor when it comes after the window, alone.
        let running = server.running.as_ref().unwrap();
        let push = Push {
            source: &running.configuration.sources["entra"],
            kind: Kind::Person,
            id: &people[5],
            if_match: None,
            action: Action::Patch(json!({
                "schemas": [PATCH], "Operations": [{ "op": "replace", "value": { "displayName": "Five" } }],
            })),
            by: &Actor("token:entra".to_owned()),
        };
        let outcome = running.intake.push(&push, now() + TimeDelta::days(1)).await;
        assert!(outcome.unwrap().held);
        // Back from the day after.
        let name = json!([{ "op": "replace", "value": { "displayName": "Fifth" } }]);
        provider.patch(&people[5], name).await.expect(200);
        let held = waiting().await;
        assert_eq!(held[0]["summary"]["people"]["remove"], 4);
        let id = held[0]["id"].as_str().unwrap();
        let report = admin
            .post(&format!("/v1/imports/{id}/approve"), json!({}))
            .await
            .expect(200);
        assert_eq!(report["cases"]["leaver"], 4, "{report}");
        assert!(report.to_string().contains("\"applied\""), "{report}");
        assert_eq!(report["events"]["termination.effective"], 4, "{report}");
        assert_eq!(left().await, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(waiting().await, json!([]));
        // A single one passes again; rejected means that nothing happens.
        for id in [&people[7], &provider.hired("q1", json!({})).await] {
            provider.patch(id, active(false)).await.expect(200);
        }
        assert_eq!(left().await, [0, 1, 2, 3, 4, 5, 6, 7]);
        for name in ["q2", "q3"] {
            let id = provider.hired(name, json!({})).await;
            provider
                .ask(Method::DELETE, &format!("/Users/{id}"), Value::Null)
                .await
                .expect(204);
        }
        let held = waiting().await;
        assert_eq!(held[0]["summary"]["examples"]["remove"], json!(["Q3"]));
        let id = held[0]["id"].as_str().unwrap();
        let rejection = json!({ "note": "a slip" });
        admin
            .post(&format!("/v1/imports/{id}/reject"), rejection)
            .await
            .expect(204);
        assert_eq!(server.cases(&admin, "Q3").await, ["joiner"]);
        assert_eq!(server.cases(&admin, "Q2").await, ["joiner", "leaver"]);
    }
}

#[tokio::test]
async fn who_is_taken_away_at_once_is_counted_one_after_the_other() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        let mut people = Vec::new();
        for number in 0..12 {
            people.push(provider.hired(&format!("p{number}"), json!({})).await);
        }
        server.settled().await;
        let leaving = people.iter().map(|id| provider.patch(id, active(false)));
        for answer in join_all(leaving).await {
            answer.expect(200);
        }
        server.settled().await;
        let leavers = admin.get("/v1/cases?workflow=leaver").await.expect(200);
        assert_eq!(leavers["items"].as_array().unwrap().len(), 3);
        let held = admin.get("/v1/imports?waiting=true").await.expect(200);
        assert_eq!(held["items"].as_array().unwrap().len(), 1, "{held}");
        assert_eq!(held["items"][0]["summary"]["people"]["remove"], 9);
        let told = held["items"][0]["stopped_by"][0].as_str().unwrap();
        assert!(told.starts_with("9 people are held back"), "{told}");
        // A whole group that is gone takes nobody away: it is an attribute, not an employment.
        let group = provider
            .group(
                "All",
                &people.iter().map(String::as_str).collect::<Vec<_>>(),
            )
            .await;
        provider
            .ask(Method::DELETE, &format!("/Groups/{group}"), Value::Null)
            .await
            .expect(204);
        let held = admin.get("/v1/imports?waiting=true").await.expect(200);
        assert_eq!(held["items"][0]["summary"]["people"]["remove"], 9);
    }
}
