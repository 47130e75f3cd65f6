//! The live graph: all nodes by name, and every change of them.
//!
//! One change at a time. What a change finds wrong before it touches anything leaves no trace; a node
//! that nobody uses any more and that nobody added by name is closed and gone at the end of the
//! change that left it so.

use super::build::Builder;
use super::edge::{Edge, User};
use super::filters::Filter;
use super::node::Node;
use super::open::Protocols;
use super::options::Options;
use super::permission::{Claim, Permissions, agree};
use super::root::Root;
use crate::format::{BackingRef, Env};
use crate::io::{BlockDevice, Preallocation};
use crate::monitor::Events;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use async_lock::MutexGuard;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

/// The nodes of a program.
pub struct Graph {
    pub(super) env: Env,
    pub(super) protocols: Arc<dyn Protocols>,
    events: Arc<Events>,
    /// Held for the length of a change, its requests included.
    change: async_lock::Mutex<()>,
    /// In the order in which they came.
    nodes: Mutex<Vec<Arc<Node>>>,
    roots: Mutex<Vec<Weak<Root>>>,
    /// Names of nodes that are being opened.
    coming: Mutex<Vec<String>>,
    named: AtomicU32,
    order: Mutex<u64>,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("nodes", &*self.nodes.lock()).finish_non_exhaustive()
    }
}

/// The right to change the graph.
pub(super) struct Change<'a> {
    _turn: MutexGuard<'a, ()>,
}

impl Graph {
    /// A graph without nodes. `protocols` opens what nodes are opened from; `events` is told of
    /// what happens to nodes.
    #[must_use]
    pub fn new(env: Env, protocols: Arc<dyn Protocols>, events: Arc<Events>) -> Arc<Self> {
        Arc::new(Self {
            env,
            protocols,
            events,
            change: async_lock::Mutex::new(()),
            nodes: Mutex::default(),
            roots: Mutex::default(),
            coming: Mutex::default(),
            named: AtomicU32::new(0),
            order: Mutex::default(),
        })
    }

    /// Where it tells what happens.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The host.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// All nodes, in the order in which they came.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().clone()
    }

    /// The node of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.lock().iter().find(|node| node.name() == name).cloned()
    }

    /// The node that a command names, by `device` or by `node-name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn lookup(&self, device: Option<&str>, node_name: Option<&str>) -> Result<Arc<Node>> {
        let found = device.and_then(|name| self.of_device(name));
        let found = found.or_else(|| node_name.and_then(|name| self.find(name)));
        found.ok_or_else(|| no_node(device.unwrap_or_default(), node_name.unwrap_or_default()))
    }

    /// The node that a single name means, which may be that of a device.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn by_any_name(&self, name: &str) -> Result<Arc<Node>> {
        let found = self.of_device(name).or_else(|| self.find(name));
        found.ok_or_else(|| no_node(name, name))
    }

    /// The node of the device of that name.
    fn of_device(&self, name: &str) -> Option<Arc<Node>> {
        let named = |root: &Arc<Root>| !name.is_empty() && root.name() == name;
        self.roots().into_iter().find(named)?.node()
    }

    /// Adds the node that `options` describe, with its children (`blockdev-add`).
    ///
    /// # Errors
    /// `InvalidInput` for options that are wrong, `InUse` for permissions and locks that somebody
    /// else holds, and those of opening. There is no trace of the node then.
    pub async fn add(&self, options: Options) -> Result<Arc<Node>> {
        let _change = self.change().await;
        if !options.has_text("node-name") {
            return Err(Error::invalid("'node-name' must be specified for the root node"));
        }
        let added = Builder::new(self).top(options).await;
        if let Ok(node) = &added {
            node.set_owned(true);
        }
        // Children of what failed are nobody's.
        let swept = self.sweep().await;
        let node = added?;
        swept?;
        Ok(node)
    }

    /// Removes the node of that name, and what only it uses (`blockdev-del`).
    ///
    /// # Errors
    /// `NotFound`, `Denied` where nobody added it by name, `InUse` where somebody uses it, and those
    /// of making everything durable: it is gone then all the same.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let _change = self.change().await;
        let node = self.find(name).ok_or_else(|| {
            let what = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, what)
        })?;
        let in_use = |what: &str| Error::new(ErrorKind::InUse, format!("{what} {name} is in use"));
        if let Some(Filter::Replication(side)) = node.body().filter
            && side.is_busy()
        {
            let what = "Block device is in use by internal backup job";
            return Err(Error::new(ErrorKind::InUse, format!("Node '{name}' is busy: {what}")));
        }
        if node.is_used_from_outside() {
            return Err(in_use("Node"));
        }
        self.refuse_busy(&node)?;
        if !node.is_owned() {
            return Err(Error::denied(format!("Node {name} is not owned by the monitor")));
        }
        if node.is_held() || !node.parents().is_empty() {
            return Err(in_use("Block device"));
        }
        node.set_owned(false);
        self.sweep().await
    }

    /// Uses a node from outside of the graph. `name` is for messages.
    ///
    /// # Errors
    /// `InUse` where others do not allow what `claim` says, `Denied` for writing to a node that is
    /// only read.
    pub async fn attach(&self, name: &str, node: &Arc<Node>, claim: Claim) -> Result<Arc<Root>> {
        let _change = self.change().await;
        refuse_change_of_inactive(node, claim)?;
        let root = Root::new(name, claim);
        root.edge().point(Some(node.clone()));
        if let Err(error) = self.refresh() {
            root.edge().point(None);
            self.refresh()?;
            return Err(error);
        }
        let mut roots = self.roots.lock();
        roots.retain(|other| other.strong_count() > 0);
        roots.push(Arc::downgrade(&root));
        drop(roots);
        Ok(root)
    }

    /// All uses of nodes from outside, in the order in which they came.
    #[must_use]
    pub fn roots(&self) -> Vec<Arc<Root>> {
        let used = |root: &Arc<Root>| root.node().is_some();
        self.roots.lock().iter().filter_map(Weak::upgrade).filter(used).collect()
    }

    /// What opens and makes things of the host.
    #[must_use]
    pub fn protocols(&self) -> &Arc<dyn Protocols> {
        &self.protocols
    }

    /// Waits until nothing is under way in a node; nothing begins until the answer is dropped, and
    /// nobody else changes the graph.
    pub async fn quiet(&self, node: &Arc<Node>) -> Quiet<'_> {
        let change = self.change().await;
        let drained = self.drain(node).await;
        Quiet { _drained: drained, _change: change }
    }

    /// Changes what an image says of its backing file; what it reads from stays
    /// (`change-backing-file`).
    ///
    /// # Errors
    /// Those of the format; nothing has changed then.
    pub async fn set_backing_name(&self, node: &Arc<Node>, name: BackingRef) -> Result<()> {
        let _change = self.change().await;
        node.refuse_inactive()?;
        let drained = self.drain(node).await;
        let was = node.settings().read_only;
        self.set_read_only(node, false).await?;
        let failed = format!("Could not change backing file to '{}'", name.name);
        let result = match node.image() {
            Some(image) => image.driver().set_backing(Some(name)).await,
            None => Err(Error::unsupported("Operation not supported")),
        };
        let result = result.map_err(|e| e.context(failed));
        let restored = self.set_read_only(node, was).await;
        drop(drained);
        result.and(restored)
    }

    /// Ends the use of a node. What only it used is closed.
    ///
    /// # Errors
    /// Those of making everything durable.
    pub async fn detach(&self, root: &Arc<Root>) -> Result<()> {
        let _change = self.change().await;
        root.gate().shut();
        root.gate().empty().await;
        root.edge().point(None);
        root.gate().open();
        self.refresh()?;
        self.sweep().await
    }

    /// Changes what a root does with its node and lets others do.
    ///
    /// # Errors
    /// Those of [`attach`](Self::attach); nothing has changed then.
    pub async fn set_claim(&self, root: &Arc<Root>, claim: Claim) -> Result<()> {
        let _change = self.change().await;
        let old = root.set_wanted(claim);
        let result = self.refresh();
        if result.is_err() {
            root.set_wanted(old);
            self.refresh()?;
        }
        result
    }

    /// Changes the length of a node (`block_resize`).
    ///
    /// # Errors
    /// `InUse` where somebody does not allow it, and those of the driver.
    pub async fn resize(&self, node: &Arc<Node>, size: u64) -> Result<()> {
        let all = Permissions::all();
        let root = self.attach("", node, Claim { taken: Permissions::RESIZE, shared: all }).await?;
        let resized = self.resize_by(&root, node, size).await;
        let detached = self.detach(&root).await;
        resized.and(detached)
    }

    async fn resize_by(&self, root: &Root, node: &Arc<Node>, size: u64) -> Result<()> {
        let mut below = Some(node.clone());
        while let Some(next) = below {
            if next.settings().read_only {
                return Err(Error::denied("Image is read-only"));
            }
            let passes = next.image().is_none() || next.driver() == "raw";
            if next.driver() == "host_device" {
                // It is as long as it is; a smaller disk in it is one all the same.
                return match size <= node.device().len() {
                    true => Ok(()),
                    false => Err(Error::invalid("Cannot grow device files")),
                };
            }
            below = next.primary().filter(|_| passes);
        }
        root.set_len(size, Preallocation::Off).await
    }

    /// Closes all nodes, the users first. Whoever still uses one is told that nothing is there.
    ///
    /// # Errors
    /// The first of making everything durable; all are closed all the same.
    pub async fn close(&self) -> Result<()> {
        let _change = self.change().await;
        for node in self.nodes() {
            for edge in node.parents() {
                if let User::Root(root) = edge.user()
                    && let Some(root) = root.upgrade()
                {
                    root.gate().shut();
                    root.gate().empty().await;
                    edge.point(None);
                    root.gate().open();
                }
            }
            node.set_owned(false);
        }
        self.sweep().await
    }

    pub(super) async fn change(&self) -> Change<'_> {
        Change { _turn: self.change.lock().await }
    }

    /// True where a node of that name is being opened.
    pub(super) fn is_coming(&self, name: &str) -> bool {
        self.coming.lock().iter().any(|coming| coming == name)
    }

    /// Takes a name and a place for a node that is being opened; one without a name gets one: `#block`,
    /// a number of its own, and two digits that nobody can guess.
    ///
    /// # Errors
    /// `InvalidInput` where there is a node of that name.
    pub(super) fn reserve(&self, name: Option<String>) -> Result<Place<'_>> {
        if let Some(name) = name.as_deref().filter(|name| self.of_device(name).is_some()) {
            let what = format!("node-name={name} is conflicting with a device id");
            return Err(Error::invalid(what));
        }
        let name = name.unwrap_or_else(|| {
            let number = self.named.fetch_add(1, Ordering::Relaxed);
            let mut random = [0];
            self.env.runtime.random(&mut random);
            format!("#block{number}{:02}", random[0] % 100)
        });
        let mut coming = self.coming.lock();
        if coming.contains(&name) || self.find(&name).is_some() {
            return Err(Error::invalid(format!("Duplicate nodes with node-name='{name}'")));
        }
        coming.push(name.clone());
        let mut next = self.order.lock();
        let order = *next;
        *next += 1;
        drop(next);
        Ok(Place { graph: self, name, order })
    }

    /// Puts a new node in its place.
    pub(super) fn admit(&self, place: Place<'_>, node: Arc<Node>) {
        let mut nodes = self.nodes.lock();
        let at = nodes.partition_point(|other| other.order() < node.order());
        nodes.insert(at, node);
        drop(nodes);
        drop(place);
    }

    /// Closes what nobody uses and nobody added by name.
    pub(super) async fn sweep(&self) -> Result<()> {
        let mut result = Ok(());
        // Below a primary side whose replication has failed or is over: that was told.
        let mut remote: Vec<Arc<Node>> = Vec::new();
        loop {
            let unused = |node: &&Arc<Node>| {
                !node.is_owned() && !node.is_held() && node.parents().is_empty()
            };
            let Some(node) = self.nodes.lock().iter().find(unused).cloned() else { break };
            result = result.and(self.end_replication(&node).await);
            let body = node.body();
            let closed = match (&body.image, &body.filter) {
                (Some(image), _) => image.close().await,
                (None, Some(filter)) if node.is_writable() => {
                    let closed = filter.close().await;
                    closed.and(node.flush().await)
                }
                _ if node.is_writable() => node.flush().await,
                _ => Ok(()),
            };
            let is_remote = match &body.filter {
                Some(Filter::Replication(side)) => side.sends_no_more(),
                _ => remote.iter().any(|other| Arc::ptr_eq(other, &node)),
            };
            if !is_remote {
                result = result.and(closed);
            }
            for edge in node.children() {
                remote.extend(edge.point(None).filter(|_| is_remote));
            }
            result = result.and(node.lock(Claim::NONE));
            self.nodes.lock().retain(|other| !Arc::ptr_eq(other, &node));
        }
        result.and(self.refresh())
    }

    /// Takes a node out that nobody uses and that has nothing to close.
    pub(super) fn forget(&self, node: &Arc<Node>) {
        self.nodes.lock().retain(|other| !Arc::ptr_eq(other, node));
    }

    /// Computes the permissions of the graph as it is now, and takes them.
    ///
    /// # Errors
    /// `InUse` and `Denied` where they cannot be had: they are as before then.
    pub(super) fn refresh(&self) -> Result<()> {
        let mut wanted: Vec<(Arc<Edge>, Claim)> = Vec::new();
        let mut locks = Vec::new();
        for node in self.users_first() {
            let users = node.parents();
            let mut claims: Vec<(&Edge, Claim)> = Vec::new();
            for edge in &users {
                let planned = wanted.iter().find(|(other, _)| Arc::ptr_eq(other, edge));
                let claim = match (planned, edge.user()) {
                    (Some((_, claim)), _) => *claim,
                    (None, User::Root(root)) if node.settings().active => {
                        root.upgrade().map_or(Claim::NONE, |root| root.wanted())
                    }
                    // Nobody does anything with it.
                    (None, User::Root(_)) => Claim::NONE,
                    (None, _) => edge.wanted_coming().over(&node),
                };
                claims.push((edge, claim));
            }
            agree(node.name(), &claims)?;
            let all = claims.iter().fold(Claim::NONE, |all, (_, claim)| all.join(*claim));
            // Whether the length can change is looked at when it is changed.
            let changing = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
            if all.taken.intersects(changing) && !node.is_writable() {
                return Err(Error::denied("Block node is read-only"));
            }
            if all.taken.intersects(changing)
                && let Some(why) = node.why_only_read()
            {
                return Err(Error::denied(why));
            }
            for edge in node.children() {
                let claim = node.claim_of(&edge, all);
                let claim = edge.target().map_or(claim, |below| claim.over(&below));
                wanted.push((edge, claim));
            }
            for (edge, claim) in claims {
                if let Some(edge) = users.iter().find(|user| core::ptr::eq(&***user, edge)) {
                    let known = wanted.iter().any(|(other, _)| Arc::ptr_eq(other, edge));
                    if !known {
                        wanted.push((edge.clone(), claim));
                    }
                }
            }
            if node.body().locks.is_some() {
                locks.push((node.clone(), all));
            }
        }
        let before: Vec<Claim> = locks.iter().map(|(node, _)| node.locked()).collect();
        for (i, (node, new)) in locks.iter().enumerate() {
            if let Err(error) = node.lock(*new) {
                for ((node, _), old) in locks[..i].iter().zip(before) {
                    node.lock(old)?;
                }
                return Err(error);
            }
        }
        wanted.iter().for_each(|(edge, claim)| edge.set_claim(*claim));
        Ok(())
    }

    /// All nodes, each after those that use it.
    pub(super) fn users_first(&self) -> Vec<Arc<Node>> {
        let mut out: Vec<Arc<Node>> = Vec::new();
        let mut rest = self.nodes();
        let is_in =
            |list: &[Arc<Node>], node: &Arc<Node>| list.iter().any(|o| Arc::ptr_eq(o, node));
        while !rest.is_empty() {
            let (ready, blocked): (Vec<_>, Vec<_>) = rest.into_iter().partition(|node| {
                node.parents().iter().all(|edge| match edge.user() {
                    User::Node(user) => user.upgrade().is_none_or(|user| is_in(&out, &user)),
                    User::Root(_) | User::Coming { .. } => true,
                })
            });
            if ready.is_empty() {
                // A cycle, which no change makes.
                out.extend(blocked);
                break;
            }
            out.extend(ready);
            rest = blocked;
        }
        out
    }

    /// Shuts the roots above a node and waits until nothing is under way through them.
    pub(super) async fn drain(&self, node: &Arc<Node>) -> Drained {
        let roots = node.roots();
        roots.iter().for_each(|root| root.gate().shut());
        let holding = self.nodes().iter().filter_map(|node| node.body().filter).collect();
        let drained = Drained { roots, holding };
        drained.holding.iter().for_each(|filter| filter.release(true));
        for root in &drained.roots {
            root.gate().empty().await;
        }
        drained
    }
}

/// The name and the place of a node that is being opened; dropping it gives the name back.
pub(super) struct Place<'a> {
    graph: &'a Graph,
    pub(super) name: String,
    pub(super) order: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.graph.coming.lock().retain(|name| *name != self.name);
    }
}

/// A node in which nothing is under way; see [`Graph::quiet`].
pub struct Quiet<'a> {
    _drained: Drained,
    _change: Change<'a>,
}

impl fmt::Debug for Quiet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Quiet")
    }
}

/// Roots that are held shut; dropping it opens them.
pub(super) struct Drained {
    roots: Vec<Arc<Root>>,
    /// Filters that let go what they held back.
    holding: Vec<Filter>,
}

impl Drop for Drained {
    fn drop(&mut self) {
        self.holding.iter().for_each(|filter| filter.release(false));
        self.roots.iter().for_each(|root| root.gate().open());
    }
}

pub(super) fn refuse_change_of_inactive(node: &Node, claim: Claim) -> Result<()> {
    let changes = claim.taken - Permissions::CONSISTENT_READ;
    if node.settings().active || changes.is_empty() {
        return Ok(());
    }
    let what = changes.in_words();
    Err(Error::denied(format!("Permission '{what}' unavailable on inactive node")))
}

pub(super) fn no_node(device: &str, node_name: &str) -> Error {
    let what = format!("Cannot find device='{device}' nor node-name='{node_name}'");
    Error::new(ErrorKind::NotFound, what)
}
