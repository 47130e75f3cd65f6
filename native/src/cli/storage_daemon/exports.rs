//! What is served: the NBD server and the exports (`block-export.json`).

use crate::cli::failure::Failure;
use crate::cli::nbd::listen::{Listening, Place, listen};
use crate::cli::objects::Objects;
use crate::export::nbd::{NbdServer, RemoveMode, ServerOptions};
use sectora_core::Error;
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::graph::{Claim, Graph, Node, Permissions, Root};
use sectora_core::io::{BoxFuture, Device};
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult};
use sectora_core::nbd::{BitmapContext, Export, ExportOptions};
use sectora_core::qapi::{
    BlockDirtyBitmapOrStr, BlockExportDel, BlockExportInfo, BlockExportOptions,
    BlockExportOptionsBranch, BlockExportOptionsNbd, BlockExportRemoveMode, BlockExportType,
    NbdServerAddOptions, NbdServerOptionsLegacy, NbdServerRemove, SocketAddressLegacy, is_id,
    parse,
};
use sectora_core::sync::Mutex;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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
    objects: Objects,
    /// Held for the length of a change.
    change: tokio::sync::Mutex<()>,
    server: Mutex<Option<Server>>,
    list: Mutex<Vec<Served>>,
}

/// The NBD server, while it runs.
#[derive(Debug)]
struct Server {
    server: Arc<NbdServer>,
    running: JoinHandle<()>,
    /// Its socket is removed with it.
    _listening: Listening,
}

/// One export.
#[derive(Debug)]
struct Served {
    id: String,
    /// The name under which the server has it.
    name: String,
    root: Arc<Root>,
    bitmaps: Vec<Arc<DirtyBitmap>>,
}

impl Exports {
    pub(super) fn new(graph: Arc<Graph>, objects: Objects) -> Arc<Self> {
        Arc::new(Self {
            graph,
            objects,
            change: tokio::sync::Mutex::default(),
            server: Mutex::default(),
            list: Mutex::default(),
        })
    }

    /// Ends all exports and the server.
    pub(super) async fn close(&self) {
        let _change = self.change.lock().await;
        self.stop().await;
    }

    async fn start(&self, arguments: Map<String, Value>) -> QmpResult<()> {
        let NbdServerOptionsLegacy { base, addr } = parse(arguments)?;
        if self.server.lock().is_some() {
            return Err(QmpError::generic("NBD server already running"));
        }
        let tls = base.tls_creds.map(|id| self.objects.server_tls(&id)).transpose()?;
        let authz = match base.tls_authz {
            Some(_) if tls.is_none() => {
                return Err(QmpError::generic("TLS authz requires TLS credentials"));
            }
            Some(id) => Some(self.objects.authz(&id).map_err(|e| in_words(&e))?),
            None => None,
        };
        let old = ServerOptions::default();
        let handshake = base.handshake_max_seconds.map(|n| Duration::from_secs(n.into()));
        let options = ServerOptions {
            tls,
            authz,
            handshake_limit: handshake.unwrap_or(old.handshake_limit),
            max_connections: base.max_connections.unwrap_or(old.max_connections),
        };
        let mut listening = listen(&place(addr)?, None).await.map_err(|e| in_words(&e))?;
        // What becomes of connections is told to nobody.
        let (tell, _) = mpsc::unbounded_channel();
        let server = NbdServer::new(options, tell);
        let listeners = std::mem::take(&mut listening.listeners);
        let serving = server.clone();
        let running = tokio::spawn(async move {
            // It only ends with the task.
            let _ = serving.listen(listeners).await;
        });
        *self.server.lock() = Some(Server { server, running, _listening: listening });
        Ok(())
    }

    async fn stop(&self) {
        let last = || self.list.lock().last().map(|served| served.id.clone());
        while let Some(id) = last() {
            // It is gone then, whatever its storage said last.
            let _ = self.remove(&id, RemoveMode::Hard).await;
        }
        let server = self.server.lock().take();
        if let Some(server) = server {
            server.running.abort();
            // Aborted is what it is meant to be.
            let _ = server.running.await;
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
        let node = self.graph.lookup(None, Some(&options.node_name))?;
        if let Some(id) = &options.iothread
            && self.objects.numbers(id).is_none()
        {
            return Err(QmpError::generic(format!("iothread \"{id}\" not found")));
        }
        let writable = options.writable == Some(true);
        if writable && node.settings().read_only {
            return Err(QmpError::generic("Cannot export read-only node as writable"));
        }
        match &options.r#type {
            BlockExportOptionsBranch::Nbd(nbd) => self.add_nbd(&options, nbd, &node).await,
            other => {
                let kind = match other {
                    BlockExportOptionsBranch::VhostUserBlk(_) => "vhost-user-blk",
                    BlockExportOptionsBranch::Fuse(_) => "fuse",
                    _ => "vduse-blk",
                };
                let what = format!("exports of type '{kind}' are not supported yet, only 'nbd' is");
                Err(Error::unsupported(what).into())
            }
        }
    }

    async fn add_nbd(
        &self,
        options: &BlockExportOptions,
        nbd: &BlockExportOptionsNbd,
        node: &Arc<Node>,
    ) -> QmpResult<()> {
        let writable = options.writable == Some(true);
        let read = Permissions::CONSISTENT_READ;
        let taken = if writable { read | Permissions::WRITE } else { read };
        let claim = Claim { taken, shared: Permissions::all() - Permissions::RESIZE };
        let root = self.graph.attach("", node, claim).await?;
        let added = self.serve_nbd(options, nbd, node, &root);
        if added.is_err() {
            self.graph.detach(&root).await?;
        }
        added
    }

    /// Serves what a root shows.
    fn serve_nbd(
        &self,
        options: &BlockExportOptions,
        nbd: &BlockExportOptionsNbd,
        node: &Arc<Node>,
        root: &Arc<Root>,
    ) -> QmpResult<()> {
        let writable = options.writable == Some(true);
        let server = self.server.lock().as_ref().map(|server| server.server.clone());
        let server = server.ok_or_else(|| QmpError::generic("NBD server not running"))?;
        let name = nbd.base.name.as_deref().unwrap_or(&options.node_name);
        if server.exports().iter().any(|export| export.name() == name) {
            return Err(QmpError::generic(format!("NBD server already has export named '{name}'")));
        }
        let mut bitmaps = Vec::new();
        for wanted in nbd.bitmaps.iter().flatten() {
            bitmaps.push(self.bitmap(node, wanted, writable)?);
        }
        let how = ExportOptions {
            description: nbd.base.description.clone(),
            read_only: !writable,
            shared: true,
            allocation_depth: nbd.allocation_depth == Some(true),
            writethrough: options.writethrough == Some(true),
            discard: true,
            ..ExportOptions::default()
        };
        let mut export = Export::new(name, root.clone() as Device, how)?;
        for bitmap in &bitmaps {
            export.add_context(Box::new(BitmapContext::new(bitmap.clone())))?;
        }
        server.add(Arc::new(export))?;
        bitmaps.iter().for_each(|bitmap| bitmap.set_busy(true));
        let (id, name) = (options.id.clone(), name.to_owned());
        self.list.lock().push(Served { id, name, root: root.clone(), bitmaps });
        Ok(())
    }

    /// A bitmap that clients may read: one of the node, or of what it stands on.
    fn bitmap(
        &self,
        node: &Arc<Node>,
        wanted: &BlockDirtyBitmapOrStr,
        writable: bool,
    ) -> QmpResult<Arc<DirtyBitmap>> {
        let (name, found) = match wanted {
            BlockDirtyBitmapOrStr::Local(name) => {
                let mut next = Some(node.clone());
                let mut found = None;
                while let Some(node) = next.filter(|_| found.is_none()) {
                    found = node.bitmaps().get(name);
                    next = node.child("backing").or_else(|| node.child("file"));
                }
                (name, found)
            }
            BlockDirtyBitmapOrStr::External(other) => {
                let node = self
                    .graph
                    .find(&other.node)
                    .ok_or_else(|| QmpError::generic(format!("Node '{}' not found", other.node)))?;
                (&other.name, node.bitmaps().get(&other.name))
            }
        };
        let Some(bitmap) = found else {
            return Err(QmpError::generic(format!("Bitmap '{name}' is not found")));
        };
        bitmap.check_usable()?;
        if !writable && bitmap.status().recording {
            return Err(QmpError::generic(format!(
                "Enabled bitmap '{name}' incompatible with readonly export"
            )));
        }
        Ok(bitmap)
    }

    async fn remove(&self, id: &str, mode: RemoveMode) -> QmpResult<()> {
        let (name, root) = {
            let list = self.list.lock();
            let found = list.iter().find(|served| served.id == id);
            let found =
                found.ok_or_else(|| QmpError::generic(format!("Export '{id}' is not found")))?;
            (found.name.clone(), found.root.clone())
        };
        let server = self.server.lock().as_ref().map(|server| server.server.clone());
        if let Some(server) = server {
            server.remove(&name, mode).await.map_err(|error| match mode {
                RemoveMode::Safe => QmpError::generic(format!("export '{id}' still in use")),
                RemoveMode::Hard => error.into(),
            })?;
        }
        let gone = {
            let mut list = self.list.lock();
            let at = list.iter().position(|served| served.id == id);
            at.map(|at| list.remove(at))
        };
        for bitmap in gone.iter().flat_map(|served| &served.bitmaps) {
            bitmap.set_busy(false);
        }
        let detached = self.graph.detach(&root).await;
        let mut data = Map::new();
        data.insert("id".into(), id.into());
        self.graph.events().emit("BLOCK_EXPORT_DELETED", data);
        Ok(detached?)
    }

    fn told(&self) -> QmpResult<Value> {
        let info = |served: &Served| BlockExportInfo {
            id: served.id.clone(),
            r#type: BlockExportType::Nbd,
            node_name: served.root.node().map(|node| node.name().to_owned()).unwrap_or_default(),
            shutting_down: false,
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
                if self.server.lock().is_none() {
                    return Err(QmpError::generic("NBD server not running"));
                }
                self.stop().await;
            }
            "nbd-server-add" => self.add(by_device(&self.graph, parse(arguments)?)?).await?,
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

/// `nbd-server-add` in the words of `block-export-add`.
fn by_device(graph: &Graph, options: NbdServerAddOptions) -> QmpResult<BlockExportOptions> {
    let node = graph.by_any_name(&options.device)?;
    let mut base = options.base;
    let name = base.name.get_or_insert_with(|| options.device.clone()).clone();
    let bitmaps = options.bitmap.map(|name| vec![BlockDirtyBitmapOrStr::Local(name)]);
    let writable = options.writable == Some(true) && !node.settings().read_only;
    Ok(BlockExportOptions {
        r#type: BlockExportOptionsBranch::Nbd(BlockExportOptionsNbd {
            base,
            bitmaps,
            allocation_depth: None,
        }),
        id: name,
        fixed_iothread: None,
        iothread: None,
        node_name: node.name().to_owned(),
        writable: Some(writable),
        writethrough: None,
        allow_inactive: None,
    })
}

fn place(address: SocketAddressLegacy) -> QmpResult<Place> {
    match address {
        SocketAddressLegacy::Unix(unix) => Ok(Place::Unix(unix.path)),
        SocketAddressLegacy::Inet(inet) => {
            Ok(Place::Inet { host: inet.base.host, port: inet.base.port })
        }
        SocketAddressLegacy::Vsock(_) | SocketAddressLegacy::Fd(_) => {
            let what = "the NBD server listens on addresses of type 'unix' and 'inet' only";
            Err(Error::unsupported(what).into())
        }
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
