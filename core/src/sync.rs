//! Short locks under one name: `parking_lot` with feature `std`, spinning without.
//!
//! Every lock of this crate guards memory for a few instructions and is released before the next
//! await (`clippy::await_holding_lock` is denied for the workspace).

#[cfg(feature = "std")]
pub use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(not(feature = "std"))]
pub use spin::{Mutex, MutexGuard, RwLock};

use core::future::Future;
use core::pin::Pin;

/// The one alias for futures behind a trait object.
pub type BoxFuture<'a, T> = Pin<alloc::boxed::Box<dyn Future<Output = T> + Send + 'a>>;
