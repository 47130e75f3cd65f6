//! Writing what an overlay holds into an image below it.

use super::Progress;
use super::rate::RateLimit;
use super::walk::Walker;
use crate::format::detect::{BACKING_FAILED, MAX_CHAIN, too_long};
use crate::format::{Backing, BackingRef, Env, FormatName, Layer, OpenOptions, open};
use crate::io::{
    Access, BlockDevice, Device, Preallocation, Reference, ReferenceKind, Runtime, ZeroFlags,
    combine_path,
};
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

/// So much is copied at a time.
const STEP: u64 = 1 << 20;

/// How to commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Leave the image as it is when its data has been written.
    pub keep: bool,
    /// Bytes a second; 0: as fast as possible.
    pub rate: u64,
}

/// The layers of a chain from an image down to the one that its data is written into. Every file is
/// open once: the image and the base to be written, what lies between to be read.
#[derive(Debug)]
pub struct CommitChain {
    /// From the top, each without what lies below it.
    layers: Vec<Arc<Layer>>,
    base: Arc<Layer>,
}

impl CommitChain {
    /// Opens the image in `file` and the images below it down to the first whose full name
    /// `is_base` accepts. `None` where there is no such image.
    ///
    /// # Errors
    /// Those of opening each image, and `Denied` where one cannot be written to.
    pub async fn open(
        env: &Env,
        file: Device,
        filename: &str,
        format: Option<FormatName>,
        is_base: &(dyn Fn(&str) -> bool + Send + Sync),
    ) -> Result<Option<Self>> {
        let (mut file, mut filename, mut format) = (file, filename.to_string(), format);
        let mut access = Access::ReadWrite;
        let (mut layers, mut seen): (Vec<Arc<Layer>>, Vec<String>) = (Vec::new(), Vec::new());
        loop {
            let options =
                OpenOptions { format, access, backing: Backing::Ignore, ..OpenOptions::default() };
            let above = layers.len();
            let layer = open(env, file, &filename, options).await;
            let layer = layer.map_err(|e| (0..above).fold(e, |e, _| e.context(BACKING_FAILED)))?;
            let backing = layer.driver().describe().await?.backing;
            layers.push(layer);
            let Some(BackingRef { name, format: named }) = backing else { return Ok(None) };
            let found = is_base(&combine_path(&filename, &name));
            access = if found { Access::ReadWrite } else { Access::ReadOnly };
            let kind = ReferenceKind::Backing;
            let reference = Reference { kind, name: &name, referrer: &filename, access };
            // Each image of the chain says so of the one below it.
            let depth = layers.len();
            let failed = |e: Error| (0..depth).fold(e, |e, _| e.context(BACKING_FAILED));
            let opened = env.policy.open(reference).await.map_err(failed)?;
            seen.push(filename);
            if seen.contains(&opened.filename) {
                let what = format!("backing file '{}' creates an infinite loop", opened.filename);
                return Err(Error::corrupt(what));
            }
            if seen.len() >= MAX_CHAIN {
                return Err(too_long());
            }
            format = named.as_deref().map(FormatName::from_str).transpose()?;
            if found {
                let options = OpenOptions { format, access, ..OpenOptions::default() };
                let base = open(env, opened.device, &opened.filename, options).await;
                let base = base.map_err(failed)?;
                return Ok(Some(Self { layers, base }));
            }
            (file, filename) = (opened.device, opened.filename);
        }
    }

    /// The image whose data is written.
    #[must_use]
    pub fn top(&self) -> &Arc<Layer> {
        &self.layers[0]
    }

    /// The image it is written into.
    #[must_use]
    pub fn base(&self) -> &Arc<Layer> {
        &self.base
    }
}

/// What is to be done with a part of the disk.
enum Source {
    /// Nothing: the base has it.
    Base,
    /// The base must read as zeroes.
    Zero,
    /// The base gets what this layer has.
    Layer(usize),
}

/// Finds out, part by part.
struct Parts<'a> {
    chain: &'a CommitChain,
    walkers: Vec<Walker>,
    /// The length of the base before.
    base_len: u64,
}

impl Parts<'_> {
    /// What is to be done from `at` on, and how far.
    async fn at(&mut self, at: u64) -> Result<(Source, u64)> {
        let mut end = self.chain.top().len();
        for (i, layer) in self.chain.layers.iter().enumerate() {
            if at >= layer.len() {
                // Too short for the one above it: that reads zeroes, whatever lies below.
                return Ok((Source::Zero, end));
            }
            let extent = self.walkers[i].at(at).await?;
            end = end.min(extent.end()).min(layer.len());
            if extent.is_allocated() {
                let source = if extent.is_zero() { Source::Zero } else { Source::Layer(i) };
                return Ok((source, end));
            }
        }
        match at < self.base_len {
            true => Ok((Source::Base, end.min(self.base_len))),
            false => Ok((Source::Zero, end)),
        }
    }
}

/// Writes what the layers above the base hold into the base, and empties the top one.
///
/// A base that is shorter than the image grows first. The data is durable in the base before the
/// first cluster of the image is given up: interrupted at any moment, the chain reads as before.
/// Images between the two stay as they are; what stands on them reads otherwise from then on.
///
/// # Errors
/// `Unsupported` where the image cannot be emptied or the base cannot grow, before anything is
/// written; those of the devices.
pub async fn commit(
    runtime: &Arc<dyn Runtime>,
    chain: &CommitChain,
    options: CommitOptions,
    progress: Progress<'_>,
) -> Result<()> {
    let (top, base) = (chain.top(), &chain.base);
    let (size, base_len) = (top.len(), base.len());
    if base_len < size {
        if base.backing().is_some_and(|below| below.len() > base_len) {
            // Grown, it would show what its own backing file has there, until that is covered.
            return Err(Error::unsupported(format!(
                "'{}' is shorter than '{}' and than its own backing file; resize it first",
                base.filename(),
                top.filename()
            )));
        }
        base.set_len(size, Preallocation::Off).await?;
    }
    let limit = RateLimit::new(runtime, options.rate);
    let walkers = chain.layers.iter().map(|layer| Walker::new(layer.clone())).collect();
    let mut parts = Parts { chain, walkers, base_len };
    let mut target = Walker::new(base.clone());
    let mut at = 0;
    while at < size {
        progress(at, size);
        let (source, end) = parts.at(at).await?;
        at = match source {
            Source::Base => end,
            Source::Zero => {
                let there = target.at(at).await?;
                let end = end.min(there.end());
                if !there.is_zero() {
                    base.write_zeroes(at, end - at, ZeroFlags::MAY_UNMAP).await?;
                }
                end
            }
            Source::Layer(i) => {
                let end = end.min(at - at % STEP + STEP);
                let data = chain.layers[i].read(at, end - at).await?;
                base.write(at, data, crate::io::WriteFlags::empty()).await?;
                limit.pass(end - at).await;
                end
            }
        };
    }
    base.close().await?;
    if !options.keep {
        top.driver().make_empty().await?;
    }
    top.close().await?;
    progress(size, size);
    Ok(())
}
