//! `map`: tells where an image's data is.

use super::args::{ImageArgs, OutputFormat, bytes};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::print;
use sectora_core::image::Mapper;
use sectora_core::io::Device;
use sectora_core::qapi::MapEntry;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Begin here
    #[arg(short, long, value_name = "OFFSET", allow_hyphen_values = true)]
    start_offset: Option<String>,

    /// Go no further than so many bytes
    #[arg(short = 'l', long, value_name = "LENGTH", allow_hyphen_values = true)]
    max_length: Option<String>,

    #[command(flatten)]
    image: ImageArgs,
}

/// Text is written in pieces of about this size.
const PIECE: usize = 64 << 10;

pub(super) fn run(args: Args) -> Outcome {
    let given = &args.image;
    given.host.check()?;
    let limit = |what, text: &Option<String>| text.as_ref().map(|t| bytes(what, t)).transpose();
    let start = limit("start offset", &args.start_offset)?.unwrap_or(0);
    let len = limit("max length", &args.max_length)?.unwrap_or(u64::MAX);
    let filename = given.filename()?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &given.host, given.force_share);
        async move {
            let how = Opening::to_look_at(given.format.as_deref());
            let image = host.open(filename, how).await?;
            match given.output {
                OutputFormat::Human => human(image, start, len).await,
                OutputFormat::Json => json(image, start, len).await,
            }
        }
    })
}

/// What is stored as it is, and where.
pub(super) async fn human(image: Device, start: u64, len: u64) -> Outcome {
    let mut mapper = Mapper::new(image, start, len);
    let mut text = format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
    let mut following = next(&mut mapper, &text).await?;
    while let Some(entry) = following.take() {
        following = next(&mut mapper, &text).await?;
        if !entry.data || entry.zero {
            continue;
        }
        let (Some(offset), Some(file)) = (entry.offset, &entry.filename) else {
            print(&text)?;
            let what = "File contains external, encrypted or compressed clusters.";
            return Err(Failure::new(what));
        };
        let (start, len, offset) = (hex(entry.start), hex(entry.length), hex(offset));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{start:<16}{len:<16}{offset:<16}{file}");
        if text.len() > PIECE {
            print(&text)?;
            text.clear();
        }
    }
    print(&text)?;
    Ok(0)
}

/// The next entry, which is looked for before the one before it is told: where it cannot be told, what
/// is known so far (`text`) is.
async fn next(mapper: &mut Mapper, text: &str) -> Result<Option<MapEntry>, Failure> {
    match mapper.next_entry().await {
        Ok(entry) => Ok(entry),
        Err(error) => {
            print(text)?;
            Err(Failure::of("Could not read file metadata", &error))
        }
    }
}

/// As C's `%#x`: nothing is not marked as hexadecimal.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

async fn json(image: Device, start: u64, len: u64) -> Outcome {
    let mut mapper = Mapper::new(image, start, len);
    let mut text = "[".to_owned();
    let mut between = "";
    let mut following = next(&mut mapper, &text).await?;
    while let Some(entry) = following.take() {
        following = next(&mut mapper, &text).await?;
        text.push_str(between);
        push_entry(&mut text, &entry);
        between = ",\n";
        if text.len() > PIECE {
            print(&text)?;
            text.clear();
        }
    }
    if between.is_empty() {
        // Nothing in the range is told as an entry without length.
        let nothing = MapEntry {
            start,
            length: 0,
            depth: 0,
            present: false,
            zero: false,
            data: false,
            compressed: false,
            offset: None,
            filename: None,
        };
        push_entry(&mut text, &nothing);
    }
    text.push_str("]\n");
    print(&text)?;
    Ok(0)
}

/// One entry on one line; the name of the file is left out.
fn push_entry(text: &mut String, e: &MapEntry) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
         \"data\": {}, \"compressed\": {}",
        e.start, e.length, e.depth, e.present, e.zero, e.data, e.compressed
    );
    if let Some(offset) = e.offset {
        let _ = write!(text, ", \"offset\": {offset}");
    }
    text.push('}');
}
