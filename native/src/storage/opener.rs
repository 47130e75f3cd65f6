//! Opening files for the engine, by the names QEMU gives them.

use super::{Aio, FileDevice, FileOptions, Locking};
use rustix::fs::{FileType, stat};
use sectora_core::io::{Access, BoxFuture, Device, Opener, has_protocol};
use sectora_core::{Error, Result};
use std::future::ready;
use std::sync::Arc;

/// Opens files and block devices of this host; protocols over a network it does not know.
///
/// Names are paths, with `file:`, `host_device:` or `host_cdrom:` in front or not. A path whose
/// first part has a colon needs `./` in front.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOpener {
    /// Whether files are locked. [`Locking::Share`] is for images opened to read; those opened to
    /// write are locked as with [`Locking::Auto`].
    pub locking: Locking,
    /// How operations are run.
    pub aio: Aio,
    /// Go around the page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
}

impl FileOpener {
    /// What a file is opened with, but for the access.
    #[must_use]
    pub fn options(&self, access: Access) -> FileOptions {
        let locking = match (self.locking, access) {
            (Locking::Share, Access::ReadWrite) => Locking::Auto,
            (locking, _) => locking,
        };
        FileOptions {
            locking,
            aio: self.aio,
            direct: self.direct,
            no_flush: self.no_flush,
            ..FileOptions::new(access)
        }
    }

    /// Opens `filename` with `options`; the protocol in front of the path is understood.
    ///
    /// # Errors
    /// `Unsupported` for other protocols than files, else as [`FileDevice::open`].
    pub fn open_file(filename: &str, options: &FileOptions) -> Result<FileDevice> {
        let path = Self::path(filename)?;
        if let Some(driver) = filename.strip_suffix(path).and_then(|rest| rest.strip_suffix(':')) {
            check_kind(driver, path)?;
        }
        FileDevice::open(path, options)
    }

    /// The path that `filename` means.
    ///
    /// # Errors
    /// `Unsupported` where it is no path.
    pub fn path(filename: &str) -> Result<&str> {
        if !has_protocol(filename) {
            return Ok(filename);
        }
        let (protocol, rest) = filename.split_once(':').unwrap_or(("", filename));
        match protocol {
            "file" | "host_device" | "host_cdrom" => Ok(rest),
            "json" => Err(Error::unsupported(format!(
                "Could not open '{filename}': a name in JSON is no name of a file"
            ))),
            // What QEMU has, and this program does not.
            "blkdebug" | "blkverify" | "fat" | "ftp" | "ftps" | "gluster" | "gluster+rdma"
            | "gluster+unix" | "http" | "https" | "iscsi" | "nbd" | "nbd+tcp" | "nbd+unix"
            | "nbds" | "nfs" | "null-aio" | "null-co" | "nvme" | "rbd" | "sftp" | "ssh" => {
                Err(Error::unsupported(format!(
                    "Could not open '{filename}': protocol '{protocol}' is not supported, only \
                     files and block devices are"
                )))
            }
            _ => Err(Error::unsupported(format!("Unknown protocol '{protocol}'"))),
        }
    }
}

/// Whether the file called `path` is a device; `None` where there is none.
pub(crate) fn is_device(path: &str) -> Option<bool> {
    let kind = FileType::from_raw_mode(stat(path).ok()?.st_mode);
    Some(matches!(kind, FileType::BlockDevice | FileType::CharacterDevice))
}

/// Refuses a file that is not what `driver` opens; one that is missing is refused by opening it.
pub(crate) fn check_kind(driver: &str, path: &str) -> Result<()> {
    let wanted = match (driver, is_device(path)) {
        ("file", Some(true)) => "a regular file",
        ("host_device" | "host_cdrom", Some(false)) => "either a character or block device",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("'{driver}' driver requires '{path}' to be {wanted}")))
}

impl Opener for FileOpener {
    fn open<'a>(&'a self, filename: &'a str, access: Access) -> BoxFuture<'a, Result<Device>> {
        let opened = Self::open_file(filename, &self.options(access));
        Box::pin(ready(opened.map(|file| Arc::new(file) as Device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sectora_core::ErrorKind;

    #[test]
    fn paths_with_and_without_protocol() {
        for (name, path) in [
            ("a", "a"),
            ("file:a", "a"),
            ("file:///a/b", "///a/b"),
            ("host_device:/dev/sdb", "/dev/sdb"),
            ("./a:b", "./a:b"),
            ("/x/a:b", "/x/a:b"),
        ] {
            assert_eq!(FileOpener::path(name).unwrap(), path);
        }
        for (name, text) in [
            ("nbd:unix:/s", "protocol 'nbd' is not supported"),
            ("https://host/disk", "protocol 'https' is not supported"),
            ("json:{\"driver\": \"file\"}", "a name in JSON is no name of a file"),
            ("foo:bar", "Unknown protocol 'foo'"),
        ] {
            let error = FileOpener::path(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(text), "{error}");
            let named = error.to_string().starts_with(&format!("Could not open '{name}'"));
            // What does not exist has a name for it from whoever asks.
            assert_eq!(named, name != "foo:bar", "{error}");
        }
    }
}
