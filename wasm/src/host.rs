//! What JavaScript provides besides storage, and the turns of its event loop.

use std::cell::{Cell, RefCell};
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r"
export interface Host {
  /** Monotonic milliseconds. */
  now(): number;
  /** Milliseconds since 1970. */
  wallClock(): number;
  /** Resolves after everything else that waits for the event loop has had its turn. */
  nextTurn(): Promise<void>;
  /** A timer: its end, and what ends it before. */
  sleep(milliseconds: number): { done: Promise<void>; stop(): void };
  random(out: Uint8Array): void;
  /** The engine has stopped for good. */
  panicked(message: string): void;
}
";

#[wasm_bindgen]
extern "C" {
    /// The object given to [`install`].
    #[wasm_bindgen(typescript_type = "Host")]
    #[derive(Clone)]
    pub type Host;

    #[wasm_bindgen(method)]
    fn now(this: &Host) -> f64;
    #[wasm_bindgen(method, js_name = wallClock)]
    fn wall_clock(this: &Host) -> f64;
    #[wasm_bindgen(method, js_name = nextTurn)]
    fn next_turn(this: &Host) -> js_sys::Promise;
    #[wasm_bindgen(method)]
    fn sleep(this: &Host, milliseconds: f64) -> Timer;
    #[wasm_bindgen(method)]
    fn random(this: &Host, out: &js_sys::Uint8Array);
    #[wasm_bindgen(method)]
    fn panicked(this: &Host, message: &str);

    /// A timer of the host.
    type Timer;
    #[wasm_bindgen(method, getter)]
    fn done(this: &Timer) -> js_sys::Promise;
    #[wasm_bindgen(method)]
    fn stop(this: &Timer);
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
    /// When the event loop last had a turn.
    static LAST_TURN: Cell<f64> = const { Cell::new(0.0) };
}

/// The engine may work so long before others get a turn, in milliseconds: well below a frame.
const SLICE: f64 = 8.0;

/// Connects the engine to its host; to be called once, before anything else.
#[wasm_bindgen]
pub fn install(host: Host) {
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        with(|host| host.panicked(&message));
    }));
    HOST.with(|slot| *slot.borrow_mut() = Some(host));
}

fn with<T>(call: impl FnOnce(&Host) -> T) -> Option<T> {
    let host = HOST.with(|slot| slot.borrow().clone());
    host.as_ref().map(call)
}

/// Milliseconds on the host's monotonic clock.
pub(crate) fn now() -> f64 {
    with(Host::now).unwrap_or(0.0)
}

/// Time since the Unix epoch.
pub(crate) fn wall_clock() -> Duration {
    Duration::from_secs_f64(with(Host::wall_clock).unwrap_or(0.0).max(0.0) / 1000.0)
}

/// A timer that is stopped when nobody waits for it any more.
struct Running(Timer);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Completes after `time`.
pub(crate) async fn sleep(time: Duration) {
    if let Some(timer) = with(|host| host.sleep(time.as_secs_f64() * 1000.0)) {
        let timer = Running(timer);
        // A timer does not fail.
        let _ = JsFuture::from(timer.0.done()).await;
    }
}

/// Gives the event loop a turn where it has had none for a while. To be called before every piece
/// of work that completes without one.
pub(crate) async fn breathe() {
    let now = now();
    if now - LAST_TURN.get() < SLICE {
        return;
    }
    if let Some(promise) = with(Host::next_turn) {
        let _ = JsFuture::from(promise).await;
    }
    LAST_TURN.set(self::now());
}

/// Fills `out` with unpredictable bytes.
pub(crate) fn random(out: &mut [u8]) {
    // The host refuses more at once.
    const MOST: usize = 65536;
    for part in out.chunks_mut(MOST) {
        let bytes = js_sys::Uint8Array::new_with_length(part.len() as u32);
        with(|host| host.random(&bytes));
        bytes.copy_to(part);
    }
}
