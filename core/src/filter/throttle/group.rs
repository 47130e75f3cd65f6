//! A group: limits, who waits for them, and in which order they go.
//!
//! Invariants: the requests of one member and direction go in the order in which they came;
//! members take turns, and so do reads and writes where both could go; nothing is taken from the
//! limits but by a request that begins. Whoever waits is dropped without a trace.

use super::bucket::Bucket;
use super::limits::{BPS_READ, BPS_TOTAL, BPS_WRITE, Checked, IOPS_READ, IOPS_TOTAL, IOPS_WRITE};
use crate::Result;
use crate::io::{Instant, Runtime};
use crate::qapi::ThrottleLimits;
use crate::sync::Mutex;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use core::fmt;
use core::ops::Bound::{Excluded, Unbounded};
use core::time::Duration;
use event_listener::Event;
use futures_util::future::select;

/// What a request does, as far as limits go. Zero writes and discards are writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

use Direction::{Read, Write};

impl Direction {
    fn other(self) -> Self {
        match self {
            Read => Write,
            Write => Read,
        }
    }
}

/// The limits that several devices share (`throttle-group`).
pub struct ThrottleGroup {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
}

struct State {
    limits: Checked,
    buckets: [Bucket; 6],
    leaked: Instant,
    members: BTreeMap<u64, Member>,
    next_member: u64,
    next_ticket: u64,
    /// Whose turn it was, for each direction.
    last: [u64; 2],
    last_direction: Direction,
}

#[derive(Default)]
struct Member {
    waiting: [VecDeque<Ticket>; 2],
    /// So many want its requests to go.
    released: usize,
}

struct Ticket {
    number: u64,
    /// Its turn may have come.
    wake: Arc<Event>,
}

impl fmt::Debug for ThrottleGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleGroup").field("limits", &self.limits()).finish_non_exhaustive()
    }
}

impl ThrottleGroup {
    /// A group with these limits.
    ///
    /// # Errors
    /// `InvalidInput` where they contradict each other or are out of bounds.
    pub fn new(limits: &ThrottleLimits, runtime: Arc<dyn Runtime>) -> Result<Arc<Self>> {
        let limits = Checked::default().with(limits)?;
        let state = State {
            limits,
            buckets: limits.rates.map(Bucket::new),
            leaked: runtime.now(),
            members: BTreeMap::new(),
            next_member: 0,
            next_ticket: 0,
            last: [0; 2],
            last_direction: Write,
        };
        Ok(Arc::new(Self { runtime, state: Mutex::new(state) }))
    }

    /// Refuses limits that no group can have.
    ///
    /// # Errors
    /// `InvalidInput`, in the words of [`new`](Self::new).
    pub fn check(limits: &ThrottleLimits) -> Result<()> {
        Checked::default().with(limits).map(drop)
    }

    /// The limits as they are; none is absent.
    #[must_use]
    pub fn limits(&self) -> ThrottleLimits {
        self.state.lock().limits.limits()
    }

    /// Changes the limits that are given, for all members at once. Bursts begin anew.
    ///
    /// # Errors
    /// `InvalidInput` where the result contradicts itself or is out of bounds; nothing has changed
    /// then.
    pub fn set_limits(&self, limits: &ThrottleLimits) -> Result<()> {
        let mut state = self.state.lock();
        state.limits = state.limits.with(limits)?;
        state.buckets = state.limits.rates.map(Bucket::new);
        state.leaked = self.runtime.now();
        state.wake_next();
        Ok(())
    }

    /// How many devices share the limits.
    #[must_use]
    pub fn members(&self) -> usize {
        self.state.lock().members.len()
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.members.values().flat_map(|member| &member.waiting).map(VecDeque::len).sum()
    }

    pub(super) fn join(&self) -> u64 {
        let mut state = self.state.lock();
        let id = state.next_member;
        state.next_member += 1;
        state.members.insert(id, Member::default());
        id
    }

    pub(super) fn leave(&self, member: u64) {
        self.state.lock().members.remove(&member);
    }

    /// One more or one fewer wants the requests of `member` to go.
    pub(super) fn release(&self, member: u64, release: bool) {
        let mut state = self.state.lock();
        let Some(member) = state.members.get_mut(&member) else { return };
        if !release {
            member.released = member.released.saturating_sub(1);
            return;
        }
        member.released += 1;
        for ticket in member.waiting.iter().flatten() {
            ticket.wake.notify(usize::MAX);
        }
    }

    /// Waits until a request of `len` bytes may begin, and takes it from the limits.
    pub(super) async fn admit(&self, member: u64, direction: Direction, len: u64) {
        let (number, wake) = {
            let mut state = self.state.lock();
            state.leak(self.runtime.now());
            if state.is_idle(member, direction) {
                state.pour(direction, len);
                return;
            }
            state.queue(member, direction)
        };
        // Takes the ticket away, whether the request begins or is given up.
        let ticket = Waiting { group: self, member, direction, number };
        loop {
            // Listening begins before looking: what changes in between wakes it.
            let woken = wake.listen();
            let wait = {
                let mut state = self.state.lock();
                state.leak(self.runtime.now());
                let wait = state.wait(member, direction, number);
                if wait == Some(Duration::ZERO) {
                    state.pour(direction, len);
                    state.last[direction as usize] = member;
                    state.last_direction = direction;
                    break;
                }
                wait
            };
            match wait {
                None => woken.await,
                Some(time) => {
                    select(self.runtime.sleep(time), woken).await;
                }
            }
        }
        drop(ticket);
    }
}

impl State {
    fn leak(&mut self, now: Instant) {
        let time = now.0.saturating_sub(self.leaked.0);
        self.buckets.iter_mut().for_each(|bucket| bucket.leak(time));
        self.leaked = now;
    }

    fn pour(&mut self, direction: Direction, len: u64) {
        let bytes = len as f64;
        let size = self.limits.iops_size;
        let operations = if size > 0 && len > size { bytes / size as f64 } else { 1.0 };
        let [bps, iops] = match direction {
            Read => [BPS_READ, IOPS_READ],
            Write => [BPS_WRITE, IOPS_WRITE],
        };
        for index in [BPS_TOTAL, bps] {
            self.buckets[index].pour(bytes);
        }
        for index in [IOPS_TOTAL, iops] {
            self.buckets[index].pour(operations);
        }
    }

    /// How long the next request of `direction` has to wait for the limits.
    fn limit(&self, direction: Direction) -> Duration {
        let indices = match direction {
            Read => [BPS_TOTAL, BPS_READ, IOPS_TOTAL, IOPS_READ],
            Write => [BPS_TOTAL, BPS_WRITE, IOPS_TOTAL, IOPS_WRITE],
        };
        indices.map(|index| self.buckets[index].wait()).into_iter().max().unwrap_or_default()
    }

    /// True where a request of `member` that comes now need not wait.
    fn is_idle(&self, member: u64, direction: Direction) -> bool {
        if self.members.get(&member).is_some_and(|member| member.released > 0) {
            return true;
        }
        // Nor may it pass those of the other direction that are about to go.
        let first = |direction| self.next(direction).is_none();
        let other = direction.other();
        self.limit(direction).is_zero()
            && first(direction)
            && (first(other) || !self.limit(other).is_zero())
    }

    fn queue(&mut self, member: u64, direction: Direction) -> (u64, Arc<Event>) {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let wake = Arc::new(Event::new());
        let ticket = Ticket { number, wake: wake.clone() };
        self.members.entry(member).or_default().waiting[direction as usize].push_back(ticket);
        (number, wake)
    }

    /// The ticket whose turn it is: the first of the next member after the one that went last.
    fn next(&self, direction: Direction) -> Option<&Ticket> {
        let last = self.last[direction as usize];
        let later = self.members.range((Excluded(last), Unbounded));
        later
            .chain(self.members.range(..=last))
            .find_map(|(_, member)| member.waiting[direction as usize].front())
    }

    /// How long a ticket has to wait; `None` where others come first.
    fn wait(&self, member: u64, direction: Direction, number: u64) -> Option<Duration> {
        if self.members.get(&member).is_none_or(|member| member.released > 0) {
            return Some(Duration::ZERO);
        }
        if self.next(direction).is_none_or(|ticket| ticket.number != number) {
            return None;
        }
        let wait = self.limit(direction);
        let other = direction.other();
        // Where both could go, the one goes that did not go last; it is awake, or will be woken.
        if wait.is_zero()
            && self.last_direction == direction
            && let Some(ticket) = self.next(other)
            && self.limit(other).is_zero()
        {
            ticket.wake.notify(usize::MAX);
            return None;
        }
        Some(wait)
    }

    fn wake_next(&self) {
        for direction in [Read, Write] {
            if let Some(ticket) = self.next(direction) {
                ticket.wake.notify(usize::MAX);
            }
        }
    }
}

/// A ticket in the queue.
struct Waiting<'a> {
    group: &'a ThrottleGroup,
    member: u64,
    direction: Direction,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        if let Some(member) = state.members.get_mut(&self.member) {
            member.waiting[self.direction as usize].retain(|ticket| ticket.number != self.number);
        }
        state.wake_next();
    }
}
