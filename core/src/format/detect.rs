//! Detection and dispatch: the one place that knows all formats.

use super::layer::{Below, DataFile};
use super::{Backing, BackingRef, Driver, Env, KeySource, Layer, OpenOptions};
use crate::io::{
    Access, BoxFuture, Capabilities, Device, DeviceExt, ReadOnly, Reference, ReferenceKind,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// So much of a file's beginning decides what it is.
const PROBE_LEN: u64 = 2048;

/// A chain longer than this is an attack or a mistake.
pub(crate) const MAX_CHAIN: usize = 256;

/// An image format, by the schema's driver name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the names are the schema's
pub enum FormatName {
    Raw,
    Qcow2,
    Bochs,
    Cloop,
    Dmg,
    Luks,
    Parallels,
    Qcow,
    Qed,
    Vdi,
    Vhdx,
    Vmdk,
    Vpc,
}

impl FormatName {
    const ALL: [Self; 13] = [
        Self::Raw,
        Self::Qcow2,
        Self::Bochs,
        Self::Cloop,
        Self::Dmg,
        Self::Luks,
        Self::Parallels,
        Self::Qcow,
        Self::Qed,
        Self::Vdi,
        Self::Vhdx,
        Self::Vmdk,
        Self::Vpc,
    ];

    /// The schema's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Bochs => "bochs",
            Self::Cloop => "cloop",
            Self::Dmg => "dmg",
            Self::Luks => "luks",
            Self::Parallels => "parallels",
            Self::Qcow => "qcow",
            Self::Qed => "qed",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vpc => "vpc",
        }
    }

    /// The formats this build opens.
    #[must_use]
    pub fn supported() -> Vec<Self> {
        let mut all = Vec::new();
        if cfg!(feature = "raw") {
            all.push(Self::Raw);
        }
        if cfg!(feature = "qcow2") {
            all.push(Self::Qcow2);
        }
        all
    }
}

impl fmt::Display for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FormatName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|f| f.as_str() == name)
            .ok_or_else(|| Error::unsupported(format!("Unknown driver '{name}'")))
    }
}

/// What the first bytes of a file say it is; `None` for raw.
#[must_use]
pub fn recognise(head: &[u8]) -> Option<FormatName> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let word = |at: usize| head.get(at..at + 4).unwrap_or_default();
    match () {
        () if starts(b"QFI\xfb") => match word(4) {
            [0, 0, 0, 1] => Some(FormatName::Qcow),
            [0, 0, 0, version] if *version >= 2 => Some(FormatName::Qcow2),
            _ => None,
        },
        () if starts(b"QED\0") => Some(FormatName::Qed),
        () if starts(b"KDMV") || starts(b"COWD") || is_vmdk_descriptor(head) => {
            Some(FormatName::Vmdk)
        }
        () if starts(b"vhdxfile") => Some(FormatName::Vhdx),
        () if starts(b"conectix") => Some(FormatName::Vpc),
        () if starts(b"LUKS\xba\xbe\0\x01") => Some(FormatName::Luks),
        () if starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt") => {
            Some(FormatName::Parallels)
        }
        () if starts(b"Bochs Virtual HD Image") => Some(FormatName::Bochs),
        () if starts(b"#!/bin/sh\n#V2.0 Format\n") => Some(FormatName::Cloop),
        () if word(0x40) == [0x7f, 0x10, 0xda, 0xbe] => Some(FormatName::Vdi),
        () => None,
    }
}

/// A VMDK descriptor is a text file: comments and blank lines, then `version=`.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    head.starts_with(b"# Disk DescriptorFile")
}

/// What `file` is, by its contents. A file that looks like nothing else is raw.
///
/// # Errors
/// Those of reading the first bytes.
pub async fn probe(file: &Device) -> Result<FormatName> {
    let head = file.read_padded(0, PROBE_LEN.min(file.len())).await?;
    Ok(recognise(&head.to_bytes()).unwrap_or(FormatName::Raw))
}

/// What opening one layer gave.
pub(super) struct OpenedFormat {
    pub(super) driver: Box<dyn Driver>,
    pub(super) data: Option<DataFile>,
    pub(super) backing: Option<BackingRef>,
}

/// Opens the image in `file`, which was opened by the name `filename`, and its backing chain.
///
/// Opening changes nothing.
///
/// # Errors
/// `Corrupt`, `Unsupported` and `Limit` for what is wrong with the image, `Denied` where it wants
/// a file that the policy refuses, and those of the devices.
pub async fn open(
    env: &Env,
    file: Device,
    filename: &str,
    options: OpenOptions,
) -> Result<Arc<Layer>> {
    open_chain(env, file, filename, options, &mut Vec::new()).await
}

/// The same below the images whose files are in `chain`.
pub(crate) async fn open_chain(
    env: &Env,
    file: Device,
    filename: &str,
    options: OpenOptions,
    chain: &mut Vec<String>,
) -> Result<Arc<Layer>> {
    if options.access == Access::ReadWrite && !file.capabilities().contains(Capabilities::WRITE) {
        return Err(Error::denied(format!("'{filename}' cannot be written to")));
    }
    // Whatever a format's tables are asked for: nothing of it reaches the file.
    let file = match options.access {
        Access::ReadOnly => Arc::new(ReadOnly::new(file)) as Device,
        Access::ReadWrite => file,
    };
    chain.push(filename.to_string());
    let format = match options.format {
        Some(format) => format,
        None => probe(&file).await?,
    };
    let opened = match format {
        #[cfg(feature = "raw")]
        FormatName::Raw => {
            options.key.refuse_for_plain()?;
            super::raw::open(&file, options.raw)?
        }
        #[cfg(feature = "qcow2")]
        FormatName::Qcow2 => super::qcow2::open(env, &file, filename, &options).await?,
        other => {
            let known: Vec<&str> =
                FormatName::supported().into_iter().map(FormatName::as_str).collect();
            return Err(Error::unsupported(format!(
                "'{filename}' is a {other} image, which is not supported yet (supported: {})",
                known.join(", ")
            )));
        }
    };
    let below = match (options.backing, opened.backing) {
        (Backing::Given(layer), _) => Some(Below::Image(layer)),
        (Backing::Device(device), _) => Some(Below::Device(device)),
        (Backing::Follow, Some(wanted)) => {
            // A key is for one image; not to need one is for all of them.
            let key = match options.key {
                KeySource::Ignore => KeySource::Ignore,
                _ => KeySource::None,
            };
            let opened = open_backing(env, filename, wanted, key, options.by_options, chain).await;
            Some(Below::Image(opened.map_err(|e| e.context(BACKING_FAILED))?))
        }
        _ => None,
    };
    let bitmaps = opened.driver.bitmaps().unwrap_or_default();
    let filename: Arc<str> = Arc::from(filename);
    let file_name = match filename.starts_with("json:") {
        true => file_name(&file).await?.unwrap_or_else(|| filename.clone()),
        false => filename.clone(),
    };
    Ok(Arc::new(Layer {
        driver: opened.driver,
        bitmaps,
        data: opened.data,
        below,
        filename,
        file_name,
        runtime: env.runtime.clone(),
        access: options.access,
        discard: options.discard,
        detect_zeroes: options.detect_zeroes,
        bare: options.bare,
        guessed_raw: (options.guessed || options.format.is_none()) && format == FormatName::Raw,
        file,
    }))
}

/// The name of a file, where it can tell one.
async fn file_name(file: &Device) -> Result<Option<Arc<str>>> {
    match file.info().await {
        Ok(info) => Ok(Some(Arc::from(info.filename))),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
        Err(e) => Err(e),
    }
}

/// What opens the backing files that images name by options (`json:`):
/// [`graph::by_options`](crate::graph::by_options).
#[derive(Clone, Copy, Debug)]
pub struct ByOptions(
    pub(crate) for<'a> fn(&'a Env, Described<'a>) -> BoxFuture<'a, Result<Arc<Layer>>>,
);

/// A backing file that an image names by options.
#[derive(Debug)]
pub(crate) struct Described<'a> {
    /// The options, as JSON.
    pub(crate) text: &'a str,
    /// The file of the image that names it.
    pub(crate) referrer: &'a str,
    /// What the image says that it is: this has the last word.
    pub(crate) format: Option<&'a str>,
    /// How it is opened.
    pub(crate) options: OpenOptions,
    /// The files of the images above it.
    pub(crate) chain: Vec<String>,
}

async fn open_backing(
    env: &Env,
    referrer: &str,
    wanted: BackingRef,
    key: KeySource,
    by_options: Option<ByOptions>,
    chain: &mut Vec<String>,
) -> Result<Arc<Layer>> {
    if chain.len() >= MAX_CHAIN {
        return Err(too_long());
    }
    if let (Some(text), Some(ByOptions(opens))) = (wanted.name.strip_prefix("json:"), by_options) {
        let options = OpenOptions { key, by_options, ..OpenOptions::default() };
        let (format, chain) = (wanted.format.as_deref(), chain.clone());
        return opens(env, Described { text, referrer, format, options, chain }).await;
    }
    let reference = Reference {
        kind: ReferenceKind::Backing,
        name: &wanted.name,
        referrer,
        access: Access::ReadOnly,
    };
    let found = env.policy.open(reference).await?;
    if chain.contains(&found.filename) {
        return Err(infinite_loop(&found.filename));
    }
    let format = wanted.format.as_deref().map(FormatName::from_str).transpose()?;
    let options = OpenOptions { format, key, by_options, ..OpenOptions::default() };
    Box::pin(open_chain(env, found.device, &found.filename, options, chain)).await
}

/// The error for a backing file that stands on itself.
pub(crate) fn infinite_loop(name: &str) -> Error {
    Error::corrupt(format!("backing file '{name}' creates an infinite loop"))
}

/// What stands before the error of a backing file, once for each image of the chain above it.
pub(crate) const BACKING_FAILED: &str = "Could not open backing file";

/// The error for more than [`MAX_CHAIN`] images.
pub(crate) fn too_long() -> Error {
    Error::limit(format!("the backing chain is longer than {MAX_CHAIN} images"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in FormatName::ALL {
            assert_eq!(name.as_str().parse::<FormatName>().unwrap(), name);
        }
    }

    #[test]
    fn short_and_empty_heads_are_raw() {
        for head in [&b""[..], b"Q", b"QFI\xfb", b"QFI\xfb\0\0\0", b"QFI\xfb\0\0\0\0"] {
            assert_eq!(recognise(head), None);
        }
        assert_eq!(recognise(b"QFI\xfb\0\0\0\x03"), Some(FormatName::Qcow2));
    }
}
