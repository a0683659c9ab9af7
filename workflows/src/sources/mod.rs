//! Sources: the feeds that say who is employed. Pure: bytes in, records and business events out.
//!
//! ```text
//! bytes -> input (bounds, UTF-8, hash) -> csv | json (rows) -> normalise (records) -> snapshot
//!       -> diff (business events) -> guard (pass, or stop and ask a person)
//! ```
//!
//! Absence is not a fact: that somebody is missing means they left only when the snapshot is *complete*,
//! which the manifest beside the file or the configuration of the feed has to say. And even then the guard
//! asks a person before a large part of the company leaves at once.
//!
//! Keeping records, events and approvals is done elsewhere; importing the same file twice gives the same
//! event identifiers, so storing them twice is harmless.

pub mod config;
mod csv;
pub mod data;
mod declare;
pub mod diff;
pub mod doubt;
pub mod event;
pub mod guard;
pub mod hint;
mod input;
mod json;
pub mod manifest;
mod normalise;
pub mod pull;
pub mod pulled;
pub mod pushed;
pub mod query;
pub mod record;
mod row;
mod said;
pub mod signature;
pub mod snapshot;
pub mod time;

#[cfg(test)]
mod tests;

pub use config::SourceConfig;
pub use declare::Source;
pub use diff::{Change, ChangeKind, Difference, Told, diff, differ_pushed, remember};
pub use event::{BusinessEvent, EventType};
pub use guard::{GuardConfig, Limit, StopReason, Summary, Verdict, assess};
pub use manifest::{Manifest, manifest_name};
pub use pushed::shared_tokens;
pub use record::{IdentityType, Key, Record, Records};
pub use row::Limits;
pub use said::{Attributes, Part, Said, said};
pub use signature::SignatureConfig;
pub use snapshot::{AsOf, Snapshot, SnapshotInput, read_snapshot};
