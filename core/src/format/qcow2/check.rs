//! The consistency check: counts every reference and compares the counts with the refcounts.
//!
//! Findings are worded as the reference implementation words them, so that people find them.

use super::Qcow2;
use super::layout::{self as l, be64};
use super::map::Entry;
use super::open::read_table;
use super::refcount;
use crate::format::{CheckReport, Finding, FindingKind};
use crate::io::{DeviceExt, Segments};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use futures_util::stream::{FuturesOrdered, StreamExt};
use hashbrown::{HashMap, HashSet};

/// References are counted in pages of this many clusters.
const PAGE: u64 = 1024;
/// Memory for reference counts; an image needs so much only if its clusters are scattered over
/// exabytes.
const MAX_COUNT_BYTES: usize = 128 << 20;
/// Memory for refcount blocks.
const MAX_BLOCK_BYTES: usize = 16 << 20;
/// Entries of a bitmap table read at a time.
const BITMAP_STEP: u64 = 1 << 16;
/// L2 tables read ahead.
const TABLES_IN_FLIGHT: usize = 8;
/// A counter at its top: more references than can be counted.
const SATURATED: u16 = u16::MAX;

/// One run of the check.
struct Check<'a> {
    image: &'a Qcow2,
    report: CheckReport,
    /// References found so far, by page of clusters.
    counts: BTreeMap<u64, Box<[u16]>>,
    reftable: Vec<u64>,
    /// Refcount blocks read so far.
    blocks: HashMap<u64, Vec<u8>>,
    allocated: u64,
    fragmented: u64,
    compressed: u64,
    /// How many L1 entries lead to the L2 table that is looked at.
    times: u64,
    /// Where the next data cluster would be if nothing were fragmented.
    expected: Option<u64>,
    /// Copied flags that contradict refcounts.
    wrong_flags: Vec<Finding>,
}

impl Qcow2 {
    pub(super) async fn check_all(
        &self,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<CheckReport> {
        let table_entries = u64::from(self.header.reftable_clusters) << self.cluster_bits >> 3;
        let reftable =
            read_table(&self.file, "refcount table", self.header.reftable_offset, table_entries)
                .await?;
        let mut check = Check {
            image: self,
            report: CheckReport::default(),
            counts: BTreeMap::new(),
            reftable,
            blocks: HashMap::new(),
            allocated: 0,
            fragmented: 0,
            compressed: 0,
            times: 1,
            expected: None,
            wrong_flags: Vec::new(),
        };
        check.run(progress).await?;
        Ok(check.report)
    }
}

impl Check<'_> {
    async fn run(&mut self, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<()> {
        let image = self.image;
        let header = &image.header;
        self.count(0, image.cluster_size(), "header")?;
        let active: Vec<u64> =
            read_table(&image.file, "L1 table", header.l1_offset, header.l1_size.into()).await?;
        let tables = 1 + image.snapshots.len() as u64;
        self.check_l1(header.l1_offset, &active, true, &|done, all| {
            progress(done, all.saturating_mul(tables));
        })
        .await?;
        for (i, snapshot) in image.snapshots.iter().enumerate() {
            let table = read_table(
                &image.file,
                "snapshot L1 table",
                snapshot.l1_offset,
                snapshot.l1_size.into(),
            )
            .await?;
            let before = (i + 1) as u64;
            self.check_l1(snapshot.l1_offset, &table, false, &|done, all| {
                progress(done + all.saturating_mul(before), all.saturating_mul(tables));
            })
            .await?;
        }
        let (at, len) = image.snapshot_table;
        self.count(at, len, "snapshot table")?;
        if let super::CryptMethod::Luks { offset, len } = header.crypt {
            self.count(offset, len, "encryption header")?;
        }
        self.check_bitmaps().await?;
        let reftable_len = u64::from(header.reftable_clusters) << image.cluster_bits;
        self.count(header.reftable_offset, reftable_len, "refcount table")?;
        self.check_refblocks()?;
        let highest = self.compare().await?;
        let room = CheckReport::MAX_FINDINGS.saturating_sub(self.report.findings.len());
        self.report.findings.extend(self.wrong_flags.drain(..).take(room));
        self.report.image_end_offset = Some((highest + 1) << image.cluster_bits);
        self.report.total_clusters = Some(image.virtual_size_clusters());
        self.report.allocated_clusters = Some(self.allocated);
        self.report.fragmented_clusters = Some(self.fragmented);
        self.report.compressed_clusters = Some(self.compressed);
        Ok(())
    }

    /// A copied flag that contradicts the refcount: told after the refcounts themselves.
    fn wrong_flag(&mut self, at: u64, what: String) {
        self.report.corruptions += 1;
        if self.wrong_flags.len() < CheckReport::MAX_FINDINGS {
            self.wrong_flags.push(Finding { kind: FindingKind::Corruption, what, at: Some(at) });
        }
    }

    fn corruption(&mut self, at: u64, what: String) {
        self.report.add(FindingKind::Corruption, 1, Some(at), what);
    }

    /// Counts a reference on every cluster that a range touches.
    fn count(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        self.count_times(offset, len, 1, what)
    }

    /// The same for a range that is referred to `times` times.
    fn count_times(&mut self, offset: u64, len: u64, times: u64, what: &str) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let cluster = self.image.cluster_size();
        let end = offset.saturating_add(len);
        if end > self.image.file.len() && end - self.image.file.len() >= cluster {
            self.corruption(
                offset,
                format!(
                    "ERROR: {what}: counting reference for region exceeding the end of the file \
                     by one cluster or more: offset {offset:#x} size {len:#x}"
                ),
            );
            return Ok(());
        }
        for index in offset / cluster..=(end - 1) / cluster {
            let page = self
                .counts
                .entry(index / PAGE)
                .or_insert_with(|| alloc::vec![0; PAGE as usize].into_boxed_slice());
            let slot = &mut page[(index % PAGE) as usize];
            *slot = slot.saturating_add(u16::try_from(times).unwrap_or(SATURATED));
            if self.counts.len() * (PAGE as usize * 2) > MAX_COUNT_BYTES {
                return Err(Error::limit(
                    "the image's clusters are scattered too widely to be counted in 128 MiB",
                )
                .in_format("qcow2")
                .at(offset));
            }
        }
        Ok(())
    }

    async fn check_l1(
        &mut self,
        offset: u64,
        table: &[u64],
        active: bool,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let image = self.image;
        self.count(offset, table.len() as u64 * 8, "L1 table")?;
        // An L2 table that several entries lead to is looked at once, and counts for all of them:
        // the time follows the length of the file, whatever the tables say.
        let mut offsets: Vec<u64> =
            table.iter().map(|entry| entry & l::OFFSET_MASK).filter(|at| *at != 0).collect();
        offsets.sort_unstable();
        let times = |at: u64| {
            offsets.partition_point(|other| *other <= at)
                - offsets.partition_point(|other| *other < at)
        };
        let mut seen = HashSet::new();
        let mut used =
            table.iter().enumerate().filter(|(_, entry)| **entry & l::OFFSET_MASK != 0).map(
                |(index, entry)| {
                    let at = entry & l::OFFSET_MASK;
                    let again = times(at) > 1 && !seen.insert(at);
                    read_l2(image, index, *entry, again)
                },
            );
        let mut tables: FuturesOrdered<_> = used.by_ref().take(TABLES_IN_FLIGHT).collect();
        while let Some((index, entry, at, bytes)) = tables.next().await {
            tables.extend(used.next());
            progress(index as u64, table.len() as u64);
            if at % image.cluster_size() != 0 {
                self.corruption(
                    at,
                    format!("ERROR l2_offset={at:#x}: Table is not cluster aligned; L1 entry {index} corrupted"),
                );
                continue;
            }
            self.count(at, image.cluster_size(), "L2 table")?;
            if active {
                let refcount = self.refcount(at >> image.cluster_bits).await?;
                if (refcount == 1) != (entry & l::COPIED != 0) {
                    self.wrong_flag(
                        at,
                        format!(
                            "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} \
                             refcount={refcount}"
                        ),
                    );
                }
            }
            match bytes {
                // Past the end of the file, which was counted as a corruption above, or seen.
                None => {}
                Some(Err(e)) => {
                    let what = format!("ERROR: I/O error in check_refcounts_l2: {e}");
                    self.report.add(FindingKind::Error, 1, Some(at), what);
                }
                Some(Ok(bytes)) => {
                    let guest = (index as u64) << image.header.l1_entry_span_bits();
                    self.times = times(at) as u64;
                    self.check_l2(&bytes.to_bytes(), at, guest, active).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_l2(&mut self, bytes: &[u8], at: u64, guest: u64, active: bool) -> Result<()> {
        let image = self.image;
        let entry_len = 1usize << image.header.l2_entry_bits();
        // Fragmentation is counted within each table.
        self.expected = None;
        for (i, raw) in bytes.chunks_exact(entry_len).enumerate() {
            let value = be64(raw, 0);
            if value == 0 && raw.iter().all(|b| *b == 0) {
                continue;
            }
            let guest = guest + ((i as u64) << image.cluster_bits);
            let entry = match image.entry(raw, 0, guest) {
                Ok(entry) => entry,
                Err(e) => {
                    let what = format!("ERROR L2 entry {i} ({value:#x}) of table {at:#x}: {e}");
                    self.corruption(at + (i * entry_len) as u64, what);
                    continue;
                }
            };
            let copied = value & l::COPIED != 0;
            match entry {
                Entry::Unallocated => {}
                Entry::Compressed(d) => {
                    if copied {
                        self.corruption(
                            at,
                            format!(
                                "ERROR: cluster {}: copied flag must never be set for compressed \
                                 clusters",
                                d.offset >> image.cluster_bits
                            ),
                        );
                    }
                    self.count_times(d.offset, d.len.into(), self.times, "compressed cluster")?;
                    if active {
                        self.allocated += self.times;
                        self.compressed += self.times;
                        // Compressed clusters are fragmented by their nature.
                        self.fragmented += self.times;
                    }
                }
                Entry::Zero { host, .. } | Entry::Subclusters { host, .. } => {
                    if let Some(host) = host {
                        self.check_cluster(host, value, active).await?;
                    }
                }
                Entry::Standard { host, .. } => self.check_cluster(host, value, active).await?,
            }
        }
        Ok(())
    }

    async fn check_cluster(&mut self, host: u64, value: u64, active: bool) -> Result<()> {
        let image = self.image;
        if active {
            self.allocated += self.times;
            if self.expected.is_some_and(|expected| expected != host) {
                self.fragmented += 1;
            }
            self.expected = host.checked_add(image.cluster_size());
        }
        if image.data.is_some() {
            return Ok(());
        }
        self.count_times(host, image.cluster_size(), self.times, "data cluster")?;
        if active {
            let refcount = self.refcount(host >> image.cluster_bits).await?;
            if (refcount == 1) != (value & l::COPIED != 0) {
                self.wrong_flag(
                    host,
                    format!(
                        "ERROR OFLAG_COPIED data cluster: l2_entry={value:x} refcount={refcount}"
                    ),
                );
            }
        }
        Ok(())
    }

    async fn check_bitmaps(&mut self) -> Result<()> {
        let image = self.image;
        let Some(extension) = image.bitmap_directory() else { return Ok(()) };
        let bitmaps = match image.read_bitmaps().await {
            Ok(bitmaps) => bitmaps,
            Err(e) => {
                self.corruption(extension.directory_offset, format!("ERROR bitmaps: {e}"));
                return Ok(());
            }
        };
        if bitmaps.is_empty() {
            return Ok(());
        }
        self.count(extension.directory_offset, extension.directory_size, "bitmap directory")?;
        for bitmap in bitmaps {
            let entries = u64::from(bitmap.table_size);
            self.count(bitmap.table_offset, entries * 8, "bitmap table")?;
            let mut at = 0;
            while at < entries {
                let step = BITMAP_STEP.min(entries - at);
                let offset = bitmap.table_offset.saturating_add(at * 8);
                match read_table(&image.file, "bitmap table", offset, step).await {
                    Ok(table) => self.check_bitmap_table(&table)?,
                    Err(e) => {
                        self.corruption(offset, format!("ERROR bitmaps: {e}"));
                        break;
                    }
                }
                at += step;
            }
        }
        Ok(())
    }

    fn check_bitmap_table(&mut self, table: &[u64]) -> Result<()> {
        for entry in table {
            let data = entry & l::OFFSET_MASK;
            if data != 0 {
                self.count(data, self.image.cluster_size(), "bitmap data")?;
            }
        }
        Ok(())
    }

    fn check_refblocks(&mut self) -> Result<()> {
        let cluster = self.image.cluster_size();
        for index in 0..self.reftable.len() {
            let at = self.reftable[index] & l::REFTABLE_OFFSET_MASK;
            if at == 0 {
                continue;
            }
            let problem = if !at.is_multiple_of(cluster) {
                "is not cluster aligned; refcount table entry corrupted"
            } else if at >= self.image.file.len() {
                "is outside image"
            } else {
                self.count(at, cluster, "refcount block")?;
                continue;
            };
            self.corruption(at, format!("ERROR refcount block {index} {problem}"));
            self.reftable[index] = 0;
        }
        Ok(())
    }

    /// The refcount that the image states for a cluster.
    async fn refcount(&mut self, cluster: u64) -> Result<u64> {
        let image = self.image;
        let per_block = refcount::entries(1 << image.cluster_bits, image.refcount_order) as u64;
        let index = cluster / per_block;
        let entry = usize::try_from(index).ok().and_then(|i| self.reftable.get(i));
        let at = entry.map_or(0, |e| e & l::REFTABLE_OFFSET_MASK);
        if at == 0 || at % image.cluster_size() != 0 || at >= image.file.len() {
            return Ok(0);
        }
        if !self.blocks.contains_key(&index) {
            if self.blocks.len() << image.cluster_bits >= MAX_BLOCK_BYTES {
                self.blocks.clear();
            }
            let bytes = image.file.read_padded(at, image.cluster_size()).await?.to_vec();
            self.blocks.insert(index, bytes);
        }
        let block = &self.blocks[&index];
        Ok(refcount::get(block, (cluster % per_block) as usize, image.refcount_order))
    }

    /// Compares refcounts and references. Gives the highest cluster in use.
    async fn compare(&mut self) -> Result<u64> {
        let image = self.image;
        let per_block = refcount::entries(1 << image.cluster_bits, image.refcount_order) as u64;
        let mut highest = 0;
        for index in 0..self.reftable.len() as u64 {
            if self.reftable[index as usize] & l::REFTABLE_OFFSET_MASK == 0 {
                continue;
            }
            let first = index * per_block;
            self.refcount(first).await?;
            let Some(block) = self.blocks.remove(&index) else { continue };
            let mut at = first;
            while at < first + per_block {
                let end = (at - at % PAGE + PAGE).min(first + per_block);
                let used = self.compare_page(&block, (at - first) as usize, at, end);
                highest = highest.max(used);
                at = end;
            }
        }
        // References to clusters that no refcount block covers.
        for (page, counts) in core::mem::take(&mut self.counts) {
            for (i, found) in counts.iter().enumerate().filter(|(_, n)| **n != 0) {
                let cluster = page * PAGE + i as u64;
                highest = highest.max(cluster);
                self.judge(cluster, 0, *found);
            }
        }
        Ok(highest)
    }

    /// Compares the clusters `[start, end)` of one page of counts, whose refcounts begin at entry
    /// `index` of a block. Gives the highest cluster in use, 0 if there is none.
    fn compare_page(&mut self, block: &[u8], index: usize, start: u64, end: u64) -> u64 {
        let order = self.image.refcount_order;
        let mut page = self.counts.remove(&(start / PAGE));
        let bytes = (index << order) / 8..((index + (end - start) as usize) << order).div_ceil(8);
        if page.is_none() && crate::io::is_zero(&block[bytes]) {
            return 0;
        }
        let mut highest = 0;
        for cluster in start..end {
            let i = index + (cluster - start) as usize;
            let stated = refcount::get(block, i, order);
            let found = page
                .as_mut()
                .map_or(0, |counts| core::mem::take(&mut counts[(cluster % PAGE) as usize]));
            if stated != 0 || found != 0 {
                highest = cluster;
                self.judge(cluster, stated, found);
            }
        }
        // Small blocks share a page of counts with their neighbours.
        if let Some(rest) = page.filter(|counts| counts.iter().any(|n| *n != 0)) {
            self.counts.insert(start / PAGE, rest);
        }
        highest
    }

    fn judge(&mut self, cluster: u64, stated: u64, found: u16) {
        let at = cluster << self.image.cluster_bits;
        let counts = format_args!("refcount={stated} reference={found}");
        if found == SATURATED {
            let what = format!("ERROR cluster {cluster}: too many references to count");
            self.report.add(FindingKind::Error, 1, Some(at), what);
        } else if stated < u64::from(found) {
            let what = format!("ERROR cluster {cluster} {counts}");
            self.report.add(FindingKind::Corruption, 1, Some(at), what);
        } else if stated > u64::from(found) {
            let what = format!("Leaked cluster {cluster} {counts}");
            self.report.add(FindingKind::Leak, 1, Some(at), what);
        }
    }
}

/// Reads the L2 table of an L1 entry; `None` where there cannot be one, or it was read before.
async fn read_l2(
    image: &Qcow2,
    index: usize,
    entry: u64,
    again: bool,
) -> (usize, u64, u64, Option<Result<Segments>>) {
    let at = entry & l::OFFSET_MASK;
    let bytes = match !again && at.is_multiple_of(image.cluster_size()) && at < image.file.len() {
        true => Some(image.file.read_padded(at, image.cluster_size()).await),
        false => None,
    };
    (index, entry, at, bytes)
}

impl Qcow2 {
    fn virtual_size_clusters(&self) -> u64 {
        self.virtual_size.read().div_ceil(self.cluster_size())
    }
}
