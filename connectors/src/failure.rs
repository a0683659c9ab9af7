//! Why a call over HTTP had no success, and what that means for a read and for a change.

use crate::connector::{Error, Outcome};

/// `Why` is what the other side gives as its reason, beside the error that is told.
#[derive(Debug)]
pub(crate) enum Failure<Why> {
    /// No connection was made.
    NotSent(Error),
    /// The other side said no, and did nothing.
    Refused { why: Why, error: Error },
    /// It left, and no answer came that can be understood.
    Lost(Error),
}

impl<Why> Failure<Why> {
    /// What it means when nothing could be changed by the call.
    pub fn of_read(self) -> Error {
        match self {
            Self::NotSent(error) | Self::Refused { error, .. } | Self::Lost(error) => error,
        }
    }

    /// What it means when something may have been changed.
    ///
    /// # Errors
    /// When nothing was.
    pub fn of_change(self) -> Result<Outcome, Error> {
        match self {
            Self::NotSent(error) | Self::Refused { error, .. } => Err(error),
            Self::Lost(error) => Ok(Outcome::Ambiguous {
                reason: error.whole(),
            }),
        }
    }
}
