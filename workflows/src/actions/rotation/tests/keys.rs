//! Two access keys of a user of AWS, at the interface that moto plays, through a real folder. Who looks on is AWS's own client.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};

use connectors::connector::Connector;
use serde_json::{Value, json};
use uuid::Uuid;

use super::real::{calls, declared, folder, system};
use super::*;

on_both! {
    a_second_key_takes_over_and_the_first_one_ends,
    the_place_is_a_secret_behind_an_interface,
    a_node_that_dies_leaves_one_key_and_it_works,
}

fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_MOTO_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/moto.sh start DIR && . DIR/env")
    })
}

const CALLS: &str = r#"
import json, sys
import boto3, botocore
for line in sys.stdin:
    asked = json.loads(line)
    client = boto3.client(
        asked["service"], endpoint_url=sys.argv[1], region_name="us-east-1",
        aws_access_key_id=asked["id"], aws_secret_access_key=asked["secret"],
    )
    try:
        answer = getattr(client, asked["call"])(**asked["with"])
    except botocore.exceptions.ClientError as error:
        answer = {"refused": error.response["Error"]["Code"]}
    print(json.dumps(answer, default=str), flush=True)
"#;

/// AWS's own client.
struct Client {
    program: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start() -> Self {
        let mut program = Program::new(lab("PYTHON"))
            .args(["-c", CALLS, &lab("URL")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            asks: program.stdin.take().unwrap(),
            answers: BufReader::new(program.stdout.take().unwrap()).lines(),
            program,
        }
    }

    /// A call with these two halves of a key.
    fn call(&mut self, key: &(String, String), service: &str, name: &str, with: &Value) -> Value {
        let asked = json!({
            "id": key.0, "secret": key.1, "service": service, "call": name, "with": with,
        });
        writeln!(self.asks, "{asked}").unwrap();
        let answer = self.answers.next().unwrap().unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn as_admin(&mut self, service: &str, name: &str, with: &Value) -> Value {
        let half = |name: &str| {
            let text = std::fs::read_to_string(lab(name)).unwrap();
            text.trim().to_owned()
        };
        self.call(&(half("ID"), half("SECRET")), service, name, with)
    }

    /// A user of ours with one key.
    fn user(&mut self) -> (String, (String, String)) {
        let user = format!("svc-{}", &Uuid::new_v4().simple().to_string()[..12]);
        let new = json!({ "UserName": user, "Path": "/services/" });
        self.as_admin("iam", "create_user", &new);
        let key = self.make(&user);
        (user, key)
    }

    /// Makes a key by hand.
    fn make(&mut self, user: &str) -> (String, String) {
        let of = json!({ "UserName": user });
        let key = self.as_admin("iam", "create_access_key", &of)["AccessKey"].clone();
        let half = |name: &str| key[name].as_str().unwrap().to_owned();
        (half("AccessKeyId"), half("SecretAccessKey"))
    }

    /// The keys of a user, each with whether it is active.
    fn keys(&mut self, user: &str) -> Vec<(String, bool)> {
        let listed = self.as_admin("iam", "list_access_keys", &json!({ "UserName": user }));
        let keys = listed["AccessKeyMetadata"].as_array().unwrap();
        let mut keys: Vec<_> = keys
            .iter()
            .map(|key| {
                let id = key["AccessKeyId"].as_str().unwrap().to_owned();
                (id, key["Status"] == "Active")
            })
            .collect();
        keys.sort();
        keys
    }

    /// As a program that uses a key: whether it is taken for this user.
    fn enters(&mut self, user: &str, key: &(String, String)) -> bool {
        let answer = self.call(key, "sts", "get_caller_identity", &json!({}));
        match answer["Arn"].as_str() {
            Some(arn) => arn.ends_with(&format!("/{user}")),
            None => {
                assert_eq!(answer["refused"], "InvalidClientTokenId", "{answer}");
                false
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// IAM as Tenure knows it.
fn iam() -> Arc<dyn Connector> {
    let aws = json!({
        "access_key_id": format!("file:{}", lab("ID")),
        "secret_access_key": format!("file:{}", lab("SECRET")),
        "iam_url": lab("URL"), "sts_url": lab("URL"), "path": "/services/",
    });
    system("aws", aws)
}

/// How long the old one works beside the new one, and how long it is out of use before it is gone.
const WAITS: [&str; 2] = ["overlap: { reload: 1h }", "soak: 7d"];

/// A rotation of the key of a user.
fn of_keys(user: &str, id: &str, waits: &[&str]) -> String {
    let users = format!("users: [{user}]");
    let parts = "parts: { env: \"AWS_SECRET_ACCESS_KEY={password}\\n\" }";
    let mut rotation = vec![users.as_str(), parts];
    rotation.extend(waits);
    declared(id, "api_key", "two_slot", &rotation)
}

/// What those who use it read: the name of the key, and its secret.
fn shown(folder: &Path) -> (String, String) {
    let read = |part: &str| std::fs::read_to_string(folder.join(part)).unwrap();
    let id = read("id").strip_prefix("api_key:").unwrap().to_owned();
    (id, read("password"))
}

async fn a_second_key_takes_over_and_the_first_one_ends(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let mut aws = Client::start();
    let (user, first) = aws.user();
    let place = folder(root.path(), &["user", "password", "id", "env"]);
    let id = format!("api_key:{}", first.0);
    let text = of_keys(&user, &id, &WAITS);
    let shop = Shop::real(on_postgres, iam(), place, &id, &text).await;
    let bundle = root.path().join("app");
    let node = shop.company.node().await;

    // Somebody has made a second one by hand: there is no room, it is said whose they are, and nothing is touched.
    let by_hand = aws.make(&user);
    shop.begin().await;
    shop.told(&node, "has 2 of 2 credentials").await;
    let blocked = shop.company.failures().await;
    assert!(
        blocked.contains(&first.0) && blocked.contains(&by_hand.0),
        "{blocked}"
    );
    assert_eq!(aws.keys(&user).len(), 2);
    let unused = json!({ "UserName": user, "AccessKeyId": by_hand.0 });
    aws.as_admin("iam", "delete_access_key", &unused);

    // It goes on: both work, then the first is out of use, then it is gone.
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(1));
    shop.until(&node, Phase::Overlap).await;
    let second = shown(&bundle);
    assert_ne!(second.0, first.0);
    assert!(aws.enters(&user, &first) && aws.enters(&user, &second));
    let env = std::fs::read_to_string(bundle.join("env")).unwrap();
    assert_eq!(env, format!("AWS_SECRET_ACCESS_KEY={}\n", second.1));
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    let mut both = vec![(first.0.clone(), false), (second.0.clone(), true)];
    both.sort();
    assert_eq!(aws.keys(&user), both);
    shop.jump(&node, shop.clock.now() + TimeDelta::days(8));
    shop.until(&node, Phase::Closed).await;
    assert_eq!(aws.keys(&user), [(second.0.clone(), true)]);
    assert!(!aws.enters(&user, &first) && aws.enters(&user, &second));

    // The next is missed by somebody when the old one is out of use, and all of it is taken back.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    let third = shown(&bundle);
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    shop.take_back("a job at night has the old one").await;
    shop.until(&node, Phase::RolledBack).await;
    assert_eq!(shown(&bundle), second);
    assert_eq!(aws.keys(&user), [(second.0.clone(), true)]);
    assert!(!aws.enters(&user, &third) && aws.enters(&user, &second));

    // Strangers know it: nothing is waited for.
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    let fourth = shown(&bundle);
    assert_eq!(aws.keys(&user), [(fourth.0.clone(), true)]);
    assert!(!aws.enters(&user, &second) && aws.enters(&user, &fourth));
    shop.knows_none_of(&[second.1, third.1, fourth.1]).await;
    shop.close(node).await;
}

/// What a program reads in Secrets Manager: the key in use.
fn read(aws: &mut Client, secret: &str) -> (String, String) {
    // moto believes the first version to be meant when none is named.
    let asked = json!({ "SecretId": secret, "VersionStage": "AWSCURRENT" });
    let answer = aws.as_admin("secretsmanager", "get_secret_value", &asked);
    let value: Value = serde_json::from_str(answer["SecretString"].as_str().unwrap()).unwrap();
    assert_eq!(value["region"], "eu-central-1", "what is not ours stays");
    let id = value["key_id"].as_str().unwrap();
    let id = id.strip_prefix("api_key:").unwrap_or(id).to_owned();
    (id, value["secret_key"].as_str().unwrap().to_owned())
}

/// A secret that holds the key in use, and the place that Tenure has in it.
fn in_secrets_manager(
    aws: &mut Client,
    user: &str,
    key: &(String, String),
    root: &Path,
) -> (String, Arc<dyn Connector>) {
    let secret = format!("prod/{user}");
    let value = json!({ "key_id": key.0, "secret_key": key.1, "region": "eu-central-1" });
    let new = json!({ "Name": secret, "SecretString": value.to_string() });
    aws.as_admin("secretsmanager", "create_secret", &new);
    let place = json!({
        "access_key_id": format!("file:{}", lab("ID")),
        "secret_access_key": format!("file:{}", lab("SECRET")),
        "secrets_url": lab("URL"), "sts_url": lab("URL"),
        "secrets": { "app": { "secret": secret, "parts": {
            "user": "user", "id": "key_id", "password": "secret_key", "env": "env",
        } } },
        "scratch": root.join("scratch"),
    });
    (secret, system("aws_secrets", place))
}

async fn the_place_is_a_secret_behind_an_interface(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let mut aws = Client::start();
    let (user, first) = aws.user();
    let (secret, place) = in_secrets_manager(&mut aws, &user, &first, root.path());
    let id = format!("api_key:{}", first.0);
    let text = of_keys(&user, &id, &WAITS);
    let shop = Shop::real(on_postgres, iam(), place, &id, &text).await;
    let node = shop.company.node().await;

    // Whoever reads the secret has a key that works, at each moment.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    let second = read(&mut aws, &secret);
    assert_ne!(second, first);
    assert!(aws.enters(&user, &first) && aws.enters(&user, &second));
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    shop.jump(&node, shop.clock.now() + TimeDelta::days(8));
    shop.until(&node, Phase::Closed).await;
    assert_eq!(aws.keys(&user), [(second.0.clone(), true)]);
    assert!(!aws.enters(&user, &first) && aws.enters(&user, &second));

    // Taken back, the version before is current again.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    assert_ne!(read(&mut aws, &secret), second);
    shop.take_back("a job at night has the old one").await;
    shop.until(&node, Phase::RolledBack).await;
    assert_eq!(read(&mut aws, &secret), second);
    assert_eq!(aws.keys(&user), [(second.0.clone(), true)]);

    // Strangers know it.
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    let third = read(&mut aws, &secret);
    assert!(!aws.enters(&user, &second) && aws.enters(&user, &third));
    shop.knows_none_of(&[second.1, third.1]).await;
    shop.close(node).await;
}

async fn a_node_that_dies_leaves_one_key_and_it_works(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let mut aws = Client::start();
    let (user, first) = aws.user();
    let (secret, place) = in_secrets_manager(&mut aws, &user, &first, root.path());
    let id = format!("api_key:{}", first.0);
    let text = of_keys(&user, &id, &[]);
    let systems = (iam(), place);
    let shop = Shop::mortal(on_postgres, Some(&user), systems, &id, &text).await;
    let mut before = first;
    for has_effect in [false, true] {
        let mut deaths = 0;
        for call in calls(on_postgres) {
            let died = shop.survives(has_effect, call).await;
            let now = read(&mut aws, &secret);
            assert_ne!(now, before, "call {call}");
            assert_eq!(aws.keys(&user), [(now.0.clone(), true)], "call {call}");
            assert!(aws.enters(&user, &now), "call {call}");
            before = now;
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 0);
    }
    shop.company.remove().await;
}
