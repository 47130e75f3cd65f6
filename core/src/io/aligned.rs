//! Any offset and length over a device that only takes aligned ones.

use super::device::check_range;
use super::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use event_listener::Event;

/// A device that takes requests of any alignment and passes them on as the device below wants
/// them: a read that is not aligned reads whole units and keeps what was asked for; the units that
/// a write covers in part are read, changed and written back.
///
/// The device below must accept a range that ends off the alignment where that is its own end (or,
/// for a write, behind it): a file's length need not be aligned.
///
/// Changes that touch the same unit wait for each other, so that none writes back what another has
/// just replaced. A change whose future is dropped waits no longer; the device below settles it
/// before whatever overlaps it, and every later change of the unit does.
#[derive(Debug)]
pub struct Aligned {
    inner: Device,
    /// A power of two.
    unit: u64,
    busy: Turns,
}

impl Aligned {
    /// Wraps `inner`. Costs nothing where `inner` takes any alignment.
    #[must_use]
    pub fn new(inner: Device) -> Self {
        let unit = u64::from(inner.limits().request_alignment).max(1);
        Self { inner, unit, busy: Turns::default() }
    }

    fn down(&self, n: u64) -> u64 {
        n - n % self.unit
    }

    /// The next multiple; `u64::MAX` where there is none.
    fn up(&self, n: u64) -> u64 {
        n.checked_next_multiple_of(self.unit).unwrap_or(u64::MAX)
    }

    fn is_aligned(&self, n: u64) -> bool {
        n.is_multiple_of(self.unit)
    }

    fn end(offset: u64, len: u64) -> Result<u64> {
        check_range(offset, len, u64::MAX)?;
        Ok(offset + len)
    }

    async fn read_any(&self, offset: u64, len: u64) -> Result<Segments> {
        let end = Self::end(offset, len)?;
        self.check_transfer(len)?;
        loop {
            let device_len = self.inner.len();
            check_range(offset, len, device_len)?;
            let (from, to) = (self.down(offset), self.up(end).min(device_len));
            match self.inner.read(from, to - from).await {
                Ok(data) => return Ok(data.slice(offset - from, len)),
                // The device has grown, so that `to` is not its end any more.
                Err(e) if e.kind() == ErrorKind::InvalidInput && self.inner.len() != device_len => {
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The unit at `at`, zeroes where it lies behind the end.
    async fn unit(&self, at: u64, device_len: u64) -> Result<Segments> {
        let inside = device_len.saturating_sub(at).min(self.unit);
        let mut data = match inside {
            0 => Segments::new(),
            n => self.inner.read(at, n).await?,
        };
        data.push_zero(self.unit - inside);
        Ok(data)
    }

    fn check_transfer(&self, len: u64) -> Result<()> {
        let most = self.limits().max_transfer;
        if len > u64::from(most) {
            return Err(Error::invalid(format!(
                "a request of {len:#x} bytes exceeds the longest possible, {most:#x}"
            )));
        }
        Ok(())
    }

    /// What an empty write does: the device is at least `end` long.
    async fn reach(&self, end: u64) -> Result<()> {
        if end <= self.inner.len() {
            // Also where nothing changes it is for the device below to refuse it.
            return self.inner.write(0, Segments::new(), WriteFlags::empty()).await;
        }
        let _turn = self.busy.turn(self.down(self.inner.len())..u64::MAX).await;
        self.inner.set_len(end, Preallocation::Off).await
    }

    async fn write_any(&self, offset: u64, data: Segments, flags: WriteFlags) -> Result<()> {
        let end = Self::end(offset, data.len())?;
        self.check_transfer(data.len())?;
        if data.is_empty() {
            return self.reach(offset).await;
        }
        let from = self.down(offset);
        let mut turn = self.busy.turn(from..self.up(end)).await;
        if !self.is_aligned(end) && end >= self.inner.len() {
            // It ends where the device will end: nobody may make it longer meanwhile.
            drop(turn);
            turn = self.busy.turn(from..u64::MAX).await;
        }
        self.write_turn(offset, end, data, flags).await?;
        drop(turn);
        Ok(())
    }

    /// Writes, in its turn, completing the units that it covers in part.
    async fn write_turn(
        &self,
        offset: u64,
        end: u64,
        data: Segments,
        flags: WriteFlags,
    ) -> Result<()> {
        let device_len = self.inner.len();
        let (from, last) = (self.down(offset), self.down(end));
        let mut whole = Segments::new();
        let mut first_unit = None;
        if from < offset {
            let unit = self.unit(from, device_len).await?;
            whole = unit.slice(0, offset - from);
            first_unit = Some(unit);
        }
        whole.append(data);
        if last < end && end < device_len {
            let unit = match first_unit {
                Some(unit) if last == from => unit,
                _ => self.unit(last, device_len).await?,
            };
            let to = self.up(end).min(device_len);
            whole.append(unit.slice(end - last, to - end));
        }
        self.inner.write(from, whole, flags).await
    }

    async fn zero_any(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let end = Self::end(offset, len)?;
        if len == 0 {
            return self.reach(offset).await;
        }
        let mut turn = self.busy.turn(self.down(offset)..self.up(end)).await;
        if !self.is_aligned(end) && end >= self.inner.len() {
            drop(turn);
            turn = self.busy.turn(self.down(offset)..u64::MAX).await;
        }
        let from = self.up(offset).min(end);
        let to = if end >= self.inner.len() { end } else { self.down(end).max(from) };
        // The middle first: where it is refused, nothing has changed.
        if to > from {
            self.inner.write_zeroes(from, to - from, flags).await?;
        }
        for (start, end) in [(offset, from), (to, end)] {
            if end > start {
                let zeroes = Segments::zero(end - start);
                self.write_turn(start, end, zeroes, WriteFlags::empty()).await?;
            }
        }
        drop(turn);
        Ok(())
    }

    async fn discard_any(&self, offset: u64, len: u64) -> Result<()> {
        let (end, device_len) = (Self::end(offset, len)?, self.inner.len());
        check_range(offset, len, device_len)?;
        if !self.capabilities().contains(Capabilities::WRITE) {
            // The device below says it in its words, whatever the range.
            return self.inner.discard(0, 0).await;
        }
        // Units covered in part keep their bytes.
        let from = self.up(offset);
        let to = if end == device_len { end } else { self.down(end) };
        if from >= to {
            return Ok(());
        }
        let _turn = self.busy.turn(from..self.up(to)).await;
        self.inner.discard(from, to - from).await
    }
}

impl BlockDevice for Aligned {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        // A request may gain a unit at each end.
        let grown = limits.request_alignment.saturating_mul(2);
        let max_transfer = match limits.request_alignment {
            0 | 1 => limits.max_transfer,
            _ => limits.max_transfer.saturating_sub(grown),
        };
        Limits { request_alignment: 1, max_transfer, ..limits }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        if self.is_aligned(offset) && self.is_aligned(len) {
            return self.inner.read(offset, len);
        }
        Box::pin(self.read_any(offset, len))
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        if self.unit == 1 {
            return self.inner.write(offset, data, flags);
        }
        Box::pin(self.write_any(offset, data, flags))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if self.unit == 1 {
            return self.inner.write_zeroes(offset, len, flags);
        }
        Box::pin(self.zero_any(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        if self.unit == 1 {
            return self.inner.discard(offset, len);
        }
        Box::pin(self.discard_any(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        if self.unit == 1 {
            return self.inner.set_len(len, preallocation);
        }
        Box::pin(async move {
            let from = self.down(len.min(self.inner.len()));
            let _turn = self.busy.turn(from..u64::MAX).await;
            self.inner.set_len(len, preallocation).await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.inner.info()
    }

    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inner.node()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.inner.event(event)
    }
}

/// Ranges that are being changed. None overlaps another.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    ranges: Mutex<Vec<Range<u64>>>,
    freed: Event,
}

impl Turns {
    /// Waits until nobody changes a byte of `range`, and keeps others from it.
    pub(crate) async fn turn(&self, range: Range<u64>) -> Turn<'_> {
        loop {
            // Listening begins before looking: what is freed in between wakes it.
            let freed = self.freed.listen();
            if self.claim(&range) {
                return Turn { busy: self, range };
            }
            freed.await;
        }
    }

    fn claim(&self, range: &Range<u64>) -> bool {
        let mut ranges = self.ranges.lock();
        if ranges.iter().any(|r| r.start < range.end && range.start < r.end) {
            return false;
        }
        ranges.push(range.clone());
        true
    }
}

/// The right to change a range, until it is dropped.
pub(crate) struct Turn<'a> {
    busy: &'a Turns,
    range: Range<u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut ranges = self.busy.ranges.lock();
        // They do not overlap, so the one that begins here is ours.
        if let Some(i) = ranges.iter().position(|r| *r == self.range) {
            ranges.swap_remove(i);
        }
        drop(ranges);
        self.busy.freed.notify(usize::MAX);
    }
}
