//! The NBD server: sockets, encryption and limits around the core's protocol.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `thread` | a connection on a thread of its own |
//! | `socket` | its socket, read and written in place |
//!
//! Handshakes, and encrypted connections, are tasks of the runtime the server runs in.

mod socket;
mod thread;

use super::RemoveMode;
use crate::protocol::nbd::NbdStream;
use crate::protocol::nbd::tls::ServerTls;
use sectora_core::nbd::Export;
use sectora_core::nbd::server::{End, Next, Tls, negotiate, serve};
use sectora_core::sync::Mutex;
use sectora_core::{Error, ErrorKind, Result};
use socket::ThreadSocket;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thread::Room;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;

/// Decides by the distinguished name in a client's certificate whether it may use the server.
pub trait Authorize: Send + Sync + fmt::Debug {
    /// True where `identity` may.
    fn is_allowed(&self, identity: &str) -> bool;
}

/// How connections are served; the schema's `NbdServerOptionsBase`.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Encryption, which is then demanded.
    pub tls: Option<ServerTls>,
    /// Who may use the server, of those with a certificate.
    pub authz: Option<Arc<dyn Authorize>>,
    /// A client that has not opened an export after this time is dropped; zero is no limit.
    pub handshake_limit: Duration,
    /// So many connections at the same time, others wait; 0 is no limit.
    pub max_connections: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            tls: None,
            authz: None,
            handshake_limit: Duration::from_secs(10),
            max_connections: 100,
        }
    }
}

/// A socket that clients come to.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<NbdStream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| stream.into()),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| stream.into()),
        }
    }
}

/// A connection has ended.
#[derive(Debug)]
pub struct Ended {
    /// The client had opened an export.
    pub negotiated: bool,
    /// No other connection is left.
    pub last: bool,
    /// Why, where it was not the client's leave.
    pub error: Option<Error>,
}

/// A server whose exports come and go.
pub struct NbdServer {
    exports: Mutex<Vec<Served>>,
    options: ServerOptions,
    free: Arc<Semaphore>,
    active: AtomicUsize,
    ended: mpsc::UnboundedSender<Ended>,
}

/// An export, and who uses it.
#[derive(Clone)]
struct Served {
    export: Arc<Export>,
    /// Each connection holds a receiver; `true` tells it to go.
    going: Arc<watch::Sender<bool>>,
}

impl fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NbdServer")
    }
}

impl NbdServer {
    /// A server without exports. What becomes of connections is told to `ended`.
    #[must_use]
    pub fn new(options: ServerOptions, ended: mpsc::UnboundedSender<Ended>) -> Arc<Self> {
        let most = match options.max_connections {
            0 => Semaphore::MAX_PERMITS,
            n => usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS),
        };
        Arc::new(Self {
            exports: Mutex::default(),
            options,
            free: Arc::new(Semaphore::new(most)),
            active: AtomicUsize::new(0),
            ended,
        })
    }

    /// Serves one more export. Clients that are in their handshake see it only when they come
    /// again.
    ///
    /// # Errors
    /// `InUse` where there is one of that name.
    pub fn add(&self, export: Arc<Export>) -> Result<()> {
        let mut exports = self.exports.lock();
        if exports.iter().any(|served| served.export.name() == export.name()) {
            let text = format!("NBD server already has export named '{}'", export.name());
            return Err(Error::new(ErrorKind::InUse, text));
        }
        exports.push(Served { export, going: Arc::new(watch::Sender::new(false)) });
        Ok(())
    }

    /// Serves the export `name` no longer. When it completes, no request on it is under way.
    ///
    /// # Errors
    /// `InvalidInput` where there is none of that name; `InUse` where it has connections that it
    /// may not lose.
    pub async fn remove(&self, name: &str, mode: RemoveMode) -> Result<()> {
        let served = {
            let mut exports = self.exports.lock();
            let at = exports.iter().position(|served| served.export.name() == name);
            let at = at.ok_or_else(|| Error::invalid(format!("Export '{name}' is not found")))?;
            if mode == RemoveMode::Safe && exports[at].going.receiver_count() > 0 {
                return Err(Error::new(ErrorKind::InUse, format!("export '{name}' still in use")));
            }
            exports.remove(at)
        };
        served.going.send_replace(true);
        served.going.closed().await;
        Ok(())
    }

    /// True where a client has opened the export `name`.
    pub fn is_used(&self, name: &str) -> bool {
        let exports = self.exports.lock();
        let mut named = exports.iter().filter(|served| served.export.name() == name);
        named.any(|served| served.going.receiver_count() > 0)
    }

    /// The exports there are, in the order in which they came.
    pub fn exports(&self) -> Vec<Arc<Export>> {
        self.exports.lock().iter().map(|served| served.export.clone()).collect()
    }

    /// Serves whoever comes to `listeners`, until the future is dropped; the connections end with
    /// it.
    ///
    /// # Errors
    /// `Bug` only; a failed connection is none.
    pub async fn listen(self: &Arc<Self>, listeners: Vec<Listener>) -> Result<()> {
        // Connections end with the server.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // A client for whom there is no room stays in the queue of the socket.
            let permit = self.free.clone().acquire_owned().await;
            let permit = permit.map_err(|_| Error::bug("the semaphore was closed"))?;
            let stream = match accept(&listeners).await {
                Ok(stream) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                // No descriptors or no memory: connections that end give some back.
                Err(_) => {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let server = self.clone();
            self.active.fetch_add(1, Ordering::SeqCst);
            connections.spawn(async move {
                let mut negotiated = false;
                let result = server.connection(stream, &mut negotiated).await;
                let last = server.active.fetch_sub(1, Ordering::SeqCst) == 1;
                drop(permit);
                // Nobody may want to know.
                let _ = server.ended.send(Ended { negotiated, last, error: result.err() });
            });
        }
    }

    /// Joins the users of an export that is still served.
    fn enter(&self, export: &Arc<Export>) -> Option<watch::Receiver<bool>> {
        let exports = self.exports.lock();
        let served = exports.iter().find(|served| Arc::ptr_eq(&served.export, export))?;
        Some(served.going.subscribe())
    }

    async fn connection(&self, stream: NbdStream, negotiated: &mut bool) -> Result<End> {
        let exports = self.exports();
        let handshake = handshake(stream, &exports, &self.options);
        let limit = self.options.handshake_limit;
        let next = match limit.is_zero() {
            true => handshake.await?,
            false => timeout(limit, handshake)
                .await
                .map_err(|_| Error::io("the client did not complete its handshake in time"))??,
        };
        match next {
            Next::Serve(session) => {
                *negotiated = true;
                let Some(mut going) = self.enter(session.export()) else {
                    return Err(Error::io("the export was removed during the handshake"));
                };
                let room = session.stream().is_plain().then(Room::take).flatten();
                let Some(room) = room else {
                    return tokio::select! {
                        end = serve(*session) => end,
                        _ = going.wait_for(|going| *going) => Ok(End::Disconnected),
                    };
                };
                let session = session.over(|stream| ThreadSocket::new(stream.into_fd()?))?;
                let mut served = thread::Served::start(session, room)?;
                tokio::select! {
                    end = served.ended() => end,
                    _ = going.wait_for(|going| *going) => Ok(End::Disconnected),
                }
            }
            Next::Left => Ok(End::Disconnected),
            Next::StartTls(..) => Err(Error::bug("encryption begins twice")),
        }
    }
}

/// Serves `exports` to whoever comes to `listeners`, until the future is dropped. What becomes of
/// connections is told to `ended`.
///
/// # Errors
/// `InUse` where two exports have the same name; `Bug`. A failed connection is none.
pub async fn run(
    listeners: Vec<Listener>,
    exports: Arc<[Arc<Export>]>,
    options: ServerOptions,
    ended: mpsc::UnboundedSender<Ended>,
) -> Result<()> {
    let server = NbdServer::new(options, ended);
    exports.iter().try_for_each(|export| server.add(export.clone()))?;
    server.listen(listeners).await
}

/// Errors of accepting that say nothing of the next connection.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn accept(listeners: &[Listener]) -> std::io::Result<NbdStream> {
    let mut all: Vec<_> = listeners.iter().map(|l| Box::pin(l.accept())).collect();
    std::future::poll_fn(move |cx| {
        for one in &mut all {
            let ready = one.as_mut().poll(cx);
            if ready.is_ready() {
                return ready;
            }
        }
        std::task::Poll::Pending
    })
    .await
}

async fn handshake(
    stream: NbdStream,
    exports: &[Arc<Export>],
    options: &ServerOptions,
) -> Result<Next<NbdStream>> {
    let Some(tls) = &options.tls else {
        return negotiate(stream, exports, Tls::Off, None).await;
    };
    match negotiate(stream, exports, Tls::Required, None).await? {
        Next::StartTls(stream, started) => {
            let (stream, identity) = tls.accept(stream.into_socket()?).await?;
            if let Some(authz) = &options.authz {
                let identity = identity.unwrap_or_default();
                if !authz.is_allowed(&identity) {
                    return Err(Error::denied(format!(
                        "TLS x509 authz check for {identity} is denied"
                    )));
                }
            }
            let stream = NbdStream::from(TlsStream::from(stream));
            negotiate(stream, exports, Tls::Established, Some(started)).await
        }
        next => Ok(next),
    }
}
