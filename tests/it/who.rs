//! `tenure correlation` as it is shipped: what it prints, how it ends, and what it says when something is wrong.

use serde_json::{Value, json};

use crate::program::Installation;

const RULES: &str = "
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: name, attributes: [name], compare: name, agrees: 40, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, differs: -60 }
";

const PEOPLE: &str = "id,name,birth_date,department
E1,Ann Ox,1990-01-02,Sales
E2,Ann Ox,1990-01-02,Law
E3,Bo Elk,1971-05-06,Law
";

fn configured(installation: &Installation) {
    let write = |name: &str, text: &str| installation.write(name, text);
    write("tenure.yaml", "store: { url: 'env:TENURE_IT_STORE' }\n");
    write(
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\n\
         columns: { name: name, birth_date: birth_date, department: department }\n",
    );
    write(
        "systems/badges.yaml",
        "name: badges\nkind: manual\nsettings:\n  assignee: role:facilities\n  due: 1d\n  where: room 1.07\n  \
         operations: [create_account, disable_account]\naccount: { name: identity.key }\n",
    );
    write(
        "policy/roles.yaml",
        "roles:\n  - { name: everybody, when: \"true\", accounts: [badges] }\n",
    );
}

/// What a command prints, its exit code and what it says on standard error.
fn told(installation: &Installation, words: &[&str]) -> (Value, Option<i32>, String) {
    let done = installation.command(words).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let value = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
    (value, done.status.code(), said)
}

async fn people_who_are_there_twice_are_found_and_decided(installation: Installation) {
    configured(&installation);
    let file = installation.folder().join("people.csv");
    std::fs::write(&file, PEOPLE).unwrap();
    let file = file.display().to_string();
    installation.call(&["import", &file, "--source", "hr", "--as-of", "2026-03-01"]);
    // Without rules nobody is compared, and the message says what is missing.
    for words in [
        &["correlation", "scan"][..],
        &["correlation", "compare", "E1", "E2"],
    ] {
        let (_, code, said) = told(&installation, words);
        assert_ne!(code, Some(0), "{words:?}");
        assert!(said.contains("there is no `correlation.yaml`"), "{said}");
    }
    installation.write("correlation.yaml", RULES);
    let compared = installation.call(&["correlation", "compare", "E1", "E2"]);
    assert_eq!(
        (&compared["verdict"], &compared["score"]["points"]),
        (&json!("ask"), &json!(80))
    );
    let (_, code, said) = told(&installation, &["correlation", "compare", "E1", "E9"]);
    assert!(
        code != Some(0) && said.contains("nobody with the key `E9`"),
        "{said}"
    );
    assert_eq!(installation.call(&["correlation", "list"]), json!([]));
    // To look asks nothing; exit code 3 says that there is something.
    for (words, asked) in [
        (&["correlation", "scan", "--dry-run"][..], false),
        (&["correlation", "scan"], true),
    ] {
        let (report, code, said) = told(&installation, words);
        assert_eq!(code, Some(3), "{said}");
        assert_eq!(report["asked"], asked);
        assert_eq!(
            (
                &report["found"][0]["key"],
                &report["found"][0]["candidates"][0]["key"]
            ),
            (&json!("E2"), &json!("E1"))
        );
        let listed = installation.call(&["correlation", "list"]);
        assert_eq!(listed.as_array().unwrap().len(), usize::from(asked));
    }
    let again = installation.call(&["correlation", "scan"]);
    assert_eq!(
        (&again["found"], &again["compared"]),
        (&json!([]), &json!(3))
    );
    let listed = installation.call(&["correlation", "list"]);
    let question = listed[0]["review_id"].as_str().unwrap().to_owned();
    let shown = installation.call(&["correlation", "show", &question[..12]]);
    assert_eq!(shown["candidates"][0]["score"]["points"], 80);
    for (words, says) in [
        (
            vec!["correlation", "show", "cor_none"],
            "there is no question `cor_none`",
        ),
        (
            vec!["correlation", "link", &question, "E3", "--reason", "x"],
            "`E3` is not among those who were asked about",
        ),
        (
            vec!["correlation", "separate", &question, "--reason", " "],
            "`--reason` is empty",
        ),
        (vec!["correlation", "separate", &question], "--reason"),
        (
            vec!["correlation", "adopt", "--system", "nowhere"],
            "there is no system `nowhere`; the configuration has badges",
        ),
    ] {
        let (_, code, said) = told(&installation, &words);
        assert!(code != Some(0) && said.contains(says), "{words:?}: {said}");
    }
    let separate = ["correlation", "separate", &question, "--reason", "sisters"];
    let decided = installation.call(&separate);
    assert_eq!(decided["review"]["status"], "separate");
    let (_, code, said) = told(&installation, &separate);
    assert!(
        code != Some(0) && said.contains("decided already by"),
        "{said}"
    );
    assert_eq!(installation.call(&["correlation", "list"]), json!([]));
    let all = installation.call(&["correlation", "list", "--decided"]);
    assert_eq!(all[0]["decided_reason"], "sisters");
    assert_eq!(
        installation.call(&["correlation", "scan"])["found"],
        json!([])
    );
    installation.drop().await;
}

#[tokio::test]
async fn people_who_are_there_twice_are_found_and_decided_on_sqlite() {
    people_who_are_there_twice_are_found_and_decided(Installation::on_sqlite()).await;
}

#[tokio::test]
async fn people_who_are_there_twice_are_found_and_decided_on_postgres() {
    people_who_are_there_twice_are_found_and_decided(Installation::on_postgres().await).await;
}
