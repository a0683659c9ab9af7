//! What the numbers of a directory server mean: one table, no guessing.

use ldap3::LdapResult;

use crate::connector::{Error, ErrorKind};

pub(super) const SUCCESS: u32 = 0;
pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
pub(super) const NO_SUCH_ATTRIBUTE: u32 = 16;
pub(super) const UNDEFINED_ATTRIBUTE_TYPE: u32 = 17;
pub(super) const CONSTRAINT_VIOLATION: u32 = 19;
pub(super) const ATTRIBUTE_OR_VALUE_EXISTS: u32 = 20;
pub(super) const NO_SUCH_OBJECT: u32 = 32;
pub(super) const INVALID_CREDENTIALS: u32 = 49;
pub(super) const UNWILLING_TO_PERFORM: u32 = 53;
pub(super) const OBJECT_CLASS_VIOLATION: u32 = 65;
pub(super) const ENTRY_ALREADY_EXISTS: u32 = 68;
pub(super) const ASSERTION_FAILED: u32 = 122;

/// The name of a result code ([RFC 4511](https://www.rfc-editor.org/rfc/rfc4511#appendix-A)) and what it
/// means for us. A code that is not in the table is a [`ErrorKind::Bug`]: nobody retries what nobody knows.
fn meaning(code: u32) -> (&'static str, ErrorKind) {
    match code {
        SUCCESS => ("success", ErrorKind::Bug),
        1 => ("operationsError", ErrorKind::Bug),
        2 => ("protocolError", ErrorKind::Bug),
        3 => ("timeLimitExceeded", ErrorKind::Timeout),
        // A limit set for our login; the same question meets it again.
        SIZE_LIMIT_EXCEEDED => ("sizeLimitExceeded", ErrorKind::Denied),
        11 => ("adminLimitExceeded", ErrorKind::Denied),
        // We never compare.
        5 => ("compareFalse", ErrorKind::Bug),
        6 => ("compareTrue", ErrorKind::Bug),
        // About how we log in, so about every operation.
        7 => ("authMethodNotSupported", ErrorKind::AuthExpired),
        8 => ("strongerAuthRequired", ErrorKind::AuthExpired),
        13 => ("confidentialityRequired", ErrorKind::AuthExpired),
        14 => ("saslBindInProgress", ErrorKind::AuthExpired),
        48 => ("inappropriateAuthentication", ErrorKind::AuthExpired),
        INVALID_CREDENTIALS => ("invalidCredentials", ErrorKind::AuthExpired),
        // Asked the wrong server or the wrong kind of server.
        10 => ("referral", ErrorKind::Unsupported),
        12 => ("unavailableCriticalExtension", ErrorKind::Unsupported),
        71 => ("affectsMultipleDSAs", ErrorKind::Unsupported),
        // The state is not what the request supposed.
        NO_SUCH_ATTRIBUTE => ("noSuchAttribute", ErrorKind::Conflict),
        ATTRIBUTE_OR_VALUE_EXISTS => ("attributeOrValueExists", ErrorKind::Conflict),
        66 => ("notAllowedOnNonLeaf", ErrorKind::Conflict),
        ENTRY_ALREADY_EXISTS => ("entryAlreadyExists", ErrorKind::Conflict),
        ASSERTION_FAILED => ("assertionFailed", ErrorKind::Conflict),
        NO_SUCH_OBJECT => ("noSuchObject", ErrorKind::NotFound),
        // The content is refused and would be again.
        UNDEFINED_ATTRIBUTE_TYPE => ("undefinedAttributeType", ErrorKind::Invalid),
        18 => ("inappropriateMatching", ErrorKind::Invalid),
        CONSTRAINT_VIOLATION => ("constraintViolation", ErrorKind::Invalid),
        21 => ("invalidAttributeSyntax", ErrorKind::Invalid),
        33 => ("aliasProblem", ErrorKind::Invalid),
        34 => ("invalidDNSyntax", ErrorKind::Invalid),
        36 => ("aliasDereferencingProblem", ErrorKind::Invalid),
        UNWILLING_TO_PERFORM => ("unwillingToPerform", ErrorKind::Invalid),
        64 => ("namingViolation", ErrorKind::Invalid),
        OBJECT_CLASS_VIOLATION => ("objectClassViolation", ErrorKind::Invalid),
        67 => ("notAllowedOnRDN", ErrorKind::Invalid),
        69 => ("objectClassModsProhibited", ErrorKind::Invalid),
        50 => ("insufficientAccessRights", ErrorKind::Denied),
        123 => ("authorizationDenied", ErrorKind::Denied),
        // It cannot just now.
        51 => ("busy", ErrorKind::Transient),
        52 => ("unavailable", ErrorKind::Transient),
        80 => ("other", ErrorKind::Transient),
        54 => ("loopDetect", ErrorKind::Bug),
        88 => ("userCancelled", ErrorKind::Bug),
        _ => ("a result code nobody defined", ErrorKind::Bug),
    }
}

/// The kind of a result. Two codes mean two things each, told apart by the server's text.
fn kind(result: &LdapResult) -> ErrorKind {
    match result.rc {
        // OpenLDAP says this of a database that is switched to read-only for a while.
        UNWILLING_TO_PERFORM if result.text.contains("operation restricted") => {
            ErrorKind::Transient
        }
        // Active Directory says this on a connection it no longer takes for logged in.
        1 if result.text.contains("000004DC") => ErrorKind::AuthExpired,
        code => meaning(code).1,
    }
}

/// The error of an answered request. `doing` says what was asked, as in "cannot `doing`".
pub(super) fn refused(doing: &str, result: &LdapResult) -> Error {
    let mut message = format!("cannot {doing}: the directory answered {}", named(result));
    if let Some(hint) = hint(result) {
        message.push_str("; ");
        message.push_str(hint);
    }
    Error::new(kind(result), message)
}

/// Code, name and the server's own words.
pub(super) fn named(result: &LdapResult) -> String {
    let name = meaning(result.rc).0;
    let text = result.text.trim_matches(['\0', '\n', ' ']);
    if text.is_empty() {
        format!("{} {name}", result.rc)
    } else {
        format!("{} {name} ({text})", result.rc)
    }
}

fn hint(result: &LdapResult) -> Option<&'static str> {
    match result.rc {
        SIZE_LIMIT_EXCEEDED | 11 => Some(
            "raise the server's size limit for the account of `bind_dn` (OpenLDAP: `limits`, Active Directory: query policy)",
        ),
        8 | 13 => Some("use ldaps:// or set `start_tls: true`"),
        10 => Some(
            "this server does not hold the data or is a read-only replica; set `url` to the one that may write",
        ),
        50 => Some("give the account of `bind_dn` the right to do this"),
        _ if result.text.contains("0000052D") => {
            Some("the password does not satisfy the domain's password policy")
        }
        _ => None,
    }
}

/// Why Active Directory refused a bind: it hides the reason in `data xxx` of the text.
pub(super) fn bind_reason(result: &LdapResult) -> Option<&'static str> {
    let data = result.text.split("data ").nth(1)?;
    let code: String = data.chars().take_while(char::is_ascii_hexdigit).collect();
    match code.to_ascii_lowercase().as_str() {
        "525" => Some("there is no such user"),
        "52e" => Some("the name or the password is wrong"),
        "52f" => Some("a restriction of the account forbids this login"),
        "530" => Some("the account may not log in at this time of day"),
        "531" => Some("the account may not log in from this machine"),
        "532" => Some("the password has expired"),
        "533" => Some("the account is disabled"),
        "568" => Some("the account is in too many groups"),
        "701" => Some("the account has expired"),
        "773" => Some("the password must be changed first"),
        "775" => Some("the account is locked"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::connector::RetryClass;

    fn result(rc: u32, text: &str) -> LdapResult {
        LdapResult {
            rc,
            matched: String::new(),
            text: text.to_owned(),
            refs: Vec::new(),
            ctrls: Vec::new(),
        }
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, text, expected) in [
            (3, "", ErrorKind::Timeout),
            (4, "", ErrorKind::Denied),
            (16, "", ErrorKind::Conflict),
            (17, "", ErrorKind::Invalid),
            (32, "", ErrorKind::NotFound),
            (49, "", ErrorKind::AuthExpired),
            (50, "", ErrorKind::Denied),
            (51, "", ErrorKind::Transient),
            (52, "", ErrorKind::Transient),
            (53, "0000052D: SvcErr: DSID-031A12D2", ErrorKind::Invalid),
            (53, "operation restricted", ErrorKind::Transient),
            (68, "", ErrorKind::Conflict),
            (1, "", ErrorKind::Bug),
            (
                1,
                "000004DC: LdapErr: bind must be completed",
                ErrorKind::AuthExpired,
            ),
        ] {
            let error = refused("test", &result(code, text));
            assert_eq!(error.kind, expected, "code {code} `{text}`");
        }
    }

    #[test]
    fn an_unknown_code_is_never_retried() {
        for code in [9, 15, 22, 31, 35, 70, 79, 81, 118, 4096, 9999, u32::MAX] {
            let error = refused("test", &result(code, ""));
            assert_eq!(error.retry_class(), RetryClass::Never, "code {code}");
        }
    }

    #[test]
    fn the_reason_of_a_refused_bind_is_read_from_the_text() {
        let text = "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 533, v1db1";
        assert_eq!(
            bind_reason(&result(49, text)),
            Some("the account is disabled")
        );
        assert_eq!(bind_reason(&result(49, "")), None);
    }

    #[test]
    fn a_message_says_what_where_and_how_to_fix() {
        let error = refused("write `uid=a`", &result(50, "no write access to entry\0"));
        assert_eq!(
            error.message,
            "cannot write `uid=a`: the directory answered 50 insufficientAccessRights (no write access \
             to entry); give the account of `bind_dn` the right to do this"
        );
    }
}
