//! Where clients come to.

pub(in crate::cli) use super::args::Place;
use crate::cli::background::CHILD;
use crate::cli::failure::Failure;
use crate::export::nbd::Listener;
use rustix::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use tokio::net::{TcpListener, UnixListener, lookup_host};

/// The first descriptor that is handed over by socket activation (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// True where a socket was handed over to this process.
pub(super) fn is_activated() -> Result<bool, Failure> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let Some(count) = number("LISTEN_FDS").filter(|count| *count > 0) else { return Ok(false) };
    // A daemon's parent has looked, and the child has another number.
    let for_us = number("LISTEN_PID") == Some(std::process::id())
        || std::env::var_os(CHILD).is_some_and(|how| how == "activated");
    if !for_us {
        return Ok(false);
    }
    if count > 1 {
        let text = "qemu-nbd does not support socket activation with LISTEN_FDS > 1";
        return Err(Failure::new(text));
    }
    // SAFETY: only looked at; an error says that it is no descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(FIRST) };
    match rustix::io::fcntl_getfd(fd) {
        Ok(_) => Ok(true),
        Err(e) => Err(Failure::new(format!(
            "Socket activation failed: invalid file descriptor fd = {FIRST}: {}",
            words(&e.into())
        ))),
    }
}

/// Clients that may wait in the queue of a socket.
const BACKLOG: i32 = 128;

/// What the system says, without its number.
pub(in crate::cli) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" (os error").map_or(&*text, |(words, _)| words);
    text.trim_start_matches("failed to lookup address information: ").to_owned()
}

/// Sockets that listen, and what has to be removed in the end.
#[derive(Debug)]
pub(in crate::cli) struct Listening {
    pub(in crate::cli) listeners: Vec<Listener>,
    path: Option<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have been faster.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The SELinux context of the sockets that this thread makes from now on; that of the policy where it
/// is empty. Source: proc_pid_attr(5).
fn label_sockets(context: &str) -> std::io::Result<()> {
    std::fs::write("/proc/thread-self/attr/sockcreate", context)
}

/// Begins to listen.
pub(in crate::cli) async fn listen(
    place: &Place,
    label: Option<&str>,
) -> Result<Listening, Failure> {
    match place {
        Place::Unix(path) => {
            // A socket that is left over from a server that did not end cleanly.
            let left = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
            if left {
                let _ = std::fs::remove_file(path);
            }
            if let Some(label) = label {
                label_sockets(&format!("{label}\0")).map_err(|e| {
                    let what = format!("Cannot set SELinux socket create context to {label}");
                    Failure::new(format!("{what}: {}", words(&e)))
                })?;
            }
            let listener = UnixListener::bind(path).map_err(|e| {
                Failure::new(format!("Failed to bind socket to {path}: {}", words(&e)))
            })?;
            if label.is_some() {
                label_sockets("").map_err(|e| {
                    let what = "Cannot reset SELinux socket create context";
                    Failure::new(format!("{what}: {}", words(&e)))
                })?;
            }
            let listeners = vec![Listener::Unix(listener)];
            Ok(Listening { listeners, path: Some(path.clone()) })
        }
        Place::Inet { host, port } => {
            let unresolved = |why: &str| {
                Failure::new(format!("address resolution failed for {host}:{port}: {why}"))
            };
            let number: u16 =
                port.parse().map_err(|_| unresolved("Servname not supported for ai_socktype"))?;
            let found = lookup_host((host.as_str(), number)).await;
            let found = found.map_err(|e| unresolved(&words(&e)))?;
            let mut listeners = Vec::new();
            for address in found {
                let listener = TcpListener::bind(address).await.map_err(|e| {
                    let what = match e.kind() {
                        std::io::ErrorKind::AddrInUse => "Failed to find an available port",
                        _ => "Failed to bind socket",
                    };
                    Failure::new(format!("{what}: {}", words(&e)))
                })?;
                listeners.push(Listener::Tcp(listener));
            }
            Ok(Listening { listeners, path: None })
        }
        Place::Activated => {
            // SAFETY: whoever started the process has handed this descriptor over to it, and
            // `is_activated` found it open; nothing else in the program uses it.
            let fd = unsafe { OwnedFd::from_raw_fd(FIRST) };
            let listener = inherited(fd).map_err(|e| {
                Failure::new(format!(
                    "Failed to use socket activation: Unable to query remote socket address: {}",
                    words(&e)
                ))
            })?;
            Ok(Listening { listeners: vec![listener], path: None })
        }
    }
}

/// Begins to listen on a name of Linux' abstract space. One that is not `tight` fills all the room
/// that an address has, with zero bytes.
pub(in crate::cli) fn listen_abstract(name: &str, tight: bool) -> Result<Listening, Failure> {
    /// Bytes of `sun_path` less the one that says what kind of name it is.
    const ROOM: usize = 107;
    let wrong =
        |e: std::io::Error| Failure::new(format!("Failed to bind socket to {name}: {}", words(&e)));
    let mut full = name.as_bytes().to_vec();
    if !tight && full.len() < ROOM {
        full.resize(ROOM, 0);
    }
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&full).map_err(wrong)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let listener = UnixListener::from_std(listener).map_err(wrong)?;
    Ok(Listening { listeners: vec![Listener::Unix(listener)], path: None })
}

/// Listens on the descriptor `number`, which whoever started the process has opened.
pub(in crate::cli) fn listen_inherited(number: i32) -> Result<Listening, Failure> {
    let no_socket = || Failure::new(format!("File descriptor '{number}' is not a socket"));
    if number < 0 {
        return Err(no_socket());
    }
    // SAFETY: only looked at; an error says that it is no socket. Nothing else runs that could close
    // it: a command line is carried out one option after the other.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    // A copy of our own: whatever the number is used for otherwise stays as it is.
    let fd = fd.try_clone_to_owned().map_err(|_| no_socket())?;
    listen_over(fd, &number.to_string())
}

/// Listens on a socket that somebody else has opened, and that is called `name`.
pub(in crate::cli) fn listen_over(fd: OwnedFd, name: &str) -> Result<Listening, Failure> {
    let no_socket = || Failure::new(format!("File descriptor '{name}' is not a socket"));
    rustix::net::sockopt::socket_type(&fd).map_err(|_| no_socket())?;
    let wrong =
        |e: std::io::Error| Failure::new(format!("Failed to listen on fd socket: {}", words(&e)));
    rustix::net::listen(&fd, BACKLOG).map_err(|e| wrong(e.into()))?;
    let listener = inherited(fd).map_err(wrong)?;
    Ok(Listening { listeners: vec![listener], path: None })
}

fn inherited(fd: OwnedFd) -> std::io::Result<Listener> {
    let unix = rustix::net::sockopt::socket_domain(fd.as_fd())? == rustix::net::AddressFamily::UNIX;
    rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
    Ok(match unix {
        true => Listener::Unix(UnixListener::from_std(fd.into())?),
        false => Listener::Tcp(TcpListener::from_std(fd.into())?),
    })
}
