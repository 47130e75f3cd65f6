//! The command line of `nbd`.

use super::listen::words;
use crate::cli::args::{Cache, parse_number};
use crate::cli::failure::Failure;
use crate::cli::objects::Objects;
use crate::cli::output::print;
use crate::cli::snapshot::SnapshotParam;
use crate::cli::words::trace;
use crate::export::nbd::Authorize;
use crate::protocol::nbd::tls::{ClientTls, ServerTls};
use crate::storage::Aio;
use std::sync::Arc;
use std::time::Duration;

/// Options as they are given; what they mean is decided in [`Args::mode`].
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(in crate::cli) struct Args {
    #[arg(short = 'h', long)]
    pub(super) help: bool,
    #[arg(short = 'V', long)]
    pub(super) version: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    port: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    bind: Option<String>,
    #[arg(short = 'k', long, allow_hyphen_values = true)]
    socket: Option<String>,
    #[arg(short = 'e', long, allow_hyphen_values = true)]
    shared: Option<String>,
    #[arg(short = 't', long)]
    persistent: bool,
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[arg(short = 'x', long, allow_hyphen_values = true)]
    export_name: Option<String>,
    #[arg(short = 'D', long, allow_hyphen_values = true)]
    description: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    handshake_limit: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    offset: Option<String>,
    #[arg(short = 'A', long)]
    allocation_depth: bool,
    #[arg(short = 'B', long, allow_hyphen_values = true)]
    bitmap: Vec<String>,
    #[arg(short = 'L', long)]
    list: bool,
    #[arg(long, allow_hyphen_values = true)]
    object: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    tls_creds: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    tls_authz: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    tls_hostname: Option<String>,
    #[arg(short = 'T', long, allow_hyphen_values = true)]
    trace: Vec<String>,
    #[arg(long)]
    fork: bool,
    #[arg(long, allow_hyphen_values = true)]
    pid_file: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    selinux_label: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    connect: Option<String>,
    #[arg(short, long)]
    disconnect: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    format: Option<String>,
    #[arg(short, long)]
    read_only: bool,
    #[arg(short, long)]
    snapshot: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    load_snapshot: Option<String>,
    #[arg(short, long, action = clap::ArgAction::Count)]
    nocache: u8,
    #[arg(long, allow_hyphen_values = true)]
    cache: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    aio: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    discard: Vec<String>,
    #[arg(long, allow_hyphen_values = true)]
    detect_zeroes: Option<String>,
    #[arg(long)]
    image_opts: bool,
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

/// Where to listen, or to connect to.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Place {
    Unix(String),
    Inet {
        host: String,
        port: String,
    },
    /// A socket that whoever started the program has handed over.
    Activated,
}

/// How to list exports.
pub(super) struct List {
    pub(super) place: Place,
    pub(super) tls: Option<Arc<ClientTls>>,
    pub(super) tls_hostname: Option<String>,
}

/// What to serve, and how.
pub(super) struct Serve {
    pub(super) selinux_label: Option<String>,
    /// A device of the kernel's client.
    pub(super) connect: Option<String>,
    pub(super) place: Place,
    pub(super) file: String,
    pub(super) image_opts: bool,
    pub(super) format: Option<String>,
    pub(super) read_only: bool,
    pub(super) snapshot: bool,
    pub(super) load_snapshot: Option<String>,
    pub(super) cache: Cache,
    pub(super) writethrough: bool,
    pub(super) aio: Aio,
    pub(super) discard: bool,
    pub(super) detect_zeroes: Option<bool>,
    pub(super) offset: u64,
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) allocation_depth: bool,
    pub(super) bitmaps: Vec<String>,
    pub(super) objects: Objects,
    pub(super) shared: u32,
    pub(super) persistent: bool,
    pub(super) handshake_limit: Duration,
    pub(super) verbose: bool,
    pub(super) fork: bool,
    pub(super) pid_file: Option<String>,
    pub(super) tls: Option<ServerTls>,
    pub(super) authz: Option<Arc<dyn Authorize>>,
}

/// What the command line asks for.
pub(super) enum Mode {
    List(List),
    Serve(Box<Serve>),
    Nothing,
}

fn fail<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(text))
}

fn no_tls(error: sectora_core::Error) -> Failure {
    Failure::from(error).context("Failed to get TLS creds")
}

/// Opens a device of the kernel's client.
fn open_device(path: &str, doing: &str) -> Result<std::fs::File, Failure> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|e| Failure::new(format!("{doing} {path}: {}", words(&e))))
}

fn no_kernel<T>(path: &str) -> Result<T, Failure> {
    fail(format!(
        "{path}: binding a kernel NBD device is not supported; serve a socket with -k and run \
         nbd-client"
    ))
}

/// `-c`: the kernel's client is not used.
pub(super) fn connect(path: &str) -> Result<(), Failure> {
    open_device(path, "Failed to open")?;
    no_kernel(path)
}

/// `-d`, which does nothing to what is no device.
fn disconnect(path: &str) -> Result<Mode, Failure> {
    let file = open_device(path, "Cannot open")?;
    if file.metadata().is_ok_and(|found| !found.is_file()) {
        return no_kernel(path);
    }
    print(&format!("{path} disconnected\n"))?;
    Ok(Mode::Nothing)
}

impl Args {
    fn wrong_number_of_arguments<T>(name: &str) -> Result<T, Failure> {
        let hint = format!("Try `{name} --help' for more information.");
        Err(Failure::new("Invalid number of arguments").and(&hint))
    }

    /// Decides; refuses what contradicts itself or is not supported.
    pub(super) fn mode(self, name: &str) -> Result<Mode, Failure> {
        for pattern in &self.trace {
            if trace(pattern)? {
                return Ok(Mode::Nothing);
            }
        }
        let (cache, writethrough) = self.cache()?;
        let aio = self.aio()?;
        let discard = self.discard()?;
        let shared = self.shared()?;
        let offset = self.offset()?;
        let handshake_limit = self.handshake_limit()?;
        let detect_zeroes = self.detect_zeroes(discard)?;
        self.check_socket()?;
        let objects = Objects::new(&self.object)?;
        if self.list {
            return self.list_mode(&objects);
        }
        let [file] = &self.files[..] else {
            return Self::wrong_number_of_arguments(name);
        };
        let place = self.place()?;
        let credentials = match &self.tls_creds {
            None if self.tls_authz.is_some() => {
                return fail("--tls-authz is not permitted without --tls-creds");
            }
            None if self.tls_hostname.is_some() => {
                return fail("--tls-hostname is not permitted without --tls-creds");
            }
            None => None,
            Some(_) if self.connect.is_some() => {
                return fail("TLS is not supported with a host device");
            }
            Some(_) if self.tls_hostname.is_some() => {
                return fail("TLS hostname is only supported with export list");
            }
            Some(id) => Some(objects.server_tls(id).map_err(no_tls)?),
        };
        let authz = self.tls_authz.as_deref().map(|id| objects.authz(id)).transpose()?;
        let unix = matches!(place, Place::Unix(_));
        if self.selinux_label.is_some() && !unix {
            return fail("--selinux-label is not permitted without --socket");
        }
        if self.disconnect {
            return disconnect(file);
        }
        Ok(Mode::Serve(Box::new(Serve {
            place,
            selinux_label: self.selinux_label,
            connect: self.connect,
            file: file.clone(),
            image_opts: self.image_opts,
            format: self.format,
            read_only: self.read_only || self.load_snapshot.is_some(),
            snapshot: self.snapshot,
            load_snapshot: self.load_snapshot,
            cache,
            writethrough,
            aio,
            discard,
            detect_zeroes,
            offset,
            name: self.export_name.unwrap_or_default(),
            description: self.description,
            allocation_depth: self.allocation_depth,
            bitmaps: self.bitmap,
            objects,
            shared,
            persistent: self.persistent,
            handshake_limit: Duration::from_secs(handshake_limit.into()),
            verbose: self.verbose > 0,
            fork: self.fork,
            pid_file: self.pid_file,
            tls: credentials,
            authz,
        })))
    }

    /// Refuses values that are wrong by themselves, as soon as they are met.
    pub(in crate::cli) fn check_values(&self) -> Result<(), Failure> {
        self.cache()?;
        self.aio()?;
        self.shared()?;
        self.offset()?;
        self.handshake_limit()?;
        self.detect_zeroes(self.discard()?)?;
        self.check_socket()?;
        if let Some(snapshot) = &self.load_snapshot {
            SnapshotParam::parse(snapshot)?;
        }
        Objects::new(&self.object).map(drop)
    }

    fn check_socket(&self) -> Result<(), Failure> {
        match &self.socket {
            Some(path) if !path.starts_with('/') => fail("socket path must be absolute"),
            _ => Ok(()),
        }
    }

    fn shared(&self) -> Result<u32, Failure> {
        let Some(text) = self.shared.as_deref() else { return Ok(1) };
        let number = parse_number(text).ok().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| i32::try_from(*number).is_ok()) {
            Some(number) => Ok(number),
            None => fail(format!("Invalid shared device number '{text}'")),
        }
    }

    /// Where the export begins. What is negative wraps around: it is refused with the image.
    fn offset(&self) -> Result<u64, Failure> {
        let Some(text) = self.offset.as_deref() else { return Ok(0) };
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        match parse_number(digits) {
            Ok(number) if negative => Ok(number.wrapping_neg()),
            Ok(number) => Ok(number),
            Err(_) => fail(format!("Invalid offset '{text}'")),
        }
    }

    fn handshake_limit(&self) -> Result<u32, Failure> {
        let Some(text) = self.handshake_limit.as_deref() else { return Ok(10) };
        let number = parse_number(text).ok().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| Failure::new(format!("Invalid handshake limit '{text}'")))
    }

    /// Whether zeroes that are written are looked for, and whether they are discarded then.
    fn detect_zeroes(&self, discard: bool) -> Result<Option<bool>, Failure> {
        match self.detect_zeroes.as_deref() {
            None | Some("off") => Ok(None),
            Some("on") => Ok(Some(false)),
            Some("unmap") if discard => Ok(Some(true)),
            Some("unmap") => fail(
                "setting detect-zeroes to unmap is not allowed without setting discard operation \
                 to unmap",
            ),
            Some(other) => fail(format!(
                "Failed to parse detect_zeroes mode: invalid parameter value: {other}"
            )),
        }
    }

    fn list_mode(&self, objects: &Objects) -> Result<Mode, Failure> {
        if !self.files.is_empty() {
            return fail("List mode is incompatible with a file name");
        }
        let per_device = self.export_name.is_some()
            || self.description.is_some()
            || self.format.is_some()
            || self.offset().is_ok_and(|offset| offset != 0)
            || self.load_snapshot.as_ref().is_some_and(|name| !name.starts_with("snapshot."))
            || self.nocache > 0
            || !self.cache.is_empty()
            || !self.aio.is_empty()
            || !self.discard.is_empty()
            || !self.bitmap.is_empty()
            || self.allocation_depth
            || self.connect.is_some()
            || self.disconnect;
        if per_device {
            return fail("List mode is incompatible with per-device settings");
        }
        if self.fork {
            return fail("List mode is incompatible with forking");
        }
        if self.tls_creds.is_none() && self.tls_authz.is_some() {
            return fail("--tls-authz is not permitted without --tls-creds");
        }
        if self.tls_creds.is_none() && self.tls_hostname.is_some() {
            return fail("--tls-hostname is not permitted without --tls-creds");
        }
        if self.tls_authz.is_some() {
            return fail("TLS authorization is incompatible with export list");
        }
        let tls = self
            .tls_creds
            .as_deref()
            .map(|id| objects.client_tls(id))
            .transpose()
            .map_err(no_tls)?;
        let place = match self.place()? {
            Place::Activated => return fail("List mode is incompatible with socket activation"),
            place => place,
        };
        let tls_hostname = self.tls_hostname.clone();
        Ok(Mode::List(List { place, tls: tls.map(Arc::new), tls_hostname }))
    }

    fn place(&self) -> Result<Place, Failure> {
        if super::listen::is_activated()? {
            let given = [
                (self.port.is_some(), "TCP port number can't be set when using socket activation"),
                (self.bind.is_some(), "The interface can't be set when using socket activation"),
                (self.socket.is_some(), "Unix socket can't be set when using socket activation"),
                (self.connect.is_some(), "NBD device can't be set when using socket activation"),
            ];
            return match given.iter().find(|(given, _)| *given) {
                Some((_, text)) => fail(*text),
                None => Ok(Place::Activated),
            };
        }
        Ok(match (&self.socket, &self.connect) {
            (Some(path), _) => Place::Unix(path.clone()),
            (None, Some(device)) => {
                let name = device.rsplit('/').next().unwrap_or_default();
                Place::Unix(format!("/var/lock/qemu-nbd-{name}"))
            }
            (None, None) => Place::Inet {
                host: self.bind.clone().unwrap_or_else(|| "0.0.0.0".to_owned()),
                port: self.port.clone().unwrap_or_else(|| "10809".to_owned()),
            },
        })
    }

    fn cache(&self) -> Result<(Cache, bool), Failure> {
        if usize::from(self.nocache) + self.cache.len() > 1 {
            return fail("-n and --cache can only be specified once");
        }
        let mode = match (self.nocache, self.cache.first()) {
            (0, None) => "writeback",
            (0, Some(mode)) => mode,
            _ => "none",
        };
        match Cache::parse(mode) {
            Some(cache) => Ok((cache, matches!(mode, "writethrough" | "directsync"))),
            None => fail(format!("Invalid cache mode `{mode}'")),
        }
    }

    fn aio(&self) -> Result<Aio, Failure> {
        match &self.aio[..] {
            [] => Ok(Aio::Auto),
            [mode] => match mode.as_str() {
                "threads" => Ok(Aio::Threads),
                "native" | "io_uring" => Ok(Aio::IoUring),
                mode => fail(format!("Invalid aio mode '{mode}'")),
            },
            _ => fail("--aio can only be specified once"),
        }
    }

    fn discard(&self) -> Result<bool, Failure> {
        match &self.discard[..] {
            [] => Ok(false),
            [mode] => match mode.as_str() {
                "ignore" | "off" => Ok(false),
                "unmap" | "on" => Ok(true),
                mode => fail(format!("Invalid discard mode `{mode}'")),
            },
            _ => fail("--discard can only be specified once"),
        }
    }
}
