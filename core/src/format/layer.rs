//! A layer: an opened format over its devices, a device itself.

use super::{ByOptions, Child, Driver, EncryptionOptions, FormatName, KeySource, Place, transfer};
use crate::bitmap::BitmapSet;
use crate::io::{
    Access, BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent,
    ExtentFlags, HostRange, Limits, OpenPolicy, Preallocation, Runtime, Segments, WriteFlags,
    ZeroFlags, raise,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

/// One answer of [`Layer::extents`] holds about so many at most, whatever the image.
const MAX_EXTENTS: usize = 1024;

/// What opening an image needs from its surroundings.
#[derive(Clone)]
pub struct Env {
    /// The host.
    pub runtime: Arc<dyn Runtime>,
    /// Decides about files that images name.
    pub policy: Arc<dyn OpenPolicy>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// What to do about an image's backing file.
#[derive(Clone, Debug, Default)]
pub enum Backing {
    /// Open it through the policy; an image without it does not open.
    #[default]
    Follow,
    /// Leave it closed. Only the image's metadata is right then: unallocated ranges read as
    /// zeroes.
    Ignore,
    /// This one is it, whatever the image says.
    Given(Arc<Layer>),
    /// This device is it, which need be no image; one of length 0 is as good as none.
    Device(Device),
}

/// What stands below a layer.
#[derive(Debug)]
pub(super) enum Below {
    /// An image.
    Image(Arc<Layer>),
    /// Some other device.
    Device(Device),
}

impl Below {
    pub(super) fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Image(layer) => &**layer,
            Self::Device(device) => &**device,
        }
    }
}

/// What is done with written bytes that are zeroes (the schema's
/// `BlockdevDetectZeroesOptions`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are not looked for.
    #[default]
    Off,
    /// A request of nothing but zeroes is a zero write.
    On,
    /// The same, and its space may be given back.
    Unmap,
}

/// What to do about an image's external data file.
#[derive(Clone, Debug, Default)]
pub enum DataSource {
    /// Open it through the policy; an image without it does not open.
    #[default]
    Follow,
    /// Leave it closed: only the image's metadata can be looked at then.
    Ignore,
    /// It is open already. An image that has none does not open.
    Given(DataFile),
}

impl From<Option<DataFile>> for DataSource {
    fn from(given: Option<DataFile>) -> Self {
        given.map_or(Self::Follow, Self::Given)
    }
}

/// How to open an image.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The format was found by looking at the image.
    pub guessed: bool,
    /// The format; probed where it is `None`.
    pub format: Option<FormatName>,
    /// Read only, or write too.
    pub access: Access,
    /// The backing file.
    pub backing: Backing,
    /// What opens backing files that images name by options. Where there is nothing, the policy is
    /// asked for such a name as for any other.
    pub by_options: Option<ByOptions>,
    /// The external data file.
    pub data_file: DataSource,
    /// The key of an encrypted image.
    pub key: KeySource,
    /// What else is said of its encryption.
    pub encryption: EncryptionOptions,
    /// Read this internal snapshot (its id or name) instead of the active state.
    pub snapshot: Option<alloc::string::String>,
    /// Whether discards are carried out, or ignored. Zero writes give back no space where they are
    /// ignored.
    pub discard: bool,
    /// What is done with written bytes that are zeroes.
    pub detect_zeroes: DetectZeroes,
    /// What only raw images know.
    #[cfg(feature = "raw")]
    pub raw: super::raw::OpenOptions,
    /// What only qcow2 images know.
    #[cfg(feature = "qcow2")]
    pub qcow2: super::qcow2::OpenOptions,
    /// Only to be checked, and repaired where the access allows it: damage that keeps an image
    /// from being used does not keep it from being opened, nothing is repaired by the opening
    /// itself, and the guest's data can be neither read nor written.
    pub check: bool,
    /// No format was asked for, only the bytes as the file has them: what is told of the image is
    /// what is told of the file.
    pub bare: bool,
    /// Whether refcounts are written only now and then (the schema's `lazy-refcounts`); as the
    /// image says where it is `None`.
    pub lazy_refcounts: Option<bool>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            guessed: false,
            format: None,
            access: Access::ReadOnly,
            backing: Backing::Follow,
            by_options: None,
            data_file: DataSource::Follow,
            key: KeySource::None,
            encryption: EncryptionOptions::default(),
            snapshot: None,
            discard: true,
            detect_zeroes: DetectZeroes::Off,
            #[cfg(feature = "raw")]
            raw: super::raw::OpenOptions::default(),
            #[cfg(feature = "qcow2")]
            qcow2: super::qcow2::OpenOptions::default(),
            check: false,
            bare: false,
            lazy_refcounts: None,
        }
    }
}

/// An external data file and the name it was opened by.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// The device.
    pub device: Device,
    /// Its name.
    pub filename: Arc<str>,
}

/// An opened image: a format, the devices it lives on, and the backing chain under it.
///
/// Every byte of every format moves through here.
pub struct Layer {
    pub(super) driver: Box<dyn Driver>,
    pub(super) bitmaps: Arc<BitmapSet>,
    pub(super) file: Device,
    pub(super) data: Option<DataFile>,
    pub(super) below: Option<Below>,
    pub(super) filename: Arc<str>,
    /// The name of the file that the image is in: the image's own, but for one that is described.
    pub(super) file_name: Arc<str>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) access: Access,
    /// The format was guessed from the contents, and the guess was "raw".
    pub(super) guessed_raw: bool,
    pub(super) bare: bool,
    pub(super) discard: bool,
    pub(super) detect_zeroes: DetectZeroes,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("filename", &self.filename)
            .field("driver", &self.driver)
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// The format's rules.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The named bitmaps of this disk. Every change of its contents is recorded in those that
    /// record, before it begins.
    #[must_use]
    pub fn bitmaps(&self) -> &Arc<BitmapSet> {
        &self.bitmaps
    }

    /// The name the image was opened by.
    #[must_use]
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The image file.
    #[must_use]
    pub fn file(&self) -> &Device {
        &self.file
    }

    /// The external data file, where there is one.
    #[must_use]
    pub fn data_file(&self) -> Option<&DataFile> {
        self.data.as_ref()
    }

    /// The image this one stands on, where it was opened together with it.
    #[must_use]
    pub fn backing(&self) -> Option<&Arc<Self>> {
        match &self.below {
            Some(Below::Image(layer)) => Some(layer),
            _ => None,
        }
    }

    /// What is read where this layer has nothing of its own.
    pub(super) fn below(&self) -> Option<&dyn BlockDevice> {
        self.below.as_ref().map(Below::device)
    }

    /// True where the format was guessed and nothing was recognised.
    #[must_use]
    pub fn guessed_raw(&self) -> bool {
        self.guessed_raw
    }

    /// True for a file without a format.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// Ends writing to this image: everything is durable, and the image is one that was closed
    /// cleanly. Only the image itself: what stands below it was not written to. Dropping an image
    /// without it loses what was not flushed.
    ///
    /// # Errors
    /// Those of the devices; the image is as after a crash then.
    pub async fn close(&self) -> Result<()> {
        match self.access {
            Access::ReadWrite => {
                self.driver.close().await?;
                if let Some(data) = &self.data {
                    data.device.close().await?;
                }
                self.file.close().await
            }
            Access::ReadOnly => Ok(()),
        }
    }

    pub(super) fn child(&self, child: Child) -> &Device {
        match child {
            Child::File => &self.file,
            Child::Data => self.data.as_ref().map_or(&self.file, |data| &data.device),
        }
    }

    fn writable(&self) -> Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => {
                Err(Error::denied(format!("'{}' was opened read-only", self.filename)))
            }
        }
    }

    async fn extents_of(&self, start: u64, len: u64) -> Result<Vec<Extent>> {
        crate::io::check_range(start, len, self.len())?;
        let mut out: Vec<Extent> = Vec::new();
        let mapping = self.driver.map(start, len).await?;
        let raw = mapping.pieces.iter().any(|piece| matches!(piece.place, Place::Raw { .. }));
        // Neither holes nor places mean anything to who cannot decrypt what is there.
        let encrypted = self.driver.encryption().is_some();
        let refines = raw && !encrypted && self.driver.refines_extents().await?;
        let mut at = start;
        for piece in &mapping.pieces {
            if out.len() >= MAX_EXTENTS {
                break;
            }
            let extent = |flags, host| Extent { start: at, len: piece.len, flags, depth: 0, host };
            let host = |child: Child, offset| {
                (!encrypted).then(|| HostRange { file: self.child_name(child), offset })
            };
            match piece.place {
                Place::Raw { child, offset } if refines => {
                    for e in
                        self.refined((child, self.child_name(child)), offset, at, piece.len).await?
                    {
                        push(&mut out, e);
                    }
                }
                Place::Raw { child, offset } => {
                    let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
                    push(&mut out, extent(flags, host(child, offset)));
                }
                Place::Zero { reserved } => {
                    let flags = ExtentFlags::ZERO | ExtentFlags::ALLOCATED;
                    push(&mut out, extent(flags, reserved.and_then(|(child, at)| host(child, at))));
                }
                Place::Compressed { .. } => {
                    let flags =
                        ExtentFlags::DATA | ExtentFlags::COMPRESSED | ExtentFlags::ALLOCATED;
                    push(&mut out, extent(flags, None));
                }
                Place::Unallocated { reserved } => {
                    let reserved = reserved.and_then(|(child, at)| host(child, at));
                    for e in self.backing_extents(at, piece.len, reserved).await? {
                        push(&mut out, e);
                    }
                }
            }
            at += piece.len;
        }
        Ok(out)
    }

    /// Splits a raw piece by what the device below knows of it.
    async fn refined(
        &self,
        (child, file): (Child, Arc<str>),
        host: u64,
        guest: u64,
        len: u64,
    ) -> Result<Vec<Extent>> {
        let device = self.child(child);
        let dense = self.driver.name() != "raw";
        if !dense && device.node().is_some() {
            return passed_on(device, host, guest, len).await;
        }
        let mut out = Vec::new();
        let mut done = 0;
        while done < len && out.len() < MAX_EXTENTS {
            let inside = device.len().saturating_sub(host + done).min(len - done);
            let below = match inside {
                0 => Vec::new(),
                n => device.extents(host + done, n).await?,
            };
            // Nothing below: past the end of the file.
            let runs = match below.is_empty() {
                true => alloc::vec![(len - done, true, false, true)],
                false => below
                    .iter()
                    .map(|e| (e.len, e.is_zero(), e.is_data() || dense, e.is_allocated()))
                    .collect(),
            };
            for (len, zero, data, allocated) in runs {
                let mut flags = ExtentFlags::empty();
                flags.set(ExtentFlags::ZERO, zero);
                flags.set(ExtentFlags::DATA, data);
                // What the file knows nothing of has no place in it.
                let known = allocated || !flags.is_empty();
                flags.set(ExtentFlags::ALLOCATED, known);
                let place = known.then(|| HostRange { file: file.clone(), offset: host + done });
                out.push(Extent { start: guest + done, len, flags, depth: 0, host: place });
                done += len;
            }
        }
        Ok(out)
    }

    /// The extents of what this layer leaves to the one below; `reserved` is the space for it in
    /// this layer's own file, told where nothing is below.
    async fn backing_extents(
        &self,
        start: u64,
        len: u64,
        reserved: Option<HostRange>,
    ) -> Result<Vec<Extent>> {
        let end = start + len;
        let mut out = Vec::new();
        let mut at = start;
        if let Some(backing) = self.below() {
            while at < end.min(backing.len()) {
                if out.len() >= MAX_EXTENTS {
                    return Ok(out);
                }
                let part = backing.extents(at, end.min(backing.len()) - at).await?;
                for mut e in part {
                    e.depth += 1;
                    at = e.end();
                    out.push(e);
                }
            }
        }
        if at < end {
            out.push(Extent {
                start: at,
                len: end - at,
                flags: ExtentFlags::ZERO,
                depth: 0,
                host: reserved.map(|h| HostRange { offset: h.offset + (at - start), ..h }),
            });
        }
        Ok(out)
    }

    fn child_name(&self, child: Child) -> Arc<str> {
        match (child, &self.data) {
            (Child::Data, Some(data)) => data.filename.clone(),
            _ => self.file_name.clone(),
        }
    }

    /// A disk that becomes larger gains zeroes. The rest of its last cluster can hold what was there
    /// before it became smaller, and a backing file can be longer than the disk was: both are
    /// zeroed, durably, while they still lie past the end.
    async fn zero_what_is_gained(&self, len: u64) -> Result<()> {
        let unit = u64::from(self.driver.geometry().cluster_size);
        if unit == 1 {
            return Ok(());
        }
        let start = self.len();
        // A data file is as long as the disk.
        let end = if self.data.is_some() { len } else { len.next_multiple_of(unit) };
        let below = self.below().map_or(0, BlockDevice::len);
        let end = below.max(start).next_multiple_of(unit).min(end);
        self.driver.prepare_growth(len).await?;
        if start >= end {
            return Ok(());
        }
        let mut wanted = Vec::new();
        if below > start {
            let plan = self.driver.zero(start, end - start, ZeroFlags::empty()).await?;
            wanted.extend(plan.explicit);
        } else {
            let mut at = start;
            for piece in self.driver.map(start, end - start).await?.pieces {
                if matches!(piece.place, Place::Raw { .. } | Place::Compressed { .. }) {
                    wanted.push((at, piece.len));
                }
                at += piece.len;
            }
        }
        for (start, len) in wanted {
            transfer::write_zeroes(self, start, len).await?;
        }
        self.driver.flush().await
    }

    /// Zeroes for a part of a unit that shows the image below, which is zeroes all around that part:
    /// the unit may be marked as a whole. What is below does not change.
    async fn zero_rest(&self, start: u64, len: u64) -> Result<bool> {
        let unit = u64::from(self.driver.geometry().subcluster_size);
        let Some(below) = self.below().filter(|_| len < unit) else { return Ok(false) };
        let first = start - start % unit;
        let (end, last) = (start + len, first + unit);
        if end > last {
            return Ok(false);
        }
        for (mut at, to) in [(first, start), (end, last)] {
            while at < to.min(below.len()) {
                for extent in below.extents(at, to.min(below.len()) - at).await? {
                    if !extent.is_zero() {
                        return Ok(false);
                    }
                    at = extent.end();
                }
            }
        }
        self.driver.zero_unallocated(first).await
    }

    /// A guest must not be able to turn its raw disk into another format by what it writes: where
    /// the format was only guessed, the first sector may not begin to look like one.
    async fn refuse_format_change(&self, offset: u64, data: &Segments) -> Result<()> {
        const SECTOR: u64 = 512;
        if !self.guessed_raw || offset >= SECTOR {
            return Ok(());
        }
        let mut head = Segments::new();
        if offset > 0 {
            head.append(transfer::read(self, 0, offset.min(self.len())).await?);
        }
        head.append(data.slice(0, data.len().min(SECTOR - offset)));
        match super::detect::recognise(&head.to_bytes()) {
            None => Ok(()),
            Some(name) => Err(Error::denied(format!(
                "the format of '{}' was guessed to be raw, and this write would make it look like \
                 {name}; name the format to allow it",
                self.filename,
            ))),
        }
    }
}

impl BlockDevice for Layer {
    fn len(&self) -> u64 {
        self.driver.virtual_size()
    }

    fn limits(&self) -> Limits {
        let geometry = self.driver.geometry();
        Limits { granularity: geometry.cluster_size, ..Limits::default() }
    }

    fn capabilities(&self) -> Capabilities {
        let all = self.driver.capabilities();
        match self.access {
            Access::ReadWrite => all,
            Access::ReadOnly => all - Capabilities::WRITE - Capabilities::GROW,
        }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(transfer::read(self, offset, len))
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            crate::io::check_range(offset, data.len(), self.len())?;
            self.refuse_format_change(offset, &data).await?;
            if self.detect_zeroes != DetectZeroes::Off && data.is_zero() {
                let unmap = self.detect_zeroes == DetectZeroes::Unmap;
                let how = if unmap { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                // It is recorded there.
                self.write_zeroes(offset, data.len(), how).await?;
                return match flags.contains(WriteFlags::FUA) {
                    true => self.driver.flush().await,
                    false => Ok(()),
                };
            }
            let _recording = self.bitmaps.record(offset, data.len());
            if flags.contains(WriteFlags::COMPRESSED) {
                transfer::write_compressed(self, offset, data).await?;
            } else {
                transfer::write(self, offset, data).await?;
            }
            if flags.contains(WriteFlags::FUA) {
                self.driver.flush().await?;
            }
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            crate::io::check_range(offset, len, self.len())?;
            let flags = if self.discard { flags } else { flags - ZeroFlags::MAY_UNMAP };
            let _recording = self.bitmaps.record(offset, len);
            let plan = self.driver.zero(offset, len, flags).await?;
            if !plan.explicit.is_empty() && flags.contains(ZeroFlags::NO_FALLBACK) {
                let what = "zeroes cannot be written here without writing the bytes";
                return Err(Error::unsupported(what).in_format(self.driver.name()));
            }
            for (start, len) in plan.explicit {
                let unit = u64::from(self.driver.geometry().subcluster_size);
                // A short one may have parts of two units.
                let border = start.next_multiple_of(unit).clamp(start, start + len);
                let (head, tail) = match len < unit {
                    true => (border - start, start + len - border),
                    false => (len, 0),
                };
                for (start, len) in [(start, head), (border, tail)] {
                    if len > 0 && !self.zero_rest(start, len).await? {
                        transfer::write_zeroes(self, start, len).await?;
                    }
                }
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            crate::io::check_range(offset, len, self.len())?;
            let _recording = self.bitmaps.record(offset, len);
            match self.discard {
                true => self.driver.discard(offset, len).await,
                false => Ok(()),
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        match self.access {
            Access::ReadWrite => Box::pin(async move {
                raise(&*self.file, DebugEvent::FlushToOs).await;
                self.driver.flush().await
            }),
            Access::ReadOnly => Box::pin(core::future::ready(Ok(()))),
        }
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            // Before what is gained can be written to.
            let old = self.len();
            if len > old {
                self.bitmaps.resize(len);
            }
            let result = async {
                if len > old {
                    self.zero_what_is_gained(len).await?;
                }
                self.driver.set_virtual_size(len, preallocation).await
            };
            let result = result.await;
            self.bitmaps.resize(self.len());
            result
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.extents_of(offset, len))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            let below = self.file.info().await;
            let actual_size = match below {
                Ok(info) => info.actual_size,
                Err(e) if e.kind() == ErrorKind::Unsupported => None,
                Err(e) => return Err(e),
            };
            let filename = self.filename.to_string();
            Ok(DeviceInfo {
                driver: self.driver.name(),
                filename,
                actual_size,
                ..DeviceInfo::default()
            })
        })
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.file.event(event)
    }

    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(self)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Self::close(self))
    }
}

/// What the image or filter `device` knows of a range, as what stands on it shows it at `guest`.
async fn passed_on(device: &Device, host: u64, guest: u64, len: u64) -> Result<Vec<Extent>> {
    let inside = device.len().saturating_sub(host).min(len);
    if inside == 0 {
        let flags = ExtentFlags::ZERO | ExtentFlags::ALLOCATED;
        return Ok(Vec::from([Extent { start: guest, len, flags, depth: 0, host: None }]));
    }
    let below = device.extents(host, inside).await?;
    Ok(below.into_iter().map(|e| Extent { start: e.start - host + guest, ..e }).collect())
}

/// Adds an extent to a list, joined to the last one where it continues it.
fn push(list: &mut Vec<Extent>, extent: Extent) {
    let rest = match list.last_mut() {
        Some(last) => last.merge(extent),
        None => Some(extent),
    };
    list.extend(rest);
}
