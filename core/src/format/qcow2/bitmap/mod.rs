//! Persistent bitmaps (sections "Bitmaps extension" and "Bitmaps"): the directory.
//!
//! | file | part |
//! | --- | --- |
//! | `load` | bitmaps into memory |
//! | `store` | *in use* before the first write, new tables and a new directory at the end |

mod load;
mod store;

pub(super) use load::Persistent;

use super::Qcow2;
use super::header::BitmapsExtension;
use super::layout::{be16, be32, be64};
use crate::io::{Device, DeviceExt};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Length of a directory entry before its variable parts.
pub(super) const FIXED_LEN: usize = 24;
const MAX_NAME: usize = 1023;
/// What the schema can tell (and QEMU can use); the format knows more.
const MAX_GRANULARITY_BITS: u8 = 31;
/// The only type of bitmap.
const DIRTY_TRACKING: u8 = 1;

bitflags::bitflags! {
    /// Flags of a directory entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        const IN_USE = 1;
        const AUTO = 1 << 1;
        const EXTRA_DATA_COMPATIBLE = 1 << 2;
    }
}

/// An entry of the bitmap directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    pub(super) table_offset: u64,
    /// Entries of its table, 8 bytes each.
    pub(super) table_size: u32,
    pub(super) flags: Flags,
    pub(super) granularity_bits: u8,
    pub(super) name: String,
    /// Offset of the entry in the file.
    at: u64,
}

impl Bitmap {
    /// Adds the entry to a directory.
    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.table_offset.to_be_bytes());
        out.extend_from_slice(&self.table_size.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        out.extend_from_slice(&[DIRTY_TRACKING, self.granularity_bits]);
        // At most 1023 bytes.
        let len = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

impl Qcow2 {
    /// The directory, where the image has one that is consistent.
    pub(super) async fn read_bitmaps(&self) -> Result<Vec<Bitmap>> {
        match self.bitmap_directory() {
            Some(extension) => read_directory(&self.file, &extension).await,
            None => Ok(Vec::new()),
        }
    }
}

/// Reads and checks a directory.
pub(super) async fn read_directory(
    file: &Device,
    extension: &BitmapsExtension,
) -> Result<Vec<Bitmap>> {
    let start = extension.directory_offset;
    let len = extension.directory_size;
    let broken = |at: u64, what: String| {
        Error::corrupt(format!("bitmap directory: {what}")).in_format("qcow2").at(at)
    };
    if start.checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(broken(start, format!("{len:#x} bytes exceed the file")));
    }
    let bytes = file.read_padded(start, len).await?.to_bytes();
    let (mut out, mut at) = (Vec::new(), 0usize);
    while at < bytes.len() {
        let here = start + at as u64;
        let rest = &bytes[at..];
        if rest.len() < FIXED_LEN {
            return Err(broken(here, format!("an entry of {} bytes", rest.len())));
        }
        let name_len = usize::from(be16(rest, 18));
        let extra_len = be32(rest, 20) as usize;
        let name_at = FIXED_LEN.saturating_add(extra_len);
        let Some(name) = rest.get(name_at..name_at.saturating_add(name_len)) else {
            return Err(broken(here, "an entry exceeds the directory".into()));
        };
        if rest[16] != DIRTY_TRACKING || name_len == 0 || name_len > MAX_NAME || extra_len > 0 {
            return Err(broken(
                here,
                format!(
                    "an entry of type {}, with a name of {name_len} bytes and {extra_len} \
                     bytes of extra data",
                    rest[16]
                ),
            ));
        }
        if rest[17] > 63 {
            return Err(broken(here, format!("granularity of 2^{} bytes", rest[17])));
        }
        if rest[17] > MAX_GRANULARITY_BITS {
            return Err(Error::unsupported(format!(
                "bitmap directory: granularity of 2^{} bytes, at most 2^{MAX_GRANULARITY_BITS} \
                 is supported",
                rest[17]
            ))
            .in_format("qcow2")
            .at(here));
        }
        // Checked here and not at the end: memory follows what the header admits.
        if out.len() == extension.count as usize {
            return Err(broken(here, format!("more than the {} entries stated", out.len())));
        }
        out.push(Bitmap {
            table_offset: be64(rest, 0),
            table_size: be32(rest, 8),
            flags: Flags::from_bits_retain(be32(rest, 12)),
            granularity_bits: rest[17],
            name: String::from_utf8_lossy(name).into_owned(),
            at: here,
        });
        at += (name_at + name_len).next_multiple_of(8);
    }
    if out.len() != extension.count as usize {
        return Err(broken(
            start,
            format!("{} entries, the header says {}", out.len(), extension.count),
        ));
    }
    Ok(out)
}
