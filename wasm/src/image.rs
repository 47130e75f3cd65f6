//! The exported calls.

use crate::options::{Follow, NewOptions, OpenOptions, parse};
use crate::policy::{Devices, Resolve};
use crate::sink::JsSink;
use crate::storage::{HostDevice, Storage};
use crate::task::{Task, promise};
use crate::{error, runtime::runtime};
use js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array};
use sectora_core::format::{self, Backing, Env, FormatName, Layer, Repair};
use sectora_core::image::{self, Mapper, NewImage};
use sectora_core::io::{Access, BlockDevice, Deny, Device};
use sectora_core::{Error, Result};
use serde::Serialize;
use serde_wasm_bindgen::Serializer;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

/// Requests of a conversion in flight where storage answers with promises; where it answers at
/// once there is nothing to overlap.
const PARALLEL: u16 = 8;

/// An opened image.
#[wasm_bindgen]
pub struct Image {
    layer: Arc<Layer>,
    devices: Devices,
}

/// The names of the formats that can be opened and written.
#[wasm_bindgen]
pub fn formats() -> Array {
    FormatName::supported().into_iter().map(|f| JsValue::from(f.as_str())).collect()
}

/// Opens an image: a promise of an [`Image`].
#[wasm_bindgen]
pub fn open(storage: Storage, options: JsValue, resolve: Option<Function>, task: &Task) -> Promise {
    let devices = Devices::default();
    let policy = Resolve::new(resolve, devices.clone());
    let (asked, used, task) = (policy.clone(), devices.clone(), task.clone());
    let work = async move {
        let options: OpenOptions = parse(options)?;
        let file = Arc::new(HostDevice::new(storage, options.name)?);
        devices.borrow_mut().push(file.clone());
        let env = Env { runtime: runtime(), policy: Arc::new(policy) };
        let format = options.format.as_deref().map(str::parse).transpose()?;
        let backing = match options.backing {
            None | Some(Follow::Follow) => Backing::Follow,
            Some(Follow::Ignore) => Backing::Ignore,
        };
        let name = file.name().to_owned();
        let options = format::OpenOptions {
            format,
            backing,
            snapshot: options.snapshot,
            ..format::OpenOptions::default()
        };
        let layer = task.run(format::open(&env, file, &name, options)).await?;
        Ok(Image { layer, devices })
    };
    wasm_bindgen_futures::future_to_promise(async move {
        match work.await {
            Ok(image) => Ok(image.into()),
            Err(e) => {
                retire(&used).await;
                let thrown = error::to_js(&e);
                if let Some(wanted) = asked.wanted() {
                    // Setting a member of a fresh object cannot fail.
                    let _ = Reflect::set(&thrown, &"wanted".into(), &wanted);
                }
                Err(thrown)
            }
        }
    })
}

/// Makes an empty image: a promise of its length.
#[wasm_bindgen]
pub fn create(storage: Storage, options: JsValue, task: &Task) -> Promise {
    let task = task.clone();
    promise(async move {
        let image = parse::<NewOptions>(options)?.image(None)?;
        with_target(storage, async |file: Arc<HostDevice>| {
            let device: Device = file.clone();
            let runtime = runtime();
            task.run(async {
                image::create(&runtime, &device, None, &image).await?;
                device.flush().await
            })
            .await
        })
        .await
    })
}

/// The size of a new, empty image.
#[wasm_bindgen(js_name = measureNew)]
pub fn measure_new(options: JsValue) -> Result<JsValue, JsValue> {
    let image = parse::<NewOptions>(options).and_then(|options| options.image(None));
    let sizes = image.and_then(|image| image::measure_new(&image));
    sizes.and_then(|sizes| to_js(&sizes)).map_err(|e| error::to_js(&e))
}

#[wasm_bindgen]
impl Image {
    /// The virtual size in bytes.
    #[wasm_bindgen(getter)]
    pub fn size(&self) -> u64 {
        self.layer.len()
    }

    /// The name of its format.
    #[wasm_bindgen(getter)]
    pub fn format(&self) -> String {
        self.layer.driver().name().to_owned()
    }

    /// The name it was opened by.
    #[wasm_bindgen(getter)]
    pub fn name(&self) -> String {
        self.layer.filename().to_owned()
    }

    /// A promise of what the image and its chain are, from the top.
    pub fn info(&self) -> Promise {
        let top = self.layer.clone();
        promise(async move {
            let chain = Array::new();
            let mut next = Some(top);
            while let Some(layer) = next {
                chain.push(&to_js(&image::info(&layer).await?)?);
                next = layer.backing().cloned();
            }
            Ok(JsValue::from(chain))
        })
    }

    /// Walks the map of a range.
    pub fn map(&self, start: u64, length: u64) -> Entries {
        let mapper = Mapper::new(self.layer.clone(), start, length);
        Entries { mapper: Rc::new(RefCell::new(Some(mapper))) }
    }

    /// A promise of what a check finds; of `undefined` where the format has nothing to check.
    pub fn check(&self, task: &Task) -> Promise {
        let (layer, task) = (self.layer.clone(), task.clone());
        promise(async move {
            let progress = task.progress();
            let Some(check) = task.run(image::check(&layer, Repair::Nothing, &progress)).await?
            else {
                return Ok(JsValue::UNDEFINED);
            };
            let out = to_js(&check.summary)?;
            let findings: Array = check.report.findings.iter().map(finding).collect();
            // Setting a member of a fresh object cannot fail.
            let _ = Reflect::set(&out, &"findings".into(), &findings);
            Ok(out)
        })
    }

    /// A promise of the size of a new image with these contents.
    pub fn measure(&self, options: JsValue, task: &Task) -> Promise {
        let (layer, task) = (self.layer.clone(), task.clone());
        promise(async move {
            let image = parse::<NewOptions>(options)?.image(Some(layer.len()))?;
            let progress = task.progress();
            to_js(&task.run(image::measure_source(&image, &layer, &progress)).await?)
        })
    }

    /// A promise of the bytes of a range.
    pub fn read(&self, offset: u64, length: u32, task: &Task) -> Promise {
        let (layer, task) = (self.layer.clone(), task.clone());
        promise(async move {
            let data = task.run(layer.read(offset, length.into())).await?;
            Ok(Uint8Array::from(&*data.to_bytes()))
        })
    }

    /// Writes the contents as a new image: a promise of its length.
    pub fn convert(&self, storage: Storage, options: JsValue, task: &Task) -> Promise {
        let (layer, task) = (self.layer.clone(), task.clone());
        let sync = self.devices.borrow().iter().all(|device| device.is_sync());
        promise(async move {
            let options: NewOptions = parse(options)?;
            let image = options.image(Some(layer.len()))?;
            complete(&layer, options.has_backing()).await?;
            with_target(storage, async |file: Arc<HostDevice>| {
                let parallel = if sync && file.is_sync() { 1 } else { PARALLEL };
                task.run(fill(&layer, file, &image, &options, parallel, &task)).await
            })
            .await
        })
    }

    /// Writes the contents as a new image to `push(bytes)`, in order.
    pub fn stream(&self, push: Function, options: JsValue, task: &Task) -> Promise {
        let (layer, task) = (self.layer.clone(), task.clone());
        promise(async move {
            let options: NewOptions = parse(options)?;
            let image = options.image(Some(layer.len()))?;
            if options.compressed() {
                return Err(Error::unsupported(
                    "a stream is written in one pass, which compressed clusters are too short for",
                ));
            }
            complete(&layer, false).await?;
            let (source, progress) = (layer as Device, task.progress());
            let mut sink = JsSink::new(push);
            let streamed =
                image::stream(&source, &image, options.sparse_size(), &mut sink, &progress);
            task.run(streamed).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Ends all use of the storage below: a promise of nothing being in flight any more.
    pub fn close(&self) -> Promise {
        let devices = self.devices.clone();
        promise(async move {
            retire(&devices).await;
            Ok(JsValue::UNDEFINED)
        })
    }
}

/// A walk over a map.
#[wasm_bindgen]
pub struct Entries {
    /// Taken out while a batch is on its way.
    mapper: Rc<RefCell<Option<Mapper>>>,
}

#[wasm_bindgen]
impl Entries {
    /// A promise of the next entries, at most `most`; of none at the end.
    pub fn next(&self, most: u32, task: &Task) -> Promise {
        let (slot, task) = (self.mapper.clone(), task.clone());
        promise(async move {
            let busy = || Error::invalid("the entries of a map come one batch after another");
            let mut mapper = slot.borrow_mut().take().ok_or_else(busy)?;
            let batch = task.run(batch(&mut mapper, most)).await;
            *slot.borrow_mut() = Some(mapper);
            batch
        })
    }

    /// How far the walk has come.
    #[wasm_bindgen(getter)]
    pub fn position(&self) -> u64 {
        self.mapper.borrow().as_ref().map_or(0, Mapper::position)
    }
}

async fn batch(mapper: &mut Mapper, most: u32) -> Result<Array> {
    let out = Array::new();
    while out.length() < most {
        crate::host::breathe().await;
        let Some(entry) = mapper.next_entry().await? else { break };
        out.push(&to_js(&entry)?);
    }
    Ok(out)
}

/// Makes the image and copies the contents into it.
async fn fill(
    layer: &Arc<Layer>,
    file: Arc<HostDevice>,
    image: &NewImage,
    options: &NewOptions,
    parallel: u16,
    task: &Task,
) -> Result<()> {
    let (runtime, device): (_, Device) = (runtime(), file.clone());
    image::create(&runtime, &device, None, image).await?;
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
    let target = format::OpenOptions {
        format: Some(image.format()),
        access: Access::ReadWrite,
        backing: Backing::Ignore,
        ..format::OpenOptions::default()
    };
    let target = format::open(&env, device, file.name(), target).await?;
    let (source, device): (Device, Device) = (layer.clone(), target.clone());
    let how = image::ConvertOptions {
        rate: 0,
        compress: options.compressed(),
        sparse_size: options.sparse_size(),
        parallel,
        target_is_zero: true,
        target_has_backing: options.has_backing(),
    };
    let progress = task.progress();
    image::convert(&runtime, &source, &device, how, &progress).await?;
    target.close().await
}

/// Refuses to copy an image without its backing file as if it were the whole.
async fn complete(layer: &Layer, has_backing: bool) -> Result<()> {
    let wanted = layer.driver().describe().await?.backing;
    match wanted {
        Some(backing) if layer.backing().is_none() && !has_backing => Err(Error::invalid(format!(
            "'{}' was opened without its backing file '{}', so its contents are not all there",
            layer.filename(),
            backing.name
        ))),
        _ => Ok(()),
    }
}

/// Runs `work` on a target; afterwards nothing is in flight there, whatever came of it. Gives the
/// target's length.
async fn with_target(
    storage: Storage,
    work: impl AsyncFnOnce(Arc<HostDevice>) -> Result<()>,
) -> Result<JsValue> {
    let file = Arc::new(HostDevice::new(storage, None)?);
    let result = work(file.clone()).await;
    file.retire().await;
    result.map(|()| (file.len() as f64).into())
}

async fn retire(devices: &Devices) {
    let all = devices.borrow().clone();
    for device in all {
        device.retire().await;
    }
}

fn finding(finding: &format::Finding) -> JsValue {
    let out = Object::new();
    // Setting a member of a fresh object cannot fail.
    let set = |name: &str, value: JsValue| drop(Reflect::set(&out, &name.into(), &value));
    set("kind", finding.kind.name().into());
    set("what", finding.what.as_str().into());
    if let Some(at) = finding.at {
        set("offset", at.into());
    }
    out.into()
}

/// Plain data as a JavaScript object, 64-bit integers as `bigint`.
fn to_js(value: &impl Serialize) -> Result<JsValue> {
    let serializer = Serializer::new()
        .serialize_maps_as_objects(true)
        .serialize_large_number_types_as_bigints(true);
    value
        .serialize(&serializer)
        .map_err(|e| Error::bug(format!("a description cannot be handed to JavaScript: {e}")))
}
