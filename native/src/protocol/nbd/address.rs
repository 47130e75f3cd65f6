//! Names of exports.
//!
//! | name | |
//! | --- | --- |
//! | `nbd:unix:PATH[:exportname=NAME]` | a Unix socket |
//! | `nbd:HOST:PORT[:exportname=NAME]` | TCP; a host with colons stands in brackets |
//! | `nbd://HOST[:PORT]/[NAME]`, `nbd+tcp://…` | TCP |
//! | `nbd+unix:///[NAME]?socket=PATH` | a Unix socket |
//! | `nbds://…`, `nbds+tcp://…`, `nbds+unix://…` | the same, encrypted |
//!
//! Source: "QEMU block drivers reference", NBD access; the NBD URI specification.

use super::DEFAULT_PORT;
use super::tls::ClientTls;
use sectora_core::nbd::layout::MAX_STRING;
use sectora_core::{Error, Result};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// TCP.
    Inet {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: String,
    },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

/// An export and how to use it; the schema's `BlockdevOptionsNbd`.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// The server.
    pub server: Server,
    /// The export's name.
    pub export: String,
    /// Whether the export is named at all, be it by nothing: the canonical name tells.
    pub named: bool,
    /// Encryption, which is then demanded.
    pub tls: Option<Arc<ClientTls>>,
    /// The name that must stand in the server's certificate, if not the server's.
    pub tls_hostname: Option<String>,
    /// A context to take the status of extents from, rather than `base:allocation`.
    pub x_dirty_bitmap: Option<String>,
    /// How long requests wait for a connection that was lost.
    pub reconnect_delay: Duration,
    /// How long to try to connect at first; zero is one attempt.
    pub open_timeout: Duration,
}

impl NbdOptions {
    /// The export called `export` of `server`, with defaults.
    #[must_use]
    pub fn new(server: Server, export: impl Into<String>) -> Self {
        let export = export.into();
        Self {
            server,
            named: !export.is_empty(),
            export,
            tls: None,
            tls_hostname: None,
            x_dirty_bitmap: None,
            reconnect_delay: Duration::ZERO,
            open_timeout: Duration::ZERO,
        }
    }

    /// What `name` stands for; `None` where its protocol is not NBD.
    ///
    /// # Errors
    /// `InvalidInput` where the rest of the name makes no sense.
    pub fn parse(name: &str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = name.split_once(':') else { return Ok(None) };
        let options = match (scheme, rest.strip_prefix("//")) {
            ("nbd" | "nbds" | "nbd+tcp" | "nbds+tcp" | "nbd+unix" | "nbds+unix", Some(uri)) => {
                parse_uri(scheme, uri)?
            }
            ("nbd", None) => parse_legacy(rest)?,
            ("nbds" | "nbd+tcp" | "nbds+tcp" | "nbd+unix" | "nbds+unix", None) => {
                return Err(Error::invalid("No valid URL specified"));
            }
            _ => return Ok(None),
        };
        if options.export.len() > MAX_STRING {
            return Err(Error::invalid(format!("export name '{}' too long", options.export)));
        }
        Ok(Some(options))
    }

    /// The name by which the export is shown, and stored in images.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut name = String::new();
        // Writing to a string cannot fail.
        let _ = match &self.server {
            Server::Unix { path } if !self.named => {
                write!(name, "nbd+unix://?socket={path}")
            }
            Server::Unix { path } => write!(name, "nbd+unix:///{}?socket={path}", self.export),
            Server::Inet { host, port } => {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => host.clone(),
                };
                match self.named {
                    true => write!(name, "nbd://{host}:{port}/{}", self.export),
                    false => write!(name, "nbd://{host}:{port}"),
                }
            }
        };
        match &self.tls {
            Some(_) => name.replacen("nbd", "nbds", 1),
            None => name,
        }
    }
}

fn parse_port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| Error::invalid(format!("invalid port number '{text}'")))
}

/// `unix:PATH` or `HOST:PORT`, with `:exportname=NAME` behind.
fn parse_legacy(rest: &str) -> Result<NbdOptions> {
    const EXPORT: &str = ":exportname=";
    let (server, export) = match rest.find(EXPORT) {
        Some(at) if at + EXPORT.len() == rest.len() => (&rest[..at], ""),
        Some(at) => (&rest[..at], &rest[at + EXPORT.len()..]),
        None => (rest, ""),
    };
    if server.is_empty() {
        return Err(Error::invalid("NBD server address missing"));
    }
    if let Some(path) = server.strip_prefix("unix:") {
        return Ok(NbdOptions::new(Server::Unix { path: path.to_owned() }, export));
    }
    let wrong = || Error::invalid(format!("error parsing address '{server}'"));
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
        None => server.split_once(':').ok_or_else(wrong)?,
    };
    let port = port.split(',').next().unwrap_or_default();
    Ok(NbdOptions::new(Server::Inet { host: host.to_owned(), port: parse_port(port)? }, export))
}

/// What stands behind `SCHEME://`.
fn parse_uri(scheme: &str, uri: &str) -> Result<NbdOptions> {
    let invalid = || Error::invalid("No valid URL specified");
    let uri = uri.split('#').next().unwrap_or_default();
    let (rest, query) = uri.split_once('?').unwrap_or((uri, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash + 1..]),
        None => (rest, ""),
    };
    let export = decode(path)?;
    let mut socket = None;
    let mut tls_hostname = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "socket" => socket = Some(decode(value)?),
            "tls-hostname" => tls_hostname = Some(decode(value)?),
            _ => {
                return Err(Error::unsupported(format!(
                    "URI parameter '{key}' is not supported, only 'socket' and 'tls-hostname'"
                )));
            }
        }
    }
    let server = match scheme.ends_with("+unix") {
        true => {
            if !authority.is_empty() {
                return Err(invalid());
            }
            Server::Unix { path: socket.ok_or_else(invalid)? }
        }
        false => {
            if socket.is_some() || authority.is_empty() {
                return Err(invalid());
            }
            let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let (host, port) = match authority.strip_prefix('[') {
                Some(rest) => rest.split_once(']').ok_or_else(invalid)?,
                None => match authority.find(':') {
                    Some(colon) => authority.split_at(colon),
                    None => (authority, ""),
                },
            };
            let port = match port.strip_prefix(':') {
                Some("") | None if port.len() <= 1 => DEFAULT_PORT,
                Some(port) => parse_port(port)?,
                None => return Err(invalid()),
            };
            Server::Inet { host: decode(host)?, port }
        }
    };
    let tls = match scheme.starts_with("nbds") {
        true => Some(Arc::new(ClientTls::system()?)),
        false => None,
    };
    Ok(NbdOptions { tls, tls_hostname, ..NbdOptions::new(server, export) })
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String> {
    let invalid = || Error::invalid("No valid URL specified");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let c = char::from(bytes.next().ok_or_else(invalid)?);
            c.to_digit(16).ok_or_else(invalid)
        };
        let (high, low) = (digit()?, digit()?);
        // Two digits of four bits each.
        out.push((high * 16 + low) as u8);
    }
    match String::from_utf8(out) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sectora_core::ErrorKind;

    #[test]
    fn names_and_their_canonical_form() {
        for (name, server, export, canonical) in [
            ("nbd:unix:/s", "/s", "", "nbd+unix://?socket=/s"),
            ("nbd:unix:/s:exportname=a:b", "/s", "a:b", "nbd+unix:///a:b?socket=/s"),
            ("nbd:localhost:1", "localhost:1", "", "nbd://localhost:1"),
            ("nbd:[::1]:1:exportname=x", "::1:1", "x", "nbd://[::1]:1/x"),
            ("nbd://h", "h:10809", "", "nbd://h:10809"),
            ("nbd://h:/", "h:10809", "", "nbd://h:10809"),
            ("nbd://[::1]:5/a%20b", "::1:5", "a b", "nbd://[::1]:5/a b"),
            ("nbd+tcp://u@h:7/x/y", "h:7", "x/y", "nbd://h:7/x/y"),
            ("nbd+unix:///?socket=/s", "/s", "", "nbd+unix://?socket=/s"),
            ("nbd+unix:///e?socket=%2Fs", "/s", "e", "nbd+unix:///e?socket=/s"),
        ] {
            let options = NbdOptions::parse(name).unwrap().unwrap();
            assert_eq!(options.server.to_string(), server, "{name}");
            assert_eq!(options.export, export, "{name}");
            assert_eq!(options.canonical(), canonical, "{name}");
        }
        for name in ["file:a", "a", "/a:b", "http://nbd", "./nbd:unix:x"] {
            assert!(NbdOptions::parse(name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn names_without_sense_are_refused() {
        for (name, text) in [
            ("nbd:", "NBD server address missing"),
            ("nbd:foo", "error parsing address 'foo'"),
            ("nbd:foo:bar", "invalid port number 'bar'"),
            ("nbd:[::1", "error parsing address"),
            ("nbd://", "No valid URL specified"),
            ("nbd://h:99999", "invalid port number"),
            ("nbd+unix:///x", "No valid URL specified"),
            ("nbd+unix://h/x?socket=/s", "No valid URL specified"),
            ("nbd://h?socket=/s", "No valid URL specified"),
            ("nbd://h/%4", "No valid URL specified"),
            ("nbd://h/%zz", "No valid URL specified"),
            ("nbd://h/%ff", "No valid URL specified"),
            ("nbd+unix:x", "No valid URL specified"),
        ] {
            let error = NbdOptions::parse(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
            assert!(error.to_string().contains(text), "{name}: {error}");
        }
    }
}
