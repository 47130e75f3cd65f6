//! Requests of the block device: read from a chain of descriptors, carried out, answered.

use super::Disk;
use super::layout::{ID_LEN, MAX_ZERO_SECTORS, SECTOR, Status, UNMAP, kind};
use super::memory::{Guest, Pieces};
use bytes::Bytes;
use sectora_core::io::{Segments, WriteFlags, ZeroFlags};
use sectora_core::{Error, Result};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes as _, GuestAddress};

/// So much of a request is in memory at a time.
const PIECE: u64 = 4 << 20;

/// A request's header: type, priority and first sector.
const HEADER: u64 = 16;

/// `struct virtio_blk_discard_write_zeroes`.
const RANGE: u64 = 16;

/// Descriptors of one request.
const MAX_DESCRIPTORS: usize = 1024;

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// The chain's first descriptor, by which it is given back.
    pub(super) head: u16,
    kind: u32,
    sector: u64,
    readable: Pieces,
    writable: Pieces,
    status: GuestAddress,
}

impl Request {
    /// Reads a chain.
    ///
    /// # Errors
    /// `InvalidInput` where the driver breaks the rules of virtio: the device is of no use to it then.
    pub(super) fn parse(chain: DescriptorChain<Guest>, guest: &Guest) -> Result<Self> {
        let head = chain.head_index();
        let wrong = |what: &str| Error::invalid(format!("the chain at descriptor {head} {what}"));
        let (mut readable, mut writable) = (Pieces::default(), Pieces::default());
        let (mut count, mut goes_on) = (0, true);
        for descriptor in chain {
            count += 1;
            if count > MAX_DESCRIPTORS {
                return Err(wrong("is too long"));
            }
            match descriptor.is_write_only() {
                true => writable.push(descriptor.addr(), descriptor.len()),
                false if writable.len() > 0 => {
                    return Err(wrong("has input before output"));
                }
                false => readable.push(descriptor.addr(), descriptor.len()),
            }
            goes_on = descriptor.has_next();
        }
        if goes_on {
            return Err(wrong("has no end, or names what is no descriptor"));
        }
        let Some(status) = writable.pop_byte() else {
            return Err(wrong("has no room for a status"));
        };
        if readable.len() < HEADER {
            return Err(wrong("has no header"));
        }
        let header = readable.read(guest, HEADER)?;
        let (mut four, mut eight) = ([0; 4], [0; 8]);
        four.copy_from_slice(&header[..4]);
        eight.copy_from_slice(&header[8..]);
        let (kind, sector) = (u32::from_le_bytes(four), u64::from_le_bytes(eight));
        Ok(Self { head, kind, sector, readable, writable, status })
    }

    /// Carries it out, and writes its status. Bytes that were written to the guest's memory.
    ///
    /// # Errors
    /// `InvalidInput` where the status itself cannot be written.
    pub(super) async fn run(mut self, disk: &Disk, guest: &Guest) -> Result<u32> {
        let room = self.writable.len();
        let done = match self.carry_out(disk, guest).await {
            Ok(status) => status,
            Err(_) => Status::IoErr,
        };
        let wrong = |_| Error::invalid("the status is outside of the guest's memory");
        guest.write_obj(done as u8, self.status).map_err(wrong)?;
        let written = room - self.writable.len() + 1;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    async fn carry_out(&mut self, disk: &Disk, guest: &Guest) -> Result<Status> {
        match self.kind {
            kind::IN => self.read(disk, guest).await,
            kind::OUT => self.write(disk, guest).await,
            kind::FLUSH => disk.device.flush().await.map(|()| Status::Ok),
            kind::GET_ID => {
                let mut id = [0; ID_LEN];
                let name = disk.id.as_bytes();
                let len = name.len().min(ID_LEN - 1);
                id[..len].copy_from_slice(&name[..len]);
                let len = self.writable.len().min(ID_LEN as u64);
                let mut data = Segments::new();
                data.push_data(Bytes::copy_from_slice(&id[..len as usize]));
                self.writable.write(guest, &data)?;
                Ok(Status::Ok)
            }
            kind::DISCARD | kind::WRITE_ZEROES => self.clear(disk, guest).await,
            _ => Ok(Status::Unsupported),
        }
    }

    /// The offset of `len` bytes, where they are whole blocks within the disk.
    fn range(&self, disk: &Disk, sector: u64, len: u64) -> Option<u64> {
        let block = u64::from(disk.options.block_size);
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(len)?;
        let fits = start.is_multiple_of(block) && len.is_multiple_of(block);
        (fits && end <= disk.device.len() / SECTOR * SECTOR).then_some(start)
    }

    async fn read(&mut self, disk: &Disk, guest: &Guest) -> Result<Status> {
        let len = self.writable.len();
        let Some(start) = self.range(disk, self.sector, len) else {
            return Ok(Status::IoErr);
        };
        let mut done = 0;
        while done < len {
            let count = (len - done).min(disk.piece(PIECE));
            let _room = disk.room(count).await;
            let data = disk.device.read(start + done, count).await?;
            self.writable.write(guest, &data)?;
            done += count;
        }
        Ok(Status::Ok)
    }

    async fn write(&mut self, disk: &Disk, guest: &Guest) -> Result<Status> {
        let len = self.readable.len();
        let Some(start) = self.range(disk, self.sector, len).filter(|_| disk.is_writable()) else {
            return Ok(Status::IoErr);
        };
        let flags = if disk.is_writethrough() { WriteFlags::FUA } else { WriteFlags::empty() };
        let mut done = 0;
        while done < len {
            let count = (len - done).min(disk.piece(PIECE));
            let _room = disk.room(count).await;
            let mut data = Segments::new();
            data.push_data(self.readable.read(guest, count)?.into());
            disk.device.write(start + done, data, flags).await?;
            done += count;
        }
        Ok(Status::Ok)
    }

    /// A discard or a zero write, of one range.
    async fn clear(&mut self, disk: &Disk, guest: &Guest) -> Result<Status> {
        let len = self.readable.len();
        if !disk.is_writable() {
            return Ok(Status::IoErr);
        }
        if len / RANGE > 1 {
            return Ok(Status::Unsupported);
        }
        if len != RANGE {
            return Ok(Status::IoErr);
        }
        let range = self.readable.read(guest, RANGE)?;
        let (mut sector, mut count, mut flags) = ([0; 8], [0; 4], [0; 4]);
        sector.copy_from_slice(&range[..8]);
        count.copy_from_slice(&range[8..12]);
        flags.copy_from_slice(&range[12..]);
        let (sector, count) = (u64::from_le_bytes(sector), u32::from_le_bytes(count));
        let flags = u32::from_le_bytes(flags);
        let discard = self.kind == kind::DISCARD;
        // To discard means to unmap already.
        if flags & !UNMAP != 0 || (discard && flags & UNMAP != 0) {
            return Ok(Status::Unsupported);
        }
        let len = u64::from(count) * SECTOR;
        let Some(start) = self.range(disk, sector, len).filter(|_| count <= MAX_ZERO_SECTORS)
        else {
            return Ok(Status::IoErr);
        };
        if len > 0 && discard {
            disk.device.discard(start, len).await?;
        } else if len > 0 {
            let mut how = ZeroFlags::empty();
            how.set(ZeroFlags::MAY_UNMAP, flags & UNMAP != 0);
            disk.device.write_zeroes(start, len, how).await?;
        }
        if disk.is_writethrough() {
            disk.device.flush().await?;
        }
        Ok(Status::Ok)
    }
}
