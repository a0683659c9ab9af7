//! Tokens of service accounts.

use std::collections::BTreeMap;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::kubernetes::tests::tokens::{issue, lets_in, request};

/// Whether the cluster refuses a token, by one question.
async fn is_refused(
    kubernetes: &Kubernetes,
    account: &str,
    credential: &CredentialId,
    token: &SecretString,
) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token.expose_secret()).unwrap();
    let claim = Claim::CredentialRefused {
        account: NativeId::new(account),
        credential: credential.clone(),
        secret: SecretRef::File(file.path().display().to_string()),
    };
    holds(kubernetes, &claim).await.0
}

fn claims(token: &SecretString) -> Value {
    let claims = token.expose_secret().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_token_lets_in_until_what_it_is_bound_to_is_gone() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for name in ["web", "db"] {
        bed.account(name).await;
    }
    let (web, db) = (bed.of("web"), bed.of("db"));
    let mut tokens = BTreeMap::new();
    for under in ["1", "2", "3", "4"] {
        let (is_new, minted) = issue(&kubernetes, &web, under).await;
        assert!(is_new);
        let token = minted.secret.unwrap();
        let ends = minted.credential.expires_at.unwrap();
        assert!((ends.timestamp() - claims(&token)["exp"].as_i64().unwrap()).abs() <= 1);
        tokens.insert(under, (minted.credential.id, token));
    }
    let (is_new, again) = issue(&kubernetes, &web, "1").await;
    assert!(!is_new && again.secret.is_none() && again.credential.id == tokens["1"].0);
    let account = NativeId::new(&web);
    assert_eq!(
        kubernetes.credentials(&account).await.unwrap().value.len(),
        4
    );
    let (one, token) = &tokens["1"];
    assert!(lets_in(&kubernetes, &web, one, token).await);
    assert_eq!(bed.receives(token).await, 403);
    assert!(
        !lets_in(&kubernetes, &db, one, token).await,
        "another account's"
    );
    assert!(
        !lets_in(&kubernetes, &web, &tokens["2"].0, token).await,
        "another one's"
    );
    let forged = SecretString::from(format!("{}x", token.expose_secret()));
    assert!(!lets_in(&kubernetes, &web, one, &forged).await);
    let nonsense = SecretString::from("nonsense".to_owned());
    assert!(!lets_in(&kubernetes, &web, one, &nonsense).await);
    let over = std::fs::read_to_string(lab("EXPIRED_TOKEN")).unwrap();
    assert!(!lets_in(&kubernetes, &web, one, &SecretString::from(over)).await);

    // One that was looked at lately is taken for a while after its end; one that was not is not.
    does(&kubernetes, &destroy(&account, one)).await;
    is_already(&kubernetes, &destroy(&account, one)).await;
    until("a token that ended is refused", async || {
        is_refused(&kubernetes, &web, one, token).await && bed.receives(token).await == 401
    })
    .await;
    let (two, token) = &tokens["2"];
    does(&kubernetes, &destroy(&account, two)).await;
    until("a token that ended is refused", async || {
        is_refused(&kubernetes, &web, two, token).await
    })
    .await;

    // Made anew under the same name, the Secret is another one.
    let (three, token) = &tokens["3"];
    let name = format!(
        "tenure-token-{}",
        three.as_str().strip_prefix("token:").unwrap()
    );
    let path = bed.path(&format!("secrets/{name}"));
    let mut holder = bed.secret(&name).await;
    bed.admin.does(Method::DELETE, &path, Value::Null).await;
    for made_by_them in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
    ] {
        holder["metadata"]
            .as_object_mut()
            .unwrap()
            .remove(made_by_them);
    }
    bed.admin
        .does(Method::POST, &bed.path("secrets"), holder)
        .await;
    until("another Secret is another token's", async || {
        is_refused(&kubernetes, &web, three, token).await
    })
    .await;

    // And with its account all of them are.
    let (four, token) = &tokens["4"];
    assert!(lets_in(&kubernetes, &web, four, token).await);
    let path = bed.path("serviceaccounts/web");
    bed.admin.does(Method::DELETE, &path, Value::Null).await;
    until("nobody's token is refused", async || {
        is_refused(&kubernetes, &web, four, token).await
    })
    .await;
    bed.account("web").await;
    until("the next one of that name is somebody else", async || {
        is_refused(&kubernetes, &web, four, token).await
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_token_is_for_whom_and_for_as_long_as_it_was_asked_for() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    bed.account("web").await;
    let web = bed.of("web");
    let (mut operation, slot) = request(&web, json!({ "audiences": ["vault", "other"] }));
    let Operation::IssueCredential(new) = &mut operation else {
        panic!("{operation:?}");
    };
    new.lifetime_s = Some(600);
    kubernetes.apply(&operation, &key("1")).await.unwrap();
    let minted = slot.take().unwrap();
    let token = minted.secret.unwrap();
    let told = claims(&token);
    assert_eq!(told["aud"], json!(["vault", "other"]));
    assert_eq!(
        told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap(),
        600
    );
    assert!(lets_in(&kubernetes, &web, &minted.credential.id, &token).await);
    // It is not for the API server itself.
    assert_eq!(bed.receives(&token).await, 401);

    // They give no shorter one, and we ask for none.
    let (mut operation, _) = request(&web, json!({}));
    let Operation::IssueCredential(new) = &mut operation else {
        panic!("{operation:?}");
    };
    new.lifetime_s = Some(599);
    assert_eq!(
        refused(&kubernetes, &operation).await.kind,
        ErrorKind::Invalid
    );
    let short = json!({ "spec": { "expirationSeconds": 599 } });
    let path = bed.path("serviceaccounts/web/token");
    assert_eq!(bed.admin.asks(Method::POST, &path, &short).await.0, 422);
    let (operation, _) = request(&bed.of("nobody"), json!({}));
    assert_eq!(
        refused(&kubernetes, &operation).await.kind,
        ErrorKind::NotFound
    );
}
