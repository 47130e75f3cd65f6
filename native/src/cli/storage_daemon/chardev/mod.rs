//! Character devices: what monitors are held on.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `describe` | what a device is to be, from text or from a command's arguments |
//! | `socket` | sockets that listen or connect |
//! | `stream` | bytes both ways, also over files that block |
//! | `ring` | a buffer that keeps what was written last |
//! | `commands` | `chardev-add` and its kin |

mod commands;
mod describe;
mod ring;
mod socket;
mod stream;

pub(super) use commands::CharDevices;
pub(super) use describe::{Description, Read, is_help, print_help};
pub(super) use stream::{ByteStream, Flushed};

use crate::cli::failure::Failure;
use crate::cli::nbd::words;
use describe::Kind;
use ring::Ring;
use sectora_core::sync::Mutex;
use socket::Endpoint;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The types there are, as lists tell them.
pub(super) const TYPES: [&str; 6] = ["pipe", "null", "ringbuf", "socket", "stdio", "file"];

/// A character device.
#[derive(Debug)]
pub(super) struct Chardev {
    pub(super) id: String,
    backend: Mutex<Arc<Backend>>,
    used: AtomicBool,
}

#[derive(Debug)]
enum Backend {
    Null,
    Ring(Arc<Mutex<Ring>>),
    /// A stream that is there once: standard input and output, a file, a pipe.
    Once(&'static str, Mutex<Option<ByteStream>>),
    Socket(Endpoint),
}

impl Backend {
    async fn new(description: &Kind, flushed: &Flushed) -> Result<Self, Failure> {
        let once = |name, stream| Self::Once(name, Mutex::new(Some(stream)));
        let open = |path: &str, how: &std::fs::OpenOptions| {
            how.open(path)
                .map_err(|e| Failure::new(format!("Could not open '{path}': {}", words(&e))))
        };
        Ok(match description {
            Kind::Null => Self::Null,
            Kind::Ring(size) => Self::Ring(Arc::new(Mutex::new(Ring::new(*size)?))),
            Kind::Stdio => once("stdio", ByteStream::stdio(flushed)),
            Kind::File { out, append, input } => {
                let mut how = File::options();
                how.write(true).create(true).append(*append).truncate(!append);
                let output = open(out, &how)?;
                let input = match input {
                    Some(path) => Some(open(path, File::options().read(true))?),
                    None => None,
                };
                once("file", ByteStream::over_files(input, output, flushed))
            }
            Kind::Pipe(path) => {
                let both = (format!("{path}.in"), format!("{path}.out"));
                let two = Path::new(&both.0).exists() && Path::new(&both.1).exists();
                // Open both ways, so that nobody has to be at the other end.
                let mut how = File::options();
                how.read(true).write(true);
                let (input, output) = match two {
                    true => (open(&both.0, &how)?, open(&both.1, &how)?),
                    false => {
                        let pipe = open(path, &how)?;
                        let again = pipe.try_clone().map_err(|e| Failure::new(words(&e)))?;
                        (pipe, again)
                    }
                };
                once("pipe", ByteStream::over_files(Some(input), output, flushed))
            }
            Kind::Socket(socket) => Self::Socket(Endpoint::new(socket).await?),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ring(_) => "ringbuf",
            Self::Once(name, _) => name,
            Self::Socket(_) => "socket",
        }
    }
}

impl Chardev {
    pub(super) async fn new(made: &Description, flushed: &Flushed) -> Result<Self, Failure> {
        let backend = Backend::new(&made.kind, flushed).await?;
        let backend = Mutex::new(Arc::new(backend));
        Ok(Self { id: made.id.clone(), backend, used: AtomicBool::new(false) })
    }

    fn backend(&self) -> Arc<Backend> {
        self.backend.lock().clone()
    }

    /// Takes the device for one user; false where it has one.
    pub(super) fn claim(&self) -> bool {
        !self.used.swap(true, Ordering::SeqCst)
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::SeqCst)
    }

    /// True where another thread may read it beside commands that run.
    pub(super) fn is_read_aside(&self) -> bool {
        matches!(&*self.backend(), Backend::Once("stdio", _) | Backend::Socket(_))
    }

    /// Waits for the first client of a socket, where whoever described it wants that.
    pub(super) async fn wait(&self, tell: impl FnOnce(&str)) {
        if let Backend::Socket(endpoint) = &*self.backend() {
            endpoint.wait(tell).await;
        }
    }

    /// The next client's stream. There may never be one.
    pub(super) async fn next_stream(&self) -> ByteStream {
        let found = match &*self.backend() {
            Backend::Null => Some(ByteStream::null()),
            Backend::Ring(ring) => Some(ByteStream::into_ring(ring.clone())),
            Backend::Once(_, stream) => stream.lock().take(),
            Backend::Socket(endpoint) => Some(endpoint.next().await),
        };
        match found {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }

    /// The client has gone.
    pub(super) fn gone(&self) {
        if let Backend::Socket(endpoint) = &*self.backend() {
            endpoint.gone();
        }
    }

    /// What the device is over, as `query-chardev` tells it.
    fn file_name(&self) -> String {
        match &*self.backend() {
            Backend::Socket(endpoint) => endpoint.file_name(),
            other => other.name().to_owned(),
        }
    }

    fn ring(&self) -> Option<Arc<Mutex<Ring>>> {
        match &*self.backend() {
            Backend::Ring(ring) => Some(ring.clone()),
            _ => None,
        }
    }
}
