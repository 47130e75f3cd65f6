//! `length`, `info`, `map`, `alloc`, `truncate`, `discard`, `flush`.

use super::super::failure::{Failure, reason};
use super::super::info::specific;
use super::super::output::{complain, print, stands_in};
use super::commands::Command;
use super::disk::Disk;
use super::getopt::{Found, Options};
use super::numbers::{LONGEST, Report, bytes, bytes_as, told};
use super::session::{Done, Session, Stop, say};
use sectora_core::image::info as image_info;
use sectora_core::io::{Extent, Preallocation};
use sectora_core::{Error, ErrorKind, Result};
use std::time::Instant;

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    // What a float cannot tell apart, three decimals do not show.
    told(bytes as f64)
}

/// `length`.
pub(super) fn length(session: &Session) -> Done {
    let disk = session.disk()?;
    disk.medium().map_err(|error| say(format!("getlength: {}", reason(&error))))?;
    Ok(print(&format!("{}\n", size(disk.len())))?)
}

/// `info`.
pub(super) async fn info(session: &mut Session) -> Done {
    let disk = session.disk()?.clone();
    disk.medium().map_err(|_| Stop::Failed)?;
    let Ok(layer) = disk.layer() else {
        let text = format!(
            "format name: {}\ncluster size: {}\nvm state offset: {}\n",
            disk.driver(),
            size(0),
            size(0)
        );
        return Ok(print(&text)?);
    };
    let driver = layer.driver();
    let info = session.wait(image_info(layer)).await?.map_err(Failure::from)?;
    let below = layer.file().info().await.map_err(Failure::from)?;
    let mut text = match layer.is_bare() {
        true => {
            let scheme =
                below.filename.split_once("://").map_or(below.driver, |(scheme, _)| scheme);
            format!("format name: {}\nformat name: {scheme}\n", below.driver)
        }
        false => format!("format name: {}\n", driver.name()),
    };
    if driver.name() == "raw" && below.driver == "nbd" {
        // A server tells no more of an export.
        print(&text)?;
        return Err(Stop::Failed);
    }
    let described = driver.describe().await.map_err(Failure::from)?;
    text.push_str(&format!("cluster size: {}\n", size(described.cluster_size.unwrap_or(0))));
    let vm_state = driver.vm_state_offset().unwrap_or(0);
    text.push_str(&format!("vm state offset: {}\n", size(vm_state)));
    text.push_str(&specific(&info.base));
    Ok(print(&text)?)
}

/// How long what begins at `at` is the same, and whether the image itself has it.
async fn run(disk: &Disk, at: u64, end: u64) -> Result<(u64, bool)> {
    let here = |extent: &Extent| extent.depth == 0 && extent.is_allocated();
    let mut from = at;
    let mut first = None;
    while from < end {
        let found = match disk.extents(from, end - from).await {
            // What is known is told before it.
            Err(_) if from > at => break,
            found => found?,
        };
        for extent in found {
            if *first.get_or_insert(here(&extent)) != here(&extent) {
                return Ok((extent.start - at, !here(&extent)));
            }
            from = extent.end();
        }
    }
    Ok((from - at, first.unwrap_or(false)))
}

/// `map`.
pub(super) async fn map(session: &mut Session) -> Done {
    let disk = session.disk()?.clone();
    disk.medium().map_err(|error| {
        session.complain(&format!("Failed to query image length: {}", reason(&error)))
    })?;
    let end = disk.len();
    if end == 0 {
        return Ok(());
    }
    let mut at = 0;
    while at < end {
        let (len, here) = session.wait(run(&disk, at, end)).await?.map_err(|error| {
            let why = if stands_in() { reason(&error) } else { error.to_string() };
            session.complain(&format!("Failed to get allocation status: {why}"))
        })?;
        let word = if here { "    allocated" } else { "not allocated" };
        print(&format!(
            "{} ({len:#x}) bytes {word} at offset {} ({at:#x})\n",
            size(len),
            size(at)
        ))?;
        at += len;
    }
    Ok(())
}

/// `alloc`.
pub(super) async fn alloc(session: &mut Session, words: &[&str]) -> Done {
    let start = bytes(words[1]).map_err(say)?;
    let count = match words.get(2) {
        Some(text) => bytes(text).map_err(say)?,
        None => 512,
    };
    let disk = session.disk()?.clone();
    disk.medium().map_err(|error| session.failed("is_allocated", &error))?;
    let end = start.saturating_add(count).min(disk.len());
    let (mut at, mut sum) = (start, 0);
    while at < end {
        let result = session.wait(run(&disk, at, end)).await?;
        let (len, here) = result.map_err(|error| session.failed("is_allocated", &error))?;
        if here {
            sum += len;
        }
        at += len;
    }
    let count = end.saturating_sub(start);
    Ok(print(&format!("{sum}/{count} bytes allocated at offset {}\n", size(start)))?)
}

/// `truncate`.
pub(super) async fn truncate(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let mut preallocation = Preallocation::Off;
    let mut options = Options::new(words[0], "m:", &[], &words[1..]);
    for option in options.by_ref() {
        let Found { value, .. } = option.map_err(|text| {
            complain(&text);
            say(command.line(command.name).trim_end())
        })?;
        let mode = value.unwrap_or_default();
        preallocation = match mode.as_str() {
            "off" => Preallocation::Off,
            "metadata" => Preallocation::Metadata,
            "falloc" => Preallocation::Falloc,
            "full" => Preallocation::Full,
            _ => return Err(session.complain(&format!("Invalid preallocation mode '{mode}'"))),
        };
    }
    let operands = options.operands();
    // The message shows the first word, as the reference's does.
    let len = bytes_as(operands.first().unwrap_or(&""), words[1]).map_err(say)?;
    let disk = session.disk()?.clone();
    disk.medium().map_err(|_| session.complain("No medium inserted"))?;
    let result = session.wait(disk.resize(len, preallocation)).await?;
    result.map_err(|error| session.complain(&resize_text(&error, len)))
}

/// Why the length cannot be `len`, in the words that are known where there are some.
fn resize_text(error: &Error, len: u64) -> String {
    match error.kind() {
        ErrorKind::InvalidInput if !len.is_multiple_of(512) => {
            "The new size must be a multiple of 512".to_owned()
        }
        _ => error.to_string(),
    }
}

/// `discard`.
pub(super) async fn discard(session: &mut Session, command: &Command, words: &[&str]) -> Done {
    let usage = || say(command.line(command.name).trim_end());
    let (mut terse, mut quiet) = (false, false);
    let mut options = Options::new(words[0], "Cq", &[], &words[1..]);
    for option in options.by_ref() {
        let Found { letter, .. } = option.map_err(|text| {
            complain(&text);
            usage()
        })?;
        match letter {
            'C' => terse = true,
            _ => quiet = true,
        }
    }
    let operands = options.operands();
    let [offset, count] = operands[..] else { return Err(usage()) };
    let offset = bytes(offset).map_err(say)?;
    let len = bytes(count).map_err(say)?;
    if len > LONGEST {
        return Err(say(format!("length cannot exceed {LONGEST}, given {count}")));
    }
    let disk = session.disk()?.clone();
    let started = Instant::now();
    let result = session.wait(disk.discard(offset, len)).await?;
    let took = started.elapsed();
    result.map_err(|error| session.failed("discard", &error))?;
    if quiet {
        return Ok(());
    }
    Ok(print(&Report { verb: "discard", offset, bytes: len, took, terse }.text())?)
}

/// `flush`.
pub(super) async fn flush(session: &mut Session) -> Done {
    let disk = session.disk()?.clone();
    disk.medium().map_err(|_| Stop::Failed)?;
    // The reference says nothing and fails; a person wants to know.
    let result = session.wait(disk.flush()).await?;
    result.map_err(|error| match disk.is_given_up() {
        true => Stop::Failed,
        false => session.complain(&format!("flush failed: {error}")),
    })
}
