//! How large a new image will be.

use super::create::{CreateOptions, Layout};
use crate::Result;
use crate::io::Preallocation;

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
    let layout = Layout::with(&header, 1 + l1_clusters + l2_tables + inside, l1_clusters);
    let metadata = 1 + l1_clusters + l2_tables + layout.reftable_clusters + layout.refblock_count;
    let metadata = metadata * cluster;
    let fully_allocated = metadata + inside * cluster;
    let required = match options.preallocation {
        Preallocation::Off | Preallocation::Metadata => metadata + data.min(inside * cluster),
        Preallocation::Falloc | Preallocation::Full => fully_allocated,
    };
    Ok(Measured { required, fully_allocated })
}
