//! A stream of JavaScript as a sink.

use crate::{error, host};
use js_sys::{Function, Promise, Uint8Array};
use sectora_core::Result;
use sectora_core::io::{BoxFuture, Segment, Segments, Sink};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Chunks of a stream are at most so long.
const CHUNK: usize = 1 << 20;

/// Hands chunks to `push(bytes)`, whose promise resolves when the next is wanted.
pub(crate) struct JsSink {
    push: SendWrapper<Function>,
}

impl JsSink {
    pub(crate) fn new(push: Function) -> Self {
        Self { push: SendWrapper::new(push) }
    }

    async fn push(&self, chunk: Uint8Array) -> Result<()> {
        host::breathe().await;
        let answer = self.push.call1(&JsValue::NULL, &chunk).map_err(|e| error::from_js(&e))?;
        JsFuture::from(Promise::resolve(&answer)).await.map_err(|e| error::from_js(&e))?;
        Ok(())
    }

    async fn write_all(&self, data: Segments) -> Result<()> {
        for segment in data.as_slice() {
            match segment {
                Segment::Data(bytes) => {
                    for part in bytes.chunks(CHUNK) {
                        self.push(Uint8Array::from(part)).await?;
                    }
                }
                Segment::Zero(len) => {
                    let mut left = *len;
                    while left > 0 {
                        let step = left.min(CHUNK as u64);
                        // At most CHUNK, so it fits.
                        self.push(Uint8Array::new_with_length(step as u32)).await?;
                        left -= step;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Sink for JsSink {
    fn write(&mut self, data: Segments) -> BoxFuture<'_, Result<()>> {
        Box::pin(SendWrapper::new(self.write_all(data)))
    }
}
