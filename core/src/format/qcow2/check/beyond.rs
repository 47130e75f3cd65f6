//! What is referred to past the end of the file.
//!
//! It reads as zeroes, or not at all. A repair that puts its own structures past the end leaves
//! these places alone: the disk would show them.

use crate::{Error, Result};
use alloc::collections::BTreeMap;

/// Places are remembered so many clusters past the end of the file.
const WINDOW: u64 = 1 << 18;

/// Clusters past the end of the file that something refers to.
#[derive(Clone, Debug, Default)]
pub(super) struct Beyond {
    /// The runs of them: where each begins, and the first cluster behind it.
    runs: BTreeMap<u64, u64>,
    /// The first cluster that is not remembered, where one is referred to.
    forgotten: Option<u64>,
}

impl Beyond {
    /// Remembers the clusters `from..to` of a file whose first cluster past the end is `end`.
    pub(super) fn add(&mut self, from: u64, to: u64, end: u64) {
        let limit = end.saturating_add(WINDOW);
        if to > limit {
            self.forgotten = Some(limit);
        }
        let (mut from, mut to) = (from.max(end), to.min(limit));
        if from >= to {
            return;
        }
        while let Some((&start, &stop)) = self.runs.range(..=to).next_back()
            && stop >= from
        {
            (from, to) = (from.min(start), to.max(stop));
            self.runs.remove(&start);
        }
        self.runs.insert(from, to);
    }

    /// True where something before the cluster `end` is referred to.
    pub(super) fn begins_before(&self, end: u64) -> bool {
        let near = self.runs.keys().next().copied();
        near.or(self.forgotten).is_some_and(|first| first < end)
    }

    /// The first place from cluster `start` on for so many clusters that nothing refers to.
    ///
    /// # Errors
    /// `Limit` where none is known.
    pub(super) fn gap(&self, start: u64, clusters: u64) -> Result<u64> {
        let mut at = start;
        for (from, to) in &self.runs {
            if at.saturating_add(clusters) <= *from {
                break;
            }
            at = at.max(*to);
        }
        match self.forgotten {
            Some(limit) if at.saturating_add(clusters) > limit => Err(Error::limit(
                "too much is referred to past the end of the file for a repair to write there; \
                 convert the image",
            )
            .in_format("qcow2")),
            _ => Ok(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_between_what_is_referred_to() {
        let mut beyond = Beyond::default();
        assert_eq!(beyond.gap(10, 5).unwrap(), 10);
        assert!(!beyond.begins_before(u64::MAX));
        for (from, to) in [(12, 14), (20, 21), (8, 11), (14, 15), (13, 16)] {
            beyond.add(from, to, 10);
        }
        assert_eq!(beyond.runs, [(10, 11), (12, 16), (20, 21)].into());
        assert_eq!((beyond.gap(10, 1).unwrap(), beyond.gap(10, 4).unwrap()), (11, 16));
        assert_eq!((beyond.gap(10, 5).unwrap(), beyond.gap(30, 5).unwrap()), (21, 30));
        assert!(beyond.begins_before(11) && !beyond.begins_before(10));
        beyond.add(1 << 40, (1 << 40) + 1, 10);
        assert_eq!(beyond.gap(10, 5).unwrap(), 21);
        assert!(beyond.gap(10, WINDOW).is_err());
    }
}
