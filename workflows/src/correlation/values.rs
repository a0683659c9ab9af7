//! Values as they compare: identifiers, phone numbers, addresses of mail, days. Pure.

use chrono::{Datelike, NaiveDate};
use deunicode::deunicode;

/// The fewest digits of a phone number: fewer are an extension.
const PHONE_DIGITS_MIN: usize = 7;

/// Letters and digits, whatever stands between them.
pub(super) fn identifier(text: &str) -> Option<String> {
    let plain: String = deunicode(text)
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    // Zeros alone are how forms say that there is none.
    let says_something = plain.chars().any(|c| c != '0');
    says_something.then_some(plain)
}

/// Digits with the country in front. `country` is that of numbers without one, as `49`.
pub(super) fn phone(text: &str, country: Option<&str>) -> Option<String> {
    let text = text.replace("(0)", "");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let whole = if text.trim_start().starts_with('+') {
        digits
    } else if let Some(rest) = digits.strip_prefix("00") {
        rest.to_owned()
    } else if let (Some(rest), Some(country)) = (digits.strip_prefix('0'), country) {
        format!("{country}{rest}")
    } else {
        digits
    };
    (whole.len() >= PHONE_DIGITS_MIN).then_some(whole)
}

/// An address of mail without what its owner may add (`+lists`).
pub(super) fn email(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let (mailbox, domain) = text.rsplit_once('@')?;
    let mailbox = mailbox.split('+').next().unwrap_or(mailbox);
    (!mailbox.is_empty() && !domain.is_empty()).then(|| format!("{mailbox}@{domain}"))
}

/// A day, in ISO form; a time counts as its day.
pub(super) fn day(text: &str) -> Option<NaiveDate> {
    let text = text.trim();
    let text = text.get(..10).unwrap_or(text);
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

/// The day with day and month swapped, where there is one.
pub(super) fn swapped(day: NaiveDate) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(day.year(), day.day(), day.month())
}

/// Any text, without regard to case, accents and blanks.
pub(super) fn text(text: &str) -> Option<String> {
    let plain = deunicode(text).to_lowercase();
    let words: Vec<&str> = plain.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_however_they_are_written() {
        assert_eq!(identifier(" 12-34 ab "), identifier("1234AB"));
        assert_eq!(identifier("000-00"), None);
        let german = |text: &str| phone(text, Some("49"));
        assert_eq!(german("+49 (0)170 123 45 67"), german("0170/1234567"));
        assert_eq!(german("0049 170 1234567"), german("+491701234567"));
        assert_ne!(german("+43 170 1234567"), german("0170 1234567"));
        assert_eq!(german("-4711"), None);
        assert_eq!(phone("0170 1234567", None), phone("01701234567", None));
        assert_eq!(
            email("Ann.Ox+jobs@Example.COM "),
            email("ann.ox@example.com")
        );
        assert_eq!(email("ann"), None);
        assert_eq!(day("1990-02-03T00:00:00Z"), day("1990-02-03"));
        assert_eq!(day("1990-02-30"), None);
        assert_eq!(day("1990-02-03").and_then(swapped), day("1990-03-02"));
        assert_eq!(text("  Große   Straße "), text("grosse strasse"));
    }
}
