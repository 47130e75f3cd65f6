//! Small images written byte by byte: what a test breaks, it breaks in plain sight.

use super::super::layout::{self as l, header};
use super::env;
use crate::Result;
use crate::format::{FormatName, KeySource, Layer, OpenOptions, open};
use crate::io::testing::SimRuntime;
use crate::io::{Access, Device, MemoryDevice};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Clusters are as small as they can be.
pub(super) const CLUSTER: usize = 512;

/// Where the structures of [`Image::v3`] lie. Each is one cluster.
pub(super) const REFTABLE: usize = CLUSTER;
pub(super) const REFBLOCK: usize = 2 * CLUSTER;
pub(super) const L1: usize = 3 * CLUSTER;
pub(super) const L2: usize = 4 * CLUSTER;
pub(super) const DATA: usize = 5 * CLUSTER;
/// A cluster that nothing refers to.
pub(super) const SPARE: usize = 6 * CLUSTER;
/// The virtual size: what one L2 table describes.
pub(super) const SIZE: u64 = 64 * CLUSTER as u64;
/// What the first guest cluster is filled with.
pub(super) const FILL: u8 = 0x5a;

/// The bytes of an image file.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    /// Where the next extension goes.
    extensions: usize,
}

impl Image {
    /// Version 3: header, refcount table, refcount block, L1, L2, one data cluster, a spare one.
    pub(super) fn v3() -> Self {
        Self::new(3)
    }

    /// The same in version 2.
    pub(super) fn v2() -> Self {
        Self::new(2)
    }

    fn new(version: u32) -> Self {
        let header_len = if version == 3 { header::V3_LEN } else { header::V2_LEN };
        let mut image = Self { bytes: alloc::vec![0; 7 * CLUSTER], extensions: header_len };
        image
            .put(0, &l::MAGIC)
            .be32(header::VERSION, version)
            .be32(header::CLUSTER_BITS, CLUSTER.trailing_zeros())
            .be64(header::SIZE, SIZE)
            .be32(header::L1_SIZE, 1)
            .be64(header::L1_OFFSET, L1 as u64)
            .be64(header::REFTABLE_OFFSET, REFTABLE as u64)
            .be32(header::REFTABLE_CLUSTERS, 1)
            .be64(REFTABLE, REFBLOCK as u64)
            .be64(L1, L2 as u64 | l::COPIED)
            .be64(L2, DATA as u64 | l::COPIED)
            .put(DATA, &[FILL; CLUSTER]);
        if version == 3 {
            image.be32(header::REFCOUNT_ORDER, 4).be32(header::HEADER_LENGTH, header_len as u32);
        }
        for cluster in 0..6 {
            image.refcount(cluster, 1);
        }
        image
    }

    /// Writes bytes at an offset of the file.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn be16(&mut self, at: usize, value: u16) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    pub(super) fn be32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    pub(super) fn be64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    /// Adds a header extension after those before it.
    pub(super) fn extension(&mut self, kind: u32, data: &[u8]) -> &mut Self {
        let at = self.extensions;
        self.extensions += 8 + data.len().next_multiple_of(8);
        // A length of all ones must not move what follows.
        self.be32(at, kind).be32(at + 4, data.len() as u32).put(at + 8, data)
    }

    /// Sets the bit that makes the bitmaps extension count.
    pub(super) fn bitmaps_bit(&mut self) -> &mut Self {
        self.be64(header::AUTOCLEAR, l::Autoclear::BITMAPS.bits())
    }

    /// Sets the refcount of a cluster (16 bits wide).
    pub(super) fn refcount(&mut self, cluster: usize, count: u16) -> &mut Self {
        self.be16(REFBLOCK + 2 * cluster, count)
    }

    /// Cuts the file, or makes it longer with zeroes.
    pub(super) fn len(&mut self, len: usize) -> &mut Self {
        self.bytes.resize(len, 0);
        self
    }

    /// A snapshot that shares everything with the disk. Its entry is at `table`, with an id of one
    /// byte and a name of three, and it is for the caller to go on with.
    pub(super) fn snapshot_of_all(&mut self, table: usize) -> &mut Self {
        self.len(8 * CLUSTER)
            .be64(L1, L2 as u64)
            .be64(L2, DATA as u64)
            .be64(SPARE, L2 as u64)
            .refcount(4, 2)
            .refcount(5, 2)
            .refcount(6, 1)
            .refcount(7, 1)
            .be32(header::NB_SNAPSHOTS, 1)
            .be64(header::SNAPSHOTS_OFFSET, table as u64)
            .be64(table, SPARE as u64)
            .be32(table + 8, 1)
            .be16(table + 12, 1)
            .be16(table + 14, 3)
    }

    pub(super) fn device(&self) -> Arc<MemoryDevice> {
        Arc::new(MemoryDevice::with_data(&self.bytes))
    }

    /// Opens it; every file it names is one of [`SIZE`] zero bytes.
    pub(super) async fn open(&self, runtime: &SimRuntime, access: Access) -> Result<Arc<Layer>> {
        open_file(runtime, self.device(), access).await
    }
}

/// Opens `file` as qcow2; every file it names is one of [`SIZE`] zero bytes.
pub(super) async fn open_file(
    runtime: &SimRuntime,
    file: Device,
    access: Access,
) -> Result<Arc<Layer>> {
    open_file_with(runtime, file, access, KeySource::None).await
}

/// The same, with what there is to say about its key.
pub(super) async fn open_file_with(
    runtime: &SimRuntime,
    file: Device,
    access: Access,
    key: KeySource,
) -> Result<Arc<Layer>> {
    let other: Device = Arc::new(MemoryDevice::new(SIZE));
    let format = Some(FormatName::Qcow2);
    let options = OpenOptions { format, access, key, ..OpenOptions::default() };
    open(&env(runtime, &other), file, "image", options).await
}
