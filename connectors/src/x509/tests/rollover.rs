//! The four phases of a new authority, each judged by `openssl verify`.

use super::*;
use crate::connector::Attributes;

async fn authority(ca: &X509, under: &str) -> Result<(CredentialId, String), Error> {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: NativeId::new(AUTHORITY),
        kind: CredentialKind::Certificate,
        material: Material::BySystem,
        attributes: Attributes::new(),
        lifetime_s: None,
        label: None,
        into,
    };
    ca.apply(&Operation::IssueCredential(new), &key(under))
        .await?;
    let minted = slot.take().unwrap();
    assert!(
        minted.secret.is_none(),
        "the authority's key leaves the folder"
    );
    Ok((minted.credential.id, minted.public.unwrap()))
}

#[tokio::test]
async fn a_new_authority_takes_over_and_at_no_time_is_anybody_refused() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({}));
    let old_leaf = issue_new(&ca, by_system(), "1").await.unwrap();
    let old_chain = old_leaf.public.unwrap();
    let old_bundle = lab.write(
        "old-bundle.pem",
        &std::fs::read_to_string(lab.path("bundle.pem")).unwrap(),
    );
    let generations = ca
        .credentials(&NativeId::new(AUTHORITY))
        .await
        .unwrap()
        .value;
    let old = generations[0].id.clone();
    let good = |chain: &str, roots: &Path| {
        lab.verifies(chain, roots, &["-x509_strict", "-purpose", "sslserver"])
    };

    // 1: trusted, not used.
    let (new, bundle) = authority(&ca, "next").await.unwrap();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(
        authority(&ca, "next").await.unwrap().0,
        new,
        "asked again, one generation"
    );
    let error = authority(&ca, "another").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full);
    let both = lab.write("both.pem", &bundle);
    let between = issue_new(&ca, by_system(), "2").await.unwrap();
    for roots in [&old_bundle, &both] {
        assert!(good(&between.public.clone().unwrap(), roots).0);
    }

    // 2: used. Those who know only the old root accept it through the cross certificate.
    let activate = |id: &CredentialId| Operation::ActivateCredential {
        account: NativeId::new(AUTHORITY),
        credential: id.clone(),
    };
    assert!(matches!(
        applied(&ca, activate(&new)).await.unwrap(),
        Outcome::Done(_)
    ));
    assert!(matches!(
        applied(&ca, activate(&new)).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
    let leaf = issue_new(&ca, by_system(), "3").await.unwrap();
    let chain = leaf.public.clone().unwrap();
    let new_root = lab.write(
        "new-root.pem",
        &ca.authority
            .hold(*lab.now.lock().unwrap())
            .unwrap()
            .generation(2)
            .unwrap()
            .root,
    );
    for roots in [&old_bundle, &both, &new_root] {
        let (good, said) = good(&chain, roots);
        assert!(good, "{}: {said}", roots.display());
    }
    let (refused, said) = good(&old_chain, &new_root);
    assert!(!refused, "the new root knows nothing of the old: {said}");
    // Taken back, and taken up again.
    applied(&ca, activate(&old)).await.unwrap();
    let rolled_back = issue_new(&ca, by_system(), "4").await.unwrap();
    assert!(good(&rolled_back.public.unwrap(), &old_bundle).0);
    applied(&ca, activate(&new)).await.unwrap();

    // 4 before 3 is refused, and so is the end of the one that signs.
    let error = applied(&ca, destroy(AUTHORITY, &old)).await.unwrap_err();
    assert!(
        error.message.starts_with("3 certificates of generation 1"),
        "{error}"
    );
    let error = applied(&ca, destroy(AUTHORITY, &new)).await.unwrap_err();
    assert!(
        error.message.contains("activate another one first"),
        "{error}"
    );

    // 3 and 4.
    for credential in ca.credentials(&NativeId::new("web")).await.unwrap().value {
        if credential.id != leaf.credential.id {
            applied(&ca, destroy("web", &credential.id)).await.unwrap();
        }
    }
    applied(&ca, destroy(AUTHORITY, &old)).await.unwrap();
    let last = lab.path("bundle.pem");
    assert_eq!(
        std::fs::read_to_string(&last)
            .unwrap()
            .matches("BEGIN CERTIFICATE")
            .count(),
        1
    );
    assert!(good(&chain, &last).0 && !good(&old_chain, &last).0);
    let after = issue_new(&ca, by_system(), "5")
        .await
        .unwrap()
        .public
        .unwrap();
    assert!(good(&after, &last).0);
    assert_eq!(
        after.matches("BEGIN CERTIFICATE").count(),
        2,
        "no cross certificate any more"
    );
    let again = lab.connector(&json!({}));
    let active: Vec<_> = again
        .credentials(&NativeId::new(AUTHORITY))
        .await
        .unwrap()
        .value
        .into_iter()
        .map(|it| it.active)
        .collect();
    assert_eq!(
        active,
        [Some(false), Some(true)],
        "read again from the index"
    );
}
