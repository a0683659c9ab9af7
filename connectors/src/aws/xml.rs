//! Reads the answers of AWS: elements with text, no attributes that matter, nothing external.
//!
//! A parser for XML at large would bring entities, namespaces and encodings that these answers do not have. What is not as
//! expected here is an error.

/// How deep elements may lie in one another.
const DEPTH_MAX: usize = 32;

/// An element: its name, the text in it, the elements in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// The first element of this name, anywhere below.
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|child| {
            if child.name == name {
                Some(child)
            } else {
                child.find(name)
            }
        })
    }

    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.find(name).map(|found| found.text.as_str())
    }

    /// The `member` elements of a list.
    pub fn members(&self, list: &str) -> &[Self] {
        self.find(list)
            .map_or(&[], |found| found.children.as_slice())
    }

    /// Reads a whole document.
    ///
    /// # Errors
    /// In words, what is not as expected.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut open: Vec<Self> = vec![Self::default()];
        let mut rest = text.trim_start_matches('\u{feff}');
        while let Some((before, after)) = rest.split_once('<') {
            if let Some(inner) = open.last_mut() {
                inner.text.push_str(&unescaped(before)?);
            }
            let (tag, behind) = after.split_once('>').ok_or("a tag has no end")?;
            rest = behind;
            if tag.starts_with('?') || tag.starts_with("!--") {
                continue;
            }
            if tag.starts_with('!') {
                return Err("it declares something".to_owned());
            }
            if let Some(name) = tag.strip_prefix('/') {
                let closed = open.pop().ok_or("too many ends")?;
                let outer = open.last_mut().ok_or("too many ends")?;
                if closed.name != name.trim() {
                    return Err(format!(
                        "`{}` is ended by another",
                        closed.name.escape_debug()
                    ));
                }
                outer.children.push(closed);
                continue;
            }
            let (tag, is_empty) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let element = Self {
                name: tag.split_whitespace().next().unwrap_or_default().to_owned(),
                ..Self::default()
            };
            if is_empty {
                open.last_mut()
                    .ok_or("too many ends")?
                    .children
                    .push(element);
            } else if open.len() > DEPTH_MAX {
                return Err("its elements lie too deep".to_owned());
            } else {
                open.push(element);
            }
        }
        match open.as_slice() {
            [root] if !root.children.is_empty() => Ok(root.clone()),
            _ => Err("it ends in the middle".to_owned()),
        }
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, behind) = after.split_once(';').ok_or("an `&` stands alone")?;
        rest = behind;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#').and_then(|digits| {
                    digits.strip_prefix('x').map_or_else(
                        || digits.parse().ok(),
                        |hex| u32::from_str_radix(hex, 16).ok(),
                    )
                });
                number
                    .and_then(char::from_u32)
                    .ok_or_else(|| format!("`&{};` is unknown", name.escape_debug()))?
            }
        });
    }
    plain.push_str(rest);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = r#"<?xml version="1.0"?><!-- x --><ListAccessKeysResponse xmlns="https://iam">
            <ListAccessKeysResult><IsTruncated>false</IsTruncated><AccessKeyMetadata>
            <member><AccessKeyId>A</AccessKeyId><UserName>a&amp;b &#x41;</UserName></member>
            <member><AccessKeyId>B</AccessKeyId><UserName/></member>
            </AccessKeyMetadata></ListAccessKeysResult></ListAccessKeysResponse>"#;
        let read = Element::read(text).unwrap();
        let members = read.members("AccessKeyMetadata");
        assert_eq!(members.len(), 2);
        assert_eq!(members[0].text_of("UserName"), Some("a&b A"));
        assert_eq!(members[1].text_of("UserName"), Some(""));
        assert_eq!(read.text_of("IsTruncated"), Some("false"));
        assert!(read.members("Nothing").is_empty());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in [
            "",
            "plain",
            "<a>",
            "<a></b>",
            "</a>",
            "<a",
            "<a>&b</a>",
            "<a>&unknown;</a>",
            "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>",
        ] {
            assert!(Element::read(text).is_err(), "{text}");
        }
        assert!(Element::read(&"<a>".repeat(1000)).is_err());
    }
}
