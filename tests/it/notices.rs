//! Notices from the program as it is shipped: to a mail server that we did not write, and to a program that checks signatures.
//! On both databases.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::time::Instant;

use crate::program::Installation;

/// A mail server of its own.
struct Mailbox {
    folder: tempfile::TempDir,
}

impl Mailbox {
    fn start() -> Self {
        let mailbox = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        mailbox.script("start");
        mailbox
    }

    fn script(&self, verb: &str) {
        let done = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/smtp.sh"))
            .arg(verb)
            .arg(self.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "tests/lab/smtp.sh {verb}:\n{said}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("smtp").join(name)
    }

    fn port(&self, tls: bool) -> String {
        let name = if tls { "SMTP_TLS_PORT=" } else { "SMTP_PORT=" };
        let text = std::fs::read_to_string(self.path("env")).unwrap();
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        line.split('\'').nth(1).unwrap().to_owned()
    }

    fn behave(&self, mode: &str) {
        std::fs::write(self.path("mode"), mode).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What came whole to this address, once there are `count` messages.
    async fn received(&self, address: &str, count: usize) -> Vec<Value> {
        let found = || -> Vec<Value> {
            let mut lines = self.lines("received.jsonl");
            lines.retain(|line| line["to"][0] == address);
            lines
        };
        until(&format!("{count} messages to {address}"), || {
            found().len() >= count
        })
        .await;
        found()
    }

    /// The settings to reach it.
    fn settings(&self, more: &str) -> String {
        format!(
            "  email:\n    server: 127.0.0.1\n    port: {}\n    ca_file: {}\n    \
             login: {{ user: tenure, password: 'file:{}' }}\n    from: tenure@example.org\n    timeout: 3s\n{more}",
            self.port(false),
            self.path("tls/ca.pem").display(),
            self.path("password").display(),
        )
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let _ = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/smtp.sh"))
            .arg("stop")
            .arg(self.path(""))
            .output();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        // sleeps: between two looks at another process
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A node whose log is kept.
struct Served {
    process: Child,
    log: PathBuf,
}

impl Served {
    fn start(installation: &Installation, number: u32) -> Self {
        let log = installation.folder().join(format!("log-{number}"));
        let mut process = installation
            .command(&["serve", "--listen", "127.0.0.1:0"])
            .env("TENURE_LOG", "debug")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut ready = [0; 1];
        let out = process.stdout.as_mut().unwrap();
        let read = out.read(&mut ready).unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        assert_eq!(read, 1, "{said}");
        Self { process, log }
    }

    /// Ends it without a word.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.says_nothing_personal();
    }

    fn says_nothing_personal(&self) {
        let log = std::fs::read_to_string(&self.log).unwrap();
        for word in ["@example.org", "Żaneta", "sesame"] {
            assert!(!log.contains(word), "`{word}` stands in the log:\n{log}");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A company whose joiners are told something, and whose managers are asked.
const JOINER: &str = "
name: joiner
on: [hire]
steps:
  - id: begin
    uses: identity.activate
  - id: tell
    uses: notify
    needs: [begin]
    with:
      to: person
      template: welcome
      vars: { desk: '7<b>' }
  - id: hold
    uses: approval
    needs: [begin]
    with: { ask: [manager], question: 'May they have a key?', timeout: 8h }
";

const WELCOME: &str = "
name: welcome
urgent: true
subject: 'Willkommen, {{ person.name }}'
text: |
  Grüße an {{ person.name }}, Platz {{ vars.desk }}
html: |
  <p>Grüße an {{ person.name }}, Platz {{ vars.desk }}</p>
";

fn configure(installation: &Installation, notifications: &str) {
    let write = |name: &str, text: &str| installation.write(name, text);
    write(
        "tenure.yaml",
        &format!(
            "store: {{ url: 'env:TENURE_IT_STORE' }}\nnode: {{ lease: 2s }}\nnotifications:\n{notifications}"
        ),
    );
    write(
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\ncomplete: true\n\
         columns: { name: name, email: email }\nmanager: { column: boss, by: key }\nrequired: [name]\n",
    );
    write(
        "systems/badges.yaml",
        "name: badges\nkind: manual\nsettings: { assignee: role:facilities }\naccount: { name: identity.key }\n",
    );
    write(
        "policy/roles.yaml",
        "roles:\n  - { name: everybody, when: \"true\", accounts: [badges] }\n",
    );
    write("workflows/joiner.yaml", JOINER);
    write("notices/welcome.yaml", WELCOME);
}

fn import(installation: &Installation, day: &str, people: &str) {
    let file = installation.folder().join(format!("{day}.csv"));
    std::fs::write(&file, format!("id,name,email,boss\n{people}")).unwrap();
    let file = file.display().to_string();
    installation.call(&["import", &file, "--source", "hr", "--as-of", day]);
}

const PEOPLE: &str = "E1,Żaneta Öz,zaneta@example.org,E2\nE2,Bo,refused.bo@example.org,\nE3,Cy,later.cy@example.org,E1\n\
                      E4,Di,,E9\n";

fn notices(installation: &Installation, more: &[&str]) -> Vec<Value> {
    let words = [&["notice", "list", "--limit", "500"], more].concat();
    let done = installation.command(&words).output().unwrap();
    serde_json::from_slice::<Value>(&done.stdout)
        .unwrap_or_else(|_| {
            panic!("{}", String::from_utf8_lossy(&done.stderr));
        })
        .as_array()
        .unwrap()
        .clone()
}

fn states(installation: &Installation, name: &str) -> Vec<String> {
    let rows = notices(installation, &["--name", name]);
    let mut states: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{} {}",
                row["subject"].as_str().unwrap(),
                row["state"].as_str().unwrap()
            )
        })
        .collect();
    states.sort();
    states
}

async fn a_company_is_told(installation: Installation) {
    let mailbox = Mailbox::start();
    let more =
        "  fallback: [desk@example.org]\n  retry: { first: 1s, factor: 1, max: 1s, attempts: 5 }\n";
    configure(&installation, &mailbox.settings(more));
    installation.call(&["policy", "check"]);
    let tested = installation.call(&["notice", "test", "--to", "ann@example.org"]);
    assert_eq!(tested["taken"], true, "{tested}");
    let first = &mailbox.received("ann@example.org", 1).await[0];
    assert_eq!(
        (&first["protected"], &first["login"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    let node = Served::start(&installation, 1);
    import(&installation, "2026-03-01", PEOPLE);

    // Umlauts, both forms, and nothing of a value becomes markup.
    let welcome = &mailbox.received("zaneta@example.org", 2).await;
    let welcome = welcome.iter().find(|mail| {
        mail["headers"]["Subject"]
            .as_str()
            .unwrap()
            .starts_with("Willkommen")
    });
    let welcome = welcome.unwrap();
    assert_eq!(welcome["headers"]["Subject"], "Willkommen, Żaneta Öz");
    assert_eq!(welcome["headers"]["From"], "Tenure <tenure@example.org>");
    assert_eq!(welcome["headers"]["To"], "Żaneta Öz <zaneta@example.org>");
    assert_eq!(welcome["headers"]["Auto-Submitted"], "auto-generated");
    assert_eq!(welcome["protected"], true);
    let part = |kind: &str| welcome["parts"][kind].as_str().unwrap().trim();
    assert_eq!(part("text/plain"), "Grüße an Żaneta Öz, Platz 7<b>");
    assert!(
        part("text/html").contains("Platz 7&lt;b&gt;</p>"),
        "{}",
        part("text/html")
    );
    // Put off once, then taken.
    mailbox.received("later.cy@example.org", 1).await;
    let asked = mailbox.lines("recipients.jsonl");
    let answers: Vec<&Value> = asked
        .iter()
        .filter(|line| line["to"] == "later.cy@example.org")
        .map(|line| &line["answer"])
        .collect();
    assert_eq!(answers, ["451 4.7.1 come again later", "250 OK"]);
    // Nobody of that key, and nobody without an address: the fallback, with why.
    let desk = mailbox.received("desk@example.org", 3).await;
    let whole = desk
        .iter()
        .map(|mail| mail["parts"]["text/plain"].as_str().unwrap())
        .collect::<String>();
    assert!(whole.contains("nobody is known as `E9`"), "{whole}");
    // Refused for good: it waits for a person, and only it.
    until("the refused ones park", || {
        states(&installation, "welcome") == ["E1 sent", "E2 parked", "E3 sent", "E4 sent"]
            && states(&installation, "approval.asked")
                == ["E1 parked", "E2 sent", "E3 sent", "E4 sent"]
    })
    .await;
    let attention = installation
        .command(&["notice", "list", "--attention"])
        .output()
        .unwrap();
    assert_eq!(attention.status.code(), Some(1));
    let parked = notices(&installation, &["--attention", "--name", "welcome"]);
    let id = parked[0]["id"].as_str().unwrap();
    let shown = installation.call(&["notice", "show", &id[..8]]);
    let message = &shown["messages"][0];
    assert!(
        message["answer"].as_str().unwrap().contains("no such user"),
        "{shown}"
    );
    assert_eq!(message["attempts"], 1);
    mailbox.behave("accept");
    installation.call(&[
        "notice",
        "retry",
        id,
        "--reason",
        "the mailbox is there now",
    ]);
    let bo = mailbox.received("refused.bo@example.org", 1).await;
    let named = format!("<{}@example.org>", message["message"].as_str().unwrap());
    assert_eq!(bo[0]["headers"]["Message-ID"], named);
    until("it is sent", || {
        states(&installation, "welcome")[1] == "E2 sent"
    })
    .await;
    let shown = installation.call(&["notice", "show", id]);
    assert_eq!(shown["changes"][0]["reason"], "the mailbox is there now");
    // Nothing was sent twice.
    let mut names: Vec<String> = mailbox
        .lines("received.jsonl")
        .iter()
        .map(|mail| mail["headers"]["Message-ID"].to_string())
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    node.kill();
    installation.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_company_is_told_on_sqlite() {
    a_company_is_told(Installation::on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_company_is_told_on_postgres() {
    a_company_is_told(Installation::on_postgres().await).await;
}

/// The server has the message and has not said so when the node is killed; then the server is away, and comes back.
async fn a_killed_node_sends_again_under_the_same_name(installation: Installation) {
    let mailbox = Mailbox::start();
    configure(
        &installation,
        &mailbox.settings("    hello: node.example.org\n"),
    );
    mailbox.behave("hang");
    let node = Served::start(&installation, 1);
    import(
        &installation,
        "2026-03-01",
        "E1,Żaneta Öz,zaneta@example.org,\n",
    );
    let first = mailbox.received("zaneta@example.org", 1).await;
    node.kill();
    mailbox.script("down");
    let node = Served::start(&installation, 2);
    // The case does not wait for mail.
    until("the question is open", || {
        states(&installation, "approval.asked") == ["E1 undeliverable"]
    })
    .await;
    mailbox.behave("good");
    mailbox.script("up");
    let again = mailbox.received("zaneta@example.org", 2).await;
    assert_eq!(
        first[0]["headers"]["Message-ID"],
        again[1]["headers"]["Message-ID"]
    );
    assert_eq!(first[0]["parts"], again[1]["parts"]);
    assert_eq!(first[0]["headers"]["Date"], again[1]["headers"]["Date"]);
    until("it is sent", || {
        states(&installation, "welcome") == ["E1 sent"]
    })
    .await;
    node.kill();
    installation.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_sends_again_under_the_same_name_on_sqlite() {
    a_killed_node_sends_again_under_the_same_name(Installation::on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_sends_again_under_the_same_name_on_postgres() {
    a_killed_node_sends_again_under_the_same_name(Installation::on_postgres().await).await;
}

/// Everything that keeps a message from being handed over says why, and sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_as_it_should_be_gets_nothing() {
    let mailbox = Mailbox::start();
    let installation = Installation::on_sqlite();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port().to_string();
    let good = mailbox.settings("");
    let check = |mode: &str, settings: &str, expected: &str| {
        mailbox.behave(mode);
        configure(&installation, settings);
        let words = ["notice", "test", "--to", "ann@example.org"];
        let done = installation.command(&words).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let told: Value = serde_json::from_slice(&done.stdout).expect(&said);
        let answer = told["answer"].as_str().unwrap();
        assert!(answer.contains(expected), "{answer}");
        assert_eq!(done.status.code(), Some(i32::from(told["taken"] != true)));
    };
    check("no_login", &good, "refuses the login");
    check("plain", &good, "does not offer STARTTLS");
    let other = good.replace("tls/ca.pem", "tls/other-ca.pem");
    check("good", &other, "cannot protect");
    let port = mailbox.port(false);
    check(
        "good",
        &good.replace(&port, &silent_port),
        "did not answer within 3 s while opening",
    );
    check("hang", &good, "did not answer within 3 s while sending");
    drop(silent);
    check("good", &good.replace(&port, &silent_port), "cannot open");
    configure(&installation, &good);
    let refused = installation
        .command(&["notice", "test", "--to", "refused@example.org"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("550"));
    // What was hung on was there already; nothing else came.
    assert_eq!(mailbox.lines("received.jsonl").len(), 1);
    let implicit = good
        .replace(&port, &mailbox.port(true))
        .replace("timeout: 3s", "timeout: 3s\n    tls: implicit");
    check("good", &implicit, "250");
    installation.drop().await;
}

const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request as it came: its head in lower case, and its body.
type Came = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A program that is told: answers with the statuses in order, then with 204.
fn receiver(came: &Came, statuses: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = Arc::clone(came);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut bytes = Vec::new();
            let mut piece = [0; 4096];
            let (head, body) = loop {
                let read = connection.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..read]);
                let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                    continue;
                };
                let head = String::from_utf8(bytes[..end].to_vec())
                    .unwrap()
                    .to_lowercase();
                let length = header(&head, "content-length").parse::<usize>().unwrap();
                if bytes.len() >= end + 4 + length {
                    break (head, bytes[end + 4..].to_vec());
                }
            };
            let number = {
                let mut came = came.lock().unwrap();
                came.push((head, body));
                came.len() - 1
            };
            let status = statuses.get(number).unwrap_or(&"204 No Content");
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

fn header(head: &str, name: &str) -> String {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(other, _)| *other == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {head}"))
        .1
        .to_owned()
}

/// The signature, made here once more from its description.
fn is_signed(head: &str, body: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
    let (id, time) = (
        header(head, "webhook-id"),
        header(head, "webhook-timestamp"),
    );
    mac.update(format!("{id}.{time}.").as_bytes());
    mac.update(body);
    let made = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    // The head was made lower case, and base64 is not.
    header(head, "webhook-signature") == made.to_lowercase()
}

async fn a_program_is_told(installation: Installation) {
    let came = Came::default();
    let port = receiver(
        &came,
        &["503 Busy", "307 Elsewhere", "400 Never", "429 Slow"],
    );
    let key = installation.folder().join("key");
    std::fs::write(&key, format!("whsec_{KEY}\n")).unwrap();
    configure(
        &installation,
        &format!(
            "  webhook:\n    url: http://127.0.0.1:{port}/told\n    secret: 'file:{}'\n    notices: [welcome]\n  \
             retry: {{ first: 1s, factor: 1, max: 1s, attempts: 9 }}\n",
            key.display()
        ),
    );
    let node = Served::start(&installation, 1);
    import(
        &installation,
        "2026-03-01",
        "E1,Żaneta Öz,,\nE2,Bo,,\nE3,Cy,,\n",
    );
    until("one is taken, two are refused", || {
        let mut ends: Vec<String> = notices(&installation, &["--name", "welcome"])
            .iter()
            .map(|row| row["state"].as_str().unwrap().to_owned())
            .collect();
        ends.sort();
        ends == ["parked", "parked", "sent"]
    })
    .await;
    // Without mail nobody is asked; that is no failure.
    assert!(
        states(&installation, "approval.asked")
            .iter()
            .all(|state| state.ends_with("void"))
    );
    let came = came.lock().unwrap().clone();
    assert_eq!(came.len(), 5);
    for (head, body) in &came {
        assert!(is_signed(head, body), "{head}");
        assert!(head.starts_with("post /told http/1.1"), "{head}");
        let told: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(told["type"], "tenure.welcome");
        assert_eq!(told["data"]["vars"]["desk"], "7<b>");
        assert!(!is_signed(head, &[body.as_slice(), b" "].concat()));
    }
    // The one that was put off came again under its name, with what it said.
    let id = |index: usize| header(&came[index].0, "webhook-id");
    assert!((1..5).any(|later| id(later) == id(0) && came[later].1 == came[0].1));
    node.kill();
    installation.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_told_on_sqlite() {
    a_program_is_told(Installation::on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_told_on_postgres() {
    a_program_is_told(Installation::on_postgres().await).await;
}

/// A contractor whose contract ends in three days, and one whose end nobody said.
async fn a_contractor_has_a_window(installation: Installation) {
    let mailbox = Mailbox::start();
    let more = "  roles: { vendors: [vendors@example.org] }\n";
    configure(&installation, &mailbox.settings(more));
    installation.write(
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: Europe/Berlin\ncomplete: true\n\
         columns: { name: name, email: email, sponsor: sponsor }\nrequired: [name]\nemployment: { end: last }\n\
         type: { cel: 'row[\"sponsor\"] == \"\" ? \"employee\" : \"contractor\"' }\n",
    );
    let joiner = JOINER.replace("[hire]", "[hire, contract.start]");
    installation.write("workflows/joiner.yaml", &joiner);
    installation.write(
        "policy/contractors.yaml",
        "contractors: { sponsor: sponsor, owner: 'role:vendors', notices: [30d, 7d, 1d], extension: { max: 60d } }\n",
    );
    let day = |days: i64| {
        let day = tenure::shell::now() + chrono::TimeDelta::days(days);
        day.format("%Y-%m-%d").to_string()
    };
    let today = day(0);
    let file = installation.folder().join("people.csv");
    let people = format!(
        "id,name,email,sponsor,last\nE1,Sue,sue@example.org,,\nC1,Cy,,E1,{}\nC2,Di,,E1,\n",
        day(3)
    );
    std::fs::write(&file, people).unwrap();
    let node = Served::start(&installation, 1);
    let file = file.display().to_string();
    installation.call(&["import", &file, "--source", "hr", "--as-of", &today]);
    let ending = |mails: Vec<Value>| -> Vec<Value> {
        let subject = |mail: &Value| mail["headers"]["Subject"].as_str().unwrap().to_owned();
        let about = mails.into_iter();
        about
            .filter(|mail| subject(mail).starts_with("The contract of Cy ends"))
            .collect()
    };
    until("the sponsor is told", || {
        let mut mails = mailbox.lines("received.jsonl");
        mails.retain(|mail| mail["to"][0] == "sue@example.org");
        ending(mails).len() == 1
    })
    .await;
    let owner = mailbox.received("vendors@example.org", 1).await;
    let text = owner[0]["parts"]["text/plain"].as_str().unwrap();
    assert!(
        text.contains("nothing is given to Di (C2)") && text.contains("the end of the contract"),
        "{text}"
    );
    // Nothing began for C2.
    let subjects = |workflow: &str| {
        let cases = installation.call(&["case", "list", "--workflow", workflow]);
        let items = cases["cases"].as_array().unwrap();
        let mut subjects: Vec<String> = items
            .iter()
            .map(|case| case["subject"].as_str().unwrap().to_owned())
            .collect();
        subjects.sort();
        subjects
    };
    assert_eq!(subjects("joiner"), ["C1", "E1"]);
    let listed = installation
        .command(&["contract", "list", "--incomplete"])
        .output()
        .unwrap();
    assert_eq!(listed.status.code(), Some(1));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["key"]),
        (1, &Value::from("C2"))
    );
    // Killed and started again, nobody is told twice.
    node.kill();
    let node = Served::start(&installation, 2);
    let far = day(90);
    let extend = |until: &str| {
        let words = [
            "contract",
            "extend",
            "C1",
            "--until",
            until,
            "--reason",
            "phase two",
        ];
        installation.command(&words).output().unwrap()
    };
    let refused = extend(&far);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("the policy allows no more at once"), "{told}");
    let until_day = day(20);
    let extended: Value = serde_json::from_slice(&extend(&until_day).stdout).unwrap();
    assert_eq!(
        (&extended["unchanged"], &extended["zone"]),
        (&Value::Bool(false), &Value::from("Europe/Berlin"))
    );
    // Somebody else agrees; until then the end stands.
    let case = extended["case"].as_str().unwrap().to_owned();
    until("the question is there, and somebody else says yes", || {
        let words = ["case", "approve", &case, "--note", "phase two"];
        let mut approve = installation.command(&words);
        approve.env("TENURE_USER", "boss");
        approve.output().unwrap().status.success()
    })
    .await;
    until("the end has moved", || {
        let again: Value = serde_json::from_slice(&extend(&until_day).stdout).unwrap();
        again["unchanged"] == true
    })
    .await;
    // The new end is nearer than thirty days: told at once, and what was planned for the old one never comes.
    until("the sponsor is told of the new end", || {
        let mut mails = mailbox.lines("received.jsonl");
        mails.retain(|mail| mail["to"][0] == "sue@example.org");
        ending(mails).len() == 2
    })
    .await;
    node.kill();
    installation.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contractor_has_a_window_on_sqlite() {
    a_contractor_has_a_window(Installation::on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contractor_has_a_window_on_postgres() {
    a_contractor_has_a_window(Installation::on_postgres().await).await;
}
