//! The host as the engine sees it: tokio's clock and tasks, threads for computing, the kernel's
//! randomness.
//!
//! # Where computing goes
//!
//! [`Runtime::offload`] hands a job to a pool of as many threads as there are cores, apart from
//! tokio's workers. Measured on two shared cores, processor time per job and mean delay of a
//! timer beside it, 16 tasks that compute without pause:
//!
//! | job takes | in place | tokio task | `spawn_blocking` | **this pool** |
//! | --- | --- | --- | --- | --- |
//! | 26 µs | 26 µs, 0.3 ms late | 27 µs, 0.3 ms | 40 µs, 0.2 ms | 34 µs, 0.0 ms |
//! | 200 µs | 200 µs, 1.2 ms late | 200 µs, 1.9 ms | 214 µs, 0.2 ms | 213 µs, 0.0 ms |
//! | 1.6 ms | 1.55 ms, 9.9 ms late | 1.57 ms, 11.5 ms | 1.58 ms, 0.6 ms | 1.59 ms, 0.1 ms |
//!
//! In place (or as a tokio task) saves a few microseconds of hand-over, but holds up every I/O
//! behind the job, and in place one task that has many jobs in flight would run them one after
//! another. `spawn_blocking` starts a thread for each job in flight. The pool costs 6 to 8 µs a
//! job: work much smaller than that is better not offloaded.

pub(crate) mod pool;
pub(crate) mod spin;

use pool::Pool;
use sectora_core::io::{BoxFuture, Instant, Job, Runtime};
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The engine's host on a server.
///
/// A handle to a running tokio runtime: it does not keep it alive, and can be dropped anywhere.
#[derive(Clone, Debug)]
pub struct NativeRuntime {
    tokio: Handle,
    start: std::time::Instant,
}

impl NativeRuntime {
    /// The runtime this code runs in.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn current() -> Self {
        Self { tokio: Handle::current(), start: std::time::Instant::now() }
    }
}

/// Starts a runtime with one worker per core, runs `main` on the calling thread to its end, and
/// stops the runtime. Tasks that still run are dropped, as any future may be.
///
/// # Errors
/// Where the host has no threads or descriptors to give.
pub fn block_on<F, T>(main: impl FnOnce(NativeRuntime) -> F) -> std::io::Result<T>
where
    F: Future<Output = T>,
{
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores().get())
        .thread_name("sectora")
        .enable_all()
        .build()?;
    Ok(run(tokio, main))
}

/// As [`block_on`], with nothing to start up: all tasks run on the calling thread.
///
/// # Errors
/// Where the host has no descriptors to give.
pub fn block_on_this_thread<F, T>(main: impl FnOnce(NativeRuntime) -> F) -> std::io::Result<T>
where
    F: Future<Output = T>,
{
    Ok(run(tokio::runtime::Builder::new_current_thread().enable_all().build()?, main))
}

fn run<F: Future>(
    tokio: tokio::runtime::Runtime,
    main: impl FnOnce(NativeRuntime) -> F,
) -> F::Output {
    let host = {
        let _inside = tokio.enter();
        NativeRuntime::current()
    };
    let result = tokio.block_on(main(host));
    tokio.shutdown_background();
    result
}

fn cores() -> NonZeroUsize {
    static CORES: OnceLock<NonZeroUsize> = OnceLock::new();
    *CORES.get_or_init(|| available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// The threads that compute: one a core, for the whole process.
fn cpu() -> &'static Pool {
    static CPU: OnceLock<Pool> = OnceLock::new();
    CPU.get_or_init(|| Pool::new("sectora-cpu", cores().get()))
}

impl Runtime for NativeRuntime {
    fn now(&self) -> Instant {
        Instant(self.start.elapsed())
    }

    fn wall_clock(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let _inside = self.tokio.enter();
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // The handle detaches: the task runs on without it.
        drop(self.tokio.spawn(task));
    }

    fn offload(&self, job: Job) -> BoxFuture<'static, ()> {
        let (tell, done) = oneshot::channel();
        cpu().run(move || {
            job();
            // Nobody waits any more where the future was dropped.
            let _ = tell.send(());
        });
        Box::pin(async move {
            // An error is a job that panicked; its result is missing, which the caller notices.
            let _ = done.await;
        })
    }

    fn parallelism(&self) -> NonZeroUsize {
        cores()
    }

    fn random(&self, out: &mut [u8]) {
        fill_random(out);
    }
}

/// Fills `out` from the kernel's generator. Should that be out of reach (no system call, no
/// device), from the standard library's randomly keyed hash: unpredictable enough for the names
/// and identifiers that this is used for.
pub(crate) fn fill_random(out: &mut [u8]) {
    if getrandom::fill(out).is_ok() {
        return;
    }
    use std::hash::{BuildHasher, RandomState};
    let keys = RandomState::new();
    for (i, chunk) in out.chunks_mut(8).enumerate() {
        let word = keys.hash_one((i, std::time::Instant::now())).to_ne_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The shared handle most callers want.
impl From<NativeRuntime> for Arc<dyn Runtime> {
    fn from(runtime: NativeRuntime) -> Self {
        Arc::new(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sectora_core::ErrorKind;
    use sectora_core::io::RuntimeExt;

    #[test]
    fn a_root_future_spawns_computes_and_sleeps() {
        let sum = block_on(|host| async move {
            let (tell, told) = oneshot::channel();
            host.spawn(Box::pin(async move { tell.send(3).unwrap() }));
            let before = host.now();
            host.sleep(Duration::from_millis(2)).await;
            assert!(host.now().0 - before.0 >= Duration::from_millis(2));
            let jobs: Vec<_> = (0..20_u64).map(|i| host.compute(move || i * i)).collect();
            let mut sum = told.await.unwrap();
            for job in jobs {
                sum += job.await.unwrap();
            }
            sum
        });
        assert_eq!(sum.unwrap(), 3 + 2470);
    }

    #[test]
    fn jobs_of_one_task_run_beside_each_other() {
        if cores().get() < 2 {
            return;
        }
        block_on(|host| async move {
            let meet = Arc::new(std::sync::Barrier::new(2));
            let other = meet.clone();
            let first = host.compute(move || {
                other.wait();
            });
            let second = host.compute(move || {
                meet.wait();
            });
            first.await.unwrap();
            second.await.unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_lost_job_is_an_error_and_not_a_hang() {
        let result = block_on(|host| async move {
            host.compute(|| std::panic::resume_unwind(Box::new("lost"))).await.map(|()| 1)
        });
        assert_eq!(result.unwrap().unwrap_err().kind(), ErrorKind::Bug);
    }

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        fill_random(&mut a);
        fill_random(&mut b);
        assert_ne!(a, b);
    }
}
