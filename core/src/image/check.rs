//! Checking an image without changing it.

use super::Progress;
use crate::Result;
use crate::format::{CheckReport, Layer};
use crate::qapi::ImageCheck;
use alloc::string::ToString;

/// The result of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The schema's summary.
    pub summary: ImageCheck,
    /// Every finding.
    pub report: CheckReport,
}

/// Checks every structure of an image; `None` where the format has nothing to check.
///
/// # Errors
/// Those that keep the check from running at all; what it finds is in the result.
pub async fn check(layer: &Layer, progress: Progress<'_>) -> Result<Option<Check>> {
    let Some(report) = layer.driver().check(progress).await? else { return Ok(None) };
    let some = |count: u64| (count > 0).then_some(count);
    let summary = ImageCheck {
        filename: layer.filename().to_string(),
        format: layer.driver().name().to_string(),
        check_errors: report.check_errors,
        image_end_offset: report.image_end_offset.and_then(some),
        corruptions: some(report.corruptions),
        leaks: some(report.leaks),
        corruptions_fixed: None,
        leaks_fixed: None,
        total_clusters: report.total_clusters.and_then(some),
        allocated_clusters: report.allocated_clusters.and_then(some),
        fragmented_clusters: report.fragmented_clusters.and_then(some),
        compressed_clusters: report.compressed_clusters.and_then(some),
    };
    Ok(Some(Check { summary, report }))
}
