//! A deterministic runtime: one thread, virtual time, seeded order.
//!
//! Invariant: a run is a pure function of the seed and of what the tasks do. Which of the ready
//! tasks goes on, when an offloaded job runs and what [`Runtime::random`] answers come from the
//! seed; time stands still while any task is ready, and then jumps to the next timer.

use super::Rng;
use crate::io::{BoxFuture, Instant, Job, Runtime};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::num::NonZeroUsize;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use event_listener::Event;

/// The wall clock's reading when the virtual clock stands at zero: 2026-01-01 00:00 UTC.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// An offloaded job begins at most so much later.
const LONGEST_OFFLOAD: Duration = Duration::from_micros(200);

/// The simulator. Clones are handles to the same one.
///
/// Tasks must be woken from the thread that runs them; a task that waits for another thread
/// would be taken for a deadlock.
#[derive(Clone)]
pub struct SimRuntime {
    shared: Arc<Shared>,
}

/// One step of a run: which task was polled, and when. Task numbers count from 0 in the order in
/// which tasks were created; each [`SimRuntime::block_on`] is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Virtual time since the beginning.
    pub at: Duration,
    /// The task.
    pub task: u64,
}

struct Shared {
    state: Mutex<State>,
    /// Apart from the state, because wakers run while it is locked.
    ready: Arc<Ready>,
}

type Ready = Mutex<Vec<Arc<TaskWaker>>>;

struct State {
    now: Duration,
    order: Rng,
    random: Rng,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    current: Option<u64>,
    timers: BTreeMap<(Duration, u64), Waker>,
    next_timer: u64,
    steps: u64,
    most_steps: u64,
    trace: Option<Vec<Step>>,
    parallelism: NonZeroUsize,
}

struct Task {
    /// Absent while it is polled, and for the task of `block_on`, which the caller's stack holds.
    future: Option<BoxFuture<'static, ()>>,
    name: String,
    polls: u64,
    last_poll: Duration,
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push(self.clone());
        }
    }
}

impl SimRuntime {
    /// A simulator whose runs are a function of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let state = State {
            now: Duration::ZERO,
            order: rng.fork(),
            random: rng.fork(),
            tasks: BTreeMap::new(),
            next_task: 0,
            current: None,
            timers: BTreeMap::new(),
            next_timer: 0,
            steps: 0,
            most_steps: 100_000_000,
            trace: None,
            parallelism: NonZeroUsize::MIN.saturating_add(3),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), ready: Arc::default() }) }
    }

    /// The same simulator, which says that so many jobs run at the same time (4 if not set).
    #[must_use]
    pub fn with_parallelism(self, jobs: NonZeroUsize) -> Self {
        self.shared.state.lock().parallelism = jobs;
        self
    }

    /// The same simulator, which panics after so many polls in one
    /// [`block_on`](Self::block_on), as a sign of tasks that wake each other for ever.
    #[must_use]
    pub fn with_step_limit(self, steps: u64) -> Self {
        self.shared.state.lock().most_steps = steps;
        self
    }

    /// The same simulator, which keeps a [trace](Self::trace).
    #[must_use]
    pub fn traced(self) -> Self {
        self.shared.state.lock().trace = Some(Vec::new());
        self
    }

    /// All steps so far, where the simulator is [traced](Self::traced).
    #[must_use]
    pub fn trace(&self) -> Vec<Step> {
        self.shared.state.lock().trace.clone().unwrap_or_default()
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.state.lock().now
    }

    /// How many tasks have not come to their end.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.shared.state.lock().tasks.len()
    }

    /// This simulator as engine code takes it.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn Runtime> {
        Arc::new(self.clone())
    }

    /// [Spawns](Runtime::spawn) a task under a name, which the message of a deadlock shows.
    pub fn spawn_named(&self, name: &str, task: BoxFuture<'static, ()>) {
        let mut state = self.shared.state.lock();
        let by = match state.current {
            Some(task) => format!("{name}, spawned by task {task}"),
            None => String::from(name),
        };
        let waker = self.add(&mut state, by, Some(task));
        drop(state);
        waker.wake();
    }

    /// Runs `future`, and whatever was spawned, until `future` completes. Other tasks may remain;
    /// they go on in the next call.
    ///
    /// # Panics
    /// Where nothing is ready, no timer is set and `future` is not complete: a deadlock, listed
    /// task by task. Where the step limit is reached. Where it is called by one of its own tasks.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let (main, waker) = {
            let mut state = self.shared.state.lock();
            assert!(state.current.is_none(), "block_on is called by a task that it runs");
            state.steps = 0;
            let waker = self.add(&mut state, String::from("block_on"), None);
            (Main { runtime: self, task: waker.task }, waker)
        };
        waker.clone().wake();
        let waker = Waker::from(waker);
        loop {
            match self.next() {
                Some(next) if next.task == main.task => {
                    let result = future.as_mut().poll(&mut Context::from_waker(&waker));
                    self.shared.state.lock().current = None;
                    if let Poll::Ready(value) = result {
                        return value;
                    }
                }
                Some(next) => self.poll(next),
                None if self.advance() => {}
                None => panic!("{}", self.deadlock()),
            }
        }
    }

    /// Runs whatever was spawned until nothing is ready and no timer is set. What remains waits
    /// for something that only the caller can do.
    pub fn run_until_idle(&self) {
        let mut steps = 0;
        loop {
            match self.next() {
                Some(next) => self.poll(next),
                None if self.advance() => {}
                None => return,
            }
            steps += 1;
            assert!(steps < self.shared.state.lock().most_steps, "tasks never come to rest");
        }
    }

    fn add(
        &self,
        state: &mut State,
        name: String,
        future: Option<BoxFuture<'static, ()>>,
    ) -> Arc<TaskWaker> {
        let task = state.next_task;
        state.next_task += 1;
        let waker = Arc::new(TaskWaker {
            task,
            queued: AtomicBool::new(false),
            ready: self.shared.ready.clone(),
        });
        let entry = Task { future, name, polls: 0, last_poll: state.now };
        state.tasks.insert(task, entry);
        waker
    }

    /// Takes one of the ready tasks, by the seed, and makes it the current one.
    fn next(&self) -> Option<Arc<TaskWaker>> {
        let mut state = self.shared.state.lock();
        loop {
            let next = {
                let mut ready = self.shared.ready.lock();
                match ready.len() {
                    0 => return None,
                    len => ready.swap_remove(state.order.index(len)),
                }
            };
            next.queued.store(false, Ordering::Relaxed);
            let now = state.now;
            // A waker may outlive its task.
            let Some(task) = state.tasks.get_mut(&next.task) else { continue };
            task.polls += 1;
            task.last_poll = now;
            state.current = Some(next.task);
            state.steps += 1;
            if let Some(trace) = &mut state.trace {
                trace.push(Step { at: now, task: next.task });
            }
            assert!(
                state.steps <= state.most_steps,
                "no end after {} polls at {now:?}; the last was of task {}",
                state.most_steps,
                next.task
            );
            return Some(next);
        }
    }

    fn poll(&self, next: Arc<TaskWaker>) {
        let future = {
            let mut state = self.shared.state.lock();
            state.tasks.get_mut(&next.task).and_then(|task| task.future.take())
        };
        let mut finished = true;
        let mut rest = None;
        if let Some(mut future) = future {
            let waker = Waker::from(next.clone());
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                finished = false;
                rest = Some(future);
            }
        }
        let mut state = self.shared.state.lock();
        state.current = None;
        if finished {
            state.tasks.remove(&next.task);
        } else if let Some(task) = state.tasks.get_mut(&next.task) {
            task.future = rest;
        }
    }

    /// Moves time to the next timer and wakes all that are due. False where there is none.
    fn advance(&self) -> bool {
        let due: Vec<Waker> = {
            let mut state = self.shared.state.lock();
            let Some((&(deadline, _), _)) = state.timers.first_key_value() else { return false };
            state.now = deadline;
            let later = state.timers.split_off(&(deadline, u64::MAX));
            core::mem::replace(&mut state.timers, later).into_values().collect()
        };
        due.into_iter().for_each(Waker::wake);
        true
    }

    fn deadlock(&self) -> String {
        let state = self.shared.state.lock();
        let mut text =
            format!("deadlock at {:?}: nothing is ready and no timer is set; waiting:", state.now);
        for (number, task) in &state.tasks {
            let Task { name, polls, last_poll, .. } = task;
            // Writing into a string does not fail.
            let _ = write!(
                text,
                "\n  task {number} ({name}): polled {polls} times, last at {last_poll:?}"
            );
        }
        text
    }

    fn sleep_until(&self, deadline: Duration) -> Sleep {
        Sleep { runtime: self.clone(), deadline, timer: None }
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

/// The task of a `block_on`, which ends with the call, also by a panic.
struct Main<'a> {
    runtime: &'a SimRuntime,
    task: u64,
}

impl Drop for Main<'_> {
    fn drop(&mut self) {
        let mut state = self.runtime.shared.state.lock();
        state.current = None;
        state.tasks.remove(&self.task);
    }
}

/// A timer. Dropping it takes it off the clock, so that an abandoned wait does not move time.
struct Sleep {
    runtime: SimRuntime,
    deadline: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let runtime = self.runtime.clone();
        let mut state = runtime.shared.state.lock();
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let timer = *self.timer.get_or_insert_with(|| {
            state.next_timer += 1;
            (deadline, state.next_timer)
        });
        let replaced = state.timers.insert(timer, cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let removed = self.runtime.shared.state.lock().timers.remove(&timer);
            drop(removed);
        }
    }
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        Instant(self.elapsed())
    }

    fn wall_clock(&self) -> Duration {
        EPOCH + self.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.sleep_until(self.elapsed().saturating_add(time)))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.spawn_named("spawned", task);
    }

    fn offload(&self, job: Job) -> BoxFuture<'static, ()> {
        let delay = {
            let mut state = self.shared.state.lock();
            Duration::from_nanos(state.order.below(LONGEST_OFFLOAD.as_nanos() as u64))
        };
        let done = Arc::new((AtomicBool::new(false), Event::new()));
        let waiting = done.clone();
        let begin = self.sleep_until(self.elapsed().saturating_add(delay));
        let task = async move {
            begin.await;
            job();
            done.0.store(true, Ordering::Relaxed);
            done.1.notify(usize::MAX);
        };
        self.spawn_named("offloaded job", Box::pin(task));
        Box::pin(async move {
            while !waiting.0.load(Ordering::Relaxed) {
                let listener = waiting.1.listen();
                if !waiting.0.load(Ordering::Relaxed) {
                    listener.await;
                }
            }
        })
    }

    fn parallelism(&self) -> NonZeroUsize {
        self.shared.state.lock().parallelism
    }

    fn random(&self, out: &mut [u8]) {
        self.shared.state.lock().random.fill(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DelayDevice, YieldDevice, yield_now};
    use super::*;
    use crate::io::{BlockDevice, Device, MemoryDevice, RuntimeExt, WriteFlags};
    use alloc::vec;
    use futures_util::StreamExt as _;
    use futures_util::future::join_all;
    use futures_util::stream::FuturesUnordered;

    /// Tasks, timers, jobs, random bytes and devices, all mixed; returns everything observable.
    fn scenario(seed: u64) -> (Vec<Step>, Vec<u64>) {
        let sim = SimRuntime::new(seed).traced();
        let log = Arc::new(Mutex::new(Vec::new()));
        let memory: Device = Arc::new(MemoryDevice::new(1 << 16));
        let slow: Device =
            Arc::new(DelayDevice::new(memory, sim.handle(), Duration::from_millis(3), seed));
        let device = Arc::new(YieldDevice::new(slow));
        for task in 0..6u64 {
            let (log, device, runtime) = (log.clone(), device.clone(), sim.clone());
            sim.spawn(Box::pin(async move {
                for round in 0..4 {
                    let data = vec![task as u8 + 1; 64];
                    let write = device.write(64 * round, data.into(), WriteFlags::empty());
                    write.await.expect("memory takes every write");
                    runtime.sleep(Duration::from_micros(10 * task)).await;
                    log.lock().push(task * 10 + round);
                }
            }));
        }
        sim.block_on(async {
            let mut jobs: FuturesUnordered<_> =
                (0..5u64).map(|n| sim.compute(move || n * n)).collect();
            while let Some(square) = jobs.next().await {
                log.lock().push(1000 + square.expect("the job ran"));
            }
            let mut bytes = [0; 8];
            sim.random(&mut bytes);
            log.lock().push(u64::from_le_bytes(bytes));
        });
        sim.run_until_idle();
        assert_eq!(sim.unfinished(), 0);
        let data = sim.block_on(device.read(0, 256)).expect("in range").to_vec();
        let mut seen = log.lock().clone();
        seen.extend(data.into_iter().map(u64::from));
        (sim.trace(), seen)
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let runs: Vec<_> = (0..8).map(scenario).collect();
        for (seed, run) in (0..8).zip(&runs) {
            assert_eq!(*run, scenario(seed), "seed {seed}");
        }
        assert!(runs.windows(2).any(|w| w[0].0 != w[1].0), "the seed decides nothing");
        assert!(runs.windows(2).any(|w| w[0].1 != w[1].1), "the seed decides nothing");
    }

    #[test]
    fn time_jumps_to_the_next_timer_and_no_further() {
        let sim = SimRuntime::new(1);
        let day = Duration::from_secs(86_400);
        let order = Mutex::new(Vec::new());
        sim.block_on(join_all([3, 1, 2].map(|days| {
            let (sim, order) = (&sim, &order);
            async move {
                sim.sleep(day * days).await;
                order.lock().push(days);
            }
        })));
        assert_eq!(*order.lock(), [1, 2, 3]);
        assert_eq!((sim.elapsed(), sim.now()), (day * 3, Instant(day * 3)));
        assert_eq!(sim.wall_clock(), EPOCH + day * 3);
        // An abandoned wait leaves no trace on the clock.
        sim.block_on(async {
            let mut long = sim.sleep(day * 100);
            assert!(futures_util::poll!(&mut long).is_pending());
            drop(long);
            sim.sleep(day).await;
            sim.sleep(Duration::ZERO).await;
        });
        sim.run_until_idle();
        assert_eq!(sim.elapsed(), day * 4);
    }

    #[test]
    fn every_ready_task_comes_first_for_some_seed() {
        let first = |seed| {
            let sim = SimRuntime::new(seed);
            let log = Arc::new(Mutex::new(Vec::new()));
            for n in 0..4 {
                let log = log.clone();
                sim.spawn(Box::pin(async move { log.lock().push(n) }));
            }
            sim.run_until_idle();
            log.lock().first().copied()
        };
        let seen: alloc::collections::BTreeSet<Option<i32>> = (0..64).map(first).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_job_runs_later_and_even_if_its_future_is_dropped() {
        let sim = SimRuntime::new(1);
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        drop(sim.offload(Box::new(move || flag.store(true, Ordering::Relaxed))));
        assert!(!ran.load(Ordering::Relaxed));
        sim.run_until_idle();
        assert!(ran.load(Ordering::Relaxed));
        assert_eq!(sim.block_on(sim.compute(|| 7)).expect("it ran"), 7);
        assert_eq!(sim.with_parallelism(NonZeroUsize::MIN).parallelism(), NonZeroUsize::MIN);
    }

    #[test]
    #[should_panic(expected = "task 1 (stuck, spawned by task 0): polled 1 times, last at 5ms")]
    fn a_deadlock_is_listed() {
        let sim = SimRuntime::new(1);
        sim.block_on(async {
            sim.sleep(Duration::from_millis(5)).await;
            sim.spawn_named("stuck", Box::pin(core::future::pending()));
            core::future::pending::<()>().await;
        });
    }

    #[test]
    #[should_panic(expected = "no end after 1000 polls")]
    fn a_livelock_is_noticed() {
        SimRuntime::new(1).with_step_limit(1000).block_on(async {
            loop {
                yield_now().await;
            }
        });
    }

    #[test]
    #[should_panic(expected = "called by a task")]
    fn a_nested_run_is_refused() {
        let sim = SimRuntime::new(1);
        sim.block_on(async { sim.block_on(async {}) });
    }

    #[test]
    fn a_task_that_remains_goes_on_in_the_next_run() {
        let sim = SimRuntime::new(1);
        let done = Arc::new(AtomicBool::new(false));
        let (flag, runtime) = (done.clone(), sim.clone());
        sim.spawn(Box::pin(async move {
            runtime.sleep(Duration::from_secs(1)).await;
            flag.store(true, Ordering::Relaxed);
        }));
        sim.block_on(async {});
        assert_eq!((sim.unfinished(), done.load(Ordering::Relaxed)), (1, false));
        sim.block_on(sim.sleep(Duration::from_secs(2)));
        assert_eq!((sim.unfinished(), done.load(Ordering::Relaxed)), (0, true));
    }
}
