//! `create`: makes a new image.
//!
//! The image appears under its name when it is complete; what had the name before stays until then.

use super::args::wants_option_help;
use super::args::{Cache, HostArgs, bytes, check_target, option_help, option_set, target_format};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::{print, warn};
use crate::storage::{Create, FileDevice, FileLayout, FileOptions, Target, TargetOptions};
use sectora_core::format::{DataFile, KeySource};
use sectora_core::image::{NewImage, OVER_ITSELF, OptionSet, create};
use sectora_core::io::{Access, BlockDevice, Device, Preallocation, ZeroFlags, combine_path};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not print what is created
    #[arg(short, long)]
    quiet: bool,

    /// Format of the new image
    #[arg(short, long, value_name = "FMT", default_value = "raw", allow_hyphen_values = true)]
    format: String,

    /// Creation options: NAME=VALUE,…; 'help' lists them
    #[arg(short = 'o', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,

    /// The new image holds only what differs from this one
    #[arg(short, long, value_name = "BACKING_FILE", allow_hyphen_values = true)]
    backing: Option<String>,

    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT", allow_hyphen_values = true)]
    backing_format: Option<String>,

    /// Do not look at the backing file: it may be missing
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    #[command(flatten)]
    host: HostArgs,

    /// The new image, and its size; not needed with a backing file, whose size it has then
    #[arg(value_name = "FILENAME [SIZE]")]
    arguments: Vec<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    if wants_option_help(&args.options) {
        let format = target_format(&args.format)?;
        print(&option_help(format, !args.arguments.is_empty()))?;
        return Ok(0);
    }
    let (filename, size) = match &args.arguments[..] {
        [] => return Err(Failure::usage("Expecting image file name")),
        [filename] => (filename, None),
        [filename, size] => (filename, Some(bytes("image size", size)?)),
        [_, size, extra, ..] => {
            bytes("image size", size)?;
            return Err(Failure::usage(format!("Unexpected argument: {extra}")));
        }
    };
    let named = |failure: Failure| failure.context(filename);
    let options = options(&args, size).map_err(named)?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, false);
        let args = &args;
        async move {
            let made = make(&host, args, filename, options).await;
            made.map(|()| 0).map_err(named)
        }
    })
}

/// The options of the new image; without a size, where it is the backing file's.
fn options(args: &Args, size: Option<u64>) -> Result<OptionSet, Failure> {
    let format = target_format(&args.format)?;
    let mut options = option_set(format, &args.options)?;
    if let Some(size) = size {
        if options.size().is_some() {
            return Err(Failure::new("The image size must be specified only once"));
        }
        options.set("size", &size.to_string())?;
    }
    if let Some(backing) = &args.backing {
        options.set("backing_file", backing).map_err(|_| {
            Failure::new(format!("Backing file not supported for file format '{format}'"))
        })?;
        if backing.is_empty() {
            return Err(Failure::new("Expected backing file name, got empty string"));
        }
    }
    if let Some(backing_format) = &args.backing_format {
        options.set("backing_fmt", backing_format).map_err(|_| {
            Failure::new(format!("Backing file format not supported for file format '{format}'"))
        })?;
    }
    Ok(options)
}

async fn make(
    host: &Host,
    args: &Args,
    filename: &str,
    mut options: OptionSet,
) -> Result<(), Failure> {
    let backing = options.get("backing_file").filter(|name| !name.is_empty());
    if let Some(backing) = backing {
        let full = combine_path(filename, backing);
        if full == filename {
            return Err(Failure::new(OVER_ITSELF));
        }
        if args.backing_unsafe {
            if options.get("backing_fmt").is_none() {
                return Err(Failure::new("Backing file specified without backing format"));
            }
        } else {
            let size = look_at_backing(host, &full, options.get("backing_fmt")).await?;
            if options.size().is_none() {
                options.set("size", &size.to_string())?;
            }
        }
    }
    if options.size().is_none() {
        return Err(Failure::new("Image creation needs a size parameter"));
    }
    if !args.quiet {
        print(&format!("Formatting '{filename}', fmt={} {options}\n", args.format))?;
    }
    check_target(&args.format, filename)?;
    let image = options.image_with(&host.objects)?;
    let new = NewTarget::new(host, filename, image, &file_layout(&options), Cache::default())?;
    new.create(host).await?;
    new.commit().await
}

/// Opens a backing file, which it must be possible to do; gives its size.
async fn look_at_backing(host: &Host, name: &str, format: Option<&str>) -> Result<u64, Failure> {
    let opened = host.open(name, Opening::to_read(format, Cache::default())).await;
    // What it is called has been said by what went wrong with it.
    let named = format!("Could not open '{name}': ");
    let image = opened.map_err(|f| f.without(&named).and("Could not open backing image."))?;
    if format.is_none() {
        return Err(Failure::new(format!(
            "Backing file specified without backing format\nDetected format of {}.",
            image.driver().name()
        )));
    }
    Ok(image.len())
}

/// The files of a new image. Dropped without [`commit`](Self::commit) they leave nothing.
pub(super) struct NewTarget {
    image: NewImage,
    file: Target,
    data_file: Option<(Target, Arc<str>)>,
}

impl NewTarget {
    /// Prepares the files; what already has their names stays as it is.
    pub(super) fn new(
        host: &Host,
        filename: &str,
        image: NewImage,
        layout: &FileLayout,
        cache: Cache,
    ) -> Result<Self, Failure> {
        image.check()?;
        layout.check()?;
        let options = TargetOptions { file: file_options(host, cache), sync: !cache.no_flush };
        let make = |name: &str| {
            let target = Target::new(name, &options)?;
            if !target.is_in_place() {
                lay_out(target.device(), layout);
            }
            Ok::<_, Failure>(target)
        };
        let file = make(filename)?;
        let data_file = match &image {
            NewImage::Qcow2(qcow2) => qcow2.data_file.as_ref(),
            _ => None,
        };
        let data_file = data_file
            .map(|data| {
                let name = combine_path(filename, &data.name);
                Ok::<_, Failure>((make(&name)?, Arc::from(name)))
            })
            .transpose()?;
        Ok(Self { image, file, data_file })
    }

    /// The image file.
    pub(super) fn file(&self) -> Device {
        Arc::new(self.file.device().clone())
    }

    /// The external data file, where there is one.
    pub(super) fn data_file(&self) -> Option<DataFile> {
        self.data_file.as_ref().map(|(target, filename)| DataFile {
            device: Arc::new(target.device().clone()),
            filename: filename.clone(),
        })
    }

    /// What opens the new image.
    pub(super) fn key(&self) -> KeySource {
        let secret = match &self.image {
            NewImage::Qcow2(qcow2) => qcow2.encryption.as_ref().and_then(|e| e.secret.clone()),
            _ => None,
        };
        secret.map_or(KeySource::None, |secret| KeySource::Given(secret.into()))
    }

    /// True where all of the new image reads as zeroes. Of what is encrypted only clusters that
    /// are not there do: preallocated ones are decrypted, whatever is in them.
    pub(super) fn is_zero(&self) -> bool {
        match &self.image {
            NewImage::Qcow2(qcow2) => {
                let raw = qcow2.data_file.as_ref().is_some_and(|data| data.raw);
                let mapped = raw || qcow2.preallocation != Preallocation::Off;
                qcow2.encryption.is_none() || !mapped
            }
            _ => !self.is_in_place(),
        }
    }

    /// True where nothing is known of what the files hold: they were there before.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }

    /// Writes the empty image.
    pub(super) async fn create(&self, host: &Host) -> Result<(), Failure> {
        let file = self.file();
        if self.is_in_place() && matches!(self.image, NewImage::Raw(_)) {
            // A device has the length it has, and is a raw image already.
            let (have, want) = (file.len(), self.image.size());
            if have < want {
                return Err(Failure::new("Cannot grow device files"));
            }
            // Whatever image it was, it is none any more.
            return Ok(file.write_zeroes(0, have.min(512), ZeroFlags::MAY_UNMAP).await?);
        }
        let data_file = self.data_file().map(|data| data.device);
        create(&host.runtime, &file, data_file.as_ref(), &self.image).await?;
        Ok(())
    }

    /// Gives the files their names.
    pub(super) async fn commit(self) -> Result<(), Failure> {
        if let Some((data_file, _)) = self.data_file {
            data_file.commit().await?;
        }
        self.file.commit().await?;
        Ok(())
    }
}

/// What the options of a new image ask of the file system.
pub(super) fn file_layout(options: &OptionSet) -> FileLayout {
    FileLayout::asked(options.nocow(), options.extent_size_hint())
}

/// Asks for `layout`; a file system that refuses is none to fail for.
pub(super) fn lay_out(file: &FileDevice, layout: &FileLayout) {
    if let Err(e) = file.lay_out(layout) {
        warn(&e.to_string());
    }
}

fn file_options(host: &Host, cache: Cache) -> FileOptions {
    FileOptions { create: Create::No, ..host.opener(cache).options(Access::ReadWrite) }
}
