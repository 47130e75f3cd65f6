//! A temporary image that takes the writes (`-s`): a qcow2 image without a name, gone when it is
//! closed, above an image that stays as it is.

use crate::storage::{FileDevice, FileOptions, Locking};
use sectora_core::format::{Backing, BackingRef, Env, FormatName, Layer, OpenOptions, open, qcow2};
use sectora_core::image::{NewImage, create};
use sectora_core::io::{Access, BlockDevice, Deny, Device, Runtime};
use sectora_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// A temporary image above `below`.
pub(super) async fn above(
    runtime: &Arc<dyn Runtime>,
    below: Arc<Layer>,
    access: Access,
) -> Result<Arc<Layer>> {
    let folder =
        std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).unwrap_or("/var/tmp".into());
    let failed = |e: std::io::Error| {
        let what = format!("Could not create temporary file in '{}'", folder.display());
        Error::new(ErrorKind::Io, what).because(e)
    };
    let file = tempfile::tempfile_in(&folder).map_err(failed)?;
    // Nobody else can see the file, and nothing of it is kept.
    let options = FileOptions {
        locking: Locking::Off,
        no_flush: true,
        ..FileOptions::new(Access::ReadWrite)
    };
    let device: Device = Arc::new(FileDevice::from_file(file, "temporary image", &options)?);
    // The name is looked at by nobody: what lies below is open already.
    let backing = BackingRef { name: "below".to_owned(), format: Some("raw".to_owned()) };
    let image = NewImage::Qcow2(qcow2::CreateOptions {
        size: below.len(),
        backing: Some(backing),
        ..Default::default()
    });
    create(runtime, &device, None, &image).await?;
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access,
        backing: Backing::Given(below),
        ..OpenOptions::default()
    };
    open(&env, device, "temporary image", options).await
}
