//! Reservations and commits: where guest bytes go, and the L2 entries that say so.
//!
//! Bytes go in place where the guest's cluster has a host cluster of its own; that needs no lock
//! and no commit. Everything else takes the range lock of its guest clusters, reserves host
//! clusters, and becomes visible with the commit.

use super::Qcow2;
use super::cache::Class;
use super::claims::{RangeGuard, Release, Reserved, Why};
use super::layout::{self as l, be64};
use super::map::{Descriptor, Entry, Subclusters, subcluster_mask};
use super::options::OverlapChecks;
use crate::format::{Reservation, Target, Token};
use crate::io::{DebugEvent, Hold, ZeroFlags, raise};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use smallvec::SmallVec;

/// The change that a [`Token`] stands for.
#[derive(Debug)]
struct Pending {
    change: Change,
    _guards: Vec<RangeGuard>,
    /// Until the change is made, nobody has the image to himself.
    _hold: Hold,
    /// Taken for this write; given back if it never becomes visible.
    reserved: Reserved,
}

#[derive(Debug)]
enum Change {
    /// Guest bytes `[start, end)` lie at `host` and on, `end` not past one L2 slice.
    Standard { start: u64, end: u64, host: u64, fresh: bool },
    /// Each guest cluster has this descriptor.
    Compressed(Vec<(u64, u64)>),
}

/// How a run of clusters is going to be written.
#[derive(Debug)]
struct Run {
    /// Guest range that will be written, edges padded to what must be copied.
    start: u64,
    end: u64,
    /// The host cluster of the first guest cluster; `None` where one is to be allocated.
    host: Option<u64>,
    clusters: u64,
}

impl Qcow2 {
    pub(super) async fn reserve_range(&self, start: u64, len: u64) -> Result<Reservation> {
        self.prepare_write().await?;
        let _with_others = self.with_others().await?;
        let hold = Some(self.limbo.hold());
        if let Some(targets) = self.in_place(start, start + len).await? {
            return Ok(Reservation { targets, token: None, hold });
        }
        let end = (start + len).min(self.slice_end(start));
        let (first, last) = (self.cluster_start(start), self.cluster_end(end));
        let guard = self.range_locks.lock(first, last).await;
        let l2 = self.ensure_l2(start).await?;
        // Whoever held the range may have done what we came for.
        if let Some(targets) = self.in_place(start, end).await? {
            return Ok(Reservation { targets, token: None, hold });
        }
        let (slice, position) = self.l2_slice(l2, start).await?;
        let mut run = slice.with(|bytes| self.plan_run(bytes, position, start, end))?;
        let mut reserved = Reserved::new(&self.limbo);
        // Encrypted zeroes are not zeroes.
        let padded = (run.start < start || run.end > end) && self.encryption.is_none();
        let (host, fresh, blank) = match run.host {
            Some(host) => {
                if self.data.is_none() {
                    let len = run.clusters << self.cluster_bits;
                    self.guard(host, len, OverlapChecks::empty()).await?;
                }
                (host, false, false)
            }
            None if self.data.is_some() => (first, true, false),
            None => {
                let (taken, blank) = self.allocate_data(run.clusters, padded).await?;
                if taken.count < run.clusters {
                    run.end = run.end.min(first + (taken.count << self.cluster_bits));
                }
                let host = taken.first << self.cluster_bits;
                reserved.releases.push_back(taken);
                (host, true, blank)
            }
        };
        let stop = end.min(run.end);
        let target = Target {
            start,
            len: stop - start,
            child: self.data_child(),
            offset: host + (start - first),
            before: start - run.start,
            after: run.end - stop,
            blank,
        };
        let change = Change::Standard { start: run.start, end: run.end, host, fresh };
        let _hold = self.limbo.hold();
        let pending = Pending { change, _guards: Vec::from([guard]), _hold, reserved };
        let mut targets = SmallVec::new();
        targets.push(target);
        Ok(Reservation { targets, token: Some(Token(Box::new(pending))), hold })
    }

    /// Targets for the part of `[start, end)`, from its beginning, that can be written where it
    /// is. `None` where that part is empty.
    async fn in_place(&self, start: u64, end: u64) -> Result<Option<SmallVec<[Target; 2]>>> {
        let end = end.min(self.slice_end(start));
        let l1_entry = self.l1_entry(start);
        if l1_entry & l::COPIED == 0 {
            return Ok(None);
        }
        let Some(l2) = self.l2_offset(l1_entry, start)? else { return Ok(None) };
        let (slice, position) = self.l2_slice(l2, start).await?;
        let targets = slice.with(|bytes| self.in_place_entries(bytes, position, start, end))?;
        if targets.is_empty() {
            return Ok(None);
        }
        if self.data.is_none() {
            for target in &targets {
                self.guard(target.offset, target.len, OverlapChecks::empty()).await?;
            }
        }
        Ok(Some(targets))
    }

    fn in_place_entries(
        &self,
        bytes: &[u8],
        mut position: usize,
        start: u64,
        end: u64,
    ) -> Result<SmallVec<[Target; 2]>> {
        let child = self.data_child();
        let mut targets: SmallVec<[Target; 2]> = SmallVec::new();
        let mut at = start;
        while at < end {
            let cluster = self.cluster_start(at);
            let next = end.min(cluster + self.cluster_size());
            let host = match self.entry(bytes, position, at)? {
                Entry::Standard { host, copied: true } => host,
                Entry::Subclusters { host: Some(host), copied: true, bitmap }
                    if bitmap.allocated & self.mask(at, next) == self.mask(at, next) =>
                {
                    host
                }
                _ => break,
            };
            let (len, offset) = (next - at, host + (at - cluster));
            match targets.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => {
                    let (before, after, blank) = (0, 0, false);
                    targets.push(Target { start: at, len, child, offset, before, after, blank });
                }
            }
            at = next;
            position += 1 << self.header.l2_entry_bits();
        }
        Ok(targets)
    }

    /// The clusters from `start` on that can be written by one reservation, which needs a commit.
    fn plan_run(&self, bytes: &[u8], position: usize, start: u64, end: u64) -> Result<Run> {
        let first = self.entry(bytes, position, start)?;
        let reuse = reusable(&first);
        let mut clusters = 0;
        let (mut at, mut position) = (start, position);
        let mut last = first;
        while at < end {
            let entry = self.entry(bytes, position, at)?;
            let same = match (reuse, reusable(&entry)) {
                (None, None) => !self.is_in_place(&entry, at, end),
                (Some(a), Some(b)) => a + (clusters << self.cluster_bits) == b,
                _ => false,
            };
            if !same {
                break;
            }
            last = entry;
            clusters += 1;
            at = self.cluster_start(at) + self.cluster_size();
            position += 1 << self.header.l2_entry_bits();
        }
        if clusters == 0 {
            return Err(Error::bug("an empty run of clusters").in_format("qcow2"));
        }
        let stop = at.min(end);
        Ok(Run {
            start: self.padded_start(&first, start),
            end: self.padded_end(&last, stop),
            host: reuse,
            clusters,
        })
    }

    fn is_in_place(&self, entry: &Entry, at: u64, end: u64) -> bool {
        match entry {
            Entry::Standard { copied, .. } => *copied,
            Entry::Subclusters { host: Some(_), copied: true, bitmap } => {
                let next = end.min(self.cluster_start(at) + self.cluster_size());
                bitmap.allocated & self.mask(at, next) == self.mask(at, next)
            }
            _ => false,
        }
    }

    /// Where the copied edge of a write beginning at `start` begins.
    fn padded_start(&self, entry: &Entry, start: u64) -> u64 {
        match self.edge(entry) {
            Edge::Cluster => self.cluster_start(start),
            Edge::Subcluster(allocated) => {
                let aligned = start - start % self.subcluster_size();
                let bit = self.mask(aligned, aligned + 1);
                if allocated & bit != 0 { start } else { aligned }
            }
        }
    }

    /// Where the copied edge of a write ending at `end` ends.
    fn padded_end(&self, entry: &Entry, end: u64) -> u64 {
        match self.edge(entry) {
            Edge::Cluster => self.cluster_end(end),
            Edge::Subcluster(allocated) => {
                let bit = self.mask(end - 1, end);
                if allocated & bit != 0 {
                    end
                } else {
                    end.next_multiple_of(self.subcluster_size())
                }
            }
        }
    }

    /// What must be copied around a partial write to a cluster.
    fn edge(&self, entry: &Entry) -> Edge {
        match entry {
            Entry::Unallocated if self.extended_l2 => Edge::Subcluster(0),
            // In a host cluster of its own, allocated subclusters stay where they are.
            Entry::Subclusters { host: Some(_), copied: true, bitmap } => {
                Edge::Subcluster(bitmap.allocated)
            }
            // A new host cluster: what was allocated must move, so all of it is copied.
            Entry::Subclusters { bitmap, .. } if bitmap.allocated == 0 => Edge::Subcluster(0),
            _ => Edge::Cluster,
        }
    }

    /// The subclusters of one cluster that `[from, to)` touches.
    pub(super) fn mask(&self, from: u64, to: u64) -> u32 {
        let cluster = self.cluster_start(from);
        let size = self.subcluster_size();
        // At most 32.
        let (a, b) = ((from - cluster) / size, (to - cluster).div_ceil(size));
        subcluster_mask(a as u32, b as u32)
    }

    pub(super) fn cluster_start(&self, guest: u64) -> u64 {
        guest & !(self.cluster_size() - 1)
    }

    pub(super) fn cluster_end(&self, guest: u64) -> u64 {
        guest.next_multiple_of(self.cluster_size())
    }

    /// The first guest offset past `guest` whose L2 entry lies in another cached slice.
    pub(super) fn slice_end(&self, guest: u64) -> u64 {
        let entries = (self.cache.slice_len() >> self.header.l2_entry_bits()) as u64;
        let span = entries << self.cluster_bits;
        (guest & !(span - 1)).saturating_add(span)
    }

    pub(super) async fn reserve_units(&self, units: &[(u64, u32)]) -> Result<Reservation> {
        self.prepare_write().await?;
        if self.data.is_some() {
            return Err(
                Error::unsupported("compressed clusters with a data file").in_format("qcow2")
            );
        }
        let _with_others = self.with_others().await?;
        let hold = Some(self.limbo.hold());
        let mut guards = Vec::new();
        for (start, _) in units {
            // Ascending, so that two callers cannot wait for each other.
            guards.push(self.range_locks.lock(*start, start + self.cluster_size()).await);
            self.ensure_l2(*start).await?;
        }
        let (offsets, reserved) = self.allocate_bytes(units.iter().map(|(_, len)| *len)).await?;
        let mut targets = SmallVec::new();
        let mut entries = Vec::new();
        for ((start, len), offset) in units.iter().zip(offsets) {
            targets.push(Target {
                start: *start,
                len: u64::from(*len),
                child: crate::format::Child::File,
                offset,
                before: 0,
                after: 0,
                blank: false,
            });
            entries.push((*start, Descriptor::emit(offset, *len, self.cluster_bits)));
        }
        let (change, _hold) = (Change::Compressed(entries), self.limbo.hold());
        let pending = Pending { change, _guards: guards, _hold, reserved };
        Ok(Reservation { targets, token: Some(Token(Box::new(pending))), hold })
    }

    pub(super) async fn commit_token(&self, token: Token) -> Result<()> {
        self.refuse_poisoned()?;
        let mut pending = token
            .0
            .downcast::<Pending>()
            .map_err(|_| Error::bug("a token of another driver").in_format("qcow2"))?;
        let Pending { change, reserved, .. } = &mut *pending;
        match change {
            Change::Standard { start, end, host, fresh } => {
                self.link_standard(*start, *end, *host, *fresh).await?;
                reserved.releases.clear();
            }
            Change::Compressed(entries) => {
                raise(&*self.file, DebugEvent::L2UpdateCompressed).await;
                for (start, entry) in entries {
                    self.link_compressed(*start, *entry).await?;
                    // One by one: this future may be dropped at the next.
                    reserved.releases.pop_front();
                }
            }
        }
        drop(pending);
        self.relieve_cache().await
    }

    async fn link_standard(&self, start: u64, end: u64, host: u64, fresh: bool) -> Result<()> {
        let l2 = self.own_l2(start).await?;
        let (slice, mut position) = self.l2_slice(l2, start).await?;
        let frees = self.cache.modify(&slice, |bytes| -> Result<Vec<Release>> {
            // All or nothing: what is linked must not be given back.
            let mut olds: SmallVec<[Entry; 4]> = SmallVec::new();
            let entry_len = 1usize << self.header.l2_entry_bits();
            for at in (self.cluster_start(start)..end).step_by(1 << self.cluster_bits) {
                olds.push(self.entry(bytes, position + olds.len() * entry_len, at)?);
            }
            let mut frees = Vec::new();
            let (mut at, mut host) = (start, host);
            for old in olds {
                let next = end.min(self.cluster_start(at) + self.cluster_size());
                put(bytes, position, host | l::COPIED);
                if self.extended_l2 {
                    let written = self.mask(at, next);
                    let bitmap = match old {
                        Entry::Subclusters { bitmap, .. } if !fresh || bitmap.allocated == 0 => {
                            Subclusters {
                                allocated: bitmap.allocated | written,
                                zero: bitmap.zero & !written,
                            }
                        }
                        _ => Subclusters { allocated: written, zero: 0 },
                    };
                    put(bytes, position + 8, bitmap.bits());
                }
                if fresh {
                    frees.extend(self.host_of(&old));
                }
                at = next;
                host += self.cluster_size();
                position += entry_len;
            }
            Ok(frees)
        })?;
        self.limbo.free_later(Why::Replaced, frees);
        Ok(())
    }

    async fn link_compressed(&self, start: u64, entry: u64) -> Result<()> {
        let l2 = self.own_l2(start).await?;
        let (slice, position) = self.l2_slice(l2, start).await?;
        let free = self.cache.modify(&slice, |bytes| -> Result<Option<Release>> {
            let old = self.entry(bytes, position, start)?;
            put(bytes, position, entry);
            if self.extended_l2 {
                put(bytes, position + 8, 0);
            }
            Ok(self.host_of(&old))
        })?;
        self.limbo.free_later(Why::Other, free);
        Ok(())
    }

    /// The host clusters that an entry has a reference on.
    pub(super) fn host_of(&self, entry: &Entry) -> Option<Release> {
        if self.data.is_some() {
            return None;
        }
        match entry {
            Entry::Standard { host, .. }
            | Entry::Zero { host: Some(host), .. }
            | Entry::Subclusters { host: Some(host), .. } => {
                Some(Release { first: host >> self.cluster_bits, count: 1 })
            }
            Entry::Compressed(d) => {
                let first = d.offset >> self.cluster_bits;
                let last = (d.offset + u64::from(d.len) - 1) >> self.cluster_bits;
                Some(Release { first, count: last - first + 1 })
            }
            _ => None,
        }
    }

    /// The host offset of the place that an entry's cluster has, which nobody counts as free when the
    /// entry becomes zero: one that it keeps, or one in a data file. Others' places are left alone.
    pub(super) fn own_place(&self, entry: &Entry, keep: bool) -> Option<u64> {
        match entry {
            Entry::Standard { host, copied }
            | Entry::Zero { host: Some(host), copied }
            | Entry::Subclusters { host: Some(host), copied, .. }
                if self.data.is_some() || (keep && *copied) =>
            {
                Some(*host)
            }
            _ => None,
        }
    }

    /// The offset of the L2 table for `guest`, which this image has to itself and is going to change.
    pub(super) async fn own_l2(&self, guest: u64) -> Result<u64> {
        let entry = self.l1_entry(guest);
        match self.l2_offset(entry, guest)? {
            Some(offset) if entry & l::COPIED != 0 => {
                self.guard_l2(offset).await?;
                Ok(offset)
            }
            _ => Err(Error::bug("the L2 table of a reservation is gone").in_format("qcow2")),
        }
    }

    /// The L2 table for `guest`, made or copied where this image has none to itself.
    pub(super) async fn ensure_l2(&self, guest: u64) -> Result<u64> {
        let _one_at_a_time = self.l2_lock.lock().await;
        let entry = self.l1_entry(guest);
        let old = self.l2_offset(entry, guest)?;
        if let Some(offset) = old
            && entry & l::COPIED != 0
        {
            return Ok(offset);
        }
        let taken = self.allocate(1).await?;
        let mut reserved = Reserved::new(&self.limbo);
        reserved.releases.push_back(taken);
        let new = taken.first << self.cluster_bits;
        match old {
            None => self.zero_table(new).await?,
            Some(old) => self.copy_table(old, new).await?,
        }
        let (index, _) = self.indices(guest);
        let index = usize::try_from(index)
            .map_err(|_| Error::bug("an L1 index past the table").in_format("qcow2"))?;
        {
            let mut l1 = self.l1.write();
            if !l1.set(index, new | l::COPIED) {
                return Err(Error::bug("an L1 index past the table").in_format("qcow2"));
            }
        }
        reserved.linked();
        if let Some(old) = old {
            let old = Release { first: old >> self.cluster_bits, count: 1 };
            self.limbo.free_later(Why::Other, [old]);
        }
        Ok(new)
    }

    async fn zero_table(&self, offset: u64) -> Result<()> {
        raise(&*self.file, DebugEvent::L2AllocWrite).await;
        self.cache.forget(offset, self.cluster_size());
        self.file.write_zeroes(offset, self.cluster_size(), ZeroFlags::empty()).await
    }

    /// Copies a table that a snapshot shares. Its clusters are shared too, so the copy has no copied
    /// bits, even where a damaged table has.
    async fn copy_table(&self, old: u64, new: u64) -> Result<()> {
        raise(&*self.file, DebugEvent::L2AllocCowRead).await;
        raise(&*self.file, DebugEvent::L2AllocWrite).await;
        self.cache.forget(new, self.cluster_size());
        for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
            let (from, _) = self.cache.get(old + at, Class::L2).await?;
            let mut copy = from.with(<[u8]>::to_vec);
            if self.data.is_none() {
                let entry_len = 1usize << self.header.l2_entry_bits();
                for position in (0..copy.len()).step_by(entry_len) {
                    let entry = be64(&copy, position) & !l::COPIED;
                    put(&mut copy, position, entry);
                }
            }
            self.cache.insert_zeroed(new + at, Class::L2);
            let (to, _) = self.cache.get(new + at, Class::L2).await?;
            self.cache.modify(&to, |bytes| bytes.copy_from_slice(&copy));
        }
        Ok(())
    }

    /// Writes metadata back when too much of it waits.
    pub(super) async fn relieve_cache(&self) -> Result<()> {
        if self.cache.is_crowded() { self.write_back(false).await } else { Ok(()) }
    }
}

/// What surrounds a partial write.
enum Edge {
    /// The rest of the cluster is copied.
    Cluster,
    /// The rest of the subcluster is copied, unless it is one of these.
    Subcluster(u32),
}

/// The host cluster that an entry reserves and this image has to itself, where writing there
/// still needs a change of the entry.
fn reusable(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::Zero { host: Some(host), copied: true }
        | Entry::Subclusters { host: Some(host), copied: true, .. } => Some(*host),
        _ => None,
    }
}

/// Writes a table entry.
pub(super) fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
