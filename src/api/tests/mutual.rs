//! Sources that show a certificate, over real TLS. The certificates are made by the `openssl` command.

use std::path::Path;
use std::process::Command;

use tokio_util::sync::CancellationToken;
use workflows::config::MutualTlsSettings;

use super::signed::hired;
use super::*;
use crate::api::mutual::{self, MutualTls};

fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' '))
        .output();
    let done = done
        .unwrap_or_else(|error| panic!("`openssl` cannot be run: {error}; apt install openssl"));
    assert!(
        done.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// An authority, and a certificate that it signs.
fn signed_by(folder: &Path, authority: &str, name: &str, subject: &str, also: &str) {
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !folder.join(format!("{authority}.pem")).exists() {
        openssl(
            folder,
            &format!(
                "req -x509 {curve} -keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}"
            ),
        );
    }
    openssl(
        folder,
        &format!("req {curve} -keyout {name}.key -out {name}.csr -subj {subject}"),
    );
    std::fs::write(folder.join("ext"), format!("subjectAltName={also}")).unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ),
    );
}

fn client(folder: &Path, name: Option<&str>) -> reqwest::Client {
    let read = |file: String| std::fs::read(folder.join(file)).unwrap();
    let roots = reqwest::Certificate::from_pem_bundle(&read("server-ca.pem".to_owned())).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only(roots).no_proxy();
    let builder = match name {
        Some(name) => {
            let mut pem = read(format!("{name}.pem"));
            pem.extend(read(format!("{name}.key")));
            builder.identity(reqwest::Identity::from_pem(&pem).unwrap())
        }
        None => builder,
    };
    builder.build().unwrap()
}

#[tokio::test]
async fn a_certificate_opens_the_door_of_its_own_source_and_nothing_else() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    signed_by(at, "server-ca", "server", "/CN=localhost", "DNS:localhost");
    signed_by(
        at,
        "client-ca",
        "payroll",
        "/CN=payroll-gateway",
        "DNS:payroll.example",
    );
    signed_by(
        at,
        "client-ca",
        "stranger",
        "/CN=stranger",
        "DNS:stranger.example",
    );
    signed_by(
        at,
        "client-ca",
        "both",
        "/CN=payroll-gateway",
        "DNS:hr.example",
    );
    signed_by(
        at,
        "other-ca",
        "forged",
        "/CN=payroll-gateway",
        "DNS:payroll.example",
    );
    let settings = MutualTlsSettings {
        listen: "127.0.0.1:0".to_owned(),
        certificate: "server.pem".into(),
        key: "server.key".into(),
        client_ca: "client-ca.pem".into(),
        subjects: [
            ("CN=payroll-gateway".to_owned(), "payroll".to_owned()),
            ("DNS:hr.example".to_owned(), "hr".to_owned()),
        ]
        .into(),
    };
    let names = ["payroll".to_owned(), "hr".to_owned()];
    let tls = MutualTls::open(&settings, at, names.iter()).unwrap();
    let listener = server::bind("127.0.0.1:0", false).await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let stop = CancellationToken::new();
    let router = mutual::router(server.router.clone());
    tokio::spawn(server::serve_tls(listener, router, tls, stop.clone()));

    let event = hired("m1", "M1").to_string();
    let send = async |name: Option<&str>, path: &str| {
        let request = client(at, name).post(format!("{url}{path}"));
        let request = request.header("content-type", "application/cloudevents+json");
        request
            .body(event.clone())
            .send()
            .await
            .map(|answer| answer.status().as_u16())
    };
    assert_eq!(
        send(Some("payroll"), "/v1/sources/payroll/events")
            .await
            .unwrap(),
        202
    );
    assert!(
        server
            .database
            .directory
            .identity("M1")
            .await
            .unwrap()
            .is_some()
    );
    // The same again is the same.
    assert_eq!(
        send(Some("payroll"), "/v1/sources/payroll/events")
            .await
            .unwrap(),
        202
    );
    for path in [
        "/v1/sources/hr/events",
        "/v1/events",
        "/v1/cases",
        "/healthz",
        "/v1/sources/payroll/hints",
    ] {
        assert_eq!(send(Some("payroll"), path).await.unwrap(), 401, "{path}");
    }
    // No certificate, one of another authority, one that names nobody, one that names two.
    for name in [None, Some("forged"), Some("stranger"), Some("both")] {
        let refused = send(name, "/v1/sources/payroll/events").await;
        assert!(refused.is_err(), "{name:?}: {refused:?}");
    }
    // What came in is the word of the source.
    let event = server
        .database
        .directory
        .identity("M1")
        .await
        .unwrap()
        .unwrap()
        .events;
    assert_eq!(event[0].initiator, "source:payroll");
    stop.cancel();
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    signed_by(at, "client-ca", "server", "/CN=localhost", "DNS:localhost");
    signed_by(at, "client-ca", "other", "/CN=localhost", "DNS:localhost");
    std::fs::write(at.join("empty.pem"), "").unwrap();
    let names = ["hr".to_owned()];
    let check = |change: &dyn Fn(&mut MutualTlsSettings), expected: &str| {
        let mut settings = MutualTlsSettings {
            listen: "127.0.0.1:0".to_owned(),
            certificate: "server.pem".into(),
            key: "server.key".into(),
            client_ca: "client-ca.pem".into(),
            subjects: [("CN=hr".to_owned(), "hr".to_owned())].into(),
        };
        change(&mut settings);
        let error = MutualTls::open(&settings, at, names.iter()).err();
        let told = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(told.contains(expected), "{told}");
    };
    check(&|_| {}, "");
    check(
        &|it| it.client_ca = "empty.pem".into(),
        "holds no certificates",
    );
    check(&|it| it.key = "server.pem".into(), "holds no private key");
    check(&|it| it.key = "other.key".into(), "do not fit each other");
    check(
        &|it| it.certificate = "nowhere.pem".into(),
        "holds no certificates",
    );
    check(
        &|it| it.subjects = [("CN=x".to_owned(), "vms".to_owned())].into(),
        "names the source `vms`",
    );
    check(
        &|it| it.subjects = [("x".to_owned(), "hr".to_owned())].into(),
        "is no name",
    );
    check(&|it| it.subjects.clear(), "nobody could come in");
}
