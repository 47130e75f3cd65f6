//! The snapshot table, read as far as it can be, and written anew where entries lack fields.

use super::Check;
use crate::format::qcow2::layout::{self as l, Incompatible, be16, be32, be64, header, limits};
use crate::format::{FindingKind, Remedy, Repair};
use crate::io::DeviceExt;
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Length of a table entry before its variable parts.
const FIXED_LEN: usize = 40;
/// Extra data that version 3 demands: the size of the VM state and of the disk.
const EXTRA_LEN: usize = 16;

/// The table, as it was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
    /// Its length in bytes.
    pub(super) len: u64,
}

/// An entry, with what is needed to write it again.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    fixed: [u8; FIXED_LEN],
    extra: Vec<u8>,
    /// Bytes of extra data in the image.
    extra_len: u64,
    id: Vec<u8>,
    name: Vec<u8>,
}

impl Entry {
    pub(super) fn l1_offset(&self) -> u64 {
        be64(&self.fixed, 0)
    }

    pub(super) fn l1_size(&self) -> u32 {
        be32(&self.fixed, 8)
    }

    /// `1 (name)`, as people know it.
    pub(super) fn label(&self) -> String {
        let (id, name) = (String::from_utf8_lossy(&self.id), String::from_utf8_lossy(&self.name));
        format!("{id} ({name})")
    }

    fn is_truncated(&self) -> bool {
        self.extra_len > self.extra.len() as u64
    }

    fn is_incomplete(&self) -> bool {
        self.extra.len() < EXTRA_LEN
    }

    /// Its bytes, with all fields.
    fn emit(&self, virtual_size: u64, out: &mut Vec<u8>) {
        let mut extra = self.extra.clone();
        if extra.len() < 8 {
            extra.truncate(0);
            extra.extend_from_slice(&u64::from(be32(&self.fixed, 32)).to_be_bytes());
        }
        if extra.len() < EXTRA_LEN {
            extra.truncate(8);
            extra.extend_from_slice(&virtual_size.to_be_bytes());
        }
        out.extend_from_slice(&self.fixed[..FIXED_LEN - 4]);
        // At most 1024.
        out.extend_from_slice(&u32::try_from(extra.len()).unwrap_or(0).to_be_bytes());
        for part in [&extra, &self.id, &self.name] {
            out.extend_from_slice(part);
        }
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

impl Table {
    /// True where entries of an image of that version have too much extra data, or too little.
    pub(super) fn needs_rewriting(&self, version: u32) -> bool {
        let wrong = |entry: &Entry| entry.is_truncated() || version >= 3 && entry.is_incomplete();
        self.entries.iter().any(wrong)
    }
}

impl Check<'_> {
    /// Reads the table. What cannot be read keeps the rest of the check from freeing anything.
    pub(super) async fn read_snapshots(&mut self) -> Result<()> {
        let start = self.header.snapshots_offset;
        let mut at = start;
        let mut table = Table::default();
        for index in 0..self.header.nb_snapshots {
            let entry = match self.read_snapshot(at).await? {
                Some(entry) => entry,
                None => {
                    self.keep_leaks = true;
                    let what = format!(
                        "ERROR snapshot table entry {index} exceeds the end of the file or the \
                         64 MiB that a table can have; snapshot table corrupted"
                    );
                    self.corruption(at, what);
                    break;
                }
            };
            let len = FIXED_LEN as u64
                + entry.extra_len
                + entry.id.len() as u64
                + entry.name.len() as u64;
            if entry.is_truncated() && self.repair != Repair::All {
                let what = format!(
                    "ERROR failed to read the snapshot table: Too much extra metadata in snapshot \
                     table entry {index}\nYou can force-remove this extra metadata with qemu-img \
                     check -r all"
                );
                self.found(FindingKind::Note, 1, at, what, Remedy::TruncateSnapshotExtra);
                return Err(Error::limit("File too large"));
            }
            let what = format!("snapshot table entry {index} is incomplete");
            let (kind, remedy) = (FindingKind::Corruption, Remedy::RewriteSnapshots);
            if entry.is_truncated() {
                let what = format!(
                    "Discarding too much extra metadata in snapshot table entry {index} ({} > {})",
                    entry.extra_len,
                    limits::MAX_SNAPSHOT_EXTRA
                );
                self.fixed(kind, at, what, Remedy::TruncateSnapshotExtra);
            } else if self.header.version >= 3 && entry.is_incomplete() {
                match self.repair {
                    Repair::All => self.fixed(kind, at, format!("Repairing {what}"), remedy),
                    _ => self.found(kind, 1, at, format!("ERROR {what}"), remedy),
                }
            }
            table.entries.push(entry);
            at = (at + len).next_multiple_of(8);
            table.len = at - start;
        }
        self.snapshots = table;
        Ok(())
    }

    async fn read_snapshot(&self, at: u64) -> Result<Option<Entry>> {
        let within = |end: u64| {
            end <= self.file.len()
                && end - self.header.snapshots_offset <= limits::MAX_SNAPSHOT_TABLE_BYTES
        };
        if !within(at + FIXED_LEN as u64) {
            return Ok(None);
        }
        let fixed: [u8; FIXED_LEN] = self.file.read_array(at).await?;
        let (id_len, name_len) = (u64::from(be16(&fixed, 12)), u64::from(be16(&fixed, 14)));
        let extra_len = u64::from(be32(&fixed, 36));
        let extra_at = at + FIXED_LEN as u64;
        let names_at = extra_at + extra_len;
        if !within(names_at + id_len + name_len) {
            return Ok(None);
        }
        let names_len = id_len + name_len;
        let kept = extra_len.min(limits::MAX_SNAPSHOT_EXTRA.into());
        let (extra, names) = if kept == extra_len {
            let rest = self.file.read(extra_at, extra_len + names_len).await?.to_bytes();
            // At most 1024.
            let (extra, names) = rest.split_at(extra_len as usize);
            (extra.to_vec(), names.to_vec())
        } else {
            let extra = self.file.read(extra_at, kept).await?.to_vec();
            (extra, self.file.read(names_at, names_len).await?.to_vec())
        };
        let (id, name) = names.split_at(usize::from(be16(&fixed, 12)));
        let (id, name) = (id.to_vec(), name.to_vec());
        Ok(Some(Entry { fixed, extra, extra_len, id, name }))
    }

    /// Writes the table anew past the end of the file, where nothing refers to. The image is marked
    /// dirty meanwhile: the table's new clusters are in use before they are counted.
    pub(super) async fn rewrite_snapshots(&mut self) -> Result<()> {
        if self.header.version < 3 || self.keep_leaks {
            return Err(Error::unsupported(
                "repairing this snapshot table is not supported: the image is of version 2 or \
                 the table goes on where it cannot be read",
            )
            .in_format("qcow2")
            .at(self.header.snapshots_offset));
        }
        let mut bytes = Vec::new();
        for entry in &self.snapshots.entries {
            entry.emit(self.header.size, &mut bytes);
        }
        if bytes.len() as u64 > limits::MAX_SNAPSHOT_TABLE_BYTES {
            return Err(Error::limit("the repaired snapshot table exceeds 64 MiB")
                .in_format("qcow2")
                .at(self.header.snapshots_offset));
        }
        let (cluster, len) = (self.cluster_size(), bytes.len() as u64);
        let end = self.file.len().div_ceil(cluster);
        self.make_survey().await?;
        let gap = self.survey.as_ref().map(|s| s.beyond.gap(end, len.div_ceil(cluster)));
        let new = gap.transpose()?.unwrap_or(end).saturating_mul(cluster);
        if new >= l::MAX_HOST_OFFSET {
            return Err(Error::limit("the image file cannot grow further").in_format("qcow2"));
        }
        self.set_incompatible(self.header.incompatible | Incompatible::DIRTY).await?;
        self.write(new, bytes).await?;
        self.flush().await?;
        let mut field = self.header.nb_snapshots.to_be_bytes().to_vec();
        field.extend_from_slice(&new.to_be_bytes());
        self.write(header::NB_SNAPSHOTS as u64, field).await?;
        self.flush().await?;
        let old = (self.header.snapshots_offset, self.snapshots.len);
        for (at, len) in [old, (new, len)] {
            self.quiet.push(at / cluster..(at + len).div_ceil(cluster));
        }
        (self.header.snapshots_offset, self.snapshots.len) = (new, len);
        Ok(())
    }
}

const _: () = assert!(header::SNAPSHOTS_OFFSET == header::NB_SNAPSHOTS + 4);
