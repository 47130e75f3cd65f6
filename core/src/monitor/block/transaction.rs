//! `transaction`: several actions, all of them or none.

use super::bitmaps::find;
use super::{BlockCommands, nothing};
use crate::Result;
use crate::bitmap::DirtyBitmap;
use crate::format::Layer;
use crate::graph::{Node, Overlaid};
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{ActionCompletionMode, BlockDirtyBitmap, Transaction, TransactionAction, parse};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// What takes an action back.
enum Undo {
    /// The bitmap was not there.
    Added(Arc<Node>, String),
    /// The bitmap was there.
    Removed(Arc<Node>, Arc<DirtyBitmap>),
    /// The bitmap recorded, or did not.
    Recording(Arc<Node>, String, bool),
    /// The bitmap had these bits.
    Bits(Arc<DirtyBitmap>, DirtyBitmap),
    /// Nothing stood on the node.
    Overlaid(Overlaid),
    /// There was no such internal snapshot.
    Snapshot(Arc<Layer>, String),
}

impl BlockCommands {
    pub(super) async fn transaction(&self, arguments: Map<String, Value>) -> QmpResult<Value> {
        let Transaction { actions, properties } = parse(arguments)?;
        let mode = properties.and_then(|properties| properties.completion_mode);
        if mode == Some(ActionCompletionMode::Grouped)
            && let Some(action) = actions.iter().find(|action| !can_be_grouped(action))
        {
            return Err(QmpError::generic(alloc::format!(
                "Action '{}' does not support transaction property completion-mode = grouped",
                name_of(action)
            )));
        }
        let mut undo = Vec::new();
        for action in actions {
            match self.act(action).await {
                Ok(done) => undo.extend(done),
                Err(error) => {
                    for done in undo.into_iter().rev() {
                        // What cannot be taken back has failed for reasons of its own; the first
                        // error says more.
                        let _ = self.take_back(done).await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(nothing())
    }

    async fn act(&self, action: TransactionAction) -> QmpResult<Option<Undo>> {
        Ok(Some(match action {
            TransactionAction::Abort(_) => {
                return Err(QmpError::generic("Transaction aborted using Abort action"));
            }
            TransactionAction::BlockDirtyBitmapAdd(add) => {
                let (node, bitmap) = self.add_bitmap(&add)?;
                Undo::Added(node, bitmap.name().into())
            }
            TransactionAction::BlockDirtyBitmapRemove(which) => {
                let (node, bitmap) = self.find_bitmap(&which)?;
                node.bitmaps().remove(bitmap.name())?;
                Undo::Removed(node, bitmap)
            }
            TransactionAction::BlockDirtyBitmapClear(which) => {
                let (node, bitmap) = self.find_bitmap(&which)?;
                bitmap.check_writable()?;
                let bits = copy(&bitmap)?;
                node.bitmaps().clear(bitmap.name())?;
                Undo::Bits(bitmap, bits)
            }
            TransactionAction::BlockDirtyBitmapEnable(which) => self.record(&which, true)?,
            TransactionAction::BlockDirtyBitmapDisable(which) => self.record(&which, false)?,
            TransactionAction::BlockDirtyBitmapMerge(merge) => {
                let node = self.of_bitmap(&merge.node)?;
                let target = find(&node, &merge.target)?;
                let bits = copy(&target)?;
                self.merge_bitmaps(merge)?;
                Undo::Bits(target, bits)
            }
            TransactionAction::BlockdevSnapshot(snapshot) => {
                let node = self.graph.by_any_name(&snapshot.node)?;
                self.graph.refuse_busy(&node)?;
                let overlay = self.graph.by_any_name(&snapshot.overlay)?;
                Undo::Overlaid(self.graph.snapshot(&node, &overlay).await?)
            }
            TransactionAction::BlockdevSnapshotSync(snapshot) => {
                Undo::Overlaid(self.snapshot_sync(snapshot).await?)
            }
            TransactionAction::BlockdevSnapshotInternalSync(snapshot) => {
                let (image, made) = self.snapshot_internal(snapshot).await?;
                Undo::Snapshot(image, made.id)
            }
            TransactionAction::BlockdevBackup(_) | TransactionAction::DriveBackup(_) => {
                return Err(QmpError::generic("backups in a transaction are not supported yet"));
            }
        }))
    }

    fn find_bitmap(&self, which: &BlockDirtyBitmap) -> QmpResult<(Arc<Node>, Arc<DirtyBitmap>)> {
        let node = self.of_bitmap(&which.node)?;
        let bitmap = find(&node, &which.name)?;
        Ok((node, bitmap))
    }

    fn record(&self, which: &BlockDirtyBitmap, recording: bool) -> QmpResult<Undo> {
        let (node, bitmap) = self.find_bitmap(which)?;
        let was = bitmap.status().recording;
        node.bitmaps().set_recording(bitmap.name(), recording)?;
        Ok(Undo::Recording(node, bitmap.name().into(), was))
    }

    async fn take_back(&self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Added(node, name) => node.bitmaps().remove(&name),
            Undo::Removed(node, bitmap) => node.bitmaps().adopt(bitmap),
            Undo::Recording(node, name, was) => node.bitmaps().set_recording(&name, was),
            // What was written since is dirty too: bits are added back, and none taken away.
            Undo::Bits(bitmap, bits) => bitmap.merge(&bits),
            Undo::Overlaid(overlaid) => self.graph.undo_snapshot(&overlaid).await,
            Undo::Snapshot(image, id) => match image.driver().snapshots() {
                Some(snapshots) => snapshots.delete(&id).await,
                None => Ok(()),
            },
        }
    }
}

fn copy(bitmap: &DirtyBitmap) -> Result<DirtyBitmap> {
    let copy = DirtyBitmap::new(bitmap.name(), bitmap.size(), bitmap.granularity())?;
    copy.merge(bitmap)?;
    Ok(copy)
}

/// Backups are jobs, which can end together; nothing else can.
fn can_be_grouped(action: &TransactionAction) -> bool {
    use TransactionAction::{
        Abort, BlockDirtyBitmapAdd, BlockDirtyBitmapClear, BlockDirtyBitmapDisable,
        BlockDirtyBitmapEnable, BlockDirtyBitmapMerge, BlockDirtyBitmapRemove, BlockdevBackup,
        BlockdevSnapshot, BlockdevSnapshotInternalSync, BlockdevSnapshotSync, DriveBackup,
    };
    match action {
        BlockdevBackup(_) | DriveBackup(_) => true,
        Abort(_)
        | BlockDirtyBitmapAdd(_)
        | BlockDirtyBitmapClear(_)
        | BlockDirtyBitmapDisable(_)
        | BlockDirtyBitmapEnable(_)
        | BlockDirtyBitmapMerge(_)
        | BlockDirtyBitmapRemove(_)
        | BlockdevSnapshot(_)
        | BlockdevSnapshotInternalSync(_)
        | BlockdevSnapshotSync(_) => false,
    }
}

fn name_of(action: &TransactionAction) -> String {
    let value = serde_json::to_value(action).unwrap_or_default();
    value.get("type").and_then(Value::as_str).unwrap_or_default().into()
}
