//! What a node is opened by.
//!
//! | module | the options of |
//! | --- | --- |
//! | `local` | files and devices of the host |
//! | `network` | other hosts |
//! | `rbd` | Ceph |
//! | `formats` | image formats |
//! | `filters` | nodes that change what happens on the way |
//! | `debug` | nodes for tests |

mod debug;
mod filters;
mod formats;
mod local;
mod network;
mod rbd;

pub use debug::*;
pub use filters::*;
pub use formats::*;
pub use local::*;
pub use network::*;
pub use rbd::*;

use alloc::boxed::Box;
use alloc::string::String;
use sectora_derive::qapi;

/// A driver of nodes.
#[qapi]
pub enum BlockdevDriver {
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
    File,
    /// A snapshot that [`Self::CopyBeforeWrite`] keeps.
    SnapshotAccess,
    /// FTP.
    Ftp,
    /// FTP over TLS.
    Ftps,
    /// GlusterFS.
    #[qapi(deprecated)]
    Gluster,
    /// A drive of the host for discs.
    #[qapi(name = "host_cdrom", cond = "HAVE_HOST_BLOCK_DEVICE")]
    HostCdrom,
    /// A block device of the host.
    #[qapi(name = "host_device", cond = "HAVE_HOST_BLOCK_DEVICE")]
    HostDevice,
    /// HTTP.
    Http,
    /// HTTPS.
    Https,
    /// Files by io_uring, through libblkio.
    #[qapi(name = "io_uring", cond = "CONFIG_BLKIO")]
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
    Nvme,
    /// An NVMe device through io_uring's commands.
    #[qapi(name = "nvme-io_uring", cond = "CONFIG_BLKIO")]
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
    #[qapi(cond = "CONFIG_REPLICATION")]
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
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVfioPci,
    /// A virtio device of another program.
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVhostUser,
    /// A virtio device by vDPA.
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVhostVdpa,
    /// Images of VMware.
    Vmdk,
    /// Images of Virtual PC.
    Vpc,
    /// A folder as a FAT disk.
    Vvfat,
}

/// What becomes of discards.
#[qapi]
pub enum BlockdevDiscardOptions {
    /// Nothing.
    Ignore,
    /// They are passed on.
    Unmap,
}

/// What becomes of zeroes that are written.
#[qapi]
#[derive(Default)]
pub enum BlockdevDetectZeroesOptions {
    /// They are written.
    #[default]
    Off,
    /// They become a request for zeroes.
    On,
    /// The same, and space may be given up.
    Unmap,
}

/// What is cached.
#[qapi]
#[derive(Default)]
pub struct BlockdevCacheOptions {
    /// Whether the host's cache is left out.
    pub direct: Option<bool>,
    /// Whether flushes are ignored; data may be lost.
    pub no_flush: Option<bool>,
}

/// A node and everything below it.
#[qapi]
pub struct BlockdevOptions {
    /// The driver, and what goes with it.
    #[qapi(branches)]
    pub driver: BlockdevOptionsBranch,
    /// Its name.
    pub node_name: Option<String>,
    /// What becomes of discards.
    pub discard: Option<BlockdevDiscardOptions>,
    /// What is cached.
    pub cache: Option<BlockdevCacheOptions>,
    /// Whether it may be used at once.
    pub active: Option<bool>,
    /// Whether it can only be read.
    pub read_only: Option<bool>,
    /// Whether it may fall back to that.
    pub auto_read_only: Option<bool>,
    /// Whether other programs may have it open for writing.
    pub force_share: Option<bool>,
    /// What becomes of zeroes that are written.
    pub detect_zeroes: Option<BlockdevDetectZeroesOptions>,
}

/// What goes with each `driver` of [`BlockdevOptions`].
#[qapi(tag = "driver", by = BlockdevDriver)]
pub enum BlockdevOptionsBranch {
    /// Fails on purpose.
    Blkdebug(BlockdevOptionsBlkdebug),
    /// Logs writes.
    Blklogwrites(BlockdevOptionsBlklogwrites),
    /// Makes the order of answers that of a recording.
    Blkreplay(BlockdevOptionsBlkreplay),
    /// Compares two images.
    Blkverify(BlockdevOptionsBlkverify),
    /// Images of Bochs.
    Bochs(BlockdevOptionsGenericFormat),
    /// Compressed loop images.
    Cloop(BlockdevOptionsGenericFormat),
    /// Writes compressed.
    Compress(BlockdevOptionsGenericFormat),
    /// Copies what is about to be written over.
    CopyBeforeWrite(BlockdevOptionsCbw),
    /// Copies what is read into the image.
    CopyOnRead(BlockdevOptionsCor),
    /// Images of macOS.
    Dmg(BlockdevOptionsGenericFormat),
    /// Files.
    File(BlockdevOptionsFile),
    /// A snapshot that [`Self::CopyBeforeWrite`] keeps.
    SnapshotAccess(BlockdevOptionsGenericFormat),
    /// FTP.
    Ftp(BlockdevOptionsCurlFtp),
    /// FTP over TLS.
    Ftps(BlockdevOptionsCurlFtps),
    /// GlusterFS.
    Gluster(BlockdevOptionsGluster),
    /// A drive of the host for discs.
    #[qapi(name = "host_cdrom", cond = "HAVE_HOST_BLOCK_DEVICE")]
    HostCdrom(BlockdevOptionsFile),
    /// A block device of the host.
    #[qapi(name = "host_device", cond = "HAVE_HOST_BLOCK_DEVICE")]
    HostDevice(BlockdevOptionsFile),
    /// HTTP.
    Http(BlockdevOptionsCurlHttp),
    /// HTTPS.
    Https(BlockdevOptionsCurlHttps),
    /// Files by io_uring, through libblkio.
    #[qapi(name = "io_uring", cond = "CONFIG_BLKIO")]
    IoUring(BlockdevOptionsIoUring),
    /// iSCSI.
    Iscsi(BlockdevOptionsIscsi),
    /// LUKS volumes.
    Luks(BlockdevOptionsLUKS),
    /// NBD.
    Nbd(BlockdevOptionsNbd),
    /// NFS.
    Nfs(BlockdevOptionsNfs),
    /// Nothing, through the event loop.
    NullAio(BlockdevOptionsNull),
    /// Nothing.
    NullCo(BlockdevOptionsNull),
    /// An NVMe device, driven from user space.
    Nvme(BlockdevOptionsNVMe),
    /// An NVMe device through io_uring's commands.
    #[qapi(name = "nvme-io_uring", cond = "CONFIG_BLKIO")]
    NvmeIoUring(BlockdevOptionsNvmeIoUring),
    /// Images of Parallels.
    Parallels(BlockdevOptionsGenericFormat),
    /// Allocates ahead of writes.
    Preallocate(BlockdevOptionsPreallocate),
    /// The first qcow.
    Qcow(BlockdevOptionsQcow),
    /// qcow2.
    Qcow2(BlockdevOptionsQcow2),
    /// QED.
    Qed(BlockdevOptionsGenericCOWFormat),
    /// Votes among copies.
    Quorum(BlockdevOptionsQuorum),
    /// The bytes as they are.
    Raw(BlockdevOptionsRaw),
    /// Ceph.
    Rbd(BlockdevOptionsRbd),
    /// One side of a replicated disk.
    #[qapi(cond = "CONFIG_REPLICATION")]
    Replication(BlockdevOptionsReplication),
    /// Files over SSH.
    Ssh(BlockdevOptionsSsh),
    /// Limits the speed.
    Throttle(BlockdevOptionsThrottle),
    /// Images of VirtualBox.
    Vdi(BlockdevOptionsGenericFormat),
    /// Images of Hyper-V.
    Vhdx(BlockdevOptionsGenericFormat),
    /// A virtio device by VFIO.
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVfioPci(BlockdevOptionsVirtioBlkVfioPci),
    /// A virtio device of another program.
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVhostUser(BlockdevOptionsVirtioBlkVhostUser),
    /// A virtio device by vDPA.
    #[qapi(cond = "CONFIG_BLKIO")]
    VirtioBlkVhostVdpa(BlockdevOptionsVirtioBlkVhostVdpa),
    /// Images of VMware.
    Vmdk(BlockdevOptionsGenericCOWFormat),
    /// Images of Virtual PC.
    Vpc(BlockdevOptionsGenericFormat),
    /// A folder as a FAT disk.
    Vvfat(BlockdevOptionsVVFAT),
}

/// A node: defined here, or the name of one that exists.
#[qapi(alternate)]
pub enum BlockdevRef {
    /// A new one.
    Definition(Box<BlockdevOptions>),
    /// The name of one that exists.
    Reference(String),
}

/// A node, or none.
#[qapi(alternate)]
pub enum BlockdevRefOrNull {
    /// A new one.
    Definition(Box<BlockdevOptions>),
    /// The name of one that exists.
    Reference(String),
    /// None.
    Null,
}
