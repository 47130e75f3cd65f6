//! Commands that add, change and remove nodes.

use super::{BlockCommands, nothing, options_of};
use crate::format::BackingRef;
use crate::graph::Node;
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{
    BlockResize, BlockSetWriteThreshold, BlockdevDel, BlockdevOptions, BlockdevReopen,
    BlockdevSetActive, ChangeBackingFile, XBlockdevChange, parse, schema::Qapi, validate,
};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

impl BlockCommands {
    pub(super) async fn blockdev_add(&self, arguments: Arguments) -> QmpResult<Value> {
        self.graph.add(options_of::<BlockdevOptions>(arguments)?).await?;
        Ok(nothing())
    }

    pub(super) async fn blockdev_reopen(&self, mut arguments: Arguments) -> QmpResult<Value> {
        validate(BlockdevReopen::schema(), &mut arguments)?;
        let mut list = Vec::new();
        if let Some(Value::Array(items)) = arguments.get("options") {
            list.extend(items.iter().map(crate::graph::Options::from_json));
        }
        self.graph.reopen(list).await?;
        Ok(nothing())
    }

    pub(super) async fn blockdev_del(&self, arguments: Arguments) -> QmpResult<Value> {
        let BlockdevDel { node_name } = parse(arguments)?;
        self.graph.remove(&node_name).await?;
        Ok(nothing())
    }

    pub(super) async fn blockdev_set_active(&self, arguments: Arguments) -> QmpResult<Value> {
        let BlockdevSetActive { node_name, active } = parse(arguments)?;
        let node = match &node_name {
            Some(name) => Some(self.by_node_name(name)?),
            None => None,
        };
        self.graph.set_active(node.as_ref(), active).await?;
        Ok(nothing())
    }

    pub(super) async fn x_blockdev_change(&self, arguments: Arguments) -> QmpResult<Value> {
        let XBlockdevChange { parent, child, node } = parse(arguments)?;
        let parent = self.graph.by_any_name(&parent)?;
        match (child, node) {
            (None, None) => {
                return Err(QmpError::generic("Either child or node must be specified"));
            }
            (Some(_), Some(_)) => {
                return Err(QmpError::generic("The parameters child and node are in conflict"));
            }
            (Some(child), None) => self.graph.remove_child(&parent, &child).await?,
            (None, Some(name)) => {
                let Some(below) = self.graph.find(&name) else {
                    return Err(QmpError::generic(format!("Node '{name}' not found")));
                };
                self.graph.add_child(&parent, &below).await?;
            }
        }
        Ok(nothing())
    }

    /// The node of that name, where no device may be meant.
    fn by_node_name(&self, name: &str) -> QmpResult<Arc<Node>> {
        let what = || QmpError::generic(format!("Failed to find node with node-name='{name}'"));
        self.graph.find(name).ok_or_else(what)
    }

    pub(super) async fn block_resize(&self, arguments: Arguments) -> QmpResult<Value> {
        let BlockResize { device, node_name, size } = parse(arguments)?;
        let node = self.graph.lookup(device.as_deref(), node_name.as_deref())?;
        let size = u64::try_from(size)
            .map_err(|_| QmpError::generic("Parameter 'size' expects a >0 size"))?;
        self.graph.refuse_busy(&node)?;
        self.graph.resize(&node, size).await?;
        Ok(nothing())
    }

    pub(super) async fn block_set_write_threshold(&self, arguments: Arguments) -> QmpResult<Value> {
        let BlockSetWriteThreshold { node_name, write_threshold } = parse(arguments)?;
        let Some(node) = self.graph.find(&node_name) else {
            return Err(QmpError::generic(format!("Device '{node_name}' not found")));
        };
        node.set_write_threshold(write_threshold);
        Ok(nothing())
    }

    pub(super) async fn change_backing_file(&self, arguments: Arguments) -> QmpResult<Value> {
        let ChangeBackingFile { device, image_node_name, backing_file } = parse(arguments)?;
        let top = self.graph.by_any_name(&device)?;
        if top.is_below_another() {
            return Err(QmpError::generic("Need a root block node"));
        }
        let node = self.graph.lookup(None, Some(&image_node_name))?;
        let Some(below) = node.below() else {
            return Err(QmpError::generic(
                "not allowing backing file change on an image without a backing file",
            ));
        };
        let mut next = Some(top);
        while let Some(above) = next.filter(|above| !Arc::ptr_eq(above, &node)) {
            next = above.below();
            if next.is_none() {
                let what = format!("'{device}' and image file are not in the same chain");
                return Err(QmpError::generic(what));
            }
        }
        let name = BackingRef { name: backing_file, format: Some(below.driver().into()) };
        self.graph.set_backing_name(&node, name).await?;
        Ok(nothing())
    }
}
