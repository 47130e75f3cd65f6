//! A device whose calls take time, so that calls in flight together land in any order.

use super::call::{around, forward};
use super::{Call, Rng};
use crate::Result;
use crate::io::{BlockDevice, BoxFuture, Device, Runtime};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

/// Waits before and after every call of the device below, for times that a seed decides. The
/// first wait reorders effects, the second answers.
pub struct DelayDevice {
    inner: Device,
    runtime: Arc<dyn Runtime>,
    longest: Duration,
    rng: Mutex<Rng>,
}

impl DelayDevice {
    /// A slow `inner`: each wait is at most `longest` of the runtime's time.
    #[must_use]
    pub fn new(inner: Device, runtime: Arc<dyn Runtime>, longest: Duration, seed: u64) -> Self {
        Self { inner, runtime, longest, rng: Mutex::new(Rng::new(seed)) }
    }

    fn wait(&self) -> BoxFuture<'static, ()> {
        let longest = u64::try_from(self.longest.as_nanos()).unwrap_or(u64::MAX);
        let nanos = self.rng.lock().between(0, longest);
        self.runtime.sleep(Duration::from_nanos(nanos))
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Call,
        run: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.wait().await;
            let result = run().await;
            self.wait().await;
            result
        })
    }
}

impl fmt::Debug for DelayDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayDevice")
            .field("inner", &self.inner)
            .field("longest", &self.longest)
            .finish_non_exhaustive()
    }
}

impl BlockDevice for DelayDevice {
    forward!(len limits capabilities);
    around!(read write write_zeroes discard flush set_len extents info);
}

#[cfg(test)]
mod tests {
    use super::super::{CallKinds, CountDevice, SimRuntime};
    use super::*;
    use crate::io::MemoryDevice;
    use alloc::vec::Vec;
    use futures_util::future::join_all;

    /// The order in which ten reads, issued in order, reach the device below.
    fn order(seed: u64) -> Vec<u64> {
        let sim = SimRuntime::new(1);
        let count = Arc::new(CountDevice::new(Arc::new(MemoryDevice::new(10))));
        let device = DelayDevice::new(count.clone(), sim.handle(), Duration::from_millis(5), seed);
        let reads = sim.block_on(join_all((0..10).map(|at| device.read(at, 1))));
        assert!(reads.iter().all(Result::is_ok));
        assert!(sim.elapsed() > Duration::ZERO && sim.elapsed() <= Duration::from_millis(10));
        assert_eq!(count.count(CallKinds::all()), 10);
        count.trace().iter().map(|call| call.offset).collect()
    }

    #[test]
    fn the_seed_decides_the_order() {
        assert_eq!(order(1), order(1));
        let in_order: Vec<u64> = (0..10).collect();
        assert_ne!(order(1), in_order);
        assert_ne!(order(1), order(2));
    }
}
