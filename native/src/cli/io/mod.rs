//! `io`: requests on an open image by commands, as `qemu-io` has them.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `commands` | the table of commands, and their help |
//! | `session`, `disk` | what lasts from command to command; the open image |
//! | `transfer` | reads and writes, at once or beside other commands |
//! | `status` | length, map, discard and the like |
//! | `files` | open, close, reopen |
//! | `control` | what is not about an image |
//! | `getopt`, `numbers` | options and numbers of a line, and how numbers are told |
//! | `live` | the commands on a node of a daemon |
//! | `prompt` | lines from a terminal or a pipe |
//!
//! Invariants: commands run one after the other on one thread, and print when they end; requests
//! in flight are told of while a command waits; the exit code is 1 where any command failed.

mod commands;
mod control;
mod disk;
mod files;
pub(super) mod getopt;
mod live;
mod numbers;
mod prompt;
mod session;
mod status;
mod transfer;

use super::failure::{Failure, Outcome};
use super::host::is_not_shared;
use super::objects::Objects;
use super::output::{Program, QEMU_IMG_VERSION, complain, print};
use super::words::trace;
use crate::runtime::block_on_this_thread;
use commands::{Command, Verb};
pub(super) use disk::LiveNode;
use disk::Settings;
use getopt::{Found, Long, Options, Value};
pub(super) use live::on_node;
use prompt::Prompt;
use sectora_core::io::Runtime;
use session::{Done, Session, Stop};
use std::sync::Arc;

const LETTERS: &str = "hVc:d:f:rsnCmki:t:T:U";

const LONG: [Long; 17] = [
    long("help", Value::None, 'h'),
    long("version", Value::None, 'V'),
    long("cmd", Value::Required, 'c'),
    long("format", Value::Required, 'f'),
    long("read-only", Value::None, 'r'),
    long("snapshot", Value::None, 's'),
    long("nocache", Value::None, 'n'),
    long("copy-on-read", Value::None, 'C'),
    long("misalign", Value::None, 'm'),
    long("native-aio", Value::None, 'k'),
    long("aio", Value::Required, 'i'),
    long("cache", Value::Required, 't'),
    long("discard", Value::Required, 'd'),
    long("trace", Value::Required, 'T'),
    long("force-share", Value::None, 'U'),
    long("object", Value::Required, 'O'),
    long("image-opts", Value::None, 'I'),
];

const fn long(name: &'static str, value: Value, letter: char) -> Long {
    Long { name, value, letter }
}

const USAGE: &str = "\
Usage: {program} [OPTIONS]... [-c STRING]... [file]
QEMU Disk exerciser

  --object OBJECTDEF   define an object such as 'secret' for
                       passwords and/or encryption keys
  --image-opts         treat file as option string
  -c, --cmd STRING     execute command with its arguments
                       from the given string
  -f, --format FMT     specifies the block driver to use
  -r, --read-only      export read-only
  -s, --snapshot       use snapshot file
  -n, --nocache        disable host cache, short for -t none
  -C, --copy-on-read   enable copy-on-read
  -m, --misalign       misalign allocations for O_DIRECT
  -k, --native-aio     use kernel AIO implementation
                       (Linux only, prefer use of -i)
  -i, --aio=MODE       use AIO mode (threads, native or io_uring)
  -t, --cache=MODE     use the given cache mode for the image
  -d, --discard=MODE   use the given discard mode for the image
  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]
                       specify tracing options
                       see qemu-img(1) man page for full description
  -U, --force-share    force shared permissions
  -h, --help           display this help and exit
  -V, --version        output version information and exit

See '{program} -c help' for information on available commands.
";

fn usage(program: Program) -> String {
    let name = match program {
        Program::Sectora => "sectora io",
        _ => program.name(),
    };
    USAGE.replace("{program}", name)
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Plan {
    settings: Settings,
    commands: Vec<String>,
    image_opts: bool,
    file: Option<String>,
}

/// Runs the program; `words` come after its name.
pub(super) fn run(program: Program, words: &[String]) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mut plan, objects) = (Plan::default(), Objects::default());
    let mut options = Options::new(program.name(), LETTERS, &LONG, &words);
    for option in options.by_ref() {
        let Found { letter, value } = match option {
            Ok(found) => found,
            Err(text) => {
                complain(&text);
                print(&usage(program))?;
                return Ok(1);
            }
        };
        match letter {
            'h' => {
                print(&usage(program))?;
                return Ok(0);
            }
            'V' => {
                print(&format!("{} {QEMU_IMG_VERSION}\n", program.name()))?;
                return Ok(0);
            }
            'c' => plan.commands.extend(value),
            'f' => plan.settings.format = value,
            'O' => objects.define(&value.unwrap_or_default())?,
            'I' => plan.image_opts = true,
            'T' => {
                if trace(&value.unwrap_or_default())? {
                    return Ok(0);
                }
            }
            _ => files::setting(&mut plan.settings, letter, value.as_deref())
                .map_err(Failure::new)?,
        }
    }
    match options.operands()[..] {
        [] => {}
        [file] => plan.file = Some(file.to_owned()),
        _ => {
            print(&usage(program))?;
            return Ok(1);
        }
    }
    if plan.image_opts && plan.settings.format.is_some() {
        return Err(Failure::new("--image-opts and -f are mutually exclusive"));
    }
    let shared = plan.image_opts && plan.settings.force_share;
    if shared && plan.file.as_deref().is_some_and(is_not_shared) {
        return Err(Failure::new("-U conflicts with image options"));
    }
    // One thread, as the order of what is printed matters. Signals end the program as they do any:
    // what was not flushed is as after a crash.
    block_on_this_thread(|runtime| session(program, runtime.into(), objects, plan))
        .map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

async fn session(
    program: Program,
    runtime: Arc<dyn Runtime>,
    objects: Objects,
    plan: Plan,
) -> Outcome {
    let mut session = Session::new(program, runtime, objects, plan.image_opts);
    if let Some(file) = &plan.file {
        let opened = match plan.image_opts {
            true => files::open_described(&mut session, file, plan.settings).await,
            false => files::open_into(&mut session, file, plan.settings).await,
        };
        if failed(opened)? {
            return Ok(1);
        }
    }
    let mut bad = false;
    if plan.commands.is_empty() {
        let prompt = Prompt::new(match program {
            Program::Sectora => "sectora io> ",
            _ => "qemu-io> ",
        });
        while let Some(line) = prompt.line(&mut session).await.or_else(|stop| match stop {
            Stop::Failed => Ok(None),
            Stop::Broken(failure) => Err(failure),
        })? {
            match execute(&mut session, &line).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(stop) => bad |= failed(Err(stop))?,
            }
        }
    }
    for line in &plan.commands {
        match execute(&mut session, line).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(stop) => bad |= failed(Err(stop))?,
        }
    }
    bad |= failed(session.close().await)?;
    Ok(u8::from(bad))
}

/// True where a command failed.
fn failed(done: Done) -> Result<bool, Failure> {
    match done {
        Ok(()) => Ok(false),
        Err(Stop::Failed) => Ok(true),
        Err(Stop::Broken(failure)) => Err(failure),
    }
}

/// True for the name of a command that changes the image.
pub(super) fn writes(name: &str) -> bool {
    Command::find(name).is_some_and(|command| command.writes)
}

/// Runs one line. False where it is the last.
async fn execute(session: &mut Session, line: &str) -> Done<bool> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let Some(called) = words.first() else { return Ok(true) };
    let known = Command::find(called).filter(|command| !session.live || live::has(command.verb));
    let Some(command) = known else {
        complain(&format!("command \"{called}\" not found"));
        return Err(Stop::Failed);
    };
    if !command.without_file && session.disk.is_none() {
        complain("no file open, try 'help open'");
        return Err(Stop::Failed);
    }
    if let Some(text) = command.check_count(called, words.len() - 1) {
        complain(&text);
        return Err(Stop::Failed);
    }
    if command.writes && session.disk.as_ref().is_some_and(|disk| disk.settings.read_only) {
        return Err(session.complain("Block node is read-only"));
    }
    match command.verb {
        Verb::Quit => return Ok(false),
        Verb::Abort => std::process::abort(),
        Verb::Read | Verb::Readv => transfer::read(session, command, &words).await?,
        Verb::Write => transfer::write(session, command, &words).await?,
        Verb::Writev => transfer::writev(session, command, &words).await?,
        Verb::AioRead => transfer::aio_read(session, command, &words).await?,
        Verb::AioWrite => transfer::aio_write(session, command, &words).await?,
        Verb::AioFlush => session.land().await?,
        Verb::Length => status::length(session)?,
        Verb::Info => status::info(session).await?,
        Verb::Map => status::map(session).await?,
        Verb::Alloc => status::alloc(session, &words).await?,
        Verb::Truncate => status::truncate(session, command, &words).await?,
        Verb::Discard => status::discard(session, command, &words).await?,
        Verb::Flush => status::flush(session).await?,
        Verb::Open => files::open(session, command, &words).await?,
        Verb::Close => session.close().await?,
        Verb::Reopen => files::reopen(session, command, &words).await?,
        Verb::Sleep => control::sleep(session, &words).await?,
        Verb::Sigraise => control::sigraise(&words)?,
        Verb::Help => control::help(session, &words)?,
        Verb::Break | Verb::RemoveBreak | Verb::Resume => {
            control::breakpoint(session, command, &words)?
        }
        Verb::WaitBreak => control::wait_break(session, &words).await?,
        Verb::ZoneAppend
        | Verb::ZoneClose
        | Verb::ZoneFinish
        | Verb::ZoneOpen
        | Verb::ZoneReport
        | Verb::ZoneReset => control::zone(command, &words)?,
    }
    Ok(true)
}
