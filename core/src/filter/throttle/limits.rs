//! What is limited, and which combinations make sense. Rates are in bytes or operations a second,
//! burst lengths in seconds; what is absent stays as it is, and 0 is no limit.

use crate::qapi::ThrottleLimits;
use crate::{Error, Result};
use alloc::format;

/// The highest rate, in bytes or operations a second.
const MOST: u64 = 1_000_000_000_000_000;

/// One rate with its bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Units a second; 0 for no limit.
    pub(super) avg: u64,
    /// Units a second during a burst; 0 for none.
    pub(super) max: u64,
    /// The length of a burst, in seconds.
    pub(super) length: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { avg: 0, max: 0, length: 1 }
    }
}

/// The six rates, in the order in which they are checked.
pub(super) const BPS_TOTAL: usize = 0;
pub(super) const BPS_READ: usize = 1;
pub(super) const BPS_WRITE: usize = 2;
pub(super) const IOPS_TOTAL: usize = 3;
pub(super) const IOPS_READ: usize = 4;
pub(super) const IOPS_WRITE: usize = 5;

/// Limits that make sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) rates: [Rate; 6],
    pub(super) iops_size: u64,
}

impl Checked {
    /// These limits with what `new` says.
    ///
    /// # Errors
    /// `InvalidInput` where the result makes no sense.
    pub(super) fn with(mut self, new: &ThrottleLimits) -> Result<Self> {
        let rates = [
            ("bps-total", new.bps_total, new.bps_total_max, new.bps_total_max_length),
            ("bps-read", new.bps_read, new.bps_read_max, new.bps_read_max_length),
            ("bps-write", new.bps_write, new.bps_write_max, new.bps_write_max_length),
            ("iops-total", new.iops_total, new.iops_total_max, new.iops_total_max_length),
            ("iops-read", new.iops_read, new.iops_read_max, new.iops_read_max_length),
            ("iops-write", new.iops_write, new.iops_write_max, new.iops_write_max_length),
        ];
        for (rate, (name, avg, max, length)) in self.rates.iter_mut().zip(rates) {
            // A negative number is one that exceeds every bound.
            rate.avg = avg.map_or(rate.avg, i64::cast_unsigned);
            rate.max = max.map_or(rate.max, i64::cast_unsigned);
            if let Some(length) = length {
                if length > i64::from(u32::MAX) {
                    return Err(Error::invalid(format!(
                        "{name}-max-length value must be in the range [0, {}]",
                        u32::MAX
                    )));
                }
                rate.length = length.cast_unsigned();
            }
        }
        self.iops_size = new.iops_size.map_or(self.iops_size, i64::cast_unsigned);
        self.check()?;
        Ok(self)
    }

    /// These limits as the schema has them, none absent.
    pub(super) fn limits(&self) -> ThrottleLimits {
        // All were checked to be within their bounds, but for this one.
        let number = |n: u64| Some(n.cast_signed());
        let [bt, br, bw, it, ir, iw] = self.rates;
        let length = |rate: Rate| number(rate.length);
        ThrottleLimits {
            iops_total: number(it.avg),
            iops_total_max: number(it.max),
            iops_total_max_length: length(it),
            iops_read: number(ir.avg),
            iops_read_max: number(ir.max),
            iops_read_max_length: length(ir),
            iops_write: number(iw.avg),
            iops_write_max: number(iw.max),
            iops_write_max_length: length(iw),
            bps_total: number(bt.avg),
            bps_total_max: number(bt.max),
            bps_total_max_length: length(bt),
            bps_read: number(br.avg),
            bps_read_max: number(br.max),
            bps_read_max_length: length(br),
            bps_write: number(bw.avg),
            bps_write_max: number(bw.max),
            bps_write_max_length: length(bw),
            iops_size: number(self.iops_size),
        }
    }

    fn check(&self) -> Result<()> {
        for [total, read, write] in
            [[BPS_TOTAL, BPS_READ, BPS_WRITE], [IOPS_TOTAL, IOPS_READ, IOPS_WRITE]]
                .map(|indices| indices.map(|index| self.rates[index]))
        {
            let avg = total.avg > 0 && (read.avg > 0 || write.avg > 0);
            let max = total.max > 0 && (read.max > 0 || write.max > 0);
            if avg || max {
                return Err(Error::invalid(
                    "bps/iops/max total values and read/write values cannot be used at the same \
                     time",
                ));
            }
        }
        if self.iops_size > 0 && self.rates[IOPS_TOTAL..].iter().all(|rate| rate.avg == 0) {
            return Err(Error::invalid("iops size requires an iops value to be set"));
        }
        self.rates.iter().try_for_each(Rate::check)
    }
}

impl Rate {
    fn check(&self) -> Result<()> {
        let &Self { avg, max, length } = self;
        if avg > MOST || max > MOST {
            return Err(Error::invalid(format!("bps/iops/max values must be within [0, {MOST}]")));
        }
        let what = if length == 0 {
            "the burst length cannot be 0"
        } else if length > 1 && max == 0 {
            "burst length set without burst rate"
        } else if max > 0 && length > MOST / max {
            "burst length too high for this burst rate"
        } else if max > 0 && avg == 0 {
            "bps_max/iops_max require corresponding bps/iops values"
        } else if max > 0 && max < avg {
            "bps_max/iops_max cannot be lower than bps/iops"
        } else {
            return Ok(());
        };
        Err(Error::invalid(what))
    }
}
