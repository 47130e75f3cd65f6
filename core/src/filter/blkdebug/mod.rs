//! `blkdebug` (the schema's driver, block-core.json, `BlockdevOptionsBlkdebug`): errors injected at
//! named events, requests that stop there, and a device with other limits than it has.
//!
//! Invariants: a request that a rule makes fail has no effect below, but for the pieces of it that
//! went before; an injected failure of a flush is not one of the device: nothing was lost, and a
//! later flush may succeed.

mod breakpoints;
mod config;
mod errno;
mod judge;
mod rules;

pub use breakpoints::{BreakpointListener, BreakpointNotice};
pub use config::parse_config;
pub use errno::InjectedError;
pub use rules::{BlkdebugIoType, InjectError, SetState, event as blkdebug_event};

use super::forward::forward;
use crate::io::{
    Aligned, BlockDevice, BoxFuture, DebugEvent, Device, DeviceInfo, Segments, WriteFlags, raise,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use judge::Judge;

/// `BlockdevOptionsBlkdebug` without the devices and what only the graph has a use for. Sizes are in
/// bytes; 0 stands for those of the device below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkdebugOptions {
    /// What requests to the device below are aligned to: a power of two.
    pub align: u64,
    /// Longer requests are split.
    pub max_transfer: u64,
    /// What is not aligned to it is not written as zeroes but as data.
    pub opt_write_zero: u64,
    /// Longer zero writes are split.
    pub max_write_zero: u64,
    /// Discards are split where they are not aligned to it.
    pub opt_discard: u64,
    /// Longer discards are split.
    pub max_discard: u64,
    /// Errors; the first one that fits decides.
    pub inject_error: Vec<InjectError>,
    /// Changes of the state; the first one that fits decides.
    pub set_state: Vec<SetState>,
}

impl BlkdebugOptions {
    fn check(&self, below: u64) -> Result<()> {
        // What the reference keeps in signed numbers of 32 bits.
        const MOST: u64 = i32::MAX as u64;
        let align = self.align.max(below).max(1);
        let bad = |name: &str, value: u64| {
            Err(Error::invalid(format!("Cannot meet constraints with {name} {value}")))
        };
        if self.align >= MOST || (self.align > 0 && !self.align.is_power_of_two()) {
            return bad("align", self.align);
        }
        for (name, value, unit) in [
            ("max-transfer", self.max_transfer, align),
            ("opt-write-zero", self.opt_write_zero, align),
            ("max-write-zero", self.max_write_zero, self.opt_write_zero.max(align)),
            ("opt-discard", self.opt_discard, align),
            ("max-discard", self.max_discard, self.opt_discard.max(align)),
        ] {
            if value >= MOST || !value.is_multiple_of(unit) {
                return bad(name, value);
            }
        }
        Ok(())
    }
}

/// A device whose requests fail and stop as rules say.
pub struct Blkdebug {
    inner: Aligned,
    judge: Arc<Judge>,
    /// What requests are aligned to.
    unit: u64,
}

impl fmt::Debug for Blkdebug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blkdebug").field("unit", &self.unit).finish_non_exhaustive()
    }
}

impl Blkdebug {
    /// Passes on to `image` what no rule wants to fail.
    ///
    /// # Errors
    /// `InvalidInput` where the sizes do not fit each other.
    pub fn new(image: Device, options: BlkdebugOptions) -> Result<Self> {
        let below = u64::from(image.limits().request_alignment).max(1);
        options.check(below)?;
        let unit = options.align.max(below);
        let judge = Arc::new(Judge::new(image, options, unit));
        Ok(Self { inner: Aligned::new(judge.clone()), judge, unit })
    }

    /// One request will stop at `event` until it is resumed by its tag. Several may have the same.
    pub fn set_breakpoint(&self, event: DebugEvent, tag: &str) {
        self.judge.breakpoints.set(event, tag);
    }

    /// Takes breakpoints away and lets all go that they stopped.
    ///
    /// # Errors
    /// `NotFound` where no breakpoint with this tag was left; what it had stopped goes on all the
    /// same.
    pub fn remove_breakpoint(&self, tag: &str) -> Result<()> {
        self.judge.breakpoints.remove(tag)
    }

    /// Lets a request go on.
    ///
    /// # Errors
    /// `NotFound` where none has stopped at this tag.
    pub fn resume(&self, tag: &str) -> Result<()> {
        self.judge.breakpoints.resume(tag)
    }

    /// True while a request stands at this tag.
    #[must_use]
    pub fn is_suspended(&self, tag: &str) -> bool {
        self.judge.breakpoints.is_suspended(tag)
    }

    /// Waits until a request stands at this tag.
    pub async fn wait_suspended(&self, tag: &str) {
        self.judge.breakpoints.wait_suspended(tag).await;
    }

    /// Tells `listener`, and nobody else, of requests that stop and go on.
    pub fn on_breakpoint(&self, listener: BreakpointListener) {
        self.judge.breakpoints.listen(listener);
    }

    /// Requests do not stop (`true`), and those that stand go on, until as many calls with `false`
    /// have been made.
    pub fn release(&self, release: bool) {
        self.judge.release.set(release);
    }

    /// The events of a write that covers units in part.
    async fn partial(&self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        if !offset.is_multiple_of(self.unit) {
            raise(&*self.judge, DebugEvent::PwritevRmwHead).await;
            raise(&*self.judge, DebugEvent::PwritevRmwAfterHead).await;
        }
        if !offset.wrapping_add(len).is_multiple_of(self.unit) {
            raise(&*self.judge, DebugEvent::PwritevRmwTail).await;
            raise(&*self.judge, DebugEvent::PwritevRmwAfterTail).await;
        }
    }
}

impl BlockDevice for Blkdebug {
    forward!(len limits capabilities read discard flush set_len extents event);

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move { Ok(DeviceInfo { actual_size: None, ..self.inner.info().await? }) })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.partial(offset, data.len()).await;
            self.inner.write(offset, data, flags).await
        })
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: crate::io::ZeroFlags,
    ) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.partial(offset, len).await;
            self.inner.write_zeroes(offset, len, flags).await
        })
    }
}

#[cfg(test)]
mod tests;
