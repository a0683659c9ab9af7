//! Progress on the standard error, and only on a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the spinner turns.
const TICK_MS: u64 = 100;

/// A bar, or nothing at all when nobody watches.
#[derive(Debug, Clone)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for `total` pieces of work. `quiet` hides it even on a terminal.
    #[must_use]
    pub fn new(title: &str, total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), target(quiet));
        Self(dressed(bar, title))
    }

    /// The same as one of several below one another.
    #[must_use]
    pub fn among(bars: &MultiProgress, title: &str, total: u64) -> Self {
        Self(dressed(bars.add(ProgressBar::new(total)), title))
    }

    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// Removes the bar from the screen.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Where bars are drawn: nowhere without a terminal.
#[must_use]
pub fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    }
}

fn dressed(bar: ProgressBar, title: &str) -> ProgressBar {
    let form =
        "{spinner:.cyan} {prefix:<22} {bar:32.cyan/dim} {pos:>6}/{len:<6} {elapsed:>4} {msg:.dim}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(TICK_MS));
    bar
}
