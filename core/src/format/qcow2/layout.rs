//! Offsets, constants and bit fields of the format; no logic beyond them.
//!
//! Numbers are big endian. Section names are those of the qcow2 specification.

/// `QFI\xfb`.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Header (section "Header"): field offsets.
pub(super) mod header {
    pub(in super::super) const VERSION: usize = 4;
    pub(in super::super) const BACKING_OFFSET: usize = 8;
    pub(in super::super) const BACKING_SIZE: usize = 16;
    pub(in super::super) const CLUSTER_BITS: usize = 20;
    pub(in super::super) const SIZE: usize = 24;
    pub(in super::super) const CRYPT_METHOD: usize = 32;
    pub(in super::super) const L1_SIZE: usize = 36;
    pub(in super::super) const L1_OFFSET: usize = 40;
    pub(in super::super) const REFTABLE_OFFSET: usize = 48;
    pub(in super::super) const REFTABLE_CLUSTERS: usize = 56;
    pub(in super::super) const NB_SNAPSHOTS: usize = 60;
    pub(in super::super) const SNAPSHOTS_OFFSET: usize = 64;
    /// The length of a version 2 header; the fields below exist from version 3 on.
    pub(in super::super) const V2_LEN: usize = 72;
    pub(in super::super) const INCOMPATIBLE: usize = 72;
    pub(in super::super) const COMPATIBLE: usize = 80;
    pub(in super::super) const AUTOCLEAR: usize = 88;
    pub(in super::super) const REFCOUNT_ORDER: usize = 96;
    pub(in super::super) const HEADER_LENGTH: usize = 100;
    /// The shortest version 3 header.
    pub(in super::super) const V3_MIN_LEN: usize = 104;
    pub(in super::super) const COMPRESSION_TYPE: usize = 104;
    /// The version 3 header with every field known here.
    pub(in super::super) const V3_LEN: usize = 112;
}

/// Header extension types.
pub(super) mod extension {
    pub(in super::super) const END: u32 = 0;
    pub(in super::super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(in super::super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(in super::super) const BITMAPS: u32 = 0x2385_2875;
    pub(in super::super) const CRYPTO: u32 = 0x0537_be77;
    pub(in super::super) const DATA_FILE: u32 = 0x4441_5441;
    /// Type and length before the data.
    pub(in super::super) const HEAD_LEN: usize = 8;
    pub(in super::super) const BITMAPS_LEN: usize = 24;
    pub(in super::super) const CRYPTO_LEN: usize = 16;
}

bitflags::bitflags! {
    /// Features that an implementation must know to open the image.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Incompatible: u64 {
        /// Refcounts may be inconsistent.
        const DIRTY = 1;
        /// Any structure may be corrupt.
        const CORRUPT = 1 << 1;
        /// Guest clusters live in an external data file.
        const DATA_FILE = 1 << 2;
        /// The compression type is not deflate.
        const COMPRESSION_TYPE = 1 << 3;
        /// L2 entries have subcluster bitmaps.
        const EXTENDED_L2 = 1 << 4;
    }

    /// Features that may be ignored.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Compatible: u64 {
        /// Refcount updates may be postponed.
        const LAZY_REFCOUNTS = 1;
    }

    /// Features whose bit is cleared by writers that do not know them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Autoclear: u64 {
        /// The bitmaps extension is consistent.
        const BITMAPS = 1;
        /// The external data file is a standalone raw image.
        const DATA_FILE_RAW = 1 << 1;
    }
}

/// The names this implementation writes into the feature name table: type, bit, name.
pub(super) const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// One row of the feature name table: type, bit, name padded with zeroes.
pub(super) const FEATURE_NAME_LEN: usize = 48;

/// Compression types (header byte 104).
pub(super) mod compression {
    pub(in super::super) const DEFLATE: u8 = 0;
    pub(in super::super) const ZSTD: u8 = 1;
}

/// L1 and L2 entries: bits 9 to 55 are an offset in the image file.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// L1 and L2 entries: the refcount of what they point to is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// L2 entries: a compressed cluster descriptor.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// L2 entries of version 3 without extended L2: reads as zeroes.
pub(super) const ZERO: u64 = 1;
/// Refcount table entries: bits 9 to 63 are an offset.
pub(super) const REFTABLE_OFFSET_MASK: u64 = !0x1ff;
/// Offsets in tables are below 2^56.
pub(super) const MAX_HOST_OFFSET: u64 = 1 << 56;
/// Subclusters of a cluster with extended L2.
pub(super) const SUBCLUSTERS: u32 = 32;
/// The unit of a compressed cluster's length.
pub(super) const SECTOR: u64 = 512;

/// Limits of the reference implementation, kept for interchange and against hostile images.
pub(super) mod limits {
    pub(in super::super) const MIN_CLUSTER_BITS: u32 = 9;
    pub(in super::super) const MAX_CLUSTER_BITS: u32 = 21;
    pub(in super::super) const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
    pub(in super::super) const MAX_L1_BYTES: u64 = 32 << 20;
    pub(in super::super) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
    pub(in super::super) const MAX_SNAPSHOTS: u32 = 65_536;
    pub(in super::super) const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20;
    pub(in super::super) const MAX_SNAPSHOT_EXTRA: u32 = 1024;
    pub(in super::super) const MAX_BACKING_NAME: u32 = 1023;
    pub(in super::super) const MAX_BITMAPS: u32 = 65_535;
    pub(in super::super) const MAX_BITMAP_DIRECTORY_BYTES: u64 = 65_535 * (24 + 1024 + 8);
    /// Data of one bitmap.
    pub(in super::super) const MAX_BITMAP_BYTES: u64 = 512 << 20;
    pub(in super::super) const MAX_VIRTUAL_SIZE: u64 = i64::MAX as u64 & !511;
}

const _: () = {
    assert!(header::V2_LEN == header::INCOMPATIBLE);
    assert!(header::V3_MIN_LEN == header::HEADER_LENGTH + 4);
    assert!(header::V3_LEN.is_multiple_of(8) && header::V3_LEN > header::COMPRESSION_TYPE);
    assert!(OFFSET_MASK & (COPIED | COMPRESSED | ZERO) == 0);
    assert!(OFFSET_MASK < MAX_HOST_OFFSET);
};

/// The big-endian number at `at`; the caller has checked the bounds.
pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// The big-endian number at `at`; the caller has checked the bounds.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// The big-endian number at `at`; the caller has checked the bounds.
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
