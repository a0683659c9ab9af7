//! How credentials are replaced. Pure: when, in what order, through which phases, and for how long the old one goes on working.
//!
//! - [`settings`] is what is declared of it, beside the [mode](crate::nhi::declare::ReplaceMode) of a credential;
//! - [`phase`] is the way of one rotation: its phases by mode, where it may be taken back, how many credentials may work;
//! - [`overlap`] says for how long both work, and what decided that;
//! - [`window`] are the times at which something may be changed, in a zone;
//! - [`due`] says when the next one begins, and why then; [`spread`] keeps a fleet from beginning at once;
//! - [`order`] puts what makes others before what it makes;
//! - [`exposed`] says what follows when strangers know a credential while it is being replaced;
//! - [`rollover`] says which authority takes the place of which, and [`bundle`] whom those trust who read a bundle of roots.
//!
//! What is done in each phase is an [action](crate::actions); the case that does it is
//! `definitions/rotation_*.yaml`.
//!
//! What goes before what: a compromise before an expiry, an expiry before a window, a window before a schedule.

pub mod bundle;
pub mod due;
pub mod exposed;
pub mod order;
pub mod overlap;
pub mod phase;
pub mod rollover;
pub mod settings;
pub mod spread;
pub mod window;

pub use due::{Because, Bounds, Facts, Planned, at_once, bounds, plan};
pub use exposed::{Exposed, Follows, Found, follows};
pub use overlap::{Overlap, Term, overlap};
pub use phase::{Mode, Phase, mode};
pub use settings::Rotation;
pub use window::Window;

use sha2::{Digest as _, Sha256};

/// A number of `0..PARTS` that looks random and is always the same for the same words: a draw that is made once, whoever
/// makes it and however often.
fn drawn(words: &[&str]) -> u64 {
    let mut digest = Sha256::new();
    for word in words {
        digest.update(word.len().to_be_bytes());
        digest.update(word.as_bytes());
    }
    let bytes = digest.finalize();
    let first = bytes
        .iter()
        .take(4)
        .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    first % PARTS
}

/// Into how many parts a length is divided by a draw.
const PARTS: u64 = 1_000_003;

/// The drawn part of a length in milliseconds.
fn part_ms(length_ms: i64, words: &[&str]) -> i64 {
    let length = i128::from(length_ms.max(0));
    let part = length * i128::from(drawn(words)) / i128::from(PARTS);
    i64::try_from(part).unwrap_or(0)
}
