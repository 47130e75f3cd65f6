//! `copy-on-read` (the schema's driver, block-core.json): what is read from a backing file is
//! written into the image that stands on it, so that the next read finds it there.
//!
//! Invariants: a copy never replaces what a guest has written, since a read that copies and every
//! change of the same clusters take turns; whole clusters are copied, which need no second copy
//! around them; zeroes are kept as zeroes; a copy that fails makes the read fail, as it would hide
//! an image that cannot be written.

use crate::Result;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segment, Segments, Turns, WriteFlags, ZeroFlags, check_range, is_zero, raise,
};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The most that is copied at once, and so held in memory.
const STEP: u64 = 16 << 20;

/// An image that keeps what is read through it.
#[derive(Debug)]
pub struct CopyOnRead {
    inner: Device,
    turns: Turns,
    /// The depth of the last image that is copied from; `None`: all of them.
    bottom: Option<u32>,
}

impl CopyOnRead {
    /// Reads through `image`, which is written to.
    #[must_use]
    pub fn new(image: Device) -> Self {
        Self { inner: image, turns: Turns::default(), bottom: None }
    }

    /// The same, but only what images down to the one at `depth` hold is copied (`bottom`): 0 is
    /// `image` itself.
    #[must_use]
    pub fn down_to(image: Device, depth: u32) -> Self {
        Self { bottom: Some(depth), ..Self::new(image) }
    }

    /// Whole clusters around `[offset, end)`.
    fn clusters(&self, offset: u64, end: u64) -> (u64, u64) {
        let cluster = u64::from(self.inner.limits().granularity).max(1);
        let up = end.checked_next_multiple_of(cluster).unwrap_or(u64::MAX);
        (offset - offset % cluster, up)
    }

    async fn read_through(&self, offset: u64, len: u64) -> Result<Segments> {
        check_range(offset, len, self.inner.len())?;
        if self.is_here(offset, len).await? {
            return self.inner.read(offset, len).await;
        }
        let (from, to) = self.clusters(offset, offset + len);
        let turn = self.turns.turn(from..to).await;
        let to = to.min(self.inner.len());
        let mut at = from;
        while at < to {
            let (run, here) = self.run(at, to - at).await?;
            let stop = match here {
                true => at + run,
                // The length of a run need not be that of clusters: what is below may be finer.
                false => self.clusters(at, at + run).1.min(to),
            };
            if !here {
                self.copy(at, stop - at).await?;
            }
            at = stop;
        }
        drop(turn);
        self.inner.read(offset, len).await
    }

    /// True where the image itself has all of the range.
    async fn is_here(&self, offset: u64, len: u64) -> Result<bool> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            match self.run(at, end - at).await? {
                (run, true) => at += run,
                (_, false) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// How long what begins at `at` is the same, at most `len` and [`STEP`] bytes, and whether the
    /// image itself has it, or is not to get it.
    async fn run(&self, at: u64, len: u64) -> Result<(u64, bool)> {
        let too_deep = |extent: &Extent| {
            self.bottom.is_some_and(|bottom| extent.depth > bottom || !extent.is_allocated())
        };
        let here = |extent: &Extent| extent.depth == 0 && extent.is_allocated() || too_deep(extent);
        let extents = self.inner.extents(at, len.min(STEP)).await?;
        let Some(first) = extents.first().map(here) else { return Ok((len, true)) };
        let run = extents.iter().take_while(|e| here(e) == first).map(|e| e.len).sum();
        Ok((run, first))
    }

    async fn copy(&self, offset: u64, len: u64) -> Result<()> {
        let data = self.inner.read(offset, len).await?;
        raise(&*self.inner, DebugEvent::CorWrite).await;
        let zero = data.as_slice().iter().all(|segment| match segment {
            Segment::Data(bytes) => is_zero(bytes),
            Segment::Zero(_) => true,
        });
        match zero {
            true => self.inner.write_zeroes(offset, len, ZeroFlags::empty()).await,
            false => self.inner.write(offset, data, WriteFlags::empty()).await,
        }
    }

    async fn changing(
        &self,
        offset: u64,
        len: u64,
        change: BoxFuture<'_, Result<()>>,
    ) -> Result<()> {
        let (from, to) = self.clusters(offset, offset.saturating_add(len));
        let turn = self.turns.turn(from..to).await;
        let result = change.await;
        drop(turn);
        result
    }
}

impl BlockDevice for CopyOnRead {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(self.read_through(offset, len))
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let len = data.len();
        Box::pin(self.changing(offset, len, self.inner.write(offset, data, flags)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.changing(offset, len, self.inner.write_zeroes(offset, len, flags)))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.changing(offset, len, self.inner.discard(offset, len)))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.changing(0, u64::MAX, self.inner.set_len(len, preallocation)))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.inner.info()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.inner.event(event)
    }
}

#[cfg(test)]
mod tests;
