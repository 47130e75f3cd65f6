//! Commands on dirty bitmaps.

use super::{BlockCommands, nothing, told};
use crate::bitmap::{DirtyBitmap, default_granularity};
use crate::graph::Node;
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{
    BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockDirtyBitmapOrStr,
    BlockDirtyBitmapSha256, parse,
};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

impl BlockCommands {
    pub(super) async fn block_dirty_bitmap_add(&self, arguments: Arguments) -> QmpResult<Value> {
        self.add_bitmap(&parse(arguments)?)?;
        Ok(nothing())
    }

    pub(super) fn add_bitmap(
        &self,
        add: &BlockDirtyBitmapAdd,
    ) -> QmpResult<(Arc<Node>, Arc<DirtyBitmap>)> {
        if add.name.is_empty() {
            return Err(QmpError::generic("Bitmap name cannot be empty"));
        }
        let node = self.graph.by_any_name(&add.node)?;
        let device = node.device();
        let granularity = match add.granularity {
            Some(asked) if asked < 512 || !asked.is_power_of_two() => {
                return Err(QmpError::generic("Granularity must be power of 2 and at least 512"));
            }
            Some(asked) => u64::from(asked),
            // What comes from the host has no clusters.
            None if node.image().is_none() && node.children().is_empty() => default_granularity(0),
            None => default_granularity(device.limits().granularity),
        };
        let bitmap = DirtyBitmap::new(&add.name, device.len(), granularity)?;
        if add.persistent == Some(true) {
            bitmap.set_persistent(true);
            can_store(&node, &bitmap)?;
        }
        if node.bitmaps().get(&add.name).is_some() {
            return Err(QmpError::generic(format!("Bitmap already exists: {}", add.name)));
        }
        bitmap.set_recording(add.disabled != Some(true));
        let bitmap = node.bitmaps().add(bitmap)?;
        Ok((node, bitmap))
    }

    pub(super) async fn block_dirty_bitmap_remove(&self, arguments: Arguments) -> QmpResult<Value> {
        let (node, name) = self.bitmap(arguments)?;
        node.bitmaps().remove(&name)?;
        Ok(nothing())
    }

    pub(super) async fn block_dirty_bitmap_clear(&self, arguments: Arguments) -> QmpResult<Value> {
        let (node, name) = self.bitmap(arguments)?;
        node.bitmaps().clear(&name)?;
        Ok(nothing())
    }

    pub(super) async fn block_dirty_bitmap_enable(&self, arguments: Arguments) -> QmpResult<Value> {
        let (node, name) = self.bitmap(arguments)?;
        node.bitmaps().set_recording(&name, true)?;
        Ok(nothing())
    }

    pub(super) async fn block_dirty_bitmap_disable(
        &self,
        arguments: Arguments,
    ) -> QmpResult<Value> {
        let (node, name) = self.bitmap(arguments)?;
        node.bitmaps().set_recording(&name, false)?;
        Ok(nothing())
    }

    pub(super) async fn block_dirty_bitmap_merge(&self, arguments: Arguments) -> QmpResult<Value> {
        self.merge_bitmaps(parse(arguments)?)?;
        Ok(nothing())
    }

    pub(super) fn merge_bitmaps(&self, args: BlockDirtyBitmapMerge) -> QmpResult<()> {
        let BlockDirtyBitmapMerge { node, target, bitmaps } = args;
        let node = self.of_bitmap(&node)?;
        let target = find(&node, &target)?;
        target.check_writable()?;
        let mut sources: Vec<Arc<DirtyBitmap>> = Vec::new();
        for source in bitmaps {
            sources.push(match source {
                BlockDirtyBitmapOrStr::Local(name) => find(&node, &name)?,
                BlockDirtyBitmapOrStr::External(other) => {
                    let node = self.of_bitmap(&other.node)?;
                    find(&node, &other.name)?
                }
            });
        }
        // All of them or none: what the target is to gain is gathered beside it.
        let whole = DirtyBitmap::new(target.name(), target.size(), target.granularity())?;
        for source in &sources {
            source.check_usable()?;
            whole.merge(source)?;
        }
        target.merge(&whole)?;
        Ok(())
    }

    pub(super) async fn x_debug_block_dirty_bitmap_sha256(
        &self,
        arguments: Arguments,
    ) -> QmpResult<Value> {
        let (node, name) = self.bitmap(arguments)?;
        let digest = find(&node, &name)?.sha256();
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        told(&BlockDirtyBitmapSha256 { sha256 })
    }

    fn bitmap(&self, arguments: Arguments) -> QmpResult<(Arc<Node>, String)> {
        let BlockDirtyBitmap { node, name } = parse(arguments)?;
        let node = self.of_bitmap(&node)?;
        find(&node, &name)?;
        Ok((node, name))
    }

    /// The node of a bitmap that is there.
    pub(super) fn of_bitmap(&self, name: &str) -> QmpResult<Arc<Node>> {
        let found = self.graph.find(name);
        found.ok_or_else(|| QmpError::generic(format!("Node '{name}' not found")))
    }
}

pub(super) fn find(node: &Node, name: &str) -> Result<Arc<DirtyBitmap>> {
    node.bitmaps().get(name).ok_or_else(|| {
        Error::new(crate::ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found"))
    })
}

fn can_store(node: &Node, bitmap: &DirtyBitmap) -> QmpResult<()> {
    let can = match node.image() {
        // It would be forgotten when the node is read anew.
        Some(_) if !node.settings().active => Err(Error::denied("the node is inactive")),
        Some(image) => image.driver().can_store_bitmap(bitmap),
        None => Err(Error::unsupported("Operation not supported")),
    };
    can.map_err(|e| {
        let what = e.what();
        QmpError::generic(format!("Can't store persistent bitmaps to {}: {what}", node.name()))
    })
}
