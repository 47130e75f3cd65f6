//! Options of nodes that change what happens on the way.

use crate::qapi::schema::Size;
use crate::qapi::{BlockDirtyBitmap, BlockdevOptionsGenericFormat, BlockdevRef};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// A file that is allocated ahead of writes.
#[qapi]
pub struct BlockdevOptionsPreallocate {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// The alignment of the file's length, in bytes.
    pub prealloc_align: Option<i64>,
    /// How far ahead, in bytes.
    pub prealloc_size: Option<i64>,
}

/// A node whose speed is limited.
#[qapi]
pub struct BlockdevOptionsThrottle {
    /// The group that limits it.
    pub throttle_group: String,
    /// The node below.
    pub file: BlockdevRef,
}

/// A node that copies what is read into itself.
#[qapi]
pub struct BlockdevOptionsCor {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// The last node of the chain from which is copied.
    pub bottom: Option<String>,
}

/// What happens when old data cannot be saved.
#[qapi]
pub enum OnCbwError {
    /// The guest's write fails.
    BreakGuestWrite,
    /// The snapshot is lost.
    BreakSnapshot,
}

/// A node that saves what is about to be written over.
#[qapi]
pub struct BlockdevOptionsCbw {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// Where to.
    pub target: BlockdevRef,
    /// Only what is set in this bitmap.
    pub bitmap: Option<BlockDirtyBitmap>,
    /// What happens when that fails.
    pub on_cbw_error: Option<OnCbwError>,
    /// Seconds that saving may take; 0 is any time.
    pub cbw_timeout: Option<u32>,
    /// The least unit of copying, in bytes.
    pub min_cluster_size: Option<Size>,
}

/// How copies are read.
#[qapi]
pub enum QuorumReadPattern {
    /// All, and they vote.
    Quorum,
    /// The first that can be read.
    Fifo,
}

/// Copies that vote.
#[qapi]
pub struct BlockdevOptionsQuorum {
    /// Whether a difference ends the program; two copies only.
    pub blkverify: Option<bool>,
    /// The copies.
    pub children: Vec<BlockdevRef>,
    /// So many must agree.
    pub vote_threshold: i64,
    /// Whether those who lost are written again.
    pub rewrite_corrupted: Option<bool>,
    /// How they are read.
    pub read_pattern: Option<QuorumReadPattern>,
}

/// The side of a replicated disk.
#[qapi(cond = "CONFIG_REPLICATION")]
pub enum ReplicationMode {
    /// Where the guest runs.
    Primary,
    /// Where it would go on.
    Secondary,
}

/// One side of a replicated disk.
#[qapi(cond = "CONFIG_REPLICATION")]
pub struct BlockdevOptionsReplication {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// The side.
    pub mode: ReplicationMode,
    /// On the secondary side: the device of the active disk.
    pub top_id: Option<String>,
}
