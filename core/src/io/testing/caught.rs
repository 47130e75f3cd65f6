//! Panics as failures, so that a suite can name the case, and the model shrink the operations.

use alloc::string::String;

/// Runs `future`; a panic inside it becomes an error with its text. Without the standard library
/// there is no catching: it goes through.
#[cfg(any(test, feature = "std"))]
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    use alloc::boxed::Box;
    use alloc::format;
    use core::future::poll_fn;
    use core::task::Poll;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let mut future = Box::pin(future);
    poll_fn(|cx| {
        // What a panic left behind is not used again: the case is over.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(payload) => {
                let text = payload
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| payload.downcast_ref::<&str>().copied())
                    .unwrap_or("no text");
                Poll::Ready(Err(format!("panicked: {text}")))
            }
        }
    })
    .await
}

#[cfg(not(any(test, feature = "std")))]
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    Ok(future.await)
}

#[cfg(test)]
mod tests {
    use super::super::{SimRuntime, yield_now};
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        let sim = SimRuntime::new(1);
        let fine = sim.block_on(caught(async {
            yield_now().await;
            5
        }));
        assert_eq!(fine, Ok(5));
        let zero = core::hint::black_box(0);
        let broken = sim.block_on(caught(async { assert_eq!(zero, 1, "on purpose") }));
        assert!(broken.expect_err("it panicked").contains("on purpose"));
    }
}
