//! What can be said when an image is opened, and that the image itself does not say: the schema's
//! `BlockdevOptionsQcow2`.

use super::header::Header;
use super::layout::{self as l, Incompatible};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use core::str::FromStr;
use core::time::Duration;

/// How an image is used while it is open (`BlockdevOptionsQcow2`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// What is guarded against being written over (`overlap-check`).
    pub overlap_check: OverlapChecks,
    /// What is wrong with what was said of that. It is told where nothing is wrong with the sizes,
    /// which the header has to be read for.
    pub overlap_mistake: Option<String>,
    /// Memory for tables.
    pub cache: CacheOptions,
    /// What becomes of space that is not needed any more.
    pub discard: DiscardOptions,
}

/// What becomes of the space of clusters that are not needed any more. Where it is passed on, the
/// file below is told that it may give it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscardOptions {
    /// After discards of the guest, and zeroes that may give up space (`pass-discard-request`); as
    /// the image takes discards at all where it is `None`.
    pub pass_request: Option<bool>,
    /// After snapshots were removed or applied (`pass-discard-snapshot`): yes where it is `None`.
    pub pass_snapshot: Option<bool>,
    /// After everything else (`pass-discard-other`): no where it is `None`.
    pub pass_other: Option<bool>,
    /// Clusters that the guest has no use for keep their place in the image
    /// (`discard-no-unref`).
    pub no_unref: bool,
}

/// A named set of [`OverlapChecks`] (`Qcow2OverlapCheckMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverlapCheckMode {
    /// Nothing.
    None,
    /// What has a fixed place: header, active L1 table, refcount table, snapshot table, bitmap
    /// directory.
    Constant,
    /// Everything that is known without reading: the same, active L2 tables, refcount blocks and
    /// inactive L1 tables.
    #[default]
    Cached,
    /// Everything, inactive L2 tables too: each write reads the L1 tables of all snapshots.
    All,
}

impl FromStr for OverlapCheckMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "constant" => Ok(Self::Constant),
            "cached" => Ok(Self::Cached),
            "all" => Ok(Self::All),
            _ => Err(Error::invalid(format!(
                "Unsupported value '{text}' for qcow2 option 'overlap-check'. Allowed are any of \
                 the following: none, constant, cached, all"
            ))),
        }
    }
}

bitflags::bitflags! {
    /// The structures that are guarded against being written over (`Qcow2OverlapCheckFlags`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OverlapChecks: u16 {
        /// The header's cluster.
        const MAIN_HEADER = 1;
        /// The active L1 table.
        const ACTIVE_L1 = 1 << 1;
        /// The L2 tables that it leads to.
        const ACTIVE_L2 = 1 << 2;
        /// The refcount table.
        const REFCOUNT_TABLE = 1 << 3;
        /// The refcount blocks that it leads to.
        const REFCOUNT_BLOCK = 1 << 4;
        /// The snapshot table.
        const SNAPSHOT_TABLE = 1 << 5;
        /// The L1 tables of snapshots.
        const INACTIVE_L1 = 1 << 6;
        /// The L2 tables that these lead to.
        const INACTIVE_L2 = 1 << 7;
        /// The bitmap directory.
        const BITMAP_DIRECTORY = 1 << 8;
    }
}

impl OverlapChecks {
    /// Each flag with its name in the schema.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("main-header", Self::MAIN_HEADER),
        ("active-l1", Self::ACTIVE_L1),
        ("active-l2", Self::ACTIVE_L2),
        ("refcount-table", Self::REFCOUNT_TABLE),
        ("refcount-block", Self::REFCOUNT_BLOCK),
        ("snapshot-table", Self::SNAPSHOT_TABLE),
        ("inactive-l1", Self::INACTIVE_L1),
        ("inactive-l2", Self::INACTIVE_L2),
        ("bitmap-directory", Self::BITMAP_DIRECTORY),
    ];
}

impl From<OverlapCheckMode> for OverlapChecks {
    fn from(mode: OverlapCheckMode) -> Self {
        let constant = Self::MAIN_HEADER
            | Self::ACTIVE_L1
            | Self::REFCOUNT_TABLE
            | Self::SNAPSHOT_TABLE
            | Self::BITMAP_DIRECTORY;
        let cached = constant | Self::ACTIVE_L2 | Self::REFCOUNT_BLOCK | Self::INACTIVE_L1;
        match mode {
            OverlapCheckMode::None => Self::empty(),
            OverlapCheckMode::Constant => constant,
            OverlapCheckMode::Cached => cached,
            OverlapCheckMode::All => cached | Self::INACTIVE_L2,
        }
    }
}

impl Default for OverlapChecks {
    fn default() -> Self {
        OverlapCheckMode::default().into()
    }
}

/// Memory for L2 tables and refcount blocks, as it is asked for. Sizes are in bytes; what is `None`
/// follows from the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheOptions {
    /// Both together (`cache-size`).
    pub size: Option<u64>,
    /// L2 tables (`l2-cache-size`).
    pub l2_size: Option<u64>,
    /// How much of an L2 table is read at a time (`l2-cache-entry-size`).
    pub l2_entry_size: Option<u64>,
    /// Refcount blocks (`refcount-cache-size`).
    pub refcount_size: Option<u64>,
    /// Entries that nobody has used for so many seconds are dropped (`cache-clean-interval`); 0:
    /// they stay.
    pub clean_interval: Option<u64>,
}

/// The memory that an image may take for its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheSizes {
    /// Bytes for L2 tables.
    pub(super) l2: u64,
    /// log2 of the bytes of a table that are read at a time.
    pub(super) entry_bits: u32,
    /// Bytes for refcount blocks.
    pub(super) refcount: u64,
    /// What nobody has used for so long is dropped …
    pub(super) clean_interval: Option<Duration>,
    /// … also while nobody uses the image.
    pub(super) clean_unasked: bool,
}

/// Memory for L2 tables, unless something else is said.
const DEFAULT_L2: u64 = 32 << 20;
/// And for refcount blocks.
const DEFAULT_REFCOUNT: u64 = 4 << 20;
/// Seconds after which entries that nobody uses are dropped, unless something else is said.
const DEFAULT_CLEAN_INTERVAL: u64 = 600;
/// Tables are read in pieces of at most so many bytes, unless something else is said.
const DEFAULT_ENTRY_BITS: u32 = 14;
/// The least that works: entries of L2 tables, clusters of refcount blocks.
const MIN_L2_ENTRIES: u64 = 2;
const MIN_REFCOUNT_CLUSTERS: u64 = 4;

impl CacheOptions {
    /// What is asked for, as it applies to an image.
    ///
    /// # Errors
    /// `InvalidInput` where the options contradict one another or the image.
    pub(super) fn sizes(&self, header: &Header) -> Result<CacheSizes> {
        let cluster = 1u64 << header.cluster_bits;
        // What all L2 tables of the disk take.
        let entry_len: u64 = match header.incompatible.contains(Incompatible::EXTENDED_L2) {
            true => 16,
            false => 8,
        };
        let needed = header.size.div_ceil(cluster).saturating_mul(entry_len);
        let least_refcount = MIN_REFCOUNT_CLUSTERS * cluster;
        let refuse = |what: &'static str| Err(Error::invalid(what));
        let (l2, refcount) = match (self.size, self.l2_size, self.refcount_size) {
            (Some(_), Some(_), Some(_)) => {
                return refuse(
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the same \
                     time",
                );
            }
            (Some(all), Some(l2), None) => match all.checked_sub(l2) {
                None => return refuse("l2-cache-size may not exceed cache-size"),
                Some(rest) => (l2, rest),
            },
            (Some(all), None, Some(refcount)) => match all.checked_sub(refcount) {
                None => return refuse("refcount-cache-size may not exceed cache-size"),
                Some(rest) => (rest, refcount),
            },
            // L2 tables first: they are looked at by every request.
            (Some(all), None, None) => {
                let l2 = needed.next_multiple_of(cluster).min(all.saturating_sub(least_refcount));
                (l2, all - l2)
            }
            (None, l2, refcount) => {
                (l2.unwrap_or(DEFAULT_L2), refcount.unwrap_or(DEFAULT_REFCOUNT))
            }
        };
        let entry_bits = match self.l2_entry_size {
            None => header.cluster_bits.min(DEFAULT_ENTRY_BITS),
            Some(size) if size.is_power_of_two() && (l::SECTOR..=cluster).contains(&size) => {
                size.trailing_zeros()
            }
            Some(_) => {
                return Err(Error::invalid(format!(
                    "L2 cache entry size must be a power of two between {} and the cluster size \
                     ({cluster})",
                    l::SECTOR
                )));
            }
        };
        if refcount >> header.cluster_bits > i32::MAX as u64 {
            return refuse("Refcount cache size too big");
        }
        let interval = self.clean_interval.unwrap_or(DEFAULT_CLEAN_INTERVAL);
        if interval > u64::from(u32::MAX) {
            return refuse("Cache clean interval too big");
        }
        Ok(CacheSizes {
            l2: l2.max(MIN_L2_ENTRIES << entry_bits),
            entry_bits,
            refcount: refcount.max(least_refcount),
            clean_interval: (interval > 0).then(|| Duration::from_secs(interval)),
            clean_unasked: self.clean_interval.is_some(),
        })
    }
}
