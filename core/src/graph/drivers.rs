//! The options that only one format has, as the schema names them.

use super::open::Protocols;
use super::options::{ChildOptions, Options};
use crate::Result;
use crate::format::{EncryptionOptions, FormatName, KeySource, OpenOptions};
use alloc::borrow::ToOwned;

/// Takes the options of `format` out of `options`. True where one of them decides what the image's
/// contents are, so that the name of the file alone does not say it.
pub(super) fn take(
    format: FormatName,
    options: &mut Options,
    base: &mut OpenOptions,
    protocols: &dyn Protocols,
) -> Result<bool> {
    match format {
        #[cfg(feature = "qcow2")]
        FormatName::Qcow2 => take_qcow2(options, base, protocols),
        #[cfg(feature = "raw")]
        FormatName::Raw => take_raw(options, base),
        _ => Ok(false),
    }
}

/// `BlockdevOptionsRaw`.
#[cfg(feature = "raw")]
fn take_raw(options: &mut Options, base: &mut OpenOptions) -> Result<bool> {
    let (offset, size) = (options.take_size("offset")?, options.take_size("size")?);
    base.raw.offset = offset.unwrap_or(0);
    base.raw.size = size;
    Ok(offset.is_some() || size.is_some())
}

/// `BlockdevOptionsQcow2`.
#[cfg(feature = "qcow2")]
fn take_qcow2(
    options: &mut Options,
    base: &mut OpenOptions,
    protocols: &dyn Protocols,
) -> Result<bool> {
    base.lazy_refcounts = options.take_flag("lazy-refcounts")?.or(base.lazy_refcounts);
    if !options.has("encrypt")
        && let ChildOptions::Inline(mut below) = options.take_child("encrypt")?
    {
        take_encryption(&mut below, base, protocols);
    }
    Ok(false)
}

/// `BlockdevQcow2Encryption`. Whether there is an encryption that they can be about is known when the
/// header has been read.
#[cfg(feature = "qcow2")]
fn take_encryption(options: &mut Options, base: &mut OpenOptions, protocols: &dyn Protocols) {
    let format = options.take_text("format");
    if let Some(id) = options.take_text("key-secret")
        && !matches!(base.key, KeySource::Ignore)
    {
        base.key = match protocols.secret(&id) {
            Ok(secret) => KeySource::Given(secret.into()),
            Err(_) => KeySource::Missing(id),
        };
    }
    let unexpected = options.first().map(ToOwned::to_owned);
    base.encryption = EncryptionOptions { format, unexpected };
}
