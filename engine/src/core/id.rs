//! A type for each identifier, so that none can stand where another belongs.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;

/// One execution of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CaseId(pub Uuid);

/// One step of the time in a case's identifier, in bits of a millisecond: about a minute.
const CASE_TIME_BITS: u32 = 16;

impl CaseId {
    /// The case that `cause` starts, always the same. Its identifier begins with a coarse `at`: a database keeps rows in
    /// the order of their keys, and what is worked on at the same time should lie together.
    #[must_use]
    pub fn caused(namespace: &Uuid, at: Timestamp, cause: &str) -> Self {
        let mut bytes = Uuid::new_v5(namespace, cause.as_bytes()).into_bytes();
        let minutes = at.timestamp_millis() >> CASE_TIME_BITS;
        let time = minutes.to_be_bytes();
        for (byte, time) in bytes.iter_mut().zip(time.iter().skip(time.len() - 3)) {
            *byte = *time;
        }
        let builder = uuid::Builder::from_bytes(bytes);
        let own = builder.with_version(uuid::Version::Custom);
        Self(own.with_variant(uuid::Variant::RFC4122).into_uuid())
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A logical shard: the unit of ownership. A subject hashes to one shard for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub i32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a shard's ownership; every change of owner raises it, every write carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// Who or what a case is about, as the layer above names it. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(pub String);

impl Subject {
    /// The shard this subject belongs to, out of `count` shards: FNV-1a, folded. Stored data depends on it,
    /// so it must never change.
    #[must_use]
    pub fn shard(&self, count: u32) -> ShardId {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in self.0.as_bytes() {
            hash ^= u64::from(*byte);
            hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        }
        let folded = (hash ^ (hash >> 32)) & 0xffff_ffff;
        let shard = folded % u64::from(count.max(1));
        ShardId(i32::try_from(shard).unwrap_or(0))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content hash of a definition: its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DefinitionHash(pub String);

impl DefinitionHash {
    /// Enough of the hash for a person.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The position of a step in its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepIndex(pub u16);

/// The position of an instance in the fan-out of its step; 0 for a step without `for_each`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceIndex(pub u32);

/// One instance of one step of one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub step: StepIndex,
    pub instance: InstanceIndex,
}

impl Place {
    #[must_use]
    pub fn new(step: StepIndex, instance: u32) -> Self {
        Self {
            step,
            instance: InstanceIndex(instance),
        }
    }
}

/// Who caused an input: what evidence calls the initiator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(pub String);

impl Actor {
    /// The engine itself: a timer, an outcome, a recovery.
    #[must_use]
    pub fn engine() -> Self {
        Self("engine".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_of_one_time_lie_together_and_the_same_cause_is_the_same_case() {
        let caused = |at: &str, cause: &str| {
            let at: Timestamp = at.parse().unwrap_or_default();
            CaseId::caused(&Uuid::nil(), at, cause).to_string()
        };
        let (first, second) = (
            caused("2026-03-01T12:00:00Z", "a"),
            caused("2026-03-01T12:00:30Z", "b"),
        );
        assert_eq!(
            first, "9ca94533-a679-8e76-af3c-273ea349ede4",
            "stored for ever"
        );
        assert_eq!(first.get(..6), second.get(..6));
        assert_ne!(first, second);
        assert_eq!(first, caused("2026-03-01T12:00:00Z", "a"));
        let later = caused("2026-03-01T13:00:00Z", "a");
        assert!(later > first && later.get(7..) == first.get(7..), "{later}");
    }

    #[test]
    fn a_subject_keeps_its_shard_for_ever() {
        // Stored rows depend on these numbers.
        assert_eq!(Subject("MMK1532".into()).shard(256), ShardId(231));
        assert_eq!(
            Subject(String::new()).shard(256),
            Subject(String::new()).shard(256)
        );
        for count in [1, 2, 255, 4096] {
            let shard = Subject("someone".into()).shard(count).0;
            assert!(shard >= 0 && shard < count as i32);
        }
    }
}
