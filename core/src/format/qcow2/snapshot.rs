//! The snapshot table (section "Snapshots"), read.

use super::header::Header;
use super::layout::{be16, be32, be64, limits};
use crate::io::{Device, DeviceExt};
use crate::qapi::SnapshotInfo;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Length of a table entry before its variable parts.
const FIXED_LEN: usize = 40;

/// An entry of the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) date_sec: u32,
    pub(super) date_nsec: u32,
    pub(super) vm_clock_nsec: u64,
    pub(super) vm_state_size: u64,
    /// Virtual size at the time; the image's own where the entry does not say.
    pub(super) disk_size: u64,
    pub(super) icount: Option<u64>,
}

/// Reads the whole table. Also gives its offset and length.
pub(super) async fn read_table(
    file: &Device,
    header: &Header,
) -> Result<(Vec<Snapshot>, (u64, u64))> {
    let start = header.snapshots_offset;
    let mut out = Vec::new();
    let mut at = start;
    for index in 0..header.nb_snapshots {
        let broken = |what: String| {
            Error::corrupt(format!("snapshot table entry {index}: {what}"))
                .in_format("qcow2")
                .at(at)
        };
        if at.checked_add(FIXED_LEN as u64).is_none_or(|end| end > file.len()) {
            return Err(broken(format!("the file ends before it, at {:#x}", file.len())));
        }
        let fixed: [u8; FIXED_LEN] = file.read_array(at).await?;
        let (id_len, name_len) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
        let extra_len = be32(&fixed, 36);
        if extra_len > limits::MAX_SNAPSHOT_EXTRA {
            return Err(broken(format!("{extra_len} bytes of extra data; 1024 are possible")));
        }
        let extra_len = extra_len as usize;
        let rest_len = extra_len + id_len + name_len;
        let rest_at = at + FIXED_LEN as u64;
        if rest_at + rest_len as u64 > file.len() {
            return Err(broken(format!("the file ends within it, at {:#x}", file.len())));
        }
        let rest = file.read(rest_at, rest_len as u64).await?.to_bytes();
        let (extra, names) = rest.split_at(extra_len);
        let (id, name) = names.split_at(id_len);
        let extra_field = |from: usize| (extra.len() >= from + 8).then(|| be64(extra, from));
        let snapshot = Snapshot {
            l1_offset: be64(&fixed, 0),
            l1_size: be32(&fixed, 8),
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            date_sec: be32(&fixed, 16),
            date_nsec: be32(&fixed, 20),
            vm_clock_nsec: be64(&fixed, 24),
            vm_state_size: extra_field(0).unwrap_or(be32(&fixed, 32).into()),
            disk_size: extra_field(8).unwrap_or(header.size),
            icount: extra_field(16).filter(|n| *n != u64::MAX),
        };
        if snapshot.disk_size > limits::MAX_VIRTUAL_SIZE {
            return Err(broken(format!(
                "virtual size {:#x} exceeds {:#x}",
                snapshot.disk_size,
                limits::MAX_VIRTUAL_SIZE
            )));
        }
        if !snapshot.has_plausible_l1(header) {
            return Err(broken(format!(
                "impossible L1 table at {:#x} with {} entries",
                snapshot.l1_offset, snapshot.l1_size
            )));
        }
        out.push(snapshot);
        at = (rest_at + rest_len as u64).next_multiple_of(8);
        if at - start > limits::MAX_SNAPSHOT_TABLE_BYTES {
            return Err(Error::limit("the snapshot table exceeds 64 MiB")
                .in_format("qcow2")
                .at(start));
        }
    }
    Ok((out, (start, at - start)))
}

/// The snapshot called `wanted`: by id, else by name.
pub(super) fn find<'a>(snapshots: &'a [Snapshot], wanted: &str) -> Result<&'a Snapshot> {
    let by_id = snapshots.iter().find(|s| s.id == wanted);
    by_id.or_else(|| snapshots.iter().find(|s| s.name == wanted)).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no snapshot '{wanted}'")).in_format("qcow2")
    })
}

impl Snapshot {
    /// The schema's form.
    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            vm_state_size: self.vm_state_size,
            date_sec: self.date_sec.into(),
            date_nsec: self.date_nsec.into(),
            vm_clock_sec: self.vm_clock_nsec / 1_000_000_000,
            vm_clock_nsec: self.vm_clock_nsec % 1_000_000_000,
            icount: self.icount,
        }
    }
}
