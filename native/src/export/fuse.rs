//! A disk as a file (FUSE). The file covers one that is there already; what it shows is the disk,
//! byte for byte.
//!
//! [`File`] is what the file does, without the kernel; `Served` hands it the kernel's requests, side
//! by side. Source of what the kernel wants: `fuse(4)` and the documents of Linux' FUSE.

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyWrite, Request, Session, SessionACL, TimeOrNow,
};
use rustix::io::Errno as No;
use rustix::mount::UnmountFlags;
use sectora_core::io::{Aligned, BoxFuture, Capabilities, Device, Segments, WriteFlags, ZeroFlags};
use sectora_core::sync::Mutex;
use sectora_core::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of `st_blocks`.
const SECTOR: u64 = 512;

/// So long the kernel believes what it was told of the file.
const TTL: Duration = Duration::from_secs(1);

/// The longest read that the kernel may ask for.
const MAX_READ: u32 = 64 << 20;

/// Data that all requests together may have in memory, in units of [`UNIT`].
const ROOM: u32 = (128 << 20) / UNIT as u32;

const UNIT: u64 = 4096;

/// The longest time that the kernel may take to let go of a file that nobody answers for any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who else than the user of this process may open the file; the schema's `FuseExportAllowOther`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowOther {
    /// Nobody.
    Off,
    /// Everybody whom the file's mode allows.
    On,
    /// Everybody, if the system lets it.
    #[default]
    Auto,
}

/// How a disk is shown as a file; the schema's `BlockExportOptionsFuse`.
#[derive(Clone, Debug, Default)]
pub struct FuseOptions {
    /// The file that is covered.
    pub mountpoint: PathBuf,
    /// Writes past the end make the disk longer.
    pub growable: bool,
    /// It may be written to.
    pub writable: bool,
    /// Who may open it.
    pub allow_other: AllowOther,
    /// Every write is durable before it is told.
    pub writethrough: bool,
}

/// Changes the length of the disk. It may need rights that the export does not hold all the time.
pub trait Resize: Send + Sync + fmt::Debug {
    /// Makes the disk `len` bytes long; bytes gained read as zeroes.
    fn resize(&self, len: u64) -> BoxFuture<'_, Result<()>>;
}

/// What the kernel is told where something fails: a number of `errno(3)`.
pub type FileResult<T> = std::result::Result<T, No>;

/// A disk as a file: everything that can be done with it.
#[derive(Debug)]
pub struct File {
    device: Device,
    resize: Arc<dyn Resize>,
    options: FuseOptions,
    /// Permission bits, user and group.
    mode: AtomicU32,
    owner: (AtomicU32, AtomicU32),
    /// Held while the length changes.
    length: tokio::sync::Mutex<()>,
}

/// What `stat(2)` says of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Bytes.
    pub size: u64,
    /// Space that is taken, in units of 512 bytes.
    pub blocks: u64,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// The unit of requests.
    pub block_size: u32,
}

/// What is to be changed; `None` is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The length in bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// The user.
    pub user: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// Times are to be changed, which they cannot be.
    pub times: bool,
}

impl File {
    /// Shows `device`. Others than the owner may use it where `others` is true.
    #[must_use]
    pub fn new(device: Device, resize: Arc<dyn Resize>, options: FuseOptions) -> Self {
        let mode = if options.writable { 0o600 } else { 0o400 };
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        Self {
            device: Arc::new(Aligned::new(device)),
            resize,
            options,
            mode: AtomicU32::new(mode),
            owner: (AtomicU32::new(user.as_raw()), AtomicU32::new(group.as_raw())),
            length: tokio::sync::Mutex::default(),
        }
    }

    fn is_writable(&self) -> bool {
        self.options.writable && self.device.capabilities().contains(Capabilities::WRITE)
    }

    /// What `stat(2)` says.
    ///
    /// # Errors
    /// `EIO`.
    pub async fn attributes(&self) -> FileResult<Attributes> {
        let size = self.device.len();
        // Where nothing is known to be allocated, everything counts as if it were.
        let actual = self.device.info().await.map_err(|e| number(&e))?.actual_size;
        let taken = actual.filter(|taken| *taken > 0).unwrap_or(size);
        let get = |of: &AtomicU32| of.load(Ordering::Relaxed);
        Ok(Attributes {
            size,
            blocks: taken.div_ceil(SECTOR),
            mode: get(&self.mode),
            owner: (get(&self.owner.0), get(&self.owner.1)),
            block_size: self.device.limits().request_alignment,
        })
    }

    /// Changes what is not `None`. `others` says whether others than the owner can see the file.
    ///
    /// # Errors
    /// `ENOTSUP` for times, and for an owner where nobody else sees the file; `EPERM` for rights of
    /// people who cannot see it; `EROFS` for the right to write what cannot be written; `EACCES`.
    pub async fn change(&self, changes: Changes, others: bool) -> FileResult<()> {
        let Changes { size, mode, user, group, times } = changes;
        // The kernel sets times along with a length.
        if (times && size.is_none()) || (!others && (user.is_some() || group.is_some())) {
            return Err(No::OPNOTSUPP);
        }
        let mode = mode.map(|mode| mode & 0o7777);
        if let Some(mode) = mode {
            if !others && mode & 0o077 != 0 {
                return Err(No::PERM);
            }
            if !self.options.writable && mode & 0o222 != 0 {
                return Err(No::ROFS);
            }
        }
        if let Some(size) = size {
            if !self.is_writable() {
                return Err(No::ACCESS);
            }
            let _length = self.length.lock().await;
            self.set_length(size).await?;
        }
        for (to, from) in [(&self.mode, mode), (&self.owner.0, user), (&self.owner.1, group)] {
            if let Some(value) = from {
                to.store(value, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Makes the disk so long. The lock of the length is held.
    async fn set_length(&self, len: u64) -> FileResult<()> {
        i64::try_from(len).map_err(|_| No::FBIG)?;
        self.resize.resize(len).await.map_err(|e| number(&e))
    }

    /// Reads up to `len` bytes at `offset`; fewer at the end.
    ///
    /// # Errors
    /// `EINVAL` where it is more than the kernel may ask for; what the storage says.
    pub async fn read(&self, offset: u64, len: u32) -> FileResult<Segments> {
        if len > MAX_READ {
            return Err(No::INVAL);
        }
        let left = self.device.len().saturating_sub(offset).min(u64::from(len));
        if left == 0 {
            return Ok(Segments::new());
        }
        let most = u64::from(self.device.limits().max_transfer).max(UNIT) / UNIT * UNIT;
        let mut data = Segments::new();
        while data.len() < left {
            let count = (left - data.len()).min(most);
            let at = offset + data.len();
            data.append(self.device.read(at, count).await.map_err(|e| number(&e))?);
        }
        Ok(data)
    }

    /// Writes `data` at `offset`: how many bytes of it. What is past the end of a disk that does not
    /// grow is left out.
    ///
    /// # Errors
    /// `EACCES` where nothing may be written; `EIO` where all of it is past the end; what the storage
    /// says.
    pub async fn write(&self, offset: u64, data: Segments) -> FileResult<u32> {
        if !self.is_writable() {
            return Err(No::ACCESS);
        }
        let end = offset.checked_add(data.len()).ok_or(No::FBIG)?;
        let mut data = data;
        if end > self.device.len() {
            let _length = self.length.lock().await;
            let now = self.device.len();
            if end > now && self.options.growable {
                self.set_length(end).await?;
            } else if end > now {
                let left = now.checked_sub(offset).ok_or(No::IO)?;
                if left == 0 && !data.is_empty() {
                    return Err(No::IO);
                }
                data = data.slice(0, left);
            }
        }
        let flags = if self.options.writethrough { WriteFlags::FUA } else { WriteFlags::empty() };
        let most = u64::from(self.device.limits().max_transfer).max(UNIT) / UNIT * UNIT;
        let mut done = 0;
        while done < data.len() {
            let piece = data.slice(done, (data.len() - done).min(most));
            let len = piece.len();
            self.device.write(offset + done, piece, flags).await.map_err(|e| number(&e))?;
            done += len;
        }
        u32::try_from(done).map_err(|_| No::INVAL)
    }

    /// Holes, zeroes and space: `fallocate(2)`. Space can be had behind the end only, which makes the
    /// disk longer.
    ///
    /// # Errors
    /// `EACCES`, `EOPNOTSUPP` for other modes and for what the image cannot do, `EIO` for what begins
    /// past the end.
    pub async fn allocate(&self, offset: u64, len: u64, mode: i32) -> FileResult<()> {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        const ZERO_RANGE: i32 = 16;
        if !self.is_writable() {
            return Err(No::ACCESS);
        }
        let end = offset.checked_add(len).ok_or(No::FBIG)?;
        let flags = match mode {
            0 => {
                let _length = self.length.lock().await;
                return match offset >= self.device.len() {
                    true => self.set_length(end).await,
                    false => Err(No::OPNOTSUPP),
                };
            }
            _ if mode == PUNCH_HOLE | KEEP_SIZE => ZeroFlags::MAY_UNMAP | ZeroFlags::NO_FALLBACK,
            _ if mode & !KEEP_SIZE == ZERO_RANGE => ZeroFlags::empty(),
            _ => return Err(No::OPNOTSUPP),
        };
        if mode & KEEP_SIZE == 0 {
            let _length = self.length.lock().await;
            if end > self.device.len() {
                self.set_length(end).await?;
            }
        }
        let left = self.device.len().checked_sub(offset).ok_or(No::IO)?.min(len);
        if left > 0 {
            self.device.write_zeroes(offset, left, flags).await.map_err(|e| number(&e))?;
        }
        if self.options.writethrough {
            self.flush().await?;
        }
        Ok(())
    }

    /// The next data, or the next hole, from `offset` on: `lseek(2)`.
    ///
    /// # Errors
    /// `EINVAL` for other questions; `ENXIO` past the end, and where no data follow.
    pub async fn seek(&self, offset: i64, whence: i32) -> FileResult<i64> {
        const DATA: i32 = 3;
        const HOLE: i32 = 4;
        let start = u64::try_from(offset).map_err(|_| No::INVAL)?;
        if whence != DATA && whence != HOLE {
            return Err(No::INVAL);
        }
        let len = self.device.len();
        if start > len || (start == len && whence == DATA) {
            return Err(No::NXIO);
        }
        let mut at = start;
        while at < len {
            for extent in self.device.extents(at, len - at).await.map_err(|e| number(&e))? {
                let extent = extent.clip(at, len);
                if extent.is_data() == (whence == DATA) {
                    return i64::try_from(at).map_err(|_| No::OVERFLOW);
                }
                at = extent.end();
            }
        }
        match whence {
            DATA => Err(No::NXIO),
            _ => i64::try_from(len).map_err(|_| No::OVERFLOW),
        }
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn flush(&self) -> FileResult<()> {
        self.device.flush().await.map_err(|e| number(&e))
    }
}

fn number(error: &Error) -> No {
    match error.kind() {
        ErrorKind::NoSpace => No::NOSPC,
        ErrorKind::Unsupported => No::OPNOTSUPP,
        ErrorKind::Denied => No::PERM,
        ErrorKind::InUse => No::BUSY,
        ErrorKind::InvalidInput => No::INVAL,
        _ => No::IO,
    }
}

/// A mounted file.
#[derive(Debug)]
pub struct FuseExport {
    path: PathBuf,
    /// A permit is [`UNIT`] bytes of a request that may be under way.
    room: Arc<Semaphore>,
    session: Mutex<Option<fuser::BackgroundSession>>,
}

impl FuseExport {
    /// Covers the file at the mount point with `device`.
    ///
    /// # Errors
    /// `InvalidInput` where there is no regular file; what the system says to the mount.
    pub async fn start(
        device: Device,
        resize: Arc<dyn Resize>,
        options: FuseOptions,
    ) -> Result<Arc<Self>> {
        let path = check_mountpoint(&options.mountpoint)?;
        let room = Arc::new(Semaphore::new(ROOM as usize));
        let allow_other = options.allow_other;
        let file = Arc::new(File::new(device, resize, options));
        let (to, free, tokio) = (path.clone(), room.clone(), Handle::current());
        let mounted = tokio::task::spawn_blocking(move || {
            let mount = |others: bool| {
                let served =
                    Served { file: file.clone(), others, room: free.clone(), tokio: tokio.clone() };
                Session::new(served, &to, &config(others)).and_then(Session::spawn)
            };
            match allow_other {
                AllowOther::Off => mount(false),
                AllowOther::On => mount(true),
                AllowOther::Auto => mount(true).or_else(|_| mount(false)),
            }
        });
        let mounted = mounted.await.map_err(|e| Error::bug(format!("a mount: {e}")))?;
        let session = mounted.map_err(|e| {
            Error::io(format!("Failed to mount FUSE session to export: {}: {e}", path.display()))
        })?;
        Ok(Arc::new(Self { path, room, session: Mutex::new(Some(session)) }))
    }

    /// The file that is covered, by its full name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Uncovers the file. Whoever has it open gets errors from now on, requests under way are carried
    /// out.
    pub async fn remove(&self) {
        let Some(session) = self.session.lock().take() else { return };
        let path = self.path.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: the end of the process does not wait for it.
        std::thread::spawn(move || {
            // By force: the kernel answers for us what is asked from now on.
            let how = UnmountFlags::FORCE | UnmountFlags::DETACH;
            let ended = match rustix::mount::unmount(&path, how) {
                Ok(()) => session.join(),
                // Without the right to, a helper program does it.
                Err(_) => session.umount_and_join(),
            };
            // Nobody may wait any more. What the session says is that the file is gone.
            let _ = tell.send(ended);
        });
        // One that does not let go keeps its thread, not the export.
        let _ = tokio::time::timeout(PATIENCE, told).await;
        // All are there when nothing is under way; it is never closed.
        let _ = self.room.acquire_many(ROOM).await;
    }
}

/// The full name of a file that can be covered.
fn check_mountpoint(path: &Path) -> Result<PathBuf> {
    let failed = |e: std::io::Error| {
        let words = e.to_string();
        let words = words.rsplit_once(" (os error").map_or(&*words, |(words, _)| words);
        Error::invalid(format!("Failed to stat '{}': {words}", path.display()))
    };
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Error::invalid(format!("'{}' is not a regular file", path.display())));
    }
    path.canonicalize().map_err(failed)
}

fn config(others: bool) -> Config {
    let mut config = Config::default();
    config.acl = if others { SessionACL::All } else { SessionACL::Owner };
    config.mount_options = vec![
        MountOption::FSName("/dev/fuse".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
        MountOption::CUSTOM(format!("max_read={MAX_READ}")),
    ];
    config
}

/// A file that the kernel asks for.
#[derive(Debug)]
struct Served {
    file: Arc<File>,
    others: bool,
    room: Arc<Semaphore>,
    tokio: Handle,
}

impl Served {
    /// Waits until so many bytes may be in memory. Called on the thread that reads requests: no more
    /// are read meanwhile.
    fn room(&self, len: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(ROOM).clamp(1, ROOM);
        self.tokio.block_on(self.room.clone().acquire_many_owned(units)).ok()
    }

    /// Carries out a request beside others.
    fn run<F>(&self, len: u64, work: impl FnOnce(Arc<File>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let room = self.room(len);
        let work = work(self.file.clone());
        self.tokio.spawn(async move {
            work.await;
            drop(room);
        });
    }
}

fn errno(error: No) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn done(reply: ReplyEmpty, result: FileResult<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

async fn tell(file: &File, reply: ReplyAttr) {
    match file.attributes().await {
        Ok(found) => {
            let now = SystemTime::now();
            let attributes = FileAttr {
                ino: INodeNo::ROOT,
                size: found.size,
                blocks: found.blocks,
                atime: now,
                mtime: now,
                ctime: now,
                crtime: now,
                kind: FileType::RegularFile,
                perm: found.mode as u16,
                nlink: 1,
                uid: found.owner.0,
                gid: found.owner.1,
                rdev: 0,
                blksize: found.block_size,
                flags: 0,
            };
            reply.attr(&TTL, &attributes);
        }
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Else the kernel would carry out `O_TRUNC` by making the disk empty: a program that copies an
        // image onto the file wants to write it, not to lose its length.
        let wanted = InitFlags::FUSE_ATOMIC_O_TRUNC;
        config.add_capabilities(wanted).map_err(|_| std::io::ErrorKind::Unsupported.into())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        // There is one file, and nothing in it.
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.run(0, |file| async move { tell(&file, reply).await });
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = accessed.is_some() || modified.is_some();
        let changes = Changes { size, mode, user, group, times };
        let others = self.others;
        self.run(0, |file| async move {
            match file.change(changes, others).await {
                Ok(()) => tell(&file, reply).await,
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(size.into(), move |file| async move {
            match file.read(offset, size).await {
                Ok(data) => reply.data(&data.to_bytes()),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: fuser::WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let room = self.room(data.len() as u64);
        let mut copy = Segments::new();
        copy.push_data(bytes::Bytes::copy_from_slice(data));
        let file = self.file.clone();
        self.tokio.spawn(async move {
            match file.write(offset, copy).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(errno(error)),
            }
            drop(room);
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.run(0, |file| async move { done(reply, file.flush().await) });
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.run(0, |file| async move { done(reply, file.flush().await) });
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.run(0, move |file| async move {
            done(reply, file.allocate(offset, length, mode).await);
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.run(0, move |file| async move {
            match file.seek(offset, whence).await {
                Ok(at) => reply.offset(at),
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}
