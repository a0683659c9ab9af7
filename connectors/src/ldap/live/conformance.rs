//! The suite every connector passes, with a front door that binds as the account itself.

use async_trait::async_trait;

use super::*;
use crate::conformance::{Door, Fixture, Verdict as Passed, run};

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
}

async fn passes(lab: &'static Lab, changes: Value) {
    let (staff, admins) = (fresh("staff"), fresh("admins"));
    lab.group(&staff).await;
    lab.group(&admins).await;
    let mut changes = changes;
    changes["page_size"] = json!(7);
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
        door: Some(Arc::new(BindDoor(lab))),
        ..Fixture::new(fresh("c"))
    };
    let report = run(Arc::new(lab.connector(changes)), fixture).await;
    eprintln!("{report}");
    assert!(report.is_good(), "{report}");
    assert!(report.left_behind.is_empty(), "{report}");
    let not_applicable = if lab.flavour == Flavour::Openldap {
        10
    } else {
        9
    };
    assert!(
        report.count(Passed::NotApplicable) <= not_applicable,
        "{report}"
    );
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
