//! Events that may come too often.

use super::event::Event;
use crate::io::Instant;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::time::Duration;

/// Of those that are limited, one event of a kind goes out in this time at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Events that the schema calls rate-limited, and the member by which they are told apart where
/// each of its values counts by itself.
const LIMITED: [(&str, Option<&str>); 3] = [
    ("BLOCK_IO_ERROR", Some("node-name")),
    ("QUORUM_FAILURE", None),
    ("QUORUM_REPORT_BAD", Some("node-name")),
];

/// Lets the first event of a kind pass, and holds back those after it: the last one goes out when
/// the time is over, the others never.
#[derive(Debug, Default)]
pub(super) struct Limiter(BTreeMap<(&'static str, String), Held>);

#[derive(Debug)]
struct Held {
    until: Instant,
    event: Option<Event>,
}

impl Limiter {
    /// The event, where it may go out now.
    pub(super) fn admit(&mut self, event: Event, now: Instant) -> Option<Event> {
        let Some((_, by)) = LIMITED.iter().find(|(name, _)| *name == event.name) else {
            return Some(event);
        };
        let kind = by.and_then(|by| event.data.get(by)).map(ToString::to_string);
        let key = (event.name, kind.unwrap_or_default());
        match self.0.get_mut(&key) {
            Some(held) => {
                held.event = Some(event);
                None
            }
            None => {
                self.0.insert(key, Held { until: Instant(now.0 + INTERVAL), event: None });
                Some(event)
            }
        }
    }

    /// When the next one is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|held| held.until).min()
    }

    /// An event whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Event> {
        let mut due = None;
        self.0.retain(|_, held| {
            if held.until > now || due.is_some() {
                return true;
            }
            due = held.event.take();
            held.until = Instant(now.0 + INTERVAL);
            // What was quiet for the whole time begins anew.
            due.is_some()
        });
        due
    }
}
