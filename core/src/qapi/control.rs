//! `control.json`: what a monitor says of itself.

use crate::qapi::schema::Natural;
use crate::qapi::tables::Command;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// What a client can switch on.
#[qapi]
pub enum QMPCapability {
    /// Commands that overtake others.
    Oob,
}

/// A version.
#[qapi]
pub struct VersionTriple {
    /// The first number.
    pub major: Natural,
    /// The second.
    pub minor: Natural,
    /// The third.
    pub micro: Natural,
}

/// The version of the program.
#[qapi]
pub struct VersionInfo {
    /// That of the reference it is like.
    pub qemu: VersionTriple,
    /// That of its package.
    pub package: String,
}

/// A command.
#[qapi]
pub struct CommandInfo {
    /// Its name.
    pub name: String,
}

/// What a monitor speaks.
#[qapi]
pub enum MonitorMode {
    /// Text with people.
    Readline,
    /// QMP.
    Control,
}

/// A monitor.
#[qapi]
pub struct MonitorOptions {
    /// Its name.
    pub id: Option<String>,
    /// What it speaks.
    pub mode: Option<MonitorMode>,
    /// Whether its answers have lines.
    pub pretty: Option<bool>,
    /// The character device.
    pub chardev: String,
}

/// `qmp_capabilities`: the first command of every client.
#[qapi]
#[derive(Default)]
pub struct QmpCapabilities {
    /// What it switches on.
    pub enable: Option<Vec<QMPCapability>>,
}

/// The commands of `control.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("qmp_capabilities").takes::<QmpCapabilities>(),
    Command::new("query-version").gives::<VersionInfo>(),
    Command::new("query-commands").gives::<Vec<CommandInfo>>(),
    Command::new("quit"),
];
