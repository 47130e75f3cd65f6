//! The open image: how it was asked for, and requests on it.

use super::super::args::Cache;
use super::super::host::{Host, Opening, tell_event};
use super::super::objects::Objects;
use super::super::output::print;
use super::super::overlay;
use crate::storage::{Aio, OsError};
use sectora_core::filter::{Blkdebug, BreakpointNotice, CopyOnRead};
use sectora_core::format::{DriverEvent, Layer};
use sectora_core::graph::Options as NodeOptions;
use sectora_core::io::{
    Access, BlockDevice, Device, Extent, Preallocation, Runtime, Segments, WriteFlags, ZeroFlags,
};
use sectora_core::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests are passed on in parts of this size: a whole number of clusters of any size.
const STEP: u64 = 64 << 20;

/// How an image is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The name of the format; probed where it is not given.
    pub(super) format: Option<String>,
    pub(super) read_only: bool,
    /// Writes go to a temporary image and are gone afterwards.
    pub(super) snapshot: bool,
    pub(super) copy_on_read: bool,
    pub(super) force_share: bool,
    pub(super) cache: CacheMode,
    /// Discards reach the image.
    pub(super) unmap: bool,
    pub(super) aio: AioMode,
    /// Options of the image beside its name, or in place of a name.
    pub(super) options: NodeOptions,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: None,
            read_only: false,
            snapshot: false,
            copy_on_read: false,
            force_share: false,
            cache: CacheMode::default(),
            unmap: true,
            aio: AioMode::default(),
            options: NodeOptions::default(),
        }
    }
}

/// What a cache mode means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheMode {
    /// Around the page cache.
    pub(super) direct: bool,
    /// Nothing is made durable.
    pub(super) no_flush: bool,
    /// A write is durable when it is reported.
    pub(super) writethrough: bool,
}

impl CacheMode {
    pub(super) fn parse(mode: &str) -> Option<Self> {
        let (direct, no_flush, writethrough) = match mode {
            "none" | "off" => (true, false, false),
            "directsync" => (true, false, true),
            "writeback" => (false, false, false),
            "unsafe" => (false, true, false),
            "writethrough" => (false, false, true),
            _ => return None,
        };
        Some(Self { direct, no_flush, writethrough })
    }
}

/// How file operations are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AioMode {
    /// By the ring, or by threads where that is forbidden.
    #[default]
    Auto,
    Threads,
    /// By the ring as well, but only around the page cache, as it is known from QEMU.
    Native,
    IoUring,
}

impl AioMode {
    pub(super) fn parse(mode: &str) -> Option<Self> {
        match mode {
            "threads" => Some(Self::Threads),
            "native" => Some(Self::Native),
            "io_uring" => Some(Self::IoUring),
            _ => None,
        }
    }
}

/// What is known of damage of an image.
#[derive(Debug, Default)]
struct Damage {
    /// Some was met, and told.
    told: AtomicBool,
    /// It was such that nothing more is done with the image.
    fatal: AtomicBool,
}

impl Damage {
    /// Tells of what happens to an image, and remembers it.
    fn listen(self: Arc<Self>, layer: &Layer) {
        let driver = layer.driver().name();
        layer.driver().listen(Arc::new(move |event| {
            tell_event(driver, event);
            if let DriverEvent::Corrupted(event) = event {
                self.told.store(true, Ordering::Relaxed);
                self.fatal.fetch_or(event.fatal, Ordering::Relaxed);
            }
        }));
    }
}

/// A node of a live graph, as requests see it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct LiveNode {
    pub(in crate::cli) driver: String,
    pub(in crate::cli) device: Device,
    pub(in crate::cli) layer: Option<Arc<Layer>>,
    pub(in crate::cli) blkdebug: Option<Arc<Blkdebug>>,
}

/// An open image.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    /// The image, where it is one.
    layer: Option<Arc<Layer>>,
    /// Test driver of its node, where it has one.
    pub(super) blkdebug: Option<Arc<Blkdebug>>,
    damage: Arc<Damage>,
    /// The layer, or what stands above it.
    device: Device,
}

impl Disk {
    /// Opens the image `name`.
    pub(super) async fn open(
        runtime: &Arc<dyn Runtime>,
        objects: &Objects,
        name: &str,
        mut settings: Settings,
    ) -> Result<Self> {
        // The options have the last word.
        let read_only = settings.options.clone().take_flag("read-only").unwrap_or(None);
        if read_only == Some(false) {
            settings.options.remove("read-only");
            settings.read_only = false;
        }
        let is_read_only = settings.read_only || read_only == Some(true);
        if name.is_empty() && settings.options.is_empty() {
            return Err(Error::invalid("The 'file' block driver requires a file name"));
        }
        let access = match settings.read_only || settings.snapshot {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        };
        let cache = Cache { direct: settings.cache.direct, no_flush: settings.cache.no_flush };
        let mut options = settings.options.clone();
        if !options.is_empty() {
            options.set_default("discard", if settings.unmap { "unmap" } else { "ignore" });
        }
        let how =
            Opening { access, options, ..Opening::to_read(settings.format.as_deref(), cache) };
        let host =
            Host::by_itself(runtime.clone(), objects.clone(), settings.aio(), settings.force_share);
        let opened = host.open_to_debug(name, how).await;
        let overlaid = settings.snapshot && !settings.copy_on_read && !settings.read_only;
        if overlaid && read_only == Some(true) && opened.is_ok() {
            return Err(Error::denied("Block node is read-only"));
        }
        // Once there is a file this comes before what is in it.
        let is_there = opened.as_ref().err().is_none_or(|e| e.kind() == ErrorKind::Denied);
        if settings.copy_on_read && is_read_only && is_there {
            return Err(Error::denied("Can't use copy-on-read on read-only device"));
        }
        let (mut layer, blkdebug) = opened?;
        let damage: Arc<Damage> = Arc::default();
        damage.clone().listen(&layer);
        if let Some(blkdebug) = &blkdebug {
            blkdebug.on_breakpoint(Arc::new(|notice| {
                let text = match notice {
                    BreakpointNotice::Suspended(tag) => format!("Suspended request '{tag}'"),
                    BreakpointNotice::Resumed(tag) => format!("Resuming request '{tag}'"),
                };
                // What cannot be printed is nobody's to hear of.
                let _ = print(&format!("blkdebug: {text}\n"));
            }));
        }
        if settings.snapshot {
            let access = match settings.read_only {
                true => Access::ReadOnly,
                false => Access::ReadWrite,
            };
            layer = overlay::above(runtime, layer, access).await?;
        }
        let device: Device = match settings.copy_on_read {
            true => Arc::new(CopyOnRead::new(layer.clone())),
            false => layer.clone(),
        };
        let layer = Some(layer);
        Ok(Self { name: Arc::from(name), settings, layer, blkdebug, damage, device })
    }

    /// A node that is open already.
    pub(super) fn of_node(name: &str, read_only: bool, node: LiveNode) -> Self {
        let LiveNode { driver, device, layer, blkdebug } = node;
        let settings = Settings { format: Some(driver), read_only, ..Settings::default() };
        Self { name: Arc::from(name), settings, layer, blkdebug, damage: Arc::default(), device }
    }

    /// The image.
    pub(super) fn layer(&self) -> Result<&Arc<Layer>> {
        self.layer.as_ref().ok_or_else(|| Error::unsupported("Operation not supported"))
    }

    /// The name of its driver.
    pub(super) fn driver(&self) -> &str {
        let named = self.settings.format.as_deref().unwrap_or_default();
        self.layer.as_ref().map_or(named, |layer| layer.driver().name())
    }

    /// What the bytes of a range are.
    pub(super) async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>> {
        match &self.layer {
            Some(layer) => layer.extents(offset, len).await,
            None => self.device.extents(offset, len).await,
        }
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.device.len()
    }

    /// Refuses everything once the image was found to be so damaged that it was marked: from then on
    /// the drive is empty, as with QEMU.
    pub(super) fn medium(&self) -> Result<()> {
        match self.is_given_up() {
            true => Err(Error::io("the image is corrupt").because(OsError::from(no_medium()))),
            false => Ok(()),
        }
    }

    /// True once the image was found to be so damaged that it was marked.
    pub(super) fn is_given_up(&self) -> bool {
        self.damage.fatal.load(Ordering::Relaxed)
    }

    /// Refuses what does not lie within the image as QEMU does: as an error of the disk.
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        self.medium()?;
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Error::io("the range does not lie within the image")),
        }
    }

    /// Reads `len` bytes at `offset`, in parts.
    pub(super) async fn read(&self, offset: u64, len: u64) -> Result<Vec<Segments>> {
        self.check(offset, len)?;
        let mut parts = Vec::new();
        for (at, len) in steps(offset, len) {
            parts.push(self.device.read(at, len).await?);
        }
        Ok(parts)
    }

    /// Writes `data` at `offset`.
    pub(super) async fn write(
        &self,
        offset: u64,
        data: &Segments,
        mut flags: WriteFlags,
    ) -> Result<()> {
        self.check(offset, data.len())?;
        flags.set(
            WriteFlags::FUA,
            self.settings.cache.writethrough || flags.contains(WriteFlags::FUA),
        );
        for (at, len) in steps(offset, data.len()) {
            let part = data.slice(at - offset, len);
            match flags.contains(WriteFlags::COMPRESSED) {
                true => self.write_compressed(at, part, flags).await?,
                false => self.device.write(at, part, flags).await?,
            }
        }
        Ok(())
    }

    /// The engine replaces clusters by compressed ones; whoever knows the command expects it to
    /// stop where something is stored already.
    async fn write_compressed(&self, at: u64, data: Segments, flags: WriteFlags) -> Result<()> {
        let mut free = 0;
        while free < data.len() {
            let extents = self.extents(at + free, data.len() - free).await?;
            let is_stored =
                |e: &Extent| e.depth == 0 && e.is_allocated() && (e.is_data() || e.host.is_some());
            let room = extents.iter().take_while(|e| !is_stored(e)).map(|e| e.len).sum::<u64>();
            free += room;
            if extents.iter().any(is_stored) {
                break;
            }
        }
        let geometry = self.layer()?.driver().geometry();
        let cluster = u64::from(geometry.cluster_size);
        if geometry.compression.is_none() || !at.is_multiple_of(cluster) {
            // The engine says what is wrong.
            free = data.len();
        }
        let whole = if free == data.len() { free } else { free - free % cluster };
        if whole > 0 || data.is_empty() {
            self.device.write(at, data.slice(0, whole), flags).await?;
        }
        match whole == data.len() {
            true => Ok(()),
            false => Err(Error::io("a compressed cluster replaces nothing")),
        }
    }

    /// Writes zeroes.
    pub(super) async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mut flags: ZeroFlags,
        durable: bool,
    ) -> Result<()> {
        self.check(offset, len)?;
        if !self.settings.discards() {
            flags.remove(ZeroFlags::MAY_UNMAP);
        }
        if len > 0 {
            self.device.write_zeroes(offset, len, flags).await?;
        }
        match durable || self.settings.cache.writethrough {
            true => self.device.flush().await,
            false => Ok(()),
        }
    }

    /// Gives up a range, where discards are not ignored.
    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        match self.settings.discards() && len > 0 {
            true => self.device.discard(offset, len).await,
            false => Ok(()),
        }
    }

    /// Reads of the area of the machine's state, which lies beside the guest's disk.
    pub(super) async fn load_vm_state(&self, offset: u64, len: u64) -> Result<Vec<Segments>> {
        let mut parts = Vec::new();
        for at in (0..len.max(1)).step_by(STEP as usize) {
            let len = STEP.min(len - at);
            parts.push(self.layer()?.read_vm_state(offset.saturating_add(at), len).await?);
        }
        Ok(parts)
    }

    /// Writes to the area of the machine's state.
    pub(super) async fn save_vm_state(&self, offset: u64, data: &Segments) -> Result<()> {
        for at in (0..data.len().max(1)).step_by(STEP as usize) {
            let part = data.slice(at, STEP.min(data.len() - at));
            self.layer()?.write_vm_state(offset.saturating_add(at), part).await?;
        }
        match self.settings.cache.writethrough {
            true => self.device.flush().await,
            false => Ok(()),
        }
    }

    pub(super) async fn flush(&self) -> Result<()> {
        self.device.flush().await
    }

    pub(super) async fn resize(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        self.device.set_len(len, preallocation).await
    }

    /// Ends writing.
    pub(super) async fn close(&self) -> Result<()> {
        let Some(layer) = &self.layer else { return Ok(()) };
        match layer.close().await {
            // Why has been told.
            Err(_) if self.is_given_up() => Ok(()),
            result => result,
        }
    }

    /// What is to be said of an error beyond its [`reason`]; damage is told once, when it is met.
    pub(super) fn details(&self, error: &Error) -> Option<String> {
        let told = error.kind() == ErrorKind::Corrupt && self.damage.told.load(Ordering::Relaxed);
        details(error).filter(|_| !told)
    }
}

impl Settings {
    fn aio(&self) -> Aio {
        match self.aio {
            AioMode::Auto => Aio::Auto,
            AioMode::Threads => Aio::Threads,
            AioMode::Native => Aio::Native,
            AioMode::IoUring => Aio::IoUring,
        }
    }

    /// Whether discards are passed on to the image; where its options speak of them, it decides.
    fn discards(&self) -> bool {
        self.unmap || self.options.has("discard")
    }
}

/// A range in parts, at least one.
fn steps(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.max(1)).step_by(STEP as usize).map(move |at| (offset + at, STEP.min(len - at)))
}

/// The error of an empty drive.
fn no_medium() -> std::io::Error {
    rustix::io::Errno::NOMEDIUM.into()
}

/// What the engine says of an error beyond its [`reason`], where that is of use.
pub(super) fn details(error: &Error) -> Option<String> {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Limit | ErrorKind::Bug)
        .then(|| error.to_string())
}
