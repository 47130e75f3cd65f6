//! The built-in disk: something to see without a file of one's own.
//!
//! A small FAT disk is made in memory, converted into a compressed qcow2 image in a temporary
//! folder, described, and taken away again.

use super::args::{Cache, HostArgs};
use super::check;
use super::create::NewTarget;
use super::failure::{Failure, Outcome};
use super::host::{Host, Opening, Threads, block_on};
use super::info;
use super::output::{human_size, print};
use crate::runtime::fill_random;
use crate::storage::FileLayout;
use sectora_core::format::{FormatName, OpenOptions, Repair, open};
use sectora_core::image::{self, ConvertOptions, Mapper, NewImage, no_progress};
use sectora_core::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Makes the disk, shows it, and says what to try next.
pub(super) fn run() -> Outcome {
    block_on(Threads::PerCore, |runtime| async move {
        let host = Host::new(runtime, &HostArgs::default(), false);
        let folder = Folder::new()?;
        let name = folder.0.join("sample.qcow2");
        let name = name.to_str().ok_or_else(|| Failure::new("the temporary folder has no name"))?;
        let disk: Device = Arc::new(disk().await?);
        convert(&host, &disk, name).await?;
        print(&show(&host, &disk, name).await?.replace(name, "sample.qcow2"))?;
        Ok(0)
    })
}

/// A folder that goes away with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let mut salt = [0; 8];
        fill_random(&mut salt);
        let name = format!("sectora-sample-{:016x}", u64::from_ne_bytes(salt));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|e| {
            Failure::new(format!("cannot make the folder '{}': {e}", path.display()))
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the folder for temporary files is not worth a word.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn convert(host: &Host, disk: &Device, name: &str) -> Result<(), Failure> {
    let image = NewImage::with_defaults(FormatName::Qcow2, disk.len())
        .ok_or_else(|| Failure::unsupported("qcow2 in this build"))?;
    let new = NewTarget::new(host, name, image, &FileLayout::default(), Cache::default())?;
    new.create(host).await?;
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        ..OpenOptions::default()
    };
    let target = open(&host.env(Cache::default()), new.file(), name, options).await?;
    let options = ConvertOptions { compress: true, ..ConvertOptions::default() };
    let device: Device = target.clone();
    image::convert(&host.runtime, disk, &device, options, &no_progress).await?;
    target.close().await?;
    new.commit().await
}

async fn show(host: &Host, disk: &Device, name: &str) -> Result<String, Failure> {
    let image = host.open(name, Opening::to_read(None, Cache::default())).await?;
    let mut text = format!(
        "sectora {}: look into disk images, check, create and convert them.\n\n\
         A FAT disk of {} was made in memory and converted into a compressed qcow2 image:\n\n\
         $ sectora img convert -c -O qcow2 sample.raw sample.qcow2\n\n\
         $ sectora img info sample.qcow2\n",
        env!("CARGO_PKG_VERSION"),
        human_size(disk.len()),
    );
    text.push_str(&info::human(&image::info(&image).await?));
    text.push_str("\n$ sectora img map --output=json sample.qcow2   (in short)\n");
    let device: Device = image.clone();
    text.push_str(&picture(&device).await?);
    text.push_str("\n$ sectora img check sample.qcow2\n");
    if let Some(result) = image::check(&image, Repair::Nothing, &no_progress).await? {
        text.push_str(&check::human(&result.summary));
    }
    text.push_str(
        "\nNow with a disk of your own:\n  \
           sectora img info DISK                          what it is\n  \
           sectora img check DISK                         whether it is damaged\n  \
           sectora img convert -p -c -O qcow2 DISK NEW    a compressed copy, with progress\n  \
           sectora img convert -O raw DISK NEW            a plain copy\n  \
           sectora img create -f qcow2 NEW 10G            an empty disk\n  \
           sectora img --help                             everything else\n",
    );
    Ok(text)
}

/// The allocation of an image as a line of letters, each for an equal part.
async fn picture(image: &Device) -> Result<String, Failure> {
    const WIDTH: u64 = 64;
    let part = image.len().div_ceil(WIDTH).max(1);
    let mut letters = vec!['.'; WIDTH as usize];
    let (mut data, mut extents) = (0, 0);
    let mut mapper = Mapper::new(image.clone(), 0, image.len());
    while let Some(extent) = mapper.next_extent().await? {
        if extent.is_data() && !extent.is_zero() {
            data += extent.len;
            extents += 1;
            for index in extent.start / part..=(extent.end() - 1) / part {
                if let Some(letter) = usize::try_from(index).ok().and_then(|i| letters.get_mut(i)) {
                    *letter = '#';
                }
            }
        }
    }
    let line: String = letters.into_iter().collect();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "[{line}]  # data  . zeroes\n{} of data in {extents} runs; each letter is {}",
        human_size(data),
        human_size(part)
    );
    Ok(text)
}

/// The shape of the FAT16 file system on the disk.
mod fat {
    pub(super) const SECTOR: usize = 512;
    pub(super) const SECTORS: u32 = 65536;
    pub(super) const SECTORS_PER_CLUSTER: usize = 4;
    pub(super) const CLUSTER: usize = SECTOR * SECTORS_PER_CLUSTER;
    pub(super) const FAT_SECTORS: usize = 64;
    pub(super) const ROOT_ENTRIES: usize = 512;
    pub(super) const FIRST_FAT: usize = 1;
    pub(super) const ROOT: usize = FIRST_FAT + 2 * FAT_SECTORS;
    pub(super) const DATA: usize = ROOT + ROOT_ENTRIES * 32 / SECTOR;
    /// Numbers of clusters begin here.
    pub(super) const FIRST_CLUSTER: usize = 2;
    pub(super) const END: u16 = 0xffff;
}

/// A FAT16 disk with a few files.
async fn disk() -> Result<MemoryDevice, Failure> {
    let mut table: Vec<u16> = vec![0xfff8, fat::END];
    let mut root = directory_entry(b"SECTORA    ", 0x08, 0, 0);
    let device = MemoryDevice::new(u64::from(fat::SECTORS) * fat::SECTOR as u64);
    let write = async |sector: usize, bytes: Vec<u8>| {
        let offset = (sector * fat::SECTOR) as u64;
        device.write(offset, bytes.into(), WriteFlags::empty()).await
    };
    for (name, contents) in files() {
        // Some room between the files, as on a disk in use.
        table.resize(table.len() + 700, 0);
        let first = table.len();
        let clusters = contents.len().div_ceil(fat::CLUSTER);
        table.extend((1..clusters).map(|i| u16::try_from(first + i).unwrap_or(fat::END)));
        table.push(fat::END);
        root.extend(directory_entry(name, 0x20, first, contents.len()));
        let sector = fat::DATA + (first - fat::FIRST_CLUSTER) * fat::SECTORS_PER_CLUSTER;
        write(sector, contents).await?;
    }
    let table: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(0, boot_sector()).await?;
    write(fat::FIRST_FAT, table.clone()).await?;
    write(fat::FIRST_FAT + fat::FAT_SECTORS, table).await?;
    write(fat::ROOT, root).await?;
    Ok(device)
}

/// Names as a directory has them, and contents: words, numbers, and noise that does not compress.
fn files() -> [(&'static [u8; 11], Vec<u8>); 3] {
    let welcome = "This disk was made by sectora to show what it does.\r\n".into();
    let numbers: String = (0..100_000_u32).map(|n| format!("{n}\r\n")).collect();
    let mut state = 0x9e37_79b9_u32;
    let noise = (0..200_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect();
    [(b"WELCOME TXT", welcome), (b"NUMBERS TXT", numbers.into()), (b"NOISE   BIN", noise)]
}

fn directory_entry(name: &[u8; 11], attributes: u8, cluster: usize, len: usize) -> Vec<u8> {
    // 2026-01-01, as FAT counts.
    const DATE: u16 = (2026 - 1980) << 9 | 1 << 5 | 1;
    let mut entry = Vec::from(*name);
    entry.push(attributes);
    entry.resize(24, 0);
    entry.extend(DATE.to_le_bytes());
    entry.extend(u16::try_from(cluster).unwrap_or(0).to_le_bytes());
    entry.extend(u32::try_from(len).unwrap_or(0).to_le_bytes());
    entry
}

fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0; fat::SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"SECTORA ");
    put(11, &(fat::SECTOR as u16).to_le_bytes());
    put(13, &[fat::SECTORS_PER_CLUSTER as u8]);
    put(14, &(fat::FIRST_FAT as u16).to_le_bytes());
    put(16, &[2]);
    put(17, &(fat::ROOT_ENTRIES as u16).to_le_bytes());
    put(21, &[0xf8]);
    put(22, &(fat::FAT_SECTORS as u16).to_le_bytes());
    put(24, &[32, 0, 64, 0]);
    put(32, &fat::SECTORS.to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, &[0x5e, 0xc7, 0x04, 0xa0]);
    put(43, b"SECTORA    ");
    put(54, b"FAT16   ");
    put(510, &[0x55, 0xaa]);
    sector
}
