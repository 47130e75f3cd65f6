//! `dd`: copies a run of blocks of an image into a new one.

use super::args::{Cache, HostArgs, MAX_INT, MAX_OFFSET, bytes_in, number};
use super::create::{NewTarget, file_layout};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on, shown};
use super::output::{complain_as, stands_in};
use sectora_core::format::{FormatName, OpenOptions, open};
use sectora_core::image::{ConvertOptions, OptionSet, convert, create_options, no_progress};
use sectora_core::io::{Access, Concat, Device, Part};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Format of the source; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Format of the new image
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        default_value = "raw",
        allow_hyphen_values = true
    )]
    output_format: String,

    /// Read the source although another program writes to it
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    host: HostArgs,

    /// if=SOURCE of=NEW [bs=BYTES, 512 by default] [count=BLOCKS] [skip=BLOCKS]
    #[arg(value_name = "OPERAND")]
    operands: Vec<String>,
}

/// What the operands say.
#[derive(Debug, Default)]
struct Operands {
    source: Option<String>,
    target: Option<String>,
    block: Option<u64>,
    count: Option<u64>,
    skip: Option<u64>,
}

impl Operands {
    fn parse(words: &[String]) -> Result<Self, Failure> {
        let mut out = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if !word.contains('=') {
                return Err(Failure::new(format!("unrecognized operand {name}")));
            }
            match name {
                "if" => out.source = Some(value.to_owned()),
                "of" => out.target = Some(value.to_owned()),
                "bs" => out.block = Some(bytes_in("bs", value, 1..=MAX_INT)?),
                "count" => out.count = Some(number("count", value, 0..=MAX_OFFSET)?),
                "skip" => out.skip = Some(number("skip", value, 0..=MAX_OFFSET)?),
                _ => return Err(Failure::new(format!("unrecognized operand {name}"))),
            }
        }
        Ok(out)
    }

    /// Start and length of what is copied of a source of `size` bytes; `None` where the start
    /// lies past its end.
    fn range(&self, size: u64) -> Option<(u64, u64)> {
        let block = self.block.unwrap_or(512);
        let end = self.count.map_or(size, |count| size.min(count.saturating_mul(block)));
        let start = self.skip.unwrap_or(0).saturating_mul(block);
        (start <= size).then(|| (start, end.saturating_sub(start)))
    }
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let operands = Operands::parse(&args.operands)?;
    let (Some(source), Some(target)) = (&operands.source, &operands.target) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let (args, operands) = (&args, &operands);
        async move { copy(&host, args, operands, source, shown(target)).await.map(|()| 0) }
    })
}

async fn copy(
    host: &Host,
    args: &Args,
    operands: &Operands,
    source: &str,
    target: &str,
) -> Result<(), Failure> {
    let cache = Cache::default();
    let how = Opening { shares_raw: false, ..Opening::to_read(args.format.as_deref(), cache) };
    let image: Device = host.open(source, how).await?;
    let name = &args.output_format;
    let format: FormatName = name.parse().map_err(|_| Failure::new("Unknown file format"))?;
    if create_options(format).is_none() {
        let what = format!("Format driver '{name}' does not support image creation");
        return Err(Failure::new(what));
    }
    let range = operands.range(image.len());
    let (start, len) = range.unwrap_or((image.len(), 0));
    let part: Device = Arc::new(Concat::new(vec![Part { device: image, start, len }])?);

    let named = |f: Failure| f.context(&format!("{target}: error while creating output image"));
    let mut options = OptionSet::new(format)?;
    options.set("size", &len.to_string())?;
    let new = NewTarget::new(host, target, options.image()?, &file_layout(&options), cache)
        .map_err(named)?;
    new.create(host).await.map_err(named)?;
    if range.is_none() {
        complain_as(&format!("{source}: cannot skip to specified offset"));
    }
    let options = OpenOptions {
        format: Some(format),
        access: Access::ReadWrite,
        data_file: new.data_file().into(),
        ..OpenOptions::default()
    };
    let opened = open(&host.env(cache), new.file(), target, options).await;
    let layer = opened.map_err(|e| Failure::opening(target, &e))?;
    // Blocks are copied as they are: zeroes are written too.
    let options = ConvertOptions { sparse_size: 0, parallel: 2, ..ConvertOptions::default() };
    let device: Device = layer.clone();
    let copied = convert(&host.runtime, &part, &device, options, &no_progress).await;
    copied.map_err(|error| {
        match stands_in() && error.what().starts_with("error while reading") {
            true => Failure::of("error while reading from input image file", &error),
            false => Failure::of_request(error),
        }
    })?;
    layer.close().await?;
    new.commit().await.map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_by_the_source_then_by_the_count() {
        let range = |block, count, skip, size| {
            let block = Some(block);
            Operands { block, count, skip, ..Operands::default() }.range(size)
        };
        assert_eq!(range(512, None, None, 1000), Some((0, 1000)));
        assert_eq!(range(100, Some(3), None, 1000), Some((0, 300)));
        assert_eq!(range(100, Some(3), Some(1), 1000), Some((100, 200)));
        assert_eq!(range(100, Some(3), Some(5), 1000), Some((500, 0)));
        assert_eq!(range(100, None, Some(10), 1000), Some((1000, 0)));
        assert_eq!(range(100, None, Some(11), 1000), None);
        let most = i64::MAX as u64;
        assert_eq!(range(MAX_INT, Some(most), None, 1000), Some((0, 1000)));
        assert_eq!(range(MAX_INT, Some(most), Some(most), 1000), None);
    }
}
