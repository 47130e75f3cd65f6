//! A guest's side of `vhost-user-blk`: memory in a file that is shared, rings made by hand, and the
//! messages of the `vhost` crate.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

/// So long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors of a queue.
pub(crate) const SIZE: u16 = 128;

/// Where the guest has its memory.
pub(crate) const START: u64 = 0x10_0000;

/// Its length.
const MEMORY: u64 = 32 << 20;

/// Room of a queue: the three rings in the first part, data in the rest.
const ROOM: u64 = 4 << 20;

/// Data of a queue begin there.
const DATA: u64 = 0x1_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Types of requests.
pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

/// A descriptor as the ring has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// One queue, as the guest sees it.
struct Queue {
    base: u64,
    available: u16,
    used: u16,
    kick: EventFd,
    call: EventFd,
}

/// A guest.
pub(crate) struct Guest {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    pub(crate) features: u64,
    /// What the backend tells.
    pub(crate) back: UnixStream,
}

/// What a guest agrees to of what it is offered; 32 (version 1) and 30 (protocol features) among
/// them.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) features: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        let bits = [1, 2, 5, 6, 9, 10, 12, 13, 14, 28, 30, 32];
        Self { features: bits.iter().map(|bit| 1 << bit).sum() }
    }
}

impl Guest {
    /// Connects, and has `queues` queues.
    pub(crate) fn new(path: &str, queues: usize, wanted: Wanted) -> Self {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{path}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut frontend = Frontend::from_stream(stream, queues as u64);
        frontend.set_owner().expect("an owner");
        let features = frontend.get_features().expect("features");
        let agreed = features & wanted.features;
        frontend.set_features(agreed).expect("features");
        let protocol = frontend.get_protocol_features().expect("protocol features");
        let known = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIG;
        frontend.set_protocol_features(protocol & known).expect("protocol features");
        let (back, theirs) = UnixStream::pair().expect("a pair");
        frontend.set_backend_request_fd(&theirs).expect("a channel");

        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC);
        let file = std::fs::File::from(fd.expect("a memory file"));
        file.set_len(MEMORY).expect("a length");
        let handle = file.as_raw_fd();
        let region = MmapRegion::from_file(FileOffset::new(file, 0), MEMORY as usize);
        let region = GuestRegionMmap::new(region.expect("memory"), GuestAddress(START));
        let memory = GuestMemoryMmap::from_regions(vec![region.expect("a region")]);
        let info = VhostUserMemoryRegionInfo {
            guest_phys_addr: START,
            memory_size: MEMORY,
            // Addresses of the frontend differ from those of the guest.
            userspace_addr: START + (1 << 40),
            mmap_offset: 0,
            mmap_handle: handle,
        };
        frontend.set_mem_table(&[info]).expect("memory");
        let mut guest =
            Self { frontend, memory: memory.expect("memory"), queues: Vec::new(), features, back };
        for index in 0..queues {
            guest.start(index);
        }
        guest
    }

    fn start(&mut self, index: usize) {
        let base = START + index as u64 * ROOM;
        let user = |at: u64| at + (1 << 40);
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK).expect("an event");
        let queue = Queue { base, available: 0, used: 0, kick: eventfd(), call: eventfd() };
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: user(base),
            avail_ring_addr: user(base + 0x4000),
            used_ring_addr: user(base + 0x8000),
            log_addr: None,
        };
        let frontend = &mut self.frontend;
        frontend.set_vring_num(index, SIZE).expect("a length");
        frontend.set_vring_addr(index, &config).expect("addresses");
        frontend.set_vring_base(index, 0).expect("a base");
        frontend.set_vring_call(index, &queue.call).expect("a call");
        frontend.set_vring_kick(index, &queue.kick).expect("a kick");
        frontend.set_vring_enable(index, true).expect("it is enabled");
        self.queues.push(queue);
    }

    /// Bytes of the configuration.
    pub(crate) fn config(&mut self, offset: u32, len: usize) -> Vec<u8> {
        let none = vec![0; len];
        let flags = VhostUserConfigFlags::empty();
        self.frontend.get_config(offset, len as u32, flags, &none).expect("a configuration").1
    }

    pub(crate) fn set_config(&mut self, offset: u32, bytes: &[u8]) {
        let flags = VhostUserConfigFlags::empty();
        self.frontend.set_config(offset, flags, bytes).expect("a configuration");
    }

    /// Ends a queue: the index of the next available chain.
    pub(crate) fn stop(&mut self, index: usize) -> u32 {
        self.frontend.get_vring_base(index).expect("a base")
    }

    /// How many queues the device has.
    pub(crate) fn queue_count(&mut self) -> u64 {
        self.frontend.get_queue_num().expect("a number")
    }

    /// An address among the data of a queue.
    pub(crate) fn data(&self, queue: usize, offset: u64) -> u64 {
        self.queues[queue].base + DATA + offset
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("the guest's own memory");
    }

    pub(crate) fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read_slice(&mut out, GuestAddress(address)).expect("the guest's own memory");
        out
    }

    /// Writes descriptors into a table.
    pub(crate) fn table(&self, at: u64, descriptors: &[Descriptor]) {
        for (i, d) in descriptors.iter().enumerate() {
            let mut bytes = d.address.to_le_bytes().to_vec();
            bytes.extend_from_slice(&d.len.to_le_bytes());
            bytes.extend_from_slice(&d.flags.to_le_bytes());
            bytes.extend_from_slice(&d.next.to_le_bytes());
            self.put(at + 16 * i as u64, &bytes);
        }
    }

    /// Writes descriptors of a queue, from the one with number `at` on.
    pub(crate) fn descriptors(&self, queue: usize, at: u16, descriptors: &[Descriptor]) {
        self.table(self.queues[queue].base + 16 * u64::from(at), descriptors);
    }

    /// Makes a chain available, and tells.
    pub(crate) fn offer(&mut self, index: usize, head: u16) {
        let queue = &mut self.queues[index];
        let base = queue.base + 0x4000;
        let slot = u64::from(queue.available % SIZE);
        queue.available = queue.available.wrapping_add(1);
        let (available, kick) = (queue.available, queue.kick.try_clone().expect("an event"));
        self.put(base + 4 + 2 * slot, &head.to_le_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.put(base + 2, &available.to_le_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        kick.write(1).expect("a kick");
    }

    /// Pretends that so many chains more are available.
    pub(crate) fn pretend(&mut self, index: usize, count: u16) {
        let queue = &self.queues[index];
        let (at, kick) = (queue.base + 0x4002, queue.kick.try_clone().expect("an event"));
        self.put(at, &queue.available.wrapping_add(count).to_le_bytes());
        kick.write(1).expect("a kick");
    }

    /// Waits for the next chain that comes back: its head, and how much was written; `None` where the
    /// connection ends.
    pub(crate) fn next_used(&mut self, index: usize) -> Option<(u32, u32)> {
        loop {
            let (base, used) = (self.queues[index].base + 0x8000, self.queues[index].used);
            let now = self.get(base + 2, 2);
            if u16::from_le_bytes([now[0], now[1]]) != used {
                let entry = self.get(base + 4 + 8 * u64::from(used % SIZE), 8);
                self.queues[index].used = used.wrapping_add(1);
                let four = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("4"));
                return Some((four(0), four(4)));
            }
            // With event indexes: a call is wanted for the next one. It may have come meanwhile.
            let wanted = self.queues[index].base + 0x4004 + 2 * u64::from(SIZE);
            self.put(wanted, &used.to_le_bytes());
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let now = self.get(base + 2, 2);
            if u16::from_le_bytes([now[0], now[1]]) != used {
                continue;
            }
            let call = self.queues[index].call.as_raw_fd();
            let socket = self.frontend.as_raw_fd();
            // SAFETY: both descriptors are open as long as `self` is.
            let (call, socket) =
                unsafe { (BorrowedFd::borrow_raw(call), BorrowedFd::borrow_raw(socket)) };
            let mut fds = [
                PollFd::from_borrowed_fd(call, PollFlags::IN),
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
            ];
            let time = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let told = poll(&mut fds, Some(&time)).expect("a poll");
            assert!(told > 0, "no call from queue {index}");
            if fds[1].revents().intersects(PollFlags::HUP) {
                return None;
            }
            // It may be another call that is over.
            let _ = self.queues[index].call.read();
        }
    }

    /// Lays out a request: header, data to the device, room for data from it, status; data begin at
    /// `at` of the queue's data, descriptors with number `head`. The last `cuts` say in how many
    /// pieces data are.
    pub(crate) fn lay(
        &mut self,
        queue: usize,
        (head, at): (u16, u64),
        (kind, sector): (u32, u64),
        out: &[u8],
        room: u32,
        cuts: u32,
    ) {
        let start = self.data(queue, at);
        let mut header = kind.to_le_bytes().to_vec();
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&sector.to_le_bytes());
        self.put(start, &header);
        self.put(start + 512, out);
        self.put(start + 16, &[0xff]);
        let mut list = vec![(start, 16, 0)];
        for (len, flags) in [(out.len() as u32, 0), (room, WRITE)] {
            let piece = len.div_ceil(cuts.max(1)).max(1);
            let mut done = 0;
            while done < len {
                let count = piece.min(len - done);
                list.push((start + 512 + u64::from(done), count, flags));
                done += count;
            }
        }
        list.push((start + 16, 1, WRITE));
        let last = list.len() - 1;
        let chain: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(i, &(address, len, flags))| Descriptor {
                address,
                len,
                flags: if i < last { flags | NEXT } else { flags },
                next: head + i as u16 + 1,
            })
            .collect();
        self.descriptors(queue, head, &chain);
    }

    /// A request from beginning to end: its status, what was written to the guest, and how much the
    /// device says that it wrote.
    pub(crate) fn request(
        &mut self,
        queue: usize,
        what: (u32, u64),
        out: &[u8],
        room: u32,
        cuts: u32,
    ) -> (u8, Vec<u8>, u32) {
        let answer = self.try_request(queue, what, out, room, cuts);
        answer.unwrap_or_else(|| panic!("the connection ended at {what:?}"))
    }

    /// The same; `None` where the connection ends.
    pub(crate) fn try_request(
        &mut self,
        queue: usize,
        what: (u32, u64),
        out: &[u8],
        room: u32,
        cuts: u32,
    ) -> Option<(u8, Vec<u8>, u32)> {
        let start = self.data(queue, 0);
        self.put(start + 512, &vec![0xee; room as usize]);
        self.lay(queue, (0, 0), what, out, room, cuts);
        self.offer(queue, 0);
        let (head, written) = self.next_used(queue)?;
        assert_eq!(head, 0);
        Some((self.get(start + 16, 1)[0], self.get(start + 512, room as usize), written))
    }

    /// The next message of the backend, or `None` where none comes soon.
    pub(crate) fn told(&mut self, time: Duration) -> Option<[u8; 12]> {
        self.back.set_read_timeout(Some(time)).expect("a timeout");
        let mut header = [0; 12];
        match self.back.read_exact(&mut header) {
            Ok(()) => Some(header),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// `struct virtio_blk_discard_write_zeroes`.
pub(crate) fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut out = sector.to_le_bytes().to_vec();
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out
}
