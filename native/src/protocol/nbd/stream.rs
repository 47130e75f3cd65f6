//! Sockets and encrypted sockets as streams of the core, and connecting them.

use super::address::{NbdOptions, Server};
use super::tls::ClientTls;
use crate::storage::OsError;
use crate::storage::error::os;
use bytes::{BufMut, BytesMut};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use sectora_core::nbd::Stream;
use sectora_core::nbd::client::{Client, Greeted, greet};
use sectora_core::{Error, Result};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        // Requests and replies are whole messages: waiting to join them only delays them. A socket
        // that does not know this works as well.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

macro_rules! delegate {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($inner) => $call,
            Self::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, inner => Pin::new(inner).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

/// A connection, encrypted or not.
pub struct NbdStream {
    kind: Kind,
    /// Bytes are looked for in the socket itself, and whoever reads does not want to be woken.
    looks: bool,
}

enum Kind {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl fmt::Debug for NbdStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Plain(Socket::Tcp(_)) => "NbdStream(tcp)",
            Kind::Plain(Socket::Unix(_)) => "NbdStream(unix)",
            Kind::Tls(_) => "NbdStream(tls)",
        })
    }
}

impl From<TcpStream> for NbdStream {
    fn from(stream: TcpStream) -> Self {
        Kind::Plain(stream.into()).into()
    }
}

impl From<UnixStream> for NbdStream {
    fn from(stream: UnixStream) -> Self {
        Kind::Plain(Socket::Unix(stream)).into()
    }
}

impl From<TlsStream<Socket>> for NbdStream {
    fn from(stream: TlsStream<Socket>) -> Self {
        Kind::Tls(Box::new(stream)).into()
    }
}

impl From<Kind> for NbdStream {
    fn from(kind: Kind) -> Self {
        Self { kind, looks: false }
    }
}

impl NbdStream {
    /// True where it is not encrypted.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
    }

    /// Has reads look into the socket and nothing else: no one is woken when more arrives.
    /// Without encryption only.
    pub(crate) fn look(&mut self, looks: bool) {
        self.looks = looks && self.is_plain();
    }

    /// The descriptor of a connection that is not encrypted.
    pub(crate) fn plain_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Plain(socket) => Some(socket.as_fd()),
            Kind::Tls(_) => None,
        }
    }

    /// The descriptor of a connection that is not encrypted, out of the runtime's hands.
    pub(crate) fn into_fd(self) -> Result<OwnedFd> {
        match self.into_socket()? {
            Socket::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Socket::Unix(stream) => stream.into_std().map(OwnedFd::from),
        }
        .map_err(failed)
    }

    /// The socket, to encrypt it.
    pub(crate) fn into_socket(self) -> Result<Socket> {
        match self.kind {
            Kind::Plain(socket) => Ok(socket),
            Kind::Tls(_) => Err(Error::bug("encryption within encryption")),
        }
    }
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match &mut $self.kind {
            Kind::Plain($inner) => $call,
            Kind::Tls($inner) => $call,
        }
    };
}

fn failed(error: io::Error) -> Error {
    // In words only: a peer that goes away is not the reader of our standard output.
    Error::io(format!("the connection failed: {}", OsError::from(error)))
}

/// Receives into the room that `into` has; gives how many bytes came, and whether there was room
/// for more.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    into: &mut BytesMut,
    flags: RecvFlags,
) -> rustix::io::Result<(usize, bool)> {
    // SAFETY: the bytes are only written to, by the call below.
    let room = unsafe { into.chunk_mut().as_uninit_slice_mut() };
    let most = room.len();
    let ((read, _), _) = recv(fd, room, flags)?;
    let n = read.len();
    // SAFETY: the call has written the first `n` bytes of the room.
    unsafe { into.advance_mut(n) };
    Ok((n, n < most))
}

/// Slices in one system call.
const SLICES: usize = 64;

impl Stream for NbdStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        if let (true, Some(fd)) = (self.looks, self.plain_fd()) {
            return match receive(fd, into, RecvFlags::DONTWAIT) {
                Ok((n, _)) => Poll::Ready(Ok(n)),
                Err(Errno::AGAIN | Errno::INTR) => Poll::Pending,
                Err(e) => Poll::Ready(Err(failed(e.into()))),
            };
        }
        either!(self, inner => pin!(inner.read_buf(into)).poll(cx).map_err(failed))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let slices = &slices[..count];
        either!(self, inner => Pin::new(inner).poll_write_vectored(cx, slices).map_err(failed))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, inner => Pin::new(inner).poll_flush(cx).map_err(failed))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, inner => Pin::new(inner).poll_shutdown(cx).map_err(failed))
    }
}

/// Connects to a server; nothing is sent yet.
///
/// # Errors
/// Those of the system, with the address.
pub async fn connect(server: &Server) -> Result<NbdStream> {
    let stream = match server {
        Server::Unix { path } => UnixStream::connect(path).await.map(NbdStream::from),
        Server::Inet { host, port } => {
            let found = lookup_host((host.as_str(), *port)).await.map_err(|e| {
                let text = e.to_string();
                let why = text.trim_start_matches("failed to lookup address information: ");
                Error::io(format!("address resolution failed for {server}: {why}"))
            })?;
            let addresses: Vec<_> = found.collect();
            TcpStream::connect(&addresses[..]).await.map(NbdStream::from)
        }
    };
    stream.map_err(|e| os(e, format!("Failed to connect to '{server}'")))
}

/// Exchanges greetings, and sets up encryption where the options ask for it.
///
/// # Errors
/// Those of the protocol, and `Denied` where encryption cannot be had.
pub async fn handshake(options: &NbdOptions) -> Result<Greeted<NbdStream>> {
    let greeted = greet(connect(&options.server).await?).await?;
    let Some(tls) = &options.tls else { return Ok(greeted) };
    match greeted {
        Greeted::Oldstyle(..) => Err(Error::denied("Server does not support STARTTLS")),
        Greeted::Newstyle(client) => {
            let (stream, resume) = client.start_tls().await?;
            let name = match (&options.tls_hostname, &options.server) {
                (Some(name), _) => name.as_str(),
                (None, Server::Inet { host, .. }) => host,
                (None, Server::Unix { .. }) => "localhost",
            };
            let stream = encrypt(tls, stream, name).await?;
            Ok(Greeted::Newstyle(Client::encrypted(stream, resume)))
        }
    }
}

async fn encrypt(tls: &ClientTls, stream: NbdStream, name: &str) -> Result<NbdStream> {
    let stream = tls.connect(stream.into_socket()?, name).await?;
    Ok(NbdStream::from(TlsStream::from(stream)))
}
