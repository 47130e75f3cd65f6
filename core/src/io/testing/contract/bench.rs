//! The bench that the cases work at: devices with their models, and verdicts.

use super::super::Rng;
use super::super::model::{Flat, Subject, payload};
use super::super::transfer::write_all;
use super::ContractOptions;
use crate::io::{
    BoxFuture, Capabilities, Device, Limits, Preallocation, Runtime, Segments, WriteFlags,
};
use crate::{ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A window shorter than this leaves too little room for the cases.
pub(super) const LEAST_WINDOW: u64 = 16 << 10;

/// The window that the cases would like, where clusters are small.
pub(super) const WINDOW: u64 = 64 << 10;

/// The tag of the bytes that a disk begins with: data throughout.
pub(super) const BASE: u32 = 5;

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

pub(super) type Verdict = core::result::Result<(), Stop>;

macro_rules! fail {
    ($($text:tt)*) => { return Err(Stop::Fail(format!($($text)*))) };
}

macro_rules! skip {
    ($($text:tt)*) => { return Err(Stop::Skip(format!($($text)*))) };
}

pub(super) use {fail, skip};

/// What every case is given.
pub(super) struct Bench<'a> {
    pub(super) subject: &'a dyn Subject,
    pub(super) runtime: &'a dyn Runtime,
    pub(super) options: &'a ContractOptions,
}

impl Bench<'_> {
    pub(super) async fn make(&self) -> core::result::Result<Device, Stop> {
        let made = self.subject.make().await;
        made.map_err(|error| Stop::Fail(format!("cannot make a device: {error:?}")))
    }

    /// A fresh device of a size the cases like, filled with data that is nowhere zero.
    pub(super) async fn disk(&self) -> core::result::Result<Disk, Stop> {
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

    pub(super) fn rng(&self, case: u64) -> Rng {
        Rng::new(self.options.seed ^ (case << 32))
    }

    pub(super) async fn linger(&self) {
        self.runtime.sleep(self.options.linger).await;
    }
}

/// Devices as the cases use them, for sessions with random operations.
pub(super) struct Disks<'a, 'b>(pub(super) &'a Bench<'b>);

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
pub(super) struct Disk {
    pub(super) device: Device,
    pub(super) model: Flat,
    pub(super) limits: Limits,
    /// The bytes that the cases use.
    pub(super) len: u64,
    pub(super) align: u64,
    pub(super) granularity: u64,
    pub(super) grow: bool,
    /// The device ends where the window ends.
    pub(super) whole: bool,
}

pub(super) fn done<T>(
    call: &str,
    offset: u64,
    len: u64,
    result: Result<T>,
) -> core::result::Result<T, Stop> {
    result.map_err(|error| Stop::Fail(format!("{call} {offset:#x}+{len:#x} fails: {error:?}")))
}

/// Checks that a call was refused for this reason.
pub(super) fn refused<T>(
    call: &str,
    offset: u64,
    len: u64,
    want: ErrorKind,
    result: Result<T>,
) -> Verdict {
    match result {
        Ok(_) => fail!("{call} {offset:#x}+{len:#x} succeeds, should be refused with {want:?}"),
        Err(error) if error.kind() == want => Ok(()),
        Err(error) => {
            fail!("{call} {offset:#x}+{len:#x} is refused with {error:?}, should be with {want:?}")
        }
    }
}

impl Disk {
    pub(super) fn down(&self, value: u64) -> u64 {
        value / self.align * self.align
    }

    pub(super) fn up(&self, value: u64) -> u64 {
        value.next_multiple_of(self.align)
    }

    /// The longest request for data within the window.
    pub(super) fn longest(&self) -> u64 {
        self.down(u64::from(self.limits.max_transfer)).min(self.len)
    }

    pub(super) async fn write(
        &mut self,
        offset: u64,
        data: Segments,
        flags: WriteFlags,
    ) -> Verdict {
        let len = data.len();
        let bytes = data.to_bytes();
        done("write", offset, len, self.device.write(offset, data, flags).await)?;
        self.model.write(offset, bytes);
        Ok(())
    }

    pub(super) async fn verify(&self) -> Verdict {
        Ok(self.model.verify(&*self.device).await?)
    }

    /// Verifies a range and some bytes around it.
    pub(super) async fn verify_around(&self, offset: u64, len: u64) -> Verdict {
        let margin = 2 * self.granularity.clamp(4096, 64 << 10);
        let from = self.down(offset.saturating_sub(margin));
        let to = self.up(offset + len + margin).min(self.model.len());
        Ok(self.model.verify_range(&*self.device, from, to - from).await?)
    }

    /// Puts data that is nowhere zero back into a range and around it.
    pub(super) async fn refill(&mut self, offset: u64, len: u64) -> Verdict {
        let from = self.down(offset);
        let to = self.up(offset + len).min(self.len);
        let base = payload(BASE, from, to - from);
        write_all(&*self.device, from, &base).await?;
        self.model.write(from, base.to_bytes());
        Ok(())
    }

    pub(super) fn check_len(&self, after: &str) -> Verdict {
        let len = self.device.len();
        if self.whole && len != self.model.len() {
            fail!("the length is {len:#x} after {after}, should be {:#x}", self.model.len());
        }
        Ok(())
    }

    /// Offsets and lengths near everything that might matter, within the window.
    pub(super) fn places(&self, align: u64) -> Vec<(u64, u64)> {
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
    pub(super) async fn resizable(&mut self) -> core::result::Result<bool, Stop> {
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
