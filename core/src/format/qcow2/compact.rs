//! Giving up clusters that hold nothing of their own.
//!
//! A cluster may go only while nobody can write to it. In-place writes take no lock, so the range
//! lock does not keep them away: the image is had [alone](Qcow2::alone) from before the contents
//! are looked at until the entry has changed. The change itself is as any other: the entry is
//! durable before its cluster is free.

use super::Qcow2;
use super::claims::{Release, Why};
use super::layout as l;
use super::map::{Entry, Subclusters};
use super::write::put;
use crate::Result;
use crate::format::compaction::{Compaction, Instead, Packed, Still};
use crate::io::BoxFuture;
use alloc::boxed::Box;
use alloc::vec::Vec;

impl Qcow2 {
    /// True where an entry can say what is to be read instead.
    fn can_give_up(&self, instead: Instead) -> bool {
        // The places in an external data file are not counted, and belong to it.
        self.data.is_none()
            && (instead == Instead::Backing || self.header.version >= 3 || !self.has_backing())
    }

    /// True where the cluster of an entry belongs to nobody else. What is compressed does not tell
    /// by its entry: without snapshots it does.
    fn is_own(&self, entry: &Entry, shared: bool) -> bool {
        match entry {
            Entry::Standard { copied, .. }
            | Entry::Zero { host: Some(_), copied }
            | Entry::Subclusters { host: Some(_), copied, .. } => *copied,
            Entry::Compressed(_) => !shared,
            _ => false,
        }
    }

    /// The entries of `[start, end)` in one slice whose clusters can go: position, guest offset, and
    /// what each of them gives back.
    fn own_entries(
        &self,
        bytes: &[u8],
        mut position: usize,
        start: u64,
        end: u64,
    ) -> Result<Vec<(usize, u64, Release)>> {
        let shared = !self.snapshots.read().list.is_empty();
        let mut out = Vec::new();
        let mut at = start;
        while at < end {
            let entry = self.entry(bytes, position, at)?;
            if self.is_own(&entry, shared)
                && let Some(release) = self.host_of(&entry)
            {
                out.push((position, at, release));
            }
            at += self.cluster_size();
            position += 1 << self.header.l2_entry_bits();
        }
        Ok(out)
    }

    /// The table for `guest`, where this image has it to itself: one that a snapshot shares would
    /// have to be copied first, which takes more than it gives.
    fn own_table(&self, guest: u64) -> Result<Option<u64>> {
        let entry = self.l1_entry(guest);
        match entry & l::COPIED {
            0 => Ok(None),
            _ => self.l2_offset(entry, guest),
        }
    }

    /// What each of the slices has that can go; it goes where `really`.
    async fn give_up_range(
        &self,
        start: u64,
        len: u64,
        instead: Instead,
        really: bool,
    ) -> Result<u64> {
        if !self.can_give_up(instead) {
            return Ok(0);
        }
        let disk = *self.virtual_size.read();
        let end = self.cluster_end(start.saturating_add(len).min(disk));
        let (mut at, mut sum) = (self.cluster_start(start), 0);
        while at < end {
            let stop = end.min(self.slice_end(at));
            if let Some(l2) = self.own_table(at)? {
                sum += self.give_up_slice(l2, at, stop, instead, really).await?;
            }
            at = stop;
        }
        Ok(sum)
    }

    async fn give_up_slice(
        &self,
        l2: u64,
        start: u64,
        end: u64,
        instead: Instead,
        really: bool,
    ) -> Result<u64> {
        let disk = *self.virtual_size.read();
        let (slice, position) = self.l2_slice(l2, start).await?;
        let own = slice.with(|bytes| self.own_entries(bytes, position, start, end))?;
        let sum = own.iter().map(|(_, at, _)| self.cluster_size().min(disk - at)).sum();
        if !really || own.is_empty() {
            return Ok(sum);
        }
        // Nothing waits from here on: what is not referred to any more is given back.
        self.cache.modify(&slice, |bytes| {
            for (position, _, _) in &own {
                self.put_instead(bytes, *position, instead);
            }
        });
        self.limbo.free_later(Why::Request, own.into_iter().map(|(_, _, release)| release));
        self.relieve_cache().await?;
        Ok(sum)
    }

    fn put_instead(&self, bytes: &mut [u8], position: usize, instead: Instead) {
        let zeroes = instead == Instead::Zeroes;
        if self.extended_l2 {
            put(bytes, position, 0);
            let all = Subclusters { allocated: 0, zero: if zeroes { u32::MAX } else { 0 } };
            put(bytes, position + 8, all.bits());
        } else {
            // Version 2 has no flag, and nothing below where it gets here.
            let flag = if zeroes && self.header.version >= 3 { l::ZERO } else { 0 };
            put(bytes, position, flag);
        }
    }
}

impl Compaction for Qcow2 {
    fn still(&self) -> BoxFuture<'_, Result<Still<'_>>> {
        Box::pin(async move {
            self.prepare_write().await?;
            Ok(Still::new(self.alone().await?))
        })
    }

    fn needless(&self, start: u64, len: u64, instead: Instead) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.noting_damage(self.give_up_range(start, len, instead, false)))
    }

    fn give_up<'a>(
        &'a self,
        still: &'a Still<'_>,
        start: u64,
        len: u64,
        instead: Instead,
    ) -> BoxFuture<'a, Result<u64>> {
        let _ = still;
        Box::pin(self.noting_damage(self.give_up_range(start, len, instead, true)))
    }

    fn packable(&self) -> BoxFuture<'_, Result<Packed>> {
        Box::pin(self.noting_damage(self.what_to_pack()))
    }

    fn pack<'a>(
        &'a self,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Packed>> {
        Box::pin(self.noting_damage(self.pack_all(progress)))
    }
}
