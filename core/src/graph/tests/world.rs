//! A graph over files in memory, in the simulator.

use super::Files;
use crate::format::{BackingRef, Env, qcow2};
use crate::graph::{Claim, Graph, Node, Options, Permissions, Root};
use crate::image::{NewImage, create};
use crate::io::testing::SimRuntime;
use crate::io::{BlockDevice, Deny, Device, MemoryDevice, Segments, WriteFlags};
use crate::monitor::{Events, QmpError, Subscription};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

pub(crate) const SIZE: u64 = 1 << 20;

pub(crate) struct World {
    pub(crate) sim: SimRuntime,
    pub(crate) graph: Arc<Graph>,
    pub(crate) heard: Subscription,
    pub(crate) files: BTreeMap<String, Device>,
}

impl World {
    /// Files `a` to `d` with images of qcow2, `b` to `d` without a backing file; `raw` has none.
    pub(crate) fn new(seed: u64) -> Self {
        let sim = SimRuntime::new(seed);
        let env = Env { runtime: sim.handle(), policy: Arc::new(Deny) };
        let mut files = Files::default();
        for name in ["a", "b", "c", "d", "base", "on-base"] {
            let device: Device = Arc::new(MemoryDevice::new(0).named(name));
            let backing = (name == "on-base")
                .then(|| BackingRef { name: "base".into(), format: Some("qcow2".into()) });
            let options = qcow2::CreateOptions { size: SIZE, backing, ..Default::default() };
            let image = NewImage::Qcow2(options);
            sim.block_on(create(&env.runtime, &device, None, &image)).unwrap();
            files.0.insert(name.into(), device);
        }
        files.0.insert("raw".into(), Arc::new(MemoryDevice::new(SIZE)));
        let events = Events::new(sim.handle());
        let heard = events.subscribe();
        let known = files.0.clone();
        let graph = Graph::new(env, Arc::new(files), events);
        Self { sim, graph, heard, files: known }
    }

    pub(crate) fn add(&self, options: &str) -> Result<Arc<Node>, String> {
        let options = Options::parse_json(options).unwrap();
        self.sim.block_on(self.graph.add(options)).map_err(|e| QmpError::from(e).desc)
    }

    pub(crate) fn image(&self, name: &str) -> Arc<Node> {
        self.add(&format!(
            "{{'driver': 'qcow2', 'node-name': '{name}', 'file': {{'driver': 'file', \
             'node-name': 'file-{name}', 'filename': '{name}'}}}}"
        ))
        .unwrap()
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), String> {
        self.sim.block_on(self.graph.remove(name)).map_err(|e| e.to_string())
    }

    pub(crate) fn reopen(&self, list: &[&str]) -> Result<(), String> {
        let list = list.iter().map(|text| Options::parse_json(text).unwrap()).collect();
        self.sim.block_on(self.graph.reopen(list)).map_err(|e| e.to_string())
    }

    pub(crate) fn attach(&self, node: &Arc<Node>, writes: bool) -> Result<Arc<Root>, String> {
        let mut taken = Permissions::CONSISTENT_READ;
        taken.set(Permissions::WRITE, writes);
        let claim = Claim { taken, shared: Permissions::all() - Permissions::RESIZE };
        self.sim.block_on(self.graph.attach("", node, claim)).map_err(|e| e.to_string())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.graph.nodes().iter().map(|node| node.name().to_string()).collect()
    }

    pub(crate) fn write(&self, root: &Root, at: u64, byte: u8) {
        let data = Segments::from(alloc::vec![byte; 512]);
        self.sim.block_on(root.write(at, data, WriteFlags::empty())).unwrap();
    }

    pub(crate) fn byte(&self, root: &Root, at: u64) -> u8 {
        self.sim.block_on(root.read(at, 1)).unwrap().to_bytes()[0]
    }
}
