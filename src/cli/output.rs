//! The one place that writes to the standard output.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

/// How the result of a command is told: to a person, or as JSON.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// A line for a person; nothing with `--json`.
    ///
    /// # Errors
    /// When the standard output cannot be written to. A reader who has left is no error.
    pub fn line(self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.json {
            Ok(())
        } else {
            write(&text.to_string())
        }
    }

    /// The result: one JSON document with `--json`, otherwise what `person` makes of it.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn result<T: Serialize>(
        self,
        value: &T,
        person: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            write(&serde_json::to_string_pretty(value)?)
        } else {
            let text = person(value);
            if text.is_empty() {
                Ok(())
            } else {
                write(&text)
            }
        }
    }

    /// Text that is the result itself, in either form: a schema, a completion script, a line of a stream.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn raw(self, text: &str) -> anyhow::Result<()> {
        write(text)
    }

    /// A remark beside the result, on the standard error; nothing with `--json`.
    ///
    /// # Errors
    /// When the standard error cannot be written to.
    pub fn note(self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut stderr = anstream::stderr().lock();
        Ok(writeln!(stderr, "{text}")?)
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
    match written {
        // `tenure case list | head` is not a failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
