//! `BlockdevOptionsNbd`: exports that options describe.

use super::tls::ClientTls;
use super::{DEFAULT_PORT, NbdOptions, Server};
use sectora_core::graph::{ChildOptions, Options};
use sectora_core::nbd::layout::MAX_STRING;
use sectora_core::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

impl NbdOptions {
    /// Takes what `options` say of an export, and leaves what nobody knows. `credentials` are found
    /// by their ids.
    ///
    /// # Errors
    /// `InvalidInput` for what is missing or makes no sense, `Unsupported` for addresses that this
    /// program does not connect to.
    pub fn take(
        options: &mut Options,
        credentials: impl FnOnce(&str) -> Result<ClientTls>,
    ) -> Result<Self> {
        let (path, host) = (options.take_text("path"), options.take_text("host"));
        let port = options.take_text("port");
        if path.is_some() && host.is_some() {
            return Err(Error::invalid("path and host may not be used at the same time"));
        }
        let legacy = path.is_some() || host.is_some() || port.is_some();
        let server = match options.take_child("server")? {
            ChildOptions::Inline(_) if legacy => {
                return Err(Error::invalid(
                    "Cannot use 'server' and path/host/port at the same time",
                ));
            }
            ChildOptions::Inline(server) => take_server(server)?,
            _ => match (path, host) {
                (Some(path), _) => Server::Unix { path },
                (None, Some(host)) => {
                    let port = port.unwrap_or_else(|| DEFAULT_PORT.to_string());
                    inet(host, &port)?
                }
                (None, None) => return Err(Error::invalid("NBD server address missing")),
            },
        };
        let export = options.take_text("export");
        let named = export.is_some();
        let export = export.unwrap_or_default();
        if export.len() > MAX_STRING {
            return Err(Error::invalid("export name too long to send to server"));
        }
        let x_dirty_bitmap = options.take_text("x-dirty-bitmap");
        if x_dirty_bitmap.as_ref().is_some_and(|name| name.len() > MAX_STRING) {
            return Err(Error::invalid("x-dirty-bitmap query too long to send to server"));
        }
        let tls = options.take_text("tls-creds").as_deref().map(credentials).transpose()?;
        Ok(Self {
            named,
            tls: tls.map(Arc::new),
            tls_hostname: options.take_text("tls-hostname"),
            x_dirty_bitmap,
            reconnect_delay: seconds(options, "reconnect-delay")?,
            open_timeout: seconds(options, "open-timeout")?,
            ..Self::new(server, export)
        })
    }
}

fn seconds(options: &mut Options, name: &str) -> Result<Duration> {
    let number = options.take_number(name)?.unwrap_or(0);
    let number = u32::try_from(number)
        .map_err(|_| Error::invalid(format!("Parameter '{name}' expects a number")))?;
    Ok(Duration::from_secs(number.into()))
}

fn inet(host: String, port: &str) -> Result<Server> {
    let port = port.parse().map_err(|_| {
        Error::invalid(format!(
            "address resolution failed for {host}:{port}: Servname not supported for ai_socktype"
        ))
    })?;
    Ok(Server::Inet { host, port })
}

/// `SocketAddress`.
fn take_server(mut options: Options) -> Result<Server> {
    let need = |options: &mut Options, name: &str| {
        let found = options.take_text(name);
        found.ok_or_else(|| Error::invalid(format!("Parameter '{name}' is missing")))
    };
    let refuse = |name: &str| Error::unsupported(format!("'server.{name}' is not supported"));
    let kind = need(&mut options, "type")?;
    let server = match kind.as_str() {
        "unix" => {
            let path = need(&mut options, "path")?;
            if options.take_flag("abstract")? == Some(true) {
                return Err(refuse("abstract"));
            }
            options.take_flag("tight")?;
            Server::Unix { path }
        }
        "inet" => {
            let (host, port) = (need(&mut options, "host")?, need(&mut options, "port")?);
            // A range is for servers, which choose of it.
            options.take_number("to")?;
            for name in ["numeric", "ipv4", "ipv6", "keep-alive", "mptcp"] {
                if options.take_flag(name)? == Some(true) {
                    return Err(refuse(name));
                }
            }
            inet(host, &port)?
        }
        "fd" | "vsock" => return Err(refuse(&format!("type={kind}"))),
        _ => {
            return Err(Error::invalid(format!("Parameter 'type' does not accept value '{kind}'")));
        }
    };
    match options.first() {
        Some(name) => Err(Error::invalid(format!("Parameter '{name}' is unexpected"))),
        None => Ok(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<(NbdOptions, Options)> {
        let mut options = Options::parse_list(text).options;
        let found = NbdOptions::take(&mut options, |id| {
            Err(Error::invalid(format!("No TLS credentials with id '{id}'")))
        })?;
        Ok((found, options))
    }

    #[test]
    fn an_address_in_every_shape() {
        for (text, canonical) in [
            ("server.type=unix,server.path=/s,export=e", "nbd+unix:///e?socket=/s"),
            ("server.type=inet,server.host=h,server.port=7,export=e", "nbd://h:7/e"),
            ("path=/s", "nbd+unix://?socket=/s"),
            ("path=/s,export=", "nbd+unix:///?socket=/s"),
            ("host=h", "nbd://h:10809"),
            ("host=::1,port=5,export=x", "nbd://[::1]:5/x"),
        ] {
            let (found, left) = take(text).unwrap();
            assert_eq!(found.canonical(), canonical, "{text}");
            assert!(left.is_empty(), "{text}");
        }
        let (found, left) =
            take("path=/s,x-dirty-bitmap=b,reconnect-delay=3,open-timeout=4,foo=1").unwrap();
        assert_eq!(found.x_dirty_bitmap.as_deref(), Some("b"));
        assert_eq!((found.reconnect_delay.as_secs(), found.open_timeout.as_secs()), (3, 4));
        assert_eq!(left.first(), Some("foo"));
    }

    #[test]
    fn addresses_without_sense_are_refused() {
        for (text, error) in [
            ("export=e", "NBD server address missing"),
            ("port=1", "NBD server address missing"),
            ("server=foo", "NBD server address missing"),
            ("path=/s,host=h", "path and host may not be used at the same time"),
            (
                "path=/s,server.type=unix,server.path=/s",
                "Cannot use 'server' and path/host/port at the same time",
            ),
            ("server.path=/s", "Parameter 'type' is missing"),
            ("server.type=unix", "Parameter 'path' is missing"),
            ("server.type=inet,server.host=h", "Parameter 'port' is missing"),
            ("server.type=foo", "Parameter 'type' does not accept value 'foo'"),
            ("server.type=unix,server.path=/s,server.foo=1", "Parameter 'foo' is unexpected"),
            ("server.type=vsock,server.cid=1", "'server.type=vsock' is not supported"),
            ("path=/s,open-timeout=a", "Parameter 'open-timeout' expects a number"),
            ("path=/s,tls-creds=t", "No TLS credentials with id 't'"),
        ] {
            assert_eq!(take(text).unwrap_err().what(), error, "{text}");
        }
    }
}
