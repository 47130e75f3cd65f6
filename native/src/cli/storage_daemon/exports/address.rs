//! Sockets that exports are served on.

use super::in_words;
use crate::cli::nbd::listen::{Listening, Place, listen, listen_abstract, listen_inherited};
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

/// Begins to listen. Descriptors can be named on the command line only (`from_line`), where they are
/// those that whoever started the program has opened.
pub(super) async fn listen_on(address: SocketAddress, from_line: bool) -> QmpResult<Listening> {
    let place = match address {
        SocketAddress::Unix(unix) if unix.r#abstract == Some(true) => {
            let tight = unix.tight != Some(false);
            return listen_abstract(&unix.path, tight).map_err(|e| in_words(&e));
        }
        SocketAddress::Unix(unix) => Place::Unix(unix.path),
        SocketAddress::Inet(inet) => Place::Inet { host: inet.base.host, port: inet.base.port },
        SocketAddress::Fd(_) if !from_line => {
            return Err(QmpError::generic("only QEMU supports file descriptor passing"));
        }
        SocketAddress::Fd(fd) => match fd.str.parse() {
            Ok(number) => return listen_inherited(number).map_err(|e| in_words(&e)),
            Err(_) => {
                let what = format!("Unable to parse FD number {}", fd.str);
                return Err(QmpError::generic(what));
            }
        },
        SocketAddress::Vsock(_) => {
            return Err(
                Error::unsupported("addresses of type 'vsock' are not supported yet").into()
            );
        }
    };
    listen(&place, None).await.map_err(|e| in_words(&e))
}
