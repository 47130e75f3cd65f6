//! `measure`: tells how large a new image will be.

use super::args::{Cache, HostArgs, OutputFormat, bytes, option_help, option_set};
use super::args::{target_format, wants_option_help};
use super::failure::{Failure, Outcome, told};
use super::host::{Host, Opening, Threads, block_on};
use super::output::{print, print_json, stands_in};
use super::snapshot::{SnapshotParam, open_state};
use sectora_core::Error;
use sectora_core::image::{NewImage, OptionSet, measure_new, measure_source, no_progress};
use sectora_core::io::BlockDevice;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Format of the new image
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        default_value = "raw",
        allow_hyphen_values = true
    )]
    target_format: String,

    /// Creation options of the new image: NAME=VALUE,…; 'help' lists them
    #[arg(short = 'o', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,

    /// Size of a new, empty image
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<String>,

    /// Format of FILENAME; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Measure this internal snapshot of FILENAME: snapshot.id=ID,snapshot.name=NAME, or one of both
    #[arg(short = 'l', long = "snapshot", value_name = "SNAPSHOT", allow_hyphen_values = true)]
    snapshot: Option<String>,

    /// Read the image although another program writes to it
    #[arg(short = 'U', long)]
    force_share: bool,

    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    output: OutputFormat,

    #[command(flatten)]
    host: HostArgs,

    /// The image whose contents the new one will hold
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let size = args.size.as_ref().map(|text| bytes("image size", text)).transpose()?;
    let filename = match &args.filenames[..] {
        [] => None,
        [filename] => Some(filename.as_str()),
        _ => return Err(Failure::new("At most one filename argument is allowed.")),
    };
    if filename.is_none() && (args.format.is_some() || args.snapshot.is_some()) {
        return Err(Failure::new("--image-opts, -f, and -l require a filename argument."));
    }
    match (filename, size) {
        (None, None) => {
            return Err(Failure::new("Either --size N or one filename must be specified."));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::new("--size N cannot be used together with a filename."));
        }
        _ => {}
    }
    if let Some(snapshot) = &args.snapshot {
        SnapshotParam::parse(snapshot)?;
    }
    if wants_option_help(&args.options) && !stands_in() {
        print(&option_help(target_format(&args.target_format)?, false))?;
        return Ok(0);
    }
    let args = &args;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, args.force_share);
        async move {
            let sizes = match filename {
                None => {
                    let mut options = given_options(args)?;
                    set_size(&mut options, size.unwrap_or(0))?;
                    measure_new(&new_image(&options, &host)?).map_err(worded)?
                }
                Some(filename) => {
                    let format = args.format.as_deref();
                    let how = match args.snapshot {
                        // As the reference does, which reads it.
                        Some(_) => Opening::to_read(format, Cache::default()),
                        None => Opening::to_look_at(format),
                    };
                    let source = open_state(&host, filename, how, args.snapshot.as_deref()).await?;
                    let mut options = given_options(args)?;
                    set_size(&mut options, source.len())?;
                    measure_source(&new_image(&options, &host)?, &source, &no_progress)
                        .await
                        .map_err(worded)?
                }
            };
            match args.output {
                OutputFormat::Json => print_json(&sizes)?,
                OutputFormat::Human => {
                    let mut text = format!(
                        "required size: {}\nfully allocated size: {}\n",
                        sizes.required, sizes.fully_allocated
                    );
                    if let Some(bitmaps) = sizes.bitmaps {
                        text.push_str(&format!("bitmaps size: {bitmaps}\n"));
                    }
                    print(&text)?;
                }
            }
            Ok(0)
        }
    })
}

fn given_options(args: &Args) -> Result<OptionSet, Failure> {
    let format = target_format(&args.target_format)?;
    let options = option_set(format, &args.options);
    options.map_err(|f| f.and_again(&format!("Invalid options for file format '{format}'")))
}

fn new_image(options: &OptionSet, host: &Host) -> Result<NewImage, Failure> {
    match (options.get("compat"), options.get("preallocation")) {
        (Some(other), _) if !matches!(other, "1.1" | "v3" | "0.10" | "v2") => {
            Err(Failure::new(format!("Invalid compatibility level: '{other}'")))
        }
        (_, Some(other)) if !matches!(other, "off" | "metadata" | "falloc" | "full") => {
            Err(Failure::new(format!("invalid parameter value: {other}")))
        }
        _ => Ok(options.image_with(&host.objects)?),
    }
}

/// What a new image is refused for, as measuring words it.
fn worded(error: Error) -> Failure {
    if error.what() == "Unable to get block status" {
        return Failure::of_request(error);
    }
    let text = told(&error).replace("(use version=v3 or greater)", "(use compat=1.1 or greater)");
    Failure::new(text.replace("too large for file format 'qcow2'", "too large"))
}

fn set_size(options: &mut OptionSet, size: u64) -> Result<(), Failure> {
    Ok(options.set("size", &size.to_string())?)
}
