//! On a real disk, with real programs that reload.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::conformance::{Fixture, run};
use crate::connector::CredentialKind;

struct Lab {
    folder: tempfile::TempDir,
    files: Files,
}

impl Lab {
    fn new(bundle: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut web =
            json!({"parts": {"key": {"file": "tls.key"}, "certificate": {"file": "tls.crt"}}});
        for (name, value) in bundle.as_object().unwrap() {
            web[name] = value.clone();
        }
        let settings = json!({"root": folder.path(), "bundles": {"web": web}});
        Self {
            files: Files::from_settings("files", settings).unwrap(),
            folder,
        }
    }

    /// With a program that appends to `calls`, and ends as the file `verdict` says.
    fn reloading(timeout_ms: u64) -> Self {
        let lab = Self::new(json!({}));
        let program = lab.path("reload.sh");
        let script = format!(
            "#!/bin/sh\necho \"$TENURE_CREDENTIAL $1 $(cat {0}/web/tls.key)\" >>{0}/calls\nenv >{0}/env\n. {0}/verdict\n",
            lab.folder.path().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        lab.verdict("exit 0");
        lab.limited(timeout_ms)
    }

    /// The same, with another time for the program.
    fn limited(self, timeout_ms: u64) -> Self {
        let web = json!({
            "parts": {"key": {"file": "tls.key"}, "certificate": {"file": "tls.crt"}},
            "reload": {"command": [self.path("reload.sh"), "now"], "timeout_ms": timeout_ms},
        });
        let settings = json!({"root": self.folder.path(), "bundles": {"web": web}});
        Self {
            files: Files::from_settings("files", settings).unwrap(),
            ..self
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn verdict(&self, text: &str) {
        std::fs::write(self.path("verdict"), text).unwrap();
    }

    fn calls(&self) -> usize {
        std::fs::read_to_string(self.path("calls"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    async fn store(&self, id: &str, content: &str) -> Result<Outcome, Error> {
        self.apply(Operation::StoreCredential(stored(id, content)))
            .await
    }

    async fn activate(&self, id: &str) -> Result<Outcome, Error> {
        let (account, credential) = (web(), CredentialId::new(id));
        self.apply(Operation::ActivateCredential {
            account,
            credential,
        })
        .await
    }

    async fn destroy(&self, id: &str) -> Result<Outcome, Error> {
        let (account, credential) = (web(), CredentialId::new(id));
        self.apply(Operation::DestroyCredential {
            account,
            credential,
        })
        .await
    }

    async fn apply(&self, operation: Operation) -> Result<Outcome, Error> {
        let key = OperationKey {
            idempotency: "k".to_owned(),
            attempt: 1,
            epoch: 1,
        };
        self.files.apply(&operation, &key).await
    }

    async fn active(&self, id: &str) -> bool {
        let (account, credential) = (web(), CredentialId::new(id));
        let claim = Claim::CredentialActive {
            account,
            credential,
        };
        matches!(self.files.verify(&claim).await.unwrap(), Verdict::Proven(_))
    }

    async fn kept(&self, id: &str) -> bool {
        let (account, credential) = (web(), CredentialId::new(id));
        let claim = Claim::CredentialStored {
            account,
            credential,
        };
        matches!(self.files.verify(&claim).await.unwrap(), Verdict::Proven(_))
    }
}

fn web() -> NativeId {
    NativeId::new("web")
}

fn stored(id: &str, content: &str) -> StoredCredential {
    let secret = |text: String| secrecy::SecretString::from(text);
    StoredCredential {
        account: web(),
        credential: CredentialId::new(id),
        parts: [
            ("key".to_owned(), secret(format!("key of {content}"))),
            (
                "certificate".to_owned(),
                secret(format!("certificate of {content}")),
            ),
        ]
        .into(),
    }
}

fn is_done(outcome: Result<Outcome, Error>) -> Receipt {
    match outcome {
        Ok(Outcome::Done(receipt)) => receipt,
        other => panic!("{other:?}"),
    }
}

fn is_so(outcome: Result<Outcome, Error>) {
    assert!(matches!(outcome, Ok(Outcome::AlreadySo(_))), "{outcome:?}");
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let lab = Lab::new(json!({}));
    let fixture = Fixture {
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new("c")
    };
    let report = run(Arc::new(lab.files), fixture).await;
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn a_version_is_kept_then_read_then_taken_back_then_gone() {
    let lab = Lab::new(json!({"parts": {
        "key": {"file": "tls.key", "mode": "0640"}, "certificate": {"file": "tls.crt"},
    }}));
    let receipt = is_done(lab.store("certificate:1", "one").await);
    is_so(lab.store("certificate:1", "one").await);
    assert!(!lab.path("web/tls.key").exists(), "kept, and not read yet");
    assert!(lab.kept("certificate:1").await && !lab.active("certificate:1").await);
    // The reference can be used before anybody reads it.
    let reference = receipt.after.unwrap()["parts"]["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let reference = crate::secret::SecretRef::try_from(reference).unwrap();
    use secrecy::ExposeSecret as _;
    assert_eq!(reference.resolve().unwrap().expose_secret(), "key of one");

    is_done(lab.activate("certificate:1").await);
    is_so(lab.activate("certificate:1").await);
    assert_eq!(lab.read("web/tls.key"), "key of one");
    assert_eq!(lab.read("web/tls.crt"), "certificate of one");
    let mode = |name: &str| {
        std::fs::metadata(lab.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("web/tls.key"), mode("web/tls.crt")), (0o640, 0o644));

    is_done(lab.store("certificate:2", "two").await);
    assert_eq!(lab.read("web/tls.key"), "key of one");
    is_done(lab.activate("certificate:2").await);
    assert_eq!(
        (lab.read("web/tls.key"), lab.read("web/tls.crt")),
        ("key of two".to_owned(), "certificate of two".to_owned())
    );
    is_done(lab.activate("certificate:1").await);
    assert_eq!(lab.read("web/tls.key"), "key of one", "the way back");
    is_done(lab.activate("certificate:2").await);

    let error = lab.destroy("certificate:2").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    is_done(lab.destroy("certificate:1").await);
    is_so(lab.destroy("certificate:1").await);
    assert!(!lab.kept("certificate:1").await && lab.active("certificate:2").await);
    let error = lab.activate("certificate:1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let listed = lab.files.credentials(&web()).await.unwrap().value;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].kind, listed[0].active),
        (CredentialKind::Certificate, Some(true))
    );
}

#[tokio::test]
async fn whoever_reads_sees_two_files_of_one_version_or_fails_to_open() {
    let lab = Lab::new(json!({}));
    for id in ["1", "2"] {
        is_done(lab.store(id, id).await);
    }
    is_done(lab.activate("1").await);
    let folder = lab.path("web");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut seen = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // As a careful consumer reads: one folder, then both files in it.
                let version = folder.join(std::fs::read_link(folder.join("current")).unwrap());
                let key = std::fs::read_to_string(version.join("tls.key")).unwrap();
                let certificate = std::fs::read_to_string(version.join("tls.crt")).unwrap();
                assert_eq!(key.replace("key", "certificate"), certificate);
                std::fs::read_to_string(folder.join("tls.key")).unwrap();
                seen += 1;
            }
            seen
        })
    };
    for _ in 0..50 {
        is_done(lab.activate("2").await);
        is_done(lab.activate("1").await);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
}

#[tokio::test]
async fn the_consumer_is_told_once_and_its_refusal_takes_the_switch_back() {
    let lab = Lab::reloading(10_000);
    is_done(lab.store("1", "one").await);
    is_done(lab.activate("1").await);
    is_so(lab.activate("1").await);
    assert_eq!(
        lab.read("calls"),
        "1 now key of one\n",
        "it saw the new files"
    );
    let environment = lab.read("env");
    assert!(!environment.contains("CARGO"), "{environment}");

    is_done(lab.store("2", "two").await);
    lab.verdict("echo 'nginx: bad certificate' >&2; exit 3");
    let error = lab.activate("2").await.unwrap_err();
    assert!(
        error.message.contains("exit status: 3")
            && error.message.contains("nginx: bad certificate"),
        "{error}"
    );
    assert!(
        error
            .message
            .contains("the version before is in place again"),
        "{error}"
    );
    assert_eq!(lab.read("web/tls.key"), "key of one");
    assert!(lab.active("1").await && !lab.active("2").await);
    lab.verdict("exit 0");
    is_done(lab.activate("2").await);
    assert!(lab.active("2").await);

    // With nothing before it, nothing is in place after a refusal.
    let fresh = Lab::reloading(10_000);
    fresh.verdict("exit 1");
    is_done(fresh.store("1", "one").await);
    fresh.activate("1").await.unwrap_err();
    assert!(!fresh.path("web/tls.key").exists());
}

#[tokio::test]
async fn a_consumer_that_hangs_is_ended_and_told_again() {
    let mut lab = Lab::reloading(300);
    is_done(lab.store("1", "one").await);
    lab.verdict("echo started >&2; exec sleep 1000");
    // A busy machine may take longer to start it than its time is.
    let mut told = String::new();
    for limit_ms in [300, 3_000, 30_000] {
        if told.ends_with(": started") {
            break;
        }
        lab = lab.limited(limit_ms);
        let Outcome::Ambiguous { reason } = lab.activate("1").await.unwrap() else {
            panic!();
        };
        assert!(reason.contains(&format!("after {limit_ms} ms")), "{reason}");
        told = reason;
    }
    assert!(told.ends_with(" ms: started"), "{told}");
    assert!(!lab.active("1").await, "nobody knows whether it is read");
    let calls = lab.calls();
    let lab = lab.limited(10_000);
    // A program that talks without end does not hold us up.
    lab.verdict("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 0");
    is_done(lab.activate("1").await);
    assert_eq!(lab.calls(), calls + 1);
    assert!(lab.active("1").await);
    // One that leaves a child behind with its output open neither.
    lab.verdict("sleep 30 & exit 0");
    is_done(lab.store("2", "two").await);
    is_done(lab.activate("2").await);
}

#[tokio::test]
async fn a_switch_whose_reload_was_never_made_is_made_up_for() {
    let lab = Lab::reloading(10_000);
    is_done(lab.store("1", "one").await);
    is_done(lab.store("2", "two").await);
    is_done(lab.activate("1").await);
    // As after a crash between the two: switched, not told.
    let (name, bundle) = lab.files.bundle(&web()).unwrap();
    let place = Place::hold(name, bundle, lab.folder.path()).unwrap();
    place
        .switch(place.version(&CredentialId::new("2")).unwrap().as_ref())
        .unwrap();
    drop(place);
    assert!(!lab.active("2").await);
    is_done(lab.activate("2").await);
    assert_eq!(lab.calls(), 2);
    assert!(lab.active("2").await);
}

#[tokio::test]
async fn what_was_changed_by_hand_shows_and_is_not_switched_to() {
    let lab = Lab::new(json!({}));
    is_done(lab.store("1", "one").await);
    is_done(lab.activate("1").await);
    let receipt = is_done(lab.store("2", "two").await);
    let path = receipt.after.unwrap()["parts"]["key"]
        .as_str()
        .unwrap()
        .replace("file:", "");
    std::fs::write(&path, "another").unwrap();
    assert!(!lab.kept("2").await);
    let error = lab.activate("2").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(lab.read("web/tls.key"), "key of one");
    let error = lab.store("1", "other content").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    // Somebody's file where a link will be is put aside.
    let fresh = Lab::new(json!({}));
    std::fs::create_dir(fresh.path("web")).unwrap();
    std::fs::write(fresh.path("web/tls.key"), "by hand").unwrap();
    is_done(fresh.store("1", "one").await);
    is_done(fresh.activate("1").await);
    assert_eq!(fresh.read("web/tls.key.before"), "by hand");
    assert_eq!(fresh.read("web/tls.key"), "key of one");
}

#[tokio::test]
async fn nothing_is_written_where_a_link_leads_or_everybody_may_write() {
    let outside = tempfile::tempdir().unwrap();
    let lab = Lab::new(json!({"folder": "a/web"}));
    std::os::unix::fs::symlink(outside.path(), lab.path("a")).unwrap();
    let error = lab.store("1", "one").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("symbolic link"), "{error}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!lab.files.check().await.unwrap().is_good());

    let lab = Lab::new(json!({}));
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
    };
    is_done(lab.store("1", "one").await);
    open(&lab.path("web"), 0o777);
    let error = lab.store("2", "two").await.unwrap_err();
    assert!(error.message.contains("chmod o-w"), "{error}");
    open(&lab.path("web"), 0o755);
    open(lab.folder.path(), 0o1777);
    lab.store("2", "two").await.unwrap_err();
    open(lab.folder.path(), 0o755);
    is_done(lab.store("2", "two").await);
    // A link in a version in place of its file is not read.
    let receipt = is_done(lab.store("3", "three").await);
    let path = receipt.after.unwrap()["parts"]["key"]
        .as_str()
        .unwrap()
        .replace("file:", "");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(!lab.kept("3").await);
}

#[tokio::test]
async fn bad_input_gets_a_clear_error_and_leaves_nothing() {
    let lab = Lab::new(json!({}));
    let mut few = stored("1", "one");
    few.parts.remove("key");
    let mut many = stored("1", "one");
    many.parts.insert("chain".to_owned(), "x".to_owned().into());
    let mut huge = stored("1", "one");
    huge.parts
        .insert("key".to_owned(), "x".repeat(5 * 1024 * 1024).into());
    for wrong in [few, many, huge] {
        let error = lab
            .apply(Operation::StoreCredential(wrong))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    let mut elsewhere = stored("1", "one");
    elsewhere.account = NativeId::new("../web");
    let error = lab
        .apply(Operation::StoreCredential(elsewhere))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("name web"), "{error}");
    // A name that looks like a path is a name.
    is_done(lab.store("../../x", "one").await);
    assert!(lab.kept("../../x").await);
    // Left by somebody who stopped half-way: it is no version, and it goes.
    let partial = lab.path("web/.versions/.partial-x");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("tls.key"), "half").unwrap();
    is_done(lab.store("2", "two").await);
    assert!(!partial.exists());
    assert_eq!(lab.files.credentials(&web()).await.unwrap().value.len(), 2);
}
