//! `compare`: tells whether two images have the same contents.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on, shown};
use super::output::{print, stands_in};
use super::progress::{Meter, ProgressArgs};
use sectora_core::image::{CompareError, CompareOptions, Difference, compare};
use sectora_core::io::Device;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the contents are the same, 1 they differ, 2 an image could not \
                        be opened, 3 it could not be told what is allocated in an image, 4 an image \
                        could not be read."
)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    /// Format of the first image; guessed from its contents where it is not given
    #[arg(short = 'f', long = "a-format", value_name = "FMT", allow_hyphen_values = true)]
    first_format: Option<String>,

    /// Format of the second image; guessed from its contents where it is not given
    #[arg(short = 'F', long = "b-format", value_name = "FMT", allow_hyphen_values = true)]
    second_format: Option<String>,

    /// Images of different size, or with different parts allocated, differ
    #[arg(short, long)]
    strict: bool,

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(short = 'T', long, value_name = "CACHE", allow_hyphen_values = true)]
    cache: Option<String>,

    /// Read the images although another program writes to them
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    host: HostArgs,

    /// The two images
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

/// An image could not be opened.
pub(super) const NOT_OPENED: u8 = 2;
/// What is allocated in an image is unknown.
const NOT_TOLD: u8 = 3;
/// An image could not be read.
const NOT_READ: u8 = 4;

pub(super) fn run(args: Args) -> Outcome {
    args.host.check().map_err(|f| f.with_code(NOT_OPENED))?;
    let [first, second] = &args.filenames[..] else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let cache = Cache::source(args.cache.as_deref()).map_err(|f| f.with_code(NOT_OPENED))?;
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        let args = &args;
        async move {
            let open = async |name: &str, format: &Option<String>| {
                let opened = host.open(name, Opening::to_read(format.as_deref(), cache)).await;
                opened.map_err(|f| f.with_code(NOT_OPENED))
            };
            let first: Device = open(first, &args.first_format).await?;
            let second: Device = open(second, &args.second_format).await?;
            let options = CompareOptions { strict: args.strict };
            let meter = Meter::new(&args.progress, args.quiet);
            let tell = |done, total| meter.tell(done, total);
            let result = compare(&first, &second, options, &tell).await;
            // Under that name the line of progress ends after what is said.
            let [before, after] = [false, true].map(|after| stands_in() == after);
            if before {
                meter.finish();
            }
            let finish = || {
                if after {
                    meter.finish()
                }
            };
            let common = first.len().min(second.len());
            let difference = match result {
                Ok(difference) => difference,
                Err(e) => {
                    if !args.quiet && e.offset >= common && first.len() != second.len() {
                        print(SIZES_DIFFER)?;
                    }
                    finish();
                    return Err(failed(&args.filenames, e));
                }
            };
            if !args.quiet {
                print(&words(&first, &second, difference))?;
            }
            finish();
            Ok(u8::from(difference.is_some()))
        }
    })
}

const SIZES_DIFFER: &str = "Warning: Image size mismatch!\n";

/// What one of the images said.
fn failed(names: &[String], e: CompareError) -> Failure {
    let name = names.get(usize::from(e.second)).map_or("", |name| shown(name));
    let (doing, code) = match e.reading {
        true => (format!("Error while reading offset {} of {name}", e.offset), NOT_READ),
        false => (format!("Sector allocation test failed for {name}"), NOT_TOLD),
    };
    match stands_in() && !e.reading {
        true => Failure::new(doing),
        false => Failure::of(&doing, &e.error),
    }
    .with_code(code)
}

fn words(first: &Device, second: &Device, difference: Option<Difference>) -> String {
    let common = first.len().min(second.len());
    let result = match difference {
        None => "Images are identical.".to_owned(),
        Some(Difference::Size) => return "Strict mode: Image size mismatch!\n".to_owned(),
        // The reference compares sectors.
        Some(Difference::Content(offset)) if stands_in() => {
            format!("Content mismatch at offset {}!", offset - offset % 512)
        }
        Some(Difference::Content(offset)) => format!("Content mismatch at offset {offset}!"),
        Some(Difference::Status(offset)) => {
            format!("Strict mode: Offset {offset} block status mismatch!")
        }
    };
    // Worth a word where it was looked at: not where the images differ before that.
    let reached = match difference {
        Some(Difference::Content(offset) | Difference::Status(offset)) => offset >= common,
        _ => true,
    };
    match first.len() != second.len() && reached {
        true => format!("{SIZES_DIFFER}{result}\n"),
        false => format!("{result}\n"),
    }
}
