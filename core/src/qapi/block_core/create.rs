//! What an image is made by, and what can be changed of it.

use crate::qapi::schema::Size;
use crate::qapi::{
    BlockdevDriver, BlockdevOptionsGluster, BlockdevOptionsNfs, BlockdevOptionsRbd,
    BlockdevOptionsSsh, BlockdevRef, QCryptoBlockAmendOptions, QCryptoBlockAmendOptionsLUKS,
    QCryptoBlockCreateOptions, QCryptoBlockCreateOptionsLUKS, RbdEncryptionCreateOptions,
};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// How a file is made.
#[qapi]
pub struct BlockdevCreateOptionsFile {
    /// The path of the file.
    pub filename: String,
    /// The length in bytes.
    pub size: Size,
    /// What is allocated.
    pub preallocation: Option<PreallocMode>,
    /// Whether the file system's copy on write is switched off.
    pub nocow: Option<bool>,
    /// The unit in which the file system is asked to allocate, in bytes.
    pub extent_size_hint: Option<Size>,
}

/// How a file of GlusterFS is made.
#[qapi]
pub struct BlockdevCreateOptionsGluster {
    /// Where it is.
    pub location: BlockdevOptionsGluster,
    /// The length in bytes.
    pub size: Size,
    /// What is allocated.
    pub preallocation: Option<PreallocMode>,
}

/// How a LUKS volume is made.
#[qapi]
pub struct BlockdevCreateOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: QCryptoBlockCreateOptionsLUKS,
    /// The node below.
    pub file: Option<BlockdevRef>,
    /// The node with the LUKS header, where it is apart.
    pub header: Option<BlockdevRef>,
    /// The length in bytes.
    pub size: Size,
    /// What is allocated.
    pub preallocation: Option<PreallocMode>,
}

/// How a file of NFS is made.
#[qapi]
pub struct BlockdevCreateOptionsNfs {
    /// Where it is.
    pub location: BlockdevOptionsNfs,
    /// The length in bytes.
    pub size: Size,
}

/// How an image of Parallels is made.
#[qapi]
pub struct BlockdevCreateOptionsParallels {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Size>,
}

/// How an image of the first qcow is made.
#[qapi]
pub struct BlockdevCreateOptionsQcow {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// How it is encrypted.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
}

/// The version of a qcow2 image, for creating one.
#[qapi(what = "qcow2 version")]
#[derive(Default)]
pub enum BlockdevQcow2Version {
    /// Version 2: `compat=0.10`.
    V2,
    /// Version 3: `compat=1.1`.
    #[default]
    V3,
}

/// How the compressed clusters of a qcow2 image are compressed.
#[qapi(what = "compression type")]
#[derive(Default)]
pub enum Qcow2CompressionType {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    #[qapi(cond = "CONFIG_ZSTD")]
    Zstd,
}

/// How a qcow2 image is made.
#[qapi]
pub struct BlockdevCreateOptionsQcow2 {
    /// The node below.
    pub file: BlockdevRef,
    /// The node for the guest's data, where they are apart.
    pub data_file: Option<BlockdevRef>,
    /// Whether the data file alone is a raw image of the contents.
    pub data_file_raw: Option<bool>,
    /// Whether clusters are divided into subclusters.
    pub extended_l2: Option<bool>,
    /// The length in bytes.
    pub size: Size,
    /// The version.
    pub version: Option<BlockdevQcow2Version>,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// The format of the backing file.
    pub backing_fmt: Option<BlockdevDriver>,
    /// How it is encrypted.
    pub encrypt: Option<QCryptoBlockCreateOptions>,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Size>,
    /// What is allocated.
    pub preallocation: Option<PreallocMode>,
    /// Whether reference counts may lag behind.
    pub lazy_refcounts: Option<bool>,
    /// The width of a reference count.
    pub refcount_bits: Option<i64>,
    /// How compressed clusters are compressed.
    pub compression_type: Option<Qcow2CompressionType>,
}

/// How a QED image is made.
#[qapi]
pub struct BlockdevCreateOptionsQed {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// The format of the backing file.
    pub backing_fmt: Option<BlockdevDriver>,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Size>,
    /// Clusters of a table.
    pub table_size: Option<i64>,
}

/// How a Ceph image is made.
#[qapi]
pub struct BlockdevCreateOptionsRbd {
    /// Where it is.
    pub location: BlockdevOptionsRbd,
    /// The length in bytes.
    pub size: Size,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Size>,
    /// How it is encrypted.
    pub encrypt: Option<RbdEncryptionCreateOptions>,
}

/// A kind of VMDK image.
#[qapi]
pub enum BlockdevVmdkSubformat {
    /// One file that grows.
    #[qapi(name = "monolithicSparse")]
    MonolithicSparse,
    /// One file of full size, and a descriptor.
    #[qapi(name = "monolithicFlat")]
    MonolithicFlat,
    /// Files of 2 GiB that grow.
    #[qapi(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// Files of 2 GiB of full size.
    #[qapi(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    /// One compressed file.
    #[qapi(name = "streamOptimized")]
    StreamOptimized,
}

/// The controller that a VMDK image is for.
#[qapi]
pub enum BlockdevVmdkAdapterType {
    /// IDE.
    Ide,
    /// BusLogic.
    Buslogic,
    /// LSI Logic.
    Lsilogic,
    /// That of old ESX.
    #[qapi(name = "legacyESX")]
    LegacyESX,
}

/// How a VMDK image is made.
#[qapi]
pub struct BlockdevCreateOptionsVmdk {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// The nodes of its files.
    pub extents: Option<Vec<BlockdevRef>>,
    /// The kind.
    pub subformat: Option<BlockdevVmdkSubformat>,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// The controller it is for.
    pub adapter_type: Option<BlockdevVmdkAdapterType>,
    /// The version of the virtual hardware.
    pub hwversion: Option<String>,
    /// The version of the guest's tools.
    pub toolsversion: Option<String>,
    /// Whether zeroes can be told from what is not allocated.
    pub zeroed_grain: Option<bool>,
}

/// How a file over SSH is made.
#[qapi]
pub struct BlockdevCreateOptionsSsh {
    /// Where it is.
    pub location: BlockdevOptionsSsh,
    /// The length in bytes.
    pub size: Size,
}

/// How an image of VirtualBox is made.
#[qapi]
pub struct BlockdevCreateOptionsVdi {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// What is allocated.
    pub preallocation: Option<PreallocMode>,
}

/// A kind of VHDX image.
#[qapi]
pub enum BlockdevVhdxSubformat {
    /// It grows.
    Dynamic,
    /// It has its full size.
    Fixed,
}

/// How a VHDX image is made.
#[qapi]
pub struct BlockdevCreateOptionsVhdx {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// Bytes of its log.
    pub log_size: Option<Size>,
    /// The unit of allocation, in bytes.
    pub block_size: Option<Size>,
    /// The kind.
    pub subformat: Option<BlockdevVhdxSubformat>,
    /// Whether blocks can be marked as zero.
    pub block_state_zero: Option<bool>,
}

/// A kind of VPC image.
#[qapi]
pub enum BlockdevVpcSubformat {
    /// It grows.
    Dynamic,
    /// It has its full size.
    Fixed,
}

/// How a VPC image is made.
#[qapi]
pub struct BlockdevCreateOptionsVpc {
    /// The node below.
    pub file: BlockdevRef,
    /// The length in bytes.
    pub size: Size,
    /// The kind.
    pub subformat: Option<BlockdevVpcSubformat>,
    /// Whether the length is kept exactly.
    pub force_size: Option<bool>,
}

/// How an image is made.
#[qapi(tag = "driver", by = BlockdevDriver)]
pub enum BlockdevCreateOptions {
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
    File(BlockdevCreateOptionsFile),
    /// A snapshot that [`Self::CopyBeforeWrite`] keeps.
    SnapshotAccess,
    /// FTP.
    Ftp,
    /// FTP over TLS.
    Ftps,
    /// GlusterFS.
    Gluster(BlockdevCreateOptionsGluster),
    /// A drive of the host for discs.
    #[qapi(name = "host_cdrom")]
    HostCdrom,
    /// A block device of the host.
    #[qapi(name = "host_device")]
    HostDevice,
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
    Luks(BlockdevCreateOptionsLUKS),
    /// NBD.
    Nbd,
    /// NFS.
    Nfs(BlockdevCreateOptionsNfs),
    /// Nothing, through the event loop.
    NullAio,
    /// Nothing.
    NullCo,
    /// An NVMe device, driven from user space.
    Nvme,
    /// An NVMe device through io_uring's commands.
    #[qapi(name = "nvme-io_uring")]
    NvmeIoUring,
    /// Images of Parallels.
    Parallels(BlockdevCreateOptionsParallels),
    /// Allocates ahead of writes.
    Preallocate,
    /// The first qcow.
    Qcow(BlockdevCreateOptionsQcow),
    /// qcow2.
    Qcow2(BlockdevCreateOptionsQcow2),
    /// QED.
    Qed(BlockdevCreateOptionsQed),
    /// Votes among copies.
    Quorum,
    /// The bytes as they are.
    Raw,
    /// Ceph.
    Rbd(BlockdevCreateOptionsRbd),
    /// One side of a replicated disk.
    Replication,
    /// Files over SSH.
    Ssh(BlockdevCreateOptionsSsh),
    /// Limits the speed.
    Throttle,
    /// Images of VirtualBox.
    Vdi(BlockdevCreateOptionsVdi),
    /// Images of Hyper-V.
    Vhdx(BlockdevCreateOptionsVhdx),
    /// A virtio device by VFIO.
    VirtioBlkVfioPci,
    /// A virtio device of another program.
    VirtioBlkVhostUser,
    /// A virtio device by vDPA.
    VirtioBlkVhostVdpa,
    /// Images of VMware.
    Vmdk(BlockdevCreateOptionsVmdk),
    /// Images of Virtual PC.
    Vpc(BlockdevCreateOptionsVpc),
    /// A folder as a FAT disk.
    Vvfat,
}

/// What is allocated when an image is created or grown.
#[qapi(what = "preallocation mode")]
#[derive(Default)]
pub enum PreallocMode {
    /// Nothing.
    #[default]
    Off,
    /// The format's tables.
    Metadata,
    /// Tables, and room for the data, unwritten.
    Falloc,
    /// Tables, and the data as written zeroes.
    Full,
}

/// What can be changed of a LUKS volume.
#[qapi]
pub struct BlockdevAmendOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: QCryptoBlockAmendOptionsLUKS,
}

/// What can be changed of a qcow2 image.
#[qapi]
#[derive(Default)]
pub struct BlockdevAmendOptionsQcow2 {
    /// How it is encrypted.
    pub encrypt: Option<QCryptoBlockAmendOptions>,
}

/// What can be changed of an image.
#[qapi(tag = "driver", by = BlockdevDriver)]
pub enum BlockdevAmendOptions {
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
    Gluster,
    /// A drive of the host for discs.
    #[qapi(name = "host_cdrom")]
    HostCdrom,
    /// A block device of the host.
    #[qapi(name = "host_device")]
    HostDevice,
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
    Luks(BlockdevAmendOptionsLUKS),
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
    #[qapi(name = "nvme-io_uring")]
    NvmeIoUring,
    /// Images of Parallels.
    Parallels,
    /// Allocates ahead of writes.
    Preallocate,
    /// The first qcow.
    Qcow,
    /// qcow2.
    Qcow2(BlockdevAmendOptionsQcow2),
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
