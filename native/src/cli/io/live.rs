//! The commands on a node that a daemon has open (`human-monitor-command`: `qemu-io`).

use super::super::objects::Objects;
use super::super::output::{Program, caught};
use super::commands::Verb;
use super::disk::{Disk, LiveNode};
use super::session::Session;
use super::{Stop, execute};
use sectora_core::io::Runtime;
use std::sync::Arc;

/// True for a command that makes sense on a node that others use too: it neither opens nor closes
/// anything, nor ends the program.
pub(super) fn has(verb: Verb) -> bool {
    !matches!(
        verb,
        Verb::Abort | Verb::Close | Verb::Open | Verb::Quit | Verb::Reopen | Verb::Sigraise
    )
}

/// Carries out one line, and gives what it prints. Requests beside it (`aio_write` …) go on when it
/// has ended; what they would print is lost.
pub(in crate::cli) async fn on_node(
    runtime: Arc<dyn Runtime>,
    name: &str,
    node: LiveNode,
    read_only: bool,
    line: &str,
) -> String {
    let mut session = Session::new(Program::QemuIo, runtime, Objects::default(), false)
        .with_node(Disk::of_node(name, read_only, node));
    let (done, mut text) = caught(execute(&mut session, line)).await;
    session.leave();
    if let Err(Stop::Broken(failure)) = done {
        text.push_str(&failure.to_text());
        text.push('\n');
    }
    text
}
