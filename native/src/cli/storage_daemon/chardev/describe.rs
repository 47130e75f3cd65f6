//! What a device is to be: from the text of `--chardev`, or from the arguments of `chardev-add`.

use super::TYPES;
use super::socket::{Address, Socket};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::{complain, print};
use sectora_core::image::{list_items, parse_size};
use sectora_core::monitor::{Arguments, QmpError, QmpResult, not_accepted, wrong_type};
use std::collections::BTreeMap;

/// A device that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli::storage_daemon) struct Description {
    pub(super) id: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Stdio,
    Ring(u64),
    File { out: String, append: bool, input: Option<String> },
    Pipe(String),
    Socket(Socket),
}

/// The size of a ring that nobody gave one.
const RING: u64 = 65536;

/// What kind of value an option has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Flag,
    Number,
    Size,
    Text,
}

/// All options of all types, in the order of the list.
const OPTIONS: [(&str, Value); 43] = [
    ("abstract", Value::Flag),
    ("append", Value::Flag),
    ("backend", Value::Text),
    ("chardev", Value::Text),
    ("chardevs.0", Value::Text),
    ("chardevs.1", Value::Text),
    ("chardevs.2", Value::Text),
    ("chardevs.3", Value::Text),
    ("clipboard", Value::Flag),
    ("cols", Value::Number),
    ("debug", Value::Number),
    ("delay", Value::Flag),
    ("fd", Value::Text),
    ("height", Value::Number),
    ("host", Value::Text),
    ("input-path", Value::Text),
    ("ipv4", Value::Flag),
    ("ipv6", Value::Flag),
    ("localaddr", Value::Text),
    ("localport", Value::Text),
    ("logappend", Value::Flag),
    ("logfile", Value::Text),
    ("mouse", Value::Flag),
    ("mux", Value::Flag),
    ("name", Value::Text),
    ("nodelay", Value::Flag),
    ("path", Value::Text),
    ("port", Value::Text),
    ("reconnect-ms", Value::Number),
    ("reconnect", Value::Number),
    ("rows", Value::Number),
    ("server", Value::Flag),
    ("signal", Value::Flag),
    ("size", Value::Size),
    ("telnet", Value::Flag),
    ("tight", Value::Flag),
    ("tls-authz", Value::Text),
    ("tls-creds", Value::Text),
    ("tn3270", Value::Flag),
    ("to", Value::Number),
    ("wait", Value::Flag),
    ("websocket", Value::Flag),
    ("width", Value::Number),
];

/// Types that the reference has and this program has not.
const OTHERS: [&str; 7] = ["pty", "udp", "memory", "parallel", "mux", "serial", "hub"];

/// Options that would change what a device does, and are not done.
const UNDONE: [&str; 12] = [
    "ipv4",
    "ipv6",
    "localaddr",
    "localport",
    "logappend",
    "logfile",
    "mux",
    "telnet",
    "tls-authz",
    "tls-creds",
    "tn3270",
    "to",
];

/// True where the text asks for the list of types.
pub(in crate::cli::storage_daemon) fn is_help(text: &str) -> bool {
    let first = list_items(text).into_iter().next().unwrap_or_default();
    matches!(first.strip_prefix("backend=").unwrap_or(&first), "help" | "?")
}

/// The list of types.
pub(in crate::cli::storage_daemon) fn print_help() -> Result<(), Failure> {
    let list: String = TYPES.iter().map(|name| format!("  {name}\n")).collect();
    print(&format!("Available chardev backend types: \n{list}"))
}

/// The list of options, which ends the program like a mistake.
fn print_options() -> Outcome {
    let mut list = String::from("chardev options:\n");
    for (name, value) in OPTIONS {
        let value = match value {
            Value::Flag => "bool (on/off)",
            Value::Number => "num",
            Value::Size => "size",
            Value::Text => "str",
        };
        list.push_str(&format!("  {name}=<{value}>\n"));
    }
    print(&list)?;
    Ok(1)
}

/// What the text of `--chardev` gave.
#[derive(Debug)]
pub(in crate::cli::storage_daemon) enum Read {
    Device(Description),
    /// Something was told, and the program ends with this code.
    Ended(u8),
}

impl Description {
    /// Reads `TYPE,id=ID,name=value,…`; `place` is what warnings begin with.
    pub(in crate::cli::storage_daemon) fn of_text(
        text: &str,
        place: &str,
    ) -> Result<Read, Failure> {
        let mut given = BTreeMap::new();
        let mut id = None;
        for (i, item) in list_items(text).iter().enumerate().filter(|(_, item)| !item.is_empty()) {
            let (name, value) = match item.split_once('=') {
                Some(pair) => pair,
                None if i == 0 => ("backend", &**item),
                None if matches!(&**item, "help" | "?") => return print_options().map(Read::Ended),
                None => {
                    complain(&format!(
                        "{place}: warning: short-form boolean option '{item}' deprecated\n\
                         Please use {item}=on instead"
                    ));
                    (&**item, "on")
                }
            };
            if name == "id" {
                id.get_or_insert(value.to_owned());
                continue;
            }
            let known = OPTIONS.iter().find(|(known, _)| *known == name);
            let Some((_, kind)) = known else {
                return Err(Failure::new(format!("Invalid parameter '{name}'")));
            };
            check(name, value, *kind)?;
            given.insert(name.to_owned(), value.to_owned());
        }
        let id = id.ok_or_else(|| Failure::new("chardev: no id specified"))?;
        crate::cli::objects::check_id(&id)?;
        let mut given = Given(given);
        let Some(kind) = given.text("backend") else {
            return Err(Failure::new(format!("chardev: \"{id}\" missing backend")));
        };
        let kind = given.kind(&id, &kind)?;
        given.end()?;
        Ok(Read::Device(Self { id, kind }))
    }

    /// Reads the arguments of `chardev-add`.
    pub(super) fn of_arguments(mut arguments: Arguments) -> QmpResult<Self> {
        let id = arguments.need_text("id")?;
        let mut backend = arguments.need_object("backend")?;
        arguments.end()?;
        let kind = backend.need_text("type")?;
        if !TYPES.contains(&&*kind) {
            return Err(match OTHERS.contains(&&*kind) {
                true => QmpError::generic(format!("chardev type '{kind}' is not supported")),
                false => not_accepted("type", &kind),
            });
        }
        let mut data = backend.need_object("data")?;
        backend.end()?;
        let unsupported =
            |name: &str| QmpError::generic(format!("chardev: '{name}' is not supported"));
        for name in ["logfile", "tls-creds", "tls-authz"] {
            if data.text(name)?.is_some() {
                return Err(unsupported(name));
            }
        }
        for name in ["logappend", "telnet", "tn3270", "websocket"] {
            if data.flag(name)? == Some(true) {
                return Err(unsupported(name));
            }
        }
        let kind = match &*kind {
            "null" => Kind::Null,
            "stdio" => {
                data.flag("signal")?;
                Kind::Stdio
            }
            "ringbuf" => {
                let size = data.integer("size")?.map(i64::cast_unsigned);
                Kind::Ring(size.unwrap_or(RING))
            }
            "pipe" => Kind::Pipe(data.need_text("device")?),
            "file" => {
                let input = data.text("in")?;
                let append = data.flag("append")?.unwrap_or(false);
                Kind::File { out: data.need_text("out")?, append, input }
            }
            _ => Kind::Socket(socket_of(&id, &mut data)?),
        };
        data.end()?;
        Ok(Self { id, kind })
    }
}

/// The members of `ChardevSocket`.
fn socket_of(id: &str, data: &mut Arguments) -> QmpResult<Socket> {
    let mut legacy = data.need_object("addr")?;
    let kind = legacy.need_text("type")?;
    let mut at = legacy.need_object("data")?;
    legacy.end()?;
    let address = match &*kind {
        "unix" => {
            let is_abstract = at.flag("abstract")?.unwrap_or(false);
            at.flag("tight")?;
            Address::Unix { path: at.need_text("path")?, is_abstract }
        }
        "inet" => Address::Inet { host: at.need_text("host")?, port: at.need_text("port")? },
        "fd" => {
            at.need_text("str")?;
            let why = "only QEMU supports file descriptor passing";
            return Err(QmpError::generic(format!("Failed to add chardev '{id}': {why}")));
        }
        "vsock" => return Err(QmpError::generic("vsock sockets are not supported")),
        other => return Err(not_accepted("type", other)),
    };
    at.end()?;
    data.flag("nodelay")?;
    let server = data.flag("server")?.unwrap_or(true);
    // The command does not wait: the reference's monitor could not answer while it did.
    data.flag("wait")?;
    let (seconds, milliseconds) = (data.integer("reconnect")?, data.integer("reconnect-ms")?);
    let reconnect = match (seconds, milliseconds) {
        (Some(_), Some(_)) => return Err(QmpError::generic(EXCLUSIVE)),
        (Some(seconds), None) => seconds.saturating_mul(1000),
        (None, milliseconds) => milliseconds.unwrap_or(0),
    };
    let reconnect =
        u64::try_from(reconnect).map_err(|_| wrong_type("backend.data.reconnect-ms", "integer"))?;
    Ok(Socket { id: id.into(), address, server, wait: false, reconnect })
}

const EXCLUSIVE: &str = "'reconnect' and 'reconnect-ms' are mutually exclusive";

fn check(name: &str, value: &str, kind: Value) -> Result<(), Failure> {
    let text = match kind {
        Value::Flag
            if !matches!(value, "on" | "off" | "yes" | "no" | "true" | "false" | "y" | "n") =>
        {
            format!("Parameter '{name}' expects 'on' or 'off'")
        }
        Value::Number if value.parse::<u64>().is_err() => {
            format!("Parameter '{name}' expects a number")
        }
        Value::Size if parse_size(value).is_err() => format!(
            "Parameter '{name}' expects a non-negative number below 2^64\n\
             Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
             and exabytes, respectively."
        ),
        _ => return Ok(()),
    };
    Err(Failure::new(text))
}

/// The options of one `--chardev` that are not yet taken.
struct Given(BTreeMap<String, String>);

impl Given {
    fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A flag that was checked before.
    fn flag(&mut self, name: &str) -> Option<bool> {
        self.text(name).map(|text| matches!(&*text, "on" | "yes" | "true" | "y"))
    }

    /// A number that was checked before.
    fn number(&mut self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The path, where a type cannot do without one.
    fn path(&mut self, missing: &str) -> Result<String, Failure> {
        self.text("path").ok_or_else(|| Failure::new(missing))
    }

    fn kind(&mut self, id: &str, kind: &str) -> Result<Kind, Failure> {
        Ok(match kind {
            "null" => Kind::Null,
            "stdio" => {
                self.flag("signal");
                Kind::Stdio
            }
            "ringbuf" => {
                let size = self.text("size");
                let size = size.and_then(|text| parse_size(&text).ok()).filter(|size| *size > 0);
                Kind::Ring(size.unwrap_or(RING))
            }
            "file" => Kind::File {
                out: self.path("chardev: file: no filename given")?,
                append: self.flag("append").unwrap_or(false),
                input: self.text("input-path"),
            },
            "pipe" => Kind::Pipe(self.path("chardev: pipe: no device path given")?),
            "socket" => Kind::Socket(self.socket(id)?),
            known if OTHERS.contains(&known) => {
                return Err(Failure::unsupported(&format!("chardev type '{known}'")));
            }
            other => {
                return Err(Failure::new(format!("'{other}' is not a valid char driver name")));
            }
        })
    }

    fn socket(&mut self, id: &str) -> Result<Socket, Failure> {
        let (path, host, fd) = (self.text("path"), self.text("host"), self.text("fd"));
        let address = match (path, host, fd) {
            (Some(path), None, None) => {
                let is_abstract = self.flag("abstract").unwrap_or(false);
                self.flag("tight");
                Address::Unix { path, is_abstract }
            }
            (None, Some(host), None) => {
                let port = self.text("port");
                let port = port.ok_or_else(|| Failure::new("chardev: socket: no port given"))?;
                Address::Inet { host, port }
            }
            (None, None, fd) => {
                self.text("port");
                let fd = fd.unwrap_or_default();
                let number = fd.parse();
                let wrong = |_| Failure::new(format!("Unable to parse FD number {fd}"));
                Address::Descriptor(number.map_err(wrong)?)
            }
            _ => {
                let text = "None or one of 'path', 'fd' or 'host' option required.";
                return Err(Failure::new(text));
            }
        };
        self.flag("delay");
        self.flag("nodelay");
        let server = self.flag("server").unwrap_or(false);
        let wait = self.flag("wait");
        let (seconds, milliseconds) = (self.number("reconnect"), self.number("reconnect-ms"));
        if server && seconds.is_some() {
            return Err(Failure::new(
                "'reconnect' option is incompatible with socket in server listen mode",
            ));
        }
        if seconds.is_some() && milliseconds.is_some() {
            return Err(Failure::new(EXCLUSIVE));
        }
        if !server && wait.is_some() {
            return Err(Failure::new(
                "'wait' option is incompatible with socket in client connect mode",
            ));
        }
        if self.flag("websocket") == Some(true) {
            return Err(match server {
                true => Failure::unsupported("chardev: 'websocket'"),
                false => Failure::new("Websocket client is not implemented"),
            });
        }
        let reconnect = seconds.map(|n| n.saturating_mul(1000)).or(milliseconds).unwrap_or(0);
        Ok(Socket { id: id.into(), address, server, wait: wait.unwrap_or(server), reconnect })
    }

    /// Refuses what would matter and is not done. What belongs to other types means nothing.
    fn end(&mut self) -> Result<(), Failure> {
        for name in UNDONE {
            let off = self.0.get(name).is_some_and(|value| matches!(&**value, "off" | "no"));
            if !off && self.0.contains_key(name) {
                return Err(Failure::unsupported(&format!("chardev: '{name}'")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Kind, Failure> {
        match Description::of_text(text, "test")? {
            Read::Device(found) => Ok(found.kind),
            Read::Ended(code) => Err(Failure::new(format!("ended with {code}"))),
        }
    }

    #[test]
    fn devices_are_described_by_text() {
        assert_eq!(read("null,id=a").expect("null"), Kind::Null);
        assert_eq!(read("ringbuf,id=a,size=4k").expect("ring"), Kind::Ring(4096));
        let unix = Address::Unix { path: "a,b".into(), is_abstract: false };
        let socket =
            Socket { id: "c".into(), address: unix, server: true, wait: true, reconnect: 0 };
        assert_eq!(read("socket,id=c,path=a,,b,server=on").expect("one"), Kind::Socket(socket));
        for wrong in [
            "",
            "stdio",
            "id=a",
            "foo,id=a",
            "null,id=1",
            "null,id=a,foo=1",
            "stdio,id=a,signal=x",
            "file,id=a",
            "pipe,id=a",
            "socket,id=a",
            "socket,id=a,path=x,host=y",
            "socket,id=a,host=x",
            "socket,id=a,path=x,wait=off",
            "socket,id=a,path=x,telnet=on",
            "socket,id=a,path=x,server=on,reconnect=1",
            "pty,id=a",
            "null,id=a,mux=on",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
