//! Devices that break the contract, each in one way: what the suite has to find.

use super::{Rng, SimRuntime, yield_now};

use crate::io::{
    BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, ExtentFlags, Limits,
    MemoryDevice, Preallocation, Runtime, Segment, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use event_listener::Event;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// Nothing.
    None,
    /// A zero segment at the end of a write is not written.
    LostZeroTail,
    /// Of many segments only the first ones are written.
    LostSegments,
    /// The last byte of a write that ends in the middle of a sector is lost.
    LostLastByte,
    /// Data that ends past the length is cut off there, though the length grows.
    CutGrowth,
    /// Writes with FUA are not made.
    LostForced,
    /// A compressed write stores zeroes.
    LostCompressed,
    /// Long reads return one byte less.
    ShortRead,
    /// Reads past the end return zeroes.
    PaddedRead,
    /// Ranges are refused with the wrong kind.
    WrongKind,
    /// A range past 64 bits wraps around.
    Wraps,
    /// A range past 64 bits panics.
    Panics,
    /// A device that cannot grow grows.
    GrowsUnasked,
    /// A growing write does not change the length.
    LenLags,
    /// Unaligned requests are taken.
    TakesUnaligned,
    /// Requests of any length are taken.
    TakesOverlong,
    /// Zero writes are rounded to sectors, outwards.
    ZeroesTooMuch,
    /// Zero writes are rounded to sectors, inwards.
    ZeroesTooLittle,
    /// Zero writes that may unmap do nothing.
    UnmapKeeps,
    /// Zero writes without fallback do half of it and then refuse.
    NoFallbackHalf,
    /// Discards are rounded to sectors, outwards.
    DiscardsTooMuch,
    /// Discarded bytes read as something new.
    DiscardsToJunk,
    /// Discards past the end are taken.
    DiscardsAnywhere,
    /// Bytes that were cut off come back with the length.
    StaleTail,
    /// Bytes between the old end and a growing write are not zero.
    JunkGap,
    /// Preallocated bytes are not zero.
    JunkPreallocation,
    /// Length changes are confirmed and not made.
    LostSetLen,
    /// A hole in the list of extents.
    ExtentsGap,
    /// The list ends past the range.
    ExtentsOverrun,
    /// The list is empty.
    ExtentsNone,
    /// An extent is empty.
    ExtentsEmpty,
    /// The list begins at a sector border.
    ExtentsRounded,
    /// Neighbours are not merged.
    ExtentsSplit,
    /// Data is called zero.
    ExtentsLie,
    /// Extents past the end are invented.
    ExtentsPadded,
    /// Read-only, but takes changes.
    WritableAfterAll,
    /// Read-only, and refuses with the wrong kind.
    WrongRefusal,
    /// Only the first flush succeeds.
    FlushFailsLater,
    /// Flushes never complete.
    FlushHangs,
    /// Flushes are confirmed and not made.
    FlushLies,
    /// No name.
    Nameless,
    /// Writes read a whole block, wait, and write it back.
    LosesNeighbours,
    /// Writes in flight share one buffer.
    SharedBuffer,
    /// Abandoned changes land whenever they like.
    LandsLate,
    /// The same for zero writes alone.
    ZeroesLandLate,
    /// Abandoned writes land late, and their hold is let go at once.
    LetsGoEarly,
    /// The hold on the data is never let go.
    NeverLetsGo,
    /// A flush does not wait for abandoned writes, though later writes do.
    FlushOvertakes,
}

/// A memory device with a bug. Its calls wait before and after their effect.
#[derive(Debug)]
pub(super) struct BrokenDevice {
    bug: Bug,
    inner: Device,
    runtime: SimRuntime,
    limits: Limits,
    capabilities: Capabilities,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    landed: Event,
}

#[derive(Debug, Default)]
struct State {
    cut_off: Vec<(u64, Vec<u8>)>,
    buffer: Option<Segments>,
    kept: Vec<Segments>,
    flushes: u64,
    in_flight: usize,
    lag: Option<u64>,
}

impl BrokenDevice {
    pub(super) fn new(bug: Bug, runtime: &SimRuntime) -> Self {
        Self::over(Arc::new(MemoryDevice::new(0)), bug, runtime)
    }

    pub(super) fn over(inner: Device, bug: Bug, runtime: &SimRuntime) -> Self {
        Self {
            bug,
            capabilities: inner.capabilities(),
            inner,
            runtime: runtime.clone(),
            limits: Limits { max_transfer: 1 << 20, granularity: 4096, ..Limits::default() },
            shared: Arc::default(),
        }
    }

    pub(super) fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same device with a fixed length.
    pub(super) fn fixed(mut self) -> Self {
        self.capabilities.remove(Capabilities::GROW);
        self
    }

    pub(super) fn with_capabilities(mut self, more: Capabilities) -> Self {
        self.capabilities.insert(more);
        self
    }

    /// The same device, which claims to take no changes.
    pub(super) fn read_only(mut self) -> Self {
        self.capabilities = Capabilities::ZERO_INIT;
        self
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// The checks that every request goes through.
    fn admit(&self, offset: u64, len: u64, data: bool, grows: bool) -> Result<()> {
        let can_grow = self.capabilities.contains(Capabilities::GROW);
        let grows = grows && (can_grow || self.is(Bug::GrowsUnasked));
        if self.is(Bug::Panics) {
            assert!(offset.checked_add(len).is_some(), "attempt to add with overflow");
        }
        if self.is(Bug::Wraps) && offset.checked_add(len).is_none() {
            return Ok(());
        }
        let limit = if grows { u64::MAX } else { self.inner.len() };
        check_range(offset, len, limit).map_err(|error| match self.bug {
            Bug::WrongKind => Error::io("bad range"),
            _ => error,
        })?;
        let align = u64::from(self.limits.request_alignment);
        if data
            && !self.is(Bug::TakesUnaligned)
            && !(offset.is_multiple_of(align) && len.is_multiple_of(align))
        {
            return Err(Error::invalid("not aligned"));
        }
        if data && !self.is(Bug::TakesOverlong) && len > u64::from(self.limits.max_transfer) {
            return Err(Error::invalid("too long"));
        }
        Ok(())
    }

    fn writable(&self) -> Result<()> {
        match self.bug {
            _ if self.capabilities.contains(Capabilities::WRITE) => Ok(()),
            Bug::WritableAfterAll => Ok(()),
            Bug::WrongRefusal => Err(Error::io("bad file descriptor")),
            _ => Err(Error::denied("read-only")),
        }
    }

    /// Runs an effect that may outlive its caller: with the bugs about abandoned changes it lands
    /// by itself, some time later.
    async fn land(&self, effect: BoxFuture<'static, Result<()>>) -> Result<()> {
        let slot = Arc::new((Mutex::new(None), Event::new()));
        let (out, runtime) = (slot.clone(), self.runtime.clone());
        let delay =
            Duration::from_micros(Rng::new(self.shared.state.lock().flushes).between(50, 900));
        self.runtime.spawn(Box::pin(async move {
            runtime.sleep(delay).await;
            let result = effect.await;
            *out.0.lock() = Some(result);
            out.1.notify(usize::MAX);
        }));
        loop {
            let listener = slot.1.listen();
            let result = slot.0.lock().take();
            match result {
                Some(result) => return result,
                None => listener.await,
            }
        }
    }

    async fn settle(&self) {
        loop {
            let listener = self.shared.landed.listen();
            if self.shared.state.lock().in_flight == 0 {
                return;
            }
            listener.await;
        }
    }
}

/// A plain copy of the data, without its hold.
fn without_hold(data: &Segments) -> Segments {
    let mut out = Segments::new();
    data.as_slice().iter().for_each(|segment| out.push(segment.clone()));
    out
}

/// A range rounded to sectors, outwards.
fn outwards(offset: u64, len: u64, device_len: u64) -> (u64, u64) {
    let end = (offset + len).next_multiple_of(512).min(device_len.max(offset + len));
    (offset / 512 * 512, end - offset / 512 * 512)
}

impl BlockDevice for BrokenDevice {
    fn len(&self) -> u64 {
        self.shared.state.lock().lag.unwrap_or_else(|| self.inner.len())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            yield_now().await;
            if self.is(Bug::PaddedRead) && offset.checked_add(len).is_some() {
                let inside = self.inner.len().saturating_sub(offset).min(len);
                let mut data = match inside {
                    0 => Segments::new(),
                    n => self.inner.read(offset, n).await?,
                };
                data.push_zero(len - inside);
                return Ok(data);
            }
            self.admit(offset, len, true, false)?;
            if offset.checked_add(len).is_none() {
                return Ok(Segments::zero(len));
            }
            let data = self.inner.read(offset, len).await?;
            yield_now().await;
            Ok(if self.is(Bug::ShortRead) && len > 5000 { data.slice(0, len - 1) } else { data })
        })
    }

    fn write(
        &self,
        offset: u64,
        mut data: Segments,
        flags: WriteFlags,
    ) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            self.admit(offset, data.len(), true, true)?;
            if offset.checked_add(data.len()).is_none() {
                return Ok(());
            }
            let end = offset + data.len();
            match self.bug {
                Bug::LandsLate | Bug::LetsGoEarly => {
                    let inner = self.inner.clone();
                    let data = match self.bug {
                        Bug::LetsGoEarly => without_hold(&data),
                        _ => data,
                    };
                    let effect = async move { inner.write(offset, data, flags).await };
                    return self.land(Box::pin(effect)).await;
                }
                Bug::FlushOvertakes => {
                    self.settle().await;
                    let (inner, shared) = (self.inner.clone(), self.shared.clone());
                    shared.state.lock().in_flight += 1;
                    let effect = async move {
                        let result = inner.write(offset, data, flags).await;
                        shared.state.lock().in_flight -= 1;
                        shared.landed.notify(usize::MAX);
                        result
                    };
                    return self.land(Box::pin(effect)).await;
                }
                _ => yield_now().await,
            }
            match self.bug {
                Bug::LostForced if flags.contains(WriteFlags::FUA) => return Ok(()),
                Bug::LostCompressed if flags.contains(WriteFlags::COMPRESSED) => {
                    data = Segments::zero(data.len());
                }
                Bug::LostZeroTail => {
                    if let [.., Segment::Zero(n)] = data.as_slice() {
                        data = data.slice(0, data.len() - n);
                    }
                }
                Bug::LostSegments if data.as_slice().len() > 1024 => {
                    let kept = data.as_slice().iter().take(1024).map(Segment::len).sum();
                    data = data.slice(0, kept);
                }
                Bug::LostLastByte if !end.is_multiple_of(512) && data.len() > 1 => {
                    data = data.slice(0, data.len() - 1);
                }
                Bug::CutGrowth if end > self.inner.len() => {
                    let inside = self.inner.len().saturating_sub(offset).min(data.len());
                    data = data.slice(0, inside);
                    data.push_zero(end - offset - inside);
                }
                Bug::LenLags if end > self.inner.len() => {
                    self.shared.state.lock().lag = Some(self.inner.len());
                }
                Bug::JunkGap if offset > self.inner.len() => {
                    let from = self.inner.len();
                    let junk = vec![0xee; (offset - from) as usize];
                    self.inner.write(from, junk.into(), flags).await?;
                }
                Bug::NeverLetsGo => self.shared.state.lock().kept.push(data.clone()),
                Bug::LosesNeighbours if !data.is_empty() => {
                    let from = offset / 4096 * 4096;
                    let to = end.next_multiple_of(4096).min(self.inner.len().max(end));
                    if to > self.inner.len() {
                        self.inner.set_len(to, Preallocation::Off).await?;
                    }
                    let mut block = self.inner.read(from, to - from).await?.to_vec();
                    yield_now().await;
                    data.copy_to(&mut block[(offset - from) as usize..(end - from) as usize]);
                    return self.inner.write(from, block.into(), flags).await;
                }
                Bug::SharedBuffer => {
                    let len = data.len();
                    self.shared.state.lock().buffer = Some(without_hold(&data));
                    yield_now().await;
                    if let Some(other) = self.shared.state.lock().buffer.clone()
                        && other.len() == len
                    {
                        data = other;
                    }
                }
                _ => {}
            }
            self.inner.write(offset, data, flags).await?;
            yield_now().await;
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            self.admit(offset, len, false, true)?;
            if offset.checked_add(len).is_none() {
                return Ok(());
            }
            let (mut offset, mut len) = (offset, len);
            match self.bug {
                Bug::LandsLate | Bug::ZeroesLandLate => {
                    let inner = self.inner.clone();
                    let effect = async move { inner.write_zeroes(offset, len, flags).await };
                    return self.land(Box::pin(effect)).await;
                }
                Bug::FlushOvertakes => self.settle().await,
                Bug::ZeroesTooMuch => (offset, len) = outwards(offset, len, self.inner.len()),
                Bug::ZeroesTooLittle if offset + len <= self.inner.len() => {
                    let end = (offset + len) / 512 * 512;
                    offset = offset.next_multiple_of(512);
                    len = end.saturating_sub(offset);
                }
                Bug::UnmapKeeps
                    if flags.contains(ZeroFlags::MAY_UNMAP) && offset + len <= self.inner.len() =>
                {
                    return Ok(());
                }
                Bug::NoFallbackHalf if flags.contains(ZeroFlags::NO_FALLBACK) => {
                    self.inner.write_zeroes(offset, len / 2, flags).await?;
                    return Err(Error::unsupported("no fast zeroes"));
                }
                Bug::JunkGap if offset > self.inner.len() => {
                    let from = self.inner.len();
                    let junk = vec![0xee; (offset - from) as usize];
                    self.inner.write(from, junk.into(), WriteFlags::empty()).await?;
                }
                _ => {}
            }
            yield_now().await;
            self.inner.write_zeroes(offset, len, flags).await?;
            yield_now().await;
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            let (mut offset, mut len) = (offset, len);
            if self.is(Bug::DiscardsAnywhere) {
                offset = offset.min(self.inner.len());
                len = len.min(self.inner.len() - offset);
            }
            self.admit(offset, len, false, false)?;
            if offset.checked_add(len).is_none() {
                return Ok(());
            }
            yield_now().await;
            match self.bug {
                Bug::DiscardsTooMuch => (offset, len) = outwards(offset, len, self.inner.len()),
                Bug::DiscardsToJunk => {
                    let junk = vec![0xdd; len as usize];
                    return self.inner.write(offset, junk.into(), WriteFlags::empty()).await;
                }
                Bug::FlushOvertakes => self.settle().await,
                _ => {}
            }
            self.inner.discard(offset, len).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.shared.state.lock().flushes += 1;
            match self.bug {
                Bug::FlushFailsLater if self.shared.state.lock().flushes > 1 => {
                    return Err(Error::io("flush fails"));
                }
                Bug::FlushHangs => core::future::pending().await,
                Bug::FlushLies => return Ok(()),
                _ => {}
            }
            yield_now().await;
            self.inner.flush().await
        })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            let old = self.inner.len();
            match self.bug {
                Bug::FlushOvertakes => self.settle().await,
                // The length the suite wants is set, later ones are not.
                Bug::LostSetLen if old > 0 => return Ok(()),
                Bug::StaleTail if len < old => {
                    let tail = self.inner.read(len, old - len).await?.to_vec();
                    self.shared.state.lock().cut_off.push((len, tail));
                }
                _ => {}
            }
            yield_now().await;
            self.inner.set_len(len, preallocation).await?;
            if self.is(Bug::StaleTail) && len > old {
                let cut_off = core::mem::take(&mut self.shared.state.lock().cut_off);
                for (offset, tail) in cut_off {
                    let fits = len.saturating_sub(offset).min(tail.len() as u64);
                    let tail = Segments::from(tail).slice(0, fits);
                    self.inner.write(offset, tail, WriteFlags::empty()).await?;
                }
            }
            if self.is(Bug::JunkPreallocation)
                && preallocation == Preallocation::Falloc
                && len > old
            {
                let junk = vec![0xaa; (len - old) as usize];
                self.inner.write(old, junk.into(), WriteFlags::empty()).await?;
            }
            Ok(())
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            yield_now().await;
            if self.is(Bug::ExtentsPadded) && offset.checked_add(len).is_some() {
                let flags = ExtentFlags::ZERO;
                if offset + len > self.inner.len() {
                    return Ok(vec![Extent { start: offset, len, flags, depth: 0, host: None }]);
                }
            }
            self.admit(offset, len, false, false)?;
            if offset.checked_add(len).is_none() {
                return Ok(Vec::new());
            }
            let mut list = self.inner.extents(offset, len).await?;
            let Some(first) = list.first_mut() else { return Ok(list) };
            match self.bug {
                Bug::ExtentsRounded => {
                    first.start = offset / 512 * 512;
                    first.len += offset % 512;
                }
                Bug::ExtentsGap => list.retain(|extent| extent.start == offset || extent.is_data()),
                Bug::ExtentsOverrun => {
                    if let Some(last) = list.last_mut() {
                        last.len += (last.end()).next_multiple_of(4096) - last.end();
                    }
                }
                Bug::ExtentsNone if offset >= 4096 => list.clear(),
                Bug::ExtentsEmpty => {
                    let mut empty = list[0].clone();
                    empty.len = 0;
                    list.insert(0, empty);
                }
                Bug::ExtentsSplit if first.len >= 8192 => {
                    let (end, first) = (first.end(), first.clone());
                    list[0] = first.clip(offset, offset + 4096);
                    list.insert(1, first.clip(offset + 4096, end));
                }
                Bug::ExtentsLie => {
                    for extent in list.iter_mut().filter(|extent| extent.len > 20_000) {
                        extent.flags = ExtentFlags::ZERO;
                        extent.host = None;
                    }
                }
                _ => {}
            }
            Ok(list)
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            let driver = if self.is(Bug::Nameless) { "" } else { "broken" };
            Ok(DeviceInfo { driver, ..self.inner.info().await? })
        })
    }
}
