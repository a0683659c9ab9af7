//! The keys of a user, and the notes at the user that tell which of them was made for which operation.

use sha2::{Digest as _, Sha256};

use super::Aws;
use super::call::Failure;
use super::xml::Element;
use crate::connector::{Error, ErrorKind, NativeId};

/// What the tags begin with that note an issue.
const TAG: &str = "tenure:issue:";
/// How many of them are kept; a user may have fifty tags.
pub(super) const TAGS_KEPT: usize = 8;
/// How many pages one listing may have.
const PAGES_MAX: usize = 1_000;

/// An access key as IAM lists it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub id: String,
    pub active: bool,
    pub created: String,
}

/// What a tag says about an issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// The keys there were before.
    pub before: Vec<String>,
    /// The one that was made, once that is known.
    pub made: Option<String>,
}

impl Note {
    fn read(text: &str) -> Self {
        let mut note = Self::default();
        for word in text.split('/') {
            match word.split_once(':') {
                Some(("before", id)) => note.before.push(id.to_owned()),
                Some(("made", id)) => note.made = Some(id.to_owned()),
                _ => {}
            }
        }
        note
    }

    fn written(&self) -> String {
        let before = self.before.iter().map(|id| format!("before:{id}"));
        let made = self.made.iter().map(|id| format!("made:{id}"));
        let words: Vec<String> = before.chain(made).collect();
        if words.is_empty() {
            "none".to_owned()
        } else {
            words.join("/")
        }
    }
}

pub(super) fn tag_name(key: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(key.as_bytes());
    digest
        .iter()
        .take(16)
        .fold(TAG.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl Aws {
    /// The pages of a listing, one after the other.
    pub(super) async fn pages(&self, action: &str, name: &str) -> Result<Vec<Element>, Error> {
        let mut pages = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut fields = vec![("UserName", name)];
            if let Some(marker) = &marker {
                fields.push(("Marker", marker));
            }
            let page = self
                .caller
                .iam(action, &fields)
                .await
                .map_err(Failure::of_read)?;
            marker = match page.text_of("IsTruncated") {
                Some("true") => page.text_of("Marker").map(str::to_owned),
                _ => None,
            };
            pages.push(page);
            if marker.is_none() {
                return Ok(pages);
            }
        }
        Err(self.error(ErrorKind::Bug, format!("`{action}` comes to no end")))
    }

    pub(super) async fn keys(&self, account: &NativeId) -> Result<Vec<Held>, Error> {
        let pages = self.pages("ListAccessKeys", account.as_str()).await?;
        let members = pages
            .iter()
            .flat_map(|page| page.members("AccessKeyMetadata"));
        let text =
            |member: &Element, name: &str| member.text_of(name).unwrap_or_default().to_owned();
        Ok(members
            .map(|member| Held {
                id: text(member, "AccessKeyId"),
                active: member.text_of("Status") == Some("Active"),
                created: text(member, "CreateDate"),
            })
            .collect())
    }

    /// Our notes at the user, by the names of their tags.
    pub(super) async fn notes(&self, account: &NativeId) -> Result<Vec<(String, Note)>, Error> {
        let pages = self.pages("ListUserTags", account.as_str()).await?;
        let members = pages.iter().flat_map(|page| page.members("Tags"));
        Ok(members
            .filter_map(|member| {
                let name = member.text_of("Key")?.to_owned();
                let note = Note::read(member.text_of("Value")?);
                name.starts_with(TAG).then_some((name, note))
            })
            .collect())
    }

    pub(super) async fn note(
        &self,
        account: &NativeId,
        tag: &str,
        note: &Note,
    ) -> Result<(), Failure> {
        let fields = [
            ("UserName", account.as_str()),
            ("Tags.member.1.Key", tag),
            ("Tags.member.1.Value", &note.written()),
        ];
        self.caller.iam("TagUser", &fields).await.map(drop)
    }

    /// Which key was made under this operation key; `None` if none was.
    pub(super) fn made(
        &self,
        key: &str,
        notes: &[(String, Note)],
        keys: &[Held],
    ) -> Result<Option<String>, Error> {
        let tag = tag_name(key);
        let Some((_, note)) = notes.iter().find(|(name, _)| *name == tag) else {
            return Ok(None);
        };
        if note.made.is_some() {
            return Ok(note.made.clone());
        }
        // What another note names was made by that one.
        let of_others = |id: &str| {
            let mut others = notes.iter().filter(|(name, _)| *name != tag);
            others.any(|(_, other)| other.made.as_deref() == Some(id))
        };
        let new: Vec<&Held> = keys
            .iter()
            .filter(|held| !note.before.contains(&held.id) && !of_others(&held.id))
            .collect();
        match new.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.id.clone())),
            several => Err(self.error(
                ErrorKind::Conflict,
                format!(
                    "since this issue began {} keys have appeared and nobody can tell which is its own: {}; destroy the one that nobody uses",
                    several.len(),
                    several.iter().map(|held| held.id.as_str()).collect::<Vec<_>>().join(", ")
                ),
            )),
        }
    }

    /// Takes away old notes, so that a user never runs out of tags: those whose key is gone first.
    pub(super) async fn forget_some(
        &self,
        account: &NativeId,
        notes: &[(String, Note)],
    ) -> Result<(), Error> {
        let finished = notes.iter().filter(|(_, note)| note.made.is_some());
        let names: Vec<&str> = finished.map(|(name, _)| name.as_str()).collect();
        let too_many = names.len().saturating_sub(TAGS_KEPT - 1);
        for name in names.into_iter().take(too_many) {
            let fields = [("UserName", account.as_str()), ("TagKeys.member.1", name)];
            self.caller
                .iam("UntagUser", &fields)
                .await
                .map_err(Failure::of_read)?;
        }
        Ok(())
    }
}
