//! Whether a request was signed by a source, after [Standard Webhooks](https://www.standardwebhooks.com).
//!
//! ```text
//! webhook-id: msg_2KWPBgLlAfxdpx2AI54pPJ85f4W
//! webhook-timestamp: 1674087231                  seconds since 1970, within the window of the source
//! webhook-signature: v1,BASE64 v1,BASE64         HMAC-SHA256 over `ID.TIMESTAMP.BODY`, one for each secret of the sender
//! ```
//!
//! What is wrong with a signature is for the log. The caller learns only that it is not good, and takes no less time to
//! learn it when there is no such source.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;
use workflows::sources::signature::{SigningKey, VERSION_PREFIX, head};
use workflows::sources::{SignatureConfig, Source};

use super::hint_door::HintDoor;

/// The longest `webhook-id`, in bytes.
const ID_BYTES_MAX: usize = 200;
/// The most signatures of one request.
const SIGNATURES_MAX: usize = 8;
/// The most bodies of unproven origin in memory at once; the next one waits.
const UNPROVEN_MAX: usize = 256;

/// The signed doors of all sources.
pub struct Doors {
    by_source: BTreeMap<String, Door>,
    /// For names that have none: nobody knows its key.
    shut: Door,
    hints: BTreeMap<String, HintDoor>,
    shut_hints: HintDoor,
    pub(in crate::api) unproven: Semaphore,
}

impl Doors {
    /// Reads the secrets of all sources that have some.
    ///
    /// # Errors
    /// The first secret that is missing or is none.
    pub fn open(sources: &BTreeMap<String, Arc<Source>>) -> anyhow::Result<Self> {
        let mut by_source = BTreeMap::new();
        let mut hints = BTreeMap::new();
        for (name, source) in sources {
            if let Some(config) = source.signature() {
                let door = Door::open(config).with_context(|| {
                    format!("cannot use `signature.secrets` of source `{name}`")
                })?;
                by_source.insert(name.clone(), door);
            }
            if let Some(config) = source.pull().and_then(|pull| pull.hints.as_ref()) {
                let door = HintDoor::open(config)
                    .with_context(|| format!("cannot use `pull.hints` of source `{name}`"))?;
                hints.insert(name.clone(), door);
            }
        }
        let nobody_knows: [u8; 32] = rand::random();
        Ok(Self {
            by_source,
            hints,
            shut_hints: HintDoor::shut(rand::random()),
            shut: Door {
                keys: vec![SigningKey::of_bytes(nobody_knows.to_vec())],
                window: TimeDelta::zero(),
                shut: true,
            },
            unproven: Semaphore::new(UNPROVEN_MAX),
        })
    }

    pub(in crate::api) fn hints_of(&self, source: &str) -> &HintDoor {
        self.hints.get(source).unwrap_or(&self.shut_hints)
    }

    pub(super) fn of(&self, source: &str) -> &Door {
        self.by_source.get(source).unwrap_or(&self.shut)
    }
}

/// One source's.
pub(super) struct Door {
    keys: Vec<SigningKey>,
    window: TimeDelta,
    shut: bool,
}

/// What the headers claim.
pub(super) struct Claim {
    /// What is signed before the body.
    head: String,
    signatures: Vec<Vec<u8>>,
    /// When it was signed; else why it cannot be good, whatever the body is.
    signed_at: Result<DateTime<Utc>, &'static str>,
}

impl Door {
    fn open(config: &SignatureConfig) -> anyhow::Result<Self> {
        let keys = config.secrets.value.iter().map(|reference| {
            let place = String::from(reference.clone());
            SigningKey::read(reference.resolve()?.expose_secret())
                .with_context(|| format!("`{place}`"))
        });
        Ok(Self {
            keys: keys.collect::<anyhow::Result<_>>()?,
            window: config.window().delta(),
            shut: false,
        })
    }

    /// Reads what stands in the headers. Judged only by [`Door::admit`].
    pub fn claim(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Claim {
        match self.read(headers, now) {
            Ok(claim) => claim,
            Err(reason) => Claim {
                head: String::new(),
                signatures: Vec::new(),
                signed_at: Err(reason),
            },
        }
    }

    fn read(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Claim, &'static str> {
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => value.to_str().ok(),
                _ => None,
            }
        };
        let id = one("webhook-id").ok_or("`webhook-id` is missing, there twice or not ASCII")?;
        // A full stop would let the same bytes be read as another identifier and time.
        if id.is_empty() || id.len() > ID_BYTES_MAX || id.contains('.') {
            return Err("`webhook-id` is empty, too long or has a full stop");
        }
        let timestamp =
            one("webhook-timestamp").ok_or("`webhook-timestamp` is missing or there twice")?;
        let signed_at = Some(timestamp)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
            .ok_or("`webhook-timestamp` is no number of seconds")?;
        if (now - signed_at).abs() > self.window {
            return Err(
                "`webhook-timestamp` is outside the window of the source; are both clocks right?",
            );
        }
        let listed =
            one("webhook-signature").ok_or("`webhook-signature` is missing or there twice")?;
        let listed: Vec<&str> = listed.split(' ').filter(|one| !one.is_empty()).collect();
        if listed.len() > SIGNATURES_MAX {
            return Err("`webhook-signature` has more than 8 signatures");
        }
        // Other versions are for other receivers.
        let signatures: Vec<Vec<u8>> = listed
            .iter()
            .filter_map(|one| STANDARD.decode(one.strip_prefix(VERSION_PREFIX)?).ok())
            .collect();
        if signatures.is_empty() {
            return Err("`webhook-signature` has no `v1,` with base64");
        }
        Ok(Claim {
            head: head(id, timestamp),
            signatures,
            signed_at: Ok(signed_at),
        })
    }

    /// When it was signed, if one of our keys made one of the signatures, else why not, for the log. All pairs are compared,
    /// each in constant time.
    pub fn admit(&self, claim: &Claim, body: &[u8]) -> Result<DateTime<Utc>, &'static str> {
        let mut good = false;
        for key in &self.keys {
            for signature in &claim.signatures {
                good |= key.made(signature, &claim.head, body);
            }
        }
        match claim.signed_at {
            _ if self.shut => Err("there is no source of that name with `signature` in its file"),
            Ok(_) if !good => Err("no signature fits a secret of the source"),
            signed_at => signed_at,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    /// Of the example that the libraries of Standard Webhooks test themselves with.
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn door(secrets: &[&str]) -> Door {
        Door {
            keys: secrets
                .iter()
                .map(|secret| SigningKey::read(secret).unwrap())
                .collect(),
            window: TimeDelta::minutes(5),
            shut: false,
        }
    }

    #[track_caller]
    fn check(door: &Door, headers: &[(&'static str, &str)], late_s: i64, good: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let now = DateTime::from_timestamp(1_614_265_330 + late_s, 0).unwrap();
        let admitted = door.admit(&door.claim(&map, now), BODY);
        assert_eq!(admitted.is_ok(), good, "{headers:?}: {admitted:?}");
    }

    #[test]
    fn the_example_of_the_standard() {
        let signed = |signature: &'static str| {
            [
                ("webhook-id", ID),
                ("webhook-timestamp", TIME),
                ("webhook-signature", signature),
            ]
        };
        let one = door(&[SECRET]);
        for (late_s, good) in [
            (0, true),
            (300, true),
            (301, false),
            (-300, true),
            (-301, false),
        ] {
            check(&one, &signed(SIGNATURE), late_s, good);
        }
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        check(&door(&[&other, SECRET]), &signed(SIGNATURE), 0, true);
        check(&door(&[&other]), &signed(SIGNATURE), 0, false);
        for (signature, good) in [
            (
                "v1,AAAA v1a,xyz v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
                true,
            ),
            ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF=", false),
            ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA=", false),
            ("v1,g0hM9SsE+OTPJTGt", false),
            ("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", false),
            ("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", false),
            ("v1,%%%", false),
            ("v1,", false),
            ("", false),
            ("v1,a v1,a v1,a v1,a v1,a v1,a v1,a v1,a v1,a", false),
        ] {
            check(&one, &signed(signature), 0, good);
        }
    }

    #[test]
    fn what_we_sign_is_what_the_standard_signs() {
        let key = SigningKey::read(SECRET).unwrap();
        assert_eq!(key.sign(&head(ID, TIME), BODY), SIGNATURE);
    }

    #[test]
    fn headers_that_say_nothing_clear_are_refused() {
        let one = door(&[SECRET]);
        let id = ("webhook-id", ID);
        let time = ("webhook-timestamp", TIME);
        let signature = ("webhook-signature", SIGNATURE);
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for headers in [
            vec![],
            vec![id, time],
            vec![id, signature],
            vec![time, signature],
            vec![id, id, time, signature],
            vec![id, time, time, signature],
            vec![id, time, signature, signature],
            vec![("webhook-id", ""), time, signature],
            vec![("webhook-id", "msg.1"), time, signature],
            vec![("webhook-id", "m\u{e9}g"), time, signature],
            vec![("webhook-id", &long), time, signature],
            vec![id, ("webhook-timestamp", "+1614265330"), signature],
            vec![id, ("webhook-timestamp", "1614265330.0"), signature],
            vec![id, ("webhook-timestamp", ""), signature],
            vec![id, ("webhook-timestamp", "99999999999999999999"), signature],
            vec![id, ("webhook-timestamp", "9223372036854775807"), signature],
        ] {
            check(&one, &headers, 0, false);
        }
        check(&one, &[id, time, signature], 0, true);
    }

    #[test]
    fn only_long_keys_are_keys() {
        for (secret, good) in [
            (SECRET.to_owned(), true),
            (format!("whsec_{}", STANDARD.encode([1; 23])), false),
            (format!("whsec_{}", STANDARD.encode([1; 64])), true),
            (format!("whsec_{}", STANDARD.encode([1; 65])), false),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(), false),
            ("whsec_???".to_owned(), false),
            ("whsec_".to_owned(), false),
        ] {
            let read = SigningKey::read(&secret);
            assert_eq!(read.is_ok(), good, "{secret}");
            if let Err(error) = read {
                assert!(!error.to_string().contains("MfKQ9"), "{error}");
            }
        }
    }

    #[test]
    fn a_shut_door_stays_shut() {
        let doors = Doors::open(&BTreeMap::new()).unwrap();
        let headers = [
            ("webhook-id", ID),
            ("webhook-timestamp", TIME),
            ("webhook-signature", SIGNATURE),
        ];
        check(doors.of("hr"), &headers, 0, false);
    }

    #[test]
    fn a_secret_that_is_not_there_is_named_by_its_place() {
        let text = "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: Europe/Zurich\ncolumns: { name: name }\n\
                    signature: { secrets: [env:TENURE_TEST_NO_SUCH_SECRET] }\n";
        let source = Arc::new(Source::load("hr.yaml", text).unwrap());
        let Err(error) = Doors::open(&BTreeMap::from([("hr".to_owned(), source)])) else {
            unreachable!("there is no such variable");
        };
        assert_eq!(
            format!("{error:#}"),
            "cannot use `signature.secrets` of source `hr`: \
             environment variable `TENURE_TEST_NO_SUCH_SECRET` is not set"
        );
    }
}
