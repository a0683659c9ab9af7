//! People pushed over SCIM: what they become, and what is refused. Everything on both databases.

mod people;
mod protocol;

use super::*;

const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
const TENURE: &str = "urn:ietf:params:scim:schemas:extension:tenure:2.0:User";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const BULK: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";

/// The identity provider.
struct Provider<'a> {
    server: &'a Server,
    token: String,
}

impl Server {
    async fn provider(&self) -> Provider<'_> {
        Provider {
            server: self,
            token: self.token("entra", &[Role::Provision]).await,
        }
    }

    async fn both() -> [Self; 2] {
        [Self::start().await, Self::on_postgres().await]
    }

    /// Cases by workflow that a person has had.
    async fn cases(&self, admin: &Caller<'_>, person: &str) -> Vec<String> {
        self.settled().await;
        let found = admin.get(&format!("/v1/cases?subject={person}")).await;
        let found = found.expect(200);
        let items = found["items"].as_array().unwrap().iter();
        let mut names: Vec<String> = items
            .map(|case| case["workflow"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

impl Provider<'_> {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = format!("{}/scim/v2{path}", self.server.url);
        let mut request = self.server.client.request(method, url);
        request = request.bearer_auth(&self.token).body(body);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/scim+json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, path, &[], body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, body).await
    }

    async fn patch(&self, id: &str, operations: Value) -> Answer {
        let body = json!({ "schemas": [PATCH], "Operations": operations });
        self.ask(Method::PATCH, &format!("/Users/{id}"), body).await
    }

    /// A new user; gives the identifier.
    async fn hired(&self, name: &str, more: Value) -> String {
        let made = self.post("/Users", user(name, more)).await.expect(201);
        made["id"].as_str().unwrap().to_owned()
    }

    async fn group(&self, name: &str, members: &[&str]) -> String {
        let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
        let body = json!({ "schemas": [GROUP], "displayName": name, "members": members });
        let made = self.post("/Groups", body).await.expect(201);
        made["id"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    /// A refusal in SCIM's own form.
    #[track_caller]
    fn refusal(self, status: u16, scim_type: Option<&str>) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/scim+json");
        assert_eq!(
            self.body["schemas"][0],
            "urn:ietf:params:scim:api:messages:2.0:Error"
        );
        assert_eq!(self.body["status"], status.to_string());
        assert_eq!(self.body["scimType"].as_str(), scim_type, "{self:?}");
        self.body["detail"].as_str().unwrap().to_owned()
    }
}

fn user(name: &str, more: Value) -> Value {
    let mut user = json!({
        "schemas": [USER, ENTERPRISE, TENURE],
        "userName": format!("{name}@example.org"),
        "externalId": name.to_uppercase(),
        "displayName": name,
        "emails": [{ "value": format!("{name}@example.org"), "type": "work", "primary": true }],
    });
    let fields = user.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    user
}

fn active(active: bool) -> Value {
    json!([{ "op": "Replace", "path": "active", "value": active }])
}

fn ids(listed: &Value) -> Vec<String> {
    let found = listed["Resources"].as_array().unwrap().iter();
    found
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}
