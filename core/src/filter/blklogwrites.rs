//! `blklogwrites` (the schema's driver, block-core.json, `BlockdevOptionsBlklogwrites`): every change
//! is written to a log before it is made, in the format of the Linux device mapper's log-writes
//! target (Documentation/admin-guide/device-mapper/log-writes.rst). The tools that replay such logs
//! show what a crash at any moment could have left.
//!
//! The log: a sector with the superblock, then for each change a sector with its entry and the
//! sectors that it writes. Little endian:
//!
//! | superblock | entry |
//! | --- | --- |
//! | magic `0x6a736677736872`, version 1, number of entries: 64 bits each | sector, number of sectors, flags, length of other data: 64 bits each |
//! | sector size: 32 bits | flags: 1 flush, 2 FUA, 4 discard, 8 mark |
//!
//! Invariants: changes of the same bytes are in the log in the order in which they were made; a
//! change that was given up may be in the log, one that was made is; no entry is counted before it
//! is written. A flush is logged where something was changed since the one before; a durable write is
//! one with a flush behind it. A changed length is not logged: the format has no entry for it.

use super::forward::forward;
use crate::io::{
    Aligned, BlockDevice, BoxFuture, Capabilities, Device, DeviceExt, Limits, Segments, Turns,
    WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const VERSION: u64 = 1;
/// Flags of an entry.
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// Sectors are shorter than this, and long enough for a superblock or an entry.
const SECTOR_LIMIT: u32 = 16 << 20;
const SECTOR_LEAST: u32 = 32;
/// What is not written as zeroes is written in pieces of this size.
const STEP: u64 = 16 << 20;

/// `BlockdevOptionsBlklogwrites` without the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlklogwritesOptions {
    /// The unit of offsets and lengths in the log, in bytes; `None` for 512, or what the log that
    /// is continued has.
    pub log_sector_size: Option<u32>,
    /// Continue a log.
    pub log_append: bool,
    /// After so many entries the superblock counts them, flush or not.
    pub log_super_update_interval: u64,
}

impl Default for BlklogwritesOptions {
    fn default() -> Self {
        Self { log_sector_size: None, log_append: false, log_super_update_interval: 4096 }
    }
}

/// A device whose changes are logged.
#[derive(Debug)]
pub struct Blklogwrites {
    inner: Aligned,
    logged: Arc<Logged>,
}

impl Blklogwrites {
    /// Logs to `log` what is changed in `file`.
    ///
    /// # Errors
    /// `InvalidInput` for options that make no sense, `Corrupt` where the log to be continued is
    /// none, and those of the log.
    pub async fn new(file: Device, log: Device, options: BlklogwritesOptions) -> Result<Self> {
        if options.log_append && options.log_sector_size.is_some() {
            let what = "log-append and log-sector-size are mutually exclusive";
            return Err(Error::invalid(what));
        }
        let log = Aligned::new(log);
        let (sector, state) = match options.log_append {
            true => continue_log(&log).await?,
            false => {
                let sector = options.log_sector_size.unwrap_or(512);
                (checked_sector(sector)?, State { entries: 0, next: 1, changed: false })
            }
        };
        if options.log_super_update_interval == 0 {
            let what = "Invalid log superblock update interval 0";
            return Err(Error::invalid(what));
        }
        let logged = Arc::new(Logged {
            inner: file,
            log,
            sector,
            interval: options.log_super_update_interval,
            state: async_lock::Mutex::new(state),
            turns: Turns::default(),
        });
        Ok(Self { inner: Aligned::new(logged.clone()), logged })
    }

    /// Makes the log complete and durable: called when the device is not used any more.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn close(&self) -> Result<()> {
        self.logged.log_flush().await
    }
}

impl BlockDevice for Blklogwrites {
    forward!(len limits capabilities read write write_zeroes discard flush set_len extents info event);
}

fn checked_sector(sector: u32) -> Result<u32> {
    if sector.is_power_of_two() && (SECTOR_LEAST..SECTOR_LIMIT).contains(&sector) {
        return Ok(sector);
    }
    Err(Error::invalid(format!("Invalid log sector size {sector}")))
}

/// Walks through the entries of a log. The work is bounded by the length of the log.
async fn continue_log(log: &Aligned) -> Result<(u32, State)> {
    let bad = |what: &'static str| Error::corrupt(what).in_format("blklogwrites");
    if log.len() < u64::from(SECTOR_LEAST) {
        return Err(bad("Invalid log superblock magic"));
    }
    let bytes: [u8; SECTOR_LEAST as usize] = log.read_array(0).await?;
    let field = |bytes: &[u8; SECTOR_LEAST as usize], at: usize| {
        bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if field(&bytes, 0) != MAGIC {
        return Err(bad("Invalid log superblock magic"));
    }
    let version = field(&bytes, 8);
    if version != VERSION {
        let what = format!("Unsupported log version {version}");
        return Err(Error::unsupported(what).in_format("blklogwrites"));
    }
    let (entries, sector) = (field(&bytes, 16), (field(&bytes, 24) & 0xffff_ffff) as u32);
    let size =
        u64::from(checked_sector(sector).map_err(|e| bad("Invalid log sector size").because(e))?);
    let mut next: u64 = 1;
    for entry in 0..entries {
        let at = next.checked_mul(size).filter(|at| *at + 32 <= log.len());
        let Some(at) = at else {
            let what = format!("entry {entry} lies past the end of the log");
            return Err(Error::corrupt(what).in_format("blklogwrites"));
        };
        let bytes: [u8; 32] = log.read_array(at).await?;
        let (count, flags) = (field(&bytes, 8), field(&bytes, 16));
        let data = if flags & DISCARD == 0 { count } else { 0 };
        let end = next.checked_add(1).and_then(|next| next.checked_add(data));
        next = end.ok_or_else(|| bad("an entry is longer than any log"))?;
    }
    Ok((sector, State { entries, next, changed: false }))
}

/// The device as it takes whole sectors.
#[derive(Debug)]
struct Logged {
    inner: Device,
    log: Aligned,
    sector: u32,
    interval: u64,
    /// One entry at a time. It is held while the log is written to.
    state: async_lock::Mutex<State>,
    turns: Turns,
}

/// What of the log is complete.
#[derive(Debug)]
struct State {
    entries: u64,
    /// The sector of the log at which the next entry goes.
    next: u64,
    /// Something was changed since the last flush.
    changed: bool,
}

/// What an entry says.
struct Entry {
    /// In bytes.
    offset: u64,
    len: u64,
    flags: u64,
    data: Option<Segments>,
}

impl Logged {
    /// The device refuses every change then, which the log need not tell of.
    fn is_read_only(&self) -> bool {
        !self.inner.capabilities().contains(Capabilities::WRITE)
    }

    /// Adds an entry. Dropped midway, it leaves the log as it was: the next one goes to the same
    /// place, after what is still in flight there.
    async fn log(&self, entry: Entry) -> Result<()> {
        let mut state = self.state.lock().await;
        if entry.flags & FLUSH != 0 && !state.changed {
            return Ok(());
        }
        let size = u64::from(self.sector);
        let count = entry.len.div_ceil(size);
        let mut head = Vec::new();
        for field in [entry.offset / size, count, entry.flags, 0] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.resize(self.sector as usize, 0);
        let too_long = || Error::limit("the log is longer than any file");
        let at = state.next.checked_mul(size).ok_or_else(too_long)?;
        let sectors = if entry.flags & DISCARD == 0 { count } else { 0 };
        let next = state.next.checked_add(1 + sectors).ok_or_else(too_long)?;
        next.checked_mul(size).ok_or_else(too_long)?;
        match entry.data {
            Some(data) => {
                let mut all = Segments::from(head);
                all.append(data);
                all.push_zero(size + sectors * size - all.len());
                self.write_log(at, all).await?;
            }
            None => {
                self.write_log(at, head.into()).await?;
                if sectors > 0 {
                    let zeroes =
                        self.log.write_zeroes(at + size, sectors * size, ZeroFlags::empty());
                    zeroes.await?;
                }
            }
        }
        (state.entries, state.next) = (state.entries + 1, next);
        state.changed = entry.flags & FLUSH == 0;
        if entry.flags & FLUSH != 0 || state.entries.is_multiple_of(self.interval) {
            self.write_super(&state).await?;
        }
        Ok(())
    }

    async fn write_log(&self, at: u64, data: Segments) -> Result<()> {
        let most = STEP.min(u64::from(self.log.limits().max_transfer).max(1));
        let mut done = 0;
        while done < data.len() {
            let len = most.min(data.len() - done);
            self.log.write(at + done, data.slice(done, len), WriteFlags::empty()).await?;
            done += len;
        }
        Ok(())
    }

    async fn write_super(&self, state: &State) -> Result<()> {
        let mut bytes = vec![0; self.sector as usize];
        for (at, field) in [(0, MAGIC), (8, VERSION), (16, state.entries)] {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        bytes[24..28].copy_from_slice(&self.sector.to_le_bytes());
        self.log.write(0, bytes.into(), WriteFlags::empty()).await
    }

    async fn log_flush(&self) -> Result<()> {
        self.log(Entry { offset: 0, len: 0, flags: FLUSH, data: None }).await?;
        self.log.flush().await
    }
}

impl BlockDevice for Logged {
    forward!(len capabilities read extents info event);

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        Limits { request_alignment: limits.request_alignment.max(self.sector), ..limits }
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let limits = self.inner.limits();
        let refused = check_range(offset, data.len(), u64::MAX).is_err()
            || data.len() > u64::from(limits.max_transfer);
        if refused || data.is_empty() || self.is_read_only() {
            return self.inner.write(offset, data, flags);
        }
        Box::pin(async move {
            let turn = self.turns.turn(offset..offset + data.len()).await;
            let (len, copy) = (data.len(), Some(data.clone()));
            self.log(Entry { offset, len, flags: 0, data: copy }).await?;
            self.inner.write(offset, data, flags - WriteFlags::FUA).await?;
            drop(turn);
            match flags.contains(WriteFlags::FUA) {
                true => self.flush().await,
                false => Ok(()),
            }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if check_range(offset, len, u64::MAX).is_err() || len == 0 || self.is_read_only() {
            return self.inner.write_zeroes(offset, len, flags);
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            // It would be in the log before it is known whether it can be done.
            let what = "zeroes are logged, so there must be a way to write them";
            return Box::pin(core::future::ready(Err(Error::unsupported(what))));
        }
        Box::pin(async move {
            let turn = self.turns.turn(offset..offset + len).await;
            self.log(Entry { offset, len, flags: 0, data: None }).await?;
            self.inner.write_zeroes(offset, len, flags).await?;
            drop(turn);
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let refused = check_range(offset, len, self.inner.len()).is_err();
        if refused || len == 0 || self.is_read_only() {
            return self.inner.discard(offset, len);
        }
        Box::pin(async move {
            let turn = self.turns.turn(offset..offset + len).await;
            self.log(Entry { offset, len, flags: DISCARD, data: None }).await?;
            self.inner.discard(offset, len).await?;
            drop(turn);
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.log_flush().await?;
            self.inner.flush().await
        })
    }

    fn set_len(
        &self,
        len: u64,
        preallocation: crate::io::Preallocation,
    ) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let turn = self.turns.turn(0..u64::MAX).await;
            self.inner.set_len(len, preallocation).await?;
            self.state.lock().await.changed = true;
            drop(turn);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
