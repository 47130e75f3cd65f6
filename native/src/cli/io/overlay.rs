//! A temporary image that takes the writes (`-s`): a qcow2 image without a name, gone when it is
//! closed, above an image that stays as it is.

use crate::storage::{FileDevice, FileOptions, Locking};
use sectora_core::format::{BackingRef, Env, FormatName, Layer, OpenOptions, open, qcow2};
use sectora_core::image::{NewImage, create};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Device, OpenPolicy, Opened, Reference, ReferenceKind, Runtime,
};
use sectora_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// Answers the one reference of the temporary image with the image below.
struct Below(Arc<Layer>);

impl OpenPolicy for Below {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let answer = match reference.kind {
            ReferenceKind::Backing => {
                // The name says whose bytes they are; none of them is looked at by name.
                let filename = format!("the image {}", self.0.filename());
                Ok(Opened { device: self.0.clone(), filename })
            }
            _ => Err(Error::bug("a temporary image has no data file")),
        };
        Box::pin(std::future::ready(answer))
    }
}

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
    // Its contents are the guest's bytes of `below`, whatever format those come from.
    let backing = BackingRef { name: "below".to_owned(), format: Some("raw".to_owned()) };
    let image = NewImage::Qcow2(qcow2::CreateOptions {
        size: below.len(),
        backing: Some(backing),
        ..Default::default()
    });
    create(runtime, &device, None, &image).await?;
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Below(below)) };
    let options = OpenOptions { format: Some(FormatName::Qcow2), access, ..OpenOptions::default() };
    open(&env, device, "temporary image", options).await
}
