//! A device that loses power.
//!
//! It keeps two copies: what callers see, and what a flush has made durable. A crash leaves the
//! durable copy, on which any part of what came later may have landed: writes whole, torn at
//! sector borders or not at all, and lengths with or without the bytes that belong to them.
//!
//! Invariants: what a flush covers (every change completed before it began) survives every crash;
//! bytes that no change touched are never altered; survivors land in the order in which they were
//! made.

use super::{Call, CallKind, Rng, yield_now};

use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, Limits, MemoryDevice, Preallocation,
    Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use futures_util::FutureExt as _;

/// What a disk writes at once: the parts of a torn write are whole sectors.
const SECTOR: u64 = 512;

/// A torn change has at most so many parts, however long it is.
const MOST_PARTS: u64 = 64;

/// A device in memory that can lose what was not flushed.
#[derive(Debug)]
pub struct CrashDevice {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    volatile: MemoryDevice,
    durable: MemoryDevice,
    /// What separates the two copies, in order.
    unflushed: Vec<Change>,
    next: u64,
    calls: u64,
    last_call: Option<u64>,
    crashed: bool,
}

#[derive(Clone, Debug)]
struct Change {
    number: u64,
    call: Call,
    /// Of a write.
    data: Segments,
    /// Durable by itself ([`WriteFlags::FUA`]).
    forced: bool,
}

impl CrashDevice {
    /// A device that begins with the contents of `disk`, all of them durable.
    #[must_use]
    pub fn new(disk: MemoryDevice) -> Self {
        Self {
            state: Mutex::new(State {
                durable: disk.fork(),
                volatile: disk,
                unflushed: Vec::new(),
                next: 0,
                calls: 0,
                last_call: None,
                crashed: false,
            }),
        }
    }

    /// Loses power during the call that follows `calls` more changes and flushes: that call may
    /// take effect, whole or in part, but answers with `Io`, as do all later calls of any kind.
    ///
    /// Reads do not count: nothing they do could make a difference after the crash.
    pub fn crash_after(&self, calls: u64) {
        let mut state = self.state.lock();
        state.last_call = Some(state.calls + calls);
    }

    /// How many changes and flushes were begun.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// True after the crash that [`crash_after`](Self::crash_after) asked for.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state.lock().crashed
    }

    /// The changes that a crash may lose, in order.
    #[must_use]
    pub fn unflushed(&self) -> Vec<Call> {
        self.state.lock().unflushed.iter().map(|change| change.call).collect()
    }

    /// What a crash at this moment leaves on the disk, by `seed`. It can be asked again with
    /// other seeds; the device itself goes on.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryDevice {
        let mut rng = Rng::new(seed);
        // A percentage for the whole crash, so that nearly all and nearly nothing come up too.
        let survive = *rng.pick(&[0, 25, 50, 75, 100]);
        let torn = *rng.pick(&[0, 20, 100]);
        self.crash_by(|change| {
            let kept = rng.chance(survive);
            Survival {
                parts: match (kept, rng.chance(torn)) {
                    (false, _) => Vec::new(),
                    (true, false) => change.whole(),
                    (true, true) => tear(change, SECTOR, &mut rng),
                },
                length: rng.chance(if kept { 75 } else { 25 }),
            }
        })
    }

    /// What a crash leaves of which the changes that `keep` chooses (by their place in
    /// [`unflushed`](Self::unflushed)) have landed whole, and no others.
    #[must_use]
    pub fn crash_keeping(&self, mut keep: impl FnMut(usize) -> bool) -> MemoryDevice {
        let mut place = 0;
        self.crash_by(|change| {
            let kept = keep(place);
            place += 1;
            Survival { parts: if kept { change.whole() } else { Vec::new() }, length: kept }
        })
    }

    /// The same, where of each change that `keep` chooses only some pieces have landed: any subset
    /// of the units of `unit` bytes that it touches, by `seed`.
    #[must_use]
    pub fn crash_tearing(
        &self,
        unit: u64,
        seed: u64,
        mut keep: impl FnMut(usize) -> bool,
    ) -> MemoryDevice {
        let mut rng = Rng::new(seed);
        let mut place = 0;
        self.crash_by(|change| {
            let kept = keep(place);
            place += 1;
            let parts = if kept { tear(change, unit.max(1), &mut rng) } else { Vec::new() };
            Survival { parts, length: kept && rng.chance(75) }
        })
    }

    /// A device in the same state, which goes on by itself: it is not armed, and has not crashed.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state.lock();
        Self {
            state: Mutex::new(State {
                volatile: state.volatile.fork(),
                durable: state.durable.fork(),
                unflushed: state.unflushed.clone(),
                next: state.next,
                calls: state.calls,
                last_call: None,
                crashed: false,
            }),
        }
    }

    fn crash_by(&self, mut survival: impl FnMut(&Change) -> Survival) -> MemoryDevice {
        let state = self.state.lock();
        let disk = state.durable.fork();
        for change in &state.unflushed {
            let survival = survival(change);
            let survival = if change.forced { Survival::all(change) } else { survival };
            // Memory takes every change that the volatile copy took.
            let _ = change.land(&disk, &survival);
        }
        disk
    }

    /// Makes a change on the copy that callers see, and remembers it as not durable.
    fn change(&self, call: Call, data: Segments, forced: bool) -> Result<()> {
        let mut state = self.state.lock();
        let last = state.begin()?;
        if call.kind == CallKind::Discard {
            check_range(call.offset, call.len, state.volatile.len())?;
        }
        let number = state.next;
        let change = Change { number, call, data, forced: forced && !last };
        change.land(&state.volatile, &Survival::all(&change))?;
        state.next += 1;
        state.unflushed.push(change);
        if last { Err(lost()) } else { Ok(()) }
    }

    fn reading<T>(
        &self,
        read: impl FnOnce(&MemoryDevice) -> BoxFuture<'_, Result<T>>,
    ) -> Result<T> {
        let state = self.state.lock();
        if state.crashed {
            return Err(lost());
        }
        now(read(&state.volatile))
    }
}

impl State {
    /// Counts a change or flush; true where the power goes during it.
    fn begin(&mut self) -> Result<bool> {
        if self.crashed {
            return Err(lost());
        }
        self.crashed = self.last_call == Some(self.calls);
        self.calls += 1;
        Ok(self.crashed)
    }

    /// Makes every change durable that has a number below `end`.
    fn flush(&mut self, end: u64) -> Result<()> {
        let count = self.unflushed.partition_point(|change| change.number < end);
        for change in self.unflushed.drain(..count) {
            change.land(&self.durable, &Survival::all(&change))?;
        }
        Ok(())
    }
}

/// What of a change has landed.
struct Survival {
    /// The bytes.
    parts: Vec<Range<u64>>,
    /// The length that goes with it.
    length: bool,
}

impl Survival {
    fn all(change: &Change) -> Self {
        Self { parts: change.whole(), length: true }
    }
}

impl Change {
    fn end(&self) -> u64 {
        self.call.offset.saturating_add(self.call.len)
    }

    /// All its bytes as one part.
    fn whole(&self) -> Vec<Range<u64>> {
        alloc::vec![self.call.offset..self.end()]
    }

    fn land(&self, disk: &MemoryDevice, survival: &Survival) -> Result<()> {
        let Call { kind, offset, len } = self.call;
        if kind == CallKind::SetLen {
            return match survival.length {
                true => now(disk.set_len(offset, Preallocation::Off)),
                false => Ok(()),
            };
        }
        check_range(offset, len, u64::MAX)?;
        let grows = matches!(kind, CallKind::Write | CallKind::WriteZeroes);
        if grows && survival.length && self.end() > disk.len() {
            now(disk.set_len(self.end(), Preallocation::Off))?;
        }
        for part in &survival.parts {
            // What lies past the end, because the length did not survive, is lost with it.
            let Some(len) = part.end.min(disk.len()).checked_sub(part.start) else { continue };
            match kind {
                CallKind::Write => {
                    let data = self.data.slice(part.start - offset, len);
                    now(disk.write(part.start, data, WriteFlags::empty()))?;
                }
                CallKind::WriteZeroes => {
                    now(disk.write_zeroes(part.start, len, ZeroFlags::empty()))?;
                }
                _ => now(disk.discard(part.start, len))?,
            }
        }
        Ok(())
    }
}

/// Any subset of the units of a change; of a long one, of pieces of several units.
fn tear(change: &Change, unit: u64, rng: &mut Rng) -> Vec<Range<u64>> {
    let (start, end) = (change.call.offset, change.end());
    let units = (end - start) / unit + 2;
    let step = units.div_ceil(MOST_PARTS).saturating_mul(unit);
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut at = start;
    while at < end {
        let border = (at / unit * unit).saturating_add(step).min(end);
        if rng.chance(50) {
            parts.push(at..border);
        }
        at = border;
    }
    parts
}

fn lost() -> Error {
    Error::io("the device has lost power")
}

/// The answer of a device that has it at once.
fn now<T>(call: BoxFuture<'_, Result<T>>) -> Result<T> {
    call.now_or_never().unwrap_or_else(|| Err(Error::bug("memory does not wait")))
}

impl BlockDevice for CrashDevice {
    fn len(&self) -> u64 {
        self.state.lock().volatile.len()
    }

    fn limits(&self) -> Limits {
        self.state.lock().volatile.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.state.lock().volatile.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move { self.reading(|disk| disk.read(offset, len)) })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let call = Call::new(CallKind::Write, offset, data.len());
            // The log outlives the write: it takes the bytes, and lets go of the caller's hold.
            let mut bytes = Segments::new();
            data.as_slice().iter().for_each(|segment| bytes.push(segment.clone()));
            self.change(call, bytes, flags.contains(WriteFlags::FUA))
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::WriteZeroes, offset, len);
        Box::pin(async move { self.change(call, Segments::new(), false) })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::Discard, offset, len);
        Box::pin(async move { self.change(call, Segments::new(), false) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        let end = self.state.lock().next;
        Box::pin(async move {
            if self.state.lock().begin()? {
                return Err(lost());
            }
            // What others write in the meantime is not covered.
            yield_now().await;
            let mut state = self.state.lock();
            if state.crashed {
                return Err(lost());
            }
            state.flush(end)
        })
    }

    fn set_len(&self, len: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        let call = Call::new(CallKind::SetLen, len, 0);
        Box::pin(async move { self.change(call, Segments::new(), false) })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { self.reading(|disk| disk.extents(offset, len)) })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move { self.reading(|disk| disk.info()) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::SimRuntime;
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec;

    const LEN: usize = 4 * SECTOR as usize;

    fn device() -> CrashDevice {
        CrashDevice::new(MemoryDevice::with_data(&[1; LEN]))
    }

    fn run(test: impl Future<Output = Result<()>>) {
        SimRuntime::new(1).block_on(test).expect("no other error");
    }

    async fn write(device: &CrashDevice, offset: u64, len: usize, byte: u8) -> Result<()> {
        device.write(offset, vec![byte; len].into(), WriteFlags::empty()).await
    }

    /// The disks that many crashes leave.
    fn crashes(device: &CrashDevice) -> BTreeSet<Vec<u8>> {
        (0..500).map(|seed| device.crash(seed).to_vec()).collect()
    }

    #[test]
    fn a_crash_leaves_any_subset_of_sectors_and_nothing_else() {
        run(async {
            let device = device();
            write(&device, 100, 1000, 2).await?;
            // Sectors 0, 1 and 2 in part: eight ways to lose some of them.
            let seen = crashes(&device);
            assert_eq!(seen.len(), 8);
            for disk in &seen {
                for sector in 0..4usize {
                    let range = sector * 512..sector * 512 + 512;
                    let touched =
                        range.start.max(100)..range.end.min(1100).max(range.start.max(100));
                    let byte = disk.get(touched.start).copied();
                    assert!(disk[touched.clone()].iter().all(|b| Some(*b) == byte), "torn inside");
                    assert!(range.filter(|at| !touched.contains(at)).all(|at| disk[at] == 1));
                }
            }
            assert_eq!(device.crash(7).to_vec(), device.crash(7).to_vec());
            assert_eq!(
                device.crash_keeping(|_| true).to_vec(),
                device.state.lock().volatile.to_vec()
            );
            assert_eq!(device.crash_keeping(|_| false).to_vec(), [1; LEN]);
            Ok(())
        });
    }

    #[test]
    fn torn_survivors_are_whole_units_of_the_chosen_changes() {
        run(async {
            let device = device();
            write(&device, 0, 2 * 512, 2).await?;
            write(&device, 1024, 1024, 3).await?;
            let torn = |unit, keep: fn(usize) -> bool| -> BTreeSet<(u8, u8, u8, u8)> {
                let disks = (0..200).map(|seed| device.crash_tearing(unit, seed, keep).to_vec());
                disks.map(|d| (d[0], d[512], d[1024], d[1536])).collect()
            };
            assert_eq!(torn(512, |_| true).len(), 16);
            let second = torn(512, |place| place == 1);
            assert!(second.len() == 4 && second.iter().all(|d| (d.0, d.1) == (1, 1)));
            assert_eq!(torn(1024, |_| true).len(), 4);
            let copy = device.fork();
            write(&copy, 0, 512, 9).await?;
            copy.flush().await?;
            assert_eq!((device.unflushed().len(), copy.unflushed().len()), (2, 0));
            assert_eq!(device.crash_keeping(|_| true).to_vec()[0], 2);
            Ok(())
        });
    }

    #[test]
    fn what_was_flushed_survives_every_crash() {
        run(async {
            let device = device();
            write(&device, 0, 512, 2).await?;
            device.flush().await?;
            assert!(device.unflushed().is_empty());
            write(&device, 512, 512, 3).await?;
            assert_eq!(device.unflushed(), [Call::new(CallKind::Write, 512, 512)]);
            for disk in crashes(&device) {
                assert!(disk[..512].iter().all(|b| *b == 2));
            }
            Ok(())
        });
    }

    #[test]
    fn a_flush_covers_what_was_complete_when_it_began() {
        run(async {
            let device = device();
            write(&device, 0, 512, 2).await?;
            let flush = device.flush();
            write(&device, 512, 512, 3).await?;
            flush.await?;
            assert_eq!(device.unflushed(), [Call::new(CallKind::Write, 512, 512)]);
            Ok(())
        });
    }

    #[test]
    fn survivors_keep_their_order_and_forced_writes_always_survive() {
        run(async {
            let device = device();
            write(&device, 0, 512, 2).await?;
            device.write(0, vec![3; 512].into(), WriteFlags::FUA).await?;
            assert!(crashes(&device).iter().all(|disk| disk[..512] == [3; 512]));
            write(&device, 0, 512, 4).await?;
            let seen: BTreeSet<u8> = crashes(&device).iter().map(|disk| disk[0]).collect();
            assert_eq!(seen, BTreeSet::from([3, 4]), "an older write never wins");
            Ok(())
        });
    }

    #[test]
    fn zeroes_discards_and_lengths_may_be_lost_too() {
        run(async {
            let lens = |device: &CrashDevice| -> BTreeSet<usize> {
                crashes(device).iter().map(Vec::len).collect()
            };
            let device = device();
            device.write_zeroes(0, 512, ZeroFlags::empty()).await?;
            device.discard(512, 512).await?;
            let seen: BTreeSet<(u8, u8)> =
                crashes(&device).iter().map(|d| (d[0], d[512])).collect();
            assert_eq!(seen.len(), 4);
            device.set_len(600, Preallocation::Off).await?;
            assert_eq!(lens(&device), BTreeSet::from([600, LEN]));
            device.flush().await?;
            assert_eq!(lens(&device), BTreeSet::from([600]));
            // A growing write: the length, the bytes, both or neither.
            write(&device, 1024, 512, 5).await?;
            assert_eq!(lens(&device), BTreeSet::from([600, 1536]));
            let grown: BTreeSet<u8> =
                crashes(&device).iter().filter_map(|d| d.get(1024).copied()).collect();
            assert_eq!(grown, BTreeSet::from([0, 5]));
            Ok(())
        });
    }

    #[test]
    fn after_the_armed_call_nothing_works_and_its_effect_is_uncertain() {
        run(async {
            let device = device();
            device.crash_after(2);
            write(&device, 0, 512, 2).await?;
            device.read(0, 1).await?;
            device.flush().await?;
            assert!(!device.crashed());
            assert!(device.write(512, vec![3; 512].into(), WriteFlags::FUA).await.is_err());
            assert!(device.crashed());
            let seen: BTreeSet<(u8, u8)> =
                crashes(&device).iter().map(|d| (d[0], d[512])).collect();
            assert_eq!(seen, BTreeSet::from([(2, 1), (2, 3)]));
            assert!(device.read(0, 1).await.is_err());
            assert!(device.flush().await.is_err());
            assert!(device.set_len(0, Preallocation::Off).await.is_err());
            assert!(device.extents(0, 1).await.is_err() && device.info().await.is_err());
            assert_eq!((device.calls(), device.len()), (3, LEN as u64));
            Ok(())
        });
    }

    #[test]
    fn a_flush_during_the_crash_promises_nothing() {
        run(async {
            let device = device();
            write(&device, 0, 512, 2).await?;
            device.crash_after(0);
            assert!(device.flush().await.is_err());
            let seen: BTreeSet<u8> = crashes(&device).iter().map(|disk| disk[0]).collect();
            assert_eq!(seen, BTreeSet::from([1, 2]));
            Ok(())
        });
    }

    #[test]
    fn a_refused_change_leaves_no_trace() {
        run(async {
            let device = device();
            assert!(write(&device, u64::MAX, 2, 1).await.is_err());
            assert!(device.discard(0, LEN as u64 + 1).await.is_err());
            assert!(device.discard(u64::MAX, 9).await.is_err());
            assert!(device.unflushed().is_empty());
            let locked = CrashDevice::new(MemoryDevice::new(9).read_only());
            assert_eq!(
                write(&locked, 0, 2, 1).await.expect_err("read-only").kind(),
                crate::ErrorKind::Denied
            );
            assert!(locked.unflushed().is_empty());
            Ok(())
        });
    }

    #[test]
    fn tearing_a_huge_change_stays_cheap() {
        run(async {
            let device = CrashDevice::new(MemoryDevice::new(0));
            device.set_len(1 << 62, Preallocation::Off).await?;
            device.write_zeroes(1, (1 << 62) - 1, ZeroFlags::empty()).await?;
            for seed in 0..50 {
                let _ = device.crash(seed);
            }
            Ok(())
        });
    }
}
