//! What is served: the exports (`block-export.json`). Each kind is a file; the NBD server is with
//! its own.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`address`] | the sockets they are served on |
//! | [`fuse`] | disks as files |
//! | [`nbd`] | the NBD server, and exports through it |
//! | [`vhost_user_blk`] | disks of virtual machines |

mod address;
mod fuse;
mod nbd;
mod vhost_user_blk;

use crate::cli::failure::Failure;
use crate::cli::fdset::FdSets;
use crate::cli::objects::Objects;
use crate::export::RemoveMode;
use address::Descriptors;
use nbd::Server;
use sectora_core::Error;
use sectora_core::backend::{Backends, User};
use sectora_core::graph::{Claim, Graph, Node, Permissions, Root};
use sectora_core::io::{BoxFuture, Device};
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult, begin};
use sectora_core::qapi::{
    BlockExportDel, BlockExportInfo, BlockExportOptions, BlockExportOptionsBranch,
    BlockExportRemoveMode, BlockExportType, NbdServerRemove, is_id, parse,
};
use sectora_core::sync::Mutex;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

const NAMES: [&str; 7] = [
    "nbd-server-start",
    "nbd-server-stop",
    "nbd-server-add",
    "nbd-server-remove",
    "block-export-add",
    "block-export-del",
    "query-block-exports",
];

/// The exports of a daemon.
#[derive(Debug)]
pub(super) struct Exports {
    this: Weak<Self>,
    /// Told when an export is gone.
    forgotten: Notify,
    graph: Arc<Graph>,
    backends: Arc<Backends>,
    objects: Objects,
    /// Descriptors that were handed over; `None` where none can be.
    handed_over: Option<Arc<FdSets>>,
    /// Held for the length of a change.
    change: tokio::sync::Mutex<()>,
    server: Mutex<Option<Server>>,
    list: Mutex<Vec<Served>>,
    /// Commands come from clients by now, no longer from the command line.
    by_clients: AtomicBool,
}

/// An export at work. Each kind has its own.
trait Running: Send + Sync + fmt::Debug {
    /// The schema's name of the kind.
    fn kind(&self) -> BlockExportType;

    /// Serves no longer. When it completes with success, no request is under way.
    ///
    /// # Errors
    /// `InUse` where it has clients that it may not lose; it goes on then.
    fn remove(&self, mode: RemoveMode) -> BoxFuture<'_, sectora_core::Result<()>>;

    /// True where clients would lose it.
    fn has_clients(&self) -> bool {
        false
    }

    /// Looks whether what it shows is longer or shorter than before, and tells its clients.
    fn look(&self) {}

    /// True where it covers the file `path`.
    fn covers(&self, path: &Path) -> bool {
        let _ = path;
        false
    }
}

/// One export.
#[derive(Debug)]
struct Served {
    id: String,
    source: Source,
    running: Arc<dyn Running>,
    /// It is about to end.
    shutting_down: bool,
}

/// Where what an export shows comes from.
#[derive(Clone, Debug)]
enum Source {
    /// A node, by a use of its own.
    Node(Arc<Root>),
    /// A named backend, as its guest.
    Backend(Arc<User>),
}

impl Source {
    fn root(&self) -> &Arc<Root> {
        match self {
            Self::Node(root) => root,
            Self::Backend(user) => user.backend().root(),
        }
    }
}

/// What an export shows.
struct Shown {
    node: Arc<Node>,
    source: Source,
    device: Device,
    /// What is done with it.
    taken: Permissions,
}

impl Served {
    /// The name of the node that is served.
    fn node_name(&self) -> String {
        let node = self.source.root().node();
        node.map(|node| node.name().to_owned()).unwrap_or_default()
    }
}

impl Exports {
    pub(super) fn new(
        graph: Arc<Graph>,
        backends: Arc<Backends>,
        objects: Objects,
        handed_over: Option<Arc<FdSets>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            forgotten: Notify::new(),
            graph,
            backends,
            objects,
            handed_over,
            change: tokio::sync::Mutex::default(),
            server: Mutex::default(),
            list: Mutex::default(),
            by_clients: AtomicBool::new(false),
        })
    }

    /// From now on commands come from clients.
    pub(super) fn take_clients(&self) {
        self.by_clients.store(true, Ordering::SeqCst);
    }

    /// What descriptors in addresses are: on the command line those that the program was started
    /// with.
    fn descriptors(&self) -> Descriptors<'_> {
        match (self.by_clients.load(Ordering::SeqCst), &self.handed_over) {
            (false, _) => Descriptors::Inherited,
            (true, Some(sets)) => Descriptors::Named(sets),
            (true, None) => Descriptors::None,
        }
    }

    /// Has exports look whether what they show is longer or shorter than before.
    pub(super) fn look(&self) {
        self.list.lock().iter().for_each(|served| served.running.look());
    }

    /// Ends all exports and the server.
    pub(super) async fn close(&self) {
        let _change = self.change.lock().await;
        self.end_all(|_| true).await;
        self.end_server().await;
    }

    /// Ends the exports of some kinds, the newest first.
    async fn end_all(&self, of: impl Fn(&BlockExportType) -> bool) {
        let last = || {
            let list = self.list.lock();
            let mut newest = list.iter().rev();
            let found = newest.find(|served| of(&served.running.kind()));
            found.map(|served| (served.id.clone(), served.shutting_down))
        };
        loop {
            let mut forgotten = std::pin::pin!(self.forgotten.notified());
            forgotten.as_mut().enable();
            match last() {
                None => return,
                Some((_, true)) => forgotten.await,
                // It is gone then, whatever its storage said last.
                Some((id, false)) => drop(self.remove(&id, RemoveMode::Hard).await),
            }
        }
    }

    async fn add(&self, options: BlockExportOptions) -> QmpResult<()> {
        if !is_id(&options.id) {
            return Err(QmpError::generic("Invalid block export id"));
        }
        if self.list.lock().iter().any(|served| served.id == options.id) {
            let what = format!("Block export id '{}' is already in use", options.id);
            return Err(QmpError::generic(what));
        }
        let shown = self.show(&options).await?;
        let added = match &options.r#type {
            BlockExportOptionsBranch::Nbd(nbd) => self.add_nbd(&options, nbd, &shown).await,
            BlockExportOptionsBranch::VhostUserBlk(disk) => {
                self.add_vhost_user_blk(&options, disk, &shown).await
            }
            BlockExportOptionsBranch::Fuse(file) => self.add_fuse(&options, file, &shown).await,
            BlockExportOptionsBranch::VduseBlk(_) => {
                Err(Error::unsupported("exports of type 'vduse-blk' are not supported").into())
            }
        };
        match added {
            Ok(running) => {
                let (id, source) = (options.id, shown.source);
                self.list.lock().push(Served { id, source, running, shutting_down: false });
                Ok(())
            }
            Err(error) => {
                self.let_go(&shown.source).await?;
                Err(error)
            }
        }
    }

    /// What the node or the named backend that `options` name shows, with the rights that they ask
    /// for.
    async fn show(&self, options: &BlockExportOptions) -> QmpResult<Shown> {
        let writable = options.writable == Some(true);
        let backend = self.backends.find(&options.node_name);
        let node = match backend.as_ref().and_then(|backend| backend.root().node()) {
            Some(node) => node,
            None => self.graph.lookup(None, Some(&options.node_name))?,
        };
        if writable && node.settings().read_only {
            return Err(QmpError::generic("Cannot export read-only node as writable"));
        }
        if let Some(id) = &options.iothread
            && self.objects.numbers(id).is_none()
        {
            return Err(QmpError::generic(format!("iothread \"{id}\" not found")));
        }
        let is_nbd = matches!(options.r#type, BlockExportOptionsBranch::Nbd(_));
        if options.allow_inactive == Some(true) && !is_nbd {
            return Err(QmpError::generic("Export type does not support inactive exports"));
        }
        if options.allow_inactive != Some(true) && !node.settings().active {
            self.graph.set_active(Some(&node), true).await?;
        }
        let read = Permissions::CONSISTENT_READ;
        let mut taken = if writable { read | Permissions::WRITE } else { read };
        if let BlockExportOptionsBranch::Fuse(file) = &options.r#type {
            taken.set(Permissions::RESIZE, file.growable == Some(true));
        }
        if let Some(backend) = backend {
            if writable && backend.is_read_only() {
                return Err(QmpError::generic("Cannot export read-only device as writable"));
            }
            let source = Source::Backend(Arc::new(backend.enter()));
            return Ok(Shown { node, source, device: backend, taken });
        }
        let claim = Claim { taken, shared: Permissions::all() };
        // Of a node that is inactive nothing is done until it is active.
        let root = match node.settings().active {
            true => self.graph.attach("", &node, claim).await?,
            false => {
                let root = self.graph.attach("", &node, Claim::NONE).await?;
                self.graph.set_claim(&root, claim).await?;
                root
            }
        };
        if options.allow_inactive != Some(true) {
            root.stay_active();
        }
        Ok(Shown { node, device: root.clone(), source: Source::Node(root), taken })
    }

    /// Ends the use of what an export showed.
    async fn let_go(&self, source: &Source) -> sectora_core::Result<()> {
        match source {
            Source::Node(root) => self.graph.detach(root).await,
            // Its last use ends with the export.
            Source::Backend(_) => Ok(()),
        }
    }

    async fn remove(&self, id: &str, mode: RemoveMode) -> QmpResult<()> {
        let running = {
            let mut list = self.list.lock();
            let found = list.iter_mut().find(|served| served.id == id);
            let found =
                found.ok_or_else(|| QmpError::generic(format!("Export '{id}' is not found")))?;
            if found.shutting_down {
                let what = format!("Export '{id}' is already shutting down");
                return Err(QmpError::generic(what));
            }
            found.shutting_down = mode == RemoveMode::Hard;
            found.running.clone()
        };
        if mode == RemoveMode::Hard
            && running.has_clients()
            && let Some(this) = self.this.upgrade()
        {
            // They go while the command is answered already; the event says when they are gone.
            let id = id.to_owned();
            tokio::spawn(async move {
                // It is gone then, whatever its storage said last.
                let _ = running.remove(mode).await;
                let _ = this.forget(&id).await;
            });
            return Ok(());
        }
        let removed = running.remove(mode).await;
        if mode == RemoveMode::Safe && removed.is_err() {
            return Err(QmpError::generic(format!("export '{id}' still in use")));
        }
        let forgotten = self.forget(id).await;
        removed.map_err(QmpError::from).and(forgotten)
    }

    /// Forgets an export that serves no longer.
    async fn forget(&self, id: &str) -> QmpResult<()> {
        let gone = {
            let mut list = self.list.lock();
            let at = list.iter().position(|served| served.id == id);
            at.map(|at| list.remove(at))
        };
        let Some(gone) = gone else { return Ok(()) };
        let detached = self.let_go(&gone.source).await;
        let mut data = Map::new();
        data.insert("id".into(), id.into());
        self.graph.events().emit("BLOCK_EXPORT_DELETED", data);
        self.forgotten.notify_waiters();
        Ok(detached?)
    }

    fn told(&self) -> QmpResult<Value> {
        let info = |served: &Served| BlockExportInfo {
            id: served.id.clone(),
            r#type: served.running.kind(),
            node_name: served.node_name(),
            shutting_down: served.shutting_down,
        };
        let all: Vec<BlockExportInfo> = self.list.lock().iter().rev().map(info).collect();
        serde_json::to_value(&all).map_err(|e| QmpError::generic(e.to_string()))
    }

    async fn answer(&self, name: &str, arguments: Map<String, Value>) -> QmpResult<Value> {
        let _change = self.change.lock().await;
        match name {
            "nbd-server-start" => self.start(arguments).await?,
            "nbd-server-stop" => {
                Arguments::new(arguments).end()?;
                self.stop().await?;
            }
            "nbd-server-add" => self.add(nbd::by_device(&self.graph, parse(arguments)?)?).await?,
            "nbd-server-remove" => {
                let NbdServerRemove { name, mode } = parse(arguments)?;
                self.remove(&name, mode_of(mode)).await?;
            }
            "block-export-add" => self.add(parse(arguments)?).await?,
            "block-export-del" => {
                let BlockExportDel { id, mode } = parse(arguments)?;
                self.remove(&id, mode_of(mode)).await?;
            }
            _ => {
                Arguments::new(arguments).end()?;
                return self.told();
            }
        }
        Ok(json!({}))
    }
}

impl Commands for Exports {
    fn names(&self) -> Vec<&'static str> {
        NAMES.to_vec()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || self.answer(name, call.arguments))
    }
}

fn mode_of(mode: Option<BlockExportRemoveMode>) -> RemoveMode {
    match mode {
        Some(BlockExportRemoveMode::Hard) => RemoveMode::Hard,
        None | Some(BlockExportRemoveMode::Safe) => RemoveMode::Safe,
    }
}

fn in_words(failure: &Failure) -> QmpError {
    QmpError::generic(failure.to_text())
}
