//! What is served: the exports (`block-export.json`). Each kind is a file; the NBD server is with
//! its own.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`nbd`] | the NBD server, and exports through it |

mod nbd;

use crate::cli::failure::Failure;
use crate::cli::objects::Objects;
use crate::export::RemoveMode;
use nbd::Server;
use sectora_core::Error;
use sectora_core::backend::{Backends, User};
use sectora_core::graph::{Claim, Graph, Node, Permissions, Root};
use sectora_core::io::{BoxFuture, Device};
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult};
use sectora_core::qapi::{
    BlockExportDel, BlockExportInfo, BlockExportOptions, BlockExportOptionsBranch,
    BlockExportRemoveMode, BlockExportType, NbdServerRemove, is_id, parse,
};
use sectora_core::sync::Mutex;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

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
    graph: Arc<Graph>,
    backends: Arc<Backends>,
    objects: Objects,
    /// Held for the length of a change.
    change: tokio::sync::Mutex<()>,
    server: Mutex<Option<Server>>,
    list: Mutex<Vec<Served>>,
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
}

impl Served {
    /// The name of the node that is served.
    fn node_name(&self) -> String {
        let node = self.source.root().node();
        node.map(|node| node.name().to_owned()).unwrap_or_default()
    }
}

impl Exports {
    pub(super) fn new(graph: Arc<Graph>, backends: Arc<Backends>, objects: Objects) -> Arc<Self> {
        Arc::new(Self {
            graph,
            backends,
            objects,
            change: tokio::sync::Mutex::default(),
            server: Mutex::default(),
            list: Mutex::default(),
        })
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
            newest.find(|served| of(&served.running.kind())).map(|served| served.id.clone())
        };
        while let Some(id) = last() {
            // It is gone then, whatever its storage said last.
            let _ = self.remove(&id, RemoveMode::Hard).await;
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
        let refused = match &options.r#type {
            BlockExportOptionsBranch::Nbd(_) => None,
            BlockExportOptionsBranch::VhostUserBlk(_) => Some("vhost-user-blk"),
            BlockExportOptionsBranch::Fuse(_) => Some("fuse"),
            BlockExportOptionsBranch::VduseBlk(_) => Some("vduse-blk"),
        };
        let shown = self.show(&options).await?;
        let added = match (&options.r#type, refused) {
            (BlockExportOptionsBranch::Nbd(nbd), _) => self.add_nbd(&options, nbd, &shown),
            (_, kind) => {
                let kind = kind.unwrap_or_default();
                let what = format!("exports of type '{kind}' are not supported yet, only 'nbd' is");
                Err(Error::unsupported(what).into())
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
        if let Some(id) = &options.iothread
            && self.objects.numbers(id).is_none()
        {
            return Err(QmpError::generic(format!("iothread \"{id}\" not found")));
        }
        if writable && node.settings().read_only {
            return Err(QmpError::generic("Cannot export read-only node as writable"));
        }
        if options.allow_inactive != Some(true) && !node.settings().active {
            self.graph.set_active(Some(&node), true).await?;
        }
        if let Some(backend) = backend {
            if writable && backend.is_read_only() {
                return Err(QmpError::generic("Cannot export read-only device as writable"));
            }
            let source = Source::Backend(Arc::new(backend.enter()));
            return Ok(Shown { node, source, device: backend });
        }
        let read = Permissions::CONSISTENT_READ;
        let taken = if writable { read | Permissions::WRITE } else { read };
        let claim = Claim { taken, shared: Permissions::all() - Permissions::RESIZE };
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
        Ok(Shown { node, device: root.clone(), source: Source::Node(root) })
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
        let (running, source) = {
            let list = self.list.lock();
            let found = list.iter().find(|served| served.id == id);
            let found =
                found.ok_or_else(|| QmpError::generic(format!("Export '{id}' is not found")))?;
            (found.running.clone(), found.source.clone())
        };
        running.remove(mode).await.map_err(|error| match mode {
            RemoveMode::Safe => QmpError::generic(format!("export '{id}' still in use")),
            RemoveMode::Hard => error.into(),
        })?;
        self.list.lock().retain(|served| served.id != id);
        let detached = self.let_go(&source).await;
        let mut data = Map::new();
        data.insert("id".into(), id.into());
        self.graph.events().emit("BLOCK_EXPORT_DELETED", data);
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
        NAMES
            .contains(&name)
            .then(|| -> BoxFuture<'a, _> { Box::pin(self.answer(name, call.arguments)) })
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
