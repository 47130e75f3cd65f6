//! `--object`: secrets that options name by their IDs.

use super::failure::Failure;
use crate::storage::OsError;
use base64ct::{Base64, Encoding};
use sectora_core::crypto::{Secret, decrypt_secret};
use sectora_core::image::{Secrets, no_secret};
use sectora_core::{Error, Result};
use std::collections::HashMap;

/// The objects of one command line.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    secrets: HashMap<String, Secret>,
}

impl Secrets for Objects {
    fn secret(&self, id: &str) -> Result<Secret> {
        self.secrets.get(id).cloned().ok_or_else(|| no_secret(id))
    }
}

impl Objects {
    /// Makes the objects of several `--object`, in their order: one may use those before it.
    pub(super) fn new(definitions: &[String]) -> Result<Self, Failure> {
        let mut objects = Self::default();
        for definition in definitions {
            objects.add(&Definition::parse(definition)?)?;
        }
        Ok(objects)
    }

    fn add(&mut self, definition: &Definition) -> Result<(), Failure> {
        let kind = definition.need("qom-type")?;
        match kind {
            "secret" => {}
            "secret_keyring" | "tls-creds-x509" | "tls-creds-psk" | "tls-creds-anon"
            | "tls-cipher-suites" | "authz-simple" | "authz-list" | "authz-listfile"
            | "authz-pam" | "iothread" | "throttle-group" | "main-loop" => {
                return Err(Failure::unsupported(&format!("--object {kind}")));
            }
            _ => return Err(not_accepted("qom-type", kind)),
        }
        let id = definition.need("id")?;
        let known = ["qom-type", "id", "data", "file", "format", "keyid", "iv"];
        if let Some((name, _)) = definition.0.iter().find(|(n, _)| !known.contains(&n.as_str())) {
            return Err(Failure::new(format!("Parameter '{name}' is unexpected")));
        }
        let is_base64 = match definition.get("format") {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => return Err(not_accepted("format", other)),
        };
        if !is_identifier(id) {
            return Err(Failure::new(
                "Parameter 'id' expects an identifier\n\
                 Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            ));
        }
        let bytes = match (definition.get("data"), definition.get("file")) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("'file' and 'data' are mutually exclusive"));
            }
            (None, None) => return Err(Failure::new("Either 'file' or 'data' must be provided")),
            (Some(data), None) => data.as_bytes().to_vec(),
            (None, Some(file)) => std::fs::read(file).map_err(|e| {
                let why = format!("Failed to open file “{file}”: {}", OsError::from(e));
                Failure::new(format!("Unable to read {file}: {why}"))
            })?,
        };
        let secret = match definition.get("keyid") {
            None if is_base64 => Secret::new(base64(&bytes)?),
            None => Secret::new(bytes),
            Some(key) => {
                let key = self.secret(key)?;
                let iv = definition.get("iv");
                let iv = iv.ok_or_else(|| Failure::new("IV is required to decrypt secret"))?;
                let data = if is_base64 { base64(&bytes)? } else { bytes };
                decrypt_secret(&key, &base64(iv.as_bytes())?, &data)?
            }
        };
        if self.secrets.insert(id.to_owned(), secret).is_some() {
            return Err(Failure::new(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        Ok(())
    }
}

fn not_accepted(name: &str, value: &str) -> Failure {
    Failure::new(format!("Parameter '{name}' does not accept value '{value}'"))
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// What base64 stands for; line breaks in it mean nothing.
fn base64(text: &[u8]) -> Result<Vec<u8>, Error> {
    let text: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let text = std::str::from_utf8(&text).ok();
    text.and_then(|text| Base64::decode_vec(text).ok())
        .ok_or_else(|| Error::invalid("Base64 data contains invalid characters"))
}

/// The properties of one object, in order: `TYPE,name=value,…`, or a JSON object.
struct Definition(Vec<(String, String)>);

impl Definition {
    fn parse(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        if text.starts_with('{') {
            let json: serde_json::Value = serde_json::from_str(text)
                .map_err(|e| Failure::new(format!("JSON parse error in --object: {e}")))?;
            let members = json.as_object().into_iter().flatten();
            let members = members.map(|(name, value)| match value.as_str() {
                Some(value) => Ok((name.clone(), value.to_owned())),
                None => Err(Failure::new(format!(
                    "Invalid parameter type for '{name}', expected: string"
                ))),
            });
            return members.collect::<Result<_, _>>().map(Self);
        }
        let mut out: Vec<(String, String)> = Vec::new();
        for (i, item) in split(text).into_iter().enumerate() {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None if i == 0 => ("qom-type".to_owned(), item),
                None => return Err(Failure::new(format!("Expected '=' after parameter '{item}'"))),
            };
            // The last one counts.
            out.retain(|(old, _)| *old != name);
            out.push((name, value));
        }
        Ok(Self(out))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| Failure::new(format!("Parameter '{name}' is missing")))
    }
}

/// The items of a list; a doubled comma is a comma of the item.
fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    items
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
            "{",
            r#"{"qom-type":"secret","id":"s","data":1}"#,
        ] {
            assert!(make(&[definition]).is_err(), "{definition}");
        }
        assert!(make(&["secret,id=s,data=a", "secret,id=s,data=b"]).is_err());
    }
}
