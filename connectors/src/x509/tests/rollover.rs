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
    assert_eq!(active, [Some(true)], "read again from the index");
    for (name, is_there) in [
        ("g1/root.key", false),
        ("g1/ca.key", false),
        ("g2/ca.key", true),
    ] {
        assert_eq!(lab.path(name).exists(), is_there, "{name}");
    }
}

#[tokio::test]
async fn what_hangs_on_a_generation_is_told_and_whoever_trusts_it_is_tried() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({}));
    let leaf = issue_new(&ca, by_system(), "1").await.unwrap();
    let account = NativeId::new(AUTHORITY);
    let old = ca.credentials(&account).await.unwrap().value.remove(0).id;
    let (new, both) = authority(&ca, "next").await.unwrap();
    let mut roots = Vec::new();
    for id in [&old, &new] {
        let claim = Claim::CredentialActive {
            account: account.clone(),
            credential: id.clone(),
        };
        let seen = match ca.verify(&claim).await.unwrap() {
            Verdict::Proven(seen) | Verdict::Refuted(seen) => seen,
            other => panic!("{other:?}"),
        };
        roots.push(seen.certificate().unwrap().to_owned());
    }
    assert_eq!(roots.concat(), both);
    for (id, bundle, accepted) in [
        (&old, &both, true),
        (&new, &both, true),
        (&old, &roots[0], true),
        (&new, &roots[0], false),
        (&old, &roots[1], false),
        (&new, &roots[1], true),
    ] {
        let path = lab.write("bundle.pem", bundle);
        let (account, credential) = (account.clone(), id.clone());
        let secret = SecretRef::File(text(&path));
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
        for (claim, holds) in [(works, accepted), (refused, !accepted)] {
            let verdict = ca.verify(&claim).await.unwrap();
            assert_eq!(
                matches!(verdict, Verdict::Proven(_)),
                holds,
                "{claim:?} {verdict:?}"
            );
        }
    }
    // The trials left nothing behind.
    let signed = async |id: &CredentialId| {
        let claim = Claim::NothingSigned {
            account: account.clone(),
            credential: id.clone(),
        };
        match ca.verify(&claim).await.unwrap() {
            Verdict::Proven(_) => None,
            Verdict::Refuted(seen) => Some(seen.signed().unwrap()),
            other @ Verdict::CannotObserve { .. } => panic!("{other:?}"),
        }
    };
    assert_eq!(signed(&new).await, None);
    let hanging = signed(&old).await.unwrap();
    assert_eq!(hanging.good, 1);
    assert_eq!(hanging.signed[0].credential, leaf.credential.id);
    assert_eq!(hanging.signed[0].account, "web");
    assert_eq!(hanging.until, leaf.credential.expires_at);
    // What is on hold can come back.
    let hold = Operation::DeactivateCredential {
        account: NativeId::new("web"),
        credential: leaf.credential.id.clone(),
    };
    applied(&ca, hold).await.unwrap();
    assert_eq!(signed(&old).await.unwrap().good, 1);
    applied(&ca, destroy("web", &leaf.credential.id))
        .await
        .unwrap();
    assert_eq!(signed(&old).await, None);
    let listed = ca.credentials(&NativeId::new("web")).await.unwrap().value;
    assert_eq!(listed, Vec::new(), "what is gone is not listed");
}
