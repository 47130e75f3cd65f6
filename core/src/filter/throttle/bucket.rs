//! The leaky bucket (throttle.txt, "The Leaky Bucket algorithm").
//!
//! What a request takes is poured in; the bucket leaks at the rate that is allowed in the long run.
//! A request may begin unless the bucket is over its brim, however much it pours in itself. A burst
//! that is longer than a second has a second, small bucket that leaks at the rate of the burst.

use super::limits::Rate;
use core::time::Duration;

/// Part of a second for which a rate may be exceeded, so that not every request has to wait: what
/// the reference allows where no burst is, and during one.
const SLACK: f64 = 0.1;

/// The state of one rate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    rate: Rate,
    level: f64,
    burst_level: f64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, level: 0.0, burst_level: 0.0 }
    }

    /// So much time has passed.
    pub(super) fn leak(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.level = positive(self.level - self.rate.avg as f64 * seconds);
        self.burst_level = positive(self.burst_level - self.rate.max as f64 * seconds);
    }

    /// A request has begun that takes so much.
    pub(super) fn pour(&mut self, units: f64) {
        if self.rate.avg == 0 {
            return;
        }
        self.level += units;
        if self.rate.length > 1 {
            self.burst_level += units;
        }
    }

    /// How long the next request has to wait.
    pub(super) fn wait(&self) -> Duration {
        let Rate { avg, max, length } = self.rate;
        if avg == 0 {
            return Duration::ZERO;
        }
        let (avg, max) = (avg as f64, max as f64);
        let brim = if max > 0.0 { max * length as f64 } else { avg * SLACK };
        let over = over(self.level - brim, avg);
        if length > 1 {
            // Both have to be below their brims.
            return over.max(self::over(self.burst_level - max * SLACK, max));
        }
        over
    }
}

/// The time in which `units` leak at `rate`.
fn over(units: f64, rate: f64) -> Duration {
    if units <= 0.0 {
        return Duration::ZERO;
    }
    // Up to a whole nanosecond: it has leaked then. An hour is long enough to look again.
    let time = Duration::try_from_secs_f64(units / rate).unwrap_or(Duration::MAX);
    time.min(Duration::from_secs(3600)).saturating_add(Duration::from_nanos(1))
}

fn positive(level: f64) -> f64 {
    if level > 0.0 { level } else { 0.0 }
}
