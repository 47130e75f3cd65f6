//! Operations in an io_uring.
//!
//! Each device has a ring of its own, made when the first operation needs it. An operation in
//! flight is an entry of a slab that owns everything the kernel looks at (buffer, data, list of
//! pieces, the open file), so that a dropped future leaves nothing dangling: the entry goes when
//! its completion has come.
//!
//! Completions are collected by a task that waits on the ring's descriptor in the tokio runtime
//! the ring was first used in, and by a thread where there is no runtime, or once it has gone.
//!
//! An operation is handed to the kernel as it comes, but for writes of the thread that collects:
//! those that its tasks begin before the collector has its turn are handed over in one call, which
//! takes less processor time, a few at a time, so that the disk has work meanwhile. On such a ring
//! completions do not interrupt the thread either: it comes by soon. Direct writes of 4 KiB, 32 in
//! flight, on a virtual disk, in thousands a second: one by one 57, by 3 to 4 87, by 8 114, by 16
//! 104, by 32 80; by 8 and without interruptions 121 (qemu-img, with threads, 70). Reads gain nothing
//! by it, as the disk is the slower part, and lose a quarter where 32 wait for each other. Looking
//! for completions for a while before sleeping made writes slower: the kernel's threads, which finish
//! them, need the processor.

use super::handle::{Called, Handle, MAX_CALL, pieces};
use super::settle::{Completer, Settling, settling};
use super::work::{Outcome, Work};
use futures_util::task::AtomicWaker;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sectora_core::sync::{Mutex, MutexGuard};
use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle as Tokio, RuntimeFlavor};

/// Entries of the submission queue; the completion queue has twice as many.
const ENTRIES: u32 = 64;
/// So many writes are handed to the kernel without waiting for more.
const BATCH: usize = 8;
/// Operations in flight; further ones wait their turn. No more than the completion queue holds.
const IN_FLIGHT: usize = 128;
/// The completion that carries it is nobody's: it only wakes the collector.
const WAKE: u64 = u64::MAX;

/// A ring. Dropping it lets what is in flight settle.
#[derive(Debug)]
pub(super) struct Ring {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// The ring's descriptor, as long as `queue` lives.
    fd: RawFd,
    closing: AtomicBool,
    /// Wakes the collector to hand over what is queued.
    submitter: AtomicWaker,
}

struct Queue {
    ring: IoUring,
    /// The thread whose runtime, of this one thread, the collector is a task of.
    home: Option<ThreadId>,
    flight: Slab<Flight>,
    /// What the kernel has not taken from the submission queue yet.
    queued: Vec<usize>,
    waiting: VecDeque<(Arc<Handle>, Work, Completer<Outcome>)>,
    /// The kernel refuses the ring for good: it is never entered again, so that what it has not
    /// taken it never will.
    broken: Option<Errno>,
}

/// An operation the kernel knows of: nothing in it moves or goes until the kernel is done.
struct Flight {
    handle: Arc<Handle>,
    work: Work,
    pieces: Pieces,
    completer: Completer<Outcome>,
}

/// The list of pieces of a write, which points into the data of its [`Flight`].
#[derive(Default)]
struct Pieces(Box<[libc::iovec]>);

// SAFETY: the pointers are only read by the kernel, and what they point to is owned by the same
// `Flight` and may be used from any thread.
unsafe impl Send for Pieces {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring, and somebody who collects its completions.
    ///
    /// # Errors
    /// Where the kernel, a container's seccomp profile or the administrator forbids it.
    pub(super) fn new() -> io::Result<Self> {
        let tokio = Tokio::try_current();
        let is_home = |tokio: &Tokio| tokio.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let home = tokio.as_ref().is_ok_and(is_home).then(|| std::thread::current().id());
        let plain = || IoUring::builder().dontfork().build(ENTRIES);
        let mut ring = match home {
            // Linux before 5.19 does not know it.
            Some(_) => IoUring::builder()
                .dontfork()
                .setup_coop_taskrun()
                .build(ENTRIES)
                .or_else(|_| plain())?,
            None => plain()?,
        };
        // A profile may allow making rings and forbid using them: find out now.
        wake(&mut ring)?;
        ring.submit_and_wait(1)?;
        ring.completion().for_each(drop);
        let fd = ring.as_raw_fd();
        let flight = Slab::with_capacity(16);
        let (queued, waiting) = (Vec::new(), VecDeque::new());
        let queue = Mutex::new(Queue { ring, home, flight, queued, waiting, broken: None });
        let (closing, submitter) = (AtomicBool::new(false), AtomicWaker::new());
        let shared = Arc::new(Shared { queue, fd, closing, submitter });
        match tokio {
            Ok(tokio) => {
                let collector = Collector(Some(shared.clone()));
                tokio.spawn(collector.run());
            }
            Err(_) => shared.clone().collect_on_thread()?,
        }
        Ok(Self { shared })
    }

    /// Begins `work` on the file.
    pub(super) fn begin(&self, handle: &Arc<Handle>, work: Work) -> Settling<Outcome> {
        let is_write = matches!(work, Work::Write { .. });
        let changes = work.changes().map(|range| (handle.orphans.clone(), range));
        let (completer, settling) = settling(changes);
        let mut queue = self.shared.queue.lock();
        if queue.flight.len() < IN_FLIGHT && queue.waiting.is_empty() {
            queue.begin(handle.clone(), work, completer);
            if is_write && queue.is_home() && queue.queued.len() < BATCH {
                drop(queue);
                self.shared.submitter.wake();
            } else {
                hand_over(queue);
            }
        } else {
            queue.waiting.push_back((handle.clone(), work, completer));
        }
        settling
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        let mut queue = self.shared.queue.lock();
        // Where this fails the collector stays until the process ends; nothing is lost.
        if wake(&mut queue.ring).is_ok() {
            queue.submit();
        }
    }
}

/// Queues a completion that is nobody's.
fn wake(ring: &mut IoUring) -> io::Result<()> {
    push(ring, &opcode::Nop::new().build().user_data(WAKE))
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the entry is a no-op, or points only to what its `Flight` owns (see `Queue::entry`),
    // which stays in the slab until the entry's completion has been seen.
    unsafe { ring.submission().push(entry) }.map_err(|_| io::ErrorKind::WouldBlock.into())
}

/// An operation that a broken ring did not take.
struct Refused {
    work: Work,
    errno: Errno,
    completer: Completer<Outcome>,
}

impl Refused {
    fn complete(self) {
        self.completer.complete((Err(self.errno), self.work));
    }
}

impl Queue {
    /// Queues an operation for the kernel. False where there is no room, and it waits.
    fn begin(&mut self, handle: Arc<Handle>, work: Work, completer: Completer<Outcome>) -> bool {
        let key = self.flight.insert(Flight { handle, work, pieces: Pieces::default(), completer });
        let entry = Self::entry(&mut self.flight[key]).user_data(key as u64);
        if push(&mut self.ring, &entry).is_ok() {
            self.queued.push(key);
            true
        } else {
            // The kernel is so short of memory that it does not empty the queue.
            let Flight { handle, work, completer, .. } = self.flight.remove(key);
            self.waiting.push_front((handle, work, completer));
            false
        }
    }

    /// True on the thread that has the collector among its tasks.
    fn is_home(&self) -> bool {
        self.home.is_some_and(|home| home == std::thread::current().id())
    }

    /// Takes out what a broken ring will never begin.
    fn refused(&mut self) -> Vec<Refused> {
        let Some(errno) = self.broken else { return Vec::new() };
        let waiting = self.waiting.drain(..).map(|(_, work, completer)| (work, completer));
        let queued = self.queued.drain(..).map(|key| {
            let Flight { work, completer, .. } = self.flight.remove(key);
            (work, completer)
        });
        queued.chain(waiting).map(|(work, completer)| Refused { work, errno, completer }).collect()
    }

    /// The kernel's view of an operation. It points into the data the flight owns: the bytes of
    /// the buffer or of the segments, which lie on the heap (or are static) and stay where they
    /// are when the flight moves.
    fn entry(flight: &mut Flight) -> squeue::Entry {
        let fd = types::Fd(flight.handle.file.as_raw_fd());
        match &mut flight.work {
            Work::Read { buffer, done, offset } => {
                let at = *offset + *done as u64;
                let rest = buffer.as_mut_slice().get_mut(*done..).unwrap_or_default();
                // At most `MAX_CALL`.
                let len = rest.len().min(MAX_CALL as usize) as u32;
                opcode::Read::new(fd, rest.as_mut_ptr(), len).offset(at).build()
            }
            Work::Write { data, done, offset } => {
                let list = pieces(data, *done);
                let list = list.iter().map(|piece| libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                });
                flight.pieces = Pieces(list.collect());
                let list = &flight.pieces.0;
                // At most `IOV_MAX` pieces.
                let entry = opcode::Writev::new(fd, list.as_ptr(), list.len() as u32);
                entry.offset(*offset + *done).build()
            }
            Work::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Work::Fallocate { mode, offset, len } => {
                // The flags are small numbers; the kernel's field is signed.
                let mode = mode.bits() as i32;
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode).build()
            }
        }
    }

    /// Hands the queued entries to the kernel.
    fn submit(&mut self) {
        if self.broken.is_some() {
            return;
        }
        while !self.ring.submission().is_empty() {
            match self.ring.submit().map_err(|e| Errno::from_io_error(&e)) {
                Ok(_) | Err(Some(Errno::INTR)) => {}
                // Out of memory or of room for completions: soon there will be.
                Err(Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM)) => {
                    if self.flight.len() > self.ring.submission().len() {
                        // A completion will come, and the collector submits again.
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(errno) => {
                    self.broken = Some(errno.unwrap_or(Errno::IO));
                    return;
                }
            }
        }
        self.queued.clear();
    }
}

/// Hands over what is queued, and fails what a broken ring will never take.
fn hand_over(mut queue: MutexGuard<'_, Queue>) {
    queue.submit();
    let refused = queue.refused();
    drop(queue);
    refused.into_iter().for_each(Refused::complete);
}

impl Shared {
    /// Hands over what is queued.
    fn submit(&self) {
        hand_over(self.queue.lock());
    }

    /// Completes what has settled and begins what waited. True where the ring is at its end.
    fn collect(&self) -> bool {
        loop {
            let mut settled: SmallVec<[(Flight, Called); 8]> = SmallVec::new();
            let mut given_up = Vec::new();
            let mut queue = self.queue.lock();
            let Queue { ring, flight, .. } = &mut *queue;
            for entry in ring.completion() {
                // The numbers are the slab's own; the kernel hands them back as they were.
                if let Some(op) = flight.try_remove(entry.user_data() as usize) {
                    settled.push((op, called(entry.result())));
                }
            }
            queue.submit();
            while queue.flight.len() < IN_FLIGHT && queue.broken.is_none() {
                let Some((handle, work, completer)) = queue.waiting.pop_front() else { break };
                if completer.is_abandoned() {
                    given_up.push((work, completer));
                } else if !queue.begin(handle, work, completer) {
                    break;
                }
            }
            queue.submit();
            let refused = queue.refused();
            let idle = queue.flight.is_empty() && queue.waiting.is_empty();
            drop(queue);
            drop(given_up);
            refused.into_iter().for_each(Refused::complete);
            if settled.is_empty() {
                return idle && self.closing.load(Ordering::Acquire);
            }
            for (Flight { handle, work, completer, .. }, result) in settled {
                work.settled(&handle, &result);
                // Whoever waits may find the file closed (and its lock released) right away.
                drop(handle);
                completer.complete((result, work));
            }
        }
    }

    fn collect_on_thread(self: Arc<Self>) -> io::Result<()> {
        let collect = move || {
            // SAFETY: the descriptor is the ring's, which `self` owns for as long as this runs.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            while !self.collect() {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                // Nothing but an interruption can go wrong, and then there is a look too many.
                let _ = poll(&mut fds, None);
            }
        };
        std::thread::Builder::new().name("sectora-ring".to_owned()).spawn(collect).map(drop)
    }
}

/// The result field of a completion.
fn called(result: i32) -> Called {
    match usize::try_from(result) {
        Ok(n) => Ok(n),
        Err(_) => Err(Errno::from_raw_os_error(result.wrapping_neg())),
    }
}

/// The task that collects. Where its runtime ends before the ring does, a thread goes on.
struct Collector(Option<Arc<Shared>>);

impl Collector {
    async fn run(mut self) {
        let Some(shared) = self.0.clone() else { return };
        // SAFETY: the descriptor is that of the ring inside, which is never closed or exchanged
        // before the last reference to it, one of which this is, is gone.
        let fd =
            unsafe { AsyncFd::register_with_interest(RingFd(shared.clone()), Interest::READABLE) };
        let Ok(fd) = fd else { return };
        loop {
            let ready = poll_fn(|cx| {
                shared.submitter.register(cx.waker());
                shared.submit();
                fd.poll_read_ready(cx)
            });
            // Readiness is cleared before looking: what comes later makes it ready again.
            match ready.await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
            if shared.collect() {
                self.0 = None;
                return;
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.queue.lock().home = None;
            // Without a thread to give, what is in flight settles unseen.
            let _ = shared.collect_on_thread();
        }
    }
}

struct RingFd(Arc<Shared>);

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd
    }
}
