//! Giving space back in place: what reads as zeroes, or as what lies below, needs no cluster, and
//! what is in use leaves no gaps.

use super::Progress;
use super::walk::Walker;
use crate::format::{Compaction, Instead, Layer, Packed};
use crate::io::{BlockDevice, Device, DeviceExt, Extent, Segments, is_zero};
use crate::{Error, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How an image is compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Give up what equals the backing chain, too.
    pub backing: bool,
    /// Only tell what would be given up.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the disk that were given up because they are zero.
    pub zeroes: u64,
    /// Bytes of the disk that were given up because the backing chain has the same.
    pub same_as_backing: u64,
    /// What was moved, and what was not. Without the rest being done before, as in a dry run, it is
    /// what would be moved in the file as it is.
    pub packed: Packed,
    /// Length of the file before and after, in bytes.
    pub file_len: (u64, u64),
}

/// So much is looked at at a time, in bytes.
const STEP: u64 = 4 << 20;

/// A run of whole clusters that can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
    instead: Instead,
}

/// Gives up the clusters of an image that hold nothing of their own, moves those at the end of its
/// file into free ones, and ends the file after the last one in use. The disk reads as before, whenever this is stopped: dropping the future loses
/// nothing, and going on is starting again. Others may write to the image meanwhile.
///
/// # Errors
/// `Unsupported` where the format gives nothing up; those of the devices.
pub async fn compact(
    image: &Arc<Layer>,
    options: CompactOptions,
    progress: Progress<'_>,
) -> Result<Compacted> {
    let format = image.driver();
    let compaction = format.compaction().ok_or_else(|| {
        let name = format.name();
        Error::unsupported(format!("Format driver '{name}' does not support compacting in place"))
    })?;
    let before = image.file().len();
    let mut done = Compacted { file_len: (before, before), ..Compacted::default() };
    let cluster = u64::from(format.geometry().cluster_size);
    let step = STEP.next_multiple_of(cluster);
    let size = image.len();
    // Half of the way is looking, and half is moving.
    let all = size.saturating_mul(2);
    let mut walker = Walker::new(image.clone());
    let mut at = 0;
    while at < size {
        progress(at, all);
        let extent = walker.at(at).await?;
        if extent.depth != 0 || !extent.is_allocated() {
            // The next cluster: of this one a part may be allocated.
            at = extent.end();
            continue;
        }
        let start = at - at % cluster;
        let stop =
            extent.end().next_multiple_of(cluster).min(start - start % step + step).min(size);
        give_up(image, compaction, options, (start, stop), &extent, &mut done).await?;
        at = stop;
    }
    progress(size, all);
    if options.dry_run {
        done.packed = compaction.packable().await?;
    } else {
        let moving = |moved: u64, of: u64| {
            let part = u128::from(size) * u128::from(moved) / u128::from(of.max(1));
            progress(size.saturating_add(u64::try_from(part).unwrap_or(size)), all);
        };
        done.packed = compaction.pack(&moving).await?;
        done.file_len.1 = image.file().len();
    }
    progress(all, all);
    Ok(done)
}

/// Looks at a range twice where there is something to find: once beside everybody else, and again
/// when nobody can write to it.
async fn give_up(
    image: &Arc<Layer>,
    compaction: &dyn Compaction,
    options: CompactOptions,
    range: (u64, u64),
    extent: &Extent,
    done: &mut Compacted,
) -> Result<()> {
    // Zeroes without a cluster are most of what there is, and need no reading.
    let mut possible = compaction.needless(range.0, range.1 - range.0, Instead::Zeroes).await?;
    if options.backing && !extent.is_zero() {
        possible += compaction.needless(range.0, range.1 - range.0, Instead::Backing).await?;
    }
    if possible == 0 {
        return Ok(());
    }
    let mut found = Vec::new();
    for run in needless(image, options, range).await? {
        let bytes = compaction.needless(run.start, run.len, run.instead).await?;
        if bytes != 0 {
            found.push((run, bytes));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    if options.dry_run {
        found.iter().for_each(|(run, bytes)| done.count(*run, *bytes));
        return Ok(());
    }
    let still = compaction.still().await?;
    for run in needless(image, options, range).await? {
        let bytes = compaction.give_up(&still, run.start, run.len, run.instead).await?;
        done.count(run, bytes);
    }
    Ok(())
}

impl Compacted {
    fn count(&mut self, run: Run, bytes: u64) {
        match run.instead {
            Instead::Zeroes => self.zeroes += bytes,
            Instead::Backing => self.same_as_backing += bytes,
        }
    }
}

/// The clusters of a range that read as zeroes, or as what lies below.
async fn needless(
    image: &Arc<Layer>,
    options: CompactOptions,
    (start, stop): (u64, u64),
) -> Result<Vec<Run>> {
    let cluster = u64::from(image.driver().geometry().cluster_size);
    let ours = image.read(start, stop - start).await?;
    let below = match image.backing().filter(|_| options.backing) {
        Some(backing) => Some(read_below(backing, start, stop - start).await?),
        None => None,
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut at = start;
    while at < stop {
        let len = cluster.min(stop - at);
        let own = ours.slice(at - start, len);
        let same = |below: &Segments| below.slice(at - start, len).to_bytes() == own.to_bytes();
        // The rest of a cluster in which the disk ends shows when the disk grows: it must stay zero.
        let instead = match () {
            () if is_zero(&own.to_bytes()) => Some(Instead::Zeroes),
            () if len == cluster && below.as_ref().is_some_and(same) => Some(Instead::Backing),
            () => None,
        };
        if let Some(instead) = instead {
            match runs.last_mut() {
                Some(run) if run.start + run.len == at && run.instead == instead => run.len += len,
                _ => runs.push(Run { start: at, len, instead }),
            }
        }
        at += len;
    }
    Ok(runs)
}

/// What lies below; past its end there are zeroes.
async fn read_below(backing: &Arc<Layer>, start: u64, len: u64) -> Result<Segments> {
    let backing: Device = backing.clone();
    backing.read_padded(start, len).await
}
