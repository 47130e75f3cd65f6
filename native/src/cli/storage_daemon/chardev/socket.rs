//! Sockets that listen or connect.

use super::stream::ByteStream;
use crate::cli::failure::Failure;
use crate::cli::nbd::words;
use crate::cli::output;
use rustix::fd::OwnedFd;
use sectora_core::sync::Mutex;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix {
        path: String,
        is_abstract: bool,
    },
    Inet {
        host: String,
        port: String,
    },
    /// A descriptor that whoever started the process has opened.
    Descriptor(i32),
}

/// A socket that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) id: String,
    pub(super) address: Address,
    pub(super) server: bool,
    pub(super) wait: bool,
    /// Milliseconds until the next try to connect; zero for one try only.
    pub(super) reconnect: u64,
}

/// A socket in use.
#[derive(Debug)]
pub(super) struct Endpoint {
    socket: Socket,
    role: Role,
    /// A client that came, or a server that was reached, before anybody asked for it.
    first: Mutex<Option<(ByteStream, String)>>,
    /// What the connection is called; none where there is none.
    connected: Mutex<Option<String>>,
    /// A path to remove in the end.
    path: Option<String>,
}

#[derive(Debug)]
enum Role {
    Unix(UnixListener),
    Tcp(TcpListener),
    Client,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have been faster.
            let _ = fs::remove_file(path);
        }
    }
}

impl Endpoint {
    pub(super) async fn new(socket: &Socket) -> Result<Self, Failure> {
        let mut endpoint = Self {
            socket: socket.clone(),
            role: Role::Client,
            first: Mutex::new(None),
            connected: Mutex::new(None),
            path: None,
        };
        if socket.server {
            endpoint.role = listen(&socket.address).await?;
            if let Address::Unix { path, is_abstract: false } = &socket.address {
                endpoint.path = Some(path.clone());
            }
        } else if socket.reconnect == 0 {
            let stream = connect(&socket.address).await?;
            endpoint.first = Mutex::new(Some((stream, endpoint.place())));
        }
        Ok(endpoint)
    }

    /// Waits for the first client, where that is wanted.
    pub(super) async fn wait(&self, tell: impl FnOnce(&str)) {
        if self.socket.server && self.socket.wait {
            tell(&self.file_name());
            let first = self.accept().await;
            *self.first.lock() = Some(first);
        }
    }

    /// The next connection.
    pub(super) async fn next(&self) -> ByteStream {
        let first = self.first.lock().take();
        let (stream, name) = match (first, &self.role) {
            (Some(first), _) => first,
            (None, Role::Client) if self.socket.reconnect == 0 => std::future::pending().await,
            (None, Role::Client) => (self.reconnect().await, self.place()),
            (None, _) => self.accept().await,
        };
        *self.connected.lock() = Some(name);
        stream
    }

    pub(super) fn gone(&self) {
        *self.connected.lock() = None;
    }

    async fn accept(&self) -> (ByteStream, String) {
        loop {
            let accepted = match &self.role {
                Role::Unix(listener) => {
                    listener.accept().await.map(|(s, _)| (ByteStream::of_unix(s), self.place()))
                }
                Role::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                    // Answers are whole messages: waiting to join them only delays them.
                    let _ = stream.set_nodelay(true);
                    let name = format!("{} <-> {peer}", self.place());
                    (ByteStream::of(stream), name)
                }),
                Role::Client => std::future::pending().await,
            };
            match accepted {
                Ok(accepted) => return accepted,
                // No descriptors or no memory: what ends gives some back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn reconnect(&self) -> ByteStream {
        let mut told = false;
        loop {
            match connect(&self.socket.address).await {
                Ok(stream) => return stream,
                Err(error) if !told => {
                    let id = &self.socket.id;
                    let text = error.context(&format!("Unable to connect character device {id}"));
                    output::complain_of(text);
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(self.socket.reconnect)).await;
        }
    }

    /// The address as names of devices have it.
    fn place(&self) -> String {
        let kind = if self.socket.server { ",server=on" } else { "" };
        match (&self.role, &self.socket.address) {
            (Role::Tcp(listener), _) => match listener.local_addr() {
                Ok(address) => format!("tcp:{address}{kind}"),
                Err(_) => format!("tcp:{kind}"),
            },
            (_, Address::Unix { path, is_abstract: false }) => format!("unix:{path}{kind}"),
            (_, Address::Unix { path, .. }) => format!("unix:{path},abstract=on{kind}"),
            (_, Address::Inet { host, port }) => format!("tcp:{host}:{port}{kind}"),
            (_, Address::Descriptor(fd)) => format!("fd:{fd}{kind}"),
        }
    }

    pub(super) fn file_name(&self) -> String {
        match &*self.connected.lock() {
            Some(name) => name.clone(),
            None if self.first.lock().is_some() => self.place(),
            None => format!("disconnected:{}", self.place()),
        }
    }
}

async fn listen(address: &Address) -> Result<Role, Failure> {
    match address {
        Address::Unix { path, is_abstract } => {
            let bound = match is_abstract {
                true => abstract_name(path).and_then(|name| StdListener::bind_addr(&name)),
                false => {
                    let left = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
                    if left {
                        // Of a daemon that did not end cleanly.
                        let _ = fs::remove_file(path);
                    }
                    StdListener::bind(path)
                }
            };
            let bound = bound.and_then(|listener| {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener)
            });
            let failed =
                |e| Failure::new(format!("Failed to bind socket to {path}: {}", words(&e)));
            bound.map(Role::Unix).map_err(failed)
        }
        Address::Inet { host, port } => {
            let addresses = resolve(host, port).await?;
            let failed = |e: std::io::Error| {
                let what = match e.kind() {
                    std::io::ErrorKind::AddrInUse => "Failed to find an available port",
                    _ => "Failed to bind socket",
                };
                Failure::new(format!("{what}: {}", words(&e)))
            };
            TcpListener::bind(&addresses[..]).await.map(Role::Tcp).map_err(failed)
        }
        Address::Descriptor(number) => {
            let (fd, unix) = descriptor(*number)?;
            let listener = match unix {
                true => UnixListener::from_std(fd.into()).map(Role::Unix),
                false => TcpListener::from_std(fd.into()).map(Role::Tcp),
            };
            listener.map_err(|e| Failure::new(words(&e)))
        }
    }
}

async fn connect(address: &Address) -> Result<ByteStream, Failure> {
    match address {
        Address::Unix { path, is_abstract } => {
            let stream = match is_abstract {
                true => abstract_name(path).and_then(|name| {
                    let stream = StdStream::connect_addr(&name)?;
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)
                }),
                false => UnixStream::connect(path).await,
            };
            let failed = |e| Failure::new(format!("Failed to connect to '{path}': {}", words(&e)));
            stream.map(ByteStream::of_unix).map_err(failed)
        }
        Address::Inet { host, port } => {
            let addresses = resolve(host, port).await?;
            let stream = TcpStream::connect(&addresses[..]).await.map_err(|e| {
                Failure::new(format!("Failed to connect to '{host}:{port}': {}", words(&e)))
            })?;
            // As above.
            let _ = stream.set_nodelay(true);
            Ok(ByteStream::of(stream))
        }
        Address::Descriptor(number) => {
            let (fd, unix) = descriptor(*number)?;
            let stream = match unix {
                true => UnixStream::from_std(fd.into()).map(ByteStream::of_unix),
                false => TcpStream::from_std(fd.into()).map(ByteStream::of),
            };
            stream.map_err(|e| Failure::new(words(&e)))
        }
    }
}

fn abstract_name(path: &str) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(path.as_bytes())
}

async fn resolve(host: &str, port: &str) -> Result<Vec<std::net::SocketAddr>, Failure> {
    let failed =
        |why: &str| Failure::new(format!("address resolution failed for {host}:{port}: {why}"));
    let number: u16 = port.parse().map_err(|_| failed("Servname not supported for ai_socktype"))?;
    let name = if host.is_empty() { "0.0.0.0" } else { host };
    let found = lookup_host((name, number)).await.map_err(|e| failed(&words(&e)))?;
    Ok(found.collect())
}

/// Takes over a descriptor that was handed to the process; true where it is a Unix socket.
fn descriptor(number: i32) -> Result<(OwnedFd, bool), Failure> {
    let no_socket = || Failure::new(format!("File descriptor '{number}' is not a socket"));
    if number < 0 {
        return Err(no_socket());
    }
    // SAFETY: only looked at; an error says that it is no descriptor, or no socket.
    let seen = unsafe { BorrowedFd::borrow_raw(number) };
    let domain = rustix::net::sockopt::socket_domain(seen).map_err(|_| no_socket())?;
    // SAFETY: whoever started the process has handed this descriptor over by naming it, and it is
    // open; each is named for one device.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::ioctl_fionbio(fd.as_fd(), true).map_err(|e| Failure::new(words(&e.into())))?;
    Ok((fd, domain == rustix::net::AddressFamily::UNIX))
}
