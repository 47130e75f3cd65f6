//! A device whose calls fail where a test says so.
//!
//! Invariant, as the contract wants it: after a failed flush all later flushes fail.

use super::call::{around, forward};
use super::{Call, CallFilter, CallKind};
use crate::io::{BlockDevice, BoxFuture, Device, Segments, WriteFlags, ZeroFlags};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;

/// How much of a failing call takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// None: the inner call is not made.
    #[default]
    None,
    /// The first half of a write or zero write, as when the space ends midway; other calls have
    /// none.
    Half,
    /// All of it; only the answer is lost.
    Whole,
}

/// Which calls fail, and how.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: ErrorKind,
    calls: CallFilter,
    first: u64,
    count: u64,
    effect: Effect,
}

impl Fault {
    /// Every call fails with an error of `kind`, without effect.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind, calls: CallFilter::any(), first: 0, count: u64::MAX, effect: Effect::None }
    }

    /// Only these calls are concerned.
    #[must_use]
    pub fn on(mut self, calls: CallFilter) -> Self {
        self.calls = calls;
        self
    }

    /// Of the calls concerned only one fails: the one that has `n` of them before it.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        (self.first, self.count) = (n, 1);
        self
    }

    /// The calls concerned succeed `n` times, and fail from then on.
    #[must_use]
    pub fn after(mut self, n: u64) -> Self {
        (self.first, self.count) = (n, u64::MAX);
        self
    }

    /// What happens below all the same.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }
}

/// Fails calls of the device below by rule, and counts them.
#[derive(Debug)]
pub struct FaultDevice {
    inner: Device,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<(Fault, u64)>,
    calls: u64,
    failed: u64,
    flush_failed: Option<ErrorKind>,
}

impl FaultDevice {
    /// A device that fails nothing yet.
    #[must_use]
    pub fn new(inner: Device) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Adds a rule, which counts calls from now on. The first rule that wants a call to fail
    /// decides how.
    pub fn add(&self, fault: Fault) {
        self.state.lock().rules.push((fault, 0));
    }

    /// Removes all rules. A failed flush stays failed.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// How many calls were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// How many calls a rule made fail.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state.lock().failed
    }

    /// Counts the call and says whether it fails.
    fn judge(&self, call: &Call) -> Option<(Effect, Error)> {
        let mut state = self.state.lock();
        state.calls += 1;
        let mut verdict = None;
        for (fault, seen) in &mut state.rules {
            if fault.calls.matches(call) {
                let failing = *seen >= fault.first && *seen - fault.first < fault.count;
                *seen += 1;
                if failing && verdict.is_none() {
                    verdict = Some((fault.effect, fault.kind));
                }
            }
        }
        if let Some((_, kind)) = verdict {
            state.failed += 1;
            if call.kind == CallKind::Flush {
                state.flush_failed.get_or_insert(kind);
            }
        } else if call.kind == CallKind::Flush {
            verdict = state.flush_failed.map(|kind| (Effect::None, kind));
        }
        verdict.map(|(effect, kind)| (effect, Error::new(kind, format!("injected: {call} fails"))))
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        run: impl FnOnce() -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        match self.judge(&call) {
            None => run(),
            Some((Effect::Whole, error)) => {
                let inner = run();
                Box::pin(async move { inner.await.and(Err(error)) })
            }
            Some((_, error)) => Box::pin(ready(Err(error))),
        }
    }

    /// Like [`around`](Self::around) for a call of which a part can take effect.
    fn around_part<'a>(
        &'a self,
        call: Call,
        run: impl FnOnce(u64) -> BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        let align = u64::from(self.inner.limits().request_alignment);
        match self.judge(&call) {
            None => run(call.len),
            Some((Effect::None, error)) => Box::pin(ready(Err(error))),
            Some((effect, error)) => {
                let half = call.len / 2 / align * align;
                let inner = run(if effect == Effect::Half { half } else { call.len });
                Box::pin(async move { inner.await.and(Err(error)) })
            }
        }
    }
}

impl BlockDevice for FaultDevice {
    forward!(len limits capabilities);
    around!(read discard flush set_len extents info);

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::Write, offset, data.len());
        self.around_part(call, move |len| self.inner.write(offset, data.slice(0, len), flags))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::WriteZeroes, offset, len);
        self.around_part(call, move |len| self.inner.write_zeroes(offset, len, flags))
    }
}

/// Runs `test` over and over, each time on a fresh device whose next call fails by `fault` (of
/// those it concerns: first call 0, then call 1 …), until in a run no call failed. Returns how
/// many runs had a failure: the number of calls the test makes.
///
/// `make` gives the fresh device below; `test` also gets the number of the failing call.
pub async fn fail_each_call(
    fault: Fault,
    mut make: impl AsyncFnMut() -> Device,
    mut test: impl AsyncFnMut(Arc<FaultDevice>, u64),
) -> u64 {
    let mut n = 0;
    loop {
        let device = Arc::new(FaultDevice::new(make().await));
        device.add(fault.clone().nth(n));
        test(device.clone(), n).await;
        if device.failed() == 0 {
            return n;
        }
        n += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CallKinds, SimRuntime};
    use super::*;
    use crate::io::MemoryDevice;
    use alloc::vec;

    fn wrapped(data: &[u8]) -> (Arc<MemoryDevice>, FaultDevice) {
        let memory = Arc::new(MemoryDevice::with_data(data));
        (memory.clone(), FaultDevice::new(memory))
    }

    fn run(test: impl Future<Output = Result<()>>) {
        SimRuntime::new(1).block_on(test).expect("no other error");
    }

    #[test]
    fn only_the_chosen_call_fails_with_the_chosen_kind() {
        run(async {
            let (_, device) = wrapped(&[7; 100]);
            device.add(
                Fault::new(ErrorKind::NoSpace)
                    .on(CallFilter::of(CallKinds::READ).within(50..60))
                    .nth(1),
            );
            device.read(0, 10).await?;
            device.read(50, 10).await?;
            let error = device.read(59, 1).await.expect_err("the second in the range");
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.what().contains("read 0x3b+0x1"), "{error}");
            device.read(50, 10).await?;
            assert_eq!((device.calls(), device.failed()), (4, 1));
            device.add(Fault::new(ErrorKind::Io).after(1));
            device.info().await?;
            assert!(device.info().await.is_err() && device.extents(0, 1).await.is_err());
            device.clear();
            device.info().await?;
            Ok(())
        });
    }

    #[test]
    fn the_effect_below_is_none_half_or_whole() {
        run(async {
            for (effect, written) in [(Effect::None, 0), (Effect::Half, 5), (Effect::Whole, 10)] {
                let (memory, device) = wrapped(&[0; 10]);
                device.add(Fault::new(ErrorKind::Io).effect(effect).nth(0));
                let data = Segments::from(vec![1; 10]);
                assert!(device.write(0, data, WriteFlags::empty()).await.is_err());
                let ones = memory.to_vec().iter().filter(|b| **b == 1).count();
                assert_eq!(ones, written, "{effect:?}");
                device.add(Fault::new(ErrorKind::Io).effect(effect).nth(0));
                assert!(device.set_len(5, Default::default()).await.is_err());
                assert_eq!(memory.len(), if effect == Effect::Whole { 5 } else { 10 });
            }
            Ok(())
        });
    }

    #[test]
    fn a_failed_flush_is_never_forgotten() {
        run(async {
            let (_, device) = wrapped(&[]);
            device.flush().await?;
            device.add(Fault::new(ErrorKind::Io).on(CallFilter::of(CallKinds::FLUSH)).nth(0));
            assert!(device.flush().await.is_err());
            device.clear();
            assert_eq!(device.flush().await.expect_err("poisoned").kind(), ErrorKind::Io);
            assert_eq!(device.failed(), 1, "only the injected failure counts");
            Ok(())
        });
    }

    #[test]
    fn the_loop_ends_when_every_call_has_failed_once() {
        run(async {
            let mut failures = 0;
            let calls = fail_each_call(
                Fault::new(ErrorKind::Io),
                async || Arc::new(MemoryDevice::new(100)) as Device,
                async |device, n| {
                    let result = async {
                        device.read(0, 1).await?;
                        device.write_zeroes(0, 1, ZeroFlags::empty()).await?;
                        device.flush().await
                    };
                    if result.await.is_err() {
                        assert_eq!(device.calls(), n + 1);
                        failures += 1;
                    }
                },
            );
            assert_eq!((calls.await, failures), (3, 3));
            Ok(())
        });
    }
}
