//! `chardev-add` and its kin, and the devices they are about.

use super::describe::Description;
use super::{Backend, Chardev, Flushed, TYPES};
use base64ct::{Base64, Encoding};
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult, begin, not_accepted};
use sectora_core::sync::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMES: [&str; 8] = [
    "chardev-send-break",
    "chardev-remove",
    "chardev-change",
    "chardev-add",
    "ringbuf-read",
    "ringbuf-write",
    "query-chardev-backends",
    "query-chardev",
];

/// All character devices of a process, by name.
#[derive(Debug)]
pub(in crate::cli::storage_daemon) struct CharDevices {
    all: Mutex<BTreeMap<String, Arc<Chardev>>>,
    /// Standard input and output belong to one device, and not to a daemon's.
    stdio: Mutex<Option<&'static str>>,
    flushed: Flushed,
}

impl CharDevices {
    /// None yet. `detached` where the process goes to the background.
    pub(in crate::cli::storage_daemon) fn new(detached: bool) -> Self {
        let stdio = detached.then_some("cannot use stdio with -daemonize");
        Self { all: Mutex::default(), stdio: Mutex::new(stdio), flushed: Flushed::new() }
    }

    pub(in crate::cli::storage_daemon) fn flushed(&self) -> &Flushed {
        &self.flushed
    }

    pub(in crate::cli::storage_daemon) fn get(&self, id: &str) -> Option<Arc<Chardev>> {
        self.all.lock().get(id).cloned()
    }

    /// The types of all devices, by name.
    pub(in crate::cli::storage_daemon) fn list(&self) -> Vec<(String, String)> {
        let all = self.all.lock();
        all.values().map(|c| (c.id.clone(), format!("chardev-{}", c.backend().name()))).collect()
    }

    /// Makes a device.
    pub(in crate::cli::storage_daemon) async fn add(
        &self,
        made: Description,
    ) -> QmpResult<Arc<Chardev>> {
        if made.kind == super::describe::Kind::Stdio {
            let refused =
                self.stdio.lock().replace("cannot use stdio by multiple character devices");
            if let Some(text) = refused {
                return Err(QmpError::generic(text));
            }
        }
        if self.all.lock().contains_key(&made.id) {
            // The command has words of its own for this, and has looked before.
            let text = format!(
                "attempt to add duplicate property '{}' to object (type 'container')",
                made.id
            );
            return Err(QmpError::generic(text));
        }
        let chardev = Chardev::new(&made, &self.flushed).await;
        let chardev = Arc::new(chardev.map_err(|failure| QmpError::generic(failure.to_text()))?);
        self.all.lock().insert(made.id, chardev.clone());
        Ok(chardev)
    }

    fn need(&self, id: &str) -> QmpResult<Arc<Chardev>> {
        self.get(id).ok_or_else(|| QmpError::generic(format!("Chardev '{id}' not found")))
    }

    async fn answer(&self, name: &str, arguments: Arguments) -> QmpResult<Value> {
        match name {
            "chardev-add" => self.add_described(arguments).await,
            "chardev-change" => self.change(arguments).await,
            _ => self.at_once(name, arguments),
        }
    }

    async fn add_described(&self, arguments: Arguments) -> QmpResult<Value> {
        let made = Description::of_arguments(arguments)?;
        let id = made.id.clone();
        if self.get(&id).is_some() {
            return Err(QmpError::generic(format!("Chardev with id '{id}' already exists")));
        }
        let failed = |e: QmpError| QmpError::generic(format!("Failed to add chardev '{id}': {e}"));
        // The descriptor of a command's is one that the client would have had to send.
        self.add(made).await.map_err(failed)?;
        Ok(json!({}))
    }

    async fn change(&self, arguments: Arguments) -> QmpResult<Value> {
        let made = Description::of_arguments(arguments)?;
        let id = &made.id;
        let Some(chardev) = self.get(id) else {
            return Err(QmpError::generic(format!("Chardev '{id}' does not exist")));
        };
        if chardev.is_used() {
            let text = "Chardev user does not support chardev hotswap";
            return Err(QmpError::generic(text));
        }
        let backend = Backend::new(&made.kind, &self.flushed).await;
        let backend = backend.map_err(|failure| QmpError::generic(failure.to_text()))?;
        *chardev.backend.lock() = Arc::new(backend);
        Ok(json!({}))
    }

    /// What waits for nothing.
    fn at_once(&self, name: &str, mut arguments: Arguments) -> QmpResult<Value> {
        match name {
            "chardev-remove" => {
                let id = arguments.need_text("id")?;
                arguments.end()?;
                if self.need(&id)?.is_used() {
                    return Err(QmpError::generic(format!("Chardev '{id}' is busy")));
                }
                self.all.lock().remove(&id);
            }
            "chardev-send-break" => {
                let id = arguments.need_text("id")?;
                arguments.end()?;
                // No device has a line on which it could be heard.
                self.need(&id)?;
            }
            "query-chardev-backends" => {
                arguments.end()?;
                return Ok(TYPES.iter().map(|name| json!({ "name": name })).collect());
            }
            "query-chardev" => {
                arguments.end()?;
                let all: Vec<_> = self.all.lock().values().cloned().collect();
                let told = |c: &Arc<Chardev>| {
                    json!({
                        "frontend-open": c.is_used(),
                        "filename": c.file_name(),
                        "label": c.id,
                    })
                };
                return Ok(all.iter().map(told).collect());
            }
            _ => return self.ring(name, arguments),
        }
        Ok(json!({}))
    }

    fn ring(&self, name: &str, mut arguments: Arguments) -> QmpResult<Value> {
        let id = arguments.need_text("device")?;
        let (data, size) = match name {
            "ringbuf-write" => (arguments.need_text("data")?, 0),
            _ => {
                let size = arguments.integer("size")?;
                let missing = || QmpError::generic("Parameter 'size' is missing");
                (String::new(), size.ok_or_else(missing)?)
            }
        };
        let base64 = match arguments.text("format")?.as_deref() {
            None | Some("utf8") => false,
            Some("base64") => true,
            Some(other) => return Err(not_accepted("format", other)),
        };
        arguments.end()?;
        let chardev = self.get(&id);
        let chardev =
            chardev.ok_or_else(|| QmpError::generic(format!("Device '{id}' not found")))?;
        let no_ring = || QmpError::generic(format!("{id} is not a ringbuf device"));
        let ring = chardev.ring().ok_or_else(no_ring)?;
        if name == "ringbuf-write" {
            let bytes = match base64 {
                true => crate::cli::objects::base64(data.as_bytes())?,
                false => data.into_bytes(),
            };
            ring.lock().write(&bytes);
            return Ok(json!({}));
        }
        let size = usize::try_from(size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| QmpError::generic("size must be greater than zero"))?;
        let bytes = ring.lock().read(size);
        Ok(match base64 {
            true => Base64::encode_string(&bytes).into(),
            false => {
                // As far as a C string goes.
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                String::from_utf8_lossy(&bytes[..end]).into_owned().into()
            }
        })
    }
}

impl Commands for CharDevices {
    fn names(&self) -> Vec<&'static str> {
        NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || self.answer(name, Arguments::new(call.arguments)))
    }
}
