//! Nodes that this program hands to another one, and takes back (`blockdev-set-active`).

use super::edge::User;
use super::live::Graph;
use super::node::{Node, Settings};
use crate::io::BoxFuture;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

impl Graph {
    /// Makes a node active or inactive; without a node all of them. Active is a node with all that
    /// it stands on; inactive it becomes with what no active node stands on, the newest child first. An
    /// inactive node has made everything durable, and nothing is written to it until it is active
    /// again: then it is read anew, for another program may have changed it.
    ///
    /// # Errors
    /// `InUse` for a node under an active one, `Denied` under an export or a filter that writes, `InUse`
    /// and `Denied` where others do not let its users do what they did, and those of opening: what was
    /// turned before stays so.
    pub async fn set_active(&self, node: Option<&Arc<Node>>, active: bool) -> Result<()> {
        let _change = self.change().await;
        match node {
            Some(node) if active => self.activate_one(node).await,
            Some(node) => self.inactivate(node, "node").await,
            None if active => {
                for node in self.nodes() {
                    self.activate_one(&node).await?;
                }
                Ok(())
            }
            None => {
                for node in self.nodes().iter().filter(|node| !node.is_below_another()) {
                    self.inactivate(node, "all nodes").await?;
                }
                Ok(())
            }
        }
    }

    fn activate_one<'a>(&'a self, node: &'a Arc<Node>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for edge in node.children() {
                if let Some(below) = edge.target() {
                    self.activate_one(&below).await?;
                }
            }
            match node.settings().active {
                true => Ok(()),
                false => self.turn(node, true).await,
            }
        })
    }

    /// Makes a node inactive, and what is only used by it; `what` was asked for, in words.
    fn inactivate<'a>(&'a self, node: &'a Arc<Node>, what: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if is_below_active(node) {
                return Err(Error::new(ErrorKind::InUse, "Node has active parent node"));
            }
            if !node.settings().active {
                return Ok(());
            }
            if node.parents().iter().any(|edge| edge.keeps_active()) {
                return Err(Error::denied(format!(
                    "Failed to inactivate {what}: Operation not permitted"
                )));
            }
            self.turn(node, false).await?;
            for edge in node.children_by_age().iter().rev() {
                if let Some(below) = edge.target().filter(|below| !is_below_active(below)) {
                    self.inactivate(&below, what).await?;
                }
            }
            Ok(())
        })
    }

    /// Turns one node that has the children for it.
    async fn turn(&self, node: &Arc<Node>, active: bool) -> Result<()> {
        let drained = self.drain(node).await;
        let old = node.settings();
        let new = Settings { active, ..old };
        let result = match (node.image(), active) {
            (Some(image), true) => {
                node.set_settings(new);
                match self.refresh() {
                    Ok(()) => {
                        image.close().await?;
                        self.open_image_again(node, new).await
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(image), false) => match image.close().await {
                Ok(()) => {
                    node.set_settings(new);
                    self.open_image_again(node, new).await.and_then(|()| self.refresh())
                }
                Err(error) => Err(error),
            },
            (None, _) => {
                let flushed = if active { Ok(()) } else { node.flush().await };
                flushed.and_then(|()| {
                    node.set_settings(new);
                    self.refresh()
                })
            }
        };
        if result.is_err() {
            node.set_settings(old);
            if node.image().is_some() {
                self.open_image_again(node, old).await?;
            }
            self.refresh()?;
        }
        drop(drained);
        result.map_err(|error| {
            let what = if active { "activate" } else { "inactivate" };
            match error.kind() {
                ErrorKind::InUse | ErrorKind::Denied => error,
                _ => error.context(format!("cannot {what} node '{}'", node.name())),
            }
        })
    }
}

/// True where a node that is active stands on it.
fn is_below_active(node: &Node) -> bool {
    node.parents().iter().any(|edge| match edge.user() {
        User::Node(user) => user.upgrade().is_some_and(|user| user.settings().active),
        User::Root(_) | User::Coming { .. } => false,
    })
}
