//! Commands on snapshots, external and internal.

use super::{BlockCommands, nothing, told};
use crate::format::{FormatName, Layer, NewSnapshot};
use crate::graph::{NewOverlay, Node, Overlaid, snapshots_of, with_snapshots};
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{
    BlockdevSnapshot, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternal,
    BlockdevSnapshotSync, NewImageMode, SnapshotInfo, parse,
};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::str::FromStr;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

impl BlockCommands {
    pub(super) async fn blockdev_snapshot(&self, arguments: Arguments) -> QmpResult<Value> {
        let BlockdevSnapshot { node, overlay } = parse(arguments)?;
        let node = self.graph.by_any_name(&node)?;
        self.graph.refuse_busy(&node)?;
        let overlay = self.graph.by_any_name(&overlay)?;
        self.graph.snapshot(&node, &overlay).await?;
        Ok(nothing())
    }

    pub(super) async fn blockdev_snapshot_sync(&self, arguments: Arguments) -> QmpResult<Value> {
        let args: BlockdevSnapshotSync = parse(arguments)?;
        self.snapshot_sync(args).await?;
        Ok(nothing())
    }

    /// Makes an overlay and puts it on top of a node.
    pub(super) async fn snapshot_sync(&self, args: BlockdevSnapshotSync) -> QmpResult<Overlaid> {
        let node = self.graph.lookup(args.device.as_deref(), args.node_name.as_deref())?;
        self.graph.refuse_busy(&node)?;
        let node_name = args.snapshot_node_name.as_deref();
        if args.node_name.is_some() && node_name.is_none() {
            return Err(QmpError::generic("New overlay node-name missing"));
        }
        if node_name.is_some_and(|name| self.graph.find(name).is_some()) {
            return Err(QmpError::generic("New overlay node-name already in use"));
        }
        let format = args.format.as_deref().unwrap_or("qcow2");
        let format = FormatName::from_str(format)
            .map_err(|_| QmpError::generic(format!("Unknown file format '{format}'")))?;
        let existing = args.mode == Some(NewImageMode::Existing);
        let new = NewOverlay { filename: &args.snapshot_file, node_name, format, existing };
        Ok(self.graph.snapshot_sync(&node, new).await?)
    }

    pub(super) async fn blockdev_snapshot_internal_sync(
        &self,
        arguments: Arguments,
    ) -> QmpResult<Value> {
        self.snapshot_internal(parse(arguments)?).await?;
        Ok(nothing())
    }

    /// The image, and the snapshot that was made in it.
    pub(super) async fn snapshot_internal(
        &self,
        args: BlockdevSnapshotInternal,
    ) -> QmpResult<(Arc<Layer>, SnapshotInfo)> {
        let BlockdevSnapshotInternal { device, name } = args;
        let node = self.root_node(&device)?;
        if node.settings().read_only {
            return Err(QmpError::generic(format!("Device '{device}' is read only")));
        }
        if !node.settings().active {
            return Err(no_snapshots(&node, &device));
        }
        let image = with_snapshots(&node).ok_or_else(|| no_snapshots(&node, &device))?;
        if name.is_empty() {
            return Err(QmpError::generic("Name is empty"));
        }
        if snapshots_of(&image).ok_or_else(no_list)?.iter().any(|known| known.name == name) {
            return Err(QmpError::generic(format!(
                "Snapshot with name '{name}' already exists on device '{device}'"
            )));
        }
        let now = self.graph.env().runtime.wall_clock();
        let new = NewSnapshot {
            name,
            date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
            date_nsec: now.subsec_nanos(),
            vm_clock_nsec: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..NewSnapshot::default()
        };
        let _quiet = self.graph.quiet(&node).await;
        let made = match image.driver().snapshots() {
            Some(snapshots) => snapshots.create(new).await?,
            None => return Err(QmpError::generic("there are no internal snapshots")),
        };
        Ok((image, made))
    }

    pub(super) async fn blockdev_snapshot_delete_internal_sync(
        &self,
        arguments: Arguments,
    ) -> QmpResult<Value> {
        let BlockdevSnapshotDeleteInternalSync { device, id, name } = parse(arguments)?;
        let node = self.root_node(&device)?;
        if id.is_none() && name.is_none() {
            return Err(QmpError::generic("Name or id must be provided"));
        }
        let image = with_snapshots(&node).ok_or_else(no_list)?;
        let list = snapshots_of(&image).ok_or_else(no_list)?;
        let matches = |known: &&SnapshotInfo| {
            id.as_ref().is_none_or(|id| known.id == *id)
                && name.as_ref().is_none_or(|name| known.name == *name)
        };
        let Some(found) = list.iter().find(matches) else {
            return Err(QmpError::generic(format!(
                "Snapshot with id '{}' and name '{}' does not exist on device '{device}'",
                id.as_deref().unwrap_or("null"),
                name.as_deref().unwrap_or("null"),
            )));
        };
        let settings = node.settings();
        if settings.read_only || !settings.active {
            let what = "Failed to remove snapshot from snapshot list: Operation not permitted";
            return Err(QmpError::generic(what));
        }
        let _quiet = self.graph.quiet(&node).await;
        if let Some(snapshots) = image.driver().snapshots() {
            snapshots.delete(&found.id).await?;
        }
        told(found)
    }

    /// A node that no other stands on.
    fn root_node(&self, name: &str) -> QmpResult<Arc<Node>> {
        let node = self.graph.by_any_name(name)?;
        match node.is_below_another() {
            false => Ok(node),
            true => Err(QmpError::generic("Need a root block node")),
        }
    }
}

fn no_snapshots(node: &Node, device: &str) -> QmpError {
    QmpError::generic(format!(
        "Block format '{}' used by device '{device}' does not support internal snapshots",
        node.driver()
    ))
}

fn no_list() -> QmpError {
    QmpError::generic("Failed to get a snapshot list: Operation not supported")
}
