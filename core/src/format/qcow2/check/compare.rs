//! References against refcounts.

use super::Check;
use super::counts::{PAGE, SATURATED};
use crate::Result;
use crate::format::qcow2::refcount;
use crate::format::{FindingKind, Remedy, Repair};
use alloc::collections::BTreeSet;
use alloc::format;

impl Check<'_> {
    /// Compares refcounts and references of all clusters of the file, and corrects what `repair`
    /// allows. Gives the highest cluster in use.
    pub(super) async fn compare(&mut self, repair: Repair) -> Result<u64> {
        let per_block = self.refblock_entries();
        let end = self.file.len().div_ceil(self.cluster_size());
        // Blocks that there are, and blocks that there should be.
        let mut indices: BTreeSet<u64> = self.counts.blocks(per_block);
        let stated = self.reftable.iter().enumerate().filter(|(_, entry)| **entry != 0);
        indices.extend(stated.map(|(index, _)| index as u64));
        let mut highest = 0;
        for index in indices {
            let first = index.saturating_mul(per_block);
            let limit = end.max(self.counts.highest().map_or(0, |h| h + 1));
            if first >= limit {
                break;
            }
            self.load_refblock(index).await?;
            let mut block = self.blocks.remove(&index);
            let (mut at, mut changed) = (first, false);
            let stop = first.saturating_add(per_block).min(limit);
            while at < stop {
                let next = (at - at % PAGE + PAGE).min(stop);
                changed |= self.compare_page(block.as_deref_mut(), at, next, repair, &mut highest);
                at = next;
            }
            if let (Some(block), Some(offset)) = (block, self.refblock(index)) {
                if changed {
                    self.write(offset, block.clone()).await?;
                }
                self.blocks.insert(index, block);
            }
        }
        self.flush().await?;
        Ok(highest)
    }

    /// Compares the clusters `[start, end)` of one page of counts and of one block. True where it
    /// changed the block.
    fn compare_page(
        &mut self,
        mut block: Option<&mut [u8]>,
        start: u64,
        end: u64,
        repair: Repair,
        highest: &mut u64,
    ) -> bool {
        let order = self.header.refcount_order;
        // Within a block, which is in memory.
        let index = (start % self.refblock_entries()) as usize;
        let len = (end - start) as usize;
        let bytes = (index << order) / 8..((index + len) << order).div_ceil(8);
        let unused = block.as_deref().is_none_or(|block| crate::io::is_zero(&block[bytes]));
        if unused && self.counts.page(start).is_none() {
            return false;
        }
        let mut changed = false;
        for (i, cluster) in (start..end).enumerate() {
            let stated = block.as_deref().map_or(0, |b| refcount::get(b, index + i, order));
            let found = self.counts.get(cluster);
            if stated == 0 && found == 0 {
                continue;
            }
            let differs = stated != u64::from(found) || found == SATURATED;
            let fixes = differs && self.judge(cluster, stated, found, block.is_some(), repair);
            if let (true, Some(block)) = (fixes, block.as_deref_mut()) {
                refcount::set(block, index + i, order, found.into());
                changed = true;
            }
            if found != 0 || !fixes {
                *highest = cluster;
            }
        }
        changed
    }

    /// Tells of one cluster whose counts differ; true where the refcount is to become `found`.
    fn judge(
        &mut self,
        cluster: u64,
        stated: u64,
        found: u16,
        has_block: bool,
        repair: Repair,
    ) -> bool {
        let at = cluster << self.header.cluster_bits;
        if self.quiet.iter().any(|range| range.contains(&cluster)) {
            self.rebuild |= !has_block;
            return repair != Repair::Nothing;
        }
        if found == SATURATED && self.max_count() == SATURATED {
            // All that is known is that there are at least so many.
            if stated < u64::from(found) || self.header.refcount_order > 4 {
                let what = format!("ERROR cluster {cluster}: too many references to count");
                self.found(FindingKind::Error, 1, at, what, Remedy::None);
            }
            return false;
        }
        let (kind, remedy, needs) = if stated > u64::from(found) {
            (FindingKind::Leak, Remedy::LowerRefcount, Repair::Leaks)
        } else {
            self.rebuild |= stated == 0;
            (FindingKind::Corruption, Remedy::RaiseRefcount, Repair::All)
        };
        let keeps = self.keep_leaks && kind == FindingKind::Leak;
        if repair >= needs && !keeps && has_block {
            let what = format!("Repairing cluster {cluster} refcount={stated} reference={found}");
            self.fixed(kind, at, what, remedy);
            return true;
        }
        let word = if kind == FindingKind::Leak { "Leaked" } else { "ERROR" };
        let what = format!("{word} cluster {cluster} refcount={stated} reference={found}");
        let remedy = match (keeps, stated) {
            (true, _) => Remedy::None,
            (false, 0) => Remedy::RebuildRefcounts,
            (false, _) => remedy,
        };
        self.found(kind, 1, at, what, remedy);
        false
    }
}
