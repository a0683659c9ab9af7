//! Against a kube-apiserver, as the Kubernetes project builds it, on its etcd. Debian has neither, so these tests are switched
//! off unless somebody asks for them: `tests/lab/kubernetes.sh` builds and starts both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::large_futures,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};

use super::tests::{destroy, fresh, key};
use super::*;
use crate::asked::{activate, app, does, holds, id, is_already, refused, state, store};
use crate::conformance::{Fixture, run};
use crate::secret::SecretRef;

mod away;
mod place;
mod tokens;

/// How often a test looks again whether something has become so, and how long it waits in between.
const LOOKS_MAX: usize = 300;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_KUBERNETES_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "`{name}` is not set; start the server: tests/lab/kubernetes.sh start /tmp/lab-kubernetes && . /tmp/lab-kubernetes/env"
        )
    })
}

/// The one who set the cluster up, past the connector.
struct Admin(reqwest::Client);

impl Admin {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = |name: &str| std::fs::read_to_string(lab(name)).unwrap();
        let identity = format!("{}\n{}", read("ADMIN_CERTIFICATE"), read("ADMIN_KEY"));
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(read("CA").as_bytes()).unwrap()])
            .identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap())
            .build();
        Self(client.unwrap())
    }

    async fn asks(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let content_type = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = self
            .0
            .request(method, format!("{}{path}", lab("URL")))
            .header("content-type", content_type);
        let request = if body.is_null() {
            request
        } else {
            request.body(body.to_string())
        };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn does(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.asks(method.clone(), path, &body).await;
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        answer
    }
}

/// What our account is given, as the documentation says.
fn rights() -> Value {
    json!([
        {
            "apiGroups": [""], "resources": ["secrets"],
            "verbs": ["get", "list", "create", "update", "patch", "delete"],
        },
        { "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get", "list"] },
        { "apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"] },
    ])
}

/// Tenure at a cluster, in a namespace of its own.
struct Bed {
    admin: Admin,
    namespace: String,
    /// Holds our token, and what was read of Secrets.
    folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        Self::with(rights()).await
    }

    async fn with(rules: Value) -> Self {
        let admin = Admin::new();
        let namespace = format!("t-{}", &fresh()[..12]);
        let bed = Self {
            admin,
            namespace: namespace.clone(),
            folder: tempfile::tempdir().unwrap(),
        };
        let make =
            async |path: &str, object: Value| bed.admin.does(Method::POST, path, object).await;
        let meta = json!({ "metadata": { "name": namespace } });
        make("/api/v1/namespaces", meta).await;
        bed.account("tenure").await;
        let group = "rbac.authorization.k8s.io";
        let subjects = json!([
            { "kind": "ServiceAccount", "name": "tenure", "namespace": namespace },
        ]);
        let path = format!("/apis/{group}/v1/namespaces/{namespace}");
        let role = json!({ "metadata": { "name": "tenure" }, "rules": rules });
        make(&format!("{path}/roles"), role).await;
        let binding = json!({
            "metadata": { "name": "tenure" }, "subjects": subjects,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "tenure" },
        });
        make(&format!("{path}/rolebindings"), binding).await;
        // Who may ask about tokens, by a role that every cluster has.
        let binding = json!({
            "metadata": { "name": namespace }, "subjects": subjects,
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "system:auth-delegator" },
        });
        make(&format!("/apis/{group}/v1/clusterrolebindings"), binding).await;
        let path = bed.path("serviceaccounts/tenure/token");
        let token = make(&path, json!({ "spec": { "expirationSeconds": 3_600 } })).await;
        bed.log_in_with(token["status"]["token"].as_str().unwrap());
        // The API server learns of rights by and by.
        until("our rights are known", async || {
            let connector = bed.connector();
            let of_reviews = connector.may(None, OF_REVIEWS[0]).await;
            let reads = connector.credentials(&app()).await;
            of_reviews.is_ok_and(|finding| finding.good) && reads.is_ok()
        })
        .await;
        bed
    }

    fn path(&self, below: &str) -> String {
        format!("/api/v1/namespaces/{}/{below}", self.namespace)
    }

    fn log_in_with(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    }

    async fn account(&self, name: &str) {
        let account = json!({ "metadata": { "name": name } });
        let path = self.path("serviceaccounts");
        self.admin.does(Method::POST, &path, account).await;
    }

    /// As an account of ours is named.
    fn of(&self, account: &str) -> String {
        format!("{}/{account}", self.namespace)
    }

    fn settings(&self) -> Value {
        json!({
            "server": lab("URL"),
            "ca_file": lab("CA"),
            "token": format!("file:{}", self.folder.path().join("token").display()),
            "namespaces": [self.namespace],
            "secrets": { "app": {
                "namespace": self.namespace, "secret": "app-credentials",
                "parts": { "user": "username", "password": "password" },
            } },
            "scratch": self.folder.path().join("scratch"),
            "timeout_ms": 30_000,
        })
    }

    fn connector(&self) -> Kubernetes {
        self.connector_with(&json!({}))
    }

    fn connector_with(&self, changes: &Value) -> Kubernetes {
        let mut settings = self.settings();
        for (name, value) in changes.as_object().unwrap() {
            settings[name] = value.clone();
        }
        Kubernetes::from_settings("cluster", settings).unwrap()
    }

    async fn secret(&self, name: &str) -> Value {
        let path = self.path(&format!("secrets/{name}"));
        self.admin.does(Method::GET, &path, Value::Null).await
    }

    /// Somebody else changes the Secret.
    async fn touches(&self, change: Value) {
        let path = self.path("secrets/app-credentials");
        self.admin.does(Method::PATCH, &path, change).await;
    }

    /// What programs read that have the Secret mounted.
    async fn password(&self) -> String {
        let secret = self.secret("app-credentials").await;
        let encoded = secret["data"]["password"].as_str().unwrap();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    }

    /// How the API server receives whoever comes with a token: 403 if it knows them, for they have no rights.
    async fn receives(&self, token: &SecretString) -> u16 {
        let ca = std::fs::read(lab("CA")).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap();
        let asked = client
            .get(format!("{}{}", lab("URL"), self.path("secrets")))
            .bearer_auth(token.expose_secret());
        asked.send().await.unwrap().status().as_u16()
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..LOOKS_MAX {
        if holds().await {
            return;
        }
        // sleeps: the API server learns by its own watches, and forgets by its own clock
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    panic!("{what} never became so");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn the_conformance_suite_passes() {
    let bed = Bed::new().await;
    let prefix = fresh()[..12].to_owned();
    for number in 0..60 {
        bed.account(&format!("k-{prefix}{number}")).await;
    }
    let fixture = Fixture {
        holder: Some(NativeId::new(bed.of("k-"))),
        missing_account: Some(NativeId::new(bed.of("nobody"))),
        // For so long a token is taken after its end.
        settle_ms: 15_000,
        ..Fixture::new(prefix)
    };
    let report = run(Arc::new(bed.connector()), fixture).await;
    assert!(report.is_good(), "{report}");
}
