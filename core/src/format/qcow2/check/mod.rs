//! The consistency check: counts every reference, compares the counts with the refcounts, and
//! repairs what it is allowed to.
//!
//! It reads the file and nothing that an opened image has in memory, so that it runs before an
//! image that was not closed cleanly is used. Findings are worded as the reference implementation
//! words them, so that people find them. `docs/formats/qcow2.md`, "Check and repair", has the order
//! in which a repair writes.
//!
//! | file | part |
//! | --- | --- |
//! | `walk` | every table from the header on: references, broken entries |
//! | `snapshots` | the snapshot table, and writing it anew |
//! | `counts` | the references found |
//! | `beyond` | those past the end of the file |
//! | `compare` | references against refcounts |
//! | `rebuild` | refcount structures made anew |
//! | `flags` | copied flags against refcounts |

mod beyond;
mod compare;
mod counts;
mod flags;
mod rebuild;
mod snapshots;
mod walk;

use super::header::Header;
use super::layout::{self as l, Autoclear, Incompatible};
use super::{Qcow2, refcount};
use crate::format::{CheckReport, Finding, FindingKind, Remedy, Repair};
use crate::io::{Device, DeviceExt, WriteFlags};
use crate::sync::BoxFuture;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use beyond::Beyond;
use counts::{Counts, SATURATED};
use hashbrown::{HashMap, HashSet};
use snapshots::Table;

/// Memory for refcount blocks.
const MAX_BLOCK_BYTES: usize = 16 << 20;

/// Told how much is done, and how much there is.
type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// One run of the check.
struct Check<'a> {
    file: &'a Device,
    /// How long the file is, or is to be: what is referred to past that does not count.
    len: Option<u64>,
    header: Header,
    repair: Repair,
    report: CheckReport,
    counts: Counts,
    beyond: Beyond,
    reftable: Vec<u64>,
    /// Refcount blocks read so far.
    blocks: HashMap<u64, Vec<u8>>,
    snapshots: Table,
    /// The active L1 table, as far as the file has it.
    l1: Vec<u64>,
    /// Where refcount blocks are.
    refblocks: HashSet<u64>,
    /// How many L1 entries lead to each L2 table, in all layers.
    tables: HashMap<u64, u64>,
    /// What the whole image refers to, as it was found; made when a repair first has to know.
    survey: Option<Survey>,
    /// This is the run that makes it.
    is_survey: bool,
    allocated: u64,
    fragmented: u64,
    compressed: u64,
    /// How many L1 entries lead to the L2 table that is looked at.
    times: u64,
    /// Where the next data cluster would be if nothing were fragmented.
    expected: Option<u64>,
    /// The refcounts cannot be put right in their place.
    rebuild: bool,
    /// A table could not be followed: what nothing else refers to may be its, and stays counted.
    keep_leaks: bool,
    /// Clusters whose counts a repair has made wrong and puts right without a word.
    quiet: Vec<core::ops::Range<u64>>,
    /// Something has been written.
    begun: bool,
    /// Something has been written since the last flush.
    unflushed: bool,
}

/// All references, before anything is repaired.
struct Survey {
    counts: Counts,
    beyond: Beyond,
    tables: HashMap<u64, u64>,
}

/// Checks the image in `file`, whose header is sound enough to be parsed.
///
/// # Errors
/// Those that keep the check from starting; what ends it later is in the report.
pub(super) async fn check(
    file: &Device,
    repair: Repair,
    progress: Progress<'_>,
) -> Result<CheckReport> {
    let header = super::open::read_header(file).await?;
    let mut check = Check::new(file, header, repair);
    if let Err(e) = check.run(progress).await {
        check.report.failed = Some(e.to_string());
    }
    Ok(check.report)
}

impl Qcow2 {
    /// Checks this image. A repair needs it for itself.
    pub(super) async fn check_all(
        &self,
        repair: Repair,
        progress: Progress<'_>,
    ) -> Result<CheckReport> {
        if repair != Repair::Nothing {
            if !self.writable {
                let what = "an image opened read-only cannot be repaired";
                return Err(Error::denied(what).in_format("qcow2"));
            }
            if !self.for_check {
                let what = "an image in use cannot be repaired; open it to be checked";
                return Err(Error::invalid(what).in_format("qcow2"));
            }
        }
        if self.writable && !self.for_check && !self.is_poisoned() {
            // What is in memory only would be found missing.
            self.write_back_all(true, false).await?;
            self.flush_refcounts().await?;
        }
        let report = check(&self.file, repair, progress).await?;
        if repair != Repair::Nothing {
            let header = super::open::read_header(&self.file).await?;
            *self.incompatible.lock() = header.incompatible;
        }
        Ok(report)
    }
}

impl<'a> Check<'a> {
    fn new(file: &'a Device, header: Header, repair: Repair) -> Self {
        Check {
            file,
            len: None,
            header,
            repair,
            report: CheckReport::default(),
            counts: Counts::default(),
            beyond: Beyond::default(),
            reftable: Vec::new(),
            blocks: HashMap::new(),
            snapshots: Table::default(),
            l1: Vec::new(),
            refblocks: HashSet::new(),
            tables: HashMap::new(),
            survey: None,
            is_survey: false,
            allocated: 0,
            fragmented: 0,
            compressed: 0,
            times: 1,
            expected: None,
            rebuild: false,
            keep_leaks: false,
            quiet: Vec::new(),
            begun: false,
            unflushed: false,
        }
    }
}

impl Check<'_> {
    async fn run(&mut self, progress: Progress<'_>) -> Result<()> {
        self.read_snapshots().await?;
        if self.repair == Repair::All && self.snapshots.needs_rewriting(self.header.version) {
            self.rewrite_snapshots().await?;
        }
        self.walk(progress).await?;
        let walked = (self.report.corruptions, self.report.leaks);
        let mut highest = self.compare(Repair::Nothing).await?;
        if self.rebuild && self.repair != Repair::Nothing {
            if self.repair != Repair::All {
                self.note("ERROR need to rebuild refcount structures");
                return Err(Error::io("Input/output error"));
            }
            highest = self.rebuild(progress).await?;
        } else if self.repair != Repair::Nothing
            && (self.report.leaks > 0 || self.report.corruptions > 0 || !self.quiet.is_empty())
        {
            (self.report.corruptions, self.report.leaks) = walked;
            highest = self.compare(self.repair).await?;
        }
        // What the walk found is not the refcounts' fault.
        let counted = self.report.corruptions.saturating_sub(walked.0);
        let before = self.report.corruptions;
        self.check_flags().await?;
        let flags = self.report.corruptions - before;
        if self.repair != Repair::Nothing && self.report.check_errors == 0 {
            self.clear_marks(counted + flags == 0).await?;
        }
        self.flush().await?;
        self.report.image_end_offset = Some((highest + 1) << self.header.cluster_bits);
        self.report.total_clusters = Some(self.header.size.div_ceil(self.cluster_size()));
        self.report.allocated_clusters = Some(self.allocated);
        self.report.fragmented_clusters = Some(self.fragmented);
        self.report.compressed_clusters = Some(self.compressed);
        Ok(())
    }

    fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// Clusters that one refcount block covers.
    fn refblock_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.header.refcount_order
    }

    /// The references that can be counted: as many as a refcount can hold, if not so many that
    /// they are not counted.
    fn max_count(&self) -> u16 {
        u16::try_from(refcount::max(self.header.refcount_order)).unwrap_or(SATURATED)
    }

    /// The guest's clusters lie in another file.
    fn has_data_file(&self) -> bool {
        self.header.incompatible.contains(Incompatible::DATA_FILE)
    }

    /// Only wrong entries that a repair of everything corrects.
    fn fixes_all(&self) -> bool {
        self.repair == Repair::All
    }

    /// Adds a finding; `count` of them where several entries lead to the same.
    fn found(&mut self, kind: FindingKind, count: u64, at: u64, what: String, remedy: Remedy) {
        self.report.add(count, Finding { kind, what, at: Some(at), remedy, fixed: false });
    }

    fn corruption(&mut self, at: u64, what: String) {
        self.found(FindingKind::Corruption, self.times, at, what, Remedy::None);
    }

    /// Adds a finding that has just been repaired.
    fn fixed(&mut self, kind: FindingKind, at: u64, what: String, remedy: Remedy) {
        self.report.add(1, Finding { kind, what, at: Some(at), remedy, fixed: true });
    }

    fn note(&mut self, what: &str) {
        let (kind, what) = (FindingKind::Note, what.to_string());
        self.report.add(1, Finding { kind, what, at: None, remedy: Remedy::None, fixed: false });
    }

    /// Writes to the image. Before the first change autoclear bits that are not known are cleared.
    async fn write(&mut self, at: u64, bytes: Vec<u8>) -> Result<()> {
        if !self.begun {
            self.begun = true;
            let known = self.header.autoclear & Autoclear::all();
            if known != self.header.autoclear {
                let field = known.bits().to_be_bytes().to_vec();
                let at = super::header::AUTOCLEAR_FIELD;
                self.file.write(at, field.into(), WriteFlags::empty()).await?;
                self.file.flush().await?;
                self.header.autoclear = known;
            }
        }
        self.file.write(at, bytes.into(), WriteFlags::empty()).await?;
        self.unflushed = true;
        Ok(())
    }

    /// What has been written so far is durable after this.
    async fn flush(&mut self) -> Result<()> {
        if self.unflushed {
            self.file.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Sets the incompatible features of the header, durably.
    async fn set_incompatible(&mut self, bits: Incompatible) -> Result<()> {
        if bits != self.header.incompatible {
            self.flush().await?;
            let field = bits.bits().to_be_bytes().to_vec();
            self.write(l::header::INCOMPATIBLE as u64, field).await?;
            self.flush().await?;
            self.header.incompatible = bits;
        }
        Ok(())
    }

    /// Clears the marks of an image that is none of what they say any more.
    async fn clear_marks(&mut self, counts_are_right: bool) -> Result<()> {
        let mut bits = self.header.incompatible;
        if counts_are_right {
            bits -= Incompatible::DIRTY;
        }
        if self.report.corruptions == 0 {
            bits -= Incompatible::CORRUPT;
        }
        self.set_incompatible(bits).await
    }

    /// True where an L2 table at `at` is some other structure too: what is corrected in one would
    /// break the other.
    fn overlaps_structure(&self, at: u64) -> bool {
        let h = &self.header;
        let reftable_len = u64::from(h.reftable_clusters) << h.cluster_bits;
        let structures = [
            (0, self.cluster_size()),
            (h.l1_offset, u64::from(h.l1_size) * 8),
            (h.reftable_offset, reftable_len),
            (h.snapshots_offset, self.snapshots.len),
        ];
        let end = at + self.cluster_size();
        structures.iter().any(|(start, len)| at < start + len && *start < end)
            || self.refblocks.contains(&at)
    }

    /// True where the cluster at `at`, which an L1 entry leads to, is an L2 table and nothing else:
    /// what is corrected in it changes no data.
    async fn is_only_a_table(&mut self, at: u64) -> Result<bool> {
        self.make_survey().await?;
        let Some(survey) = &self.survey else { return Ok(false) };
        let found = survey.counts.get(at >> self.header.cluster_bits);
        Ok(u64::from(found) <= survey.tables.get(&at).copied().unwrap_or(0))
    }

    /// Makes sure that there is a survey.
    async fn make_survey(&mut self) -> Result<()> {
        if self.survey.is_none() {
            let mut header = self.header.clone();
            // Counted as far as it goes, whatever the image's own refcounts can hold.
            header.refcount_order = 4;
            self.survey = Some(self.survey(header, None).await?);
        }
        Ok(())
    }

    /// Counts all references of the image with this header, in a file of the length `len` where it is
    /// to become so long, and changes nothing.
    fn survey(&self, header: Header, len: Option<u64>) -> BoxFuture<'_, Result<Survey>> {
        let mut check = Check::new(self.file, header, Repair::Nothing);
        check.snapshots = self.snapshots.clone();
        check.len = len;
        check.is_survey = true;
        Box::pin(async move {
            check.walk(&|_, _| {}).await?;
            Ok(Survey { counts: check.counts, beyond: check.beyond, tables: check.tables })
        })
    }

    /// Reads a table of 64-bit entries as far as the file has it.
    async fn read_entries(&self, offset: u64, entries: u64) -> Result<Vec<u64>> {
        let inside = self.file.len().saturating_sub(offset) / 8;
        let len = entries.min(inside) * 8;
        if len == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.file.read(offset, len).await?.to_bytes();
        Ok(bytes.chunks_exact(8).map(|entry| l::be64(entry, 0)).collect())
    }

    /// The refcount block of table entry `index`; `None` where there is none that can be read.
    fn refblock(&self, index: u64) -> Option<u64> {
        let entry = self.reftable.get(usize::try_from(index).ok()?)?;
        let at = entry & l::REFTABLE_OFFSET_MASK;
        let usable = at != 0 && at.is_multiple_of(self.cluster_size()) && at < self.file.len();
        usable.then_some(at)
    }

    /// Makes sure that the refcount block `index` is in [`Self::blocks`], if there is one.
    async fn load_refblock(&mut self, index: u64) -> Result<()> {
        let Some(at) = self.refblock(index) else { return Ok(()) };
        if !self.blocks.contains_key(&index) {
            if self.blocks.len() << self.header.cluster_bits >= MAX_BLOCK_BYTES {
                self.blocks.clear();
            }
            let bytes = self.file.read_padded(at, self.cluster_size()).await?.to_vec();
            self.blocks.insert(index, bytes);
        }
        Ok(())
    }

    /// The refcount that the image states for a cluster.
    async fn refcount(&mut self, cluster: u64) -> Result<u64> {
        let index = cluster / self.refblock_entries();
        self.load_refblock(index).await?;
        let Some(block) = self.blocks.get(&index) else { return Ok(0) };
        // Smaller than the entries of a block, which is in memory.
        let at = (cluster % self.refblock_entries()) as usize;
        Ok(refcount::get(block, at, self.header.refcount_order))
    }
}
