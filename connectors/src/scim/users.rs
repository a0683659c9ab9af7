//! Accounts are users: reading, creating, changing, deleting.

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::Scim;
use super::attributes::{Path, USER_SCHEMA, flatten, member, quoted};
use super::failure::Failure;
use super::groups::PATCH_SCHEMA;
use super::http::{Answer, Request};
use super::listing::{Judged, Progress, id_of};
use crate::connector::{
    Account, Attributes, Error, ErrorKind, NativeId, NewAccount, Outcome, Receipt,
};

impl Scim {
    /// The user with this identifier; `None` when the server was asked and has none.
    pub(super) async fn user(&self, id: &NativeId) -> Result<Option<Answer>, Error> {
        self.read_resource("Users", id.as_str(), &[]).await
    }

    /// GET of one resource. A 404 that does not carry SCIM's own error may come from a proxy or a wrong address,
    /// so absence is then confirmed by a search.
    pub(super) async fn read_resource(
        &self,
        kind: &str,
        id: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<Answer>, Error> {
        let path = [kind, id];
        let request = Request {
            query,
            ..Request::new(Method::GET, &path)
        };
        match self.http.send(request).await {
            Ok(answer) if id_of(&answer.body) == Some(id) => Ok(Some(answer)),
            Ok(answer) => Err(self.http.error(
                ErrorKind::Bug,
                format!(
                    "GET /{kind}/{id} answered with the object {:?}",
                    id_of(&answer.body)
                ),
            )),
            Err(Failure::Refused(refusal)) if matches!(refusal.status, 404 | 410) => {
                if !refusal.is_scim {
                    self.confirm_absent(kind, id, &refusal.message).await?;
                }
                Ok(None)
            }
            Err(failure) => Err(failure.of_read()),
        }
    }

    async fn confirm_absent(&self, kind: &str, id: &str, said: &str) -> Result<(), Error> {
        let found = self
            .search(kind, &format!("id eq {}", quoted(id)), ("attributes", "id"))
            .await;
        match found {
            Ok(found) if found.iter().all(|object| id_of(object) != Some(id)) => Ok(()),
            Ok(_) => Err(self
                .http
                .error(ErrorKind::Bug, format!("{said}, but a search finds it"))),
            Err(failure) => Err(self
                .http
                .error(
                    ErrorKind::Bug,
                    format!("{said}, which is not SCIM's answer; is `base_url` right?"),
                )
                .with_source(failure.of_read())),
        }
    }

    /// The user whose `attribute` is `value`, without regard to case when `same` says so.
    async fn user_where(
        &self,
        attribute: &str,
        value: &str,
        same: fn(&str, &str) -> bool,
    ) -> Result<Option<Value>, Error> {
        let filter = format!("{attribute} eq {}", quoted(value));
        let found = self
            .search("Users", &filter, ("excludedAttributes", "x509Certificates"))
            .await
            .map_err(Failure::of_read)?;
        let given = found.len();
        let mut matching: Vec<Value> = found
            .into_iter()
            .filter(|user| {
                member(user, attribute)
                    .and_then(Value::as_str)
                    .is_some_and(|it| same(it, value))
            })
            .collect();
        match (matching.len(), given) {
            (0, 0) | (1, _) => Ok(matching.pop()),
            (0, given) => Err(self.http.error(
                ErrorKind::Bug,
                format!("the server gave {given} users for a filter on `{attribute}` and none matches: it does not filter"),
            )),
            (many, _) => Err(self.http.error(
                ErrorKind::Conflict,
                format!("{many} users have the same `{attribute}`; a person must decide which is the right one"),
            )),
        }
    }

    pub(super) async fn user_owned_by(&self, owner: &str) -> Result<Option<Value>, Error> {
        self.user_where("externalId", owner, |found, wanted| found == wanted)
            .await
    }

    pub(super) async fn user_named(&self, name: &str) -> Result<Option<Value>, Error> {
        // RFC 7643, 4.1.1: userName is case-insensitive, so `Ada` holds the name `ada`.
        self.user_where("userName", name, |found, wanted| {
            found.to_lowercase() == wanted.to_lowercase()
        })
        .await
    }

    /// The account as Tenure sees it, without entitlements unless the server sent them along.
    pub(super) fn account_of(&self, user: &Value) -> Result<Account, Error> {
        let text = |name: &str| {
            member(user, name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let (Some(id), Some(name)) = (id_of(user), text("userName")) else {
            return Err(self.http.error(
                ErrorKind::Bug,
                "the server sent a user without `id` or `userName`",
            ));
        };
        Ok(Account {
            id: NativeId::new(id),
            name,
            enabled: member(user, "active").and_then(Value::as_bool),
            owner: text("externalId"),
            attributes: flatten(user),
            entitlements: None,
            version: version_of(user),
        })
    }

    /// The account with its entitlements.
    pub(super) async fn account_with_entitlements(&self, user: &Value) -> Result<Account, Error> {
        let mut account = self.account_of(user)?;
        account.entitlements = Some(self.held_by(user).await?);
        Ok(account)
    }

    /// One page of a listing.
    pub(super) async fn page(
        &self,
        kind: &str,
        progress: Progress,
        page_size: u32,
        shape: Option<(&str, &str)>,
    ) -> Result<Judged, Error> {
        let (start, count) = (
            progress.start_index().to_string(),
            progress.count(page_size).to_string(),
        );
        let mut query = vec![("startIndex", start.as_str()), ("count", count.as_str())];
        query.extend(shape);
        let path = [kind];
        let request = Request {
            query: &query,
            ..Request::new(Method::GET, &path)
        };
        let answer = self.http.send(request).await.map_err(Failure::of_read)?;
        progress.judge(&answer.body).map_err(|why| {
            self.http
                .error(ErrorKind::Bug, format!("GET /{kind} answered with {why}"))
        })
    }

    pub(super) fn no_account(&self, account: &NativeId) -> Error {
        self.http.error(
            ErrorKind::NotFound,
            format!("no user has the id `{}`", account.as_str().escape_debug()),
        )
    }

    /// Parses and checks names before anything is sent.
    pub(super) fn paths<'a>(
        &self,
        attributes: &'a Attributes,
    ) -> Result<Vec<(Path, &'a Value)>, Error> {
        attributes
            .iter()
            .map(|(name, value)| {
                let path = Path::parse(name, &self.extra_schemas)
                    .map_err(|why| self.http.error(ErrorKind::Invalid, why))?;
                Ok((path, value))
            })
            .collect()
    }

    /// One search for the owner, then one POST: a server keeps `userName` unique, but not `externalId`.
    pub(super) async fn create(&self, new: &NewAccount) -> Result<Outcome, Error> {
        if new.name.is_empty() || new.owner.is_empty() {
            return Err(self.http.error(
                ErrorKind::Invalid,
                "an account needs a name and an owner key",
            ));
        }
        let body = self.new_user(new)?;
        if let Some(user) = self.user_owned_by(&new.owner).await? {
            return self.already_created(&user);
        }
        let request = Request {
            body: Some(&body),
            secret: new.password.as_ref(),
            ..Request::new(Method::POST, &["Users"])
        };
        let failure = match self.http.send(request).await {
            Ok(answer) => return Ok(created(new, &answer)),
            Err(failure) => failure,
        };
        if !failure.is_taken() {
            return failure.of_change();
        }
        // Either our own earlier request got through meanwhile, or the name is somebody else's.
        if let Some(user) = self.user_owned_by(&new.owner).await? {
            return self.already_created(&user);
        }
        let said = failure.of_read();
        let holder = self.user_named(&new.name).await?;
        let held = match holder
            .as_ref()
            .map(|user| member(user, "externalId").and_then(Value::as_str))
        {
            Some(Some(owner)) => format!("the name `{}` belongs to the owner `{owner}`", new.name),
            Some(None) => format!("the name `{}` belongs to a user without an owner", new.name),
            None => format!("the server refuses `{}` as not unique", new.name),
        };
        Err(self.http.error(ErrorKind::Conflict, held).with_source(said))
    }

    fn already_created(&self, user: &Value) -> Result<Outcome, Error> {
        let account = self.account_of(user)?;
        Ok(Outcome::AlreadySo(Receipt {
            account: Some(account.id),
            name: Some(account.name),
            ..Receipt::default()
        }))
    }

    fn new_user(&self, new: &NewAccount) -> Result<Value, Error> {
        let mut user = Map::new();
        let mut schemas = vec![Value::from(USER_SCHEMA)];
        user.insert("userName".to_owned(), Value::from(new.name.as_str()));
        user.insert("externalId".to_owned(), Value::from(new.owner.as_str()));
        user.insert("active".to_owned(), Value::from(new.enabled));
        for (path, value) in self.paths(&new.attributes)? {
            if path.is_user_name() && value.as_str() != Some(&new.name) {
                return Err(self.http.error(
                    ErrorKind::Invalid,
                    "`userName` differs from the account's name",
                ));
            }
            if let Some(schema) = path.schema().filter(|_| !value.is_null()).map(Value::from)
                && !schemas.contains(&schema)
            {
                schemas.push(schema);
            }
            path.write(&mut user, value);
        }
        user.insert("schemas".to_owned(), Value::Array(schemas));
        if let Some(password) = &new.password {
            user.insert("password".to_owned(), Value::from(password.expose_secret()));
        }
        Ok(Value::Object(user))
    }

    pub(super) async fn update(
        &self,
        account: &NativeId,
        attributes: &Attributes,
    ) -> Result<Outcome, Error> {
        let paths = self.paths(attributes)?;
        self.change(account, attributes, |user| {
            paths
                .iter()
                .filter_map(|(path, value)| path.patch(user, value))
                .collect()
        })
        .await
    }

    pub(super) async fn set_active(
        &self,
        account: &NativeId,
        active: bool,
    ) -> Result<Outcome, Error> {
        let wanted = Attributes::from([("active".to_owned(), Value::from(active))]);
        self.change(account, &wanted, |user| {
            if member(user, "active").and_then(Value::as_bool) == Some(active) {
                return Vec::new();
            }
            vec![json!({ "op": "replace", "path": "active", "value": active })]
        })
        .await
    }

    /// Reads, and sends what differs on the condition that nobody changed the user in between.
    pub(super) async fn change(
        &self,
        account: &NativeId,
        wanted: &Attributes,
        differences: impl Fn(&Value) -> Vec<Value> + Send,
    ) -> Result<Outcome, Error> {
        let Some(user) = self.user(account).await? else {
            return Err(self.no_account(account));
        };
        let receipt = |before: &Value| Receipt {
            account: Some(account.clone()),
            name: member(before, "userName")
                .and_then(Value::as_str)
                .map(str::to_owned),
            before: Some(self.state(before, wanted)),
            after: Some(json!(wanted)),
            request_id: None,
            credential: None,
        };
        let operations = differences(&user.body);
        if operations.is_empty() {
            return Ok(Outcome::AlreadySo(receipt(&user.body)));
        }
        let patch = json!({ "schemas": [PATCH_SCHEMA], "Operations": operations });
        let version = version_of(&user.body).or(user.etag);
        let path = ["Users", account.as_str()];
        let request = Request {
            body: Some(&patch),
            if_match: version.as_deref(),
            ..Request::new(Method::PATCH, &path)
        };
        match self.http.send(request).await {
            Ok(answer) => Ok(Outcome::Done(Receipt {
                request_id: answer.request_id,
                ..receipt(&user.body)
            })),
            Err(failure) if failure.status() == Some(412) => {
                // Somebody was faster. Perhaps with the same wish.
                match self.user(account).await? {
                    Some(now) if differences(&now.body).is_empty() => {
                        Ok(Outcome::AlreadySo(receipt(&now.body)))
                    }
                    _ => failure.of_change(),
                }
            }
            Err(failure) => failure.of_change(),
        }
    }

    /// What `user` holds under the names in `wanted`.
    fn state(&self, user: &Value, wanted: &Attributes) -> Value {
        let read = |name: &String| {
            if name == "active" {
                return member(user, name).cloned();
            }
            Path::parse(name, &self.extra_schemas)
                .ok()?
                .read(user)
                .cloned()
        };
        Value::Object(
            wanted
                .keys()
                .map(|name| (name.clone(), read(name).unwrap_or(Value::Null)))
                .collect(),
        )
    }

    /// Whether `user` holds all of `wanted`, and what it holds.
    pub(super) fn compare(
        &self,
        user: &Value,
        wanted: &Attributes,
    ) -> Result<(bool, Value), Error> {
        let holds = self
            .paths(wanted)?
            .iter()
            .all(|(path, value)| path.holds(user, value));
        Ok((holds, self.state(user, wanted)))
    }

    pub(super) async fn set_password(
        &self,
        account: &NativeId,
        password: &secrecy::SecretString,
    ) -> Result<Outcome, Error> {
        let patch = json!({
            "schemas": [PATCH_SCHEMA],
            "Operations": [{ "op": "replace", "path": "password", "value": password.expose_secret() }],
        });
        let path = ["Users", account.as_str()];
        let request = Request {
            body: Some(&patch),
            secret: Some(password),
            ..Request::new(Method::PATCH, &path)
        };
        match self.http.send(request).await {
            Ok(answer) => Ok(Outcome::Done(Receipt {
                account: Some(account.clone()),
                request_id: answer.request_id,
                ..Receipt::default()
            })),
            Err(failure) => failure.of_change(),
        }
    }

    pub(super) async fn delete(&self, account: &NativeId) -> Result<Outcome, Error> {
        let path = ["Users", account.as_str()];
        let receipt = Receipt {
            account: Some(account.clone()),
            ..Receipt::default()
        };
        match self.http.send(Request::new(Method::DELETE, &path)).await {
            Ok(answer) => Ok(Outcome::Done(Receipt {
                request_id: answer.request_id,
                ..receipt
            })),
            Err(Failure::Refused(refusal)) if matches!(refusal.status, 404 | 410) => {
                if !refusal.is_scim {
                    self.confirm_absent("Users", account.as_str(), &refusal.message)
                        .await?;
                }
                Ok(Outcome::AlreadySo(receipt))
            }
            Err(failure) => failure.of_change(),
        }
    }
}

/// The receipt of a create; without the new id it is not known which user was made.
fn created(new: &NewAccount, answer: &Answer) -> Outcome {
    let Some(id) = id_of(&answer.body) else {
        return Outcome::Ambiguous {
            reason: "POST /Users succeeded and its answer has no `id`".to_owned(),
        };
    };
    let name = member(&answer.body, "userName")
        .and_then(Value::as_str)
        .unwrap_or(&new.name);
    Outcome::Done(Receipt {
        account: Some(NativeId::new(id)),
        name: Some(name.to_owned()),
        before: None,
        after: Some(json!({ "active": new.enabled, "attributes": new.attributes })),
        request_id: answer.request_id.clone(),
        credential: None,
    })
}

fn version_of(user: &Value) -> Option<String> {
    member(member(user, "meta")?, "version")
        .and_then(Value::as_str)
        .map(str::to_owned)
}
