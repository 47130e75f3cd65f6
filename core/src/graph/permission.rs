//! What users of a node do with it, and what they let others do meanwhile (the schema's
//! `BlockPermission`).

use super::edge::Edge;
use super::node::Node;
use crate::io::Access;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::vec::Vec;

bitflags::bitflags! {
    /// What can be done with a node.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Permissions: u8 {
        /// Read, and rely on what is read.
        const CONSISTENT_READ = 1;
        /// Write.
        const WRITE = 1 << 1;
        /// Write what is there already: it changes where the data is, not what it is.
        const WRITE_UNCHANGED = 1 << 2;
        /// Change the length.
        const RESIZE = 1 << 3;
    }
}

impl Permissions {
    /// Each permission with its name in the schema and its name in messages.
    const NAMES: [(Self, &'static str, &'static str); 4] = [
        (Self::CONSISTENT_READ, "consistent-read", "consistent read"),
        (Self::WRITE, "write", "write"),
        (Self::WRITE_UNCHANGED, "write-unchanged", "write unchanged"),
        (Self::RESIZE, "resize", "resize"),
    ];

    /// The schema's names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(p, ..)| self.contains(*p)).map(|(_, name, _)| name)
    }

    /// The one that the schema calls so.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, known, _)| *known == name).map(|(p, ..)| p)
    }

    /// As messages have them.
    #[must_use]
    pub fn in_words(self) -> alloc::string::String {
        let set = Self::NAMES.into_iter().filter(|(p, ..)| self.contains(*p));
        set.map(|(.., words)| words).collect::<Vec<_>>().join(", ")
    }
}

/// What one user of a node does with it and lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it does.
    pub taken: Permissions,
    /// What others may do meanwhile.
    pub shared: Permissions,
}

impl Claim {
    /// Neither does anything nor minds anything.
    pub const NONE: Self = Self { taken: Permissions::empty(), shared: Permissions::all() };

    /// The claim of an image format's driver on its file: others may read it, but who writes is
    /// alone.
    #[must_use]
    pub fn image(access: Access) -> Self {
        let changing = Permissions::WRITE | Permissions::RESIZE;
        let taken = match access {
            Access::ReadOnly => Permissions::CONSISTENT_READ,
            Access::ReadWrite => Permissions::CONSISTENT_READ | changing,
        };
        Self { taken, shared: Permissions::all() - changing }
    }

    /// The claim of a raw image on its file: others may do everything, as they may with a disk,
    /// unless they mind us.
    #[must_use]
    pub fn raw(access: Access) -> Self {
        let taken = match access {
            Access::ReadOnly => Permissions::CONSISTENT_READ,
            Access::ReadWrite => Permissions::CONSISTENT_READ | Permissions::WRITE,
        };
        Self { taken, shared: Permissions::all() }
    }

    /// The claim of a node on `below`, which may have been opened to share everything (`force-share`).
    pub(super) fn over(self, below: &Node) -> Self {
        match below.settings().force_share {
            true => Self { shared: Permissions::all(), ..self },
            false => self,
        }
    }

    /// What several users of one node do and allow together.
    pub(super) fn join(self, other: Self) -> Self {
        Self { taken: self.taken | other.taken, shared: self.shared & other.shared }
    }
}

/// What a child is to its parent: it decides what the parent needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The child shows what the parent shows: a filter's file, a raw image's file.
    Filtered,
    /// The parent shows a part of it: a raw image with an offset or a size.
    Window,
    /// A filter's file that is written to without being changed (`copy-on-read`).
    CopiedOnRead,
    /// It has the tables of a format, and its data unless that lies elsewhere.
    Metadata,
    /// It has data of the guest: an external data file.
    Data,
    /// What is read where the parent has nothing of its own.
    Cow,
    /// One of several that are to be the same: a child of a quorum.
    Copy,
    /// What is copied before it changes: a child of `copy-before-write`.
    CopiedBeforeWrite,
    /// Where that is copied to.
    CopyTarget,
    /// Somebody below keeps it as it was; nothing is asked of it by itself (`snapshot-access`).
    PointInTime,
    /// The file of `replication`.
    Replicated,
    /// A buffer of `replication`, or the disk behind it.
    ReplicationBuffer,
    /// Used from outside of the graph: the user says itself what it does.
    Root,
}

impl Role {
    /// What a node claims of a child of this role, when all its own users together claim `above`.
    /// `writable`: the node was opened for writing.
    pub(super) fn claim(self, above: Claim, writable: bool) -> Claim {
        let (need, allowed) = (above.taken, above.shared);
        let (read, unchanged) = (Permissions::CONSISTENT_READ, Permissions::WRITE_UNCHANGED);
        let changing = Permissions::WRITE | Permissions::RESIZE;
        match self {
            Self::Filtered | Self::Root => above,
            Self::Window => Claim { taken: need, shared: allowed - Permissions::RESIZE },
            Self::CopiedOnRead => Claim { taken: need | unchanged, shared: allowed },
            Self::Metadata => {
                let tables = if writable { read | changing } else { read };
                Claim { taken: tables | need & unchanged, shared: read | unchanged }
            }
            Self::Data => {
                // Whatever is written can make it longer, what is copied up from below too.
                let writes = need.intersects(Permissions::WRITE | unchanged);
                let more = if writes { changing } else { Permissions::empty() };
                Claim { taken: need | more, shared: allowed - Permissions::RESIZE }
            }
            Self::Cow => {
                let changes = allowed.contains(Permissions::WRITE);
                let more = if changes { changing } else { Permissions::empty() };
                Claim { taken: need & read, shared: read | unchanged | more }
            }
            Self::Copy => Claim { taken: need, shared: allowed & (read | unchanged) },
            // Who writes around the filter destroys the point in time.
            Self::CopiedBeforeWrite => Claim { taken: need | read, shared: allowed - changing },
            Self::CopyTarget => {
                let shared = Permissions::all() - Permissions::RESIZE;
                Claim { taken: Permissions::WRITE, shared }
            }
            Self::PointInTime => Claim::NONE,
            // It has them at hand whether or not somebody uses it.
            Self::Replicated | Self::ReplicationBuffer => {
                let mut taken = if self == Self::Replicated { read } else { Permissions::empty() };
                taken.set(Permissions::WRITE, writable);
                Claim { taken, shared: Permissions::all() - Permissions::RESIZE }
            }
        }
    }

    /// What an inactive node claims of such a child: its format's driver minds nothing that others do,
    /// and nothing is copied up.
    pub(super) fn claim_inactive(self, above: Option<Claim>) -> Claim {
        let claim = match above {
            Some(above) => self.claim(above, false),
            None => self.claim_unused(false),
        };
        match self {
            Self::CopiedOnRead => above.unwrap_or(Claim::NONE),
            Self::Metadata | Self::Data | Self::Cow | Self::Window => {
                Claim { shared: Permissions::all(), ..claim }
            }
            Self::CopiedBeforeWrite
            | Self::CopyTarget
            | Self::Copy
            | Self::Filtered
            | Self::PointInTime
            | Self::Replicated
            | Self::ReplicationBuffer
            | Self::Root => claim,
        }
    }

    /// What a node that nobody uses claims of such a child.
    pub(super) fn claim_unused(self, writable: bool) -> Claim {
        match self {
            Self::CopiedBeforeWrite => Claim::NONE,
            role => role.claim(Claim::NONE, writable),
        }
    }
}

/// Looks whether the users of one node get along. The newest user comes first: what it does not let
/// others do is looked at first.
pub(super) fn agree(node: &str, users: &[(&Edge, Claim)]) -> Result<()> {
    for (i, (keeper, kept)) in users.iter().enumerate() {
        for (j, (taker, wanted)) in users.iter().enumerate() {
            let conflict = wanted.taken - kept.shared;
            if i != j && !conflict.is_empty() {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!(
                        "Permission conflict on node '{node}': permissions '{}' are both required \
                         by {} and unshared by {}.",
                        conflict.in_words(),
                        taker.describe(node),
                        keeper.describe(node),
                    ),
                ));
            }
        }
    }
    Ok(())
}
