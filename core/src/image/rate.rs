//! A limit on how fast an operation moves bytes.

use crate::io::{Instant, Runtime};
use crate::sync::Mutex;
use alloc::sync::Arc;
use core::time::Duration;

/// Lets so many bytes pass in a second; without a limit, all of them.
pub(super) struct RateLimit {
    runtime: Arc<dyn Runtime>,
    /// Bytes a second; 0: no limit.
    rate: u64,
    /// When the bytes that have passed are paid for.
    paid: Mutex<Instant>,
}

impl RateLimit {
    pub(super) fn new(runtime: &Arc<dyn Runtime>, rate: u64) -> Self {
        let paid = Mutex::new(runtime.now());
        Self { runtime: runtime.clone(), rate, paid }
    }

    /// Waits as long as `len` bytes take.
    pub(super) async fn pass(&self, len: u64) {
        if self.rate == 0 {
            return;
        }
        let wait = {
            let now = self.runtime.now();
            let mut paid = self.paid.lock();
            // What was not used is lost: an idle second is no right to a burst.
            let from = (*paid).max(now);
            let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.rate);
            let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            *paid = Instant(from.0.saturating_add(cost));
            paid.0.saturating_sub(now.0)
        };
        self.runtime.sleep(wait).await;
    }
}
