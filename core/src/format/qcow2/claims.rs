//! Who may use which range: writers of the same guest cluster wait for each other, and freed host
//! clusters wait for everybody who may still touch them.

use crate::io::Hold;
use crate::sync::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use event_listener::Event;

/// Guest ranges whose mapping is being changed.
#[derive(Debug, Default)]
pub(super) struct RangeLocks {
    held: Mutex<Vec<(u64, u64)>>,
    released: Event,
}

/// One held range; dropping it lets others in.
#[derive(Debug)]
pub(super) struct RangeGuard {
    locks: Arc<RangeLocks>,
    range: (u64, u64),
}

impl RangeLocks {
    /// Waits until no other holder has a part of `[start, end)`, and takes it.
    pub(super) async fn lock(self: &Arc<Self>, start: u64, end: u64) -> RangeGuard {
        loop {
            let listener = {
                let mut held = self.held.lock();
                if held.iter().all(|(s, e)| *e <= start || end <= *s) {
                    held.push((start, end));
                    return RangeGuard { locks: self.clone(), range: (start, end) };
                }
                self.released.listen()
            };
            listener.await;
        }
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        if let Some(at) = held.iter().position(|range| *range == self.range) {
            held.swap_remove(at);
        }
        drop(held);
        self.locks.released.notify(usize::MAX);
    }
}

/// A run of host clusters, each to lose one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// Index of the first cluster.
    pub(super) first: u64,
    /// Number of clusters.
    pub(super) count: u64,
}

/// Host clusters on their way out.
///
/// A freed cluster passes two stations before it may be used again: *pending*, until the metadata
/// change that freed it is durable; *limbo*, until every operation that could still touch it has
/// settled. Operations take a [hold](Self::hold) on the current epoch when they learn an address;
/// an epoch ends with each batch that enters limbo.
#[derive(Debug)]
pub(super) struct Limbo {
    state: Mutex<LimboState>,
}

#[derive(Debug)]
struct LimboState {
    epoch: Arc<Epoch>,
    pending: Vec<Release>,
    /// Oldest first. A batch is free when its epoch and all before it have ended.
    queue: VecDeque<(Weak<Epoch>, Vec<Release>)>,
}

/// Its reference count says how many operations of that time are under way.
#[derive(Debug)]
struct Epoch;

impl Limbo {
    pub(super) fn new() -> Self {
        let state =
            LimboState { epoch: Arc::new(Epoch), pending: Vec::new(), queue: VecDeque::new() };
        Self { state: Mutex::new(state) }
    }

    /// Keeps every cluster that is in use now from being used for anything else.
    pub(super) fn hold(&self) -> Hold {
        self.state.lock().epoch.clone()
    }

    /// These lose a reference by a change that is not durable yet.
    pub(super) fn free_later(&self, releases: impl IntoIterator<Item = Release>) {
        self.state.lock().pending.extend(releases);
    }

    /// How many releases wait for a durable change; the answer goes to [`Self::durable`].
    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// The changes behind the first `count` pending releases are durable.
    pub(super) fn durable(&self, count: usize) {
        let mut state = self.state.lock();
        let batch: Vec<Release> = state.pending.drain(..count).collect();
        state.retire(batch);
    }

    /// These were never referenced by anything on disk; only operations may touch them.
    pub(super) fn abandon(&self, releases: Vec<Release>) {
        self.state.lock().retire(releases);
    }

    /// What nobody can touch any more.
    pub(super) fn settled(&self) -> Vec<Release> {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        while state.queue.front().is_some_and(|(epoch, _)| epoch.strong_count() == 0) {
            out.extend(state.queue.pop_front().into_iter().flat_map(|(_, batch)| batch));
        }
        out
    }
}

impl LimboState {
    fn retire(&mut self, batch: Vec<Release>) {
        if !batch.is_empty() {
            let ended = core::mem::replace(&mut self.epoch, Arc::new(Epoch));
            self.queue.push_back((Arc::downgrade(&ended), batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_batch_waits_for_operations_of_its_time_and_before() {
        let limbo = Limbo::new();
        let (a, b) = (Release { first: 1, count: 1 }, Release { first: 9, count: 2 });
        let early = limbo.hold();
        limbo.free_later([a]);
        limbo.durable(limbo.pending());
        let late = limbo.hold();
        limbo.abandon(vec![b]);
        drop(late);
        assert_eq!(limbo.settled(), vec![], "an operation from before the first batch runs");
        drop(early);
        let after = limbo.hold();
        assert_eq!(limbo.settled(), vec![a, b], "later operations hold nothing up");
        drop(after);
    }
}
