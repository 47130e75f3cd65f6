//! Looking again for a moment before sleeping.
//!
//! A thread that sleeps until a peer answers pays for being woken, which takes longer than a small
//! request over a socket does otherwise. So it looks again and again first, for as long as recent
//! waits make it worth while, as QEMU's I/O threads do (`poll-max-ns`): the time grows while answers
//! come soon and shrinks to nothing while they do not.
//!
//! Looking keeps a processor busy. A thread does so only while there is a processor for each thread
//! of the process that is awake, as far as they come by here, and one for whoever is waited for.

use super::cores;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest time of looking, and the longest wait that looking is tried for.
const MOST: Duration = Duration::from_micros(50);
/// Where looking begins.
const LEAST: Duration = Duration::from_micros(4);

/// Threads that are awake: those that look, and those that have found something since.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// What has been seen of the waits for one peer.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// How long to look.
    time: Duration,
    awake: Option<Awake>,
}

impl Spin {
    /// What `look` finds, or if that takes too long what `sleep` comes to. It looks once at least.
    pub(crate) fn wait<T>(
        &mut self,
        look: impl FnMut() -> Option<T>,
        sleep: impl FnOnce() -> T,
    ) -> T {
        let start = Instant::now();
        let found = self.look(start, look).unwrap_or_else(|| {
            self.rest();
            sleep()
        });
        self.awake.get_or_insert_with(Awake::begin);
        self.learn(start.elapsed());
        found
    }

    /// The thread sleeps elsewhere, or goes on to other things.
    pub(crate) fn rest(&mut self) {
        self.awake = None;
    }

    fn look<T>(&mut self, start: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let found = look();
        if found.is_some() || self.time.is_zero() {
            return found;
        }
        self.awake.get_or_insert_with(Awake::begin);
        while AWAKE.load(Ordering::Relaxed) < cores().get() && start.elapsed() < self.time {
            std::hint::spin_loop();
            let found = look();
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// A wait took `time`.
    fn learn(&mut self, time: Duration) {
        if time > MOST {
            self.time /= 2;
            if self.time < LEAST {
                self.time = Duration::ZERO;
            }
        } else if time > self.time {
            self.time = (self.time * 2).clamp(LEAST, MOST);
        }
    }
}

/// A thread that is awake, until dropped.
#[derive(Debug)]
struct Awake;

impl Awake {
    fn begin() -> Self {
        AWAKE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_follows_the_waits() {
        let micros = Duration::from_micros;
        let mut spin = Spin::default();
        for (wait, time) in [
            (micros(10), 4),
            (micros(10), 8),
            (micros(10), 16),
            // Long enough.
            (micros(10), 16),
            (micros(45), 32),
            (micros(45), 50),
            // Too long to look for.
            (micros(51), 25),
            (micros(1000), 12),
            (micros(1000), 6),
            (micros(1000), 0),
            (Duration::from_secs(9), 0),
            (micros(50), 4),
        ] {
            spin.learn(wait);
            assert_eq!(spin.time.as_micros(), time, "after {wait:?}");
        }
    }

    #[test]
    fn what_is_found_is_not_slept_for_and_what_is_not_found_is() {
        let mut spin = Spin::default();
        assert_eq!(spin.wait(|| Some(1), || 2), 1);
        assert_eq!(spin.wait(|| None, || 2), 2);
        spin.time = Duration::from_secs(3600);
        let mut looks = 0;
        let look = || {
            looks += 1;
            (looks == 3).then_some(1)
        };
        let found = spin.wait(look, || 2);
        // Where there is one processor, or another test is awake, it looks once only.
        assert!((found, looks) == (1, 3) || (found, looks) == (2, 1));
    }
}
