//! Where a file has its bytes: zeroes and holes, its length, and what it says of both.

use super::super::buffer::ALIGN;
use super::super::handle::{Handle, Kind};
use super::super::threads;
use super::super::work::Work;
use super::RawFile;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use sectora_core::io::{Extent, ExtentFlags, HostRange, Preallocation, Segments, ZeroFlags};
use sectora_core::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Zeroes that have to be written are written in such pieces.
const ZERO_PIECE: u64 = 4 << 20;
/// How many runs an answer about extents has at most.
const MAX_RUNS: usize = 256;

impl RawFile {
    async fn write_zero_bytes(&self, offset: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZERO_PIECE);
            let (at, zeroes) = (offset + done, Segments::zero(n));
            match self.direct {
                None => self.write_run(at, zeroes).await?,
                Some(direct) => self.write_direct(at, zeroes, direct).await?,
            }
            done += n;
        }
        Ok(())
    }

    // ---- zeroes and holes

    /// One `fallocate` that leaves zeroes. False where the file system cannot.
    async fn fallocate(
        &self,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
        lacks: &AtomicBool,
    ) -> Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        if lacks.load(Ordering::Relaxed) || self.handle.kind == Kind::Character {
            return Ok(false);
        }
        self.made_hole();
        let (result, _) = self.perform(Work::Fallocate { mode, offset, len }).await?;
        self.made_hole();
        match result {
            Ok(_) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::NOTTY) => {
                lacks.store(true, Ordering::Relaxed);
                Ok(false)
            }
            // A range that this file system cannot do, where it can do others.
            Err(Errno::INVAL) => Ok(false),
            Err(e) => Err(self.handle.error(e, "cannot write zeroes to").at(offset)),
        }
    }

    /// Zeroes that stay reserved.
    pub(super) async fn zero_range(&self, offset: u64, len: u64) -> Result<bool> {
        self.fallocate(FallocateFlags::ZERO_RANGE, offset, len, &self.lacks.zero_range).await
    }

    /// A hole. Does not reach past the end.
    async fn punch_hole(&self, offset: u64, len: u64) -> Result<bool> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(mode, offset, len, &self.lacks.punch_hole).await
    }

    /// Zeroes without writing them. False where that cannot be.
    async fn zero_fast(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<bool> {
        let end = offset + len;
        if flags.contains(ZeroFlags::MAY_UNMAP) {
            let inside = self.handle.len().min(end).saturating_sub(offset);
            if self.punch_hole(offset, inside).await? {
                if end > self.handle.len() {
                    // The rest is a hole once the file reaches behind it. Not by setting the
                    // length, which would cut off what somebody else appends meanwhile.
                    let last = end - 1;
                    if !self.zero_range(last, 1).await? {
                        self.write_last_byte(last).await?;
                    }
                }
                return Ok(true);
            }
        }
        if self.zero_range(offset, len).await? {
            return Ok(true);
        }
        // A hole that is reserved again; where that is impossible there are zeroes all the same.
        let inside = self.handle.len().min(end).saturating_sub(offset);
        if self.handle.kind == Kind::Regular && self.punch_hole(offset, inside).await? {
            let mode = FallocateFlags::empty();
            return self.fallocate(mode, offset, len, &AtomicBool::new(false)).await;
        }
        Ok(false)
    }

    async fn write_last_byte(&self, offset: u64) -> Result<()> {
        match self.direct {
            None => self.write_run(offset, Segments::zero(1)).await,
            Some(_) => self.write_buffered(offset, Segments::zero(1)).await,
        }
    }

    pub(super) async fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_change(offset, len)?;
        if len == 0 {
            return self.reach(offset).await;
        }
        let end = offset + len;
        self.handle.orphans.settled(offset..end).await;
        // A block device can only do whole sectors.
        let (from, to) = match self.handle.kind {
            Kind::Block => {
                let from = offset.next_multiple_of(ALIGN as u64).min(end);
                (from, (end - end % ALIGN as u64).max(from))
            }
            Kind::Regular | Kind::Character => (offset, end),
        };
        let fast = from == to || self.zero_fast(from, to - from, flags).await?;
        if !fast && flags.contains(ZeroFlags::NO_FALLBACK) {
            return Err(Error::unsupported(format!(
                "zeroes cannot be made in '{}' without writing them",
                self.handle.name
            )));
        }
        let (from, to) = if fast { (from, to) } else { (end, end) };
        self.write_zero_bytes(offset, from - offset).await?;
        self.write_zero_bytes(to, end - to).await
    }

    pub(super) async fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_change(offset, len)?;
        self.check(offset, len, self.handle.len())?;
        if len == 0 {
            return Ok(());
        }
        self.handle.orphans.settled(offset..offset + len).await;
        match self.handle.kind {
            Kind::Regular => self.punch_hole(offset, len).await.map(drop),
            Kind::Character => Ok(()),
            Kind::Block => {
                let changes = Some(offset..offset + len);
                let call = threads::call(&self.handle, changes, move |handle| {
                    handle.discard_sectors(offset, len)
                });
                match call.await.ok_or_else(|| self.lost())? {
                    // To keep the bytes is allowed.
                    Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(()),
                    Err(e) => Err(self.handle.error(e, "cannot discard").at(offset)),
                }
            }
        }
    }

    // ---- durability

    /// Makes the file at least `end` long: what an empty write there has to do.
    pub(super) async fn reach(&self, end: u64) -> Result<()> {
        match end > self.handle.len() {
            true => self.set_len_to(end, Preallocation::Off).await,
            false => Ok(()),
        }
    }

    pub(super) async fn set_len_to(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        self.check_change(0, 0)?;
        let (handle, now) = (&self.handle, self.handle.len());
        let name = &handle.name;
        if handle.kind != Kind::Regular {
            return match len == now {
                true => Ok(()),
                false => Err(Error::unsupported("Cannot resize device files")),
            };
        }
        if preallocation == Preallocation::Metadata {
            return Err(Error::unsupported("Unsupported preallocation mode: metadata"));
        }
        if i64::try_from(len).is_err() {
            return Err(Error::limit(format!(
                "the length {len:#x} is more than any file system has for '{name}'"
            )));
        }
        if len < now && preallocation != Preallocation::Off {
            return Err(Error::invalid("Preallocation can't be used for shrinking files"));
        }
        handle.orphans.settled(now.min(len)..u64::MAX).await;
        self.made_hole();
        let result = match preallocation {
            Preallocation::Falloc if len > now => {
                let work =
                    Work::Fallocate { mode: FallocateFlags::empty(), offset: now, len: len - now };
                let (result, _) = self.perform(work).await?;
                result.map(drop).map_err(|e| handle.error(e, "Could not preallocate"))
            }
            Preallocation::Full if len > now => self.write_full(now, len).await,
            _ => self.truncate(len).await,
        };
        self.made_hole();
        if result.is_err() && len > now {
            // What was gained before the failure is given back, as if nothing had happened.
            let _ = self.truncate(now).await;
        }
        result
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        let changes = Some(self.handle.len().min(len)..u64::MAX);
        let call = threads::call(&self.handle, changes, move |handle| handle.truncate(len));
        let result = call.await.ok_or_else(|| self.lost())?;
        result.map_err(|e| self.handle.error(e, "cannot change the length of"))
    }

    /// Lengthens the file from `now` by writing zeroes that are on storage when it returns.
    async fn write_full(&self, now: u64, len: u64) -> Result<()> {
        let align = self.direct.map_or(1, |d| u64::from(d.offset));
        // The old end may lie inside a unit: what is left of it comes first.
        let head = now.next_multiple_of(align).min(len) - now;
        if head > 0 {
            self.write_buffered(now, Segments::zero(head)).await?;
        }
        self.write_zero_bytes(now + head, len - now - head).await?;
        self.sync().await
    }

    // ---- what is where

    fn made_hole(&self) {
        let mut known = self.known.lock();
        known.run = 0..0;
        known.holes = known.holes.wrapping_add(1);
    }

    pub(super) async fn extents_of(&self, offset: u64, len: u64) -> Result<Vec<Extent>> {
        let name = &self.handle.name;
        let within = self.handle.len();
        let end = offset.checked_add(len).filter(|end| *end <= within).ok_or_else(|| {
            Error::invalid(format!(
                "request {offset:#x}+{len:#x} exceeds the length {within:#x} of '{name}'"
            ))
        })?;
        if len == 0 {
            return Err(Error::invalid("extents of an empty range were asked for"));
        }
        if self.handle.kind != Kind::Regular {
            return Ok(vec![self.extent(offset, end, true)]);
        }
        let holes = {
            let known = self.known.lock();
            if known.run.contains(&offset) {
                return Ok(vec![self.extent(offset, end.min(known.run.end), true)]);
            }
            known.holes
        };
        let runs = if self.handle.is_remote() {
            let call =
                threads::call(&self.handle, None, move |handle| find_runs(handle, offset, end));
            call.await.ok_or_else(|| self.lost())?
        } else {
            find_runs(&self.handle, offset, end)
        };
        let runs = runs.map_err(|e| self.handle.error(e, "cannot find the holes of").at(offset))?;
        let mut known = self.known.lock();
        if known.holes == holes
            && self.handle.is_exclusive()
            && let Some((run, true)) = runs.last()
        {
            known.run = run.clone();
        }
        drop(known);
        let clip =
            |(run, data): &(Range<u64>, bool)| self.extent(run.start, run.end.min(end), *data);
        Ok(runs.iter().map(clip).collect())
    }

    fn extent(&self, start: u64, end: u64, data: bool) -> Extent {
        let kind = if data { ExtentFlags::DATA } else { ExtentFlags::ZERO };
        Extent {
            start,
            len: end - start,
            flags: kind | ExtentFlags::ALLOCATED,
            depth: 0,
            host: Some(HostRange { file: self.handle.name.clone(), offset: start }),
        }
    }
}

/// The runs of data and holes from `offset` to `end`; the last may reach further.
fn find_runs(
    handle: &Handle,
    offset: u64,
    end: u64,
) -> rustix::io::Result<Vec<(Range<u64>, bool)>> {
    let mut out: Vec<(Range<u64>, bool)> = Vec::new();
    handle.runs(offset, end, MAX_RUNS, |from, to, data| match out.last_mut() {
        Some((run, same)) if *same == data => run.end = to,
        _ => out.push((from..to, data)),
    })?;
    Ok(out)
}
