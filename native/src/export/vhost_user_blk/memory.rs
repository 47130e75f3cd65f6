//! The guest's memory: regions that the frontend shares, and data that are copied out of and into
//! it. Everything goes through `vm-memory`: it is never seen as a slice, because the guest may
//! change it at any time.

use super::layout::MAX_SLOTS;
use sectora_core::io::{Segment, Segments};
use sectora_core::{Error, Result};
use smallvec::SmallVec;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::{
    Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

/// All regions at one time.
pub(super) type Guest = Arc<GuestMemoryMmap>;

/// A region as the frontend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Where the guest has it.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) len: u64,
    /// Where the frontend has it; rings are named by such addresses.
    pub(super) user: u64,
    /// Where in the file it begins.
    pub(super) offset: u64,
}

/// What the frontend shares.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: Vec<(Region, Arc<GuestRegionMmap>)>,
}

impl Memory {
    /// Adds a region.
    ///
    /// # Errors
    /// `InvalidInput` where it overlaps another one, or its file is shorter; `Limit`.
    pub(super) fn add(&mut self, region: Region, fd: OwnedFd) -> Result<()> {
        if self.regions.len() >= MAX_SLOTS {
            return Err(Error::limit(format!("more than {MAX_SLOTS} regions of memory")));
        }
        let wrong = |what: &str| {
            let Region { guest, len, offset, .. } = region;
            Error::invalid(format!(
                "region {guest:#x}+{len:#x} of the guest's memory, at {offset:#x} of its file: {what}"
            ))
        };
        let ends = [region.guest, region.user].map(|start| start.checked_add(region.len));
        let len = usize::try_from(region.len).ok().filter(|len| *len > 0);
        let (Some(len), [Some(_), Some(_)]) = (len, ends) else {
            return Err(wrong("its length is impossible"));
        };
        let file = FileOffset::new(File::from(fd), region.offset);
        let mapped = MmapRegion::from_file(file, len).map_err(|e| wrong(&e.to_string()))?;
        let mapped = GuestRegionMmap::new(mapped, GuestAddress(region.guest));
        let mapped = mapped.ok_or_else(|| wrong("its end is beyond all addresses"))?;
        let before = self.regions.clone();
        self.regions.push((region, Arc::new(mapped)));
        self.regions.sort_by_key(|(region, _)| region.guest);
        // Only now it is found whether any two overlap.
        let checked = self.guest();
        if checked.is_err() {
            self.regions = before;
        }
        checked.map(drop)
    }

    /// Removes a region.
    ///
    /// # Errors
    /// `InvalidInput` where there is none like it.
    pub(super) fn remove(&mut self, region: Region) -> Result<()> {
        let same = |known: &Region| (known.guest, known.len) == (region.guest, region.len);
        let at = self.regions.iter().position(|(known, _)| same(known));
        let at = at.ok_or_else(|| Error::invalid("there is no such region of memory"))?;
        self.regions.remove(at);
        Ok(())
    }

    /// All of it, as it is now.
    ///
    /// # Errors
    /// `InvalidInput` where regions overlap.
    pub(super) fn guest(&self) -> Result<Guest> {
        if self.regions.is_empty() {
            return Ok(Guest::default());
        }
        let all = self.regions.iter().map(|(_, mapped)| mapped.clone()).collect();
        let all = GuestMemoryMmap::from_arc_regions(all);
        all.map(Arc::new).map_err(|e| Error::invalid(format!("the guest's memory: {e}")))
    }

    /// The guest's address of what the frontend has at `user`.
    pub(super) fn guest_address(&self, user: u64) -> Result<u64> {
        let found = self.regions.iter().find_map(|(region, _)| {
            let inside = user.checked_sub(region.user).filter(|inside| *inside < region.len)?;
            region.guest.checked_add(inside)
        });
        found.ok_or_else(|| Error::invalid(format!("no shared memory is at {user:#x}")))
    }
}

/// A list of pieces of the guest's memory, used from the front.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: SmallVec<[(GuestAddress, u32); 4]>,
    /// The first that is not used up, and how much of it is.
    at: (usize, u32),
}

/// What is written where data are zeroes.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];

impl Pieces {
    pub(super) fn push(&mut self, address: GuestAddress, len: u32) {
        self.pieces.push((address, len));
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> u64 {
        let rest = self.pieces.get(self.at.0..).unwrap_or_default();
        let all: u64 = rest.iter().map(|(_, len)| u64::from(*len)).sum();
        all - u64::from(self.at.1)
    }

    /// Takes the last byte away; `None` where there is none.
    pub(super) fn pop_byte(&mut self) -> Option<GuestAddress> {
        while let Some((address, len)) = self.pieces.last_mut() {
            if let Some(less) = len.checked_sub(1) {
                *len = less;
                return address.0.checked_add(u64::from(less)).map(GuestAddress);
            }
            self.pieces.pop();
        }
        None
    }

    /// The next piece, of at most `most` bytes; it is used up then.
    fn next(&mut self, most: u64) -> Result<(GuestAddress, usize)> {
        while let Some((address, len)) = self.pieces.get(self.at.0) {
            let left = len - self.at.1;
            if left == 0 {
                self.at = (self.at.0 + 1, 0);
                continue;
            }
            let taken = u64::from(left).min(most) as u32;
            let start = address.0.checked_add(u64::from(self.at.1));
            let start = start.ok_or_else(|| Error::invalid("an address has no end"))?;
            self.at.1 += taken;
            return Ok((GuestAddress(start), taken as usize));
        }
        Err(Error::invalid("a request is shorter than its data"))
    }

    /// Copies the next `len` bytes out of the guest's memory. The caller has bounded `len`.
    pub(super) fn read(&mut self, guest: &Guest, len: u64) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(usize::try_from(len).map_err(|_| outside())?);
        while (out.len() as u64) < len {
            let (address, count) = self.next(len - out.len() as u64)?;
            guest.write_all_volatile_to(address, &mut out, count).map_err(|_| outside())?;
        }
        Ok(out)
    }

    /// Copies `data` into the next bytes of the guest's memory.
    pub(super) fn write(&mut self, guest: &Guest, data: &Segments) -> Result<()> {
        for segment in data.as_slice() {
            let mut done = 0;
            while done < segment.len() {
                let left = segment.len() - done;
                let (address, count) = match segment {
                    Segment::Zero(_) => self.next(left.min(ZEROES.len() as u64))?,
                    Segment::Data(_) => self.next(left)?,
                };
                let bytes = match segment {
                    Segment::Zero(_) => &ZEROES[..count],
                    Segment::Data(bytes) => &bytes[done as usize..][..count],
                };
                guest.write_slice(bytes, address).map_err(|_| outside())?;
                done += count as u64;
            }
        }
        Ok(())
    }
}

fn outside() -> Error {
    Error::invalid("a request names addresses outside of the guest's memory")
}
