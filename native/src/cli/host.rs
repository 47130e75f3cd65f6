//! The surroundings of one command: its runtime, and how it opens images.
//!
//! Images that are named inside images are followed as QEMU's tools follow them.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome};
use super::objects::Objects;
use super::signal;
use crate::runtime::NativeRuntime;
use crate::storage::{Aio, Claim, FileDevice, FileOpener, Locking};
use sectora_core::format::{
    Backing, DataSource, Env, FormatName, KeySource, Layer, OpenOptions, open,
};
use sectora_core::io::{Access, Runtime, Unrestricted};
use std::future::Future;
use std::sync::Arc;

/// How many threads a command works on, besides those that compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// The one it was started on: nothing to start up.
    One,
    /// One a core.
    PerCore,
}

/// Runs a command to its end, or until a signal stops it.
pub(super) fn block_on<F>(threads: Threads, command: impl FnOnce(Arc<dyn Runtime>) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let started = match threads {
        Threads::PerCore => {
            crate::runtime::block_on(|runtime| signal::interruptible(command(runtime.into())))
        }
        Threads::One => {
            tokio::runtime::Builder::new_current_thread().enable_all().build().map(|tokio| {
                let runtime = {
                    let _inside = tokio.enter();
                    NativeRuntime::current()
                };
                let result = tokio.block_on(signal::interruptible(command(runtime.into())));
                tokio.shutdown_background();
                result
            })
        }
    };
    started.map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

/// How a command opens files.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) runtime: Arc<dyn Runtime>,
    /// What `--object` made.
    pub(super) objects: Objects,
    aio: Aio,
    locking: Locking,
}

/// How one image is opened.
#[derive(Clone, Debug)]
pub(super) struct Opening<'a> {
    /// The name of the format; probed where it is not given.
    pub(super) format: Option<&'a str>,
    pub(super) cache: Cache,
    pub(super) access: Access,
    /// Neither backing file nor data file is opened.
    pub(super) metadata_only: bool,
    /// The key of an encrypted image.
    pub(super) key: KeySource,
    /// Others may write to a raw image that is only looked at, as they may to a disk.
    pub(super) shares_raw: bool,
}

impl<'a> Opening<'a> {
    /// To be read.
    pub(super) fn to_read(format: Option<&'a str>, cache: Cache) -> Self {
        Self {
            format,
            cache,
            access: Access::ReadOnly,
            metadata_only: false,
            key: KeySource::None,
            shares_raw: true,
        }
    }

    /// To be looked at, not read: encrypted images need no key.
    pub(super) fn to_look_at(format: Option<&'a str>) -> Self {
        Self { key: KeySource::Ignore, ..Self::to_read(format, Cache::default()) }
    }
}

impl Host {
    /// The host of a command with these arguments. `share`: others may use the images meanwhile.
    pub(super) fn new(runtime: Arc<dyn Runtime>, args: &HostArgs, share: bool) -> Self {
        let locking = if share { Locking::Share } else { Locking::Auto };
        Self { runtime, objects: args.objects(), aio: args.aio.into(), locking }
    }

    /// Opens files as this command does.
    pub(super) fn opener(&self, cache: Cache) -> FileOpener {
        FileOpener {
            locking: self.locking,
            aio: self.aio,
            direct: cache.direct,
            no_flush: cache.no_flush,
        }
    }

    /// What opening images needs.
    pub(super) fn env(&self, cache: Cache) -> Env {
        let policy = Arc::new(Unrestricted(self.opener(cache)));
        Env { runtime: self.runtime.clone(), policy }
    }

    /// Opens an image and what stands below it.
    pub(super) async fn open(&self, name: &str, how: Opening<'_>) -> Result<Arc<Layer>, Failure> {
        let name = shown(name);
        let failed = |e| Failure::opening(name, &e);
        let format: Option<FormatName> = how.format.map(str::parse).transpose().map_err(failed)?;
        let options = self.opener(how.cache).options(how.access);
        let file = Arc::new(FileOpener::open_file(name, &options).map_err(failed)?);
        let (backing, data_file) = match how.metadata_only {
            true => (Backing::Ignore, DataSource::Ignore),
            false => (Backing::Follow, DataSource::Follow),
        };
        let (access, key) = (how.access, how.key);
        let options =
            OpenOptions { format, access, backing, data_file, key, ..OpenOptions::default() };
        let device: Arc<FileDevice> = file.clone();
        let layer = open(&self.env(how.cache), device, name, options).await.map_err(failed)?;
        if how.shares_raw && layer.driver().name() == "raw" {
            file.set_claim(Claim::raw(how.access)).map_err(failed)?;
        }
        Ok(layer)
    }
}

/// The name of a file as it is shown and as other names are relative to it: without the `file:`
/// that may stand in front.
pub(super) fn shown(name: &str) -> &str {
    name.strip_prefix("file:").unwrap_or(name)
}
