//! Copied flags against refcounts: in the active L1 table and its L2 tables, a flag says that the
//! refcount of what an entry leads to is exactly 1.

use super::Check;
use crate::Result;
use crate::format::qcow2::layout::{self as l, be64};
use crate::format::{FindingKind, Remedy, Repair};
use crate::io::DeviceExt;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hashbrown::HashSet;

impl Check<'_> {
    /// Checks every flag, and corrects them where that is allowed: with sound refcounts they follow
    /// from them, otherwise only where everything is to be repaired.
    pub(super) async fn check_flags(&mut self) -> Result<()> {
        let sound = self.report.corruptions == 0 && self.report.check_errors == 0;
        let remedy = if sound { Remedy::FixCopied } else { Remedy::ForceCopied };
        let fix = match self.repair {
            Repair::Nothing => false,
            Repair::Leaks => sound,
            Repair::All => true,
        };
        let mut seen = HashSet::new();
        let mut l1 = core::mem::take(&mut self.l1);
        let mut offsets: Vec<u64> = l1.iter().map(|entry| entry & l::OFFSET_MASK).collect();
        offsets.sort_unstable();
        for (index, entry) in l1.iter_mut().enumerate() {
            let at = *entry & l::OFFSET_MASK;
            if at == 0 || !at.is_multiple_of(self.cluster_size()) {
                continue;
            }
            let refcount = self.refcount(at >> self.header.cluster_bits).await?;
            if (refcount == 1) != (*entry & l::COPIED != 0) {
                let what = format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} \
                     refcount={refcount}"
                );
                self.times = 1;
                self.flag(at, what, fix, remedy);
                if fix {
                    *entry ^= l::COPIED;
                    let place = self.header.l1_offset + 8 * index as u64;
                    self.write(place, entry.to_be_bytes().to_vec()).await?;
                }
            }
            if at < self.file.len() && seen.insert(at) {
                let times = offsets.partition_point(|other| *other <= at)
                    - offsets.partition_point(|other| *other < at);
                // Once they are right, they are for all entries.
                let fix = fix && !self.overlaps_structure(at);
                self.times = if fix { 1 } else { times as u64 };
                self.check_l2_flags(at, fix, remedy).await?;
            }
        }
        self.l1 = l1;
        self.times = 1;
        Ok(())
    }

    async fn check_l2_flags(&mut self, at: u64, fix: bool, remedy: Remedy) -> Result<()> {
        let table = self.file.read_padded(at, self.cluster_size()).await?.to_bytes();
        let entry_len = 1usize << self.header.l2_entry_bits();
        let mut fixed: Option<Vec<u8>> = None;
        for position in (0..table.len()).step_by(entry_len) {
            let value = be64(&table, position);
            let host = value & l::OFFSET_MASK;
            let copied = value & l::COPIED != 0;
            let has_place = host != 0 || (self.has_data_file() && copied);
            if value & l::COMPRESSED != 0 || !has_place {
                continue;
            }
            let refcount = match self.has_data_file() {
                // Clusters of a data file have none: each is its guest cluster's own.
                true => 1,
                false => self.refcount(host >> self.header.cluster_bits).await?,
            };
            if (refcount == 1) != copied {
                let what =
                    format!("OFLAG_COPIED data cluster: l2_entry={value:x} refcount={refcount}");
                self.flag(host, what, fix, remedy);
                if fix {
                    let new = (value ^ l::COPIED).to_be_bytes();
                    let bytes = fixed.get_or_insert_with(|| table.to_vec());
                    bytes[position..position + 8].copy_from_slice(&new);
                }
            }
        }
        match fixed {
            // A table that the file has only a part of is not made longer.
            Some(mut bytes) => {
                let inside = usize::try_from(self.file.len() - at).unwrap_or(usize::MAX);
                bytes.truncate(inside);
                self.write(at, bytes).await
            }
            None => Ok(()),
        }
    }

    fn flag(&mut self, at: u64, what: String, fix: bool, remedy: Remedy) {
        if fix {
            let what = format!("Repairing {what}");
            self.fixed(FindingKind::Corruption, at, what, remedy);
        } else {
            let (kind, what) = (FindingKind::Corruption, format!("ERROR {what}"));
            self.found(kind, self.times, at, what, remedy);
        }
    }
}
