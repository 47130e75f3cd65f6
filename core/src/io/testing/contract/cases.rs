//! The cases, and the bench they work at.

use super::super::model::{self, Flat, ModelOptions, Op, Plan, Session, Subject, payload};
use super::super::transfer::{check_answer, walk_extents, write_all};
use super::super::{Rng, abandon_at};
use super::{Case, ContractOptions};
use crate::io::{
    BoxFuture, Capabilities, Device, Hold, Limits, Preallocation, Runtime, Segments, WriteFlags,
    ZeroFlags,
};
use crate::{ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use futures_util::future::join_all;

/// A window shorter than this leaves too little room for the cases.
const LEAST_WINDOW: u64 = 16 << 10;

/// The window that the cases would like, where clusters are small.
const WINDOW: u64 = 64 << 10;

/// The tag of the bytes that a disk begins with: data throughout.
const BASE: u32 = 5;

pub(super) const ALL: &[Case] = &[
    Case {
        name: "limits",
        about: "limits are sound, and requests that break them are refused with InvalidInput",
        run: |b| Box::pin(limits(b)),
    },
    Case {
        name: "read_after_write",
        about: "what was written is read back, at any offset and length, and nothing else changes",
        run: |b| Box::pin(read_after_write(b)),
    },
    Case {
        name: "segments",
        about: "writes of several segments put data and zeroes where they belong",
        run: |b| Box::pin(segments(b)),
    },
    Case {
        name: "past_the_end",
        about: "a range that does not lie within the length is refused with InvalidInput",
        run: |b| Box::pin(past_the_end(b)),
    },
    Case {
        name: "overflow",
        about: "a range that exceeds 64 bits is refused with InvalidInput",
        run: |b| Box::pin(overflow(b)),
    },
    Case {
        name: "growing_writes",
        about: "with GROW, a write or zero write that ends past the length makes the device longer",
        run: |b| Box::pin(growing_writes(b)),
    },
    Case {
        name: "zero_init",
        about: "with ZERO_INIT, bytes gained by growing read as zeroes, whatever was there before",
        run: |b| Box::pin(zero_init(b)),
    },
    Case {
        name: "write_zeroes",
        about: "a zero write zeroes its range and no byte more, with every flag",
        run: |b| Box::pin(write_zeroes(b)),
    },
    Case {
        name: "discard",
        about: "a discard leaves old bytes or zeroes in its range, and all others alone",
        run: |b| Box::pin(discard(b)),
    },
    Case {
        name: "set_len",
        about: "the length goes both ways; what is kept stays, what is gained is zero",
        run: |b| Box::pin(set_len(b)),
    },
    Case {
        name: "extents",
        about: "extents are in order, without gaps, merged, and truthful about zeroes",
        run: |b| Box::pin(extents(b)),
    },
    Case {
        name: "flush",
        about: "flushes succeed, with or without something to do, and change nothing",
        run: |b| Box::pin(flush(b)),
    },
    Case {
        name: "compressed",
        about: "with COMPRESSED, compressed writes read back",
        run: |b| Box::pin(compressed(b)),
    },
    Case {
        name: "read_only",
        about: "a device without WRITE refuses every change with Denied",
        run: |b| Box::pin(read_only(b)),
    },
    Case { name: "info", about: "the device names its driver", run: |b| Box::pin(info(b)) },
    Case {
        name: "concurrent",
        about: "many requests in flight do not disturb each other",
        run: |b| Box::pin(concurrent(b)),
    },
    Case {
        name: "overlapping",
        about: "of overlapping writes in flight, each byte has one of the values",
        run: |b| Box::pin(overlapping(b)),
    },
    Case {
        name: "dropped_writes",
        about: "a write whose future was dropped settles before later overlapping changes and flushes",
        run: |b| Box::pin(dropped_writes(b)),
    },
    Case {
        name: "holds",
        about: "the hold on a write's data is kept until the write has settled, and then let go",
        run: |b| Box::pin(holds(b)),
    },
    Case {
        name: "random",
        about: "random operations agree with a flat copy",
        run: |b| Box::pin(random(b)),
    },
];

/// Why a case ends before its end.
pub(super) enum Stop {
    Skip(String),
    Fail(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Fail(what)
    }
}

type Verdict = core::result::Result<(), Stop>;

macro_rules! fail {
    ($($text:tt)*) => { return Err(Stop::Fail(format!($($text)*))) };
}

macro_rules! skip {
    ($($text:tt)*) => { return Err(Stop::Skip(format!($($text)*))) };
}

/// What every case is given.
pub(super) struct Bench<'a> {
    pub(super) subject: &'a dyn Subject,
    pub(super) runtime: &'a dyn Runtime,
    pub(super) options: &'a ContractOptions,
}

impl Bench<'_> {
    async fn make(&self) -> core::result::Result<Device, Stop> {
        let made = self.subject.make().await;
        made.map_err(|error| Stop::Fail(format!("cannot make a device: {error:?}")))
    }

    /// A fresh device of a size the cases like, filled with data that is nowhere zero.
    async fn disk(&self) -> core::result::Result<Disk, Stop> {
        let device = self.make().await?;
        let can = device.capabilities();
        if !can.contains(Capabilities::WRITE) {
            skip!("the device is read-only");
        }
        let limits = device.limits();
        let align = u64::from(limits.request_alignment).max(1);
        let granularity = u64::from(limits.granularity).max(1);
        let grow = can.contains(Capabilities::GROW);
        let wanted = WINDOW.max(granularity.saturating_mul(4)).min(self.options.window);
        if grow {
            let wanted = wanted.next_multiple_of(align);
            done("set_len", wanted, 0, device.set_len(wanted, Preallocation::Off).await)?;
            if device.len() != wanted {
                fail!("the length is {:#x} after it was set to {wanted:#x}", device.len());
            }
        }
        let len = device.len().min(wanted) / align * align;
        if len < LEAST_WINDOW.max(8 * align) {
            fail!(
                "the suite needs a device of at least {:#x} bytes, this has {len:#x}",
                LEAST_WINDOW.max(8 * align)
            );
        }
        let base = payload(BASE, 0, len);
        write_all(&*device, 0, &base).await?;
        let whole = device.len() == len;
        let model = Flat::new(base.to_vec());
        Ok(Disk { device, model, limits, len, align, granularity, grow, whole })
    }

    fn rng(&self, case: u64) -> Rng {
        Rng::new(self.options.seed ^ (case << 32))
    }

    async fn linger(&self) {
        self.runtime.sleep(self.options.linger).await;
    }
}

/// Devices as the cases use them, for sessions with random operations.
struct Disks<'a, 'b>(&'a Bench<'b>);

impl Subject for Disks<'_, '_> {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async {
            self.0.disk().await.map(|disk| disk.device).map_err(|stop| match stop {
                Stop::Skip(what) | Stop::Fail(what) => crate::Error::io(what),
            })
        })
    }
}

/// A device with its model.
struct Disk {
    device: Device,
    model: Flat,
    limits: Limits,
    /// The bytes that the cases use.
    len: u64,
    align: u64,
    granularity: u64,
    grow: bool,
    /// The device ends where the window ends.
    whole: bool,
}

fn done<T>(call: &str, offset: u64, len: u64, result: Result<T>) -> core::result::Result<T, Stop> {
    result.map_err(|error| Stop::Fail(format!("{call} {offset:#x}+{len:#x} fails: {error:?}")))
}

/// Checks that a call was refused for this reason.
fn refused<T>(call: &str, offset: u64, len: u64, want: ErrorKind, result: Result<T>) -> Verdict {
    match result {
        Ok(_) => fail!("{call} {offset:#x}+{len:#x} succeeds, should be refused with {want:?}"),
        Err(error) if error.kind() == want => Ok(()),
        Err(error) => {
            fail!("{call} {offset:#x}+{len:#x} is refused with {error:?}, should be with {want:?}")
        }
    }
}

impl Disk {
    fn down(&self, value: u64) -> u64 {
        value / self.align * self.align
    }

    fn up(&self, value: u64) -> u64 {
        value.next_multiple_of(self.align)
    }

    /// The longest request for data within the window.
    fn longest(&self) -> u64 {
        self.down(u64::from(self.limits.max_transfer)).min(self.len)
    }

    async fn write(&mut self, offset: u64, data: Segments, flags: WriteFlags) -> Verdict {
        let len = data.len();
        let bytes = data.to_bytes();
        done("write", offset, len, self.device.write(offset, data, flags).await)?;
        self.model.write(offset, bytes);
        Ok(())
    }

    async fn verify(&self) -> Verdict {
        Ok(self.model.verify(&*self.device).await?)
    }

    /// Verifies a range and some bytes around it.
    async fn verify_around(&self, offset: u64, len: u64) -> Verdict {
        let margin = 2 * self.granularity.clamp(4096, 64 << 10);
        let from = self.down(offset.saturating_sub(margin));
        let to = self.up(offset + len + margin).min(self.model.len());
        Ok(self.model.verify_range(&*self.device, from, to - from).await?)
    }

    /// Puts data that is nowhere zero back into a range and around it.
    async fn refill(&mut self, offset: u64, len: u64) -> Verdict {
        let from = self.down(offset);
        let to = self.up(offset + len).min(self.len);
        let base = payload(BASE, from, to - from);
        write_all(&*self.device, from, &base).await?;
        self.model.write(from, base.to_bytes());
        Ok(())
    }

    fn check_len(&self, after: &str) -> Verdict {
        let len = self.device.len();
        if self.whole && len != self.model.len() {
            fail!("the length is {len:#x} after {after}, should be {:#x}", self.model.len());
        }
        Ok(())
    }

    /// Offsets and lengths near everything that might matter, within the window.
    fn places(&self, align: u64) -> Vec<(u64, u64)> {
        let g = self.granularity.max(align);
        let mut places = Vec::new();
        for offset in [0, 1, 511, 512, 4095, 4096, g - 1, g, g + 1, 2 * g - 1, self.len - 1] {
            for len in [1, 2, 511, 512, 513, 4096, 4097, g - 1, g, g + 1, 2 * g + 1, self.len] {
                let start = offset / align * align;
                let len = len.next_multiple_of(align);
                if len > 0 && start + len <= self.len && len <= self.longest() {
                    places.push((start, len));
                }
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// True where the length can be changed. With GROW it must be so.
    async fn resizable(&mut self) -> core::result::Result<bool, Stop> {
        if !self.whole {
            return Ok(false);
        }
        let shorter = self.len - self.align;
        match self.device.set_len(shorter, Preallocation::Off).await {
            Ok(()) => {
                self.model.set_len(shorter);
                self.check_len("a length change")?;
                let back = self.device.set_len(self.len, Preallocation::Off).await;
                done("set_len", self.len, 0, back)?;
                self.model.set_len(self.len);
                self.refill(shorter, self.align).await?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Unsupported && !self.grow => {
                self.check_len("a length change that is not supported")?;
                self.verify().await?;
                Ok(false)
            }
            Err(error) => fail!("set_len {shorter:#x} fails: {error:?}"),
        }
    }
}

async fn limits(bench: &Bench<'_>) -> Verdict {
    let device = bench.make().await?;
    let limits = device.limits();
    let Limits { request_alignment, granularity, max_transfer } = limits;
    if !request_alignment.is_power_of_two() || !granularity.is_power_of_two() {
        fail!("alignment and granularity are not powers of two: {limits:?}");
    }
    if max_transfer < request_alignment {
        fail!("not even one aligned block can be transferred: {limits:?}");
    }
    drop(device);
    let disk = bench.disk().await?;
    let device = &disk.device;
    let align = disk.align;
    if align > 1 {
        for (offset, len) in
            [(1, align), (0, align - 1), (align, align + 1), (align / 2, align / 2)]
        {
            let data = payload(6, offset, len);
            refused("read", offset, len, ErrorKind::InvalidInput, device.read(offset, len).await)?;
            let write = device.write(offset, data, WriteFlags::empty()).await;
            refused("write", offset, len, ErrorKind::InvalidInput, write)?;
        }
    }
    let most = disk.down(u64::from(max_transfer));
    if most <= disk.len {
        done("read", 0, most, device.read(0, most).await)?;
        done("write", 0, most, device.write(0, payload(BASE, 0, most), WriteFlags::empty()).await)?;
    }
    let over = most + align;
    // Past the end of a device that cannot grow, the length is the reason.
    if device.len() >= over || disk.grow {
        let write = device.write(0, Segments::zero(over), WriteFlags::empty()).await;
        refused("write", 0, over, ErrorKind::InvalidInput, write)?;
    }
    if device.len() >= over {
        refused("read", 0, over, ErrorKind::InvalidInput, device.read(0, over).await)?;
    }
    disk.check_len("refused requests")?;
    disk.verify().await
}

async fn read_after_write(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(1);
    let mut places = disk.places(disk.align);
    for _ in 0..64 {
        let len = disk.up(rng.between(1, disk.longest().min(3 * disk.granularity.max(4096))));
        let len = len.min(disk.longest());
        places.push((disk.down(rng.between(0, disk.len - len)), len));
    }
    for (tag, (offset, len)) in (1..).zip(places) {
        let flags = if tag % 8 == 7 { WriteFlags::FUA } else { WriteFlags::empty() };
        disk.write(offset, payload(tag, offset, len), flags).await?;
        disk.verify_around(offset, len).await?;
        let part = disk.down(rng.between(0, len));
        let data = done("read", offset, part, disk.device.read(offset, part).await)?;
        check_answer(offset, part, &data)?;
        disk.model.check(offset, &data.to_bytes())?;
    }
    for offset in [0, disk.down(disk.len / 2), disk.len] {
        disk.write(offset, Segments::new(), WriteFlags::empty()).await?;
        let data = done("read", offset, 0, disk.device.read(offset, 0).await)?;
        check_answer(offset, 0, &data)?;
    }
    disk.check_len("writes within it")?;
    disk.verify().await
}

async fn segments(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(2);
    let data = |len: u64| Some(len);
    let zero = |len: u64| (None, len);
    let data = |len: u64| (data(len), len);
    let mut shapes = alloc::vec![
        alloc::vec![data(700), zero(300)],
        alloc::vec![zero(300), data(700)],
        alloc::vec![data(1), zero(1), data(1), zero(1)],
        alloc::vec![data(500), data(24), data(500)],
        alloc::vec![zero(1024)],
        alloc::vec![data(3), zero(5000), data(5)],
        alloc::vec![zero(513), data(4096), zero(4095)],
    ];
    // More segments than any system takes at once.
    shapes.push((0..2000).map(|n| if n % 2 == 0 { data(1) } else { zero(1) }).collect());
    for _ in 0..20 {
        let count = rng.between(1, 9);
        let mut shape = Vec::new();
        for _ in 0..count {
            let len = rng.between(1, 3000);
            shape.push(if rng.chance(50) { data(len) } else { zero(len) });
        }
        shapes.push(shape);
    }
    for (tag, shape) in (1..).zip(shapes) {
        let sum: u64 = shape.iter().map(|(_, len)| len).sum();
        let len = disk.up(sum);
        if len > disk.longest() {
            continue;
        }
        let offset = disk.down(rng.between(0, disk.len - len));
        let bytes = payload(8 * tag + 5, offset, len).to_bytes();
        let mut all = Segments::new();
        for (kind, part) in shape.into_iter().chain([(Some(0), len - sum)]) {
            let at = all.len() as usize;
            match kind {
                Some(_) => all.push_data(bytes.slice(at..at + part as usize)),
                None => all.push_zero(part),
            }
        }
        disk.refill(offset, len).await?;
        disk.write(offset, all, WriteFlags::empty()).await?;
        disk.verify_around(offset, len).await?;
    }
    disk.verify().await
}

async fn past_the_end(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let (device, align) = (disk.device.clone(), disk.align);
    let end = device.len().next_multiple_of(align);
    for (offset, len) in
        [(end, align), (end - align, 2 * align), (end + 8 * align, align), (0, end + align)]
    {
        let want = ErrorKind::InvalidInput;
        refused("read", offset, len, want, device.read(offset, len).await)?;
        refused("extents", offset, len, want, device.extents(offset, len).await)?;
        refused("discard", offset, len, want, device.discard(offset, len).await)?;
        if !disk.grow {
            let zeroes = device.write_zeroes(offset, len, ZeroFlags::empty()).await;
            refused("write_zeroes", offset, len, want, zeroes)?;
            let write = device.write(offset, Segments::zero(len), WriteFlags::empty()).await;
            refused("write", offset, len, want, write)?;
        }
    }
    refused("read", end + align, 0, ErrorKind::InvalidInput, device.read(end + align, 0).await)?;
    disk.check_len("refused requests")?;
    disk.verify().await?;
    // The same where bytes have been, if the length can change.
    if disk.resizable().await? {
        let half = disk.down(disk.len / 2);
        done("set_len", half, 0, device.set_len(half, Preallocation::Off).await)?;
        let want = ErrorKind::InvalidInput;
        refused("read", half, align, want, device.read(half, align).await)?;
        refused("extents", half, align, want, device.extents(half, align).await)?;
    }
    Ok(())
}

async fn overflow(bench: &Bench<'_>) -> Verdict {
    let disk = bench.disk().await?;
    let (device, align) = (&disk.device, disk.align);
    let top = disk.down(u64::MAX);
    let half = 1 << 63;
    for (offset, len) in [
        (top, 2 * align),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (align, top),
        (half, half),
        (top, top),
    ] {
        let want = ErrorKind::InvalidInput;
        refused("read", offset, len, want, device.read(offset, len).await)?;
        refused("extents", offset, len, want, device.extents(offset, len).await)?;
        refused("discard", offset, len, want, device.discard(offset, len).await)?;
        for flags in [ZeroFlags::empty(), ZeroFlags::MAY_UNMAP] {
            let zeroes = device.write_zeroes(offset, len, flags).await;
            refused("write_zeroes", offset, len, want, zeroes)?;
        }
        let write = device.write(offset, Segments::zero(len), WriteFlags::empty()).await;
        refused("write", offset, len, want, write)?;
    }
    disk.check_len("refused requests")?;
    disk.verify().await
}

async fn growing_writes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.grow {
        skip!("no GROW");
    }
    let align = disk.align;
    let zero_init = disk.device.capabilities().contains(Capabilities::ZERO_INIT);
    let odd = disk.up(1001);
    let gap = if zero_init { disk.up(3 * disk.granularity + 77) } else { 0 };
    // Directly at the end, across it, and past it.
    for (tag, back, ahead, len) in
        [(5, 0, 0, odd), (13, align, 0, odd), (21, 0, gap, odd), (4, 2 * align, 0, 3 * align)]
    {
        let offset = disk.model.len() - back + ahead;
        disk.write(offset, payload(tag, offset, len), WriteFlags::empty()).await?;
        disk.check_len("a growing write")?;
        disk.verify().await?;
    }
    // A zero write does it too, whether the bytes need writing or not.
    for (back, ahead, flags) in [
        (0, 0, ZeroFlags::empty()),
        (align, 0, ZeroFlags::MAY_UNMAP),
        (0, gap, ZeroFlags::MAY_UNMAP),
    ] {
        let offset = disk.model.len() - back + ahead;
        let zeroes = disk.device.write_zeroes(offset, odd, flags).await;
        done("write_zeroes", offset, odd, zeroes)?;
        disk.model.zero(offset, odd);
        disk.check_len("a growing zero write")?;
        disk.verify().await?;
    }
    Ok(())
}

async fn zero_init(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.device.capabilities().contains(Capabilities::ZERO_INIT) {
        skip!("no ZERO_INIT");
    }
    if !disk.resizable().await? {
        skip!("the length cannot change");
    }
    // Cut off data, then grow past it in every way: none of it may come back.
    let full = disk.len;
    for (way, cut) in (0..4).flat_map(|way| [(way, full / 2), (way, full / 3 + 1), (way, 0)]) {
        let cut = disk.down(cut);
        done("set_len", cut, 0, disk.device.set_len(cut, Preallocation::Off).await)?;
        disk.model.set_len(cut);
        let last = full - disk.align;
        match way {
            0 => {
                let grown = disk.device.set_len(full, Preallocation::Off).await;
                done("set_len", full, 0, grown)?;
                disk.model.set_len(full);
            }
            1 if disk.grow => {
                disk.write(last, payload(BASE, last, disk.align), WriteFlags::empty()).await?;
            }
            2 if disk.grow => {
                let zeroes = disk.device.write_zeroes(last, disk.align, ZeroFlags::MAY_UNMAP).await;
                done("write_zeroes", last, disk.align, zeroes)?;
                disk.model.zero(last, disk.align);
            }
            _ => {
                // Step by step.
                while disk.model.len() < full {
                    let len = (disk.model.len() + disk.up(full / 7)).min(full);
                    let grown = disk.device.set_len(len, Preallocation::Off).await;
                    done("set_len", len, 0, grown)?;
                    disk.model.set_len(len);
                }
            }
        }
        disk.check_len("growing again")?;
        disk.verify().await?;
        let extents = walk_extents(&*disk.device, 0, full).await.map_err(String::from)?;
        for extent in extents.iter().filter(|extent| extent.is_zero()) {
            disk.model.check_zero(extent.start, extent.len)?;
        }
        disk.refill(0, full).await?;
    }
    Ok(())
}

async fn write_zeroes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut places = disk.places(1);
    places.extend([(0, 0), (disk.len, 0), (1, disk.len - 2), (disk.len - 700, 700)]);
    for (offset, len) in places {
        for flags in [
            ZeroFlags::empty(),
            ZeroFlags::MAY_UNMAP,
            ZeroFlags::NO_FALLBACK,
            ZeroFlags::MAY_UNMAP | ZeroFlags::NO_FALLBACK,
        ] {
            match disk.device.write_zeroes(offset, len, flags).await {
                Ok(()) => disk.model.zero(offset, len),
                Err(error)
                    if flags.contains(ZeroFlags::NO_FALLBACK)
                        && error.kind() == ErrorKind::Unsupported => {}
                Err(error) => {
                    fail!("write_zeroes {offset:#x}+{len:#x} with {flags:?} fails: {error:?}")
                }
            }
            disk.verify_around(offset, len).await.map_err(|stop| match stop {
                Stop::Fail(what) => Stop::Fail(format!(
                    "after write_zeroes {offset:#x}+{len:#x} with {flags:?}: {what}"
                )),
                skip => skip,
            })?;
            disk.refill(offset, len).await?;
        }
    }
    disk.check_len("zero writes within it")?;
    disk.verify().await
}

async fn discard(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut places = disk.places(1);
    places.extend([(0, 0), (disk.len, 0), (1, disk.len - 2), (disk.len - 700, 700)]);
    for (offset, len) in places {
        done("discard", offset, len, disk.device.discard(offset, len).await)?;
        disk.model.discard(offset, len);
        disk.verify_around(offset, len).await.map_err(|stop| match stop {
            Stop::Fail(what) => Stop::Fail(format!("after discard {offset:#x}+{len:#x}: {what}")),
            skip => skip,
        })?;
        // What is written there next counts.
        disk.refill(offset, len).await?;
        disk.verify_around(offset, len).await?;
    }
    disk.check_len("discards within it")?;
    disk.verify().await
}

async fn set_len(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.resizable().await? {
        skip!("the length cannot change");
    }
    let full = disk.len;
    let odd = disk.up(777);
    let steps = [full - odd, full, full / 2, full / 2, odd, full + odd, 0, disk.align, full];
    for len in steps.map(|len| disk.down(len)) {
        done("set_len", len, 0, disk.device.set_len(len, Preallocation::Off).await)?;
        disk.model.set_len(len);
        disk.check_len("a length change")?;
        disk.verify().await?;
        // The end is where the length says, for writes as well.
        if let Some(last) = len.checked_sub(disk.align) {
            let data = payload(BASE, last, disk.align);
            disk.write(last, data, WriteFlags::empty()).await?;
        }
    }
    disk.refill(0, full).await?;
    for preallocation in
        [Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full]
    {
        done("set_len", odd, 0, disk.device.set_len(odd, Preallocation::Off).await)?;
        disk.model.set_len(odd);
        match disk.device.set_len(full, preallocation).await {
            Ok(()) => disk.model.set_len(full),
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => fail!("set_len {full:#x} with {preallocation:?} fails: {error:?}"),
        }
        disk.check_len("a length change with preallocation")?;
        disk.verify().await?;
        done("set_len", full, 0, disk.device.set_len(full, Preallocation::Off).await)?;
        disk.model.set_len(full);
        disk.refill(0, full).await?;
    }
    Ok(())
}

async fn extents(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(3);
    for round in 0..12 {
        let whole = walk_extents(&*disk.device, 0, disk.len).await.map_err(String::from)?;
        let mut asked = alloc::vec![whole];
        for _ in 0..8 {
            let offset = rng.below(disk.len);
            let len = rng.between(1, disk.len - offset);
            asked.push(walk_extents(&*disk.device, offset, len).await.map_err(String::from)?);
        }
        for extent in asked.iter().flatten().filter(|extent| extent.is_zero()) {
            if disk.model.check_zero(extent.start, extent.len).is_err() {
                fail!("an extent claims to be zero and is not: {extent:?}");
            }
        }
        // A little more variety for the next round.
        let len = disk.up(rng.between(1, disk.len / 8));
        let offset = disk.down(rng.between(0, disk.len - len));
        match round % 3 {
            0 => {
                let zeroes = disk.device.write_zeroes(offset, len, ZeroFlags::MAY_UNMAP).await;
                done("write_zeroes", offset, len, zeroes)?;
                disk.model.zero(offset, len);
            }
            1 => {
                let len = len.min(disk.longest());
                disk.write(offset, payload(round, offset, len), WriteFlags::empty()).await?;
            }
            _ => {
                done("discard", offset, len, disk.device.discard(offset, len).await)?;
                disk.model.discard(offset, len);
            }
        }
    }
    Ok(())
}

async fn flush(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    for tag in 0..4 {
        done("flush", 0, 0, disk.device.flush().await)?;
        done("flush", 0, 0, disk.device.flush().await)?;
        let len = disk.up(5000);
        disk.write(disk.align, payload(8 * tag + 6, disk.align, len), WriteFlags::empty()).await?;
        disk.verify_around(disk.align, len).await?;
    }
    let flushes = join_all((0..4).map(|_| disk.device.flush())).await;
    for result in flushes {
        done("flush", 0, 0, result)?;
    }
    disk.check_len("flushes")?;
    disk.verify().await
}

async fn compressed(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.device.capabilities().contains(Capabilities::COMPRESSED) {
        skip!("no COMPRESSED");
    }
    let unit = disk.granularity.max(disk.align);
    if unit > disk.longest() {
        skip!("a cluster is longer than a request");
    }
    // Contents from nothing but zeroes to noise; each into clusters that hold nothing yet.
    for tag in 0..8 {
        let offset = u64::from(tag % 4) * unit;
        if offset + unit > disk.len {
            continue;
        }
        let zeroes = disk.device.write_zeroes(offset, unit, ZeroFlags::MAY_UNMAP).await;
        done("write_zeroes", offset, unit, zeroes)?;
        disk.model.zero(offset, unit);
        disk.write(offset, payload(tag, offset, unit), WriteFlags::COMPRESSED).await?;
        disk.verify_around(offset, unit).await?;
    }
    disk.verify().await
}

async fn read_only(bench: &Bench<'_>) -> Verdict {
    let device = match &bench.options.read_only {
        Some(subject) => done("make", 0, 0, subject.make().await)?,
        None => bench.make().await?,
    };
    if device.capabilities().contains(Capabilities::WRITE) {
        if bench.options.read_only.is_some() {
            fail!("the device that should be read-only claims to take writes");
        }
        skip!("no read-only device was given");
    }
    let align = u64::from(device.limits().request_alignment).max(1);
    let len = device.len();
    let part = (len / align * align).min(LEAST_WINDOW);
    let before = done("read", 0, part, device.read(0, part).await)?.to_vec();
    let denied = ErrorKind::Denied;
    let data = payload(BASE, 0, align);
    refused("write", 0, align, denied, device.write(0, data, WriteFlags::empty()).await)?;
    for flags in [ZeroFlags::empty(), ZeroFlags::all()] {
        let zeroes = device.write_zeroes(0, align, flags).await;
        refused("write_zeroes", 0, align, denied, zeroes)?;
    }
    refused("discard", 0, align, denied, device.discard(0, align).await)?;
    for other in [0, len + align] {
        let resized = device.set_len(other, Preallocation::Off).await;
        refused("set_len", other, 0, denied, resized)?;
    }
    let after = done("read", 0, part, device.read(0, part).await)?.to_vec();
    if device.len() != len || after != before {
        fail!("a refused change has changed something");
    }
    Ok(())
}

async fn info(bench: &Bench<'_>) -> Verdict {
    let device = bench.make().await?;
    let info = done("info", 0, 0, device.info().await)?;
    if info.driver.is_empty() {
        fail!("the driver has no name: {info:?}");
    }
    Ok(())
}

async fn concurrent(bench: &Bench<'_>) -> Verdict {
    // For a device that is read-only: a reason, not a failure.
    drop(bench.disk().await?);
    let disks = Disks(bench);
    let mut session = Session::start(&disks, bench.options.window).await?;
    let len = session.model().len();
    let align = u64::from(session.device().limits().request_alignment).max(1);
    let mut rng = bench.rng(4);
    for round in 0..12u32 {
        // The device in pieces with borders that fit no cluster, one operation each.
        let mut batch = Vec::new();
        let mut at = 0;
        while at < len {
            let most = if round % 2 == 0 { 2000 } else { len / 16 };
            let end = (at + rng.between(1, most).next_multiple_of(align)).min(len);
            let range = at..end;
            let tag = round * 1000 + u32::try_from(batch.len()).unwrap_or(0);
            batch.push(match rng.below(10) {
                0..5 => Op::Write { range, tag, flags: WriteFlags::empty() },
                5 => Op::Zero { range, flags: ZeroFlags::MAY_UNMAP },
                6 => Op::Discard(range),
                7 => Op::Extents(range),
                _ => Op::Read(range),
            });
            at = end;
        }
        batch.truncate(200);
        batch.push(Op::Flush);
        // In an order that has nothing to do with the place.
        for place in (1..batch.len()).rev() {
            batch.swap(place, rng.index(place + 1));
        }
        session.run(&Plan(alloc::vec![Op::Batch(batch)])).await?;
        session.model().verify(&**session.device()).await?;
    }
    Ok(session.finish().await?)
}

async fn overlapping(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let align = disk.align;
    let len = disk.up(6000).min(disk.longest());
    let mut rng = bench.rng(5);
    for round in 0..10u32 {
        let writes: Vec<(u64, Bytes)> = (0..4)
            .map(|n| {
                let offset = disk.down(rng.between(0, len)) + align;
                (offset, payload(100 * round + 8 * n + 5, offset, len).to_bytes())
            })
            .collect();
        let during = {
            let mut during = disk.model.clone();
            writes.iter().for_each(|(offset, data)| during.may_write(*offset, data.clone()));
            during
        };
        let device = &disk.device;
        let all = join_all(writes.iter().map(|(offset, data)| {
            let read = device.read(*offset, len);
            let write = device.write(*offset, data.clone().into(), WriteFlags::empty());
            let during = &during;
            async move {
                let (written, read) = futures_util::future::join(write, read).await;
                done("write", *offset, len, written)?;
                let read = done("read", *offset, len, read)?;
                check_answer(*offset, len, &read)?;
                Verdict::Ok(during.check(*offset, &read.to_bytes())?)
            }
        }))
        .await;
        all.into_iter().collect::<Verdict>()?;
        // Now each byte is one of those written last; the old one is gone where any was.
        let mut after: Option<Flat> = None;
        for (offset, data) in &writes {
            let mut flat = disk.model.clone();
            flat.write(*offset, data.clone());
            for (other, data) in &writes {
                flat.may_write(*other, data.clone());
            }
            flat.verify_range(&**device, *offset, len).await?;
            after = Some(flat);
        }
        if let Some(flat) = after {
            flat.verify(&**device).await?;
        }
        disk.refill(0, 3 * len).await?;
    }
    disk.check_len("overlapping writes")?;
    disk.verify().await
}

/// What follows an abandoned write.
#[derive(Clone, Copy, Debug)]
enum Next {
    Write,
    Zero,
    Discard,
    SetLen,
    Flush,
}

async fn dropped_writes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut follow = alloc::vec![Next::Write, Next::Zero, Next::Discard, Next::Flush];
    if disk.resizable().await? {
        follow.push(Next::SetLen);
    }
    let align = disk.align;
    let len = disk.up(3000).min(disk.longest() / 2);
    let offset = disk.down(disk.granularity.max(2048)).min(disk.len / 2 / align * align);
    let mut dropped = 0;
    for next in follow {
        for zero in [false, true] {
            for waits in 1..=6 {
                disk.refill(offset, 3 * len).await?;
                done("flush", 0, 0, disk.device.flush().await)?;
                let device = disk.device.clone();
                let data = payload(13, offset, len);
                let write = if zero {
                    device.write_zeroes(offset, len, ZeroFlags::empty())
                } else {
                    device.write(offset, data.clone(), WriteFlags::empty())
                };
                if let Some(result) = abandon_at(write, waits).await {
                    done("write", offset, len, result)?;
                    break;
                }
                dropped += 1;
                disk.model.may_write(
                    offset,
                    if zero { Bytes::from(alloc::vec![0; len as usize]) } else { data.to_bytes() },
                );
                // The later change begins inside what was abandoned, and ends outside.
                let later = offset + disk.down(len / 2);
                match next {
                    Next::Write => {
                        disk.write(later, payload(21, later, len), WriteFlags::empty()).await?;
                    }
                    Next::Zero => {
                        let flags = ZeroFlags::MAY_UNMAP;
                        done(
                            "write_zeroes",
                            later,
                            len,
                            device.write_zeroes(later, len, flags).await,
                        )?;
                        disk.model.zero(later, len);
                    }
                    Next::Discard => {
                        done("discard", later, len, device.discard(later, len).await)?;
                        disk.model.discard(later, len);
                    }
                    Next::SetLen => {
                        for len in [offset, disk.len] {
                            done("set_len", len, 0, device.set_len(len, Preallocation::Off).await)?;
                            disk.model.set_len(len);
                        }
                    }
                    Next::Flush => {}
                }
                let context = |when: &str, stop: Stop| match stop {
                    Stop::Fail(what) => Stop::Fail(format!(
                        "a {} {offset:#x}+{len:#x} was dropped at its await {waits}, followed by \
                         {next:?}; {when}: {what}",
                        if zero { "zero write" } else { "write" }
                    )),
                    skip => skip,
                };
                disk.verify_around(offset, 2 * len).await.map_err(|s| context("at once", s))?;
                done("flush", 0, 0, device.flush().await)?;
                // A completed flush settles what was dropped before: from now on all is quiet.
                let from = disk.down(offset);
                let settled = done("read", from, len, device.read(from, len).await)?;
                disk.model.check(from, &settled.to_bytes())?;
                bench.linger().await;
                disk.verify_around(offset, 2 * len).await.map_err(|s| context("later", s))?;
                let quiet = done("read", from, len, device.read(from, len).await)?;
                // Only discarded bytes may read as they like.
                if quiet.to_vec() != settled.to_vec() && !matches!(next, Next::Discard) {
                    let what = "bytes have changed after the flush that settled them";
                    return Err(context("later", Stop::Fail(String::from(what))));
                }
                if matches!(next, Next::SetLen) {
                    disk.refill(offset, disk.len - offset).await?;
                }
            }
        }
    }
    if dropped == 0 {
        skip!("every write completes at its first poll: nothing can be dropped");
    }
    crowd_of_dropped_writes(bench, &mut disk).await
}

/// Many writes at once, each dropped somewhere, then one over all of them.
async fn crowd_of_dropped_writes(bench: &Bench<'_>, disk: &mut Disk) -> Verdict {
    let mut rng = bench.rng(6);
    let step = disk.up(1500);
    let count = (disk.longest() / step).min(16);
    for round in 0..8u32 {
        disk.refill(0, disk.len).await?;
        let device = disk.device.clone();
        let writes = (0..count).map(|n| {
            let data = payload(8 * round + 5, n * step, step);
            let waits = rng.index(5);
            abandon_at(device.write(n * step, data, WriteFlags::empty()), waits)
        });
        for result in join_all(writes).await.into_iter().flatten() {
            done("write", 0, step, result)?;
        }
        let len = count * step;
        disk.write(0, payload(8 * round + 6, 0, len), WriteFlags::empty()).await?;
        disk.verify().await?;
        done("flush", 0, 0, device.flush().await)?;
        bench.linger().await;
        disk.verify().await?;
    }
    Ok(())
}

async fn holds(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let device = disk.device.clone();
    let len = disk.up(3000).min(disk.longest());
    let offset = disk.align;
    for waits in 1..=7 {
        disk.refill(offset, len).await?;
        let hold: Hold = Arc::new(());
        let alive = Arc::downgrade(&hold);
        let mut data = payload(21, offset, len);
        data.hold(hold);
        let write = device.write(offset, data, WriteFlags::empty());
        let result = abandon_at(write, if waits < 7 { waits } else { usize::MAX }).await;
        let completed = match result {
            Some(result) => {
                done("write", offset, len, result)?;
                true
            }
            None => false,
        };
        // Once the hold is let go, its owner gives the place to somebody else.
        if !completed && alive.upgrade().is_none() {
            let before = done("read", offset, len, device.read(offset, len).await)?.to_vec();
            bench.linger().await;
            let after = done("read", offset, len, device.read(offset, len).await)?.to_vec();
            if before != after {
                fail!(
                    "a write {offset:#x}+{len:#x} dropped at its await {waits} lands after its \
                     hold was let go"
                );
            }
        }
        done("flush", 0, 0, device.flush().await)?;
        if alive.upgrade().is_some() {
            // Whoever announces the end may still have it in its hands for a moment.
            bench.linger().await;
        }
        if alive.upgrade().is_some() {
            fail!(
                "the hold on a write {offset:#x}+{len:#x} ({}) is kept after a flush that settles it",
                if completed { "completed" } else { "dropped" }
            );
        }
        if completed && waits < 7 {
            break;
        }
    }
    Ok(())
}

async fn random(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let resizable = disk.resizable().await?;
    let len = disk.len;
    drop(disk);
    for round in 0..bench.options.rounds {
        let options = ModelOptions {
            seed: bench.options.seed.wrapping_add(round),
            ops: bench.options.ops,
            window: if resizable { 4 * len } else { len },
            longest: 64 << 10,
            max_len: resizable.then_some(len + len / 2),
            ..ModelOptions::default()
        };
        if let Err(failure) = model::check(&Disks(bench), &options).await {
            fail!("{failure}");
        }
    }
    Ok(())
}
