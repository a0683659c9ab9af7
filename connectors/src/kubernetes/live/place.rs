//! Secrets as places.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_version_is_kept_beside_and_switched_to_and_what_others_wrote_stays() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    let health = kubernetes.check().await.unwrap();
    assert!(health.is_good(), "{health:?}");
    let theirs = json!({
        "metadata": {
            "name": "app-credentials", "labels": { "team": "shop" },
            "annotations": { "example.org/note": "ours" },
        },
        "data": { "password": STANDARD.encode("theirs") },
    });
    bed.admin
        .does(Method::POST, &bed.path("secrets"), theirs)
        .await;
    for (credential, password) in [("app.1", "one"), ("app.2", "two")] {
        does(&kubernetes, &store(credential, password)).await;
        is_already(&kubernetes, &store(credential, password)).await;
    }
    assert_eq!(bed.password().await, "theirs");
    let other = refused(&kubernetes, &store("app.1", "other")).await;
    assert_eq!(other.kind, ErrorKind::Conflict);
    does(&kubernetes, &activate("app.1")).await;
    is_already(&kubernetes, &activate("app.1")).await;
    assert_eq!(bed.password().await, "one");
    assert_eq!(state(&kubernetes, "app.1").await, (true, true, false));
    let receipt = does(&kubernetes, &activate("app.2")).await;
    assert_eq!(state(&kubernetes, "app.1").await, (true, false, true));
    let secret = bed.secret("app-credentials").await;
    let meta = &secret["metadata"];
    assert_eq!(
        receipt.after.unwrap()["resource_version"],
        meta["resourceVersion"]
    );
    assert_eq!(meta["labels"], json!({ "team": "shop" }));
    assert_eq!(meta["annotations"]["example.org/note"], "ours");
    // The API server remembers who wrote what, although we do not send that back.
    assert!(
        meta["managedFields"].as_array().unwrap().len() >= 2,
        "{meta}"
    );

    // What stood there first is kept, and there is a way back to it.
    let kept = kubernetes.credentials(&app()).await.unwrap().value;
    assert_eq!(kept.len(), 3, "{kept:?}");
    let before = kept
        .iter()
        .find(|one| one.id.as_str().starts_with("before:"))
        .unwrap();
    does(&kubernetes, &activate(before.id.as_str())).await;
    assert_eq!(bed.password().await, "theirs");
    does(&kubernetes, &activate("app.1")).await;

    // A version is immutable: nobody changes it by mistake.
    let stored = Claim::CredentialStored {
        account: app(),
        credential: id("app.2"),
    };
    let (is_stored, seen) = holds(&kubernetes, &stored).await;
    let version = bed.path(&format!("secrets/{}", seen["version"].as_str().unwrap()));
    let change = json!({ "data": { "password": "eA==" } });
    let (status, _) = bed.admin.asks(Method::PATCH, &version, &change).await;
    assert!(is_stored && status == 422, "{status}");
    let reference: SecretRef = serde_json::from_value(seen["parts"]["password"].clone()).unwrap();
    assert_eq!(reference.resolve().unwrap().expose_secret(), "two");

    let read = refused(&kubernetes, &destroy(&app(), &id("app.1"))).await;
    assert_eq!(read.kind, ErrorKind::Denied);
    does(&kubernetes, &destroy(&app(), &id("app.2"))).await;
    is_already(&kubernetes, &destroy(&app(), &id("app.2"))).await;
    assert_eq!(
        bed.admin.asks(Method::GET, &version, &Value::Null).await.0,
        404
    );
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn whoever_writes_at_the_same_time_loses_nothing() {
    let bed = Arc::new(Bed::new().await);
    let kubernetes = bed.connector();
    for (credential, password) in [("app.0", "zero"), ("app.1", "one")] {
        does(&kubernetes, &store(credential, password)).await;
    }
    does(&kubernetes, &activate("app.0")).await;
    let (is_over, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let others = {
        let (bed, is_over, written) =
            (Arc::clone(&bed), Arc::clone(&is_over), Arc::clone(&written));
        tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let number = written.fetch_add(1, Ordering::SeqCst);
                let label = format!("n{}", number % 50);
                let labels = json!({ label: number.to_string() });
                bed.touches(json!({ "metadata": { "labels": labels } }))
                    .await;
            }
        })
    };
    let (mut switched, mut conflicts, mut now) = (0, 0, 0);
    for _ in 0..LOOKS_MAX {
        let next = format!("app.{}", 1 - now);
        match kubernetes.apply(&activate(&next), &key("x")).await {
            Ok(Outcome::Done(_)) => {
                switched += 1;
                now = 1 - now;
            }
            Err(error) if error.kind == ErrorKind::Conflict => conflicts += 1,
            other => panic!("{other:?}"),
        }
        if switched > 20 && conflicts > 0 {
            break;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    others.await.unwrap();
    assert!(
        switched > 20 && conflicts > 0,
        "{switched} switched, {conflicts} conflicts"
    );
    // Each of their labels is as they wrote it last.
    let labels = bed.secret("app-credentials").await["metadata"]["labels"].clone();
    let written = written.load(Ordering::SeqCst);
    for number in written.saturating_sub(50)..written {
        assert_eq!(labels[format!("n{}", number % 50)], number.to_string());
    }
    assert_eq!(bed.password().await, ["zero", "one"][now]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn what_stands_in_the_way_of_a_switch_is_named() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for (credential, password) in [("app.1", "one"), ("app.2", "two")] {
        does(&kubernetes, &store(credential, password)).await;
    }
    does(&kubernetes, &activate("app.1")).await;
    bed.touches(json!({ "data": { "ca.crt": "eA==" } })).await;
    let error = refused(&kubernetes, &activate("app.2")).await;
    assert!(error.message.contains("has ca.crt too"), "{error}");
    bed.touches(json!({ "data": { "ca.crt": null } })).await;

    // Somebody's finalizer holds what is being removed.
    let path = bed.path("secrets/app-credentials");
    bed.touches(json!({ "metadata": { "finalizers": ["example.org/hold"] } }))
        .await;
    bed.admin.does(Method::DELETE, &path, Value::Null).await;
    let error = refused(&kubernetes, &activate("app.2")).await;
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("is being removed"), "{error}");
    bed.touches(json!({ "metadata": { "finalizers": null } }))
        .await;
    does(&kubernetes, &activate("app.2")).await;

    bed.touches(json!({ "immutable": true })).await;
    let error = refused(&kubernetes, &activate("app.1")).await;
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("is immutable"), "{error}");
    assert_eq!(bed.password().await, "two");

    // A type asks for keys of its own.
    let of_tls = bed.connector_with(&json!({ "secrets": { "app": {
        "namespace": bed.namespace, "secret": "web", "type": "kubernetes.io/tls",
        "parts": { "user": "username", "password": "password" },
    } } }));
    does(&of_tls, &store("app.3", "hunter2")).await;
    let error = refused(&of_tls, &activate("app.3")).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.message.contains("data[tls.crt]"), "{error}");
    assert!(!error.whole().contains("hunter2"));
    let of_tls = bed.connector_with(&json!({ "secrets": { "app": {
        "namespace": bed.namespace, "secret": "web", "type": "kubernetes.io/tls",
        "parts": { "user": "tls.crt", "password": "tls.key" },
    } } }));
    does(&of_tls, &store("app.4", "hunter2")).await;
    does(&of_tls, &activate("app.4")).await;
    assert_eq!(bed.secret("web").await["type"], "kubernetes.io/tls");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_secret_holds_as_much_as_the_api_server_lets_it() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    // `ann` is in it too.
    let most = "x".repeat(1024 * 1024 - 3);
    does(&kubernetes, &store("app.1", &most)).await;
    does(&kubernetes, &store("app.2", "two")).await;
    does(&kubernetes, &activate("app.1")).await;
    assert_eq!(bed.password().await.len(), most.len());
    let stored = Claim::CredentialStored {
        account: app(),
        credential: id("app.1"),
    };
    let (is_stored, seen) = holds(&kubernetes, &stored).await;
    // A reference to a secret gives no more than 64 KiB; here only what lies there counts.
    let reference = seen["parts"]["password"].as_str().unwrap();
    let read = std::fs::read(reference.strip_prefix("file:").unwrap()).unwrap();
    assert!(is_stored && read.len() == most.len());
    does(&kubernetes, &activate("app.2")).await;
    let error = refused(&kubernetes, &store("app.3", &format!("{most}x"))).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    // Which is their limit, and not only ours.
    let more = json!({
        "metadata": { "name": "more" },
        "data": { "x": STANDARD.encode(format!("{most}annx")) },
    });
    let (status, answer) = bed
        .admin
        .asks(Method::POST, &bed.path("secrets"), &more)
        .await;
    assert_eq!(status, 422, "{answer}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn what_we_may_not_do_and_where_nothing_is_are_told_without_the_secret() {
    let mut reads_only = rights();
    reads_only[0]["verbs"] = json!(["get", "list"]);
    let bed = Bed::with(reads_only).await;
    let kubernetes = bed.connector();
    let error = refused(&kubernetes, &store("app.1", "hunter2")).await;
    assert_eq!(error.kind, ErrorKind::Denied);
    let why = format!(
        "cannot create resource \"secrets\" in API group \"\" in the namespace \"{}\"",
        bed.namespace
    );
    assert!(error.message.contains(&why), "{error}");
    let health = kubernetes.check().await.unwrap();
    let bad = health.findings.iter().filter(|finding| !finding.good);
    let bad: Vec<&str> = bad.map(|finding| finding.detail.as_str()).collect();
    assert_eq!(bad.len(), 4, "{health:?}");
    for verb in ["create", "update", "patch", "delete"] {
        assert!(
            bad.iter()
                .any(|it| it.contains(&format!("no `{verb}` on `secrets`")))
        );
    }

    // Whoever may do everything everywhere may do it where nothing is.
    let nowhere = format!("n-{}", &fresh()[..12]);
    let everywhere = |namespace: &str| {
        let mut settings = bed.settings();
        settings.as_object_mut().unwrap().remove("token");
        settings["client_certificate"] = json!({
            "certificate": format!("file:{}", lab("ADMIN_CERTIFICATE")),
            "key": format!("file:{}", lab("ADMIN_KEY")),
        });
        settings["namespaces"] = json!([namespace]);
        settings["secrets"]["app"]["namespace"] = json!(namespace);
        Kubernetes::from_settings("cluster", settings).unwrap()
    };
    let there = everywhere(&bed.namespace);
    assert!(there.check().await.unwrap().is_good());
    does(&there, &store("app.1", "one")).await;
    let lost = everywhere(&nowhere);
    let health = lost.check().await.unwrap();
    let bad = health.findings.iter().filter(|finding| !finding.good);
    let bad: Vec<&str> = bad.map(|finding| finding.detail.as_str()).collect();
    assert_eq!(bad, [format!("there is no namespace `{nowhere}`")]);
    let error = refused(&lost, &store("app.1", "hunter2")).await;
    assert_eq!(error.kind, ErrorKind::NotFound);
    let why = format!("namespaces `{nowhere}` is not there");
    assert!(error.message.contains(&why), "{error}");

    // A namespace that goes takes nothing more.
    let path = format!("/api/v1/namespaces/{}", bed.namespace);
    bed.admin.does(Method::DELETE, &path, Value::Null).await;
    let number = AtomicUsize::new(2);
    until("the namespace takes nothing more", async || {
        let number = number.fetch_add(1, Ordering::SeqCst);
        match there
            .apply(&store(&format!("app.{number}"), "hunter2"), &key("x"))
            .await
        {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Denied, "{error}");
                assert!(error.message.contains("metadata.namespace"), "{error}");
                true
            }
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_quota_that_is_used_up_is_full_and_one_not_yet_counted_is_not() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    let quota = json!({
        "metadata": { "name": "few" }, "spec": { "hard": { "secrets": "1000" } },
    });
    bed.admin
        .does(Method::POST, &bed.path("resourcequotas"), quota)
        .await;
    let number = AtomicUsize::new(0);
    let ends_as = async |wanted: ErrorKind, why: &str| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        match kubernetes
            .apply(&store(&format!("app.{number}"), "hunter2"), &key("x"))
            .await
        {
            Err(error) if error.kind == wanted => {
                assert!(error.message.contains(why), "{error}");
                true
            }
            Ok(_) => false,
            // Asked in between.
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Transient, "{error}");
                false
            }
        }
    };
    // Nobody counts here: that is another program's work. It says first how much there may be, and then how much there is.
    let path = bed.path("resourcequotas/few/status");
    let uncounted = json!({ "status": { "hard": { "secrets": "1000" } } });
    bed.admin.does(Method::PATCH, &path, uncounted).await;
    until("the quota is known", async || {
        ends_as(ErrorKind::Transient, "status unknown for quota: few").await
    })
    .await;
    let counted = json!({ "status": {
        "hard": { "secrets": "1000" }, "used": { "secrets": "998" },
    } });
    bed.admin.does(Method::PATCH, &path, counted).await;
    until("the quota is used up", async || {
        ends_as(ErrorKind::Full, "exceeded quota: few").await
    })
    .await;
}
