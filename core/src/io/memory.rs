//! A device in memory: sparse, growable, for tests, samples and small targets.

use super::device::check_range;
use super::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, ExtentFlags, HostRange, Limits,
    Preallocation, Segment, Segments, WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::BytesMut;
use core::future::ready;

/// Bytes are kept in pages of this size; a page that was never written takes no memory.
const PAGE: u64 = 4096;

/// A growable device whose bytes live in memory. Untouched pages cost nothing, so it can be as
/// long as a disk.
#[derive(Debug)]
pub struct MemoryDevice {
    name: Arc<str>,
    writable: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl MemoryDevice {
    /// A device of `len` zero bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self {
            name: Arc::from("memory"),
            writable: true,
            state: Mutex::new(State { len, ..State::default() }),
        }
    }

    /// A device that holds `data`.
    #[must_use]
    pub fn with_data(data: &[u8]) -> Self {
        let device = Self::new(data.len() as u64);
        device.state.lock().put(0, data);
        device
    }

    /// The same device under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Arc::from(name);
        self
    }

    /// The same device, refusing every change.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// A copy of all bytes. For tests and small devices: it allocates the whole length.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let state = self.state.lock();
        state.get(0, state.len).to_vec()
    }

    /// An independent device with the same contents.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state.lock();
        Self {
            name: self.name.clone(),
            writable: self.writable,
            state: Mutex::new(State { len: state.len, pages: state.pages.clone() }),
        }
    }

    fn change(&self, f: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        if !self.writable {
            return Err(Error::denied(alloc::format!("'{}' is read-only", self.name)));
        }
        f(&mut self.state.lock())
    }
}

impl State {
    /// Jumps over holes: the cost follows the pages that exist.
    fn get(&self, offset: u64, len: u64) -> Segments {
        let end = offset + len;
        let mut out = Segments::new();
        let mut run = BytesMut::new();
        let mut at = offset;
        for (page, bytes) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            if start > at {
                out.push_data(run.split().freeze());
                out.push_zero(start - at);
                at = start;
            }
            let to = (end - start).min(PAGE);
            run.extend_from_slice(&bytes[(at - start) as usize..to as usize]);
            at = start + to;
        }
        out.push_data(run.freeze());
        out.push_zero(end - at);
        out
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        for (page, from, to) in pages(offset, data.len() as u64) {
            let (now, later) = rest.split_at(to - from);
            self.page(page)[from..to].copy_from_slice(now);
            rest = later;
        }
    }

    fn clear(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in touched {
            let start = page * PAGE;
            let from = offset.saturating_sub(start).min(PAGE) as usize;
            let to = (end - start).min(PAGE) as usize;
            if to - from == PAGE as usize {
                self.pages.remove(&page);
            } else {
                self.page(page)[from..to].fill(0);
            }
        }
    }

    fn page(&mut self, page: u64) -> &mut [u8] {
        self.pages.entry(page).or_insert_with(|| alloc::vec![0; PAGE as usize].into_boxed_slice())
    }
}

/// The pages that a range touches, each with the first and last byte within it.
fn pages(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let last = if len == 0 { offset / PAGE } else { end.div_ceil(PAGE) };
    (offset / PAGE..last).map(move |page| {
        let start = page * PAGE;
        (page, offset.saturating_sub(start) as usize, (end - start).min(PAGE) as usize)
    })
}

impl BlockDevice for MemoryDevice {
    fn len(&self) -> u64 {
        self.state.lock().len
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn capabilities(&self) -> Capabilities {
        let reading = Capabilities::ZERO_INIT | Capabilities::FAST_ZERO;
        if self.writable { reading | Capabilities::WRITE | Capabilities::GROW } else { reading }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        let state = self.state.lock();
        let result = check_range(offset, len, state.len).map(|()| state.get(offset, len));
        Box::pin(ready(result))
    }

    fn write(&self, offset: u64, data: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let result = self.change(|state| {
            check_range(offset, data.len(), u64::MAX)?;
            let mut at = offset;
            for segment in data.as_slice() {
                match segment {
                    Segment::Data(b) => state.put(at, b),
                    Segment::Zero(n) => state.clear(at, *n),
                }
                at += segment.len();
            }
            state.len = state.len.max(at);
            Ok(())
        });
        Box::pin(ready(result))
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        let result = self.change(|state| {
            check_range(offset, len, u64::MAX)?;
            state.clear(offset, len);
            state.len = state.len.max(offset + len);
            Ok(())
        });
        Box::pin(ready(result))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let result = self.change(|state| {
            check_range(offset, len, state.len)?;
            state.clear(offset, len);
            Ok(())
        });
        Box::pin(ready(result))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn set_len(&self, len: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        let result = self.change(|state| {
            if len < state.len {
                let cut = state.len - len;
                state.clear(len, cut);
            }
            state.len = len;
            Ok(())
        });
        Box::pin(ready(result))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let state = self.state.lock();
        let result = check_range(offset, len, state.len).map(|()| {
            let mut out: Vec<Extent> = Vec::new();
            for segment in state.get(offset, len).as_slice() {
                let start = out.last().map_or(offset, Extent::end);
                let flags = match segment {
                    Segment::Data(_) => ExtentFlags::DATA,
                    Segment::Zero(_) => ExtentFlags::ZERO,
                };
                out.push(Extent {
                    start,
                    len: segment.len(),
                    flags: flags | ExtentFlags::ALLOCATED,
                    depth: 0,
                    host: Some(HostRange { file: self.name.clone(), offset: start }),
                });
            }
            out
        });
        Box::pin(ready(result))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        let taken = self.state.lock().pages.len() as u64 * PAGE;
        let filename: String = self.name.to_string();
        Box::pin(ready(Ok(DeviceInfo {
            driver: "memory",
            filename,
            actual_size: Some(taken),
            ..DeviceInfo::default()
        })))
    }
}
