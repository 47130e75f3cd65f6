//! Zeroes and discards: entries that say there is nothing, without bytes that say so.

use super::Qcow2;
use super::claims::Why;
use super::discards::{Hollow, joined};
use super::layout::{self as l, be64};
use super::map::{Entry, Subclusters};
use super::write::put;
use crate::Result;
use crate::format::{Place, ZeroPlan};
use crate::io::ZeroFlags;
use alloc::vec::Vec;

impl Qcow2 {
    pub(super) async fn zero_range(
        &self,
        start: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> Result<ZeroPlan> {
        let mut plan = ZeroPlan::default();
        if len == 0 {
            return Ok(plan);
        }
        self.prepare_write().await?;
        let _with_others = self.with_others().await?;
        let by_metadata = self.header.version >= 3 || !self.has_backing();
        if self.data_file_is_raw() || !by_metadata {
            plan.explicit.push((start, len));
            return Ok(plan);
        }
        let unit = self.subcluster_size();
        let end = start + len;
        let first = start.next_multiple_of(unit);
        // The rest of the last cluster lies past the end of the disk: it counts as covered.
        let last = if end == *self.virtual_size.read() {
            end.next_multiple_of(unit)
        } else {
            end - end % unit
        };
        if first >= last {
            self.explicit_zero(&mut plan, start, end).await?;
            return Ok(plan);
        }
        self.explicit_zero(&mut plan, start, first).await?;
        self.explicit_zero(&mut plan, last.min(end), end).await?;
        if flags.contains(ZeroFlags::NO_FALLBACK)
            && (!plan.explicit.is_empty() || self.splits_compressed(first, last).await?)
        {
            // The caller refuses the plan: nothing may have changed by then.
            plan.explicit.push((start, len));
            return Ok(plan);
        }
        let mut at = first;
        while at < last {
            let stop = last.min(self.slice_end(at));
            self.zero_slice(&mut plan, at, stop, flags).await?;
            at = stop;
        }
        Ok(plan)
    }

    /// True where a range of whole subclusters begins or ends within a compressed cluster.
    async fn splits_compressed(&self, first: u64, last: u64) -> Result<bool> {
        for edge in [first, last] {
            if !edge.is_multiple_of(self.cluster_size()) {
                let within = edge.min(*self.virtual_size.read() - 1);
                let mapping = self.map_range(self.cluster_start(within), 1).await?;
                let place = mapping.pieces.first().map(|piece| piece.place);
                if matches!(place, Some(Place::Compressed { .. })) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Adds a partial unit to the plan, unless it reads as zeroes anyway.
    async fn explicit_zero(&self, plan: &mut ZeroPlan, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            for piece in self.map_range(at, end - at).await?.pieces {
                let zero = match piece.place {
                    Place::Zero { .. } => true,
                    Place::Unallocated { .. } => !self.has_backing(),
                    _ => false,
                };
                if !zero {
                    plan.explicit.push((at, piece.len));
                }
                at += piece.len;
            }
        }
        Ok(())
    }

    /// Zeroes whole subclusters of one L2 slice by metadata.
    async fn zero_slice(
        &self,
        plan: &mut ZeroPlan,
        start: u64,
        end: u64,
        flags: ZeroFlags,
    ) -> Result<()> {
        let _guard = self.range_locks.lock(self.cluster_start(start), self.cluster_end(end)).await;
        // Version 2 has no zero flag: without a backing file, nothing is as good.
        let v2 = self.header.version < 3;
        if v2 && self.l1_entry(start) & l::OFFSET_MASK == 0 {
            return Ok(());
        }
        let l2 = self.ensure_l2(start).await?;
        self.guard_l2(l2).await?;
        let (slice, position) = self.l2_slice(l2, start).await?;
        let unmap = flags.contains(ZeroFlags::MAY_UNMAP) || v2;
        let (mut frees, mut hollow) = (Vec::new(), Hollow::default());
        let result = self.cache.modify(&slice, |bytes| -> Result<()> {
            let (mut at, mut position) = (start, position);
            while at < end {
                let next = end.min(self.cluster_start(at) + self.cluster_size());
                let old = self.entry(bytes, position, at)?;
                let whole = next - at == self.cluster_size();
                let keep = match &old {
                    Entry::Compressed(_) => false,
                    _ => !whole || !unmap || self.discards.no_unref,
                };
                if whole
                    && unmap
                    && let Some(host) = self.own_place(&old, keep)
                {
                    hollow.push(at, host, self.cluster_bits);
                }
                if self.extended_l2 {
                    if matches!(old, Entry::Compressed(_)) && !whole {
                        plan.explicit.push((at, next - at));
                    } else {
                        self.zero_subclusters(bytes, position, &old, self.mask(at, next), keep);
                        frees.extend((!keep).then(|| self.host_of(&old)).flatten());
                    }
                } else {
                    let host =
                        if keep { be64(bytes, position) & (l::OFFSET_MASK | l::COPIED) } else { 0 };
                    put(bytes, position, if v2 { 0 } else { host | l::ZERO });
                    frees.extend((!keep).then(|| self.host_of(&old)).flatten());
                }
                at = next;
                position += 1 << self.header.l2_entry_bits();
            }
            Ok(())
        });
        self.limbo.free_later(Why::Request, joined(frees));
        self.hollow_out_later(hollow);
        result?;
        self.relieve_cache().await
    }

    /// Marks a unit that has no bytes of its own as zeroes.
    pub(super) async fn zero_unit(&self, start: u64) -> Result<bool> {
        if self.header.version < 3 || self.data_file_is_raw() {
            return Ok(false);
        }
        self.prepare_write().await?;
        let _with_others = self.with_others().await?;
        let end = start + self.subcluster_size();
        let _guard = self.range_locks.lock(self.cluster_start(start), self.cluster_end(end)).await;
        let l2 = self.ensure_l2(start).await?;
        let (slice, position) = self.l2_slice(l2, start).await?;
        let done = self.cache.modify(&slice, |bytes| -> Result<bool> {
            let old = self.entry(bytes, position, start)?;
            let mask = self.mask(start, end);
            match old {
                Entry::Zero { .. } => return Ok(true),
                Entry::Subclusters { bitmap, .. } if bitmap.allocated & mask != 0 => {
                    return Ok(false);
                }
                Entry::Unallocated | Entry::Subclusters { .. } => {}
                Entry::Standard { .. } | Entry::Compressed(_) => return Ok(false),
            }
            match self.extended_l2 {
                true => self.zero_subclusters(bytes, position, &old, mask, true),
                false => put(bytes, position, l::ZERO),
            }
            Ok(true)
        })?;
        self.relieve_cache().await?;
        Ok(done)
    }

    fn zero_subclusters(
        &self,
        bytes: &mut [u8],
        position: usize,
        old: &Entry,
        mask: u32,
        keep: bool,
    ) {
        let bitmap = match old {
            Entry::Subclusters { bitmap, .. } => *bitmap,
            _ => Subclusters::default(),
        };
        if !keep {
            put(bytes, position, 0);
        }
        let new = Subclusters { allocated: bitmap.allocated & !mask, zero: bitmap.zero | mask };
        put(bytes, position + 8, new.bits());
    }

    pub(super) async fn discard_range(&self, start: u64, len: u64) -> Result<()> {
        let end = start + len;
        let first = self.cluster_end(start);
        let last = if end == *self.virtual_size.read() {
            self.cluster_end(end)
        } else {
            self.cluster_start(end)
        };
        if first >= last {
            return Ok(());
        }
        self.prepare_write().await?;
        // Without a zero flag a cluster can only be given up where nothing shows through.
        let possible = self.header.version >= 3 || !self.has_backing();
        if !possible || self.data_file_is_raw() && !self.discard_raw(first, last).await? {
            return Ok(());
        }
        let _with_others = self.with_others().await?;
        let mut at = first;
        while at < last {
            let stop = last.min(self.slice_end(at));
            self.discard_slice(at, stop).await?;
            at = stop;
        }
        Ok(())
    }

    /// Gives up clusters of one L2 slice: they read as zeroes from now on, also those that showed
    /// the backing file.
    async fn discard_slice(&self, start: u64, end: u64) -> Result<()> {
        let hides = self.has_backing();
        if !hides && self.l1_entry(start) & l::OFFSET_MASK == 0 {
            return Ok(());
        }
        let _guard = self.range_locks.lock(start, end).await;
        let l2 = self.ensure_l2(start).await?;
        self.guard_l2(l2).await?;
        let (slice, position) = self.l2_slice(l2, start).await?;
        let (mut frees, mut hollow) = (Vec::new(), Hollow::default());
        let result = self.cache.modify(&slice, |bytes| -> Result<()> {
            let entry_len = 1usize << self.header.l2_entry_bits();
            for i in 0..(end - start) >> self.cluster_bits {
                // Within the slice.
                let position = position + i as usize * entry_len;
                let guest = start + (i << self.cluster_bits);
                let old = self.entry(bytes, position, guest)?;
                let shows = match old {
                    Entry::Unallocated => true,
                    Entry::Subclusters { bitmap, .. } => bitmap.zero != u32::MAX,
                    _ => false,
                };
                let has_place = !matches!(
                    old,
                    Entry::Unallocated
                        | Entry::Zero { host: None, .. }
                        | Entry::Subclusters { host: None, .. }
                );
                if !(has_place || hides && shows) {
                    continue;
                }
                let keep = self.discards.no_unref && !matches!(old, Entry::Compressed(_));
                // A raw data file has given it up already.
                if let Some(host) = self.own_place(&old, keep).filter(|_| !self.data_file_is_raw())
                {
                    hollow.push(guest, host, self.cluster_bits);
                }
                let host = match keep {
                    true => be64(bytes, position) & (l::OFFSET_MASK | l::COPIED),
                    false => 0,
                };
                if self.extended_l2 {
                    put(bytes, position, host);
                    let all = Subclusters { allocated: 0, zero: u32::MAX };
                    put(bytes, position + 8, all.bits());
                } else {
                    let zero = if self.header.version >= 3 { l::ZERO } else { 0 };
                    put(bytes, position, host | zero);
                }
                frees.extend((!keep).then(|| self.host_of(&old)).flatten());
            }
            Ok(())
        });
        self.limbo.free_later(Why::Request, joined(frees));
        self.hollow_out_later(hollow);
        result?;
        self.relieve_cache().await
    }
}
