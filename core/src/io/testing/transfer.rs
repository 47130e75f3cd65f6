//! Whole-range reads, writes and extent walks that respect a device's limits and check its answers.

use crate::Error;
use crate::io::{BlockDevice, Extent, Segments, WriteFlags};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The longest aligned request.
fn longest(device: &dyn BlockDevice) -> u64 {
    let limits = device.limits();
    let align = u64::from(limits.request_alignment).max(1);
    (u64::from(limits.max_transfer) / align * align).max(align)
}

/// Reads a range in as many requests as it takes.
pub(super) async fn read_all(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut done = 0;
    while done < len {
        let part = longest(device).min(len - done);
        let at = offset + done;
        let data = device
            .read(at, part)
            .await
            .map_err(|error| format!("read {at:#x}+{part:#x} fails: {error:?}"))?;
        check_answer(at, part, &data)?;
        out.extend_from_slice(&data.to_bytes());
        done += part;
    }
    Ok(out)
}

/// Writes a range in as many requests as it takes.
pub(super) async fn write_all(
    device: &dyn BlockDevice,
    offset: u64,
    data: &Segments,
) -> Result<(), String> {
    let mut done = 0;
    while done < data.len() {
        let part = longest(device).min(data.len() - done);
        let at = offset + done;
        device
            .write(at, data.slice(done, part), WriteFlags::empty())
            .await
            .map_err(|error| format!("write {at:#x}+{part:#x} fails: {error:?}"))?;
        done += part;
    }
    Ok(())
}

/// A read answers with exactly as many bytes as were asked for.
pub(super) fn check_answer(offset: u64, len: u64, data: &Segments) -> Result<(), String> {
    if data.len() == len {
        return Ok(());
    }
    Err(format!("read {offset:#x}+{len:#x} returns {:#x} bytes", data.len()))
}

/// Why a walk over extents ended early.
pub(super) enum Stray {
    /// The device failed.
    Failed(Error),
    /// The device broke a rule.
    Broken(String),
}

impl From<Stray> for String {
    fn from(stray: Stray) -> Self {
        match stray {
            Stray::Failed(error) => format!("extents fails: {error:?}"),
            Stray::Broken(what) => what,
        }
    }
}

/// All extents of a range, asking as often as it takes, with every structural rule checked.
pub(super) async fn walk_extents(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
) -> Result<Vec<Extent>, Stray> {
    let end = offset + len;
    let mut all = Vec::new();
    let mut at = offset;
    while at < end {
        let answer = device.extents(at, end - at).await.map_err(Stray::Failed)?;
        at = check_extents(at, end, &answer).map_err(|what| {
            Stray::Broken(format!("extents {at:#x}+{:#x}: {what}: {answer:?}", end - at))
        })?;
        all.extend(answer);
    }
    Ok(all)
}

/// Checks one answer, and says where it ends.
fn check_extents(offset: u64, end: u64, answer: &[Extent]) -> Result<u64, &'static str> {
    let mut at = offset;
    let mut last: Option<&Extent> = None;
    for extent in answer {
        if extent.len == 0 {
            return Err("an extent is empty");
        }
        if extent.start != at {
            return Err(if at == offset {
                "the first extent does not begin at the offset asked for"
            } else {
                "an extent does not begin where the one before ends"
            });
        }
        at = match extent.start.checked_add(extent.len) {
            Some(next) if next <= end => next,
            _ => return Err("an extent exceeds the range asked for"),
        };
        if last.is_some_and(|last| last.clone().merge(extent.clone()).is_none()) {
            return Err("neighbours that could be one extent are not merged");
        }
        last = Some(extent);
    }
    if last.is_none() {
        return Err("the list is empty");
    }
    Ok(at)
}
