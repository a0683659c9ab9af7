//! How things look to a person: tones, tables, times, progress.
//!
//! Colour is written always and taken out by `anstream` where it is not wanted (no terminal, `NO_COLOR`,
//! `--color never`), so that no other place has to know.

pub mod graph;
pub mod markup;
pub mod progress;
pub mod table;
pub mod time;
pub mod tone;

pub use progress::Bar;
pub use table::Listing;
pub use tone::{Tone, paint};

/// Text from outside, made safe for a terminal and for one line: names in a directory may hold anything.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || is_bidirectional(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Characters that reorder what stands around them, and could make one name look like another.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a long text, with a sign that it goes on.
#[must_use]
pub fn shortened(text: &str, chars_max: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= chars_max {
        return text;
    }
    let mut short: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// `1 case`, `2 cases`: a number and its noun.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// A number in groups of three.
#[must_use]
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        assert_eq!(
            plain("a\u{1b}[2Jb\nc\u{202e}d"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d"
        );
        assert_eq!(plain("Żaneta O’Shea"), "Żaneta O’Shea");
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(counted(1, "case", "cases"), "1 case");
        assert_eq!(counted(2_000, "case", "cases"), "2,000 cases");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(shortened("łłłłł", 4), "łłł…");
        assert_eq!(shortened("łłłł", 4), "łłłł");
    }
}
