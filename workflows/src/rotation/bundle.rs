//! Bundles of roots: whom somebody trusts, as the text in PEM that they read.
//!
//! A bundle may hold roots of others. What is changed in it is one authority's: its new root is added, its old one taken out,
//! and the rest stays as it is.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
const ANY_BEGIN: &str = "-----BEGIN ";
const LINE_CHARS: usize = 64;
/// The most certificates of one bundle.
const CERTIFICATES_MAX: usize = 1_000;
const DIGEST_CHARS: usize = 16;

/// Which of the two a bundle has to hold, and no other of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusts {
    Old,
    Both,
    New,
}

/// Certificates, each once, in the order in which they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The octets of each, in base64.
    certificates: Vec<String>,
}

impl Bundle {
    /// Reads a text in PEM. What stands between the certificates is not kept.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, String> {
        let mut bundle = Self::default();
        let mut open: Option<String> = None;
        for line in pem.lines().map(str::trim) {
            match (&mut open, line) {
                (None, BEGIN) => open = Some(String::new()),
                (Some(text), END) => {
                    let text = std::mem::take(text);
                    let octets = STANDARD.decode(&text).unwrap_or_default();
                    if octets.is_empty() {
                        return Err("it holds a certificate that cannot be read".to_owned());
                    }
                    bundle.add(&text);
                    open = None;
                }
                (Some(text), more) => text.push_str(more),
                (None, other) if other.starts_with(ANY_BEGIN) => {
                    return Err(format!(
                        "it holds `{}`, and may hold certificates only",
                        other.escape_debug()
                    ));
                }
                (None, _) => {}
            }
        }
        if open.is_some() {
            return Err("its last certificate has no end".to_owned());
        }
        if bundle.certificates.len() > CERTIFICATES_MAX {
            return Err(format!(
                "it holds {} certificates, more than {CERTIFICATES_MAX}",
                bundle.certificates.len()
            ));
        }
        Ok(bundle)
    }

    fn add(&mut self, certificate: &str) {
        if !self.certificates.iter().any(|known| known == certificate) {
            self.certificates.push(certificate.to_owned());
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    fn with(mut self, others: &Self) -> Self {
        for certificate in &others.certificates {
            self.add(certificate);
        }
        self
    }

    fn without(mut self, others: &Self) -> Self {
        self.certificates
            .retain(|one| !others.certificates.contains(one));
        self
    }

    /// The same, of the two roots with those that are to be trusted and without the other.
    #[must_use]
    pub fn trusting(&self, whom: Trusts, old: &Self, new: &Self) -> Self {
        let same = self.clone();
        match whom {
            Trusts::Old => same.with(old).without(new),
            Trusts::Both => same.with(old).with(new),
            Trusts::New => same.with(new).without(old),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn pem(&self) -> String {
        let mut pem = String::new();
        for certificate in &self.certificates {
            let _ = writeln!(pem, "{BEGIN}");
            for (place, character) in certificate.chars().enumerate() {
                if place > 0 && place % LINE_CHARS == 0 {
                    pem.push('\n');
                }
                pem.push(character);
            }
            let _ = writeln!(pem, "\n{END}");
        }
        pem
    }

    /// A short name that follows from what it holds: the same bundle is never kept twice, whoever makes it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = String::new();
        for byte in Sha256::digest(self.pem().as_bytes()) {
            let _ = write!(text, "{byte:02x}");
        }
        text.truncate(DIGEST_CHARS);
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn of(names: &[&str]) -> Bundle {
        let text = names.iter().map(|name| {
            let octets = STANDARD.encode(name.repeat(60));
            format!("# {name}\r\n{BEGIN}\r\n{octets}\r\n{END}\r\n")
        });
        Bundle::parse(&text.collect::<String>()).unwrap()
    }

    #[test]
    fn one_is_added_one_taken_out_and_the_rest_stays() {
        let (old, new) = (of(&["old"]), of(&["new"]));
        for (before, whom, after) in [
            (vec![], Trusts::Both, vec!["old", "new"]),
            (
                vec!["x", "old", "y"],
                Trusts::Both,
                vec!["x", "old", "y", "new"],
            ),
            (
                vec!["x", "old", "y", "new"],
                Trusts::Both,
                vec!["x", "old", "y", "new"],
            ),
            (
                vec!["x", "old", "y", "new"],
                Trusts::New,
                vec!["x", "y", "new"],
            ),
            (
                vec!["x", "old", "y", "new"],
                Trusts::Old,
                vec!["x", "old", "y"],
            ),
            (vec!["new"], Trusts::Old, vec!["old"]),
            (vec!["old"], Trusts::New, vec!["new"]),
        ] {
            let found = of(&before).trusting(whom, &old, &new);
            assert_eq!(found, of(&after), "{before:?} {whom:?}");
            assert_eq!(found.trusting(whom, &old, &new), found, "done twice");
        }
    }

    #[test]
    fn what_is_written_reads_the_same_and_has_one_name() {
        let both = of(&["old", "new"]);
        let again = Bundle::parse(&both.pem()).unwrap();
        assert_eq!((again.digest(), &again), (both.digest(), &both));
        assert!(both.pem().lines().all(|line| line.len() <= LINE_CHARS));
        assert_ne!(both.digest(), of(&["new", "old"]).digest());
        assert_eq!(of(&["old", "old"]), of(&["old"]));
        assert!(Bundle::parse("no certificate at all").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_certificate_is_told_and_not_thrown_away() {
        let begun = format!("{BEGIN}\nAAAA\n");
        for (text, told) in [
            ("-----BEGIN PRIVATE KEY-----\n", "PRIVATE KEY"),
            (
                "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
                "cannot be read",
            ),
            (begun.as_str(), "no end"),
        ] {
            let said = Bundle::parse(text).unwrap_err();
            assert!(said.contains(told), "{said}");
        }
    }
}
