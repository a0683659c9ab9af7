//! Tokens of service accounts: bound, ended, tried, and never left over.

use super::*;

pub(in crate::kubernetes) fn request(account: &str, attributes: Value) -> (Operation, Slot) {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: NativeId::new(account),
        kind: CredentialKind::Token,
        material: Material::BySystem,
        attributes: serde_json::from_value(attributes).unwrap(),
        lifetime_s: None,
        label: None,
        into,
    };
    (Operation::IssueCredential(new), slot)
}

pub(in crate::kubernetes) async fn issue(
    kubernetes: &Kubernetes,
    account: &str,
    under: &str,
) -> (bool, Minted) {
    let (operation, slot) = request(account, json!({}));
    match kubernetes.apply(&operation, &key(under)).await.unwrap() {
        Outcome::Done(_) => (true, slot.take().unwrap()),
        Outcome::AlreadySo(_) => (false, slot.take().unwrap()),
        other => panic!("{other:?}"),
    }
}

/// Whether the cluster takes the token as one of this account, by both claims.
pub(in crate::kubernetes) async fn lets_in(
    kubernetes: &Kubernetes,
    account: &str,
    credential: &CredentialId,
    token: &SecretString,
) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token.expose_secret()).unwrap();
    let secret = SecretRef::File(file.path().display().to_string());
    let works = Claim::CredentialWorks {
        account: NativeId::new(account),
        credential: credential.clone(),
        secret: secret.clone(),
    };
    let refused = Claim::CredentialRefused {
        account: NativeId::new(account),
        credential: credential.clone(),
        secret,
    };
    let (works, seen) = holds(kubernetes, &works).await;
    assert_ne!(works, holds(kubernetes, &refused).await.0);
    assert!(!seen.to_string().contains(token.expose_secret()));
    works
}

#[tokio::test]
async fn a_token_is_bound_lives_for_its_time_and_ends_with_its_secret() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    bed.cluster.account("shop", "web");
    bed.cluster.account("shop", "db");
    let (is_new, one) = issue(&kubernetes, "shop/web", "1").await;
    let (_, two) = issue(&kubernetes, "shop/web", "2").await;
    assert!(is_new);
    let hour = one.credential.expires_at.unwrap() - kubernetes.api.now();
    assert!((3_500..=3_600).contains(&hour.num_seconds()), "{hour}");
    let (one_token, two_token) = (one.secret.unwrap(), two.secret.unwrap());
    let (one, two) = (one.credential.id, two.credential.id);
    let web = "shop/web";
    assert!(lets_in(&kubernetes, web, &one, &one_token).await);
    assert!(lets_in(&kubernetes, web, &two, &two_token).await);
    assert!(
        !lets_in(&kubernetes, web, &two, &one_token).await,
        "another one's"
    );
    assert!(
        !lets_in(&kubernetes, "shop/db", &one, &one_token).await,
        "another account's"
    );
    let forged = SecretString::from(format!("{}x", one_token.expose_secret()));
    assert!(!lets_in(&kubernetes, web, &one, &forged).await);

    let account = NativeId::new(web);
    let listed = kubernetes.credentials(&account).await.unwrap().value;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|it| it.active == Some(true)));
    // Not another account's to end.
    let db = NativeId::new("shop/db");
    is_already(&kubernetes, &destroy(&db, &one)).await;
    assert!(lets_in(&kubernetes, web, &one, &one_token).await);
    does(&kubernetes, &destroy(&account, &one)).await;
    is_already(&kubernetes, &destroy(&account, &one)).await;
    assert!(!lets_in(&kubernetes, web, &one, &one_token).await);
    assert!(lets_in(&kubernetes, web, &two, &two_token).await);
    let listed = kubernetes.credentials(&account).await.unwrap().value;
    assert_eq!(listed.len(), 1);

    // Its time is over.
    bed.cluster
        .with(|state| state.tokens.get_mut(two_token.expose_secret()).unwrap().1 = true);
    assert!(!lets_in(&kubernetes, web, &two, &two_token).await);
    let again = Operation::ActivateCredential {
        account,
        credential: one,
    };
    assert_eq!(refused(&kubernetes, &again).await.kind, ErrorKind::NotFound);
    // The Secret goes with its account, and holds nothing.
    let holders = bed.cluster.with(|state| state.secrets.clone());
    let holder = holders.values().next().unwrap();
    assert_eq!(holder["metadata"]["ownerReferences"][0]["name"], "web");
    assert!(holder.get("data").is_none());
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_is_made_anew_under_the_same_secret() {
    for instead in [Instead::Lost, Instead::Half] {
        let bed = Bed::new().await;
        let kubernetes = bed.connector();
        bed.cluster.account("shop", "web");
        let issued = Claim::CredentialIssued {
            account: NativeId::new("shop/web"),
            key: "1".to_owned(),
        };
        assert!(!holds(&kubernetes, &issued).await.0);
        bed.cluster
            .once("POST serviceaccounts/web/token", instead.clone());
        let (operation, slot) = request("shop/web", json!({}));
        let outcome = kubernetes.apply(&operation, &key("1")).await.unwrap();
        assert!(matches!(outcome, Outcome::Ambiguous { .. }), "{outcome:?}");
        assert!(slot.take().is_none());
        let lost = bed.cluster.with(|state| {
            let lost = state.tokens.keys().next().unwrap();
            SecretString::from(lost.clone())
        });
        // It may be there.
        assert!(holds(&kubernetes, &issued).await.0);
        let (is_new, found) = issue(&kubernetes, "shop/web", "1").await;
        assert!(is_new);
        let token = found.secret.unwrap();
        let id = found.credential.id;
        let (is_new, again) = issue(&kubernetes, "shop/web", "1").await;
        assert!(!is_new && again.secret.is_none() && again.credential.id == id);
        assert_eq!(bed.cluster.with(|state| state.secrets.len()), 1);
        // Both end together.
        let account = NativeId::new("shop/web");
        assert!(lets_in(&kubernetes, "shop/web", &id, &lost).await);
        does(&kubernetes, &destroy(&account, &id)).await;
        assert!(!lets_in(&kubernetes, "shop/web", &id, &token).await);
        assert!(!lets_in(&kubernetes, "shop/web", &id, &lost).await);
        assert!(!holds(&kubernetes, &issued).await.0);
    }
}

#[tokio::test]
async fn a_note_that_could_not_be_made_costs_another_token_and_no_other_name() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    bed.cluster.account("shop", "web");
    let (code, body) = server::status(500, "InternalError", "etcd is away", json!({}));
    bed.cluster
        .once("PATCH secrets/", Instead::Answer(code, body));
    let (is_new, first) = issue(&kubernetes, "shop/web", "1").await;
    assert!(is_new && first.secret.is_some());
    let (is_new, second) = issue(&kubernetes, "shop/web", "1").await;
    assert!(is_new && second.credential.id == first.credential.id);
    let (is_new, third) = issue(&kubernetes, "shop/web", "1").await;
    assert!(!is_new && third.credential.id == first.credential.id);
}

#[tokio::test]
async fn a_token_is_for_whom_it_was_asked_for() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    bed.cluster.account("ops", "runner");
    let (operation, slot) = request("ops/runner", json!({ "audiences": ["vault"] }));
    kubernetes.apply(&operation, &key("1")).await.unwrap();
    let minted = slot.take().unwrap();
    let token = minted.secret.unwrap();
    assert!(lets_in(&kubernetes, "ops/runner", &minted.credential.id, &token).await);
    bed.cluster.with(|state| {
        let review = state.asked.last().unwrap();
        assert_eq!(review.body["spec"]["audiences"], json!(["vault"]));
    });
    for (account, attributes, lifetime_s, kind, why) in [
        ("ops/nobody", json!({}), None, "not_found", "NAMESPACE/NAME"),
        (
            "kube-system/admin",
            json!({}),
            None,
            "not_found",
            "`namespaces`",
        ),
        ("ops/../x", json!({}), None, "not_found", "NAMESPACE/NAME"),
        ("app", json!({}), None, "not_found", "NAMESPACE/NAME"),
        (
            "ops/runner",
            json!({ "audiences": "vault" }),
            None,
            "invalid",
            "a list of texts",
        ),
        (
            "ops/runner",
            json!({ "audience": ["vault"] }),
            None,
            "invalid",
            "`audience`",
        ),
        (
            "ops/runner",
            json!({ "audiences": [""] }),
            None,
            "invalid",
            "an empty text",
        ),
        ("ops/runner", json!({}), Some(599), "invalid", "allow 600"),
        (
            "ops/runner",
            json!({}),
            Some(u64::MAX),
            "invalid",
            "`lifetime_s_max`",
        ),
    ] {
        let (into, slot) = HandOver::slot();
        let new = NewCredential {
            account: NativeId::new(account),
            kind: CredentialKind::Token,
            material: Material::BySystem,
            attributes: serde_json::from_value::<Attributes>(attributes).unwrap(),
            lifetime_s,
            label: None,
            into,
        };
        let error = refused(&kubernetes, &Operation::IssueCredential(new)).await;
        assert_eq!(error.kind.as_str(), kind, "{account}: {error}");
        assert!(error.message.contains(why), "{why}: {error}");
        assert!(slot.take().is_none());
    }
    assert_eq!(bed.cluster.with(|state| state.secrets.len()), 1);
    // What is in no namespace of ours is nobody's, and is not even asked for.
    bed.cluster.with(|state| state.asked.clear());
    for nobody in ["kube-system/admin", "ops/a b", "ops/", "/x", "*", ""] {
        let named = ObjectRef::AccountNamed(nobody.to_owned());
        assert!(kubernetes.get(&named).await.unwrap().is_none(), "{nobody}");
        let listed = kubernetes.credentials(&NativeId::new(nobody)).await;
        assert!(listed.unwrap().value.is_empty());
    }
    assert_eq!(bed.cluster.asked(""), 0);
}
