//! What the suite found, for a person and for a program.

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub tests: Vec<TestResult>,
    /// Accounts the suite made and could not remove, in words.
    pub left_behind: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TestResult {
    pub name: String,
    pub verdict: Verdict,
    /// Why it failed, or why it did not apply; empty when it passed.
    pub detail: String,
    pub took_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    NotApplicable,
}

impl Verdict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotApplicable => "n/a",
        }
    }
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Failed) == 0
    }

    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.tests
            .iter()
            .filter(|test| test.verdict == verdict)
            .count()
    }

    /// The names of the tests that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&str> {
        self.tests
            .iter()
            .filter(|test| test.verdict == Verdict::Failed)
            .map(|test| test.name.as_str())
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.tests {
            writeln!(f, "{}", test)?;
        }
        for left in &self.left_behind {
            writeln!(f, "left behind: {left}")?;
        }
        write!(
            f,
            "{} passed, {} failed, {} not applicable",
            self.count(Verdict::Passed),
            self.count(Verdict::Failed),
            self.count(Verdict::NotApplicable),
        )
    }
}

impl fmt::Display for TestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {}", self.verdict.as_str(), self.name)?;
        if self.detail.is_empty() {
            Ok(())
        } else {
            write!(f, "\n          {}", self.detail)
        }
    }
}
