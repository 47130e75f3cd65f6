//! A clock that moves whenever it is looked at, so that key slots of a millisecond take the fewest
//! iterations there are: the time of a simulation stands still otherwise.

use crate::io::testing::SimRuntime;
use crate::io::{BoxFuture, Instant, Job, Runtime};
use alloc::sync::Arc;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

struct Clock {
    runtime: Arc<dyn Runtime>,
    looks: AtomicU32,
}

/// The runtime with such a clock.
pub(crate) fn with_clock(runtime: &SimRuntime) -> Arc<dyn Runtime> {
    Arc::new(Clock { runtime: runtime.handle(), looks: AtomicU32::new(0) })
}

impl Runtime for Clock {
    fn now(&self) -> Instant {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        Instant(self.runtime.now().0 + Duration::from_millis(looks.into()))
    }

    fn wall_clock(&self) -> Duration {
        self.runtime.wall_clock()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.runtime.sleep(time)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn offload(&self, job: Job) -> BoxFuture<'static, ()> {
        self.runtime.offload(job)
    }

    fn parallelism(&self) -> NonZeroUsize {
        self.runtime.parallelism()
    }

    fn random(&self, out: &mut [u8]) {
        self.runtime.random(out);
    }
}
