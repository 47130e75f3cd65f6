//! `rebase`: gives an image another backing file.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on, real_path, shown};
use super::progress::{Meter, ProgressArgs};
use sectora_core::ErrorKind;
use sectora_core::format::{BackingRef, FormatName, Layer};
use sectora_core::image::{RebaseOptions, rebase};
use sectora_core::io::{Access, BlockDevice, Capabilities, Device, combine_path, has_protocol};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Cache mode of the image: none, writeback, writethrough, directsync or unsafe
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    cache: String,

    /// The new backing file; an empty name for none
    #[arg(short, long, value_name = "BACKING_FILE", allow_hyphen_values = true)]
    backing: Option<String>,

    /// Format of the new backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT", allow_hyphen_values = true)]
    backing_format: Option<String>,

    /// Cache mode of the backing files
    #[arg(short = 'T', long, value_name = "CACHE", allow_hyphen_values = true)]
    backing_cache: Option<String>,

    /// Change the name only: whoever does it knows that the contents are the same. The backing
    /// files may be missing
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    /// Compress what is copied into the image
    #[arg(short, long)]
    compress: bool,

    /// Read the backing files although another program writes to them
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let [filename] = &args.filenames[..] else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    if !args.backing_unsafe && args.backing.is_none() {
        return Err(Failure::usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let cache = Cache::target(&args.cache)?;
    let backing_cache = Cache::source(args.backing_cache.as_deref())?;
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let job = Job { args: &args, host, filename, backing_cache };
        async move { job.run(cache).await.map(|()| 0) }
    })
}

struct Job<'a> {
    args: &'a Args,
    host: Host,
    filename: &'a str,
    backing_cache: Cache,
}

impl Job<'_> {
    async fn run(self, cache: Cache) -> Result<(), Failure> {
        let args = self.args;
        let how = Opening {
            access: Access::ReadWrite,
            metadata_only: args.backing_unsafe,
            ..Opening::to_read(args.format.as_deref(), cache)
        };
        // The image itself is written: `--force-share` is for what it stands on.
        let image = self.host.unshared().open(self.filename, how).await?;
        // With a data file there can be none either, but that matters only where there is data to copy.
        let compressed = image.capabilities().contains(Capabilities::COMPRESSED);
        if args.compress && !compressed && image.data_file().is_none() {
            return Err(Failure::new("Compression not supported for this file format"));
        }
        let name = args.backing.as_deref().unwrap_or_default();
        let format: Option<FormatName> = match args.backing_format.as_deref() {
            None => None,
            Some(text) => Some(
                text.parse().map_err(|_| Failure::new(format!("Invalid format name: '{text}'")))?,
            ),
        };
        let not_changed = |reason: &str| {
            // What the C library prints of a name that is not there.
            let name = args.backing.as_deref().unwrap_or("(null)");
            Failure::new(format!("Could not change the backing file to '{name}': {reason}"))
        };
        let new = match args.backing_unsafe || name.is_empty() {
            true => None,
            false => Some(match format.and_then(|format| in_chain(&image, name, format)) {
                Some((depth, layer)) => (layer, Some(depth)),
                None => (self.open_new(&image, name).await?, None),
            }),
        };
        if !name.is_empty() && format.is_none() {
            return Err(not_changed("backing format must be specified"));
        }
        let format = format.map(|format| format.as_str().to_owned());
        let reference = (!name.is_empty()).then(|| BackingRef { name: name.to_owned(), format });
        let done = match args.backing_unsafe {
            true => image.driver().set_backing(reference).await,
            false => self.copy(&image, new, reference).await,
        };
        match done {
            Ok(()) => Ok(image.close().await?),
            Err(e) if e.kind() == ErrorKind::Unsupported && args.compress && !compressed => {
                Err(Failure::new("Error while writing to COW image: Operation not supported"))
            }
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                Err(not_changed("Operation not supported"))
            }
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                Err(Failure::of("error while reading image metadata", &e))
            }
            Err(e) => Err(Failure::from(e)),
        }
    }

    async fn open_new(&self, image: &Layer, name: &str) -> Result<Arc<Layer>, Failure> {
        if image.filename().starts_with("json:") && !has_protocol(name) && !name.starts_with('/') {
            return Err(Failure::new(format!(
                "Could not resolve backing filename: Cannot use relative backing file names for '{}'",
                image.filename()
            )));
        }
        let full = combine_path(image.filename(), name);
        let how = Opening {
            image_opts: Some(false),
            ..Opening::to_read(self.args.backing_format.as_deref(), self.backing_cache)
        };
        let opened = self.host.open(&full, how).await;
        let what = format!("Could not open new backing file '{name}'");
        let new = opened.map_err(|f| f.beginning(&format!("Could not open '{full}'"), &what))?;
        // What is written to it would show in itself.
        let file = real_path(new.filename());
        let is_itself = file.is_some() && file == real_path(image.filename());
        match is_itself && self.args.backing_format.is_some() {
            true => Err(Failure::new(format!("{what}: it is the image itself"))),
            false => Ok(new),
        }
    }

    async fn copy(
        &self,
        image: &Arc<Layer>,
        new: Option<(Arc<Layer>, Option<u32>)>,
        reference: Option<BackingRef>,
    ) -> Result<(), sectora_core::Error> {
        let depth = new.as_ref().and_then(|(_, depth)| *depth);
        let new: Option<Device> = new.map(|(new, _)| new as Device);
        let options = RebaseOptions { compress: self.args.compress, depth };
        let meter = Meter::new(&self.args.progress, self.args.quiet);
        let tell = |done, total| meter.tell(done, total);
        let done = rebase(image, new.as_ref(), reference, options, &tell).await;
        meter.finish();
        done
    }
}

/// The image of the chain that will be found in the file `name` from then on, and how deep it lies:
/// it is open. In another format the same file is another disk, and so it is in another place where
/// the name is not taken from the folder of `image`.
fn in_chain(image: &Layer, name: &str, format: FormatName) -> Option<(u32, Arc<Layer>)> {
    let full = combine_path(image.filename(), name);
    let means = |found: &str| {
        shown(&full) == found || real_path(&full).is_some_and(|full| real_path(found) == Some(full))
    };
    let chain = std::iter::successors(image.backing(), |layer| layer.backing());
    (1..)
        .zip(chain)
        .find(|(_, layer)| layer.driver().name() == format.as_str() && means(layer.filename()))
        .map(|(depth, layer)| (depth, layer.clone()))
}
