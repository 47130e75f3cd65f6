//! Changes in flight, which go on when the future that waits for them is dropped.

use event_listener::Event;
use sectora_core::{Error, Result};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// The changes of one device that have begun and not settled. No two of them overlap.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    list: RefCell<Vec<(u64, Range<u64>)>>,
    next: Cell<u64>,
    settled: Event,
}

impl Pending {
    /// Waits until no change in flight overlaps `range`, and begins one there.
    pub(crate) async fn begin(self: &Rc<Self>, range: Range<u64>) -> Change {
        loop {
            let settled = self.settled.listen();
            if !self.overlaps(&range) {
                let id = self.next.replace(self.next.get() + 1);
                self.list.borrow_mut().push((id, range));
                return Change { pending: self.clone(), id };
            }
            settled.await;
        }
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.list.borrow().iter().any(|(_, r)| r.start < range.end && range.start < r.end)
    }

    /// Waits until everything that has begun so far has settled.
    pub(crate) async fn settled(&self) {
        let last = self.next.get();
        loop {
            let settled = self.settled.listen();
            if self.list.borrow().iter().all(|(id, _)| *id >= last) {
                return;
            }
            settled.await;
        }
    }
}

/// A change in flight; it settles when this is dropped.
#[derive(Debug)]
pub(crate) struct Change {
    pending: Rc<Pending>,
    id: u64,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.pending.list.borrow_mut().retain(|(id, _)| *id != self.id);
        self.pending.settled.notify(usize::MAX);
    }
}

/// Runs `work` to its end whether or not anybody waits, and waits.
pub(crate) async fn detached<T: 'static>(
    work: impl Future<Output = Result<T>> + 'static,
) -> Result<T> {
    let slot = Rc::new((RefCell::new(None), Event::new()));
    let done = slot.clone();
    let finished = slot.1.listen();
    wasm_bindgen_futures::spawn_local(async move {
        let result = work.await;
        *done.0.borrow_mut() = Some(result);
        done.1.notify(usize::MAX);
    });
    finished.await;
    let result = slot.0.borrow_mut().take();
    result.unwrap_or_else(|| Err(Error::bug("an operation of the storage was lost")))
}
