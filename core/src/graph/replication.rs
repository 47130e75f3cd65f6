//! Disks that are kept twice: what starting, checkpoints and the end of it change in the graph. The
//! filter itself is in `filter/replication`.
//!
//! While the secondary side runs, a `copy-before-write` node stands in front of its disk: who wrote
//! to the disk writes to that node, which keeps in the hidden disk what is replaced. All of it stands
//! and falls together; a future that is dropped midway leaves the side as it was, or in a stage that
//! says what can follow ([`ReplicationStage`](crate::filter::ReplicationStage)).

use super::commit::copy_down;
use super::edge::{Edge, User};
use super::filters::Filter;
use super::live::Graph;
use super::node::{Body, NewNode, Node, Settings};
use super::options::{OptionValue, Options};
use super::permission::Role;
use super::snapshot::uses;
use crate::filter::{
    CopyBeforeWrite, CopyBeforeWriteOptions, Replication, ReplicationMode, ReplicationStage,
};
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The names of the children that a running secondary side has besides its file.
const HIDDEN: &str = "hidden disk";
const DISK: &str = "secondary disk";

/// The images of a secondary side.
#[derive(Clone)]
struct Chain {
    /// Takes what the guest writes.
    active: Arc<Node>,
    /// Takes what the primary's writes replace.
    hidden: Arc<Node>,
    /// The disk, to which the primary writes.
    disk: Arc<Node>,
}

/// A side and its images.
struct Side {
    node: Arc<Node>,
    filter: Arc<Replication>,
    chain: Option<Chain>,
}

impl Graph {
    /// Starts all replications of the graph (`xen-set-replication`), the newest first; those that are
    /// over stay so. Of a secondary side the active and the hidden disk are emptied.
    ///
    /// # Errors
    /// `InvalidInput` where one runs, is of the other mode, or has not the images that it needs;
    /// `InUse` and `Denied` where others do not allow it; those of the devices. None is started
    /// then, and the graph is as it was.
    pub async fn start_replication(&self, mode: ReplicationMode) -> Result<()> {
        let _change = self.change().await;
        let mut sides: Vec<Side> = Vec::new();
        for (node, filter) in self.replications() {
            if !filter.check_start(mode)? {
                continue;
            }
            let chain = match mode {
                ReplicationMode::Primary => None,
                ReplicationMode::Secondary => Some(self.chain_to_start(&node, &sides)?),
            };
            sides.push(Side { node, filter, chain });
        }
        let mut drained = Vec::new();
        for chain in sides.iter().filter_map(|side| side.chain.as_ref()) {
            drained.push(self.drain(&chain.disk).await);
        }
        let mut opened = Vec::new();
        let mut result = self.start_sides(&sides, &mut opened).await;
        if result.is_err() {
            for node in opened.iter().rev() {
                // The first error says more.
                let _ = self.write_or_not(node, true).await;
            }
        } else {
            for side in &sides {
                result = result.and(self.name_users_again(&side.node).await);
            }
        }
        drop(drained);
        result
    }

    async fn start_sides(&self, sides: &[Side], opened: &mut Vec<Arc<Node>>) -> Result<()> {
        for chain in sides.iter().filter_map(|side| side.chain.as_ref()) {
            self.open_for_writing(&chain.hidden, opened).await?;
        }
        // Whatever others do not allow is found before anything is emptied.
        let mut tied = Tied { graph: self, sides: Vec::new() };
        let mut buffers = Vec::new();
        for side in sides {
            buffers.push(match &side.chain {
                Some(chain) => {
                    let buffer = self.tie(&side.node, chain)?;
                    tied.sides.push((side.node.clone(), chain.clone()));
                    Some(buffer)
                }
                None => None,
            });
        }
        for (_, chain) in &tied.sides {
            make_empty(&chain.active).await?;
            make_empty(&chain.hidden).await?;
        }
        tied.sides.clear();
        sides.iter().zip(buffers).for_each(|(side, buffer)| side.filter.start(buffer));
        Ok(())
    }

    /// Ends the present checkpoint of all replications and begins the next one
    /// (`xen-colo-do-checkpoint`): what a secondary side buffered is given up, and its guest sees the
    /// disk as it is now.
    ///
    /// # Errors
    /// `InvalidInput` for a secondary side that does not run. Those of the devices: the side reads
    /// and writes nothing until the checkpoint is repeated.
    pub async fn checkpoint_replication(&self) -> Result<()> {
        let _change = self.change().await;
        for (node, filter) in self.replications() {
            if !filter.check_checkpoint()? {
                continue;
            }
            let chain = active_chain_of(&node)?;
            let drained = self.drain(&chain.disk).await;
            let emptied = empty_buffers(&filter, &chain).await;
            drop(drained);
            emptied?;
        }
        Ok(())
    }

    /// Stops all replications of the graph. With `failover` a secondary side takes over: its disk
    /// gets what it shows, durably, and it is a filter on the disk from then on. Without, what it
    /// buffered is given up.
    ///
    /// # Errors
    /// `InvalidInput` where one does not run, but for a failover. Those of the devices: a failover
    /// can be repeated then, and the guest sees what it saw. Other sides take over all the same.
    pub async fn stop_replication(&self, failover: bool) -> Result<()> {
        let _change = self.change().await;
        let mut result = Ok(());
        for (node, filter) in self.replications() {
            let stopped = self.stop_side(&node, &filter, failover).await;
            if stopped.is_err() && !failover {
                return stopped;
            }
            result = result.and(stopped);
        }
        result.and(self.sweep().await)
    }

    /// What whoever manages both machines has to know of the replications of the graph
    /// (`query-xen-replication-status`).
    ///
    /// # Errors
    /// `InvalidInput` where one does not run, `Io` where something failed that nobody was told of.
    pub fn replication_error(&self) -> Result<()> {
        self.replications().into_iter().try_for_each(|(_, filter)| filter.error())
    }

    async fn stop_side(
        &self,
        node: &Arc<Node>,
        filter: &Arc<Replication>,
        failover: bool,
    ) -> Result<()> {
        if !filter.check_stop(failover)? {
            return Ok(());
        }
        if filter.mode() == ReplicationMode::Primary {
            filter.finish();
            return Ok(());
        }
        let chain = active_chain_of(node)?;
        let drained = self.drain(&chain.disk).await;
        let mut result = match failover {
            true => self.take_over(node, filter, &chain).await,
            false => {
                let mut emptied = empty_buffers(filter, &chain).await;
                if emptied.is_ok() {
                    emptied = self.untie(node, &chain, false);
                }
                emptied.map(|()| filter.finish())
            }
        };
        if result.is_ok() {
            result = self.name_users_again(node).await;
        }
        drop(drained);
        result
    }

    /// Writes to the disk what the side shows, and puts the disk in the place of the active disk.
    async fn take_over(
        &self,
        node: &Arc<Node>,
        filter: &Arc<Replication>,
        chain: &Chain,
    ) -> Result<()> {
        let taking_over = TakingOver::begin(filter);
        // What is shown stays the same meanwhile: the images above the disk have what it gets.
        copy_down(&chain.active, &chain.disk, 1).await.map_err(|error| {
            let disk = chain.disk.name();
            error.context(format!("cannot write what is buffered to node '{disk}'"))
        })?;
        self.untie(node, chain, true)?;
        filter.finish();
        drop(taking_over);
        if make_empty(&chain.active).await.is_err() {
            // The disk has everything: only space is lost.
            filter.note_failure();
        }
        Ok(())
    }

    /// Lets go of what a side holds that goes away while it runs. Nothing is emptied.
    pub(super) async fn end_replication(&self, node: &Arc<Node>) -> Result<()> {
        let Some(Filter::Replication(filter)) = node.body().filter else { return Ok(()) };
        let Ok(chain) = chain_of(node).inspect_err(|_| filter.finish()) else { return Ok(()) };
        let drained = self.drain(&chain.disk).await;
        let result = self.untie(node, &chain, false);
        filter.finish();
        drop(drained);
        result
    }

    /// All replications of the graph, the newest first.
    fn replications(&self) -> Vec<(Arc<Node>, Arc<Replication>)> {
        let nodes = self.nodes().into_iter().rev();
        let found = nodes.filter_map(|node| match node.body().filter {
            Some(Filter::Replication(filter)) => Some((node, filter)),
            _ => None,
        });
        found.collect()
    }

    /// The images of a secondary side that is to be started. Nothing changes.
    fn chain_to_start(&self, node: &Arc<Node>, others: &[Side]) -> Result<Chain> {
        let lacks = |what: &str| Error::invalid(format!("{what} disk doesn't have backing file"));
        let active = node.child("file").ok_or_else(|| Error::bug("'file' is missing"))?;
        let hidden = active.child("backing").ok_or_else(|| lacks("Active"))?;
        let disk = hidden.child("backing").ok_or_else(|| lacks("Hidden"))?;
        if !disk.is_used_from_outside() {
            return Err(Error::invalid("The secondary disk doesn't have block backend"));
        }
        let len = |node: &Node| node.device().len();
        if len(&active) != len(&hidden) || len(&hidden) != len(&disk) {
            return Err(Error::invalid(
                "Active disk, hidden disk, secondary disk's length are not the same",
            ));
        }
        if [&active, &hidden].iter().any(|node| node.driver() != "qcow2") {
            return Err(Error::unsupported(
                "Active disk or hidden disk doesn't support make_empty",
            ));
        }
        let top = node.options();
        let top = top.peek("top-id").and_then(|name| self.by_any_name(name).ok());
        if !top.is_some_and(|top| Arc::ptr_eq(&top, node) || uses(&top, node)) {
            return Err(Error::invalid("No top_bs or it is invalid"));
        }
        if !node.is_writable() {
            return Err(Error::denied("Block node is read-only"));
        }
        let chain = Chain { active, hidden, disk };
        refuse_inactive(node, &chain)?;
        let running = self.replications().into_iter().filter(|(_, other)| other.is_busy());
        let running = running.filter_map(|(other, _)| chain_of(&other).ok());
        let taken = running.chain(others.iter().filter_map(|side| side.chain.clone()));
        for other in taken {
            for own in [&chain.active, &chain.hidden, &chain.disk] {
                if [&other.active, &other.hidden, &other.disk].iter().any(|o| Arc::ptr_eq(o, own)) {
                    let what =
                        format!("Node '{}' is busy: another replication uses it", own.name());
                    return Err(Error::new(ErrorKind::InUse, what));
                }
            }
        }
        Ok(chain)
    }

    /// Puts a `copy-before-write` node in front of the disk, which keeps in the hidden disk what is
    /// replaced. Nothing may be under way.
    fn tie(&self, node: &Arc<Node>, chain: &Chain) -> Result<Arc<CopyBeforeWrite>> {
        let place = self.reserve(None)?;
        let user = User::Coming { name: place.name.clone(), writable: true, active: true };
        let file = Edge::new("file", Role::CopiedBeforeWrite, user.clone());
        let target = Edge::new("target", Role::CopyTarget, user);
        let mut moves = Moves::default();
        moves.point(&file, Some(&chain.disk));
        moves.point(&target, Some(&chain.hidden));
        let (options, runtime) = (CopyBeforeWriteOptions::default(), self.env.runtime.clone());
        let buffer = CopyBeforeWrite::new(file.clone(), target.clone(), &options, runtime)
            .inspect_err(|_| moves.undo())?;
        let buffer = Arc::new(buffer);
        let front = Node::new(NewNode {
            name: place.name.clone(),
            order: place.order,
            driver: "copy-before-write".to_string(),
            filename: chain.disk.filename(),
            options: options_of_buffer(chain),
            settings: Settings::default(),
            body: Body {
                device: buffer.clone(),
                image: None,
                locks: None,
                filter: Some(Filter::CopyBeforeWrite(buffer.clone())),
            },
            children: Vec::from([file.clone(), target]),
            events: self.events().clone(),
        });
        // What it stands on itself stays below it.
        let stays = |edge: &Arc<Edge>| match edge.user() {
            User::Node(user) => user.upgrade().is_some_and(|user| {
                Arc::ptr_eq(&user, &chain.hidden) || uses(&chain.hidden, &user)
            }),
            _ => false,
        };
        let users = chain.disk.parents().into_iter().rev();
        for edge in users.filter(|edge| !Arc::ptr_eq(edge, &file) && !stays(edge)) {
            moves.point(&edge, Some(&front));
        }
        let user = || User::Node(Arc::downgrade(node));
        let hidden = Edge::new(HIDDEN, Role::ReplicationBuffer, user());
        let disk = Edge::new(DISK, Role::ReplicationBuffer, user());
        moves.point(&hidden, Some(&chain.hidden));
        moves.point(&disk, Some(&front));
        let old = node.children();
        let mut new = old.clone();
        new.extend([hidden, disk]);
        node.set_children(new);
        self.admit(place, front.clone());
        if let Err(error) = self.refresh() {
            moves.undo();
            node.set_children(old);
            self.forget(&front);
            self.refresh()?;
            return Err(error);
        }
        Ok(buffer)
    }

    /// The opposite of [`tie`](Self::tie). With `pivot` who used the active disk uses the disk from
    /// then on. Where others do not allow it, nothing has changed.
    fn untie(&self, node: &Arc<Node>, chain: &Chain, pivot: bool) -> Result<()> {
        let old = node.children();
        let (own, rest): (Vec<_>, Vec<_>) =
            old.iter().cloned().partition(|edge| matches!(edge.name(), HIDDEN | DISK));
        let front = node.child(DISK).ok_or_else(|| changed(node))?;
        let mut moves = Moves::default();
        own.iter().for_each(|edge| moves.point(edge, None));
        for edge in front.parents().iter().rev() {
            moves.point(edge, Some(&chain.disk));
        }
        front.children().iter().for_each(|edge| moves.point(edge, None));
        if pivot {
            for edge in chain.active.parents().iter().rev() {
                moves.point(edge, Some(&chain.disk));
            }
        }
        node.set_children(rest);
        if let Err(error) = self.refresh() {
            moves.undo();
            node.set_children(old);
            self.refresh()?;
            return Err(error);
        }
        self.forget(&front);
        Ok(())
    }
}

/// The images of a secondary side that runs.
fn chain_of(node: &Arc<Node>) -> Result<Chain> {
    let (Some(active), Some(hidden), Some(front)) =
        (node.child("file"), node.child(HIDDEN), node.child(DISK))
    else {
        return Err(changed(node));
    };
    let disk = front.child("file").ok_or_else(|| changed(node))?;
    let is_below = |image: &Arc<Node>, below: &Arc<Node>| {
        image.child("backing").is_some_and(|found| Arc::ptr_eq(&found, below))
    };
    let is_front = matches!(front.body().filter, Some(Filter::CopyBeforeWrite(_)));
    if !is_front || !is_below(&active, &hidden) || !is_below(&hidden, &disk) {
        return Err(changed(node));
    }
    Ok(Chain { active, hidden, disk })
}

/// The same, for a change of them.
fn active_chain_of(node: &Arc<Node>) -> Result<Chain> {
    let chain = chain_of(node)?;
    refuse_inactive(node, &chain).map(|()| chain)
}

fn changed(node: &Node) -> Error {
    Error::invalid(format!(
        "the nodes below '{}' are not those that its replication was started with",
        node.name()
    ))
}

fn refuse_inactive(node: &Node, chain: &Chain) -> Result<()> {
    let all = [node, &*chain.active, &*chain.hidden, &*chain.disk];
    all.into_iter().try_for_each(Node::refuse_inactive)
}

fn options_of_buffer(chain: &Chain) -> Options {
    let mut options = Options::default();
    options.set_default("driver", "copy-before-write");
    for (name, node) in [("file", &chain.disk), ("target", &chain.hidden)] {
        options.set(name, OptionValue::Text(node.name().to_string()));
    }
    options
}

async fn make_empty(node: &Node) -> Result<()> {
    match node.image() {
        Some(image) => image.driver().make_empty().await,
        None => Err(Error::bug("a buffer that is no image")),
    }
    .map_err(|error| error.context(format!("cannot make node '{}' empty", node.name())))
}

/// Gives up what a side buffered. Where that fails, or is given up midway, the side reads and writes
/// nothing until it has succeeded.
async fn empty_buffers(filter: &Replication, chain: &Chain) -> Result<()> {
    filter.emptying();
    let mut emptied = make_empty(&chain.active).await;
    if emptied.is_ok() {
        emptied = make_empty(&chain.hidden).await;
    }
    match &emptied {
        Ok(()) => filter.emptied(),
        Err(_) => filter.note_failure(),
    }
    emptied
}

/// Edges that were pointed elsewhere, and where they pointed.
#[derive(Default)]
struct Moves(Vec<(Arc<Edge>, Option<Arc<Node>>)>);

impl Moves {
    fn point(&mut self, edge: &Arc<Edge>, to: Option<&Arc<Node>>) {
        let old = edge.point(to.cloned());
        self.0.push((edge.clone(), old));
    }

    fn undo(&mut self) {
        for (edge, old) in self.0.drain(..).rev() {
            edge.point(old);
        }
    }
}

/// Sides that are being started; those that are in it when it is dropped are not.
struct Tied<'a> {
    graph: &'a Graph,
    sides: Vec<(Arc<Node>, Chain)>,
}

impl Drop for Tied<'_> {
    fn drop(&mut self) {
        for (node, chain) in self.sides.drain(..).rev() {
            // It was so before.
            let _ = self.graph.untie(&node, &chain, false);
        }
    }
}

/// A side that takes over; dropped before that is done, it has failed.
struct TakingOver<'a>(&'a Replication);

impl<'a> TakingOver<'a> {
    fn begin(filter: &'a Replication) -> Self {
        filter.take_over();
        Self(filter)
    }
}

impl Drop for TakingOver<'_> {
    fn drop(&mut self) {
        if self.0.stage() == ReplicationStage::Failover {
            self.0.failed_to_take_over();
        }
    }
}
