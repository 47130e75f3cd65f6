//! `--object`: credentials for encryption and rules for authorization.
//!
//! | type | properties |
//! | --- | --- |
//! | `tls-creds-x509` | `dir`, `endpoint` (client, server), `verify-peer` |
//! | `authz-simple` | `identity` |
//! | `authz-list` | `policy`, `rules.N.match`, `rules.N.policy`, `rules.N.format` |

use crate::cli::failure::Failure;
use crate::export::nbd::Authorize;
use crate::protocol::nbd::tls::{ClientTls, ServerTls};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug)]
struct Credentials {
    dir: PathBuf,
    server: bool,
    verify_peer: bool,
}

/// Objects by their id.
#[derive(Debug, Default)]
pub(super) struct Objects {
    credentials: BTreeMap<String, Credentials>,
    authz: BTreeMap<String, Arc<dyn Authorize>>,
}

/// One identity may.
#[derive(Debug)]
struct Simple(String);

impl Authorize for Simple {
    fn is_allowed(&self, identity: &str) -> bool {
        self.0 == identity
    }
}

/// The first rule that matches decides.
#[derive(Debug)]
struct List {
    rules: Vec<Rule>,
    otherwise: bool,
}

#[derive(Debug, Default)]
struct Rule {
    pattern: String,
    glob: bool,
    allow: bool,
}

impl Authorize for List {
    fn is_allowed(&self, identity: &str) -> bool {
        let matches = |rule: &&Rule| match rule.glob {
            true => glob(rule.pattern.as_bytes(), identity.as_bytes()),
            false => rule.pattern == identity,
        };
        self.rules.iter().find(matches).map_or(self.otherwise, |rule| rule.allow)
    }
}

/// `*` is any text, `?` any byte. Takes time in the product of the lengths at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((from, at)) => {
                    retry = Some((from, at + 1));
                    (p, t) = (from, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

fn fail<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(text))
}

/// Splits at commas; two of them are one that belongs to the text.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let twice = c == ',' && chars.next_if_eq(&',').is_some();
        match (c, twice) {
            (',', false) => parts.push(String::new()),
            _ => {
                if let Some(last) = parts.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    parts
}

fn boolean(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => fail(format!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

fn policy(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "allow" => Ok(true),
        "deny" => Ok(false),
        _ => fail(format!("Parameter '{name}' does not accept value '{value}'")),
    }
}

impl Objects {
    /// Takes in all `--object`.
    pub(super) fn parse(definitions: &[String]) -> Result<Self, Failure> {
        let mut objects = Self::default();
        for definition in definitions {
            objects.add(definition)?;
        }
        Ok(objects)
    }

    fn add(&mut self, definition: &str) -> Result<(), Failure> {
        let mut kind = None;
        let mut id = None;
        let mut properties = BTreeMap::new();
        for (i, part) in split(definition).into_iter().enumerate() {
            match part.split_once('=') {
                None if i == 0 => kind = Some(part),
                None => return fail(format!("Expected '=' after parameter '{part}'")),
                Some(("qom-type", value)) => kind = Some(value.to_owned()),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some((key, value)) => {
                    properties.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        let Some(kind) = kind else { return fail("Parameter 'qom-type' is missing") };
        let Some(id) = id else { return fail("Parameter 'id' is missing") };
        if self.credentials.contains_key(&id) || self.authz.contains_key(&id) {
            return fail(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ));
        }
        match kind.as_str() {
            "tls-creds-x509" => self.add_x509(id, properties),
            "authz-simple" => {
                let Some(identity) = properties.remove("identity") else {
                    return fail("Parameter 'identity' is missing");
                };
                unexpected(&properties)?;
                self.authz.insert(id, Arc::new(Simple(identity)));
                Ok(())
            }
            "authz-list" => self.add_list(id, properties),
            "tls-creds-psk" | "tls-creds-anon" | "authz-list-file" | "authz-pam" | "secret"
            | "secret_keyring" | "iothread" | "throttle-group" | "main-loop" => {
                fail(format!("--object {kind} is not supported"))
            }
            _ => fail(format!("Parameter 'qom-type' does not accept value '{kind}'")),
        }
    }

    fn add_x509(
        &mut self,
        id: String,
        mut properties: BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let server = match properties.remove("endpoint").as_deref() {
            None | Some("client") => false,
            Some("server") => true,
            Some(other) => {
                return fail(format!("Parameter 'endpoint' does not accept value '{other}'"));
            }
        };
        let verify_peer = match properties.remove("verify-peer") {
            Some(value) => boolean("verify-peer", &value)?,
            None => true,
        };
        for ignored in ["priority", "sanity-check"] {
            if properties.contains_key(ignored) {
                return fail(format!("tls-creds-x509: '{ignored}' is not supported"));
            }
        }
        let dir = properties.remove("dir");
        unexpected(&properties)?;
        let Some(dir) = dir else { return fail("Missing 'dir' property value") };
        let credentials = Credentials { dir: dir.into(), server, verify_peer };
        // What is wrong with the files is said here and now.
        match server {
            true => drop(ServerTls::from_dir(&credentials.dir, verify_peer)?),
            false => drop(ClientTls::from_dir(&credentials.dir)?),
        }
        self.credentials.insert(id, credentials);
        Ok(())
    }

    fn add_list(
        &mut self,
        id: String,
        mut properties: BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let otherwise = match properties.remove("policy") {
            Some(value) => policy("policy", &value)?,
            None => false,
        };
        let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
        let keys: Vec<String> = properties.keys().cloned().collect();
        for key in keys {
            let Some((number, field)) =
                key.strip_prefix("rules.").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else { continue };
            let value = properties.remove(&key).unwrap_or_default();
            let rule = rules.entry(number).or_default();
            match field {
                "match" => rule.pattern = value,
                "policy" => rule.allow = policy(&key, &value)?,
                "format" => {
                    rule.glob = match value.as_str() {
                        "exact" => false,
                        "glob" => true,
                        _ => {
                            return fail(format!(
                                "Parameter '{key}' does not accept value '{value}'"
                            ));
                        }
                    }
                }
                _ => return fail(format!("Parameter '{key}' is unexpected")),
            }
        }
        unexpected(&properties)?;
        self.authz.insert(id, Arc::new(List { rules: rules.into_values().collect(), otherwise }));
        Ok(())
    }

    fn credentials(&self, id: &str, server: bool) -> Result<&Credentials, Failure> {
        let end = if server { "server" } else { "client" };
        match self.credentials.get(id) {
            Some(found) if found.server == server => Ok(found),
            Some(_) => fail(format!(
                "Failed to get TLS creds: Expected TLS credentials for a {end} endpoint"
            )),
            None => fail(format!("Failed to get TLS creds: No TLS credentials with id '{id}'")),
        }
    }

    /// The credentials of a server.
    pub(super) fn server_tls(&self, id: &str) -> Result<ServerTls, Failure> {
        let found = self.credentials(id, true)?;
        Ok(ServerTls::from_dir(&found.dir, found.verify_peer)?)
    }

    /// The credentials of a client.
    pub(super) fn client_tls(&self, id: &str) -> Result<ClientTls, Failure> {
        let found = self.credentials(id, false)?;
        Ok(ClientTls::from_dir(&found.dir)?)
    }

    /// The rules called `id`.
    pub(super) fn authz(&self, id: &str) -> Result<Arc<dyn Authorize>, Failure> {
        match self.authz.get(id) {
            Some(found) => Ok(found.clone()),
            None => fail(format!("No authorization object with id '{id}'")),
        }
    }
}

fn unexpected(properties: &BTreeMap<String, String>) -> Result<(), Failure> {
    match properties.keys().next() {
        Some(key) => fail(format!("Parameter '{key}' is unexpected")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_doubled_commas() {
        assert_eq!(split("a,b=c,,d,e"), ["a", "b=c,d", "e"]);
        assert_eq!(split(""), [""]);
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let text = "authz-list,id=a,policy=deny,rules.0.match=CN=bad*,rules.0.policy=deny,\
                    rules.0.format=glob,rules.1.match=CN=b*d?,rules.1.policy=allow,\
                    rules.1.format=glob,rules.2.match=*,rules.2.policy=allow";
        let objects = Objects::parse(&[text.to_owned()]).unwrap();
        let authz = objects.authz("a").unwrap();
        for (identity, allowed) in
            [("CN=bad1", false), ("CN=bold1", true), ("CN=bold", false), ("x", false), ("*", true)]
        {
            assert_eq!(authz.is_allowed(identity), allowed, "{identity}");
        }
    }
}
