//! Against moto, which checks signatures and policies, and against servers that answer with nonsense.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::notes::TAGS_KEPT;
use super::*;
use crate::conformance::{Fixture, Verdict as Passed, run};
use crate::connector::Attributes;
use crate::connector::{HandOver, Slot};

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/moto.sh start /tmp/lab-moto && . /tmp/lab-moto/env")
    })
}

fn aws() -> Aws {
    at(&lab("TENURE_LAB_MOTO_URL"))
}

fn at(url: &str) -> Aws {
    let settings = json!({
        "access_key_id": format!("file:{}", lab("TENURE_LAB_MOTO_ID")),
        "secret_access_key": format!("file:{}", lab("TENURE_LAB_MOTO_SECRET")),
        "iam_url": url, "sts_url": url, "path": "/services/", "timeout_ms": 5_000,
    });
    Aws::from_settings("cloud", settings).unwrap()
}

fn fresh(prefix: &str) -> String {
    format!("{prefix}{}", &Uuid::new_v4().simple().to_string()[..12])
}

async fn user(aws: &Aws, name: &str) -> NativeId {
    let fields = [("UserName", name), ("Path", "/services/")];
    aws.caller.iam("CreateUser", &fields).await.unwrap();
    NativeId::new(name)
}

fn request(account: &NativeId) -> (Operation, Slot) {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: account.clone(),
        kind: CredentialKind::ApiKey,
        material: Material::BySystem,
        attributes: Attributes::new(),
        lifetime_s: None,
        label: None,
        into,
    };
    (Operation::IssueCredential(new), slot)
}

fn key(text: &str) -> OperationKey {
    OperationKey {
        idempotency: text.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

async fn issue(aws: &Aws, account: &NativeId, under: &str) -> (bool, Minted) {
    let (operation, slot) = request(account);
    match aws.apply(&operation, &key(under)).await.unwrap() {
        Outcome::Done(_) => (true, slot.take().unwrap()),
        Outcome::AlreadySo(_) => (false, slot.take().unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn lets_in(aws: &Aws, account: &NativeId, id: &CredentialId, secret: &SecretString) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), secret.expose_secret()).unwrap();
    let (account, credential) = (account.clone(), id.clone());
    let secret = SecretRef::File(file.path().display().to_string());
    let works = Claim::CredentialWorks {
        account: account.clone(),
        credential: credential.clone(),
        secret: secret.clone(),
    };
    let refused = Claim::CredentialRefused {
        account,
        credential,
        secret,
    };
    let works = matches!(aws.verify(&works).await.unwrap(), Verdict::Proven(_));
    let refused = matches!(aws.verify(&refused).await.unwrap(), Verdict::Proven(_));
    assert_ne!(works, refused);
    works
}

/// What moto can show: there a key that is switched off lets in all the same.
struct Untried(Aws);

#[async_trait]
impl Connector for Untried {
    fn capabilities(&self) -> Capabilities {
        let mut can = self.0.capabilities();
        can.claims.remove(&ClaimName::CredentialWorks);
        can.claims.remove(&ClaimName::CredentialRefused);
        can
    }
    async fn check(&self) -> Result<Health, Error> {
        self.0.check().await
    }
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.0.list(kind, after).await
    }
    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.0.get(object).await
    }
    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        self.0.apply(operation, key).await
    }
    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        match claim {
            Claim::CredentialWorks { .. } | Claim::CredentialRefused { .. } => {
                Err(Error::new(ErrorKind::Unsupported, "not shown here"))
            }
            _ => self.0.verify(claim).await,
        }
    }
    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.0.credentials(account).await
    }
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let aws = aws();
    let prefix = fresh("c");
    // IAM users are not made by this connector: those the suite will ask for are there.
    for number in 0..60 {
        user(&aws, &format!("k-{prefix}{number}")).await;
    }
    let fixture = Fixture {
        holder: Some(NativeId::new("k-")),
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new(prefix)
    };
    let report = run(Arc::new(Untried(aws)), fixture).await;
    assert!(report.is_good(), "{report}");
    for name in [
        "issue a credential: halves handed over, one for one key",
        "issue under another key: another credential",
        "issue, answer lost: found by its key",
        "no room for another credential: full, and none ends",
        "deactivate and activate a credential twice each",
    ] {
        let test = report.tests.iter().find(|test| test.name == name).unwrap();
        assert_eq!(test.verdict, Passed::Passed, "{report}");
    }
}

#[tokio::test]
async fn two_keys_side_by_side_and_a_third_is_refused_with_a_reason() {
    let aws = aws();
    let account = user(&aws, &fresh("u")).await;
    let (_, old) = issue(&aws, &account, "1").await;
    let (_, new) = issue(&aws, &account, "2").await;
    let (old_secret, new_secret) = (old.secret.unwrap(), new.secret.unwrap());
    let (old, new) = (old.credential.id, new.credential.id);
    assert!(lets_in(&aws, &account, &old, &old_secret).await);
    assert!(lets_in(&aws, &account, &new, &new_secret).await);
    assert!(
        !lets_in(&aws, &account, &new, &old_secret).await,
        "the secret of another"
    );
    assert!(
        !lets_in(
            &aws,
            &account,
            &CredentialId::new("api_key:AKIAIOSFODNN7EXAMPLE"),
            &new_secret
        )
        .await
    );

    let (third, slot) = request(&account);
    let error = aws.apply(&third, &key("3")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    for id in [&old, &new] {
        assert!(error.message.contains(key_id(id).unwrap()), "{error}");
    }
    assert!(slot.take().is_none());

    let other = user(&aws, &fresh("u")).await;
    let of = |account: &NativeId, credential: &CredentialId| Operation::DestroyCredential {
        account: account.clone(),
        credential: credential.clone(),
    };
    let outcome = aws.apply(&of(&other, &old), &key("x")).await.unwrap();
    assert!(
        matches!(outcome, Outcome::AlreadySo(_)),
        "it is not the other's"
    );
    let outcome = aws.apply(&of(&account, &old), &key("x")).await.unwrap();
    assert!(matches!(outcome, Outcome::Done(_)));
    assert!(!lets_in(&aws, &account, &old, &old_secret).await);
    assert!(lets_in(&aws, &account, &new, &new_secret).await);
    let (is_new, third) = issue(&aws, &account, "3").await;
    assert!(is_new && third.secret.is_some());
}

#[tokio::test]
async fn a_key_whose_answer_was_lost_is_found_and_never_made_twice() {
    let aws = aws();
    let account = user(&aws, &fresh("u")).await;
    // The note was written, the key was made, the answer was lost: done here by hand.
    let before = issue(&aws, &account, "earlier").await.1.credential.id;
    let note = Note {
        before: vec![key_id(&before).unwrap().to_owned()],
        made: None,
    };
    aws.note(&account, &tag_name("1"), &note).await.unwrap();
    let issued = Claim::CredentialIssued {
        account: account.clone(),
        key: "1".to_owned(),
    };
    assert!(
        matches!(aws.verify(&issued).await.unwrap(), Verdict::Refuted(_)),
        "noted, not made"
    );
    let answer = aws
        .caller
        .iam("CreateAccessKey", &[("UserName", account.as_str())])
        .await
        .unwrap();
    let lost = credential_id(answer.text_of("AccessKeyId").unwrap());
    let Verdict::Proven(seen) = aws.verify(&issued).await.unwrap() else {
        panic!();
    };
    assert_eq!(seen.credential().unwrap().id, lost);
    let (is_new, found) = issue(&aws, &account, "1").await;
    assert!(!is_new && found.secret.is_none());
    assert_eq!(found.credential.id, lost);

    // Destroyed since: the same question gives no second key.
    let (_, second) = {
        let destroy = Operation::DestroyCredential {
            account: account.clone(),
            credential: lost,
        };
        aws.apply(&destroy, &key("x")).await.unwrap();
        issue(&aws, &account, "2").await
    };
    let destroy = Operation::DestroyCredential {
        account: account.clone(),
        credential: second.credential.id.clone(),
    };
    aws.apply(&destroy, &key("x")).await.unwrap();
    let (is_new, again) = issue(&aws, &account, "2").await;
    assert!(!is_new && again.credential.active == Some(false));
    assert_eq!(again.credential.id, second.credential.id);

    // Tags do not pile up.
    for number in 0..20 {
        let (_, made) = issue(&aws, &account, &format!("many-{number}")).await;
        let destroy = Operation::DestroyCredential {
            account: account.clone(),
            credential: made.credential.id,
        };
        aws.apply(&destroy, &key("x")).await.unwrap();
    }
    assert!(aws.notes(&account).await.unwrap().len() <= TAGS_KEPT + 1);
}

#[tokio::test]
async fn users_are_listed_below_the_path_and_those_elsewhere_are_nobodys() {
    let aws = aws();
    let name = fresh("u");
    user(&aws, &name).await;
    let elsewhere = fresh("e");
    aws.caller
        .iam("CreateUser", &[("UserName", &elsewhere)])
        .await
        .unwrap();
    let named = |name: &str| ObjectRef::AccountNamed(name.to_owned());
    assert!(aws.get(&named(&name)).await.unwrap().is_some());
    for nobody in [elsewhere.as_str(), "admin", "a b", "../x", "", "*"] {
        assert!(aws.get(&named(nobody)).await.unwrap().is_none(), "{nobody}");
        assert!(
            aws.credentials(&NativeId::new(nobody))
                .await
                .unwrap()
                .value
                .is_empty()
        );
        let (operation, _) = request(&NativeId::new(nobody));
        let error = aws.apply(&operation, &key("1")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{nobody}");
    }
    assert!(aws.check().await.unwrap().is_good());
}

/// A server that answers every request with the same bytes.
async fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = vec![0; 16 * 1024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn refusals_and_nonsense_have_their_kinds() {
    let refusal = |status: &str, code: &str| {
        let body = format!(
            "<ErrorResponse><Error><Code>{code}</Code><Message>no &amp; no</Message></Error></ErrorResponse>"
        );
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        &*Box::leak(text.into_boxed_str())
    };
    for (answer, kind) in [
        (refusal("403", "InvalidClientTokenId"), "auth_expired"),
        (refusal("403", "AccessDenied"), "denied"),
        (refusal("400", "Throttling"), "transient"),
        (refusal("409", "LimitExceeded"), "full"),
        (refusal("418", "Teapot"), "bug"),
        (refusal("503", "ServiceUnavailable"), "transient"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            "bug",
        ),
        (
            "HTTP/1.1 502 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "transient",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 500\r\nconnection: close\r\n\r\n<a>",
            "transient",
        ),
        ("", "transient"),
    ] {
        let aws = at(&answering(answer).await);
        let error = aws.credentials(&NativeId::new("ann")).await.unwrap_err();
        assert_eq!(error.kind.as_str(), kind, "{answer}: {}", error.whole());
        // A change that may have been made is never an error that somebody repeats.
        let change = aws
            .caller
            .iam("CreateAccessKey", &[])
            .await
            .unwrap_err()
            .of_change();
        let certain = matches!(kind, "auth_expired" | "denied" | "full")
            || answer.contains("Throttling")
            || answer.contains("Teapot");
        assert_eq!(change.is_err(), certain, "{answer}: {change:?}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = at(&url)
        .credentials(&NativeId::new("ann"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(!at(&url).check().await.unwrap().is_good());
}
