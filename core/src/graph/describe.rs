//! What nodes are, in the schema's words.

use super::edge::Edge;
use super::node::Node;
use super::root::Root;
use crate::Result;
use crate::format::Layer;
use crate::format::detect::MAX_CHAIN;
use crate::image::{info_of_device, info_of_image};
use crate::io::BoxFuture;
use crate::qapi::{BlockChildInfo, BlockGraphInfo, BlockNodeInfo, SnapshotInfo};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// The schema's `BlockNodeInfo` of a node.
pub(crate) async fn node_info(node: &Arc<Node>) -> Result<BlockNodeInfo> {
    let mut base = match node.image() {
        Some(image) => info_of_image(&image).await?,
        None => info_of_device(&*node.device()).await?,
    };
    base = BlockNodeInfo { filename: node.filename(), format: node.driver().to_string(), ..base };
    if node.image().is_none() || node.driver() == "raw" {
        // Of what only passes on, what it passes on is told.
        let (cluster_size, dirty_flag) = passed_on(node).await?;
        (base.cluster_size, base.dirty_flag) = (cluster_size, dirty_flag);
        let snapshots = with_snapshots(node).and_then(|image| snapshots_of(&image));
        base.snapshots = snapshots.filter(|list| !list.is_empty());
        if !matches!(node.driver(), "file" | "host_device") {
            base.format_specific = None;
        }
        if node.driver() == "host_cdrom" {
            base.dirty_flag = None;
        }
    }
    Ok(base)
}

/// The node that a [device](BlockDevice::node) of a graph is a use of.
pub(crate) fn node_of(device: &(dyn Any + Send + Sync)) -> Option<Arc<Node>> {
    if let Some(edge) = device.downcast_ref::<Edge>() {
        return edge.target();
    }
    device.downcast_ref::<Root>()?.node()
}

/// The schema's `BlockGraphInfo` of a node: with its children, the newest first.
pub(crate) fn graph_info(node: Arc<Node>) -> BoxFuture<'static, Result<BlockGraphInfo>> {
    Box::pin(async move {
        let mut children = Vec::new();
        for edge in node.children_by_age().iter().rev() {
            if let Some(below) = edge.target() {
                let info = graph_info(below).await?;
                children.push(BlockChildInfo { name: edge.name().to_string(), info });
            }
        }
        Ok(BlockGraphInfo { base: node_info(&node).await?, children })
    })
}

/// The cluster size of what a node stands on, and whether that is dirty, where it tells.
async fn passed_on(node: &Arc<Node>) -> Result<(Option<u64>, Option<bool>)> {
    let mut node = node.clone();
    for _ in 0..MAX_CHAIN {
        match (node.driver(), node.image()) {
            ("raw", _) | (_, None) => {}
            (_, Some(image)) => {
                let told = image.driver().describe().await?;
                return Ok((told.cluster_size, Some(told.dirty)));
            }
        }
        let next = match node.driver() {
            "quorum" | "null-co" | "null-aio" | "nbd" | "snapshot-access" => {
                return Ok((None, None));
            }
            _ => node.primary(),
        };
        match next {
            Some(next) => node = next,
            None => return Ok((None, Some(false))),
        }
    }
    Ok((None, None))
}

/// The image in which a node's snapshots are: its own, or that of the one node that it stands on.
pub(crate) fn with_snapshots(node: &Arc<Node>) -> Option<Arc<Layer>> {
    let mut next = node.clone();
    loop {
        if let Some(image) = next.image().filter(|image| image.driver().snapshots().is_some()) {
            return Some(image);
        }
        // A snapshot of one of several would not be one of the node.
        let below = next.primary().filter(|_| next.children().len() == 1)?;
        next = below;
    }
}

/// The snapshots of an image, where it has a list of them. One with a data file has none.
pub(crate) fn snapshots_of(image: &Layer) -> Option<Vec<SnapshotInfo>> {
    let snapshots = image.driver().snapshots().filter(|_| image.data_file().is_none())?;
    Some(snapshots.list())
}
