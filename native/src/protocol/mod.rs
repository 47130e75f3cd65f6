//! Devices that other hosts serve, by the names QEMU gives them.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`nbd`] | the NBD client: `nbd:…`, `nbd://…`, `nbd+unix://…`, `nbds://…` |
//!
//! [`NameOpener`] is the one place that tells by a name's protocol who opens it.

pub mod nbd;

use crate::storage::FileOpener;
use sectora_core::Result;
use sectora_core::io::{Access, BoxFuture, Device, Opener};
use std::sync::Arc;

/// Opens whatever has a name: files by a [`FileOpener`], the rest by its protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameOpener {
    /// How files are opened.
    pub files: FileOpener,
}

/// A name that is not a file's.
#[derive(Clone, Debug)]
pub enum Remote {
    /// An export of an NBD server.
    Nbd(nbd::NbdOptions),
}

impl Remote {
    /// What `name` stands for; `None` where it is for [`FileOpener`] to open, or to refuse.
    ///
    /// # Errors
    /// `InvalidInput` where the protocol is known and the rest makes no sense.
    pub fn parse(name: &str) -> Result<Option<Self>> {
        Ok(nbd::NbdOptions::parse(name)?.map(Self::Nbd))
    }

    /// The name as it is shown and stored.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Nbd(options) => options.canonical(),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Those of the protocol.
    pub async fn open(&self, access: Access) -> Result<Device> {
        match self {
            Self::Nbd(options) => Ok(Arc::new(nbd::NbdDevice::connect(options, access).await?)),
        }
    }
}

impl Opener for NameOpener {
    fn open<'a>(&'a self, filename: &'a str, access: Access) -> BoxFuture<'a, Result<Device>> {
        Box::pin(async move {
            match Remote::parse(filename)? {
                Some(remote) => remote.open(access).await,
                None => self.files.open(filename, access).await,
            }
        })
    }
}
