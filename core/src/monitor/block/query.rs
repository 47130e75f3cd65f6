//! What is told of nodes.

use super::{BlockCommands, told};
use crate::Result;
use crate::backend::Backend;
use crate::bitmap::{BitmapSet, DirtyBitmap};
use crate::filter::CopyBeforeWrite;
use crate::format::DetectZeroes;
use crate::graph::{Edge, Filter, Node, Permissions, node_info};
use crate::io::Instant;
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{
    BlockDeviceInfo, BlockDeviceStats, BlockDirtyInfo, BlockInfo, BlockPermission, BlockStats,
    BlockStatsSpecific, BlockStatsSpecificFile, BlockdevCacheInfo, BlockdevChild,
    BlockdevDetectZeroesOptions, ImageInfo, QueryBlockstats, QueryNamedBlockNodes, XDbgBlockGraph,
    XDbgBlockGraphEdge, XDbgBlockGraphNode, XDbgBlockGraphNodeType, parse,
};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

/// Images below one that is told of, at most.
const MAX_CHAIN: usize = 256;

impl BlockCommands {
    pub(super) async fn query_block(&self, arguments: Arguments) -> QmpResult<Value> {
        none(arguments)?;
        let mut out = Vec::new();
        for backend in self.backends.all() {
            let inserted = match backend.root().node() {
                Some(node) => Some(device_info(&node, false).await?),
                None => None,
            };
            out.push(BlockInfo {
                device: backend.id().to_string(),
                qdev: Some(backend.id().to_string()),
                r#type: "unknown".to_string(),
                removable: false,
                locked: false,
                inserted,
                tray_open: None,
                io_status: Some(backend.io_status()),
            });
        }
        told(&out)
    }

    pub(super) async fn query_named_block_nodes(&self, arguments: Arguments) -> QmpResult<Value> {
        let QueryNamedBlockNodes { flat } = parse(arguments)?;
        let mut out = Vec::new();
        // The newest first.
        for node in self.graph.nodes().iter().rev() {
            out.push(device_info(node, flat.unwrap_or(false)).await?);
        }
        told(&out)
    }

    pub(super) async fn query_blockstats(&self, arguments: Arguments) -> QmpResult<Value> {
        let QueryBlockstats { query_nodes } = parse(arguments)?;
        if query_nodes != Some(true) {
            let now = self.graph.env().runtime.now();
            let all = self.backends.all();
            let stats: Vec<BlockStats> = all.iter().map(|it| backend_stats(it, now)).collect();
            return told(&stats);
        }
        let nodes = self.graph.nodes();
        let stats: Vec<BlockStats> = nodes.iter().map(|node| node_stats(node, 0)).collect();
        told(&stats)
    }

    pub(super) async fn x_debug_query_block_graph(&self, arguments: Arguments) -> QmpResult<Value> {
        none(arguments)?;
        let mut graph = Numbered::default();
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        for root in self.graph.roots() {
            let id = graph.number(Arc::as_ptr(&root).addr());
            nodes.push(XDbgBlockGraphNode {
                id,
                r#type: XDbgBlockGraphNodeType::BlockBackend,
                name: root.name().to_string(),
            });
            edges.extend(graph.edge(id, root.as_edge()));
        }
        for node in self.graph.nodes() {
            let id = graph.number(Arc::as_ptr(&node).addr());
            nodes.push(XDbgBlockGraphNode {
                id,
                r#type: XDbgBlockGraphNodeType::BlockDriver,
                name: node.name().to_string(),
            });
            for edge in node.children_by_age().iter().rev() {
                edges.extend(graph.edge(id, edge));
            }
        }
        nodes.reverse();
        edges.reverse();
        told(&XDbgBlockGraph { nodes, edges })
    }
}

/// Numbers for the nodes of a drawing, in the order in which they are met.
#[derive(Default)]
struct Numbered(Vec<usize>);

impl Numbered {
    fn number(&mut self, what: usize) -> u64 {
        let at = self.0.iter().position(|other| *other == what).unwrap_or_else(|| {
            self.0.push(what);
            self.0.len() - 1
        });
        at as u64 + 1
    }

    fn edge(&mut self, parent: u64, edge: &Edge) -> Option<XDbgBlockGraphEdge> {
        let target = edge.target()?;
        let claim = edge.claim();
        Some(XDbgBlockGraphEdge {
            parent,
            child: self.number(Arc::as_ptr(&target).addr()),
            name: edge.name().to_string(),
            perm: permissions(claim.taken),
            shared_perm: permissions(claim.shared),
        })
    }
}

fn permissions(set: Permissions) -> Vec<BlockPermission> {
    let all = [
        (Permissions::RESIZE, BlockPermission::Resize),
        (Permissions::WRITE_UNCHANGED, BlockPermission::WriteUnchanged),
        (Permissions::WRITE, BlockPermission::Write),
        (Permissions::CONSISTENT_READ, BlockPermission::ConsistentRead),
    ];
    all.into_iter().filter(|(p, _)| set.contains(*p)).map(|(_, name)| name).collect()
}

/// Refuses arguments of a command that takes none.
pub(in crate::monitor) fn none(arguments: Arguments) -> QmpResult<()> {
    match arguments.keys().next() {
        None => Ok(()),
        Some(name) => Err(QmpError::generic(alloc::format!("Parameter '{name}' is unexpected"))),
    }
}

/// The schema's `BlockDeviceInfo`.
async fn device_info(node: &Arc<Node>, flat: bool) -> Result<BlockDeviceInfo> {
    let image = image_info(node, flat, 0).await?;
    let settings = node.settings();
    let backing = node.child("backing");
    let mut depth = 0;
    let mut below = node.below();
    // What lies deeper is not looked at where it is not told of, in the reference neither.
    while let Some(next) = below.filter(|_| !flat && depth < MAX_CHAIN as u64) {
        depth += 1;
        below = next.below();
    }
    let mut bitmaps = bitmap_info(&node.bitmaps());
    if let Some(Filter::CopyBeforeWrite(filter)) = node.body().filter {
        bitmaps.extend(copy_info(&filter));
    }
    Ok(BlockDeviceInfo {
        file: node.filename(),
        node_name: Some(node.name().to_string()),
        ro: settings.read_only,
        drv: node.driver().to_string(),
        backing_file: backing.map(|below| below.filename()),
        backing_file_depth: depth,
        children: children(node),
        active: settings.active,
        encrypted: image.base.encrypted == Some(true),
        detect_zeroes: match settings.detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        image,
        cache: BlockdevCacheInfo {
            writeback: true,
            direct: settings.direct,
            no_flush: settings.no_flush,
        },
        write_threshold: node.counts().threshold,
        dirty_bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
        ..BlockDeviceInfo::default()
    })
}

fn children(node: &Node) -> Vec<BlockdevChild> {
    let named = |edge: &Arc<Edge>| {
        let target = edge.target()?;
        let node_name = target.name().to_string();
        Some(BlockdevChild { child: edge.name().to_string(), node_name })
    };
    node.children().iter().filter_map(named).collect()
}

/// The schema's `ImageInfo`, with the images below where it is not `flat`.
async fn image_info(node: &Arc<Node>, flat: bool, depth: usize) -> Result<ImageInfo> {
    let base = node_info(node).await?;
    let below = node.below().filter(|_| !flat && depth < MAX_CHAIN);
    let backing_image = match below {
        Some(below) => Some(Box::new(Box::pin(image_info(&below, flat, depth + 1)).await?)),
        None => None,
    };
    Ok(ImageInfo { base, backing_image })
}

/// The schema's `BlockDirtyInfo` of each bitmap, the newest first.
pub(super) fn bitmap_info(set: &BitmapSet) -> Vec<BlockDirtyInfo> {
    let one = |bitmap: &Arc<DirtyBitmap>| {
        let status = bitmap.status();
        BlockDirtyInfo {
            name: Some(bitmap.name().to_string()),
            count: bitmap.count(),
            granularity: u32::try_from(bitmap.granularity()).unwrap_or(u32::MAX),
            recording: status.recording,
            busy: status.busy,
            persistent: status.persistent,
            inconsistent: status.inconsistent.then_some(true),
        }
    };
    set.all().iter().rev().map(one).collect()
}

/// The bitmaps without names of a copy: what belongs to it, what is copied, what is not.
fn copy_info(filter: &CopyBeforeWrite) -> [BlockDirtyInfo; 3] {
    let (all, done, missing) = filter.progress();
    [all, done, missing].map(|count| BlockDirtyInfo {
        name: None,
        count,
        granularity: u32::try_from(filter.cluster_size()).unwrap_or(u32::MAX),
        recording: false,
        busy: false,
        persistent: false,
        inconsistent: None,
    })
}

fn discards(node: &Node) -> BlockStatsSpecificFile {
    let counts = node.counts();
    BlockStatsSpecificFile {
        discard_nb_ok: counts.discards,
        discard_nb_failed: counts.failed_discards,
        discard_bytes_ok: counts.discarded,
    }
}

/// The schema's `BlockStats` of a backend, with those of all that it reads from.
fn backend_stats(backend: &Backend, now: Instant) -> BlockStats {
    let node = backend.root().node();
    let highest = node.as_ref().map_or(0, |node| node.counts().highest_offset);
    let below = node.map(|node| chain_stats(&node, 0));
    BlockStats {
        device: Some(backend.id().to_string()),
        qdev: Some(backend.id().to_string()),
        node_name: below.as_ref().and_then(|below| below.node_name.clone()),
        stats: backend.statistics().told(now, highest),
        driver_specific: below.as_ref().and_then(|below| below.driver_specific.clone()),
        parent: below.as_ref().and_then(|below| below.parent.clone()),
        backing: below.and_then(|below| below.backing),
    }
}

/// The schema's `BlockStats` of a node, with those of its backing chain.
fn chain_stats(node: &Arc<Node>, depth: usize) -> BlockStats {
    let below = node.child("backing").filter(|_| depth < MAX_CHAIN);
    let backing = below.map(|below| Box::new(chain_stats(&below, depth + 1)));
    BlockStats { backing, ..node_stats(node, depth) }
}

/// The schema's `BlockStats` of a node, with those of what it reads from.
fn node_stats(node: &Arc<Node>, depth: usize) -> BlockStats {
    let parent = node.primary().filter(|_| depth < MAX_CHAIN);
    let stats = BlockDeviceStats {
        wr_highest_offset: node.counts().highest_offset,
        ..BlockDeviceStats::default()
    };
    let driver_specific = match node.driver() {
        "file" => Some(BlockStatsSpecific::File(discards(node))),
        "host_device" => Some(BlockStatsSpecific::HostDevice(discards(node))),
        _ => None,
    };
    BlockStats {
        device: None,
        qdev: None,
        node_name: Some(node.name().to_string()),
        stats,
        driver_specific,
        parent: parent.map(|child| Box::new(node_stats(&child, depth + 1))),
        // It is told of by itself.
        backing: None,
    }
}
