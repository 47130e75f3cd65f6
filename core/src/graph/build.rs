//! Opens nodes from options: children first, then what they make up.

use super::drivers;
use super::edge::{Edge, User};
use super::filters::{self, filtered};
use super::live::{Graph, Place, refuse_change_of_inactive};
use super::name::filter_name;
use super::node::{Body, NewNode, Node, Settings};
use super::open::check_node_name;
use super::options::{ChildOptions, OptionValue, Options};
use super::permission::{Claim, Role};
use super::snapshot::uses;
use crate::format::detect::MAX_CHAIN;
use crate::format::{
    self, Backing, BackingRef, DataFile, DataSource, FormatName, KeySource, Layer, OpenOptions,
};
use crate::io::{Access, BlockDevice, BoxFuture, Capabilities, Device, Growing, combine_path};
use crate::{Error, Result};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

/// Nodes nest at most so deep, but for chains of backing files.
const MAX_DEPTH: usize = 64;

/// The one word for a backing file that cannot be opened.
const BACKING: &str = "Could not open backing file";

/// Opens nodes in one change of a graph.
pub(super) struct Builder<'a> {
    graph: &'a Graph,
}

/// What an image says of the file below it, before it is opened as a node.
struct Named {
    backing: Option<BackingRef>,
    filename: String,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        Self { graph }
    }

    /// A node with its own name and no parent.
    pub(super) async fn top(&self, options: Options) -> Result<Arc<Node>> {
        self.node(options, Settings::default(), 0).await
    }

    /// A node, with what it inherits where its options do not say otherwise.
    fn node(
        &self,
        options: Options,
        inherited: Settings,
        depth: usize,
    ) -> BoxFuture<'_, Result<Arc<Node>>> {
        Box::pin(async move {
            if depth >= MAX_DEPTH {
                return Err(Error::limit(format!("nodes nest deeper than {MAX_DEPTH}")));
            }
            let given = options.clone();
            let mut options = options;
            let name = options.take_text("node-name");
            let settings = Settings::take(&mut options, inherited)?;
            let is_below_active = inherited.active;
            let mut opening = Opening {
                name,
                given,
                settings,
                is_below_active,
                depth,
                more: Claim::NONE,
                is_guessed: false,
            };
            let driver = match options.take_string("driver") {
                Some(driver) => driver,
                None if options.has_child("file") => {
                    // Nobody says what it is: its contents do.
                    let below = opening.of_file();
                    let file = self.required(&mut options, "file", below, depth).await?;
                    let format = format::probe(&file.device()).await?;
                    options.set("file", OptionValue::Text(file.name().to_owned()));
                    opening.is_guessed = true;
                    format.as_str().to_owned()
                }
                None => return Err(Error::invalid("Must specify either driver or file")),
            };
            if self.graph.protocols.has_driver(&driver) {
                return self.protocol(&driver, options, opening).await;
            }
            if let Some(children) = filters::children(&driver) {
                return self.filter(&driver, children, options, opening).await;
            }
            match FormatName::from_str(&driver) {
                Ok(format) => self.image(format, options, opening).await,
                Err(_) => Err(Error::invalid(format!("Unknown driver '{driver}'"))),
            }
        })
    }

    /// A node whose bytes come from the host.
    async fn protocol(
        &self,
        driver: &str,
        mut options: Options,
        mut opening: Opening,
    ) -> Result<Arc<Node>> {
        let place = self.place(&mut opening)?;
        let (opened, only_read) =
            self.graph.open_protocol(driver, &mut options, opening.settings).await?;
        if let Some(left) = options.first() {
            return Err(Error::invalid(format!(
                "Block protocol '{driver}' doesn't support the option '{left}'"
            )));
        }
        let body = Body { device: opened.device, image: None, locks: opened.locks, filter: None };
        let node = self.finish(place, opening, driver, opened.filename, body, Vec::new())?;
        node.set_only_read(only_read.as_ref());
        Ok(node)
    }

    /// A node of a filter or a test driver.
    async fn filter(
        &self,
        driver: &str,
        wanted: &[(&str, Role)],
        mut options: Options,
        mut opening: Opening,
    ) -> Result<Arc<Node>> {
        let depth = opening.depth;
        let settings = opening.settings;
        let below = |name: &str| settings.of_child(name);
        // A child called `file` is opened before its parent has its name, others after it.
        let mut first = None;
        if let Some((name @ "file", _)) = wanted.first() {
            first = Some(self.required(&mut options, name, opening.of_file(), depth).await?);
        }
        let place = self.place(&mut opening)?;
        filters::check(self.graph, driver, &options)?;
        opening.more = filters::claim_more(driver, &mut options)?;
        let mut children = Vec::new();
        for (name, role) in wanted {
            if *role == Role::Copy {
                for (i, given) in filters::take_list(&mut options, name)?.into_iter().enumerate() {
                    let name = format!("{name}.{i}");
                    let node = self.child(given, &name, below(&name), depth).await?;
                    children.push(self.attach(node, &name, *role, &opening)?);
                }
                continue;
            }
            let node = match first.take() {
                Some(node) => node,
                None => self.required(&mut options, name, below(name), depth).await?,
            };
            children.push(self.attach(node, name, *role, &opening)?);
        }
        let (device, filter) = filters::open(self.graph, driver, &mut options, &children).await?;
        if let Some(left) = options.first() {
            return Err(Error::invalid(match filters::is_protocol(driver) {
                true => format!("Block protocol '{driver}' doesn't support the option '{left}'"),
                false => format!("Block format '{driver}' does not support the option '{left}'"),
            }));
        }
        let filename = filter_name(driver, &children, &opening.given);
        let body = Body { device, image: None, locks: None, filter };
        self.finish(place, opening, driver, filename, body, children)
    }

    /// A node of an image format.
    async fn image(
        &self,
        format: FormatName,
        mut options: Options,
        mut opening: Opening,
    ) -> Result<Arc<Node>> {
        let mut settings = opening.settings;
        let role = match format {
            FormatName::Raw if is_window(&options) => Role::Window,
            FormatName::Raw => Role::Filtered,
            _ => Role::Metadata,
        };
        let file = self.required(&mut options, "file", opening.of_file(), opening.depth).await?;
        if settings.auto_read_only && file.why_only_read().is_some() {
            settings.read_only = true;
            opening.settings.read_only = true;
        }
        let place = self.place(&mut opening)?;
        let file = self.attach(file, "file", role, &opening)?;
        let has_backing = format != FormatName::Raw;
        let wanted = options.take_child("backing")?;
        let given_data = options.take_child("data-file")?;
        let mut base = self.image_options(format, &mut options, settings)?;
        base.guessed = opening.is_guessed;
        let backing = Edge::new("backing", Role::Cow, opening.user());
        let filename = file.target().map(|node| node.filename()).unwrap_or_default();
        // What is wrong with the options or with the image is told before that of its data file.
        let named_data = self.named_data_file(&file, &filename, &base).await?;
        let (given_data, data_depth) = match (given_data, named_data) {
            (ChildOptions::Absent | ChildOptions::Null, Some(named)) => (named, 1),
            (given, _) => (given, opening.depth),
        };
        let data = match given_data {
            ChildOptions::Absent | ChildOptions::Null => None,
            given => {
                let below = settings.of_child("data-file");
                let node = self.child(given, "data-file", below, data_depth).await?;
                Some(self.attach(node, "data-file", Role::Data, &opening)?)
            }
        };
        let mut children = Vec::from([file]);
        children.extend(data);
        if has_backing {
            children.push(backing.clone());
        }
        let image = self.open_image(base, settings, &children).await?;
        let named = Named { backing: image.driver().describe().await?.backing, filename };
        let body = Body { device: image.clone(), image: Some(image), locks: None, filter: None };
        let (filename, depth) = (named.filename.clone(), opening.depth);
        let node = self.finish(place, opening, format.as_str(), filename, body, children)?;
        if has_backing {
            self.backing(wanted, &backing, named, settings, depth).await?;
        }
        node.name_again().await?;
        Ok(node)
    }

    /// How an image is opened, by its own options, which are taken. Nothing else may be left.
    pub(super) fn image_options(
        &self,
        format: FormatName,
        options: &mut Options,
        settings: Settings,
    ) -> Result<OpenOptions> {
        let base = self.take_image_options(format, options, settings)?;
        refuse_rest(format, options)?;
        Ok(base)
    }

    /// How an image is opened, by its own options, which are taken.
    pub(super) fn take_image_options(
        &self,
        format: FormatName,
        options: &mut Options,
        settings: Settings,
    ) -> Result<OpenOptions> {
        let mut base = OpenOptions {
            format: Some(format),
            access: settings.access_to_image(),
            discard: settings.discard,
            detect_zeroes: settings.detect_zeroes,
            ..OpenOptions::default()
        };
        drivers::take(format, options, &mut base, &*self.graph.protocols)?;
        Ok(base)
    }

    /// Opens an image over its children.
    pub(super) async fn open_image(
        &self,
        mut base: OpenOptions,
        settings: Settings,
        children: &[Arc<Edge>],
    ) -> Result<Arc<Layer>> {
        let child = |name| children.iter().find(|edge| edge.name() == name).cloned();
        let filename = |edge: &Edge| edge.target().map(|node| node.filename()).unwrap_or_default();
        let file = child("file").ok_or_else(|| Error::bug("an image without a file"))?;
        if let Some(backing) = child("backing") {
            base.backing = Backing::Device(backing);
        }
        if let Some(data) = child("data-file") {
            let filename = filename(&data).into();
            base.data_file = DataSource::Given(DataFile { device: growing(data), filename });
        }
        // A raw image has nothing to write until somebody writes to it.
        if base.format == Some(FormatName::Raw)
            && !file.capabilities().contains(Capabilities::WRITE)
        {
            base.access = Access::ReadOnly;
        }
        let access = base.access;
        let filename = filename(&file);
        let place: Device = match base.format {
            Some(FormatName::Raw) => file,
            _ => growing(file),
        };
        let image = format::open(&self.graph.env, place, &filename, base).await?;
        // While another program has the image, its bitmaps are that program's.
        if access == Access::ReadOnly && settings.active {
            image.driver().load_bitmaps().await?;
        }
        Ok(image)
    }

    /// The external data file that an image names: it has to be a node before the image is opened.
    async fn named_data_file(
        &self,
        file: &Arc<Edge>,
        filename: &str,
        base: &OpenOptions,
    ) -> Result<Option<ChildOptions>> {
        if base.format != Some(FormatName::Qcow2) {
            return Ok(None);
        }
        let look = OpenOptions {
            access: Access::ReadOnly,
            backing: Backing::Ignore,
            data_file: DataSource::Ignore,
            key: KeySource::Ignore,
            ..base.clone()
        };
        let seen = format::open(&self.graph.env, file.clone(), filename, look).await?;
        let Some(name) = external_data_file(&seen).await? else { return Ok(None) };
        let name = combine_path(filename, &name);
        self.graph
            .protocols
            .parse_filename(&name)
            .map(|options| Some(ChildOptions::Inline(options)))
    }

    /// Opens what stands below an image, and points its edge there.
    async fn backing(
        &self,
        wanted: ChildOptions,
        edge: &Arc<Edge>,
        named: Named,
        above: Settings,
        depth: usize,
    ) -> Result<()> {
        let below = above.of_child("backing");
        let is_named = matches!(wanted, ChildOptions::Node(_));
        let failed = |e: Error| e.context(BACKING);
        let node = match wanted {
            ChildOptions::Null => return Ok(()),
            ChildOptions::Node(name) if name.is_empty() => return Ok(()),
            ChildOptions::Node(name) if self.graph.is_coming(&name) => {
                let user = match edge.user() {
                    User::Node(user) => user.upgrade().map(|user| user.name().to_owned()),
                    User::Root(_) | User::Coming { .. } => None,
                };
                return Err(failed(cycle(&name, "backing", &user.unwrap_or_default())));
            }
            ChildOptions::Node(name) => self.graph.by_any_name(&name).map_err(failed)?,
            ChildOptions::Inline(mut options) => {
                if !options.has_child("file")
                    && let Some(backing) = named.backing
                {
                    let mut all = self.options_of(&backing, &named.filename)?;
                    all.merge(options);
                    options = all;
                }
                self.node(options, below, depth + 1).await.map_err(failed)?
            }
            ChildOptions::Absent => {
                let Some(backing) = named.backing else { return Ok(()) };
                self.chain(backing, named.filename, below).await.map_err(failed)?
            }
        };
        if let User::Node(user) = edge.user()
            && let Some(user) = user.upgrade()
        {
            refuse_cycle(&node, "backing", &user)?;
            if user.settings().active && !node.settings().active {
                return Err(inactive_child(&node, "backing", user.name()));
            }
            if !is_named {
                node.set_opened_with(&user);
            }
        }
        edge.point(Some(node));
        self.graph.refresh().inspect_err(|_| {
            edge.point(None);
        })?;
        Ok(())
    }

    /// A backing file that its image names, and all below it.
    async fn chain(
        &self,
        backing: BackingRef,
        referrer: String,
        below: Settings,
    ) -> Result<Arc<Node>> {
        let count = self.graph.nodes().len();
        if count > 16 * MAX_CHAIN {
            return Err(format::detect::too_long());
        }
        let options = self.options_of(&backing, &referrer)?;
        Box::pin(self.node(options, below, 1)).await
    }

    /// The options of the backing file that an image names.
    fn options_of(&self, backing: &BackingRef, referrer: &str) -> Result<Options> {
        let mut options = match backing.name.strip_prefix("json:") {
            Some(text) => Options::parse_json(text)?,
            None => {
                let mut options = Options::default();
                let name = combine_path(referrer, &backing.name);
                options.add_child("file", self.graph.protocols.parse_filename(&name)?);
                options
            }
        };
        if let Some(format) = &backing.format {
            options.set("driver", OptionValue::Text(format.clone()));
        }
        Ok(options)
    }

    /// A child that has to be there.
    async fn required(
        &self,
        options: &mut Options,
        name: &str,
        settings: Settings,
        depth: usize,
    ) -> Result<Arc<Node>> {
        match options.take_child(name)? {
            ChildOptions::Absent | ChildOptions::Null => {
                Err(Error::invalid(format!("A block device must be specified for \"{name}\"")))
            }
            given => self.child(given, name, settings, depth).await,
        }
    }

    /// A child: a node that is there, or a new one.
    async fn child(
        &self,
        given: ChildOptions,
        child: &str,
        settings: Settings,
        depth: usize,
    ) -> Result<Arc<Node>> {
        match given {
            ChildOptions::Node(name) if self.graph.is_coming(&name) => {
                Err(cycle(&name, child, &name))
            }
            ChildOptions::Node(name) => self.graph.by_any_name(&name),
            ChildOptions::Inline(options) => self.node(options, settings, depth + 1).await,
            ChildOptions::Absent | ChildOptions::Null => {
                Err(Error::bug("a child is wanted and not described"))
            }
        }
    }

    /// Lets the node that is being opened use another.
    fn attach(
        &self,
        node: Arc<Node>,
        name: &str,
        role: Role,
        opening: &Opening,
    ) -> Result<Arc<Edge>> {
        if opening.settings.active && !node.settings().active {
            let user = opening.name.as_deref().unwrap_or_default();
            return Err(inactive_child(&node, name, user));
        }
        let edge = Edge::with_more(name, role, opening.user(), opening.more);
        refuse_change_of_inactive(&node, edge.wanted_coming())?;
        edge.point(Some(node));
        if let Err(error) = self.graph.refresh() {
            edge.point(None);
            return Err(error);
        }
        Ok(edge)
    }

    /// Takes a place for the node among all others, and its name.
    fn place(&self, opening: &mut Opening) -> Result<Place<'a>> {
        opening.settings.check()?;
        if let Some(name) = &opening.name {
            check_node_name(name)?;
        }
        let place = self.graph.reserve(opening.name.take())?;
        opening.name = Some(place.name.clone());
        Ok(place)
    }

    /// Makes the node and takes the permissions that it needs.
    fn finish(
        &self,
        place: Place<'_>,
        opening: Opening,
        driver: &str,
        filename: String,
        body: Body,
        children: Vec<Arc<Edge>>,
    ) -> Result<Arc<Node>> {
        let Opening { given, settings, .. } = opening;
        let node = Node::new(NewNode {
            name: place.name.clone(),
            order: place.order,
            driver: driver.to_owned(),
            filename,
            options: given,
            settings,
            body,
            children,
            events: self.graph.events().clone(),
        });
        for edge in node.children() {
            let below = edge.target().filter(|_| !node.options().has_text(edge.name()));
            if let Some(below) = below {
                below.set_opened_with(&node);
            }
        }
        self.graph.admit(place, node.clone());
        self.graph.refresh()?;
        node.listen();
        Ok(node)
    }
}

/// The child of an image, which grows with what is written to it. A raw image between the two grows only
/// when it is told to.
fn growing(edge: Arc<Edge>) -> Device {
    let grows = edge.target().is_some_and(|node| grows(&node));
    match grows && !edge.capabilities().contains(Capabilities::GROW) {
        true => Arc::new(Growing::along(edge)),
        false => edge,
    }
}

/// True for a node that can be made longer, though perhaps only when it is told to.
pub(super) fn grows(node: &Arc<Node>) -> bool {
    let mut below = Some(node.clone());
    while let Some(node) = below.take_if(|n| n.driver() == "raw" || filtered(n.driver()).is_some())
    {
        below = node.primary();
    }
    below.is_some_and(|node| node.device().capabilities().contains(Capabilities::GROW))
}

/// Refuses options that nobody has taken.
pub(super) fn refuse_rest(format: FormatName, options: &Options) -> Result<()> {
    match options.first() {
        None => Ok(()),
        Some(left) => Err(Error::invalid(format!(
            "Block format '{format}' does not support the option '{left}'"
        ))),
    }
}

/// What is known of a node while it is being opened.
struct Opening {
    name: Option<String>,
    given: Options,
    settings: Settings,
    /// Its user is active, or it has none.
    is_below_active: bool,
    depth: usize,
    /// What it claims of its children in any case.
    more: Claim,
    /// Its driver was found by looking at what is in its file.
    is_guessed: bool,
}

impl Opening {
    /// What its file gets of its settings: that is there before the node is known to be inactive.
    fn of_file(&self) -> Settings {
        Settings { active: self.is_below_active, ..self.settings.of_child("file") }
    }

    /// The node as the user of its children.
    fn user(&self) -> User {
        let name = self.name.clone().unwrap_or_default();
        let Settings { read_only, active, .. } = self.settings;
        User::Coming { name, writable: !read_only, active }
    }
}

/// Refuses to make `below` a child of a node that it is, or that it stands on.
pub(super) fn refuse_cycle(below: &Arc<Node>, child: &str, user: &Arc<Node>) -> Result<()> {
    match Arc::ptr_eq(below, user) || uses(below, user) {
        true => Err(cycle(below.name(), child, user.name())),
        false => Ok(()),
    }
}

fn cycle(below: &str, child: &str, user: &str) -> Error {
    Error::invalid(format!("Making '{below}' a {child} child of '{user}' would create a cycle"))
}

/// An active node cannot stand on one that is not.
pub(super) fn inactive_child(below: &Node, child: &str, user: &str) -> Error {
    let below = below.name();
    Error::invalid(format!("Inactive '{below}' can't be a {child} child of active '{user}'"))
}

/// The external data file that an image names.
async fn external_data_file(image: &Layer) -> Result<Option<String>> {
    use crate::qapi::ImageInfoSpecific;
    Ok(match image.driver().describe().await?.specific {
        Some(ImageInfoSpecific::Qcow2(specific)) => specific.data_file,
        _ => None,
    })
}

/// True where a raw image shows a part of what is below it.
fn is_window(options: &Options) -> bool {
    options.has("size") || options.peek("offset").is_some_and(|offset| offset != "0")
}
