//! Giving an image another backing file without changing what it reads.

use super::Progress;
use super::walk::Walker;
use crate::Result;
use crate::format::{BackingRef, Layer};
use crate::io::{BlockDevice, Device, DeviceExt, Segments, WriteFlags, ZeroFlags};
use alloc::sync::Arc;
use alloc::vec::Vec;
use futures_util::future::try_join;

/// So much is compared at a time.
const STEP: u64 = 2 << 20;

/// How to rebase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebaseOptions {
    /// Write what is copied into the image as compressed clusters.
    pub compress: bool,
    /// The new backing file is a member of the image's chain, so many layers below it: what the
    /// chain has from there on need not be compared.
    pub depth: Option<u32>,
}

/// Lets `image` stand on `new`, which is named `reference` in it from then on; on nothing where
/// that is `None`.
///
/// What the image leaves to its old backing file, and reads otherwise in the new one, is copied
/// into it and made durable; only then the name changes. Interrupted before that, it stands on its
/// old backing file and reads as ever, and needs more space.
///
/// The image stays open over its old backing file: open it again to have it over the new one.
///
/// # Errors
/// `Unsupported` where the image has no backing files or, with `compress`, no compressed clusters;
/// those of the devices.
pub async fn rebase(
    image: &Arc<Layer>,
    new: Option<&Device>,
    reference: Option<BackingRef>,
    options: RebaseOptions,
    progress: Progress<'_>,
) -> Result<()> {
    let size = image.len();
    let geometry = image.driver().geometry();
    // Whole units: what is known of the others does not change by writing one.
    let unit = u64::from(match options.compress {
        true => geometry.cluster_size,
        false => geometry.subcluster_size,
    })
    .max(1);
    let step = STEP.next_multiple_of(unit);
    let mut own = Walker::new(image.clone());
    let mut below = new.map(|new| Walker::new(new.clone()));
    let new_len = new.map_or(0, |new| new.len());
    // Everything before `done` has been dealt with.
    let (mut at, mut done) = (0, 0);
    while at < size {
        progress(at, size);
        let extent = own.at(at).await?;
        let kept = |depth: u32| extent.is_allocated() && extent.depth >= depth;
        if extent.is_allocated() && extent.depth == 0 || options.depth.is_some_and(kept) {
            at = extent.end();
            continue;
        }
        if extent.is_zero() {
            let (zero, end) = match &mut below {
                Some(below) if at < new_len => {
                    let found = below.at(at).await?;
                    (found.is_zero(), found.end())
                }
                _ => (true, size),
            };
            if zero {
                at = extent.end().min(end);
                continue;
            }
        }
        let start = (at - at % unit).max(done);
        let stop = extent.end().next_multiple_of(unit).min(start - start % step + step).min(size);
        let len = stop - start;
        let theirs = async {
            match new {
                Some(new) => new.read_padded(start, len).await,
                None => Ok(Segments::zero(len)),
            }
        };
        let (ours, theirs) = try_join(image.read(start, len), theirs).await?;
        for (from, to, zero) in differing(&ours, &theirs, start, unit) {
            let data = ours.slice(from - start, to - from);
            if zero {
                image.write_zeroes(from, to - from, ZeroFlags::empty()).await?;
            } else {
                let flags = match options.compress {
                    true => WriteFlags::COMPRESSED,
                    false => WriteFlags::empty(),
                };
                image.write(from, data, flags).await?;
            }
        }
        (at, done) = (stop, stop);
    }
    image.flush().await?;
    image.driver().set_backing(reference).await?;
    progress(size, size);
    Ok(())
}

/// The runs of units in which two readings of the same place differ: start, end, and whether the
/// first one has zeroes there.
fn differing(a: &Segments, b: &Segments, start: u64, unit: u64) -> Vec<(u64, u64, bool)> {
    let end = start + a.len();
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    let (a, b) = (a.to_bytes(), b.to_bytes());
    if a == b {
        return runs;
    }
    let mut at = start;
    while at < end {
        let next = (at - at % unit + unit).min(end);
        // Within what was read: fits.
        let range = (at - start) as usize..(next - start) as usize;
        if a[range.clone()] != b[range.clone()] {
            let zero = crate::io::is_zero(&a[range]);
            match runs.last_mut() {
                Some((_, to, kind)) if *to == at && *kind == zero => *to = next,
                _ => runs.push((at, next, zero)),
            }
        }
        at = next;
    }
    runs
}
