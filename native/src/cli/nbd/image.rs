//! What is exported, opened.

use super::args::Serve;
use super::objects::split;
use crate::cli::failure::{Failure, told};
use crate::cli::host::Host;
use crate::storage::{Aio, Create, FileDevice, FileOptions};
use sectora_core::format::{BackingRef, FormatName, Layer, OpenOptions, open, qcow2};
use sectora_core::image::{NewImage, create};
use sectora_core::io::{Access, BlockDevice, Device};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The part of an image that `--image-opts` names.
#[derive(Debug, Default)]
struct Described {
    filename: String,
    format: Option<String>,
    offset: u64,
    size: Option<u64>,
}

/// Opens the image. What it gives last is the temporary file of `--snapshot`.
pub(super) async fn open_image(
    host: &Host,
    how: &Serve,
) -> Result<(Arc<Layer>, u64, Option<u64>), Failure> {
    let failed =
        |text: String| Failure::new(format!("Failed to blk_new_open '{}': {text}", how.file));
    let described = match how.image_opts {
        true => describe(&how.file).map_err(failed)?,
        false => Described {
            filename: how.file.clone(),
            format: how.format.clone(),
            ..Described::default()
        },
    };
    let engine = |e: &sectora_core::Error| failed(told(e));
    let format: Option<FormatName> =
        described.format.as_deref().map(str::parse).transpose().map_err(|_| {
            let name = described.format.as_deref().unwrap_or_default();
            failed(format!("Unknown driver '{name}'"))
        })?;
    let access = match how.read_only || how.snapshot {
        true => Access::ReadOnly,
        false => Access::ReadWrite,
    };
    let named =
        host.file(&described.filename, how.cache, access, None).await.map_err(|e| engine(&e))?;
    let snapshot = how.load_snapshot.as_deref().map(snapshot_name).transpose()?;
    let asked = snapshot.is_some();
    let options = OpenOptions { format, access, snapshot, ..OpenOptions::default() };
    let filename = named.filename.clone();
    let layer =
        open(&host.env(how.cache), named.device, &filename, options).await.map_err(|e| match e
            .kind()
        {
            sectora_core::ErrorKind::NotFound if asked => {
                Failure::new("Failed to load snapshot: Can't find snapshot")
            }
            _ => engine(&e),
        })?;
    if layer.guessed_raw() && format.is_none() {
        crate::cli::output::warn_of_guess(&described.filename);
    }
    let layer = match how.snapshot && !how.read_only {
        true => overlay(host, how, &layer, &filename).await?,
        false => layer,
    };
    Ok((layer, described.offset, described.size))
}

/// `ID_OR_NAME`, or `snapshot.id=ID,snapshot.name=NAME`.
pub(super) fn snapshot_name(text: &str) -> Result<String, Failure> {
    if !text.starts_with("snapshot.") {
        return Ok(text.to_owned());
    }
    let wrong = |first: String| {
        crate::cli::output::complain(&format!("qemu-nbd: {first}"));
        Failure::new(format!("Failed in parsing snapshot param `{text}'"))
    };
    let (mut id, mut name) = (None, None);
    for part in split(text) {
        match part.split_once('=') {
            Some(("snapshot.id", value)) => id = Some(value.to_owned()),
            Some(("snapshot.name", value)) => name = Some(value.to_owned()),
            Some((key, _)) => return Err(wrong(format!("Invalid parameter '{key}'"))),
            None => return Err(wrong(format!("Invalid parameter '{part}'"))),
        }
    }
    match (id, name) {
        (Some(_), Some(_)) => Err(Failure::unsupported("naming a snapshot by both id and name")),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (None, None) => Err(wrong("Invalid parameter 'snapshot'".to_owned())),
    }
}

/// A new image over `layer`, in a file that is gone when the program ends.
async fn overlay(
    host: &Host,
    how: &Serve,
    layer: &Arc<Layer>,
    filename: &str,
) -> Result<Arc<Layer>, Failure> {
    let folder = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let mut tag = [0; 8];
    host.runtime.random(&mut tag);
    let path =
        std::path::Path::new(&folder).join(format!("sectora-nbd-{:016x}", u64::from_ne_bytes(tag)));
    let Some(path) = path.to_str() else {
        return Err(Failure::new("the name of the temporary folder is not UTF-8"));
    };
    let options =
        FileOptions { create: Create::New, aio: Aio::Auto, ..FileOptions::new(Access::ReadWrite) };
    let file: Device = Arc::new(FileDevice::open(path, &options)?);
    // Nobody else needs its name.
    std::fs::remove_file(path).map_err(|e| Failure::new(format!("cannot remove {path}: {e}")))?;
    let backing = match filename.contains(':') || filename.starts_with('/') {
        true => filename.to_owned(),
        false => {
            let full = std::path::absolute(filename)
                .map_err(|e| Failure::new(format!("cannot find {filename}: {e}")))?;
            full.to_string_lossy().into_owned()
        }
    };
    let image = NewImage::Qcow2(qcow2::CreateOptions {
        size: layer.len(),
        backing: Some(BackingRef { name: backing, format: Some(layer.driver().name().to_owned()) }),
        ..qcow2::CreateOptions::default()
    });
    create(&host.runtime, &file, None, &image).await?;
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        ..OpenOptions::default()
    };
    Ok(open(&host.env(how.cache), file, path, options).await?)
}

/// `driver=FORMAT,file.driver=file,file.filename=NAME`, and `offset`, `size` of raw images.
fn describe(text: &str) -> Result<Described, String> {
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    for part in split(text) {
        match part.split_once('=') {
            Some((key, value)) => {
                keys.insert(key.to_owned(), value.to_owned());
            }
            None => return Err(format!("Cannot find device='{part}' nor node-name='{part}'")),
        }
    }
    let mut take = |key: &str| keys.remove(key);
    let driver = take("driver");
    let inner = take("file.driver");
    let (outer_name, inner_name) = (take("filename"), take("file.filename"));
    let number = |key: &str, value: Option<String>| {
        value
            .map(|text| {
                sectora_core::image::parse_size(&text)
                    .map_err(|_| format!("Parameter '{key}' expects a number of bytes"))
            })
            .transpose()
    };
    let (offset, size) = (number("offset", take("offset"))?, number("size", take("size"))?);
    let raw = driver.as_deref() == Some("raw");
    if (offset.is_some() || size.is_some()) && !raw {
        return Err("'offset' and 'size' are for the driver 'raw' only".to_owned());
    }
    let protocol = |name: &str| matches!(name, "file" | "host_device");
    let (filename, format) = match (driver, inner, outer_name, inner_name) {
        // The file alone: its contents are what they are.
        (Some(driver), None, Some(name), None) if protocol(&driver) => {
            (name, Some("raw".to_owned()))
        }
        (None, None, Some(name), None) => (name, None),
        (driver, inner, None, Some(name)) if inner.as_deref().is_none_or(protocol) => {
            (name, driver)
        }
        (_, None, None, None) => {
            return Err("A block device must be specified for \"file\"".to_owned());
        }
        _ => {
            return Err(
                "only driver, file.driver=file and file.filename are supported here".to_owned()
            );
        }
    };
    if let Some(key) = keys.keys().next() {
        return Err(format!("the option '{key}' is not supported"));
    }
    Ok(Described { filename, format, offset: offset.unwrap_or(0), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_name_a_file_and_a_part_of_it() {
        let found = describe("driver=raw,offset=1M,size=2M,file.driver=file,file.filename=a,,b");
        let found = found.unwrap();
        assert_eq!((found.filename.as_str(), found.format.as_deref()), ("a,b", Some("raw")));
        assert_eq!((found.offset, found.size), (1 << 20, Some(2 << 20)));
        for wrong in
            ["a", "driver=qcow2", "driver=qcow2,offset=1,file.filename=a", "file.filename=a,x=1"]
        {
            assert!(describe(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn snapshots_by_name_and_by_parameter() {
        assert_eq!(snapshot_name("a").unwrap(), "a");
        assert_eq!(snapshot_name("snapshot.id=3").unwrap(), "3");
        assert_eq!(snapshot_name("snapshot.name=x").unwrap(), "x");
        assert!(snapshot_name("snapshot.foo=x").is_err());
    }
}
