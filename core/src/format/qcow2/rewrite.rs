//! Changing the header: its fields, extensions and the backing file's name.
//!
//! A header and its extensions can be longer than what a medium writes as a whole (512 bytes, see
//! "Underlying media" in the format's document). Every change is one write of the first sector, all
//! the same: what lies behind it is made ready before, where the header in force does not look. Only
//! where the first cluster has no room for that is the header written at once.

use super::Qcow2;
use super::header::Header;
use super::layout::{self as l, header, limits};
use super::open::read_header;
use crate::format::BackingRef;
use crate::io::{DeviceExt, Segments, WriteFlags};
use crate::{Error, Result};
use alloc::vec::Vec;

/// What is written as a whole or not at all.
const SECTOR: usize = l::SECTOR as usize;

impl Qcow2 {
    /// What the image's header says of its backing file now.
    pub(super) fn backing_ref(&self) -> Option<BackingRef> {
        self.backing.read().clone()
    }

    /// True where something may show through unallocated clusters.
    pub(super) fn has_backing(&self) -> bool {
        // A backing file whose name is gone is open until the image is closed, and one that the image
        // does not name may stand there all the same.
        self.header.backing_name.is_some()
            || self.backing.read().is_some()
            || self.below.as_ref().is_some_and(|below| below.len() > 0)
    }

    /// Changes the name and the format of the backing file in the header; the file itself, and what
    /// is open, stays as it is.
    pub(super) async fn rename_backing(&self, backing: Option<BackingRef>) -> Result<()> {
        if let Some(BackingRef { name, .. }) = &backing {
            let invalid = |what| Err(Error::invalid(what).in_format("qcow2"));
            if name.is_empty() {
                return invalid("an empty backing file name");
            }
            if name.len() > limits::MAX_BACKING_NAME as usize {
                return invalid("backing file name too long");
            }
            if self.data_file_is_raw() {
                return invalid("backing file and data-file-raw cannot be used at the same time");
            }
        }
        self.prepare_write().await?;
        let change = |header: &mut Header| {
            header.backing_format = backing.as_ref().and_then(|b| b.format.clone());
            header.backing_name = backing.as_ref().map(|b| b.name.clone());
            Ok(())
        };
        let changed = self.change_header(change).await?;
        let name = changed.backing_name;
        *self.backing.write() =
            name.map(|name| BackingRef { name, format: changed.backing_format });
        Ok(())
    }

    /// Makes one change of the header, durably and as a whole; gives the header as it is then.
    ///
    /// Fields, extensions and features that are not known here stay. An error of `change`, or a
    /// header that does not fit into a cluster, changes nothing.
    pub(super) async fn change_header(
        &self,
        change: impl FnOnce(&mut Header) -> Result<()>,
    ) -> Result<Header> {
        let _order = self.write_back_lock.lock().await;
        self.refuse_poisoned()?;
        let pointers = self.write_table_pointers().await;
        self.poison_on_error(pointers)?;
        let mut header = read_header(&self.file).await?;
        change(&mut header)?;
        if header.has_feature_names && header.emit().is_err() {
            // The names are a courtesy: they yield where a small cluster has no room for them.
            header.has_feature_names = false;
        }
        let new = header.emit()?;
        let staged = self.staged_header(&header, &new).await?;
        let result = self.replace_header(new, staged).await;
        self.poison_on_error(result)?;
        Ok(header)
    }

    /// The same header in a form whose first sector says everything, and a place for the backing
    /// file's name that neither the header in force nor the new one uses; `None` where there is
    /// no such form.
    async fn staged_header(&self, header: &Header, new: &[u8]) -> Result<Option<Staged>> {
        let old = self.first_cluster().await?;
        let used = old.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let free = used.max(new.len());
        let brief = Header { has_feature_names: false, backing_name: None, ..header.clone() };
        let mut first = brief.emit()?;
        let name = header.backing_name.as_deref().unwrap_or_default().as_bytes();
        // In sectors of its own where the cluster has some.
        let at = match free.next_multiple_of(SECTOR) {
            at if at + name.len() <= old.len() => at,
            _ => free,
        };
        if first.len() > SECTOR || at + name.len() > old.len() {
            return Ok(None);
        }
        first.resize(SECTOR, 0);
        if !name.is_empty() {
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            first[header::BACKING_OFFSET..][..8].copy_from_slice(&(at as u64).to_be_bytes());
            first[header::BACKING_SIZE..][..4].copy_from_slice(&len.to_be_bytes());
        }
        Ok(Some(Staged { first, name: (at as u64, name.to_vec()) }))
    }

    /// Writes a header cluster over the old one. The caller holds the write-back lock.
    async fn replace_header(&self, mut new: Vec<u8>, staged: Option<Staged>) -> Result<()> {
        let write = |at: u64, bytes: Segments| self.file.write(at, bytes, WriteFlags::empty());
        let old = self.first_cluster().await?;
        let len = new.len();
        new.resize(len.next_multiple_of(SECTOR), 0);
        let rest = new.split_off(SECTOR);
        // From here on the cluster is cleared at the end.
        let mut end = len.next_multiple_of(SECTOR);
        let same = old.get(SECTOR..SECTOR + rest.len()).is_some_and(|tail| tail == rest);
        match staged {
            // What follows the first sector is there already, or is not needed.
            _ if same => {}
            Some(staged) => {
                if !staged.name.1.is_empty() {
                    write(staged.name.0, staged.name.1.clone().into()).await?;
                    self.barrier().await?;
                }
                write(0, staged.first.into()).await?;
                self.barrier().await?;
                let (at, name) = staged.name;
                // It fits: the name lies in the first cluster.
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let mut rest = rest;
                if !name.is_empty() && at < end {
                    // The name that is in force shares a sector with what is written.
                    let from = at - SECTOR;
                    rest.resize(rest.len().max(from + name.len()), 0);
                    rest[from..from + name.len()].copy_from_slice(&name);
                    end = len;
                }
                write(SECTOR as u64, rest.into()).await?;
                self.barrier().await?;
            }
            None => {
                // No room to do it in steps.
                new.extend_from_slice(&rest);
                write(0, new.into()).await?;
                return self.barrier().await;
            }
        }
        write(0, new.into()).await?;
        self.barrier().await?;
        // Nobody looks at what is left behind; a name that is gone should be gone.
        if old[end.min(old.len())..].iter().any(|byte| *byte != 0) || !same {
            let left = self.cluster_size() - end as u64;
            if left > 0 {
                write(end as u64, Segments::zero(left)).await?;
                self.barrier().await?;
            }
        }
        Ok(())
    }

    async fn first_cluster(&self) -> Result<Vec<u8>> {
        Ok(self.file.read_padded(0, self.cluster_size()).await?.to_vec())
    }
}

/// A header in a form for the time of its change.
struct Staged {
    /// The first sector.
    first: Vec<u8>,
    /// The backing file's name and where it goes.
    name: (u64, Vec<u8>),
}
