//! Writing what an overlay holds into an image below it.

use super::Progress;
use super::rate::RateLimit;
use super::walk::Walker;
use crate::format::detect::{BACKING_FAILED, MAX_CHAIN, too_long};
use crate::format::{Backing, BackingRef, Described, Env, FormatName, Layer, OpenOptions, open};
use crate::io::{
    Access, BlockDevice, Device, Preallocation, Reference, ReferenceKind, Runtime, ZeroFlags,
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

/// Whether an image is the one to commit to: the name of the image above it, and the name that stands
/// there for it.
pub type IsBase<'a> = &'a (dyn Fn(&str, &str) -> bool + Send + Sync);

/// The layers of a chain from an image down to the one that its data is written into. Every file is
/// open once: the image and the base to be written, what lies between to be read.
#[derive(Debug)]
pub struct CommitChain {
    /// From the top, each without what lies below it.
    layers: Vec<Arc<Layer>>,
    base: Arc<Layer>,
}

impl CommitChain {
    /// Opens the image in `file` and the images below it down to the first that `is_base` accepts:
    /// it is given the name of the image above and the name that this one has of it. `None` where
    /// there is no such image.
    ///
    /// # Errors
    /// Those of opening each image, and `Denied` where one cannot be written to.
    pub async fn open(
        env: &Env,
        file: Device,
        filename: &str,
        format: Option<FormatName>,
        is_base: IsBase<'_>,
    ) -> Result<Option<Self>> {
        let options = OpenOptions {
            format,
            access: Access::ReadWrite,
            backing: Backing::Ignore,
            ..OpenOptions::default()
        };
        let top = open(env, file, filename, options).await?;
        Self::below(env, top, None, is_base).await
    }

    /// The same of an image that is open for writing, without what lies below it. `backing`: what it
    /// stands on, where the image itself is not to say that.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn below(
        env: &Env,
        top: Arc<Layer>,
        backing: Option<BackingRef>,
        is_base: IsBase<'_>,
    ) -> Result<Option<Self>> {
        let (mut layers, mut seen, mut given) = (Vec::from([top]), Vec::new(), backing);
        loop {
            let above = &layers[layers.len() - 1];
            let filename = above.filename().to_string();
            let named = match given.take() {
                Some(given) => Some(given),
                None => above.driver().describe().await?.backing,
            };
            let Some(backing) = named else { return Ok(None) };
            let found = is_base(&filename, &backing.name);
            seen.push(filename);
            // Each image of the chain says so of the one below it.
            let depth = layers.len();
            let failed = |e: Error| (0..depth).fold(e, |e, _| e.context(BACKING_FAILED));
            let layer = Self::next(env, backing, &seen, found).await.map_err(failed)?;
            if found {
                return Ok(Some(Self { layers, base: layer }));
            }
            layers.push(layer);
        }
    }

    /// The image that the last one of `seen` names: the base with all that is below it.
    async fn next(
        env: &Env,
        backing: BackingRef,
        seen: &[String],
        is_base: bool,
    ) -> Result<Arc<Layer>> {
        let referrer = seen.last().map_or("", String::as_str);
        let name = &backing.name;
        let (access, below) = match is_base {
            true => (Access::ReadWrite, Backing::Follow),
            false => (Access::ReadOnly, Backing::Ignore),
        };
        let options = OpenOptions {
            access,
            backing: below,
            by_options: Some(crate::graph::by_options()),
            ..OpenOptions::default()
        };
        if let Some(text) = name.strip_prefix("json:") {
            let (format, chain) = (backing.format.as_deref(), seen.to_vec());
            let described = Described { text, referrer, format, options, chain };
            return crate::graph::open_described(env, described).await;
        }
        let reference = Reference { kind: ReferenceKind::Backing, name, referrer, access };
        let opened = env.policy.open(reference).await?;
        if seen.contains(&opened.filename) {
            let what = format!("backing file '{}' creates an infinite loop", opened.filename);
            return Err(Error::corrupt(what));
        }
        if seen.len() >= MAX_CHAIN {
            return Err(too_long());
        }
        let format = backing.format.as_deref().map(FormatName::from_str).transpose()?;
        open(env, opened.device, &opened.filename, OpenOptions { format, ..options }).await
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
