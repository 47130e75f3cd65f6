//! What a check finds, what a repair does about it, and what a driver tells without being asked.

use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// What a check may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Nothing: it only looks.
    #[default]
    Nothing,
    /// Lost space is given back, and marks that follow from sound counts are corrected. No data
    /// can be lost by it.
    Leaks,
    /// Everything that can be repaired. Where structures contradict each other, one of them wins.
    All,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Space that nobody uses and nobody can get; harmless.
    Leak,
    /// A broken structure: guest data may be wrong or get lost.
    Corruption,
    /// Something could not be looked at.
    Error,
    /// What the check says of itself; no damage.
    Note,
}

impl FindingKind {
    /// The name that code outside Rust matches on (stable).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Corruption => "corruption",
            Self::Error => "error",
            Self::Note => "note",
        }
    }
}

/// What a repair does about a [`Finding`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: it stays, and so does the image's state.
    #[default]
    None,
    /// The cluster's refcount goes down to the references found.
    LowerRefcount,
    /// The cluster's refcount goes up to the references found.
    RaiseRefcount,
    /// Refcount blocks and table are made anew from the references found.
    RebuildRefcounts,
    /// The entry's copied flag is made to agree with the refcount.
    FixCopied,
    /// The same where the refcount may be wrong itself.
    ForceCopied,
    /// The entry keeps reading as zeroes and gives up the place it had reserved.
    DropPreallocation,
    /// The snapshot table is written anew, with the fields that its entries lack.
    RewriteSnapshots,
    /// The snapshot table is written anew; extra data past what is known is cut off.
    TruncateSnapshotExtra,
}

impl Remedy {
    /// The least repair that applies it; `None` where no repair does.
    #[must_use]
    pub fn needs(self) -> Option<Repair> {
        match self {
            Self::None => None,
            Self::LowerRefcount | Self::FixCopied => Some(Repair::Leaks),
            _ => Some(Repair::All),
        }
    }

    /// What it does, in words.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::None => "cannot be repaired",
            Self::LowerRefcount => "lower the refcount to the references found",
            Self::RaiseRefcount => "raise the refcount to the references found",
            Self::RebuildRefcounts => "rebuild the refcount structures from the references found",
            Self::FixCopied | Self::ForceCopied => "make the copied flag agree with the refcount",
            Self::DropPreallocation => "let the entry read as zeroes without a place of its own",
            Self::RewriteSnapshots => "write the snapshot table anew with the missing fields",
            Self::TruncateSnapshotExtra => "write the snapshot table anew with shorter extra data",
        }
    }

    /// What the repair costs, in words; `None` where nothing that anything refers to is lost.
    #[must_use]
    pub fn lost(self) -> Option<&'static str> {
        match self {
            Self::None
            | Self::RaiseRefcount
            | Self::RebuildRefcounts
            | Self::FixCopied
            | Self::ForceCopied
            | Self::RewriteSnapshots => None,
            Self::LowerRefcount => {
                Some("what lies in the cluster, if a broken table was all that led to it")
            }
            Self::DropPreallocation => Some("the reserved place; it holds no data of the guest"),
            Self::TruncateSnapshotExtra => Some("extra data past the first 1024 bytes"),
        }
    }
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub kind: FindingKind,
    /// What it is, in words.
    pub what: String,
    /// Where in the image file.
    pub at: Option<u64>,
    /// What a repair does about it.
    pub remedy: Remedy,
    /// It has been done.
    pub fixed: bool,
}

/// The result of [`Driver::check`](super::Driver::check).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The first findings, at most [`CheckReport::MAX_FINDINGS`]; the counts are complete.
    pub findings: Vec<Finding>,
    /// Number of leaked units that are left.
    pub leaks: u64,
    /// Number of corruptions that are left.
    pub corruptions: u64,
    /// Number of leaked units that were given back.
    pub leaks_fixed: u64,
    /// Number of corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Number of things that could not be checked.
    pub check_errors: u64,
    /// Where the image file could end.
    pub image_end_offset: Option<u64>,
    /// Guest clusters in all.
    pub total_clusters: Option<u64>,
    /// Guest clusters with space of their own.
    pub allocated_clusters: Option<u64>,
    /// Allocated clusters that do not follow their predecessor in the file.
    pub fragmented_clusters: Option<u64>,
    /// Compressed clusters.
    pub compressed_clusters: Option<u64>,
    /// What ended the check early: the counts are not those of the whole image then, and what was
    /// to be repaired may not be.
    pub failed: Option<String>,
}

impl CheckReport {
    /// A hostile image has millions of them; people read the first.
    pub const MAX_FINDINGS: usize = 10_000;

    /// Counts `count` findings of one kind and keeps the words.
    pub fn add(&mut self, count: u64, finding: Finding) {
        match (finding.kind, finding.fixed) {
            (FindingKind::Leak, false) => self.leaks += count,
            (FindingKind::Leak, true) => self.leaks_fixed += count,
            (FindingKind::Corruption, false) => self.corruptions += count,
            (FindingKind::Corruption, true) => self.corruptions_fixed += count,
            (FindingKind::Error, _) => self.check_errors += count,
            (FindingKind::Note, _) => {}
        }
        if self.findings.len() < Self::MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// True where a repair has changed something.
    #[must_use]
    pub fn has_repaired(&self) -> bool {
        self.leaks_fixed > 0 || self.corruptions_fixed > 0
    }
}

/// The schema's event `BLOCK_IMAGE_CORRUPTED`, without the names of node and device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCorrupted {
    /// What is wrong.
    pub msg: String,
    /// The range of the image file that was about to be accessed.
    pub offset: Option<u64>,
    /// Its length in bytes.
    pub size: Option<u64>,
    /// The image is marked corrupt, and cannot be written to any more.
    pub fatal: bool,
}

impl ImageCorrupted {
    /// What the tools say of it.
    #[must_use]
    pub fn text(&self, driver: &str) -> String {
        match self.fatal {
            true => format!(
                "{driver}: Marking image as corrupt: {}; further corruption events will be \
                 suppressed",
                self.msg
            ),
            false => format!(
                "{driver}: Image is corrupt: {}; further non-fatal corruption events will be \
                 suppressed",
                self.msg
            ),
        }
    }
}

/// Why a cluster could not be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFreed {
    /// It counts as free already.
    Free,
    /// Nothing counts its references.
    Uncounted,
}

/// What a driver tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// Damage was met. At most one that is not fatal and one that is for an opened image.
    Corrupted(ImageCorrupted),
    /// Opening for writing has repaired an image that was not closed cleanly.
    Repaired(Box<CheckReport>),
    /// So many clusters of a damaged image could not be freed: nothing refers to them any more.
    NotFreed {
        /// What stood against it.
        why: NotFreed,
        /// How many.
        clusters: u64,
    },
    /// Something that a person should know; lines after the first say what to do.
    Warning(String),
}

/// Who is told of events when they happen. It is called in the midst of requests, and must neither
/// wait for anything nor use the image.
pub type Listener = Arc<dyn Fn(&DriverEvent) + Send + Sync>;

/// The events of a driver: told at once where somebody listens, kept until then.
#[derive(Default)]
pub(super) struct Events(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    events: Vec<DriverEvent>,
    listener: Option<Listener>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(super) fn push(&self, event: DriverEvent) {
        let listener = {
            let mut waiting = self.0.lock();
            match &waiting.listener {
                Some(listener) => listener.clone(),
                None => return waiting.events.push(event),
            }
        };
        listener(&event);
    }

    /// What nobody has been told of.
    pub(super) fn take(&self) -> Vec<DriverEvent> {
        core::mem::take(&mut self.0.lock().events)
    }

    /// Tells of what was kept, and from now on of everything.
    pub(super) fn listen(&self, listener: Listener) {
        let kept = {
            let mut waiting = self.0.lock();
            waiting.listener = Some(listener.clone());
            core::mem::take(&mut waiting.events)
        };
        kept.iter().for_each(|event| listener(event));
    }
}
