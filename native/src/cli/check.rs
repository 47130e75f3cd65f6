//! `check`: looks for damage in an image, and repairs it.

use super::args::{Cache, ImageArgs, OutputFormat};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::{complain, print, print_json};
use super::progress::{Meter, ProgressArgs};
use sectora_core::format::{CheckReport, Finding, FindingKind, Repair};
use sectora_core::image::{Check, check};
use sectora_core::qapi::ImageCheck;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no errors (any more), 1 the check could not be completed, \
                        2 damage, 3 lost space only, 63 the format has nothing to check.")]
pub(super) struct Args {
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Cache mode: none, writeback, writethrough, directsync or unsafe
    #[arg(short = 'T', long, value_name = "CACHE", allow_hyphen_values = true)]
    cache: Option<String>,

    /// Repair: leaks (lost space, without risk) or all (everything that can be repaired)
    #[arg(short, long, value_name = "leaks|all", allow_hyphen_values = true)]
    repair: Option<String>,

    /// Change nothing; list what there is, what a repair would do about it, and what it would cost
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    image: ImageArgs,
}

/// The format has nothing to check.
const NOT_CHECKABLE: u8 = 63;

pub(super) fn run(args: Args) -> Outcome {
    let (args, given) = (&args, &args.image);
    given.host.check()?;
    let repair = match args.repair.as_deref() {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::usage(text));
        }
    };
    let filename = given.filename()?;
    let cache = Cache::source(args.cache.as_deref())?;
    let now = if args.dry_run { Repair::Nothing } else { repair };
    if given.host.image_opts && given.format.is_some() {
        return Err(Failure::new("--image-opts and --format are mutually exclusive"));
    }
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &given.host, given.force_share);
        async move {
            let how = Opening::to_check(given.format.as_deref(), cache, now != Repair::Nothing);
            let image = host.open(filename, how).await?;
            let meter = Meter::new(&args.progress, args.quiet);
            let found = check(&image, now, &|done, all| meter.tell(done, all)).await;
            meter.finish();
            let found = match found {
                Ok(found) => found,
                Err(e) => return Err(Failure::from(e).context("Check failed")),
            };
            let Some(mut found) = found else {
                let what = "This image format does not support checks";
                return Err(Failure::new(what).with_code(NOT_CHECKABLE));
            };
            image.close().await?;
            found.summary.filename = filename.to_owned();
            match args.dry_run {
                true => tell_plan(args, repair, &found),
                false => tell(args, &found),
            }
        }
    })
}

/// Says what was found and repaired.
fn tell(args: &Args, found: &Check) -> Outcome {
    let Check { summary, report, second } = found;
    complain_of(report);
    let human = args.image.output == OutputFormat::Human && !args.quiet;
    if second.is_some() && human {
        print(&format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    \
             {} corruptions\n\nDouble checking the fixed image now...\n",
            report.leaks_fixed, report.corruptions_fixed
        ))?;
    }
    if let Some(second) = second {
        complain_of(second);
    }
    if let Some(why) = &found.last().failed {
        return Err(Failure::new(format!("Check failed: {why}")));
    }
    match args.image.output {
        _ if args.quiet => {}
        OutputFormat::Json => print_json(summary)?,
        OutputFormat::Human => print(&self::human(summary))?,
    }
    match summary.check_errors {
        0 => Ok(exit_code(summary)),
        _ => Err(Failure::new("Check failed")),
    }
}

fn complain_of(report: &CheckReport) {
    for finding in &report.findings {
        complain(&finding.what);
    }
}

/// What a repair would do, for programs.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Plan<'a> {
    #[serde(flatten)]
    summary: &'a ImageCheck,
    findings: Vec<PlannedFinding<'a>>,
}

/// One line of it.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct PlannedFinding<'a> {
    kind: &'static str,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// This repair would do it.
    repairs: bool,
    repair: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<&'static str>,
}

/// Says what `repair` would do; nothing has been changed.
fn tell_plan(args: &Args, repair: Repair, found: &Check) -> Outcome {
    // Without -r: what could be done at most.
    let repair = if repair == Repair::Nothing { Repair::All } else { repair };
    let plan = |finding: &Finding| finding.remedy.needs().is_some_and(|needs| needs <= repair);
    let (summary, report) = (&found.summary, &found.report);
    match args.image.output {
        OutputFormat::Json => {
            let findings = report.findings.iter().map(|finding| PlannedFinding {
                kind: finding.kind.name(),
                what: &finding.what,
                offset: finding.at,
                repairs: plan(finding),
                repair: finding.remedy.what(),
                lost: finding.remedy.lost(),
            });
            print_json(&Plan { summary, findings: findings.collect() })?;
        }
        OutputFormat::Human if args.quiet => {}
        OutputFormat::Human => {
            let mut text = String::new();
            for finding in report.findings.iter().filter(|f| f.kind != FindingKind::Note) {
                // Writing to a string cannot fail.
                let _ = write_planned(&mut text, finding, plan(finding));
            }
            text.push_str(&human(summary));
            print(&text)?;
        }
    }
    match &report.failed {
        Some(why) => Err(Failure::new(format!("Check failed: {why}"))),
        None if summary.check_errors > 0 => Err(Failure::new("Check failed")),
        None => Ok(exit_code(summary)),
    }
}

fn write_planned(text: &mut String, finding: &Finding, plan: bool) -> std::fmt::Result {
    if let Some(at) = finding.at {
        write!(text, "{at:#x}: ")?;
    }
    writeln!(text, "{}", finding.what)?;
    let verb = if plan { "would" } else { "would not" };
    match finding.remedy.needs() {
        None => writeln!(text, "    {}", finding.remedy.what())?,
        Some(_) => writeln!(text, "    the repair {verb}: {}", finding.remedy.what())?,
    }
    match finding.remedy.lost() {
        Some(lost) => writeln!(text, "    lost: {lost}"),
        None => Ok(()),
    }
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
