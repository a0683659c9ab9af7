//! What a role owns, in two databases of the cluster.

use super::*;

/// A role that owns a table here, a table in the store's database, and holds a privilege.
async fn owner_of_things(connector: &Postgres) -> (String, NativeId) {
    let name = fresh("u");
    let id = make(connector, &name).await;
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        sql(
            &mut connection,
            format!(
                "CREATE SCHEMA \"{name}\"; CREATE TABLE \"{name}\".t (i int); ALTER TABLE \"{name}\".t OWNER TO \"{name}\";
                 GRANT USAGE ON SCHEMA \"{name}\" TO \"{name}\""
            ),
        )
        .await;
    }
    (name, id)
}

const TABLE_OWNER: &str = "SELECT tableowner::text FROM pg_tables WHERE schemaname = $1";

#[tokio::test]
async fn a_role_that_owns_things_is_not_deleted_unless_the_settings_say_how() {
    let connector = connector();
    let (name, id) = owner_of_things(&connector).await;
    let delete = Operation::DeleteAccount {
        account: id.clone(),
    };
    let error = connector.apply(&delete, &key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("owns table"), "{}", error.message);
    assert!(
        error.message.contains("database tenure_store"),
        "{}",
        error.message
    );

    let uses = connector
        .dependents(&ObjectRef::Account(id.clone()))
        .await
        .unwrap();
    assert!(
        uses.value.iter().any(|it| it.what.contains("owns table")),
        "{uses:?}"
    );
    assert!(!uses.blind_spots.is_empty());

    let heir = fresh("u");
    make(&connector, &heir).await;
    let reassigning = superuser(&json!({ "owned_objects": "reassign", "reassign_to": heir }));
    done(&reassigning, delete).await;
    assert!(proven(&connector, Claim::AccountAbsent { account: id }).await);
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        assert_eq!(
            value::<String>(&mut connection, TABLE_OWNER, &name).await,
            heir,
            "{url}"
        );
    }
}

#[tokio::test]
async fn ownership_is_handed_over_in_every_database_without_superuser() {
    let connector = connector();
    let (name, from) = owner_of_things(&connector).await;
    let heir = fresh("u");
    let to = make(&connector, &heir).await;
    done(
        &connector,
        Operation::TransferOwnership {
            from: from.clone(),
            to: to.clone(),
        },
    )
    .await;
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        assert_eq!(
            value::<String>(&mut connection, TABLE_OWNER, &name).await,
            heir,
            "{url}"
        );
    }
    let again = connector
        .apply(&Operation::TransferOwnership { from, to }, &key())
        .await
        .unwrap();
    assert!(matches!(again, Outcome::AlreadySo(_)));
    // Nothing of the rights it gave itself stayed.
    let mut admin = admin().await;
    let kept: i64 = value(
        &mut admin,
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
          WHERE r.rolname = $1 AND m.member = 'tenure_target'::regrole AND NOT m.admin_option",
        &heir,
    )
    .await;
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn what_a_role_owns_goes_with_it_when_the_settings_say_so() {
    let (name, id) = owner_of_things(&connector()).await;
    let dropping = superuser(&json!({ "owned_objects": "drop" }));
    done(&dropping, Operation::DeleteAccount { account: id }).await;
    let left: i64 = value(
        &mut admin().await,
        "SELECT count(*) FROM pg_tables WHERE schemaname = $1",
        &name,
    )
    .await;
    assert_eq!(left, 0);
}
