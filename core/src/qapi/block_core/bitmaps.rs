//! Dirty bitmaps.

use crate::qapi::schema::Natural;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// A dirty bitmap of a node.
#[qapi]
pub struct BlockDirtyBitmap {
    /// The node.
    pub node: String,
    /// The bitmap.
    pub name: String,
}

/// A new dirty bitmap.
#[qapi]
pub struct BlockDirtyBitmapAdd {
    /// The node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: Option<u32>,
    /// Whether it is stored with the image.
    pub persistent: Option<bool>,
    /// Whether writes set no bits.
    pub disabled: Option<bool>,
}

/// A bitmap: of the node that is spoken of, or of another.
#[qapi(alternate)]
pub enum BlockDirtyBitmapOrStr {
    /// Of this node.
    Local(String),
    /// Of another.
    External(BlockDirtyBitmap),
}

/// Bitmaps that are merged into one.
#[qapi]
pub struct BlockDirtyBitmapMerge {
    /// The node.
    pub node: String,
    /// The one.
    pub target: String,
    /// The bitmaps.
    pub bitmaps: Vec<BlockDirtyBitmapOrStr>,
}

/// The digest of a bitmap's contents.
#[qapi]
pub struct BlockDirtyBitmapSha256 {
    /// The digest.
    pub sha256: String,
}

/// A dirty bitmap.
#[qapi]
pub struct BlockDirtyInfo {
    /// Its name.
    pub name: Option<String>,
    /// Bytes that are dirty.
    pub count: Natural,
    /// Bytes that a bit stands for.
    pub granularity: u32,
    /// Whether writes set bits.
    pub recording: bool,
    /// Whether something works on it.
    pub busy: bool,
    /// Whether it is stored with the image.
    pub persistent: bool,
    /// Whether it was not stored and can only be removed.
    pub inconsistent: Option<bool>,
}
