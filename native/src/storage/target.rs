//! A new file that appears under its name only when it is complete.
//!
//! Until [`commit`](Target::commit) the data is in a file without a name (`O_TMPFILE`), or, where
//! the file system has none, in a hidden one beside the final name. So whatever was there stays as
//! it was when the work fails, is cancelled or the machine stops; with a nameless file not even a
//! leftover remains. A file that is replaced is locked from the start: one in use is refused, not
//! replaced under its user.

use super::error::os;
use super::{FileDevice, FileOptions, Locking};
use crate::runtime::fill_random;
use crate::storage::lock::Lock;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sectora_core::graph::{Claim, Permissions};
use sectora_core::io::Access;
use sectora_core::{Error, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// How a [`Target`] is made.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// How the file is opened; `access` and `create` do not matter.
    pub file: FileOptions,
    /// Make data and name durable before [`Target::commit`] returns.
    pub sync: bool,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self { file: FileOptions::new(Access::ReadWrite), sync: false }
    }
}

/// A file in the making. Dropped without [`commit`](Self::commit) it leaves nothing.
#[derive(Debug)]
pub struct Target {
    device: FileDevice,
    sync: bool,
    pending: Option<Pending>,
}

/// What is not under its final name yet.
#[derive(Debug)]
struct Pending {
    /// The file again: the device's own descriptor may be gone before this is.
    file: File,
    /// Where the file is now, if it has a name.
    temporary: Option<PathBuf>,
    /// Where it goes: the end of all symbolic links.
    path: PathBuf,
    /// The file it replaces.
    replaced: Option<Replaced>,
}

#[derive(Debug)]
struct Replaced {
    file: File,
    lock: Lock,
}

impl Drop for Replaced {
    fn drop(&mut self) {
        self.lock.release(&self.file);
    }
}

impl Target {
    /// Prepares a target called `name`. What is no regular file (a block device, a pipe, standard
    /// output under `/dev`) cannot be replaced and is opened to be written in place, if it can be
    /// written by offset at all.
    ///
    /// # Errors
    /// `InUse` where a file of that name is used by another program, `Denied` where it may not be
    /// written, `NotFound` where its directory is not there.
    pub fn new(name: &str, options: &TargetOptions) -> Result<Self> {
        let path = super::FileOpener::path(name)?;
        let file = FileOptions { access: Access::ReadWrite, ..options.file.clone() };
        let failed = |e: Errno| os(e, format!("Could not create '{name}'"));
        let replaced = match rustix::fs::stat(path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(failed(Errno::ISDIR));
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                let file = FileOptions { create: super::Create::No, ..file };
                let device = FileDevice::open(path, &file)?;
                return Ok(Self { device, sync: options.sync, pending: None });
            }
            Ok(_) => Some(Replaced::open(path, file.locking)?),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(failed(e)),
        };
        let path = destination(Path::new(path), replaced.is_some())
            .map_err(|e| os(e, format!("Could not create '{name}'")))?;
        let (made, temporary) = make(&path, file.direct).map_err(failed)?;
        let pending = Pending {
            file: made.try_clone().map_err(|e| os(e, format!("Could not create '{name}'")))?,
            temporary,
            path,
            replaced,
        };
        // From here on `pending` takes the temporary name away when something fails.
        pending.keep_looks().map_err(failed)?;
        let device = FileDevice::from_file(made, name, &file)?;
        Ok(Self { device, sync: options.sync, pending: Some(pending) })
    }

    /// The device to write to.
    #[must_use]
    pub fn device(&self) -> &FileDevice {
        &self.device
    }

    /// True where the target was there before and is written in place, as a block device is.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.pending.is_none()
    }

    /// Gives the file its name, replacing what had it. The device stays usable.
    ///
    /// # Errors
    /// What the system says; what had the name has it still.
    pub async fn commit(mut self) -> Result<FileDevice> {
        if self.sync {
            sectora_core::io::BlockDevice::flush(&self.device).await?;
        }
        if let Some(pending) = self.pending.take() {
            let sync = self.sync;
            let name = self.device.filename().to_owned();
            let done = super::threads::blocking(move || pending.commit(sync)).await;
            let done = done.ok_or_else(|| Error::bug("the commit of a target was lost"))?;
            done.map_err(|e| os(e, format!("Could not create '{name}'")))?;
        }
        Ok(self.device)
    }
}

impl Replaced {
    /// Opens and locks the file that is going to be replaced, as if it were to be overwritten: who
    /// may not write a file may not replace it either.
    fn open(path: &str, locking: Locking) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: File = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| os(e, format!("Could not create '{path}'")))?
            .into();
        let claim = Claim {
            taken: Permissions::WRITE | Permissions::RESIZE,
            shared: Permissions::all() - Permissions::RESIZE,
        };
        let lock = match locking {
            Locking::Off => Lock::OFF,
            Locking::Auto | Locking::Share => Lock::take(&file, path, claim)?,
        };
        Ok(Self { file, lock })
    }
}

/// Where the new file goes: the directory with all symbolic links followed, and the name in it. A
/// link that points nowhere yet points to the new file.
fn destination(path: &Path, exists: bool) -> std::io::Result<PathBuf> {
    if exists {
        return path.canonicalize();
    }
    let mut path = path.to_path_buf();
    // As many links as the kernel follows.
    for _ in 0..40 {
        let name = path.file_name().ok_or(std::io::ErrorKind::IsADirectory)?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let whole = parent.canonicalize()?.join(name);
        match whole.read_link() {
            Ok(link) => path = whole.with_file_name("").join(link),
            Err(_) => return Ok(whole),
        }
    }
    Err(Errno::LOOP.into())
}

/// A new file in the directory of `path`, without a name where that is possible.
fn make(path: &Path, direct: bool) -> rustix::io::Result<(File, Option<PathBuf>)> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags.set(OFlags::DIRECT, direct);
    let mode = Mode::from_raw_mode(0o644);
    let directory = path.parent().unwrap_or(Path::new("/"));
    // It gets its name through /proc; without that it needs one from the start.
    if Path::new("/proc/self/fd").is_dir() {
        match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
            Ok(file) => return Ok((file.into(), None)),
            // Not on this file system, or not in this kernel.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR | Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    loop {
        let temporary = beside(path);
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::open(&temporary, flags, mode) {
            Ok(file) => return Ok((file.into(), Some(temporary))),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A name beside `path` that nobody else will think of.
fn beside(path: &Path) -> PathBuf {
    let mut salt = [0; 8];
    fill_random(&mut salt);
    // Short, as the name itself may be as long as names can be.
    path.with_file_name(format!(".sectora-{:016x}.tmp", u64::from_ne_bytes(salt)))
}

impl Pending {
    /// Gives the new file the mode and owner of the one it replaces.
    fn keep_looks(&self) -> rustix::io::Result<()> {
        let Some(replaced) = &self.replaced else { return Ok(()) };
        let (old, new) = (rustix::fs::fstat(&replaced.file)?, rustix::fs::fstat(&self.file)?);
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid) {
            let owner = rustix::fs::Uid::from_raw(old.st_uid);
            let group = rustix::fs::Gid::from_raw(old.st_gid);
            // Only the superuser may give files away; the group may be one of ours. What cannot be
            // kept stays as a new file has it.
            if rustix::fs::fchown(&self.file, Some(owner), Some(group)).is_err() {
                let _ = rustix::fs::fchown(&self.file, None, Some(group));
            }
        }
        // After the owner, a change of which takes bits away. An image is no program: the bits for
        // running as its owner are not kept.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(old.st_mode & 0o777))
    }

    fn commit(mut self, sync: bool) -> rustix::io::Result<()> {
        if self.temporary.is_none() && self.replaced.is_none() {
            match self.link(&self.path) {
                Ok(()) => return self.sync_directory(sync),
                // Somebody has made a file of that name meanwhile; it is replaced, as it would
                // have been a moment earlier.
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => loop {
                let temporary = beside(&self.path);
                match self.link(&temporary) {
                    Ok(()) => break temporary,
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            },
        };
        // Taken away again by `drop` where the last step fails.
        self.temporary = Some(temporary.clone());
        rustix::fs::rename(&temporary, &self.path)?;
        self.temporary = None;
        self.sync_directory(sync)
    }

    /// Gives the nameless file a name.
    fn link(&self, path: &Path) -> rustix::io::Result<()> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, file, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }

    fn sync_directory(&self, sync: bool) -> rustix::io::Result<()> {
        if sync {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(directory, flags, Mode::empty())?;
            rustix::fs::fsync(&directory)?;
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlink(temporary);
        }
    }
}
