//! The files of an image: made, opened, and watched while something happens to them.

use super::clock::with_clock;
use super::points::Moment;
use super::steps::{State, Step};
use crate::codec::Compression;
use crate::crypto::luks;
use crate::format::qcow2::{
    CreateOptions, DataFileOptions, DiscardOptions, EncryptionMethod, EncryptionOptions, Version,
    create,
};
use crate::format::{BackingRef, Env, FormatName, Key, KeySource, Layer, OpenOptions, open};
use crate::io::testing::{CrashDevice, Rng, SimRuntime};
use crate::io::{
    Access, BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, Limits, MemoryDevice,
    OpenPolicy, Opened, Preallocation, Reference, Runtime, Segments, WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Length of the disk, where nothing else is said.
const SIZE: u64 = 64 << 10;

/// A kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Version 3, clusters of 512 to 4096 bytes.
    Plain,
    /// Clusters of 4096 bytes: the first has room for everything.
    Middle,
    /// Version 2.
    V2,
    /// Clusters of 64 KiB.
    Large,
    /// Extended L2 entries.
    Extended,
    /// Refcounts of one bit.
    Narrow,
    /// Refcounts of 64 bits.
    Wide,
    /// Zstd instead of deflate.
    Zstd,
    /// Over a raw file that is shorter than the disk.
    Backed,
    /// The same in version 2.
    BackedV2,
    /// The same with extended L2 entries.
    BackedExtended,
    /// Over an image of this format.
    Chain,
    /// Postponed refcounts.
    Lazy,
    /// Postponed refcounts, extended L2 entries.
    LazyExtended,
    /// Guest data in a file of its own.
    DataFile,
    /// The same, and that file is a raw image.
    RawDataFile,
    /// Postponed refcounts, over a raw file.
    LazyBacked,
    /// Postponed refcounts, over an image of this format.
    LazyChain,
    /// Encrypted.
    Luks,
    /// Encrypted the old way, sectors numbered by the guest.
    Aes,
    /// What is discarded keeps its place.
    NoUnref,
    /// The same with extended L2 entries.
    NoUnrefExtended,
    /// The same over a raw file.
    NoUnrefBacked,
    /// Guest data in a file of its own, where what is discarded keeps its place.
    NoUnrefDataFile,
    /// Whatever is freed is given up in the file below.
    Passing,
    /// Nothing is.
    NotPassing,
    /// So large that the refcount table is nearly full.
    Full,
    /// The same with postponed refcounts.
    LazyFull,
}

impl Kind {
    /// It takes a key to read it.
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Self::Luks | Self::Aes)
    }

    /// The file below is an image of this format.
    pub(crate) fn is_chain(self) -> bool {
        matches!(self, Self::Chain | Self::LazyChain)
    }

    /// What an image of this kind is opened with.
    fn discard(self) -> DiscardOptions {
        let base = DiscardOptions::default();
        let all = |pass| DiscardOptions {
            pass_request: Some(pass),
            pass_snapshot: Some(pass),
            pass_other: Some(pass),
            ..base
        };
        match self {
            Self::NoUnref | Self::NoUnrefExtended | Self::NoUnrefBacked | Self::NoUnrefDataFile => {
                DiscardOptions { no_unref: true, ..base }
            }
            Self::Passing => all(true),
            Self::NotPassing => all(false),
            _ => base,
        }
    }
}

/// The key of an encrypted image.
pub(crate) const FIRST_KEY: &str = "first";

/// Files, and how to open the image that is the first of them.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) cluster: u64,
    /// Bytes of the disk that one L1 entry leads to.
    l1_span: u64,
    pub(crate) start: State,
    pub(crate) runtime: Arc<dyn Runtime>,
    names: Vec<&'static str>,
    files: Vec<MemoryDevice>,
}

/// An operation that was made.
pub(crate) struct Made {
    pub(crate) moments: Vec<Moment>,
    /// What a crash may leave, by the step under way.
    pub(crate) allowed: Vec<Vec<State>>,
    steps: Vec<Step>,
}

impl Made {
    /// A step in words.
    pub(crate) fn told(&self, step: usize) -> String {
        match self.steps.get(step) {
            Some(what) => format!("during step {step}, {what:?}"),
            None => "after all steps".to_string(),
        }
    }
}

fn options(kind: Kind, rng: &mut Rng) -> CreateOptions {
    let cluster_size = *rng.pick(&[512, 512, 1024, 4096]);
    let base = CreateOptions { size: SIZE, cluster_size, ..CreateOptions::default() };
    let over = |name: &str, format: &str| {
        Some(BackingRef { name: name.into(), format: Some(format.into()) })
    };
    let extended = CreateOptions { extended_l2: true, cluster_size: 16 << 10, ..base.clone() };
    let data_file = |raw| Some(DataFileOptions { name: "data".into(), raw });
    match kind {
        Kind::Plain | Kind::NoUnref | Kind::Passing | Kind::NotPassing => base,
        Kind::Middle => CreateOptions { cluster_size: 4096, ..base },
        Kind::V2 => CreateOptions { version: Version::V2, ..base },
        Kind::Large => CreateOptions { cluster_size: 64 << 10, size: 2 * SIZE, ..base },
        Kind::Extended | Kind::NoUnrefExtended => extended,
        Kind::Narrow => CreateOptions { refcount_bits: 1, ..base },
        Kind::Wide => CreateOptions { refcount_bits: 64, ..base },
        Kind::Zstd => CreateOptions { compression_type: Compression::Zstd, ..base },
        Kind::Backed | Kind::NoUnrefBacked => {
            CreateOptions { backing: over("base", "raw"), ..base }
        }
        Kind::BackedV2 => {
            CreateOptions { backing: over("base", "raw"), version: Version::V2, ..base }
        }
        Kind::BackedExtended => CreateOptions { backing: over("base", "raw"), ..extended },
        Kind::Chain => CreateOptions { backing: over("base", "qcow2"), ..base },
        Kind::Lazy => CreateOptions { lazy_refcounts: true, ..base },
        Kind::LazyExtended => CreateOptions { lazy_refcounts: true, ..extended },
        Kind::LazyBacked => {
            CreateOptions { backing: over("base", "raw"), lazy_refcounts: true, ..base }
        }
        Kind::LazyChain => {
            CreateOptions { backing: over("base", "qcow2"), lazy_refcounts: true, ..base }
        }
        Kind::DataFile | Kind::NoUnrefDataFile => {
            CreateOptions { data_file: data_file(false), ..base }
        }
        Kind::RawDataFile => CreateOptions { data_file: data_file(true), ..base },
        Kind::Luks => {
            let luks = luks::CreateOptions { iter_time: 1, ..luks::CreateOptions::default() };
            let method = EncryptionMethod::Luks(luks);
            let encryption = Some(EncryptionOptions { method, secret: Some(FIRST_KEY.into()) });
            CreateOptions { encryption, cluster_size: 4096, ..base }
        }
        Kind::Aes => {
            let method = EncryptionMethod::Aes;
            let encryption = Some(EncryptionOptions { method, secret: Some(FIRST_KEY.into()) });
            CreateOptions { encryption, ..base }
        }
        Kind::Full | Kind::LazyFull => CreateOptions {
            size: 0x21_0000,
            cluster_size: 512,
            refcount_bits: 64,
            lazy_refcounts: kind == Kind::LazyFull,
            ..base
        },
    }
}

/// Bytes that tell their place, and compress.
pub(crate) fn bytes(tag: u8, at: u64, len: u64) -> Vec<u8> {
    (at..at + len).map(|at| tag.wrapping_mul(31).wrapping_add((at / 64) as u8) | 1).collect()
}

impl World {
    /// A new image of that kind.
    pub(crate) async fn new(runtime: &SimRuntime, kind: Kind, rng: &mut Rng) -> Self {
        let options = options(kind, rng);
        let mut names = alloc::vec!["image"];
        let mut disk = alloc::vec![0; options.size as usize];
        let mut files = alloc::vec![Arc::new(MemoryDevice::new(0))];
        let handle = with_clock(runtime);
        let mut add = |name, bytes: &[u8]| {
            names.push(name);
            files.push(Arc::new(MemoryDevice::with_data(bytes)));
            files[files.len() - 1].clone()
        };
        let mut data = None;
        if options.data_file.is_some() {
            data = Some(add("data", &[]) as Device);
        }
        if options.backing.is_some() {
            // As long as the disk where it takes back what the disk holds.
            let len = if kind.is_chain() { options.size } else { options.size - 0x3100 };
            let below = bytes(0x55, 0, len);
            disk[..below.len()].copy_from_slice(&below);
            if kind.is_chain() {
                let file: Device = add("base", &[]);
                let plain = CreateOptions { backing: None, ..options.clone() };
                create(&handle, &file, None, &plain).await.expect("possible options");
                let env = Env { runtime: handle.clone(), policy: Arc::new(Files::default()) };
                let how = OpenOptions {
                    format: Some(FormatName::Qcow2),
                    access: Access::ReadWrite,
                    ..OpenOptions::default()
                };
                let layer = open(&env, file, "base", how).await.expect("it opens");
                layer.write(0, below.into(), WriteFlags::empty()).await.expect("room");
                layer.close().await.expect("closed");
            } else {
                add("base", &below);
            }
            add("new", &bytes(0x66, 0, options.size - 0x1f00));
        }
        let image: Device = files[0].clone();
        create(&handle, &image, data.as_ref(), &options).await.expect("possible options");
        let backing = options.backing.as_ref().map(|backing| backing.name.clone());
        let encrypted = options.encryption.is_some();
        let start = State::new(disk, backing, encrypted.then_some(FIRST_KEY));
        let cluster = u64::from(options.cluster_size);
        let entry_len = if options.extended_l2 { 16 } else { 8 };
        Self {
            kind,
            cluster,
            l1_span: cluster / entry_len * cluster,
            start,
            runtime: handle,
            names,
            files: files.iter().map(|file| file.fork()).collect(),
        }
    }

    /// Which L1 entry is the first that no byte of a disk of that size needs.
    pub(crate) fn first_of_machine(&self, size: u64) -> u64 {
        size.div_ceil(self.l1_span)
    }

    /// What the files are called; the image is the first.
    pub(crate) fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Files in the order of the names, with their names.
    pub(crate) fn named(&self, files: Vec<MemoryDevice>) -> Vec<(&'static str, MemoryDevice)> {
        self.names.iter().copied().zip(files).collect()
    }

    /// Surroundings in which images find these files.
    pub(crate) fn env(&self, files: &Files) -> Env {
        Env { runtime: self.runtime.clone(), policy: Arc::new(files.clone()) }
    }

    /// Opens the image.
    pub(crate) async fn open(
        &self,
        files: &Files,
        access: Access,
        key: Option<&str>,
        snapshot: Option<&str>,
        check: bool,
    ) -> Result<Arc<Layer>> {
        let key = match key {
            Some(key) => KeySource::Given(Key::from(crate::crypto::Secret::from(key))),
            None => KeySource::Ignore,
        };
        let mut options = OpenOptions {
            format: Some(FormatName::Qcow2),
            access,
            key,
            snapshot: snapshot.map(ToString::to_string),
            check,
            ..OpenOptions::default()
        };
        options.qcow2.discard = self.kind.discard();
        let layer = open(&self.env(files), files.get("image")?, "image", options).await?;
        if !check {
            layer.driver().load_bitmaps().await?;
        }
        Ok(layer)
    }

    /// Makes the steps, and keeps each moment of the second ones. The files do what they are asked
    /// to, or (without `honest`) do nothing about flushes.
    ///
    /// # Errors
    /// What has failed; nothing should.
    pub(crate) async fn watch(
        &self,
        prepare: &[Step],
        steps: &[Step],
        honest: bool,
    ) -> Result<Made, String> {
        let plain = self.files.iter().map(|file| Arc::new(file.fork())).collect::<Vec<_>>();
        let devices = plain.iter().map(|file| file.clone() as Device);
        let files = Files(self.names.iter().copied().zip(devices).collect());
        let mut state = self.start.clone();
        self.tell(&files, &mut state, prepare, |_, _| ()).await?;

        let crashing: Vec<_> =
            plain.iter().map(|file| Arc::new(CrashDevice::new(file.fork()))).collect();
        let watch = Arc::new(Watch {
            files: crashing,
            honest,
            step: AtomicUsize::new(0),
            moments: crate::sync::Mutex::new(Vec::new()),
        });
        let devices =
            (0..plain.len()).map(|file| Arc::new(Watched { watch: watch.clone(), file }) as Device);
        let files = Files(self.names.iter().copied().zip(devices).collect());
        let mut allowed = Vec::new();
        self.tell(&files, &mut state, steps, |step, states| {
            watch.step.store(step, Ordering::Relaxed);
            allowed.push(states);
        })
        .await?;
        watch.step.store(steps.len(), Ordering::Relaxed);
        watch.keep();
        allowed.push(alloc::vec![state]);
        let moments = core::mem::take(&mut *watch.moments.lock());
        Ok(Made { moments, allowed, steps: steps.to_vec() })
    }

    /// Makes steps to the end, over files that do what they are asked to. Gives the state, and the
    /// files.
    ///
    /// # Errors
    /// What has failed; nothing should.
    pub(crate) async fn make(&self, steps: &[Step]) -> Result<(State, Vec<MemoryDevice>), String> {
        let plain: Vec<_> = self.files.iter().map(|file| Arc::new(file.fork())).collect();
        let devices = plain.iter().map(|file| file.clone() as Device);
        let files = Files(self.names.iter().copied().zip(devices).collect());
        let mut state = self.start.clone();
        self.tell(&files, &mut state, steps, |_, _| ()).await?;
        Ok((state, plain.iter().map(|file| file.fork()).collect()))
    }

    /// Makes steps; says before each which states it may be in while it is made.
    async fn tell(
        &self,
        files: &Files,
        state: &mut State,
        steps: &[Step],
        mut begin: impl FnMut(usize, Vec<State>),
    ) -> Result<(), String> {
        let mut layer = None;
        for (i, step) in steps.iter().enumerate() {
            begin(i, state.during(step, self));
            step.perform(self, files, state, &mut layer)
                .await
                .map_err(|e| format!("step {i}, {step:?}: {e:?}"))?;
            *state = state.after(step, self);
        }
        drop(layer);
        Ok(())
    }
}

/// Files by name. A name that begins with that of a backing file leads to it.
#[derive(Clone, Default)]
pub(crate) struct Files(pub(crate) Vec<(&'static str, Device)>);

impl Files {
    /// The file of that name.
    pub(crate) fn get(&self, name: &str) -> Result<Device> {
        let found = self.0.iter().find(|(own, _)| name.starts_with(own));
        found.map(|(_, device)| device.clone()).ok_or_else(|| {
            Error::new(crate::ErrorKind::NotFound, format!("there is no file '{name}'"))
        })
    }
}

impl OpenPolicy for Files {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let device = self.get(reference.name);
        let filename = reference.name.to_string();
        Box::pin(core::future::ready(device.map(|device| Opened { device, filename })))
    }
}

/// All files of an operation, and the moments so far.
#[derive(Debug)]
struct Watch {
    files: Vec<Arc<CrashDevice>>,
    honest: bool,
    step: AtomicUsize,
    moments: crate::sync::Mutex<Vec<Moment>>,
}

impl core::fmt::Debug for Moment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Moment of step {}", self.step)
    }
}

impl Watch {
    fn keep(&self) {
        let step = self.step.load(Ordering::Relaxed);
        let files = self.files.iter().map(|file| file.fork()).collect();
        self.moments.lock().push(Moment { step, files });
    }
}

/// One file of them: each change and flush is preceded by a moment.
#[derive(Debug)]
struct Watched {
    watch: Arc<Watch>,
    file: usize,
}

impl Watched {
    fn below(&self) -> &CrashDevice {
        &self.watch.files[self.file]
    }

    fn then<'a>(&'a self, call: BoxFuture<'a, Result<()>>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.watch.keep();
            call.await
        })
    }
}

impl BlockDevice for Watched {
    fn len(&self) -> u64 {
        self.below().len()
    }

    fn limits(&self) -> Limits {
        self.below().limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.below().capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.below().read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.then(self.below().write(offset, data, flags))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.then(self.below().write_zeroes(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.then(self.below().discard(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        match self.watch.honest {
            true => self.then(self.below().flush()),
            false => self.then(Box::pin(core::future::ready(Ok(())))),
        }
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.then(self.below().set_len(len, preallocation))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.below().extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.below().info()
    }
}
