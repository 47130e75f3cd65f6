//! Children that come and go (`x-blockdev-change`): those of a quorum.

use super::build::{inactive_child, refuse_cycle};
use super::edge::{Edge, User};
use super::filters::{Filter, claim_more};
use super::live::Graph;
use super::name::filter_name;
use super::node::Node;
use super::permission::Role;
use crate::filter::Quorum;
use crate::io::Device;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;

impl Graph {
    /// Adds `below` to the children of `node`.
    ///
    /// # Errors
    /// `Unsupported` for a node that takes none, `InUse` where somebody uses `below` or does not
    /// allow it, `InvalidInput` for one that would stand on itself. Nothing has changed then.
    pub async fn add_child(&self, node: &Arc<Node>, below: &Arc<Node>) -> Result<()> {
        let _change = self.change().await;
        let what = "adding";
        let quorum = quorum_of(node, what)?;
        if !below.parents().is_empty() {
            let what = format!("The node {} already has a parent", below.name());
            return Err(Error::new(ErrorKind::InUse, what));
        }
        let name = quorum.next_child();
        refuse_cycle(below, &name, node)?;
        if node.settings().active && !below.settings().active {
            return Err(inactive_child(below, &name, node.name()));
        }
        let drained = self.drain(node).await;
        let more = claim_more(node.driver(), &mut node.options())?;
        let edge = Edge::with_more(&name, Role::Copy, User::Node(Arc::downgrade(node)), more);
        edge.point(Some(below.clone()));
        let old = node.children();
        let mut new = old.clone();
        new.push(edge.clone());
        node.set_children(new.clone());
        let added = self.refresh().and_then(|()| {
            quorum.add_child(edge.clone() as Device, below.name().to_string()).map(|_| ())
        });
        if let Err(error) = added {
            node.set_children(old);
            edge.point(None);
            self.refresh()?;
            return Err(error);
        }
        node.set_filename(filter_name(node.driver(), &new, &node.options()));
        drop(drained);
        Ok(())
    }

    /// Removes one of the children of `node`.
    ///
    /// # Errors
    /// `NotFound` where it has none of that name, `Unsupported` for a node that lets none go,
    /// `InvalidInput` where too few would be left.
    pub async fn remove_child(&self, node: &Arc<Node>, name: &str) -> Result<()> {
        let _change = self.change().await;
        let mut children = node.children();
        let found = children.iter().position(|edge| edge.name() == name);
        let Some(at) = found.filter(|at| children[*at].target().is_some()) else {
            let what = format!("Node '{}' does not have child '{name}'", node.name());
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        let quorum = quorum_of(node, "removing")?;
        let drained = self.drain(node).await;
        quorum.remove_child(name)?;
        children.remove(at).point(None);
        node.set_filename(filter_name(node.driver(), &children, &node.options()));
        node.set_children(children);
        self.refresh()?;
        drop(drained);
        self.sweep().await
    }
}

fn quorum_of(node: &Node, what: &str) -> Result<Arc<Quorum>> {
    match node.body().filter {
        Some(Filter::Quorum(quorum)) => Ok(quorum),
        _ => Err(Error::unsupported(format!(
            "The node {} does not support {what} a child",
            node.name()
        ))),
    }
}
