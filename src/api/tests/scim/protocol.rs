//! What callers may rely on, and what they may not do.

use futures_util::future::join_all;
use workflows::directory::resources::Wanted;
use workflows::scim::Kind;

use super::*;

#[tokio::test]
async fn writers_at_once_lose_nothing_and_a_version_is_kept() {
    for server in Server::both().await {
        let provider = server.provider().await;
        let id = provider.hired("ada", json!({})).await;
        let path = format!("/Users/{id}");
        // Everybody adds their own address; nobody overwrites another's.
        let writers = (0..12).map(|number| {
            let mail = json!([{ "value": format!("{number}@x.example"), "type": "other" }]);
            provider.patch(
                &id,
                json!([{ "op": "add", "path": "emails", "value": mail }]),
            )
        });
        for answer in join_all(writers).await {
            answer.expect(200);
        }
        let shown = provider.get(&path).await;
        assert_eq!(shown.headers["etag"], "W/\"13\"");
        assert_eq!(shown.body["emails"].as_array().unwrap().len(), 13);
        // Of many who name the version, one is first.
        let body = |title: String| json!({ "schemas": [PATCH], "Operations": [{ "op": "add", "value": { "title": title } }] });
        let named = [("if-match", "W/\"13\"")];
        let writers = (0..8).map(|number| {
            provider.send(
                Method::PATCH,
                &path,
                &named,
                body(number.to_string()).to_string(),
            )
        });
        let mut statuses: Vec<u16> = join_all(writers)
            .await
            .iter()
            .map(|answer| answer.status)
            .collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
        let old = [("if-match", "W/\"1\"")];
        provider
            .send(Method::DELETE, &path, &old, "")
            .await
            .refusal(412, None);
        let known = [("if-none-match", "W/\"14\"")];
        assert_eq!(
            provider.send(Method::GET, &path, &known, "").await.status,
            304
        );
        assert_eq!(
            provider.send(Method::GET, &path, &old, "").await.status,
            200
        );
        // Of many who take a name, one gets it.
        let writers = (0..8).map(|number| {
            provider.post(
                "/Users",
                user("eve", json!({ "externalId": number.to_string() })),
            )
        });
        let mut statuses: Vec<u16> = join_all(writers)
            .await
            .iter()
            .map(|answer| answer.status)
            .collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
        // Members come from all sides.
        let group = provider.group("Crowd", &[]).await;
        let mut people = Vec::new();
        for number in 0..6 {
            people.push(provider.hired(&format!("m{number}"), json!({})).await);
        }
        let path = format!("/Groups/{group}");
        let writers = people.iter().map(|member| {
            let add = json!({ "op": "add", "path": "members", "value": [{ "value": member }] });
            provider.ask(
                Method::PATCH,
                &path,
                json!({ "schemas": [PATCH], "Operations": [add] }),
            )
        });
        for answer in join_all(writers).await {
            answer.expect(200);
        }
        let shown = provider.get(&path).await.expect(200);
        assert_eq!(shown["members"].as_array().unwrap().len(), 6);
    }
}

#[tokio::test]
async fn listings_filter_sort_and_page() {
    for server in Server::both().await {
        let provider = server.provider().await;
        let mut people = Vec::new();
        for (number, name) in ["eve", "ada", "dan", "cat", "bob"].iter().enumerate() {
            let more = json!({
                "title": if number % 2 == 0 { "Even" } else { "Odd" },
                ENTERPRISE: { "costCenter": number.to_string() },
            });
            people.push(provider.hired(name, more).await);
        }
        let group = provider.group("Some", &[&people[1], &people[3]]).await;
        let names = async |query: &str| {
            let listed = provider.get(&format!("/Users?{query}")).await.expect(200);
            let names: Vec<String> = listed["Resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["displayName"].as_str().unwrap().to_owned())
                .collect();
            (listed["totalResults"].as_u64().unwrap(), names.join(" "))
        };
        let found = |total: u64, names: &str| (total, names.to_owned());
        for (query, total, expected) in [
            ("filter=userName%20eq%20%22ADA@example.org%22", 1, "ada"),
            ("filter=externalId%20eq%20%22CAT%22", 1, "cat"),
            ("filter=externalId%20eq%20%22cat%22", 0, ""),
            (
                "filter=userName%20eq%20%22ada@example.org%22%20and%20title%20eq%20%22Even%22",
                0,
                "",
            ),
            ("sortBy=displayName", 5, "ada bob cat dan eve"),
            ("sortBy=userName&sortOrder=descending&count=2", 5, "eve dan"),
            ("sortBy=displayName&startIndex=3&count=2", 5, "cat dan"),
            (
                "filter=title%20eq%20%22odd%22&sortBy=displayName",
                2,
                "ada cat",
            ),
            (
                "filter=groups.display%20eq%20%22some%22&sortBy=displayName",
                2,
                "ada cat",
            ),
            (
                "filter=emails%5Btype%20eq%20%22work%22%20and%20value%20sw%20%22b%22%5D",
                1,
                "bob",
            ),
            ("filter=userName%20eq%20%22%5Cu0000%22", 0, ""),
            ("count=0", 5, ""),
            ("startIndex=9", 5, ""),
            ("sortBy=displayName&startIndex=9", 5, ""),
        ] {
            assert_eq!(names(query).await, found(total, expected), "{query}");
        }
        let key = format!("filter={ENTERPRISE}:costCenter%20gt%20%222%22&sortBy=displayName");
        assert_eq!(names(&key).await, found(2, "bob cat"));
        // Cursors: everybody once, in order, whatever comes and goes.
        for query in [
            "",
            "&sortBy=displayName&sortOrder=descending",
            "&filter=title%20pr",
        ] {
            let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let path = format!("/Users?count=2&cursor={cursor}{query}");
                let listed = provider.get(&path).await.expect(200);
                assert_eq!(listed["totalResults"], 5);
                assert_eq!(listed["startIndex"], Value::Null);
                seen.extend(ids(&listed));
                pages += 1;
                match listed["nextCursor"].as_str() {
                    Some(next) => cursor = next.to_owned(),
                    None => break,
                }
            }
            let unique: BTreeSet<&String> = seen.iter().collect();
            assert_eq!((seen.len(), unique.len(), pages), (5, 5, 3), "{query}");
            let other = format!("/Users?cursor={cursor}&sortBy=title");
            provider
                .get(&other)
                .await
                .refusal(400, Some("invalidCursor"));
        }
        provider
            .get("/Users?cursor=rubbish")
            .await
            .refusal(400, Some("invalidCursor"));
        provider
            .get("/Users?cursor=&count=0")
            .await
            .refusal(400, Some("invalidCount"));
        // A search is the same in a body, over one kind or both.
        let search = json!({ "schemas": [SEARCH], "filter": "displayName sw \"s\" or displayName sw \"a\"", "attributes": ["displayName"] });
        let listed = provider.post("/.search", search.clone()).await.expect(200);
        assert_eq!(ids(&listed), [people[1].clone(), group.clone()]);
        assert_eq!(listed["Resources"][0]["userName"], Value::Null);
        let listed = provider.post("/Users/.search", search).await.expect(200);
        assert_eq!(listed["totalResults"], 1);
        let listed = provider
            .get("/?filter=meta.resourceType%20eq%20%22Group%22")
            .await
            .expect(200);
        assert_eq!(ids(&listed), [group]);
        // What a caller wants to see.
        let one = format!("/Users/{}?attributes={ENTERPRISE},name", people[0]);
        let shown = provider.get(&one).await.expect(200);
        let fields: Vec<&String> = shown.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["id", "schemas", ENTERPRISE]);
    }
}

#[tokio::test]
async fn a_bulk_of_a_thousand_is_taken() {
    for server in Server::both().await {
        let provider = server.provider().await;
        let mut operations: Vec<Value> = (0..998)
            .map(|number| {
                let data = user(&format!("p{number}"), json!({ ENTERPRISE: { "manager": { "value": format!("bulkId:p{}", (number + 1) % 998) } } }));
                json!({ "method": "POST", "path": "/Users", "bulkId": format!("p{number}"), "data": data })
            })
            .collect();
        let members: Vec<Value> = (0..998)
            .map(|number| json!({ "value": format!("bulkId:p{number}") }))
            .collect();
        let group = json!({ "schemas": [GROUP], "displayName": "Everybody", "members": members });
        operations.insert(
            0,
            json!({ "method": "POST", "path": "/Groups", "bulkId": "g", "data": group }),
        );
        operations.push(json!({ "method": "POST", "path": "/Users", "bulkId": "twice", "data": user("p0", json!({})) }));
        let body = json!({ "schemas": [BULK], "Operations": operations });
        let answer = provider.post("/Bulk", body).await.expect(200);
        let answers = answer["Operations"].as_array().unwrap();
        assert_eq!(answers.len(), 1_000);
        assert_eq!(
            (&answers[0]["bulkId"], &answers[0]["status"]),
            (&json!("g"), &json!("201"))
        );
        assert!(
            answers[..999]
                .iter()
                .all(|answer| answer["status"] == "201")
        );
        assert_eq!(answers[999]["status"], "409");
        assert_eq!(answers[999]["response"]["scimType"], "uniqueness");
        let listed = provider.get("/Users?count=0").await.expect(200);
        assert_eq!(listed["totalResults"], 998);
        let directory = &server.database.directory;
        for number in [0, 500, 997] {
            let person = directory
                .holdings(&format!("P{number}"))
                .await
                .unwrap()
                .unwrap();
            // Also where the managers refer to one another in a circle.
            let manager = json!(format!("P{}", (number + 1) % 998));
            assert_eq!(person.identity.attributes["manager"], manager);
            assert_eq!(person.identity.attributes["groups"], json!(["Everybody"]));
        }
        let more = vec![json!({ "method": "DELETE", "path": "/Users/x" }); 1_001];
        let body = json!({ "schemas": [BULK], "Operations": more });
        provider.post("/Bulk", body).await.refusal(413, None);
        // After so many errors the rest is left.
        let more = vec![json!({ "method": "DELETE", "path": "/Users/x" }); 5];
        let body = json!({ "schemas": [BULK], "failOnErrors": 2, "Operations": more });
        let answer = provider.post("/Bulk", body).await.expect(200);
        assert_eq!(answer["Operations"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_a_reason_and_changes_nothing() {
    for server in Server::both().await {
        let provider = server.provider().await;
        let id = provider.hired("ada", json!({})).await;
        for (more, scim_type, says) in [
            (
                json!({ "userName": 7 }),
                "invalidValue",
                "`userName` must be a text",
            ),
            (
                json!({ "userName": null }),
                "invalidValue",
                "`userName` is required",
            ),
            (
                json!({ "userName": " " }),
                "invalidValue",
                "`userName` is required",
            ),
            (
                json!({ "active": "perhaps" }),
                "invalidValue",
                "`active` must be true or false",
            ),
            (
                json!({ "emails": "x" , "name": [] }),
                "invalidValue",
                "`name` must be an object",
            ),
            (
                json!({ "emails": [{ "value": "a", "primary": true }, { "value": "b", "primary": true }] }),
                "invalidValue",
                "more than one primary",
            ),
            (
                json!({ "shoeSize": 43 }),
                "invalidValue",
                "no attribute `shoeSize`",
            ),
            (
                json!({ "schemas": [] }),
                "invalidSyntax",
                "`schemas` must hold",
            ),
            (
                json!({ "schemas": [USER, "urn:example:Other"] }),
                "invalidValue",
                "`urn:example:Other` is not known",
            ),
            (
                json!({ "urn:example:Other": {} }),
                "invalidValue",
                "no attribute `urn:example:Other`",
            ),
            (
                json!({ TENURE: { "startDate": "2027-02-30" } }),
                "invalidValue",
                "a day that does not exist",
            ),
            (
                json!({ TENURE: { "startDate": "soon" } }),
                "invalidValue",
                "deliver dates as `%Y-%m-%d`",
            ),
            (
                json!({ TENURE: { "workTimeZone": "Mars/Olympus" } }),
                "invalidValue",
                "is no time zone",
            ),
            (
                json!({ TENURE: { "personType": "robot" } }),
                "invalidValue",
                "the type is `robot`",
            ),
            (json!({ TENURE: 3 }), "invalidValue", "must be an object"),
            (
                json!({ "externalId": null }),
                "invalidValue",
                "the key is empty",
            ),
            (
                json!({ "title": "a\u{0}b" }),
                "invalidValue",
                "without U+0000",
            ),
            (
                json!({ "userName": "x".repeat(2_000) }),
                "invalidValue",
                "longer than 1024 bytes",
            ),
            (
                json!({ "emails": (0..101).map(|it| json!({ "value": it.to_string() })).collect::<Vec<_>>() }),
                "invalidValue",
                "more than 100 values",
            ),
        ] {
            let answer = provider.post("/Users", user("new", more.clone())).await;
            let detail = answer.refusal(400, Some(scim_type));
            assert!(detail.contains(says), "{more}: {detail}");
        }
        // Names and people are unique.
        for more in [
            json!({ "userName": "ADA@example.org" }),
            json!({ "externalId": "ADA" }),
        ] {
            provider
                .post("/Users", user("new", more))
                .await
                .refusal(409, Some("uniqueness"));
        }
        let other = json!([{ "op": "replace", "path": "externalId", "value": "EVE" }]);
        let detail = provider
            .patch(&id, other)
            .await
            .refusal(400, Some("mutability"));
        assert!(
            detail.contains("the key `ADA` would become `EVE`"),
            "{detail}"
        );
        // Bodies that are none.
        let post = async |media: &str, body: Vec<u8>| {
            provider
                .send(Method::POST, "/Users", &[("content-type", media)], body)
                .await
        };
        let json = "application/scim+json";
        for body in [
            b"".to_vec(),
            b"{".to_vec(),
            b"[]".to_vec(),
            b"{\"userName\": \"\xff\xfe\"}".to_vec(),
            [b"{\"a\":".repeat(500), b"1".to_vec(), b"}".repeat(500)].concat(),
        ] {
            post(json, body).await.refusal(400, Some("invalidSyntax"));
        }
        post("text/plain", b"{}".to_vec()).await.refusal(415, None);
        post(json, vec![b' '; 3 * 1024 * 1024])
            .await
            .refusal(413, None);
        // Filters and paths.
        let deep = format!("{}userName%20pr{}", "(".repeat(60), ")".repeat(60));
        for filter in [
            "userName",
            "userName%20eq%20x",
            "nothing%20pr",
            "name%20eq%20%22x%22",
            &deep,
        ] {
            provider
                .get(&format!("/Users?filter={filter}"))
                .await
                .refusal(400, Some("invalidFilter"));
        }
        provider
            .get("/Users?sortBy=nothing")
            .await
            .refusal(400, Some("invalidPath"));
        provider
            .get("/Users?count=many")
            .await
            .refusal(400, Some("invalidValue"));
        for (operation, scim_type) in [
            (
                json!({ "op": "replace", "path": "id", "value": "x" }),
                "mutability",
            ),
            (json!({ "op": "remove" }), "noTarget"),
            (
                json!({ "op": "add", "path": "nothing", "value": 1 }),
                "invalidPath",
            ),
            (
                json!({ "op": "jump", "path": "title", "value": 1 }),
                "invalidSyntax",
            ),
            (json!({ "op": "remove", "path": "userName" }), "mutability"),
        ] {
            provider
                .patch(&id, json!([operation]))
                .await
                .refusal(400, Some(scim_type));
        }
        for path in [
            "/Users/none",
            "/Users/%00",
            "/Users/a%2Fb",
            "/Robots",
            "/Schemas/urn:x",
            "/Groups/x",
        ] {
            provider.get(path).await.refusal(404, None);
        }
        provider
            .ask(Method::PUT, "/Users", json!({}))
            .await
            .refusal(405, None);
        provider.get("/Me").await.refusal(501, None);
        // Nothing of it left a trace.
        let listed = provider.get("/Users").await.expect(200);
        assert_eq!(listed["totalResults"], 1);
        assert_eq!(listed["Resources"][0]["meta"]["version"], "W/\"1\"");
    }
}

#[tokio::test]
async fn only_the_token_of_the_source_gets_in_and_nowhere_else() {
    for server in Server::both().await {
        let entra = server.provider().await;
        entra.get("/Users").await.expect(200);
        // The token of a source opens nothing else.
        let nowhere = Caller {
            server: &server,
            token: entra.token.clone(),
        };
        for path in [
            "/v1/cases",
            "/v1/identities",
            "/v1/systems",
            "/v1/tokens",
            "/metrics",
        ] {
            nowhere.get(path).await.problem(403, "forbidden");
        }
        // Other tokens, of any role, do not open the source.
        for (name, role) in [
            ("a", Role::Admin),
            ("o", Role::Operate),
            ("p", Role::Provision),
        ] {
            let other = Provider {
                server: &server,
                token: server.token(name, &[role]).await,
            };
            for path in ["/Users", "/ServiceProviderConfig", "/Schemas"] {
                let detail = other.get(path).await.refusal(403, None);
                assert!(detail.contains("`provision`"), "{detail}");
            }
            other
                .post("/Users", user("x", json!({})))
                .await
                .refusal(403, None);
        }
        for token in ["", "tnr_wrong"] {
            let nobody = Provider {
                server: &server,
                token: token.to_owned(),
            };
            for path in ["/Users", "/Nothing", "", "/ServiceProviderConfig"] {
                nobody.get(path).await.refusal(401, None);
            }
        }
        // A name in the list is not enough without the role.
        Tokens::new(server.database.clone())
            .revoke("entra", now())
            .await
            .unwrap();
        entra.get("/Users").await.refusal(401, None);
    }
}

#[tokio::test]
async fn files_are_no_way_into_a_source_that_is_pushed() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let path = "/v1/imports?source=entra&file=people.csv&as_of=2026-01-01";
    let answer = admin.send(Method::POST, path, "text/csv", "id\n1\n").await;
    let problem = answer.problem(422, "invalid");
    let what = problem["mistakes"][0]["what"].as_str().unwrap();
    assert!(what.contains("takes no files"), "{what}");
}

/// Requests in the form in which two widely used providers send them.
#[tokio::test]
async fn what_entra_and_okta_send_is_understood() {
    for server in Server::both().await {
        let (provider, admin) = (server.provider().await, server.admin().await);
        // Entra looks whether the door opens.
        let path = "/Users?filter=userName+eq+%22a1e1a9d0-0000-4000-8000-000000000000%22";
        assert_eq!(provider.get(path).await.expect(200)["totalResults"], 0);
        let made = json!({
            "schemas": [USER, ENTERPRISE], "externalId": "0a21f0f2", "userName": "Test_User@testuser.com", "active": true,
            "displayName": "lennay", "emails": [{ "primary": true, "type": "work", "value": "a@testuser.com" }],
            "meta": { "resourceType": "User" }, "name": { "formatted": "g f", "familyName": "f", "givenName": "g" }, "roles": [],
        });
        let ada = provider.post("/Users", made).await.expect(201)["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let boss = provider.hired("boss", json!({})).await;
        let operations = json!([
            { "op": "Replace", "path": "emails[type eq \"work\"].value", "value": "b@testuser.com" },
            { "op": "Replace", "path": "name.familyName", "value": "updated" },
            { "op": "Add", "path": "phoneNumbers[type eq \"mobile\"].value", "value": "1" },
            { "op": "Add", "path": format!("{ENTERPRISE}:manager"), "value": boss },
            { "op": "Add", "path": format!("{ENTERPRISE}:department"), "value": "Lab" },
        ]);
        let shown = provider.patch(&ada, operations).await.expect(200);
        assert_eq!(shown["emails"][0]["value"], "b@testuser.com");
        assert_eq!(
            shown["phoneNumbers"][0],
            json!({ "type": "mobile", "value": "1" })
        );
        let person = admin.get("/v1/identities/0a21f0f2").await.expect(200);
        let attributes = &person["identity"]["attributes"];
        assert_eq!(
            (&attributes["manager"], &attributes["department"]),
            (&json!("BOSS"), &json!("Lab"))
        );
        let group = json!({
            "schemas": [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
            "externalId": "8aa1a0c0", "displayName": "Engineers", "meta": { "resourceType": "Group" },
        });
        let group = provider.post("/Groups", group).await.expect(201)["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let path = format!("/Groups/{group}");
        let patch = async |operations: Value| {
            let body = json!({ "schemas": [PATCH], "Operations": operations });
            provider.ask(Method::PATCH, &path, body).await.expect(200)
        };
        let member = json!([{ "$ref": null, "value": ada }]);
        let shown = patch(json!([{ "op": "Add", "path": "members", "value": member }])).await;
        assert_eq!(shown["members"][0]["value"], json!(ada));
        let is_in = format!(
            "/Groups?excludedAttributes=members&filter=id+eq+%22{group}%22+and+members+eq+%22{ada}%22"
        );
        assert_eq!(provider.get(&is_in).await.expect(200)["totalResults"], 1);
        patch(json!([{ "op": "Remove", "path": "members", "value": member }])).await;
        assert_eq!(provider.get(&is_in).await.expect(200)["totalResults"], 0);
        let left = provider
            .patch(
                &ada,
                json!([{ "op": "Replace", "path": "active", "value": "False" }]),
            )
            .await
            .expect(200);
        assert_eq!(left["active"], false);
        // Okta sends whole users, with a password and groups that are not its to set.
        let whole = json!({
            "schemas": [USER], "userName": "test.user@okta.local", "name": { "givenName": "Test", "familyName": "User" },
            "emails": [{ "primary": true, "value": "test.user@okta.local", "type": "work" }], "displayName": "Test User",
            "locale": "en-US", "externalId": "00ujl29u0le5T6Aj10h7", "groups": [], "password": "1mz050nq", "active": true,
        });
        let made = provider.post("/Users", whole.clone()).await.expect(201);
        assert_eq!(made["password"], Value::Null);
        let id = made["id"].as_str().unwrap();
        let mut again = whole;
        again["id"] = made["id"].clone();
        again["meta"] = made["meta"].clone();
        again["title"] = json!("Boss");
        let shown = provider
            .ask(Method::PUT, &format!("/Users/{id}"), again)
            .await
            .expect(200);
        assert_eq!(shown["title"], "Boss");
        let wanted = Wanted::Id(id.to_owned());
        let directory = &server.database.directory;
        let stored = directory.resource("entra", Kind::Person, &wanted).await;
        let stored = stored.unwrap().unwrap();
        assert!(!json!(stored.body).to_string().contains("1mz050nq"));
        provider
            .patch(
                id,
                json!([{ "op": "replace", "value": { "active": false } }]),
            )
            .await
            .expect(200);
        assert_eq!(
            server.cases(&admin, "00ujl29u0le5T6Aj10h7").await,
            ["joiner", "leaver"]
        );
        let renamed = patch(
            json!([{ "op": "replace", "value": { "id": group, "displayName": "Builders" } }]),
        )
        .await;
        assert_eq!(renamed["displayName"], "Builders");
    }
}
