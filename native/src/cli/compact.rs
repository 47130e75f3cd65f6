//! `compact`: gives space back in place.

use super::args::{Cache, ImageArgs, OutputFormat};
use super::failure::Outcome;
use super::host::{Host, Opening, Threads, block_on};
use super::output::{human_size, print, print_json};
use super::progress::{Meter, ProgressArgs};
use sectora_core::image::{CompactOptions, Compacted, compact};
use sectora_core::io::Access;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Clusters that are zero are given up, clusters at the end of the file are moved into \
                  free ones, and the unused end is cut off. Compressed data, snapshots and bitmaps \
                  stay where they are; what is free before them is given back to the file system. \
                  It can be stopped at any time, and started again."
)]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Change nothing; tell what would be given up
    #[arg(long)]
    dry_run: bool,

    /// Give up what equals the backing file, too: it must keep its contents from then on, as it
    /// must for the rest
    #[arg(long)]
    backing: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    image: ImageArgs,
}

pub(super) fn run(args: Args) -> Outcome {
    let (args, given) = (&args, &args.image);
    given.host.check()?;
    let filename = given.filename()?;
    block_on(Threads::PerCore, |runtime| {
        let host = Host::new(runtime, &given.host, given.force_share);
        async move {
            let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
            let opening = Opening::to_read(given.format.as_deref(), Cache::default());
            let image = host.open(filename, Opening { access, ..opening }).await?;
            let meter =
                Meter::new(&args.progress, args.quiet || given.output == OutputFormat::Json);
            let options = CompactOptions { backing: args.backing, dry_run: args.dry_run };
            let done = compact(&image, options, &|done, all| meter.tell(done, all)).await;
            meter.finish();
            let done = done?;
            image.close().await?;
            match given.output {
                OutputFormat::Json => print_json(&report(args, filename, &done))?,
                OutputFormat::Human if args.quiet => {}
                OutputFormat::Human => print(&text(args, &done))?,
            }
            Ok(0)
        }
    })
}

/// What is told with `--output=json`: sizes in bytes, those given up as parts of the disk, the others
/// as parts of the file.
fn report(args: &Args, filename: &str, done: &Compacted) -> serde_json::Value {
    serde_json::json!({
        "filename": filename,
        "dry-run": args.dry_run,
        "zeroes": done.zeroes,
        "same-as-backing": done.same_as_backing,
        "moved": done.packed.moved,
        "not-moved": {
            "compressed": done.packed.compressed,
            "snapshots": done.packed.snapshots,
            "other": done.packed.other,
        },
        "free": done.packed.free,
        "length-before": done.file_len.0,
        "length-after": done.file_len.1,
    })
}

fn text(args: &Args, done: &Compacted) -> String {
    let what = if args.dry_run { "can be given up" } else { "given up" };
    let size = |bytes| format!("{} ({bytes} bytes)", human_size(bytes));
    let mut text = format!("zeroes {what}: {}\n", size(done.zeroes));
    if args.backing {
        text.push_str(&format!(
            "same as the backing file, {what}: {}\n",
            size(done.same_as_backing)
        ));
    }
    let moved = if args.dry_run { "would be moved, as the file is" } else { "moved" };
    text.push_str(&format!("{moved}: {}\n", size(done.packed.moved)));
    for (what, bytes) in [
        ("compressed data", done.packed.compressed),
        ("data of snapshots", done.packed.snapshots),
        ("other clusters", done.packed.other),
    ] {
        if bytes > 0 {
            text.push_str(&format!("{what} at the end, not moved: {}\n", size(bytes)));
        }
    }
    if done.packed.free > 0 {
        text.push_str(&format!("free within the file: {}\n", size(done.packed.free)));
    }
    match args.dry_run {
        true => text.push_str(&format!("file length: {}\n", size(done.file_len.0))),
        false => {
            let (before, after) = done.file_len;
            text.push_str(&format!("file length: {} before, {} now\n", size(before), size(after)));
        }
    }
    text
}
