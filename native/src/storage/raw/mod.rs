//! The device below [`FileDevice`](super::FileDevice): one open file, in the units the kernel
//! wants. With `O_DIRECT` offsets and lengths must be aligned, except that a range may end
//! wherever the file ends.
//!
//! # What runs where
//!
//! - A read is tried in place, as far as the page cache has it; the rest, and every direct read,
//!   goes to the ring or a thread.
//! - A write into the page cache is done in place as well, as long as the page cache takes it at
//!   the speed of memory. Once a write has been made to wait (too much is dirty), those of the next
//!   quarter of a second go to the ring or a thread, so that the runtime's workers do not wait.
//!   Copying 256 MiB from cached file to new ext4 file, 8 tasks on two cores, best of 5: in place
//!   0.10 s at 64 KiB, 1 MiB and 2 MiB; threads 0.16, 0.12, 0.13 s; ring (whose kernel threads
//!   take buffered writes of one file one after the other) 0.14, 0.13, 0.11 s.
//! - Direct I/O that comes one request at a time is done by calls that wait (see `solo`).
//! - All other direct I/O is the ring's: 4 KiB reads, 32 in flight, cost 8 µs of processor time each,
//!   22 µs over threads. Its files are not registered: that saved nothing measurable, and a
//!   registered file stays open (and locked) for a while after the ring is closed.
//! - Everything that changes the file first lets overlapping abandoned operations settle
//!   (see `settle`).

mod space;
mod turn;

use super::buffer::{ALIGN, Buffer};
use super::error::os;
use super::handle::{Called, Handle, Kind};
use super::layout::extent_size_hint;
use super::solo::{self, Solo};
use super::threads;
use super::uring::Ring;
use super::work::Work;
use rustix::io::Errno;
use sectora_core::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, Limits, Preallocation, Segment,
    Segments, WriteFlags, ZeroFlags,
};
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use turn::Turns;

/// The longest read or write that is taken.
const MAX_TRANSFER: u32 = 1 << 30;
/// Zeroes inside a write are made by `fallocate` from this length on.
const ZERO_RUN: u64 = 256 << 10;
/// The longest read or write that is done in place.
const IN_PLACE: u64 = 4 << 20;

/// What direct I/O must be aligned to, in bytes; powers of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    pub(super) offset: u32,
    pub(super) memory: u32,
}

/// An open file.
#[derive(Debug)]
pub(super) struct RawFile {
    handle: Arc<Handle>,
    writable: bool,
    no_flush: bool,
    direct: Option<Direct>,
    /// Made when first needed; `None` where threads do the work.
    ring: OnceLock<Option<Ring>>,
    /// What the file system has been found not to do, so that it is not asked again.
    lacks: Lacks,
    known: Mutex<KnownData>,
    pace: Pace,
    /// Whether direct requests overlap; `None` where it was said how operations are run.
    solo: Option<Solo>,
    /// Whose turn it is to write in place. The kernel lets one thread at a time write to a file
    /// through the page cache, and has the others spin: here all but the next wait without using a
    /// processor.
    writing: Turns,
}

/// Whether the page cache takes writes at the speed of memory.
#[derive(Debug)]
struct Pace {
    start: Instant,
    /// Milliseconds after `start` until which it is taken to be slow.
    slow_until: AtomicU64,
}

impl Pace {
    fn new() -> Self {
        Self { start: Instant::now(), slow_until: AtomicU64::new(0) }
    }

    fn is_fast(&self) -> bool {
        let slow = self.slow_until.load(Ordering::Relaxed);
        slow == 0 || self.now() >= slow
    }

    /// Takes note of a write that was done in place.
    fn took(&self, time: Duration, len: u64) {
        // Some ten times what it takes where nothing waits.
        if time > Duration::from_millis(5) + Duration::from_nanos(4 * len) {
            self.slow_until.store(self.now() + 250, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Default)]
struct Lacks {
    cached_reads: AtomicBool,
    zero_range: AtomicBool,
    punch_hole: AtomicBool,
}

/// A run of data found last: it stays data until somebody makes a hole.
#[derive(Debug, Default)]
struct KnownData {
    run: Range<u64>,
    /// Counts what may have made holes: an answer from before is not kept.
    holes: u64,
}

/// Set where the kernel or a profile forbids io_uring: asking once is enough.
static NO_URING: AtomicBool = AtomicBool::new(false);

impl RawFile {
    /// `ring` where it is decided already whether there is one.
    pub(super) fn new(
        handle: Arc<Handle>,
        writable: bool,
        no_flush: bool,
        direct: Option<Direct>,
        ring: Option<Option<Ring>>,
    ) -> Self {
        let solo = (ring.is_none() && direct.is_some()).then(Solo::default);
        let ring = ring.map_or_else(OnceLock::new, OnceLock::from);
        let (lacks, known, pace) = (Lacks::default(), Mutex::default(), Pace::new());
        let writing = Turns::default();
        Self { handle, writable, no_flush, direct, ring, lacks, known, pace, solo, writing }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    fn ring(&self) -> Option<&Ring> {
        let make = || {
            if NO_URING.load(Ordering::Relaxed) {
                return None;
            }
            Ring::new()
                .inspect_err(|e| {
                    let forbidden = [Errno::NOSYS, Errno::PERM, Errno::ACCESS];
                    // Else short of memory or descriptors: the next device may have more luck.
                    if Errno::from_io_error(e).is_some_and(|e| forbidden.contains(&e)) {
                        NO_URING.store(true, Ordering::Relaxed);
                    }
                })
                .ok()
        };
        self.ring.get_or_init(make).as_ref()
    }

    /// Has `work` done where it may wait.
    async fn perform(&self, mut work: Work) -> Result<(Called, Work)> {
        let len = work.len();
        let turn = self.solo.as_ref().filter(|_| len.is_some()).map(Solo::enter);
        let is_alone = turn.as_ref().is_some_and(|turn| turn.is_alone);
        if is_alone && solo::thread_may_wait() && len <= Some(solo::MAX_WAIT) {
            return Ok(work.run(&self.handle));
        }
        let is_single = turn.as_ref().is_some_and(|turn| turn.is_single);
        let on_thread = is_single && matches!(work, Work::Write { .. });
        let work = match self.ring() {
            None => work,
            Some(_) if on_thread => work,
            Some(ring) => match ring.begin(&self.handle, work).await {
                // The thread that gave it to the ring has ended, or the ring is out of use.
                Some((Err(Errno::CANCELED | Errno::AGAIN), work)) => work,
                Some(outcome) => return Ok(outcome),
                None => return Err(self.lost()),
            },
        };
        let changes = work.changes();
        let outcome = threads::call(&self.handle, changes, move |handle| work.run(handle)).await;
        outcome.ok_or_else(|| self.lost())
    }

    fn lost(&self) -> Error {
        Error::bug(format!("an operation on '{}' was lost", self.handle.name))
    }

    // ---- checks

    fn aligned(&self, n: u64) -> bool {
        self.direct.is_none_or(|direct| n.is_multiple_of(u64::from(direct.offset)))
    }

    /// Refuses a range that does not lie within `len` or breaks the limits.
    fn check(&self, offset: u64, len: u64, within: u64) -> Result<()> {
        let name = &self.handle.name;
        match offset.checked_add(len) {
            Some(end) if end <= within => {
                let aligned =
                    self.aligned(offset) && (self.aligned(len) || end >= self.handle.len());
                if aligned {
                    return Ok(());
                }
                Err(Error::invalid(format!(
                    "request {offset:#x}+{len:#x} of '{name}' is not aligned to {:#x}",
                    self.limits().request_alignment
                )))
            }
            _ => Err(Error::invalid(format!(
                "request {offset:#x}+{len:#x} exceeds the length {within:#x} of '{name}'"
            ))),
        }
    }

    fn check_transfer(&self, len: u64) -> Result<()> {
        if len <= u64::from(MAX_TRANSFER) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a request of {len:#x} bytes for '{}' exceeds the longest possible, {MAX_TRANSFER:#x}",
            self.handle.name
        )))
    }

    fn check_change(&self, offset: u64, len: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::denied(format!("'{}' is read-only", self.handle.name)));
        }
        let most = match self.handle.kind {
            // The kernel counts in signed numbers.
            Kind::Regular | Kind::Character => i64::MAX as u64,
            Kind::Block => self.handle.len(),
        };
        let is_full = |end| self.handle.kind == Kind::Block && end > most;
        if offset.checked_add(len).is_some_and(is_full) {
            let what = || format!("request {offset:#x}+{len:#x} on '{}'", self.handle.name);
            return Err(os(Errno::NOSPC, what()).at(offset));
        }
        self.check(offset, len, most)
    }

    // ---- reading

    async fn read_at(&self, offset: u64, len: u64) -> Result<Segments> {
        // What lay within the file a moment ago is worth a try: asking for the length takes as long
        // as a third of a small read, and who cuts the file short is found out by the read.
        let known = self.handle.known_len();
        let within = match offset.checked_add(len) {
            Some(end) if end <= known => known,
            _ => self.handle.len(),
        };
        self.check(offset, len, within)?;
        self.check_transfer(len)?;
        if len == 0 {
            return Ok(Segments::new());
        }
        // At most `MAX_TRANSFER`, rounded up to the alignment.
        let wanted = len as usize;
        let size = self.direct.map_or(wanted, |d| wanted.next_multiple_of(d.offset as usize));
        let mut buffer = match self.direct {
            None => Buffer::anywhere(size),
            Some(_) => Buffer::new(size),
        };
        let mut done = 0;
        if self.direct.is_none()
            && len <= IN_PLACE
            && !self.lacks.cached_reads.load(Ordering::Relaxed)
        {
            let cached = self.handle.read_cached(&mut buffer, 0, offset);
            if !cached.supported {
                self.lacks.cached_reads.store(true, Ordering::Relaxed);
            }
            done = cached.done;
        }
        if done < wanted {
            // Boxed, so that the reads that end above stay small.
            buffer = Box::pin(self.read_rest(buffer, done, wanted, offset)).await?;
        }
        Ok(buffer.freeze(wanted).into())
    }

    async fn read_rest(
        &self,
        mut buffer: Buffer,
        mut done: usize,
        wanted: usize,
        offset: u64,
    ) -> Result<Buffer> {
        while done < wanted {
            let (result, work) = self.perform(Work::Read { buffer, done, offset }).await?;
            let Work::Read { buffer: back, .. } = work else { return Err(self.lost()) };
            buffer = back;
            let at = offset + done as u64;
            let n = result.map_err(|e| self.handle.error(e, "cannot read from").at(at))?;
            done += n;
            // A direct read that stops off the alignment has met the end as well.
            if done < wanted && (n == 0 || !self.aligned(done as u64)) {
                return Err(Error::io(format!(
                    "'{}' ends at {:#x}, earlier than when it was opened: another program has cut \
                     it short",
                    self.handle.name,
                    offset + done as u64
                )));
            }
        }
        Ok(buffer)
    }

    // ---- writing

    async fn write_at(&self, offset: u64, data: Segments, flags: WriteFlags) -> Result<()> {
        let len = data.len();
        self.check_change(offset, len)?;
        self.check_transfer(len)?;
        if len == 0 {
            return self.reach(offset).await;
        }
        self.handle.orphans.settled(offset..offset + len).await;
        let mut done = 0;
        while done < len {
            let (run, zero) = run(&data, done);
            let at = offset + done;
            if !(zero && Box::pin(self.zero_range(at, run)).await?) {
                let data = if run == len { data.clone() } else { data.slice(done, run) };
                match self.direct {
                    None => self.write_run(at, data).await?,
                    Some(direct) => Box::pin(self.write_direct(at, data, direct)).await?,
                }
            }
            done += run;
        }
        if flags.contains(WriteFlags::FUA) {
            Box::pin(self.sync()).await?;
        }
        Ok(())
    }

    /// Writes `data` as it is.
    async fn write_run(&self, offset: u64, mut data: Segments) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let left = data.len() - done;
            let result = if left <= IN_PLACE && self.pace.is_fast() {
                let _turn = self.writing.take().await;
                let start = Instant::now();
                let result = self.handle.write(&self.handle.file, &data, done, offset);
                self.pace.took(start.elapsed(), left);
                result
            } else {
                let work = Box::pin(self.perform(Work::Write { data, done, offset }));
                let (result, Work::Write { data: back, .. }) = work.await? else {
                    return Err(self.lost());
                };
                data = back;
                result
            };
            done += self.wrote(result, offset + done)?;
        }
        Ok(())
    }

    /// The bytes that a write has written, at least one.
    fn wrote(&self, result: Called, at: u64) -> Result<u64> {
        match result {
            Ok(0) => {
                Err(Error::io(format!("nothing could be written to '{}'", self.handle.name)).at(at))
            }
            Ok(n) => Ok(n as u64),
            Err(e) => Err(self.handle.error(e, "cannot write to").at(at)),
        }
    }

    /// Writes `data`, which begins at an aligned offset and ends at one, or at the file's end.
    async fn write_direct(&self, offset: u64, data: Segments, direct: Direct) -> Result<()> {
        let tail = data.len() % u64::from(direct.offset);
        let whole = data.len() - tail;
        let mut done = 0;
        while done < whole {
            let rest = data.slice(done, whole - done);
            let (rest, len) = if memory_aligned(&rest, direct) {
                let len = rest.len();
                (rest, len)
            } else {
                // Copied in pieces that the pool has buffers for.
                let len = rest.len().min(1 << 20);
                let part = rest.slice(0, len);
                let mut buffer = Buffer::new(len as usize);
                part.copy_to(buffer.as_mut_slice());
                let mut copy = Segments::from(buffer.freeze(len as usize));
                // What the data holds is held until this copy of it has landed.
                copy.hold(Arc::new(part));
                (copy, len)
            };
            let mut written = 0;
            let mut data = rest;
            while written < len {
                let at = offset + done;
                let work = Work::Write { data, done: written, offset: at };
                let (result, work) = self.perform(work).await?;
                let Work::Write { data: back, .. } = work else { return Err(self.lost()) };
                data = back;
                written += self.wrote(result, at + written)?;
            }
            done += len;
        }
        if tail > 0 {
            self.write_buffered(offset + whole, data.slice(whole, tail)).await?;
        }
        Ok(())
    }

    /// Writes the last bytes of a file whose length is not aligned, through the page cache.
    async fn write_buffered(&self, offset: u64, data: Segments) -> Result<()> {
        let changes = Some(offset..offset + data.len());
        let result = threads::call(&self.handle, changes, move |handle| {
            let file = handle.buffered()?;
            handle.write_all(file, &data, offset)
        });
        let result = result.await.ok_or_else(|| self.lost())?;
        self.wrote(result, offset).map(drop)
    }

    async fn sync(&self) -> Result<()> {
        if self.no_flush || !self.writable || self.handle.kind == Kind::Character {
            return Ok(());
        }
        self.handle.orphans.settled(0..u64::MAX).await;
        self.handle.check_flushes()?;
        let (result, _) = self.perform(Work::Sync).await?;
        result.map(drop).map_err(|e| self.handle.error(e, "cannot flush"))
    }

    // ---- length
}

/// The length of the run at `done` that is written in one way, and whether it is zeroes to be made
/// by `fallocate`.
fn run(data: &Segments, done: u64) -> (u64, bool) {
    let mut at = 0;
    let mut plain = 0;
    for segment in data.as_slice() {
        let len = segment.len();
        at += len;
        if at <= done {
            continue;
        }
        // Runs end at segment borders, so `done` is one.
        match segment {
            Segment::Zero(n) if *n >= ZERO_RUN => {
                return if plain > 0 { (plain, false) } else { (len, true) };
            }
            _ => plain += len,
        }
    }
    (plain, false)
}

/// True where the kernel can write `data` from where it is.
fn memory_aligned(data: &Segments, direct: Direct) -> bool {
    let aligned = |n: usize, unit: u32| n.is_multiple_of(unit as usize);
    data.as_slice().iter().all(|segment| match segment {
        Segment::Data(b) => {
            aligned(b.as_ptr().addr(), direct.memory) && aligned(b.len(), direct.offset)
        }
        Segment::Zero(n) => n.is_multiple_of(u64::from(direct.offset)),
    })
}

/// Finds by trying what direct reads must be aligned to, where the system does not tell.
pub(super) fn probe_alignment(file: &File) -> Direct {
    let works = |len: usize| {
        let mut buffer = Buffer::new(ALIGN);
        rustix::io::pread(file, &mut buffer.as_mut_slice()[..len], 0).is_ok_and(|n| n > 0)
    };
    let align = [512, 1024, 2048].into_iter().find(|len| works(*len)).unwrap_or(ALIGN);
    // One of four small numbers.
    Direct { offset: align as u32, memory: align as u32 }
}

impl BlockDevice for RawFile {
    fn len(&self) -> u64 {
        self.handle.len()
    }

    fn limits(&self) -> Limits {
        Limits {
            request_alignment: self.direct.map_or(1, |d| d.offset),
            granularity: self.direct.map_or(1, |d| d.offset),
            max_transfer: MAX_TRANSFER,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let regular = self.handle.kind == Kind::Regular;
        let mut capabilities = Capabilities::empty();
        capabilities.set(Capabilities::WRITE, self.writable);
        capabilities.set(Capabilities::GROW, self.writable && regular);
        capabilities.set(Capabilities::ZERO_INIT, regular);
        let lacks = self.lacks.zero_range.load(Ordering::Relaxed)
            && self.lacks.punch_hole.load(Ordering::Relaxed);
        capabilities.set(Capabilities::FAST_ZERO, regular && !lacks);
        capabilities
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(self.read_at(offset, len))
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write_at(offset, data, flags))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.zero_at(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.discard_at(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.sync())
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.set_len_to(len, preallocation))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.extents_of(offset, len))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async {
            let stat = rustix::fs::fstat(&self.handle.file)
                .map_err(|e| self.handle.error(e, "cannot find the size of"))?;
            Ok(DeviceInfo {
                driver: if self.handle.kind == Kind::Regular { "file" } else { "host_device" },
                filename: self.handle.name.to_string(),
                // Counted in units of 512, whatever the file system's blocks are.
                actual_size: u64::try_from(stat.st_blocks).ok().map(|n| n.saturating_mul(512)),
                extent_size_hint: extent_size_hint(&self.handle.file),
            })
        })
    }
}
