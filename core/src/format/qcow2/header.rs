//! The header cluster: header, extensions, backing file name. Bytes to a checked value and back.

use super::layout::{
    self as l, Autoclear, Compatible, Incompatible, be32, be64, extension, header,
};
use crate::codec::Compression;
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A header extension this implementation does not interpret, kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownExtension {
    /// Its type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// Where the bitmap directory is (section "Bitmaps extension").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitmapsExtension {
    /// Number of bitmaps.
    pub count: u32,
    /// 0 in an extension that counts.
    pub reserved: u32,
    /// Length of the directory in bytes.
    pub directory_size: u64,
    /// Offset of the directory.
    pub directory_offset: u64,
}

/// How the guest's data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CryptMethod {
    /// Not at all.
    None,
    /// AES-CBC, keyed by the passphrase itself.
    Aes,
    /// A LUKS header at this offset, of this length.
    Luks {
        /// Offset in the image file.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl CryptMethod {
    /// The header's number for it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Aes => 1,
            Self::Luks { .. } => 2,
        }
    }
}

/// A checked header: no field contradicts another or a limit of the format. Offsets have been
/// checked for alignment, not yet against the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Virtual size in bytes.
    pub size: u64,
    /// Encryption.
    pub crypt: CryptMethod,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Offset of the active L1 table.
    pub l1_offset: u64,
    /// Offset of the refcount table.
    pub reftable_offset: u64,
    /// Clusters of the refcount table.
    pub reftable_clusters: u32,
    /// Entries of the snapshot table.
    pub nb_snapshots: u32,
    /// Offset of the snapshot table.
    pub snapshots_offset: u64,
    /// Features that had to be known; they are.
    pub incompatible: Incompatible,
    /// Features that may be ignored, unknown ones included.
    pub compatible: Compatible,
    /// Features to be cleared by writers that do not know them, unknown ones included.
    pub autoclear: Autoclear,
    /// log2 of the refcount width in bits, 0 to 6.
    pub refcount_order: u32,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Length of the fixed header.
    pub header_length: u32,
    /// Backing file name.
    pub backing_name: Option<String>,
    /// Backing file format.
    pub backing_format: Option<String>,
    /// Name of the external data file.
    pub data_file: Option<String>,
    /// The bit of a raw data file was set without a data file.
    pub(super) stray_raw_bit: bool,
    /// The bitmap directory.
    pub bitmaps: Option<BitmapsExtension>,
    /// Additional header fields past those known here.
    pub unknown_fields: Vec<u8>,
    /// Extensions past those known here, in order.
    pub unknown_extensions: Vec<UnknownExtension>,
    /// True where the image has a feature name table.
    pub has_feature_names: bool,
}

/// Offset of the autoclear bits, which writers change in place.
pub(super) const AUTOCLEAR_FIELD: u64 = header::AUTOCLEAR as u64;

fn corrupt(what: impl Into<alloc::borrow::Cow<'static, str>>, at: usize) -> Error {
    Error::corrupt(what).in_format("qcow2").at(at as u64)
}

fn unsupported(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::unsupported(what).in_format("qcow2")
}

impl Header {
    /// log2 of the size of an L2 entry.
    #[must_use]
    pub(crate) fn l2_entry_bits(&self) -> u32 {
        if self.incompatible.contains(Incompatible::EXTENDED_L2) { 4 } else { 3 }
    }

    /// log2 of the guest bytes that one L2 table describes.
    #[must_use]
    pub(crate) fn l1_entry_span_bits(&self) -> u32 {
        2 * self.cluster_bits - self.l2_entry_bits()
    }

    /// True where somebody who does not know bitmaps has changed the image since they were stored.
    pub(super) fn has_stale_bitmaps(&self) -> bool {
        self.bitmaps.is_some() && self.version >= 3 && !self.autoclear.contains(Autoclear::BITMAPS)
    }

    /// The length of the fixed header that says how much more to read.
    pub(super) const FIXED_LEN: u64 = header::V3_LEN as u64;

    /// The length of a version 2 header.
    pub(super) const V2_LEN: u32 = header::V2_LEN as u32;

    /// The cluster size that the fixed part of a header states, checked.
    pub(super) fn peek_cluster_bits(fixed: &[u8]) -> Result<u32> {
        if fixed.get(..4) != Some(&l::MAGIC[..]) {
            return Err(corrupt("Image is not in qcow2 format", 0));
        }
        if fixed.len() < header::V2_LEN {
            return Err(corrupt(
                format!("the file ends within the header, after {} bytes", fixed.len()),
                fixed.len(),
            ));
        }
        let version = be32(fixed, header::VERSION);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!(
                "qcow2 version {version}; versions 2 and 3 are known"
            ))
            .at(header::VERSION as u64));
        }
        let bits = be32(fixed, header::CLUSTER_BITS);
        if !(l::limits::MIN_CLUSTER_BITS..=l::limits::MAX_CLUSTER_BITS).contains(&bits) {
            return Err(unsupported(format!(
                "cluster size of 2^{bits} bytes; 2^9 to 2^21 are possible"
            ))
            .at(header::CLUSTER_BITS as u64));
        }
        Ok(bits)
    }

    /// Reads a header from the first cluster of an image (or what the file has of it).
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let cluster_bits = Self::peek_cluster_bits(bytes)?;
        let version = be32(bytes, header::VERSION);
        let cluster_size = 1usize << cluster_bits;
        let bytes = &bytes[..bytes.len().min(cluster_size)];

        let mut h = Self {
            version,
            cluster_bits,
            size: be64(bytes, header::SIZE),
            crypt: CryptMethod::None,
            l1_size: be32(bytes, header::L1_SIZE),
            l1_offset: be64(bytes, header::L1_OFFSET),
            reftable_offset: be64(bytes, header::REFTABLE_OFFSET),
            reftable_clusters: be32(bytes, header::REFTABLE_CLUSTERS),
            nb_snapshots: be32(bytes, header::NB_SNAPSHOTS),
            snapshots_offset: be64(bytes, header::SNAPSHOTS_OFFSET),
            incompatible: Incompatible::empty(),
            compatible: Compatible::empty(),
            autoclear: Autoclear::empty(),
            refcount_order: 4,
            compression: Compression::Deflate,
            header_length: header::V2_LEN as u32,
            backing_name: None,
            backing_format: None,
            data_file: None,
            stray_raw_bit: false,
            bitmaps: None,
            unknown_fields: Vec::new(),
            unknown_extensions: Vec::new(),
            has_feature_names: false,
        };
        let incompatible = h.parse_v3_fields(bytes)?;
        let crypto = h.parse_extensions(bytes, incompatible)?;
        h.parse_backing_name(bytes)?;
        h.check(be32(bytes, header::CRYPT_METHOD), crypto)?;
        Ok(h)
    }

    /// Fields of version 3. Returns the incompatible bits as they are, to be judged once the
    /// feature name table is known.
    fn parse_v3_fields(&mut self, bytes: &[u8]) -> Result<u64> {
        if self.version < 3 {
            return Ok(0);
        }
        if bytes.len() < header::V3_MIN_LEN {
            return Err(corrupt("the file ends within the version 3 header", bytes.len()));
        }
        self.header_length = be32(bytes, header::HEADER_LENGTH);
        let len = self.header_length as usize;
        if len < header::V3_MIN_LEN || !len.is_multiple_of(8) || len > bytes.len() {
            return Err(corrupt(
                format!("header length {len} is not a multiple of 8 between 104 and the cluster"),
                header::HEADER_LENGTH,
            ));
        }
        self.compatible = Compatible::from_bits_retain(be64(bytes, header::COMPATIBLE));
        self.autoclear = Autoclear::from_bits_retain(be64(bytes, header::AUTOCLEAR));
        self.refcount_order = be32(bytes, header::REFCOUNT_ORDER);
        if self.refcount_order > 6 {
            return Err(corrupt(
                format!("refcount order {} exceeds 6 (64 bits)", self.refcount_order),
                header::REFCOUNT_ORDER,
            ));
        }
        let incompatible = be64(bytes, header::INCOMPATIBLE);
        let stated = incompatible & Incompatible::COMPRESSION_TYPE.bits() != 0;
        let kind = match len > header::COMPRESSION_TYPE {
            true => bytes[header::COMPRESSION_TYPE],
            false => l::compression::DEFLATE,
        };
        self.compression = match (kind, stated) {
            (l::compression::DEFLATE, false) => Compression::Deflate,
            (l::compression::ZSTD, true) => Compression::Zstd,
            (l::compression::DEFLATE | l::compression::ZSTD, _) => {
                return Err(corrupt(
                    format!("compression type {kind} and the compression type bit disagree"),
                    header::COMPRESSION_TYPE,
                ));
            }
            _ => {
                return Err(unsupported(format!("unknown compression type {kind}"))
                    .at(header::COMPRESSION_TYPE as u64));
            }
        };
        self.unknown_fields = bytes[header::V3_LEN.min(len)..len].to_vec();
        Ok(incompatible)
    }

    /// Returns the encryption header pointer, where there is one.
    fn parse_extensions(&mut self, bytes: &[u8], incompatible: u64) -> Result<Option<(u64, u64)>> {
        let (mut crypto, mut names) = (None, Vec::new());
        let backing_offset = be64(bytes, header::BACKING_OFFSET);
        // The backing file name ends the extension area; a cluster does otherwise.
        let end = match usize::try_from(backing_offset) {
            Ok(offset) if offset != 0 && offset < bytes.len() => offset,
            _ => bytes.len(),
        };
        let mut at = self.header_length as usize;
        while at + extension::HEAD_LEN <= end {
            let kind = be32(bytes, at);
            if kind == extension::END {
                break;
            }
            let len = be32(bytes, at + 4) as usize;
            let start = at + extension::HEAD_LEN;
            let data = start.checked_add(len).filter(|stop| *stop <= end).map(|s| &bytes[start..s]);
            let Some(data) = data else {
                return Err(corrupt(
                    format!("header extension {kind:#010x} of {len:#x} bytes exceeds its area"),
                    at,
                ));
            };
            match kind {
                extension::BACKING_FORMAT => self.backing_format = Some(text(data, "format", at)?),
                extension::DATA_FILE => {
                    let name = text(data, "data file name", at);
                    // Where there is no such file it does not matter what it is called.
                    self.data_file = match self.incompatible.contains(Incompatible::DATA_FILE) {
                        true => Some(name?),
                        false => name.ok(),
                    };
                }
                extension::FEATURE_NAMES => {
                    self.has_feature_names = true;
                    names = data.to_vec();
                }
                extension::BITMAPS => {
                    let found = parse_bitmaps(data, at)?;
                    // Without the bit it is what somebody has left behind.
                    if self.autoclear.contains(Autoclear::BITMAPS) {
                        found.check(at)?;
                        self.aligned(found.directory_offset, "bitmap directory", at)?;
                    }
                    self.bitmaps = Some(found);
                }
                extension::CRYPTO => {
                    if data.len() != extension::CRYPTO_LEN {
                        return Err(corrupt("the encryption header extension is not 16 bytes", at));
                    }
                    crypto = Some((be64(data, 0), be64(data, 8)));
                }
                _ => self.unknown_extensions.push(UnknownExtension { kind, data: data.to_vec() }),
            }
            // `len` is at most a cluster: no overflow.
            at = start + len.next_multiple_of(8);
        }
        let unknown = incompatible & !Incompatible::all().bits();
        if unknown != 0 {
            return Err(unsupported(format!(
                "the image needs features that are not known here: {}",
                feature_list(unknown, &names)
            ))
            .at(header::INCOMPATIBLE as u64));
        }
        self.incompatible = Incompatible::from_bits_retain(incompatible);
        Ok(crypto)
    }

    fn parse_backing_name(&mut self, bytes: &[u8]) -> Result<()> {
        let offset = be64(bytes, header::BACKING_OFFSET);
        if offset == 0 {
            return Ok(());
        }
        let len = be32(bytes, header::BACKING_SIZE);
        if len > l::limits::MAX_BACKING_NAME {
            return Err(corrupt(
                format!("backing file name of {len} bytes; 1023 are possible"),
                header::BACKING_SIZE,
            ));
        }
        let range = usize::try_from(offset)
            .ok()
            .and_then(|from| Some(from..from.checked_add(len as usize)?))
            .and_then(|range| bytes.get(range));
        let Some(name) = range else {
            return Err(corrupt(
                format!("backing file name at {offset:#x}+{len:#x} is not in the first cluster"),
                header::BACKING_OFFSET,
            ));
        };
        if !name.is_empty() {
            self.backing_name = Some(text(name, "backing file name", header::BACKING_OFFSET)?);
        }
        Ok(())
    }

    fn check(&mut self, crypt_method: u32, crypto: Option<(u64, u64)>) -> Result<()> {
        self.crypt = match (crypt_method, crypto) {
            (0, _) => CryptMethod::None,
            (1, _) => CryptMethod::Aes,
            (2, Some((offset, len))) => {
                self.aligned(offset, "encryption header", header::CRYPT_METHOD)?;
                CryptMethod::Luks { offset, len }
            }
            (2, None) => {
                return Err(corrupt(
                    "LUKS encryption without an encryption header extension",
                    header::CRYPT_METHOD,
                ));
            }
            (method, _) => {
                return Err(unsupported(format!("unknown encryption method {method}"))
                    .at(header::CRYPT_METHOD as u64));
            }
        };
        if self.size > l::limits::MAX_VIRTUAL_SIZE {
            return Err(corrupt(
                format!("virtual size {:#x} exceeds {:#x}", self.size, l::limits::MAX_VIRTUAL_SIZE),
                header::SIZE,
            ));
        }
        if self.incompatible.contains(Incompatible::EXTENDED_L2)
            && self.cluster_bits < l::limits::MIN_EXTENDED_CLUSTER_BITS
        {
            return Err(corrupt(
                format!("extended L2 entries with clusters of 2^{} bytes", self.cluster_bits),
                header::CLUSTER_BITS,
            ));
        }
        if u64::from(self.l1_size) * 8 > l::limits::MAX_L1_BYTES {
            return Err(corrupt(
                format!("active L1 table too large: {} entries", self.l1_size),
                header::L1_SIZE,
            ));
        }
        self.aligned(self.l1_offset, "L1 table", header::L1_OFFSET)?;
        let needed = self.size.div_ceil(1 << self.l1_entry_span_bits());
        if u64::from(self.l1_size) < needed {
            return Err(corrupt(
                format!("L1 table is too small: {} entries, {needed} needed", self.l1_size),
                header::L1_SIZE,
            ));
        }
        let reftable_bytes = u64::from(self.reftable_clusters) << self.cluster_bits;
        if reftable_bytes > l::limits::MAX_REFTABLE_BYTES {
            return Err(corrupt(
                format!("refcount table too large: {reftable_bytes:#x} bytes"),
                header::REFTABLE_CLUSTERS,
            ));
        }
        self.aligned(self.reftable_offset, "refcount table", header::REFTABLE_OFFSET)?;
        if self.nb_snapshots > l::limits::MAX_SNAPSHOTS {
            return Err(corrupt(
                format!("{} snapshots; 65536 are possible", self.nb_snapshots),
                header::NB_SNAPSHOTS,
            ));
        }
        self.aligned(self.snapshots_offset, "snapshot table", header::SNAPSHOTS_OFFSET)?;
        if self.bitmaps.is_none() && self.autoclear.contains(Autoclear::BITMAPS) {
            return Err(corrupt(
                "the bitmaps bit is set without a bitmaps extension",
                header::AUTOCLEAR,
            ));
        }
        if self.autoclear.contains(Autoclear::DATA_FILE_RAW)
            && !self.incompatible.contains(Incompatible::DATA_FILE)
        {
            // Without a data file the bit means nothing. As in the reference implementation, nothing but
            // metadata is looked at then.
            self.stray_raw_bit = true;
            self.autoclear.remove(Autoclear::DATA_FILE_RAW);
        }
        Ok(())
    }

    fn aligned(&self, offset: u64, what: &str, field: usize) -> Result<()> {
        if offset.is_multiple_of(1 << self.cluster_bits) && offset < l::MAX_HOST_OFFSET {
            return Ok(());
        }
        Err(corrupt(format!("{what} offset {offset:#x} is not a cluster of the image"), field))
    }

    /// The header cluster's bytes: header, extensions, backing file name.
    ///
    /// # Errors
    /// `Limit` where they do not fit into a cluster.
    pub(crate) fn emit(&self) -> Result<Vec<u8>> {
        let mut out = alloc::vec![0; self.header_length as usize];
        let mut put = |at: usize, field: &[u8]| out[at..at + field.len()].copy_from_slice(field);
        put(0, &l::MAGIC);
        put(header::VERSION, &self.version.to_be_bytes());
        put(header::CLUSTER_BITS, &self.cluster_bits.to_be_bytes());
        put(header::SIZE, &self.size.to_be_bytes());
        put(header::CRYPT_METHOD, &self.crypt.number().to_be_bytes());
        put(header::L1_SIZE, &self.l1_size.to_be_bytes());
        put(header::L1_OFFSET, &self.l1_offset.to_be_bytes());
        put(header::REFTABLE_OFFSET, &self.reftable_offset.to_be_bytes());
        put(header::REFTABLE_CLUSTERS, &self.reftable_clusters.to_be_bytes());
        put(header::NB_SNAPSHOTS, &self.nb_snapshots.to_be_bytes());
        put(header::SNAPSHOTS_OFFSET, &self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            put(header::INCOMPATIBLE, &self.incompatible.bits().to_be_bytes());
            put(header::COMPATIBLE, &self.compatible.bits().to_be_bytes());
            put(header::AUTOCLEAR, &self.autoclear.bits().to_be_bytes());
            put(header::REFCOUNT_ORDER, &self.refcount_order.to_be_bytes());
            put(header::HEADER_LENGTH, &self.header_length.to_be_bytes());
            if self.header_length as usize > header::COMPRESSION_TYPE {
                let kind = match self.compression {
                    Compression::Deflate => l::compression::DEFLATE,
                    Compression::Zstd => l::compression::ZSTD,
                };
                put(header::COMPRESSION_TYPE, &[kind]);
            }
            if !self.unknown_fields.is_empty() {
                put(header::V3_LEN, &self.unknown_fields);
            }
        }
        self.emit_extensions(&mut out);
        if let Some(name) = &self.backing_name {
            let offset = (out.len() as u64).to_be_bytes();
            out[header::BACKING_OFFSET..][..8].copy_from_slice(&offset);
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
            out[header::BACKING_SIZE..][..4].copy_from_slice(&len);
            out.extend_from_slice(name.as_bytes());
        }
        if out.len() > 1 << self.cluster_bits {
            return Err(Error::limit(format!(
                "header, extensions and backing file name need {} bytes, a cluster has {}",
                out.len(),
                1u64 << self.cluster_bits
            ))
            .in_format("qcow2"));
        }
        Ok(out)
    }

    fn emit_extensions(&self, out: &mut Vec<u8>) {
        let mut push = |kind: u32, data: &[u8]| {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        if let Some(format) = &self.backing_format {
            push(extension::BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            push(extension::DATA_FILE, name.as_bytes());
        }
        if let CryptMethod::Luks { offset, len } = self.crypt {
            let mut data = offset.to_be_bytes().to_vec();
            data.extend_from_slice(&len.to_be_bytes());
            push(extension::CRYPTO, &data);
        }
        if self.has_feature_names {
            push(extension::FEATURE_NAMES, &feature_name_table());
        }
        if let Some(bitmaps) = &self.bitmaps {
            push(extension::BITMAPS, &bitmaps.emit());
        }
        for unknown in &self.unknown_extensions {
            push(unknown.kind, &unknown.data);
        }
        push(extension::END, &[]);
    }
}

impl BitmapsExtension {
    /// Its data.
    pub(super) fn emit(&self) -> [u8; extension::BITMAPS_LEN] {
        let mut data = [0; extension::BITMAPS_LEN];
        data[..4].copy_from_slice(&self.count.to_be_bytes());
        data[4..8].copy_from_slice(&self.reserved.to_be_bytes());
        data[8..16].copy_from_slice(&self.directory_size.to_be_bytes());
        data[16..].copy_from_slice(&self.directory_offset.to_be_bytes());
        data
    }

    /// What must be true of it while it counts; it was found at `at`.
    fn check(&self, at: usize) -> Result<()> {
        if self.reserved != 0 {
            return Err(corrupt("the reserved field of the bitmaps extension is not zero", at));
        }
        if self.count == 0 {
            return Err(corrupt("found bitmaps extension with zero bitmaps", at));
        }
        if self.count > l::limits::MAX_BITMAPS {
            return Err(corrupt(format!("{} bitmaps; 65535 are possible", self.count), at));
        }
        if self.directory_size > l::limits::MAX_BITMAP_DIRECTORY_BYTES {
            return Err(corrupt(
                format!("the bitmap directory of {:#x} bytes is too large", self.directory_size),
                at,
            ));
        }
        Ok(())
    }
}

/// Where the extensions of a header cluster are, for changes in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtensionArea {
    /// Offset of the bitmaps extension.
    pub(super) bitmaps: Option<usize>,
    /// Offset behind the last extension.
    pub(super) end: usize,
    /// The backing file's name: offset, and offset behind it.
    pub(super) backing_name: (usize, usize),
}

impl ExtensionArea {
    /// Looks through the bytes of a header cluster, which are parsed like any.
    pub(super) fn find(bytes: &[u8]) -> Result<Self> {
        let header = Header::parse(bytes)?;
        let name = match usize::try_from(be64(bytes, header::BACKING_OFFSET)) {
            // Within the cluster: it has been parsed.
            Ok(at) if at != 0 => (at, at + be32(bytes, header::BACKING_SIZE) as usize),
            _ => (0, 0),
        };
        let stop = if name.0 != 0 { name.0.min(bytes.len()) } else { bytes.len() };
        let mut area =
            Self { bitmaps: None, end: header.header_length as usize, backing_name: name };
        while area.end + extension::HEAD_LEN <= stop {
            let kind = be32(bytes, area.end);
            if kind == extension::END {
                break;
            }
            if kind == extension::BITMAPS {
                area.bitmaps = Some(area.end);
            }
            let len = be32(bytes, area.end + 4) as usize;
            area.end += extension::HEAD_LEN + len.next_multiple_of(8);
        }
        Ok(area)
    }
}

fn parse_bitmaps(data: &[u8], at: usize) -> Result<BitmapsExtension> {
    if data.len() != extension::BITMAPS_LEN {
        return Err(corrupt(format!("the bitmaps extension has {} bytes, not 24", data.len()), at));
    }
    Ok(BitmapsExtension {
        count: be32(data, 0),
        reserved: be32(data, 4),
        directory_size: be64(data, 8),
        directory_offset: be64(data, 16),
    })
}

fn text(data: &[u8], what: &str, at: usize) -> Result<String> {
    // Written by programs to which a zero byte ends a text.
    let data = data.split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(data)
        .map(ToString::to_string)
        .map_err(|_| unsupported(format!("the {what} is not UTF-8")).at(at as u64))
}

/// The feature name table this implementation writes.
fn feature_name_table() -> Vec<u8> {
    let mut out = Vec::with_capacity(l::FEATURE_NAMES.len() * l::FEATURE_NAME_LEN);
    for (kind, bit, name) in l::FEATURE_NAMES {
        let start = out.len();
        out.extend_from_slice(&[kind, bit]);
        out.extend_from_slice(name.as_bytes());
        out.resize(start + l::FEATURE_NAME_LEN, 0);
    }
    out
}

/// The names of incompatible bits, by the image's own table where it has them.
fn feature_list(bits: u64, table: &[u8]) -> String {
    let mut words = Vec::new();
    for bit in (0..64u8).filter(|b| bits & (1 << b) != 0) {
        let row = table
            .chunks_exact(l::FEATURE_NAME_LEN)
            .find(|row| row[0] == 0 && row[1] == bit)
            .map(|row| &row[2..]);
        words.push(match row {
            Some(name) => {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                String::from_utf8_lossy(&name[..end]).into_owned()
            }
            None => format!("incompatible feature bit {bit}"),
        });
    }
    words.join(", ")
}
