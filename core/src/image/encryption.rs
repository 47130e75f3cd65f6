//! The `encrypt.*` options of new images, and changing key slots.

use crate::crypto::Secret;
use crate::crypto::luks::{self, AmendOptions, KeyslotState};
use crate::format::qcow2::{EncryptionMethod, EncryptionOptions};
use crate::format::{EncryptionFormat, Layer};
use crate::io::{BlockDevice, Capabilities};
use crate::{Error, Result};
use alloc::borrow::Cow;
use alloc::format;
use core::str::FromStr;

/// Passphrases and keys, by the IDs under which the caller was given them (`--object secret,id=…`).
pub trait Secrets {
    /// The secret with this ID.
    ///
    /// # Errors
    /// `InvalidInput` where there is none: `No secret with id '…'`.
    fn secret(&self, id: &str) -> Result<Secret>;
}

/// No secrets at all.
#[derive(Clone, Copy, Debug)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret(&self, id: &str) -> Result<Secret> {
        Err(no_secret(id))
    }
}

/// The error for an ID that no secret has.
#[must_use]
pub fn no_secret(id: &str) -> Error {
    crate::format::no_secret(id)
}

fn invalid(what: impl Into<Cow<'static, str>>) -> Error {
    Error::invalid(what)
}

/// The value of an option that is one of a list of names.
fn choice<T: FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| invalid(format!("Parameter '{name}' does not accept value '{text}'")))
    };
    value.map(parse).transpose()
}

/// How the options of a new image say it is encrypted.
pub(super) fn encryption_options<'a>(
    get: impl Fn(&str) -> Option<&'a str>,
    secrets: &dyn Secrets,
) -> Result<Option<EncryptionOptions>> {
    const OF_LUKS: [&str; 6] =
        ["cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time"];
    let of = |name: &str| get(&format!("encrypt.{name}"));
    let format = match (get("encryption"), of("format")) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "'encrypt.format' and its alias 'encryption' can't be used at the same time",
            ));
        }
        (Some("on"), None) => Some(EncryptionFormat::Aes),
        (_, None) => None,
        (None, Some(name)) => Some(name.parse()?),
    };
    let given = OF_LUKS.into_iter().find(|name| of(name).is_some());
    let Some(format) = format else {
        return match given.is_some() || of("key-secret").is_some() {
            true => Err(invalid("Parameter 'encrypt.format' is missing")),
            false => Ok(None),
        };
    };
    let method = match format {
        EncryptionFormat::Aes => {
            if let Some(name) = given {
                return Err(invalid(format!("Parameter 'encrypt.{name}' is unexpected")));
            }
            EncryptionMethod::Aes
        }
        EncryptionFormat::Luks => {
            let defaults = luks::CreateOptions::default();
            EncryptionMethod::Luks(luks::CreateOptions {
                cipher_alg: choice("cipher-alg", of("cipher-alg"))?.unwrap_or(defaults.cipher_alg),
                cipher_mode: choice("cipher-mode", of("cipher-mode"))?
                    .unwrap_or(defaults.cipher_mode),
                ivgen_alg: choice("ivgen-alg", of("ivgen-alg"))?.unwrap_or(defaults.ivgen_alg),
                ivgen_hash_alg: choice("ivgen-hash-alg", of("ivgen-hash-alg"))?,
                hash_alg: choice("hash-alg", of("hash-alg"))?.unwrap_or(defaults.hash_alg),
                iter_time: choice("iter-time", of("iter-time"))?.unwrap_or(defaults.iter_time),
            })
        }
    };
    let secret = of("key-secret").map(|id| secrets.secret(id)).transpose()?;
    Ok(Some(EncryptionOptions { method, secret }))
}

/// How options `encrypt.state=…,encrypt.new-secret=…` say that key slots change; `None` where none
/// of them is given. `get` has the value of an option.
///
/// # Errors
/// `InvalidInput` for values that are not possible, and secrets that there are not.
pub fn amend_encryption_options<'a>(
    get: impl Fn(&str) -> Option<&'a str>,
    secrets: &dyn Secrets,
    force: bool,
) -> Result<Option<AmendOptions>> {
    let names = ["new-secret", "old-secret", "keyslot", "iter-time"];
    let of = |name: &str| get(&format!("encrypt.{name}"));
    let state = match of("state") {
        Some("active") => KeyslotState::Active,
        Some("inactive") => KeyslotState::Inactive,
        Some(other) => {
            let what = format!("Parameter 'state' does not accept value '{other}'");
            return Err(invalid(what));
        }
        None if names.into_iter().any(|name| of(name).is_some()) => {
            return Err(invalid("Parameter 'state' is missing"));
        }
        None => return Ok(None),
    };
    let secret = |name| of(name).map(|id| secrets.secret(id)).transpose();
    let options = AmendOptions {
        state,
        new_secret: secret("new-secret")?,
        old_secret: secret("old-secret")?,
        keyslot: choice("keyslot", of("keyslot"))?,
        iter_time: choice("iter-time", of("iter-time"))?,
        secret: None,
        force,
    };
    options.check()?;
    Ok(Some(options))
}

/// Fills or erases key slots of an encrypted image, which is open for writing. Every step is durable
/// before the next: a crash loses no key but those that are erased.
///
/// # Errors
/// `InvalidInput` for what makes no sense or, without force, would lose keys; `Denied` for a wrong
/// passphrase; those of the device.
pub async fn amend_encryption(layer: &Layer, options: &AmendOptions) -> Result<()> {
    if !layer.capabilities().contains(Capabilities::WRITE) {
        let what = format!("'{}' was opened read-only", layer.filename());
        return Err(Error::denied(what));
    }
    layer.driver().amend_encryption(options).await
}
