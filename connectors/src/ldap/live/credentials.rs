//! Keys and certificates as the server really keeps them.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::conformance::ssh_key;
use super::*;
use crate::connector::{CredentialId, CredentialKind};

/// What a server asks for that lets people in by their keys: it does not look at the lock.
async fn keys(account: &str) -> Vec<String> {
    let name = super::super::dn::below("uid", account, &OPENLDAP.get("PEOPLE_BASE"));
    OPENLDAP.values(&name, "sshPublicKey").await
}

#[tokio::test]
async fn a_locked_accounts_key_opens_until_it_is_destroyed() {
    let connector = OPENLDAP.connector(json!({
        "object_classes": ["inetOrgPerson", "ldapPublicKey"],
    }));
    let name = fresh("k");
    let mut new = new_account(&name);
    // One key under two comments, and another one.
    let twice = format!("{} of the old laptop", ssh_key(1));
    new.attributes.insert(
        "sshPublicKey".to_owned(),
        json!([ssh_key(1), twice, ssh_key(2)]),
    );
    let id = make(&connector, new).await;

    // A certificate, as the server takes it: in binary only, and it reads what it is given.
    let pem = OPENLDAP.get("CA_FILE");
    let der = CertificateDer::pem_file_iter(pem).unwrap().next().unwrap();
    let der = der.unwrap().as_ref().to_vec();
    let entry = super::super::dn::below("uid", &name, &OPENLDAP.get("PEOPLE_BASE"));
    let certificate = ldap3::Mod::Add(
        b"userCertificate;binary".to_vec(),
        HashSet::from([der.clone()]),
    );
    let mut admin = OPENLDAP.admin().await;
    let added = admin.modify(&entry, vec![certificate]).await;
    added.unwrap().success().unwrap();

    receipt(
        apply(
            &connector,
            Operation::DisableAccount {
                account: id.clone(),
            },
        )
        .await,
    );
    assert_eq!(keys(&name).await.len(), 3, "the lock does nothing to keys");
    let listed = connector.credentials(&id).await.unwrap().value;
    let kinds: Vec<_> = listed.iter().map(|it| it.kind).collect();
    assert_eq!(
        kinds,
        [
            CredentialKind::Certificate,
            CredentialKind::SshKey,
            CredentialKind::SshKey
        ]
    );
    assert_eq!(listed[0].id, CredentialId::of_certificate(&der));

    let destroy = |credential: CredentialId| Operation::DestroyCredential {
        account: id.clone(),
        credential,
    };
    let first = CredentialId::of_ssh_key(ssh_key(1).as_bytes());
    receipt(apply(&connector, destroy(first)).await);
    let left = keys(&name).await;
    assert_eq!(left, [ssh_key(2)], "both lines of the key, and no other");
    receipt(apply(&connector, destroy(CredentialId::of_certificate(&der))).await);
    let listed = connector.credentials(&id).await.unwrap().value;
    assert_eq!(listed.len(), 1);
    let last = listed[0].id.clone();
    receipt(apply(&connector, destroy(last.clone())).await);
    assert!(keys(&name).await.is_empty());
    match apply(&connector, destroy(last)).await {
        Ok(Outcome::AlreadySo(_)) => {}
        other => panic!("{other:?}"),
    }
}
