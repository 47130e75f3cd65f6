//! What devices and nodes have done.

use crate::qapi::BlockdevDriver;
use crate::qapi::schema::Natural;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// What happened in an interval.
#[qapi(snake)]
pub struct BlockDeviceTimedStats {
    /// Its length in seconds.
    pub interval_length: Natural,
    /// The shortest read, in nanoseconds.
    pub min_rd_latency_ns: Natural,
    /// The longest read.
    pub max_rd_latency_ns: Natural,
    /// The mean of reads.
    pub avg_rd_latency_ns: Natural,
    /// The shortest write.
    pub min_wr_latency_ns: Natural,
    /// The longest write.
    pub max_wr_latency_ns: Natural,
    /// The mean of writes.
    pub avg_wr_latency_ns: Natural,
    /// The shortest append to a zone.
    pub min_zone_append_latency_ns: Natural,
    /// The longest append to a zone.
    pub max_zone_append_latency_ns: Natural,
    /// The mean of appends to zones.
    pub avg_zone_append_latency_ns: Natural,
    /// The shortest flush.
    pub min_flush_latency_ns: Natural,
    /// The longest flush.
    pub max_flush_latency_ns: Natural,
    /// The mean of flushes.
    pub avg_flush_latency_ns: Natural,
    /// Reads in flight, in the mean.
    pub avg_rd_queue_depth: f64,
    /// Writes in flight.
    pub avg_wr_queue_depth: f64,
    /// Appends to zones in flight.
    pub avg_zone_append_queue_depth: f64,
}

/// What a device has done.
#[qapi(snake)]
#[derive(Default)]
pub struct BlockDeviceStats {
    /// Bytes read.
    pub rd_bytes: Natural,
    /// Bytes written.
    pub wr_bytes: Natural,
    /// Bytes appended to zones.
    pub zone_append_bytes: Natural,
    /// Bytes discarded.
    pub unmap_bytes: Natural,
    /// Reads.
    pub rd_operations: Natural,
    /// Writes.
    pub wr_operations: Natural,
    /// Appends to zones.
    pub zone_append_operations: Natural,
    /// Flushes.
    pub flush_operations: Natural,
    /// Discards.
    pub unmap_operations: Natural,
    /// What reads took together, in nanoseconds.
    pub rd_total_time_ns: Natural,
    /// What writes took.
    pub wr_total_time_ns: Natural,
    /// What appends to zones took.
    pub zone_append_total_time_ns: Natural,
    /// What flushes took.
    pub flush_total_time_ns: Natural,
    /// What discards took.
    pub unmap_total_time_ns: Natural,
    /// The end of the last byte ever written.
    pub wr_highest_offset: Natural,
    /// Reads that went with another.
    pub rd_merged: Natural,
    /// Writes that went with another.
    pub wr_merged: Natural,
    /// Appends to zones that went with another.
    pub zone_append_merged: Natural,
    /// Discards that went with another.
    pub unmap_merged: Natural,
    /// How long ago the last request ended, in nanoseconds.
    pub idle_time_ns: Option<Natural>,
    /// Reads that failed.
    pub failed_rd_operations: Natural,
    /// Writes that failed.
    pub failed_wr_operations: Natural,
    /// Appends to zones that failed.
    pub failed_zone_append_operations: Natural,
    /// Flushes that failed.
    pub failed_flush_operations: Natural,
    /// Discards that failed.
    pub failed_unmap_operations: Natural,
    /// Reads that could not be.
    pub invalid_rd_operations: Natural,
    /// Writes that could not be.
    pub invalid_wr_operations: Natural,
    /// Appends to zones that could not be.
    pub invalid_zone_append_operations: Natural,
    /// Flushes that could not be.
    pub invalid_flush_operations: Natural,
    /// Discards that could not be.
    pub invalid_unmap_operations: Natural,
    /// Whether those that could not be count for the idle time.
    pub account_invalid: bool,
    /// Whether those that failed count for the idle time.
    pub account_failed: bool,
    /// The same by interval.
    pub timed_stats: Vec<BlockDeviceTimedStats>,
    /// How long reads took.
    pub rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long writes took.
    pub wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long appends to zones took.
    pub zone_append_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// How long flushes took.
    pub flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
}

/// What files count besides.
#[qapi]
pub struct BlockStatsSpecificFile {
    /// Discards.
    pub discard_nb_ok: u64,
    /// Discards that failed.
    pub discard_nb_failed: u64,
    /// Bytes discarded.
    pub discard_bytes_ok: u64,
}

/// What NVMe devices count besides.
#[qapi]
pub struct BlockStatsSpecificNvme {
    /// Requests that failed.
    pub completion_errors: u64,
    /// Requests that were aligned.
    pub aligned_accesses: u64,
    /// Requests that were not.
    pub unaligned_accesses: u64,
}

/// What a driver counts besides.
#[qapi(tag = "driver", by = BlockdevDriver)]
pub enum BlockStatsSpecific {
    /// Fails on purpose.
    Blkdebug,
    /// Logs writes.
    Blklogwrites,
    /// Makes the order of answers that of a recording.
    Blkreplay,
    /// Compares two images.
    Blkverify,
    /// Images of Bochs.
    Bochs,
    /// Compressed loop images.
    Cloop,
    /// Writes compressed.
    Compress,
    /// Copies what is about to be written over.
    CopyBeforeWrite,
    /// Copies what is read into the image.
    CopyOnRead,
    /// Images of macOS.
    Dmg,
    /// Files.
    File(BlockStatsSpecificFile),
    /// A snapshot that [`Self::CopyBeforeWrite`] keeps.
    SnapshotAccess,
    /// FTP.
    Ftp,
    /// FTP over TLS.
    Ftps,
    /// GlusterFS.
    Gluster,
    /// A drive of the host for discs.
    #[qapi(name = "host_cdrom")]
    HostCdrom,
    /// A block device of the host.
    #[qapi(name = "host_device", cond = "HAVE_HOST_BLOCK_DEVICE")]
    HostDevice(BlockStatsSpecificFile),
    /// HTTP.
    Http,
    /// HTTPS.
    Https,
    /// Files by io_uring, through libblkio.
    #[qapi(name = "io_uring")]
    IoUring,
    /// iSCSI.
    Iscsi,
    /// LUKS volumes.
    Luks,
    /// NBD.
    Nbd,
    /// NFS.
    Nfs,
    /// Nothing, through the event loop.
    NullAio,
    /// Nothing.
    NullCo,
    /// An NVMe device, driven from user space.
    Nvme(BlockStatsSpecificNvme),
    /// An NVMe device through io_uring's commands.
    #[qapi(name = "nvme-io_uring")]
    NvmeIoUring,
    /// Images of Parallels.
    Parallels,
    /// Allocates ahead of writes.
    Preallocate,
    /// The first qcow.
    Qcow,
    /// qcow2.
    Qcow2,
    /// QED.
    Qed,
    /// Votes among copies.
    Quorum,
    /// The bytes as they are.
    Raw,
    /// Ceph.
    Rbd,
    /// One side of a replicated disk.
    Replication,
    /// Files over SSH.
    Ssh,
    /// Limits the speed.
    Throttle,
    /// Images of VirtualBox.
    Vdi,
    /// Images of Hyper-V.
    Vhdx,
    /// A virtio device by VFIO.
    VirtioBlkVfioPci,
    /// A virtio device of another program.
    VirtioBlkVhostUser,
    /// A virtio device by vDPA.
    VirtioBlkVhostVdpa,
    /// Images of VMware.
    Vmdk,
    /// Images of Virtual PC.
    Vpc,
    /// A folder as a FAT disk.
    Vvfat,
}

/// What a device or node has done.
#[qapi]
pub struct BlockStats {
    /// The device.
    pub device: Option<String>,
    /// The guest's device.
    pub qdev: Option<String>,
    /// The name of the node.
    pub node_name: Option<String>,
    /// The numbers.
    pub stats: BlockDeviceStats,
    /// What the driver counts besides.
    pub driver_specific: Option<BlockStatsSpecific>,
    /// The file below.
    pub parent: Option<Box<BlockStats>>,
    /// The backing image.
    pub backing: Option<Box<BlockStats>>,
}

/// How long requests took.
#[qapi]
pub struct BlockLatencyHistogramInfo {
    /// The inner borders of the intervals, in nanoseconds.
    pub boundaries: Vec<u64>,
    /// How many requests fell into each interval.
    pub bins: Vec<u64>,
}
