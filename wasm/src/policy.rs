//! Backing and data files, by asking JavaScript.

use crate::error;
use crate::storage::{HostDevice, Storage};
use js_sys::{Function, Object, Promise, Reflect};
use sectora_core::io::{BoxFuture, OpenPolicy, Opened, Reference, ReferenceKind, combine_path};
use sectora_core::{Error, Result};
use send_wrapper::SendWrapper;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Every device that an image and what it refers to live on.
pub(crate) type Devices = Rc<RefCell<Vec<Arc<HostDevice>>>>;

/// Asks a function of JavaScript about every reference.
///
/// `resolve(kind, name, referrer)` gives a promise of `{ storage, name? }`, or of nothing to deny.
#[derive(Clone)]
pub(crate) struct Resolve {
    shared: SendWrapper<Rc<Shared>>,
}

struct Shared {
    resolve: Option<Function>,
    devices: Devices,
    /// The reference that was denied.
    wanted: RefCell<Option<JsValue>>,
}

impl Resolve {
    /// Keeps what it opens in `devices`. Without a function it denies everything.
    pub(crate) fn new(resolve: Option<Function>, devices: Devices) -> Self {
        let shared = Shared { resolve, devices, wanted: RefCell::new(None) };
        Self { shared: SendWrapper::new(Rc::new(shared)) }
    }

    /// The reference that was denied last, as JavaScript describes it.
    pub(crate) fn wanted(&self) -> Option<JsValue> {
        self.shared.wanted.borrow().clone()
    }

    async fn ask(&self, r: Reference<'_>) -> Result<Opened> {
        let kind = match r.kind {
            ReferenceKind::Backing => "backing",
            ReferenceKind::DataFile => "data-file",
            other => return Err(Error::unsupported(format!("a {other} cannot be opened here"))),
        };
        if let Some(resolve) = &self.shared.resolve {
            let failed = |e: JsValue| {
                error::from_js(&e).context(format!("cannot open {} '{}'", r.kind, r.name))
            };
            let promise = resolve
                .call3(&JsValue::NULL, &kind.into(), &r.name.into(), &r.referrer.into())
                .map_err(failed)?;
            let answer = JsFuture::from(Promise::resolve(&promise)).await.map_err(failed)?;
            if answer.is_object() {
                return self.open(r, &answer);
            }
        }
        let wanted = Object::new();
        for (name, value) in [("kind", kind), ("name", r.name), ("referrer", r.referrer)] {
            // Setting a member of a fresh object cannot fail.
            let _ = Reflect::set(&wanted, &name.into(), &value.into());
        }
        *self.shared.wanted.borrow_mut() = Some(wanted.into());
        Err(Error::denied(format!(
            "'{}' wants its {} '{}', which it was not given: open it with a resolver that knows it",
            r.referrer, r.kind, r.name
        )))
    }

    fn open(&self, r: Reference<'_>, answer: &JsValue) -> Result<Opened> {
        let member =
            |name: &str| Reflect::get(answer, &name.into()).map_err(|e| error::from_js(&e));
        let storage: Storage = member("storage")?.unchecked_into();
        let name = member("name")?.as_string();
        let filename = name.unwrap_or_else(|| combine_path(r.referrer, r.name));
        let device = Arc::new(HostDevice::new(storage, Some(filename.clone()))?);
        self.shared.devices.borrow_mut().push(device.clone());
        Ok(Opened { device, filename })
    }
}

impl OpenPolicy for Resolve {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(SendWrapper::new(self.ask(reference)))
    }
}
