//! Nodes: a name, what answers requests, and what is told of them.

use super::edge::{Edge, User};
use super::filters::{self, Filter};
use super::name::{filter_name, name_of, named_below};
use super::open::{Inherited, take_detect_zeroes, take_discard, unmap_without_discard};
use super::options::Options;
use super::permission::Claim;
use super::root::Root;
use crate::bitmap::BitmapSet;
use crate::format::{DetectZeroes, Layer};
use crate::io::{Access, Device, Preallocation, Segments, WriteFlags, ZeroFlags};
use crate::monitor::Events;
use crate::sync::{Mutex, RwLock};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Locks outside of this program that follow a node's permissions: those of a file.
pub trait Locks: Send + Sync + fmt::Debug {
    /// Takes what `claim` says and lets go of the rest. On an error the old claim stands.
    ///
    /// # Errors
    /// `InUse` where another program is in the way.
    fn set(&self, claim: Claim) -> Result<()>;
}

/// What answers a node's requests.
#[derive(Clone, Debug)]
pub struct Body {
    /// The device.
    pub device: Device,
    /// The same as an opened image, where the driver is a format.
    pub image: Option<Arc<Layer>>,
    /// Where its permissions are to be seen from outside of this program.
    pub locks: Option<Arc<dyn Locks>>,
    /// The same as a filter, where it does more than answer requests.
    pub filter: Option<Filter>,
}

/// The options that every node has, as they are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Somebody may write to it and rely on it; while it is not, another program does
    /// (`blockdev-set-active`).
    pub active: bool,
    /// Nothing is written.
    pub read_only: bool,
    /// Opened read only where writing is not possible, or not needed (`auto-read-only`).
    pub auto_read_only: bool,
    /// Whether discards are carried out (`discard`: `unmap`) or ignored.
    pub discard: bool,
    /// What is done with written bytes that are zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Around the host's cache (`cache.direct`).
    pub direct: bool,
    /// Nothing is made durable (`cache.no-flush`).
    pub no_flush: bool,
    /// Others may write meanwhile (`force-share`).
    pub force_share: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            active: true,
            read_only: false,
            auto_read_only: false,
            discard: false,
            detect_zeroes: DetectZeroes::Off,
            direct: false,
            no_flush: false,
            force_share: false,
        }
    }
}

impl Settings {
    /// Takes these options; what is not said is as in `old`.
    pub(super) fn take(options: &mut Options, old: Self) -> Result<Self> {
        let discard = take_discard(options)?;
        let detect_zeroes = take_detect_zeroes(options, Some(true))?;
        Ok(Self {
            // What is below an inactive node is so too.
            active: options.take_flag("active")?.unwrap_or(true) && old.active,
            read_only: options.take_flag("read-only")?.unwrap_or(old.read_only),
            auto_read_only: options.take_flag("auto-read-only")?.unwrap_or(old.auto_read_only),
            discard: discard.unwrap_or(old.discard),
            detect_zeroes: detect_zeroes.unwrap_or(old.detect_zeroes),
            direct: options.take_flag("cache.direct")?.unwrap_or(old.direct),
            no_flush: options.take_flag("cache.no-flush")?.unwrap_or(old.no_flush),
            force_share: options.take_flag("force-share")?.unwrap_or(old.force_share),
        })
    }

    /// What a child of that name gets of them where nothing else is said of it.
    pub(super) fn of_child(self, name: &str) -> Self {
        let is_backing = name == "backing";
        Self {
            read_only: is_backing || self.read_only,
            auto_read_only: !is_backing && self.auto_read_only,
            discard: !is_backing,
            detect_zeroes: DetectZeroes::Off,
            ..self
        }
    }

    /// Refuses what makes no sense together.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn check(&self) -> Result<()> {
        if self.force_share && !self.read_only {
            let what = "force-share=on can only be used with read-only images";
            return Err(Error::invalid(what));
        }
        self.check_zeroes()
    }

    /// The part of [`check`](Self::check) that is about zeroes.
    pub(super) fn check_zeroes(&self) -> Result<()> {
        match self.detect_zeroes {
            DetectZeroes::Unmap if !self.discard => Err(unmap_without_discard()),
            _ => Ok(()),
        }
    }

    /// How an image is opened: of one that is not active nothing is written.
    pub(super) fn access_to_image(self) -> Access {
        if self.read_only || !self.active { Access::ReadOnly } else { Access::ReadWrite }
    }

    /// What the host is told of them.
    pub(super) fn inherited(self) -> Inherited {
        Inherited {
            access: if self.read_only { Access::ReadOnly } else { Access::ReadWrite },
            direct: self.direct,
            no_flush: self.no_flush,
            force_share: self.force_share,
        }
    }
}

/// A node of the graph.
pub struct Node {
    name: String,
    /// Its place among all nodes.
    order: u64,
    driver: String,
    filename: RwLock<String>,
    options: Mutex<Options>,
    settings: RwLock<Settings>,
    body: RwLock<Body>,
    children: RwLock<Vec<Arc<Edge>>>,
    /// The newest first.
    parents: Mutex<Vec<Weak<Edge>>>,
    /// How often an edge of its was pointed to another node.
    pointed: AtomicU32,
    /// Somebody added it by name, and has to remove it.
    owned: AtomicBool,
    /// What keeps it besides its owner and its users.
    held: AtomicU32,
    /// The node that it was opened with, and follows when that is opened again.
    opened_with: Mutex<Weak<Node>>,
    /// Why it could be opened for reading only, where it was asked for writing where possible
    /// (`auto-read-only`).
    only_read: Mutex<Option<String>>,
    /// Of a node that is no image; an image has its own.
    bitmaps: Arc<BitmapSet>,
    locked: Mutex<Claim>,
    counts: Mutex<Counts>,
    events: Arc<Events>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("driver", &self.driver).finish()
    }
}

/// What is counted of a node's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The end of the write that reached farthest, in bytes.
    pub highest_offset: u64,
    /// A write that ends past this offset is told of, once; 0 is none.
    pub threshold: u64,
    /// Discards that were carried out.
    pub discards: u64,
    /// Discards that failed.
    pub failed_discards: u64,
    /// Bytes of the discards that were carried out.
    pub discarded: u64,
}

/// What a node is made of.
pub(super) struct NewNode {
    pub(super) name: String,
    pub(super) order: u64,
    pub(super) driver: String,
    pub(super) filename: String,
    pub(super) options: Options,
    pub(super) settings: Settings,
    pub(super) body: Body,
    pub(super) children: Vec<Arc<Edge>>,
    pub(super) events: Arc<Events>,
}

impl Node {
    pub(super) fn new(new: NewNode) -> Arc<Self> {
        let node = Arc::new(Self {
            name: new.name,
            order: new.order,
            driver: new.driver,
            filename: RwLock::new(new.filename),
            options: Mutex::new(new.options),
            settings: RwLock::new(new.settings),
            body: RwLock::new(new.body),
            children: RwLock::new(new.children),
            parents: Mutex::default(),
            pointed: AtomicU32::new(0),
            owned: AtomicBool::new(false),
            held: AtomicU32::new(0),
            opened_with: Mutex::default(),
            only_read: Mutex::default(),
            bitmaps: Arc::default(),
            locked: Mutex::new(Claim::NONE),
            counts: Mutex::default(),
            events: new.events,
        });
        node.children.read().iter().for_each(|edge| edge.belongs_to(&node));
        node
    }

    /// Its place among all nodes: a node that came later has a larger one.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// Its name, unique in the graph.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema's name of its driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The name of what it was opened from; one with `json:` in front where that alone does not say
    /// it.
    #[must_use]
    pub fn filename(&self) -> String {
        self.filename.read().clone()
    }

    /// The options it was opened by.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options.lock().clone()
    }

    /// The options that every node has, as they are in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.settings.read()
    }

    /// What answers its requests.
    #[must_use]
    pub fn body(&self) -> Body {
        self.body.read().clone()
    }

    /// The device that answers its requests.
    #[must_use]
    pub fn device(&self) -> Device {
        self.body.read().device.clone()
    }

    /// The image, where its driver is a format.
    #[must_use]
    pub fn image(&self) -> Option<Arc<Layer>> {
        self.body.read().image.clone()
    }

    /// What it uses, in the order in which it was opened.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Edge>> {
        self.children.read().clone()
    }

    /// The same in the order in which they became its children, the newest last.
    #[must_use]
    pub fn children_by_age(&self) -> Vec<Arc<Edge>> {
        let mut children = self.children();
        children.sort_by_key(|edge| edge.pointed());
        children
    }

    /// Numbers a time at which an edge of its is pointed to another node.
    pub(super) fn count_pointed(&self) -> u32 {
        self.pointed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What it shows where it has nothing of its own: the image below, or what a filter filters.
    #[must_use]
    pub fn below(&self) -> Option<Arc<Self>> {
        match filters::filtered(&self.driver) {
            Some(name) => self.child(name),
            None => self.child("backing"),
        }
    }

    /// What its bytes come from.
    #[must_use]
    pub fn primary(&self) -> Option<Arc<Self>> {
        match filters::filtered(&self.driver) {
            Some(name) => self.child(name),
            None => self.child("data-file").or_else(|| self.child("file")),
        }
    }

    /// The node that it uses under that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Arc<Node>> {
        self.children.read().iter().find(|edge| edge.name() == name)?.target()
    }

    /// Those who use it, the newest first.
    pub(super) fn parents(&self) -> Vec<Arc<Edge>> {
        self.parents.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The named bitmaps of its contents.
    #[must_use]
    pub fn bitmaps(&self) -> Arc<BitmapSet> {
        match &self.body.read().image {
            Some(image) => image.bitmaps().clone(),
            None => self.bitmaps.clone(),
        }
    }

    /// Keeps it from being removed until the answer is dropped, without using it.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        self.held.fetch_add(1, Ordering::AcqRel);
        Held(self.clone())
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// True where somebody added it by name.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }

    pub(super) fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Release);
    }

    /// True where it was opened with `user`, as its options or its image described it.
    pub(super) fn was_opened_with(&self, user: &Arc<Self>) -> bool {
        self.opened_with.lock().ptr_eq(&Arc::downgrade(user))
    }

    /// The node that it was opened with.
    pub(super) fn opened_with(&self) -> Option<Arc<Self>> {
        self.opened_with.lock().upgrade()
    }

    pub(super) fn set_opened_with(&self, user: &Arc<Self>) {
        *self.opened_with.lock() = Arc::downgrade(user);
    }

    /// Where it tells what happens.
    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// What was counted of its requests.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Sets the offset past which a write is told of.
    pub fn set_write_threshold(&self, offset: u64) {
        self.counts.lock().threshold = offset;
    }

    pub(super) fn add_parent(&self, edge: &Arc<Edge>) {
        self.parents.lock().insert(0, Arc::downgrade(edge));
    }

    pub(super) fn remove_parent(&self, edge: &Arc<Edge>) {
        let gone = Arc::downgrade(edge);
        self.parents.lock().retain(|other| other.strong_count() > 0 && !other.ptr_eq(&gone));
    }

    pub(super) fn set_children(&self, children: Vec<Arc<Edge>>) {
        *self.children.write() = children;
    }

    pub(super) fn set_filename(&self, filename: String) {
        *self.filename.write() = filename;
    }

    pub(super) fn set_body(&self, body: Body) -> Body {
        core::mem::replace(&mut *self.body.write(), body)
    }

    pub(super) fn set_settings(&self, settings: Settings) -> Settings {
        core::mem::replace(&mut *self.settings.write(), settings)
    }

    pub(super) fn set_options(&self, options: Options) -> Options {
        core::mem::replace(&mut *self.options.lock(), options)
    }

    /// Its options without those that every node has and without those of its children.
    pub(super) fn own_options(&self) -> Result<Options> {
        let mut options = self.options();
        options.take_text("node-name");
        options.take_string("driver");
        Settings::take(&mut options, Settings::default())?;
        for edge in self.children() {
            options.take_child(edge.name())?;
        }
        // One that was said to be none has no edge.
        options.take_child("backing")?;
        Ok(options)
    }

    /// Finds its name again after what it stands on has changed.
    pub(super) async fn name_again(&self) -> Result<()> {
        if let Some(image) = self.image() {
            let named = named_below(&image).await?;
            let (children, options) = (self.children(), self.options());
            let name = name_of(&self.driver, &children, &options, named.as_deref());
            *self.filename.write() = name;
        }
        Ok(())
    }

    /// The same for a filter.
    pub(super) fn name_filter_again(&self) {
        self.set_filename(filter_name(&self.driver, &self.children(), &self.options()));
    }

    /// Puts the newly opened image in the place of the old one; bitmaps that live in memory only go
    /// along.
    pub(super) fn take_body(self: &Arc<Self>, image: Arc<Layer>) -> Result<()> {
        let (old, new) = (self.bitmaps(), image.bitmaps().clone());
        for bitmap in old.all() {
            if !bitmap.status().persistent && new.get(bitmap.name()).is_none() {
                new.adopt(bitmap)?;
            }
        }
        self.set_body(Body {
            device: image.clone(),
            image: Some(image),
            locks: None,
            filter: None,
        });
        self.listen();
        Ok(())
    }

    /// True where somebody outside of the graph uses it.
    #[must_use]
    pub fn is_used_from_outside(&self) -> bool {
        self.parents().iter().any(|edge| matches!(edge.user(), User::Root(_)))
    }

    /// True where another node reads from it.
    #[must_use]
    pub fn is_below_another(&self) -> bool {
        self.parents().iter().any(|edge| matches!(edge.user(), User::Node(_)))
    }

    /// The roots through which requests reach it.
    pub(super) fn roots(self: &Arc<Self>) -> Vec<Arc<Root>> {
        let mut out: Vec<Arc<Root>> = Vec::new();
        let mut seen: Vec<Arc<Self>> = Vec::new();
        let mut todo = Vec::from([self.clone()]);
        while let Some(node) = todo.pop() {
            if seen.iter().any(|other| Arc::ptr_eq(other, &node)) {
                continue;
            }
            for edge in node.parents() {
                match edge.user() {
                    User::Root(root) => {
                        let new = root.upgrade();
                        out.extend(new.filter(|r| !out.iter().any(|o| Arc::ptr_eq(o, r))));
                    }
                    User::Node(user) => todo.extend(user.upgrade()),
                    User::Coming { .. } => {}
                }
            }
            seen.push(node);
        }
        out
    }

    /// What others see that is done with it.
    pub(super) fn locked(&self) -> Claim {
        *self.locked.lock()
    }

    /// Lets others see what is done with it, where they can.
    pub(super) fn lock(&self, claim: Claim) -> Result<()> {
        let mut locked = self.locked.lock();
        if *locked != claim
            && let Some(locks) = &self.body.read().locks
        {
            locks.set(claim)?;
            *locked = claim;
        }
        Ok(())
    }

    pub(super) async fn read(&self, offset: u64, len: u64) -> Result<Segments> {
        self.device().read(offset, len).await
    }

    pub(super) async fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> Result<()> {
        let settings = self.active_settings()?;
        let (device, is_image) = self.parts();
        let end = offset.saturating_add(data.len());
        self.before_write(end);
        let _recording = (!is_image).then(|| self.bitmaps.record(offset, data.len()));
        if !is_image && settings.detect_zeroes != DetectZeroes::Off && data.is_zero() {
            let unmap = settings.detect_zeroes == DetectZeroes::Unmap;
            let how = if unmap { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
            device.write_zeroes(offset, data.len(), how).await?;
            if flags.contains(WriteFlags::FUA) {
                device.flush().await?;
            }
        } else {
            device.write(offset, data, flags).await?;
        }
        self.reached(end);
        Ok(())
    }

    pub(super) async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let settings = self.active_settings()?;
        let (device, is_image) = self.parts();
        let end = offset.saturating_add(len);
        self.before_write(end);
        let _recording = (!is_image).then(|| self.bitmaps.record(offset, len));
        let keeps = !is_image && !settings.discard;
        let flags = if keeps { flags - ZeroFlags::MAY_UNMAP } else { flags };
        device.write_zeroes(offset, len, flags).await?;
        self.reached(end);
        Ok(())
    }

    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let settings = self.active_settings()?;
        let (device, is_image) = self.parts();
        let _recording = (!is_image).then(|| self.bitmaps.record(offset, len));
        if settings.discard {
            self.before_write(offset.saturating_add(len));
        }
        if !is_image && !settings.discard {
            return Ok(());
        }
        let result = device.discard(offset, len).await;
        let mut counts = self.counts.lock();
        match &result {
            Ok(()) => {
                (counts.discards, counts.discarded) = (counts.discards + 1, counts.discarded + len)
            }
            Err(_) => counts.failed_discards += 1,
        }
        drop(counts);
        result
    }

    /// Refuses a change while another program has what the node shows.
    pub(super) fn refuse_inactive(&self) -> Result<()> {
        self.active_settings().map(drop)
    }

    /// Its settings, for a change of what it shows: refused while another program has that.
    fn active_settings(&self) -> Result<Settings> {
        let settings = self.settings();
        match settings.active {
            true => Ok(settings),
            false => {
                Err(Error::denied(format!("node '{}' is inactive: activate it first", self.name)))
            }
        }
    }

    fn reached(&self, end: u64) {
        let mut counts = self.counts.lock();
        counts.highest_offset = counts.highest_offset.max(end);
    }

    pub(super) async fn flush(&self) -> Result<()> {
        self.device().flush().await
    }

    pub(super) async fn set_len(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        self.refuse_inactive()?;
        let (device, is_image) = self.parts();
        if !is_image && len > device.len() {
            self.bitmaps.resize(len);
        }
        let result = device.set_len(len, preallocation).await;
        if !is_image {
            self.bitmaps.resize(device.len());
        }
        result
    }

    fn parts(&self) -> (Device, bool) {
        let body = self.body.read();
        (body.device.clone(), body.image.is_some())
    }

    fn before_write(&self, end: u64) {
        let threshold = {
            let mut counts = self.counts.lock();
            if counts.threshold == 0 || end <= counts.threshold {
                return;
            }
            core::mem::take(&mut counts.threshold)
        };
        self.tell_of_threshold(end - threshold, threshold);
    }

    /// Why nobody can write to it although it is not said to be read-only.
    pub(super) fn why_only_read(&self) -> Option<String> {
        self.only_read.lock().clone()
    }

    pub(super) fn set_only_read(&self, why: Option<&Error>) {
        *self.only_read.lock() = why.map(|why| why.what().into());
    }

    /// True where it was opened for writing.
    pub(super) fn is_writable(&self) -> bool {
        !self.settings.read().read_only
    }

    /// What it wants of a child of its, when its own users together want `above`.
    pub(super) fn claim_of(&self, edge: &Edge, above: Claim) -> Claim {
        let above = (!self.parents.lock().is_empty()).then_some(above);
        match self.settings().active {
            true => edge.wanted(above, self.is_writable()),
            false => edge.wanted_inactive(above),
        }
    }
}

/// A node that stays; see [`Node::hold`].
#[derive(Debug)]
pub struct Held(Arc<Node>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}
