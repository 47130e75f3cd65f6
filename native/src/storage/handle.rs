//! One open file: its descriptor and what is known of it, shared by the device and by every
//! operation in flight, so that the file stays open (and locked) until the last has settled.
//!
//! The calls here block. Those of them that may take long are made on a thread of the pool.

use super::buffer::{Buffer, zeroes};
use super::error::os;
use super::lock::Lock;
use super::settle::Orphans;
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use sectora_core::graph::Claim;
use sectora_core::io::{Segment, Segments};
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use smallvec::SmallVec;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The most pieces the kernel takes in one call (`IOV_MAX`).
const MAX_PIECES: usize = 1024;
/// The most bytes given to the kernel in one call; it stops just short of 2 GiB by itself.
pub(super) const MAX_CALL: u64 = 1 << 30;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Block,
    /// `/dev/null` and the like: written and read in place, never synced.
    Character,
}

impl Kind {
    /// The kinds that can be read and written by offset.
    pub(super) fn of(file: FileType) -> Option<Self> {
        match file {
            FileType::RegularFile => Some(Self::Regular),
            FileType::BlockDevice => Some(Self::Block),
            FileType::CharacterDevice => Some(Self::Character),
            _ => None,
        }
    }
}

/// An open file. Closing it releases its lock first: the descriptor itself may be kept for a
/// moment longer by the kernel.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    lock: Mutex<Lock>,
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    /// Nobody else changes the length (we hold a lock that says so): it need not be asked for.
    exclusive: AtomicBool,
    len: AtomicU64,
    /// Held while the length is asked for, so that an older answer never replaces a newer one.
    refreshing: Mutex<()>,
    pub(super) orphans: Arc<Orphans>,
    /// The flush that failed, if one did: nothing after it can be believed.
    failed_flush: OnceLock<String>,
    /// A second descriptor without `O_DIRECT`, for the end of a file whose length is no multiple
    /// of the alignment; opened when first needed.
    buffered: OnceLock<File>,
    remote: OnceLock<bool>,
}

impl Handle {
    pub(super) fn new(file: File, name: Arc<str>, kind: Kind, lock: Lock) -> Result<Self> {
        let handle = Self {
            file,
            exclusive: AtomicBool::new(lock.is_exclusive()),
            lock: Mutex::new(lock),
            name,
            kind,
            len: AtomicU64::new(0),
            refreshing: Mutex::new(()),
            orphans: Arc::default(),
            failed_flush: OnceLock::new(),
            buffered: OnceLock::new(),
            remote: OnceLock::new(),
        };
        let len = handle.measure().map_err(|e| handle.error(e, "cannot find the length of"))?;
        handle.len.store(len, Ordering::Release);
        Ok(handle)
    }

    /// An error of the system about this file.
    pub(super) fn error(&self, error: impl Into<std::io::Error>, doing: &str) -> Error {
        os(error, format!("{doing} '{}'", self.name))
    }

    /// Changes what is done with the file and what others may do. On an error nothing changes.
    pub(super) fn claim(&self, claim: Claim) -> Result<()> {
        let mut lock = self.lock.lock();
        let result = lock.change(&self.file, &self.name, claim);
        self.exclusive.store(lock.is_exclusive(), Ordering::Release);
        drop(lock);
        // Until now somebody may have changed it.
        self.refresh_len();
        result
    }

    // ---- length

    fn measure(&self) -> rustix::io::Result<u64> {
        match self.kind {
            Kind::Regular => {
                // Negative lengths do not exist.
                Ok(u64::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0))
            }
            // Block devices tell their size by where their end is.
            Kind::Block => rustix::fs::seek(&self.file, SeekFrom::End(0)),
            Kind::Character => Ok(0),
        }
    }

    /// The length as it is now.
    pub(super) fn len(&self) -> u64 {
        let known = self.known_len();
        if self.kind != Kind::Regular || self.exclusive.load(Ordering::Acquire) {
            return known;
        }
        // Nearly always it is what it was: then nobody has to take turns to note it.
        if self.measure() == Ok(known) {
            return known;
        }
        self.refresh_len();
        self.known_len()
    }

    /// The length when it was last asked for.
    pub(super) fn known_len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Asks the system for the length, after something changed it. Keeps the old one where the
    /// system does not answer.
    pub(super) fn refresh_len(&self) {
        if self.kind == Kind::Regular {
            let _turn = self.refreshing.lock();
            if let Ok(len) = self.measure() {
                self.len.store(len, Ordering::Release);
            }
        }
    }

    /// Takes note of a write that ended at `end`.
    pub(super) fn wrote_up_to(&self, end: u64) {
        if end > self.len.load(Ordering::Acquire) {
            self.refresh_len();
        }
    }

    // ---- data

    /// Reads into `buffer` from `done` on as far as the page cache goes, without waiting for
    /// storage; says how far the buffer is filled. An error is left to the read that waits.
    pub(super) fn read_cached(&self, buffer: &mut Buffer, mut done: usize, offset: u64) -> Cached {
        while let Some(rest) = buffer.as_mut_slice().get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let pieces = &mut [IoSliceMut::new(rest)];
            match rustix::io::preadv2(&self.file, pieces, at, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Cached { done, supported: false };
                }
                Err(_) => break,
            }
        }
        Cached { done, supported: true }
    }

    /// Reads into `buffer` from `done` on, once.
    pub(super) fn read(&self, buffer: &mut Buffer, done: usize, offset: u64) -> Called {
        let rest = buffer.as_mut_slice().get_mut(done..).unwrap_or_default();
        retry(|| rustix::io::pread(&self.file, &mut *rest, offset + done as u64))
    }

    /// Writes the bytes of `data` from `done` on, once; `offset` is where its first byte goes.
    pub(super) fn write(&self, file: &File, data: &Segments, done: u64, offset: u64) -> Called {
        let pieces = pieces(data, done);
        let result = retry(|| rustix::io::pwritev(file, &pieces, offset + done));
        if let Ok(n) = result {
            self.wrote_up_to(offset + done + n as u64);
        }
        result
    }

    /// Writes all of `data`.
    pub(super) fn write_all(&self, file: &File, data: &Segments, offset: u64) -> Called {
        let mut done = 0;
        while done < data.len() {
            match self.write(file, data, done, offset)? {
                // The kernel never does this for a write of more than nothing.
                0 => return Err(Errno::IO),
                n => done += n as u64,
            }
        }
        // At most `MAX_CALL` was asked for.
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }

    /// The descriptor that goes through the page cache.
    pub(super) fn buffered(&self) -> rustix::io::Result<&File> {
        if let Some(file) = self.buffered.get() {
            return Ok(file);
        }
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(link, flags, rustix::fs::Mode::empty())?;
        Ok(self.buffered.get_or_init(|| file.into()))
    }

    /// One `fallocate`.
    pub(super) fn fallocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> Called {
        let result = retry(|| rustix::fs::fallocate(&self.file, mode, offset, len)).map(|()| 0);
        if result.is_ok() {
            self.wrote_up_to(offset.saturating_add(len));
        }
        result
    }

    /// Sets the length.
    pub(super) fn truncate(&self, len: u64) -> rustix::io::Result<()> {
        let result = retry(|| rustix::fs::ftruncate(&self.file, len));
        self.refresh_len();
        result
    }

    /// Gives up the whole sectors of a range of a block device.
    pub(super) fn discard_sectors(&self, offset: u64, len: u64) -> rustix::io::Result<()> {
        let unit = u64::from(rustix::fs::ioctl_blksszget(&self.file)?).max(512);
        let from = offset.next_multiple_of(unit);
        let to = (offset + len) / unit * unit;
        if from >= to {
            return Ok(());
        }
        // BLKDISCARD is _IO(0x12, 119).
        const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
        let mut range = [from, to - from];
        // SAFETY: the call reads two 64-bit numbers (offset and length), which `range` is.
        unsafe {
            let call = rustix::ioctl::Updater::<BLKDISCARD, [u64; 2]>::new(&mut range);
            rustix::ioctl::ioctl(&self.file, call)
        }
    }

    // ---- durability

    /// Makes written data durable; a failure is remembered.
    pub(super) fn sync(&self) -> Called {
        let result = retry(|| rustix::fs::fdatasync(&self.file)).map(|()| 0);
        self.synced(&result);
        result
    }

    /// Takes note of how a flush ended. The system reports lost writes once and forgets them, so
    /// that a later flush would seem to succeed.
    pub(super) fn synced(&self, result: &Called) {
        match result {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::CANCELED) => {}
            Err(e) => {
                let words = os(*e, "").to_string();
                let _first = self.failed_flush.set(words);
            }
        }
    }

    /// Refuses where an earlier flush failed.
    pub(super) fn check_flushes(&self) -> Result<()> {
        match self.failed_flush.get() {
            None => Ok(()),
            Some(words) => Err(Error::io(format!(
                "an earlier flush of '{}' failed{words}; data written since the one before it \
                 may be lost, so the file must be opened again and checked",
                self.name
            ))),
        }
    }

    // ---- what is where

    /// True where nobody who keeps to the locks can change the file beside us.
    pub(super) fn is_exclusive(&self) -> bool {
        self.exclusive.load(Ordering::Acquire)
    }

    /// True on a file system that asks another machine (or program) where holes are.
    pub(super) fn is_remote(&self) -> bool {
        /// NFS, SMB (two), FUSE, Ceph, 9P, AFS.
        const REMOTE: [u64; 7] =
            [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x00c3_6400, 0x0102_1997, 0x5346_414f];
        *self.remote.get_or_init(|| {
            // The type is a number of 32 bits, whatever the width of the field.
            rustix::fs::fstatfs(&self.file)
                .is_ok_and(|fs| REMOTE.contains(&(fs.f_type as u64 & 0xffff_ffff)))
        })
    }

    /// Calls `found` with each run of data or hole from `offset` on, in order, until it has seen
    /// `most` or `end`, which the last may reach across. A file system that cannot tell has one run
    /// of data.
    pub(super) fn runs(
        &self,
        offset: u64,
        end: u64,
        most: usize,
        mut found: impl FnMut(u64, u64, bool),
    ) -> rustix::io::Result<()> {
        let mut at = offset;
        for _ in 0..most {
            if at >= end {
                break;
            }
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                // No data behind `at`; or the file ends before it, cut short by somebody else.
                Err(Errno::NXIO) => end,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    found(at, end, true);
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            if data > at {
                found(at, data, false);
                at = data;
                continue;
            }
            let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => hole,
                // Changed between the two calls; that it is data is never wrong.
                Ok(_) | Err(Errno::NXIO) => end,
                Err(e) => return Err(e),
            };
            found(at, hole, true);
            at = hole;
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.lock.get_mut().release(&self.file);
    }
}

/// What a system call says.
pub(super) type Called = rustix::io::Result<usize>;

/// How far a read of the page cache came.
pub(super) struct Cached {
    pub(super) done: usize,
    /// False where the file system has no such read.
    pub(super) supported: bool,
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    rustix::io::retry_on_intr(&mut call)
}

/// The bytes of `data` from `done` on as the kernel wants them, at most what it takes in one call;
/// zeroes all point to the same pages.
pub(super) fn pieces(data: &Segments, done: u64) -> SmallVec<[IoSlice<'_>; 8]> {
    let mut out = SmallVec::new();
    let (mut skip, mut room) = (done, MAX_CALL);
    for segment in data.as_slice() {
        if skip >= segment.len() {
            skip -= segment.len();
            continue;
        }
        let mut left = (segment.len() - skip).min(room);
        while left > 0 {
            if out.len() == MAX_PIECES {
                return out;
            }
            // Both are shorter than a usize can tell: memory, and pages of zeroes.
            let piece = match segment {
                Segment::Data(bytes) => &bytes[skip as usize..][..left as usize],
                Segment::Zero(_) => &zeroes()[..left.min(zeroes().len() as u64) as usize],
            };
            out.push(IoSlice::new(piece));
            skip += piece.len() as u64;
            left -= piece.len() as u64;
            room -= piece.len() as u64;
        }
        skip = 0;
    }
    out
}
