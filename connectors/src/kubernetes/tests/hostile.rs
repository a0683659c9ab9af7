//! A cluster that refuses, is slow, loses answers, answers half or lies, and what the connector makes of it: an error only when
//! it is certain that nothing was changed.

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::server::status;
use super::*;

/// Answers that every call may get, and what they mean: the kind of the error, and whether nothing was done for certain.
fn answers() -> Vec<(&'static str, Instead, &'static str, bool)> {
    let refusal = |code, reason, message| {
        let (code, body) = status(code, reason, message, json!({}));
        Instead::Answer(code, body)
    };
    let page = |code: &str| {
        let body = "<html>no</html>";
        Instead::Raw(format!(
            "HTTP/1.1 {code} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ))
    };
    vec![
        (
            "401",
            refusal(401, "Unauthorized", "Unauthorized"),
            "auth_expired",
            true,
        ),
        (
            "403",
            refusal(403, "Forbidden", "secrets is forbidden"),
            "denied",
            true,
        ),
        (
            "quota",
            refusal(403, "Forbidden", "x is forbidden: exceeded quota: few"),
            "full",
            true,
        ),
        (
            "404 of a whole part",
            refusal(
                404,
                "NotFound",
                "the server could not find the requested resource",
            ),
            "not_found",
            true,
        ),
        (
            "405",
            refusal(405, "MethodNotAllowed", "not allowed"),
            "unsupported",
            true,
        ),
        (
            "409",
            refusal(409, "Conflict", "the object has been modified"),
            "conflict",
            true,
        ),
        (
            "422",
            refusal(422, "Invalid", "is invalid"),
            "invalid",
            true,
        ),
        (
            "429",
            refusal(429, "TooManyRequests", "later"),
            "rate_limited",
            true,
        ),
        (
            "500",
            refusal(500, "InternalError", "etcd is away"),
            "transient",
            false,
        ),
        (
            "504",
            refusal(504, "Timeout", "took too long"),
            "transient",
            false,
        ),
        (
            "a page that lets nobody in",
            page("401"),
            "auth_expired",
            true,
        ),
        ("a page of a proxy", page("404"), "bug", false),
        ("a page that is good", page("200"), "bug", false),
        ("a redirection", page("302"), "bug", false),
        ("a page that is broken", page("502"), "transient", false),
        (
            "nothing that is JSON",
            Instead::Raw(
                "HTTP/1.1 201 X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnone".to_owned(),
            ),
            "bug",
            false,
        ),
        (
            "another object",
            Instead::Answer(
                200,
                json!({ "kind": "Secret", "metadata": { "name": "other", "uid": "1", "resourceVersion": "1" } }),
            ),
            "bug",
            false,
        ),
        (
            "an empty answer",
            Instead::Raw(String::new()),
            "transient",
            false,
        ),
        ("never", Instead::Hang, "timeout", false),
        (
            "half",
            Instead::Raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"kind\"".to_owned()),
            "transient",
            false,
        ),
    ]
}

fn for_this(bed: &Bed, instead: &Instead) -> Kubernetes {
    if matches!(instead, Instead::Hang) {
        bed.hasty()
    } else {
        bed.connector()
    }
}

#[tokio::test]
async fn a_read_that_went_wrong_is_an_error_and_never_an_absence() {
    for (what, instead, kind, _) in answers() {
        let bed = Bed::new().await;
        let kubernetes = for_this(&bed, &instead);
        bed.cluster.account("shop", "web");
        bed.cluster.between(move |_, _| Some(instead.clone()));
        let named = ObjectRef::AccountNamed("shop/web".to_owned());
        let stored = Claim::CredentialStored {
            account: app(),
            credential: id("app.1"),
        };
        let web = NativeId::new("shop/web");
        for error in [
            kubernetes.get(&named).await.unwrap_err(),
            kubernetes.verify(&stored).await.unwrap_err(),
            kubernetes.credentials(&web).await.unwrap_err(),
            kubernetes.credentials(&app()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind.as_str(), kind, "{what}: {}", error.whole());
            assert!(error.message.starts_with("system `cluster`: "), "{error}");
            if let ErrorKind::RateLimited { until } = error.kind {
                let wait_s = (until - kubernetes.api.now()).num_seconds();
                assert!((5..=7).contains(&wait_s), "{wait_s}");
            }
        }
        assert!(!kubernetes.check().await.unwrap().is_good(), "{what}");
    }
}

#[tokio::test]
async fn a_change_that_may_have_been_made_is_never_an_error() {
    for (what, instead, kind, is_certain) in answers() {
        for (call, change) in [
            ("POST secrets", store("app.2", "hunter2")),
            ("PUT secrets/app-credentials", activate("app.2")),
            ("DELETE secrets/", destroy(&app(), &id("app.1"))),
        ] {
            if (what, call) == ("another object", "DELETE secrets/") {
                // What is answered there matters to nobody.
                continue;
            }
            let bed = Bed::new().await;
            let kubernetes = bed.connector();
            for operation in [store("app.0", "x"), activate("app.0"), store("app.1", "x")] {
                does(&kubernetes, &operation).await;
            }
            if call.starts_with("PUT") {
                does(&kubernetes, &store("app.2", "hunter2")).await;
            }
            bed.cluster.once(call, instead.clone());
            let outcome = for_this(&bed, &instead).apply(&change, &key("x")).await;
            match outcome {
                Err(error) if is_certain => {
                    assert_eq!(error.kind.as_str(), kind, "{what}, {call}: {error}");
                    assert!(!error.whole().contains("hunter2"));
                }
                Ok(Outcome::Ambiguous { reason }) if !is_certain => {
                    assert!(!reason.contains("hunter2"), "{reason}");
                }
                other => panic!("{what}, {call}: {other:?}"),
            }
            // The next try does it.
            bed.cluster.alone();
            does(&kubernetes, &change).await;
        }
    }
}

#[tokio::test]
async fn what_was_done_and_whose_answer_was_lost_is_so_already() {
    for instead in [Instead::Lost, Instead::Half] {
        let bed = Bed::new().await;
        let kubernetes = bed.connector();
        does(&kubernetes, &store("app.0", "zero")).await;
        for (call, change) in [
            ("POST secrets", activate("app.0")),
            ("POST secrets", store("app.1", "one")),
            ("PUT secrets/", activate("app.1")),
            ("DELETE secrets/", destroy(&app(), &id("app.0"))),
        ] {
            bed.cluster.once(call, instead.clone());
            let outcome = kubernetes.apply(&change, &key("x")).await.unwrap();
            assert!(
                matches!(outcome, Outcome::Ambiguous { .. }),
                "{call}: {outcome:?}"
            );
            is_already(&kubernetes, &change).await;
        }
        assert_eq!(bed.password(), "one");
        assert_eq!(bed.cluster.with(|state| state.secrets.len()), 2);
    }
}

#[tokio::test]
async fn a_cluster_that_lies_is_not_believed() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for operation in [
        store("app.0", "zero"),
        activate("app.0"),
        store("app.1", "one"),
    ] {
        does(&kubernetes, &operation).await;
    }
    // It says that it switched, and shows what it showed before.
    let shown = bed.cluster.secret("shop", "app-credentials").unwrap();
    bed.cluster
        .once("PUT secrets/", Instead::Answer(200, shown));
    let outcome = kubernetes.apply(&activate("app.1"), &key("x")).await;
    let Ok(Outcome::Ambiguous { reason }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("shows something else"), "{reason}");
    assert_eq!(state(&kubernetes, "app.1").await, (true, false, true));

    // A listing that comes to no end.
    let page = json!({
        "kind": "PartialObjectMetadataList", "items": null,
        "metadata": { "continue": "again" },
    });
    bed.cluster.between(move |asked, _| {
        (asked.short() == "GET secrets").then(|| Instead::Answer(200, page.clone()))
    });
    let error = kubernetes.credentials(&app()).await.unwrap_err();
    assert!(error.message.contains("comes to no end"), "{error}");
    // More than anybody would read.
    let long = "x".repeat(9 * 1024 * 1024);
    let raw = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}",
        long.len()
    );
    bed.cluster
        .between(move |_, _| Some(Instead::Raw(raw.clone())));
    let error = kubernetes.credentials(&app()).await.unwrap_err();
    assert!(error.message.contains("more than"), "{error}");

    // A review that could not be made refuses nobody.
    bed.cluster.alone();
    bed.cluster.account("shop", "web");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-token").unwrap();
    let refused = Claim::CredentialRefused {
        account: NativeId::new("shop/web"),
        credential: id("token:00000000000000000000000000000000"),
        secret: SecretRef::File(file.path().display().to_string()),
    };
    let away = "Post \"https://10.0.0.2/\": tls: failed to verify certificate: x509: certificate has expired or is not yet valid";
    for (status, kind) in [
        (json!({ "error": "context deadline exceeded" }), "transient"),
        // Somebody else who may know the token could not look.
        (
            json!({ "error": format!("[invalid bearer token, {away}]") }),
            "transient",
        ),
        (
            json!({ "error": "[invalid bearer token, Post \"https://127.0.0.1:1/?timeout=30s\": dial tcp 127.0.0.1:1: connect: \
                connection refused]" }),
            "transient",
        ),
        (json!({ "error": away }), "transient"),
        (
            json!({ "error": "invalid character '<' looking for beginning of value" }),
            "transient",
        ),
        (Value::Null, "bug"),
    ] {
        let review = json!({ "kind": "TokenReview", "status": status });
        bed.cluster
            .once("POST tokenreviews", Instead::Answer(201, review));
        let error = kubernetes.verify(&refused).await.unwrap_err();
        assert_eq!(error.kind.as_str(), kind, "{error}");
    }
    for complaint in [
        "",
        "invalid bearer token",
        "service account token has been invalidated",
        "[invalid bearer token, service account token has expired]",
        "[invalid bearer token, serviceaccounts \"web\" not found]",
        "[invalid bearer token, token audiences [\"a\"] is invalid for the target audiences [\"b\" \"c\"]]",
        "[invalid bearer token, service account UID (1) does not match claim (2)]",
    ] {
        let review = json!({ "kind": "TokenReview", "status": { "error": complaint } });
        bed.cluster
            .once("POST tokenreviews", Instead::Answer(201, review));
        assert!(holds(&kubernetes, &refused).await.0, "{complaint}");
    }
    assert!(holds(&kubernetes, &refused).await.0);
}

#[tokio::test]
async fn a_refusal_says_why_without_what_was_sent() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    bed.cluster
        .with(|state| state.denied.insert("create secrets".to_owned()));
    let error = refused(&kubernetes, &store("app.1", "hunter2")).await;
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.message.contains("cannot create resource \"secrets\""),
        "{error}"
    );

    bed.cluster.with(|state| {
        state.denied.clear();
        state.nowhere.insert("shop".to_owned());
    });
    let error = refused(&kubernetes, &store("app.1", "hunter2")).await;
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(
        error.message.contains("namespaces `shop` is not there"),
        "{error}"
    );
    let health = kubernetes.check().await.unwrap();
    let bad: Vec<_> = health.findings.iter().filter(|it| !it.good).collect();
    assert_eq!(bad.len(), 1, "{health:?}");
    assert_eq!(bad[0].detail, "there is no namespace `shop`");
    // Whoever may not look at namespaces is told nothing about them.
    bed.cluster
        .with(|state| state.denied.insert("get namespaces".to_owned()));
    assert!(kubernetes.check().await.unwrap().is_good());
    bed.cluster.with(|state| {
        state.denied.clear();
        state.nowhere.clear();
    });

    // What stands behind a webhook may say anything.
    let told = "admission webhook \"example\" denied the request: aHVudGVyMg== is hunter2";
    for (code, reason, details, why) in [
        (403, "Forbidden", json!({}), "a secret was sent"),
        (
            422,
            "Invalid",
            json!({ "causes": [{ "field": "data[tls.crt]", "message": told }] }),
            "see data[tls.crt]",
        ),
        (
            409,
            "Conflict",
            json!({ "kind": "secrets", "name": "x" }),
            "secrets `x` was changed",
        ),
        (
            403,
            "Forbidden",
            json!({ "causes": [{ "reason": "NamespaceTerminating", "field": "metadata.namespace" }] }),
            "see metadata.namespace",
        ),
    ] {
        let (code, body) = status(code, reason, told, details);
        bed.cluster
            .once("POST secrets", Instead::Answer(code, body));
        let error = refused(&kubernetes, &store("app.1", "hunter2")).await;
        assert!(error.message.contains(why), "{why}: {error}");
        assert!(!error.whole().contains("hunter2") && !error.whole().contains("aHVudGVyMg"));
    }
    // A quota that nobody has counted yet is none that is used up.
    let told = "secrets \"x\" is forbidden: status unknown for quota: few, resources: secrets";
    let (code, body) = status(403, "Forbidden", told, json!({ "kind": "secrets" }));
    bed.cluster
        .once("POST secrets", Instead::Answer(code, body));
    let error = refused(&kubernetes, &store("app.1", "hunter2")).await;
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn what_our_account_may_not_do_is_named_before_it_is_needed() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    assert!(kubernetes.check().await.unwrap().is_good());
    bed.cluster
        .with(|state| state.denied.insert("update secrets".to_owned()));
    let health = kubernetes.check().await.unwrap();
    let bad: Vec<_> = health.findings.iter().filter(|it| !it.good).collect();
    assert_eq!(bad.len(), 1, "{health:?}");
    assert!(
        bad[0].detail.contains("no `update` on `secrets` in `shop`"),
        "{health:?}"
    );

    bed.cluster.with(|state| {
        state.denied.clear();
        state.quota = Some(1);
    });
    does(&kubernetes, &store("app.1", "one")).await;
    let error = refused(&kubernetes, &store("app.2", "two")).await;
    assert_eq!(error.kind, ErrorKind::Full);

    // The token is read anew each time: what a cluster gives to a pod changes by the hour.
    std::fs::write(bed.folder.path().join("token"), "old").unwrap();
    let error = kubernetes.credentials(&app()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AuthExpired);
    std::fs::write(bed.folder.path().join("token"), TOKEN).unwrap();
    assert!(kubernetes.credentials(&app()).await.is_ok());
    std::fs::remove_file(bed.folder.path().join("token")).unwrap();
    let error = kubernetes.credentials(&app()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AuthExpired);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = bed.settings();
    settings["server"] = json!(format!("http://{}", listener.local_addr().unwrap()));
    settings["token"] = json!("env:PATH");
    drop(listener);
    let away = Kubernetes::from_settings("cluster", settings).unwrap();
    let error = refused(&away, &store("app.1", "one")).await;
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(!away.check().await.unwrap().is_good());
}

#[tokio::test]
async fn a_client_certificate_lets_us_in_and_another_authority_is_not_trusted() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut of_authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = of_authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&of_authority, &authority_key);
    let leaf = |name: &str, usage| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (served, served_key) = leaf("127.0.0.1", rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let (ours, our_key) = leaf("tenure", rcgen::ExtendedKeyUsagePurpose::ClientAuth);

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(served_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![served.der().clone()], key)
        .unwrap();
    let cluster = Cluster::with_tls(TlsAcceptor::from(Arc::new(config))).await;
    let bed = Bed::at(cluster);
    let file = |name: &str, text: &str| {
        let path = bed.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut settings = bed.settings();
    settings.as_object_mut().unwrap().remove("token");
    settings["ca_file"] = json!(file("ca.pem", &authority.pem()));
    settings["client_certificate"] = json!({
        "certificate": format!("file:{}", file("our.pem", &ours.pem())),
        "key": format!("file:{}", file("our.key", &our_key.serialize_pem())),
    });
    let kubernetes = Kubernetes::from_settings("cluster", settings.clone()).unwrap();
    let health = kubernetes.check().await.unwrap();
    assert!(health.is_good(), "{health:?}");
    does(&kubernetes, &store("app.1", "one")).await;

    let stranger = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    settings["ca_file"] = json!(file("other.pem", &stranger.cert.pem()));
    let distrusts = Kubernetes::from_settings("cluster", settings.clone()).unwrap();
    let error = distrusts.credentials(&app()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());

    settings["client_certificate"]["key"] = json!(format!("file:{}", file("no.key", "hunter2")));
    let error = Kubernetes::from_settings("cluster", settings)
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(!error.whole().contains("hunter2"), "{}", error.whole());
}
