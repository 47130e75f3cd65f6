//! Refcount structures made anew, from the references found.
//!
//! They go past everything that is in use or in the file, and beside what is referred to past its
//! end. They are durable there, and become the image's own with one write of 12 bytes to the header.
//! The old ones are counted as used until then, and given back like any leak afterwards.

use super::counts::SATURATED;
use super::{Check, Progress};
use crate::format::Repair;
use crate::format::qcow2::layout::{self as l, header};
use crate::format::qcow2::refcount;
use crate::{Error, Result};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use hashbrown::HashMap;

/// So often a place is looked for.
const TRIES: usize = 100;

impl Check<'_> {
    /// Rebuilds the refcounts, checks again, and gives back what the old structures took. Gives the
    /// highest cluster in use.
    pub(super) async fn rebuild(&mut self, progress: Progress<'_>) -> Result<u64> {
        self.note("Rebuilding refcount structure");
        let old = (self.report.corruptions, self.report.leaks);
        let old_fixed = (self.report.corruptions_fixed, self.report.leaks_fixed);
        self.write_refcounts().await?;
        (self.report.corruptions, self.report.leaks) = (0, 0);
        self.walk(progress).await?;
        let walked = self.report.corruptions;
        let highest = self.compare(Repair::All).await?;
        if self.report.corruptions > walked || self.rebuild {
            return Err(Error::corrupt("the rebuilt refcounts are not those of the image")
                .in_format("qcow2"));
        }
        let (corruptions, leaks) = (self.report.corruptions, self.report.leaks);
        self.report.corruptions_fixed = old_fixed.0 + old.0.saturating_sub(corruptions);
        self.report.leaks_fixed = old_fixed.1 + old.1.saturating_sub(leaks);
        Ok(highest)
    }

    /// Writes new blocks and a new table for the references found, and lets the header point to
    /// them.
    async fn write_refcounts(&mut self) -> Result<()> {
        let (per_block, order) = (self.refblock_entries(), self.header.refcount_order);
        let file_end = self.file.len().div_ceil(self.cluster_size());
        let start = file_end.max(self.counts.highest().map_or(0, |highest| highest + 1));
        let plan = self.plan_beside_what_is_beyond(start).await?;
        let (start, end) = (plan.start, plan.end());
        let blocks_at = start + plan.table_clusters;
        let entries = (plan.table_clusters << self.header.cluster_bits) / 8;
        // At most 1 Mi entries.
        let mut table = alloc::vec![0u64; usize::try_from(entries).unwrap_or(0)];
        for (i, index) in plan.blocks.iter().enumerate() {
            let mut bytes = alloc::vec![0; 1 << self.header.cluster_bits];
            let first = index * per_block;
            for (own, cluster) in (first..first + per_block).enumerate() {
                let new = u16::from((start..end).contains(&cluster));
                let count = self.counts.get(cluster) + new;
                if count == SATURATED && order > 4 {
                    return Err(Error::limit("more references to a cluster than can be counted")
                        .in_format("qcow2")
                        .at(cluster << self.header.cluster_bits));
                }
                if count != 0 {
                    refcount::set(&mut bytes, own, order, count.into());
                }
            }
            let offset = (blocks_at + i as u64) << self.header.cluster_bits;
            self.write(offset, bytes).await?;
            if let Some(entry) = usize::try_from(*index).ok().and_then(|i| table.get_mut(i)) {
                *entry = offset;
            }
        }
        let offset = start << self.header.cluster_bits;
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.write(offset, bytes).await?;
        self.flush().await?;
        let clusters = u32::try_from(plan.table_clusters).unwrap_or(u32::MAX);
        let mut field = offset.to_be_bytes().to_vec();
        field.extend_from_slice(&clusters.to_be_bytes());
        self.write(header::REFTABLE_OFFSET as u64, field).await?;
        self.flush().await?;
        (self.header.reftable_offset, self.header.reftable_clusters) = (offset, clusters);
        self.blocks = HashMap::new();
        Ok(())
    }

    /// What is to be written, from cluster `start` on or behind what is referred to there. That lies in
    /// the file afterwards, and counts.
    async fn plan_beside_what_is_beyond(&mut self, start: u64) -> Result<Plan> {
        let (mut start, mut clusters) = (start, 0);
        for _ in 0..TRIES {
            let plan = self.plan(start)?;
            clusters = clusters.max(plan.end() - start);
            let gap = self.beyond.gap(start, clusters)?;
            if gap != start {
                start = gap;
                continue;
            }
            // What ends less than a cluster past the end counts as well.
            if !self.beyond.begins_before(plan.end() + 1) {
                return Ok(plan);
            }
            let len = plan.end() << self.header.cluster_bits;
            self.counts = self.survey(self.header.clone(), Some(len)).await?.counts;
            let again = self.plan(start)?;
            if again.end() == plan.end() {
                return Ok(again);
            }
        }
        Err(Error::limit(
            "no place was found for refcounts between what is referred to past the end of the \
             file; convert the image",
        )
        .in_format("qcow2")
        .at(start << self.header.cluster_bits))
    }

    /// What is to be written from cluster `start` on.
    fn plan(&self, start: u64) -> Result<Plan> {
        let per_block = self.refblock_entries();
        let used = self.counts.blocks(per_block);
        let mut plan = Plan { start, table_clusters: 1, blocks: used.clone() };
        loop {
            let mut blocks = used.clone();
            blocks.extend(start / per_block..=(plan.end() - 1) / per_block);
            let entries = blocks.last().map_or(1, |last| last + 1);
            let clusters = (entries * 8).div_ceil(self.cluster_size());
            if clusters << self.header.cluster_bits > l::limits::MAX_REFTABLE_BYTES {
                return Err(Error::limit(
                    "the file is too long for a refcount table of 8 MiB, which its refcounts need \
                     to be rebuilt; shorten it to what is in use, or convert the image",
                )
                .in_format("qcow2")
                .at(start << self.header.cluster_bits));
            }
            if blocks.len() == plan.blocks.len() && clusters == plan.table_clusters {
                return Ok(plan);
            }
            // Both only grow, up to the limit above.
            plan = Plan { start, table_clusters: clusters.max(plan.table_clusters), blocks };
        }
    }
}

/// New refcount structures: the table, and the blocks behind it.
struct Plan {
    /// The table's first cluster.
    start: u64,
    table_clusters: u64,
    /// The entries of the table that have a block.
    blocks: BTreeSet<u64>,
}

impl Plan {
    /// The first cluster behind it all.
    fn end(&self) -> u64 {
        self.start + self.table_clusters + self.blocks.len() as u64
    }
}

const _: () = assert!(header::REFTABLE_CLUSTERS == header::REFTABLE_OFFSET + 8);
