//! Work that is brought to its end even when nobody waits for it any more.

use crate::Result;
use crate::io::{BoxFuture, Runtime};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};
use event_listener::Event;

/// Requests that, once begun, go on beside their callers when they are dropped. For filters that
/// change several devices: half of that would be worse than all or nothing.
pub(super) struct Settler {
    runtime: Arc<dyn Runtime>,
    abandoned: AtomicUsize,
    settled: Event,
}

impl Settler {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { runtime, abandoned: AtomicUsize::new(0), settled: Event::new() })
    }

    /// `work`, as something that may be dropped.
    pub(super) fn run(
        self: &Arc<Self>,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Settle {
        Settle { settler: self.clone(), work: Some(Box::pin(work)), begun: false }
    }

    /// Waits until all that was dropped has come to its end.
    pub(super) async fn quiet(&self) {
        loop {
            // Listening begins before looking: what ends in between wakes it.
            let settled = self.settled.listen();
            if self.abandoned.load(Ordering::SeqCst) == 0 {
                return;
            }
            settled.await;
        }
    }
}

/// A request as [`Settler::run`] gives it.
pub(super) struct Settle {
    settler: Arc<Settler>,
    work: Option<BoxFuture<'static, Result<()>>>,
    begun: bool,
}

impl Future for Settle {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.begun = true;
        let Some(work) = &mut self.work else { return Poll::Pending };
        let result = work.as_mut().poll(cx);
        if result.is_ready() {
            self.work = None;
        }
        result
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| self.begun) else { return };
        let settler = self.settler.clone();
        settler.abandoned.fetch_add(1, Ordering::SeqCst);
        self.settler.runtime.spawn(Box::pin(async move {
            // Nobody is left to be told.
            let _ = work.await;
            settler.abandoned.fetch_sub(1, Ordering::SeqCst);
            settler.settled.notify(usize::MAX);
        }));
    }
}
