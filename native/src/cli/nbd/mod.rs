//! `nbd`: serves an image by the NBD protocol, or lists what another server has.
//!
//! Under the name `qemu-nbd` the program takes that program's command line, prints what it prints
//! and exits with what it exits with.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `args` | the command line and the rules it has to keep |
//! | `image` | what is exported, opened |
//! | `listen` | where clients come to: sockets of our own, or one that was handed over |
//! | `serve` | the server's life: daemon, pid file, signals |
//! | `list` | `--list` |

mod args;
mod image;
mod list;
pub(super) mod listen;
mod serve;

pub(super) use args::Args;
pub(super) use listen::words;

use super::failure::{Failure, Outcome};
use super::output::{self, print};
use args::Mode;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is printed of the program itself.
const VERSION: &str = concat!("10.0.2 (sectora ", env!("CARGO_PKG_VERSION"), ")");

/// Runs the command. `name` is how the program is called, `command_line` all of its words.
pub(super) fn run(name: &str, args: Args, command_line: &[std::ffi::OsString]) -> Outcome {
    if args.help {
        print(&include_str!("help.txt").replace("@NAME@", name))?;
        return Ok(0);
    }
    if args.version {
        print(&format!("{name} {VERSION}\n"))?;
        return Ok(0);
    }
    match args.mode(name)? {
        Mode::List(how) => list::run(how),
        Mode::Serve(how) => serve::run(*how, command_line),
        Mode::Nothing => Ok(0),
    }
}

/// What the parser found wrong, in the words of the C library.
pub(super) fn wrong_command_line(name: &str, last: Option<&str>, error: &clap::Error) -> Outcome {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let named = context(ContextKind::InvalidArg);
    let option = named.split([' ', '=']).next().unwrap_or_default().trim_end_matches(',');
    let text = match error.kind() {
        ErrorKind::UnknownArgument => match option.strip_prefix("--") {
            Some(_) => format!("unrecognized option '{option}'"),
            None => format!("invalid option -- '{}'", option.trim_start_matches('-')),
        },
        ErrorKind::InvalidValue => match last.filter(|last| !last.starts_with("--")) {
            Some(last) => {
                let letter = last.chars().next_back().unwrap_or_default();
                format!("option requires an argument -- '{letter}'")
            }
            None => format!("option '{option}' requires an argument"),
        },
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    output::complain(&format!("{name}: {text}"));
    Err(Failure::new(format!("Try `{name} --help' for more information.")))
}
