//! The suite every connector passes, with a front door that binds as the account itself.

use async_trait::async_trait;

use super::*;
use crate::conformance::{Door, Fixture, Verdict as Passed, run};
use crate::connector::{Credential, CredentialId, CredentialKind};

struct BindDoor(&'static Lab);

#[async_trait]
impl Door for BindDoor {
    async fn opens(&self, account: &Account, password: &SecretString) -> Result<bool, String> {
        use secrecy::ExposeSecret;
        let name = match self.0.flavour {
            Flavour::Openldap => {
                super::super::dn::below("uid", &account.name, &self.0.get("PEOPLE_BASE"))
            }
            Flavour::ActiveDirectory => {
                super::super::dn::below("cn", &account.name, &self.0.get("PEOPLE_BASE"))
            }
        };
        let (_, result) = self.0.bind(&name, password.expose_secret()).await;
        match result.rc {
            0 => Ok(true),
            49 => Ok(false),
            _ => Err(result.to_string()),
        }
    }

    /// As a server looks keys up: it asks for the attribute, and does not look at the lock.
    async fn takes(
        &self,
        account: &Account,
        credential: &Credential,
    ) -> Result<Option<bool>, String> {
        if credential.kind != CredentialKind::SshKey {
            return Ok(None);
        }
        let name = super::super::dn::below("uid", &account.name, &self.0.get("PEOPLE_BASE"));
        let keys = self.0.values(&name, "sshPublicKey").await;
        let mut keys = keys
            .iter()
            .map(|key| CredentialId::of_ssh_key(key.as_bytes()));
        Ok(Some(keys.any(|key| key == credential.id)))
    }

    /// Two certificates; Active Directory does not look into them.
    async fn plants(&self, account: &Account) -> Result<bool, String> {
        let name = super::super::dn::below("cn", &account.name, &self.0.get("PEOPLE_BASE"));
        let certificates = HashSet::from([vec![0x30, 1, 1], vec![0x30, 1, 2]]);
        let add = ldap3::Mod::Add(b"userCertificate".to_vec(), certificates);
        let added = self.0.admin().await.modify(&name, vec![add]).await;
        added
            .and_then(ldap3::LdapResult::success)
            .map_err(|error| error.to_string())?;
        Ok(true)
    }

    async fn gives(&self, account: &Account) -> Result<bool, String> {
        let (branch, attribute) = match self.0.flavour {
            Flavour::Openldap => ("uid", "owner"),
            Flavour::ActiveDirectory => ("cn", "managedBy"),
        };
        let name = super::super::dn::below(branch, &account.name, &self.0.get("PEOPLE_BASE"));
        for _ in 0..2 {
            let group = self.0.group(&fresh("owned")).await;
            let owner = ldap3::Mod::Add(attribute, HashSet::from([name.as_str()]));
            let given = self.0.admin().await.modify(&group, vec![owner]).await;
            given
                .and_then(ldap3::LdapResult::success)
                .map_err(|error| error.to_string())?;
        }
        Ok(true)
    }
}

/// A key of this length is as good as any: nobody computes with it.
pub(super) fn ssh_key(which: u8) -> String {
    use base64::Engine as _;
    let mut blob = vec![0, 0, 0, 11];
    blob.extend(b"ssh-ed25519");
    blob.extend([0, 0, 0, 32]);
    blob.extend([which; 32]);
    let text = base64::engine::general_purpose::STANDARD.encode(blob);
    format!("ssh-ed25519 {text} somebody@laptop-{which}")
}

async fn passes(lab: &'static Lab, changes: Value) {
    let (staff, admins) = (fresh("staff"), fresh("admins"));
    lab.group(&staff).await;
    lab.group(&admins).await;
    let mut changes = changes;
    changes["page_size"] = json!(7);
    let mut credential_attributes = Attributes::new();
    if lab.flavour == Flavour::Openldap {
        changes["object_classes"] = json!(["inetOrgPerson", "ldapPublicKey"]);
        let keys = json!([ssh_key(1), ssh_key(2)]);
        credential_attributes.insert("sshPublicKey".to_owned(), keys);
    }
    let fixture = Fixture {
        entitlements: vec![EntitlementName::new(staff), EntitlementName::new(admins)],
        attributes: Attributes::from([
            ("mail".to_owned(), json!("{name}@example.org")),
            ("title".to_owned(), json!("Clerk")),
            ("departmentNumber".to_owned(), json!(["4711", "4712"])),
        ]),
        changed: Attributes::from([
            ("title".to_owned(), json!("Manager")),
            ("departmentNumber".to_owned(), json!(["4713"])),
        ]),
        text_attribute: Some("description".to_owned()),
        name_bytes_max: (lab.flavour == Flavour::ActiveDirectory).then_some(20),
        page_size: Some(7),
        credential_attributes,
        door: Some(Arc::new(BindDoor(lab))),
        ..Fixture::new(fresh("c"))
    };
    let report = run(Arc::new(lab.connector(changes)), fixture).await;
    eprintln!("{report}");
    assert!(report.is_good(), "{report}");
    assert!(report.left_behind.is_empty(), "{report}");
    assert!(report.count(Passed::NotApplicable) <= 18, "{report}");
}

#[tokio::test]
async fn openldap_passes_the_suite() {
    passes(&OPENLDAP, json!({})).await;
}

#[tokio::test]
async fn openldap_with_member_of_and_start_tls_passes_the_suite() {
    let changes = json!({"url": OPENLDAP.get("URL"), "start_tls": true, "member_of": true});
    passes(&OPENLDAP, changes).await;
}

#[tokio::test]
async fn active_directory_passes_the_suite() {
    passes(&AD, json!({})).await;
}
