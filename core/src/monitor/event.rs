//! What happened, and everybody who wants to be told.

use crate::io::Runtime;
use crate::sync::Mutex;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use event_listener::Event as Wake;
use serde::Serialize;
use serde_json::{Map, Value};

/// So many events wait for a subscriber at most; then its oldest are lost.
const MAX_WAITING: usize = 4096;

/// Something that happened, as the schema names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The schema's name: `BLOCK_IO_ERROR` …
    pub name: &'static str,
    /// What belongs to it; empty where the event has no data.
    pub data: Map<String, Value>,
    /// When: since the Unix epoch.
    pub time: Duration,
}

/// Where events are said, and from which every monitor takes them.
pub struct Events {
    runtime: Arc<dyn Runtime>,
    subscribers: Mutex<Vec<Weak<Queue>>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Event>>,
    wake: Wake,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Nobody listens yet.
    pub fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { runtime, subscribers: Mutex::default() })
    }

    /// Tells everybody who listens now.
    pub fn emit(&self, name: &'static str, data: Map<String, Value>) {
        let event = Event { name, data, time: self.runtime.wall_clock() };
        self.subscribers.lock().retain(|subscriber| {
            let Some(queue) = subscriber.upgrade() else { return false };
            let mut waiting = queue.waiting.lock();
            if waiting.len() >= MAX_WAITING {
                waiting.pop_front();
            }
            waiting.push_back(event.clone());
            drop(waiting);
            queue.wake.notify(usize::MAX);
            true
        });
    }

    /// Tells everybody who listens now, with one of the schema's types as data.
    pub fn tell(&self, name: &'static str, data: &impl Serialize) {
        // The types of the schema are objects of plain values: there is nothing else to be.
        if let Ok(Value::Object(data)) = serde_json::to_value(data) {
            self.emit(name, data);
        }
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> Subscription {
        let queue = Arc::<Queue>::default();
        self.subscribers.lock().push(Arc::downgrade(&queue));
        Subscription(queue)
    }
}

/// Somebody who listens. Dropping it ends that.
pub struct Subscription(Arc<Queue>);

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

impl Subscription {
    /// The next event, where one waits.
    #[must_use]
    pub fn try_next(&self) -> Option<Event> {
        self.0.waiting.lock().pop_front()
    }

    /// The next event. Dropping the future loses none.
    pub async fn next(&self) -> Event {
        loop {
            let woken = self.0.wake.listen();
            if let Some(event) = self.try_next() {
                return event;
            }
            woken.await;
        }
    }
}
