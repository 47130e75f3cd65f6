//! Images that other images name by options: `json:` names of backing files.
//!
//! What an image names is opened through the [`OpenPolicy`](crate::io::OpenPolicy), by options as by
//! name. A file name in options is not relative to the image that holds them, so the policy is asked
//! for it with `file:` in front.

use super::open::{Inherited, Opener, Protocols};
use super::options::{OptionValue, Options};
use crate::format::{ByOptions, Described, Env, Layer};
use crate::io::{BoxFuture, Opened, Reference, ReferenceKind, has_protocol};
use crate::{Error, Result};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

/// For [`OpenOptions::by_options`](crate::format::OpenOptions::by_options): backing files that images
/// name by options are opened as nodes are, through the policy.
#[must_use]
pub fn by_options() -> ByOptions {
    ByOptions(|env, described| Box::pin(open_described(env, described)))
}

/// Opens a backing file by the options that an image has for it.
pub(crate) async fn open_described(env: &Env, described: Described<'_>) -> Result<Arc<Layer>> {
    let Described { text, referrer, format, options: base, chain } = described;
    let mut options = Options::parse_json(text)?;
    if let Some(format) = format {
        options.set("driver", OptionValue::Text(format.to_owned()));
    }
    let access = base.access;
    let how = Inherited { access, direct: false, no_flush: false, force_share: false };
    let protocols = ByPolicy { env, referrer };
    Opener { env, protocols: &protocols, chain }.open(options, base, how).await
}

/// The protocols whose names a policy can be asked for.
struct ByPolicy<'a> {
    env: &'a Env,
    referrer: &'a str,
}

/// Drivers that open a path.
const FILES: [&str; 3] = ["file", "host_device", "host_cdrom"];

impl Protocols for ByPolicy<'_> {
    fn has_driver(&self, driver: &str) -> bool {
        FILES.contains(&driver) || driver == "nbd"
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let path = filename.strip_prefix("file:").unwrap_or(filename);
        if path == filename && has_protocol(filename) {
            return Err(Error::unsupported(format!(
                "'{filename}' within the options of a backing file is not supported; describe it \
                 by options too"
            )));
        }
        let mut options = Options::default();
        options.set_default("driver", "file");
        options.set_default("filename", path);
        Ok(options)
    }

    fn open<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            let (name, shown) = match driver {
                "nbd" => {
                    let address = nbd_address(options)?;
                    (address.clone(), address)
                }
                _ => {
                    let path = options.take_text("filename").ok_or_else(|| {
                        Error::invalid("The 'file' block driver requires a file name")
                    })?;
                    // How the file is read is up to the host.
                    for ignored in ["aio", "aio-max-batch", "drop-cache", "locking"] {
                        options.take_text(ignored);
                    }
                    (format!("{driver}:{path}"), path)
                }
            };
            if let Some(left) = options.first() {
                // Said before anything is opened.
                return Err(Error::invalid(format!(
                    "Block protocol '{driver}' doesn't support the option '{left}'"
                )));
            }
            let reference = Reference {
                kind: ReferenceKind::Backing,
                name: &name,
                referrer: self.referrer,
                access: how.access,
            };
            let found = self.env.policy.open(reference).await?;
            Ok(Opened { device: found.device, filename: shown })
        })
    }
}

/// The address of an NBD export that options describe.
fn nbd_address(options: &mut Options) -> Result<String> {
    let export = options.take_text("export").unwrap_or_default();
    let unix = options.take_text("server.path").or_else(|| options.take_text("path"));
    let host = options.take_text("server.host").or_else(|| options.take_text("host"));
    let port = options.take_text("server.port").or_else(|| options.take_text("port"));
    options.take_text("server.type");
    match (unix, host) {
        (Some(path), None) => {
            Ok(format!("nbd+unix:///{}?socket={}", encoded(&export), encoded(&path)))
        }
        (None, Some(host)) => {
            let port = port.unwrap_or_else(|| "10809".to_owned());
            let host = match host.contains(':') {
                true => format!("[{host}]"),
                false => encoded(&host),
            };
            Ok(format!("nbd://{host}:{}/{}", encoded(&port), encoded(&export)))
        }
        (Some(_), Some(_)) => Err(Error::invalid("path and host may not be used at the same time")),
        (None, None) => Err(Error::invalid("NBD server address missing")),
    }
}

/// `text` as a part of an address: what could end it is written as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
