//! `sleep`, `sigraise`, `abort`, `help`, and what needs a device that is not there: breakpoints
//! (of `blkdebug`) and zones.

use super::super::output::{complain, print};
use super::commands::{COMMANDS, Command, Verb};
use super::getopt::Options;
use super::numbers::{bytes, integer};
use super::session::{Done, Session, say};
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
pub(super) fn help(words: &[&str]) -> Done {
    let Some(called) = words.get(1) else {
        let mut text: String = COMMANDS.iter().map(|command| command.line(command.name)).collect();
        text.push_str("\nUse 'help commandname' for extended help.\n");
        return Ok(print(&text)?);
    };
    match Command::find(called) {
        None => Err(say(format!("command {called} not found"))),
        Some(command) => Ok(print(&format!("{}{}", command.line(called), command.help))?),
    }
}

const NOT_THERE: &str = "Operation not supported";

/// `break`, `remove_break`, `resume`.
pub(super) fn breakpoint(command: &Command, words: &[&str]) -> Done {
    Err(say(match command.verb {
        Verb::Break => format!("Could not set breakpoint: {NOT_THERE}"),
        Verb::RemoveBreak => format!("Could not remove breakpoint {}: {NOT_THERE}", words[1]),
        _ => format!("Could not resume request: {NOT_THERE}"),
    }))
}

/// `wait_break`: no request stops where nothing has breakpoints, so that this never ends. It is
/// refused instead.
pub(super) fn wait_break() -> Done {
    Err(say(format!("Could not wait for breakpoint: {NOT_THERE}")))
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
