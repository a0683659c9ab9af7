//! `check`: reach, login, rights, schema and the means of disabling, each with what to change.

use ldap3::Scope;

use super::pool::{self, Connection};
use super::settings::{Flavour, Security, Settings};
use super::wire::{self, Found, Search};
use super::{Ldap, codes, entry, read};
use crate::connector::{Error, ErrorKind, Finding, Health};

/// The password policy control (draft-behera-ldap-password-policy): offered when the overlay is loaded.
const PASSWORD_POLICY_CONTROL: &str = "1.3.6.1.4.1.42.2.27.8.5.1";
/// How many accounts are asked for to see whether they may be listed.
const PROBED_ACCOUNTS: i32 = 5_000;
const POLICIES_MAX: i32 = 100;

impl Ldap {
    /// On a connection of its own: a kept one would prove nothing about logging in.
    pub(super) async fn health(&self) -> Health {
        let settings = &*self.settings;
        let mut findings = Vec::new();
        let mut connection = match Box::pin(pool::reach(settings)).await {
            Ok(connection) => connection,
            Err(error) => {
                let fix =
                    "see that the server runs, that `url` is right and that no firewall is between";
                findings.push(Finding::bad("reach", error.whole(), fix));
                return Health { findings };
            }
        };
        let how = match settings.security {
            Security::Plain => "without encryption",
            Security::StartTls => "with StartTLS",
            Security::Ldaps => "with TLS",
        };
        findings.push(Finding::good(
            "reach",
            format!("connected to `{}` {how}", settings.url),
        ));
        if let Err(error) = pool::login(settings, &mut connection).await {
            let fix = match error.kind {
                ErrorKind::AuthExpired => "correct `bind_dn` or the secret behind `bind_password`",
                _ => "see the server's log: it took the connection and not the login",
            };
            findings.push(Finding::bad("login", error.whole(), fix));
            return Health { findings };
        }
        findings.push(Finding::good(
            "login",
            format!("logged in as `{}`", settings.bind_dn),
        ));
        for finding in [
            rights(settings, &mut connection).await,
            schema(settings, &mut connection).await,
            means_of_disabling(settings, &mut connection).await,
        ] {
            findings.push(finding.unwrap_or_else(|error| {
                Finding::bad("rights", error.whole(), "see the server's log")
            }));
        }
        Health { findings }
    }
}

async fn ask(
    settings: &Settings,
    connection: &mut Connection,
    search: &Search<'_>,
) -> Result<Found, Error> {
    wire::search(&mut connection.handle, search, settings.operation_timeout)
        .await
        .map_err(|failure| failure.of_read(&settings.url))
}

/// The bases must be there to be seen; where the server tells, accounts must be ours to make.
async fn rights(settings: &Settings, connection: &mut Connection) -> Result<Finding, Error> {
    for (setting, base) in [
        ("people_base", &settings.people_base),
        ("group_base", &settings.group_base),
        ("search_base", &settings.search_base),
    ] {
        // Active Directory works this one out for whoever asks.
        let attributes = ["allowedChildClassesEffective"];
        let found = ask(
            settings,
            connection,
            &Search::entry(base, read::ANY, &attributes),
        )
        .await?;
        let entry = match found.result.rc {
            codes::SUCCESS => found.entries.into_iter().next(),
            codes::NO_SUCH_OBJECT => None,
            _ => return Err(codes::refused(&format!("read `{base}`"), &found.result)),
        };
        let Some(entry) = entry else {
            return Ok(Finding::bad(
                "rights",
                format!("`{setting}`, which is `{base}`, does not exist or may not be read"),
                format!("correct `{setting}` or let `{}` read it", settings.bind_dn),
            ));
        };
        let makes = entry.texts("allowedChildClassesEffective");
        if settings.flavour == Flavour::ActiveDirectory
            && setting == "people_base"
            && let Some(class) = settings.object_classes.last()
            && !makes.iter().any(|makes| makes.eq_ignore_ascii_case(class))
        {
            return Ok(Finding::bad(
                "rights",
                format!(
                    "`{}` may not make `{class}` objects below `{base}`",
                    settings.bind_dn
                ),
                "delegate creating, deleting and managing user accounts there to it",
            ));
        }
    }
    // A limit on the size of answers shows only once there is more than it allows.
    let search = Search {
        base: &settings.people_base,
        scope: Scope::Subtree,
        filter: &settings.account_filter,
        attributes: read::NONE,
        entries_max: 0,
        page: Some((PROBED_ACCOUNTS, Vec::new())),
    };
    let found = ask(settings, connection, &search).await?;
    if found.result.rc != codes::SUCCESS {
        let refused = codes::refused("list the accounts", &found.result);
        return Ok(Finding::bad(
            "rights",
            refused.message,
            "on OpenLDAP: `limits dn.exact=\"<bind_dn>\" size=unlimited` for the database",
        ));
    }
    Ok(Finding::good(
        "rights",
        match settings.flavour {
            Flavour::ActiveDirectory => "the bases can be read and accounts can be made",
            Flavour::Openldap => {
                "the bases can be read; whether they may be written OpenLDAP tells only at the first write"
            }
        },
    ))
}

/// A filter on an attribute that does not exist finds nothing, silently: an account would be made twice.
async fn schema(settings: &Settings, connection: &mut Connection) -> Result<Finding, Error> {
    let root = ask(
        settings,
        connection,
        &Search::entry("", read::ANY, &["subschemaSubentry"]),
    )
    .await?;
    let place = root
        .entries
        .first()
        .and_then(|root| root.text("subschemaSubentry"));
    let place = place.unwrap_or_else(|| "cn=Subschema".to_owned());
    let found = ask(
        settings,
        connection,
        &Search::entry(&place, read::ANY, &["attributeTypes"]),
    )
    .await?;
    let types = found
        .entries
        .first()
        .map(|entry| entry.texts("attributeTypes"))
        .unwrap_or_default();
    if types.is_empty() {
        return Ok(Finding::bad(
            "schema",
            format!("`{place}` may not be read"),
            format!("let `{}` read the schema", settings.bind_dn),
        ));
    }
    for (setting, name) in [
        ("owner_attribute", &settings.owner_attribute),
        ("name_attribute", &settings.name_attribute),
        ("rdn_attribute", &settings.rdn_attribute),
        ("member_attribute", &settings.member_attribute),
        ("group_owner_attribute", &settings.group_owner_attribute),
    ] {
        if !types.iter().any(|definition| defines(definition, name)) {
            return Ok(Finding::bad(
                "schema",
                format!("the server knows no attribute `{name}`"),
                format!("correct `{setting}` or load the schema that has it"),
            ));
        }
    }
    Ok(Finding::good(
        "schema",
        "the server knows every attribute the settings name",
    ))
}

/// Whether an attribute definition (RFC 4512, 4.1.2) has this name: `NAME 'a'` or `NAME ( 'a' 'b' )`.
fn defines(definition: &str, name: &str) -> bool {
    let Some((_, names)) = definition.split_once("NAME ") else {
        return false;
    };
    let names = match names.trim_start().strip_prefix('(') {
        Some(list) => list.split(')').next().unwrap_or(list),
        None => names.trim_start().split(' ').next().unwrap_or(names),
    };
    names
        .split('\'')
        .any(|known| known.eq_ignore_ascii_case(name))
}

async fn means_of_disabling(
    settings: &Settings,
    connection: &mut Connection,
) -> Result<Finding, Error> {
    const WHAT: &str = "disabling";
    if settings.flavour == Flavour::ActiveDirectory {
        let detail = format!("accounts are disabled by `{}`", entry::ACCOUNT_CONTROL);
        return Ok(Finding::good(WHAT, detail));
    }
    let root = ask(
        settings,
        connection,
        &Search::entry("", read::ANY, &["supportedControl"]),
    )
    .await?;
    let controls = root
        .entries
        .first()
        .map(|root| root.texts("supportedControl"))
        .unwrap_or_default();
    if !controls
        .iter()
        .any(|control| control == PASSWORD_POLICY_CONTROL)
    {
        return Ok(Finding::bad(
            WHAT,
            "accounts are disabled by the password policy, and the server has no ppolicy overlay: a disabled account could still log in",
            "load the ppolicy overlay with a default policy that has `pwdLockout: TRUE`",
        ));
    }
    // The lock is looked at only where the policy says so.
    let search = Search {
        base: settings
            .password_policy
            .as_ref()
            .unwrap_or(&settings.search_base),
        scope: if settings.password_policy.is_some() {
            Scope::Base
        } else {
            Scope::Subtree
        },
        filter: "(&(objectClass=pwdPolicy)(pwdLockout=TRUE))",
        attributes: read::NONE,
        entries_max: POLICIES_MAX,
        page: None,
    };
    let found = ask(settings, connection, &search).await?;
    Ok(match found.entries.first() {
        Some(policy) => Finding::good(
            WHAT,
            format!(
                "accounts are disabled by the password policy; `{}` looks at the lock",
                policy.dn
            ),
        ),
        None => Finding::bad(
            WHAT,
            format!(
                "no password policy with `pwdLockout: TRUE` can be seen at `{}`: a disabled account could still log in",
                search.base
            ),
            "set `pwdLockout: TRUE` in the default policy, name the policy in `password_policy`, and let the account of `bind_dn` read it",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_attribute_definitions() {
        let one = "( 1.2 NAME 'employeeNumber' DESC 'RFC2798: not ''uid''' SYNTAX 1.3 )";
        let several = "( 0.9 NAME ( 'uid' 'userid' ) EQUALITY caseIgnoreMatch )";
        assert!(defines(one, "EMPLOYEENUMBER"));
        assert!(!defines(one, "uid"));
        assert!(!defines(one, "employee"));
        assert!(defines(several, "userid"));
        assert!(defines(several, "uid"));
        assert!(!defines("( 1.2 OBSOLETE )", "uid"));
    }
}
