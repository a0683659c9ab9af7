//! Retry arithmetic. The random draw is handed in, so that a decision can be made again and be the same.

use serde::{Deserialize, Serialize};

use super::duration::Span;

/// How often and how fast a failed attempt is made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The pause before the second attempt.
    pub first: Span,
    /// By how much each pause is longer than the one before.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The longest pause.
    pub max: Span,
    /// How many counted attempts there may be; then the step parks.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Span::from_s(2),
            factor: 2.0,
            max: Span::from_s(300),
            attempts: 8,
        }
    }
}

/// The pauses while a whole system is away; they count against nothing.
const AWAY_FIRST_MS: f64 = 1_000.0;
const AWAY_MAX_MS: f64 = 30_000.0;

impl RetryPolicy {
    /// The pause after `failures` counted failures, `None` when the budget is spent.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Option<Span> {
        if failures >= self.attempts {
            return None;
        }
        Some(grow(
            as_ms(self.first),
            self.factor,
            failures.saturating_sub(1),
            as_ms(self.max),
        ))
    }
}

/// The pause while a system is away, after `streak` answers of that kind.
#[must_use]
pub fn pause_away(streak: u32) -> Span {
    grow(AWAY_FIRST_MS, 2.0, streak.saturating_sub(1), AWAY_MAX_MS)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a pause needs no exact milliseconds above 2^52"
)]
fn as_ms(span: Span) -> f64 {
    span.ms() as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded by `max` just above"
)]
fn grow(first: f64, factor: f64, exponent: u32, max: f64) -> Span {
    let power = factor
        .max(1.0)
        .powi(i32::try_from(exponent.min(64)).unwrap_or(64));
    let ms = (first * power).min(max).clamp(0.0, f64::from(u32::MAX));
    Span::from_ms(ms as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_end() {
        let policy = RetryPolicy {
            first: Span::from_s(2),
            factor: 2.0,
            max: Span::from_s(10),
            attempts: 5,
        };
        let pauses: Vec<_> = (1..=5)
            .map(|failures| policy.pause(failures).map(Span::ms))
            .collect();
        assert_eq!(
            pauses,
            [Some(2_000), Some(4_000), Some(8_000), Some(10_000), None]
        );
    }

    #[test]
    fn the_pause_for_an_absent_system_never_ends_and_never_exceeds_half_a_minute() {
        assert_eq!(pause_away(1).ms(), 1_000);
        assert_eq!(pause_away(1_000_000).ms(), 30_000);
    }
}
