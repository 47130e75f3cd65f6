//! Changing what an image is like: version, refcount width, lazy refcounts, data file, size.
//!
//! Everything that the header says changes in one write of it, last. Before that come the size, for
//! version 2 the end of zero clusters, and a second set of refcounts beside the one in use.

use super::cache::Class;
use super::claims::{Release, Reserved, Why};
use super::header::Header;
use super::layout::{self as l, Autoclear, Compatible, Incompatible};
use super::map::Entry;
use super::options::OverlapChecks;
use super::write::put;
use super::{Qcow2, refcount};
use crate::format::{Amendment, BackingRef};
use crate::io::{WriteFlags, ZeroFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// The width of refcounts that version 2 has: 2^4 bits.
const V2_REFCOUNT_ORDER: u32 = 4;

/// A sound image counts few clusters as used that the file does not have.
const MAX_PAST_END: u64 = 1 << 16;

/// A change, checked against the image.
struct Plan {
    version: u32,
    lazy: Option<bool>,
    /// `None`: as it is.
    refcount_order: Option<u32>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
}

/// Refcounts in a new place.
struct NewRefcounts {
    order: u32,
    offset: u64,
    clusters: u32,
}

fn invalid(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(what).in_format("qcow2")
}

impl Qcow2 {
    pub(super) fn check_amendment(&self, options: &Amendment) -> Result<()> {
        self.plan_amendment(options).map(|_| ())
    }

    pub(super) async fn amend_image(
        &self,
        options: &Amendment,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let plan = self.plan_amendment(options)?;
        progress(0, 1);
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        if plan.version == 3 && self.header.version == 2 {
            // From version 3 on every snapshot says how large the disk was.
            self.complete_snapshots().await?;
        }
        if plan.version == 2 && self.header.version == 3 {
            self.expand_all(progress).await?;
        }
        let moved = plan.version != self.header.version
            || plan.refcount_order.is_some_and(|order| order != self.refcount_order);
        if moved {
            // There is no storing them after it.
            self.store_bitmaps().await?;
            self.settle_metadata().await?;
        }
        let counts = match plan.refcount_order {
            Some(order) if order != self.refcount_order => Some(self.rebuild_counts(order).await?),
            _ => None,
        };
        let changed = self.change_header(|header| {
            // What is in memory does not describe the image that will be.
            self.retired.store(moved, Ordering::Release);
            plan.apply(header);
            if moved {
                // All counts are in the file.
                header.incompatible.remove(Incompatible::DIRTY);
            }
            if let Some(counts) = counts {
                header.refcount_order = counts.order;
                header.reftable_offset = counts.offset;
                header.reftable_clusters = counts.clusters;
            }
            Ok(())
        });
        changed.await?;
        progress(1, 1);
        Ok(())
    }

    /// Refuses what contradicts itself, the image or the format, before anything changes.
    fn plan_amendment(&self, o: &Amendment) -> Result<Plan> {
        let header = &self.header;
        let version = match o.compat.as_deref() {
            None => header.version,
            Some("0.10" | "v2") => 2,
            Some("1.1" | "v3") => 3,
            Some(other) => return Err(invalid(format!("Unknown compatibility level {other}"))),
        };
        if o.data_file_raw == Some(true) && !self.data_file_is_raw() {
            return Err(invalid("data-file-raw cannot be set on existing images"));
        }
        if !o.encryption.is_empty() && header.crypt == super::header::CryptMethod::None {
            return Err(invalid("Can't amend encryption options - encryption not present"));
        }
        let refcount_order = match o.refcount_bits {
            None => None,
            Some(bits) if bits.is_power_of_two() && bits <= 64 => Some(bits.trailing_zeros()),
            Some(_) => {
                return Err(invalid(
                    "Refcount width must be a power of two and may not exceed 64 bits",
                ));
            }
        };
        if version < 3 && refcount_order.is_some_and(|order| order != V2_REFCOUNT_ORDER) {
            return Err(invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use \
                 compat=1.1 or greater)",
            ));
        }
        if o.data_file.is_some() && self.data.is_none() {
            return Err(invalid(
                "data-file can only be set for images that use an external data file",
            ));
        }
        let named = |name: &String| BackingRef {
            name: name.clone(),
            format: header.backing_format.clone(),
        };
        if o.backing.is_some() && o.backing != header.backing_name.as_ref().map(named) {
            return Err(invalid(
                "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
            ));
        }
        if version < 3 && o.lazy_refcounts == Some(true) {
            return Err(invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 compat=1.1 or greater)",
            ));
        }
        if version < header.version {
            self.check_downgrade(refcount_order.unwrap_or(self.refcount_order))?;
        }
        if let Some(size) = o.size.filter(|size| *size != 0 && *size != *self.virtual_size.read()) {
            self.check_size(size)?;
        }
        Ok(Plan {
            version,
            lazy: o.lazy_refcounts,
            refcount_order,
            data_file: o.data_file.clone(),
            data_file_raw: o.data_file_raw,
        })
    }

    fn check_downgrade(&self, refcount_order: u32) -> Result<()> {
        if self.data.is_some() {
            return Err(invalid("Cannot downgrade an image with a data file"));
        }
        let features = self.header.incompatible - Incompatible::DIRTY;
        if !features.is_empty() {
            return Err(invalid(format!(
                "Cannot downgrade an image with incompatible features {:#x} set",
                features.bits()
            )));
        }
        if !self.bitmaps.set.all().is_empty() {
            return Err(invalid("Cannot downgrade an image with bitmaps; remove them first"));
        }
        let size = *self.virtual_size.read();
        let fits = |s: &super::snapshot::Snapshot| {
            s.disk_size == size && u32::try_from(s.vm_state_size).is_ok()
        };
        if !self.snapshots.read().list.iter().all(fits) {
            return Err(invalid("Internal snapshots prevent downgrade of image"));
        }
        if refcount_order != V2_REFCOUNT_ORDER {
            return Err(invalid("compat=0.10 requires refcount_bits=16"));
        }
        Ok(())
    }

    /// Lets no L2 table have zero clusters any more: version 2 has none.
    async fn expand_all(&self, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<()> {
        let active = self.l1.read().entries.clone();
        let snapshots = self.snapshots.read().list.clone();
        let tables = snapshots.len() as u64 + 1;
        self.expand_table(&active, true).await?;
        for (done, snapshot) in snapshots.iter().enumerate() {
            progress(done as u64 + 1, tables + 1);
            let table = self.read_l1(snapshot.l1_offset, snapshot.l1_size.into()).await?;
            self.expand_table(&table, false).await?;
        }
        self.settle_everything().await
    }

    async fn expand_table(&self, table: &[u64], active: bool) -> Result<()> {
        for (index, entry) in table.iter().enumerate() {
            let Some(l2) = self.l2_offset(*entry, index as u64)? else { continue };
            let shared = self.refcount_of(l2 >> self.cluster_bits).await?;
            for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
                self.expand_slice(l2 + at, shared, active).await?;
            }
            self.relieve_cache().await?;
        }
        Ok(())
    }

    /// Replaces the zero clusters of a slice of an L2 table that `shared` tables lead to: by nothing
    /// where nothing shows through, else by clusters of zeroes.
    async fn expand_slice(&self, at: u64, shared: u64, active: bool) -> Result<()> {
        let (slice, _) = self.cache.get(at, Class::L2).await?;
        let mut zeroes = Vec::new();
        slice.with(|bytes| -> Result<()> {
            for position in (0..bytes.len()).step_by(8) {
                if let Entry::Zero { host, .. } = self.entry(bytes, position, 0)? {
                    zeroes.push((position, host));
                }
            }
            Ok(())
        })?;
        for (position, host) in zeroes {
            let mut reserved = Reserved::new(&self.limbo);
            let mut new = 0;
            let mut old = None;
            if self.has_backing() {
                let own = match host {
                    // Other tables lead to it, and may show what is in it.
                    Some(host) if self.refcount_of(host >> self.cluster_bits).await? != shared => {
                        None
                    }
                    own => own,
                };
                new = match own {
                    Some(host) => host,
                    None => {
                        let taken = self.allocate(1).await?;
                        reserved.releases.push_back(taken);
                        for _ in 1..shared {
                            let max = refcount::max(self.refcount_order);
                            self.raise_part(taken, max).await?;
                            reserved.releases.push_back(taken);
                        }
                        taken.first << self.cluster_bits
                    }
                };
                self.guard(new, self.cluster_size(), OverlapChecks::empty()).await?;
                self.file.write_zeroes(new, self.cluster_size(), ZeroFlags::empty()).await?;
                old = host.filter(|_| own.is_none());
                if active && shared == 1 {
                    new |= l::COPIED;
                }
            } else if let Some(host) = host {
                old = Some(host);
            }
            self.cache.modify(&slice, |bytes| put(bytes, position, new));
            reserved.linked();
            if let Some(host) = old {
                let one = Release { first: host >> self.cluster_bits, count: 1 };
                self.limbo.free_later(Why::Other, (0..shared).map(|_| one));
            }
        }
        Ok(())
    }

    /// Writes refcounts of another width to a new place, durably; nothing refers to them yet. They
    /// do not count the clusters of the old ones. The caller has the image to himself, and nothing
    /// is allocated after it.
    async fn rebuild_counts(&self, order: u32) -> Result<NewRefcounts> {
        let (table_offset, table_clusters) = *self.reftable_place.lock();
        let old_blocks: Vec<u64> =
            self.reftable.lock().entries.iter().map(|e| e & l::REFTABLE_OFFSET_MASK).collect();
        let mut gone: Vec<u64> =
            old_blocks.iter().filter(|at| **at != 0).map(|at| at >> self.cluster_bits).collect();
        let first = table_offset >> self.cluster_bits;
        gone.extend(first..first + u64::from(table_clusters));
        gone.sort_unstable();

        // Past everything: what a count says is used, and what the file has.
        let per_old = self.refblock_entries();
        let last = old_blocks.iter().rposition(|at| *at != 0).map_or(0, |i| i as u64 + 1);
        let mut end = last * per_old;
        while end > 0 && self.refcount_of(end - 1).await? == 0 {
            let absent = !self.has_refblock(end - 1);
            end = if absent { (end - 1) / per_old * per_old } else { end - 1 };
        }
        let have = self.file.len().div_ceil(self.cluster_size());
        if end > have + MAX_PAST_END {
            return Err(Error::corrupt(
                "the refcounts call clusters used that lie past the end of the file; repair the \
                 image before amending it",
            )
            .in_format("qcow2")
            .at((end - 1) << self.cluster_bits));
        }
        let end = end.max(have);

        let per_new = (self.cluster_size() * 8) >> order;
        let max = refcount::max(order);
        // Blocks that have something to count, before those that count themselves.
        let mut used: Vec<u64> = Vec::new();
        let mut next = 0;
        while next < end {
            let cluster = next;
            next += 1;
            if !self.has_refblock(cluster) {
                next = (cluster / per_old + 1) * per_old;
                continue;
            }
            let count = self.refcount_of(cluster).await?;
            if count == 0 || gone.binary_search(&cluster).is_ok() {
                continue;
            }
            if count > max {
                return Err(invalid(format!(
                    "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has \
                     a refcount of {count}",
                    1u32 << order,
                    cluster << self.cluster_bits
                )));
            }
            if used.last() != Some(&(cluster / per_new)) {
                used.push(cluster / per_new);
            }
        }
        let (mut clusters, mut blocks) = (1, used.clone());
        loop {
            let taken = end + clusters + blocks.len() as u64;
            let mut wanted = used.clone();
            wanted.extend((end / per_new)..taken.div_ceil(per_new));
            wanted.sort_unstable();
            wanted.dedup();
            let table_len = wanted.last().map_or(1, |last| last + 1) * 8;
            let needed = table_len.div_ceil(self.cluster_size());
            if wanted.len() == blocks.len() && needed <= clusters {
                break;
            }
            clusters = clusters.max(needed);
            blocks = wanted;
        }
        if clusters << self.cluster_bits > l::limits::MAX_REFTABLE_BYTES {
            return Err(Error::limit("the refcount table would exceed 8 MiB").in_format("qcow2"));
        }
        let taken = end + clusters + blocks.len() as u64;
        // Bounded by the limit on the table.
        let mut table = alloc::vec![0u64; (clusters << self.cluster_bits >> 3) as usize];
        for (i, block) in blocks.iter().enumerate() {
            let offset = (end + clusters + i as u64) << self.cluster_bits;
            table[*block as usize] = offset;
            let mut bytes = alloc::vec![0; 1 << self.cluster_bits];
            for cluster in block * per_new..((block + 1) * per_new).min(taken) {
                let count = match cluster {
                    new if new >= end => 1,
                    old if gone.binary_search(&old).is_ok() => 0,
                    kept => self.refcount_of(kept).await?,
                };
                if count > 0 {
                    // Less than the entries of a block.
                    refcount::set(&mut bytes, (cluster % per_new) as usize, order, count);
                }
            }
            self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
        }
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let offset = end << self.cluster_bits;
        self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
        self.barrier().await?;
        let clusters = u32::try_from(clusters)
            .map_err(|_| Error::limit("refcount table size").in_format("qcow2"))?;
        Ok(NewRefcounts { order, offset, clusters })
    }
}

impl Plan {
    /// Changes a header as planned.
    fn apply(&self, header: &mut Header) {
        if self.version != header.version {
            header.version = self.version;
            header.unknown_fields.clear();
            let v3 = self.version == 3;
            header.header_length = if v3 { Header::FIXED_LEN as u32 } else { Header::V2_LEN };
            header.has_feature_names = v3;
            if !v3 {
                header.incompatible = Incompatible::empty();
                header.compatible = Compatible::empty();
                header.autoclear = Autoclear::empty();
                header.refcount_order = V2_REFCOUNT_ORDER;
            }
        }
        // As the reference implementation does whenever it writes a header.
        header.has_feature_names = header.version == 3;
        if let Some(lazy) = self.lazy {
            header.compatible.set(Compatible::LAZY_REFCOUNTS, lazy);
        }
        if let Some(name) = &self.data_file {
            header.data_file = Some(name.clone()).filter(|name| !name.is_empty());
        }
        if self.data_file_raw == Some(false) {
            header.autoclear.remove(Autoclear::DATA_FILE_RAW);
        }
    }
}
