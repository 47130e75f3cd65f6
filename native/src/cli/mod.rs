//! The command line.
//!
//! `sectora img VERB …` takes what `qemu-img VERB …` takes, prints what it prints and exits with
//! what it exits with; under the name `qemu-img` (a symbolic link) the program is a replacement for
//! it. Without arguments it shows what it can do on a small disk of its own.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `args` | options that several verbs have, and their values |
//! | `objects` | secrets, credentials and rules, which options name by their IDs |
//! | `host` | the runtime of one command, and how it opens images |
//! | `nodes` | images named by options |
//! | `overlay` | temporary images that take writes |
//! | `failure` | errors as texts and exit codes |
//! | `output` | everything that is printed |
//! | `trace` | `--trace` |
//! | `progress`, `signal` | how far a command is, and how it is stopped |
//! | `info` … `compare` | one module a verb |
//! | `io` | the command language of `qemu-io` |
//! | `nbd` | the server `nbd`, also under the name `qemu-nbd` |
//! | `storage_daemon` | the daemon, also under the name `qemu-storage-daemon` |
//! | `background` | a program that goes on in the background |
//! | `bitmap` … `measure` | one module a verb |
//! | `words` | a line of `qemu-img`, mistakes found in the order of its words |
//! | `sample` | the built-in disk |
//!
//! Invariants: nothing here knows a format's layout; nothing but `output` and `progress` prints;
//! what is not supported is refused, never ignored.

mod amend;
mod args;
mod background;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod dd;
mod failure;
mod fdset;
mod host;
mod info;
mod io;
mod keyval;
mod map;
mod measure;
mod nbd;
mod nodes;
mod objects;
mod output;
mod overlay;
mod progress;
mod rebase;
mod resize;
mod sample;
mod signal;
mod snapshot;
mod storage_daemon;
mod words;

use clap::{CommandFactory, Parser, Subcommand};
use failure::Outcome;
use output::Program;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use words::Words;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().and_then(|name| Path::new(name).file_stem());
    let program = match name.and_then(|name| name.to_str()) {
        Some("qemu-img") => Program::QemuImg,
        Some("qemu-io") => Program::QemuIo,
        Some("qemu-nbd") => Program::QemuNbd,
        Some("qemu-storage-daemon") => Program::QemuStorageDaemon,
        _ => Program::Sectora,
    };
    output::set_program(program);
    if args.is_empty() {
        args.push(program.name().into());
    }
    let mut verb = if program == Program::QemuImg { 1 } else { 2 };
    // What is to be traced comes before it.
    while let Some(word) = args.get(verb).map(|word| word.as_encoded_bytes())
        && (word.starts_with(b"-T") || word.starts_with(b"--trace"))
    {
        verb += if matches!(word, b"-T" | b"--trace") { 2 } else { 1 };
    }
    if args.get(verb).is_some_and(|verb| verb == "resize") {
        resize::mark_size(&mut args, verb + 1);
    }
    ExitCode::from(run(program, &args).unwrap_or_else(|failure| {
        let invoked = invoked(program, &args);
        failure.report(program, &invoked)
    }))
}

fn run(program: Program, args: &[OsString]) -> Outcome {
    if let Some(words) = io_words(program, args) {
        return io::run(program, &words);
    }
    if let Some(words) = words_behind(program, args, Program::QemuStorageDaemon, "storage-daemon") {
        return storage_daemon::run(&words, args);
    }
    if program == Program::QemuNbd {
        // What is wrong with a part of the line is told before the rest is read.
        let check = |line: &[OsString]| match Nbd::try_parse_from(line) {
            Ok(given) => given.args.check_values(),
            Err(_) => Ok(()),
        };
        let line = match words::of_nbd(args, check)? {
            Words::Line(line) => line,
            Words::Ended(code) => return Ok(code),
            Words::Help(_) => args.to_vec(),
        };
        let last = args.last().and_then(|last| last.to_str());
        return match Nbd::try_parse_from(&line) {
            Ok(given) => nbd::run(program.name(), given.args, args),
            Err(error) => nbd::wrong_command_line(program.name(), last, &error),
        };
    }
    let ordered;
    let args = match program {
        Program::QemuImg => match words::in_order(args)? {
            Words::Line(line) => {
                ordered = line;
                &ordered
            }
            Words::Ended(code) => return Ok(code),
            Words::Help(table) => {
                output::print(&words::help(Img::command(), table))?;
                return Ok(0);
            }
        },
        _ => args,
    };
    let verb = match program {
        Program::QemuImg => Img::try_parse_from(args).map(|img| img.verb),
        Program::Sectora if args.len() == 1 => return sample::run(),
        _ => match Sectora::try_parse_from(args).map(|sectora| sectora.command) {
            Ok(Command::Img(img)) => Ok(img.verb),
            Ok(Command::Io) => return io::run(program, &[]),
            Ok(Command::Nbd(given)) => return nbd::run("sectora nbd", *given, args),
            Ok(Command::StorageDaemon) => return storage_daemon::run(&[], args),
            Err(error) => Err(error),
        },
    };
    match verb {
        Ok(verb) => verb.run(),
        Err(error) => {
            let last = args.last().and_then(|last| last.to_str());
            failure::of_command_line(program, &invoked(program, args), last, &error)
        }
    }
}

/// The words for `io`, which reads its options itself: their mistakes have words of their own.
fn io_words(program: Program, args: &[OsString]) -> Option<Vec<String>> {
    words_behind(program, args, Program::QemuIo, "io")
}

/// The words behind the name of a program that reads its options itself.
fn words_behind(
    program: Program,
    args: &[OsString],
    name: Program,
    verb: &str,
) -> Option<Vec<String>> {
    let skip = match program {
        _ if program == name => 1,
        Program::Sectora if args.get(1).is_some_and(|word| word == verb) => 2,
        _ => return None,
    };
    Some(args.iter().skip(skip).map(|word| word.to_string_lossy().into_owned()).collect())
}

/// The words of the command line that chose the command: `qemu-img create`, `sectora img map`.
fn invoked(program: Program, args: &[OsString]) -> String {
    let mut command = match program {
        Program::QemuImg => Img::command(),
        Program::QemuNbd => Nbd::command(),
        Program::QemuIo | Program::QemuStorageDaemon | Program::Sectora => Sectora::command(),
    };
    let mut called = program.name().to_owned();
    let given: Vec<&str> = args.iter().skip(1).map_while(|arg| arg.to_str()).collect();
    let first = if program == Program::QemuImg { words::standard_words(&given) } else { 0 };
    for word in given.into_iter().skip(first) {
        let Some(found) = command.find_subcommand(word).cloned() else { break };
        called = format!("{called} {word}");
        command = found;
    }
    called
}

/// Disk images: inspect, check, create, convert and compare them.
#[derive(Debug, Parser)]
#[command(
    name = "sectora",
    version,
    infer_long_args = true,
    args_override_self = true,
    disable_help_subcommand = true,
    after_help = "Without arguments the program shows itself on a small built-in disk.\n\
                  Under the name qemu-img, qemu-io, qemu-nbd or qemu-storage-daemon (a symbolic link) it takes that program's command line."
)]
struct Sectora {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on disk images, with the commands and options of qemu-img
    Img(Box<Img>),
    /// Read and write an image by commands, with the commands and options of qemu-io
    Io,
    /// Serve an image by the NBD protocol, with the options of qemu-nbd
    Nbd(Box<nbd::Args>),
    /// Serve block nodes, controlled by QMP, with the options of qemu-storage-daemon
    StorageDaemon,
}

/// The server under its own name.
#[derive(Debug, Parser)]
#[command(
    name = "qemu-nbd",
    infer_long_args = true,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct Nbd {
    #[command(flatten)]
    args: nbd::Args,
}

/// Disk images: inspect, check, create, convert and compare them.
#[derive(Debug, Parser)]
#[command(
    name = "qemu-img",
    version = output::QEMU_IMG_VERSION,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true,
    disable_help_subcommand = true
)]
struct Img {
    /// Print version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: (),

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Change what an image is like
    Amend(amend::Args),
    /// Time a series of requests
    Bench(bench::Args),
    /// Change the dirty bitmaps stored with an image
    Bitmap(bitmap::Args),
    /// Look for damage in an image
    Check(check::Args),
    /// Write what an image holds into the one it stands on
    Commit(commit::Args),
    /// Give space back in place: clusters that are zero, and the unused end of the file
    Compact(compact::Args),
    /// Compare the contents of two images
    Compare(compare::Args),
    /// Copy an image into a new one, in the same or another format
    Convert(convert::Args),
    /// Create a new image
    Create(create::Args),
    /// Copy a run of blocks into a new image
    Dd(dd::Args),
    /// Tell what an image is
    Info(info::Args),
    /// Tell where an image's data is
    Map(map::Args),
    /// Tell how large a new image will be
    Measure(measure::Args),
    /// Give an image another backing file
    Rebase(rebase::Args),
    /// Make a disk larger or smaller
    Resize(resize::Args),
    /// List, make, apply and remove the snapshots inside an image
    Snapshot(snapshot::Args),
}

impl Verb {
    fn run(self) -> Outcome {
        match self {
            Self::Amend(args) => amend::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Bitmap(args) => bitmap::run(args),
            Self::Check(args) => check::run(args),
            Self::Commit(args) => commit::run(args),
            Self::Compact(args) => compact::run(args),
            Self::Compare(args) => compare::run(args),
            Self::Convert(args) => convert::run(args),
            Self::Create(args) => create::run(args),
            Self::Dd(args) => dd::run(args),
            Self::Info(args) => info::run(args),
            Self::Map(args) => map::run(args),
            Self::Measure(args) => measure::run(args),
            Self::Rebase(args) => rebase::run(args),
            Self::Resize(args) => resize::run(args),
            Self::Snapshot(args) => snapshot::run(args),
        }
    }
}
