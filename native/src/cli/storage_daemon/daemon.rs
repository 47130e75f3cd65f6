//! What lives while the daemon does: devices, objects, commands, monitors.

use super::chardev::{CharDevices, Chardev, Description};
use super::descriptors::{self, DescriptorCommands};
use super::exports::Exports;
use super::human::HumanMonitor;
use super::iothread::IothreadCommands;
use super::qom::ObjectCommands;
use crate::cli::failure::{Failure, told};
use crate::cli::fdset::FdSets;
use crate::cli::nodes::Nodes;
use crate::cli::objects::Objects;
use crate::cli::output::complain;
use crate::protocol::NameOpener;
use crate::storage::FileOpener;
use sectora_core::format::Env;
use sectora_core::graph::Graph;
use sectora_core::io::{BoxFuture, Runtime, Unrestricted};
use sectora_core::job::Jobs;
use sectora_core::json::Layout;
use sectora_core::monitor::{
    Arguments, BackendCommands, BlockCommands, Call, CommandSets, Commands, Control, Ended, Events,
    QapiErrorClass, QmpResult, ReplicationCommands, Session, SessionOptions, Version, read_texts,
    serve,
};
use sectora_core::qapi::{self, Shutdown, ShutdownCause};
use sectora_core::sync::Mutex;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What was not sent this long after the end began is not sent at all.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the daemon has beyond the reference's, where it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beyond {
    /// There may be named backends, and the commands on them.
    pub(super) devices: bool,
    /// Descriptors can be handed over.
    pub(super) descriptors: bool,
}

/// The daemon.
pub(super) struct Daemon {
    runtime: Arc<dyn Runtime>,
    events: Arc<Events>,
    chardevs: Arc<CharDevices>,
    objects: Objects,
    blocks: Arc<BlockCommands>,
    exports: Arc<Exports>,
    commands: Arc<CommandSets>,
    /// What was handed over; `None` where nothing can be.
    handed_over: Option<Arc<FdSets>>,
    quit: Arc<Quit>,
    monitors: Mutex<Vec<Monitor>>,
    running: Mutex<JoinSet<()>>,
}

/// A monitor that is to be held on a device.
struct Monitor {
    chardev: Arc<Chardev>,
    layout: Layout,
}

/// `quit`: exports end, jobs are forgotten and nodes closed before it is answered.
#[derive(Debug)]
struct Quit {
    /// The command was carried out.
    asked: Notify,
    /// Whoever gave it has its answer.
    answered: Notify,
    blocks: Arc<BlockCommands>,
    exports: Arc<Exports>,
    /// Where the end is told of; only what has named backends tells it.
    told: Option<Arc<Events>>,
}

impl Commands for Quit {
    fn names(&self) -> Vec<&'static str> {
        vec!["quit"]
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        (name == "quit").then(|| -> BoxFuture<'a, _> {
            Box::pin(async move {
                Arguments::new(call.arguments).end()?;
                if let Some(events) = &self.told {
                    tell_of_end(events, ShutdownCause::HostQmpQuit);
                }
                self.exports.close().await;
                if let Err(error) = self.blocks.close().await {
                    complain(&told(&error));
                }
                self.asked.notify_one();
                Ok(json!({}))
            })
        })
    }
}

fn tell_of_end(events: &Events, reason: ShutdownCause) {
    events.tell("SHUTDOWN", &Shutdown { guest: false, reason });
}

/// Commands on nodes; exports look afterwards whether a node is another one.
struct Watched {
    commands: Arc<dyn Commands>,
    exports: Arc<Exports>,
}

impl Commands for Watched {
    fn names(&self) -> Vec<&'static str> {
        self.commands.names()
    }

    fn allows_out_of_band(&self, name: &str) -> bool {
        self.commands.allows_out_of_band(name)
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        let carried = self.commands.execute(name, call)?;
        Some(Box::pin(async move {
            let answer = carried.await;
            self.exports.look();
            answer
        }))
    }
}

fn version() -> Version {
    let package = concat!("sectora ", env!("CARGO_PKG_VERSION"));
    Version { qemu: [10, 0, 2], package: package.into() }
}

impl Daemon {
    pub(super) fn new(runtime: Arc<dyn Runtime>, detached: bool, beyond: Beyond) -> Self {
        let events = Events::new(runtime.clone());
        let chardevs = Arc::new(CharDevices::new(detached));
        let objects = Objects::of_daemon(runtime.clone());
        let by_qmp = ObjectCommands { objects: objects.clone(), chardevs: chardevs.clone() };
        let env = Env {
            runtime: runtime.clone(),
            policy: Arc::new(Unrestricted(NameOpener { files: FileOpener::default() })),
        };
        let handed_over = beyond.descriptors.then(Arc::<FdSets>::default);
        let nodes = Nodes::new(FileOpener::default(), objects.clone());
        let nodes = Arc::new(nodes.with_handed_over(handed_over.clone()));
        let graph = Graph::new(env, nodes, events.clone());
        let jobs = Jobs::new(runtime.clone(), events.clone());
        let blocks = Arc::new(BlockCommands::new(graph.clone(), jobs));
        let iothreads = IothreadCommands { graph: graph.clone(), objects: objects.clone() };
        let backends = blocks.backends().clone();
        let exports = Exports::new(graph, backends, objects.clone(), handed_over.clone());
        let quit = Arc::new(Quit {
            asked: Notify::new(),
            answered: Notify::new(),
            blocks: blocks.clone(),
            exports: exports.clone(),
            told: beyond.devices.then(|| events.clone()),
        });
        let mut host = CommandSets::new()
            .with(Arc::new(by_qmp))
            .with(chardevs.clone())
            .with(exports.clone())
            .with(Arc::new(Watched { commands: blocks.clone(), exports: exports.clone() }))
            .with(Arc::new(iothreads))
            .with(quit.clone());
        if let Some(sets) = &handed_over {
            // Nothing comes with commands but over a socket, which has its own.
            let (sets, inbox) = (sets.clone(), Arc::default());
            host = host.with(Arc::new(DescriptorCommands { sets, inbox }));
        }
        if beyond.devices {
            let backends = blocks.backends().clone();
            let people = Arc::new(HumanMonitor::new(blocks.clone(), runtime.clone()));
            host = host
                .with(Arc::new(BackendCommands::new(backends, events.clone())))
                .with(Arc::new(ReplicationCommands::new(blocks.graph().clone())))
                .with(Arc::new(Watched { commands: people, exports: exports.clone() }));
        }
        let control = Control::new(version(), host.names());
        Self {
            runtime,
            events,
            chardevs,
            objects,
            blocks,
            exports,
            commands: Arc::new(host.with(Arc::new(control))),
            handed_over,
            quit,
            monitors: Mutex::default(),
            running: Mutex::new(JoinSet::new()),
        }
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Takes over a descriptor of `--add-fd`.
    pub(super) fn add_fd(&self, members: Map<String, Value>) -> Result<(), Failure> {
        match &self.handed_over {
            Some(sets) => descriptors::add_from_line(sets, members),
            None => Err(Failure::unsupported("--add-fd")),
        }
    }

    /// Makes a device of `--chardev`, and waits for its client where that is wanted.
    pub(super) async fn add_chardev(&self, made: Description, place: &str) -> Result<(), Failure> {
        let chardev = self.chardevs.add(made).await.map_err(|e| Failure::new(e.desc))?;
        let tell = |name: &str| {
            complain(&format!("{place}: info: QEMU waiting for connection on: {name}"));
        };
        chardev.wait(tell).await;
        Ok(())
    }

    /// Makes a monitor of `--monitor`; it begins when everything is ready.
    pub(super) fn add_monitor(&self, members: Map<String, Value>) -> Result<(), Failure> {
        let read = |mut given: Arguments| -> QmpResult<_> {
            given.text("id")?;
            let mode = given.text("mode")?;
            let pretty = match given.take("pretty") {
                // A text comes from the command line.
                Some(Value::String(text)) => Some(Value::String(text)),
                Some(Value::Bool(flag)) => Some(if flag { "on" } else { "off" }.into()),
                Some(_) => return Err(sectora_core::monitor::wrong_type("pretty", "boolean")),
                None => None,
            };
            let chardev = given.need_text("chardev")?;
            given.end()?;
            Ok((mode, pretty, chardev))
        };
        let (mode, pretty, id) = read(Arguments::new(members)).map_err(|e| Failure::new(e.desc))?;
        let pretty = match pretty.as_ref().and_then(Value::as_str) {
            None | Some("off" | "no" | "false" | "n") => Layout::Line,
            Some("on" | "yes" | "true" | "y") => Layout::Pretty,
            Some(_) => return Err(Failure::new("Parameter 'pretty' expects 'on' or 'off'")),
        };
        let readline = match mode.as_deref() {
            None | Some("control") => false,
            Some("readline") => true,
            Some(other) => {
                let text = format!("Parameter 'mode' does not accept value '{other}'");
                return Err(Failure::new(text));
            }
        };
        let chardev = self.chardevs.get(&id);
        let chardev = chardev.ok_or_else(|| Failure::new(format!("chardev \"{id}\" not found")))?;
        if readline {
            return Err(Failure::new("Only QMP is supported"));
        }
        if !chardev.claim() {
            return Err(Failure::new(format!("chardev '{id}' is already in use")));
        }
        self.monitors.lock().push(Monitor { chardev, layout: pretty });
        Ok(())
    }

    /// Executes a command that an option stands for.
    pub(super) async fn call(
        &self,
        command: &str,
        option: &str,
        mut arguments: Map<String, Value>,
    ) -> Result<(), Failure> {
        if let Some(schema) = qapi::command(command).and_then(|command| command.arguments) {
            // On a command line everything is a text.
            read_texts(schema(), &mut arguments).map_err(|e| Failure::new(e.desc))?;
        }
        let call = Call { arguments, out_of_band: false };
        match self.commands.call(command, call).await {
            Ok(_) => Ok(()),
            Err(error) if error.class == QapiErrorClass::CommandNotFound => {
                Err(Failure::unsupported(option))
            }
            Err(error) => Err(Failure::new(error.desc)),
        }
    }

    /// Begins to hold sessions.
    pub(super) fn start_monitors(&self) {
        self.exports.take_clients();
        let mut running = self.running.lock();
        for monitor in self.monitors.lock().drain(..) {
            let (commands, events) = (self.commands.clone(), self.events.clone());
            let (runtime, quit) = (self.runtime.clone(), self.quit.clone());
            let handed_over = self.handed_over.clone();
            running.spawn(async move {
                monitor.run(commands, handed_over, &events, &runtime).await;
                quit.answered.notify_one();
            });
        }
    }

    /// Completes when a client said `quit`.
    pub(super) async fn asked_to_quit(&self) {
        self.quit.asked.notified().await;
        // One that never reads its answer does not hold up the end.
        let _ = tokio::time::timeout(LAST_WORDS, self.quit.answered.notified()).await;
    }

    /// Tells that a signal ends the daemon.
    pub(super) fn tell_of_signal(&self) {
        if let Some(events) = &self.quit.told {
            tell_of_end(events, ShutdownCause::HostSignal);
        }
    }

    /// Ends all sessions, and lets out what they said last.
    pub(super) async fn shut_down(&self) {
        let mut running = std::mem::take(&mut *self.running.lock());
        // Clients of exports lose what was not answered; then everything becomes durable.
        self.exports.close().await;
        if let Err(error) = self.blocks.close().await {
            complain(&told(&error));
        }
        running.shutdown().await;
        self.chardevs.flushed().wait(LAST_WORDS).await;
    }
}

impl Monitor {
    /// Holds one session after the other until a client says `quit`.
    async fn run(
        self,
        commands: Arc<CommandSets>,
        handed_over: Option<Arc<FdSets>>,
        events: &Events,
        runtime: &Arc<dyn Runtime>,
    ) {
        loop {
            let stream = self.chardev.next_stream().await;
            let heard = events.subscribe();
            let options = SessionOptions {
                version: version(),
                layout: self.layout,
                out_of_band: self.chardev.is_read_aside(),
            };
            let commands: Arc<dyn Commands> = match (&handed_over, stream.inbox()) {
                (Some(sets), Some(inbox)) => {
                    let own = DescriptorCommands { sets: sets.clone(), inbox };
                    Arc::new(CommandSets::new().with(Arc::new(own)).with(commands.clone()))
                }
                _ => commands.clone(),
            };
            let session = Session::new(commands, options);
            // What broke a connection off is its client's concern.
            let ended = serve(stream, session, &heard, runtime).await;
            self.chardev.gone();
            if matches!(ended, Ok(Ended::Quit)) {
                return;
            }
        }
    }
}
