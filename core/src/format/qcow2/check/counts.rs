//! References, counted in memory that follows what is used.

use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

/// References are counted in pages of this many clusters.
pub(super) const PAGE: u64 = 1024;

/// Memory for reference counts; an image needs so much only if its clusters are scattered over
/// exabytes.
const MAX_BYTES: usize = 128 << 20;

/// A counter at its top: more references than can be counted.
pub(super) const SATURATED: u16 = u16::MAX;

/// How many references each host cluster has, by its index.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<u64, Box<[u16]>>);

impl Counts {
    /// The references of a cluster.
    pub(super) fn get(&self, cluster: u64) -> u16 {
        // Less than a page: fits.
        self.0.get(&(cluster / PAGE)).map_or(0, |page| page[(cluster % PAGE) as usize])
    }

    /// The references of the page of clusters that `cluster` is in; `None` where there are none.
    pub(super) fn page(&self, cluster: u64) -> Option<&[u16]> {
        self.0.get(&(cluster / PAGE)).map(|page| &**page)
    }

    /// Adds references, at most up to `max`; true where there would have been more than that.
    pub(super) fn add(&mut self, cluster: u64, times: u64, max: u16) -> Result<bool> {
        let page = self
            .0
            .entry(cluster / PAGE)
            .or_insert_with(|| alloc::vec![0; PAGE as usize].into_boxed_slice());
        let slot = &mut page[(cluster % PAGE) as usize];
        let sum = u64::from(*slot).saturating_add(times);
        *slot = u16::try_from(sum).unwrap_or(SATURATED).min(max);
        if self.0.len() * (PAGE as usize * size_of::<u16>()) > MAX_BYTES {
            return Err(Error::limit(
                "the image's clusters are scattered too widely to be counted in 128 MiB",
            )
            .in_format("qcow2"));
        }
        Ok(sum > max.into())
    }

    /// The highest cluster with a reference.
    pub(super) fn highest(&self) -> Option<u64> {
        self.0.iter().rev().find_map(|(page, counts)| {
            let last = counts.iter().rposition(|n| *n != 0)?;
            Some(page * PAGE + last as u64)
        })
    }

    /// The refcount blocks that clusters with references need, where one covers `per_block`.
    pub(super) fn blocks(&self, per_block: u64) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        for (page, counts) in &self.0 {
            for (i, _) in counts.iter().enumerate().filter(|(_, n)| **n != 0) {
                out.insert((page * PAGE + i as u64) / per_block);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stop_at_the_widest_count() {
        let mut counts = Counts::default();
        assert!(!counts.add(5, 1, 1).unwrap());
        assert!(counts.add(5, 1, 1).unwrap());
        assert_eq!((counts.get(5), counts.get(4), counts.get(5_000_000)), (1, 0, 0));
        counts.add(7 * PAGE, u64::MAX, SATURATED).unwrap();
        assert_eq!(counts.get(7 * PAGE), SATURATED);
        assert_eq!(counts.highest(), Some(7 * PAGE));
        assert_eq!(counts.blocks(PAGE), [0, 7].into());
    }
}
