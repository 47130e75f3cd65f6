//! Cancelling and progress of one call.

use crate::{error, host};
use event_listener::Event;
use futures_util::future::{Either, select};
use sectora_core::{Error, ErrorKind, Result};
use send_wrapper::SendWrapper;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Progress is told at most so often, in milliseconds.
const TELL_EVERY: f64 = 50.0;

/// One call from the side of its caller: how to cancel it, and where its progress goes.
#[wasm_bindgen]
#[derive(Clone)]
pub struct Task(Rc<State>);

struct State {
    cancelled: Cell<bool>,
    cancel: Event,
    progress: Option<js_sys::Function>,
    told: Cell<f64>,
}

#[wasm_bindgen]
impl Task {
    /// A call that tells its progress to `progress(done, total)`.
    #[wasm_bindgen(constructor)]
    pub fn new(progress: Option<js_sys::Function>) -> Self {
        Self(Rc::new(State {
            cancelled: Cell::new(false),
            cancel: Event::new(),
            progress,
            told: Cell::new(0.0),
        }))
    }

    /// Ends the call, which fails with `Cancelled`.
    pub fn cancel(&self) {
        self.0.cancelled.set(true);
        self.0.cancel.notify(usize::MAX);
    }
}

impl Task {
    fn tell(&self, done: u64, total: u64) {
        let Some(progress) = &self.0.progress else { return };
        let now = host::now();
        if done < total && now - self.0.told.get() < TELL_EVERY {
            return;
        }
        self.0.told.set(now);
        // What a listener throws is its own trouble; the TypeScript side reports it.
        let _ = progress.call2(&JsValue::NULL, &(done as f64).into(), &(total as f64).into());
    }

    /// Where the core tells progress.
    pub(crate) fn progress(&self) -> impl Fn(u64, u64) + Send + Sync + 'static {
        let task = SendWrapper::new(self.clone());
        move |done, total| task.tell(done, total)
    }

    async fn cancelled(&self) {
        while !self.0.cancelled.get() {
            let cancel = self.0.cancel.listen();
            if !self.0.cancelled.get() {
                cancel.await;
            }
        }
    }

    /// Runs `work` until it is done or cancelled.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match select(pin!(self.cancelled()), pin!(work)).await {
            Either::Left(_) => Err(Error::new(ErrorKind::Cancelled, "the work was cancelled")),
            Either::Right((result, _)) => result,
        }
    }
}

/// A future of the engine as a promise that rejects with what `to_js` makes of its error.
pub(crate) fn promise<T: Into<JsValue>>(
    work: impl Future<Output = Result<T>> + 'static,
) -> js_sys::Promise {
    wasm_bindgen_futures::future_to_promise(async move {
        work.await.map(Into::into).map_err(|e| error::to_js(&e))
    })
}
