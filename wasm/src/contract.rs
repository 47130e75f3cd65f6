//! The storage contract suite over storage of JavaScript; for tests, never in the package.

use crate::error;
use crate::runtime::runtime;
use crate::storage::{HostDevice, Storage};
use crate::task::promise;
use js_sys::{Array, Function, Promise};
use sectora_core::Result;
use sectora_core::io::testing::contract::{self, ContractOptions, Outcome};
use sectora_core::io::testing::model::Subject;
use sectora_core::io::{BoxFuture, Device};
use send_wrapper::SendWrapper;
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// The names of all cases.
#[wasm_bindgen(js_name = contractCases)]
pub fn contract_cases() -> Array {
    contract::cases().iter().map(|case| JsValue::from(case.name())).collect()
}

/// Runs one case on devices over what `make()` gives, a promise of fresh, empty storage;
/// `read_only()` gives some that cannot be written. A promise of `[outcome, words]`.
#[wasm_bindgen(js_name = contractCase)]
pub fn contract_case(name: String, make: Function, read_only: Function, seed: u32) -> Promise {
    promise(async move {
        let options = ContractOptions {
            seed: seed.into(),
            window: 4 << 20,
            rounds: 4,
            read_only: Some(Arc::new(subject(read_only))),
            ..ContractOptions::default()
        };
        let subject = subject(make);
        let runtime = runtime();
        let case = contract::cases().iter().find(|case| case.name() == name);
        let outcome = match case {
            Some(case) => case.run(&subject, &*runtime, &options).await,
            None => Outcome::Failed("there is no such case".to_owned()),
        };
        let (outcome, words) = match outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Skipped(reason) => ("skipped", reason),
            Outcome::Failed(what) => ("failed", what),
        };
        Ok(Array::of2(&outcome.into(), &words.into()))
    })
}

fn subject(make: Function) -> impl Subject + 'static {
    let make = SendWrapper::new(make);
    move || -> BoxFuture<'static, Result<Device>> {
        let storage = make.call0(&JsValue::NULL);
        Box::pin(SendWrapper::new(async move {
            let promise = storage.map_err(|e| error::from_js(&e))?;
            let storage = JsFuture::from(Promise::resolve(&promise)).await;
            let storage: Storage = storage.map_err(|e| error::from_js(&e))?.unchecked_into();
            Ok(Arc::new(HostDevice::new(storage, None)?) as Device)
        }))
    }
}
