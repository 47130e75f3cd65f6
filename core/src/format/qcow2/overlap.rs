//! Overlap checks: nothing is written over metadata of another kind, whatever the refcounts and the
//! tables of a damaged image say.
//!
//! What is guarded is looked up in memory: the places of the tables that there is one of, and the
//! clusters that the L1 table, the refcount table and the snapshots lead to. A look costs the same
//! for every size of the image.

use super::claims::Release;
use super::layout as l;
use super::options::{OverlapCheckMode, OverlapChecks};
use super::{Qcow2, snapshot::Snapshot};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hashbrown::{HashMap, HashSet};

/// Tables of snapshots are read in steps of so many bytes.
const STEP: u64 = 1 << 20;

/// The clusters that the entries of a table lead to, and how many entries lead to each.
#[derive(Debug, Default)]
pub(super) struct Leads {
    clusters: HashMap<u64, u32>,
    cluster_bits: u32,
}

impl Leads {
    /// Of a table whose entries are offsets under `mask`.
    pub(super) fn new(entries: &[u64], mask: u64, cluster_bits: u32) -> Self {
        let mut leads = Self { clusters: HashMap::new(), cluster_bits };
        entries.iter().for_each(|entry| leads.add(entry & mask));
        leads
    }

    fn add(&mut self, offset: u64) {
        if offset != 0 {
            *self.clusters.entry(offset >> self.cluster_bits).or_insert(0) += 1;
        }
    }

    /// An entry leads to `new` from now on, and not to `old`.
    pub(super) fn change(&mut self, old: u64, new: u64) {
        let cluster = old >> self.cluster_bits;
        if old != 0
            && let Some(count) = self.clusters.get_mut(&cluster)
        {
            *count -= 1;
            if *count == 0 {
                self.clusters.remove(&cluster);
            }
        }
        self.add(new);
    }

    fn has_any(&self, run: Release) -> bool {
        let range = run.first..run.first.saturating_add(run.count);
        match run.count > self.clusters.len() as u64 {
            true => self.clusters.keys().any(|cluster| range.contains(cluster)),
            false => range.into_iter().any(|cluster| self.clusters.contains_key(&cluster)),
        }
    }
}

/// The L1 tables of snapshots: clusters from and to, by the end; none overlaps another.
#[derive(Clone, Debug, Default)]
pub(super) struct InactiveTables(BTreeMap<u64, u64>);

impl InactiveTables {
    pub(super) fn new(list: &[Snapshot], cluster_bits: u32) -> Self {
        let mut runs: Vec<(u64, u64)> = list
            .iter()
            .filter(|snapshot| snapshot.l1_size > 0)
            .map(|snapshot| {
                let first = snapshot.l1_offset >> cluster_bits;
                let len = u64::from(snapshot.l1_size) * 8;
                (first, first + len.div_ceil(1 << cluster_bits))
            })
            .collect();
        runs.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, end) in runs {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        Self(merged.into_iter().map(|(first, end)| (end, first)).collect())
    }

    fn has_any(&self, run: Release) -> bool {
        let next = self.0.range(run.first + 1..).next();
        next.is_some_and(|(_, first)| *first < run.first + run.count)
    }
}

/// What is guarded, and what had to be read for it.
#[derive(Debug)]
pub(super) struct Guard {
    checks: OverlapChecks,
    inactive_l2: Mutex<InactiveL2>,
}

/// The L2 tables of snapshots.
#[derive(Debug, Default)]
struct InactiveL2 {
    /// How often the list of snapshots has changed.
    generation: u64,
    /// Their clusters, once they are known.
    clusters: Option<Arc<HashSet<u64>>>,
}

impl Guard {
    pub(super) fn new(checks: OverlapChecks) -> Self {
        Self { checks, inactive_l2: Mutex::default() }
    }

    /// There are other snapshots now.
    pub(super) fn snapshots_changed(&self) {
        let mut known = self.inactive_l2.lock();
        *known = InactiveL2 { generation: known.generation + 1, clusters: None };
    }
}

impl Qcow2 {
    /// Refuses to write `len` bytes at `offset` of the image file where guarded metadata of another
    /// kind than `own` lies. The image is marked corrupt then.
    pub(super) async fn guard(&self, offset: u64, len: u64, own: OverlapChecks) -> Result<()> {
        self.guard_by(self.guard.checks - own, offset, len).await
    }

    /// The same for clusters that count as free, which are going to be used: whatever is guarded
    /// otherwise, they are not in use as a table that is known.
    pub(super) async fn guard_free(&self, run: Release) -> Result<()> {
        let checks = self.guard.checks | OverlapCheckMode::Cached.into();
        let (offset, len) = (run.first << self.cluster_bits, run.count << self.cluster_bits);
        self.guard_by(checks, offset, len).await
    }

    /// Whether a run of clusters lies on metadata, as far as the mode `cached` looks for it.
    pub(super) fn is_guarded(&self, run: Release) -> bool {
        self.overlap(run, OverlapCheckMode::Cached.into()).is_some()
    }

    /// Refuses to change an L2 table that lies on other metadata.
    pub(super) async fn guard_l2(&self, offset: u64) -> Result<()> {
        let own = OverlapChecks::ACTIVE_L2 | OverlapChecks::INACTIVE_L2;
        self.guard(offset, self.cluster_size(), own).await
    }

    async fn guard_by(&self, checks: OverlapChecks, offset: u64, len: u64) -> Result<()> {
        if len == 0 || checks.is_empty() {
            return Ok(());
        }
        let first = offset >> self.cluster_bits;
        let last = offset.saturating_add(len - 1) >> self.cluster_bits;
        let run = Release { first, count: last - first + 1 };
        let mut found = self.overlap(run, checks);
        if found.is_none()
            && checks.contains(OverlapChecks::INACTIVE_L2)
            && !self.snapshots.read().list.is_empty()
        {
            let tables = self.inactive_l2().await?;
            if (run.first..run.first + run.count).any(|cluster| tables.contains(&cluster)) {
                found = Some("inactive L2 table");
            }
        }
        let Some(what) = found else { return Ok(()) };
        let msg = format!("Preventing invalid write on metadata (overlaps with {what})");
        self.mark_corrupt(msg.clone(), Some(offset), Some(len), true).await;
        Err(Error::corrupt(msg).in_format("qcow2").at(offset))
    }

    /// What of `checks`, as far as it is known without reading, lies in a run of clusters.
    fn overlap(&self, run: Release, checks: OverlapChecks) -> Option<&'static str> {
        let end = run.first + run.count;
        let covers = |at: u64, len: u64| {
            let last = at.saturating_add(len) >> self.cluster_bits;
            let past = at.saturating_add(len) & (self.cluster_size() - 1) != 0;
            len > 0 && at >> self.cluster_bits < end && run.first < last + u64::from(past)
        };
        if checks.contains(OverlapChecks::MAIN_HEADER) && run.first == 0 {
            return Some("qcow2_header");
        }
        if checks.intersects(OverlapChecks::ACTIVE_L1 | OverlapChecks::ACTIVE_L2) {
            let l1 = self.l1.read();
            if checks.contains(OverlapChecks::ACTIVE_L1)
                && covers(l1.offset, 8 * l1.entries.len() as u64)
            {
                return Some("active L1 table");
            }
            if checks.contains(OverlapChecks::ACTIVE_L2) && l1.leads.has_any(run) {
                return Some("active L2 table");
            }
        }
        if checks.contains(OverlapChecks::REFCOUNT_TABLE) {
            let (offset, clusters) = *self.reftable_place.lock();
            if covers(offset, u64::from(clusters) << self.cluster_bits) {
                return Some("refcount table");
            }
        }
        if checks.contains(OverlapChecks::REFCOUNT_BLOCK) && self.reftable.lock().leads.has_any(run)
        {
            return Some("refcount block");
        }
        if checks.intersects(OverlapChecks::SNAPSHOT_TABLE | OverlapChecks::INACTIVE_L1) {
            let snapshots = self.snapshots.read();
            let (offset, len) = snapshots.place;
            if checks.contains(OverlapChecks::SNAPSHOT_TABLE) && covers(offset, len) {
                return Some("snapshot table");
            }
            if checks.contains(OverlapChecks::INACTIVE_L1) && snapshots.tables.has_any(run) {
                return Some("inactive L1 table");
            }
        }
        if checks.contains(OverlapChecks::BITMAP_DIRECTORY)
            && let Some(directory) = self.bitmap_directory()
            && covers(directory.directory_offset, directory.directory_size)
        {
            return Some("bitmap directory");
        }
        None
    }

    /// The clusters of all L2 tables of snapshots. Every byte of their L1 tables is read once,
    /// however many snapshots say that it is theirs.
    pub(super) async fn inactive_l2(&self) -> Result<Arc<HashSet<u64>>> {
        let generation = {
            let known = self.guard.inactive_l2.lock();
            if let Some(clusters) = &known.clusters {
                return Ok(clusters.clone());
            }
            known.generation
        };
        let runs = self.snapshots.read().tables.0.clone();
        let file_clusters = self.file.len().div_ceil(self.cluster_size());
        let mut found = HashSet::new();
        for (end, first) in runs {
            let end = (end << self.cluster_bits).min(self.file.len());
            for at in (first << self.cluster_bits..end).step_by(STEP as usize) {
                let bytes = self.file.read(at, STEP.min(end - at)).await?.to_bytes();
                found.extend(
                    bytes
                        .chunks_exact(8)
                        .map(|entry| (l::be64(entry, 0) & l::OFFSET_MASK) >> self.cluster_bits)
                        .filter(|cluster| (1..file_clusters).contains(cluster)),
                );
            }
        }
        let found = Arc::new(found);
        let mut known = self.guard.inactive_l2.lock();
        if known.generation == generation {
            known.clusters = Some(found.clone());
        }
        drop(known);
        Ok(found)
    }
}
