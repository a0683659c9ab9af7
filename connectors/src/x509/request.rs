//! What somebody wants to have certified, held against what this authority may certify.

use std::net::IpAddr;

use rcgen::{CertificateSigningRequestParams, SanType, SubjectPublicKeyInfo};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, ParsedExtension};
use x509_parser::public_key::PublicKey;

use super::settings::{KeyAlgorithm, Settings, is_host_name};
use crate::connector::{Attributes, Error, ErrorKind};

/// The longest common name (RFC 5280, ub-common-name).
const COMMON_NAME_CHARS_MAX: usize = 64;
/// How many names one certificate may have.
const NAMES_MAX: usize = 100;
/// The largest signing request.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Shorter keys can be factored.
const RSA_BITS_MIN: usize = 2_048;
/// Longer ones only cost whoever verifies.
const RSA_BITS_MAX: usize = 8_192;

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Server,
    Client,
    Both,
}

/// A certificate that may be issued.
#[derive(Debug)]
pub(super) struct Wanted {
    pub common_name: String,
    pub names: Vec<SanType>,
    pub usage: Usage,
    pub key_algorithm: KeyAlgorithm,
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

impl Wanted {
    /// Reads the attributes of a request for `holder`; `asked` are the names a signing request brings with it.
    pub fn read(
        settings: &Settings,
        holder: &str,
        attributes: &Attributes,
        asked: Option<Vec<String>>,
    ) -> Result<Self, Error> {
        let mut wanted = Self {
            common_name: holder.to_owned(),
            names: Vec::new(),
            usage: Usage::Server,
            key_algorithm: settings.key_algorithm,
        };
        let mut names: Option<Vec<String>> = None;
        for (name, value) in attributes {
            match (name.as_str(), value) {
                ("names", Value::Array(list)) => {
                    let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                    let texts = texts.ok_or_else(|| invalid("`names` must be a list of texts"))?;
                    names = Some(texts.into_iter().map(str::to_owned).collect());
                }
                ("common_name", Value::String(text)) => wanted.common_name.clone_from(text),
                ("usage", Value::String(text)) => {
                    wanted.usage = match text.as_str() {
                        "server" => Usage::Server,
                        "client" => Usage::Client,
                        "both" => Usage::Both,
                        _ => return Err(invalid("`usage` must be `server`, `client` or `both`")),
                    }
                }
                ("key_algorithm", Value::String(text)) => {
                    wanted.key_algorithm = KeyAlgorithm::parse(text).ok_or_else(|| {
                        invalid("`key_algorithm` must be `ecdsa_p256`, `ecdsa_p384` or `ed25519`")
                    })?;
                }
                _ => {
                    return Err(invalid(format!(
                        "`{}` is no attribute of a certificate, or not of that type; there are `names`, `common_name`, `usage` and `key_algorithm`",
                        name.escape_debug()
                    )));
                }
            }
        }
        if let (Some(asked), Some(names)) = (&asked, &names)
            && let Some(more) = asked
                .iter()
                .find(|asked| !names.iter().any(|name| name.eq_ignore_ascii_case(asked)))
        {
            return Err(invalid(format!(
                "the signing request asks for `{}` and `names` does not have it",
                more.escape_debug()
            )));
        }
        let names = names.or(asked).unwrap_or_default();
        if names.len() > NAMES_MAX {
            return Err(invalid(format!("more than {NAMES_MAX} names")));
        }
        for name in names {
            let checked = permitted(settings, &name)?;
            if !wanted.names.contains(&checked) {
                wanted.names.push(checked);
            }
        }
        let common_name = &wanted.common_name;
        if common_name.trim().is_empty()
            || common_name.chars().count() > COMMON_NAME_CHARS_MAX
            || common_name.chars().any(char::is_control)
        {
            return Err(invalid(format!(
                "a common name has 1 to {COMMON_NAME_CHARS_MAX} characters; set `common_name`"
            )));
        }
        // There are programs that still take the common name for a host's.
        if looks_like_host(common_name) {
            permitted(settings, common_name)?;
        }
        if wanted.names.is_empty() && wanted.usage != Usage::Client {
            return Err(invalid(
                "a server is known by its names: give `names`, or `usage: client`",
            ));
        }
        Ok(wanted)
    }
}

fn looks_like_host(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix("*.").unwrap_or(&lower);
    text.parse::<IpAddr>().is_ok() || (bare.contains('.') && is_host_name(bare))
}

/// The name as it stands in a certificate, if this authority may certify it.
fn permitted(settings: &Settings, name: &str) -> Result<SanType, Error> {
    let lower = name.to_ascii_lowercase();
    let refused = || {
        invalid(format!(
            "this authority may not certify `{}`; the setting `names` says what it may",
            name.escape_debug()
        ))
    };
    if let Ok(address) = lower.parse::<IpAddr>() {
        let allowed = settings
            .names
            .iter()
            .any(|rule| rule.allows_address(address));
        return if allowed {
            Ok(SanType::IpAddress(address))
        } else {
            Err(refused())
        };
    }
    let bare = lower.strip_prefix("*.").unwrap_or(&lower);
    if !is_host_name(bare) || (bare.len() != lower.len() && !bare.contains('.')) {
        return Err(invalid(format!(
            "`{}` is neither a host's name nor an address",
            name.escape_debug()
        )));
    }
    if !settings.names.iter().any(|rule| rule.allows_name(&lower)) {
        return Err(refused());
    }
    let text = lower.try_into().map_err(|_| refused())?;
    Ok(SanType::DnsName(text))
}

/// A signing request that proves possession of a key worth certifying.
pub(crate) struct Request {
    pub key: SubjectPublicKeyInfo,
    pub names: Vec<String>,
    pub is_rsa: bool,
    pub der: Vec<u8>,
}

impl Request {
    pub fn read(pem: &str) -> Result<Self, Error> {
        let unreadable = || {
            invalid(
                "the signing request is not a `CERTIFICATE REQUEST` in PEM with a good signature",
            )
        };
        if pem.len() > REQUEST_BYTES_MAX {
            return Err(invalid(format!(
                "the signing request has more than {REQUEST_BYTES_MAX} bytes"
            )));
        }
        let (_, parsed) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| unreadable())?;
        if !matches!(
            parsed.label.as_str(),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
        ) {
            return Err(unreadable());
        }
        let (_, request) =
            X509CertificationRequest::from_der(&parsed.contents).map_err(|_| unreadable())?;
        let is_rsa = strong(&request)?;
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                // What the key is used for is said in the request to us, not in this one.
                ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectKeyIdentifier(_) => {}
                ParsedExtension::BasicConstraints(constraints) if !constraints.ca => {}
                _ => {
                    return Err(invalid(
                        "the signing request asks for more than names: to be an authority, or something unknown",
                    ));
                }
            }
        }
        // Verifies the signature: whoever asks has the key.
        let der = parsed.contents.as_slice().into();
        let csr = CertificateSigningRequestParams::from_der(&der).map_err(|error| {
            invalid(
                "the signing request cannot be used: its signature is wrong or made with an algorithm that is not taken",
            )
            .with_source(error)
        })?;
        // Not the key as that has it: it takes the curve from the signature, which may use another digest than is usual.
        let key =
            SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
                .map_err(|error| {
                    invalid("the key is of a kind that is not taken").with_source(error)
                })?;
        let names = csr
            .params
            .subject_alt_names
            .iter()
            .map(|name| match name {
                SanType::DnsName(text) => Ok(text.as_str().to_owned()),
                SanType::IpAddress(address) => Ok(address.to_string()),
                _ => Err(invalid(
                    "the signing request asks for a name that is neither a host's nor an address",
                )),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            key,
            names,
            is_rsa,
            der: parsed.contents,
        })
    }
}

/// Whether the key is RSA; an error if it is weak, whatever it is.
fn strong(request: &X509CertificationRequest<'_>) -> Result<bool, Error> {
    let info = &request.certification_request_info.subject_pki;
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            if (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                Ok(true)
            } else {
                Err(invalid(format!(
                    "the key is RSA with {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken"
                )))
            }
        }
        Ok(PublicKey::EC(point)) if point.key_size() >= 256 => Ok(false),
        Ok(PublicKey::EC(point)) => Err(invalid(format!(
            "the key is on a curve of {} bits; P-256 and P-384 are taken",
            point.key_size()
        ))),
        // Ed25519: RFC 8410.
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => Ok(false),
        _ => Err(invalid(
            "the key is of a kind that is not taken; use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits on",
        )),
    }
}
