//! Writing an image in one sequential pass, to a pipe or a stream.
//!
//! Two passes over the source: the first finds which clusters hold data, the second copies them.
//! The output is header, refcount table, refcount blocks, L1 table, and then for each L2 table the
//! table and its clusters. Memory: one bit for each cluster of L2 tables that are neither empty
//! nor full.

use super::create::{CreateOptions, Layout};
use super::header::Header;
use super::layout::COPIED;
use crate::io::{Device, DeviceExt, Segments, Sink};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use futures_util::future::join;

/// How to write the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// The image: no backing file, no data file, no preallocation.
    pub create: CreateOptions,
    /// Look for zeroes in the data, and leave clusters of them out.
    pub detect_zeroes: bool,
}

/// Reads and writes of the source and the stream have about this size.
const STEP: u64 = 1 << 20;

/// Which clusters of one L2 table hold data.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Used {
    None,
    All,
    Some(Box<[u64]>),
}

impl Used {
    fn new(bits: Vec<u64>, clusters: u64) -> Self {
        let count: u64 = bits.iter().map(|w| u64::from(w.count_ones())).sum();
        match count {
            0 => Self::None,
            n if n == clusters => Self::All,
            _ => Self::Some(bits.into_boxed_slice()),
        }
    }

    fn contains(&self, index: u64) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(bits) => bits[(index / 64) as usize] >> (index % 64) & 1 != 0,
        }
    }

    fn count(&self, clusters: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::All => clusters,
            Self::Some(bits) => bits.iter().map(|w| u64::from(w.count_ones())).sum(),
        }
    }
}

/// Writes the contents of `source` as a qcow2 image to `sink`. `progress` is told bytes of the
/// source done and in all, over both passes.
///
/// # Errors
/// `InvalidInput` for options a stream cannot have; those of the source and the sink. What was
/// written before an error is not a complete image: its refcounts promise clusters that it lacks.
pub async fn stream(
    source: &Device,
    options: &StreamOptions,
    sink: &mut dyn Sink,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<()> {
    let create = &options.create;
    create.check()?;
    if create.data_file.is_some() || create.preallocation != crate::io::Preallocation::Off {
        return Err(
            Error::invalid("a stream has no data file and no preallocation").in_format("qcow2")
        );
    }
    if create.encryption.is_some() {
        return Err(Error::unsupported("a stream that is encrypted").in_format("qcow2"));
    }
    if create.size < source.len() {
        return Err(Error::invalid("the image is smaller than its source").in_format("qcow2"));
    }
    let mut writer = Writer::new(source, options)?;
    writer.scan(progress).await?;
    writer.write_tables(sink).await?;
    writer.write_data(sink, progress).await
}

struct Writer<'a> {
    source: &'a Device,
    detect_zeroes: bool,
    header: Header,
    cluster: u64,
    /// Clusters that an L2 table describes.
    l2_entries: u64,
    /// By L1 index.
    used: Vec<Used>,
    layout: Layout,
}

impl<'a> Writer<'a> {
    fn new(source: &'a Device, options: &StreamOptions) -> Result<Self> {
        let header = options.create.header()?;
        let layout = Layout::with(&header, 0, 0);
        Ok(Self {
            source,
            detect_zeroes: options.detect_zeroes,
            cluster: 1 << header.cluster_bits,
            l2_entries: 1 << (header.cluster_bits - header.l2_entry_bits()),
            used: Vec::new(),
            layout,
            header,
        })
    }

    /// Guest bytes that an L2 table describes.
    fn span(&self) -> u64 {
        self.cluster * self.l2_entries
    }

    /// First pass: finds the clusters with data.
    async fn scan(&mut self, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<()> {
        let (len, span) = (self.source.len(), self.span());
        for index in 0..u64::from(self.header.l1_size) {
            let start = index * span;
            let end = len.min(start + span);
            let mut bits = alloc::vec![0u64; self.l2_entries.div_ceil(64) as usize];
            let mut at = start;
            while at < end {
                for extent in self.source.extents(at, end - at).await? {
                    at = extent.end();
                    if !extent.is_zero() {
                        self.mark(&mut bits, start, extent.start, extent.end()).await?;
                    }
                }
                progress(at, 2 * len);
            }
            self.used.push(Used::new(bits, self.l2_entries));
        }
        Ok(())
    }

    async fn mark(&self, bits: &mut [u64], base: u64, start: u64, end: u64) -> Result<()> {
        let step = STEP.max(self.cluster);
        let mut at = start;
        while at < end {
            let stop = end.min(at - at % step + step);
            let data = match self.detect_zeroes {
                true => {
                    Some(self.source.read(at, stop - at).await?.sparsify(at, self.cluster as usize))
                }
                false => None,
            };
            while at < stop {
                let next = stop.min(at - at % self.cluster + self.cluster);
                let zero = data
                    .as_ref()
                    .is_some_and(|d| d.slice(d.len() - (stop - at), next - at).is_zero());
                if !zero {
                    let i = (at - base) / self.cluster;
                    bits[(i / 64) as usize] |= 1 << (i % 64);
                }
                at = next;
            }
        }
        Ok(())
    }

    /// Header, refcounts and L1 table.
    async fn write_tables(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let bits = self.header.cluster_bits;
        let l1_clusters = (u64::from(self.header.l1_size) * 8).div_ceil(self.cluster);
        let counts: Vec<u64> = self.used.iter().map(|u| u.count(self.l2_entries)).collect();
        let below: u64 = counts.iter().map(|n| n + u64::from(*n > 0)).sum();
        self.layout = Layout::with(&self.header, 1 + l1_clusters + below, l1_clusters);
        let layout = &self.layout;
        self.header.reftable_offset = layout.reftable << bits;
        self.header.reftable_clusters = u32::try_from(layout.reftable_clusters)
            .map_err(|_| Error::limit("refcount table size").in_format("qcow2"))?;
        self.header.l1_offset = layout.l1 << bits;

        let mut cluster = Segments::from(self.header.emit()?);
        cluster.push_zero(self.cluster - cluster.len());
        sink.write(cluster).await?;
        sink.write(layout.reftable_bytes(&self.header).into()).await?;
        for i in 0..layout.refblock_count {
            sink.write(layout.refblock_bytes(&self.header, i).into()).await?;
        }
        let mut next = layout.l1 + l1_clusters;
        let mut l1 = Vec::new();
        for count in counts {
            let entry = if count == 0 { 0 } else { next << bits | COPIED };
            l1.extend_from_slice(&entry.to_be_bytes());
            next += count + u64::from(count > 0);
        }
        let mut table = Segments::from(l1);
        table.push_zero((l1_clusters << bits) - table.len());
        sink.write(table).await
    }

    /// Second pass: L2 tables, each with its clusters behind it.
    async fn write_data(
        &self,
        sink: &mut dyn Sink,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let len = self.source.len();
        let l1_clusters = (u64::from(self.header.l1_size) * 8).div_ceil(self.cluster);
        let mut next = self.layout.l1 + l1_clusters;
        for (index, used) in self.used.iter().enumerate() {
            let count = used.count(self.l2_entries);
            let start = index as u64 * self.span();
            if count > 0 {
                sink.write(self.l2_table(used, next + 1).into()).await?;
                self.copy(sink, used, start, progress).await?;
                next += count + 1;
            }
            progress(len + len.min(start + self.span()), 2 * len);
        }
        Ok(())
    }

    fn l2_table(&self, used: &Used, first: u64) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.cluster as usize);
        let mut next = first;
        for i in 0..self.l2_entries {
            let data = used.contains(i);
            let entry = if data { next << self.header.cluster_bits | COPIED } else { 0 };
            table.extend_from_slice(&entry.to_be_bytes());
            if self.header.l2_entry_bits() == 4 {
                let bitmap = if data { u64::from(u32::MAX) } else { 0 };
                table.extend_from_slice(&bitmap.to_be_bytes());
            }
            next += u64::from(data);
        }
        table
    }

    async fn copy(
        &self,
        sink: &mut dyn Sink,
        used: &Used,
        base: u64,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let read = |run: &Range<u64>| {
            let (start, len) = (base + run.start * self.cluster, run.end - run.start);
            // The last cluster may reach past the end of the source.
            self.source.read_padded(start, len * self.cluster)
        };
        let Some(mut run) = self.run(used, 0) else { return Ok(()) };
        let mut data = read(&run).await?;
        loop {
            let next = self.run(used, run.end);
            // The next clusters are read while these are written.
            let ahead = async {
                match &next {
                    Some(next) => read(next).await.map(Some),
                    None => Ok(None),
                }
            };
            let (written, ahead) = join(sink.write(data), ahead).await;
            written?;
            let done = self.source.len() + base + run.end * self.cluster;
            progress(done, 2 * self.source.len());
            match (next, ahead?) {
                (Some(next), Some(ahead)) => (run, data) = (next, ahead),
                _ => return Ok(()),
            }
        }
    }

    /// The first clusters from the one at `from` on that are used side by side, so many as one
    /// write takes.
    fn run(&self, used: &Used, from: u64) -> Option<Range<u64>> {
        let most = (STEP / self.cluster).max(1);
        let start = (from..self.l2_entries).find(|i| used.contains(*i))?;
        let limit = self.l2_entries.min(start + most);
        let end = (start..limit).find(|i| !used.contains(*i)).unwrap_or(limit);
        Some(start..end)
    }
}
