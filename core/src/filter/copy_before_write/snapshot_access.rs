//! The device as it was.

use super::Shared;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, ExtentFlags, Limits, Preallocation,
    Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;

/// What a [`CopyBeforeWrite`](super::CopyBeforeWrite) keeps, to be read. It takes no writes; a
/// discard says that a part is not needed any more: it cannot be read from then on, and is not
/// copied.
#[derive(Debug)]
pub struct SnapshotAccess {
    pub(super) shared: Arc<Shared>,
}

impl SnapshotAccess {
    fn denied() -> Error {
        Error::denied("a point in time does not change")
    }

    /// Refuses what does not belong to the point in time.
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len, self.shared.len)?;
        if let Some(lost) = &*self.shared.lost.lock() {
            return Err(Error::io(format!("the point in time is lost: {lost}")));
        }
        match self.shared.access.next_zero(offset, len) {
            Some(at) => Err(Error::denied("it does not belong to the point in time").at(at)),
            None => Ok(()),
        }
    }

    /// How long what begins at `at` is all missing in the target, or all there, and which of them.
    fn run(&self, at: u64, end: u64) -> (u64, bool) {
        let missing = &self.shared.missing;
        match missing.next_dirty(at, end - at) {
            Some(first) if first == at => {
                let stop = missing.next_zero(at, end - at).unwrap_or(end);
                (stop - at, true)
            }
            Some(first) => (first - at, false),
            None => (end - at, false),
        }
    }

    async fn read_then(&self, offset: u64, len: u64) -> Result<Segments> {
        let shared = &*self.shared;
        self.check(offset, len)?;
        if shared.missing.next_dirty(offset, len).is_none() {
            // What is in the target stays there.
            return shared.target.read(offset, len).await;
        }
        let (from, to) = shared.clusters(offset, len);
        let turn = shared.turns.turn(from..to).await;
        let mut out = Segments::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (run, missing) = self.run(at, end);
            out.append(match missing {
                true => shared.source.read(at, run).await?,
                false => shared.target.read(at, run).await?,
            });
            at += run;
        }
        drop(turn);
        // Where it is lost, changes do not wait for readers any more.
        self.check(offset, len)?;
        Ok(out)
    }

    async fn give_up(&self, offset: u64, len: u64) -> Result<()> {
        let shared = &*self.shared;
        check_range(offset, len, shared.len)?;
        let end = offset + len;
        let from = offset.checked_next_multiple_of(shared.cluster).unwrap_or(u64::MAX);
        let to = if end == shared.len { end } else { end - end % shared.cluster };
        if from >= to {
            return Ok(());
        }
        let turn = shared.turns.turn(from..to).await;
        shared.access.reset(from, to - from);
        shared.missing.reset(from, to - from);
        let result = shared.target.discard(from, to - from).await;
        drop(turn);
        result
    }

    async fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>> {
        let shared = &*self.shared;
        check_range(offset, len, shared.len)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        self.check(offset, 1)?;
        let end = shared.access.next_zero(offset, len).unwrap_or(offset + len);
        let (run, missing) = self.run(offset, end);
        let device = if missing { &shared.source } else { &shared.target };
        let found = device.extents(offset, run).await?;
        let mut out: Vec<Extent> = Vec::new();
        for extent in found {
            // Where the bytes lie may change: only what they are is told.
            let kind = extent.flags & ExtentFlags::ZERO;
            let kind = if kind.is_empty() { ExtentFlags::DATA } else { kind };
            let flags = kind | ExtentFlags::ALLOCATED;
            let extent = Extent { flags, depth: 0, host: None, ..extent };
            let rest = match out.last_mut() {
                Some(last) => last.merge(extent),
                None => Some(extent),
            };
            out.extend(rest);
        }
        // A change may have come between: then none of it is sure to be zeroes.
        if missing && self.run(offset, offset + 1) != (1, true) {
            let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
            out = alloc::vec![Extent { start: offset, len: run, flags, depth: 0, host: None }];
        }
        Ok(out)
    }
}

impl BlockDevice for SnapshotAccess {
    fn len(&self) -> u64 {
        self.shared.len
    }

    fn limits(&self) -> Limits {
        let (source, target) = (self.shared.source.limits(), self.shared.target.limits());
        Limits { max_transfer: source.max_transfer.min(target.max_transfer), ..source }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::empty()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(self.read_then(offset, len))
    }

    fn write(&self, _: u64, _: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Self::denied())))
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Self::denied())))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.give_up(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn set_len(&self, _: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Self::denied())))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.status(offset, len))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        let filename = String::new();
        let info = DeviceInfo { driver: "snapshot-access", filename, ..DeviceInfo::default() };
        Box::pin(ready(Ok(info)))
    }
}
