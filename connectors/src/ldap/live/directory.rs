//! What directories are peculiar about: names, groups, locks, pages, rights.

use super::super::dn;
use super::super::dn::tests::HOSTILE;
use super::super::entry::{ACCOUNT_CONTROL, LOCKED_TIME};
use super::*;
use crate::connector::{Cursor, ErrorKind, Kind};

async fn modify(lab: &Lab, dn: &str, attribute: &str, value: &str) {
    let change = ldap3::Mod::Replace(attribute, HashSet::from([value]));
    lab.admin()
        .await
        .modify(dn, vec![change])
        .await
        .unwrap()
        .success()
        .unwrap();
}

#[tokio::test]
async fn a_renamed_and_moved_account_is_not_lost() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({}));
        let name = fresh("r");
        let id = make_with_password(&connector, &name).await;
        let group = fresh("moved");
        lab.group(&group).await;
        let former = format!("ou={},{}", fresh("former"), lab.get("BASE"));
        let rdn = former.split(',').next().unwrap();
        let classes = HashSet::from(["organizationalUnit"]);
        let ou = HashSet::from([&rdn[3..]]);
        let mut admin = lab.admin().await;
        let made = admin
            .add(&former, vec![("objectClass", classes), ("ou", ou)])
            .await;
        made.unwrap().success().unwrap();
        let attribute = if lab.flavour == Flavour::Openldap {
            "uid"
        } else {
            "cn"
        };
        let old = dn::below(attribute, &name, &lab.get("PEOPLE_BASE"));
        let renamed = dn::relative(attribute, &fresh("n"));
        let moved = admin.modifydn(&old, &renamed, true, Some(&former)).await;
        moved.unwrap().success().unwrap();

        // What remembers the old place must notice; what reads must look everywhere.
        assert!(
            !proven(
                &connector,
                Claim::AccountAbsent {
                    account: id.clone()
                }
            )
            .await
        );
        assert!(
            !proven(
                &connector,
                Claim::AccountDisabled {
                    account: id.clone()
                }
            )
            .await
        );
        if lab.flavour == Flavour::ActiveDirectory {
            receipt(apply(&connector, grant(&id, &group)).await);
            assert_eq!(
                lab.values(&dn::below("cn", &group, &lab.get("GROUP_BASE")), "member")
                    .await,
                [format!(
                    "{},{}",
                    renamed.replacen("cn", "CN", 1),
                    former.replacen("ou", "OU", 1)
                )]
            );
        }
        // Openldap: the service account has no rights there, and that is said, not taken for absence.
        let outcome = apply(
            &connector,
            Operation::DisableAccount {
                account: id.clone(),
            },
        )
        .await;
        match lab.flavour {
            Flavour::Openldap => assert_eq!(error(outcome).kind, ErrorKind::Denied),
            Flavour::ActiveDirectory => {
                receipt(outcome);
                assert!(proven(&connector, Claim::AccountDisabled { account: id }).await);
            }
        }
    }
}

#[tokio::test]
async fn a_grant_after_a_rename_reaches_the_right_entry() {
    let connector = OPENLDAP.connector(json!({}));
    let name = fresh("r");
    let id = make(&connector, new_account(&name)).await;
    let group = fresh("renamed");
    let group_dn = OPENLDAP.group(&group).await;
    receipt(apply(&connector, grant(&id, &group)).await);
    let base = OPENLDAP.get("PEOPLE_BASE");
    let new = fresh("n");
    let mut admin = OPENLDAP.admin().await;
    let renamed = admin
        .modifydn(
            &dn::below("uid", &name, &base),
            &dn::relative("uid", &new),
            true,
            None,
        )
        .await;
    renamed.unwrap().success().unwrap();
    // The old name is still remembered, and the overlay has renamed the member meanwhile.
    receipt(apply(&connector, revoke(&id, &group)).await);
    assert_eq!(
        OPENLDAP.values(&group_dn, "member").await,
        [format!("cn=nobody,{}", OPENLDAP.get("GROUP_BASE"))]
    );
}

#[tokio::test]
async fn an_update_of_the_naming_attribute_renames() {
    for (lab, attribute) in [(&OPENLDAP, "uid"), (&AD, "cn")] {
        let connector = lab.connector(json!({}));
        let id = make(&connector, new_account(&fresh("u"))).await;
        let renamed = fresh("v");
        let update = Operation::UpdateAccount {
            account: id.clone(),
            attributes: Attributes::from([
                (attribute.to_owned(), json!(renamed)),
                ("title".to_owned(), json!("Manager")),
            ]),
        };
        receipt(apply(&connector, update.clone()).await);
        assert!(matches!(
            apply(&connector, update).await,
            Ok(Outcome::AlreadySo(_))
        ));
        let title = dn::below(attribute, &renamed, &lab.get("PEOPLE_BASE"));
        assert_eq!(lab.values(&title, "title").await, ["Manager"]);
        assert_eq!(account(&connector, &id).await.id, id);
    }
}

#[tokio::test]
async fn the_last_member_leaves_and_the_placeholder_stays() {
    let connector = OPENLDAP.connector(json!({}));
    let base = OPENLDAP.get("GROUP_BASE");
    let (name, group) = (fresh("a"), fresh("last"));
    let id = make(&connector, new_account(&name)).await;
    let member = dn::below("uid", &name, &OPENLDAP.get("PEOPLE_BASE"));
    let group_dn = dn::below("cn", &group, &base);
    // A group as somebody else made it: without a placeholder, our account its only member.
    let one = |text: &str| HashSet::from([text.to_owned()]);
    let attributes = vec![
        ("objectClass".to_owned(), one("groupOfNames")),
        ("cn".to_owned(), one(&group)),
        ("member".to_owned(), one(&member)),
    ];
    OPENLDAP
        .admin()
        .await
        .add(&group_dn, attributes)
        .await
        .unwrap()
        .success()
        .unwrap();
    let held = account(&connector, &id).await.entitlements.unwrap();
    assert_eq!(
        held.iter().map(EntitlementName::as_str).collect::<Vec<_>>(),
        [group.as_str()]
    );

    receipt(apply(&connector, revoke(&id, &group)).await);
    assert_eq!(
        OPENLDAP.values(&group_dn, "member").await,
        [format!("cn=nobody,{base}")]
    );
    assert!(matches!(
        apply(&connector, revoke(&id, &group)).await,
        Ok(Outcome::AlreadySo(_))
    ));
    assert_eq!(
        account(&connector, &id).await.entitlements.unwrap().len(),
        0
    );

    // Deleting the only member does the same.
    modify(&OPENLDAP, &group_dn, "member", &member).await;
    receipt(apply(&connector, Operation::DeleteAccount { account: id }).await);
    assert_eq!(
        OPENLDAP.values(&group_dn, "member").await,
        [format!("cn=nobody,{base}")]
    );
}

#[tokio::test]
async fn an_entitlement_may_be_a_full_name() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({}));
        let id = make(&connector, new_account(&fresh("f"))).await;
        let group = fresh("full");
        let full = lab.group(&group).await;
        receipt(apply(&connector, grant(&id, &full.to_uppercase())).await);
        assert!(matches!(
            apply(&connector, grant(&id, &group)).await,
            Ok(Outcome::AlreadySo(_))
        ));
        let claim = Claim::Granted {
            account: id.clone(),
            entitlement: EntitlementName::new(full),
        };
        assert!(proven(&connector, claim).await);
        let held = account(&connector, &id).await.entitlements.unwrap();
        assert!(held.contains(&EntitlementName::new(group)), "{held:?}");
    }
}

#[tokio::test]
async fn hostile_names_of_accounts_and_groups_are_just_names() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({}));
        for hostile in HOSTILE {
            let group = format!("{}{hostile}", fresh("h"));
            let id = make(&connector, new_account(&fresh("h"))).await;
            if hostile.contains('\0') {
                let refused = error(apply(&connector, grant(&id, &group)).await);
                assert!(
                    matches!(refused.kind, ErrorKind::NotFound | ErrorKind::Invalid),
                    "{}",
                    refused.whole()
                );
                continue;
            }
            lab.group(&group).await;
            receipt(apply(&connector, grant(&id, &group)).await);
            let held = account(&connector, &id).await.entitlements.unwrap();
            // A blank at an end is layout to a directory: it keeps one or none.
            let trimmed: Vec<&str> = held.iter().map(|name| name.as_str().trim()).collect();
            assert_eq!(trimmed, [group.trim()], "{:?}", lab.flavour);
            receipt(apply(&connector, revoke(&id, &group)).await);
        }
    }
    // Active Directory forbids most of these in a login name; OpenLDAP forbids nothing.
    let connector = OPENLDAP.connector(json!({}));
    for hostile in HOSTILE.iter().filter(|name| !name.contains('\0')) {
        let name = format!("{}{}", fresh("h"), hostile.trim());
        let id = make_with_password(&connector, &name).await;
        let found = connector
            .get(&ObjectRef::AccountNamed(name.clone()))
            .await
            .unwrap();
        let found = found.unwrap().into_account().unwrap();
        assert_eq!((found.id, found.name), (id.clone(), name));
        receipt(
            apply(
                &connector,
                Operation::DisableAccount {
                    account: id.clone(),
                },
            )
            .await,
        );
        receipt(apply(&connector, Operation::DeleteAccount { account: id }).await);
    }
}

#[tokio::test]
async fn wrong_passwords_lock_for_a_while_which_is_not_disabled() {
    let connector = OPENLDAP.connector(json!({}));
    let name = fresh("w");
    let id = make_with_password(&connector, &name).await;
    let dn = dn::below("uid", &name, &OPENLDAP.get("PEOPLE_BASE"));
    for _ in 0..6 {
        assert_eq!(OPENLDAP.bind(&dn, "wrong").await.1.rc, 49);
    }
    assert_eq!(
        OPENLDAP.bind(&dn, PASSWORD).await.1.rc,
        49,
        "the server has locked it"
    );
    assert!(
        !proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await
    );
    receipt(
        apply(
            &connector,
            Operation::DisableAccount {
                account: id.clone(),
            },
        )
        .await,
    );
    assert!(
        proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await
    );
    receipt(apply(&connector, Operation::EnableAccount { account: id }).await);
    assert_eq!(OPENLDAP.bind(&dn, PASSWORD).await.1.rc, 0);
}

#[tokio::test]
async fn setting_a_password_never_enables() {
    let connector = OPENLDAP.connector(json!({}));
    let name = fresh("e");
    let mut new = new_account(&name);
    new.enabled = false;
    new.password = Some(SecretString::from(PASSWORD));
    let id = make(&connector, new).await;
    let dn = dn::below("uid", &name, &OPENLDAP.get("PEOPLE_BASE"));
    assert_eq!(OPENLDAP.bind(&dn, PASSWORD).await.1.rc, 49);
    assert!(
        proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await
    );
    let set = Operation::SetPassword {
        account: id.clone(),
        password: SecretString::from("An0ther-Passw0rd"),
    };
    let refused = error(apply(&connector, set.clone()).await);
    assert_eq!(refused.kind, ErrorKind::Invalid, "{}", refused.whole());
    assert!(
        proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await
    );
    receipt(apply(&connector, Operation::EnableAccount { account: id }).await);
    assert_eq!(OPENLDAP.bind(&dn, PASSWORD).await.1.rc, 0);
    receipt(apply(&connector, set).await);
    assert_eq!(OPENLDAP.bind(&dn, "An0ther-Passw0rd").await.1.rc, 0);
    assert!(
        OPENLDAP.values(&dn, "userPassword").await[0].starts_with("{SSHA"),
        "the server has hashed it"
    );
}

#[tokio::test]
async fn a_refused_password_leaves_no_account() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({}));
        let mut new = new_account(&fresh("q"));
        new.password = Some(SecretString::from("short"));
        let owner = new.owner.clone();
        let refused = error(apply(&connector, Operation::CreateAccount(new)).await);
        assert_eq!(refused.kind, ErrorKind::Invalid, "{}", refused.whole());
        assert!(
            connector
                .get(&ObjectRef::AccountOwnedBy(owner))
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test]
async fn the_other_bits_of_account_control_stay() {
    let connector = AD.connector(json!({}));
    let name = fresh("b");
    let id = make_with_password(&connector, &name).await;
    let dn = dn::below("cn", &name, &AD.get("PEOPLE_BASE"));
    // 512, and the password never expires.
    modify(&AD, &dn, ACCOUNT_CONTROL, "66048").await;
    receipt(
        apply(
            &connector,
            Operation::DisableAccount {
                account: id.clone(),
            },
        )
        .await,
    );
    assert_eq!(AD.values(&dn, ACCOUNT_CONTROL).await, ["66050"]);
    let refused = AD.bind(&dn, PASSWORD).await.1;
    assert_eq!(refused.rc, 49);
    assert!(refused.text.contains("data 533"), "{}", refused.text);
    receipt(apply(&connector, Operation::EnableAccount { account: id }).await);
    assert_eq!(AD.values(&dn, ACCOUNT_CONTROL).await, ["66048"]);
    assert_eq!(AD.bind(&dn, PASSWORD).await.1.rc, 0);
}

#[tokio::test]
async fn an_account_made_without_password_lets_nobody_in() {
    for (lab, attribute) in [(&OPENLDAP, "uid"), (&AD, "cn")] {
        let connector = lab.connector(json!({}));
        let name = fresh("o");
        let id = make(&connector, new_account(&name)).await;
        assert_eq!(account(&connector, &id).await.enabled, Some(true));
        let dn = dn::below(attribute, &name, &lab.get("PEOPLE_BASE"));
        assert_eq!(lab.bind(&dn, "anything").await.1.rc, 49);
        if lab.flavour == Flavour::ActiveDirectory {
            // 32, "no password needed", must not be among the bits.
            assert_eq!(lab.values(&dn, ACCOUNT_CONTROL).await, ["512"]);
        }
    }
}

#[tokio::test]
async fn who_may_only_read_is_denied_and_nothing_changes() {
    let writer = OPENLDAP.connector(json!({}));
    let reader = OPENLDAP.connector(json!({"bind_dn": OPENLDAP.get("READER_DN")}));
    let name = fresh("d");
    let id = make(&writer, new_account(&name)).await;
    let group = fresh("denied");
    OPENLDAP.group(&group).await;
    let other = fresh("d");
    for operation in [
        Operation::CreateAccount(new_account(&other)),
        Operation::DisableAccount {
            account: id.clone(),
        },
        Operation::UpdateAccount {
            account: id.clone(),
            attributes: Attributes::from([("title".to_owned(), json!("Boss"))]),
        },
        Operation::DeleteAccount {
            account: id.clone(),
        },
        grant(&id, &group),
    ] {
        let refused = error(apply(&reader, operation).await);
        assert_eq!(refused.kind, ErrorKind::Denied, "{}", refused.whole());
        assert!(refused.message.contains("`bind_dn`"), "{}", refused.message);
    }
    let seen = account(&writer, &id).await;
    assert_eq!(seen.attributes["title"], json!("Clerk"));
    assert!(
        writer
            .get(&ObjectRef::AccountNamed(other))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn what_cannot_be_seen_is_not_absent() {
    for lab in [&OPENLDAP, &AD] {
        let wrong = format!("ou=typo,{}", lab.get("BASE"));
        let connector = lab.connector(json!({}));
        let id = make(&connector, new_account(&fresh("z"))).await;
        let blind =
            lab.connector(json!({"people_base": wrong, "group_base": wrong, "search_base": wrong}));
        for object in [
            ObjectRef::AccountNamed("any".to_owned()),
            ObjectRef::AccountOwnedBy("any".to_owned()),
            ObjectRef::Entitlement(EntitlementName::new("any")),
        ] {
            let failed = blind.get(&object).await.unwrap_err();
            assert_eq!(
                failed.kind,
                ErrorKind::Invalid,
                "{object:?}: {}",
                failed.whole()
            );
        }
        let failed = error(apply(&blind, revoke(&id, "any")).await);
        assert_eq!(failed.kind, ErrorKind::Invalid, "{}", failed.whole());
        let claim = Claim::NotGranted {
            account: id,
            entitlement: EntitlementName::new("any"),
        };
        assert!(blind.verify(&claim).await.is_err());
        assert!(blind.list(Kind::Account, None).await.is_err());
        let health = blind.check().await.unwrap();
        let bad: Vec<&str> = health
            .findings
            .iter()
            .filter(|f| !f.good)
            .map(|f| f.what.as_str())
            .collect();
        assert!(bad.contains(&"rights"), "{:?}", health.findings);
    }
}

#[tokio::test]
async fn check_names_what_is_wrong_with_the_settings() {
    for lab in [&OPENLDAP, &AD] {
        let health = lab.connector(json!({})).check().await.unwrap();
        assert!(health.is_good(), "{:?}", health.findings);
        let what: Vec<&str> = health.findings.iter().map(|f| f.what.as_str()).collect();
        assert_eq!(what, ["reach", "login", "rights", "schema", "disabling"]);
        let health = lab
            .connector(json!({"owner_attribute": "noSuchThing"}))
            .check()
            .await
            .unwrap();
        let bad: Vec<_> = health.findings.iter().filter(|f| !f.good).collect();
        assert_eq!(bad.len(), 1);
        assert!(bad[0].detail.contains("noSuchThing"), "{bad:?}");
        assert!(
            bad[0].fix.as_deref().unwrap().contains("owner_attribute"),
            "{bad:?}"
        );
    }
    let base = OPENLDAP.get("PEOPLE_BASE");
    let health = OPENLDAP
        .connector(json!({"password_policy": base}))
        .check()
        .await
        .unwrap();
    let bad: Vec<_> = health.findings.iter().filter(|f| !f.good).collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].what, "disabling");
}

#[tokio::test]
async fn a_cursor_serves_once_and_only_where_it_was_made() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({"page_size": 2}));
        for _ in 0..3 {
            make(&connector, new_account(&fresh("p"))).await;
        }
        let first = connector.list(Kind::Account, None).await.unwrap();
        assert_eq!(first.items.len(), 2);
        assert!(!first.complete);
        let next = first.next.unwrap();
        let wrong_kind = connector
            .list(Kind::Entitlement, Some(next.clone()))
            .await
            .unwrap_err();
        assert_eq!(wrong_kind.kind, ErrorKind::Conflict);
        // Taken by the wrong question, so it is gone: better again from the start than a page skipped.
        assert_eq!(
            connector
                .list(Kind::Account, Some(next))
                .await
                .unwrap_err()
                .kind,
            ErrorKind::Conflict
        );
        let strange = Some(Cursor("1".to_owned()));
        assert_eq!(
            connector
                .list(Kind::Account, strange)
                .await
                .unwrap_err()
                .kind,
            ErrorKind::Conflict
        );
    }
}

#[tokio::test]
async fn a_distinguished_name_may_be_written_in_any_spelling() {
    let connector = OPENLDAP.connector(json!({}));
    let (boss, name) = (fresh("boss"), fresh("x"));
    make(&connector, new_account(&boss)).await;
    let mut new = new_account(&name);
    let manager = format!("UID={boss}, {}", OPENLDAP.get("PEOPLE_BASE").to_uppercase());
    new.attributes.insert("manager".to_owned(), json!(manager));
    let attributes = new.attributes.clone();
    let id = make(&connector, new).await;
    let claim = Claim::AttributesAre {
        account: id.clone(),
        attributes: attributes.clone(),
    };
    assert!(proven(&connector, claim).await);
    let update = Operation::UpdateAccount {
        account: id,
        attributes,
    };
    assert!(matches!(
        apply(&connector, update).await,
        Ok(Outcome::AlreadySo(_))
    ));
}

#[tokio::test]
async fn no_secret_is_read() {
    let connector = OPENLDAP.connector(json!({"bind_dn": OPENLDAP.get("ADMIN_DN")}));
    let name = fresh("y");
    let id = make_with_password(&connector, &name).await;
    let dn = dn::below("uid", &name, &OPENLDAP.get("PEOPLE_BASE"));
    assert_eq!(
        OPENLDAP.values(&dn, "userPassword").await.len(),
        1,
        "the administrator could"
    );
    let seen = serde_json::to_string(&account(&connector, &id).await).unwrap();
    assert!(!seen.to_lowercase().contains("userpassword"), "{seen}");
    receipt(
        apply(
            &connector,
            Operation::DisableAccount {
                account: id.clone(),
            },
        )
        .await,
    );
    assert!(
        account(&connector, &id)
            .await
            .attributes
            .contains_key(LOCKED_TIME)
    );
}

#[tokio::test]
async fn a_size_limit_is_an_error_and_check_tells() {
    // The reading account has the server's usual limit of 500 entries.
    let writer = OPENLDAP.connector(json!({}));
    let reader = OPENLDAP.connector(json!({"bind_dn": OPENLDAP.get("READER_DN")}));
    for _ in 0..501 {
        make(&writer, new_account(&fresh("z"))).await;
    }
    let mut after = None;
    let refused = loop {
        match reader.list(Kind::Account, after).await {
            Ok(page) => {
                assert!(
                    !page.complete,
                    "a listing that was cut short calls itself complete"
                );
                after = page.next;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind, ErrorKind::Denied, "{}", refused.whole());
    let health = reader.check().await.unwrap();
    let bad: Vec<_> = health.findings.iter().filter(|f| !f.good).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(bad[0].fix.as_deref().unwrap().contains("limits"), "{bad:?}");
    assert!(writer.check().await.unwrap().is_good());
}

#[tokio::test]
async fn a_part_on_another_server_is_not_everything() {
    let base = format!("ou={},{}", fresh("parts"), OPENLDAP.get("BASE"));
    let one = |text: &str| HashSet::from([text.to_owned()]);
    let mut admin = OPENLDAP.admin().await;
    let entries = [
        (
            base.clone(),
            vec![("objectClass".to_owned(), one("organizationalUnit"))],
        ),
        (
            format!("cn=elsewhere,{base}"),
            vec![
                (
                    "objectClass".to_owned(),
                    HashSet::from(["referral".to_owned(), "extensibleObject".to_owned()]),
                ),
                ("ref".to_owned(), one("ldap://127.0.0.1:1/ou=elsewhere")),
            ],
        ),
    ];
    for (dn, attributes) in entries {
        admin.add(&dn, attributes).await.unwrap().success().unwrap();
    }
    let page = OPENLDAP
        .connector(json!({"people_base": base}))
        .list(Kind::Account, None)
        .await
        .unwrap();
    assert!(page.items.is_empty() && page.next.is_none());
    assert!(!page.complete, "what another server holds was not listed");
}
