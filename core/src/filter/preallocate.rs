//! `preallocate` (the schema's driver, block-core.json, `BlockdevOptionsPreallocate`): a file that an
//! image grows in is made longer in large steps, ahead of what is written.
//!
//! Invariants: the length that is told is that of the data, never that of the file; what lies
//! between them is zeroes; whoever is done with the device calls [`Preallocate::quiesce`], which cuts
//! the file where the data ends. A step that fails is the last one tried: the file then grows as
//! it would without this filter.

use super::check_limits;
use super::forward::forward;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, Device, Extent, Preallocation, Segments, Turns,
    WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::ready;

/// What the alignment must be a multiple of.
const SECTOR: u64 = 512;

/// `BlockdevOptionsPreallocate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreallocateOptions {
    /// The file's length becomes a multiple of it, in bytes; 0 is taken for 1.
    pub prealloc_align: u64,
    /// How far behind the end of a write the file reaches, in bytes.
    pub prealloc_size: u64,
}

impl Default for PreallocateOptions {
    fn default() -> Self {
        Self { prealloc_align: 1 << 20, prealloc_size: 128 << 20 }
    }
}

impl PreallocateOptions {
    /// # Errors
    /// `InvalidInput` where the alignment is not one of sectors.
    pub(crate) fn check(&self) -> Result<()> {
        if self.prealloc_align.is_multiple_of(SECTOR) {
            return Ok(());
        }
        Err(Error::invalid("prealloc-align parameter of preallocate filter is not aligned to 512"))
    }

    /// How long the file is made for data that ends at `end`; `None` where that cannot be.
    fn file_len(&self, end: u64) -> Option<u64> {
        let len = end.checked_add(self.prealloc_size)?;
        len.checked_next_multiple_of(self.prealloc_align.max(1))
    }
}

/// A file that grows ahead.
#[derive(Debug)]
pub struct Preallocate {
    inner: Device,
    state: Mutex<State>,
    /// One step at a time. It is held while the file is made longer.
    growing: async_lock::Mutex<()>,
    turns: Turns,
}

#[derive(Debug)]
struct State {
    options: PreallocateOptions,
    /// Where the data ends, once the file may be longer than that.
    data_end: Option<u64>,
    /// A step has failed.
    given_up: bool,
}

impl Preallocate {
    /// Grows `file` ahead.
    ///
    /// # Errors
    /// `InvalidInput` where the alignment is not one of sectors.
    pub fn new(file: Device, options: PreallocateOptions) -> Result<Self> {
        options.check()?;
        let state = State { options, data_end: None, given_up: false };
        Ok(Self {
            inner: file,
            state: Mutex::new(state),
            growing: async_lock::Mutex::new(()),
            turns: Turns::default(),
        })
    }

    /// Takes other options for the steps to come, and gives those it had.
    ///
    /// # Errors
    /// `InvalidInput` where the alignment is not one of sectors; nothing has changed then.
    pub fn reopen(&self, options: PreallocateOptions) -> Result<PreallocateOptions> {
        options.check()?;
        Ok(core::mem::replace(&mut self.state.lock().options, options))
    }

    /// Cuts the file where the data ends. Writes may follow; they make it longer again.
    ///
    /// # Errors
    /// Those of the file; it is longer than its data then.
    pub async fn quiesce(&self) -> Result<()> {
        let turn = self.turns.turn(0..u64::MAX).await;
        self.cut().await?;
        drop(turn);
        Ok(())
    }

    /// The same for somebody who has the whole device to himself.
    async fn cut(&self) -> Result<()> {
        let end = self.state.lock().data_end;
        let Some(end) = end else { return Ok(()) };
        if self.inner.len() > end {
            self.inner.set_len(end, Preallocation::Off).await?;
        }
        // Only now: whoever is dropped before leaves a longer file that is still known as such.
        self.state.lock().data_end = None;
        Ok(())
    }

    /// A change that ends at `end`: the file is made longer first, if it is too short, and the
    /// data then reaches so far.
    async fn changing<'a>(
        &'a self,
        offset: u64,
        len: u64,
        change: impl FnOnce() -> BoxFuture<'a, Result<()>>,
    ) -> Result<()> {
        check_range(offset, len, u64::MAX)?;
        let end = offset + len;
        if end <= self.len() || !self.capabilities().contains(Capabilities::GROW) {
            return change().await;
        }
        // Nobody cuts the file meanwhile.
        let turn = self.turns.turn(offset..end.max(offset.saturating_add(1))).await;
        self.grow(end).await;
        // Before the write: if it is given up halfway, what it left behind is data. A write that
        // the file refuses has still made the device longer, by zeroes.
        if let Some(known) = &mut self.state.lock().data_end {
            *known = (*known).max(end);
        }
        let result = change().await;
        drop(turn);
        result
    }

    /// Makes the file long enough for data that ends at `end`, and longer.
    async fn grow(&self, end: u64) {
        let growing = self.growing.lock().await;
        let file_len = self.inner.len();
        if end <= file_len {
            return;
        }
        let (wanted, before) = {
            let state = self.state.lock();
            let wanted = state.options.file_len(end).filter(|_| !state.given_up);
            (wanted, state.data_end.unwrap_or(file_len))
        };
        let Some(wanted) = wanted else { return };
        // Before the file is: whoever is dropped here leaves one that may be longer than its data.
        self.state.lock().data_end = Some(before);
        if self.inner.set_len(wanted, Preallocation::Falloc).await.is_err() {
            self.state.lock().given_up = true;
        }
        drop(growing);
    }
}

impl BlockDevice for Preallocate {
    forward!(limits capabilities flush info event);

    fn len(&self) -> u64 {
        let len = self.inner.len();
        self.state.lock().data_end.unwrap_or(len)
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        match check_range(offset, len, self.len()) {
            Ok(()) => self.inner.read(offset, len),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let len = data.len();
        if check_limits(offset, len, &self.inner.limits()).is_err() {
            // The file refuses it, and must not have grown for it.
            return self.inner.write(offset, data, flags);
        }
        Box::pin(self.changing(offset, len, move || self.inner.write(offset, data, flags)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.changing(offset, len, move || self.inner.write_zeroes(offset, len, flags)))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        match check_range(offset, len, self.len()) {
            Ok(()) => self.inner.discard(offset, len),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let turn = self.turns.turn(0..u64::MAX).await;
            // What was prepared and not used goes first: what the file then gains is zeroes.
            self.cut().await?;
            let result = self.inner.set_len(len, preallocation).await;
            drop(turn);
            result
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        match check_range(offset, len, self.len()) {
            Ok(()) => self.inner.extents(offset, len),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests;
