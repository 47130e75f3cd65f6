//! Locks on ranges of guest bytes.

use crate::sync::Mutex;
use alloc::sync::Arc;
use alloc::vec::Vec;
use event_listener::Event;

/// Guest ranges that somebody has to himself.
#[derive(Debug, Default)]
pub(in crate::format) struct RangeLocks {
    held: Mutex<Vec<(u64, u64)>>,
    released: Event,
}

/// One held range; dropping it lets others in.
#[derive(Debug)]
pub(in crate::format) struct RangeGuard {
    locks: Arc<RangeLocks>,
    range: (u64, u64),
}

impl RangeLocks {
    /// Waits until no other holder has a part of `[start, end)`, and takes it.
    pub(in crate::format) async fn lock(self: &Arc<Self>, start: u64, end: u64) -> RangeGuard {
        loop {
            let listener = {
                let mut held = self.held.lock();
                match self.take(&mut held, start, end) {
                    Some(guard) => return guard,
                    None => self.released.listen(),
                }
            };
            listener.await;
        }
    }

    /// Takes `[start, end)` where nobody holds a part of it now.
    pub(in crate::format) fn try_lock(
        self: &Arc<Self>,
        start: u64,
        end: u64,
    ) -> Option<RangeGuard> {
        self.take(&mut self.held.lock(), start, end)
    }

    fn take(
        self: &Arc<Self>,
        held: &mut Vec<(u64, u64)>,
        start: u64,
        end: u64,
    ) -> Option<RangeGuard> {
        let free = held.iter().all(|(s, e)| *e <= start || end <= *s);
        free.then(|| {
            held.push((start, end));
            RangeGuard { locks: self.clone(), range: (start, end) }
        })
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
