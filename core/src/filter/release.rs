//! Requests that a filter holds back, and their way out while somebody drains.

use core::sync::atomic::{AtomicUsize, Ordering};
use event_listener::Event;

/// Counts those who want held requests to go. A filter that holds requests waits for it beside
/// whatever it holds them for.
#[derive(Debug, Default)]
pub(super) struct Release {
    wanted: AtomicUsize,
    changed: Event,
}

impl Release {
    /// One more (`true`) or one fewer wants requests to go.
    pub(super) fn set(&self, release: bool) {
        if release {
            self.wanted.fetch_add(1, Ordering::SeqCst);
            self.changed.notify(usize::MAX);
        } else {
            // One call too many takes nothing away.
            let less = |n: usize| n.checked_sub(1);
            let _ = self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        }
    }

    /// True while requests are to go.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0
    }

    /// Waits until requests are to go.
    pub(super) async fn wanted(&self) {
        loop {
            // Listening begins before looking: what changes in between wakes it.
            let changed = self.changed.listen();
            if self.is_wanted() {
                return;
            }
            changed.await;
        }
    }
}
