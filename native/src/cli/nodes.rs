//! Images named by options: `--image-opts` and `json:` names.

use super::args::AioArg;
use super::create::lay_out;
use super::fdset::FdSets;
use super::objects::Objects;
use crate::protocol::nbd::{NbdDevice, NbdOptions, Server};
use crate::storage::{
    self, Aio, Create, FORCE_SHARE, FileDevice, FileLayout, FileOpener, FileOptions, Locking,
    check_kind, fdset_number, is_device,
};
use clap::ValueEnum;
use sectora_core::crypto::Secret;
use sectora_core::filter::ThrottleGroup;
use sectora_core::graph::{Claim, Inherited, Locks, OpenedNode, Options, Protocols};
use sectora_core::image::Secrets;
use sectora_core::io::{Access, BlockDevice, BoxFuture, Opened, Preallocation, has_protocol};
use sectora_core::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex};

/// The protocols of a command: how its files are opened where the options do not say otherwise.
#[derive(Debug)]
pub(super) struct Nodes {
    files: FileOpener,
    objects: Objects,
    opened: Mutex<Vec<Arc<FileDevice>>>,
    /// Files that others have opened; `None` where nobody can hand any over.
    handed_over: Option<Arc<FdSets>>,
}

/// The locks of a file, for whoever knows its permissions only later.
#[derive(Debug)]
struct FileLocks(Arc<FileDevice>);

impl Locks for FileLocks {
    fn set(&self, claim: Claim) -> Result<()> {
        self.0.set_claim(claim)
    }
}

/// Drivers that open a path.
const FILES: [&str; 3] = ["file", "host_device", "host_cdrom"];

impl Protocols for Nodes {
    fn has_driver(&self, driver: &str) -> bool {
        FILES.contains(&driver) || driver == "nbd"
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let mut options = Options::default();
        if let Some(export) = NbdOptions::parse(filename)? {
            options.set_default("driver", "nbd");
            match export.server {
                Server::Unix { path } => {
                    options.set_default("server.type", "unix");
                    options.set_default("server.path", &path);
                }
                Server::Inet { host, port } => {
                    options.set_default("server.type", "inet");
                    options.set_default("server.host", &host);
                    options.set_default("server.port", &port.to_string());
                }
            }
            if export.named {
                options.set_default("export", &export.export);
            }
            if export.tls.is_some() {
                return Err(Error::unsupported(format!(
                    "'{filename}': encryption is asked for with tls-creds=ID here"
                )));
            }
            return Ok(options);
        }
        let driver = match filename.split_once(':') {
            Some((protocol, _)) if has_protocol(filename) => protocol,
            _ if is_device(filename) == Some(true) => "host_device",
            _ => "file",
        };
        options.set_default("driver", driver);
        options.set_default("filename", FileOpener::path(filename)?);
        Ok(options)
    }

    fn secret(&self, id: &str) -> Result<Secret> {
        self.objects.secret(id)
    }

    fn open<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            match driver {
                "nbd" => self.open_nbd(options, how).await,
                _ => {
                    let (file, filename) = self.open_file(driver, options, how, None)?;
                    if let Ok(mut opened) = self.opened.lock() {
                        opened.push(file.clone());
                    }
                    Ok(Opened { device: file, filename })
                }
            }
        })
    }

    fn open_node<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<OpenedNode>> {
        Box::pin(async move {
            if driver == "nbd" {
                let Opened { device, filename } = self.open_nbd(options, how).await?;
                return Ok(OpenedNode { device, filename, locks: None });
            }
            let claim = Some(Claim::NONE);
            let (file, filename) = self.open_file(driver, options, how, claim)?;
            let locks = Some(Arc::new(FileLocks(file.clone())) as Arc<dyn Locks>);
            Ok(OpenedNode { device: file, filename, locks })
        })
    }

    fn throttle_group(&self, id: &str) -> Result<Arc<ThrottleGroup>> {
        let what = || format!("Throttle group '{id}' does not exist");
        self.objects.throttle_group(id).ok_or_else(|| Error::new(ErrorKind::NotFound, what()))
    }

    fn read_text(&self, filename: &str) -> Result<String> {
        std::fs::read_to_string(filename).map_err(|e| {
            let why = storage::OsError::from(e);
            Error::invalid(format!("Could not read blkdebug config file: {why}"))
        })
    }

    fn creates(&self, driver: &str) -> bool {
        driver == "file"
    }

    fn create<'a>(&'a self, _: &'a str, mut options: Options) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let filename = options.take_text("filename").unwrap_or_default();
            let size = options.take_size("size")?.unwrap_or_default();
            let preallocation = options.take_word("preallocation", |word| match word {
                "off" => Some(Preallocation::Off),
                "falloc" => Some(Preallocation::Falloc),
                "full" => Some(Preallocation::Full),
                _ => None,
            })?;
            let nocow = options.take_flag("nocow")?.unwrap_or_default();
            let layout = FileLayout::asked(nocow, options.take_size("extent-size-hint")?);
            layout.check()?;
            let how = FileOptions {
                create: Create::Truncate,
                claim: Some(Claim::image(Access::ReadWrite)),
                ..FileOptions::new(Access::ReadWrite)
            };
            let file = FileDevice::open(&filename, &how)?;
            lay_out(&file, &layout);
            file.set_len(size, preallocation.unwrap_or_default()).await?;
            file.flush().await
        })
    }
}

impl Nodes {
    pub(super) fn new(files: FileOpener, objects: Objects) -> Self {
        Self { files, objects, opened: Mutex::default(), handed_over: None }
    }

    /// The same with files that others have opened.
    pub(super) fn with_handed_over(self, sets: Option<Arc<FdSets>>) -> Self {
        Self { handed_over: sets, ..self }
    }

    /// The file at the bottom of the image, which is opened first.
    pub(super) fn first_file(&self) -> Option<Arc<FileDevice>> {
        self.opened.lock().ok()?.first().cloned()
    }

    /// `BlockdevOptionsNbd`.
    async fn open_nbd(&self, options: &mut Options, how: Inherited) -> Result<Opened> {
        let export = NbdOptions::take(options, |id| self.objects.client_tls(id))?;
        if let Some(left) = options.first() {
            // Said before anything is connected.
            return Err(Error::invalid(format!(
                "Block protocol 'nbd' doesn't support the option '{left}'"
            )));
        }
        if how.force_share && how.access == Access::ReadWrite {
            return Err(Error::invalid(FORCE_SHARE));
        }
        let device = NbdDevice::connect(&export, how.access).await?;
        Ok(Opened { device: Arc::new(device), filename: export.canonical() })
    }

    /// `BlockdevOptionsFile`; what is locked at first is as `claim` says.
    fn open_file(
        &self,
        driver: &str,
        options: &mut Options,
        how: Inherited,
        claim: Option<Claim>,
    ) -> Result<(Arc<FileDevice>, String)> {
        let Some(filename) = options.take_text("filename") else {
            return Err(Error::invalid("The 'file' block driver requires a file name"));
        };
        let aio = options.take_word("aio", |word| match word {
            "native" => Some(Aio::Native),
            _ => AioArg::from_str(word, false).ok().map(Aio::from),
        })?;
        options.take_pr_manager()?;
        if aio != Some(Aio::Native) || how.direct {
            check_kind(driver, &filename)?;
        }
        let locking = options.take_word("locking", |word| match word {
            "off" => Some(Locking::Off),
            "on" | "auto" => Some(Locking::Auto),
            _ => None,
        })?;
        let locking = match how.force_share {
            true if how.access == Access::ReadWrite => {
                return Err(Error::invalid(FORCE_SHARE));
            }
            true => Locking::Share,
            false => locking.unwrap_or(self.files.locking),
        };
        // They tune what this program does in its own way.
        for ignored in ["aio-max-batch", "drop-cache", "x-check-cache-dropped"] {
            options.take_text(ignored);
        }
        let files = FileOpener {
            locking,
            aio: aio.unwrap_or(self.files.aio),
            direct: how.direct,
            no_flush: how.no_flush,
        };
        let options = FileOptions { claim, ..files.options(how.access) };
        let file = match &self.handed_over {
            Some(sets) if fdset_number(&filename).is_some() => sets.open(&filename, options)?,
            _ => FileDevice::open(&filename, &options)?,
        };
        Ok((Arc::new(file), filename))
    }
}
