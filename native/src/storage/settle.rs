//! Operations that outlive the futures that wait for them.
//!
//! An operation given to the kernel or to a thread goes on when its future is dropped. A
//! [`Settling`] is such a future. Dropped early it leaves the range its operation may still change
//! in the device's [`Orphans`], until the operation has settled; whoever changes an overlapping
//! range, or flushes, waits for that first. An operation whose future lives costs nothing here.
//!
//! The result of an abandoned operation is dropped by whoever completes it. What must happen
//! whether or not anybody waits (a failed flush, the new length) is done by the operation itself.

use event_listener::Event;
use sectora_core::sync::Mutex;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// Ranges that abandoned operations may still change.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    count: AtomicUsize,
    list: Mutex<Vec<(u64, Range<u64>)>>,
    settled: Event,
}

impl Orphans {
    /// Waits until no abandoned operation can change a byte of `range`.
    pub(crate) async fn settled(&self, range: Range<u64>) {
        while self.count.load(Ordering::SeqCst) != 0 {
            let settled = self.settled.listen();
            if !self.overlaps(&range) {
                return;
            }
            settled.await;
        }
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.list.lock().iter().any(|(_, r)| r.start < range.end && range.start < r.end)
    }

    fn adopt(self: &Arc<Self>, range: Range<u64>) -> Orphan {
        let mut list = self.list.lock();
        let id = list.last().map_or(0, |(id, _)| id + 1);
        list.push((id, range));
        self.count.store(list.len(), Ordering::SeqCst);
        Orphan { orphans: self.clone(), id }
    }
}

/// An abandoned operation in the list, until dropped.
struct Orphan {
    orphans: Arc<Orphans>,
    id: u64,
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let mut list = self.orphans.list.lock();
        list.retain(|(id, _)| *id != self.id);
        self.orphans.count.store(list.len(), Ordering::SeqCst);
        drop(list);
        self.orphans.settled.notify(usize::MAX);
    }
}

enum State<T> {
    Waiting(Option<Waker>),
    Done(T),
    Abandoned(#[allow(dead_code)] Option<Orphan>),
    Taken,
}

struct Cell<T>(Mutex<State<T>>);

/// The operation's end: where its result goes.
pub(crate) struct Completer<T>(Option<Arc<Cell<T>>>);

/// The caller's end: completes when the operation has settled.
pub(crate) struct Settling<T> {
    cell: Arc<Cell<T>>,
    /// What the operation changes, if anything.
    changes: Option<(Arc<Orphans>, Range<u64>)>,
}

/// Both ends of an operation that changes `changes`.
pub(crate) fn settling<T>(
    changes: Option<(Arc<Orphans>, Range<u64>)>,
) -> (Completer<T>, Settling<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Completer(Some(cell.clone())), Settling { cell, changes })
}

impl<T> Completer<T> {
    /// True where nobody waits: an operation that has not begun need not.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_some_and(|cell| matches!(*cell.0.lock(), State::Abandoned(_)))
    }

    /// The operation has settled.
    pub(crate) fn complete(mut self, result: T) {
        let Some(cell) = self.0.take() else { return };
        let mut state = cell.0.lock();
        match &mut *state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Done(result);
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            _ => {
                // The orphan goes last: its data and hold are free when others stop waiting.
                let before = std::mem::replace(&mut *state, State::Taken);
                drop(state);
                drop(result);
                drop(before);
            }
        }
    }
}

impl<T> Drop for Completer<T> {
    /// The operation never began: its future was abandoned, or the host has gone.
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            let before = std::mem::replace(&mut *cell.0.lock(), State::Taken);
            if let State::Waiting(Some(waker)) = before {
                waker.wake();
            }
        }
    }
}

impl<T> Settling<T> {
    /// True where it would complete at once.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(*self.cell.0.lock(), State::Waiting(_))
    }
}

impl<T> Future for Settling<T> {
    /// `None` where the operation was lost: its thread panicked.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.cell.0.lock();
        match &mut *state {
            State::Waiting(Some(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => match std::mem::replace(&mut *state, State::Taken) {
                State::Done(result) => Poll::Ready(Some(result)),
                _ => Poll::Ready(None),
            },
        }
    }
}

impl<T> Drop for Settling<T> {
    fn drop(&mut self) {
        let mut state = self.cell.0.lock();
        if let State::Waiting(_) = *state {
            let orphan = self.changes.take().map(|(orphans, range)| orphans.adopt(range));
            // The waker it replaces is dropped after the lock is released.
            let _before = std::mem::replace(&mut *state, State::Abandoned(orphan));
            drop(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn changing(orphans: &Arc<Orphans>, range: Range<u64>) -> (Completer<u32>, Settling<u32>) {
        settling(Some((orphans.clone(), range)))
    }

    #[test]
    fn an_abandoned_change_holds_up_what_overlaps_until_it_settles() {
        let orphans = Arc::new(Orphans::default());
        let (completer, mut future) = changing(&orphans, 10..20);
        assert!(poll(Pin::new(&mut future)).is_pending());
        // Nobody waits for an operation in flight whose future lives.
        assert!(poll(pin!(orphans.settled(0..100))).is_ready());
        drop(future);
        assert!(completer.is_abandoned());
        assert!(poll(pin!(orphans.settled(0..10))).is_ready());
        assert!(poll(pin!(orphans.settled(20..30))).is_ready());
        let mut flush = pin!(orphans.settled(0..u64::MAX));
        let mut write = pin!(orphans.settled(19..20));
        assert!(poll(flush.as_mut()).is_pending());
        assert!(poll(write.as_mut()).is_pending());
        completer.complete(1);
        assert!(poll(flush).is_ready());
        assert!(poll(write).is_ready());
    }

    #[test]
    fn a_result_that_nobody_takes_is_dropped_before_the_range_is_free() {
        struct Data(Arc<Orphans>);
        impl Drop for Data {
            fn drop(&mut self) {
                assert_eq!(self.0.count.load(Ordering::SeqCst), 1);
            }
        }
        let orphans = Arc::new(Orphans::default());
        let (completer, future) = settling(Some((orphans.clone(), 0..1)));
        drop(future);
        completer.complete(Data(orphans.clone()));
        assert_eq!(orphans.count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_operation_that_never_begins_frees_its_range_and_its_waiter() {
        let orphans = Arc::new(Orphans::default());
        let (completer, future) = changing(&orphans, 0..1);
        drop(future);
        drop(completer);
        assert!(poll(pin!(orphans.settled(0..1))).is_ready());
        let (completer, mut future) = changing(&orphans, 0..1);
        assert!(poll(Pin::new(&mut future)).is_pending());
        drop(completer);
        assert_eq!(poll(Pin::new(&mut future)), Poll::Ready(None));
    }

    #[test]
    fn a_completed_future_that_is_not_polled_again_is_no_orphan() {
        let orphans = Arc::new(Orphans::default());
        let (completer, future) = changing(&orphans, 0..1);
        completer.complete(1);
        drop(future);
        assert_eq!(orphans.count.load(Ordering::SeqCst), 0);
    }
}
