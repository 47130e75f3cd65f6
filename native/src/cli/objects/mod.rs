//! `--object`: what options name by their IDs.
//!
//! | type | properties |
//! | --- | --- |
//! | `secret` | `data` or `file`, `format`, `keyid`, `iv` |
//! | `secret_keyring` | `serial`, `format`, `keyid`, `iv` |
//! | `tls-creds-x509` | `dir`, `endpoint` (client, server), `verify-peer` |
//! | `authz-simple` | `identity` |
//! | `throttle-group` | `limits.*` |
//! | `iothread`, `main-loop` | numbers (a daemon's; they are kept, and change nothing) |
//! | `authz-list` | `policy`, `rules.N.match`, `rules.N.policy`, `rules.N.format` |

mod authz;
mod keyring;
mod numbers;

pub(super) use numbers::Numbers;

use super::failure::Failure;
use super::keyval;
use crate::export::nbd::Authorize;
use crate::protocol::nbd::tls::{ClientTls, ServerTls};
use crate::storage::OsError;
use base64ct::{Base64, Encoding};
use sectora_core::crypto::{Secret, decrypt_secret};
use sectora_core::filter::{ThrottleGroup, ThrottleLimits};
use sectora_core::graph::Options;
use sectora_core::image::{Secrets, no_secret};
use sectora_core::io::Runtime;
use sectora_core::qapi;
use sectora_core::qapi::schema::Qapi;
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The objects of one command line, or of a daemon, where they come and go. Clones are the same
/// registry.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    made: Arc<Mutex<HashMap<String, Made>>>,
    /// Types that only a daemon has are known; its runtime.
    daemon: Option<Daemon>,
}

/// What objects of a daemon need.
#[derive(Clone)]
struct Daemon(Arc<dyn Runtime>);

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Daemon")
    }
}

/// `tls-creds-x509`: certificates in a folder.
#[derive(Clone, Debug)]
struct Credentials {
    dir: PathBuf,
    server: bool,
    verify_peer: bool,
}

/// How a secret is written (`SecretCommonProperties`).
struct Coding {
    is_base64: bool,
    /// The secret that it is encrypted with.
    key: Option<String>,
    iv: Option<String>,
}

impl Coding {
    fn take(definition: &mut Definition) -> Result<Self, Failure> {
        let is_base64 = match definition.take("format").as_deref() {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => return Err(not_accepted("format", other)),
        };
        Ok(Self { is_base64, key: definition.take("keyid"), iv: definition.take("iv") })
    }
}

impl Secrets for Objects {
    fn secret(&self, id: &str) -> Result<Secret> {
        match self.made.lock().get(id) {
            Some(Made::Secret(_, secret)) => Ok(secret.clone()),
            _ => Err(no_secret(id)),
        }
    }
}

impl Objects {
    /// Makes the objects of several `--object`, in their order: one may use those before it.
    pub(super) fn new(definitions: &[String]) -> Result<Self, Failure> {
        let objects = Self::default();
        definitions.iter().try_for_each(|definition| objects.define(definition))?;
        Ok(objects)
    }

    /// Makes the object of one more `--object`.
    pub(super) fn define(&self, definition: &str) -> Result<(), Failure> {
        self.add(Definition::parse(definition)?)
    }

    /// The objects of a daemon: none yet.
    pub(super) fn of_daemon(runtime: Arc<dyn Runtime>) -> Self {
        Self { daemon: Some(Daemon(runtime)), ..Self::default() }
    }

    /// Makes one more object of its properties, `qom-type` and `id` among them.
    pub(super) fn add_described(&self, properties: &serde_json::Value) -> Result<(), Failure> {
        let kind = properties.get("qom-type").and_then(serde_json::Value::as_str);
        if !matches!(kind, Some("iothread" | "main-loop" | "throttle-group")) {
            no_numbers(properties)?;
        }
        self.add(Definition(Options::from_json(properties)))
    }

    /// Forgets the object `id`.
    ///
    /// # Errors
    /// Where there is none, or a node is in the group that it is.
    pub(super) fn remove(&self, id: &str) -> Result<(), Failure> {
        let mut made = self.made.lock();
        match made.get(id) {
            None => return Err(Failure::new(format!("object '{id}' not found"))),
            Some(Made::Throttle(group)) if Arc::strong_count(group) > 1 => {
                return Err(Failure::new(format!("object '{id}' is in use, can not be deleted")));
            }
            Some(_) => {}
        }
        made.remove(id);
        Ok(())
    }

    /// All objects, by name: their types.
    pub(super) fn list(&self) -> Vec<(String, &'static str)> {
        let made = self.made.lock();
        let mut all: Vec<_> = made.iter().map(|(id, made)| (id.clone(), made.kind())).collect();
        all.sort();
        all
    }

    /// The group of throttles called `id`.
    pub(super) fn throttle_group(&self, id: &str) -> Option<Arc<ThrottleGroup>> {
        match self.made.lock().get(id) {
            Some(Made::Throttle(group)) => Some(group.clone()),
            _ => None,
        }
    }

    /// The numbers that make up the object `id`, where it is made of numbers.
    pub(super) fn numbers(&self, id: &str) -> Option<Numbers> {
        match self.made.lock().get(id) {
            Some(Made::Numbers(numbers)) => Some(numbers.clone()),
            _ => None,
        }
    }

    /// Changes one of them.
    pub(super) fn set_number(&self, id: &str, name: &str, value: i64) -> Result<(), Failure> {
        match self.made.lock().get_mut(id) {
            Some(Made::Numbers(numbers)) => numbers.set(name, value),
            _ => Err(Failure::new(format!("object '{id}' not found"))),
        }
    }

    fn add(&self, mut definition: Definition) -> Result<(), Failure> {
        let kind = definition.need("qom-type")?;
        match kind.as_str() {
            "secret" | "secret_keyring" | "tls-creds-x509" | "authz-simple" | "authz-list" => {}
            "throttle-group" => {}
            "iothread" | "main-loop" if self.daemon.is_some() => {}
            "tls-creds-psk" | "tls-creds-anon" | "authz-pam" | "main-loop" => {
                return Err(Failure::unsupported(&format!("--object {kind}")));
            }
            // Known to the schema, and nothing that a tool has.
            "authz-listfile" | "iothread" | "tls-cipher-suites" | "can-bus" | "rng-random" => {
                return Err(Failure::new(format!("invalid object type: {kind}")));
            }
            _ => return Err(not_accepted("qom-type", &kind)),
        }
        let id = definition.need("id")?;
        let made = match kind.as_str() {
            "secret" => Made::Secret("secret", self.make_secret(&mut definition, &id)?),
            "secret_keyring" => {
                Made::Secret("secret_keyring", self.key_of_kernel(&mut definition, &id)?)
            }
            "tls-creds-x509" => Made::Credentials(Credentials::new(&mut definition, &id)?),
            "authz-simple" => Made::Authz("authz-simple", authz::simple(&mut definition)?),
            "iothread" => Made::Numbers(Numbers::iothread(&mut definition)?),
            "main-loop" => Made::Numbers(Numbers::main_loop(&mut definition)?),
            "throttle-group" => self.make_group(&mut definition)?,
            _ => Made::Authz("authz-list", authz::list(&mut definition)?),
        };
        check_id(&id)?;
        self.put(id, made)
    }

    fn put(&self, id: String, made: Made) -> Result<(), Failure> {
        let mut all = self.made.lock();
        if all.contains_key(&id) {
            return Err(Failure::new(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        if made.kind() == "main-loop" && all.values().any(|other| other.kind() == "main-loop") {
            return Err(Failure::new("only one main-loop instance allowed"));
        }
        all.insert(id, made);
        Ok(())
    }

    fn make_group(&self, definition: &mut Definition) -> Result<Made, Failure> {
        let limits = definition.take_limits()?;
        definition.end()?;
        ThrottleGroup::check(&limits)?;
        Ok(match &self.daemon {
            Some(Daemon(runtime)) => Made::Throttle(ThrottleGroup::new(&limits, runtime.clone())?),
            None => Made::Limits(Box::new(limits)),
        })
    }

    /// Begins to count time for the groups of throttles of a command that has its runtime now.
    pub(super) fn begin(&self, runtime: &Arc<dyn Runtime>) {
        for made in self.made.lock().values_mut() {
            if let Made::Limits(limits) = made
                && let Ok(group) = ThrottleGroup::new(limits, runtime.clone())
            {
                *made = Made::Throttle(group);
            }
        }
    }

    fn make_secret(&self, definition: &mut Definition, id: &str) -> Result<Secret, Failure> {
        let (data, file) = (definition.take("data"), definition.take("file"));
        let coding = Coding::take(definition)?;
        definition.end()?;
        check_id(id)?;
        let bytes = match (data, file) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("'file' and 'data' are mutually exclusive"));
            }
            (None, None) => return Err(Failure::new("Either 'file' or 'data' must be provided")),
            (Some(data), None) => data.into_bytes(),
            (None, Some(file)) => std::fs::read(&file).map_err(|e| {
                let why = format!("Failed to open file “{file}”: {}", OsError::from(e));
                Failure::new(format!("Unable to read {file}: {why}"))
            })?,
        };
        self.decoded(bytes, coding)
    }

    /// `secret_keyring`.
    fn key_of_kernel(&self, definition: &mut Definition, id: &str) -> Result<Secret, Failure> {
        let serial = keyring::serial(&definition.need("serial")?)?;
        let coding = Coding::take(definition)?;
        definition.end()?;
        check_id(id)?;
        self.decoded(keyring::read(serial)?, coding)
    }

    /// The secret that `bytes` are in this coding.
    fn decoded(&self, bytes: Vec<u8>, coding: Coding) -> Result<Secret, Failure> {
        let Coding { is_base64, key, iv } = coding;
        match key {
            None if is_base64 => Ok(Secret::new(base64(&bytes)?)),
            None => Ok(Secret::new(bytes)),
            Some(key) => {
                let key = self.secret(&key)?;
                let iv = iv.ok_or_else(|| Failure::new("IV is required to decrypt secret"))?;
                let data = if is_base64 { base64(&bytes)? } else { bytes };
                Ok(decrypt_secret(&key, &base64(iv.as_bytes())?, &data)?)
            }
        }
    }

    fn credentials(&self, id: &str, server: bool) -> Result<Credentials> {
        let end = if server { "server" } else { "client" };
        match self.made.lock().get(id) {
            Some(Made::Credentials(found)) if found.server == server => Ok(found.clone()),
            Some(Made::Credentials(_)) => {
                Err(Error::invalid(format!("Expected TLS credentials for a {end} endpoint")))
            }
            Some(_) => Err(Error::invalid(format!("Object with id '{id}' is not TLS credentials"))),
            None => Err(Error::invalid(format!("No TLS credentials with id '{id}'"))),
        }
    }

    /// The credentials of a server.
    pub(super) fn server_tls(&self, id: &str) -> Result<ServerTls> {
        let found = self.credentials(id, true)?;
        ServerTls::from_dir(&found.dir, found.verify_peer)
    }

    /// The credentials of a client.
    pub(super) fn client_tls(&self, id: &str) -> Result<ClientTls> {
        ClientTls::from_dir(&self.credentials(id, false)?.dir)
    }

    /// The rules called `id`.
    pub(super) fn authz(&self, id: &str) -> Result<Arc<dyn Authorize>, Failure> {
        match self.made.lock().get(id) {
            Some(Made::Authz(_, rules)) => Ok(rules.clone()),
            _ => Err(Failure::new(format!("No authorization object with id '{id}'"))),
        }
    }
}

/// An object.
#[derive(Clone, Debug)]
enum Made {
    Secret(&'static str, Secret),
    Credentials(Credentials),
    Authz(&'static str, Arc<dyn Authorize>),
    Numbers(Numbers),
    /// A group of throttles that is not in use yet.
    Limits(Box<ThrottleLimits>),
    Throttle(Arc<ThrottleGroup>),
}

impl Made {
    /// The name of its type.
    fn kind(&self) -> &'static str {
        match self {
            Self::Secret(kind, _) | Self::Authz(kind, _) => kind,
            Self::Credentials(_) => "tls-creds-x509",
            Self::Numbers(numbers) => numbers.kind,
            Self::Limits(_) | Self::Throttle(_) => "throttle-group",
        }
    }
}

impl Credentials {
    fn new(definition: &mut Definition, id: &str) -> Result<Self, Failure> {
        let server = match definition.take("endpoint").as_deref() {
            None | Some("client") => false,
            Some("server") => true,
            Some(other) => return Err(not_accepted("endpoint", other)),
        };
        let verify_peer = definition.take_flag("verify-peer")?.unwrap_or(true);
        // The library looks at what it is given in any case.
        definition.take_flag("sanity-check")?;
        for refused in ["priority", "passwordid"] {
            if definition.take(refused).is_some() {
                return Err(Failure::unsupported(&format!("tls-creds-x509: '{refused}'")));
            }
        }
        let dir = definition.take("dir");
        definition.end()?;
        check_id(id)?;
        let dir = dir.ok_or_else(|| Failure::new("Missing 'dir' property value"))?;
        let found = Self { dir: dir.into(), server, verify_peer };
        // What is wrong with the files is said here and now.
        match server {
            true => drop(ServerTls::from_dir(&found.dir, verify_peer)?),
            false => drop(ClientTls::from_dir(&found.dir)?),
        }
        Ok(found)
    }
}

fn not_accepted(name: &str, value: &str) -> Failure {
    Failure::new(format!("Parameter '{name}' does not accept value '{value}'"))
}

/// Refuses numbers: the properties of most objects are texts and flags.
fn no_numbers(properties: &serde_json::Value) -> Result<(), Failure> {
    match properties.as_object().into_iter().flatten().find(|(_, value)| value.is_number()) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Failure::new(format!("Invalid parameter type for '{name}', expected: string")))
        }
    }
}

/// Refuses a name that none can have, which is found when the properties have been read.
pub(super) fn check_id(id: &str) -> Result<(), Failure> {
    match qapi::is_id(id) {
        true => Ok(()),
        false => Err(Failure::new(
            "Parameter 'id' expects an identifier\n\
             Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
        )),
    }
}

/// What base64 stands for; line breaks in it mean nothing.
pub(super) fn base64(text: &[u8]) -> Result<Vec<u8>, Error> {
    let text: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let text = std::str::from_utf8(&text).ok();
    text.and_then(|text| Base64::decode_vec(text).ok())
        .ok_or_else(|| Error::invalid("Base64 data contains invalid characters"))
}

/// The properties of one object: `TYPE,name=value,…`, or a JSON object.
struct Definition(Options);

impl Definition {
    fn parse(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self(Options::default()));
        }
        if text.starts_with('{') {
            let json: serde_json::Value = serde_json::from_str(text)
                .map_err(|e| Failure::new(format!("JSON parse error in --object: {e}")))?;
            no_numbers(&json)?;
            return Ok(Self(Options::from_json(&json)));
        }
        let members = keyval::read(text, Some("qom-type"))?.members;
        Ok(Self(Options::from_json(&members.into())))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.take_text(name)
    }

    fn take_flag(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        Ok(self.0.take_flag(name)?)
    }

    /// The limits of a group of throttles, by their names in `limits` or by those of old.
    fn take_limits(&mut self) -> Result<ThrottleLimits, Failure> {
        let mut members = serde_json::Map::new();
        for member in ThrottleLimits::schema().members() {
            let old = self.take_integer(&format!("x-{}", member.name))?;
            if old.is_some_and(|number| number < 0) {
                return Err(Failure::new("Property values cannot be negative"));
            }
            if let Some(number) = self.take_integer(&format!("limits.{}", member.name))?.or(old) {
                members.insert(member.name.into(), number.into());
            }
        }
        qapi::parse(members).map_err(|e: qapi::Invalid| Failure::new(e.desc))
    }

    /// A number: decimal, or as C writes others.
    fn take_integer(&mut self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let wrong = || Failure::new(format!("Parameter '{name}' expects integer"));
        integer(&text).map(Some).ok_or_else(wrong)
    }

    fn need(&mut self, name: &str) -> Result<String, Failure> {
        self.take(name).ok_or_else(|| Failure::new(format!("Parameter '{name}' is missing")))
    }

    /// Refuses what nobody took.
    fn end(&self) -> Result<(), Failure> {
        match self.0.first() {
            Some(name) => Err(Failure::new(format!("Parameter '{name}' is unexpected"))),
            None => Ok(()),
        }
    }
}

/// The number that `text` is: decimal, hexadecimal after `0x`, octal after `0`.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = &text[..text.len() - digits.len()];
    let (digits, base) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => (hexadecimal, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    // No second sign.
    let is_number = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    is_number.then(|| i64::from_str_radix(&format!("{sign}{digits}"), base).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(definitions: &[&str]) -> Result<Objects, Failure> {
        let definitions: Vec<String> = definitions.iter().map(|d| (*d).to_owned()).collect();
        Objects::new(&definitions)
    }

    #[test]
    fn secrets_come_as_text_base64_files_json_and_encrypted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a,b");
        std::fs::write(&path, b"from\nfile\n").expect("a file");
        let file =
            format!("secret,id=f,file={}", path.display().to_string().replace("a,b", "a,,b"));
        let key = "secret,id=k,format=base64,data=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let objects = make(&[
            "secret,id=a,data=x,,y",
            "qom-type=secret,id=b,data=YWJj,format=base64",
            r#"{"qom-type":"secret","id":"c","data":"json"}"#,
            &file,
            key,
            // Made with `openssl enc -aes-256-cbc`.
            "secret,id=e,keyid=k,format=base64,iv=MDEyMzQ1Njc4OWFiY2RlZg==,\
             data=ACuLZI6JjFP2zoFgVcP0LA==",
        ])
        .expect("secrets");
        for (id, bytes) in [
            ("a", &b"x,y"[..]),
            ("b", b"abc"),
            ("c", b"json"),
            ("f", b"from\nfile\n"),
            ("e", b"hello pass"),
        ] {
            assert_eq!(objects.secret(id).expect(id).as_bytes(), bytes, "{id}");
        }
        assert!(objects.secret("z").is_err());
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for definition in [
            "secret,data=a",
            "secret,id=s",
            "secret,id=s,data=a,file=b",
            "secret,id=1s,data=a",
            "secret,id=s,data=a,foo=b",
            "secret,id=s,data=a,format=hex",
            "secret,id=s,data=@,format=base64",
            "secret,id=s,data=a,keyid=k",
            "secret,id=s,data",
            "id=s,data=a",
            "foo,id=s",
            "tls-creds-x509,id=s",
            "tls-creds-x509,id=s,dir=/nonexistent",
            "authz-simple,id=s",
            "authz-list,id=s,rules.0.match=a",
            "iothread,id=s",
            "{",
            r#"{"qom-type":"secret","id":"s","data":1}"#,
        ] {
            assert!(make(&[definition]).is_err(), "{definition}");
        }
        assert!(make(&["secret,id=s,data=a", "secret,id=s,data=b"]).is_err());
    }
}
