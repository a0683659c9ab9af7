//! What expressions may call beside the CEL standard. Few, total where they can be, and without a clock.
//!
//! | function | gives | example |
//! |---|---|---|
//! | `ascii(text)` | the text in ASCII letters: accents off, other scripts transliterated | `ascii("Łukasz Søren Groß")` = `"Lukasz Soren Gross"` |
//! | `lower(text)`, `upper(text)` | small, capital letters | `lower("ABC")` = `"abc"` |
//! | `trim(text)` | without blanks at both ends | `trim(" a ")` = `"a"` |
//! | `slug(text)` | lower-case ASCII letters and digits, everything else one `-` | `slug("2 - R & D")` = `"2-r-d"` |
//! | `words(text)` | the words, split at blanks | `words("Ann Lee")` = `["Ann", "Lee"]` |
//! | `join(list, separator)` | one text of a list of texts | `join(["a", "b"], ".")` = `"a.b"` |
//! | `first(text, n)` | the first `n` characters | `first("Maria", 1)` = `"M"` |
//! | `suffix(n)` | nothing for 0, then `2`, `3`, ... : for names that are taken | `"ann" + suffix(1)` = `"ann2"` |

use cel::common::types::{CelInt, CelList, CelString};
use cel::common::value::Val;
use cel::{Env, ExecutionError};

/// The longest text a function takes, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What there is: name, number of arguments. Kept beside [`register`] and compared with it by a test.
pub const OWN: [(&str, usize); 9] = [
    ("ascii", 1),
    ("lower", 1),
    ("upper", 1),
    ("trim", 1),
    ("slug", 1),
    ("words", 1),
    ("join", 2),
    ("first", 2),
    ("suffix", 1),
];

/// Adds the functions to `env`.
pub(super) fn register(env: &mut Env) {
    // The names are ours alone, so no declaration can collide; the tests call every one of them.
    let declared = [
        cel::add_overload!(env, fn ascii: (CelString) -> Result<CelString>),
        cel::add_overload!(env, fn lower: (CelString) -> Result<CelString>),
        cel::add_overload!(env, fn upper: (CelString) -> Result<CelString>),
        cel::add_overload!(env, fn trim: (CelString) -> Result<CelString>),
        cel::add_overload!(env, fn slug: (CelString) -> Result<CelString>),
        cel::add_overload!(env, fn words: (CelString) -> Result<CelList>),
        cel::add_overload!(env, fn join: (CelList, CelString) -> Result<CelString>),
        cel::add_overload!(env, fn first: (CelString, CelInt) -> Result<CelString>),
        cel::add_overload!(env, fn suffix: (CelInt) -> Result<CelString>),
    ];
    debug_assert!(declared.iter().all(Result::is_ok));
}

type Text = Result<CelString<'static>, ExecutionError>;

fn bounded<'a>(function: &str, text: &'a CelString<'_>) -> Result<&'a str, ExecutionError> {
    let text: &str = text.inner();
    if text.len() > TEXT_BYTES_MAX {
        return Err(ExecutionError::function_error(
            function,
            format!("the text is longer than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

fn ascii(text: &CelString<'_>) -> Text {
    Ok(to_ascii(bounded("ascii", text)?).into())
}

fn lower(text: &CelString<'_>) -> Text {
    Ok(bounded("lower", text)?.to_lowercase().into())
}

fn upper(text: &CelString<'_>) -> Text {
    Ok(bounded("upper", text)?.to_uppercase().into())
}

fn trim(text: &CelString<'_>) -> Text {
    Ok(bounded("trim", text)?.trim().to_owned().into())
}

fn slug(text: &CelString<'_>) -> Text {
    Ok(to_slug(bounded("slug", text)?).into())
}

fn words(text: &CelString<'_>) -> Result<CelList<'static>, ExecutionError> {
    let words: Vec<Box<dyn Val>> = bounded("words", text)?
        .split_whitespace()
        .map(|word| Box::new(CelString::from(word.to_owned())) as Box<dyn Val>)
        .collect();
    Ok(words.into())
}

fn join(list: &CelList<'_>, separator: &CelString<'_>) -> Text {
    let mut joined = String::new();
    for (index, item) in list.inner().iter().enumerate() {
        let Some(text) = item.downcast_ref::<CelString<'_>>() else {
            return Err(ExecutionError::function_error(
                "join",
                "the list holds something that is not a text",
            ));
        };
        if index > 0 {
            joined.push_str(separator.inner());
        }
        joined.push_str(text.inner());
        if joined.len() > TEXT_BYTES_MAX {
            return Err(ExecutionError::function_error(
                "join",
                format!("the text becomes longer than {TEXT_BYTES_MAX} bytes"),
            ));
        }
    }
    Ok(joined.into())
}

fn first(text: &CelString<'_>, count: &CelInt) -> Text {
    let count = usize::try_from(*count.inner()).map_err(|_| {
        ExecutionError::function_error("first", "the number of characters is negative")
    })?;
    Ok(bounded("first", text)?
        .chars()
        .take(count)
        .collect::<String>()
        .into())
}

fn suffix(n: &CelInt) -> Text {
    Ok(match *n.inner() {
        0 => String::new(),
        n => n.saturating_add(1).to_string(),
    }
    .into())
}

/// The text in ASCII. A character nobody can transliterate disappears.
#[must_use]
pub fn to_ascii(text: &str) -> String {
    deunicode::deunicode_with_tofu(text, "")
}

/// Lower-case ASCII letters and digits, everything else one hyphen, none at the ends.
#[must_use]
pub fn to_slug(text: &str) -> String {
    let mut slug = String::new();
    for c in to_ascii(text).chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::super::{Expression, Scope};
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: &str) {
        let value = Expression::compile(expression)
            .unwrap()
            .json(&Scope::new())
            .map_or_else(|error| format!("error: {error}"), |json| json.to_string());
        assert_eq!(value, expected, "{expression}");
    }

    #[test]
    fn names_become_account_names() {
        check(
            r#"ascii("Łukasz Søren Groß Éva")"#,
            r#""Lukasz Soren Gross Eva""#,
        );
        check(r#"ascii("Юлия")"#, r#""Iuliia""#);
        check(r#"ascii("Γεωργία")"#, r#""Georgia""#);
        check(r#"lower("ÀB")"#, r#""àb""#);
        check(r#"upper("ab")"#, r#""AB""#);
        check(r#"trim("  a b ")"#, r#""a b""#);
        check(
            r#"slug("2 - Research & Développement ")"#,
            r#""2-research-developpement""#,
        );
        check(r#"words(" Ann  Lee ")"#, r#"["Ann","Lee"]"#);
        check(
            r#"words("Ann Mae Lee")[size(words("Ann Mae Lee")) - 1]"#,
            r#""Lee""#,
        );
        check(r#"join(["a", "b"], ".")"#, r#""a.b""#);
        check(r#"first("Éva", 1)"#, r#""É""#);
        check(r#"first("Éva", 100)"#, r#""Éva""#);
        check(r#""ann" + suffix(0)"#, r#""ann""#);
        check(r#""ann" + suffix(1)"#, r#""ann2""#);
        check(
            r#"lower(first(ascii("Éva Öz"), 1) + "." + words("Éva Öz")[1])"#,
            r#""e.öz""#,
        );
    }

    #[test]
    fn wrong_arguments_are_told() {
        check(
            r#"first("a", -1)"#,
            "error: `first`: the number of characters is negative",
        );
        check(
            r#"join([1], ".")"#,
            "error: `join`: the list holds something that is not a text",
        );
        check("lower(1)", "error: `lower` cannot be applied to (int)");
    }

    #[test]
    fn every_declared_function_is_registered() {
        for (name, arguments) in OWN {
            let call = format!("{name}({})", vec!["null"; arguments].join(", "));
            let error = Expression::compile(&call)
                .unwrap()
                .json(&Scope::new())
                .unwrap_err();
            assert!(
                error.to_string().contains("cannot be applied"),
                "{call}: {error}"
            );
        }
    }
}
