//! Options of what other hosts have.

use crate::qapi::{InetSocketAddress, SocketAddress};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// How the key of an SSH server is checked.
#[qapi]
pub enum SshHostKeyCheckMode {
    /// Not at all.
    None,
    /// Against a fingerprint.
    Hash,
    /// Against the file of known hosts.
    #[qapi(name = "known_hosts")]
    KnownHosts,
}

/// The hash of a fingerprint.
#[qapi]
pub enum SshHostKeyCheckHashType {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// The fingerprint of a key.
#[qapi]
pub struct SshHostKeyHash {
    /// The hash it is made with.
    pub r#type: SshHostKeyCheckHashType,
    /// Its digits.
    pub hash: String,
}

/// How the key of an SSH server is checked.
#[qapi(tag = "mode", by = SshHostKeyCheckMode)]
pub enum SshHostKeyCheck {
    /// Not at all.
    None,
    /// Against a fingerprint.
    Hash(SshHostKeyHash),
    /// Against the file of known hosts.
    #[qapi(name = "known_hosts")]
    KnownHosts,
}

/// A file over SSH.
#[qapi]
pub struct BlockdevOptionsSsh {
    /// The server.
    pub server: InetSocketAddress,
    /// The path.
    pub path: String,
    /// The user.
    pub user: Option<String>,
    /// How the server's key is checked.
    pub host_key_check: Option<SshHostKeyCheck>,
}

/// A file of GlusterFS.
#[qapi]
pub struct BlockdevOptionsGluster {
    /// The volume.
    pub volume: String,
    /// The path.
    pub path: String,
    /// The server.
    pub server: Vec<SocketAddress>,
    /// How much the client library logs.
    pub debug: Option<i64>,
    /// Where the client library logs.
    pub logfile: Option<String>,
}

/// What carries iSCSI.
#[qapi]
pub enum IscsiTransport {
    /// TCP.
    Tcp,
    /// RDMA.
    Iser,
}

/// How headers of iSCSI are protected.
#[qapi]
pub enum IscsiHeaderDigest {
    /// By CRC-32C.
    Crc32c,
    /// Not at all.
    None,
    /// By CRC-32C where the other side can.
    Crc32cNone,
    /// By CRC-32C where the other side insists.
    NoneCrc32c,
}

/// A disk by iSCSI.
#[qapi]
pub struct BlockdevOptionsIscsi {
    /// What carries it.
    pub transport: IscsiTransport,
    /// The host and port.
    pub portal: String,
    /// The name of the target.
    pub target: String,
    /// The number of the disk.
    pub lun: Option<i64>,
    /// The user.
    pub user: Option<String>,
    /// The secret object with the password.
    pub password_secret: Option<String>,
    /// Who we are.
    pub initiator_name: Option<String>,
    /// How headers are protected.
    pub header_digest: Option<IscsiHeaderDigest>,
    /// Seconds that an answer may take.
    pub timeout: Option<i64>,
}

/// What carries NFS.
#[qapi]
pub enum NFSTransport {
    /// TCP.
    Inet,
}

/// An NFS server.
#[qapi]
pub struct NFSServer {
    /// Which kind it is.
    pub r#type: NFSTransport,
    /// The host's name or address.
    pub host: String,
}

/// A file of NFS.
#[qapi]
pub struct BlockdevOptionsNfs {
    /// The server.
    pub server: NFSServer,
    /// The path.
    pub path: String,
    /// The number of the user.
    pub user: Option<i64>,
    /// The number of the group.
    pub group: Option<i64>,
    /// How often a connection is tried.
    pub tcp_syn_count: Option<i64>,
    /// Bytes that are read ahead.
    pub readahead_size: Option<i64>,
    /// Pages that are cached.
    pub page_cache_size: Option<i64>,
    /// How much the client library logs.
    pub debug: Option<i64>,
}

/// A file of HTTP or FTP.
#[qapi]
pub struct BlockdevOptionsCurlBase {
    /// The address.
    pub url: String,
    /// Bytes that are read at a time.
    pub readahead: Option<i64>,
    /// Seconds that an answer may take.
    pub timeout: Option<i64>,
    /// The user.
    pub username: Option<String>,
    /// The secret object with the password.
    pub password_secret: Option<String>,
    /// The user for the proxy.
    pub proxy_username: Option<String>,
    /// The secret object with the proxy's password.
    pub proxy_password_secret: Option<String>,
}

/// A file of HTTP.
#[qapi]
pub struct BlockdevOptionsCurlHttp {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsCurlBase,
    /// What is sent as cookies.
    pub cookie: Option<String>,
    /// The secret object with the cookies.
    pub cookie_secret: Option<String>,
}

/// A file of HTTPS.
#[qapi]
pub struct BlockdevOptionsCurlHttps {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsCurlBase,
    /// What is sent as cookies.
    pub cookie: Option<String>,
    /// Whether the server's certificate is checked.
    pub sslverify: Option<bool>,
    /// The secret object with the cookies.
    pub cookie_secret: Option<String>,
}

/// A file of FTP.
#[qapi]
pub struct BlockdevOptionsCurlFtp {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsCurlBase,
}

/// A file of FTP over TLS.
#[qapi]
pub struct BlockdevOptionsCurlFtps {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockdevOptionsCurlBase,
    /// Whether the server's certificate is checked.
    pub sslverify: Option<bool>,
}

/// An export of an NBD server.
#[qapi]
pub struct BlockdevOptionsNbd {
    /// The server.
    pub server: SocketAddress,
    /// The name of the export.
    pub export: Option<String>,
    /// The credentials object.
    pub tls_creds: Option<String>,
    /// The name that the certificate must have, where it is not the host's.
    pub tls_hostname: Option<String>,
    /// A metadata context that block status is made from.
    #[qapi(unstable)]
    pub x_dirty_bitmap: Option<String>,
    /// For so many seconds requests wait for a lost connection.
    pub reconnect_delay: Option<u32>,
    /// For so many seconds opening tries to connect.
    pub open_timeout: Option<u32>,
}
