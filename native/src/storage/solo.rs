//! Whether requests come one at a time: direct ones on a file, any on a connection.
//!
//! A request that nobody overlaps gains nothing from a queue. On Linux 6.18 with ext4 a direct
//! write of 4 KiB into allocated blocks, one at a time, takes the ring two to four times as long as
//! a call that waits (its end is handed to a kernel thread first), and any request pays for the
//! way to another thread and back. So, once requests have been seen to come one by one, they are
//! done in place by threads that may wait (a connection's own, a command that does one thing). Now
//! and then one is not, all the same: done in place, none could ever be seen to overlap. A write goes
//! to a thread of the pool then, not to the ring.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// After so many requests one by one it is taken for a habit.
const HABIT: u32 = 16;
/// After so many they may be, as well as be the first of many.
const FEW: u32 = 2;
/// Of so many, one shows whether it still is.
const PROBE: u32 = 32;
/// The longest request that a thread waits for in place, in bytes.
pub(crate) const MAX_WAIT: u64 = 256 << 10;

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Says of this thread that it has nothing else to do while a request waits for storage.
pub(crate) fn let_thread_wait() {
    MAY_WAIT.set(true);
}

pub(crate) fn thread_may_wait() -> bool {
    MAY_WAIT.get()
}

/// What has been seen of the requests on one file or connection.
#[derive(Debug, Default)]
pub(crate) struct Solo {
    in_flight: AtomicU32,
    /// Requests that began while no other was in flight, since one did not.
    streak: AtomicU32,
}

/// A request in flight, until dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    solo: &'a Solo,
    /// Nothing else is in flight, nor was when those before it began.
    pub(crate) is_single: bool,
    /// It has all for itself, as those before it had.
    pub(crate) is_alone: bool,
}

impl Solo {
    /// A request begins.
    pub(crate) fn enter(&self) -> Turn<'_> {
        let is_first = self.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        if !is_first {
            self.streak.store(0, Ordering::Relaxed);
            return Turn { solo: self, is_single: false, is_alone: false };
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed);
        let is_alone = streak >= HABIT && !streak.is_multiple_of(PROBE);
        Turn { solo: self, is_single: streak >= FEW, is_alone }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.solo.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_habit_counts_and_one_overlap_ends_it() {
        let solo = Solo::default();
        for _ in 0..HABIT {
            assert!(!solo.enter().is_alone);
        }
        let alone = (HABIT..10 * PROBE).filter(|_| solo.enter().is_alone).count();
        assert_eq!(alone, 10 * PROBE as usize - HABIT as usize - 9, "all but the probes");
        let first = solo.enter();
        assert!(!solo.enter().is_alone);
        drop(first);
        assert!(!solo.enter().is_alone);
    }
}
