//! Who may use which range: writers of the same guest cluster wait for each other, and freed host
//! clusters wait for everybody who may still touch them.

pub(super) use crate::format::ranges::{RangeGuard, RangeLocks};
use crate::io::Hold;
use crate::sync::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use event_listener::Event;

/// A run of host clusters, each to lose one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// Index of the first cluster.
    pub(super) first: u64,
    /// Number of clusters.
    pub(super) count: u64,
}

impl Release {
    /// Adds the run to a list; one that follows on the last makes that longer.
    pub(super) fn join_onto(self, list: &mut Vec<Self>) {
        match list.last_mut() {
            Some(last) if last.first + last.count == self.first => last.count += self.count,
            _ => list.push(self),
        }
    }
}

/// Why host clusters are given up, which decides whether the file gives up their space too
/// (`discards`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// They are going to be used again soon, or never held anything.
    Replaced,
    /// The guest has no use for them.
    Request,
    /// A snapshot was removed or applied.
    Snapshot,
    /// The disk has become smaller.
    Shrunk,
    /// Tables and the like.
    Other,
    /// They keep their references: what is given up is what they hold for the guest clusters from
    /// this offset on, which read as zeroes now.
    Kept {
        /// Guest offset.
        guest: u64,
    },
}

/// Host clusters, and what has become of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) run: Release,
    pub(super) why: Why,
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
    /// Told when an epoch ends.
    ended: Arc<Event>,
}

#[derive(Debug)]
struct LimboState {
    epoch: Arc<Epoch>,
    pending: Vec<Left>,
    /// Oldest first. A batch is free when its epoch and all before it have ended.
    queue: VecDeque<(Weak<Epoch>, VecDeque<Left>)>,
}

/// Its reference count says how many operations of that time are under way.
#[derive(Debug)]
struct Epoch(Arc<Event>);

impl Drop for Epoch {
    fn drop(&mut self) {
        self.0.notify(usize::MAX);
    }
}

impl Limbo {
    pub(super) fn new() -> Self {
        let ended = Arc::new(Event::new());
        let epoch = Arc::new(Epoch(ended.clone()));
        let state = LimboState { epoch, pending: Vec::new(), queue: VecDeque::new() };
        Self { state: Mutex::new(state), ended }
    }

    /// Waits until every operation that is under way now has settled.
    pub(super) async fn quiesce(&self) {
        let ended = self.state.lock().end_epoch(VecDeque::new());
        drop(ended);
        loop {
            let listener = self.ended.listen();
            if self.state.lock().queue.iter().all(|(epoch, _)| epoch.strong_count() == 0) {
                return;
            }
            listener.await;
        }
    }

    /// Keeps every cluster that is in use now from being used for anything else.
    pub(super) fn hold(&self) -> Hold {
        self.state.lock().epoch.clone()
    }

    /// These lose a reference by a change that is not durable yet.
    pub(super) fn free_later(&self, why: Why, releases: impl IntoIterator<Item = Release>) {
        let mut state = self.state.lock();
        state.pending.extend(releases.into_iter().map(|run| Left { run, why }));
    }

    /// How many releases wait for a durable change; the answer goes to [`Self::durable`].
    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// The changes behind the first `count` pending releases are durable.
    pub(super) fn durable(&self, count: usize) {
        let mut state = self.state.lock();
        let batch: VecDeque<Left> = state.pending.drain(..count).collect();
        state.retire(batch);
    }

    /// These were never referenced by anything on disk; only operations may touch them.
    pub(super) fn abandon(&self, why: Why, releases: impl IntoIterator<Item = Release>) {
        let batch = releases.into_iter().map(|run| Left { run, why }).collect();
        self.state.lock().retire(batch);
    }

    /// The oldest run that nobody can touch any more. It stays until it has been
    /// [given back](Self::given_back).
    pub(super) fn settled(&self) -> Option<Left> {
        let mut state = self.state.lock();
        loop {
            let (epoch, batch) = state.queue.front()?;
            if epoch.strong_count() > 0 {
                return None;
            }
            if let Some(left) = batch.front() {
                return Some(*left);
            }
            state.queue.pop_front();
        }
    }

    /// The first `count` clusters of the run that [`settled`](Self::settled) told of have lost
    /// their reference.
    pub(super) fn given_back(&self, count: u64) {
        let mut state = self.state.lock();
        let Some((_, batch)) = state.queue.front_mut() else { return };
        let Some(Left { run, .. }) = batch.front_mut() else { return };
        if count < run.count {
            run.first += count;
            run.count -= count;
        } else {
            batch.pop_front();
        }
    }
}

/// Host clusters taken for something that is not linked yet. Dropped, they are given back once the
/// operations of their time have settled.
#[derive(Debug)]
pub(super) struct Reserved {
    limbo: Arc<Limbo>,
    /// In the order in which they will be linked.
    pub(super) releases: VecDeque<Release>,
}

impl Reserved {
    pub(super) fn new(limbo: &Arc<Limbo>) -> Self {
        Self { limbo: limbo.clone(), releases: VecDeque::new() }
    }

    /// They are linked: there is nothing to give back.
    pub(super) fn linked(mut self) {
        self.releases.clear();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.limbo.abandon(Why::Replaced, core::mem::take(&mut self.releases));
    }
}

impl LimboState {
    fn retire(&mut self, batch: VecDeque<Left>) {
        if !batch.is_empty() {
            self.end_epoch(batch);
        }
    }

    /// Lets what waits for the current epoch wait in the queue, and begins another one. Gives the
    /// old one, for the case that nobody else holds it.
    fn end_epoch(&mut self, batch: VecDeque<Left>) -> Arc<Epoch> {
        let next = Arc::new(Epoch(self.epoch.0.clone()));
        let ended = core::mem::replace(&mut self.epoch, next);
        self.queue.push_back((Arc::downgrade(&ended), batch));
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything that has settled.
    fn settled(limbo: &Limbo) -> Vec<Release> {
        let mut out = Vec::new();
        while let Some(left) = limbo.settled() {
            limbo.given_back(left.run.count);
            out.push(left.run);
        }
        out
    }

    #[test]
    fn a_batch_waits_for_operations_of_its_time_and_before() {
        let limbo = Limbo::new();
        let (a, b) = (Release { first: 1, count: 1 }, Release { first: 9, count: 2 });
        let early = limbo.hold();
        limbo.free_later(Why::Other, [a]);
        limbo.durable(limbo.pending());
        let late = limbo.hold();
        limbo.abandon(Why::Other, [b]);
        drop(late);
        assert_eq!(settled(&limbo), [], "an operation from before the first batch runs");
        drop(early);
        let after = limbo.hold();
        assert_eq!(settled(&limbo), [a, b], "later operations hold nothing up");
        drop(after);
    }

    #[test]
    fn a_run_can_be_given_back_in_parts() {
        let limbo = Limbo::new();
        limbo.abandon(Why::Request, [Release { first: 5, count: 3 }]);
        limbo.given_back(2);
        let run = Release { first: 7, count: 1 };
        assert_eq!(limbo.settled(), Some(Left { run, why: Why::Request }));
        limbo.given_back(1);
        assert_eq!(limbo.settled(), None);
    }

    #[test]
    fn a_reservation_is_given_back_unless_it_is_linked() {
        let limbo = Arc::new(Limbo::new());
        let (a, b) = (Release { first: 1, count: 1 }, Release { first: 2, count: 1 });
        let mut reserved = Reserved::new(&limbo);
        reserved.releases.extend([a, b]);
        reserved.releases.pop_front();
        drop(reserved);
        assert_eq!(settled(&limbo), [b]);
        let mut reserved = Reserved::new(&limbo);
        reserved.releases.push_back(a);
        reserved.linked();
        assert_eq!(settled(&limbo), []);
    }
}
