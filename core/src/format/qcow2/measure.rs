//! How large a new image will be.

use super::bitmap::FIXED_LEN;
use super::create::{CreateOptions, Layout};
use crate::io::Preallocation;
use crate::{Error, Result};

/// Sizes of a new image file in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// With only the wanted data in it.
    pub required: u64,
    /// With every guest cluster written.
    pub fully_allocated: u64,
}

/// The size of an image made with `options` that holds `data` bytes of clusters (a multiple of
/// the cluster size).
///
/// # Errors
/// `InvalidInput` for impossible options.
pub fn measure(options: &CreateOptions, data: u64) -> Result<Measured> {
    options.check()?;
    let header = options.header()?;
    let cluster = u64::from(options.cluster_size);
    let virtual_size = header.size.next_multiple_of(cluster);
    let clusters = virtual_size / cluster;
    let l2_entries = cluster >> header.l2_entry_bits();
    let l2_tables = clusters.div_ceil(l2_entries);
    let l1_clusters = (l2_tables * 8).div_ceil(cluster);
    // With a data file the guest's clusters are elsewhere.
    let inside = if options.data_file.is_some() { 0 } else { clusters };
    let fixed = 1 + l1_clusters + l2_tables;
    let layout = Layout::with(&header, fixed + inside, l1_clusters);
    // As QEMU's tools have it: the refcounts of the encryption header are not counted. They matter
    // only with clusters of a few hundred bytes.
    let fixed = fixed + options.encryption_clusters();
    let metadata = fixed + layout.reftable_clusters + layout.refblock_count;
    let metadata = metadata * cluster;
    let fully_allocated = metadata + inside * cluster;
    let required = match options.preallocation {
        Preallocation::Off | Preallocation::Metadata => metadata + data.min(inside * cluster),
        Preallocation::Falloc | Preallocation::Full => fully_allocated,
    };
    Ok(Measured { required, fully_allocated })
}

/// Bytes that the bitmaps of a source take in a new image: for each its data and its table, and
/// the directory. `bitmaps` gives the granularity in bytes and the length of the name of each.
///
/// # Errors
/// `Limit` where the sum exceeds 64 bits.
pub fn measure_bitmaps(
    options: &CreateOptions,
    size: u64,
    bitmaps: impl IntoIterator<Item = (u64, usize)>,
) -> Result<u64> {
    let cluster = u64::from(options.cluster_size);
    let (mut clusters, mut directory) = (0u64, 0u64);
    for (granularity, name) in bitmaps {
        let bytes = size.div_ceil(granularity.max(1)).div_ceil(8);
        let data = bytes.div_ceil(cluster);
        let table = (data * 8).div_ceil(cluster);
        clusters = clusters.saturating_add(data + table);
        directory = directory.saturating_add(((FIXED_LEN + name) as u64).next_multiple_of(8));
    }
    clusters
        .saturating_add(directory.div_ceil(cluster))
        .checked_mul(cluster)
        .ok_or_else(|| Error::limit("the size of the bitmaps exceeds 64 bits").in_format("qcow2"))
}
