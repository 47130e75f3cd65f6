//! Opens a tree of nodes from options.

use super::drivers;
use super::live::no_node;
use super::name::of_protocol;
use super::node::Locks;
use super::options::{ChildOptions, Options};
use crate::crypto::Secret;
use crate::filter::ThrottleGroup;
use crate::format::{
    self, Backing, DataFile, DataSource, DetectZeroes, Env, FormatName, Layer, OpenOptions,
};
use crate::image::no_secret;
use crate::io::{Access, BoxFuture, Capabilities, Device, Growing, Opened};
use crate::qapi::is_id;
use crate::{Error, ErrorKind, Result};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

/// Nodes nest at most so deep.
pub(super) const MAX_DEPTH: usize = 64;

/// What a node hands down to its children, where they do not say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Read only, or write too.
    pub access: Access,
    /// Around the host's cache (`cache.direct`).
    pub direct: bool,
    /// Nothing is made durable (`cache.no-flush`).
    pub no_flush: bool,
    /// Others may write meanwhile (`force-share`).
    pub force_share: bool,
}

/// The protocols of a host: what opens files, sockets and servers.
pub trait Protocols: Send + Sync {
    /// True where `driver` is a protocol that this host has.
    fn has_driver(&self, driver: &str) -> bool;

    /// The options that a name stands for: `a.img`, `file:a`, `nbd://host/export`.
    ///
    /// # Errors
    /// `Unsupported` for a protocol that this host does not have, `InvalidInput` for a name that
    /// its protocol does not understand.
    fn parse_filename(&self, filename: &str) -> Result<Options>;

    /// Options in which a name alone says what it is, with what that stands for.
    ///
    /// # Errors
    /// Those of [`parse_filename`](Self::parse_filename).
    fn located(&self, mut options: Options) -> Result<Options> {
        if !options.has_text("driver")
            && let Some(filename) = options.take_text("filename")
        {
            let mut located = self.parse_filename(&filename)?;
            located.merge(options);
            options = located;
        }
        Ok(options)
    }

    /// The secret that options name by its id.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn secret(&self, id: &str) -> Result<Secret> {
        Err(no_secret(id))
    }

    /// Opens what the options of a protocol driver describe, and takes from them what it
    /// understands.
    fn open<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<Opened>>;

    /// The group of throttles that options name by its id.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn throttle_group(&self, id: &str) -> Result<Arc<ThrottleGroup>> {
        let what = format!("Throttle group '{id}' does not exist");
        Err(Error::new(ErrorKind::NotFound, what))
    }

    /// The text of a file of rules (`config` of `blkdebug`).
    ///
    /// # Errors
    /// `Unsupported` where the host has no such files, and those of reading.
    fn read_text(&self, filename: &str) -> Result<String> {
        Err(Error::unsupported(format!("'{filename}' cannot be read here")))
    }

    /// True where things of that driver can be [made](Self::create).
    fn creates(&self, driver: &str) -> bool {
        let _ = driver;
        false
    }

    /// Makes what the options of a protocol driver describe (`blockdev-create`).
    fn create<'a>(&'a self, driver: &'a str, options: Options) -> BoxFuture<'a, Result<()>> {
        let _ = (driver, options);
        let refused = Error::unsupported("Driver does not support blockdev-create");
        Box::pin(core::future::ready(Err(refused)))
    }

    /// The same as [`open`](Self::open) for a node of a graph, whose permissions are known only later: nothing is locked
    /// yet.
    fn open_node<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<OpenedNode>> {
        Box::pin(async move {
            let opened = self.open(driver, options, how).await?;
            Ok(OpenedNode { device: opened.device, filename: opened.filename, locks: None })
        })
    }
}

/// What a protocol opened for a node.
#[derive(Debug)]
pub struct OpenedNode {
    /// The device.
    pub device: Device,
    /// Its full name.
    pub filename: String,
    /// Where others see what is done with it.
    pub locks: Option<Arc<dyn Locks>>,
}

/// An opened node below an image.
#[derive(Debug)]
struct Located {
    device: Device,
    /// The name it has in messages, and against which names inside it resolve.
    filename: String,
    /// By what it is opened again.
    options: Options,
    /// Its name says that as well.
    is_plain: bool,
}

impl Located {
    /// By what an image over it is opened again, which has the options `own`.
    fn options_above(&self, format: FormatName, own: Options) -> Options {
        let mut options = own;
        options.set_default("driver", format.as_str());
        options.add_child("file", self.options.clone());
        options
    }
}

/// Opens the image that `options` describe. `base` says what is to be done with it; the options
/// have the last word where both speak of the same thing.
///
/// # Errors
/// `InvalidInput` for options that are wrong or that nobody understands, and those of opening.
pub async fn open(
    env: &Env,
    protocols: &dyn Protocols,
    options: Options,
    base: OpenOptions,
    how: Inherited,
) -> Result<Arc<Layer>> {
    Opener { env, protocols, chain: Vec::new() }.open(options, base, how).await
}

pub(super) struct Opener<'a> {
    pub(super) env: &'a Env,
    pub(super) protocols: &'a dyn Protocols,
    /// The files of the images that stand on what is opened.
    pub(super) chain: Vec<String>,
}

impl Opener<'_> {
    /// What nothing stands on.
    pub(super) async fn open(
        &self,
        options: Options,
        base: OpenOptions,
        how: Inherited,
    ) -> Result<Arc<Layer>> {
        self.image(options, base, how, 0).await.map(|(image, _)| image)
    }

    /// An image, which is a format over its file, and by what it is opened again.
    fn image<'a>(
        &'a self,
        mut options: Options,
        mut base: OpenOptions,
        how: Inherited,
        depth: usize,
    ) -> BoxFuture<'a, Result<(Arc<Layer>, Options)>> {
        Box::pin(async move {
            let driver = options.take_string("driver");
            // What is no text is no driver, and nobody's mistake.
            options.remove("driver");
            if let Some(protocol) = driver.as_deref().filter(|d| self.protocols.has_driver(d)) {
                // No format: the bytes as they are.
                let wanted = how;
                let how = common(&mut options, how)?;
                take_zeroes(&mut options, &mut base)?;
                let found = self.protocol(protocol, options, how).await?;
                refuse_read_only(wanted, how)?;
                base.format = Some(FormatName::Raw);
                base.bare = true;
                base.access = how.access;
                let image = format::open(self.env, found.device, &found.filename, base).await?;
                return Ok((image, found.options));
            }
            let format = match &driver {
                Some(name) => Some(
                    FormatName::from_str(name)
                        .map_err(|_| Error::invalid(format!("Unknown driver '{name}'")))?,
                ),
                None => None,
            };
            let wanted = how;
            let how = common(&mut options, how)?;
            base.access = how.access;
            base.by_options = Some(super::by_options());
            base.format = format.or(base.format);
            take_zeroes(&mut options, &mut base)?;
            if driver.is_none() && !options.has_child("file") {
                return Err(Error::invalid("Must specify either driver or file"));
            }
            let strong = options.clone();
            let file = match options.take_child("file")? {
                ChildOptions::Inline(below) => self.child(below, how, depth).await?,
                ChildOptions::Node(name) => return Err(no_node(&name, &name)),
                ChildOptions::Absent | ChildOptions::Null => {
                    return Err(Error::invalid("A block device must be specified for \"file\""));
                }
            };
            let format = match base.format {
                Some(format) => format,
                None => format::probe(&file.device).await?,
            };
            self.backing(&mut options, &mut base, &file, format, how, depth).await?;
            let own = drivers::take(format, &mut options, &mut base, self.protocols)?;
            if let ChildOptions::Inline(below) = options.take_child("data-file")?
                && !matches!(base.data_file, DataSource::Ignore)
            {
                let found = self.child(below, how, depth).await?;
                let filename = Arc::from(found.filename.as_str());
                base.data_file = DataSource::Given(DataFile { device: found.device, filename });
            }
            // Whatever else is wrong is told before that; nothing is written to find it.
            let left = options.first().map(ToOwned::to_owned);
            if left.is_some() {
                base.access = Access::ReadOnly;
            }
            // Where the options change what is read, the name of the file alone does not say it.
            let full = file.options_above(format, strong.only(&own));
            let name = match own.is_empty() && file.is_plain {
                true => file.filename,
                false => full.to_json_name(),
            };
            if format != FormatName::Raw && self.chain.contains(&name) {
                return Err(format::infinite_loop(&name));
            }
            let chain = &mut self.chain.clone();
            let layer = format::open_chain(self.env, file.device, &name, base, chain).await?;
            match left {
                Some(left) => Err(Error::invalid(format!(
                    "Block format '{format}' does not support the option '{left}'"
                ))),
                None => refuse_read_only(wanted, how).map(|()| (layer, full)),
            }
        })
    }

    /// What the options say of the backing file.
    async fn backing(
        &self,
        options: &mut Options,
        base: &mut OpenOptions,
        file: &Located,
        format: FormatName,
        how: Inherited,
        depth: usize,
    ) -> Result<()> {
        // Where it is not looked at, nothing that is said of it is understood, but that there is none.
        let denied = matches!(options.peek("backing"), None | Some(""));
        if matches!(base.backing, Backing::Ignore) && !(options.has("backing") && denied) {
            return Ok(());
        }
        let given = match options.take_child("backing")? {
            // An old way to say that there is none.
            ChildOptions::Node(name) if name.is_empty() => ChildOptions::Null,
            given => given,
        };
        if matches!(given, ChildOptions::Node(_) | ChildOptions::Inline(_))
            && format == FormatName::Raw
        {
            return Err(Error::invalid("Driver doesn't support backing files"));
        }
        let failed = |e: Error| e.context("Could not open backing file");
        match given {
            ChildOptions::Absent => {}
            ChildOptions::Null => base.backing = Backing::Ignore,
            ChildOptions::Node(name) => return Err(failed(no_node(&name, &name))),
            ChildOptions::Inline(mut below) => {
                if !below.has_child("file") {
                    self.name_of_backing(&mut below, base, file).await?;
                }
                let how = Inherited { access: Access::ReadOnly, ..how };
                let image = OpenOptions::default();
                let (layer, _) = self.image(below, image, how, depth + 1).await.map_err(failed)?;
                base.backing = Backing::Given(layer);
            }
        }
        Ok(())
    }

    /// Options without a file are about the one that the image names.
    async fn name_of_backing(
        &self,
        below: &mut Options,
        base: &OpenOptions,
        file: &Located,
    ) -> Result<()> {
        let look = OpenOptions {
            backing: Backing::Ignore,
            data_file: DataSource::Ignore,
            access: Access::ReadOnly,
            ..base.clone()
        };
        let image = format::open(self.env, file.device.clone(), &file.filename, look).await?;
        if let Some(named) = image.driver().describe().await?.backing {
            match named.name.strip_prefix("json:") {
                Some(text) => {
                    let mut all = Options::parse_json(text)?;
                    all.merge(core::mem::take(below));
                    *below = all;
                }
                None => {
                    let name = crate::io::combine_path(&file.filename, &named.name);
                    below.add_child("file", self.protocols.parse_filename(&name)?);
                }
            }
            if let Some(format) = &named.format {
                below.set_default("driver", format);
            }
        }
        Ok(())
    }

    /// A node that an image lies on: a protocol, or another format.
    async fn child(&self, options: Options, how: Inherited, depth: usize) -> Result<Located> {
        if depth >= MAX_DEPTH {
            return Err(Error::limit(format!("nodes nest deeper than {MAX_DEPTH}")));
        }
        // The protocol in front of a name alone says what it is.
        let mut options = self.protocols.located(options)?;
        let protocol = options.peek("driver").filter(|name| self.protocols.has_driver(name));
        if let Some(protocol) = protocol.map(ToOwned::to_owned) {
            options.remove("driver");
            let wanted = how;
            let how = common(&mut options, how)?;
            let found = self.protocol(&protocol, options, how).await?;
            return refuse_read_only(wanted, how).map(|()| found);
        }
        let image = self.image(options, OpenOptions::default(), how, depth + 1).await?;
        let (layer, options) = image;
        let filename = layer.filename().to_owned();
        // A raw image grows only when it is told to; what lies on it does so by itself.
        let file_grows = layer.file().capabilities().contains(Capabilities::GROW);
        let is_window = options.has("size");
        let device: Device = match file_grows && layer.driver().name() == "raw" && !is_window {
            true => Arc::new(Growing::along(layer)),
            false => layer,
        };
        Ok(Located { device, filename, options, is_plain: false })
    }

    async fn protocol(
        &self,
        driver: &str,
        mut options: Options,
        how: Inherited,
    ) -> Result<Located> {
        let mut again = of_protocol(&options);
        again.set_default("driver", driver);
        let opened = self.protocols.open(driver, &mut options, how).await?;
        if let Some(left) = options.first() {
            return Err(Error::invalid(format!(
                "Block protocol '{driver}' doesn't support the option '{left}'"
            )));
        }
        let Opened { device, filename } = opened;
        let described = filename.strip_prefix("json:").map(Options::parse_json).transpose()?;
        let is_plain = described.is_none();
        Ok(Located { device, filename, options: described.unwrap_or(again), is_plain })
    }
}

/// Refuses what was opened by its options to be read only, and is to be written to.
fn refuse_read_only(wanted: Inherited, got: Inherited) -> Result<()> {
    match wanted.access == got.access {
        true => Ok(()),
        false => Err(Error::denied("Block node is read-only")),
    }
}

/// Takes the options that every node has.
fn common(options: &mut Options, how: Inherited) -> Result<Inherited> {
    if let Some(name) = options.take_text("node-name") {
        check_node_name(&name)?;
    }
    let read_only = options.take_flag("read-only")?;
    options.take_flag("auto-read-only")?;
    let access = match read_only {
        Some(true) => Access::ReadOnly,
        _ => how.access,
    };
    Ok(Inherited {
        access,
        direct: options.take_flag("cache.direct")?.unwrap_or(how.direct),
        no_flush: options.take_flag("cache.no-flush")?.unwrap_or(how.no_flush),
        force_share: options.take_flag("force-share")?.unwrap_or(how.force_share),
    })
}

/// Takes what the options say of discards and of zeroes.
fn take_zeroes(options: &mut Options, base: &mut OpenOptions) -> Result<()> {
    let discard = take_discard(options)?;
    base.discard = discard.unwrap_or(base.discard);
    base.detect_zeroes = take_detect_zeroes(options, discard)?.unwrap_or(base.detect_zeroes);
    Ok(())
}

/// Whether discards are carried out, where the options say it.
pub(super) fn take_discard(options: &mut Options) -> Result<Option<bool>> {
    match options.take_text("discard").as_deref() {
        None => Ok(None),
        Some("ignore" | "off") => Ok(Some(false)),
        Some("unmap" | "on") => Ok(Some(true)),
        Some(_) => Err(Error::invalid("Invalid discard option")),
    }
}

/// What is done with zeroes, where the options say it; `discard` is what they say of discards.
pub(super) fn take_detect_zeroes(
    options: &mut Options,
    discard: Option<bool>,
) -> Result<Option<DetectZeroes>> {
    let detect = options.take_word("detect-zeroes", |text| match text {
        "off" => Some(DetectZeroes::Off),
        "on" => Some(DetectZeroes::On),
        "unmap" => Some(DetectZeroes::Unmap),
        _ => None,
    })?;
    if detect == Some(DetectZeroes::Unmap) && discard != Some(true) {
        return Err(unmap_without_discard());
    }
    Ok(detect)
}

pub(super) fn unmap_without_discard() -> Error {
    Error::invalid(
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
    )
}

/// Names of nodes begin with a letter; letters, digits, `-`, `.` and `_` follow, 31 at most.
pub(super) fn check_node_name(name: &str) -> Result<()> {
    match is_id(name) {
        false => Err(Error::invalid(format!("Invalid node-name: '{name}'"))),
        true if name.len() > 31 => Err(Error::invalid("Node name too long")),
        true => Ok(()),
    }
}
