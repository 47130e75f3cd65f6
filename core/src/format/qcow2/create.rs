//! Making a new image.
//!
//! Layout: header cluster, refcount table, refcount blocks, L1 table; with preallocation then L2
//! tables and data as the allocator places them. Nothing refers to anything that is not there yet:
//! the header is written last.

use super::header::{CryptMethod, Header};
use super::layout::{Autoclear, Compatible, Incompatible, SECTOR, limits};
use super::refcount;
use crate::codec::Compression;
use crate::crypto::{Secret, luks};
use crate::format::encryption::missing_key;
use crate::format::layer::DataFile;
use crate::format::{Backing, BackingRef, Env, FormatName, Key, KeySource, OpenOptions, open};
use crate::io::{
    Access, BlockDevice, Deny, Device, DeviceExt, Preallocation, Runtime, Segments, WriteFlags,
    ZeroFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The version of the format (the schema's `BlockdevQcow2Version`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `compat=0.10`.
    V2,
    /// `compat=1.1`.
    #[default]
    V3,
}

/// What a new image is like; the names are those of the schema's `BlockdevCreateOptionsQcow2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Virtual size in bytes; rounded up to a sector.
    pub size: u64,
    /// Version of the format.
    pub version: Version,
    /// Cluster size in bytes, a power of two from 512 to 2 MiB.
    pub cluster_size: u32,
    /// Width of a refcount in bits, a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// How compressed clusters will be compressed.
    pub compression_type: Compression,
    /// Subcluster allocation.
    pub extended_l2: bool,
    /// Refcount updates may be postponed by those who write.
    pub lazy_refcounts: bool,
    /// How space is prepared.
    pub preallocation: Preallocation,
    /// The backing file, as it will be written into the image.
    pub backing: Option<BackingRef>,
    /// The external data file, and whether it must stay a raw image.
    pub data_file: Option<DataFileOptions>,
    /// How it is encrypted.
    pub encryption: Option<EncryptionOptions>,
}

/// How a new image is encrypted (`encrypt.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionOptions {
    /// The kind of encryption.
    pub method: EncryptionMethod,
    /// The passphrase. An image cannot be made without; how large it would be can be told, except
    /// with LUKS, as QEMU's tools have it.
    pub secret: Option<Secret>,
}

/// The kinds of encryption of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionMethod {
    /// `encrypt.format=aes`.
    Aes,
    /// `encrypt.format=luks`.
    Luks(luks::CreateOptions),
}

impl EncryptionOptions {
    /// Clusters that the encryption header takes.
    fn clusters(&self, cluster: u64) -> u64 {
        match &self.method {
            EncryptionMethod::Aes => 0,
            EncryptionMethod::Luks(options) => options.header_len().div_ceil(cluster),
        }
    }
}

/// An external data file for a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFileOptions {
    /// The name, as it will be written into the image.
    pub name: String,
    /// The file must stay valid as a standalone raw image.
    pub raw: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: Version::V3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            compression_type: Compression::Deflate,
            extended_l2: false,
            lazy_refcounts: false,
            preallocation: Preallocation::Off,
            backing: None,
            data_file: None,
            encryption: None,
        }
    }
}

fn invalid(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(what).in_format("qcow2")
}

const TOO_LARGE: &str = "The image size is too large for file format 'qcow2' (try using a larger \
                         cluster size)";

impl CreateOptions {
    /// True where the image can have persistent bitmaps.
    #[must_use]
    pub fn has_bitmaps(&self) -> bool {
        self.version == Version::V3
    }

    /// Refuses what contradicts itself or the format, before anything is written.
    ///
    /// # Errors
    /// `InvalidInput`, with the option's name.
    pub fn check(&self) -> Result<()> {
        let cluster_bits = self.cluster_bits()?;
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(invalid(
                "Refcount width must be a power of two and may not exceed 64 bits",
            ));
        }
        if self.size > limits::MAX_VIRTUAL_SIZE {
            return Err(invalid(TOO_LARGE));
        }
        if self.version == Version::V2 {
            let above = "compatibility level 1.1 and above (use version=v3 or greater)";
            let later = [
                (self.extended_l2, "Extended L2 entries are only supported with"),
                (self.lazy_refcounts, "Lazy refcounts only supported with"),
                (self.data_file.is_some(), "External data files are only supported with"),
                (
                    self.compression_type != Compression::Deflate,
                    "Non-zlib compression type is only supported with",
                ),
            ];
            if self.refcount_bits != 16 {
                return Err(invalid(
                    "Different refcount widths than 16 bits require compatibility level 1.1 or \
                     above (use version=v3 or greater)",
                ));
            }
            if let Some((_, what)) = later.iter().find(|(wanted, _)| *wanted) {
                return Err(invalid(format!("{what} {above}")));
            }
        }
        if self.extended_l2 && cluster_bits < limits::MIN_EXTENDED_CLUSTER_BITS {
            return Err(invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        if let Some(backing) = &self.backing {
            if backing.name.len() > limits::MAX_BACKING_NAME as usize {
                return Err(invalid("backing file name too long"));
            }
            if self.data_file.as_ref().is_some_and(|d| d.raw) {
                return Err(invalid(
                    "Backing file and data-file-raw cannot be used at the same time",
                ));
            }
            if self.preallocation != Preallocation::Off && !self.extended_l2 {
                return Err(invalid(
                    "Backing file and preallocation can only be used at the same time if \
                     extended_l2 is on",
                ));
            }
        }
        if let Some(EncryptionOptions { method: EncryptionMethod::Luks(options), secret }) =
            &self.encryption
        {
            if secret.is_none() {
                return Err(missing_key());
            }
            options.check()?;
        }
        let entries = self.l1_entries()?;
        if entries * 8 > limits::MAX_L1_BYTES {
            return Err(invalid(TOO_LARGE));
        }
        Ok(())
    }

    fn cluster_bits(&self) -> Result<u32> {
        let bits = self.cluster_size.trailing_zeros();
        let possible = limits::MIN_CLUSTER_BITS..=limits::MAX_CLUSTER_BITS;
        if self.cluster_size.is_power_of_two() && possible.contains(&bits) {
            return Ok(bits);
        }
        Err(invalid("Cluster size must be a power of two between 512 and 2048k"))
    }

    /// Clusters that the encryption header takes.
    pub(super) fn encryption_clusters(&self) -> u64 {
        self.encryption.as_ref().map_or(0, |e| e.clusters(self.cluster_size.into()))
    }

    fn l2_entry_bits(&self) -> u32 {
        if self.extended_l2 { 4 } else { 3 }
    }

    pub(super) fn l1_entries(&self) -> Result<u64> {
        let span = 2 * self.cluster_bits()? - self.l2_entry_bits();
        Ok(self.size.div_ceil(1 << span))
    }

    /// The header of the new image, without offsets of tables.
    pub(super) fn header(&self) -> Result<Header> {
        let v3 = self.version == Version::V3;
        let mut incompatible = Incompatible::empty();
        incompatible.set(Incompatible::DATA_FILE, self.data_file.is_some());
        incompatible
            .set(Incompatible::COMPRESSION_TYPE, self.compression_type != Compression::Deflate);
        incompatible.set(Incompatible::EXTENDED_L2, self.extended_l2);
        let mut compatible = Compatible::empty();
        compatible.set(Compatible::LAZY_REFCOUNTS, self.lazy_refcounts);
        let mut autoclear = Autoclear::empty();
        autoclear.set(Autoclear::DATA_FILE_RAW, self.data_file.as_ref().is_some_and(|d| d.raw));
        let mut header = Header {
            version: if v3 { 3 } else { 2 },
            cluster_bits: self.cluster_bits()?,
            size: self.size.next_multiple_of(SECTOR),
            crypt: match self.encryption.as_ref().map(|e| &e.method) {
                None => CryptMethod::None,
                Some(EncryptionMethod::Aes) => CryptMethod::Aes,
                // Where it lies is known later.
                Some(EncryptionMethod::Luks(options)) => {
                    CryptMethod::Luks { offset: 0, len: options.header_len() }
                }
            },
            l1_size: u32::try_from(self.l1_entries()?).map_err(|_| invalid("L1 table size"))?,
            l1_offset: 0,
            reftable_offset: 0,
            reftable_clusters: 0,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible,
            compatible,
            autoclear,
            refcount_order: self.refcount_bits.trailing_zeros(),
            compression: self.compression_type,
            header_length: if v3 { Header::FIXED_LEN as u32 } else { Header::V2_LEN },
            backing_name: self.backing.as_ref().map(|b| b.name.clone()),
            backing_format: self.backing.as_ref().and_then(|b| b.format.clone()),
            data_file: self.data_file.as_ref().map(|d| d.name.clone()),
            stray_raw_bit: false,
            bitmaps: None,
            unknown_fields: Vec::new(),
            unknown_extensions: Vec::new(),
            has_feature_names: v3,
        };
        // The names are a courtesy: they yield where a small cluster has no room for them.
        if v3 && header.emit().is_err() {
            header.has_feature_names = false;
        }
        header.emit()?;
        Ok(header)
    }
}

/// Makes `file` a qcow2 image; what it held is gone. `data_file` is the external data file where
/// the options want one; it is made as long as the disk.
///
/// # Errors
/// `InvalidInput` for impossible options, before anything is written; those of the devices.
pub async fn create(
    runtime: &Arc<dyn Runtime>,
    file: &Device,
    data_file: Option<&Device>,
    options: &CreateOptions,
) -> Result<()> {
    options.check()?;
    if data_file.is_some() != options.data_file.is_some() {
        return Err(invalid("a data file was given without its name, or the other way round"));
    }
    if options.encryption.as_ref().is_some_and(|e| e.secret.is_none()) {
        return Err(missing_key());
    }
    let mut header = options.header()?;
    let layout = Layout::new(&header, options.encryption_clusters());
    header.reftable_offset = layout.reftable << header.cluster_bits;
    header.reftable_clusters =
        u32::try_from(layout.reftable_clusters).map_err(|_| invalid("refcount table size"))?;
    header.l1_offset = layout.l1 << header.cluster_bits;

    // What takes long comes before what cannot be taken back.
    let container = super::encryption::new_container(runtime, options).await?;
    let mut end = header.l1_offset + u64::from(header.l1_size) * 8;
    if let CryptMethod::Luks { offset, len } = &mut header.crypt {
        *offset = end.next_multiple_of(1 << header.cluster_bits);
        end = *offset + *len;
    }

    let end = end.next_multiple_of(SECTOR);
    let is_fixed = clear(file, end).await?;
    for (offset, bytes) in layout.tables(&header) {
        file.write(offset, bytes.into(), WriteFlags::empty()).await?;
    }
    if !is_fixed {
        // Growing gives zeroes: an empty L1 table, empty key slots.
        file.set_len(end, Preallocation::Off).await?;
    }
    if let CryptMethod::Luks { offset, .. } = header.crypt {
        for (at, bytes) in container {
            file.write(offset + at, bytes.into(), WriteFlags::empty()).await?;
        }
    }
    // A header that a crash leaves behind must not point to tables that it has taken.
    file.flush().await?;
    file.write(0, header.emit()?.into(), WriteFlags::empty()).await?;
    file.flush().await?;
    if let Some(data) = data_file {
        let preallocation = match options.preallocation {
            Preallocation::Metadata => Preallocation::Off,
            other => other,
        };
        data.make_empty().await?;
        data.set_len(header.size, preallocation).await?;
        data.flush().await?;
    }
    // A raw data file shows every byte, so every cluster is mapped from the start.
    let raw = options.data_file.as_ref().is_some_and(|d| d.raw);
    if (raw || options.preallocation != Preallocation::Off) && header.size > 0 {
        preallocate(runtime, file, data_file, options, is_fixed).await?;
    }
    Ok(())
}

/// Empties a file. One that keeps its length, as a block device does, gets zeroes up to `end`, which
/// is as far as the image reaches at first; true then.
async fn clear(file: &Device, end: u64) -> Result<bool> {
    match file.make_empty().await {
        Err(e) if e.kind() == ErrorKind::Unsupported => {}
        result => return result.map(|()| false),
    }
    if end > file.len() {
        return Err(Error::unsupported("Cannot grow device files"));
    }
    file.write_zeroes(0, end, ZeroFlags::MAY_UNMAP).await?;
    Ok(true)
}

/// Maps every cluster of the new image, and reserves the space as the options say.
async fn preallocate(
    runtime: &Arc<dyn Runtime>,
    file: &Device,
    data_file: Option<&Device>,
    options: &CreateOptions,
    is_fixed: bool,
) -> Result<()> {
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
    let data = |device: &Device| DataFile { device: device.clone(), filename: Arc::from("") };
    let open_options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        backing: Backing::Ignore,
        data_file: data_file.map(data).into(),
        key: options
            .encryption
            .as_ref()
            .and_then(|e| e.secret.clone())
            .map_or(KeySource::None, |secret| KeySource::Given(Key::from(secret))),
        ..OpenOptions::default()
    };
    let layer = open(&env, file.clone(), "new image", open_options).await?;
    let (size, mut at, mut end) = (layer.len(), 0, 0);
    while at < size {
        let reservation = layer.driver().reserve(at, size - at).await?;
        for target in &reservation.targets {
            at = target.start + target.len;
            if data_file.is_none() {
                let len = target.before + target.len + target.after;
                reserve_space(file, target.offset - target.before, len, options, is_fixed).await?;
                end = end.max(target.offset + target.len + target.after);
            }
        }
        // The new clusters read as zeroes already: there is nothing to transfer.
        if let Some(token) = reservation.token {
            layer.driver().commit(token).await?;
        }
    }
    if end > file.len() {
        file.set_len(end, Preallocation::Off).await?;
    }
    layer.flush().await
}

async fn reserve_space(
    file: &Device,
    offset: u64,
    len: u64,
    options: &CreateOptions,
    is_fixed: bool,
) -> Result<()> {
    const STEP: u64 = 2 << 20;
    match options.preallocation {
        // Whatever the device held before is nobody's to read.
        Preallocation::Metadata if is_fixed => {
            file.write_zeroes(offset, len, ZeroFlags::MAY_UNMAP).await
        }
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc => file.write_zeroes(offset, len, ZeroFlags::empty()).await,
        Preallocation::Full => {
            for at in (0..len).step_by(STEP as usize) {
                let zeroes = Segments::zero(STEP.min(len - at));
                file.write(offset + at, zeroes, WriteFlags::empty()).await?;
            }
            Ok(())
        }
    }
}

/// Where the tables of a new image lie, in clusters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) reftable: u64,
    pub(super) reftable_clusters: u64,
    pub(super) refblocks: u64,
    pub(super) refblock_count: u64,
    pub(super) l1: u64,
    /// Clusters up to here are used.
    pub(super) used: u64,
}

impl Layout {
    /// Header, refcount table, as many refcount blocks as describe all of these, L1 table,
    /// encryption header.
    fn new(header: &Header, encryption_clusters: u64) -> Self {
        let l1_clusters = (u64::from(header.l1_size) * 8).div_ceil(1 << header.cluster_bits);
        let behind = l1_clusters + encryption_clusters;
        Self::with(header, 1 + behind, behind)
    }

    /// The layout whose refcounts cover `others` clusters besides themselves, `behind` of which
    /// follow the refcount blocks directly, the L1 table first.
    pub(super) fn with(header: &Header, others: u64, behind: u64) -> Self {
        let cluster = 1u64 << header.cluster_bits;
        let per_block = refcount::entries(1 << header.cluster_bits, header.refcount_order) as u64;
        let (mut table, mut blocks) = (1, 1);
        loop {
            let used = others + table + blocks;
            let need_blocks = used.div_ceil(per_block);
            let need_table = (need_blocks * 8).div_ceil(cluster);
            if need_blocks <= blocks && need_table <= table {
                break;
            }
            blocks = need_blocks.max(blocks);
            table = need_table.max(table);
        }
        let refblocks = 1 + table;
        let l1 = refblocks + blocks;
        Self {
            reftable: 1,
            reftable_clusters: table,
            refblocks,
            refblock_count: blocks,
            l1,
            used: (l1 + behind).max(others + table + blocks),
        }
    }

    /// The bytes of refcount table and refcount blocks, each with its offset.
    fn tables(&self, header: &Header) -> Vec<(u64, Vec<u8>)> {
        let table = self.reftable_bytes(header);
        let mut out = alloc::vec![(self.reftable << header.cluster_bits, table)];
        for i in 0..self.refblock_count {
            let offset = (self.refblocks + i) << header.cluster_bits;
            out.push((offset, self.refblock_bytes(header, i)));
        }
        out
    }

    pub(super) fn reftable_bytes(&self, header: &Header) -> Vec<u8> {
        let mut table: Vec<u8> = (0..self.refblock_count)
            .flat_map(|i| ((self.refblocks + i) << header.cluster_bits).to_be_bytes())
            .collect();
        // Bounded by the limit on the L1 table and the virtual size.
        table.resize((self.reftable_clusters << header.cluster_bits) as usize, 0);
        table
    }

    /// Refcount block `index`: every cluster below `used` counts one.
    pub(super) fn refblock_bytes(&self, header: &Header, index: u64) -> Vec<u8> {
        let mut bytes = alloc::vec![0; 1 << header.cluster_bits];
        let per_block = refcount::entries(bytes.len(), header.refcount_order) as u64;
        let here = self.used.saturating_sub(index * per_block).min(per_block);
        for i in 0..here {
            // Less than the entries of a block.
            refcount::set(&mut bytes, i as usize, header.refcount_order, 1);
        }
        bytes
    }
}
