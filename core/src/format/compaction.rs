//! What a format does for compacting an image in place.

use crate::Result;
use crate::io::BoxFuture;
use alloc::boxed::Box;
use core::fmt;

/// As long as this lives, no operation changes the image, and none that began before is under way.
/// Reading goes on.
pub struct Still<'a>(Box<dyn Send + Sync + 'a>);

impl<'a> Still<'a> {
    /// Around the lock that sees to it.
    pub(crate) fn new(guard: impl Send + Sync + 'a) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Still<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("Still")
    }
}

/// What is to be read where a cluster was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Zeroes.
    Zeroes,
    /// What lies below.
    Backing,
}

/// Giving back what an image need not keep. The disk reads as before after each call, and whenever
/// one is abandoned, fails or loses power midway.
pub trait Compaction: Send + Sync {
    /// Has all operations end that are under way, and none begin.
    ///
    /// # Errors
    /// Those of writing the metadata that waited.
    fn still(&self) -> BoxFuture<'_, Result<Still<'_>>>;

    /// How many bytes of the disk in `[start, start + len)` lie in clusters that this image has to
    /// itself and can do without, where the range reads as `instead` says. The range is whole
    /// clusters, but for the end of the disk.
    ///
    /// # Errors
    /// Those of reading the tables.
    fn needless(&self, start: u64, len: u64, instead: Instead) -> BoxFuture<'_, Result<u64>>;

    /// Gives up those clusters. The caller has looked at the range since `still` began: it reads as
    /// `instead` says already.
    ///
    /// # Errors
    /// Those of the tables.
    fn give_up<'a>(
        &'a self,
        still: &'a Still<'_>,
        start: u64,
        len: u64,
        instead: Instead,
    ) -> BoxFuture<'a, Result<u64>>;

    /// What [`pack`](Self::pack) would move as the file is now: before anything is given up.
    ///
    /// # Errors
    /// Those of reading the tables, and `Corrupt` where clusters in use count as free.
    fn packable(&self) -> BoxFuture<'_, Result<Packed>>;

    /// Moves clusters from the end of the file into free ones nearer its beginning, ends the file
    /// after its last cluster in use, and gives the space of what is still free in it back to the
    /// host. What was given up is free, durably, before. Tells how many clusters are moved, of how
    /// many; there may be several passes.
    ///
    /// # Errors
    /// Those of the tables and of the file, and `Corrupt` where clusters in use count as free.
    fn pack<'a>(
        &'a self,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Packed>>;
}

/// What came of moving clusters, in bytes of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Moved: guest data and tables.
    pub moved: u64,
    /// Compressed data that stays where it is, past where the file could end without it.
    pub compressed: u64,
    /// The same: what snapshots have, alone or together with the disk.
    pub snapshots: u64,
    /// The same: tables that do not move, bitmaps, and what nothing refers to.
    pub other: u64,
    /// Free within the file, and given back to the host where it takes it.
    pub free: u64,
}
