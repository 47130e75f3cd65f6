//! A bounded pool of threads for work that blocks or computes.
//!
//! Threads are started when there is work and nobody idle, up to the pool's size, and end after
//! [`IDLE`] without work, so that a program that never needs them does not pay for them. Jobs
//! start in the order they came. The pool knows no async runtime: jobs report back by whatever
//! they capture, and run to their end even when nobody waits any more.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// A pool; dropping it lets the queued jobs run and the threads end.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    size: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait on `wake`, told or not.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("size", &self.size).finish()
    }
}

impl Pool {
    /// A pool of at most `size` threads, none of which runs yet.
    pub(crate) fn new(name: &'static str, size: usize) -> Self {
        let (state, wake) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { name, size: size.max(1), state, wake }) }
    }

    /// Runs `job` on a thread of the pool, after those that were given before.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.queue.push_back(Box::new(job));
        // A thread that was woken and has not come by yet is idle still, and its job queued still.
        if state.queue.len() > state.idle && state.threads < self.shared.size {
            state.threads += 1;
            drop(state);
            self.start_thread();
        } else {
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    fn start_thread(&self) {
        let shared = self.shared.clone();
        let started =
            std::thread::Builder::new().name(shared.name.to_owned()).spawn(move || shared.work());
        if started.is_err() {
            // The host has no thread to give. Others of the pool will get to the queue; where
            // there is none, the caller's thread has to do it.
            let mut state = self.shared.lock();
            state.threads -= 1;
            while state.threads == 0 {
                let Some(job) = state.queue.pop_front() else { break };
                drop(state);
                run(job);
                state = self.shared.lock();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                run(job);
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (guard, wait) =
                self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if wait.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

/// A job that panics has lost its result, not the thread; its captured channel says so.
fn run(job: Job) {
    let _ = catch_unwind(AssertUnwindSafe(job));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn jobs_run_at_once_up_to_the_size_and_all_of_them_run() {
        let pool = Pool::new("test", 3);
        let (meet, running, most) = (
            Arc::new(Barrier::new(3)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (tell, done) = mpsc::channel();
        for i in 0..60 {
            let (meet, running, most, tell) =
                (meet.clone(), running.clone(), most.clone(), tell.clone());
            pool.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Three at a time must come together, or this would wait for ever.
                meet.wait();
                running.fetch_sub(1, Ordering::SeqCst);
                tell.send(i).unwrap();
            });
        }
        let mut seen: Vec<i32> = done.iter().take(60).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..60).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn a_panicking_job_does_not_take_its_thread_along() {
        let pool = Pool::new("test", 1);
        let (tell, done) = mpsc::channel();
        pool.run(|| std::panic::resume_unwind(Box::new("lost")));
        pool.run(move || tell.send(7).unwrap());
        assert_eq!(done.recv(), Ok(7));
    }

    #[test]
    fn jobs_given_before_the_pool_is_dropped_still_run() {
        let (tell, done) = mpsc::channel();
        let pool = Pool::new("test", 2);
        for i in 0..10 {
            let tell = tell.clone();
            pool.run(move || tell.send(i).unwrap());
        }
        drop((pool, tell));
        assert_eq!(done.iter().count(), 10);
    }
}
