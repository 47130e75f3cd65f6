//! Types of `sockets.json`: addresses.

use alloc::string::String;
use sectora_derive::qapi;

/// A family of addresses.
#[qapi]
pub enum NetworkAddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// A socket in the file system.
    Unix,
    /// Between host and guests.
    Vsock,
    /// Another.
    Unknown,
}

/// A host and a port.
#[qapi]
pub struct InetSocketAddressBase {
    /// The host's name or address.
    pub host: String,
    /// The port, as a number or a service's name.
    pub port: String,
}

/// An address of TCP.
#[qapi]
pub struct InetSocketAddress {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: InetSocketAddressBase,
    /// Whether the host is an address, so that nothing is looked up.
    pub numeric: Option<bool>,
    /// The last port to try, where somebody listens.
    pub to: Option<u16>,
    /// Whether IPv4 may be used.
    pub ipv4: Option<bool>,
    /// Whether IPv6 may be used.
    pub ipv6: Option<bool>,
    /// Whether the system probes connections that are silent.
    pub keep_alive: Option<bool>,
    /// Whether several paths may be used.
    #[qapi(cond = "HAVE_IPPROTO_MPTCP")]
    pub mptcp: Option<bool>,
}

/// A socket in the file system.
#[qapi]
pub struct UnixSocketAddress {
    /// The path.
    pub path: String,
    /// Whether the name is in Linux' abstract space.
    #[qapi(cond = "CONFIG_LINUX")]
    pub r#abstract: Option<bool>,
    /// Whether such a name ends where the text does.
    #[qapi(cond = "CONFIG_LINUX")]
    pub tight: Option<bool>,
}

/// An address between host and guests.
#[qapi]
pub struct VsockSocketAddress {
    /// The number of the guest.
    pub cid: String,
    /// The port.
    pub port: String,
}

/// A socket that is open already.
#[qapi]
pub struct FdSocketAddress {
    /// The number, or the name under which it was handed over.
    pub str: String,
}

/// An address, its parts inside a member of their own.
#[qapi(tag = "type", by = SocketAddressType, content)]
pub enum SocketAddressLegacy {
    /// TCP.
    Inet(InetSocketAddress),
    /// A socket in the file system.
    Unix(UnixSocketAddress),
    /// Between host and guests.
    Vsock(VsockSocketAddress),
    /// One that is open already.
    Fd(FdSocketAddress),
}

/// A kind of address.
#[qapi]
pub enum SocketAddressType {
    /// TCP.
    Inet,
    /// A socket in the file system.
    Unix,
    /// Between host and guests.
    Vsock,
    /// One that is open already.
    Fd,
}

/// An address.
#[qapi(tag = "type", by = SocketAddressType)]
pub enum SocketAddress {
    /// TCP.
    Inet(InetSocketAddress),
    /// A socket in the file system.
    Unix(UnixSocketAddress),
    /// Between host and guests.
    Vsock(VsockSocketAddress),
    /// One that is open already.
    Fd(FdSocketAddress),
}
