//! `resize`: makes a disk larger or smaller.

use super::args::{Cache, HostArgs};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on, close};
use super::output::print;
use sectora_core::ErrorKind;
use sectora_core::image::{SizeError, parse_size};
use sectora_core::io::{Access, BlockDevice, Preallocation};
use std::ffi::OsString;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    format: Option<String>,

    /// Allow the disk to become smaller: what lies past its new end is lost
    #[arg(long)]
    shrink: bool,

    /// How the space that is gained is prepared: off, metadata, falloc or full
    #[arg(long, value_name = "PREALLOC", allow_hyphen_values = true)]
    preallocation: Option<String>,

    #[command(flatten)]
    host: HostArgs,

    /// The image, and its new size; with + or - in front, by how much it changes
    #[arg(value_name = "FILENAME [+-]SIZE")]
    arguments: Vec<String>,
}

const NOT_A_SIZE: &str = "Parameter 'size' expects a non-negative number below 2^64\n\
                          Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, \
                          peta-\nand exabytes, respectively.";

/// A size with a minus in front looks like an option. Right behind the name of the image it is none:
/// there it is moved to where it cannot be mistaken for one. `first` is where the verb's words begin.
pub(super) fn mark_size(args: &mut Vec<OsString>, first: usize) {
    let mut words = args.iter().enumerate().skip(first);
    while let Some((at, word)) = words.next() {
        match word.as_encoded_bytes() {
            b"--" => return,
            // Those that have a value, which may be the next word.
            b"-f" | b"-qf" => _ = words.next(),
            option @ [b'-', b'-', _, ..] => {
                let has_value = [&b"--f"[..], b"--p", b"--o", b"--a"];
                if has_value.iter().any(|o| option.starts_with(o)) && !option.contains(&b'=') {
                    words.next();
                }
            }
            [b'-', _, ..] => {}
            _ => {
                let next = args.get(at + 1).map(|next| next.as_encoded_bytes());
                if let Some([b'-', b'0'..=b'9', ..]) = next {
                    let size = args.remove(at + 1);
                    args.extend(["--".into(), size]);
                }
                return;
            }
        }
    }
}

/// A size as it was given.
enum Change {
    To(u64),
    More(u64),
    Less(u64),
}

pub(super) fn run(args: Args) -> Outcome {
    args.host.check()?;
    let preallocation = match args.preallocation.as_deref() {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(other) => {
            return Err(Failure::new(format!("Invalid preallocation mode '{other}'")));
        }
    };
    let (filename, size) = match &args.arguments[..] {
        [filename, size] => (filename, size),
        [_, _, _, ..] => return Err(Failure::usage("Extra argument(s) in command line")),
        _ => return Err(Failure::usage("Expecting image file name and size")),
    };
    let change = change(size)?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &args.host, false);
        let args = &args;
        async move {
            let how = Opening {
                access: Access::ReadWrite,
                ..Opening::to_read(args.format.as_deref(), Cache::default())
            };
            let image = host.open(filename, how).await?;
            let now = image.len();
            let most = i64::MAX as u64;
            let size = match change {
                Change::To(size) => Some(size),
                Change::More(more) => now.checked_add(more),
                Change::Less(less) => now.checked_sub(less),
            };
            let size = size.filter(|size| (1..=most).contains(size));
            let size = size.ok_or_else(|| Failure::new("New image size must be positive"))?;
            if size <= now && preallocation != Preallocation::Off {
                return Err(Failure::new("Preallocation can only be used for growing images"));
            }
            if size < now && !args.shrink {
                let failure =
                    Failure::new("Use the --shrink option to perform a shrink operation.");
                return Err(failure.and_again(
                    "warning: Shrinking an image will delete all data beyond the shrunken image's \
                     end. Before performing such an operation, make sure there is no important \
                     data there.",
                ));
            }
            image.set_len(size, preallocation).await.map_err(|e| match e.kind() {
                ErrorKind::InvalidInput | ErrorKind::Limit | ErrorKind::Unsupported => {
                    Failure::new(e.what().to_owned())
                }
                _ => Failure::from(e),
            })?;
            close(&image).await?;
            if !args.quiet {
                print("Image resized.\n")?;
            }
            Ok(0)
        }
    })
}

fn change(text: &str) -> Result<Change, Failure> {
    let (make, digits): (fn(u64) -> Change, &str) = match text.split_at_checked(1) {
        Some(("+", digits)) => (Change::More, digits),
        Some(("-", digits)) => (Change::Less, digits),
        _ => (Change::To, text),
    };
    match parse_size(digits) {
        // A second sign.
        Ok(_) if digits.starts_with('-') => {
            Err(Failure::new(format!("Value '{digits}' is out of range for parameter 'size'")))
        }
        Ok(size) => Ok(make(size)),
        Err(SizeError::Range) => {
            Err(Failure::new(format!("Value '{digits}' is out of range for parameter 'size'")))
        }
        Err(SizeError::Syntax) => Err(Failure::new(NOT_A_SIZE)),
    }
}
