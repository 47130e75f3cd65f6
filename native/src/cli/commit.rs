//! `commit`: writes what an image holds into the one it stands on.

use super::args::{Cache, HostArgs, bytes};
use super::failure::{Failure, Outcome};
use super::host::{Host, NamedBacking, Opening, Threads, block_on, real_path, tell_events};
use super::output::print;
use super::progress::{Meter, ProgressArgs};
use sectora_core::image::{CommitChain, CommitOptions, commit};
use sectora_core::io::{Access, combine_path, has_protocol};

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

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    cache: String,

    /// Write into this image of the backing chain, not into the next one. The image is not emptied
    /// then
    #[arg(short, long, value_name = "BASE_IMG", allow_hyphen_values = true)]
    base: Option<String>,

    /// Do not empty the image afterwards
    #[arg(short, long)]
    drop: bool,

    /// Copy no more than so many bytes a second
    #[arg(short, long, value_name = "RATE", allow_hyphen_values = true)]
    rate: Option<String>,

    #[command(flatten)]
    host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let rate = args.rate.as_ref().map(|text| bytes("rate limit", text)).transpose()?;
    let [filename] = &args.filenames[..] else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let cache = Cache::target(&args.cache)?;
    let keep = args.drop || args.base.is_some();
    let options = CommitOptions { keep, rate: rate.unwrap_or(0) };
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &args.host, false);
        let args = &args;
        async move {
            let chain = open(&host, filename, args, cache).await?;
            let meter = Meter::new(&args.progress, args.quiet);
            let tell = |done, total| meter.tell(done, total);
            let done = commit(&host.runtime, &chain, options, &tell).await;
            meter.finish();
            done?;
            if !args.quiet {
                print("Image committed.\n")?;
            }
            Ok(0)
        }
    })
}

async fn open(host: &Host, name: &str, args: &Args, cache: Cache) -> Result<CommitChain, Failure> {
    let how = Opening {
        access: Access::ReadWrite,
        without_backing: true,
        ..Opening::to_read(args.format.as_deref(), cache)
    };
    let named = host.backing_of(name);
    let top = match &named {
        NamedBacking::Given { rest, .. } if args.format.is_none() => {
            let how = Opening { image_opts: Some(false), ..how };
            host.open_named(rest, how).await.map_err(|e| Failure::opening(name, &e))?
        }
        _ => host.open(name, how).await?,
    };
    let base = args.base.as_deref();
    let is_base =
        |above: &str, recorded: &str| base.is_none_or(|base| means(above, base, recorded));
    let given = match named {
        NamedBacking::Nothing => None,
        NamedBacking::Unsaid => Some(None),
        NamedBacking::Given { backing, .. } => Some(Some(backing)),
    };
    if let Some(given) = given {
        let chain = CommitChain::below(&host.env(cache), top, given, &is_base).await;
        if let Some(chain) = chain.map_err(|e| Failure::opening(name, &e))? {
            tell_events(chain.base());
            return Ok(chain);
        }
    }
    Err(match base {
        None => Failure::new("Image does not have a backing file"),
        Some(base) => {
            Failure::new(format!("Did not find '{base}' in the backing chain of '{name}'"))
        }
    })
}

/// True where `name` means the file that the image `above` calls `recorded`: both are taken from the
/// folder of that image. A name with a protocol is only what is spelled like it.
fn means(above: &str, name: &str, recorded: &str) -> bool {
    if has_protocol(name) || has_protocol(recorded) {
        return name == recorded;
    }
    let real = |name: &str| real_path(&combine_path(above, name));
    name == recorded || real(name).is_some_and(|name| real(recorded) == Some(name))
}
