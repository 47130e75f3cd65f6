//! Operations on threads that block: for hosts without io_uring, and for calls a ring lacks.

use super::handle::Handle;
use super::settle::{Settling, settling};
use crate::runtime::pool::Pool;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Threads for the whole process. As many as storage may want to have in flight from callers that
/// wait: a disk's queue is rarely deeper, and an idle thread ends by itself.
const THREADS: usize = 64;

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new("sectora-io", THREADS))
}

/// Runs `call` on a thread. Where it is begun it runs to its end, whether or not the future
/// lives; where its future is dropped before, it is not begun. `changes` is what it may change.
pub(super) fn call<T: Send + 'static>(
    handle: &Arc<Handle>,
    changes: Option<Range<u64>>,
    call: impl FnOnce(&Handle) -> T + Send + 'static,
) -> Settling<T> {
    let (completer, settling) = settling(changes.map(|range| (handle.orphans.clone(), range)));
    let handle = handle.clone();
    pool().run(move || {
        if completer.is_abandoned() {
            // The call's data goes first, then the claim on its range.
            drop(call);
        } else {
            let result = call(&handle);
            // Whoever waits may find the file closed (and its lock released) right away.
            drop(handle);
            completer.complete(result);
        }
    });
    settling
}

/// Runs `call`, which concerns no open file, on a thread.
pub(super) fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Settling<T> {
    let (completer, settling) = settling(None);
    pool().run(move || completer.complete(call()));
    settling
}
