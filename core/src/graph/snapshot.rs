//! One node put on top of another while it is used: external snapshots.

use super::build::{Builder, refuse_cycle};
use super::edge::{Edge, User};
use super::filters::{Filter, filtered};
use super::live::Graph;
use super::node::{Node, Settings};
use super::options::{OptionValue, Options};
use super::permission::{Claim, Permissions};
use crate::format::FormatName;
use crate::image::{NewImage, OVER_ITSELF, OptionSet, create};
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::str::FromStr;

/// An image that is to stand on a node.
#[derive(Clone, Copy, Debug)]
pub struct NewOverlay<'a> {
    /// The name of its file.
    pub filename: &'a str,
    /// The name of its node; one is made up where it is not given.
    pub node_name: Option<&'a str>,
    /// Its format.
    pub format: FormatName,
    /// It is there already, and is only opened.
    pub existing: bool,
}

/// An overlay that was put on top of a node, so that it can be taken away again.
#[derive(Debug)]
pub struct Overlaid {
    node: Arc<Node>,
    overlay: Arc<Node>,
    /// The uses that went over from the node to the overlay.
    moved: Vec<Weak<Edge>>,
}

impl Graph {
    /// Puts `overlay` on top of `node` (`blockdev-snapshot`): whoever uses `node` uses `overlay` from
    /// then on, which reads from `node` what it has not itself. `node` is only read from then on.
    ///
    /// # Errors
    /// `InvalidInput` where the overlay has something below it, or cannot have; `InUse` where somebody
    /// reads the overlay, or `node` is below another. Nothing has changed then.
    pub async fn snapshot(&self, node: &Arc<Node>, overlay: &Arc<Node>) -> Result<Overlaid> {
        let _change = self.change().await;
        let overlaid = self.put_on_top(node, overlay).await?;
        self.sweep().await.map(|()| overlaid)
    }

    /// The same for an overlay that is in the graph already, in a change that somebody else began.
    pub(super) async fn put_on_top(
        &self,
        node: &Arc<Node>,
        overlay: &Arc<Node>,
    ) -> Result<Overlaid> {
        self.refuse_busy(node)?;
        let is_read = |claim: Claim| claim.taken.contains(Permissions::CONSISTENT_READ);
        if overlay.parents().iter().any(|edge| is_read(edge.claim())) {
            return Err(Error::new(ErrorKind::InUse, "The overlay is already in use"));
        }
        if filtered(overlay.driver()).is_some() {
            return Err(Error::unsupported("Filters cannot be used as overlays"));
        }
        let backing = overlay.children().into_iter().find(|edge| edge.name() == "backing");
        let Some(backing) = backing else {
            return Err(Error::unsupported("The overlay does not support backing images"));
        };
        if backing.target().is_some() {
            return Err(Error::invalid("The overlay already has a backing image"));
        }
        refuse_cycle(node, "backing", overlay)?;
        // Who uses the overlay without reading it sees something else from now on.
        let drained = (self.drain(node).await, self.drain(overlay).await);
        node.flush().await?;
        // What the overlay itself stands on stays below it.
        let stays = |edge: &Arc<Edge>| match edge.user() {
            User::Node(user) => user
                .upgrade()
                .is_some_and(|user| Arc::ptr_eq(&user, overlay) || uses(overlay, &user)),
            _ => false,
        };
        let moved: Vec<Arc<Edge>> =
            node.parents().into_iter().filter(|edge| !stays(edge)).collect();
        backing.point(Some(node.clone()));
        moved.iter().for_each(|edge| {
            edge.point(Some(overlay.clone()));
        });
        let result = match self.refresh() {
            // Who still writes to it goes on: it is the overlay's own file.
            Ok(()) => match self.set_read_only(node, true).await {
                Err(error)
                    if moved_not_all(node, &backing) && error.kind() == ErrorKind::Denied =>
                {
                    Ok(())
                }
                // What cannot be opened again stays as it is.
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
                {
                    Ok(())
                }
                result => result,
            },
            Err(error) => Err(error),
        };
        if result.is_err() {
            backing.point(None);
            moved.iter().rev().for_each(|edge| {
                edge.point(Some(node.clone()));
            });
            self.refresh()?;
        }
        self.name_users_again(overlay).await?;
        drop(drained);
        let moved = moved.iter().map(Arc::downgrade).collect();
        result.map(|()| Overlaid { node: node.clone(), overlay: overlay.clone(), moved })
    }

    /// Finds the names again of a node whose children have changed, and of those above it.
    pub(super) async fn name_users_again(&self, node: &Arc<Node>) -> Result<()> {
        for user in self.users_first().iter().rev() {
            if !Arc::ptr_eq(user, node) && !uses(user, node) {
                continue;
            }
            user.name_again().await?;
            if user.body().filter.is_some() {
                user.name_filter_again();
            }
        }
        Ok(())
    }

    /// The opposite of [`snapshot`](Self::snapshot), while that is the last change that was made.
    ///
    /// # Errors
    /// Those of opening the node again.
    pub async fn undo_snapshot(&self, done: &Overlaid) -> Result<()> {
        let Overlaid { node, overlay, moved } = done;
        let _change = self.change().await;
        let drained = self.drain(overlay).await;
        overlay.flush().await?;
        let was_moved = |edge: &&Arc<Edge>| moved.iter().any(|m| m.ptr_eq(&Arc::downgrade(edge)));
        for edge in overlay.parents().iter().rev().filter(was_moved) {
            edge.point(Some(node.clone()));
        }
        for edge in overlay.children() {
            if edge.name() == "backing" {
                edge.point(None);
            }
        }
        self.set_read_only(node, false).await?;
        overlay.name_again().await?;
        self.name_users_again(node).await?;
        drop(drained);
        self.sweep().await
    }

    /// Makes a file with an image that stands on `node`, and puts it [on top](Self::snapshot) of it
    /// (`blockdev-snapshot-sync`). Nobody owns the new node: it is there for as long as it is used.
    /// Where `existing`, the image is there already.
    ///
    /// # Errors
    /// Those of making and opening the image, and of [`snapshot`](Self::snapshot).
    pub async fn snapshot_sync(
        &self,
        node: &Arc<Node>,
        overlay: NewOverlay<'_>,
    ) -> Result<Overlaid> {
        self.refuse_busy(node)?;
        let NewOverlay { filename, node_name, format, existing } = overlay;
        let file = self.protocols.parse_filename(filename)?;
        if !existing {
            self.make_overlay(node, filename, file.clone(), format).await?;
        }
        let _change = self.change().await;
        let mut options = Options::default();
        options.set("driver", OptionValue::Text(format.as_str().into()));
        options.set("backing", OptionValue::Null);
        if let Some(name) = node_name {
            options.set("node-name", OptionValue::Text(name.into()));
        }
        options.add_child("file", file);
        let result = match Builder::new(self).top(options).await {
            Ok(overlay) => self.put_on_top(node, &overlay).await,
            Err(error) => Err(error),
        };
        let swept = self.sweep().await;
        let overlaid = result?;
        swept.map(|()| overlaid)
    }

    async fn make_overlay(
        &self,
        node: &Arc<Node>,
        filename: &str,
        mut file: Options,
        format: FormatName,
    ) -> Result<()> {
        let mut set = OptionSet::new(format)?;
        let size = node.device().len();
        set.set("size", &size.to_string())?;
        if set.set("backing_file", &node.filename()).is_err() {
            return Err(Error::unsupported(format!(
                "Backing file not supported for file format '{format}'"
            )));
        }
        if filename == node.filename() {
            return Err(Error::invalid(OVER_ITSELF));
        }
        let mut image = set.image()?;
        if let NewImage::Qcow2(options) = &mut image
            && let Some(backing) = &mut options.backing
        {
            backing.format = Some(node.driver().into());
        }
        let driver = file.take_text("driver").unwrap_or_else(|| "file".into());
        let mut new = file.clone();
        new.set("size", OptionValue::Number("0".into()));
        self.protocols.create(&driver, new).await?;
        let how = Settings::default().inherited();
        let opened = self.protocols.open_node(&driver, &mut file, how).await?;
        create(&self.env.runtime, &opened.device, None, &image).await?;
        opened.device.flush().await
    }

    /// Opens the image of a node again over the same children.
    pub(super) async fn open_image_again(
        &self,
        node: &Arc<Node>,
        settings: Settings,
    ) -> Result<()> {
        let format = FormatName::from_str(node.driver())?;
        let builder = Builder::new(self);
        let base = builder.image_options(format, &mut node.own_options()?, settings)?;
        let image = builder.open_image(base, settings, &node.children()).await?;
        node.take_body(image)
    }

    /// Refuses to change what is below another node as if it were by itself.
    ///
    /// # Errors
    /// `InUse`.
    pub fn refuse_busy(&self, node: &Arc<Node>) -> Result<()> {
        for edge in node.parents() {
            let User::Node(user) = edge.user() else { continue };
            let Some(user) = user.upgrade() else { continue };
            if let Some(Filter::Replication(side)) = user.body().filter
                && side.is_busy()
            {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!(
                        "Node '{}' is busy: the replication '{}' runs on it",
                        node.name(),
                        user.name()
                    ),
                ));
            }
            if edge.name() == "backing" {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!(
                        "Node '{}' is busy: node is used as backing hd of '{}'",
                        node.name(),
                        user.name()
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// True where others than the overlay's backing edge stayed with a node.
fn moved_not_all(node: &Arc<Node>, backing: &Arc<Edge>) -> bool {
    node.parents().iter().any(|edge| !Arc::ptr_eq(edge, backing))
}

/// True where `node` uses `other`, directly or not.
pub(super) fn uses(node: &Arc<Node>, other: &Arc<Node>) -> bool {
    let mut todo: Vec<Arc<Node>> = Vec::from([node.clone()]);
    let mut seen: Vec<Arc<Node>> = Vec::new();
    while let Some(next) = todo.pop() {
        // Of a node that is reached on many ways one is followed.
        if seen.iter().any(|other| Arc::ptr_eq(other, &next)) {
            continue;
        }
        seen.push(next.clone());
        for below in next.children().iter().filter_map(|edge| edge.target()) {
            if Arc::ptr_eq(&below, other) {
                return true;
            }
            todo.push(below);
        }
    }
    false
}
