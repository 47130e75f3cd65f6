//! What the file below is told to give up.
//!
//! A host range is given up only when the change that made it useless is durable and every operation
//! that could touch it has settled (`claims`), and before anybody else can take it: under the
//! allocation lock, while its count says that it is in use. It is a hint: where the file cannot, or
//! fails, nothing is lost.

use super::Qcow2;
use super::claims::{Release, Why};
use super::map::Entry;
use super::refcount;
use crate::Result;
use crate::format::OpenOptions;
use crate::io::{Device, ZeroFlags};
use alloc::vec::Vec;
use core::ops::Range;

/// What becomes of space that is not needed any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discards {
    /// The space of what the guest gives up is given up.
    pub(super) request: bool,
    snapshot: bool,
    other: bool,
    /// What the guest gives up keeps its place.
    pub(super) no_unref: bool,
}

impl Discards {
    pub(super) fn new(options: &OpenOptions) -> Self {
        let wanted = options.qcow2.discard;
        Self {
            request: wanted.pass_request.unwrap_or(options.discard),
            snapshot: wanted.pass_snapshot.unwrap_or(true),
            other: wanted.pass_other.unwrap_or(false),
            no_unref: wanted.no_unref,
        }
    }

    fn passes(self, why: Why) -> bool {
        match why {
            Why::Replaced => false,
            Why::Request | Why::Kept { .. } => self.request,
            Why::Snapshot => self.snapshot,
            Why::Shrunk => true,
            Why::Other => self.other,
        }
    }
}

/// Runs of clusters that keep their place and hold nothing any more: guest offset and host clusters.
#[derive(Debug, Default)]
pub(super) struct Hollow(Vec<(u64, Release)>);

impl Hollow {
    /// Adds the cluster at `host` that stood for the guest offset `guest`.
    pub(super) fn push(&mut self, guest: u64, host: u64, cluster_bits: u32) {
        let first = host >> cluster_bits;
        match self.0.last_mut() {
            Some((start, run))
                if run.first + run.count == first
                    && *start + (run.count << cluster_bits) == guest =>
            {
                run.count += 1;
            }
            _ => self.0.push((guest, Release { first, count: 1 })),
        }
    }
}

/// Joins neighbours.
pub(super) fn joined(releases: Vec<Release>) -> Vec<Release> {
    let mut out = Vec::new();
    releases.into_iter().for_each(|run| run.join_onto(&mut out));
    out
}

impl Qcow2 {
    /// What `hollow` holds is given up, once the change that made it so is durable.
    pub(super) fn hollow_out_later(&self, hollow: Hollow) {
        if !self.discards.request {
            return;
        }
        for (guest, run) in hollow.0 {
            self.limbo.free_later(Why::Kept { guest }, [run]);
        }
    }

    /// Gives up the space of those of a run of clusters that are about to lose their last reference,
    /// as far as one slice of a refcount block describes them. The caller holds the allocation lock.
    pub(super) async fn give_up_unused(&self, why: Why, run: Release) -> Result<()> {
        if !self.discards.passes(why) {
            return Ok(());
        }
        let (slice, index) = self.refcount_slice(run.first).await?;
        let order = self.refcount_order;
        let unused = slice.with(|bytes| {
            let mut unused: Vec<Range<u64>> = Vec::new();
            let len = refcount::entries(bytes.len(), order);
            let most = usize::try_from(run.count).unwrap_or(usize::MAX).min(len - index);
            for (cluster, i) in (run.first..).zip(index..index + most) {
                if refcount::get(bytes, i, order) != 1 {
                    continue;
                }
                match unused.last_mut() {
                    Some(last) if last.end == cluster => last.end += 1,
                    _ => unused.push(cluster..cluster + 1),
                }
            }
            unused
        });
        for part in unused {
            // A damaged table may lead to what the image stands on.
            let clusters = Release { first: part.start, count: part.end - part.start };
            if !self.is_guarded(clusters) {
                self.give_up(&self.file, part).await;
            }
        }
        Ok(())
    }

    /// Gives up what a run of clusters held for the guest clusters from `guest` on, unless something
    /// else has been made of them meanwhile. The caller holds the allocation lock.
    pub(super) async fn give_up_hollow(&self, guest: u64, run: Release) {
        let end = guest + (run.count << self.cluster_bits);
        // Whoever has the range is about to use the clusters.
        let Some(_guard) = self.range_locks.try_lock(guest, end) else { return };
        if self.data.is_none() && self.is_guarded(run) {
            return;
        }
        let mut hollow: Vec<Release> = Vec::new();
        for (i, cluster) in (run.first..run.first + run.count).enumerate() {
            let at = guest + ((i as u64) << self.cluster_bits);
            if matches!(self.is_hollow(at, cluster).await, Ok(true)) {
                hollow.push(Release { first: cluster, count: 1 });
            }
        }
        let device = self.data.as_ref().unwrap_or(&self.file);
        for part in joined(hollow) {
            self.give_up(device, part.first..part.first + part.count).await;
        }
    }

    /// True where a host cluster is reserved for the guest cluster at `guest`, for nobody else, and
    /// holds nothing of it.
    async fn is_hollow(&self, guest: u64, cluster: u64) -> Result<bool> {
        let wanted = cluster << self.cluster_bits;
        let entry = match self.l2_offset(self.l1_entry(guest), guest)? {
            None => Entry::Unallocated,
            Some(l2) => {
                let (slice, position) = self.l2_slice(l2, guest).await?;
                slice.with(|bytes| self.entry(bytes, position, guest))?
            }
        };
        let (place, copied) = match entry {
            Entry::Unallocated => (None, false),
            Entry::Zero { host, copied } => (host, copied),
            Entry::Subclusters { host, copied, bitmap } if bitmap.allocated == 0 => (host, copied),
            _ => return Ok(false),
        };
        Ok(match place {
            // The place in a data file is always the same, and nobody else's.
            None => self.data.is_some(),
            Some(host) if self.data.is_some() => host == wanted,
            Some(host) => host == wanted && copied && self.refcount_of(cluster).await? == 1,
        })
    }

    async fn give_up(&self, device: &Device, clusters: Range<u64>) {
        let start = clusters.start << self.cluster_bits;
        let end = (clusters.end << self.cluster_bits).min(device.len());
        if start < end {
            // A hint.
            let _ = device.discard(start, end - start).await;
        }
    }

    /// A discard of whole clusters of an image whose data file is a disk of its own. True where the
    /// file reads as zeroes there, durably: the tables may say so as well. That is where the file can
    /// do it without writing them.
    pub(super) async fn discard_raw(&self, start: u64, end: u64) -> Result<bool> {
        let Some(data) = &self.data else { return Ok(false) };
        let end = end.min(data.len());
        if !self.discards.request || self.encryption.is_some() || start >= end {
            return Ok(false);
        }
        let flags = ZeroFlags::MAY_UNMAP | ZeroFlags::NO_FALLBACK;
        if data.write_zeroes(start, end - start, flags).await.is_err() {
            return Ok(false);
        }
        data.flush().await?;
        Ok(true)
    }
}
