//! What the image tells of itself.

use super::Qcow2;
use super::bitmap::Flags;
use super::header::CryptMethod;
use super::layout::{Compatible, Incompatible};
use crate::Result;
use crate::codec::Compression;
use crate::format::FormatInfo;
use crate::qapi::{
    ImageInfoSpecific, ImageInfoSpecificQCow2, ImageInfoSpecificQCow2Encryption, Qcow2BitmapInfo,
    Qcow2BitmapInfoFlags, Qcow2CompressionType,
};
use alloc::string::ToString;
use alloc::vec::Vec;

impl Qcow2 {
    pub(super) async fn info(&self) -> Result<FormatInfo> {
        let h = &self.header;
        let v3 = h.version >= 3;
        let marks = *self.incompatible.lock();
        let bitmaps: Vec<Qcow2BitmapInfo> =
            self.read_bitmaps().await?.iter().map(bitmap_info).collect();
        let specific = ImageInfoSpecificQCow2 {
            compat: if v3 { "1.1" } else { "0.10" }.to_string(),
            data_file: h.data_file.clone(),
            data_file_raw: self.data.is_some().then(|| self.data_file_is_raw()),
            extended_l2: v3.then_some(self.extended_l2),
            lazy_refcounts: v3.then(|| h.compatible.contains(Compatible::LAZY_REFCOUNTS)),
            corrupt: v3.then(|| marks.contains(Incompatible::CORRUPT)),
            refcount_bits: 1 << h.refcount_order,
            encrypt: self.encryption_info().await?,
            bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
            compression_type: match h.compression {
                Compression::Deflate => Qcow2CompressionType::Zlib,
                Compression::Zstd => Qcow2CompressionType::Zstd,
            },
        };
        Ok(FormatInfo {
            cluster_size: Some(self.cluster_size()),
            dirty: marks.contains(Incompatible::DIRTY),
            encrypted: h.crypt != CryptMethod::None,
            backing: self.backing_ref(),
            snapshots: self.snapshots.read().infos(),
            specific: Some(ImageInfoSpecific::Qcow2(specific)),
        })
    }

    async fn encryption_info(&self) -> Result<Option<ImageInfoSpecificQCow2Encryption>> {
        match self.header.crypt {
            CryptMethod::None => Ok(None),
            CryptMethod::Aes => Ok(Some(ImageInfoSpecificQCow2Encryption::Aes)),
            CryptMethod::Luks { offset, len } => {
                let header = super::encryption::read_header(&self.file, offset, len).await?;
                Ok(Some(ImageInfoSpecificQCow2Encryption::Luks(header.describe())))
            }
        }
    }
}

fn bitmap_info(bitmap: &super::bitmap::Bitmap) -> Qcow2BitmapInfo {
    let mut flags = Vec::new();
    if bitmap.flags.contains(Flags::IN_USE) {
        flags.push(Qcow2BitmapInfoFlags::InUse);
    }
    if bitmap.flags.contains(Flags::AUTO) {
        flags.push(Qcow2BitmapInfoFlags::Auto);
    }
    Qcow2BitmapInfo { name: bitmap.name.clone(), granularity: 1 << bitmap.granularity_bits, flags }
}
