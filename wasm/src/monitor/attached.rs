//! The protocol `file` of the monitor: names under which JavaScript has attached storage.
//!
//! Nothing else can be opened: an image that names its backing file finds it where something is
//! attached under exactly that name. Nodes that stand on the same storage share its length and keep
//! out of each other's way by the same rules as programs that lock a file.

use super::objects::Objects;
use crate::error;
use crate::storage::{HostDevice, InUse, Storage};
use js_sys::Promise;
use sectora_core::crypto::Secret;
use sectora_core::filter::ThrottleGroup;
use sectora_core::graph::{Claim, Inherited, Locks, OpenedNode, Options, Permissions, Protocols};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Capabilities, Opened, Preallocation, has_protocol,
};
use sectora_core::{Error, ErrorKind, Result};
use send_wrapper::SendWrapper;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r"
/** What nodes may stand on. */
export interface Attachments {
  /** Opens what is attached under a name, or once more what is open; nothing where nothing is. */
  open(name: string): Promise<Storage | undefined>;
  /** One `open` has ended. */
  release(name: string): void;
}
";

#[wasm_bindgen]
extern "C" {
    /// The storage that JavaScript has attached.
    #[wasm_bindgen(typescript_type = "Attachments")]
    #[derive(Clone)]
    pub type Attachments;

    #[wasm_bindgen(method)]
    fn open(this: &Attachments, name: &str) -> Promise;
    #[wasm_bindgen(method)]
    fn release(this: &Attachments, name: &str);
}

/// Attached storage as a protocol.
pub(super) struct Attached {
    attachments: SendWrapper<Attachments>,
    objects: Arc<Objects>,
    used: SendWrapper<RefCell<HashMap<String, Used>>>,
}

/// What is known of storage that nodes stand on.
struct Used {
    storage: InUse,
    claims: Weak<Claims>,
}

impl Attached {
    pub(super) fn new(attachments: Attachments, objects: Arc<Objects>) -> Self {
        Self {
            attachments: SendWrapper::new(attachments),
            objects,
            used: SendWrapper::new(RefCell::default()),
        }
    }

    /// The storage called `name`, and who uses it.
    async fn find(&self, name: &str) -> Result<(HostDevice, Rc<Claims>)> {
        let failed = |e: &JsValue| error::from_js(e).context(format!("Could not open '{name}'"));
        let opened = JsFuture::from(self.attachments.open(name)).await.map_err(|e| failed(&e))?;
        if !opened.is_object() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("Could not open '{name}': nothing is attached under that name"),
            ));
        }
        let (attachments, released) = ((*self.attachments).clone(), name.to_owned());
        let release = move || attachments.release(&released);
        let mut used = self.used.borrow_mut();
        used.retain(|_, used| used.claims.strong_count() > 0);
        if let Some(known) = used.get(name)
            && let Some(claims) = known.claims.upgrade()
            && let Some(device) = HostDevice::over(&known.storage, name.to_owned())
        {
            // It is open already, and is given back by whoever opened it.
            release();
            return Ok((device, claims));
        }
        let storage: Storage = opened.unchecked_into();
        let device =
            HostDevice::released_by(storage, Some(name.to_owned()), Some(Box::new(release)))?;
        let claims = Rc::new(Claims::default());
        let known = Used { storage: device.in_use(), claims: Rc::downgrade(&claims) };
        used.insert(name.to_owned(), known);
        Ok((device, claims))
    }

    /// `BlockdevOptionsFile`.
    async fn open_file(&self, options: &mut Options, how: Inherited) -> Result<OpenedNode> {
        let Some(filename) = options.take_text("filename") else {
            return Err(Error::invalid("The 'file' block driver requires a file name"));
        };
        options.take_pr_manager()?;
        let locking = options.take_word("locking", |word| match word {
            "off" => Some(false),
            "on" | "auto" => Some(true),
            _ => None,
        })?;
        // How a file is read and written is the host's business here.
        for ignored in ["aio", "aio-max-batch", "drop-cache", "x-check-cache-dropped"] {
            options.take_text(ignored);
        }
        if how.force_share && how.access == Access::ReadWrite {
            let what = "force-share=on can only be used with read-only images";
            return Err(Error::invalid(what));
        }
        let (device, claims) = self.find(&filename).await?;
        let device = match how.access {
            Access::ReadOnly => device.read_only(),
            Access::ReadWrite if device.is_writable() => device,
            Access::ReadWrite => {
                return Err(Error::denied(format!(
                    "Could not open '{filename}': it is attached for reading only"
                )));
            }
        };
        let locks = match locking.unwrap_or(true) {
            true => Some(Arc::new(Lock::new(claims, &filename, how.force_share)) as Arc<dyn Locks>),
            // It still counts as a user, so that its storage is shared.
            false => Some(Arc::new(Lock::new(claims, &filename, true).indifferent()) as _),
        };
        Ok(OpenedNode { device: Arc::new(device), filename, locks })
    }

    async fn make(&self, mut options: Options) -> Result<()> {
        let filename = options.take_text("filename").unwrap_or_default();
        let size = options.take_size("size")?.unwrap_or_default();
        let preallocation = options.take_word("preallocation", |word| match word {
            "off" => Some(Preallocation::Off),
            "falloc" => Some(Preallocation::Falloc),
            "full" => Some(Preallocation::Full),
            _ => None,
        })?;
        let (device, claims) = self.find(&filename).await?;
        if !device.capabilities().contains(Capabilities::WRITE) {
            return Err(Error::denied(format!(
                "Could not create '{filename}': it is attached for reading only"
            )));
        }
        let lock = Lock::new(claims, &filename, false);
        let changing = Permissions::WRITE | Permissions::RESIZE;
        let taken = Permissions::CONSISTENT_READ | changing;
        lock.set(Claim { taken, shared: Permissions::all() - changing })?;
        device.set_len(0, Preallocation::Off).await?;
        device.set_len(size, preallocation.unwrap_or_default()).await?;
        device.flush().await
    }
}

impl Protocols for Attached {
    fn has_driver(&self, driver: &str) -> bool {
        driver == "file"
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let (protocol, name) = match filename.split_once(':') {
            Some((protocol, name)) if has_protocol(filename) => (protocol, name),
            _ => ("file", filename),
        };
        if protocol != "file" {
            return Err(Error::unsupported(format!(
                "'{filename}': the protocol '{protocol}' is not there in WebAssembly"
            )));
        }
        let mut options = Options::default();
        options.set_default("driver", "file");
        options.set_default("filename", name);
        Ok(options)
    }

    fn secret(&self, id: &str) -> Result<Secret> {
        self.objects.secret(id)
    }

    fn open<'a>(
        &'a self,
        _: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(SendWrapper::new(async move {
            let OpenedNode { device, filename, .. } = self.open_file(options, how).await?;
            Ok(Opened { device, filename })
        }))
    }

    fn open_node<'a>(
        &'a self,
        _: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<OpenedNode>> {
        Box::pin(SendWrapper::new(self.open_file(options, how)))
    }

    fn throttle_group(&self, id: &str) -> Result<Arc<ThrottleGroup>> {
        let what = || format!("Throttle group '{id}' does not exist");
        self.objects.throttle_group(id).ok_or_else(|| Error::new(ErrorKind::NotFound, what()))
    }

    fn creates(&self, driver: &str) -> bool {
        driver == "file"
    }

    fn create<'a>(&'a self, _: &'a str, options: Options) -> BoxFuture<'a, Result<()>> {
        Box::pin(SendWrapper::new(self.make(options)))
    }
}

/// What the users of one storage do with it, and let others do.
#[derive(Default)]
struct Claims {
    list: RefCell<Vec<(u64, Claim)>>,
    next: Cell<u64>,
}

/// The claim of one user.
struct Lock {
    claims: SendWrapper<Rc<Claims>>,
    id: u64,
    name: String,
    /// It lets others do everything.
    shares: bool,
    /// It minds nobody and nobody minds it.
    indifferent: bool,
}

impl Lock {
    fn new(claims: Rc<Claims>, name: &str, shares: bool) -> Self {
        let id = claims.next.replace(claims.next.get() + 1);
        let claims = SendWrapper::new(claims);
        Self { claims, id, name: name.to_owned(), shares, indifferent: false }
    }

    fn indifferent(mut self) -> Self {
        self.indifferent = true;
        self
    }
}

impl Locks for Lock {
    fn set(&self, claim: Claim) -> Result<()> {
        if self.indifferent {
            return Ok(());
        }
        let all = Permissions::all();
        let shared = if self.shares { all } else { claim.shared };
        let claim = Claim { shared, ..claim };
        let mut list = self.claims.list.borrow_mut();
        for (_, other) in list.iter().filter(|(id, _)| *id != self.id) {
            let minded = claim.taken & (all - other.shared);
            let minds = (all - claim.shared) & other.taken;
            let what = match (words(minded), words(minds)) {
                (Some(what), _) => format!("\"{what}\""),
                (None, Some(what)) => format!("shared \"{what}\""),
                (None, None) => continue,
            };
            return Err(Error::new(
                ErrorKind::InUse,
                format!(
                    "Failed to get {what} lock\nIs another process using the image [{}]?",
                    self.name
                ),
            ));
        }
        list.retain(|(id, _)| *id != self.id);
        if claim != Claim::NONE {
            list.push((self.id, claim));
        }
        Ok(())
    }
}

/// The first of some permissions, as messages have it.
fn words(permissions: Permissions) -> Option<String> {
    permissions.names().next().map(|name| name.replace('-', " "))
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.claims.list.borrow_mut().retain(|(id, _)| *id != self.id);
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).finish_non_exhaustive()
    }
}
