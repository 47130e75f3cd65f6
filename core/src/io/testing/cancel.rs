//! Dropping futures midway: the tests of cancellation, under any runtime.

use crate::io::BoxFuture;
use alloc::boxed::Box;
use core::future::poll_fn;
use core::task::Poll;

/// Polls `future` until it returns `Pending` for the `waits`-th time and drops it there; `None`
/// says that it was dropped, `Some` that it completed before. With `waits` 0 it is dropped without
/// a poll.
pub async fn abandon_at<F: Future>(future: F, waits: usize) -> Option<F::Output> {
    let mut future = Some(Box::pin(future));
    let mut left = waits;
    poll_fn(|cx| {
        if left > 0
            && let Some(future) = future.as_mut()
        {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            left -= 1;
        }
        if left > 0 {
            return Poll::Pending;
        }
        future = None;
        Poll::Ready(None)
    })
    .await
}

/// Runs an operation over and over, dropping it before its first poll, then at its first await
/// that had to wait, then at its second …, until it completes. Returns how often it was dropped.
///
/// `make` builds a fresh world and the operation on it; `check` gets the world, and what the
/// operation returned or `None` where it was dropped.
pub async fn drop_at_each_await<W, T>(
    mut make: impl AsyncFnMut() -> (W, BoxFuture<'static, T>),
    mut check: impl AsyncFnMut(W, Option<T>),
) -> usize {
    let mut waits = 0;
    loop {
        let (world, operation) = make().await;
        let result = abandon_at(operation, waits).await;
        let completed = result.is_some();
        check(world, result).await;
        if completed {
            return waits;
        }
        waits += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SimRuntime, yield_now};
    use super::*;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_operation_is_dropped_at_each_await_once() {
        let mut seen = Vec::new();
        let drops = SimRuntime::new(1).block_on(drop_at_each_await(
            async || {
                let progress = Arc::new(AtomicUsize::new(0));
                let inside = progress.clone();
                let operation = async move {
                    for _ in 0..3 {
                        inside.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                    }
                    "done"
                };
                (progress, Box::pin(operation) as BoxFuture<'static, _>)
            },
            async |progress, result| {
                // Dropped in truth: nobody else holds the world any more.
                assert_eq!(Arc::strong_count(&progress), 1);
                seen.push((progress.load(Ordering::Relaxed), result));
            },
        ));
        assert_eq!(drops, 4);
        assert_eq!(seen, [(0, None), (1, None), (2, None), (3, None), (3, Some("done"))]);
    }
}
