//! An API server as far as this connector speaks to one: its objects, versions, refusals and listings are of the shapes that
//! Kubernetes answers. A test can step in between and have it lose answers, lie, or do something in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub token: Option<String>,
    pub accept: String,
    pub body: Value,
}

impl Asked {
    /// As `POST secrets`, `PUT secrets/app`, `POST serviceaccounts/web/token`.
    pub fn short(&self) -> String {
        let path = match self.path.split_once("/namespaces/") {
            Some((_, rest)) => match rest.split_once('/') {
                Some((_, below)) => below.to_owned(),
                None => format!("namespaces/{rest}"),
            },
            None => self.path.rsplit('/').next().unwrap().to_owned(),
        };
        format!("{} {path}", self.method)
    }

    /// As `create secrets`, `get serviceaccounts`.
    fn right(&self) -> String {
        let short = self.short();
        let (method, path) = short.split_once(' ').unwrap();
        let (plural, name) = path.split_once('/').unwrap_or((path, ""));
        let verb = match method {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        format!("{verb} {plural}")
    }
}

/// What happens to a request instead of what should.
#[derive(Debug, Clone)]
pub(super) enum Instead {
    Answer(u16, Value),
    Raw(String),
    /// Nothing is done and nothing answered, for ever.
    Hang,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done, and half of the answer comes.
    Half,
}

type Between = Box<dyn FnMut(&Asked, &mut State) -> Option<Instead> + Send>;

#[derive(Default)]
pub(super) struct State {
    pub secrets: BTreeMap<(String, String), Value>,
    pub accounts: BTreeMap<(String, String), Value>,
    /// By token: its claims, and whether its time is over.
    pub tokens: BTreeMap<String, (Value, bool)>,
    /// What nobody may do, as [`Asked::right`] says it.
    pub denied: BTreeSet<String>,
    /// The most Secrets a namespace may have.
    pub quota: Option<usize>,
    /// Namespaces that are not there; all others are.
    pub nowhere: BTreeSet<String>,
    /// The most objects on one page.
    pub page_size: usize,
    /// Listings whose next page will be asked for in vain.
    pub forgets: usize,
    pub asked: Vec<Asked>,
    version: u64,
    listings: BTreeMap<String, Vec<Value>>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    pub url: String,
    state: Arc<Mutex<State>>,
    between: Arc<Mutex<Option<Between>>>,
}

/// What the server believes to be Tenure.
pub(super) const TOKEN: &str = "the-token-of-tenure";

pub(super) fn status(code: u16, reason: &str, message: &str, details: Value) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code,
    });
    (code, body)
}

fn absent(plural: &str, name: &str) -> (u16, Value) {
    let message = format!("{plural} \"{name}\" not found");
    status(
        404,
        "NotFound",
        &message,
        json!({ "name": name, "kind": plural }),
    )
}

fn conflict(name: &str, why: &str) -> (u16, Value) {
    let message = format!("Operation cannot be fulfilled on secrets \"{name}\": {why}");
    status(
        409,
        "Conflict",
        &message,
        json!({ "name": name, "kind": "secrets" }),
    )
}

/// The object of that name is another one than the one that was meant.
fn other_uid(name: &str) -> (u16, Value) {
    let message = format!(
        "Operation cannot be fulfilled on Secret \"{name}\": the UID in the precondition does not match the UID in record. The \
         object might have been deleted and then recreated"
    );
    let details = json!({ "name": name, "kind": "Secret" });
    status(409, "Conflict", &message, details)
}

fn invalid(name: &str, field: &str, why: &str) -> (u16, Value) {
    let message = format!("Secret \"{name}\" is invalid: {field}: {why}");
    let causes = json!([{ "reason": "FieldValueForbidden", "message": why, "field": field }]);
    status(
        422,
        "Invalid",
        &message,
        json!({ "name": name, "kind": "Secret", "causes": causes }),
    )
}

impl Cluster {
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    pub async fn with_tls(acceptor: TlsAcceptor) -> Self {
        Self::serve(Some(acceptor)).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = State {
            page_size: usize::MAX,
            ..State::default()
        };
        let cluster = Self {
            url: format!("{scheme}://127.0.0.1:{port}"),
            state: Arc::new(Mutex::new(state)),
            between: Arc::default(),
        };
        let server = cluster.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    let _ = match tls {
                        None => server.talk(stream, false).await,
                        // Whoever has a certificate of ours is let in with it.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => server.talk(stream, true).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        cluster
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// From now on `step_in` sees each request first.
    pub fn between(
        &self,
        step_in: impl FnMut(&Asked, &mut State) -> Option<Instead> + Send + 'static,
    ) {
        *self.between.lock().unwrap() = Some(Box::new(step_in));
    }

    pub fn alone(&self) {
        *self.between.lock().unwrap() = None;
    }

    /// The next request that begins so goes otherwise; those after it as they should.
    pub fn once(&self, begins: &str, instead: Instead) {
        let begins = begins.to_owned();
        let mut instead = Some(instead);
        self.between(move |asked, _| {
            if asked.short().starts_with(&begins) {
                instead.take()
            } else {
                None
            }
        });
    }

    pub fn asked(&self, begins: &str) -> usize {
        self.with(|state| {
            let asked = state.asked.iter();
            asked.filter(|it| it.short().starts_with(begins)).count()
        })
    }

    pub fn account(&self, namespace: &str, name: &str) {
        self.with(|state| {
            let account = json!({
                "kind": "ServiceAccount", "apiVersion": "v1",
                "metadata": { "name": name, "namespace": namespace },
            });
            let account = state.stamped(account);
            state
                .accounts
                .insert((namespace.to_owned(), name.to_owned()), account);
        });
    }

    pub fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        self.with(|state| state.secrets.get(&key).cloned())
    }

    /// What a program reads that has the Secret mounted, by key.
    pub fn read(&self, namespace: &str, name: &str) -> BTreeMap<String, String> {
        let secret = self.secret(namespace, name).unwrap();
        let data = secret["data"].as_object().unwrap();
        data.iter()
            .map(|(key, text)| {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text.as_str().unwrap())
                    .unwrap();
                (key.clone(), String::from_utf8(bytes).unwrap())
            })
            .collect()
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        is_known: bool,
    ) -> std::io::Result<()> {
        loop {
            let Some(asked) = read(&mut stream).await? else {
                return Ok(());
            };
            let instead = {
                let mut state = self.state.lock().unwrap();
                state.asked.push(asked.clone());
                let mut between = self.between.lock().unwrap();
                between
                    .as_mut()
                    .and_then(|between| between(&asked, &mut state))
            };
            let answer = || {
                let mut state = self.state.lock().unwrap();
                state.answer(&asked, is_known)
            };
            match instead {
                None => {
                    let (code, body) = answer();
                    stream.write_all(text(code, &body).as_bytes()).await?;
                }
                Some(Instead::Answer(code, body)) => {
                    stream.write_all(text(code, &body).as_bytes()).await?;
                }
                Some(Instead::Raw(text)) => {
                    stream.write_all(text.as_bytes()).await?;
                    return stream.shutdown().await;
                }
                Some(Instead::Hang) => std::future::pending().await,
                Some(Instead::Lost) => {
                    answer();
                    return stream.shutdown().await;
                }
                Some(Instead::Half) => {
                    let (code, body) = answer();
                    let whole = text(code, &body);
                    let half = &whole.as_bytes()[..whole.len() - body.to_string().len() / 2];
                    stream.write_all(half).await?;
                    return stream.shutdown().await;
                }
            }
        }
    }
}

fn text(code: u16, body: &Value) -> String {
    let body = body.to_string();
    let retry = if code == 429 {
        "retry-after: 7\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\n{retry}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let mut line = head.split(' ');
    let method = line.next().unwrap().to_owned();
    let url = reqwest::Url::parse(&format!("http://x{}", line.next().unwrap())).unwrap();
    Ok(Some(Asked {
        method,
        path: url.path().to_owned(),
        query: url
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
        token: header("authorization")
            .and_then(|text| text.strip_prefix("Bearer ").map(str::to_owned)),
        accept: header("accept").unwrap_or_default(),
        body: serde_json::from_slice(&bytes[head_end..head_end + length]).unwrap_or_default(),
    }))
}

impl State {
    /// A new object as the server keeps it.
    fn stamped(&mut self, mut object: Value) -> Value {
        self.version += 1;
        let made = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let made = made + TimeDelta::seconds(i64::try_from(self.version).unwrap());
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("uid".to_owned(), json!(Uuid::new_v4().to_string()));
        meta.insert(
            "creationTimestamp".to_owned(),
            json!(made.format("%Y-%m-%dT%H:%M:%SZ").to_string()),
        );
        self.touched(object)
    }

    pub fn touched(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object
    }

    fn answer(&mut self, asked: &Asked, is_known: bool) -> (u16, Value) {
        if !is_known && asked.token.as_deref() != Some(TOKEN) {
            return status(401, "Unauthorized", "Unauthorized", json!({}));
        }
        let right = asked.right();
        if self.denied.contains(&right) {
            let (verb, plural) = right.split_once(' ').unwrap();
            let message = format!(
                "{plural} is forbidden: User \"tenure\" cannot {verb} resource \"{plural}\" in API group \"\" in the namespace \"shop\""
            );
            return status(403, "Forbidden", &message, json!({ "kind": plural }));
        }
        let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("GET", ["api", "v1", "namespaces", namespace]) => {
                if self.nowhere.contains(*namespace) {
                    return absent("namespaces", namespace);
                }
                let meta = json!({ "name": namespace, "uid": "1", "resourceVersion": "1" });
                (200, json!({ "kind": "Namespace", "metadata": meta }))
            }
            ("GET", ["api", "v1", "namespaces", namespace, plural]) => {
                self.list(asked, namespace, plural)
            }
            ("GET", ["api", "v1", "namespaces", namespace, plural, name]) => {
                let key = ((*namespace).to_owned(), (*name).to_owned());
                let found = match *plural {
                    "secrets" => self.secrets.get(&key),
                    _ => self.accounts.get(&key),
                };
                match found {
                    Some(found) => (200, found.clone()),
                    None => absent(plural, name),
                }
            }
            ("POST", ["api", "v1", "namespaces", namespace, "secrets"]) => {
                self.create(asked, namespace)
            }
            ("PUT", ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                self.replace(asked, namespace, name)
            }
            ("PATCH", ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                self.patch(asked, namespace, name)
            }
            ("DELETE", ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                self.delete(asked, namespace, name)
            }
            (
                "POST",
                [
                    "api",
                    "v1",
                    "namespaces",
                    namespace,
                    "serviceaccounts",
                    name,
                    "token",
                ],
            ) => self.token(asked, namespace, name),
            ("POST", ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => self.review(asked),
            (
                "POST",
                [
                    "apis",
                    "authorization.k8s.io",
                    "v1",
                    "selfsubjectaccessreviews",
                ],
            ) => {
                let of = &asked.body["spec"]["resourceAttributes"];
                let right = format!(
                    "{} {}",
                    of["verb"].as_str().unwrap(),
                    of["resource"].as_str().unwrap()
                );
                let allowed = !self.denied.contains(&right);
                (
                    201,
                    json!({ "kind": "SelfSubjectAccessReview", "status": { "allowed": allowed } }),
                )
            }
            _ => status(
                404,
                "NotFound",
                "the server could not find the requested resource",
                json!({}),
            ),
        }
    }

    fn list(&mut self, asked: &Asked, namespace: &str, plural: &str) -> (u16, Value) {
        let limit: usize = asked
            .query
            .get("limit")
            .map_or(usize::MAX, |text| text.parse().unwrap());
        let mut left: Vec<Value> = if let Some(after) = asked.query.get("continue") {
            let listing = self.listings.remove(after);
            match listing {
                Some(left) if self.forgets == 0 => left,
                _ => {
                    self.forgets = self.forgets.saturating_sub(1);
                    let message = "The provided continue parameter is too old to display a consistent list result. You can \
                                   start a new list without the continue parameter.";
                    return status(410, "Expired", message, json!({}));
                }
            }
        } else {
            let label = asked.query.get("labelSelector").map(|text| {
                let (name, value) = text.split_once('=').unwrap();
                (name.to_owned(), value.to_owned())
            });
            let objects = match plural {
                "secrets" => &self.secrets,
                _ => &self.accounts,
            };
            let of_namespace = objects.iter().filter(|((it, _), _)| it == namespace);
            of_namespace
                .map(|(_, object)| object.clone())
                .filter(|object| {
                    label
                        .as_ref()
                        .is_none_or(|(name, value)| object["metadata"]["labels"][name] == **value)
                })
                .collect()
        };
        let rest = left.split_off(left.len().min(limit).min(self.page_size));
        let after = if rest.is_empty() {
            String::new()
        } else {
            let after = Uuid::new_v4().to_string();
            self.listings.insert(after.clone(), rest);
            after
        };
        let names_only = asked.accept.contains("PartialObjectMetadataList");
        for object in &mut left {
            let object = object.as_object_mut().unwrap();
            if names_only {
                object.retain(|name, _| name == "metadata");
            } else {
                object.remove("kind");
            }
        }
        let kind = if names_only {
            "PartialObjectMetadataList"
        } else {
            "SecretList"
        };
        let meta = json!({ "resourceVersion": self.version.to_string(), "continue": after });
        (
            200,
            json!({ "kind": kind, "metadata": meta, "items": left }),
        )
    }

    fn create(&mut self, asked: &Asked, namespace: &str) -> (u16, Value) {
        let name = asked.body["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (namespace.to_owned(), name.clone());
        // Reads there find nothing, as anywhere.
        if self.nowhere.contains(namespace) {
            return absent("namespaces", namespace);
        }
        if self.secrets.contains_key(&key) {
            let message = format!("secrets \"{name}\" already exists");
            let details = json!({ "name": name, "kind": "secrets" });
            return status(409, "AlreadyExists", &message, details);
        }
        let there = self.secrets.keys().filter(|(it, _)| it == namespace);
        if self.quota.is_some_and(|quota| there.count() >= quota) {
            let message = format!(
                "secrets \"{name}\" is forbidden: exceeded quota: few, requested: secrets=1, used: secrets=9, limited: secrets=9"
            );
            let details = json!({ "name": name, "kind": "secrets" });
            return status(403, "Forbidden", &message, details);
        }
        let made = self.stamped(asked.body.clone());
        self.secrets.insert(key, made.clone());
        (201, made)
    }

    fn replace(&mut self, asked: &Asked, namespace: &str, name: &str) -> (u16, Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(old) = self.secrets.get(&key).cloned() else {
            return absent("secrets", name);
        };
        let (meta, new) = (&old["metadata"], &asked.body["metadata"]);
        if new["resourceVersion"] != meta["resourceVersion"] || new["uid"] != meta["uid"] {
            return conflict(
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            );
        }
        if old["immutable"] == true && asked.body["data"] != old["data"] {
            return invalid(
                name,
                "data",
                "Forbidden: field is immutable when `immutable` is set",
            );
        }
        if asked.body["type"] != old["type"] {
            return invalid(
                name,
                "type",
                "Invalid value: \"Opaque\": field is immutable",
            );
        }
        let new = self.touched(asked.body.clone());
        self.secrets.insert(key, new.clone());
        (200, new)
    }

    fn patch(&mut self, asked: &Asked, namespace: &str, name: &str) -> (u16, Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(mut secret) = self.secrets.get(&key).cloned() else {
            return absent("secrets", name);
        };
        let uid = &asked.body["metadata"]["uid"];
        if uid.is_string() && *uid != secret["metadata"]["uid"] {
            return invalid(name, "metadata.uid", "field is immutable");
        }
        let notes = asked.body["metadata"]["annotations"].as_object().unwrap();
        for (note, text) in notes {
            secret["metadata"]["annotations"][note] = text.clone();
        }
        let secret = self.touched(secret);
        self.secrets.insert(key, secret.clone());
        (200, secret)
    }

    fn delete(&mut self, asked: &Asked, namespace: &str, name: &str) -> (u16, Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(secret) = self.secrets.get(&key) else {
            return absent("secrets", name);
        };
        if asked.body["preconditions"]["uid"] != secret["metadata"]["uid"] {
            return other_uid(name);
        }
        let uid = secret["metadata"]["uid"].clone();
        self.secrets.remove(&key);
        self.version += 1;
        let details = json!({ "name": name, "kind": "secrets", "uid": uid });
        (
            200,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "details": details }),
        )
    }

    fn token(&mut self, asked: &Asked, namespace: &str, name: &str) -> (u16, Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(account) = self.accounts.get(&key) else {
            return absent("serviceaccounts", name);
        };
        let spec = &asked.body["spec"];
        let lifetime_s = spec["expirationSeconds"].as_i64().unwrap();
        if lifetime_s < 600 {
            let why = format!(
                "Invalid value: {lifetime_s}: may not specify a duration less than 10 minutes"
            );
            let field = "spec.expirationSeconds";
            let causes = json!([{ "reason": "FieldValueInvalid", "message": why, "field": field }]);
            let of = "TokenRequest.authentication.k8s.io";
            return status(
                422,
                "Invalid",
                &format!("{of} \"\" is invalid: {field}: {why}"),
                json!({ "group": "authentication.k8s.io", "kind": "TokenRequest", "causes": causes }),
            );
        }
        let bound = &spec["boundObjectRef"];
        let secret = (
            namespace.to_owned(),
            bound["name"].as_str().unwrap().to_owned(),
        );
        match self.secrets.get(&secret) {
            None => return absent("secrets", &secret.1),
            Some(found) if found["metadata"]["uid"] != bound["uid"] => {
                return other_uid(&secret.1);
            }
            Some(_) => {}
        }
        let audiences = match spec["audiences"].as_array() {
            Some(list) if !list.is_empty() => json!(list),
            _ => json!(["https://kubernetes.default.svc"]),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the server has a clock of its own"
        )]
        let ends = Utc::now() + TimeDelta::seconds(lifetime_s);
        let claims = json!({
            "iss": "https://kubernetes.default.svc", "aud": audiences, "exp": ends.timestamp(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {
                "namespace": namespace,
                "secret": { "name": bound["name"], "uid": bound["uid"] },
                "serviceaccount": { "name": name, "uid": account["metadata"]["uid"] },
            },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!(
            "{}.{}.{}",
            part(&json!({ "alg": "RS256" })),
            part(&claims),
            URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes())
        );
        self.tokens.insert(token.clone(), (claims, false));
        let ends = ends.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = json!({ "token": token, "expirationTimestamp": ends });
        (
            201,
            json!({ "kind": "TokenRequest", "spec": spec, "status": status }),
        )
    }

    fn review(&mut self, asked: &Asked) -> (u16, Value) {
        let spec = &asked.body["spec"];
        let token = spec["token"].as_str().unwrap();
        let refused = |why: &str| {
            let error = if why.is_empty() {
                "invalid bearer token".to_owned()
            } else {
                format!("[invalid bearer token, {why}]")
            };
            let status = json!({ "user": {}, "error": error });
            (201, json!({ "kind": "TokenReview", "status": status }))
        };
        let Some((claims, is_over)) = self.tokens.get(token) else {
            // What is none of theirs nobody looks into.
            return refused(if token.contains('.') {
                "go-jose/go-jose: error in cryptographic primitive"
            } else {
                ""
            });
        };
        if *is_over {
            return refused("service account token has expired");
        }
        let bound = &claims["kubernetes.io"]["secret"];
        let namespace = claims["kubernetes.io"]["namespace"].as_str().unwrap();
        let key = (
            namespace.to_owned(),
            bound["name"].as_str().unwrap().to_owned(),
        );
        let is_there = self
            .secrets
            .get(&key)
            .is_some_and(|secret| secret["metadata"]["uid"] == bound["uid"]);
        if !is_there {
            return refused("service account token has been invalidated");
        }
        let aud = claims["aud"].as_array().unwrap();
        let wanted = spec["audiences"].as_array().cloned().unwrap_or_default();
        let fits = match wanted.as_slice() {
            [] => aud.contains(&json!("https://kubernetes.default.svc")),
            wanted => wanted.iter().any(|it| aud.contains(it)),
        };
        if !fits {
            return refused(
                "token audiences [\"a\"] is invalid for the target audiences [\"b\" \"c\"]",
            );
        }
        let user = json!({ "username": claims["sub"], "groups": ["system:serviceaccounts"] });
        let status = json!({ "authenticated": true, "user": user, "audiences": aud });
        (201, json!({ "kind": "TokenReview", "status": status }))
    }
}
