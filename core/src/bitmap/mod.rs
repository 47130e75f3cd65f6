//! Dirty bitmaps: which parts of a disk were written to since some point in time.
//!
//! | file | part |
//! | --- | --- |
//! | `bits` | a long row of bits whose memory follows what is mixed |
//! | `dirty` | [`DirtyBitmap`]: granules, states, successors |
//! | `set` | [`BitmapSet`]: the named bitmaps of one disk, told of every write |
//!
//! Names and states are those of the schema's `BlockDirtyInfo`; formats that keep bitmaps load them
//! into the set of their image and store them when it is closed.

mod bits;
mod dirty;
mod set;
#[cfg(test)]
mod tests;

pub use dirty::{BitmapStatus, DirtyBitmap, MAX_GRANULARITY, MIN_GRANULARITY};
pub use set::{BitmapSet, Recording};

/// The granularity that a new bitmap has where none is asked for: the disk's cluster size, between
/// 4 KiB and 64 KiB; 64 KiB where there are no clusters. A power of two.
#[must_use]
pub fn default_granularity(cluster_size: u32) -> u64 {
    match cluster_size {
        0 | 1 => 0x1_0000,
        size => u64::from(size).clamp(0x1000, 0x1_0000),
    }
}
