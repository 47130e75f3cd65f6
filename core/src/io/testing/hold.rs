//! A device whose calls stay in flight until a test lets them land, as a kernel may take its time
//! over a request whose caller has long gone.
//!
//! Invariants, as the contract wants them: data and [hold](crate::io::Segments::hold) of a held
//! change are kept until it has landed; a change that was abandoned while it was held lands before
//! any later overlapping change begins, and before a later flush completes.

use super::call::{forward, overlaps};
use super::{Call, CallFilter, CallKind};
use crate::Result;
use crate::io::{
    BlockDevice, BoxFuture, Device, DeviceInfo, Extent, Preallocation, Runtime, Segments,
    WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use event_listener::Event;

/// Holds chosen calls of the device below in flight.
///
/// Held changes (writes, zero writes, discards, length changes) land when they are released, also
/// if their future is gone by then. Held calls of other kinds wait for their release, and vanish
/// with their future.
pub struct HoldDevice {
    inner: Device,
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
}

/// A call that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its number, for [`HoldDevice::release`].
    pub id: u64,
    /// The call.
    pub call: Call,
    /// True where its future has been dropped.
    pub abandoned: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Event,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<CallFilter>,
    next: u64,
    flights: Vec<Flight>,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    call: Call,
    /// What it may change.
    range: Range<u64>,
    released: bool,
    abandoned: bool,
    landed: bool,
    /// What the caller has not fetched yet.
    result: Option<Result<()>>,
}

impl HoldDevice {
    /// A device that holds nothing yet. `runtime` runs what lands after it was abandoned.
    #[must_use]
    pub fn new(inner: Device, runtime: Arc<dyn Runtime>) -> Self {
        Self { inner, runtime, shared: Arc::default() }
    }

    /// Holds all later calls that `calls` chooses.
    pub fn hold(&self, calls: CallFilter) {
        self.shared.state.lock().rules.push(calls);
    }

    /// Holds no further calls. Those held stay so.
    pub fn pass(&self) {
        self.shared.state.lock().rules.clear();
    }

    /// The calls that wait for their release, in the order in which they were made.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let state = self.shared.state.lock();
        state
            .flights
            .iter()
            .filter(|f| !f.released)
            .map(|f| Held { id: f.id, call: f.call, abandoned: f.abandoned })
            .collect()
    }

    /// Lets a held call go on. False where no such call is held.
    pub fn release(&self, id: u64) -> bool {
        let found = {
            let mut state = self.shared.state.lock();
            let flight = state.flights.iter_mut().find(|f| f.id == id && !f.released);
            flight.map(|f| f.released = true).is_some()
        };
        self.shared.changed.notify(usize::MAX);
        found
    }

    /// Lets all held calls go on, and returns how many there were.
    pub fn release_all(&self) -> usize {
        let mut count = 0;
        for flight in &mut self.shared.state.lock().flights {
            count += usize::from(!flight.released);
            flight.released = true;
        }
        self.shared.changed.notify(usize::MAX);
        count
    }

    /// Waits until everything that was released has landed.
    pub async fn landed(&self) {
        self.shared
            .when(|state| {
                state
                    .flights
                    .iter()
                    .all(|f| !f.released || f.landed || f.range.is_empty())
                    .then_some(())
            })
            .await;
    }

    fn change(
        &self,
        call: Call,
        range: Range<u64>,
        effect: impl FnOnce(Device) -> BoxFuture<'static, Result<()>> + Send + 'static,
    ) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let inner = self.inner.clone();
            let (before, guard) = {
                let mut state = self.shared.state.lock();
                let before = state.abandoned(&range);
                (before, state.begin(call, range, &self.shared))
            };
            let Some(guard) = guard else {
                self.shared.settled(before).await;
                return effect(inner).await;
            };
            let (shared, id) = (self.shared.clone(), guard.id);
            self.runtime.spawn(Box::pin(async move {
                shared.released(id).await;
                shared.settled(before).await;
                let result = effect(inner).await;
                shared.land(id, result);
            }));
            self.shared.when(|state| state.flight(id)?.result.take()).await
        })
    }

    /// Waits where `call` is to be held; the guard takes it off the list of held calls.
    async fn gate(&self, call: Call) {
        let guard = self.shared.state.lock().begin(call, 0..0, &self.shared);
        if let Some(guard) = guard {
            self.shared.released(guard.id).await;
        }
    }
}

impl Shared {
    /// Waits until `ready` has an answer.
    async fn when<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let listener = self.changed.listen();
            let answer = ready(&mut self.state.lock());
            match answer {
                Some(answer) => return answer,
                None => listener.await,
            }
        }
    }

    async fn released(&self, id: u64) {
        self.when(|state| state.flight(id).is_none_or(|f| f.released).then_some(())).await;
    }

    async fn settled(&self, flights: Vec<u64>) {
        self.when(|state| {
            flights.iter().all(|id| state.flight(*id).is_none_or(|f| f.landed)).then_some(())
        })
        .await;
    }

    /// Keeps the result for the caller, if there still is one.
    fn land(&self, id: u64, result: Result<()>) {
        if let Some(flight) = self.state.lock().flight(id) {
            flight.landed = true;
            flight.result = Some(result);
        }
        self.forget(|f| f.abandoned && f.landed);
    }

    fn forget(&self, which: impl Fn(&Flight) -> bool) {
        self.state.lock().flights.retain(|f| !which(f));
        self.changed.notify(usize::MAX);
    }
}

impl State {
    fn flight(&mut self, id: u64) -> Option<&mut Flight> {
        self.flights.iter_mut().find(|f| f.id == id)
    }

    /// The abandoned changes that concern `range` and have not landed.
    fn abandoned(&self, range: &Range<u64>) -> Vec<u64> {
        let concerned = |f: &&Flight| f.abandoned && overlaps(&f.range, range);
        self.flights.iter().filter(concerned).map(|f| f.id).collect()
    }

    /// Enters the call among the flights, where a rule wants it held.
    fn begin(&mut self, call: Call, range: Range<u64>, shared: &Arc<Shared>) -> Option<InFlight> {
        if !self.rules.iter().any(|rule| rule.matches(&call)) {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let flight = Flight {
            id,
            call,
            range,
            released: false,
            abandoned: false,
            landed: false,
            result: None,
        };
        self.flights.push(flight);
        Some(InFlight { id, shared: shared.clone() })
    }
}

/// The caller's end of a held call.
struct InFlight {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(flight) = self.shared.state.lock().flight(self.id) {
            flight.abandoned = true;
        }
        // Only a change that has not landed outlives its caller.
        self.shared.forget(|f| f.id == self.id && (f.range.is_empty() || f.landed));
    }
}

impl fmt::Debug for HoldDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldDevice")
            .field("inner", &self.inner)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl BlockDevice for HoldDevice {
    forward!(len limits capabilities);

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            self.gate(Call::new(CallKind::Read, offset, len)).await;
            self.inner.read(offset, len).await
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::Write, offset, data.len());
        self.change(call, offset..offset.saturating_add(data.len()), move |inner| {
            Box::pin(async move { inner.write(offset, data, flags).await })
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::WriteZeroes, offset, len);
        self.change(call, offset..offset.saturating_add(len), move |inner| {
            Box::pin(async move { inner.write_zeroes(offset, len, flags).await })
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::Discard, offset, len);
        self.change(call, offset..offset.saturating_add(len), move |inner| {
            Box::pin(async move { inner.discard(offset, len).await })
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let before = self.shared.state.lock().abandoned(&(0..u64::MAX));
            self.gate(Call::new(CallKind::Flush, 0, 0)).await;
            self.shared.settled(before).await;
            self.inner.flush().await
        })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        let from = len.min(self.len());
        self.change(Call::new(CallKind::SetLen, len, 0), from..u64::MAX, move |inner| {
            Box::pin(async move { inner.set_len(len, preallocation).await })
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.gate(Call::new(CallKind::Extents, offset, len)).await;
            self.inner.extents(offset, len).await
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            self.gate(Call::new(CallKind::Info, 0, 0)).await;
            self.inner.info().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CallKinds, SimRuntime, abandon_at};
    use super::*;
    use crate::io::{Hold, MemoryDevice};
    use alloc::vec;
    use futures_util::future::join;
    use futures_util::poll;

    struct World {
        sim: SimRuntime,
        memory: Arc<MemoryDevice>,
        device: HoldDevice,
    }

    fn world() -> World {
        let sim = SimRuntime::new(1);
        let memory = Arc::new(MemoryDevice::with_data(&[0; 8]));
        let device = HoldDevice::new(memory.clone(), sim.handle());
        World { sim, memory, device }
    }

    impl World {
        fn write(&self, offset: u64, len: usize, byte: u8) -> BoxFuture<'_, Result<()>> {
            self.device.write(offset, vec![byte; len].into(), WriteFlags::empty())
        }

        fn hold(&self, kinds: CallKinds) {
            self.device.hold(CallFilter::of(kinds));
        }

        /// Holds one write and drops its future.
        async fn abandon(&self, offset: u64, len: usize, byte: u8) {
            self.hold(CallKinds::WRITE);
            assert_eq!(abandon_at(self.write(offset, len, byte), 1).await.map(|_| ()), None);
            self.device.pass();
        }
    }

    #[test]
    fn a_held_write_lands_when_it_is_released() {
        let w = world();
        w.sim.clone().block_on(async {
            w.hold(CallKinds::WRITE);
            let mut write = w.write(0, 4, 1);
            assert!(poll!(&mut write).is_pending());
            w.device.pass();
            assert!(w.write(6, 2, 2).await.is_ok());
            let held = w.device.held();
            assert_eq!(held.len(), 1);
            assert_eq!(held[0].call, Call::new(CallKind::Write, 0, 4));
            assert!(!held[0].abandoned && !w.device.release(held[0].id + 1));
            assert_eq!(w.memory.to_vec(), [0, 0, 0, 0, 0, 0, 2, 2]);
            assert!(w.device.release(held[0].id) && !w.device.release(held[0].id));
            assert!(write.await.is_ok());
            assert_eq!(w.memory.to_vec(), [1, 1, 1, 1, 0, 0, 2, 2]);
            assert!(w.device.held().is_empty());
        });
        assert_eq!(w.sim.unfinished(), 0);
    }

    #[test]
    fn an_abandoned_write_lands_before_what_overlaps_it() {
        for later in 0..3 {
            let w = world();
            w.sim.clone().block_on(async {
                w.abandon(0, 6, 1).await;
                assert!(w.device.held()[0].abandoned);
                let mut change = match later {
                    0 => w.write(4, 4, 2),
                    1 => w.device.write_zeroes(4, 4, ZeroFlags::empty()),
                    _ => w.device.set_len(4, Preallocation::Off),
                };
                assert!(poll!(&mut change).is_pending(), "it overtakes an abandoned write");
                assert!(w.write(7, 1, 3).await.is_ok(), "no need to wait elsewhere");
                assert_eq!(w.memory.to_vec(), [0, 0, 0, 0, 0, 0, 0, 3]);
                assert_eq!(w.device.release_all(), 1);
                assert!(change.await.is_ok());
                let want: &[u8] = match later {
                    0 => &[1, 1, 1, 1, 2, 2, 2, 2],
                    1 => &[1, 1, 1, 1, 0, 0, 0, 0],
                    _ => &[1, 1, 1, 1],
                };
                assert_eq!(w.memory.to_vec(), want);
            });
        }
    }

    #[test]
    fn a_flush_waits_for_what_was_abandoned_before_it() {
        let w = world();
        w.sim.clone().block_on(async {
            w.abandon(0, 2, 1).await;
            let mut flush = w.device.flush();
            assert!(poll!(&mut flush).is_pending());
            // Abandoned after the flush began: none of its business.
            w.abandon(4, 2, 1).await;
            let first = w.device.held()[0].id;
            w.device.release(first);
            assert!(flush.await.is_ok());
            assert_eq!(w.memory.to_vec(), [1, 1, 0, 0, 0, 0, 0, 0]);
            w.device.release_all();
            w.device.landed().await;
            assert_eq!(w.memory.to_vec(), [1, 1, 0, 0, 1, 1, 0, 0]);
        });
    }

    #[test]
    fn the_hold_of_the_data_is_kept_until_the_write_has_landed() {
        let w = world();
        w.sim.clone().block_on(async {
            w.hold(CallKinds::WRITE);
            let hold: Hold = Arc::new(());
            let weak = Arc::downgrade(&hold);
            let mut data = Segments::from(vec![1; 4]);
            data.hold(hold);
            assert!(abandon_at(w.device.write(0, data, WriteFlags::empty()), 1).await.is_none());
            w.sim.sleep(core::time::Duration::from_secs(60)).await;
            assert!(weak.upgrade().is_some(), "the range would be reused too early");
            w.device.release_all();
            w.device.landed().await;
            assert!(weak.upgrade().is_none(), "the range would never be reused");
            assert_eq!(w.memory.to_vec(), [1, 1, 1, 1, 0, 0, 0, 0]);
        });
        assert_eq!(w.sim.unfinished(), 0);
    }

    #[test]
    fn a_held_read_sees_what_is_there_when_it_is_released() {
        let w = world();
        w.sim.clone().block_on(async {
            w.hold(CallKinds::READ | CallKinds::EXTENTS | CallKinds::INFO | CallKinds::FLUSH);
            assert!(abandon_at(w.device.read(0, 1), 1).await.is_none());
            assert!(w.device.held().is_empty(), "an abandoned read is gone");
            let read = async { w.device.read(0, 1).await.map(|data| data.to_vec()) };
            let (read, _) = join(read, async {
                assert!(w.write(0, 1, 9).await.is_ok());
                assert_eq!(w.device.release_all(), 1);
            })
            .await;
            assert_eq!(read.expect("in range"), [9]);
            for mut call in [
                Box::pin(async { w.device.extents(0, 1).await.map(|_| ()) }) as BoxFuture<'_, _>,
                Box::pin(async { w.device.info().await.map(|_| ()) }),
                w.device.flush(),
            ] {
                assert!(poll!(&mut call).is_pending());
                assert_eq!(w.device.release_all(), 1);
                assert!(call.await.is_ok());
            }
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_flush_behind_a_write_that_is_never_released_is_a_deadlock() {
        let w = world();
        w.sim.clone().block_on(async {
            w.abandon(0, 1, 1).await;
            let _ = w.device.flush().await;
        });
    }
}
