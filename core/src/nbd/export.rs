//! What a server offers under one name.

use super::client::BlockSizes;
use super::layout::{
    ALLOCATION_DEPTH, AllocationState, BASE_ALLOCATION, DIRTY_BITMAP, MAX_CONTEXTS, MAX_PAYLOAD,
    MAX_STATUS_EXTENTS, MAX_STRING, TransmissionFlags,
};
use super::message::Mode;
use crate::bitmap::DirtyBitmap;
use crate::io::{BlockDevice, BoxFuture, Capabilities, Device, Extent};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Tells the status of extents in one metadata context ("Metadata querying").
pub trait StatusProvider: Send + Sync {
    /// The context's name, with its namespace: `base:allocation`.
    fn name(&self) -> &str;

    /// Lengths in bytes and status of the extents from `offset` on, the same status never twice in
    /// a row, for at most `len` bytes and at most `most` extents. Never empty, and may end early.
    fn status(&self, offset: u64, len: u64, most: usize) -> BoxFuture<'_, Result<Vec<(u64, u64)>>>;
}

/// How a device is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What it is, for people; at most 4096 bytes.
    pub description: Option<String>,
    /// Refuse changes. A device that cannot be written to is read-only anyway.
    pub read_only: bool,
    /// Several clients may use it at the same time (`CAN_MULTI_CONN`).
    pub shared: bool,
    /// `qemu:allocation-depth` is offered.
    pub allocation_depth: bool,
    /// Only from this offset.
    pub offset: u64,
    /// Only so many bytes; all to the end where it is not said.
    pub length: Option<u64>,
    /// Make everything durable before it is reported as written (cache mode `writethrough`).
    pub writethrough: bool,
    /// Trimmed ranges are given up, and zeroed ones where the client allows it; else a trim does
    /// nothing.
    pub discard: bool,
    /// Written blocks that are zero throughout are written as zeroes, and given up where the
    /// second is true.
    pub detect_zeroes: Option<bool>,
}

/// A device under a name.
pub struct Export {
    pub(super) name: String,
    pub(super) device: Device,
    pub(super) options: ExportOptions,
    pub(super) contexts: Vec<Box<dyn StatusProvider>>,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("device", &self.device)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Export {
    /// Offers `device` under `name`, with its allocation as a context.
    ///
    /// # Errors
    /// `InvalidInput` for a name or description that is too long, or an offset past the end.
    pub fn new(name: &str, device: Device, options: ExportOptions) -> Result<Self> {
        if name.len() > MAX_STRING {
            return Err(Error::invalid(format!("export name '{name}' too long")));
        }
        if let Some(description) = options.description.as_deref()
            && description.len() > MAX_STRING
        {
            return Err(Error::invalid(format!("export description '{description}' too long")));
        }
        if options.offset > device.len() {
            return Err(Error::invalid(format!(
                "Offset {} must not be greater than the image size {}",
                options.offset,
                device.len()
            )));
        }
        let mut export = Self { name: name.to_string(), device, options, contexts: Vec::new() };
        export.add_context(Box::new(BaseAllocation(export.device.clone())))?;
        if export.options.allocation_depth {
            export.add_context(Box::new(AllocationDepth(export.device.clone())))?;
        }
        Ok(export)
    }

    /// Offers one more context. Its offsets are the device's.
    ///
    /// # Errors
    /// `Limit` where there are too many.
    pub fn add_context(&mut self, provider: Box<dyn StatusProvider>) -> Result<()> {
        if self.contexts.len() >= MAX_CONTEXTS {
            return Err(Error::limit(format!("more than {MAX_CONTEXTS} contexts")));
        }
        self.contexts.push(provider);
        Ok(())
    }

    /// The name clients ask for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device itself.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The names of the contexts.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(|context| context.name())
    }

    /// Length in bytes of what is exported.
    #[must_use]
    pub fn size(&self) -> u64 {
        let all = self.device.len().saturating_sub(self.options.offset);
        self.options.length.map_or(all, |length| length.min(all))
    }

    /// True where changes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only || !self.device.capabilities().contains(Capabilities::WRITE)
    }

    pub(super) fn flags(&self, mode: Mode) -> TransmissionFlags {
        let mut flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_CACHE;
        let writable = TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::SEND_FAST_ZERO;
        let read_only = self.is_read_only();
        flags.set(TransmissionFlags::READ_ONLY, read_only);
        flags.set(writable, !read_only);
        flags.set(TransmissionFlags::CAN_MULTI_CONN, self.options.shared);
        flags.set(TransmissionFlags::SEND_DF, mode >= Mode::Structured);
        flags.set(TransmissionFlags::BLOCK_STATUS_PAYLOAD, mode == Mode::Extended);
        flags
    }

    pub(super) fn block_sizes(&self) -> BlockSizes {
        let limits = self.device.limits();
        let minimum = limits.request_alignment.clamp(1, 64 << 10);
        BlockSizes { minimum, preferred: minimum.max(4096), maximum: MAX_PAYLOAD as u32 }
    }
}

/// A device is asked for extents so many times for one request; a request for the whole of a large
/// image with many small extents is answered in part.
const MAX_ASKED: usize = 64;

/// Status of extents of a device by what `state` makes of each.
async fn status_of(
    device: &dyn BlockDevice,
    (offset, len): (u64, u64),
    most: usize,
    state: impl Fn(&Extent) -> u64,
) -> Result<Vec<(u64, u64)>> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    let (mut at, end) = (offset, offset + len);
    for _ in 0..MAX_ASKED {
        if at >= end {
            break;
        }
        for extent in device.extents(at, end - at).await? {
            let extent = extent.clip(at, end);
            let state = state(&extent);
            at = extent.end();
            let full = out.len() >= most.min(MAX_STATUS_EXTENTS);
            match out.last_mut() {
                Some((len, last)) if *last == state => *len += extent.len,
                _ if full => return Ok(out),
                _ => out.push((extent.len, state)),
            }
        }
    }
    Ok(out)
}

/// `base:allocation`: holes and zeroes, as [`AllocationState`].
#[derive(Debug)]
pub struct BaseAllocation(
    /// The device that tells.
    pub Device,
);

impl StatusProvider for BaseAllocation {
    fn name(&self) -> &str {
        BASE_ALLOCATION
    }

    fn status(&self, offset: u64, len: u64, most: usize) -> BoxFuture<'_, Result<Vec<(u64, u64)>>> {
        Box::pin(status_of(&*self.0, (offset, len), most, |extent| {
            let mut state = AllocationState::empty();
            state.set(AllocationState::HOLE, !extent.is_data());
            state.set(AllocationState::ZERO, extent.is_zero());
            state.bits()
        }))
    }
}

/// `qemu:allocation-depth`: 0 where nothing is allocated, 1 for the image itself, 2 for its
/// backing file, and so on.
#[derive(Debug)]
pub struct AllocationDepth(
    /// The device that tells.
    pub Device,
);

impl StatusProvider for AllocationDepth {
    fn name(&self) -> &str {
        ALLOCATION_DEPTH
    }

    fn status(&self, offset: u64, len: u64, most: usize) -> BoxFuture<'_, Result<Vec<(u64, u64)>>> {
        Box::pin(status_of(&*self.0, (offset, len), most, |extent| match extent.is_allocated() {
            true => u64::from(extent.depth) + 1,
            false => 0,
        }))
    }
}

/// `qemu:dirty-bitmap:NAME`: 1 where the bitmap is dirty.
#[derive(Debug)]
pub struct BitmapContext {
    name: String,
    bitmap: Arc<DirtyBitmap>,
}

impl BitmapContext {
    /// A context of the bitmap's own name. It tells what is dirty when it is asked.
    #[must_use]
    pub fn new(bitmap: Arc<DirtyBitmap>) -> Self {
        Self { name: format!("{DIRTY_BITMAP}{}", bitmap.name()), bitmap }
    }
}

impl StatusProvider for BitmapContext {
    fn name(&self) -> &str {
        &self.name
    }

    fn status(&self, offset: u64, len: u64, most: usize) -> BoxFuture<'_, Result<Vec<(u64, u64)>>> {
        let (mut at, end) = (offset, offset.saturating_add(len));
        let mut out = Vec::new();
        // Each look is one of its own: a write in between may join what was apart.
        while at < end && out.len() < most.clamp(1, MAX_STATUS_EXTENTS) {
            let (stop, state) = match self.bitmap.next_dirty_area(at, end - at, u64::MAX) {
                Some((start, len)) if start <= at => (start.saturating_add(len).min(end), 1),
                Some((start, _)) => (start, 0),
                None => (end, 0),
            };
            match out.last_mut() {
                Some((len, last)) if *last == state => *len += stop - at,
                _ => out.push((stop - at, state)),
            }
            at = stop;
        }
        Box::pin(core::future::ready(Ok(out)))
    }
}

/// The exports of a server, as a connection sees them.
pub(super) type Exports = [Arc<Export>];
