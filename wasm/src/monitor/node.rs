//! A node that JavaScript reads and writes.

use crate::task::{Task, promise};
use bytes::Bytes;
use js_sys::{Promise, Uint8Array};
use sectora_core::backend::User;
use sectora_core::graph::{Graph, Root};
use sectora_core::io::{Device, Segments, WriteFlags, ZeroFlags};
use sectora_core::sync::Mutex;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

/// One use of a node from outside of the graph, or of a named backend.
#[wasm_bindgen]
pub struct NodeHandle {
    graph: Arc<Graph>,
    root: Device,
    used: Arc<Mutex<Option<Used>>>,
}

/// What is used, until it is closed. A backend is given back by dropping it.
pub(super) enum Used {
    Node(Arc<Root>),
    Backend(User),
}

impl NodeHandle {
    pub(super) fn new(graph: Arc<Graph>, used: Used) -> Self {
        let root: Device = match &used {
            Used::Node(root) => root.clone(),
            Used::Backend(user) => user.backend().clone(),
        };
        Self { graph, root, used: Arc::new(Mutex::new(Some(used))) }
    }
}

#[wasm_bindgen]
impl NodeHandle {
    /// The length of the node in bytes.
    #[wasm_bindgen(getter)]
    pub fn size(&self) -> u64 {
        self.root.len()
    }

    /// A promise of the bytes of a range.
    pub fn read(&self, offset: u64, length: u32, task: &Task) -> Promise {
        let (root, task) = (self.root.clone(), task.clone());
        promise(async move {
            let data = task.run(root.read(offset, length.into())).await?;
            Ok(Uint8Array::from(&*data.to_bytes()))
        })
    }

    /// Writes all of `data` at `offset`.
    pub fn write(&self, offset: u64, data: Vec<u8>, task: &Task) -> Promise {
        let (root, task) = (self.root.clone(), task.clone());
        promise(async move {
            let data = Segments::from(Bytes::from(data));
            task.run(root.write(offset, data, WriteFlags::empty())).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Makes a range read as zeroes.
    #[wasm_bindgen(js_name = writeZeroes)]
    pub fn write_zeroes(&self, offset: u64, length: u64, task: &Task) -> Promise {
        let (root, task) = (self.root.clone(), task.clone());
        promise(async move {
            task.run(root.write_zeroes(offset, length, ZeroFlags::MAY_UNMAP)).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Gives up the contents of a range.
    pub fn discard(&self, offset: u64, length: u64, task: &Task) -> Promise {
        let (root, task) = (self.root.clone(), task.clone());
        promise(async move {
            task.run(root.discard(offset, length)).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Makes everything durable that was written.
    pub fn flush(&self, task: &Task) -> Promise {
        let (root, task) = (self.root.clone(), task.clone());
        promise(async move {
            task.run(root.flush()).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Ends the use.
    pub fn close(&self) -> Promise {
        let (graph, used) = (self.graph.clone(), self.used.clone());
        promise(async move {
            let used = used.lock().take();
            if let Some(Used::Node(root)) = used {
                graph.detach(&root).await?;
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}
