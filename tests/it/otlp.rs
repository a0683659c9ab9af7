//! The trace of a joiner, as a receiver sees it that decodes with the messages of the OpenTelemetry project.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A receiver of its own, in a folder that also holds the configuration.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn start() -> Self {
        let lab = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let done = lab.script("start");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            done.status.success(),
            "tests/lab/otlp.sh did not start:\n{said}"
        );
        lab
    }

    fn script(&self, verb: &str) -> Output {
        Command::new("bash")
            .arg(root().join("tests/lab/otlp.sh"))
            .arg(verb)
            .arg(self.folder.path().join("otlp"))
            .output()
            .unwrap()
    }

    fn variable(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("otlp/env")).unwrap();
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        line.split('\'').nth(1).unwrap().to_owned()
    }

    /// What came, path and request.
    fn received(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.variable("TENURE_LAB_OTLP_FILE")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.script("stop");
    }
}

/// A company of one feed and one system, a program in another language.
fn configure(folder: &Path, telemetry: &str) -> PathBuf {
    let config = folder.join("config");
    let plugin = root().join("plugins/example_directory.py");
    let database = folder.join("directory.db");
    let write = |name: &str, text: String| {
        let path = config.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "tenure.yaml",
        format!("store: {{ url: 'sqlite:t.db' }}\n{telemetry}"),
    );
    write(
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\ncomplete: true\n\
         columns: { name: name, department: department }\nrequired: [name]\n"
            .to_owned(),
    );
    write(
        "systems/parking.yaml",
        format!(
            "name: parking\nkind: exec\nsettings:\n  command: [python3, '{}']\n  config: {{ database: '{}' }}\n\
             account: {{ name: lower(identity.key) }}\n",
            plugin.display(),
            database.display()
        ),
    );
    write(
        "policy/roles.yaml",
        "roles:\n  - name: everybody\n    when: \"true\"\n    accounts: [parking]\n".to_owned(),
    );
    std::fs::write(
        folder.join("people.csv"),
        "id,name,department\nZX81Q,Quetzalcoatl Oyelaran,Operations\n",
    )
    .unwrap();
    config
}

/// Hires one person and works it off.
fn hire(folder: &Path, config: &Path, variables: &[(&str, &str)]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .arg("--config")
        .arg(config)
        .args([
            "--json",
            "import",
            "people.csv",
            "--source",
            "hr",
            "--as-of",
            "2026-03-01",
            "--run",
        ])
        .current_dir(folder)
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{told}");
    assert!(told.contains("succeeded"), "{told}\n{said}");
    let last = told.find("{\n").unwrap_or(0);
    serde_json::from_str(&told[last..]).unwrap_or(Value::Null)
}

/// A span with what matters of it.
#[derive(Debug)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    start: u128,
    end: u128,
    attributes: BTreeMap<String, String>,
}

fn spans(received: &[Value]) -> Vec<Span> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for request in received
        .iter()
        .filter(|request| request["path"] == "/v1/traces")
    {
        for resource in list(&request["data"], "resourceSpans") {
            for scope in list(&resource, "scopeSpans") {
                for span in list(&scope, "spans") {
                    let attributes = list(&span, "attributes");
                    let attributes = attributes.iter().map(|attribute| {
                        let value = &attribute["value"];
                        let value = value["stringValue"].as_str().or(value["intValue"].as_str());
                        (
                            text(&attribute["key"]),
                            value.unwrap_or_default().to_owned(),
                        )
                    });
                    found.push(Span {
                        name: text(&span["name"]),
                        trace: text(&span["traceId"]),
                        id: text(&span["spanId"]),
                        parent: text(&span["parentSpanId"]),
                        start: text(&span["startTimeUnixNano"]).parse().unwrap(),
                        end: text(&span["endTimeUnixNano"]).parse().unwrap(),
                        attributes: attributes.collect(),
                    });
                }
            }
        }
    }
    found
}

#[test]
fn a_joiner_is_one_trace_from_intake_to_verification() {
    let lab = Lab::start();
    let folder = lab.folder.path();
    let telemetry = format!(
        "telemetry:\n  otlp:\n    endpoint: {}\n    headers: {{ x-team: 'env:OTLP_TEAM' }}\n",
        lab.variable("TENURE_LAB_OTLP_URL")
    );
    let config = configure(folder, &telemetry);
    hire(folder, &config, &[("OTLP_TEAM", "identity")]);
    let received = lab.received();
    let spans = spans(&received);
    let root = spans
        .iter()
        .find(|span| span.name == "case joiner")
        .unwrap_or_else(|| panic!("no span of the case in {spans:#?}"));
    let of_case: Vec<&Span> = spans
        .iter()
        .filter(|span| span.trace == root.trace)
        .collect();
    let named = |name: &str| -> Vec<&Span> {
        let found: Vec<&Span> = of_case
            .iter()
            .copied()
            .filter(|span| span.name == name)
            .collect();
        assert!(!found.is_empty(), "no `{name}` in {of_case:#?}");
        found
    };
    let (intake, plan) = (named("intake")[0], named("plan")[0]);
    let planning = named("attempt access.plan")[0];
    let creating = named("attempt account.create")[0];
    let (apply, verify) = (named("connector apply")[0], named("connector verify"));
    assert_eq!(intake.parent, root.id);
    assert_eq!(planning.parent, root.id);
    assert_eq!(creating.parent, root.id);
    assert_eq!(plan.parent, planning.id);
    assert_eq!(apply.parent, creating.id);
    assert!(verify.iter().any(|span| span.parent == creating.id));
    assert!(root.start <= intake.end && intake.start <= planning.start);
    assert!(creating.start <= apply.start && apply.end <= creating.end);
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each span once");

    // What each is about is in its attributes.
    let case = &root.attributes["tenure.case.id"];
    for span in [intake, planning, creating] {
        assert_eq!(&span.attributes["tenure.case.id"], case);
        assert_eq!(
            span.attributes["tenure.subject.key"],
            root.attributes["tenure.subject.key"]
        );
    }
    assert!(!intake.attributes["tenure.event.keys"].is_empty());
    assert_eq!(creating.attributes["tenure.system"], "parking");
    assert_eq!(creating.attributes["tenure.attempt"], "1");
    assert_eq!(creating.attributes["tenure.outcome"], "succeeded");
    assert_eq!(
        apply.attributes["tenure.connector.operation"],
        "create_account"
    );

    // Who they are about is not.
    let all = serde_json::to_string(&received).unwrap().to_lowercase();
    for word in ["zx81q", "quetzalcoatl", "oyelaran", "operations"] {
        let around = all
            .find(word)
            .map(|at| &all[at.saturating_sub(120)..at + 60]);
        assert_eq!(around, None, "`{word}` was sent");
    }
    assert!(all.contains("\"x-team\": \"identity\"") || all.contains("\"x-team\":\"identity\""));
}

/// The variable of the standard is enough, and a collector that is away costs only the spans.
#[test]
fn a_collector_that_is_away_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), "");
    // Nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    hire(
        folder.path(),
        &config,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())],
    );
}

#[test]
fn a_node_sends_its_metrics_and_the_environment_is_enough() {
    let lab = Lab::start();
    let folder = lab.folder.path();
    let config = configure(folder, "");
    let mut node = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .arg("--config")
        .arg(&config)
        .args(["--json", "serve", "--no-api"])
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            lab.variable("TENURE_LAB_OTLP_URL"),
        )
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut stdout = std::io::BufReader::new(node.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut ready).unwrap();
    // Asked to stop, it sends what it has before it goes.
    let asked = Command::new("kill").arg(node.id().to_string()).status();
    assert!(asked.unwrap().success());
    assert!(node.wait().unwrap().success());
    let received = lab.received();
    let metrics: Vec<String> = received
        .iter()
        .filter(|request| request["path"] == "/v1/metrics")
        .map(Value::to_string)
        .collect();
    assert!(!metrics.is_empty(), "{ready}: {received:?}");
    for name in [
        "tenure_shards_owned",
        "tenure_cases_open",
        "service.instance.id",
    ] {
        assert!(metrics.iter().any(|sent| sent.contains(name)), "{name}");
    }
}
