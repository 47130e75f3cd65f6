//! The NBD server of a daemon, and exports through it.

use super::{Exports, Running, Shown, Source, address, in_words};
use crate::cli::nbd::listen::Listening;
use crate::export::RemoveMode;
use crate::export::nbd::{NbdServer, ServerOptions};
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::graph::{Claim, Graph, Node, Permissions};
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::nbd::{BitmapContext, Export, ExportOptions};
use sectora_core::qapi::{
    BlockDirtyBitmapOrStr, BlockExportOptions, BlockExportOptionsBranch, BlockExportOptionsNbd,
    BlockExportType, NbdServerAddOptions, NbdServerOptionsLegacy, parse,
};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The longest text of the protocol, in bytes ("Values").
const MAX_DESCRIPTION: usize = 4096;

/// The NBD server, while it runs.
#[derive(Debug)]
pub(super) struct Server {
    server: Arc<NbdServer>,
    running: JoinHandle<()>,
    /// Its socket is removed with it.
    _listening: Listening,
}

/// An export through the server.
#[derive(Debug)]
struct Nbd {
    server: Arc<NbdServer>,
    /// The name under which the server has it.
    name: String,
    /// Those that clients read; nobody changes them meanwhile.
    bitmaps: Vec<Arc<DirtyBitmap>>,
}

impl Running for Nbd {
    fn kind(&self) -> BlockExportType {
        BlockExportType::Nbd
    }

    fn has_clients(&self) -> bool {
        self.server.is_used(&self.name)
    }

    fn remove(&self, mode: RemoveMode) -> BoxFuture<'_, sectora_core::Result<()>> {
        Box::pin(async move {
            self.server.remove(&self.name, mode).await?;
            self.bitmaps.iter().for_each(|bitmap| bitmap.set_busy(false));
            Ok(())
        })
    }
}

impl Exports {
    pub(super) async fn start(&self, arguments: Map<String, Value>) -> QmpResult<()> {
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
        let mut listening = address::listen_on(address::modern(addr), self.descriptors()).await?;
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

    pub(super) async fn stop(&self) -> QmpResult<()> {
        if self.server.lock().is_none() {
            return Err(QmpError::generic("NBD server not running"));
        }
        self.end_all(|kind| matches!(kind, BlockExportType::Nbd)).await;
        self.end_server().await;
        Ok(())
    }

    /// Ends the server; its exports are gone.
    pub(super) async fn end_server(&self) {
        let server = self.server.lock().take();
        if let Some(server) = server {
            server.running.abort();
            // Aborted is what it is meant to be.
            let _ = server.running.await;
        }
    }

    /// Serves what a root shows.
    pub(super) async fn add_nbd(
        &self,
        options: &BlockExportOptions,
        nbd: &BlockExportOptionsNbd,
        shown: &Shown,
    ) -> QmpResult<Arc<dyn Running>> {
        let writable = options.writable == Some(true);
        let server = self.server.lock().as_ref().map(|server| server.server.clone());
        let server = server.ok_or_else(|| QmpError::generic("NBD server not running"))?;
        let name = nbd.base.name.as_deref().unwrap_or(&options.node_name);
        if let Some(description) = nbd.base.description.as_deref()
            && description.len() > MAX_DESCRIPTION
        {
            return Err(QmpError::generic(format!("description '{description}' too long")));
        }
        if server.exports().iter().any(|export| export.name() == name) {
            return Err(QmpError::generic(format!("NBD server already has export named '{name}'")));
        }
        if let Source::Node(root) = &shown.source {
            // A client cannot be told of a new length.
            let shared = Permissions::all() - Permissions::RESIZE;
            self.graph.set_claim(root, Claim { taken: shown.taken, shared }).await?;
        }
        let mut bitmaps = Vec::new();
        for wanted in nbd.bitmaps.iter().flatten() {
            bitmaps.push(self.bitmap(&shown.node, wanted, writable)?);
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
        let mut export = Export::new(name, shown.device.clone(), how)?;
        for bitmap in &bitmaps {
            export.add_context(Box::new(BitmapContext::new(bitmap.clone())))?;
        }
        server.add(Arc::new(export))?;
        bitmaps.iter().for_each(|bitmap| bitmap.set_busy(true));
        Ok(Arc::new(Nbd { server, name: name.to_owned(), bitmaps }))
    }

    /// A bitmap that clients may read: one of the node, or of what it stands on.
    fn bitmap(
        &self,
        node: &Arc<Node>,
        wanted: &BlockDirtyBitmapOrStr,
        writable: bool,
    ) -> QmpResult<Arc<DirtyBitmap>> {
        let (name, what, found) = match wanted {
            BlockDirtyBitmapOrStr::Local(name) => {
                let mut next = Some(node.clone());
                let mut found = None;
                while let Some(node) = next.filter(|_| found.is_none()) {
                    found = node.bitmaps().get(name);
                    next = node.child("backing").or_else(|| node.child("file"));
                }
                (name, format!("Bitmap '{name}' is not found"), found)
            }
            BlockDirtyBitmapOrStr::External(other) => {
                let node = self
                    .graph
                    .find(&other.node)
                    .ok_or_else(|| QmpError::generic(format!("Node '{}' not found", other.node)))?;
                let what = format!("Dirty bitmap '{}' not found", other.name);
                (&other.name, what, node.bitmaps().get(&other.name))
            }
        };
        let Some(bitmap) = found else {
            return Err(QmpError::generic(what));
        };
        bitmap.check_usable()?;
        if !writable && bitmap.status().recording {
            return Err(QmpError::generic(format!(
                "Enabled bitmap '{name}' incompatible with readonly export"
            )));
        }
        Ok(bitmap)
    }
}

/// `nbd-server-add` in the words of `block-export-add`.
pub(super) fn by_device(
    graph: &Graph,
    options: NbdServerAddOptions,
) -> QmpResult<BlockExportOptions> {
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
        node_name: options.device,
        writable: Some(writable),
        writethrough: None,
        allow_inactive: None,
    })
}
