//! Versions as ETags (RFC 7644, 3.14).

/// The version as an ETag. Weak: the same resource may be written out in several ways.
#[must_use]
pub fn etag(version: i64) -> String {
    format!("W/\"{version}\"")
}

/// Whether a version is among those that an `If-Match` or `If-None-Match` header names.
#[must_use]
pub fn etag_matches(header: &str, version: i64) -> bool {
    let version = version.to_string();
    header.split(',').map(str::trim).any(|tag| {
        let opaque = tag.strip_prefix("W/").unwrap_or(tag);
        let opaque = opaque
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        tag == "*" || opaque == Some(version.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_a_header() {
        assert!(etag_matches(&etag(7), 7));
        for (header, found) in [
            ("*", true),
            ("\"7\"", true),
            ("W/\"6\", W/\"7\"", true),
            ("W/\"77\"", false),
            ("7", false),
            ("", false),
            ("\"", false),
        ] {
            assert_eq!(etag_matches(header, 7), found, "{header}");
        }
    }
}
