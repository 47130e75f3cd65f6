//! All backends by name.

use super::{Accounting, Backend, ErrorPolicy, Machine, Statistics};
use crate::graph::{Claim, Graph, Permissions};
use crate::qapi::BlockDeviceIoStatus;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;

/// A backend that is to be.
#[derive(Clone, Debug)]
pub struct NewBackend {
    /// Its name.
    pub id: String,
    /// The name of its node.
    pub node_name: String,
    /// What follows errors.
    pub policy: ErrorPolicy,
    /// Nothing is written through it.
    pub read_only: bool,
    /// Others may write to its node (`share-rw`).
    pub share_rw: bool,
    /// What is counted.
    pub accounting: Accounting,
}

/// All backends.
#[derive(Debug)]
pub struct Backends {
    graph: Arc<Graph>,
    machine: Arc<Machine>,
    list: Mutex<Vec<Arc<Backend>>>,
}

impl Backends {
    /// None yet, over the nodes of `graph`.
    #[must_use]
    pub fn new(graph: Arc<Graph>) -> Arc<Self> {
        let machine = Machine::new(graph.events().clone());
        Arc::new(Self { graph, machine, list: Mutex::default() })
    }

    /// What they are disks of.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// All of them, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Backend>> {
        self.list.lock().clone()
    }

    /// The backend of that name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Backend>> {
        self.list.lock().iter().find(|backend| backend.id() == id).cloned()
    }

    /// Makes a backend.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is taken, `NotFound` for a node that is not there, `Denied` and
    /// `InUse` for one that cannot be used so.
    pub async fn add(&self, new: NewBackend) -> Result<Arc<Backend>> {
        let NewBackend { id, node_name, policy, read_only, share_rw, accounting } = new;
        if self.find(&id).is_some() {
            return Err(Error::invalid(format!("Duplicate device ID '{id}'")));
        }
        if self.graph.find(&id).is_some() {
            let what = format!("Device ID '{id}' is conflicting with a node name");
            return Err(Error::invalid(what));
        }
        let node = self.graph.find(&node_name).ok_or_else(|| {
            let what = format!("Cannot find device='{node_name}' nor node-name='{node_name}'");
            Error::new(ErrorKind::NotFound, what)
        })?;
        let mut taken = Permissions::CONSISTENT_READ;
        if !read_only {
            if node.settings().read_only {
                return Err(Error::denied("Block node is read-only"));
            }
            taken |= Permissions::WRITE;
        }
        let mut shared = Permissions::all() - Permissions::WRITE;
        if share_rw {
            shared |= Permissions::WRITE;
        }
        let root = self.graph.attach(&id, &node, Claim { taken, shared }).await?;
        let backend = Arc::new(Backend {
            id,
            root,
            policy,
            read_only,
            statistics: Statistics::new(accounting),
            status: Mutex::new(BlockDeviceIoStatus::Ok),
            machine: self.machine.clone(),
            events: self.graph.events().clone(),
            runtime: self.graph.env().runtime.clone(),
            users: AtomicUsize::new(0),
        });
        self.list.lock().push(backend.clone());
        Ok(backend)
    }

    /// Removes a backend that nobody uses.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, and those of making everything durable: it is gone then all the same.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let backend = {
            let mut list = self.list.lock();
            let at = list.iter().position(|backend| backend.id() == id);
            let at = at.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("Device '{id}' not found"))
            })?;
            if list[at].is_used() {
                let what = format!("Device '{id}' is in use: remove what is exported of it first");
                return Err(Error::new(ErrorKind::InUse, what));
            }
            list.remove(at)
        };
        self.graph.detach(backend.root()).await
    }

    /// Lets requests go on (`cont`), and forgets which failed.
    pub fn resume(&self) {
        self.all().iter().for_each(|backend| backend.reset_io_status());
        self.machine.resume();
    }
}
