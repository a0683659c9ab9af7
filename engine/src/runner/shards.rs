//! The shards a lane works on, and what of each is out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::id::{Epoch, ShardId};
use crate::store::ShardLease;

/// What ownership tells the lane.
#[derive(Debug)]
pub(super) enum Order {
    /// These are ours from now on.
    Gain(Vec<ShardLease>),
    /// These belong to another already.
    Lose(Vec<ShardLease>),
    /// Give so many up, once what is in flight there is back.
    GiveUp(usize),
}

/// What the lane tells ownership.
#[derive(Debug)]
pub(super) enum News {
    /// These are being given up.
    Leaving(Vec<ShardId>),
    /// Nothing is done for these any more: they may be released.
    Left(Vec<ShardLease>),
    /// A commit found that these belong to another.
    Lost(Vec<ShardLease>),
}

struct Held {
    epoch: Epoch,
    /// Ends every attempt of the shard.
    cut: CancellationToken,
    /// When it is given up at the latest.
    leaves_by: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Shards {
    held: BTreeMap<ShardId, Held>,
    /// Gained again while something of before is still out.
    opening: Vec<ShardLease>,
    /// Attempts and fact look-ups that have left and not come back.
    out: HashMap<(ShardId, Epoch), usize>,
    /// Those that take work in.
    working: Vec<ShardId>,
}

impl Shards {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Those that take work in, in order.
    pub fn working(&self) -> &[ShardId] {
        &self.working
    }

    /// Whether new work may start there.
    pub fn works(&self, shard: ShardId) -> bool {
        self.held
            .get(&shard)
            .is_some_and(|held| held.leaves_by.is_none())
    }

    /// The shards among these that are held, or about to be, as the leases say.
    pub fn among(&self, leases: &[ShardLease]) -> BTreeSet<ShardId> {
        let same = |lease: &&ShardLease| {
            self.epoch(lease.shard) == Some(lease.epoch) || self.opening.contains(lease)
        };
        leases
            .iter()
            .filter(same)
            .map(|lease| lease.shard)
            .collect()
    }

    pub fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        Some(self.held.get(&shard)?.epoch)
    }

    /// What ends an attempt of the shard when the shard is lost.
    pub fn cut(&self, shard: ShardId) -> CancellationToken {
        self.held.get(&shard).map_or_else(
            || {
                let cut = CancellationToken::new();
                cut.cancel();
                cut
            },
            |held| held.cut.clone(),
        )
    }

    /// Whether none comes or goes.
    pub fn are_settled(&self) -> bool {
        self.opening.is_empty() && self.working.len() == self.held.len()
    }

    pub fn gain(&mut self, leases: Vec<ShardLease>) {
        self.opening.extend(leases);
    }

    /// Begins with the gained shards of which nothing from before is out; an attempt still out must not be read back.
    pub fn open(&mut self, life: &CancellationToken) -> Vec<ShardId> {
        if self.opening.is_empty() {
            return Vec::new();
        }
        let stragglers: HashSet<ShardId> = self.out.keys().map(|(shard, _)| *shard).collect();
        let (waiting, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.opening)
            .into_iter()
            .partition(|lease| stragglers.contains(&lease.shard));
        self.opening = waiting;
        for lease in &open {
            let held = Held {
                epoch: lease.epoch,
                cut: life.child_token(),
                leaves_by: None,
            };
            self.held.insert(lease.shard, held);
        }
        self.list();
        open.iter().map(|lease| lease.shard).collect()
    }

    /// Chooses `count` shards to give up, those with the least to wait for first. `load` says how much there is in
    /// memory of each.
    pub fn give_up(&mut self, count: usize, by: Instant, load: &HashMap<ShardId, usize>) {
        let mut candidates: Vec<(usize, usize, ShardId)> = self
            .working
            .iter()
            .filter_map(|shard| {
                let epoch = self.held.get(shard)?.epoch;
                let out = self.out.get(&(*shard, epoch)).copied().unwrap_or(0);
                Some((out, load.get(shard).copied().unwrap_or(0), *shard))
            })
            .collect();
        candidates.sort_unstable();
        for (_, _, shard) in candidates.into_iter().take(count) {
            if let Some(held) = self.held.get_mut(&shard) {
                held.leaves_by = Some(by);
            }
        }
        self.list();
    }

    /// Shards that are given up and have nothing out any more, or whose time is over.
    pub fn ready_to_leave(&self, now: Instant) -> Vec<ShardLease> {
        let gone = |(shard, held): (&ShardId, &Held)| {
            let by = held.leaves_by?;
            let back = !self.out.contains_key(&(*shard, held.epoch));
            (back || now >= by).then_some(ShardLease {
                shard: *shard,
                epoch: held.epoch,
            })
        };
        self.held.iter().filter_map(gone).collect()
    }

    pub fn leaving(&self) -> Vec<ShardId> {
        self.held
            .iter()
            .filter(|(_, held)| held.leaves_by.is_some())
            .map(|(shard, _)| *shard)
            .collect()
    }

    /// The soonest moment at which a shard leaves whatever is out.
    pub fn leaves_by(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| held.leaves_by).min()
    }

    /// Ends all that is done for these shards.
    pub fn drop(&mut self, gone: &BTreeSet<ShardId>) {
        for shard in gone {
            if let Some(held) = self.held.remove(shard) {
                held.cut.cancel();
            }
        }
        self.opening.retain(|lease| !gone.contains(&lease.shard));
        self.list();
    }

    pub fn sent(&mut self, shard: ShardId, epoch: Epoch) {
        *self.out.entry((shard, epoch)).or_default() += 1;
    }

    pub fn returned(&mut self, shard: ShardId, epoch: Epoch) {
        if let Some(out) = self.out.get_mut(&(shard, epoch)) {
            *out = out.saturating_sub(1);
            if *out == 0 {
                self.out.remove(&(shard, epoch));
            }
        }
    }

    fn list(&mut self) {
        self.working = self
            .held
            .iter()
            .filter(|(_, held)| held.leaves_by.is_none())
            .map(|(shard, _)| *shard)
            .collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn leases(numbers: impl IntoIterator<Item = i32>, epoch: i64) -> Vec<ShardLease> {
        numbers
            .into_iter()
            .map(|number| ShardLease {
                shard: ShardId(number),
                epoch: Epoch(epoch),
            })
            .collect()
    }

    fn ids(numbers: impl IntoIterator<Item = i32>) -> BTreeSet<ShardId> {
        numbers.into_iter().map(ShardId).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_idlest_leave_first_and_the_rest_when_their_work_is_back() {
        let mut shards = Shards::default();
        let life = CancellationToken::new();
        shards.gain(leases(0..4, 1));
        assert_eq!(shards.open(&life).len(), 4);
        for shard in [0, 1, 1] {
            shards.sent(ShardId(shard), Epoch(1));
        }
        let load = HashMap::from([(ShardId(2), 7)]);
        let by = Instant::now() + Duration::from_secs(5);
        shards.give_up(3, by, &load);
        assert_eq!(shards.working(), [ShardId(1)], "the busiest stays");
        assert_eq!(
            shards.ready_to_leave(Instant::now()),
            leases([2, 3], 1),
            "shard 0 has an attempt out"
        );
        shards.returned(ShardId(0), Epoch(1));
        assert_eq!(shards.ready_to_leave(Instant::now()), leases([0, 2, 3], 1));
        shards.sent(ShardId(0), Epoch(1));
        assert_eq!(shards.ready_to_leave(by), leases([0, 2, 3], 1), "no later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_gained_again_waits_for_what_is_out() {
        let mut shards = Shards::default();
        let life = CancellationToken::new();
        shards.gain(leases(0..2, 1));
        shards.open(&life);
        shards.sent(ShardId(0), Epoch(1));
        let cut = shards.cut(ShardId(0));
        shards.drop(&ids([0, 1]));
        assert!(cut.is_cancelled());
        shards.gain(leases(0..2, 3));
        assert_eq!(shards.open(&life), [ShardId(1)]);
        assert!(!shards.are_settled());
        shards.returned(ShardId(0), Epoch(1));
        assert_eq!(shards.open(&life), [ShardId(0)]);
        assert!(shards.are_settled());
        assert_eq!(shards.epoch(ShardId(0)), Some(Epoch(3)));
    }
}
