//! Sockets that exports are served on.

use super::in_words;
use crate::cli::fdset::FdSets;
use crate::cli::nbd::listen::{
    Listening, Place, listen, listen_abstract, listen_inherited, listen_over,
};
use sectora_core::Error;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::qapi::{SocketAddress, SocketAddressLegacy};

/// The address without the difference in how it is written.
pub(super) fn modern(address: SocketAddressLegacy) -> SocketAddress {
    match address {
        SocketAddressLegacy::Inet(inet) => SocketAddress::Inet(inet),
        SocketAddressLegacy::Unix(unix) => SocketAddress::Unix(unix),
        SocketAddressLegacy::Vsock(vsock) => SocketAddress::Vsock(vsock),
        SocketAddressLegacy::Fd(fd) => SocketAddress::Fd(fd),
    }
}

/// What the descriptors of addresses are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Descriptors<'a> {
    /// Those that whoever started the program has opened, by number: on its command line.
    Inherited,
    /// Those that were handed over, by name.
    Named(&'a FdSets),
    /// There are none.
    None,
}

/// Begins to listen.
pub(super) async fn listen_on(
    address: SocketAddress,
    descriptors: Descriptors<'_>,
) -> QmpResult<Listening> {
    let place = match address {
        SocketAddress::Unix(unix) if unix.r#abstract == Some(true) => {
            let tight = unix.tight != Some(false);
            return listen_abstract(&unix.path, tight).map_err(|e| in_words(&e));
        }
        SocketAddress::Unix(unix) => Place::Unix(unix.path),
        SocketAddress::Inet(inet) => Place::Inet { host: inet.base.host, port: inet.base.port },
        SocketAddress::Fd(fd) => {
            let listening = match descriptors {
                Descriptors::None => {
                    return Err(QmpError::generic("only QEMU supports file descriptor passing"));
                }
                Descriptors::Named(sets) => listen_over(sets.take(&fd.str)?, &fd.str),
                Descriptors::Inherited => match fd.str.parse() {
                    Ok(number) => listen_inherited(number),
                    Err(_) => {
                        let what = format!("Unable to parse FD number {}", fd.str);
                        return Err(QmpError::generic(what));
                    }
                },
            };
            return listening.map_err(|e| in_words(&e));
        }
        SocketAddress::Vsock(_) => {
            return Err(
                Error::unsupported("addresses of type 'vsock' are not supported yet").into()
            );
        }
    };
    listen(&place, None).await.map_err(|e| in_words(&e))
}
