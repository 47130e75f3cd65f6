//! `human-monitor-command`: commands for people, as the reference's system emulator has them, with
//! its words and its ends of lines.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `line` | a line in words, held against what a command takes |
//! | `table` | all commands with their help |
//! | `info` | what is told of backends and nodes |

mod info;
mod line;
mod table;

use crate::cli::args;
use crate::cli::io::{LiveNode, on_node};
use line::Given;
use sectora_core::graph::{Claim, Filter, Node, Permissions, Root};
use sectora_core::io::{BoxFuture, Device, Runtime};
use sectora_core::monitor::{BlockCommands, Call, Commands, QmpError, QmpResult};
use sectora_core::qapi::{HumanMonitorCommand, RunState, parse};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use table::{COMMANDS, Command, INFO, Verb};

/// The commands for people.
pub(super) struct HumanMonitor {
    blocks: Arc<BlockCommands>,
    runtime: Arc<dyn Runtime>,
}

impl HumanMonitor {
    pub(super) fn new(blocks: Arc<BlockCommands>, runtime: Arc<dyn Runtime>) -> Self {
        Self { blocks, runtime }
    }

    /// Carries out a line; what fails is part of what is told.
    async fn run(&self, line: &str) -> String {
        let given = match line::read(line) {
            Ok(Some((command, given))) => (command, given),
            Ok(None) => return String::new(),
            Err(text) => return text,
        };
        match self.carry_out(given.0, given.1).await {
            Ok(text) => text,
            Err(error) => format!("{}\n", error.desc),
        }
    }

    async fn carry_out(&self, command: &'static Command, given: Given) -> QmpResult<String> {
        let device = given.word(0);
        Ok(match command.verb {
            Verb::Help => help(&given),
            Verb::Info => table::lines(INFO, "info "),
            Verb::InfoBlock => info::block(self, device, given.flag('n'), given.flag('v')).await?,
            Verb::InfoBlockstats => info::blockstats(self).await?,
            Verb::InfoBlockJobs => info::block_jobs(self).await?,
            Verb::InfoStatus => {
                let status = self.blocks.backends().machine().status();
                match status.status {
                    RunState::Running => "VM status: running\n".into(),
                    RunState::IoError => "VM status: paused (io-error)\n".into(),
                    _ => "VM status: paused\n".into(),
                }
            }
            Verb::Stop => {
                self.blocks.backends().machine().stop();
                String::new()
            }
            Verb::Cont => {
                self.blocks.backends().resume();
                String::new()
            }
            Verb::Commit => {
                self.commit(device.unwrap_or_default()).await?;
                String::new()
            }
            Verb::BlockResize => {
                let size = given.word(1).unwrap_or_default();
                // Without a unit it is MiB.
                let whole = match size.ends_with(|c: char| c.is_ascii_digit()) {
                    true => format!("{size}M"),
                    false => size.to_owned(),
                };
                let bytes = args::bytes("size", &whole)
                    .map_err(|failure| QmpError::generic(failure.to_text()))?;
                let arguments = json!({ "device": device, "size": bytes });
                self.ask("block_resize", arguments).await?;
                String::new()
            }
            Verb::QemuIo => {
                let (name, line) = (device.unwrap_or_default(), given.word(1).unwrap_or_default());
                self.qemu_io(name, given.flag('d'), line).await?
            }
        })
    }

    /// The answer of a command of QMP.
    async fn ask(&self, name: &str, arguments: Value) -> QmpResult<Value> {
        let arguments = match arguments {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        let call = Call { arguments, out_of_band: false };
        match self.blocks.execute(name, call) {
            Some(answer) => answer.await,
            None => Err(QmpError::command_not_found(name)),
        }
    }

    async fn commit(&self, device: &str) -> QmpResult<()> {
        let all = self.blocks.backends().all();
        let every = device == "all";
        let wanted = all.iter().filter(|backend| every || backend.id() == device);
        let nodes: Vec<Arc<Node>> = wanted.filter_map(|backend| backend.root().node()).collect();
        if nodes.is_empty() && !every {
            return Err(QmpError::device_not_found(device));
        }
        // Of all of them, those that stand on nothing have nothing to commit.
        let stands = |node: &&Arc<Node>| !every || node.child("backing").is_some();
        for node in nodes.iter().filter(stands) {
            self.blocks.graph().commit(node).await.map_err(|error| {
                QmpError::generic(format!("'commit' error for '{device}': {}", error.what()))
            })?;
        }
        Ok(())
    }

    async fn qemu_io(&self, name: &str, is_id: bool, line: &str) -> QmpResult<String> {
        let graph = self.blocks.graph();
        let backend = self.blocks.backends().find(name);
        if let Some(backend) = &backend
            && let Some(node) = backend.root().node()
        {
            // The machine may stand still: the request goes to its disk all the same.
            let read_only = backend.is_read_only() || node.settings().read_only;
            return Ok(self.on(name, &node, backend.root(), read_only, line).await);
        }
        if is_id {
            return Err(QmpError::generic(format!("Error: Device '{name}' not found")));
        }
        let node = graph.find(name).ok_or_else(|| {
            let what = format!("Error: Cannot find device='' nor node-name='{name}'");
            QmpError::generic(what)
        })?;
        let read_only = node.settings().read_only || !node.settings().active;
        let mut taken = Permissions::CONSISTENT_READ;
        if !read_only && writes(line) {
            taken |= Permissions::WRITE;
        }
        if line.trim_start().starts_with("truncate") {
            taken |= Permissions::RESIZE;
        }
        let root = graph.attach("", &node, Claim { taken, shared: Permissions::all() }).await?;
        let text = self.on(name, &node, &root, read_only, line).await;
        graph.detach(&root).await?;
        Ok(text)
    }

    async fn on(
        &self,
        name: &str,
        node: &Arc<Node>,
        root: &Arc<Root>,
        read_only: bool,
        line: &str,
    ) -> String {
        let body = node.body();
        let blkdebug = match body.filter {
            Some(Filter::Blkdebug(blkdebug)) => Some(blkdebug),
            _ => None,
        };
        let live = LiveNode {
            driver: node.driver().to_owned(),
            device: root.clone() as Device,
            layer: body.image,
            blkdebug,
        };
        let (runtime, name, line) = (self.runtime.clone(), name.to_owned(), line.to_owned());
        // What the commands keep between their steps belongs to one thread.
        let inside = tokio::runtime::Handle::current();
        let work = move || inside.block_on(on_node(runtime, &name, live, read_only, &line));
        match tokio::task::spawn_blocking(work).await {
            Ok(text) => text,
            Err(error) => format!("Error: the command ended early: {error}\n"),
        }
    }
}

/// True for a line whose command changes the disk.
fn writes(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    crate::cli::io::writes(name)
}

fn help(given: &Given) -> String {
    match (given.word(0), given.word(1)) {
        (None, _) => table::lines(COMMANDS, ""),
        (Some("info"), None) => table::lines(INFO, "info "),
        (Some("info"), Some(name)) => match table::find(INFO, name) {
            Some(command) => command.line("info "),
            None => format!("unknown command: 'info {name}'\n"),
        },
        (Some(name), _) => match table::find(COMMANDS, name) {
            Some(command) => command.line(""),
            None => format!("unknown command: '{name}'\n"),
        },
    }
}

impl Commands for HumanMonitor {
    fn names(&self) -> Vec<&'static str> {
        vec!["human-monitor-command"]
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        (name == "human-monitor-command").then(|| -> BoxFuture<'a, _> {
            Box::pin(async move {
                let HumanMonitorCommand { command_line, cpu_index } = parse(call.arguments)?;
                if cpu_index.is_some() {
                    let what = "Parameter 'cpu-index' expects a CPU number";
                    return Err(QmpError::generic(what));
                }
                let text = self.run(&command_line).await;
                // A terminal is what the reference writes to.
                Ok(Value::String(text.replace('\n', "\r\n")))
            })
        })
    }
}
