//! Real processes: the example plugin under the whole suite, and one that misbehaves in every way we know.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::*;
use crate::connector::{Attributes, EntitlementName, NativeId, NewAccount, OperationName};

mod example;

/// How long to wait for something that the operating system does in its own time.
const PATIENCE: Duration = Duration::from_secs(10);

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/example_directory.py")
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: "case/step/1".to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

/// Does what its first argument says. Its second one is a folder: it notes there each start, by process id.
const MISBEHAVING: &str = r#"
import json, os, select, sys, time
mode, folder = sys.argv[1], sys.argv[2]
open(os.path.join(folder, "pids"), "a").write(f"{os.getpid()}\n")
first = len(open(os.path.join(folder, "pids")).read().split()) == 1
caps = {"operations": ["create_account", "disable_account", "set_password", "issue_credential"],
        "claims": ["account_exists", "credential_works"],
        "lists": ["account"], "finds_by_owner": True, "renewal": True}
out = sys.stdout.buffer
def say(id, **rest):
    out.write(json.dumps({"id": id, **rest}).encode() + b"\n"); out.flush()
def nothing(r):
    return {"outcome": "done"} if r["call"] == "apply" else None
waiting = []
for line in sys.stdin.buffer:
    r = json.loads(line)
    if r["call"] == "hello":
        hello = r
        if mode == "mute": time.sleep(1000)
        if mode == "dies at once": sys.exit("no licence")
        if mode == "from the future": say(0, ok={"protocol": 7}); continue
        if mode == "refuses": say(0, error={"kind": "invalid", "message": "config.url is missing"}); continue
        say(0, ok={"protocol": 1, "name": "test", "version": "0", "concurrent": mode.startswith("concurrent"),
                   "capabilities": caps})
        continue
    open(os.path.join(folder, "calls"), "a").write(r["call"] + "\n")
    if mode == "dies" or mode == "dies once" and first:
        print("boom: the disk is full", file=sys.stderr, flush=True); os._exit(3)
    elif mode == "hangs on a write" and r["call"] == "apply": time.sleep(1000)
    elif mode == "hangs" or mode == "hangs once" and first: time.sleep(1000)
    elif mode == "garbage": out.write(b"Traceback (most recent call last):\n"); out.flush()
    elif mode == "not utf-8": out.write(b"\xff\xfe\n"); out.flush()
    elif mode == "endless line":
        while True: out.write(b"x" * 65536)
    elif mode == "wrong id": say(r["id"] + 1000, ok=None)
    elif mode == "wrong shape": say(r["id"], ok={"outcome": "perhaps", "verdict": 3, "items": "all"})
    elif mode == "both": say(r["id"], ok=None, error={"kind": "denied", "message": "no"})
    elif mode == "says timeout": say(r["id"], error={"kind": "timeout", "message": "the API did not answer"})
    elif mode == "denies": say(r["id"], error={"kind": "denied", "message": "not yours"})
    elif mode == "rate": say(r["id"], error={"kind": "rate_limited", "message": "slow", "until": "2030-01-01T00:00:00Z"})
    elif mode == "strange": say(r["id"], error={"kind": "mercury retrograde", "message": "wait"})
    elif mode == "echo": say(r["id"], ok={"outcome": "done", "receipt": {"name": line.decode(), "after": [r]}})
    elif mode == "echo in error": say(r["id"], error={"kind": "invalid", "message": "bad request: " + line.decode()})
    elif mode == "mints":
        if r["call"] == "verify":
            say(r["id"], ok={"verdict": "proven" if r["claim"]["secret"] == "S3cret" else "refuted", "by": "login",
                             "seen": {"tried": r["claim"]["secret"]}}); continue
        say(r["id"], ok={"outcome": "done", "minted": {"public": "AKIA", "secret": "S3cret"}, "receipt": {
            "credential": {"id": "7", "kind": "api_key"}, "after": {"shown": "S3cret"}}})
    elif mode == "mints nonsense": say(r["id"], ok={"outcome": "done", "minted": ["S3cret"], "receipt": {}})
    elif mode == "mints later": say(r["id"], ok={"outcome": "accepted", "handle": {"token": "t", "poll_after_ms": 1}})
    elif mode == "wishes":
        say(r["id"], ok={"window": {"start": "2030-01-01T00:00:00Z", "end": "2030-01-02T00:00:00Z"}, "ask_again_s": 60}
            if r["credential"] == "7" else {})
    elif mode == "is full": say(r["id"], error={"kind": "full", "message": "two keys already"})
    elif mode == "environment": say(r["id"], ok={"outcome": "done", "receipt": {"after": [dict(os.environ), hello]}})
    elif mode == "one at a time":
        early = select.select([sys.stdin.buffer], [], [], 0.02)[0]
        say(r["id"], error={"kind": "bug", "message": "overlap"}) if early else say(r["id"], ok=nothing(r))
    elif mode == "slow first":
        time.sleep(0.4 if r["call"] == "apply" else 0); say(r["id"], ok=nothing(r))
    elif mode == "concurrent, backwards":
        waiting.append(r)
        if len(waiting) == 3:
            for r in reversed(waiting): say(r["id"], ok={"outcome": "done", "receipt": {"name": r["operation"]["name"]}})
            waiting = []
    elif mode == "concurrent, one hangs":
        if r["call"] == "apply": waiting.append((r["id"], time.time()))
        else: say(r["id"], ok=None)
        if waiting and time.time() - waiting[0][1] > 0.7: say(waiting.pop()[0], ok={"outcome": "done"})
    elif mode == "concurrent, large": say(r["id"], ok={"outcome": "done", "receipt": {"after": r["operation"]}})
    elif mode == "chatty":
        for n in range(300): print("x" * 40000, file=sys.stderr)
        sys.stderr.buffer.write(b"\xff\xfe bytes\n" * 1000); sys.stderr.flush()
        say(r["id"], ok=nothing(r))
    else: say(r["id"], ok=nothing(r))
"#;

struct Misbehaving {
    folder: tempfile::TempDir,
    exec: Exec,
}

impl Misbehaving {
    fn settings(folder: &Path, mode: &str, more: Value) -> Value {
        let mut settings = json!({
            "command": ["python3", "-u", "-c", MISBEHAVING, mode, folder],
            "timeout_ms": 5_000,
            "restart": {"first_ms": 20_000, "max_ms": 20_000},
            // Stated, so that every process that is started is one of the test's.
            "capabilities": {
                "operations": ["create_account", "disable_account", "set_password", "issue_credential"],
                "claims": ["account_exists", "credential_works"],
                "lists": ["account"],
                "finds_by_owner": true,
            },
        });
        settings
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        settings
    }

    fn new(mode: &str) -> Self {
        Self::with(mode, json!({}))
    }

    fn with(mode: &str, more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Self::settings(folder.path(), mode, more);
        Self {
            exec: Exec::from_settings("crm", settings).unwrap(),
            folder,
        }
    }

    fn pids(&self) -> Vec<String> {
        std::fs::read_to_string(self.folder.path().join("pids"))
            .unwrap_or_default()
            .split_whitespace()
            .map(ToOwned::to_owned)
            .collect()
    }

    async fn write(&self) -> Result<Outcome, Error> {
        self.exec
            .apply(
                &Operation::DisableAccount {
                    account: NativeId::new("ann"),
                },
                &key(),
            )
            .await
    }

    async fn read(&self) -> Result<Option<Object>, Error> {
        self.exec
            .get(&ObjectRef::AccountNamed("ann".to_owned()))
            .await
    }
}

fn new_account(name: &str) -> NewAccount {
    NewAccount {
        name: name.to_owned(),
        owner: format!("owner-of-{name}"),
        attributes: Attributes::new(),
        enabled: true,
        password: None,
    }
}

#[track_caller]
fn ambiguous(answer: Result<Outcome, Error>) -> String {
    match answer {
        Ok(Outcome::Ambiguous { reason }) => reason,
        other => panic!("expected ambiguous, got {other:?}"),
    }
}

/// Waits until no process `pid` is left, not even a zombie.
async fn is_gone(pid: &str) {
    let gone = async {
        while Path::new("/proc").join(pid).exists() {
            // sleeps: between two looks at the process table
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .unwrap_or_else(|_| panic!("process {pid} is still there"));
}

#[tokio::test]
async fn a_plugin_that_dies_with_a_write_in_its_hands_leaves_it_ambiguous() {
    let plugin = Misbehaving::new("dies");
    let reason = ambiguous(plugin.write().await);
    assert!(
        reason.contains("exit status: 3") && reason.contains("the disk is full"),
        "{reason}"
    );
    is_gone(&plugin.pids()[0]).await;
    // It died without ever answering, so it is not started again at once: nothing is sent, and that is certain.
    let error = plugin.write().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.contains("not started again"), "{error}");
    assert_eq!(plugin.pids().len(), 1);

    let plugin = Misbehaving::new("dies");
    assert_eq!(plugin.read().await.unwrap_err().kind, ErrorKind::Transient);
}

#[tokio::test]
async fn a_plugin_that_died_is_started_again_by_the_next_call() {
    let plugin = Misbehaving::with(
        "dies once",
        json!({"restart": {"first_ms": 1, "max_ms": 1}}),
    );
    ambiguous(plugin.write().await);
    is_gone(&plugin.pids()[0]).await;
    let answer = tokio::time::timeout(PATIENCE, async {
        loop {
            match plugin.write().await {
                Err(error) if error.kind == ErrorKind::Unreachable => {
                    tokio::task::yield_now().await
                }
                answer => break answer,
            }
        }
    });
    assert!(matches!(answer.await.unwrap(), Ok(Outcome::Done(_))));
    assert_eq!(plugin.pids().len(), 2);
}

#[tokio::test]
async fn a_plugin_that_worked_and_was_killed_is_started_again_at_once() {
    let plugin = Misbehaving::new("well");
    plugin.write().await.unwrap();
    let pid = plugin.pids()[0].clone();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    is_gone(&pid).await;
    assert!(matches!(plugin.write().await, Ok(Outcome::Done(_))));
    assert_eq!(plugin.pids().len(), 2);
}

#[tokio::test]
async fn a_plugin_that_hangs_is_ended() {
    let plugin = Misbehaving::with("hangs", json!({"timeout_ms": 300}));
    let reason = ambiguous(plugin.write().await);
    assert!(reason.contains("300 ms"), "{reason}");
    is_gone(&plugin.pids()[0]).await;

    let plugin = Misbehaving::with(
        "hangs once",
        json!({"timeout_ms": 300, "restart": {"first_ms": 1, "max_ms": 1}}),
    );
    assert_eq!(plugin.read().await.unwrap_err().kind, ErrorKind::Timeout);
    is_gone(&plugin.pids()[0]).await;
    assert_eq!(plugin.read().await.unwrap(), None);
}

#[tokio::test]
async fn nonsense_is_a_bug_and_after_a_write_ambiguous() {
    for (mode, part) in [
        ("garbage", "not a JSON object"),
        ("not utf-8", "cannot be read"),
        ("endless line", "longer than 4194304 bytes"),
        ("wrong id", "no such question"),
        ("both", "either `ok` or `error`"),
    ] {
        let plugin = Misbehaving::new(mode);
        let error = plugin.read().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Bug, "{mode}: {error}");
        assert!(error.message.contains(part), "{mode}: {error}");
        is_gone(&plugin.pids()[0]).await;
        let plugin = Misbehaving::new(mode);
        let reason = ambiguous(plugin.write().await);
        assert!(reason.contains(part), "{mode}: {reason}");
    }
    let plugin = Misbehaving::new("wrong shape");
    assert_eq!(plugin.read().await.unwrap_err().kind, ErrorKind::Bug);
    assert_eq!(
        plugin
            .exec
            .list(Kind::Account, None)
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Bug
    );
    let claim = Claim::AccountExists {
        owner: "x".to_owned(),
    };
    assert_eq!(
        plugin.exec.verify(&claim).await.unwrap_err().kind,
        ErrorKind::Bug
    );
    ambiguous(plugin.write().await);
    assert_eq!(
        plugin.pids().len(),
        1,
        "a wrong shape is on a good line: the process may go on"
    );
}

#[tokio::test]
async fn errors_keep_their_kind() {
    for (mode, kind) in [
        ("denies", ErrorKind::Denied),
        (
            "rate",
            ErrorKind::RateLimited {
                until: "2030-01-01T00:00:00Z".parse().unwrap(),
            },
        ),
        ("strange", ErrorKind::Bug),
    ] {
        assert_eq!(
            Misbehaving::new(mode).write().await.unwrap_err().kind,
            kind,
            "{mode}"
        );
    }
    let plugin = Misbehaving::new("says timeout");
    assert_eq!(plugin.read().await.unwrap_err().kind, ErrorKind::Timeout);
    ambiguous(plugin.write().await);
}

#[tokio::test]
async fn what_is_not_declared_never_reaches_the_plugin() {
    let plugin = Misbehaving::new("well");
    let grant = Operation::Grant {
        account: NativeId::new("ann"),
        entitlement: EntitlementName::new("staff"),
    };
    let object = ObjectRef::Account(NativeId::new("ann"));
    let claim = Claim::AccountAbsent {
        account: NativeId::new("ann"),
    };
    let (ann, id) = (NativeId::new("ann"), CredentialId::new("7"));
    for kind in [
        plugin.exec.apply(&grant, &key()).await.unwrap_err().kind,
        plugin.exec.verify(&claim).await.unwrap_err().kind,
        plugin
            .exec
            .list(Kind::Entitlement, None)
            .await
            .unwrap_err()
            .kind,
        plugin.exec.changes(None).await.unwrap_err().kind,
        plugin.exec.dependents(&object).await.unwrap_err().kind,
        plugin.exec.renewal(&ann, &id).await.unwrap_err().kind,
    ] {
        assert_eq!(kind, ErrorKind::Unsupported);
    }
    assert!(plugin.pids().is_empty(), "it was not even started");
}

#[tokio::test]
async fn when_to_renew_is_asked() {
    let plugin = Misbehaving::with("wishes", json!({"capabilities": {"renewal": true}}));
    let ann = NativeId::new("ann");
    let ask = async |id: &str| plugin.exec.renewal(&ann, &CredentialId::new(id)).await;
    let told = ask("7").await.unwrap();
    let window = told.window.unwrap();
    assert_eq!(window.start.to_rfc3339(), "2030-01-01T00:00:00+00:00");
    assert_eq!(window.end.to_rfc3339(), "2030-01-02T00:00:00+00:00");
    assert_eq!(told.ask_again_s, Some(60));
    assert_eq!(ask("8").await.unwrap(), Renewal::default());
}

#[tokio::test]
async fn a_password_that_is_echoed_is_taken_out() {
    let password = SecretString::from("s3cret \"quoted\" ü".to_owned());
    let set = Operation::SetPassword {
        account: NativeId::new("ann"),
        password: password.clone(),
    };
    let plugin = Misbehaving::new("echo");
    let Ok(Outcome::Done(receipt)) = plugin.exec.apply(&set, &key()).await else {
        panic!()
    };
    let text = serde_json::to_string(&receipt).unwrap();
    assert!(
        !text.contains("s3cret") && text.contains("[REDACTED]"),
        "{text}"
    );
    let plugin = Misbehaving::new("echo in error");
    let error = plugin.exec.apply(&set, &key()).await.unwrap_err();
    assert!(
        !error.whole().contains("s3cret") && error.whole().contains("[REDACTED]"),
        "{}",
        error.whole()
    );
}

#[tokio::test]
async fn a_plugin_gets_a_short_environment_and_its_secrets_on_its_input() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    std::fs::write(&secret, "t0ken\n").unwrap();
    let plugin = Misbehaving::with(
        "environment",
        json!({
            "env": {"MODE": "value:test", "TOKEN_FILE": format!("file:{}", secret.display())},
            "secrets": {"token": format!("file:{}", secret.display())},
            "config": {"url": "https://crm.example"},
        }),
    );
    let Ok(Outcome::Done(receipt)) = plugin.write().await else {
        panic!()
    };
    let after = receipt.after.unwrap();
    let (environment, hello) = (&after[0], &after[1]);
    assert_eq!(environment["MODE"], "test");
    assert_eq!(environment["TOKEN_FILE"], "t0ken");
    assert!(environment["PATH"].is_string());
    // A shell or a version manager in front of Python adds a few of its own.
    let may_be_there = |name: &str| {
        process::ENV_KEPT.contains(&name)
            || [
                "MODE",
                "TOKEN_FILE",
                "LC_CTYPE",
                "PWD",
                "OLDPWD",
                "SHLVL",
                "_",
            ]
            .contains(&name)
            || name.contains("PYENV")
    };
    let ours: Vec<String> = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| !may_be_there(name))
        .collect();
    assert!(!ours.is_empty(), "or the next line proves nothing");
    let seen: Vec<_> = ours
        .iter()
        .filter(|name| !environment[name].is_null())
        .collect();
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(
        *hello,
        json!({
            "id": 0, "call": "hello", "protocol": 1, "system": "crm",
            "config": {"url": "https://crm.example"}, "secrets": {"token": "t0ken"},
        })
    );
}

#[tokio::test]
async fn one_request_at_a_time_unless_the_plugin_takes_more() {
    let plugin = Misbehaving::new("one at a time");
    let (one, two, three) = tokio::join!(plugin.write(), plugin.read(), plugin.write());
    assert!(
        one.is_ok() && two.is_ok() && three.is_ok(),
        "{one:?} {two:?} {three:?}"
    );
    assert_eq!(plugin.pids().len(), 1);

    let plugin = Misbehaving::new("concurrent, backwards");
    let create = async |name: &str| match plugin
        .exec
        .apply(&Operation::CreateAccount(new_account(name)), &key())
        .await
    {
        Ok(Outcome::Done(receipt)) => receipt.name.unwrap(),
        other => panic!("{other:?}"),
    };
    // It answers only once it has all three, and in the wrong order.
    let answers = tokio::join!(create("ann"), create("bob"), create("cleo"));
    assert_eq!(
        answers,
        ("ann".to_owned(), "bob".to_owned(), "cleo".to_owned())
    );
}

#[tokio::test]
async fn several_processes_when_they_are_allowed_and_needed() {
    let plugin = Misbehaving::with("slow first", json!({"processes_max": 2}));
    for _ in 0..3 {
        plugin.read().await.unwrap();
    }
    assert_eq!(
        plugin.pids().len(),
        1,
        "one is enough for one call after another"
    );
    let (one, two, three, four) =
        tokio::join!(plugin.write(), plugin.write(), plugin.read(), plugin.read());
    assert!(one.is_ok() && two.is_ok() && three.is_ok() && four.is_ok());
    assert_eq!(plugin.pids().len(), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_shift_the_answers() {
    let plugin = Misbehaving::new("slow first");
    plugin.read().await.unwrap();
    let dropped = tokio::time::timeout(Duration::from_millis(50), plugin.write()).await;
    assert!(dropped.is_err());
    assert_eq!(
        plugin.read().await.unwrap(),
        None,
        "the next call gets its own answer"
    );
    assert!(matches!(plugin.write().await, Ok(Outcome::Done(_))));
    assert_eq!(plugin.pids().len(), 1);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_sent() {
    let plugin = Misbehaving::new("slow first");
    plugin.read().await.unwrap();
    let queued = async { tokio::time::timeout(Duration::from_millis(50), plugin.write()).await };
    let (first, queued) = tokio::join!(plugin.write(), queued);
    assert!(first.is_ok() && queued.is_err());
    plugin.read().await.unwrap();
    let calls = std::fs::read_to_string(plugin.folder.path().join("calls")).unwrap();
    assert_eq!(calls, "get\napply\nget\n");
}

#[tokio::test]
async fn one_slow_request_does_not_end_a_plugin_that_answers_others() {
    let plugin = Misbehaving::with("concurrent, one hangs", json!({"timeout_ms": 400}));
    // It answers in the end, when nobody waits any more; that is no reason to end it either.
    let reading = async {
        for _ in 0..40 {
            assert_eq!(plugin.read().await.unwrap(), None);
            // sleeps: spreads the calls over the time in which the late answer comes
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let (written, ()) = tokio::join!(plugin.write(), reading);
    ambiguous(written);
    assert_eq!(plugin.pids().len(), 1);
}

#[tokio::test]
async fn large_requests_and_large_answers_do_not_wait_for_each_other() {
    let plugin = Misbehaving::with("concurrent, large", json!({"timeout_ms": 30_000}));
    let create = async |n: usize| {
        let mut account = new_account(&format!("a{n}"));
        account
            .attributes
            .insert("photo".to_owned(), json!("x".repeat(300_000)));
        plugin
            .exec
            .apply(&Operation::CreateAccount(account), &key())
            .await
    };
    let answers = futures_util::future::join_all((0..30).map(create)).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(Outcome::Done(_))))
    );

    let mut account = new_account("huge");
    account
        .attributes
        .insert("photo".to_owned(), json!("x".repeat(LINE_BYTES_MAX)));
    let error = plugin
        .exec
        .apply(&Operation::CreateAccount(account), &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_flood_on_standard_error_stops_nobody() {
    let plugin = Misbehaving::with("chatty", json!({"timeout_ms": 20_000}));
    assert!(matches!(plugin.write().await, Ok(Outcome::Done(_))));
}

#[tokio::test]
async fn nothing_is_left_when_the_connector_is_dropped() {
    let plugin = Misbehaving::new("well");
    plugin.write().await.unwrap();
    let pid = plugin.pids()[0].clone();
    assert!(Path::new("/proc").join(&pid).exists());
    drop(plugin);
    is_gone(&pid).await;

    // One that is busy for ever is ended when its time is over.
    let plugin = Misbehaving::with("hangs on a write", json!({"timeout_ms": 500}));
    plugin.read().await.unwrap();
    let pid = plugin.pids()[0].clone();
    let dropped = tokio::time::timeout(Duration::from_millis(50), plugin.write()).await;
    assert!(dropped.is_err());
    drop(plugin);
    is_gone(&pid).await;
}

#[tokio::test]
async fn a_plugin_that_cannot_greet_is_explained() {
    for (mode, part) in [
        ("mute", "no answer to `hello` within 1500 ms"),
        ("dies at once", "no licence"),
        ("from the future", "it speaks protocol 7, we speak 1"),
        ("refuses", "config.url is missing"),
    ] {
        let start = json!({"start_ms": if mode == "mute" { 1_500 } else { 10_000 }});
        let plugin = Misbehaving::with(mode, start.clone());
        let error = plugin.write().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{mode}: {error}");
        assert!(error.message.contains(part), "{mode}: {error}");
        let health = plugin.exec.check().await.unwrap();
        assert!(
            health
                .findings
                .iter()
                .any(|finding| finding.what == "reach" && !finding.good),
            "{health:?}"
        );

        // Asked at build time for what it can do, it says the same.
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Misbehaving::settings(folder.path(), mode, start);
        settings.as_object_mut().unwrap().remove("capabilities");
        let error = Exec::from_settings("crm", settings).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains(part), "{mode}: {error}");
    }
    let plugin = Misbehaving::with("well", json!({"command": ["/nonexistent/plugin"]}));
    let error = plugin.write().await.unwrap_err();
    assert!(
        error.message.contains("cannot start `/nonexistent/plugin`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_plugin_that_offers_less_than_was_promised_is_not_used() {
    let plugin = Misbehaving::with(
        "well",
        json!({"capabilities": {"operations": ["grant", "create_account"], "changes": true}}),
    );
    assert!(
        plugin
            .exec
            .capabilities()
            .operations
            .contains(&OperationName::Grant)
    );
    let error = plugin.exec.changes(None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(
        error.message.contains("no longer offers grant, changes"),
        "{error}"
    );
}

#[test]
fn a_wrong_setting_is_named_and_no_secret_repeated() {
    for (settings, part) in [
        (json!({}), "command"),
        (json!({"command": []}), "`command` is empty"),
        (json!({"command": [""]}), "`command` is empty"),
        (
            json!({"command": ["x"], "timeout_ms": 0}),
            "`timeout_ms` is 0",
        ),
        (
            json!({"command": ["x"], "processes_max": 0}),
            "`processes_max` is 0",
        ),
        (
            json!({"command": ["x"], "restart": {"first_ms": 5, "max_ms": 1}}),
            "`restart.first_ms` is 5",
        ),
        (json!({"command": ["x"], "colour": 1}), "colour"),
        (
            json!({"command": ["x"], "env": {"A": "hunter2"}}),
            "`value:TEXT`",
        ),
        (
            json!({"command": ["x"], "env": {"A=B": "value:x"}}),
            "`env.A=B`",
        ),
        (
            json!({"command": ["x"], "secrets": {"a": "hunter2"}}),
            "never as a value",
        ),
        (
            json!({"command": ["x"], "secrets": {"a": "env:TENURE_NO_SUCH_VARIABLE"}}),
            "`secrets.a`",
        ),
        (
            json!({"command": ["x"], "capabilities": {"operations": ["fly"]}}),
            "fly",
        ),
    ] {
        let error = Exec::from_settings("crm", settings.clone()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid, "{settings}");
        let text = error.whole();
        assert!(
            text.contains(part) && text.contains("`crm`") && !text.contains("hunter2"),
            "{settings}: {text}"
        );
    }
}

fn issue() -> (Operation, crate::connector::Slot) {
    let (into, slot) = crate::connector::HandOver::slot();
    let new = crate::connector::NewCredential {
        account: NativeId::new("ann"),
        kind: crate::connector::CredentialKind::ApiKey,
        material: crate::connector::Material::BySystem,
        attributes: Attributes::new(),
        lifetime_s: None,
        label: None,
        into,
    };
    (Operation::IssueCredential(new), slot)
}

#[tokio::test]
async fn what_a_plugin_mints_is_handed_over_and_stands_in_no_receipt() {
    let plugin = Misbehaving::new("mints");
    let (operation, slot) = issue();
    let Outcome::Done(receipt) = plugin.exec.apply(&operation, &key()).await.unwrap() else {
        panic!();
    };
    assert!(!format!("{receipt:?}").contains("S3cret"), "{receipt:?}");
    assert_eq!(receipt.after, Some(json!({"shown": "[REDACTED]"})));
    let minted = slot.take().unwrap();
    assert_eq!(minted.credential.id.as_str(), "7");
    assert_eq!(minted.public.as_deref(), Some("AKIA"));
    assert_eq!(minted.secret.unwrap().expose_secret(), "S3cret");

    for mode in ["mints nonsense", "mints later"] {
        let (operation, slot) = issue();
        let reason = ambiguous(Misbehaving::new(mode).exec.apply(&operation, &key()).await);
        assert!(!reason.contains("S3cret"), "{mode}: {reason}");
        assert!(slot.take().is_none(), "{mode}");
    }
    let (operation, _) = issue();
    let full = Misbehaving::new("is full");
    let error = full.exec.apply(&operation, &key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
}

#[tokio::test]
async fn a_plugin_is_told_the_secret_to_try_and_its_answer_does_not_repeat_it() {
    let plugin = Misbehaving::new("mints");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "S3cret\n").unwrap();
    let works = |path: String| Claim::CredentialWorks {
        account: NativeId::new("ann"),
        credential: CredentialId::new("7"),
        secret: crate::secret::SecretRef::File(path),
    };
    let claim = works(file.path().display().to_string());
    let Verdict::Proven(seen) = plugin.exec.verify(&claim).await.unwrap() else {
        panic!();
    };
    assert_eq!(seen.seen, json!({"tried": "[REDACTED]"}));
    let missing = works("/no/such/file".to_owned());
    let error = plugin.exec.verify(&missing).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}
