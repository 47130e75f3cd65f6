//! `amend`: changes what an image is like.

use super::args::{Cache, HostArgs, check_list, is_protocol, option_list, wants_option_help};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on, driver_name};
use super::output::print;
use super::progress::{Meter, ProgressArgs};
use sectora_core::Error;
use sectora_core::format::FormatName;
use sectora_core::image::{
    OptionSet, amend, amend_encryption, amend_encryption_options, amend_options, create_options,
};
use sectora_core::io::Access;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// What is to change: NAME=VALUE,…; 'help' lists what can
    #[arg(short = 'o', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(short = 't', long, value_name = "CACHE", allow_hyphen_values = true)]
    cache: Option<String>,

    /// Allow what can make data unreadable
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    if args.options.is_empty() {
        return Err(Failure::usage("Must specify options (-o)"));
    }
    let help = wants_option_help(&args.options);
    if let (true, Some(name)) = (help, &args.format) {
        if is_protocol(name) {
            return Err(cannot_amend(name));
        }
        let format =
            name.parse().map_err(|_| Failure::new(format!("Unknown file format '{name}'")))?;
        return amend_help(format);
    }
    let [filename] = &args.filenames[..] else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let mode = args.cache.as_deref().unwrap_or("writeback");
    let cache =
        Cache::parse(mode).ok_or_else(|| Failure::new(format!("Invalid cache option: {mode}")))?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, false);
        let args = &args;
        async move {
            let how = Opening {
                access: Access::ReadWrite,
                ..Opening::to_read(args.format.as_deref(), cache)
            };
            let image = host.open(filename, how).await?;
            if image.is_bare() {
                return Err(cannot_amend(driver_name(&image).await?));
            }
            let format: FormatName = image.driver().name().parse()?;
            if help {
                return amend_help(format);
            }
            let options = options(format, &args.options)?;
            let change = options.amendment();
            let slots =
                amend_encryption_options(|name| options.get(name), &host.objects, args.force)?;
            let meter = Meter::new(&args.progress, args.quiet);
            let tell = |done, total| meter.tell(done, total);
            if let Some(slots) = slots {
                image.driver().check_amend(&change).map_err(refusal)?;
                amend_encryption(&image, &slots).await?;
            }
            amend(&image, &change, &tell).await.map_err(refusal)?;
            image.close().await?;
            meter.finish();
            Ok(0)
        }
    })
}

/// An error in its own words.
fn refusal(error: Error) -> Failure {
    Failure::new(error.what().to_owned())
}

fn options(format: FormatName, lists: &[String]) -> Result<OptionSet, Failure> {
    let mut set = OptionSet::for_amending(format)?;
    for list in lists {
        check_list(list)?;
        set.add(list).map_err(|error| {
            let only_made = create_options(format).unwrap_or_default().iter().any(|o| {
                !o.of_file && error.what().ends_with(&format!("Invalid parameter '{}'", o.name))
            });
            let failure = Failure::from(error);
            match only_made {
                true => failure.and("This option is only supported for image creation"),
                false => failure,
            }
        })?;
    }
    Ok(set)
}

fn cannot_amend(driver: &str) -> Failure {
    Failure::new(format!("Format driver '{driver}' does not support option amendment"))
}

fn amend_help(format: FormatName) -> Outcome {
    let options = amend_options(format).ok_or_else(|| cannot_amend(format.as_str()))?;
    print(&format!("Amend options for '{format}':\n{}", option_list(options.iter())))?;
    Ok(0)
}
