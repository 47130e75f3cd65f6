//! Checking an image, and repairing it.

use super::Progress;
use crate::Result;
use crate::format::{CheckReport, Layer, Repair};
use crate::qapi::ImageCheck;
use alloc::string::ToString;

/// The result of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The schema's summary: what is left, and what has been repaired.
    pub summary: ImageCheck,
    /// Every finding of the check, and of the repair where there was one.
    pub report: CheckReport,
    /// Where something was repaired: every finding of a second check, which `summary` and its
    /// counts are of.
    pub second: Option<CheckReport>,
}

impl Check {
    /// The findings of the state that the image is in now.
    #[must_use]
    pub fn last(&self) -> &CheckReport {
        self.second.as_ref().unwrap_or(&self.report)
    }
}

/// Checks every structure of an image, and repairs what `repair` allows; `None` where the format
/// has nothing to check. What was repaired is checked again.
///
/// An image that is to be repaired is opened with [`OpenOptions::check`], for writing, and not used
/// for anything else.
///
/// [`OpenOptions::check`]: crate::format::OpenOptions::check
///
/// # Errors
/// Those that keep the check from running at all; what it finds, and what ends it early, is in the
/// result.
pub async fn check(layer: &Layer, repair: Repair, progress: Progress<'_>) -> Result<Option<Check>> {
    let driver = layer.driver();
    let Some(report) = driver.check(repair, progress).await? else { return Ok(None) };
    let second = match report.has_repaired() && report.failed.is_none() {
        true => driver.check(Repair::Nothing, progress).await?,
        false => None,
    };
    let some = |count: u64| (count > 0).then_some(count);
    let last = second.as_ref().unwrap_or(&report);
    let summary = ImageCheck {
        filename: layer.filename().to_string(),
        format: driver.name().to_string(),
        check_errors: last.check_errors,
        image_end_offset: last.image_end_offset.and_then(some),
        corruptions: some(last.corruptions),
        leaks: some(last.leaks),
        corruptions_fixed: some(report.corruptions_fixed),
        leaks_fixed: some(report.leaks_fixed),
        total_clusters: last.total_clusters.and_then(some),
        allocated_clusters: last.allocated_clusters.and_then(some),
        fragmented_clusters: last.fragmented_clusters.and_then(some),
        compressed_clusters: last.compressed_clusters.and_then(some),
    };
    Ok(Some(Check { summary, report, second }))
}
