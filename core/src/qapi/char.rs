//! `char.json`: character devices, learned from the `query-qmp-schema` of the reference daemon.

use crate::qapi::SocketAddressLegacy;
use crate::qapi::tables::{Command, Event};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// A character device.
#[qapi]
pub struct ChardevInfo {
    /// Its name.
    pub label: String,
    /// What it is connected to.
    pub filename: String,
    /// Whether somebody uses it.
    pub frontend_open: bool,
}

/// A kind of character device.
#[qapi]
pub struct ChardevBackendInfo {
    /// Its name.
    pub name: String,
}

/// How bytes are written.
#[qapi]
pub enum DataFormat {
    /// As text.
    Utf8,
    /// In base64.
    Base64,
}

/// What all character devices have.
#[qapi]
#[derive(Default)]
pub struct ChardevCommon {
    /// A file that gets a copy of all that comes.
    pub logfile: Option<String>,
    /// Whether what was in it stays.
    pub logappend: Option<bool>,
}

/// A file.
#[qapi]
pub struct ChardevFile {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// The file that is read.
    pub r#in: Option<String>,
    /// The file that is written.
    pub out: String,
    /// Whether what was in it stays.
    pub append: Option<bool>,
}

/// A device of the host.
#[qapi]
pub struct ChardevHostdev {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Its path.
    pub device: String,
}

/// A socket.
#[qapi]
pub struct ChardevSocket {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// The address.
    pub addr: SocketAddressLegacy,
    /// The credentials object.
    pub tls_creds: Option<String>,
    /// The object that decides who may connect.
    pub tls_authz: Option<String>,
    /// Whether it listens.
    pub server: Option<bool>,
    /// Whether the program waits for the first client.
    pub wait: Option<bool>,
    /// Whether small packets are sent at once.
    pub nodelay: Option<bool>,
    /// Whether telnet's protocol is spoken.
    pub telnet: Option<bool>,
    /// Whether that of 3270 terminals is spoken.
    pub tn3270: Option<bool>,
    /// Whether WebSocket is spoken.
    pub websocket: Option<bool>,
    /// After so many seconds a lost connection is tried again; 0 is never.
    #[qapi(deprecated)]
    pub reconnect: Option<i64>,
    /// The same in milliseconds.
    pub reconnect_ms: Option<i64>,
}

/// Packets of UDP.
#[qapi]
pub struct ChardevUdp {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Where they go.
    pub remote: SocketAddressLegacy,
    /// Where they come in.
    pub local: Option<SocketAddressLegacy>,
}

/// A terminal.
#[qapi]
#[derive(Default)]
pub struct ChardevPty {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// A name that is made for it.
    pub path: Option<String>,
}

/// Several users of one device.
#[qapi]
pub struct ChardevMux {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// The device.
    pub chardev: String,
}

/// Several devices of one user.
#[qapi]
pub struct ChardevHub {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// The devices.
    pub chardevs: Vec<String>,
}

/// Standard input and output.
#[qapi]
#[derive(Default)]
pub struct ChardevStdio {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Whether keys can end the program.
    pub signal: Option<bool>,
}

/// A channel of Spice.
#[qapi]
pub struct ChardevSpiceChannel {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Its kind.
    pub r#type: String,
}

/// A port of Spice.
#[qapi]
pub struct ChardevSpicePort {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Its name.
    pub fqdn: String,
}

/// The guest's helper for mouse and clipboard.
#[qapi]
#[derive(Default)]
pub struct ChardevQemuVDAgent {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Whether it moves the mouse.
    pub mouse: Option<bool>,
    /// Whether it shares the clipboard.
    pub clipboard: Option<bool>,
}

/// A channel of D-Bus.
#[qapi]
pub struct ChardevDBus {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Its name.
    pub name: String,
}

/// A text console.
#[qapi]
#[derive(Default)]
pub struct ChardevVC {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// In pixels.
    pub width: Option<i64>,
    /// In pixels.
    pub height: Option<i64>,
    /// In characters.
    pub cols: Option<i64>,
    /// In lines.
    pub rows: Option<i64>,
}

/// A buffer in memory.
#[qapi]
#[derive(Default)]
pub struct ChardevRingbuf {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: ChardevCommon,
    /// Its length in bytes.
    pub size: Option<i64>,
}

/// A kind of character device.
#[qapi]
pub enum ChardevBackendKind {
    /// A file.
    File,
    /// A serial port of the host.
    Serial,
    /// A parallel port of the host.
    Parallel,
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// Packets of UDP.
    Udp,
    /// A terminal.
    Pty,
    /// Nothing.
    Null,
    /// Several users of one device.
    Mux,
    /// Several devices of one user.
    Hub,
    /// A serial mouse.
    Msmouse,
    /// A serial tablet.
    Wctablet,
    /// A braille display.
    Braille,
    /// A device for tests.
    Testdev,
    /// Standard input and output.
    Stdio,
    /// A channel of Spice.
    Spicevmc,
    /// A port of Spice.
    Spiceport,
    /// The guest's helper for mouse and clipboard.
    QemuVdagent,
    /// A channel of D-Bus.
    Dbus,
    /// A text console.
    Vc,
    /// A buffer in memory.
    Ringbuf,
    /// The same, by its older name.
    #[qapi(deprecated)]
    Memory,
}

/// A new character device.
#[qapi(tag = "type", by = ChardevBackendKind, content)]
pub enum ChardevBackend {
    /// A file.
    File(ChardevFile),
    /// A serial port of the host.
    Serial(ChardevHostdev),
    /// A parallel port of the host.
    Parallel(ChardevHostdev),
    /// A pipe.
    Pipe(ChardevHostdev),
    /// A socket.
    Socket(ChardevSocket),
    /// Packets of UDP.
    Udp(ChardevUdp),
    /// A terminal.
    Pty(ChardevPty),
    /// Nothing.
    Null(ChardevCommon),
    /// Several users of one device.
    Mux(ChardevMux),
    /// Several devices of one user.
    Hub(ChardevHub),
    /// A serial mouse.
    Msmouse(ChardevCommon),
    /// A serial tablet.
    Wctablet(ChardevCommon),
    /// A braille display.
    Braille(ChardevCommon),
    /// A device for tests.
    Testdev(ChardevCommon),
    /// Standard input and output.
    Stdio(ChardevStdio),
    /// A channel of Spice.
    Spicevmc(ChardevSpiceChannel),
    /// A port of Spice.
    Spiceport(ChardevSpicePort),
    /// The guest's helper for mouse and clipboard.
    QemuVdagent(ChardevQemuVDAgent),
    /// A channel of D-Bus.
    Dbus(ChardevDBus),
    /// A text console.
    Vc(ChardevVC),
    /// A buffer in memory.
    Ringbuf(ChardevRingbuf),
    /// The same, by its older name.
    Memory(ChardevRingbuf),
}

/// What a new character device is.
#[qapi]
#[derive(Default)]
pub struct ChardevReturn {
    /// The path of the terminal.
    pub pty: Option<String>,
}

/// `ringbuf-write`: writes into a buffer.
#[qapi]
pub struct RingbufWrite {
    /// The node or device.
    pub device: String,
    /// The bytes.
    pub data: String,
    /// How they are written here.
    pub format: Option<DataFormat>,
}

/// `ringbuf-read`: reads from a buffer.
#[qapi]
pub struct RingbufRead {
    /// The node or device.
    pub device: String,
    /// Bytes at most.
    pub size: i64,
    /// How they shall be written.
    pub format: Option<DataFormat>,
}

/// `chardev-add`: a new character device.
#[qapi]
pub struct ChardevAdd {
    /// Its name.
    pub id: String,
    /// What it is.
    pub backend: ChardevBackend,
}

/// `chardev-change`: a character device becomes another.
#[qapi]
pub struct ChardevChange {
    /// Its name.
    pub id: String,
    /// What it becomes.
    pub backend: ChardevBackend,
}

/// `chardev-remove`: a character device goes.
#[qapi]
pub struct ChardevRemove {
    /// Its name.
    pub id: String,
}

/// `chardev-send-break`: a break on a serial line.
#[qapi]
pub struct ChardevSendBreak {
    /// Its name.
    pub id: String,
}

/// `VSERPORT_CHANGE`: a guest has opened or closed a serial port.
#[qapi]
pub struct VserportChange {
    /// Its name.
    pub id: String,
    /// Whether it is open now.
    pub open: bool,
}

/// The commands of `char.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("query-chardev").gives::<Vec<ChardevInfo>>(),
    Command::new("query-chardev-backends").gives::<Vec<ChardevBackendInfo>>(),
    Command::new("ringbuf-write").takes::<RingbufWrite>(),
    Command::new("ringbuf-read").takes::<RingbufRead>().gives::<String>(),
    Command::new("chardev-add").takes::<ChardevAdd>().gives::<ChardevReturn>(),
    Command::new("chardev-change").takes::<ChardevChange>().gives::<ChardevReturn>(),
    Command::new("chardev-remove").takes::<ChardevRemove>(),
    Command::new("chardev-send-break").takes::<ChardevSendBreak>(),
];

/// The events of `char.json`.
pub(crate) static EVENTS: &[Event] = &[Event::new("VSERPORT_CHANGE").has::<VserportChange>()];
