//! `replication` (the schema's driver, block-core.json, `BlockdevOptionsReplication`;
//! `docs/block-replication.txt` of QEMU): one side of a disk that is kept twice, so that another
//! machine can go on with it.
//!
//! The primary side hands the writes of its guest on to the secondary machine; what fails is kept
//! for whoever manages both, and the guest is told nothing. The secondary side shows its guest the
//! disk as it was at the last checkpoint with what the guest wrote since, while the writes of the
//! primary arrive in the disk itself.
//!
//! Invariants of the secondary side: its guest sees the disk of the last checkpoint and its own
//! writes, whatever arrives meanwhile; where a checkpoint ended midway it sees nothing rather than a
//! mixture. What the graph does at the changes of state is in `graph/replication.rs`.

use super::{CopyBeforeWrite, check_limits};
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;

/// `ReplicationMode` (block-core.json): the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationMode {
    /// Where the guest runs.
    Primary,
    /// Where it would go on.
    Secondary,
}

/// How far a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationStage {
    /// It has not been started: nothing is read and nothing is written.
    None,
    /// Both machines run.
    Running,
    /// The secondary machine takes over: what is buffered goes to its disk.
    Failover,
    /// That failed. The guest sees what it saw, and the failover can be repeated.
    FailoverFailed,
    /// It is over. The secondary side passes everything on.
    Done,
}

/// One side of a disk that is kept twice.
#[derive(Debug)]
pub struct Replication {
    file: Device,
    mode: ReplicationMode,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: ReplicationStage,
    /// Of the secondary side: in front of the disk, keeps what the primary's writes replace.
    buffer: Option<Arc<CopyBeforeWrite>>,
    /// Something failed that nobody was told of.
    failed: bool,
    /// The buffers are being emptied, or that ended midway: they belong to no checkpoint.
    torn: bool,
}

impl Replication {
    /// A side that has not been started. `file`: the device to which the primary's writes go; the
    /// disk that takes those of the secondary machine's guest.
    #[must_use]
    pub fn new(file: Device, mode: ReplicationMode) -> Self {
        let state =
            State { stage: ReplicationStage::None, buffer: None, failed: false, torn: false };
        Self { file, mode, state: Mutex::new(state) }
    }

    /// The side.
    #[must_use]
    pub fn mode(&self) -> ReplicationMode {
        self.mode
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> ReplicationStage {
        self.state.lock().stage
    }

    /// True while the nodes around it are tied to it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state.lock().buffer.is_some()
    }

    /// Whether it is to be started as this side; not where it is over already.
    ///
    /// # Errors
    /// `InvalidInput` where it runs, or is the other side.
    pub fn check_start(&self, mode: ReplicationMode) -> Result<bool> {
        match self.stage() {
            ReplicationStage::Done => Ok(false),
            ReplicationStage::None if mode == self.mode => Ok(true),
            ReplicationStage::None => {
                let (needs, got) = (self.mode as u8, mode as u8);
                Err(Error::invalid(format!(
                    "The parameter mode's value is invalid, needs {needs}, but got {got}"
                )))
            }
            _ => Err(Error::invalid("Block replication is running or done")),
        }
    }

    /// It runs from now on. `buffer`: of the secondary side, what stands in front of the disk;
    /// everything else is empty.
    pub fn start(&self, buffer: Option<Arc<CopyBeforeWrite>>) {
        *self.state.lock() =
            State { stage: ReplicationStage::Running, buffer, failed: false, torn: false };
    }

    /// Whether there is something to do at a checkpoint.
    ///
    /// # Errors
    /// `InvalidInput` for a secondary side that does not run.
    pub fn check_checkpoint(&self) -> Result<bool> {
        match (self.mode, self.stage()) {
            (ReplicationMode::Primary, _) | (_, ReplicationStage::Done) => Ok(false),
            (_, ReplicationStage::Running) => Ok(true),
            _ => Err(Error::invalid("Backup job was cancelled unexpectedly")),
        }
    }

    /// Whether there is something to do when it is to be stopped.
    ///
    /// # Errors
    /// `InvalidInput` for one that does not run, unless its machine takes over; `InvalidInput` where
    /// that is to happen midway between two checkpoints.
    pub fn check_stop(&self, failover: bool) -> Result<bool> {
        let state = self.state.lock();
        match state.stage {
            ReplicationStage::Running | ReplicationStage::FailoverFailed
                if failover && state.torn =>
            {
                Err(Error::invalid(
                    "the last checkpoint ended midway, so that the disk is that of no checkpoint; \
                     let there be another one, or stop without failover",
                ))
            }
            ReplicationStage::Running => Ok(true),
            ReplicationStage::FailoverFailed if failover => Ok(true),
            ReplicationStage::Done => Ok(false),
            ReplicationStage::None | ReplicationStage::Failover if failover => Ok(false),
            _ => Err(Error::invalid("Block replication is not running")),
        }
    }

    /// The buffers are about to be emptied: until [`emptied`](Self::emptied) they are those of no
    /// checkpoint, and nothing is read or written.
    pub fn emptying(&self) {
        self.state.lock().torn = true;
    }

    /// The buffers are empty: the disk as it is now is that of the checkpoint. Nothing may be under
    /// way.
    pub fn emptied(&self) {
        let mut state = self.state.lock();
        if let Some(buffer) = &state.buffer {
            buffer.begin_again();
        }
        state.torn = false;
    }

    /// The machine takes over from now on: what is buffered goes to the disk.
    pub fn take_over(&self) {
        self.state.lock().stage = ReplicationStage::Failover;
    }

    /// Taking over has failed: everything is as it was.
    pub fn failed_to_take_over(&self) {
        let mut state = self.state.lock();
        (state.stage, state.failed) = (ReplicationStage::FailoverFailed, true);
    }

    /// It is over.
    pub fn finish(&self) {
        *self.state.lock() =
            State { stage: ReplicationStage::Done, buffer: None, failed: false, torn: false };
    }

    /// Something failed that nobody else is told of.
    pub fn note_failure(&self) {
        self.state.lock().failed = true;
    }

    /// True for a primary side that has failed to send something, or is over: what is below it is
    /// not relied on any more.
    #[must_use]
    pub fn sends_no_more(&self) -> bool {
        let state = self.state.lock();
        let ended = state.failed || state.stage == ReplicationStage::Done;
        self.mode == ReplicationMode::Primary && ended
    }

    /// What whoever manages the machines has to know.
    ///
    /// # Errors
    /// `InvalidInput` where it has not been started, `Io` where something failed that nobody was
    /// told of.
    pub fn error(&self) -> Result<()> {
        let state = self.state.lock();
        if state.stage == ReplicationStage::None {
            return Err(Error::invalid("Block replication is not running"));
        }
        match state.failed {
            true => Err(Error::io("I/O error occurred")),
            false => Ok(()),
        }
    }

    /// The buffer that requests have to respect.
    ///
    /// # Errors
    /// `Io` where nothing can be read or written.
    fn buffer(&self) -> Result<Option<Arc<CopyBeforeWrite>>> {
        let state = self.state.lock();
        let is_over = state.stage == ReplicationStage::Done;
        if state.stage == ReplicationStage::None {
            return Err(Error::io("the replication has not been started"));
        }
        if self.mode == ReplicationMode::Primary && is_over {
            return Err(Error::io("the replication is over: nothing is sent any more"));
        }
        if state.torn {
            return Err(Error::io("the last checkpoint ended midway: it has to be repeated"));
        }
        Ok(state.buffer.clone())
    }

    /// A request for a range that the file answers. What the file shows there comes from the disk or
    /// from what was copied of it, and does not move from one to the other meanwhile.
    async fn steadily<'a, T>(
        &'a self,
        offset: u64,
        len: u64,
        request: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        let buffer = self.buffer()?;
        // A write of a part of a cluster takes the rest of it from below.
        let unit = u64::from(self.limits().granularity).max(1);
        let start = offset - offset % unit;
        let end = offset.saturating_add(len).checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        let _kept = match &buffer {
            Some(buffer) => buffer.keep(start, end.min(self.len()).saturating_sub(start)).await,
            None => None,
        };
        request().await
    }

    /// A change of a range, of which the primary's guest is told only whether it makes sense.
    async fn change<'a>(
        &'a self,
        offset: u64,
        len: u64,
        request: impl FnOnce() -> BoxFuture<'a, Result<()>> + Send,
    ) -> Result<()> {
        check_range(offset, len, self.len())?;
        match self.steadily(offset, len, request).await {
            Err(error) if self.hides(&error) => {
                self.note_failure();
                Ok(())
            }
            result => result,
        }
    }

    fn hides(&self, error: &Error) -> bool {
        let kinds = [ErrorKind::InvalidInput, ErrorKind::Denied, ErrorKind::Unsupported];
        let runs = self.stage() == ReplicationStage::Running;
        self.mode == ReplicationMode::Primary && runs && !kinds.contains(&error.kind())
    }
}

impl BlockDevice for Replication {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.file.capabilities() - Capabilities::GROW
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        if self.mode == ReplicationMode::Primary {
            let what = "the secondary machine's disk is not read by the primary";
            return Box::pin(ready(Err(Error::io(what))));
        }
        let checked = check_limits(offset, len, &self.limits());
        Box::pin(async move {
            checked?;
            check_range(offset, len, self.len())?;
            self.steadily(offset, len, || self.file.read(offset, len)).await
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let len = data.len();
        let checked = check_limits(offset, len, &self.limits());
        // What cannot be made durable is told: nobody is to rely on it.
        let durable = self.mode == ReplicationMode::Primary && flags.contains(WriteFlags::FUA);
        let flags = if durable { flags - WriteFlags::FUA } else { flags };
        Box::pin(async move {
            checked?;
            self.change(offset, len, || self.file.write(offset, data, flags)).await?;
            if durable { self.file.flush().await } else { Ok(()) }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.change(offset, len, move || self.file.write_zeroes(offset, len, flags)))
    }

    /// Does nothing: what was there is as good as anything else.
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let can_write = self.capabilities().contains(Capabilities::WRITE);
        let checked = match can_write {
            true => check_range(offset, len, self.len()),
            false => Err(Error::denied("the device is read-only")),
        };
        Box::pin(ready(checked))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.file.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        if len == self.len() || !self.capabilities().contains(Capabilities::WRITE) {
            return self.file.set_len(len, preallocation);
        }
        let what = "both sides of a replicated disk keep their length";
        Box::pin(ready(Err(Error::unsupported(what))))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            check_range(offset, len, self.len())?;
            let buffer = self.state.lock().buffer.clone();
            let _kept = match &buffer {
                Some(buffer) => buffer.keep(offset, len).await,
                None => None,
            };
            self.file.extents(offset, len).await
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.file.info()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.file.event(event)
    }
}

#[cfg(test)]
mod tests;
