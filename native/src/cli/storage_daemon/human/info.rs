//! What is told of backends and nodes.

use super::HumanMonitor;
use crate::cli::info::human;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::qapi::{
    BlockDeviceInfo, BlockDeviceIoStatus, BlockGraphInfo, BlockInfo, BlockStats,
    BlockdevDetectZeroesOptions, ImageInfo,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Write as _;

async fn query<T: DeserializeOwned>(of: &HumanMonitor, name: &str, how: Value) -> QmpResult<T> {
    let told = of.ask(name, how).await?;
    serde_json::from_value(told).map_err(|e| QmpError::generic(format!("{name}: {e}")))
}

/// `info block`.
pub(super) async fn block(
    of: &HumanMonitor,
    device: Option<&str>,
    nodes: bool,
    verbose: bool,
) -> QmpResult<String> {
    let mut parts = Vec::new();
    if nodes {
        let all: Vec<BlockDeviceInfo> = query(of, "query-named-block-nodes", json!({})).await?;
        for info in all {
            let name = info.node_name.clone().unwrap_or_default();
            if device.is_none_or(|device| device == name) {
                parts.push(one(&name, None, &info, verbose));
            }
        }
    } else {
        let all: Vec<BlockInfo> = query(of, "query-block", json!({})).await?;
        for backend in all {
            if let Some(info) = &backend.inserted
                && device.is_none_or(|device| device == backend.device)
            {
                let node = info.node_name.as_deref().unwrap_or_default();
                let name = format!("{} ({node})", backend.device);
                parts.push(one(&name, Some(&backend), info, verbose));
            }
        }
    }
    Ok(parts.join("\n"))
}

fn one(name: &str, backend: Option<&BlockInfo>, info: &BlockDeviceInfo, verbose: bool) -> String {
    let mut text = format!("{name}: {} ({}", info.file, info.drv);
    // Writing to a string cannot fail.
    let mut say = |what: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(what);
    };
    if info.ro {
        say(format_args!(", read-only"));
    }
    if info.encrypted {
        say(format_args!(", encrypted"));
    }
    say(format_args!(")\n"));
    if let Some(qdev) = backend.and_then(|backend| backend.qdev.as_ref()) {
        say(format_args!("    Attached to:      {qdev}\n"));
    }
    match backend.and_then(|backend| backend.io_status.as_ref()) {
        Some(BlockDeviceIoStatus::Failed) => say(format_args!("    I/O status:       failed\n")),
        Some(BlockDeviceIoStatus::Nospace) => say(format_args!("    I/O status:       nospace\n")),
        Some(BlockDeviceIoStatus::Ok) | None => {}
    }
    let mode = if info.cache.writeback { "writeback" } else { "writethrough" };
    let direct = if info.cache.direct { ", direct" } else { "" };
    let no_flush = if info.cache.no_flush { ", ignore flushes" } else { "" };
    say(format_args!("    Cache mode:       {mode}{direct}{no_flush}\n"));
    if let Some(backing) = &info.backing_file {
        let depth = info.backing_file_depth;
        say(format_args!("    Backing file:     {backing} (chain depth: {depth})\n"));
    }
    match info.detect_zeroes {
        BlockdevDetectZeroesOptions::Off => {}
        BlockdevDetectZeroesOptions::On => say(format_args!("    Detect zeroes:    on\n")),
        BlockdevDetectZeroesOptions::Unmap => say(format_args!("    Detect zeroes:    unmap\n")),
    }
    if verbose {
        say(format_args!("\nImages:\n"));
        let mut next = Some(&info.image);
        while let Some(ImageInfo { base, backing_image }) = next {
            let image = BlockGraphInfo { base: base.clone(), children: Vec::new() };
            say(format_args!("{}", human(&image)));
            next = backing_image.as_deref();
        }
    }
    text
}

/// `info blockstats`.
pub(super) async fn blockstats(of: &HumanMonitor) -> QmpResult<String> {
    let all: Vec<BlockStats> = query(of, "query-blockstats", json!({})).await?;
    let line = |told: &BlockStats| {
        let stats = &told.stats;
        format!(
            "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} \
             wr_total_time_ns={} rd_total_time_ns={} flush_total_time_ns={} rd_merged={} \
             wr_merged={} idle_time_ns={}\n",
            told.device.as_deref().unwrap_or_default(),
            stats.rd_bytes,
            stats.wr_bytes,
            stats.rd_operations,
            stats.wr_operations,
            stats.flush_operations,
            stats.wr_total_time_ns,
            stats.rd_total_time_ns,
            stats.flush_total_time_ns,
            stats.rd_merged,
            stats.wr_merged,
            stats.idle_time_ns.unwrap_or(0),
        )
    };
    Ok(all.iter().map(line).collect())
}

/// `info block-jobs`.
pub(super) async fn block_jobs(of: &HumanMonitor) -> QmpResult<String> {
    let all: Vec<Value> = query(of, "query-block-jobs", json!({})).await?;
    if all.is_empty() {
        return Ok("No active jobs\n".into());
    }
    let line = |job: &Value| {
        format!(
            "Type {}, device {}: Completed {} of {} bytes, speed limit {} bytes/s\n",
            job["type"].as_str().unwrap_or_default(),
            job["device"].as_str().unwrap_or_default(),
            job["offset"],
            job["len"],
            job["speed"]
        )
    };
    Ok(all.iter().map(line).collect())
}
