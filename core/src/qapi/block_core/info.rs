//! What is told about images.

use crate::qapi::schema::{Natural, Size};
use crate::qapi::{
    BlockdevQcow2EncryptionFormat, QCryptoBlockInfoLUKS, Qcow2CompressionType,
    RbdImageEncryptionFormat,
};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// An internal snapshot of an image.
#[qapi]
#[derive(Default, Eq)]
pub struct SnapshotInfo {
    /// Instructions executed when it was taken, of a machine that records and replays.
    pub icount: Option<Natural>,
    /// The machine's clock: nanoseconds within the second.
    pub vm_clock_nsec: Natural,
    /// Its name.
    pub name: String,
    /// When it was taken: seconds since 1970.
    pub date_sec: Natural,
    /// When it was taken: nanoseconds within the second.
    pub date_nsec: Natural,
    /// The machine's clock: seconds.
    pub vm_clock_sec: Natural,
    /// Its number or other identity, unique in the image.
    pub id: String,
    /// Bytes of machine state that it holds.
    pub vm_state_size: Natural,
}

/// The encryption of a qcow2 image, by [format](BlockdevQcow2EncryptionFormat).
#[qapi(tag = "format", by = BlockdevQcow2EncryptionFormat, ordered)]
#[derive(Eq)]
pub enum ImageInfoSpecificQCow2Encryption {
    /// AES-CBC with a plain passphrase.
    Aes,
    /// LUKS.
    Luks(QCryptoBlockInfoLUKS),
}

/// The members in the order in which the reference prints them: the format is not the first.
impl Serialize for ImageInfoSpecificQCow2Encryption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let Self::Luks(luks) = self else {
            map.serialize_entry("format", "aes")?;
            return map.end();
        };
        map.serialize_entry("ivgen-alg", &luks.ivgen_alg)?;
        map.serialize_entry("detached-header", &luks.detached_header)?;
        map.serialize_entry("hash-alg", &luks.hash_alg)?;
        map.serialize_entry("cipher-alg", &luks.cipher_alg)?;
        map.serialize_entry("uuid", &luks.uuid)?;
        if let Some(hash) = &luks.ivgen_hash_alg {
            map.serialize_entry("ivgen-hash-alg", hash)?;
        }
        map.serialize_entry("format", "luks")?;
        map.serialize_entry("cipher-mode", &luks.cipher_mode)?;
        map.serialize_entry("slots", &luks.slots)?;
        map.serialize_entry("payload-offset", &luks.payload_offset)?;
        map.serialize_entry("master-key-iters", &luks.master_key_iters)?;
        map.end()
    }
}

/// What is particular to a qcow2 image.
#[qapi]
#[derive(Eq)]
pub struct ImageInfoSpecificQCow2 {
    /// The version, as the first QEMU that read it: `0.10` for 2, `1.1` for 3.
    pub compat: String,
    /// How compressed clusters are compressed.
    pub compression_type: Qcow2CompressionType,
    /// Whether reference counts may lag behind (version 3).
    pub lazy_refcounts: Option<bool>,
    /// The dirty bitmaps, where there are any.
    pub bitmaps: Option<Vec<Qcow2BitmapInfo>>,
    /// The width of a reference count.
    pub refcount_bits: Natural,
    /// The name of the file that holds the guest's data, where it is not this one.
    pub data_file: Option<String>,
    /// The encryption, of an encrypted image.
    pub encrypt: Option<ImageInfoSpecificQCow2Encryption>,
    /// Whether the data file alone is a raw image of the contents.
    pub data_file_raw: Option<bool>,
    /// Whether the image is marked as damaged (version 3).
    pub corrupt: Option<bool>,
    /// Whether clusters are divided into subclusters (version 3).
    pub extended_l2: Option<bool>,
}

/// What is particular to a VMDK image.
#[qapi]
#[derive(Eq)]
pub struct ImageInfoSpecificVmdk {
    /// Its kind, as its descriptor has it.
    pub create_type: String,
    /// The identity of its contents.
    pub cid: Natural,
    /// That of its parent.
    pub parent_cid: Natural,
    /// The files of it.
    pub extents: Vec<VmdkExtentInfo>,
}

/// One file of a VMDK image.
#[qapi]
#[derive(Eq)]
pub struct VmdkExtentInfo {
    /// Its name.
    pub filename: String,
    /// Its kind.
    pub format: String,
    /// The bytes of the disk that it holds.
    pub virtual_size: Natural,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Natural>,
    /// Whether its contents are compressed.
    pub compressed: Option<bool>,
}

/// What is particular to a Ceph image.
#[qapi]
#[derive(Default, Eq)]
pub struct ImageInfoSpecificRbd {
    /// Its encryption.
    pub encryption_format: Option<RbdImageEncryptionFormat>,
}

/// What is particular to a file.
#[qapi]
#[derive(Default, Eq)]
pub struct ImageInfoSpecificFile {
    /// The unit in which the file system is asked to allocate, in bytes.
    pub extent_size_hint: Option<Size>,
}

/// The formats and protocols that have something particular to tell.
#[qapi(what = "kind")]
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

/// What is particular to a format or protocol, by [kind](ImageInfoSpecificKind).
#[qapi(tag = "type", by = ImageInfoSpecificKind, content)]
#[derive(Eq)]
pub enum ImageInfoSpecific {
    /// A qcow2 image.
    Qcow2(ImageInfoSpecificQCow2),
    /// A VMDK image.
    Vmdk(ImageInfoSpecificVmdk),
    /// A LUKS volume.
    Luks(QCryptoBlockInfoLUKS),
    /// A Ceph image.
    Rbd(ImageInfoSpecificRbd),
    /// A local file.
    File(ImageInfoSpecificFile),
}

/// An image or file by itself, without what lies below it.
#[qapi]
#[derive(Default, Eq)]
pub struct BlockNodeInfo {
    /// Whether the contents are compressed as a whole.
    pub compressed: Option<bool>,
    /// The format of the backing file, as the image names it.
    pub backing_filename_format: Option<String>,
    /// The internal snapshots, where there are any.
    pub snapshots: Option<Vec<SnapshotInfo>>,
    /// The size that a guest sees, in bytes.
    pub virtual_size: Natural,
    /// The name that it was opened by.
    pub filename: String,
    /// The unit of allocation, in bytes.
    pub cluster_size: Option<Natural>,
    /// The name of its format or protocol.
    pub format: String,
    /// Bytes that it occupies on the storage.
    pub actual_size: Option<Natural>,
    /// What is particular to the format.
    pub format_specific: Option<ImageInfoSpecific>,
    /// The name of the backing file, resolved against the image's own place.
    pub full_backing_filename: Option<String>,
    /// Whether it is encrypted.
    pub encrypted: Option<bool>,
    /// The name of the backing file, as the image names it.
    pub backing_filename: Option<String>,
    /// Whether it was not closed cleanly and should be checked.
    pub dirty_flag: Option<bool>,
}

/// An image and the chain of its backing images.
#[qapi]
#[derive(Default, Eq)]
pub struct ImageInfo {
    /// The backing image.
    pub backing_image: Option<Box<ImageInfo>>,
    /// The image by itself.
    #[qapi(base)]
    pub base: BlockNodeInfo,
}

/// What lies below an image, in one role.
#[qapi]
#[derive(Eq)]
pub struct BlockChildInfo {
    /// The role: `file`, `data-file` …
    pub name: String,
    /// What is there.
    pub info: BlockGraphInfo,
}

/// An image and everything that it stores its data in.
#[qapi]
#[derive(Default, Eq)]
pub struct BlockGraphInfo {
    /// What lies below, except backing images.
    pub children: Vec<BlockChildInfo>,
    /// The image by itself.
    #[qapi(base)]
    pub base: BlockNodeInfo,
}

/// The result of a consistency check.
#[qapi]
#[derive(Default, Eq)]
pub struct ImageCheck {
    /// Where the last used byte of the file ends, of formats that know.
    pub image_end_offset: Option<Natural>,
    /// Clusters stored compressed.
    pub compressed_clusters: Option<Natural>,
    /// Clusters of the virtual disk.
    pub total_clusters: Option<Natural>,
    /// Broken rules found; absent for none.
    pub corruptions: Option<Natural>,
    /// Broken rules repaired; absent for none.
    pub corruptions_fixed: Option<Natural>,
    /// Failures that kept the check from looking everywhere.
    pub check_errors: Natural,
    /// Clusters allocated and not used; absent for none.
    pub leaks: Option<Natural>,
    /// Such clusters freed; absent for none.
    pub leaks_fixed: Option<Natural>,
    /// Clusters that hold data.
    pub allocated_clusters: Option<Natural>,
    /// The name of the image.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// Clusters that do not lie behind the one before.
    pub fragmented_clusters: Option<Natural>,
}

/// One run of bytes of an image's map.
#[qapi]
#[derive(Eq)]
pub struct MapEntry {
    /// Its first byte on the virtual disk.
    pub start: Natural,
    /// Its length in bytes.
    pub length: Natural,
    /// How many layers down the chain it was decided; 0 is the image itself.
    pub depth: Natural,
    /// Whether a layer of the chain decides it.
    pub present: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
    /// Whether bytes are stored for it.
    pub data: bool,
    /// Whether these are compressed.
    pub compressed: bool,
    /// Where they lie in the file, if they lie there as they are.
    pub offset: Option<Natural>,
    /// The name of that file.
    pub filename: Option<String>,
}

/// How large an image would become.
#[qapi]
#[derive(Default, Eq)]
pub struct BlockMeasureInfo {
    /// Bytes for copying the persistent bitmaps, where source and target can have them.
    pub bitmaps: Option<Natural>,
    /// Bytes of the new image when it is complete.
    pub required: Natural,
    /// Bytes of it when every cluster is written.
    pub fully_allocated: Natural,
}

/// A dirty bitmap stored in a qcow2 image.
#[qapi]
#[derive(Eq)]
pub struct Qcow2BitmapInfo {
    /// Its flags.
    pub flags: Vec<Qcow2BitmapInfoFlags>,
    /// Its name.
    pub name: String,
    /// The bytes that one bit stands for.
    pub granularity: u32,
}

/// A flag of a stored dirty bitmap.
#[qapi(what = "bitmap flag")]
pub enum Qcow2BitmapInfoFlags {
    /// It was in use and not saved, so its contents cannot be relied on.
    InUse,
    /// It records writes as soon as the image is opened for writing.
    Auto,
}
