//! What an image is: the schema's `ImageInfo` and `BlockGraphInfo`.

use crate::format::detect::{MAX_CHAIN, too_long};
use crate::format::{
    Backing, BackingRef, DataSource, Described, Env, FormatName, KeySource, Layer, OpenOptions,
    open,
};
use crate::graph;
use crate::io::{Access, BlockDevice, Device, Reference, ReferenceKind, combine_path};
use crate::qapi::{
    BlockChildInfo, BlockGraphInfo, BlockNodeInfo, ImageInfo, ImageInfoSpecific,
    ImageInfoSpecificFile,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

/// The unit in which the protocol level states lengths.
const SECTOR: u64 = 512;

/// What one image is, with the files it lives in; its backing file is named, not looked at.
///
/// # Errors
/// Those of the devices and of reading the format's tables.
pub async fn info(layer: &Layer) -> Result<BlockGraphInfo> {
    if layer.is_bare() {
        return Ok(child("file", layer.file()).await?.info);
    }
    let file = child("file", layer.file()).await?;
    let mut base = info_of_image(layer).await?;
    if layer.driver().name() == "raw" {
        // It passes on what its file tells.
        base.dirty_flag = file.info.base.dirty_flag;
        base.cluster_size = file.info.base.cluster_size;
        base.snapshots = file.info.base.snapshots.clone();
    }
    // The data file is no part of the description, in QEMU's tools either: it need not be there.
    Ok(BlockGraphInfo { base, children: Vec::from([file]) })
}

/// What an image tells by itself, whatever it lies on.
pub(crate) async fn info_of_image(layer: &Layer) -> Result<BlockNodeInfo> {
    let format = layer.driver().describe().await?;
    let own = layer.info().await?;
    let backing = format.backing.as_ref();
    Ok(BlockNodeInfo {
        filename: own.filename,
        format: own.driver.to_string(),
        virtual_size: layer.len(),
        actual_size: own.actual_size,
        dirty_flag: Some(format.dirty),
        cluster_size: format.cluster_size,
        encrypted: format.encrypted.then_some(true),
        compressed: None,
        backing_filename: backing.map(|b| b.name.clone()),
        full_backing_filename: backing.map(|b| combine_path(layer.filename(), &b.name)),
        backing_filename_format: backing.and_then(|b| b.format.clone()),
        snapshots: (!format.snapshots.is_empty()).then_some(format.snapshots),
        format_specific: format.specific,
    })
}

/// The same with all that the image stands on, the newest first.
async fn info_with_all(layer: &Layer) -> Result<BlockGraphInfo> {
    let mut told = info(layer).await?;
    if layer.is_bare() {
        return Ok(told);
    }
    let mut children = Vec::new();
    if let Some(backing) = layer.backing() {
        let below: Device = backing.clone();
        children.push(child("backing", &below).await?);
    }
    if let Some(data) = layer.data_file() {
        children.push(child("data-file", &data.device).await?);
    }
    children.append(&mut told.children);
    Ok(BlockGraphInfo { children, ..told })
}

/// Of an NBD export nothing but its size is told, in QEMU's tools either.
fn tells_more(driver: &str) -> bool {
    driver != "nbd"
}

async fn child(name: &str, device: &Device) -> Result<BlockChildInfo> {
    let node = device.node();
    let info = if let Some(image) = node.and_then(|node| node.downcast_ref::<Layer>()) {
        Box::pin(info_with_all(image)).await?
    } else if let Some(node) = node.and_then(graph::node_of) {
        graph::graph_info(node).await?
    } else {
        let base = info_of_device(&**device).await?;
        BlockGraphInfo { base, children: Vec::new() }
    };
    Ok(BlockChildInfo { name: name.to_string(), info })
}

/// What is told of something that is no image: a file, a connection.
pub(crate) async fn info_of_device(device: &dyn BlockDevice) -> Result<BlockNodeInfo> {
    let info = device.info().await?;
    let file = ImageInfoSpecificFile { extent_size_hint: info.extent_size_hint };
    let is_file = matches!(info.driver, "file" | "host_device");
    Ok(BlockNodeInfo {
        filename: info.filename,
        format: info.driver.to_string(),
        virtual_size: device.len().checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX),
        actual_size: info.actual_size,
        dirty_flag: tells_more(info.driver).then_some(false),
        format_specific: is_file.then_some(ImageInfoSpecific::File(file)),
        ..BlockNodeInfo::default()
    })
}

/// What an image and every image of its backing chain is, from the top. Each of those below is opened
/// by itself: a damaged one is named in the error.
///
/// # Errors
/// Those of opening each image; `Corrupt` where the chain is a loop.
pub async fn info_chain(env: &Env, top: Arc<Layer>) -> Result<Vec<BlockGraphInfo>> {
    let mut out = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut layer = top;
    loop {
        out.push(info(&layer).await?);
        let Some(BackingRef { name, format }) = layer.driver().describe().await?.backing else {
            return Ok(out);
        };
        seen.push(layer.filename().to_string());
        if seen.len() >= MAX_CHAIN {
            return Err(too_long());
        }
        let options = OpenOptions {
            backing: Backing::Ignore,
            data_file: DataSource::Ignore,
            key: KeySource::Ignore,
            ..OpenOptions::default()
        };
        if let Some(text) = name.strip_prefix("json:") {
            let (referrer, format, chain) = (layer.filename(), format.as_deref(), seen.clone());
            let described = Described { text, referrer, format, options, chain };
            let below = graph::open_described(env, described).await;
            layer = below.map_err(|e| e.context(format!("Could not open '{name}'")))?;
            continue;
        }
        let reference = Reference {
            kind: ReferenceKind::Backing,
            name: &name,
            referrer: layer.filename(),
            access: Access::ReadOnly,
        };
        let failed = |name: &str, e: Error| e.context(format!("Could not open '{name}'"));
        let found = env.policy.open(reference).await;
        let found = found.map_err(|e| failed(&combine_path(layer.filename(), &name), e))?;
        let filename = found.filename;
        if seen.contains(&filename) {
            return Err(Error::corrupt(format!(
                "backing file '{filename}' creates an infinite loop"
            )));
        }
        let format = format.as_deref().map(FormatName::from_str).transpose()?;
        let options = OpenOptions { format, ..options };
        layer =
            open(env, found.device, &filename, options).await.map_err(|e| failed(&filename, e))?;
    }
}

/// The schema's `ImageInfo` of a chain, from the top, each image within the one above it.
#[must_use]
pub fn nested(chain: Vec<BlockGraphInfo>) -> Option<ImageInfo> {
    chain.into_iter().rev().fold(None, |below, image| {
        Some(ImageInfo { base: image.base, backing_image: below.map(Box::new) })
    })
}
