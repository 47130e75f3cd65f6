//! `check`: looks for damage in an image.

use super::args::{Cache, ImageArgs, OutputFormat};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::{complain, print, print_json};
use sectora_core::image::{Check, check, no_progress};
use sectora_core::qapi::ImageCheck;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no errors, 1 the check could not be completed, 2 damage, \
                        3 lost space only, 63 the format has nothing to check.")]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(short = 'T', long, value_name = "CACHE", allow_hyphen_values = true)]
    cache: Option<String>,

    #[arg(short, long, value_name = "WHAT", hide = true, allow_hyphen_values = true)]
    repair: Option<String>,

    #[command(flatten)]
    image: ImageArgs,
}

/// The format has nothing to check.
const NOT_CHECKABLE: u8 = 63;

pub(super) fn run(args: Args) -> Outcome {
    let given = &args.image;
    given.host.check()?;
    match args.repair.as_deref() {
        None => {}
        Some("leaks" | "all") => return Err(Failure::unsupported("repairing images (-r)")),
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::usage(text));
        }
    }
    let filename = given.filename()?;
    let cache = Cache::source(args.cache.as_deref())?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &given.host, given.force_share);
        async move {
            let image = host
                .open(filename, Opening { cache, ..Opening::to_look_at(given.format.as_deref()) })
                .await?;
            let found = match check(&image, &no_progress).await {
                Ok(found) => found,
                Err(e) => return Err(Failure::from(e).context("Check failed")),
            };
            let Some(Check { summary, report }) = found else {
                let what = "This image format does not support checks";
                return Err(Failure::new(what).with_code(NOT_CHECKABLE));
            };
            for finding in &report.findings {
                complain(&finding.what);
            }
            match given.output {
                OutputFormat::Json => print_json(&summary)?,
                OutputFormat::Human if args.quiet => {}
                OutputFormat::Human => print(&human(&summary))?,
            }
            Ok(exit_code(&summary))
        }
    })
}

fn exit_code(summary: &ImageCheck) -> u8 {
    match summary {
        s if s.check_errors > 0 => 1,
        s if s.corruptions.is_some() => 2,
        s if s.leaks.is_some() => 3,
        _ => 0,
    }
}

/// The summary, for people.
pub(super) fn human(summary: &ImageCheck) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_summary(&mut text, summary);
    text
}

fn write_summary(text: &mut String, summary: &ImageCheck) -> std::fmt::Result {
    if exit_code(summary) == 0 {
        writeln!(text, "No errors were found on the image.")?;
    }
    if let Some(corruptions) = summary.corruptions {
        writeln!(
            text,
            "\n{corruptions} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it."
        )?;
    }
    if let Some(leaks) = summary.leaks {
        writeln!(
            text,
            "\n{leaks} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data."
        )?;
    }
    if summary.check_errors > 0 {
        let errors = summary.check_errors;
        writeln!(text, "\n{errors} internal errors have occurred during the check.")?;
    }
    if let (Some(total), Some(allocated)) = (summary.total_clusters, summary.allocated_clusters) {
        let share = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        writeln!(
            text,
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            share(allocated, total),
            share(summary.fragmented_clusters.unwrap_or(0), allocated),
            share(summary.compressed_clusters.unwrap_or(0), allocated),
        )?;
    }
    match summary.image_end_offset {
        Some(end) => writeln!(text, "Image end offset: {end}"),
        None => Ok(()),
    }
}
