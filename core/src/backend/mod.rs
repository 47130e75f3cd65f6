//! Named backends: disks as a guest has them, each over a node of the graph.
//!
//! A backend counts what its users do, and decides what follows where storage fails (`rerror`,
//! `werror`): the user is told, nobody is told, or the [`Machine`] stops. While that is stopped
//! requests wait in front of the graph, those that failed among them, and are made again when it
//! goes on: nothing is lost, and no change of the graph waits for them.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `machine` | whether requests go on, and the events of that |
//! | `policy` | what follows an error |
//! | `statistics` | counters, intervals, histograms |
//! | `registry` | all backends by name |

mod machine;
mod policy;
mod registry;
mod statistics;
#[cfg(test)]
mod tests;

pub use machine::Machine;
pub use policy::{Action, ErrorPolicy};
pub use registry::{Backends, NewBackend};
pub use statistics::{Accounting, Boundaries, Request, Statistics};

use crate::graph::Root;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, Limits, Preallocation, Runtime,
    Segments, WriteFlags, ZeroFlags,
};
use crate::monitor::Events;
use crate::qapi::{BlockDeviceIoStatus, BlockErrorAction, BlockIoError, IoOperationType};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A disk with a name.
pub struct Backend {
    id: String,
    root: Arc<Root>,
    policy: ErrorPolicy,
    read_only: bool,
    statistics: Statistics,
    status: Mutex<BlockDeviceIoStatus>,
    machine: Arc<Machine>,
    events: Arc<Events>,
    runtime: Arc<dyn Runtime>,
    users: AtomicUsize,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("root", &self.root).finish()
    }
}

/// Somebody who uses a backend, as a guest does. It cannot be removed meanwhile.
#[derive(Debug)]
pub struct User(Arc<Backend>);

impl User {
    /// What is used.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Backend {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its use of its node.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Nothing can be written through it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What was done through it.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Whether its last requests went well.
    #[must_use]
    pub fn io_status(&self) -> BlockDeviceIoStatus {
        *self.status.lock()
    }

    /// Forgets that a request failed (`cont`).
    pub(super) fn reset_io_status(&self) {
        *self.status.lock() = BlockDeviceIoStatus::Ok;
    }

    /// Uses it from now on.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> User {
        self.users.fetch_add(1, Ordering::AcqRel);
        User(self.clone())
    }

    pub(super) fn is_used(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    /// Makes a request until it is done, or its error is told.
    async fn make<T, F>(
        &self,
        kind: Request,
        bytes: u64,
        ignored: T,
        ask: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            self.machine.running().await;
            let counting = self.statistics.begin(kind, bytes, self.runtime.now());
            let result = ask().await;
            let now = self.runtime.now();
            let error = match result {
                Ok(value) => {
                    counting.done(now);
                    return Ok(value);
                }
                // The user asked for what cannot be: that says nothing of the storage.
                Err(error) if !is_of_storage(&error) => {
                    counting.invalid(now);
                    return Err(error);
                }
                Err(error) => error,
            };
            counting.failed(now);
            match self.failed(kind, &error) {
                Action::Report => return Err(error),
                Action::Ignore => return Ok(ignored),
                // It is made again when the machine goes on.
                Action::Stop => {}
            }
        }
    }

    /// Decides what follows, and tells of it.
    fn failed(&self, kind: Request, error: &Error) -> Action {
        let action = self.policy.action(kind, error);
        let nospace = error.kind() == ErrorKind::NoSpace;
        if action == Action::Stop {
            let mut status = self.status.lock();
            // The first error is the one that is told.
            if *status == BlockDeviceIoStatus::Ok {
                *status = match nospace {
                    true => BlockDeviceIoStatus::Nospace,
                    false => BlockDeviceIoStatus::Failed,
                };
            }
        }
        let node = self.root.node();
        let told = BlockIoError {
            qom_path: self.id.clone(),
            device: self.id.clone(),
            node_name: node.map(|node| node.name().to_string()),
            operation: match kind {
                Request::Read => IoOperationType::Read,
                Request::Write | Request::Flush | Request::Discard => IoOperationType::Write,
            },
            action: match action {
                Action::Report => BlockErrorAction::Report,
                Action::Ignore => BlockErrorAction::Ignore,
                Action::Stop => BlockErrorAction::Stop,
            },
            nospace: Some(nospace),
            reason: error.to_string(),
        };
        self.events.tell("BLOCK_IO_ERROR", &told);
        if action == Action::Stop {
            self.machine.stop_for_error();
        }
        action
    }
}

/// True for errors of what lies below; others are the user's.
fn is_of_storage(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::Denied | ErrorKind::Unsupported | ErrorKind::Cancelled
    )
}

impl BlockDevice for Backend {
    fn len(&self) -> u64 {
        self.root.len()
    }

    fn limits(&self) -> Limits {
        self.root.limits()
    }

    fn capabilities(&self) -> Capabilities {
        let all = self.root.capabilities();
        if self.read_only { all - Capabilities::WRITE - Capabilities::GROW } else { all }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            let nothing = Segments::zero(len);
            self.make(Request::Read, len, nothing, || self.root.read(offset, len)).await
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ask = || self.root.write(offset, data.clone(), flags);
            self.make(Request::Write, data.len(), (), ask).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ask = || self.root.write_zeroes(offset, len, flags);
            self.make(Request::Write, len, (), ask).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.make(Request::Discard, len, (), || self.root.discard(offset, len)).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.make(Request::Flush, 0, (), || self.root.flush()))
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.root.set_len(len, preallocation)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.root.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.root.info()
    }
}
