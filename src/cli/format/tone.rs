//! What a piece of text means, and the colour of that meaning.

use anstyle::{AnsiColor, Style};

/// A meaning. The same everywhere: a colour is never chosen where text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    Strong,
    /// Beside the point.
    Dim,
    /// Finished well.
    Good,
    /// Under way.
    Busy,
    /// Wants attention, or waits for somebody.
    Warn,
    /// Went wrong.
    Bad,
    /// Something to type.
    Code,
}

impl Tone {
    #[must_use]
    pub fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Good => colour(AnsiColor::Green),
            Self::Busy => colour(AnsiColor::Blue),
            Self::Warn => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
            Self::Code => colour(AnsiColor::Cyan),
        }
    }

    /// The tone of a case's, step's or instance's state, by its name.
    #[must_use]
    pub fn of_state(state: &str) -> Self {
        match state {
            "succeeded" | "done" | "verified" | "active" | "enabled" | "granted" | "ready"
            | "closed" => Self::Good,
            "running" | "planning" | "open" | "ending" | "undoing" => Self::Busy,
            "queued" | "waiting" | "delayed" | "asking" | "unverified" | "attested"
            | "incomplete" | "held" | "paused" => Self::Warn,
            "parked" | "stuck" | "failed" | "unknown" | "refuted" => Self::Bad,
            "pending" | "skipped" | "cancelled" | "preempted" | "superseded" | "merged"
            | "undone" | "given_up" | "disabled" | "revoked" => Self::Dim,
            _ => Self::Plain,
        }
    }

    /// A sign for a state, so that colour is never the only difference.
    #[must_use]
    pub fn sign(self) -> char {
        match self {
            Self::Good => '✓',
            Self::Busy => '●',
            Self::Warn => '◷',
            Self::Bad => '✗',
            Self::Dim | Self::Plain | Self::Strong | Self::Code => '·',
        }
    }
}

/// The text in its tone.
#[must_use]
pub fn paint(text: impl std::fmt::Display, tone: Tone) -> String {
    let style = tone.style();
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_ends_where_the_text_ends() {
        assert_eq!(paint("x", Tone::Good), "\u{1b}[32mx\u{1b}[0m");
        assert_eq!(paint("x", Tone::Plain), "x");
    }
}
