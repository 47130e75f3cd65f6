//! Limits of speed.

use alloc::string::String;
use sectora_derive::qapi;

/// The limits of a device; 0 is none.
#[qapi(snake)]
pub struct BlockIOThrottle {
    /// The node or device.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The guest's device.
    pub id: Option<String>,
    /// Bytes a second, in both directions.
    pub bps: i64,
    /// Bytes a second that are read.
    pub bps_rd: i64,
    /// Bytes a second that are written.
    pub bps_wr: i64,
    /// Requests a second.
    pub iops: i64,
    /// Reads a second.
    pub iops_rd: i64,
    /// Writes a second.
    pub iops_wr: i64,
    /// Bytes a second in a burst.
    pub bps_max: Option<i64>,
    /// Bytes a second that are read in a burst.
    pub bps_rd_max: Option<i64>,
    /// Bytes a second that are written in a burst.
    pub bps_wr_max: Option<i64>,
    /// Requests a second in a burst.
    pub iops_max: Option<i64>,
    /// Reads a second in a burst.
    pub iops_rd_max: Option<i64>,
    /// Writes a second in a burst.
    pub iops_wr_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub bps_max_length: Option<i64>,
    /// The same for bytes that are read.
    pub bps_rd_max_length: Option<i64>,
    /// The same for bytes that are written.
    pub bps_wr_max_length: Option<i64>,
    /// The same for requests.
    pub iops_max_length: Option<i64>,
    /// The same for reads.
    pub iops_rd_max_length: Option<i64>,
    /// The same for writes.
    pub iops_wr_max_length: Option<i64>,
    /// A longer request counts as several.
    pub iops_size: Option<i64>,
    /// The group that shares them.
    pub group: Option<String>,
}

/// The limits of a group; 0 is none.
#[qapi]
#[derive(Default, Copy)]
pub struct ThrottleLimits {
    /// Requests a second.
    pub iops_total: Option<i64>,
    /// Requests a second in a burst.
    pub iops_total_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub iops_total_max_length: Option<i64>,
    /// Reads a second.
    pub iops_read: Option<i64>,
    /// Reads a second in a burst.
    pub iops_read_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub iops_read_max_length: Option<i64>,
    /// Writes a second.
    pub iops_write: Option<i64>,
    /// Writes a second in a burst.
    pub iops_write_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub iops_write_max_length: Option<i64>,
    /// Bytes a second, in both directions.
    pub bps_total: Option<i64>,
    /// Bytes a second in a burst.
    pub bps_total_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub bps_total_max_length: Option<i64>,
    /// Bytes a second that are read.
    pub bps_read: Option<i64>,
    /// Bytes a second that are read in a burst.
    pub bps_read_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub bps_read_max_length: Option<i64>,
    /// Bytes a second that are written.
    pub bps_write: Option<i64>,
    /// Bytes a second that are written in a burst.
    pub bps_write_max: Option<i64>,
    /// How long such a burst may last, in seconds.
    pub bps_write_max_length: Option<i64>,
    /// A longer request counts as several.
    pub iops_size: Option<i64>,
}

/// A group whose members share limits.
#[qapi]
#[derive(Default)]
pub struct ThrottleGroupProperties {
    /// The limits.
    pub limits: Option<ThrottleLimits>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_total: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_total_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_total_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_read: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_read_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_read_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_write: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_write_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_write_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_total: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_total_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_total_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_read: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_read_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_read_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_write: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_write_max: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_bps_write_max_length: Option<i64>,
    /// The limit of that name, in the older form.
    #[qapi(unstable)]
    pub x_iops_size: Option<i64>,
}
