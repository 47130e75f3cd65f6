//! Options of nodes for tests.

use crate::qapi::{BlockPermission, BlockdevRef};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// A moment of a format's work at which rules can act.
#[qapi(snake)]
pub enum BlkdebugEvent {
    /// An entry of the first-level table is written.
    L1Update,
    /// A larger first-level table is allocated.
    L1GrowAllocTable,
    /// It is written.
    L1GrowWriteTable,
    /// The header points to it.
    L1GrowActivateTable,
    /// A second-level table is read.
    L2Load,
    /// One is written.
    L2Update,
    /// One is written for a compressed cluster.
    L2UpdateCompressed,
    /// One that is shared is read for a copy.
    L2AllocCowRead,
    /// The copy is written.
    L2AllocWrite,
    /// Data are read.
    ReadAio,
    /// Data of the backing image are read.
    ReadBackingAio,
    /// A compressed cluster is read.
    ReadCompressed,
    /// Data are written.
    WriteAio,
    /// A compressed cluster is written.
    WriteCompressed,
    /// A machine's state is read.
    VmstateLoad,
    /// It is written.
    VmstateSave,
    /// Bytes around a write are read.
    CowRead,
    /// They are written.
    CowWrite,
    /// The table of reference counts is read.
    ReftableLoad,
    /// It becomes larger.
    ReftableGrow,
    /// It is written.
    ReftableUpdate,
    /// A block of reference counts is read.
    RefblockLoad,
    /// One is written.
    RefblockUpdate,
    /// A part of one is written.
    RefblockUpdatePart,
    /// One is needed.
    RefblockAlloc,
    /// A new one is entered into the table.
    RefblockAllocHookup,
    /// A new one is written.
    RefblockAllocWrite,
    /// The blocks of a larger table are written.
    RefblockAllocWriteBlocks,
    /// The larger table is written.
    RefblockAllocWriteTable,
    /// The header points to it.
    RefblockAllocSwitchTable,
    /// Clusters are allocated.
    ClusterAlloc,
    /// Less than a cluster is allocated.
    ClusterAllocBytes,
    /// Clusters are freed.
    ClusterFree,
    /// Caches go to the system.
    FlushToOs,
    /// The system's go to the disk.
    FlushToDisk,
    /// The first sector of an unaligned write is read.
    PwritevRmwHead,
    /// It has been read.
    PwritevRmwAfterHead,
    /// The last one is read.
    PwritevRmwTail,
    /// It has been read.
    PwritevRmwAfterTail,
    /// A write begins.
    Pwritev,
    /// A request for zeroes begins.
    PwritevZero,
    /// A write is done.
    PwritevDone,
    /// An image is about to be emptied.
    EmptyImagePrepare,
    /// The end of the first-level table is cleared.
    L1ShrinkWriteTable,
    /// What it pointed to is freed.
    L1ShrinkFreeL2Clusters,
    /// What was read is copied into the image.
    CorWrite,
    /// Space for a cluster is sought.
    ClusterAllocSpace,
    /// Any moment.
    None,
}

/// A kind of request.
#[qapi]
pub enum BlkdebugIOType {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Requests for zeroes.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Questions where data are.
    BlockStatus,
}

/// A rule that lets requests fail.
#[qapi]
pub struct BlkdebugInjectErrorOptions {
    /// What happens.
    pub event: BlkdebugEvent,
    /// Only in this state; 0 is any.
    pub state: Option<i64>,
    /// Requests of this kind alone.
    pub iotype: Option<BlkdebugIOType>,
    /// The number of the error.
    pub errno: Option<i64>,
    /// Requests that touch this sector alone.
    pub sector: Option<i64>,
    /// Whether the rule acts once.
    pub once: Option<bool>,
    /// Whether it fails before others have gone on.
    pub immediately: Option<bool>,
}

/// A rule that changes the state.
#[qapi]
pub struct BlkdebugSetStateOptions {
    /// What happens.
    pub event: BlkdebugEvent,
    /// Only in this state; 0 is any.
    pub state: Option<i64>,
    /// The state after it.
    #[qapi(name = "new_state")]
    pub new_state: i64,
}

/// A node that fails on purpose.
#[qapi]
pub struct BlockdevOptionsBlkdebug {
    /// The node below.
    pub image: BlockdevRef,
    /// A file with more rules.
    pub config: Option<String>,
    /// The alignment of requests, in bytes.
    pub align: Option<i64>,
    /// The longest request, in bytes.
    pub max_transfer: Option<i32>,
    /// The alignment of requests for zeroes.
    pub opt_write_zero: Option<i32>,
    /// The longest of those.
    pub max_write_zero: Option<i32>,
    /// The alignment of discards.
    pub opt_discard: Option<i32>,
    /// The longest of those.
    pub max_discard: Option<i32>,
    /// Rules that let requests fail.
    pub inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
    /// Rules that change the state.
    pub set_state: Option<Vec<BlkdebugSetStateOptions>>,
    /// Permissions to take of the node below.
    pub take_child_perms: Option<Vec<BlockPermission>>,
    /// Permissions of it that others must not take.
    pub unshare_child_perms: Option<Vec<BlockPermission>>,
}

/// A node whose writes are logged.
#[qapi]
pub struct BlockdevOptionsBlklogwrites {
    /// The node below.
    pub file: BlockdevRef,
    /// The node of the log.
    pub log: BlockdevRef,
    /// The length of its sectors in bytes.
    pub log_sector_size: Option<u32>,
    /// Whether an old log is continued.
    pub log_append: Option<bool>,
    /// After so many entries the log's head is written.
    pub log_super_update_interval: Option<u64>,
}

/// Two nodes that must read the same.
#[qapi]
pub struct BlockdevOptionsBlkverify {
    /// The one that is tested.
    pub test: BlockdevRef,
    /// The one that is right.
    pub raw: BlockdevRef,
}

/// A node whose answers come in recorded order.
#[qapi]
pub struct BlockdevOptionsBlkreplay {
    /// The node below.
    pub image: BlockdevRef,
}
