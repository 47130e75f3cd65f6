//! The NBD server: sockets, encryption and limits around the core's protocol.

use crate::protocol::nbd::NbdStream;
use crate::protocol::nbd::tls::ServerTls;
use sectora_core::nbd::Export;
use sectora_core::nbd::server::{End, Next, Tls, negotiate, serve};
use sectora_core::{Error, Result};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
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

/// Serves `exports` to whoever comes to `listeners`, until the future is dropped. What becomes of
/// connections is told to `ended`.
///
/// # Errors
/// `Bug` only; a failed connection is none.
pub async fn run(
    listeners: Vec<Listener>,
    exports: Arc<[Arc<Export>]>,
    options: ServerOptions,
    ended: mpsc::UnboundedSender<Ended>,
) -> Result<()> {
    let most = match options.max_connections {
        0 => Semaphore::MAX_PERMITS,
        n => usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS),
    };
    let free = Arc::new(Semaphore::new(most));
    let options = Arc::new(options);
    let active = Arc::new(AtomicUsize::new(0));
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // A client for whom there is no room stays in the queue of the socket.
        let permit = free.clone().acquire_owned().await;
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
        let (exports, options) = (exports.clone(), options.clone());
        let ended = ended.clone();
        active.fetch_add(1, Ordering::SeqCst);
        let active = active.clone();
        connections.spawn(async move {
            let mut negotiated = false;
            let result = connection(stream, &exports, &options, &mut negotiated).await;
            let last = active.fetch_sub(1, Ordering::SeqCst) == 1;
            drop(permit);
            // Nobody may want to know.
            let _ = ended.send(Ended { negotiated, last, error: result.err() });
        });
    }
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

async fn connection(
    stream: NbdStream,
    exports: &[Arc<Export>],
    options: &ServerOptions,
    negotiated: &mut bool,
) -> Result<End> {
    let handshake = handshake(stream, exports, options);
    let next = match options.handshake_limit.is_zero() {
        true => handshake.await?,
        false => timeout(options.handshake_limit, handshake)
            .await
            .map_err(|_| Error::io("the client did not complete its handshake in time"))??,
    };
    match next {
        Next::Serve(session) => {
            *negotiated = true;
            serve(*session).await
        }
        Next::Left => Ok(End::Disconnected),
        Next::StartTls(..) => Err(Error::bug("encryption begins twice")),
    }
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
