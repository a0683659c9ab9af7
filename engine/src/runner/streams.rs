//! The streams of a lane. Each writes the batches of its own shards: while the database writes one stream's batch, the
//! others' are gathered, described and written too. No two batches on their way ever share a case, a subject or a
//! shard, so they need not know of one another.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::gate::Queued;
use super::look::Look;
use super::pending::Pending;
use super::port::Resource;
use crate::core::admission::OpenCase;
use crate::core::definition::Lane as Priority;
use crate::core::id::{CaseId, Epoch, Place, ShardId, Subject};
use crate::core::input::Input;
use crate::store::{StoreError, TimerRow};

/// What came back from outside the lane, or was made here.
pub(super) struct Arrival {
    pub case: CaseId,
    pub shard: ShardId,
    /// What had left, if something had.
    pub from: Option<Left>,
    pub input: Input,
}

impl Arrival {
    /// The timer that fired, if one did.
    fn timer(&self) -> Option<TimerRow> {
        let Input::TimerDue { target, due } = &self.input else {
            return None;
        };
        Some(TimerRow {
            shard: self.shard,
            due: *due,
            case: self.case,
            target: *target,
        })
    }
}

/// Something that left: the queue it came from, and under which ownership.
pub(super) struct Left {
    pub queue: String,
    pub lane: Priority,
    pub epoch: Epoch,
}

/// What waits to be decided, by lane.
#[derive(Default)]
pub(super) struct Ready {
    pub revocation: VecDeque<Arrival>,
    pub normal: VecDeque<Arrival>,
}

impl Ready {
    pub fn push(&mut self, lane: Priority, arrival: Arrival) {
        match lane {
            Priority::Revocation => self.revocation.push_back(arrival),
            Priority::Normal => self.normal.push_back(arrival),
        }
    }

    pub fn len(&self) -> usize {
        self.revocation.len() + self.normal.len()
    }

    fn has(&self, shard: ShardId) -> bool {
        let mut all = self.revocation.iter().chain(&self.normal);
        all.any(|arrival| arrival.shard == shard)
    }

    fn drop_shards(&mut self, gone: &BTreeSet<ShardId>) {
        for waiting in [&mut self.revocation, &mut self.normal] {
            waiting.retain(|arrival| !gone.contains(&arrival.shard));
        }
    }

    /// Another case of their subject starts before these.
    pub fn drop_starts(&mut self, cases: &[OpenCase]) {
        // As it nearly always is; the queues may be long.
        if cases.is_empty() {
            return;
        }
        let starts = |arrival: &Arrival| {
            matches!(arrival.input, Input::Start)
                && cases.iter().any(|case| case.id == arrival.case)
        };
        for waiting in [&mut self.revocation, &mut self.normal] {
            waiting.retain(|arrival| !starts(arrival));
        }
    }
}

/// What follows once a batch is written.
pub(super) enum Follow {
    /// A piece of work waits for its turn.
    Queue(Resource, Queued),
    Abort {
        case: CaseId,
        shard: ShardId,
        place: Place,
        attempt: u32,
    },
    Escalate {
        case: CaseId,
        shard: ShardId,
        to: Option<String>,
        reason: String,
    },
}

impl Follow {
    fn shard(&self) -> ShardId {
        match self {
            Self::Queue(_, queued) => queued.shard,
            Self::Abort { shard, .. } | Self::Escalate { shard, .. } => *shard,
        }
    }
}

/// What the next batch will write, and what follows once it is written.
#[derive(Default)]
pub(super) struct Gathered {
    pub pending: Pending,
    /// How many inputs of the normal lane it has taken.
    pub normal: usize,
    pub follows: Vec<Follow>,
    /// Subjects whose case closes with it.
    pub freed: Vec<(ShardId, Subject)>,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.follows.is_empty()
    }

    fn drop_shards(&mut self, gone: &BTreeSet<ShardId>, cases: &HashSet<CaseId>) {
        self.pending.drop_shards(gone, cases);
        self.follows
            .retain(|follow| !gone.contains(&follow.shard()));
        self.freed.retain(|(shard, _)| !gone.contains(shard));
    }
}

/// A batch on its way to the database. Dropping it gives it up, as a crash would.
pub(super) struct Writing {
    pub _task: AbortOnDropHandle<()>,
    /// Gives the shards that turned out to belong to another; all else is written.
    pub written: oneshot::Receiver<Result<BTreeSet<ShardId>, StoreError>>,
    pub timers: Vec<TimerRow>,
    /// Timers it clears.
    pub fired: Vec<TimerRow>,
    pub touched: Vec<CaseId>,
    pub follows: Vec<Follow>,
    pub freed: Vec<(ShardId, Subject)>,
}

pub(super) struct Stream {
    /// Inputs to be decided in the next batch, those of revocations apart: they go first.
    pub ready: Ready,
    pub next: Gathered,
    pub writing: Option<Writing>,
    pub inbox_empty: bool,
    pub look: Look,
    /// Subjects whose case closed: the next one may start.
    pub freed: BTreeSet<(ShardId, Subject)>,
}

impl Stream {
    fn new() -> Self {
        Self {
            ready: Ready::default(),
            next: Gathered::default(),
            writing: None,
            inbox_empty: false,
            look: Look::new(),
            freed: BTreeSet::new(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.writing.is_none()
    }

    /// Whether a batch can be sent.
    pub fn is_due(&self) -> bool {
        self.is_quiet() && !self.next.is_empty()
    }

    fn is_clogged(&self) -> bool {
        !self.is_quiet() && self.next.pending.is_full()
    }
}

pub(super) struct Streams(Vec<Stream>);

impl Streams {
    pub fn new(count: usize) -> Self {
        Self((0..count.max(1)).map(|_| Stream::new()).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn index(&self, shard: ShardId) -> usize {
        usize::try_from(shard.0).unwrap_or(0) % self.0.len()
    }

    /// The stream a shard belongs to.
    #[expect(clippy::indexing_slicing, reason = "a remainder of the length")]
    pub fn of(&mut self, shard: ShardId) -> &mut Stream {
        let index = self.index(shard);
        &mut self.0[index]
    }

    pub fn get(&mut self, index: usize) -> Option<&mut Stream> {
        self.0.get_mut(index)
    }

    /// Those of `shards` that belong to a stream.
    pub fn shards_of(&self, index: usize, shards: &[ShardId]) -> Vec<ShardId> {
        let mut shards = shards.to_vec();
        shards.retain(|shard| self.index(*shard) == index);
        shards
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter()
    }

    /// Those of which nothing is being written.
    pub fn quiet(&self) -> Vec<usize> {
        let streams = self.0.iter().enumerate();
        let quiet = streams.filter(|(_, stream)| stream.is_quiet());
        quiet.map(|(index, _)| index).collect()
    }

    pub fn are_quiet(&self) -> bool {
        self.0.iter().all(Stream::is_quiet)
    }

    /// Whether a stream can take nothing more before its batch is written.
    pub fn are_clogged(&self) -> bool {
        self.0.iter().any(Stream::is_clogged)
    }

    /// Looks into the inbox again.
    pub fn look(&mut self) {
        for stream in &mut self.0 {
            stream.inbox_empty = false;
        }
    }

    /// Looks into the inbox again, however old its messages are.
    pub fn look_at_all(&mut self) {
        for stream in &mut self.0 {
            stream.look.at_all();
        }
        self.look();
    }

    /// Looks into the inbox again, where messages may be that were taken before.
    pub fn look_anew(&mut self) {
        for stream in &mut self.0 {
            stream.look.forget();
        }
        self.look();
    }

    /// Whether nothing of the shard waits to be decided or written.
    pub fn are_done_with(&self, shard: ShardId) -> bool {
        self.0.get(self.index(shard)).is_none_or(|stream| {
            stream.is_quiet() && !stream.ready.has(shard) && !stream.next.pending.has(shard)
        })
    }

    /// All cases that are newer here than in the database.
    pub fn touched(&self) -> HashSet<CaseId> {
        let writing = self.0.iter().filter_map(|stream| stream.writing.as_ref());
        let written = writing.flat_map(|writing| writing.touched.iter().copied());
        let next = self.0.iter().flat_map(|stream| stream.next.pending.cases());
        written.chain(next).collect()
    }

    /// The timers that have fired, or are not wanted any more, and may still be in the database.
    pub fn firing(&self) -> HashSet<TimerRow> {
        let mut firing = HashSet::new();
        for stream in &self.0 {
            let ready = stream.ready.revocation.iter().chain(&stream.ready.normal);
            firing.extend(ready.filter_map(Arrival::timer));
            firing.extend(stream.next.pending.fired());
            firing.extend(stream.writing.iter().flat_map(|writing| &writing.fired));
        }
        firing
    }

    /// Leaves out all that belongs to these shards, whose cases are `cases`.
    pub fn drop_shards(&mut self, gone: &BTreeSet<ShardId>, cases: &HashSet<CaseId>) {
        for stream in &mut self.0 {
            stream.ready.drop_shards(gone);
            stream.next.drop_shards(gone, cases);
            stream.freed.retain(|(shard, _)| !gone.contains(shard));
        }
    }

    /// Waits for the first write that is finished: the stream, its batch, and the shards that were lost.
    pub async fn written(&mut self) -> (usize, Writing, Result<BTreeSet<ShardId>, StoreError>) {
        poll_fn(|context| {
            for (index, stream) in self.0.iter_mut().enumerate() {
                if let Some(writing) = &mut stream.writing
                    && let Poll::Ready(found) = Pin::new(&mut writing.written).poll(context)
                    && let Some(writing) = stream.writing.take()
                {
                    // A write that broke off has an unknown fate, as one without an answer.
                    let broke_off = || {
                        let why = "the write broke off; see the log".to_owned();
                        StoreError::Projection(why)
                    };
                    let found = found.unwrap_or_else(|_| Err(broke_off()));
                    return Poll::Ready((index, writing, found));
                }
            }
            Poll::Pending
        })
        .await
    }
}
