//! Edges: one user's use of one node.

use super::filters::filtered;
use super::node::Node;
use super::permission::{Claim, Permissions, Role};
use super::root::Root;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, DeviceInfo, Extent, ExtentFlags, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::{Mutex, RwLock};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

/// Who uses a node.
#[derive(Clone)]
pub(super) enum User {
    /// Another node.
    Node(Weak<Node>),
    /// Somebody outside of the graph.
    Root(Weak<Root>),
    /// Nobody yet: the node that is being opened gets its children before it exists.
    Coming {
        /// Its name; empty where it has none yet.
        name: String,
        /// It is opened for writing.
        writable: bool,
        /// It is opened to be used, and not to wait until another program lets go of it.
        active: bool,
    },
}

/// One user's use of one node: all that a user sees of it. An edge without a node is a device of
/// length 0.
pub struct Edge {
    name: String,
    role: Role,
    user: RwLock<User>,
    target: RwLock<Option<Arc<Node>>>,
    claim: Mutex<Claim>,
    /// What its user claims in any case.
    more: Claim,
    /// A larger number than that of its user's edges that were pointed to their nodes before; 0 for one
    /// that is as its user was opened.
    pointed: AtomicU32,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target();
        let target = target.as_ref().map(|node| node.name());
        f.debug_struct("Edge").field("name", &self.name).field("target", &target).finish()
    }
}

impl Edge {
    pub(super) fn new(name: &str, role: Role, user: User) -> Arc<Self> {
        Self::with_more(name, role, user, Claim::NONE)
    }

    /// One whose user claims `more` in any case.
    pub(super) fn with_more(name: &str, role: Role, user: User, more: Claim) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            role,
            user: RwLock::new(user),
            target: RwLock::new(None),
            claim: Mutex::new(Claim::NONE),
            more,
            pointed: AtomicU32::new(0),
        })
    }

    /// Says which of its user's edges was pointed to its node later: that has a larger number.
    pub(super) fn pointed(&self) -> u32 {
        self.pointed.load(Ordering::Relaxed)
    }

    /// The child's name: `file`, `backing` …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the node is to its user.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The node, where there is one.
    #[must_use]
    pub fn target(&self) -> Option<Arc<Node>> {
        self.target.read().clone()
    }

    /// What its user claims when its own users together claim `above`; `None`: it has none.
    pub(super) fn wanted(&self, above: Option<Claim>, writable: bool) -> Claim {
        let claim = match above {
            Some(above) => self.role.claim(above, writable),
            None => self.role.claim_unused(writable),
        };
        claim.join(self.more)
    }

    /// What a node wants of it that is not active.
    pub(super) fn wanted_inactive(&self, above: Option<Claim>) -> Claim {
        self.role.claim_inactive(above).join(self.more)
    }

    /// What a node wants of it that is being opened.
    pub(super) fn wanted_coming(&self) -> Claim {
        match self.user() {
            User::Coming { active: false, .. } => self.wanted_inactive(None),
            User::Coming { writable, .. } => self.wanted(None, writable),
            _ => self.wanted(None, false),
        }
    }

    /// What its user does with the node and lets others do.
    #[must_use]
    pub fn claim(&self) -> Claim {
        *self.claim.lock()
    }

    /// Whether its user keeps the node from becoming inactive: it writes there.
    pub(super) fn keeps_active(&self) -> bool {
        let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
        match self.user() {
            User::Root(root) => root.upgrade().is_some_and(|root| root.stays_active()),
            User::Node(_) => self.claim().taken.intersects(writes),
            User::Coming { .. } => false,
        }
    }

    pub(super) fn set_claim(&self, claim: Claim) {
        *self.claim.lock() = claim;
    }

    pub(super) fn user(&self) -> User {
        self.user.read().clone()
    }

    pub(super) fn belongs_to(&self, node: &Arc<Node>) {
        *self.user.write() = User::Node(Arc::downgrade(node));
    }

    /// Points the edge elsewhere; nothing may be under way through it. Gives what it pointed to.
    pub(super) fn point(self: &Arc<Self>, to: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let old = core::mem::replace(&mut *self.target.write(), to.clone());
        if let Some(old) = &old {
            old.remove_parent(self);
        }
        if let Some(new) = &to {
            new.add_parent(self);
        }
        self.count_pointed();
        old
    }

    /// Makes it the one of its user's edges that was pointed to its node last.
    pub(super) fn count_pointed(&self) {
        if let User::Node(user) = self.user()
            && let Some(user) = user.upgrade()
        {
            self.pointed.store(user.count_pointed(), Ordering::Relaxed);
        }
    }

    /// The user as messages have it, of a node called `node`.
    pub(super) fn describe(&self, node: &str) -> String {
        let who = match self.user() {
            User::Node(user) => match user.upgrade() {
                Some(user) => format!("node '{}'", user.name()),
                None => "a node".into(),
            },
            User::Root(root) => match root.upgrade() {
                Some(root) => root.describe(),
                None => "an unnamed block device".into(),
            },
            User::Coming { name, .. } => format!("node '{name}'"),
        };
        format!("{who} (uses node '{node}' as '{}' child)", self.name)
    }

    fn there(&self) -> Result<Arc<Node>> {
        self.target().ok_or_else(|| Error::invalid(format!("there is no '{}' node", self.name)))
    }
}

impl BlockDevice for Edge {
    fn len(&self) -> u64 {
        self.target.read().as_ref().map_or(0, |node| node.device().len())
    }

    fn limits(&self) -> Limits {
        self.target.read().as_ref().map_or_else(Limits::default, |n| n.device().limits())
    }

    fn capabilities(&self) -> Capabilities {
        let none = Capabilities::empty();
        self.target.read().as_ref().map_or(none, |node| node.device().capabilities())
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            match self.target() {
                Some(node) => node.read(offset, len).await,
                None => check_range(offset, len, 0).map(|()| Segments::new()),
            }
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.there()?.write(offset, data, flags).await })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.there()?.write_zeroes(offset, len, flags).await })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.there()?.discard(offset, len).await })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.target() {
                Some(node) => node.flush().await,
                None => Ok(()),
            }
        })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.there()?.set_len(len, preallocation).await })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            match self.target() {
                Some(node) => node.device().extents(offset, len).await,
                None => {
                    check_range(offset, len, 0)?;
                    let flags = ExtentFlags::ZERO;
                    Ok(Vec::from([Extent { start: offset, len, flags, depth: 0, host: None }]))
                }
            }
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move { self.there()?.device().info().await })
    }

    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        let node = self.target()?;
        let is_more = node.image().is_some() || !node.children().is_empty();
        is_more.then_some(self)
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        // Only a filter can have a test driver in it or below it that is told of its users' events.
        let node = self.target().filter(|node| filtered(node.driver()).is_some())?;
        Some(Box::pin(async move {
            let device = node.device();
            if let Some(told) = device.event(event) {
                told.await;
            }
        }))
    }
}
