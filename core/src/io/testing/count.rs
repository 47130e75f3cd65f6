//! A device that keeps account of its calls.

use super::call::{around, forward};
use super::{Call, CallKinds};
use crate::Result;
use crate::io::{BlockDevice, BoxFuture, Device};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Counts the calls of the device below, and keeps them as a trace.
#[derive(Debug)]
pub struct CountDevice {
    inner: Device,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trace: Vec<Call>,
    in_flight: usize,
    peak: usize,
}

impl CountDevice {
    /// A device with an empty account.
    #[must_use]
    pub fn new(inner: Device) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// How many calls of these kinds were made.
    #[must_use]
    pub fn count(&self, kinds: CallKinds) -> usize {
        self.state.lock().trace.iter().filter(|call| kinds.contains(call.kind.into())).count()
    }

    /// How many bytes the calls of these kinds asked for.
    #[must_use]
    pub fn bytes(&self, kinds: CallKinds) -> u64 {
        let state = self.state.lock();
        state.trace.iter().filter(|c| kinds.contains(c.kind.into())).map(|c| c.len).sum()
    }

    /// The most calls that were in flight at the same time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.state.lock().peak
    }

    /// All calls, in the order in which they were made.
    #[must_use]
    pub fn trace(&self) -> Vec<Call> {
        self.state.lock().trace.clone()
    }

    /// Forgets the calls made so far; those in flight stay counted as such.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.trace.clear();
        state.peak = state.in_flight;
    }

    /// Compares the calls of these kinds since the last reset with `want`, one text a call as
    /// [`Call`] prints it (`read 0x0+0x200`), and forgets the trace.
    ///
    /// # Panics
    /// Where they differ; the message shows both lists.
    #[track_caller]
    pub fn assert_trace(&self, kinds: CallKinds, want: &[&str]) {
        let trace = self.trace();
        let found: Vec<String> = trace
            .iter()
            .filter(|call| kinds.contains(call.kind.into()))
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, want, "the calls differ from those expected");
        self.reset();
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        run: impl FnOnce() -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        {
            let mut state = self.state.lock();
            state.trace.push(call);
            state.in_flight += 1;
            state.peak = state.peak.max(state.in_flight);
        }
        let landing = Landing(self);
        let inner = run();
        Box::pin(async move {
            let _landing = landing;
            inner.await
        })
    }
}

/// Ends a call's time in flight when its future completes or is dropped.
struct Landing<'a>(&'a CountDevice);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
    }
}

impl BlockDevice for CountDevice {
    forward!(len limits capabilities);
    around!(read write write_zeroes discard flush set_len extents info);
}

#[cfg(test)]
mod tests {
    use super::super::{SimRuntime, YieldDevice};
    use super::*;
    use crate::io::{MemoryDevice, Segments, WriteFlags, ZeroFlags};
    use alloc::sync::Arc;
    use alloc::vec;
    use futures_util::future::join;

    #[test]
    fn calls_and_bytes_are_counted_by_kind_and_traced() {
        SimRuntime::new(1).block_on(async {
            let device = CountDevice::new(Arc::new(MemoryDevice::new(1000)));
            let data = Segments::from(vec![1; 3]);
            assert!(device.write(5, data, WriteFlags::empty()).await.is_ok());
            assert!(device.write_zeroes(0, 7, ZeroFlags::empty()).await.is_ok());
            assert!(device.read(0, 2000).await.is_err());
            assert!(device.set_len(9, Default::default()).await.is_ok());
            assert!(device.discard(1, 2).await.is_ok());
            assert!(device.flush().await.is_ok());
            assert!(device.extents(0, 3).await.is_ok());
            assert!(device.info().await.is_ok());
            assert_eq!(device.count(CallKinds::all()), 8);
            assert_eq!(device.bytes(CallKinds::CHANGES), 12);
            assert_eq!(device.count(CallKinds::READ | CallKinds::FLUSH), 2);
            let all = ["write 0x5+0x3", "write_zeroes 0x0+0x7", "read 0x0+0x7d0", "set_len 0x9"];
            let all = [&all[..], &["discard 0x1+0x2", "flush", "extents 0x0+0x3", "info"]].concat();
            device.assert_trace(CallKinds::all(), &all);
            device.assert_trace(CallKinds::all(), &[]);
        });
    }

    #[test]
    #[should_panic(expected = "the calls differ")]
    fn a_wrong_trace_is_noticed() {
        let device = CountDevice::new(Arc::new(MemoryDevice::new(0)));
        device.assert_trace(CallKinds::all(), &["flush"]);
    }

    #[test]
    fn the_peak_is_what_was_in_flight_at_once() {
        SimRuntime::new(1).block_on(async {
            let device =
                CountDevice::new(Arc::new(YieldDevice::new(Arc::new(MemoryDevice::new(9)))));
            let (a, b) = join(device.read(0, 1), device.read(1, 1)).await;
            assert!(a.is_ok() && b.is_ok());
            assert_eq!(device.peak(), 2);
            device.reset();
            drop(device.read(0, 1));
            assert!(device.read(0, 1).await.is_ok());
            assert_eq!(device.peak(), 1, "a dropped call is not in flight");
        });
    }
}
