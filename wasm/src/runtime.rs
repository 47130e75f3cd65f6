//! The engine's host, over the event loop.

use crate::host;
use sectora_core::io::{BoxFuture, Instant, Job, Runtime};
use send_wrapper::SendWrapper;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// One thread and its event loop: tasks are promises, and jobs run between two of its turns.
#[derive(Clone, Copy, Debug)]
struct EventLoop;

/// The runtime of everything in this module.
pub(crate) fn runtime() -> Arc<dyn Runtime> {
    Arc::new(EventLoop)
}

impl Runtime for EventLoop {
    fn now(&self) -> Instant {
        Instant(Duration::from_secs_f64(host::now().max(0.0) / 1000.0))
    }

    fn wall_clock(&self) -> Duration {
        host::wall_clock()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(SendWrapper::new(host::sleep(time)))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        wasm_bindgen_futures::spawn_local(task);
    }

    fn offload(&self, job: Job) -> BoxFuture<'static, ()> {
        // Not before it is waited for: a caller with a hundred jobs would run them all at once.
        Box::pin(SendWrapper::new(async {
            host::breathe().await;
            job();
        }))
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn random(&self, out: &mut [u8]) {
        host::random(out);
    }
}
