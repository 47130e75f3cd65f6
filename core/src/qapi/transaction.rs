//! `transaction.json`: several actions, all or none.

use crate::qapi::tables::Command;
use crate::qapi::{
    BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockdevBackup, BlockdevSnapshot,
    BlockdevSnapshotInternal, BlockdevSnapshotSync, DriveBackup,
};
use alloc::vec::Vec;
use sectora_derive::qapi;

/// Fails: it makes all others be undone.
#[qapi]
#[derive(Default)]
pub struct Abort {}

/// Whether jobs of a transaction end together.
#[qapi]
pub enum ActionCompletionMode {
    /// Each ends by itself.
    Individual,
    /// All succeed or none.
    Grouped,
}

/// A kind of action.
#[qapi]
pub enum TransactionActionKind {
    /// One that fails.
    Abort,
    /// A bitmap is made.
    BlockDirtyBitmapAdd,
    /// A bitmap is removed.
    BlockDirtyBitmapRemove,
    /// A bitmap is cleared.
    BlockDirtyBitmapClear,
    /// Writes set its bits.
    BlockDirtyBitmapEnable,
    /// Writes no longer do.
    BlockDirtyBitmapDisable,
    /// Bitmaps are merged.
    BlockDirtyBitmapMerge,
    /// A backup begins.
    BlockdevBackup,
    /// A node is put on top of another.
    BlockdevSnapshot,
    /// A snapshot is taken inside an image.
    BlockdevSnapshotInternalSync,
    /// An image is made on top of a node.
    BlockdevSnapshotSync,
    /// A backup into a file begins.
    #[qapi(deprecated)]
    DriveBackup,
}

/// One action.
#[qapi(tag = "type", by = TransactionActionKind, content)]
pub enum TransactionAction {
    /// One that fails.
    Abort(Abort),
    /// A bitmap is made.
    BlockDirtyBitmapAdd(BlockDirtyBitmapAdd),
    /// A bitmap is removed.
    BlockDirtyBitmapRemove(BlockDirtyBitmap),
    /// A bitmap is cleared.
    BlockDirtyBitmapClear(BlockDirtyBitmap),
    /// Writes set its bits.
    BlockDirtyBitmapEnable(BlockDirtyBitmap),
    /// Writes no longer do.
    BlockDirtyBitmapDisable(BlockDirtyBitmap),
    /// Bitmaps are merged.
    BlockDirtyBitmapMerge(BlockDirtyBitmapMerge),
    /// A backup begins.
    BlockdevBackup(BlockdevBackup),
    /// A node is put on top of another.
    BlockdevSnapshot(BlockdevSnapshot),
    /// A snapshot is taken inside an image.
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternal),
    /// An image is made on top of a node.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
    /// A backup into a file begins.
    DriveBackup(DriveBackup),
}

/// How a transaction goes.
#[qapi]
#[derive(Default)]
pub struct TransactionProperties {
    /// Whether its jobs end together.
    pub completion_mode: Option<ActionCompletionMode>,
}

/// `transaction`: several actions, all or none.
#[qapi]
pub struct Transaction {
    /// The actions.
    pub actions: Vec<TransactionAction>,
    /// How it goes.
    pub properties: Option<TransactionProperties>,
}

/// The commands of `transaction.json`.
pub(crate) static COMMANDS: &[Command] = &[Command::new("transaction").takes::<Transaction>()];
