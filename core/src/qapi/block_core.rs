//! Types of `block-core.json`: what is told about images.

use super::{QCryptoBlockInfoLUKS, names};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An internal snapshot of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Instructions executed when it was taken, of a machine that records and replays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// The machine's clock: nanoseconds within the second.
    pub vm_clock_nsec: u64,
    /// Its name.
    pub name: String,
    /// When it was taken: seconds since 1970.
    pub date_sec: u64,
    /// When it was taken: nanoseconds within the second.
    pub date_nsec: u64,
    /// The machine's clock: seconds.
    pub vm_clock_sec: u64,
    /// Its number or other identity, unique in the image.
    pub id: String,
    /// Bytes of machine state that it holds.
    pub vm_state_size: u64,
}

/// How the clusters of an encrypted qcow2 image are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockdevQcow2EncryptionFormat {
    /// AES-CBC with a plain passphrase: legacy, and weak.
    Aes,
    /// A LUKS header inside the image.
    Luks,
}

names!("encryption format", BlockdevQcow2EncryptionFormat { Aes => "aes", Luks => "luks" });

/// The encryption of a qcow2 image, by [format](BlockdevQcow2EncryptionFormat).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case")]
pub enum ImageInfoSpecificQCow2Encryption {
    /// AES-CBC with a plain passphrase.
    Aes,
    /// LUKS.
    Luks(QCryptoBlockInfoLUKS),
}

/// What is particular to a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfoSpecificQCow2 {
    /// The version, as the first QEMU that read it: `0.10` for 2, `1.1` for 3.
    pub compat: String,
    /// How compressed clusters are compressed.
    pub compression_type: Qcow2CompressionType,
    /// Whether reference counts may lag behind (version 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// The dirty bitmaps, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<Vec<Qcow2BitmapInfo>>,
    /// The width of a reference count.
    pub refcount_bits: u64,
    /// The name of the file that holds the guest's data, where it is not this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// The encryption, of an encrypted image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<ImageInfoSpecificQCow2Encryption>,
    /// Whether the data file alone is a raw image of the contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether the image is marked as damaged (version 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether clusters are divided into subclusters (version 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
}

/// What is particular to a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfoSpecificFile {
    /// The unit in which the file system is asked to allocate, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extent_size_hint: Option<u64>,
}

/// The formats and protocols that have something particular to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageInfoSpecificKind {
    /// The qcow2 format.
    Qcow2,
    /// The VMDK format.
    Vmdk,
    /// LUKS as a format.
    Luks,
    /// A Ceph block device.
    Rbd,
    /// A local file.
    File,
}

names!("kind", ImageInfoSpecificKind {
    Qcow2 => "qcow2",
    Vmdk => "vmdk",
    Luks => "luks",
    Rbd => "rbd",
    File => "file",
});

/// What is particular to a format or protocol, by [kind](ImageInfoSpecificKind); the kinds of
/// drivers that are not there yet are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum ImageInfoSpecific {
    /// A qcow2 image.
    Qcow2(ImageInfoSpecificQCow2),
    /// A local file.
    File(ImageInfoSpecificFile),
}

/// An image or file by itself, without what lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockNodeInfo {
    /// Whether the contents are compressed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// The format of the backing file, as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// The internal snapshots, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<SnapshotInfo>>,
    /// The size that a guest sees, in bytes.
    pub virtual_size: u64,
    /// The name that it was opened by.
    pub filename: String,
    /// The unit of allocation, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The name of its format or protocol.
    pub format: String,
    /// Bytes that it occupies on the storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// What is particular to the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<ImageInfoSpecific>,
    /// The name of the backing file, resolved against the image's own place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// Whether it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// The name of the backing file, as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// Whether it was not closed cleanly and should be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
}

/// An image and the chain of its backing images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The backing image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_image: Option<Box<ImageInfo>>,
    /// The image by itself.
    #[serde(flatten)]
    pub base: BlockNodeInfo,
}

/// What lies below an image, in one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockChildInfo {
    /// The role: `file`, `data-file` …
    pub name: String,
    /// What is there.
    pub info: BlockGraphInfo,
}

/// An image and everything that it stores its data in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockGraphInfo {
    /// What lies below, except backing images.
    pub children: Vec<BlockChildInfo>,
    /// The image by itself.
    #[serde(flatten)]
    pub base: BlockNodeInfo,
}

/// The result of a consistency check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageCheck {
    /// Where the last used byte of the file ends, of formats that know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_end_offset: Option<u64>,
    /// Clusters stored compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed_clusters: Option<u64>,
    /// Clusters of the virtual disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_clusters: Option<u64>,
    /// Broken rules found; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corruptions: Option<u64>,
    /// Broken rules repaired; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corruptions_fixed: Option<u64>,
    /// Failures that kept the check from looking everywhere.
    pub check_errors: u64,
    /// Clusters allocated and not used; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks: Option<u64>,
    /// Such clusters freed; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks_fixed: Option<u64>,
    /// Clusters that hold data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_clusters: Option<u64>,
    /// The name of the image.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// Clusters that do not lie behind the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragmented_clusters: Option<u64>,
}

/// One run of bytes of an image's map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MapEntry {
    /// Its first byte on the virtual disk.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// How many layers down the chain it was decided; 0 is the image itself.
    pub depth: u64,
    /// Whether a layer of the chain decides it.
    pub present: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
    /// Whether bytes are stored for it.
    pub data: bool,
    /// Whether these are compressed.
    pub compressed: bool,
    /// Where they lie in the file, if they lie there as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The name of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// How large an image would become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockMeasureInfo {
    /// Bytes for copying the persistent bitmaps, where source and target can have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
    /// Bytes of the new image when it is complete.
    pub required: u64,
    /// Bytes of it when every cluster is written.
    pub fully_allocated: u64,
}

/// What is allocated when an image is created or grown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

names!("preallocation mode", PreallocMode {
    Off => "off",
    Metadata => "metadata",
    Falloc => "falloc",
    Full => "full",
});

/// The version of a qcow2 image, for creating one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockdevQcow2Version {
    /// Version 2: `compat=0.10`.
    V2,
    /// Version 3: `compat=1.1`.
    #[default]
    V3,
}

names!("qcow2 version", BlockdevQcow2Version { V2 => "v2", V3 => "v3" });

/// How the compressed clusters of a qcow2 image are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Qcow2CompressionType {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

names!("compression type", Qcow2CompressionType { Zlib => "zlib", Zstd => "zstd" });

/// A dirty bitmap stored in a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2BitmapInfo {
    /// Its flags.
    pub flags: Vec<Qcow2BitmapInfoFlags>,
    /// Its name.
    pub name: String,
    /// The bytes that one bit stands for.
    pub granularity: u32,
}

/// A flag of a stored dirty bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Qcow2BitmapInfoFlags {
    /// It was in use and not saved, so its contents cannot be relied on.
    InUse,
    /// It records writes as soon as the image is opened for writing.
    Auto,
}

names!("bitmap flag", Qcow2BitmapInfoFlags { InUse => "in-use", Auto => "auto" });
