//! `object-add` and `object-del`: what options of nodes name by an ID.
//!
//! | type | properties |
//! | --- | --- |
//! | `secret` | `data`, `format`, `keyid`, `iv` |
//! | `throttle-group` | `limits` |
//!
//! There are no files of the host, no sockets and no threads to be told of here, so the other types
//! of the schema are refused.

use base64ct::{Base64, Encoding};
use sectora_core::crypto::{Secret, decrypt_secret};
use sectora_core::filter::ThrottleGroup;
use sectora_core::image::no_secret;
use sectora_core::io::{BoxFuture, Runtime};
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult, begin};
use sectora_core::qapi::schema::Qapi;
use sectora_core::qapi::{
    ObjectOptions, QCryptoSecretFormat, SecretProperties, ThrottleGroupProperties, is_id, parse,
    validate,
};
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The objects of a monitor.
pub(super) struct Objects {
    runtime: Arc<dyn Runtime>,
    made: Mutex<HashMap<String, Made>>,
}

#[derive(Clone)]
enum Made {
    Secret(Secret),
    Throttle(Arc<ThrottleGroup>),
}

impl Objects {
    /// None yet.
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, made: Mutex::default() }
    }

    /// The secret called `id`.
    pub(super) fn secret(&self, id: &str) -> Result<Secret> {
        match self.made.lock().get(id) {
            Some(Made::Secret(secret)) => Ok(secret.clone()),
            _ => Err(no_secret(id)),
        }
    }

    /// The group of throttles called `id`.
    pub(super) fn throttle_group(&self, id: &str) -> Option<Arc<ThrottleGroup>> {
        match self.made.lock().get(id) {
            Some(Made::Throttle(group)) => Some(group.clone()),
            _ => None,
        }
    }

    fn add(&self, mut arguments: Map<String, Value>) -> QmpResult<()> {
        validate(ObjectOptions::schema(), &mut arguments)?;
        let mut given = Arguments::new(arguments.clone());
        let (kind, id) = (given.need_text("qom-type")?, given.need_text("id")?);
        let properties = |name: &str| !matches!(name, "qom-type" | "id");
        let own = arguments.into_iter().filter(|(name, _)| properties(name)).collect();
        let made = match kind.as_str() {
            "secret" => Made::Secret(self.make_secret(parse(own)?)?),
            "throttle-group" => Made::Throttle(self.make_group(own)?),
            _ => {
                let what = format!("objects of type '{kind}' are not there in WebAssembly");
                return Err(QmpError::generic(what));
            }
        };
        if !is_id(&id) {
            return Err(QmpError::generic("Parameter 'id' expects an identifier"));
        }
        let mut all = self.made.lock();
        if all.contains_key(&id) {
            return Err(QmpError::generic(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        all.insert(id, made);
        Ok(())
    }

    fn make_secret(&self, properties: SecretProperties) -> QmpResult<Secret> {
        let SecretProperties { base, data, file } = properties;
        let data = match (data, file) {
            (Some(data), None) => data,
            (None, None) => {
                return Err(QmpError::generic("Either 'file' or 'data' must be provided"));
            }
            (_, Some(_)) => {
                let what = "a secret cannot be read from a file here: give it as 'data'";
                return Err(QmpError::generic(what));
            }
        };
        let is_base64 = base.format == Some(QCryptoSecretFormat::Base64);
        let bytes = if is_base64 { base64(&data)? } else { data.into_bytes() };
        let Some(key) = base.keyid else { return Ok(Secret::new(bytes)) };
        let key = self.secret(&key)?;
        let iv = base.iv.ok_or_else(|| QmpError::generic("IV is required to decrypt secret"))?;
        Ok(decrypt_secret(&key, &base64(&iv)?, &bytes)?)
    }

    fn make_group(&self, mut own: Map<String, Value>) -> QmpResult<Arc<ThrottleGroup>> {
        // The older names stand for members of `limits`.
        let old: Vec<String> = own.keys().filter(|name| name.starts_with("x-")).cloned().collect();
        for name in old {
            let value = own.remove(&name).unwrap_or_default();
            let limits = own.entry("limits").or_insert_with(|| json!({}));
            let member = name.trim_start_matches("x-");
            if let Some(limits) = limits.as_object_mut().filter(|l| !l.contains_key(member)) {
                limits.insert(member.to_owned(), value);
            }
        }
        let properties: ThrottleGroupProperties = parse(own)?;
        let limits = properties.limits.unwrap_or_default();
        Ok(ThrottleGroup::new(&limits, self.runtime.clone())?)
    }

    fn answer(&self, name: &str, call: Call) -> QmpResult<Value> {
        if name == "object-add" {
            self.add(call.arguments)?;
            return Ok(json!({}));
        }
        let mut arguments = Arguments::new(call.arguments);
        let id = arguments.need_text("id")?;
        arguments.end()?;
        // Whoever uses it keeps it.
        match self.made.lock().remove(&id) {
            Some(_) => Ok(json!({})),
            None => Err(QmpError::generic(format!("object '{id}' not found"))),
        }
    }
}

/// What base64 stands for; line breaks in it mean nothing.
fn base64(text: &str) -> Result<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let decoded = Base64::decode_vec(&text);
    decoded.map_err(|_| Error::invalid("Base64 data contains invalid characters"))
}

const NAMES: [&str; 2] = ["object-add", "object-del"];

impl Commands for Objects {
    fn names(&self) -> Vec<&'static str> {
        NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || async move { self.answer(name, call) })
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}
