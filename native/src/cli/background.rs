//! A program that goes on in the background: the parent waits until it is running.

use super::failure::{Failure, Outcome};
use super::nbd::words;
use rustix::stdio;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set in the environment of a daemon.
pub(super) const CHILD: &str = "SECTORA_DAEMON";
/// What a daemon tells its parent when it is running.
const READY: &[u8] = b"ready\n";

/// Starts this program once more, in the background, and waits until it is running. `how` is told
/// to the child.
pub(super) fn start(command_line: &[OsString], how: &str) -> Outcome {
    let cannot = |e: std::io::Error| Failure::new(format!("Failed to fork: {}", words(&e)));
    let program = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    if let Some((name, rest)) = command_line.split_first() {
        command.arg0(name).args(rest);
    }
    command.env(CHILD, how);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut daemon = command.spawn().map_err(cannot)?;
    let mut told = Vec::new();
    if let Some(out) = daemon.stdout.as_mut() {
        // Its end, early or late, says the same as an error.
        let _ = out.read_to_end(&mut told);
    }
    if told == READY {
        return Ok(0);
    }
    let status = daemon.wait().map_err(cannot)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(code.unwrap_or(1))
}

/// Tells the parent, and lets go of its terminal.
pub(super) fn detach(keep_errors: bool) -> Result<(), Failure> {
    let detach = || {
        std::io::stdout().write_all(READY)?;
        std::io::stdout().flush()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        stdio::dup2_stdout(&null)?;
        if !keep_errors {
            stdio::dup2_stderr(&null)?;
        }
        Ok(())
    };
    detach().map_err(|e: std::io::Error| Failure::new(format!("cannot detach: {}", words(&e))))
}
