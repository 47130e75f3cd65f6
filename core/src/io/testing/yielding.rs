//! A device that gives up its turn in every call, so that each place where a caller can be
//! suspended, interleaved or dropped is one where it is.

use super::Call;
use super::call::{around, forward};
use crate::Result;
use crate::io::{BlockDevice, BoxFuture, Device};
use alloc::boxed::Box;
use core::future::poll_fn;
use core::task::Poll;

/// Completes at the second poll; the task stays ready in between.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields once before and once after every call of the device below.
#[derive(Debug)]
pub struct YieldDevice {
    inner: Device,
}

impl YieldDevice {
    /// A yielding `inner`.
    #[must_use]
    pub fn new(inner: Device) -> Self {
        Self { inner }
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Call,
        run: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            yield_now().await;
            let result = run().await;
            yield_now().await;
            result
        })
    }
}

impl BlockDevice for YieldDevice {
    forward!(len limits capabilities);
    around!(read write write_zeroes discard flush set_len extents info);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{MemoryDevice, Segments, WriteFlags};
    use alloc::sync::Arc;
    use alloc::vec;
    use core::task::{Context, Waker};

    #[test]
    fn the_effect_lies_between_two_yields() {
        let memory = Arc::new(MemoryDevice::new(4));
        let device = YieldDevice::new(memory.clone());
        let mut write = device.write(0, Segments::from(vec![9; 4]), WriteFlags::empty());
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(memory.to_vec(), [0; 4]);
        assert!(write.as_mut().poll(&mut cx).is_pending());
        assert_eq!(memory.to_vec(), [0; 4]);
        assert!(write.as_mut().poll(&mut cx).is_pending());
        assert_eq!(memory.to_vec(), [9; 4]);
        assert!(write.as_mut().poll(&mut cx).is_ready());
    }
}
