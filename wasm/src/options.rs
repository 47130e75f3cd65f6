//! Options as JavaScript gives them.

use sectora_core::codec::Compression;
use sectora_core::format::{BackingRef, FormatName, qcow2, raw};
use sectora_core::image::NewImage;
use sectora_core::io::Preallocation;
use sectora_core::qapi::{PreallocMode, Qcow2CompressionType};
use sectora_core::{Error, Result};
use serde::Deserialize;
use wasm_bindgen::JsValue;

/// How to open an image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OpenOptions {
    pub(crate) format: Option<String>,
    pub(crate) backing: Option<Follow>,
    pub(crate) snapshot: Option<String>,
    pub(crate) name: Option<String>,
}

/// What is done about a backing file.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Follow {
    Follow,
    Ignore,
}

/// A new image, and how to fill it. Some members are for one format or one call only.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewOptions {
    format: String,
    size: Option<u64>,
    preallocation: Option<PreallocMode>,
    compat: Option<String>,
    cluster_size: Option<u32>,
    refcount_bits: Option<u32>,
    compression_type: Option<Qcow2CompressionType>,
    extended_l2: Option<bool>,
    lazy_refcounts: Option<bool>,
    backing: Option<BackingOption>,
    compressed: Option<bool>,
    sparse_size: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackingOption {
    name: String,
    format: Option<String>,
}

/// Reads options.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value).map_err(|e| {
        let text = e.to_string();
        // It is a JavaScript error, whose text repeats its class.
        Error::invalid(format!("options: {}", text.strip_prefix("Error: ").unwrap_or(&text)))
    })
}

impl NewOptions {
    /// The new image, for contents of `size` bytes where the options do not say.
    pub(crate) fn image(&self, size: Option<u64>) -> Result<NewImage> {
        let size = self.size.or(size).ok_or_else(|| Error::invalid("options: size is missing"))?;
        let preallocation = match self.preallocation.unwrap_or_default() {
            PreallocMode::Off => Preallocation::Off,
            PreallocMode::Metadata => Preallocation::Metadata,
            PreallocMode::Falloc => Preallocation::Falloc,
            PreallocMode::Full => Preallocation::Full,
        };
        let image = match self.format.parse()? {
            FormatName::Raw => {
                self.refuse_qcow2_options()?;
                if preallocation == Preallocation::Metadata {
                    return Err(Error::invalid("a raw image has no metadata to preallocate"));
                }
                // It has no room for a part of a sector.
                let size = size.next_multiple_of(512);
                NewImage::Raw(raw::CreateOptions { size, preallocation })
            }
            FormatName::Qcow2 => NewImage::Qcow2(self.qcow2(size, preallocation)?),
            other => {
                return Err(Error::unsupported(format!("{other} images cannot be written yet")));
            }
        };
        image.check()?;
        Ok(image)
    }

    fn qcow2(&self, size: u64, preallocation: Preallocation) -> Result<qcow2::CreateOptions> {
        let default = qcow2::CreateOptions::default();
        let version = match self.compat.as_deref() {
            None => default.version,
            Some("1.1" | "v3") => qcow2::Version::V3,
            Some("0.10" | "v2") => qcow2::Version::V2,
            Some(other) => {
                let what = format!("compat is 0.10 or 1.1, not '{other}'");
                return Err(Error::invalid(what).in_format("qcow2"));
            }
        };
        let backing = self.backing.as_ref();
        Ok(qcow2::CreateOptions {
            encryption: None,
            size,
            version,
            cluster_size: self.cluster_size.unwrap_or(default.cluster_size),
            refcount_bits: self.refcount_bits.unwrap_or(default.refcount_bits),
            compression_type: match self.compression_type.unwrap_or_default() {
                Qcow2CompressionType::Zlib => Compression::Deflate,
                Qcow2CompressionType::Zstd => Compression::Zstd,
            },
            extended_l2: self.extended_l2.unwrap_or(default.extended_l2),
            lazy_refcounts: self.lazy_refcounts.unwrap_or(default.lazy_refcounts),
            preallocation,
            backing: backing.map(|b| BackingRef { name: b.name.clone(), format: b.format.clone() }),
            data_file: None,
        })
    }

    fn refuse_qcow2_options(&self) -> Result<()> {
        let given = [
            (self.compat.is_some(), "compat"),
            (self.cluster_size.is_some(), "clusterSize"),
            (self.refcount_bits.is_some(), "refcountBits"),
            (self.compression_type.is_some(), "compressionType"),
            (self.extended_l2.is_some(), "extendedL2"),
            (self.lazy_refcounts.is_some(), "lazyRefcounts"),
            (self.backing.is_some(), "backing"),
            (self.compressed == Some(true), "compressed"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, name)) => Err(Error::invalid(format!("a raw image has no option {name}"))),
            None => Ok(()),
        }
    }

    /// Whether clusters are written compressed.
    pub(crate) fn compressed(&self) -> bool {
        self.compressed.unwrap_or(false)
    }

    /// Whether the new image stands on another.
    pub(crate) fn has_backing(&self) -> bool {
        self.backing.is_some()
    }

    /// The shortest run of zeroes that is looked for.
    pub(crate) fn sparse_size(&self) -> u32 {
        self.sparse_size.unwrap_or(4096)
    }
}
