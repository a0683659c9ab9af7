//! Whether a hint was signed by the product that is said to send it, as its vendor documents it.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Sha256, Sha512};
use workflows::sources::hint::{HintAlgorithm, HintEncoding, HintsConfig, SKEW_S_MAX, Signed};

/// The shortest secret, in bytes: what is shorter can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// One source's.
pub(in crate::api) struct HintDoor {
    secret: SecretString,
    signed: Signed,
    shut: bool,
}

impl HintDoor {
    /// # Errors
    /// When the secret is missing or too short, or nothing says how hints are signed.
    pub fn open(config: &HintsConfig) -> anyhow::Result<Self> {
        let secret = config.secret.resolve()?;
        anyhow::ensure!(
            secret.expose_secret().len() >= SECRET_BYTES_MIN,
            "the secret is shorter than {SECRET_BYTES_MIN} bytes"
        );
        let signed = config.signed();
        let signed = signed
            .ok_or_else(|| anyhow::anyhow!("nothing says which `header` holds the signature"))?;
        Ok(Self {
            secret,
            signed,
            shut: false,
        })
    }

    /// For names that have none: nobody knows its secret.
    pub fn shut(secret: [u8; 32]) -> Self {
        Self {
            secret: STANDARD.encode(secret).into(),
            signed: Signed {
                header: "x-signature".to_owned(),
                algorithm: HintAlgorithm::Sha256,
                encoding: HintEncoding::Hex,
                time_header: None,
            },
            shut: true,
        }
    }

    /// # Errors
    /// Why it is not good, for the log.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(), &'static str> {
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => value.to_str().ok(),
                _ => None,
            }
        };
        let mut time = "";
        let mut in_time = true;
        if let Some(name) = self.signed.time_header {
            time = one(name).unwrap_or_default();
            let seconds: Option<i64> = time.parse().ok();
            in_time =
                seconds.is_some_and(|seconds| (now.timestamp() - seconds).abs() <= SKEW_S_MAX);
        }
        let said = one(&self.signed.header).unwrap_or_default();
        // Some products write the name of the hash before it.
        let said = said
            .strip_prefix("sha256=")
            .or_else(|| said.strip_prefix("sha512="))
            .unwrap_or(said);
        let said = match self.signed.encoding {
            HintEncoding::Hex => unhex(said),
            HintEncoding::Base64 => STANDARD.decode(said).ok(),
        };
        let key = self.secret.expose_secret().as_bytes();
        let parts = [body, time.as_bytes()];
        let said = said.unwrap_or_default();
        let good = match self.signed.algorithm {
            HintAlgorithm::Sha256 => Hmac::<Sha256>::new_from_slice(key).is_ok_and(|mut mac| {
                for part in parts {
                    mac.update(part);
                }
                mac.verify_slice(&said).is_ok()
            }),
            HintAlgorithm::Sha512 => Hmac::<Sha512>::new_from_slice(key).is_ok_and(|mut mac| {
                for part in parts {
                    mac.update(part);
                }
                mac.verify_slice(&said).is_ok()
            }),
        };
        match (self.shut, good, in_time) {
            (true, ..) => Err("there is no source of that name with `hints` in its file"),
            (_, false, _) => Err("the signature does not fit the secret of the source"),
            (_, _, false) => {
                Err("the time that was signed is too far from ours; are both clocks right?")
            }
            (false, true, true) => Ok(()),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const BODY: &[u8] = br#"{"employees":[{"id":"7"}]}"#;

    fn door(shape: &str) -> HintDoor {
        let text =
            format!("shape: {shape}\nsecret: env:X\nrecord: https://h/{{id}}\nheader: x-own\n");
        let config: HintsConfig = workflows::policy::yaml::parse("h.yaml", &text).unwrap();
        HintDoor {
            secret: SECRET.to_owned().into(),
            signed: config.signed().unwrap(),
            shut: false,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        workflows::policy::hex(bytes)
    }

    fn sha256(parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().to_vec()
    }

    fn sha512(body: &[u8]) -> Vec<u8> {
        let mut mac = Hmac::<Sha512>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn each_vendor_signs_its_own_way() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let check = |shape: &str, headers: &[(&'static str, String)], good: bool| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            let admitted = door(shape).admit(&map, BODY, now);
            assert_eq!(admitted.is_ok(), good, "{shape} {headers:?}: {admitted:?}");
        };
        let time = |seconds: i64| ("x-bamboohr-timestamp", seconds.to_string());
        let bamboo = |seconds: i64| {
            let signature = sha256(&[BODY, seconds.to_string().as_bytes()]);
            ("x-bamboohr-signature", hex(&signature))
        };
        check(
            "bamboohr",
            &[bamboo(1_700_000_000), time(1_700_000_000)],
            true,
        );
        check(
            "bamboohr",
            &[bamboo(1_699_999_000), time(1_699_999_000)],
            false,
        );
        check(
            "bamboohr",
            &[bamboo(1_700_000_000), time(1_700_000_001)],
            false,
        );
        check("bamboohr", &[bamboo(1_700_000_000)], false);
        check(
            "hibob",
            &[("bob-signature", STANDARD.encode(sha512(BODY)))],
            true,
        );
        check(
            "hibob",
            &[("bob-signature", STANDARD.encode(sha256(&[BODY])))],
            false,
        );
        check("hibob", &[("bob-signature", String::new())], false);
        check(
            "gusto",
            &[("x-gusto-signature", hex(&sha256(&[BODY])))],
            true,
        );
        check(
            "gusto",
            &[("x-gusto-signature", hex(&sha256(&[b"other"])))],
            false,
        );
        check("gusto", &[], false);
        let twice = ("x-gusto-signature", hex(&sha256(&[BODY])));
        check("gusto", &[twice.clone(), twice], false);
        check(
            "personio",
            &[("x-own", format!("sha256={}", hex(&sha256(&[BODY]))))],
            true,
        );
        check("declared", &[("x-own", hex(&sha256(&[BODY])))], true);
    }
}
