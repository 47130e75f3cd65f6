//! A file or block device as a [`BlockDevice`].

use super::error::os;
use super::handle::{Handle, Kind};
use super::lock::{Lock, Locking};
use super::raw::{Direct, RawFile};
use super::uring::Ring;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use sectora_core::graph::Claim;
use sectora_core::io::{
    Access, Aligned, BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use sectora_core::{Error, ErrorKind, Result};
use std::fs::File;
use std::sync::Arc;

/// How operations that may wait for storage are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// By io_uring, or by threads where the kernel or a seccomp profile forbids it.
    #[default]
    Auto,
    /// By a pool of threads.
    Threads,
    /// By io_uring; opening fails where that is forbidden.
    IoUring,
    /// The same, and only around the page cache: QEMU's `native`.
    Native,
}

/// What opening does about a file that is missing, or is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// It must be there.
    #[default]
    No,
    /// A missing one is made, empty.
    IfMissing,
    /// A missing one is made; one that is there (and that nobody minds losing: it is locked first)
    /// is made empty.
    Truncate,
    /// It must not be there.
    New,
}

/// How a file is opened.
///
/// ```no_run
/// use sectora::storage::{FileDevice, FileOptions};
/// use sectora_core::io::Access;
///
/// let options = FileOptions { direct: true, ..FileOptions::new(Access::ReadOnly) };
/// let device = FileDevice::open("disk.raw", &options)?;
/// # Ok::<(), sectora_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// What the device can do.
    pub access: Access,
    /// Go around the page cache (`O_DIRECT`, QEMU's `cache.direct`).
    pub direct: bool,
    /// Flushes do nothing (QEMU's `cache.no-flush`, cache mode `unsafe`).
    pub no_flush: bool,
    /// How operations are run.
    pub aio: Aio,
    /// Whether the file is locked.
    pub locking: Locking,
    /// What is locked; [`Claim::image`] of the access where it is not said.
    pub claim: Option<Claim>,
    /// What happens to a missing file.
    pub create: Create,
    /// Lives as long as the file is open, for whoever wants to know.
    pub user: Option<Arc<()>>,
}

impl FileOptions {
    /// The defaults: through the page cache, with flushes, locked, and the file must be there.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            access,
            direct: false,
            no_flush: false,
            aio: Aio::default(),
            locking: Locking::default(),
            claim: None,
            create: Create::default(),
            user: None,
        }
    }

    fn writes(&self) -> bool {
        self.access == Access::ReadWrite
    }

    /// The claim to take; checks that it goes with the rest.
    fn claim(&self) -> Result<Option<Claim>> {
        let claim = self.claim.unwrap_or_else(|| Claim::image(self.access));
        match self.locking {
            Locking::Off => Ok(None),
            Locking::Auto => Ok(Some(claim)),
            Locking::Share if self.writes() => Err(Error::invalid(FORCE_SHARE)),
            Locking::Share => Ok(Some(Claim { taken: claim.taken, ..Claim::NONE })),
        }
    }
}

/// Why an image that others may change is not opened to be written.
pub(crate) const FORCE_SHARE: &str = "force-share=on can only be used with read-only images";

/// The number of the set of descriptors that `name` names, where it names one.
pub(crate) fn fdset_number(name: &str) -> Option<Result<i64>> {
    let number = name.strip_prefix("/dev/fdset/")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let wrong = || Error::invalid(format!("Could not parse fdset {name}"));
    Some(number.parse().ok().filter(|_| digits).ok_or_else(wrong))
}

/// An open file or block device. Any offset and length will do, also with `O_DIRECT`. Clones are
/// the same open file.
#[derive(Clone, Debug)]
pub struct FileDevice {
    file: Arc<RawFile>,
    /// The same, behind [`Aligned`] where direct I/O needs that.
    device: Device,
    options: FileOptions,
}

impl FileDevice {
    /// Opens the file called `name`. Opening itself blocks, for as long as the file system takes
    /// to find the file; it never waits for the other end of a pipe.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `InUse` and the like, with text as QEMU has it; `Unsupported` for what
    /// the file system or the kernel cannot do.
    pub fn open(name: &str, options: &FileOptions) -> Result<Self> {
        let making = options.create != Create::No;
        if making && !options.writes() {
            return Err(Error::invalid(format!("cannot create '{name}' for reading only")));
        }
        if let Some(number) = fdset_number(name) {
            number?;
            // There is nobody here who hands descriptors over.
            let what = format!("Could not open '{name}': Function not implemented");
            return Err(Error::unsupported(what));
        }
        // Not waiting matters for pipes, which are refused below.
        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        flags |= if options.writes() { OFlags::RDWR } else { OFlags::RDONLY };
        flags.set(OFlags::DIRECT, options.direct);
        // Never O_TRUNC: what another program uses must survive the attempt.
        flags.set(OFlags::CREATE, making);
        flags.set(OFlags::EXCL, options.create == Create::New);
        let file = rustix::fs::open(name, flags, Mode::from_raw_mode(0o644));
        let file = file.map_err(|e| {
            let doing = if making { "create" } else { "open" };
            if e == Errno::INVAL && options.direct {
                return no_direct(name);
            }
            os(e, format!("Could not {doing} '{name}'"))
        })?;
        Self::from_file(file.into(), name, options)
    }

    /// Makes a device of an open file, called `name` from now on. It must have been opened as
    /// `options` say (access and `direct`); [`Create::New`] and [`Create::IfMissing`] mean nothing
    /// here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: File, name: &str, options: &FileOptions) -> Result<Self> {
        let failed = |e: Errno| os(e, format!("Could not open '{name}'"));
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let Some(kind) = Kind::of(FileType::from_raw_mode(stat.st_mode)) else {
            return Err(Error::invalid(format!(
                "'file' driver requires '{name}' to be a regular file"
            )));
        };
        if options.aio == Aio::Native && !options.direct {
            return Err(Error::invalid(
                "aio=native was specified, but it requires cache.direct=on, which was not \
                 specified.",
            ));
        }
        // The flag of the opening would make the ring give up where it should wait.
        let flags = if options.direct { OFlags::DIRECT } else { OFlags::empty() };
        rustix::fs::fcntl_setfl(&file, flags).map_err(failed)?;
        let lock = match options.claim()? {
            Some(claim) if kind != Kind::Character => Lock::take(&file, name, claim)?,
            _ => Lock::OFF,
        };
        if options.create == Create::Truncate && kind == Kind::Regular && stat.st_size != 0 {
            rustix::fs::ftruncate(&file, 0)
                .map_err(|e| os(e, format!("Could not truncate '{name}'")))?;
        }
        let direct = match options.direct {
            true if kind != Kind::Character => Some(alignment(&file, name, kind)?),
            _ => None,
        };
        let ring = match options.aio {
            Aio::IoUring | Aio::Native => Some(Some(Ring::new().map_err(|e| {
                os(e, format!("Could not open '{name}': io_uring is not available"))
            })?)),
            Aio::Threads => Some(None),
            Aio::Auto => None,
        };
        let handle = Arc::new(Handle::new(file, Arc::from(name), kind, lock)?);
        let file = Arc::new(RawFile::new(handle, options.writes(), options.no_flush, direct, ring));
        let device: Device = match direct {
            Some(_) => Arc::new(Aligned::new(file.clone())),
            None => file.clone(),
        };
        Ok(Self { file, device, options: options.clone() })
    }

    /// Changes what is locked, once it is known what the file holds: [`Claim::raw`] minds less than
    /// the [`Claim::image`] that a file is opened with. Nothing happens where the file was opened
    /// without locking; one opened with [`Locking::Share`] goes on sharing everything.
    ///
    /// # Errors
    /// `InUse` where somebody minds, or does what is not shared any more; nothing has changed then.
    pub fn set_claim(&self, claim: Claim) -> Result<()> {
        let options = FileOptions { claim: Some(claim), ..self.options.clone() };
        match options.claim()? {
            Some(claim) => self.file.handle().claim(claim),
            None => Ok(()),
        }
    }

    /// The name it was opened by.
    #[must_use]
    pub fn filename(&self) -> &str {
        &self.file.handle().name
    }

    pub(super) fn os_file(&self) -> &File {
        &self.file.handle().file
    }

    /// True for a file in a file system, false for a device.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.file.handle().kind == Kind::Regular
    }
}

/// What direct I/O on the file must be aligned to.
fn alignment(file: &File, name: &str, kind: Kind) -> Result<Direct> {
    if kind == Kind::Block {
        let sector = rustix::fs::ioctl_blksszget(file)
            .map_err(|e| os(e, format!("cannot find the sector size of '{name}'")))?;
        return Ok(Direct { offset: sector.max(512), memory: sector.max(512) });
    }
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    if let Ok(stat) = stat
        && StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        let (offset, memory) = (stat.stx_dio_offset_align, stat.stx_dio_mem_align);
        if offset == 0 {
            return Err(no_direct(name));
        }
        if offset.is_power_of_two() && memory <= super::buffer::ALIGN as u32 {
            return Ok(Direct { offset, memory: memory.max(1) });
        }
    }
    Ok(super::raw::probe_alignment(file))
}

fn no_direct(name: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("Could not open '{name}': filesystem does not support O_DIRECT"),
    )
}

impl BlockDevice for FileDevice {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.device.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.device.write(offset, data, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.device.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.device.discard(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.device.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.device.set_len(len, preallocation)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.device.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.device.info()
    }
}
