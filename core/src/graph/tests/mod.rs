//! Options as text, images opened from them, and the live graph.
#![cfg(all(feature = "testing", feature = "raw", feature = "qcow2"))]

mod changes;
mod live;
mod mount;
mod options;
mod replication;
pub(crate) mod world;

use super::{Inherited, Options, Protocols};
use crate::io::{BoxFuture, Device, Opened};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;

/// Files in memory, by name.
#[derive(Clone, Default)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Device>);

impl Protocols for Files {
    fn has_driver(&self, driver: &str) -> bool {
        driver == "file"
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let mut options = Options::default();
        options.set_default("driver", "file");
        options.set_default("filename", filename);
        Ok(options)
    }

    fn open<'a>(
        &'a self,
        _: &'a str,
        options: &'a mut Options,
        _: Inherited,
    ) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            let filename = options.take_string("filename").unwrap_or_default();
            let device = self.0.get(&filename).cloned();
            let device = device.ok_or_else(|| Error::io("No such file or directory"))?;
            Ok(Opened { device, filename })
        })
    }
}
