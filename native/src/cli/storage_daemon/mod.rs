//! `storage-daemon`: block nodes, exports and jobs, controlled by QMP.
//!
//! Under the name `qemu-storage-daemon` the program takes that program's command line.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `line` | the command line: words to options |
//! | `daemon` | what lives while the daemon does: devices, objects, commands, monitors |
//! | `exports` | the NBD server and what it serves |
//! | `chardev` | character devices |
//! | `qom`, `types` | objects by QMP, and their types |
//! | `human` | commands for people |
//! | `descriptors` | open files that others hand over |
//! | `iothread` | where requests of a node run |
//! | `pid_file` | the file that tells the process |

mod chardev;
mod daemon;
mod descriptors;
mod exports;
mod human;
mod iothread;
mod line;
mod pid_file;
mod qom;
mod types;

use super::background::{self, CHILD};
use super::failure::{Failure, Outcome};
use super::keyval;
use super::output::{self, Program, print};
use chardev::{Description, Read};
use daemon::{Beyond, Daemon};
use line::{Given, Kind, Line};
use pid_file::PidFile;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::sync::Arc;

/// Runs the daemon. `words` are those behind its name, `command_line` all there are.
pub(super) fn run(words: &[String], command_line: &[OsString]) -> Outcome {
    let name = match output::is(Program::QemuStorageDaemon) {
        true => "qemu-storage-daemon",
        false => "sectora storage-daemon",
    };
    let options = match line::read(words)? {
        Line::Help => {
            print(&include_str!("help.txt").replace("@NAME@", name))?;
            return Ok(0);
        }
        Line::Version => {
            print(&format!("{name} {}\n", output::QEMU_IMG_VERSION))?;
            return Ok(0);
        }
        Line::Options(options) => options,
    };
    let detach = options.iter().any(|given| given.kind == Kind::Daemonize);
    let child = detach && std::env::var_os(CHILD).is_some();
    if detach && !child {
        return background::start(command_line, "alone");
    }
    if child {
        // Fails where it leads a session already, which is all that is wanted.
        let _ = rustix::process::setsid();
    }
    let ended = crate::runtime::block_on(|runtime| serve(options, Arc::new(runtime), child));
    ended.map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

async fn serve(
    options: Vec<Given>,
    runtime: Arc<dyn sectora_core::io::Runtime>,
    detached: bool,
) -> Outcome {
    // From here on a signal ends the daemon the way `quit` does.
    let mut signals = super::signal::Endings::new();
    let devices = options.iter().any(|given| given.kind == Kind::Device);
    let descriptors = devices || options.iter().any(|given| given.kind == Kind::AddFd);
    let daemon = Daemon::new(runtime, detached, Beyond { devices, descriptors });
    let mut pid_path = None;
    for given in options {
        let place = format!("{}: {}", output::name(), given.words);
        let mut carried = std::pin::pin!(carry_out(&daemon, &given, &place, &mut pid_path));
        let done = tokio::select! {
            done = &mut carried => done,
            () = signals.any() => return Ok(0),
        };
        match done.map_err(|failure| failure.context(&given.words))? {
            None => {}
            Some(code) => return Ok(code),
        }
    }
    let pid_file = match pid_path {
        None => None,
        Some(path) => {
            let made = PidFile::new(&path);
            Some(made.map_err(|failure| failure.context("cannot create PID file"))?)
        }
    };
    if detached {
        background::detach(false)?;
        // No folder is kept from being unmounted.
        let _ = std::env::set_current_dir("/");
    }
    daemon.start_monitors();
    tokio::select! {
        () = daemon.asked_to_quit() => {}
        () = signals.any() => daemon.tell_of_signal(),
    }
    daemon.shut_down().await;
    drop(pid_file);
    Ok(0)
}

/// What `--device help` prints.
const DEVICE_HELP: &str = "\
A named backend stands for a guest's disk: it counts requests, and an error stops it or is told.
Options:
  account-failed=<bool>   failed requests count for times (default: on)
  account-invalid=<bool>  requests that could not be count for the idle time (default: on)
  id=<str>                its name; exports name it as 'node-name'
  node-name=<str>         the node that it stands on
  read-only=<bool>        nothing is written through it (default: off)
  rerror=<report|ignore|stop|auto>
                          what follows a read that fails (default: auto, that is report)
  share-rw=<bool>         others may write to its node (default: off)
  stats-intervals.0=<int> the length in seconds of an interval of which means are told, and so on
  werror=<report|ignore|enospc|stop|auto>
                          what follows anything else that fails (default: auto, that is enospc)
'--device none' makes none: backends come by the command 'device_add'.
";

/// Carries out one option; a code where the program ends with it.
async fn carry_out(
    daemon: &Daemon,
    given: &Given,
    place: &str,
    pid_path: &mut Option<String>,
) -> Result<Option<u8>, Failure> {
    let value = &*given.value;
    let no_help = || Failure::new("Help is not available for this option");
    match given.kind {
        Kind::Help | Kind::Version | Kind::Daemonize => {}
        Kind::Trace => return Ok(super::words::trace(value)?.then_some(0)),
        Kind::PidFile => *pid_path = Some(value.to_owned()),
        Kind::Stray => return Err(Failure::new("Unexpected argument")),
        Kind::Chardev if chardev::is_help(value) => {
            chardev::print_help()?;
            return Ok(Some(0));
        }
        Kind::Chardev => match Description::of_text(value, place)? {
            Read::Device(made) => daemon.add_chardev(made, place).await?,
            Read::Ended(code) => return Ok(Some(code)),
        },
        Kind::AddFd => {
            let read = keyval::read(value, None)?;
            match read.help {
                true => return Err(no_help()),
                false => daemon.add_fd(read.members)?,
            }
        }
        Kind::Object => {
            let read = keyval::read(value, Some("qom-type"))?;
            if read.help {
                let kind = read.members.get("qom-type").and_then(Value::as_str);
                print(&types::help(kind))?;
                return Ok(Some(0));
            }
            let added = daemon.objects().add_described(&read.members.into());
            added?;
        }
        Kind::Monitor => {
            let read = keyval::read(value, Some("chardev"))?;
            match read.help {
                true => return Err(no_help()),
                false => daemon.add_monitor(read.members)?,
            }
        }
        // Backends may come later: only the commands on them are there.
        Kind::Device if value == "none" => {}
        Kind::Device if matches!(value, "help" | "?") => {
            print(DEVICE_HELP)?;
            return Ok(Some(0));
        }
        Kind::Blockdev | Kind::Device | Kind::Export | Kind::NbdServer => {
            let (implied, command, option) = match given.kind {
                Kind::Device => (Some("node-name"), "device_add", "--device"),
                Kind::Blockdev => (Some("driver"), "blockdev-add", "--blockdev"),
                Kind::Export => (Some("type"), "block-export-add", "--export"),
                _ => (None, "nbd-server-start", "--nbd-server"),
            };
            let read = keyval::read(value, implied)?;
            if read.help {
                return Err(no_help());
            }
            let arguments = match given.kind {
                Kind::NbdServer => with_legacy_address(read.members),
                _ => read.members,
            };
            daemon.call(command, option, arguments).await?;
        }
    }
    Ok(None)
}

/// `addr` of the command line is a `SocketAddress`, that of the command a `SocketAddressLegacy`.
fn with_legacy_address(mut members: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(address)) = members.get_mut("addr")
        && let Some(kind) = address.remove("type")
    {
        let data = std::mem::take(address);
        members.insert("addr".into(), json!({ "type": kind, "data": data }));
    }
    members
}
