//! `info`: tells what an image is.

use super::args::{Cache, ImageArgs, OutputFormat};
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::output::{human_size, print, print_json};
use chrono::{Local, TimeZone};
use sectora_core::image::{info, info_chain};
use sectora_core::qapi::{BlockGraphInfo, BlockNodeInfo, SnapshotInfo};
use serde_json::Value;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tell of every image of the backing chain
    #[arg(short, long)]
    backing_chain: bool,

    #[command(flatten)]
    image: ImageArgs,
}

pub(super) fn run(args: Args) -> Outcome {
    let given = &args.image;
    given.host.check()?;
    let filename = given.filename()?;
    block_on(Threads::One, |runtime| {
        let host = Host::new(runtime, &given.host, given.force_share);
        async move {
            let images = match args.backing_chain {
                true => chain(&host, filename, given.format.as_deref()).await?,
                false => Vec::from([one(&host, filename, given.format.as_deref()).await?]),
            };
            match (given.output, &images[..]) {
                (OutputFormat::Json, [image]) if !args.backing_chain => print_json(image)?,
                (OutputFormat::Json, images) => print_json(&images)?,
                (OutputFormat::Human, images) => {
                    let texts: Vec<String> = images.iter().map(human).collect();
                    print(&texts.join("\n"))?;
                }
            }
            Ok(0)
        }
    })
}

async fn one(host: &Host, name: &str, format: Option<&str>) -> Result<BlockGraphInfo, Failure> {
    let how = Opening { metadata_only: true, ..Opening::to_look_at(format) };
    let layer = host.open(name, how).await?;
    Ok(info(&layer).await?)
}

async fn chain(
    host: &Host,
    name: &str,
    format: Option<&str>,
) -> Result<Vec<BlockGraphInfo>, Failure> {
    let how = Opening { metadata_only: true, ..Opening::to_look_at(format) };
    let top = host.open(name, how).await?;
    Ok(info_chain(&host.env(Cache::default()), top).await?)
}

/// One image, for people.
pub(super) fn human(image: &BlockGraphInfo) -> String {
    let mut text = String::new();
    let base = &image.base;
    // Writing to a string cannot fail: the results of this module's formatting mean nothing.
    let _ = write_node(&mut text, "", base, "image", "file format", "virtual size");
    for child in &image.children {
        let _ = write_child(&mut text, "", "", &child.name, &child.info);
    }
    text
}

fn write_child(
    text: &mut String,
    indent: &str,
    path: &str,
    name: &str,
    info: &BlockGraphInfo,
) -> std::fmt::Result {
    let path = format!("{path}/{name}");
    writeln!(text, "{indent}Child node '{path}':")?;
    let below = format!("{indent}    ");
    match info.children.is_empty() {
        true => write_node(text, &below, &info.base, "filename", "protocol type", "file length")?,
        false => write_node(text, &below, &info.base, "image", "file format", "virtual size")?,
    }
    let mut children = info.children.iter();
    children.try_for_each(|child| write_child(text, &below, &path, &child.name, &child.info))
}

fn write_node(
    text: &mut String,
    indent: &str,
    node: &BlockNodeInfo,
    name: &str,
    format: &str,
    size: &str,
) -> std::fmt::Result {
    writeln!(text, "{indent}{name}: {}", node.filename)?;
    writeln!(text, "{indent}{format}: {}", node.format)?;
    let bytes = node.virtual_size;
    writeln!(text, "{indent}{size}: {} ({bytes} bytes)", human_size(bytes))?;
    match node.actual_size {
        Some(bytes) => writeln!(text, "{indent}disk size: {}", human_size(bytes))?,
        None => writeln!(text, "{indent}disk size: unavailable")?,
    }
    if node.encrypted == Some(true) {
        writeln!(text, "{indent}encrypted: yes")?;
    }
    if let Some(cluster_size) = node.cluster_size {
        writeln!(text, "{indent}cluster_size: {cluster_size}")?;
    }
    if node.dirty_flag == Some(true) {
        writeln!(text, "{indent}cleanly shut down: no")?;
    }
    if let Some(backing) = &node.backing_filename {
        write!(text, "{indent}backing file: {backing}")?;
        match &node.full_backing_filename {
            Some(full) if full != backing => write!(text, " (actual path: {full})")?,
            None => write!(text, " (cannot determine actual path)")?,
            Some(_) => {}
        }
        writeln!(text)?;
    }
    if let Some(format) = &node.backing_filename_format {
        writeln!(text, "{indent}backing file format: {format}")?;
    }
    if let Some(snapshots) = &node.snapshots {
        text.push_str(&snapshot_list(indent, snapshots));
    }
    write_specific(text, indent, node)
}

/// What only the format knows of an image, as indented text; empty where that is nothing.
pub(super) fn specific(node: &BlockNodeInfo) -> String {
    let mut text = String::new();
    let _ = write_specific(&mut text, "", node);
    text
}

fn write_specific(text: &mut String, indent: &str, node: &BlockNodeInfo) -> std::fmt::Result {
    let Some(specific) = &node.format_specific else { return Ok(()) };
    let value = serde_json::to_value(specific).unwrap_or_default();
    if let Some(data) = value.get("data").filter(|d| d.as_object().is_some_and(|d| !d.is_empty())) {
        writeln!(text, "{indent}Format specific information:")?;
        write_value(text, &format!("{indent}    "), data)?;
    }
    Ok(())
}

/// The table of an image's snapshots.
pub(super) fn snapshot_list(indent: &str, snapshots: &[SnapshotInfo]) -> String {
    let mut text = format!(
        "{indent}Snapshot list:\n{indent}{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    );
    for snapshot in snapshots {
        // Writing to a string cannot fail.
        let _ = write_snapshot(&mut text, indent, snapshot);
    }
    text
}

fn write_snapshot(text: &mut String, indent: &str, snapshot: &SnapshotInfo) -> std::fmt::Result {
    let seconds = i64::try_from(snapshot.date_sec).unwrap_or(i64::MAX);
    let date = match Local.timestamp_opt(seconds, 0).earliest() {
        Some(date) => date.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => snapshot.date_sec.to_string(),
    };
    let clock = snapshot.vm_clock_sec;
    let clock = format!(
        "{:04}:{:02}:{:02}.{:03}",
        clock / 3600,
        clock / 60 % 60,
        clock % 60,
        snapshot.vm_clock_nsec / 1_000_000
    );
    let icount = snapshot.icount.map(|n| n.to_string()).unwrap_or_default();
    writeln!(
        text,
        "{indent}{:<7} {:<16} {:>8} {date:>19} {clock:>15} {icount:>10}",
        snapshot.id,
        snapshot.name,
        human_size(snapshot.vm_state_size)
    )
}

/// Nested values as indented text: members by name, elements by number.
fn write_value(text: &mut String, indent: &str, value: &Value) -> std::fmt::Result {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(k, v)| (k.replace('-', " "), v)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(i, v)| (format!("[{i}]"), v)).collect()
        }
        _ => Vec::new(),
    };
    for (name, value) in members {
        match value {
            Value::Object(_) | Value::Array(_) => {
                writeln!(text, "{indent}{name}:")?;
                write_value(text, &format!("{indent}    "), value)?;
            }
            Value::String(value) => writeln!(text, "{indent}{name}: {value}")?,
            value => writeln!(text, "{indent}{name}: {value}")?,
        }
    }
    Ok(())
}
