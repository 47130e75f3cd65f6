//! `sleep`, `sigraise`, `abort`, `help`, breakpoints (of `blkdebug`), and what needs a device that is
//! not there: zones.

use super::super::output::{complain, print};
use super::commands::{COMMANDS, Command, Verb};
use super::getopt::Options;
use super::live;
use super::numbers::{bytes, integer};
use super::session::{Done, Session, say};
use sectora_core::filter::blkdebug_event;
use std::time::Duration;

/// `sleep`.
pub(super) async fn sleep(session: &mut Session, words: &[&str]) -> Done {
    let ms = integer(words[1]).ok_or_else(|| say(format!("{} is not a valid number", words[1])))?;
    // What a clock cannot hold is over at once.
    let limit = i64::MAX / 1_000_000;
    let ms = if ms <= limit { u64::try_from(ms).unwrap_or(0) } else { 0 };
    let runtime = session.runtime.clone();
    session.wait(runtime.sleep(Duration::from_millis(ms))).await
}

/// `sigraise`.
pub(super) fn sigraise(words: &[&str]) -> Done {
    /// The number of the last signal, as the C library counts them.
    const MOST: u64 = 65;
    let number = bytes(words[1]).map_err(say)?;
    if number > MOST {
        let what = "is too large to be a valid signal";
        return Err(say(format!("signal argument '{}' {what}", words[1])));
    }
    let number = i32::try_from(number).unwrap_or(0);
    // SAFETY: takes a number and touches no memory of ours; numbers that are no signal do nothing.
    let _ = unsafe { libc::raise(number) };
    Ok(())
}

/// `help`.
pub(super) fn help(session: &Session, words: &[&str]) -> Done {
    let there = |command: &&Command| !session.live || live::has(command.verb);
    let Some(called) = words.get(1) else {
        let all = COMMANDS.iter().filter(there);
        let mut text: String = all.map(|command| command.line(command.name)).collect();
        text.push_str("\nUse 'help commandname' for extended help.\n");
        return Ok(print(&text)?);
    };
    match Command::find(called).filter(there) {
        None => Err(say(format!("command {called} not found"))),
        Some(command) => Ok(print(&format!("{}{}", command.line(called), command.help))?),
    }
}

const NOT_THERE: &str = "Operation not supported";

/// `break`, `remove_break`, `resume`: where the disk is a node of `blkdebug`.
pub(super) fn breakpoint(session: &Session, command: &Command, words: &[&str]) -> Done {
    let Some(blkdebug) = &session.disk()?.blkdebug else {
        return Err(say(match command.verb {
            Verb::Break => format!("Could not set breakpoint: {NOT_THERE}"),
            Verb::RemoveBreak => format!("Could not remove breakpoint {}: {NOT_THERE}", words[1]),
            _ => format!("Could not resume request: {NOT_THERE}"),
        }));
    };
    const INVALID: &str = "Invalid argument";
    const NONE: &str = "No such file or directory";
    match command.verb {
        Verb::Break => match blkdebug_event(words[1]) {
            Ok(event) => blkdebug.set_breakpoint(event, words[2]),
            Err(_) => return Err(say(format!("Could not set breakpoint: {INVALID}"))),
        },
        Verb::RemoveBreak => blkdebug
            .remove_breakpoint(words[1])
            .map_err(|_| say(format!("Could not remove breakpoint {}: {NONE}", words[1])))?,
        _ => blkdebug
            .resume(words[1])
            .map_err(|_| say(format!("Could not resume request: {NONE}")))?,
    }
    Ok(())
}

/// `wait_break`: no request stops where nothing has breakpoints, so that this never ends. It is
/// refused instead.
pub(super) async fn wait_break(session: &mut Session, words: &[&str]) -> Done {
    let Some(blkdebug) = session.disk()?.blkdebug.clone() else {
        return Err(say(format!("Could not wait for breakpoint: {NOT_THERE}")));
    };
    session.wait(async move { blkdebug.wait_suspended(words[1]).await }).await
}

/// The commands of zoned devices, on one that is not.
pub(super) fn zone(command: &Command, words: &[&str]) -> Done {
    let mut operands = words[1..].to_vec();
    if command.verb == Verb::ZoneAppend {
        let mut options = Options::new(words[0], "pq", &[], &words[1..]);
        for option in options.by_ref() {
            if let Err(text) = option {
                complain(&text);
            }
        }
        operands = options.operands();
    }
    for text in operands.iter().take(2) {
        bytes(text).map_err(say)?;
    }
    let verb = command.name.trim_start_matches("zone_");
    Err(say(format!("zone {verb} failed: {NOT_THERE}")))
}
