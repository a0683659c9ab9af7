//! Looking at the text of an expression without parsing it: bounds, and where `&&` and `||` split it.

use super::{BRACKETS_NESTED_MAX, CompileError, EXPRESSION_BYTES_MAX, OPERATORS_MAX, Place};

/// A character outside texts and comments that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Close,
    And,
    Or,
    /// `?` or `:`
    Condition,
    /// Anything else that makes the tree deeper.
    Operator,
}

/// Refuses what could exhaust the stack of the parser or the interpreter.
pub(super) fn check_bounds(text: &str) -> Result<(), CompileError> {
    if text.trim().is_empty() {
        return Err(CompileError {
            place: None,
            message: "the expression is empty".to_owned(),
            fix: "write a CEL expression, or leave the field out".to_owned(),
        });
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(CompileError {
            place: None,
            message: format!(
                "the expression has {} bytes, more than the {EXPRESSION_BYTES_MAX} allowed",
                text.len()
            ),
            fix: "split it into several roles".to_owned(),
        });
    }
    let mut depth = 0_usize;
    let mut operators = 0_usize;
    for (offset, mark) in marks(text) {
        match mark {
            Mark::Open => {
                depth += 1;
                operators += 1;
            }
            Mark::Close => depth = depth.saturating_sub(1),
            Mark::Condition | Mark::Operator => operators += 1,
            Mark::And | Mark::Or => {}
        }
        if depth > BRACKETS_NESTED_MAX {
            return Err(CompileError {
                place: Some(place(text, offset)),
                message: format!("brackets are nested deeper than {BRACKETS_NESTED_MAX}"),
                fix: "split the expression into several roles".to_owned(),
            });
        }
        if operators > OPERATORS_MAX {
            return Err(CompileError {
                place: Some(place(text, offset)),
                message: format!("the expression has more than {OPERATORS_MAX} operators"),
                fix: "split it into several roles, or compare with a list: `x in [..]`".to_owned(),
            });
        }
    }
    Ok(())
}

/// The parts of `text` between the top-level `||`, or, when there is none, between the top-level `&&`.
/// One part means there is nothing to split. Brackets around the whole are taken off first.
#[must_use]
pub fn split_top(text: &str) -> (Split, Vec<&str>) {
    let text = strip_brackets(text.trim());
    let mut depth = 0_usize;
    let (mut ands, mut ors) = (Vec::new(), Vec::new());
    for (offset, mark) in marks(text) {
        match mark {
            Mark::Open => depth += 1,
            Mark::Close => depth = depth.saturating_sub(1),
            Mark::And if depth == 0 => ands.push(offset),
            Mark::Or if depth == 0 => ors.push(offset),
            // `a && b ? c : d` asks the condition first: it is one piece.
            Mark::Condition if depth == 0 => return (Split::None, vec![text]),
            Mark::And | Mark::Or | Mark::Condition | Mark::Operator => {}
        }
    }
    let (split, cuts) = if !ors.is_empty() {
        (Split::Any, ors)
    } else if !ands.is_empty() {
        (Split::All, ands)
    } else {
        return (Split::None, vec![text]);
    };
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    let mut start = 0;
    for cut in cuts {
        parts.push(text.get(start..cut).unwrap_or_default().trim());
        start = cut + 2;
    }
    parts.push(text.get(start..).unwrap_or_default().trim());
    (split, parts)
}

/// How the parts that [`split_top`] found belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// `&&`
    All,
    /// `||`
    Any,
    None,
}

/// Takes off round brackets that enclose the whole text.
fn strip_brackets(text: &str) -> &str {
    let mut text = text;
    for _ in 0..BRACKETS_NESTED_MAX {
        if !(text.starts_with('(') && text.ends_with(')')) {
            return text;
        }
        let mut depth = 0_usize;
        for (offset, mark) in marks(text) {
            match mark {
                Mark::Open => depth += 1,
                Mark::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && offset + 1 < text.len() {
                return text;
            }
        }
        text = text.get(1..text.len() - 1).unwrap_or(text).trim();
    }
    text
}

/// Line and column of a byte offset.
pub(super) fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |tail| tail.chars().count()) as u64
        + 1;
    (line, column)
}

/// The marks of `text` with their byte offsets; texts and comments are passed over.
fn marks(text: &str) -> Vec<(usize, Mark)> {
    let bytes = text.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let mut found = Vec::new();
    let mut index = 0;
    while index < bytes.len() {
        let byte = at(index);
        match byte {
            b'"' | b'\'' => {
                index = after_text(bytes, index);
                continue;
            }
            b'/' if at(index + 1) == b'/' => {
                while index < bytes.len() && at(index) != b'\n' {
                    index += 1;
                }
                continue;
            }
            b'&' if at(index + 1) == b'&' => {
                found.push((index, Mark::And));
                index += 2;
                continue;
            }
            b'|' if at(index + 1) == b'|' => {
                found.push((index, Mark::Or));
                index += 2;
                continue;
            }
            b'(' | b'[' | b'{' => found.push((index, Mark::Open)),
            b')' | b']' | b'}' => found.push((index, Mark::Close)),
            b'?' | b':' => found.push((index, Mark::Condition)),
            // The second half of `==`, `!=`, `<=`, `>=`.
            b'=' if index > 0 && matches!(at(index - 1), b'=' | b'!' | b'<' | b'>') => {}
            b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'.' | b'<' | b'>' | b'=' => {
                found.push((index, Mark::Operator));
            }
            // The word `in`, which nests like an operator.
            b'i' if at(index + 1) == b'n'
                && !is_word(at(index + 2))
                && (index == 0 || !is_word(at(index - 1))) =>
            {
                found.push((index, Mark::Operator));
            }
            _ => {}
        }
        index += 1;
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The offset behind the text that opens at `start`; the end of all when it is not closed.
fn after_text(bytes: &[u8], start: usize) -> usize {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let quote = at(start);
    let raw = start > 0 && matches!(at(start - 1), b'r' | b'R');
    let triple = at(start + 1) == quote && at(start + 2) == quote;
    let width = if triple { 3 } else { 1 };
    let mut index = start + width;
    while index < bytes.len() {
        if at(index) == b'\\' && !raw {
            index += 2;
        } else if at(index) == quote
            && (!triple || (at(index + 1) == quote && at(index + 2) == quote))
        {
            return index + width;
        } else {
            index += 1;
        }
    }
    bytes.len()
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
    use super::*;

    #[track_caller]
    fn check(text: &str, split: Split, parts: &[&str]) {
        assert_eq!(split_top(text), (split, parts.to_vec()), "{text}");
    }

    #[test]
    fn an_expression_falls_apart_at_its_loosest_operator() {
        check("a && b", Split::All, &["a", "b"]);
        check("a && b || c", Split::Any, &["a && b", "c"]);
        check("(a || b) && c", Split::All, &["(a || b)", "c"]);
        check("((a || b))", Split::Any, &["a", "b"]);
        check("(a) && (b)", Split::All, &["(a)", "(b)"]);
        check("a ? b && c : d", Split::None, &["a ? b && c : d"]);
        check("x == 'a && b'", Split::None, &["x == 'a && b'"]);
        check(
            r#"x == "\" || " && y"#,
            Split::All,
            &[r#"x == "\" || ""#, "y"],
        );
        check(r"x == r'\' && y", Split::All, &[r"x == r'\'", "y"]);
        check(
            "x == '''a ' && ''' && y",
            Split::All,
            &["x == '''a ' && '''", "y"],
        );
        check("a // || b\n && c", Split::All, &["a // || b", "c"]);
    }

    #[test]
    fn bounds_are_told_with_their_place() {
        assert!(check_bounds("identity.a == 1").is_ok());
        let deep = "(".repeat(BRACKETS_NESTED_MAX + 1);
        let error = check_bounds(&deep).unwrap_err();
        assert_eq!(error.place, Some((1, 25)));
        assert_eq!(error.message, "brackets are nested deeper than 24");
        let long = "1 + ".repeat(OPERATORS_MAX + 1);
        assert!(
            check_bounds(&long)
                .unwrap_err()
                .message
                .contains("400 operators")
        );
        let huge = format!("'{}'", "x".repeat(EXPRESSION_BYTES_MAX));
        assert!(
            check_bounds(&huge)
                .unwrap_err()
                .message
                .contains("8194 bytes")
        );
        assert!(check_bounds(" \n").unwrap_err().message.contains("empty"));
        // Brackets in a text do not count.
        assert!(check_bounds(&format!("'{deep}'")).is_ok());
    }
}
