//! Objects of a cluster as far as they matter here: their names, versions and notes, and what a Secret keeps.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::Kubernetes;
use super::http::{Call, Failure};
use crate::connector::{Error, ErrorKind};

/// How many objects one page of a listing has.
const PAGE_SIZE: usize = 500;
/// How many pages one listing may have.
const PAGES_MAX: usize = 1_000;
/// How often a listing is begun again that the cluster forgot half-way.
const LISTINGS_MAX: usize = 3;

/// An object as it was read, with all that is in it. It is never shown: it may be a Secret.
#[derive(Clone)]
pub(super) struct Kept(Value);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.name())
    }
}

impl Kept {
    fn meta(&self, name: &str) -> &str {
        let value = self.0.get("metadata").and_then(|meta| meta.get(name));
        value.and_then(Value::as_str).unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.meta("name")
    }

    pub fn uid(&self) -> &str {
        self.meta("uid")
    }

    /// The state of the object that was read: a change made on top of another one is refused.
    pub fn resource_version(&self) -> &str {
        self.meta("resourceVersion")
    }

    pub fn made_at(&self) -> &str {
        self.meta("creationTimestamp")
    }

    /// Whether it goes as soon as whoever holds it lets it.
    pub fn is_going(&self) -> bool {
        !self.meta("deletionTimestamp").is_empty()
    }

    pub fn note(&self, name: &str) -> Option<&str> {
        let meta = self.0.get("metadata")?;
        meta.get("annotations")?.get(name)?.as_str()
    }

    pub fn is_immutable(&self) -> bool {
        self.0.get("immutable") == Some(&Value::Bool(true))
    }

    /// What a Secret keeps, encoded as it was read.
    pub fn data(&self) -> Map<String, Value> {
        let data = self.0.get("data").and_then(Value::as_object);
        data.cloned().unwrap_or_default()
    }

    /// What a Secret keeps under a key; `None` if there is nothing, or no text.
    pub fn text(&self, key: &str) -> Option<SecretString> {
        let encoded = self.0.get("data")?.get(key)?.as_str()?;
        let bytes = STANDARD.decode(encoded).ok()?;
        String::from_utf8(bytes).ok().map(SecretString::from)
    }

    /// The same object with other data and notes, to be put in its place.
    pub fn changed(&self, data: Map<String, Value>, notes: &[(&str, &str)]) -> Value {
        let mut value = self.0.clone();
        if let Some(object) = value.as_object_mut() {
            object.insert("data".to_owned(), Value::Object(data));
            object.remove("stringData");
        }
        let meta = value.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(meta) = meta {
            // The server keeps them, and takes them from nobody.
            meta.remove("managedFields");
            let kept = meta.entry("annotations").or_insert_with(|| json!({}));
            if let Some(kept) = kept.as_object_mut() {
                for (name, text) in notes {
                    kept.insert((*name).to_owned(), json!(text));
                }
            }
        }
        value
    }
}

/// Parts as a Secret keeps them, each under the key that the bundle gives it.
pub(super) fn encoded(
    keys: &BTreeMap<String, String>,
    parts: &BTreeMap<String, SecretString>,
) -> Map<String, Value> {
    let pairs = parts.iter().filter_map(|(name, part)| {
        let key = keys.get(name)?;
        let text = STANDARD.encode(part.expose_secret().as_bytes());
        Some((key.clone(), Value::String(text)))
    });
    pairs.collect()
}

/// A moment that we noted.
pub(super) fn moment(text: Option<&str>) -> Option<DateTime<Utc>> {
    let read = DateTime::parse_from_rfc3339(text?).ok()?;
    Some(read.with_timezone(&Utc))
}

/// A page of a listing.
pub(super) struct Names {
    pub items: Vec<Kept>,
    pub next: Option<String>,
}

impl Kubernetes {
    fn lies(&self, what: &str) -> Error {
        self.error(
            ErrorKind::Bug,
            format!("{what}, and the answer is about something else; is `server` right?"),
        )
    }

    /// What was answered must be the object that it should be.
    pub(super) fn expected(&self, answer: Value, kind: &str, name: &str) -> Result<Kept, Error> {
        let is_kind = answer.get("kind").and_then(Value::as_str) == Some(kind);
        let kept = Kept(answer);
        if !is_kind
            || kept.name() != name
            || kept.resource_version().is_empty()
            || kept.uid().is_empty()
        {
            return Err(self.lies(&format!("{kind} `{name}` was asked for")));
        }
        Ok(kept)
    }

    /// An object of a namespace; `None` when the cluster says that it is not there.
    pub(super) async fn read(
        &self,
        namespace: &str,
        plural: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<Kept>, Error> {
        let path = ["api", "v1", "namespaces", namespace, plural, name];
        match self.api.ask(Call::new(Method::GET, &path)).await {
            Ok(answer) => self.expected(answer, kind, name).map(Some),
            Err(failure) if failure.is_absence_of(name) => Ok(None),
            Err(failure) => Err(failure.of_read()),
        }
    }

    pub(super) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Kept>, Error> {
        self.read(namespace, "secrets", "Secret", name).await
    }

    /// Makes a Secret.
    pub(super) async fn make(&self, namespace: &str, secret: Value) -> Result<Kept, Failure> {
        let name = secret.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        let path = ["api", "v1", "namespaces", namespace, "secrets"];
        let answer = self
            .api
            .ask(Call::new(Method::POST, &path).with_secret(secret))
            .await?;
        self.expected(answer, "Secret", &name)
            .map_err(Failure::Lost)
    }

    /// Removes exactly the Secret that was read, and no other of that name.
    pub(super) async fn remove(&self, namespace: &str, secret: &Kept) -> Result<(), Failure> {
        let path = [
            "api",
            "v1",
            "namespaces",
            namespace,
            "secrets",
            secret.name(),
        ];
        let conditions = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": secret.uid() },
        });
        let call = Call::new(Method::DELETE, &path).with(conditions);
        self.api.ask(call).await.map(drop)
    }

    /// One page of names, from after where the page before ended.
    pub(super) async fn names(
        &self,
        namespace: &str,
        plural: &str,
        label: Option<&str>,
        after: Option<&str>,
    ) -> Result<Names, Failure> {
        let path = ["api", "v1", "namespaces", namespace, plural];
        let mut call = Call::new(Method::GET, &path);
        call.names_only = true;
        call.query.push(("limit", PAGE_SIZE.to_string()));
        if let Some(label) = label {
            call.query.push(("labelSelector", label.to_owned()));
        }
        if let Some(after) = after {
            call.query.push(("continue", after.to_owned()));
        }
        let mut answer = self.api.ask(call).await?;
        let is_list = answer
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        let next = answer.pointer("/metadata/continue").and_then(Value::as_str);
        let next = next.filter(|next| !next.is_empty()).map(str::to_owned);
        match answer.get_mut("items").map(Value::take) {
            // An empty list is `null` for programs written in Go.
            Some(Value::Null) if is_list => Ok(Names {
                items: Vec::new(),
                next,
            }),
            Some(Value::Array(items)) if is_list => Ok(Names {
                items: items.into_iter().map(Kept).collect(),
                next,
            }),
            _ => Err(Failure::Lost(
                self.lies(&format!("a list of {plural} was asked for")),
            )),
        }
    }

    /// All Secrets with a label. A listing that the cluster forgot half-way begins again.
    pub(super) async fn labelled(
        &self,
        namespace: &str,
        label: (&str, &str),
    ) -> Result<Vec<Kept>, Error> {
        let selector = format!("{}={}", label.0, label.1);
        for _ in 0..LISTINGS_MAX {
            if let Some(all) = self.whole(namespace, &selector).await? {
                return Ok(all);
            }
        }
        Err(self.error(
            ErrorKind::Transient,
            format!(
                "a listing of Secrets in `{namespace}` was forgotten half-way {LISTINGS_MAX} times"
            ),
        ))
    }

    /// `None` when it was forgotten half-way.
    async fn whole(&self, namespace: &str, selector: &str) -> Result<Option<Vec<Kept>>, Error> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = self
                .names(namespace, "secrets", Some(selector), after.as_deref())
                .await;
            match page {
                Ok(page) => {
                    all.extend(page.items);
                    after = page.next;
                }
                Err(failure) if failure.is("Expired") => return Ok(None),
                Err(failure) => return Err(failure.of_read()),
            }
            if after.is_none() {
                return Ok(Some(all));
            }
        }
        Err(self.error(
            ErrorKind::Bug,
            format!("a listing of Secrets in `{namespace}` comes to no end"),
        ))
    }
}
