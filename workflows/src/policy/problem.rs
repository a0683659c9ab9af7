//! What is wrong in a file somebody wrote or delivered: where, what, and how to put it right.
//!
//! Reading does not stop at the first mistake, because a person who mends a file wants to mend it once;
//! it stops at [`PROBLEMS_MAX`], because the four hundredth line about the same slip helps nobody.

use std::fmt;

use serde::Serialize;

/// How many problems of one file are told before reading stops.
pub const PROBLEMS_MAX: usize = 20;

/// One mistake in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as the caller named it.
    pub file: String,
    /// Counted from one. `None` when the mistake has no place, such as a file that is empty.
    pub line: Option<u64>,
    /// Counted from one, in characters for YAML and in bytes for data files.
    pub column: Option<u64>,
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl Problem {
    #[must_use]
    pub fn new(
        file: impl Into<String>,
        at: Option<(u64, u64)>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            line: at.map(|(line, _)| line),
            column: at.map(|(_, column)| column),
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// A mistake whose line is known and whose column means nothing.
    #[must_use]
    pub fn on_line(
        file: impl Into<String>,
        line: u64,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            line: Some(line),
            ..Self::new(file, None, message, fix)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; fix: {}", self.fix)?;
        }
        Ok(())
    }
}

/// The mistakes found so far, at most [`PROBLEMS_MAX`] of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Problems {
    pub list: Vec<Problem>,
    /// There was more to say.
    pub more: bool,
}

impl Problems {
    /// Adds one, or notes that there are more than can be told.
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.more = true;
        }
    }

    pub fn extend(&mut self, others: impl IntoIterator<Item = Problem>) {
        for problem in others {
            self.push(problem);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether another one would no longer be told.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.list.len() >= PROBLEMS_MAX
    }

    /// `Ok` of what `value` makes when nothing is wrong.
    ///
    /// # Errors
    /// The problems, when there are any.
    pub fn into_result<T>(self, value: impl FnOnce() -> T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value())
        } else {
            Err(self)
        }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self {
            list: vec![problem],
            more: false,
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.more {
            write!(
                f,
                "\nand more; stopped telling after {PROBLEMS_MAX} problems"
            )?;
        }
        Ok(())
    }
}

/// The candidate that looks most like `word`, when one looks like it at all.
#[must_use]
pub fn similar<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this the two words only share letters.
    const LIKENESS_MIN: f64 = 0.6;
    let plain = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect()
    };
    let wanted = plain(word);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(&wanted, &plain(candidate)),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// "did you mean" when something is similar, and what there is, at most [`LISTED_MAX`] of it.
#[must_use]
pub fn suggest<'a>(
    word: &str,
    what: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match similar(word, candidates.iter().copied()) {
        Some(candidate) if candidates.len() > LISTED_BESIDE_MAX => {
            format!("did you mean `{candidate}`?")
        }
        Some(candidate) => format!(
            "did you mean `{candidate}`? {}",
            there_is(what, &candidates)
        ),
        None => there_is(what, &candidates),
    }
}

/// How many names are listed beside a good guess; more would bury it.
const LISTED_BESIDE_MAX: usize = 16;
/// How many names a message lists.
pub const LISTED_MAX: usize = 30;

fn there_is(what: &str, candidates: &[&str]) -> String {
    if candidates.is_empty() {
        return format!("there are no {what}");
    }
    let listed: Vec<String> = candidates
        .iter()
        .take(LISTED_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    let rest = candidates.len().saturating_sub(LISTED_MAX);
    let tail = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    format!("{what} are {}{tail}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_what_and_how() {
        let problem = Problem::new("hr.csv", Some((3, 7)), "empty key", "fill in `user_id`");
        assert_eq!(
            problem.to_string(),
            "`hr.csv`:3:7: empty key; fix: fill in `user_id`"
        );
        assert_eq!(
            Problem::on_line("hr.csv", 3, "empty key", "").to_string(),
            "`hr.csv`:3: empty key"
        );
    }

    #[test]
    fn telling_stops_at_the_limit() {
        let mut problems = Problems::default();
        for line in 0..100 {
            problems.push(Problem::on_line("f", line, "x", "y"));
        }
        assert_eq!(problems.list.len(), PROBLEMS_MAX);
        assert!(problems.to_string().ends_with("after 20 problems"));
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        let columns = ["employee_name", "user_id", "department"];
        assert_eq!(similar("userid", columns), Some("user_id"));
        assert_eq!(similar("Department", columns), Some("department"));
        assert_eq!(similar("salary", columns), None);
        assert_eq!(
            suggest("depratment", "columns", columns),
            "did you mean `department`? columns are `employee_name`, `user_id`, `department`"
        );
        assert_eq!(suggest("x", "columns", []), "there are no columns");
    }
}
