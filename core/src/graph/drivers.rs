//! The options that only one format has, as the schema names them.

use super::open::Protocols;
use super::options::{ChildOptions, Options};
#[cfg(feature = "qcow2")]
use crate::format::qcow2::{self, OverlapCheckMode, OverlapChecks};
use crate::format::{DataSource, EncryptionOptions, FormatName, KeySource, OpenOptions};
use crate::{Error, Result};
use alloc::borrow::ToOwned;
use alloc::vec::Vec;
#[cfg(feature = "qcow2")]
use alloc::{format, string::ToString};

/// Takes the options of `format` out of `options`. What is given are the names of those that decide
/// what the image's contents are, so that the name of the file alone does not say it.
pub(super) fn take(
    format: FormatName,
    options: &mut Options,
    base: &mut OpenOptions,
    protocols: &dyn Protocols,
) -> Result<Vec<&'static str>> {
    match format {
        #[cfg(feature = "qcow2")]
        FormatName::Qcow2 => take_qcow2(options, base, protocols),
        #[cfg(feature = "raw")]
        FormatName::Raw => take_raw(options, base),
        _ => Ok(Vec::new()),
    }
}

/// `BlockdevOptionsRaw`.
#[cfg(feature = "raw")]
fn take_raw(options: &mut Options, base: &mut OpenOptions) -> Result<Vec<&'static str>> {
    let given = ["offset", "size"].into_iter().filter(|name| options.has(name)).collect();
    let (offset, size) = (options.take_size("offset")?, options.take_size("size")?);
    base.raw.offset = offset.unwrap_or(0);
    base.raw.size = size;
    Ok(given)
}

/// `BlockdevOptionsQcow2`.
#[cfg(feature = "qcow2")]
fn take_qcow2(
    options: &mut Options,
    base: &mut OpenOptions,
    protocols: &dyn Protocols,
) -> Result<Vec<&'static str>> {
    let given = KEY_SECRET.into_iter().filter(|name| options.has(name)).collect();
    base.lazy_refcounts = options.take_flag("lazy-refcounts")?.or(base.lazy_refcounts);
    base.qcow2 = qcow2_options(options, &base.qcow2)?;
    if !options.has("encrypt")
        && let ChildOptions::Inline(mut below) = options.take_child("encrypt")?
    {
        take_encryption(&mut below, base, protocols);
    }
    Ok(given)
}

/// Who has no key reads nothing.
#[cfg(feature = "qcow2")]
const KEY_SECRET: [&str; 1] = ["encrypt.key-secret"];

/// `BlockdevQcow2Encryption`. Whether there is an encryption that they can be about is known when the
/// header has been read.
#[cfg(feature = "qcow2")]
fn take_encryption(options: &mut Options, base: &mut OpenOptions, protocols: &dyn Protocols) {
    let format = options.take_text("format");
    // Who only describes an image has no use for a key; a check or a map that is given one is told if
    // it is wrong.
    let describes = matches!(base.data_file, DataSource::Ignore) && !base.check;
    let useless = matches!(base.key, KeySource::Ignore) && describes;
    if let Some(id) = options.take_text("key-secret")
        && !useless
    {
        base.key = match protocols.secret(&id) {
            Ok(secret) => KeySource::Given(secret.into()),
            Err(_) => KeySource::Missing(id),
        };
    }
    let unexpected = options.first().map(ToOwned::to_owned);
    base.encryption = EncryptionOptions { format, unexpected };
}

/// How the image is used while it is open; what is not said stays as it is.
#[cfg(feature = "qcow2")]
fn qcow2_options(options: &mut Options, old: &qcow2::OpenOptions) -> Result<qcow2::OpenOptions> {
    let old_cache = old.cache;
    let cache = qcow2::CacheOptions {
        clean_interval: options.take_number("cache-clean-interval")?.or(old_cache.clean_interval),
        size: options.take_size("cache-size")?.or(old_cache.size),
        l2_entry_size: options.take_size("l2-cache-entry-size")?.or(old_cache.l2_entry_size),
        l2_size: options.take_size("l2-cache-size")?.or(old_cache.l2_size),
        refcount_size: options.take_size("refcount-cache-size")?.or(old_cache.refcount_size),
    };
    let old_discard = old.discard;
    let discard = qcow2::DiscardOptions {
        pass_request: options.take_flag("pass-discard-request")?.or(old_discard.pass_request),
        pass_snapshot: options.take_flag("pass-discard-snapshot")?.or(old_discard.pass_snapshot),
        pass_other: options.take_flag("pass-discard-other")?.or(old_discard.pass_other),
        no_unref: options.take_flag("discard-no-unref")?.unwrap_or(old_discard.no_unref),
    };
    let (overlap_check, overlap_mistake) = match overlap_checks(options, old.overlap_check)? {
        Ok(checks) => (checks, None),
        Err(mistake) => (old.overlap_check, Some(mistake.to_string())),
    };
    Ok(qcow2::OpenOptions { overlap_check, overlap_mistake, cache, discard })
}

/// `Qcow2OverlapChecks`: a mode, or flags on top of one. What is wrong with a mode is told later than
/// what is wrong with a flag.
#[cfg(feature = "qcow2")]
fn overlap_checks(options: &mut Options, old: OverlapChecks) -> Result<Result<OverlapChecks>> {
    let mode = options.take_text("overlap-check");
    let template = options.take_text("overlap-check.template");
    let mut flags = Vec::new();
    for (name, flag) in OverlapChecks::NAMES {
        if let Some(on) = options.take_flag(&format!("overlap-check.{name}"))? {
            flags.push((flag, on));
        }
    }
    if let (Some(mode), Some(template)) = (&mode, &template)
        && mode != template
    {
        return Ok(Err(Error::invalid(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{mode}') and \
             'overlap-check.template' ('{template}')"
        ))));
    }
    let mode = mode.or(template).map(|mode| mode.parse::<OverlapCheckMode>()).transpose();
    Ok(mode.map(|mode| {
        let mut checks = mode.map_or(old, OverlapChecks::from);
        flags.into_iter().for_each(|(flag, on)| checks.set(flag, on));
        checks
    }))
}
