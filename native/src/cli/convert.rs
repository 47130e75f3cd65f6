//! `convert`: copies an image into a new one.
//!
//! The new image appears under its name when it is complete: a copy that fails, is stopped or
//! killed leaves what was there before. With `-n` an image that exists is written in place.

use super::args::wants_option_help;
use super::args::{
    Cache, HostArgs, bytes, check_target, is_protocol, option_help, option_set, target_format,
};
use super::create::{NewTarget, file_layout};
use super::failure::{Failure, Outcome, reason, told};
use super::host::{Host, Opening, Threads, block_on, driver_name};
use super::output::{complain_as, print, stands_in, warn};
use super::progress::{Meter, ProgressArgs};
use super::snapshot::{SnapshotParam, open_state};
use crate::storage::{SequentialSink, check_kind};
use sectora_core::format::{FormatName, Layer, OpenOptions, open};
use sectora_core::graph;
use sectora_core::image::{self, ConvertOptions, OptionSet};
use sectora_core::io::{
    Access, BlockDevice, Capabilities, Concat, Device, ExtentFlags, Part, Salvage,
};
use std::io::IsTerminal;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "With - as the output the new image is written to standard output in one pass: \
                        raw, or qcow2 without compression."
)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    /// Format of the source; guessed from its contents where it is not given
    #[arg(short = 'f', long, value_name = "FMT", allow_hyphen_values = true)]
    source_format: Option<String>,

    /// Cache mode of the source: none, writeback, writethrough, directsync or unsafe
    #[arg(short = 'T', long, value_name = "CACHE", allow_hyphen_values = true)]
    source_cache: Option<String>,

    /// Format of the new image; raw where it is not given
    #[arg(short = 'O', long, value_name = "FMT", allow_hyphen_values = true)]
    target_format: Option<String>,

    /// Creation options of the new image: NAME=VALUE,…; 'help' lists them
    #[arg(short = 'o', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    target_options: Vec<String>,

    /// Compress the data (qcow2)
    #[arg(short, long)]
    compress: bool,

    /// Cache mode of the new image; 'unsafe' does not wait until it is on the disk
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "unsafe",
        allow_hyphen_values = true
    )]
    target_cache: String,

    /// The new image holds only what differs from this one, which has the contents of the
    /// source's backing file
    #[arg(short = 'B', long, value_name = "BACKING_FILE", allow_hyphen_values = true)]
    backing: Option<String>,

    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT", allow_hyphen_values = true)]
    backing_format: Option<String>,

    /// Write into an image that exists
    #[arg(short, long)]
    no_create: bool,

    /// The existing image reads as zeroes everywhere
    #[arg(long)]
    target_is_zero: bool,

    /// Leave out runs of zeroes at least so long; 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE", allow_hyphen_values = true)]
    sparse_size: Option<String>,

    /// Requests in flight at a time, 1 to 16
    #[arg(
        short = 'm',
        long,
        value_name = "NUMBER",
        default_value = "8",
        allow_hyphen_values = true
    )]
    parallel: String,

    /// Allow writes out of order. Writes always run side by side here, and their places are taken
    /// in order: nothing changes
    #[arg(short = 'W', long)]
    oob_writes: bool,

    /// Read the source although another program writes to it
    #[arg(short = 'U', long)]
    force_share: bool,

    /// Copy no more than so many bytes a second
    #[arg(short, long, value_name = "RATE", allow_hyphen_values = true)]
    rate: Option<String>,

    /// What cannot be read of the source becomes zeroes, with a warning
    #[arg(long)]
    salvage: bool,

    /// Let the host copy where it can do that by itself. Copies through memory are as good, and
    /// all that is done: nothing changes
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,
    /// Read this internal snapshot of the source: snapshot.id=ID,snapshot.name=NAME, or one of both
    #[arg(
        short = 'l',
        long = "source-snapshot",
        value_name = "SNAPSHOT",
        allow_hyphen_values = true
    )]
    snapshot: Option<String>,

    /// The existing image is named by options: driver=qcow2,file.filename=NAME,…; needs -n
    #[arg(long)]
    target_image_opts: bool,

    /// Copy the bitmaps that are stored with the source
    #[arg(long)]
    bitmaps: bool,

    /// Leave out bitmaps whose contents are not known
    #[arg(long)]
    skip_broken_bitmaps: bool,

    #[command(flatten)]
    host: HostArgs,

    /// The sources, one after the other in the new image, and the new image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

/// What the command line says, checked.
struct Job<'a> {
    args: &'a Args,
    host: &'a Host,
    sources: &'a [String],
    target: &'a str,
    format: FormatName,
    source_cache: Cache,
    target_cache: Cache,
    options: ConvertOptions,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    if let Some(snapshot) = &args.snapshot {
        SnapshotParam::parse(snapshot)?;
    }
    let options = convert_options(&args)?;
    if args.skip_broken_bitmaps && !args.bitmaps {
        return Err(Failure::new("Use of --skip-broken-bitmaps requires --bitmaps"));
    }
    if args.copy_range_offloading {
        offloading(&args)?;
    }
    if args.target_image_opts && !args.no_create {
        return Err(Failure::new("--target-image-opts requires use of -n flag"));
    }
    if args.target_is_zero && !args.no_create {
        return Err(Failure::new("--target-is-zero requires use of -n flag"));
    }
    if args.no_create && !args.target_options.is_empty() {
        return Err(Failure::new("-o has no effect when skipping image creation"));
    }
    if wants_option_help(&args.target_options) {
        let format = args.format()?;
        print(&option_help(format, !args.filenames.is_empty()))?;
        return Ok(0);
    }
    let (sources, target) = match &args.filenames[..] {
        [sources @ .., target] if !sources.is_empty() => (sources, target),
        _ => return Err(Failure::new("Must specify image file name")),
    };
    let source_cache = Cache::source(args.source_cache.as_deref())?;
    // Whether there are such a format and such a mode matters when the target's turn comes.
    let format = args.format().unwrap_or(FormatName::Raw);
    let target_cache = Cache::parse(&args.target_cache).unwrap_or_default();
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let args = &args;
        async move {
            let host = &host;
            let job =
                Job { args, host, sources, target, format, source_cache, target_cache, options };
            job.run().await.map(|()| 0)
        }
    })
}

/// Refuses a target that cannot have the bitmaps that are to be copied.
async fn keeps_bitmaps(target: &Layer, bitmaps: Option<&Arc<Layer>>) -> Result<(), Failure> {
    if bitmaps.is_none() || target.driver().supports_bitmaps() {
        return Ok(());
    }
    let name = driver_name(target).await?;
    Err(Failure::new(format!("Format driver '{name}' does not support bitmaps")))
}

/// Refuses what cannot be had together with copy offloading.
fn offloading(args: &Args) -> Result<(), Failure> {
    let conflict = match () {
        () if args.sparse_size.is_some() => "Cannot enable copy offloading when -S is used",
        () if args.compress => "Cannot enable copy offloading when -c is used",
        () if args.salvage => "Cannot use copy offloading in salvaging mode",
        () => return Ok(()),
    };
    Err(Failure::new(conflict))
}

fn convert_options(args: &Args) -> Result<ConvertOptions, Failure> {
    let parallel = parse_parallel(&args.parallel)?;
    let defaults = ConvertOptions::default();
    let sparse_size = match &args.sparse_size {
        None => defaults.sparse_size,
        Some(text) => parse_sparse_size(text)?,
    };
    Ok(ConvertOptions {
        compress: args.compress,
        sparse_size,
        parallel,
        target_is_zero: args.target_is_zero,
        target_has_backing: args.backing.is_some(),
        rate: args.rate.as_ref().map_or(Ok(0), |text| bytes("rate limit", text))?,
    })
}

/// How many requests are in flight at a time.
pub(super) fn parse_parallel(text: &str) -> Result<u16, Failure> {
    let parallel = text
        .parse::<i64>()
        .map_err(|_| Failure::new(format!("Invalid number of coroutines specified: '{text}'.")))?;
    u16::try_from(parallel).ok().filter(|n| (1..=16).contains(n)).ok_or_else(|| {
        Failure::new("Invalid number of coroutines specified. Must be between 1 and 16.")
    })
}

/// From what length on zeroes are left out.
pub(super) fn parse_sparse_size(text: &str) -> Result<u32, Failure> {
    let size = bytes("buffer size for sparse output", text)?;
    u32::try_from(size).ok().filter(|s| *s <= 16 << 20 && s % 512 == 0).ok_or_else(|| {
        Failure::new(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up \
             to 16777216. Select 0 to disable sparse detection (fully allocates output).",
        )
    })
}

impl Args {
    fn format(&self) -> Result<FormatName, Failure> {
        target_format(self.target_format.as_deref().unwrap_or("raw"))
    }
}

impl Job<'_> {
    /// The target's format as it was named.
    fn format_name(&self) -> &str {
        self.args.target_format.as_deref().unwrap_or("raw")
    }

    /// What went wrong, where it did.
    fn converting(&self) -> String {
        format!("{}: error while converting {}", self.target, self.format_name())
    }

    async fn run(self) -> Result<(), Failure> {
        let (source, layers) = self.open_sources().await?;
        if self.args.no_create {
            let bitmaps = self.source_bitmaps(&layers).await?;
            Cache::target(&self.args.target_cache)?;
            return self.write_existing(&source, bitmaps).await;
        }
        self.args.format()?;
        let options = self.target_options(&source)?;
        let bitmaps = self.source_bitmaps(&layers).await?;
        let image = options.image_with(&self.host.objects).map_err(Failure::from);
        let image = image.and_then(|image| Ok(image.check().map(|()| image)?));
        let image = image.and_then(|_| check_target(self.format_name(), self.target));
        image.map_err(|f| f.context(&self.converting()))?;
        if self.target == "-" {
            Cache::target(&self.args.target_cache)?;
            if bitmaps.is_some() {
                return Err(Failure::unsupported("writing bitmaps to standard output"));
            }
            self.stream(&source, &options).await
        } else {
            let named = |f: Failure| f.context(&self.converting());
            let new = NewTarget::new(
                self.host,
                self.target,
                options.image_with(&self.host.objects).map_err(Failure::from).map_err(named)?,
                &file_layout(&options),
                self.target_cache,
            )
            .map_err(named)?;
            new.create(self.host).await.map_err(named)?;
            Cache::target(&self.args.target_cache)?;
            self.write_new(&source, &new, bitmaps).await?;
            new.commit().await.map_err(named)
        }
    }

    /// The sources as one device, and each as it was opened.
    async fn open_sources(&self) -> Result<(Device, Vec<Arc<Layer>>), Failure> {
        let how = Opening {
            shares_raw: false,
            ..Opening::to_read(self.args.source_format.as_deref(), self.source_cache)
        };
        let (mut parts, mut layers) = (Vec::new(), Vec::new());
        for name in self.sources {
            let snapshot = self.args.snapshot.as_deref().filter(|_| self.sources.len() == 1);
            let layer = open_state(self.host, name, how.clone(), snapshot).await?;
            layers.push(layer.clone());
            let device: Device = layer;
            // Disks are whole sectors long.
            let len = device.len().next_multiple_of(512);
            parts.push(Part { device, start: 0, len });
        }
        if parts.len() > 1 && self.args.snapshot.is_some() {
            return Err(Failure::new("No support for concatenating multiple snapshot"));
        }
        if parts.len() > 1 && self.args.backing.is_some() {
            return Err(Failure::new(
                "Having a backing file for the target makes no sense when concatenating multiple \
                 input images",
            ));
        }
        let source = match &parts[..] {
            [only] => only.device.clone(),
            _ => Arc::new(Concat::new(parts)?),
        };
        if !self.args.salvage {
            return Ok((source, layers));
        }
        let quiet = self.args.quiet;
        let lost = move |offset: u64, _: u64, error: &sectora_core::Error| {
            if !quiet {
                let why = if stands_in() { reason(error) } else { told(error) };
                complain_as(&format!("warning: error while reading offset {offset}: {why}"));
            }
        };
        Ok((Arc::new(Salvage::new(source, Box::new(lost))), layers))
    }

    /// The image whose bitmaps are to be copied, where they are: all of them can be.
    async fn source_bitmaps(&self, layers: &[Arc<Layer>]) -> Result<Option<Arc<Layer>>, Failure> {
        if !self.args.bitmaps {
            return Ok(None);
        }
        let ([layer], [name]) = (layers, self.sources) else {
            return Err(Failure::new("Copying bitmaps only possible with single source"));
        };
        let layer = match self.args.snapshot {
            None => layer.clone(),
            // A snapshot has none; those of the image are meant.
            Some(_) => {
                let format = self.args.source_format.as_deref();
                self.host.open(name, Opening::to_read(format, self.source_cache)).await?
            }
        };
        if !layer.driver().supports_bitmaps() {
            return Err(Failure::new("Source lacks bitmap support"));
        }
        layer.driver().load_bitmaps().await?;
        let bitmaps = image::persistent_bitmaps(layer.bitmaps());
        let broken = bitmaps.iter().find(|bitmap| bitmap.status().inconsistent);
        match broken.filter(|_| !self.args.skip_broken_bitmaps) {
            Some(bitmap) => Err(Failure::new(format!(
                "Cannot copy inconsistent bitmap '{}'\n\
                 Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
                bitmap.name()
            ))),
            None => Ok(Some(layer)),
        }
    }

    fn target_options(&self, source: &Device) -> Result<OptionSet, Failure> {
        let mut options = option_set(self.format, &self.args.target_options)?;
        options.set("size", &source.len().to_string())?;
        let refused = |what| {
            let format = self.format;
            Failure::new(format!("Backing file{what} not supported for file format '{format}'"))
        };
        if let Some(backing) = &self.args.backing {
            options.set("backing_file", backing).map_err(|_| refused(""))?;
        }
        if let Some(format) = &self.args.backing_format {
            options.set("backing_fmt", format).map_err(|_| refused(" format"))?;
        }
        if options.get("backing_file").is_some() && options.get("backing_fmt").is_none() {
            return Err(Failure::new("Use of backing file requires explicit backing format"));
        }
        if self.options.compress && self.format == FormatName::Raw {
            return Err(Failure::new("Compression not supported for this file format"));
        }
        let prepared = options.get("preallocation").is_some_and(|mode| mode != "off");
        if self.options.compress && prepared {
            return Err(Failure::new(
                "Compression and preallocation not supported at the same time",
            ));
        }
        let encrypts = |name| options.get(name).is_some_and(|value| value != "off");
        if self.options.compress && (encrypts("encryption") || encrypts("encrypt.format")) {
            return Err(Failure::new("Compression and encryption not supported at the same time"));
        }
        Ok(options)
    }

    async fn write_new(
        &self,
        source: &Device,
        new: &NewTarget,
        bitmaps: Option<Arc<Layer>>,
    ) -> Result<(), Failure> {
        let options = OpenOptions {
            format: Some(self.format),
            access: Access::ReadWrite,
            data_file: new.data_file().into(),
            key: new.key(),
            by_options: Some(graph::by_options()),
            ..OpenOptions::default()
        };
        let env = self.host.env(self.target_cache);
        let target = open(&env, new.file(), self.target, options).await;
        let target = target.map_err(|e| Failure::opening(self.target, &e))?;
        keeps_bitmaps(&target, bitmaps.as_ref()).await?;
        let options = ConvertOptions { target_is_zero: new.is_zero(), ..self.options };
        self.copy(source, target, options, bitmaps).await
    }

    async fn write_existing(
        &self,
        source: &Device,
        bitmaps: Option<Arc<Layer>>,
    ) -> Result<(), Failure> {
        let format = match self.args.target_image_opts {
            true => self.args.target_format.as_deref(),
            false => match self.format_name() {
                // What is in a protocol's file is raw.
                protocol if is_protocol(protocol) => {
                    check_kind(protocol, self.target)
                        .map_err(|e| Failure::opening(self.target, &e))?;
                    Some("raw")
                }
                name => Some(name),
            },
        };
        let how = Opening {
            format,
            access: Access::ReadWrite,
            image_opts: Some(self.args.target_image_opts),
            ..Opening::to_read(None, self.target_cache)
        };
        // `--force-share` is for the sources.
        let target = self.host.unshared().open(self.target, how).await?;
        keeps_bitmaps(&target, bitmaps.as_ref()).await?;
        if self.options.compress && !target.capabilities().contains(Capabilities::COMPRESSED) {
            return Err(Failure::new("Compression not supported for this file format"));
        }
        if target.len() < source.len() {
            return Err(Failure::new("output file is smaller than input file"));
        }
        if self.options.target_is_zero && target.backing().is_some() {
            return Err(Failure::new(
                "--target-is-zero cannot be used when the target image has a backing file",
            ));
        }
        self.copy(source, target, self.options, bitmaps).await
    }

    async fn copy(
        &self,
        source: &Device,
        target: Arc<Layer>,
        options: ConvertOptions,
        bitmaps: Option<Arc<Layer>>,
    ) -> Result<(), Failure> {
        let meter = self.meter();
        let device: Device = target.clone();
        let parallel = self.workers(source, options).await?;
        let options = ConvertOptions { parallel, ..options };
        let tell = |done, total| meter.tell(done, total);
        let result = image::convert(&self.host.runtime, source, &device, options, &tell).await;
        meter.finish();
        result.map_err(Failure::of_request)?;
        let copied = match &bitmaps {
            Some(from) => self.copy_bitmaps(from, &target),
            None => Ok(()),
        };
        let closed = target.close().await;
        copied?;
        Ok(closed?)
    }

    fn copy_bitmaps(&self, from: &Layer, target: &Layer) -> Result<(), Failure> {
        for bitmap in image::persistent_bitmaps(from.bitmaps()) {
            if bitmap.status().inconsistent {
                warn(&format!("Skipping inconsistent bitmap '{}'", bitmap.name()));
            }
        }
        Ok(image::copy_bitmaps(from, target)?)
    }

    /// How many requests are really in flight: as many as were asked for, but
    /// - two where bytes only move from page cache to page cache: more get into each other's way;
    /// - two a core where something computes, and never so many that their buffers pass the
    ///   memory a copy may take.
    async fn workers(&self, source: &Device, options: ConvertOptions) -> Result<u16, Failure> {
        const COPYING: u16 = 2;
        const MOST_COMPUTING: u16 = 12;
        let compressed = match source.len() {
            0 => false,
            len => {
                // What is wrong with it is told when it is copied.
                let extents = source.extents(0, len).await.unwrap_or_default();
                extents.iter().any(|e| e.flags.contains(ExtentFlags::COMPRESSED))
            }
        };
        let useful = if options.compress || compressed {
            let cores = u16::try_from(self.host.runtime.parallelism().get()).unwrap_or(u16::MAX);
            cores.saturating_mul(2).min(MOST_COMPUTING)
        } else if self.source_cache.direct || self.target_cache.direct {
            options.parallel
        } else {
            COPYING
        };
        Ok(options.parallel.min(useful))
    }

    async fn stream(&self, source: &Device, options: &OptionSet) -> Result<(), Failure> {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new("a disk image is not written to a terminal: redirect it"));
        }
        if self.options.compress {
            return Err(Failure::unsupported("writing a compressed image to standard output"));
        }
        if self.args.backing.is_some() {
            return Err(Failure::unsupported("writing an overlay to standard output"));
        }
        let mut sink = SequentialSink::stdout()?;
        let meter = self.meter();
        let tell = |done, total| meter.tell(done, total);
        let image = options.image_with(&self.host.objects)?;
        let sparse = self.options.sparse_size;
        let result = image::stream(source, &image, sparse, &mut sink, &tell).await;
        meter.finish();
        Ok(result?)
    }

    fn meter(&self) -> Meter {
        Meter::new(&self.args.progress, self.args.quiet)
    }
}
