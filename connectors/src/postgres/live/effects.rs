//! Accounts, groups, passwords and sessions: the effect through the front door and in the log.

use super::*;

#[tokio::test]
async fn a_disabled_role_cannot_log_in_and_an_ended_session_is_cut_off() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let password = format!("Pässword-{name}");
    let mut session = login(&name, &password)
        .await
        .expect("a new account logs in");

    done(
        &connector,
        Operation::DisableAccount {
            account: id.clone(),
        },
    )
    .await;
    let refused = login(&name, &password)
        .await
        .expect_err("a disabled account does not log in");
    assert!(
        refused.to_string().contains("not permitted to log in"),
        "{refused}"
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

    session
        .ping()
        .await
        .expect("disabling leaves the open session alone");
    assert!(
        !proven(
            &connector,
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );
    done(
        &connector,
        Operation::EndSessions {
            account: id.clone(),
        },
    )
    .await;
    assert!(session.ping().await.is_err(), "the session still answers");
    assert!(
        proven(
            &connector,
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );

    done(&connector, Operation::EnableAccount { account: id }).await;
    login(&name, &password)
        .await
        .expect("an enabled account logs in again");
}

#[tokio::test]
async fn the_sessions_of_a_dropped_role_are_still_seen_and_ended() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let mut session = login(&name, &format!("Pässword-{name}")).await.unwrap();
    done(
        &connector,
        Operation::DeleteAccount {
            account: id.clone(),
        },
    )
    .await;
    assert!(
        proven(
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
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );
    done(
        &connector,
        Operation::EndSessions {
            account: id.clone(),
        },
    )
    .await;
    assert!(session.ping().await.is_err());
    assert!(proven(&connector, Claim::NoSessions { account: id }).await);
}

#[tokio::test]
async fn a_renamed_role_is_followed_and_a_new_one_of_the_name_is_not_mistaken_for_it() {
    let connector = connector();
    let (old, renamed) = (fresh("u"), fresh("u"));
    let id = make(&connector, &old).await;
    let mut admin = admin().await;
    sql(
        &mut admin,
        format!("ALTER ROLE \"{old}\" RENAME TO \"{renamed}\""),
    )
    .await;
    assert!(
        !proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await,
        "it logs in under its new name"
    );
    done(
        &connector,
        Operation::DisableAccount {
            account: id.clone(),
        },
    )
    .await;
    assert!(
        !value::<bool>(
            &mut admin,
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1",
            &renamed
        )
        .await
    );

    sql(
        &mut admin,
        format!("DROP ROLE \"{renamed}\"; CREATE ROLE \"{old}\" LOGIN"),
    )
    .await;
    let error = connector
        .verify(&Claim::AccountAbsent {
            account: id.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.message);
    let error = connector
        .apply(&Operation::DeleteAccount { account: id }, &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(
        value::<bool>(
            &mut admin,
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1",
            &old
        )
        .await
    );
}

#[tokio::test]
async fn a_role_made_by_somebody_else_stays_an_account_when_it_is_disabled() {
    let connector = connector();
    let name = fresh("u");
    let mut admin = admin().await;
    let user = lab("TENURE_LAB_POSTGRES_TARGET_USER");
    sql(
        &mut admin,
        format!(
            "CREATE ROLE \"{name}\" LOGIN; COMMENT ON ROLE \"{name}\" IS 'ask Bob'; GRANT \"{name}\" TO {user} WITH ADMIN OPTION"
        ),
    )
    .await;
    let found = connector
        .get(&ObjectRef::AccountNamed(name.clone()))
        .await
        .unwrap()
        .unwrap();
    let id = found.into_account().unwrap().id;
    done(&connector, Operation::DisableAccount { account: id }).await;
    let found = connector
        .get(&ObjectRef::AccountNamed(name.clone()))
        .await
        .unwrap()
        .unwrap()
        .into_account()
        .unwrap();
    assert_eq!((found.enabled, found.owner), (Some(false), None));
    assert!(
        connector
            .get(&ObjectRef::Entitlement(EntitlementName::new(&name)))
            .await
            .unwrap()
            .is_none()
    );
    let comment: String = value(
        &mut admin,
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1",
        &name,
    )
    .await;
    assert_eq!(comment, "tenure:account\nask Bob");
}

#[tokio::test]
async fn no_clear_password_reaches_the_servers_log() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let password = fresh("Geheim");
    let set = Operation::SetPassword {
        account: id,
        password: SecretString::from(password.clone()),
    };
    done(&connector, set).await;
    login(&name, &password)
        .await
        .expect("the new password works");
    assert!(
        login(&name, &format!("Pässword-{name}")).await.is_err(),
        "the old password works"
    );
    let log = std::fs::read_to_string(lab("TENURE_LAB_POSTGRES_LOG")).unwrap();
    assert!(
        log.contains(&format!("CREATE ROLE \"{name}\"")),
        "the log is the record of effects"
    );
    assert!(log.contains(&format!(
        "ALTER ROLE \"{name}\" PASSWORD 'SCRAM-SHA-256$4096:"
    )));
    assert!(
        !log.contains(&password) && !log.contains(&format!("Pässword-{name}")),
        "a clear password was logged"
    );
}

#[tokio::test]
async fn a_membership_is_taken_away_whoever_gave_it() {
    let connector = connector();
    let (group, name) = (make_group().await, fresh("u"));
    let id = make(&connector, &name).await;
    let mut admin = admin().await;
    sql(&mut admin, format!("GRANT \"{group}\" TO \"{name}\"")).await;
    let super_connector = superuser(&json!({}));
    done(
        &super_connector,
        Operation::Revoke {
            account: id.clone(),
            entitlement: group.clone(),
        },
    )
    .await;
    assert!(
        proven(
            &connector,
            Claim::NotGranted {
                account: id.clone(),
                entitlement: group.clone()
            }
        )
        .await
    );
    let held: i64 = value(
        &mut admin,
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = $1",
        &name,
    )
    .await;
    assert_eq!(held, 0);
}

#[tokio::test]
async fn a_membership_through_another_group_is_said() {
    let connector = connector();
    let (inner, outer, name) = (make_group().await, make_group().await, fresh("u"));
    let id = make(&connector, &name).await;
    sql(
        &mut admin().await,
        format!("GRANT \"{inner}\" TO \"{outer}\""),
    )
    .await;
    done(
        &connector,
        Operation::Grant {
            account: id.clone(),
            entitlement: outer,
        },
    )
    .await;
    match connector
        .verify(&Claim::NotGranted {
            account: id,
            entitlement: inner,
        })
        .await
        .unwrap()
    {
        Verdict::Proven(seen) => assert_eq!(seen.seen["through_another_group"], json!(true)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_account_is_not_granted_to_another() {
    let connector = connector();
    let (one, other) = (fresh("u"), fresh("u"));
    let id = make(&connector, &one).await;
    make(&connector, &other).await;
    let grant = Operation::Grant {
        account: id,
        entitlement: EntitlementName::new(other),
    };
    assert_eq!(
        connector.apply(&grant, &key()).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn roles_outside_the_prefix_and_our_own_are_never_touched() {
    let prefix = fresh("p");
    let fenced = connector_with(&json!({ "role_prefix": &prefix[..10] }));
    let inside = make(&fenced, &fresh(&prefix[..10])).await;
    let name = fresh("u");
    let outside = make(&connector(), &name).await;
    for operation in [
        Operation::DisableAccount {
            account: outside.clone(),
        },
        Operation::DeleteAccount {
            account: outside.clone(),
        },
        Operation::CreateAccount(new(&fresh("u"))),
    ] {
        let error = fenced.apply(&operation, &key()).await.unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::Denied,
            "{}",
            operation.name().as_str()
        );
    }
    let disabled = Claim::AccountDisabled { account: outside };
    assert_eq!(
        fenced.verify(&disabled).await.unwrap_err().kind,
        ErrorKind::Denied,
        "not seen is not absent"
    );
    let listed = fenced.list(Kind::Account, None).await.unwrap();
    assert!(listed.complete);
    let ids: Vec<NativeId> = listed
        .items
        .into_iter()
        .filter_map(Object::into_account)
        .map(|account| account.id)
        .collect();
    assert_eq!(ids, [inside]);

    let own = Operation::DisableAccount {
        account: NativeId::new(lab("TENURE_LAB_POSTGRES_TARGET_USER")),
    };
    assert_eq!(
        connector().apply(&own, &key()).await.unwrap_err().kind,
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn the_check_says_what_is_missing_and_how_to_give_it() {
    assert!(connector().check().await.unwrap().findings.len() >= 4);
    let (name, password) = (fresh("u"), fresh("pw"));
    sql(
        &mut admin().await,
        format!("CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"),
    )
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &password).unwrap();
    let secret = format!("file:{}", file.path().display());

    let weak = connector_with(&json!({ "user": name, "password": secret }))
        .check()
        .await
        .unwrap();
    let fixes: Vec<String> = weak
        .findings
        .iter()
        .filter_map(|finding| finding.fix.clone())
        .collect();
    assert!(
        fixes.contains(&format!("ALTER ROLE \"{name}\" CREATEROLE")),
        "{fixes:?}"
    );
    assert!(
        fixes.contains(&format!("GRANT pg_signal_backend TO \"{name}\"")),
        "{fixes:?}"
    );

    for (changes, what) in [
        (json!({ "user": name, "password": "env:HOME" }), "login"),
        (json!({ "database": "nowhere" }), "login"),
        (json!({ "port": 1 }), "reach"),
        (
            json!({ "ca_file": lab("TENURE_LAB_POSTGRES_OTHER_CA") }),
            "reach",
        ),
    ] {
        let health = connector_with(&changes).check().await.unwrap();
        let bad: Vec<&str> = health
            .findings
            .iter()
            .filter(|it| !it.good)
            .map(|it| it.what.as_str())
            .collect();
        assert_eq!(bad, [what], "{changes}");
    }
}
