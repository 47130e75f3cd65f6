//! The surroundings of one command: its runtime, and how it opens images.
//!
//! Images that are named inside images are followed as QEMU's tools follow them.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome};
use super::nodes::Nodes;
use super::objects::Objects;
use super::output::{complain, warn, warn_of_guess};
use super::signal;
use crate::protocol::{NameOpener, Remote};
use crate::runtime;
use crate::storage::{
    Aio, FORCE_SHARE, FileDevice, FileOpener, FileOptions, Locking, let_thread_wait,
};
use sectora_core::Error;
use sectora_core::filter::Blkdebug;
use sectora_core::format::{
    Backing, BackingRef, DataSource, DriverEvent, Env, FormatName, KeySource, Layer, NotFreed,
    OpenOptions, open,
};
use sectora_core::graph::{
    self, ChildOptions, Claim, Inherited, OptionList, OptionValue, Options, Protocols, WithFilters,
};
use sectora_core::io::{Access, Device, Runtime, Unrestricted};
use std::future::Future;
use std::path::{Path, PathBuf};
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
        Threads::PerCore => runtime::block_on(|host| signal::interruptible(command(host.into()))),
        Threads::One => {
            let_thread_wait();
            runtime::block_on_this_thread(|host| signal::interruptible(command(host.into())))
        }
    };
    started.map_err(|e| Failure::new(format!("cannot start: {e}")))?
}

/// What the name of an image says of its backing file.
pub(super) enum NamedBacking {
    /// Nothing: the image says it.
    Unsaid,
    /// That there is none.
    Nothing,
    /// Which one it is, and what else the name says.
    Given { rest: String, backing: BackingRef },
}

/// How a command opens files.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) runtime: Arc<dyn Runtime>,
    /// What `--object` made.
    pub(super) objects: Objects,
    aio: Aio,
    locking: Locking,
    /// Images are named by options.
    image_opts: bool,
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
    /// The backing file is not opened.
    pub(super) without_backing: bool,
    /// The key of an encrypted image.
    pub(super) key: KeySource,
    /// Others may write to a raw image that is only looked at, as they may to a disk.
    pub(super) shares_raw: bool,
    /// Whether the name is a list of options; as the command says of its images where it is `None`.
    pub(super) image_opts: Option<bool>,
    /// Only to be checked: it opens whatever its damage.
    pub(super) check: bool,
    /// The snapshot (its id or name) that is read instead of the active state.
    pub(super) snapshot: Option<&'a str>,
    /// Options of the image beside its name, or in place of one that is empty.
    pub(super) options: Options,
}

impl<'a> Opening<'a> {
    /// To be read.
    pub(super) fn to_read(format: Option<&'a str>, cache: Cache) -> Self {
        Self {
            format,
            cache,
            access: Access::ReadOnly,
            metadata_only: false,
            without_backing: false,
            key: KeySource::None,
            shares_raw: true,
            check: false,
            image_opts: None,
            snapshot: None,
            options: Options::default(),
        }
    }

    /// To be looked at, not read: encrypted images need no key.
    pub(super) fn to_look_at(format: Option<&'a str>) -> Self {
        Self { key: KeySource::Ignore, ..Self::to_read(format, Cache::default()) }
    }

    /// To be checked, and repaired where `repairs`; encrypted images need no key.
    pub(super) fn to_check(format: Option<&'a str>, cache: Cache, repairs: bool) -> Self {
        let access = if repairs { Access::ReadWrite } else { Access::ReadOnly };
        Self { access, cache, check: true, ..Self::to_look_at(format) }
    }
}

impl Host {
    /// The host of a command with these arguments. `share`: others may use the images meanwhile.
    pub(super) fn new(runtime: Arc<dyn Runtime>, args: &HostArgs, share: bool) -> Self {
        let locking = if share { Locking::Share } else { Locking::Auto };
        let objects = args.objects();
        objects.begin(&runtime);
        Self { runtime, objects, aio: args.aio.into(), locking, image_opts: args.image_opts }
    }

    /// The host of a program that reads its command line itself. `share`: others may use the images
    /// meanwhile.
    pub(super) fn by_itself(
        runtime: Arc<dyn Runtime>,
        objects: Objects,
        aio: Aio,
        share: bool,
    ) -> Self {
        let locking = if share { Locking::Share } else { Locking::Auto };
        objects.begin(&runtime);
        Self { runtime, objects, aio, locking, image_opts: false }
    }

    /// The same where images are named by options, or not.
    pub(super) fn with_image_opts(self, image_opts: bool) -> Self {
        Self { image_opts, ..self }
    }

    /// The same for images that others may not use.
    pub(super) fn unshared(&self) -> Self {
        Self { locking: Locking::Auto, ..self.clone() }
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
        let policy = Arc::new(Unrestricted(NameOpener { files: self.opener(cache) }));
        Env { runtime: self.runtime.clone(), policy }
    }

    /// Opens an image and what stands below it.
    pub(super) async fn open(&self, name: &str, how: Opening<'_>) -> Result<Arc<Layer>, Failure> {
        let image_opts = how.image_opts.unwrap_or(self.image_opts);
        if image_opts && how.format.is_some() {
            return Err(Failure::new("--image-opts and --format are mutually exclusive"));
        }
        if image_opts && self.locking == Locking::Share && is_not_shared(name) {
            return Err(Failure::new("--force-share/-U conflicts with image options"));
        }
        self.open_named(name, how).await.map_err(|e| Failure::opening(name, &e))
    }

    /// What the name of an image says of what the image stands on, whatever the image says.
    pub(super) fn backing_of(&self, name: &str) -> NamedBacking {
        let options = match (self.image_opts, name.strip_prefix("json:")) {
            (true, _) => Some(Options::parse_list(name).options),
            (false, Some(text)) => Options::parse_json(text).ok(),
            (false, None) => None,
        };
        let Some(mut rest) = options else { return NamedBacking::Unsaid };
        match rest.take_child("backing") {
            Ok(ChildOptions::Null) => NamedBacking::Nothing,
            Ok(ChildOptions::Node(name)) if name.is_empty() => NamedBacking::Nothing,
            Ok(ChildOptions::Inline(below)) if below.has_child("file") => {
                let backing = BackingRef { name: below.to_json_name(), format: None };
                NamedBacking::Given { rest: rest.to_json_name(), backing }
            }
            _ => NamedBacking::Unsaid,
        }
    }

    /// The same for who has words of its own for what went wrong.
    pub(super) async fn open_named(
        &self,
        name: &str,
        how: Opening<'_>,
    ) -> sectora_core::Result<Arc<Layer>> {
        self.open_to_debug(name, how).await.map(|(layer, _)| layer)
    }

    /// The same with the first `blkdebug` below the image, which has breakpoints.
    pub(super) async fn open_to_debug(
        &self,
        name: &str,
        how: Opening<'_>,
    ) -> sectora_core::Result<(Arc<Layer>, Option<Arc<Blkdebug>>)> {
        let backing = match how.metadata_only || how.without_backing {
            true => Backing::Ignore,
            false => Backing::Follow,
        };
        let data_file = match how.metadata_only {
            true => DataSource::Ignore,
            false => DataSource::Follow,
        };
        let (access, env) = (how.access, self.env(how.cache));
        let base = OpenOptions {
            access,
            backing,
            data_file,
            check: how.check,
            by_options: Some(graph::by_options()),
            key: how.key,
            snapshot: how.snapshot.map(str::to_owned),
            ..OpenOptions::default()
        };
        let image_opts = how.image_opts.unwrap_or(self.image_opts);
        if let Some(text) = name.strip_prefix("json:").filter(|_| !image_opts) {
            // What is no description at all is told first.
            Options::parse_json(text)?;
        }
        let format: Option<FormatName> = how.format.map(str::parse).transpose()?;
        let nodes = Arc::new(Nodes::new(self.opener(how.cache), self.objects.clone()));
        let filters = WithFilters::new(env.clone(), nodes.clone());
        let options = match image_opts {
            true => Some(listed(Options::parse_list(name))),
            false => beside(&filters, shown(name), format, how.options)?,
        };
        let (layer, file) = if let Some(options) = options {
            let base = OpenOptions { format, ..base };
            let inherited = Inherited {
                access,
                direct: how.cache.direct,
                no_flush: how.cache.no_flush,
                force_share: self.locking == Locking::Share,
            };
            let layer = graph::open(&env, &*filters, options, base, inherited).await?;
            (layer, nodes.first_file())
        } else {
            let raw = how.shares_raw && format == Some(FormatName::Raw);
            let claim = raw.then(|| Claim::raw(access));
            let named = self.file(name, how.cache, access, claim).await?;
            let options = OpenOptions { format, ..base };
            let layer = open(&env, named.device, &named.filename, options).await?;
            (layer, named.file)
        };
        tell_events(&layer);
        if access == Access::ReadWrite {
            if layer.guessed_raw() {
                warn_of_guess(layer.filename());
            }
            filters.guessed_raw().iter().for_each(|filename| warn_of_guess(filename));
        }
        if let Some(file) = file.filter(|_| how.shares_raw && layer.driver().name() == "raw") {
            file.set_claim(Claim::raw(access))?;
        }
        Ok((layer, filters.blkdebug()))
    }

    /// What others may change meanwhile is only read.
    fn check_share(&self, access: Access) -> sectora_core::Result<()> {
        match (self.locking, access) {
            (Locking::Share, Access::ReadWrite) => Err(Error::invalid(FORCE_SHARE)),
            _ => Ok(()),
        }
    }

    /// Opens what `name` stands for, not yet as an image: the one place where the protocol in
    /// front of a name decides. `claim` is what is locked, where the access alone does not say it.
    pub(super) async fn file(
        &self,
        name: &str,
        cache: Cache,
        access: Access,
        claim: Option<Claim>,
    ) -> sectora_core::Result<Named> {
        if let Some(remote) = Remote::parse(name)? {
            self.check_share(access)?;
            let device = remote.open(access).await?;
            return Ok(Named { device, filename: remote.canonical(), file: None });
        }
        FileOpener::path(name)?;
        self.check_share(access)?;
        if shown(name).is_empty() {
            return Err(Error::invalid("The 'file' block driver requires a file name"));
        }
        let options = FileOptions { claim, ..self.opener(cache).options(access) };
        let file = Arc::new(FileOpener::open_file(name, &options)?);
        let device: Device = file.clone();
        Ok(Named { device, filename: shown(name).to_owned(), file: Some(file) })
    }
}

/// The options of a list that was read; what is discouraged in it is said.
pub(super) fn listed(list: OptionList) -> Options {
    let options = spelled_out(list);
    if options.peek("backing") == Some("") {
        warn("Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
    }
    options
}

/// The same for options of an image that is open.
pub(super) fn spelled_out(list: OptionList) -> Options {
    for (flag, on) in &list.short_flags {
        let value = if *on { "on" } else { "off" };
        warn(&format!(
            "short-form boolean option '{}{flag}' deprecated\nPlease use {flag}={value} instead",
            if *on { "" } else { "no" }
        ));
    }
    list.options
}

/// The options of an image by its name and by those beside it; `None` where there is but a name.
fn beside(
    nodes: &WithFilters,
    name: &str,
    format: Option<FormatName>,
    given: Options,
) -> sectora_core::Result<Option<Options>> {
    let text = name.strip_prefix("json:");
    if text.is_none() && given.is_empty() && !WithFilters::is_name(name) {
        return Ok(None);
    }
    let mut options = match text {
        Some(text) => Options::parse_json(text)?,
        None => Options::default(),
    };
    options.merge(given);
    if text.is_none() && !name.is_empty() {
        match options.peek("driver") {
            Some("file" | "host_device" | "host_cdrom") => options.set_default("filename", name),
            Some(driver) if nodes.has_driver(driver) => {
                let mut located = nodes.parse_filename(name)?;
                located.merge(options);
                options = located;
            }
            _ if options.has_child("file") => {
                return Err(Error::invalid(
                    "Can't specify 'file' and 'filename' options at the same time",
                ));
            }
            _ => options.add_child("file", nodes.parse_filename(name)?),
        }
    }
    if let Some(format) = format
        && options.peek("driver") != Some(format.as_str())
    {
        // The format was given beside the name: it has the last word, over the same file.
        options.set("driver", OptionValue::Text(format.as_str().to_owned()));
    }
    Ok(Some(options))
}

/// What a name stands for.
pub(super) struct Named {
    pub(super) device: Device,
    /// The name as it is shown and as other names are relative to it.
    pub(super) filename: String,
    /// The same, where it is a file.
    pub(super) file: Option<Arc<FileDevice>>,
}

/// True where the options in `name` say that the image is not to be shared.
pub(super) fn is_not_shared(name: &str) -> bool {
    let options = Options::parse_list(name).options;
    options.peek("force-share").is_some_and(|on| on != "on")
}

/// The name of what an image is read by: of a file without a format, that of what opens files.
pub(super) async fn driver_name(layer: &Layer) -> Result<&'static str, Failure> {
    match layer.is_bare() {
        true => Ok(layer.file().info().await?.driver),
        false => Ok(layer.driver().name()),
    }
}

/// Says on standard error what happens to an image, and to those below it, without being asked for:
/// what has happened so far, and everything from now on.
pub(super) fn tell_events(layer: &Layer) {
    let mut next = Some(layer);
    while let Some(layer) = next {
        let driver = layer.driver().name();
        layer.driver().listen(Arc::new(move |event| tell_event(driver, event)));
        next = layer.backing().map(AsRef::as_ref);
    }
}

/// Says on standard error what happened to an image.
pub(super) fn tell_event(driver: &str, event: &DriverEvent) {
    match event {
        DriverEvent::Corrupted(event) => complain(&event.text(driver)),
        DriverEvent::Repaired(report) => {
            report.findings.iter().for_each(|finding| complain(&finding.what));
        }
        DriverEvent::Warning(text) => warn(text),
        DriverEvent::NotFreed { why, clusters } => {
            let why = match why {
                NotFreed::Free => "Invalid argument",
                NotFreed::Uncounted => "Resource temporarily unavailable",
            };
            (0..*clusters).for_each(|_| complain(&format!("qcow2_free_clusters failed: {why}")));
        }
    }
}

/// The name of a file as it is shown and as other names are relative to it: without the `file:`
/// that may stand in front.
pub(super) fn shown(name: &str) -> &str {
    let drivers = ["file:", "host_device:", "host_cdrom:"];
    drivers.iter().find_map(|driver| name.strip_prefix(driver)).unwrap_or(name)
}

/// Where the file called `name` lies, all links followed; `None` where there is none.
pub(super) fn real_path(name: &str) -> Option<PathBuf> {
    Path::new(shown(name)).canonicalize().ok()
}
