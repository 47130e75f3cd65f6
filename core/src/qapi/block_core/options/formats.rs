//! Options of image formats.

use crate::qapi::{
    BlockdevRef, BlockdevRefOrNull, QCryptoBlockOptionsLUKS, QCryptoBlockOptionsQCow,
};
use alloc::string::String;
use sectora_derive::qapi;

/// Any format over one node.
#[qapi]
pub struct BlockdevOptionsGenericFormat {
    /// The node below.
    pub file: BlockdevRef,
}

/// A LUKS volume.
#[qapi]
pub struct BlockdevOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// The secret object that holds the key or passphrase.
    pub key_secret: Option<String>,
    /// The node with the LUKS header, where it is apart.
    pub header: Option<BlockdevRef>,
}

/// Any format that can have a backing image.
#[qapi]
pub struct BlockdevOptionsGenericCOWFormat {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// The backing image; null for none although the image names one.
    pub backing: Option<BlockdevRefOrNull>,
}

/// A choice of the checks that no metadata is written over.
#[qapi]
pub enum Qcow2OverlapCheckMode {
    /// None.
    None,
    /// Those that cost the same however large the image.
    Constant,
    /// Those that need no reading.
    Cached,
    /// All.
    All,
}

/// The checks one by one, over a choice.
#[qapi]
#[derive(Default)]
pub struct Qcow2OverlapCheckFlags {
    /// The choice that the others differ from.
    pub template: Option<Qcow2OverlapCheckMode>,
    /// The header.
    pub main_header: Option<bool>,
    /// The active first-level table.
    pub active_l1: Option<bool>,
    /// The active second-level tables.
    pub active_l2: Option<bool>,
    /// The table of reference counts.
    pub refcount_table: Option<bool>,
    /// The blocks of reference counts.
    pub refcount_block: Option<bool>,
    /// The table of snapshots.
    pub snapshot_table: Option<bool>,
    /// The first-level tables of snapshots.
    pub inactive_l1: Option<bool>,
    /// The second-level tables of snapshots.
    pub inactive_l2: Option<bool>,
    /// The directory of bitmaps.
    pub bitmap_directory: Option<bool>,
}

/// Which checks there are.
#[qapi(alternate)]
pub enum Qcow2OverlapChecks {
    /// One by one.
    Flags(Qcow2OverlapCheckFlags),
    /// A choice.
    Mode(Qcow2OverlapCheckMode),
}

/// The encryption of the first qcow.
#[qapi]
pub enum BlockdevQcowEncryptionFormat {
    /// AES-CBC.
    Aes,
}

/// What opens an encrypted image of the first qcow.
#[qapi(tag = "format", by = BlockdevQcowEncryptionFormat)]
pub enum BlockdevQcowEncryption {
    /// AES-CBC.
    Aes(QCryptoBlockOptionsQCow),
}

/// An image of the first qcow.
#[qapi]
pub struct BlockdevOptionsQcow {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericCOWFormat,
    /// How it is encrypted.
    pub encrypt: Option<BlockdevQcowEncryption>,
}

/// How the clusters of an encrypted qcow2 image are encrypted.
#[qapi(what = "encryption format")]
pub enum BlockdevQcow2EncryptionFormat {
    /// AES-CBC with a plain passphrase: legacy, and weak.
    Aes,
    /// A LUKS header inside the image.
    Luks,
}

/// What opens an encrypted qcow2 image.
#[qapi(tag = "format", by = BlockdevQcow2EncryptionFormat)]
pub enum BlockdevQcow2Encryption {
    /// AES-CBC.
    Aes(QCryptoBlockOptionsQCow),
    /// LUKS.
    Luks(QCryptoBlockOptionsLUKS),
}

/// A qcow2 image.
#[qapi]
pub struct BlockdevOptionsQcow2 {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericCOWFormat,
    /// Whether reference counts may lag behind.
    pub lazy_refcounts: Option<bool>,
    /// Whether discards of the guest reach the file.
    pub pass_discard_request: Option<bool>,
    /// Whether those of deleted snapshots do.
    pub pass_discard_snapshot: Option<bool>,
    /// Whether all others do.
    pub pass_discard_other: Option<bool>,
    /// Whether discarded clusters stay where they are.
    pub discard_no_unref: Option<bool>,
    /// The checks that no metadata is written over.
    pub overlap_check: Option<Qcow2OverlapChecks>,
    /// Bytes for all cached metadata.
    pub cache_size: Option<i64>,
    /// Bytes for second-level tables of those.
    pub l2_cache_size: Option<i64>,
    /// Bytes that are read of a table at a time.
    pub l2_cache_entry_size: Option<i64>,
    /// Bytes for reference counts.
    pub refcount_cache_size: Option<i64>,
    /// Seconds after which what was not used is given up; 0 is never.
    pub cache_clean_interval: Option<i64>,
    /// How it is encrypted.
    pub encrypt: Option<BlockdevQcow2Encryption>,
    /// The node with the guest's data, where they are apart.
    pub data_file: Option<BlockdevRef>,
}

/// The bytes of a node, or a part of them.
#[qapi]
pub struct BlockdevOptionsRaw {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsGenericFormat,
    /// Where the part begins.
    pub offset: Option<i64>,
    /// How long it is.
    pub size: Option<i64>,
}

/// A folder as a disk.
#[qapi]
pub struct BlockdevOptionsVVFAT {
    /// The folder.
    pub dir: String,
    /// The width of an entry: 12, 16 or 32.
    pub fat_type: Option<i64>,
    /// Whether it is a floppy.
    pub floppy: Option<bool>,
    /// The name of the volume.
    pub label: Option<String>,
    /// Whether the folder can be changed.
    pub rw: Option<bool>,
}
