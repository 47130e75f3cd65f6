//! References are a policy, not a habit.
//!
//! A backing file, a data file, an extent or a parent named *inside* an image is opened through an
//! [`OpenPolicy`]. There is no default that follows paths: whoever opens an image says what its
//! contents may make the engine open.

use super::{BoxFuture, Device};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde_json::Value;

/// What the opener is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// What a name inside an image stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReferenceKind {
    /// The file that unallocated ranges are read from.
    Backing,
    /// The file that holds the guest's data (qcow2 external data file).
    DataFile,
}

impl fmt::Display for ReferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backing => "backing file",
            Self::DataFile => "data file",
        })
    }
}

/// A name found inside an image.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// What it stands for.
    pub kind: ReferenceKind,
    /// The name exactly as the image has it.
    pub name: &'a str,
    /// The name of the file it was found in, as that was opened.
    pub referrer: &'a str,
    /// How the file will be used.
    pub access: Access,
}

/// A file opened for a reference.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Its full name, against which its own references resolve.
    pub filename: String,
}

/// Decides about references and opens those it allows.
pub trait OpenPolicy: Send + Sync {
    /// Opens what `reference` names, or refuses with
    /// [`ErrorKind::Denied`](crate::ErrorKind::Denied) and says what was wanted.
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>>;
}

/// Opens files of the host by name; knows nothing of images.
pub trait Opener: Send + Sync {
    /// Opens the file called `filename`.
    fn open<'a>(&'a self, filename: &'a str, access: Access) -> BoxFuture<'a, Result<Device>>;
}

/// Follows no reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deny;

impl OpenPolicy for Deny {
    fn open<'a>(&'a self, r: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            Err(Error::denied(format!(
                "'{}' wants its {} '{}', and references are not followed here",
                r.referrer, r.kind, r.name
            )))
        })
    }
}

/// Follows every reference, relative to the file that holds it, as the QEMU tools do.
#[derive(Clone, Debug)]
pub struct Unrestricted<O>(pub O);

impl<O: Opener> OpenPolicy for Unrestricted<O> {
    fn open<'a>(&'a self, r: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let filename = combine_path(r.referrer, r.name);
        Box::pin(async move {
            let device = self.0.open(&filename, r.access).await?;
            Ok(Opened { device, filename })
        })
    }
}

/// Follows a reference that is a plain file name, found in the directory of its referrer.
#[derive(Clone, Debug)]
pub struct SameDirectory<O>(pub O);

impl<O: Opener> OpenPolicy for SameDirectory<O> {
    fn open<'a>(&'a self, r: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            let plain = r.name.strip_prefix("./").unwrap_or(r.name);
            if plain.is_empty()
                || plain == ".."
                || plain.contains(['/', '\\'])
                || has_protocol(plain)
            {
                return Err(Error::denied(format!(
                    "'{}' wants its {} '{}', which is outside its directory",
                    r.referrer, r.kind, r.name
                )));
            }
            let filename = combine_path(r.referrer, plain);
            let device = self.0.open(&filename, r.access).await?;
            Ok(Opened { device, filename })
        })
    }
}

/// True where `name` begins with a protocol (`nbd:`, `json:`, `https:` …): a colon before any slash.
#[must_use]
pub fn has_protocol(name: &str) -> bool {
    name.find(':').is_some_and(|colon| !name[..colon].contains('/'))
}

/// The file that `name` means when it stands in the file `referrer`: absolute names and names with
/// a protocol stay, others are taken from the referrer's directory, which of one that is described
/// (`json:`) or is below a test driver (`blkdebug:CONFIG:IMAGE`) is that of the file at its bottom.
#[must_use]
pub fn combine_path(referrer: &str, name: &str) -> String {
    if name.starts_with('/') || has_protocol(name) {
        return name.to_string();
    }
    if let Some(text) = referrer.strip_prefix("json:") {
        return match file_at_the_bottom(text) {
            Some(file) if !file.starts_with("json:") => combine_path(&file, name),
            _ => name.to_string(),
        };
    }
    if let Some((_, image)) = referrer.strip_prefix("blkdebug:").and_then(|r| r.split_once(':')) {
        return combine_path(image, name);
    }
    match referrer.rfind('/') {
        Some(slash) => format!("{}{name}", &referrer[..=slash]),
        // A referrer with a protocol but no slash keeps its protocol: `file:a` + `b` is `file:b`.
        None => match referrer.find(':') {
            Some(colon) => format!("{}{name}", &referrer[..=colon]),
            None => name.to_string(),
        },
    }
}

/// The name of the file that a description in JSON comes down to.
fn file_at_the_bottom(text: &str) -> Option<String> {
    let described: Value = serde_json::from_str(text).ok()?;
    let mut node = &described;
    loop {
        if let Some(Value::String(filename)) = node.get("filename") {
            return Some(filename.clone());
        }
        node = node.get("file").or_else(|| node.get("image"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_against_the_referrer() {
        for (referrer, name, want) in [
            ("a.qcow2", "b", "b"),
            ("dir/a.qcow2", "b", "dir/b"),
            ("/d/e/a", "../b", "/d/e/../b"),
            ("/d/a", "/x/b", "/x/b"),
            ("d/a", "nbd:unix:/s", "nbd:unix:/s"),
            ("d/a", "./x:y", "d/./x:y"),
            ("file:a", "b", "file:b"),
            ("blkdebug:x/rules:d/a", "b", "d/b"),
        ] {
            assert_eq!(combine_path(referrer, name), want, "{referrer} + {name}");
        }
        for (referrer, want) in [
            (
                r#"json:{"driver":"raw","offset":"1","file":{"driver":"file","filename":"d/a"}}"#,
                "d/b",
            ),
            (
                r#"json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"filename":"d/a"}}}"#,
                "d/b",
            ),
            (r#"json:{"driver":"quorum","children":[{"filename":"d/a"}]}"#, "b"),
            ("json:{", "b"),
        ] {
            assert_eq!(combine_path(referrer, "b"), want, "{referrer}");
        }
    }
}
