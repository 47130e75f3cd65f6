//! What a host provides besides devices: time, tasks, CPU and randomness.

use super::BoxFuture;
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::num::NonZeroUsize;
use core::time::Duration;

/// A point of the host's monotonic clock, counted from a moment of its choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub Duration);

/// Pure CPU work that [`Runtime::offload`] runs.
pub type Job = Box<dyn FnOnce() + Send>;

/// The host. A run of the engine is a function of what the runtime and the devices answer.
pub trait Runtime: Send + Sync {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Time since the Unix epoch.
    fn wall_clock(&self) -> Duration;

    /// Completes after `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Runs `task` to its end beside the caller.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs `job` where it does not hold up I/O, and completes when it has run. A job that was
    /// given may run even if the future is dropped.
    fn offload(&self, job: Job) -> BoxFuture<'static, ()>;

    /// How many jobs or tasks really run at the same time.
    fn parallelism(&self) -> NonZeroUsize;

    /// Fills `out` with unpredictable bytes.
    fn random(&self, out: &mut [u8]);
}

/// Calls built on the trait's.
pub trait RuntimeExt: Runtime {
    /// [Offloads](Runtime::offload) a closure and hands back what it returns.
    ///
    /// # Errors
    /// `Bug` where the host lost the job (it panicked).
    fn compute<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send + 'static
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
        Self: Sized,
    {
        compute(self, work)
    }
}

impl<R: Runtime> RuntimeExt for R {}

impl dyn Runtime {
    /// [`RuntimeExt::compute`] for a trait object.
    ///
    /// # Errors
    /// `Bug` where the host lost the job (it panicked).
    pub fn compute<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send + 'static
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        compute(self, work)
    }
}

fn compute<T, F, R>(runtime: &R, work: F) -> impl Future<Output = Result<T>> + Send + 'static
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
    R: Runtime + ?Sized,
{
    let slot = Arc::new(Mutex::new(None));
    let out = slot.clone();
    let done = runtime.offload(Box::new(move || {
        let value = work();
        *out.lock() = Some(value);
    }));
    async move {
        done.await;
        let value = slot.lock().take();
        value.ok_or_else(|| Error::bug("the host lost a job it was given"))
    }
}
