//! Roots: users of nodes from outside of the graph, and the gate in front of each.

use super::edge::{Edge, User};
use super::node::Node;
use super::permission::{Claim, Permissions, Role};
use crate::Result;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, DeviceInfo, Extent, Limits, Preallocation,
    Segments, WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use event_listener::Event;

/// A user of a node from outside of the graph: an export, a job, a command. All requests come in
/// through roots.
pub struct Root {
    /// Its name, for messages; empty where it has none.
    name: String,
    edge: Arc<Edge>,
    gate: Gate,
    wanted: Mutex<Claim>,
    /// While it writes, its node stays active.
    stays_active: AtomicBool,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("name", &self.name).field("edge", &self.edge).finish()
    }
}

impl Root {
    /// A root on no node yet.
    pub(super) fn new(name: &str, wanted: Claim) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            name: name.to_string(),
            edge: Edge::new("root", Role::Root, User::Root(this.clone())),
            gate: Gate::default(),
            wanted: Mutex::new(wanted),
            stays_active: AtomicBool::new(false),
        })
    }

    /// The node that it uses.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.edge.target()
    }

    /// Its name; empty where it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it uses its node.
    #[must_use]
    pub fn as_edge(&self) -> &Edge {
        &self.edge
    }

    pub(super) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The node, where it can be written to but for its being inactive.
    fn waiting(&self) -> Option<Arc<Node>> {
        self.node().filter(|node| !node.settings().active && node.is_writable())
    }

    /// What it wants to do with its node, and lets others do.
    pub(super) fn wanted(&self) -> Claim {
        *self.wanted.lock()
    }

    pub(super) fn set_wanted(&self, claim: Claim) -> Claim {
        core::mem::replace(&mut *self.wanted.lock(), claim)
    }

    /// Says that its node cannot become inactive while it may write to it: an export without
    /// `allow-inactive`.
    pub fn stay_active(&self) {
        self.stays_active.store(true, Ordering::Relaxed);
    }

    /// Whether its node cannot become inactive now.
    pub(super) fn stays_active(&self) -> bool {
        let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
        self.stays_active.load(Ordering::Relaxed) && self.wanted().taken.intersects(writes)
    }

    pub(super) fn describe(&self) -> String {
        match self.name.is_empty() {
            true => "an unnamed block device".to_string(),
            false => alloc::format!("block device '{}'", self.name),
        }
    }
}

/// Lets requests in, counts them, and can be held shut.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    opened: Event,
    emptied: Event,
}

#[derive(Default)]
struct GateState {
    /// How often it is held shut.
    shut: u32,
    in_flight: u32,
}

/// A request that was let in.
struct Inside<'a>(&'a Gate);

impl Gate {
    async fn enter(&self) -> Inside<'_> {
        loop {
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            // Whoever opens it after this is heard.
            let opened = self.opened.listen();
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            opened.await;
        }
    }

    fn try_enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state.lock();
        if state.shut > 0 {
            return None;
        }
        state.in_flight += 1;
        Some(Inside(self))
    }

    /// Lets nobody in until [`open`](Self::open); who is inside goes on.
    pub(super) fn shut(&self) {
        self.state.lock().shut += 1;
    }

    /// Takes back one [`shut`](Self::shut).
    pub(super) fn open(&self) {
        let mut state = self.state.lock();
        state.shut = state.shut.saturating_sub(1);
        if state.shut == 0 {
            self.opened.notify(usize::MAX);
        }
    }

    /// Waits until nobody is inside.
    pub(super) async fn empty(&self) {
        loop {
            let emptied = self.emptied.listen();
            if self.state.lock().in_flight == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.0.emptied.notify(usize::MAX);
        }
    }
}

impl BlockDevice for Root {
    fn len(&self) -> u64 {
        self.edge.len()
    }

    fn limits(&self) -> Limits {
        self.edge.limits()
    }

    fn capabilities(&self) -> Capabilities {
        let all = self.edge.capabilities();
        // Who may write to it finds out later whether it is active then.
        match self.waiting() {
            Some(_) => all | Capabilities::WRITE,
            None => all,
        }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.read(offset, len).await
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.write(offset, data, flags).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.write_zeroes(offset, len, flags).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.discard(offset, len).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            if let Some(node) = self.waiting() {
                node.refuse_inactive()?;
            }
            self.edge.flush().await
        })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.set_len(len, preallocation).await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.extents(offset, len).await
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            let _inside = self.gate.enter().await;
            self.edge.info().await
        })
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.edge.event(event)
    }
}
