//! Nodes opened again with other options (`blockdev-reopen`): all of them or none.
//!
//! What is not said goes back to what it would be in `blockdev-add`, but for `discard`, which stays.
//! Requests wait meanwhile; the old body of an image has made everything durable before the new one
//! looks at the file.

use super::build::{Builder, inactive_child, refuse_cycle, refuse_rest};
use super::edge::Edge;
use super::filters::{self, Change};
use super::live::{Graph, no_node};
use super::node::{Body, Node, Settings};
use super::open::{Inherited, OpenedNode};
use super::options::{ChildOptions, OptionValue, Options};
use super::permission::Claim;
use crate::format::{FormatName, OpenOptions};
use crate::io::{Access, Capabilities};
use crate::{Error, ErrorKind, Result};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

/// Options that nothing is opened again with, not even with the values they have.
const NEVER_CHANGE: [&str; 2] = ["force-share", "aio-max-batch"];

/// What one node is to become.
struct Planned {
    node: Arc<Node>,
    options: Options,
    settings: Settings,
    /// Edges that are pointed elsewhere.
    edges: Vec<(Arc<Edge>, Option<Arc<Node>>)>,
    /// How its image is opened; `None` for what comes from the host.
    image: Option<OpenOptions>,
    /// What changes of a filter.
    change: Option<Change>,
    /// What comes from the host is opened anew.
    anew: bool,
}

/// The name of a child, the child, and what is said of it.
type Described = (String, Arc<Node>, Options);

/// What one node was.
struct Was {
    node: Arc<Node>,
    options: Options,
    settings: Settings,
    edges: Vec<(Arc<Edge>, Option<Arc<Node>>)>,
    body: Body,
    /// The body is an image that was closed: it has to be opened again.
    closed: bool,
    /// What has changed of a filter.
    change: Option<Change>,
}

/// What nodes were, and get back where their change fails or is given up midway.
struct Undo<'a> {
    graph: &'a Graph,
    was: Vec<Was>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.was.is_empty() {
            // An image that was closed meanwhile stays closed: opening takes time.
            let _ = self.graph.put_back(&core::mem::take(&mut self.was));
        }
    }
}

impl Undo<'_> {
    /// The change is made, or nothing has changed.
    async fn end<T>(mut self, result: Result<T>) -> Result<T> {
        let was = core::mem::take(&mut self.was);
        if result.is_err() {
            // What cannot be undone has failed for reasons of its own: the first error says more.
            let _ = self.graph.restore(was).await;
        }
        result
    }
}

/// What follows where an image cannot be closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FailedClose {
    /// Nothing is changed.
    Ends,
    /// It is opened again all the same: one that cannot be written to any more is only read, too.
    IsTold,
}

impl Graph {
    /// Opens nodes again with these options, each with the name of its node.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput` for what cannot change, `InUse` and `Denied` for permissions that
    /// cannot be had, and those of opening: all nodes are as they were then.
    pub async fn reopen(&self, list: Vec<Options>) -> Result<()> {
        let _change = self.change().await;
        let mut found: Vec<(Arc<Node>, Options)> = Vec::new();
        for options in list {
            let node = self.named(&options)?;
            // Of a node that is named twice the last word counts, in the place of the first.
            let along = found.iter().any(|(user, said)| goes_along(&node, user, said));
            match found.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &node)) {
                Some((_, known)) => known.merge(options),
                None => {
                    // What is opened again along with another one keeps what is not said anew, whichever
                    // of them was named first.
                    for (below, said) in &mut found {
                        if goes_along(below, &node, &options) {
                            *said = said_anew(below, core::mem::take(said));
                        }
                    }
                    let options = if along { said_anew(&node, options) } else { options };
                    found.push((node, options));
                }
            }
        }
        let mut moved = Vec::new();
        let plans = self.plan_all(found, &mut moved).await.inspect_err(|_| {
            // As if they had been pointed elsewhere and back: so they are in the reference, and which
            // child is the newest is told.
            moved.iter().rev().for_each(|edge| edge.count_pointed());
        })?;
        let mut drained = Vec::new();
        for plan in &plans {
            drained.push(self.drain(&plan.node).await);
        }
        let result = self.carry_out(plans, FailedClose::Ends).await;
        drop(drained);
        result.and(self.sweep().await)
    }

    /// The node that options are about.
    fn named(&self, options: &Options) -> Result<Arc<Node>> {
        let Some(name) = options.peek("node-name") else {
            return Err(Error::invalid("node-name not specified"));
        };
        self.find(name).ok_or_else(|| {
            let what = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, what)
        })
    }

    /// Reads what is asked of nodes. Nothing changes; `moved` gets the edges that are to be pointed
    /// elsewhere, as far as they are known.
    async fn plan_all(
        &self,
        found: Vec<(Arc<Node>, Options)>,
        moved: &mut Vec<Arc<Edge>>,
    ) -> Result<Vec<Planned>> {
        let mut named: Vec<Arc<Node>> = found.iter().map(|(node, _)| node.clone()).collect();
        let mut plans = Vec::new();
        let mut todo = Vec::new();
        for (node, options) in found {
            let inherited = Settings { discard: node.settings().discard, ..Settings::default() };
            todo.push((node, options, inherited));
            while let Some((node, options, inherited)) = todo.pop() {
                let (plan, described) = self.plan(node.clone(), options, inherited, moved).await?;
                let settings = plan.settings;
                plans.push(plan);
                for (name, child, mut options) in described.into_iter().rev() {
                    if options.has("node-name") {
                        return Err(cannot_change("node-name"));
                    }
                    // What is said of it by its own name counts.
                    if !named.iter().any(|other| Arc::ptr_eq(other, &child)) {
                        options.set("node-name", OptionValue::Text(child.name().to_owned()));
                        named.push(child.clone());
                        todo.push((child, options, settings.of_child(&name)));
                    }
                }
                self.plan_along(&node, settings, &named, &mut plans)?;
            }
        }
        Ok(plans)
    }

    /// The same of one node, with what it inherits; and what is said of children that were opened with
    /// it.
    async fn plan(
        &self,
        node: Arc<Node>,
        given: Options,
        inherited: Settings,
        moved: &mut Vec<Arc<Edge>>,
    ) -> Result<(Planned, Vec<Described>)> {
        let mut options = given.clone();
        let name = options.take_text("node-name").unwrap_or_default();
        let settings = Settings::take(&mut options, inherited)?;
        settings.check_zeroes()?;
        if node.options().has("force-share") && !given.has("force-share") {
            return Err(cannot_reset("force-share"));
        }
        if node.options().has("active") {
            return Err(cannot_reset("active"));
        }
        let becomes_inactive = !settings.active && node.settings().active;
        let settings = Settings { active: node.settings().active, ..settings };
        let driver = options.take_string("driver").unwrap_or_default();
        let children = node.children();
        let image = match (node.image(), FormatName::from_str(&driver)) {
            (Some(image), Ok(format)) if driver == node.driver() => {
                let builder = Builder::new(self);
                let base = builder.take_image_options(format, &mut options, settings)?;
                image.driver().check_options(&base)?;
                Some((format, base))
            }
            _ => None,
        };
        if !filters::can_reopen(node.driver()) {
            return Err(cannot_reopen(&node));
        }
        if node.image().is_none() {
            refuse_reset(&node, &options)?;
        }
        let child = |name: &str| children.iter().find(|edge| edge.name() == name).cloned();
        let names_backing = match node.image() {
            Some(image) => image.driver().describe().await?.backing.is_some(),
            None => false,
        };
        let backing = child("backing").filter(|edge| names_backing || edge.target().is_some());
        if backing.is_some() && !options.has_child("backing") {
            return Err(Error::invalid(format!("backing is missing for '{name}'")));
        }
        let change = match driver == node.driver() {
            true => filters::take_change(self, &driver, &mut options)?,
            false => None,
        };
        let (mut edges, mut described) = (Vec::new(), Vec::new());
        // What is named has to be there, whether the driver has such a child or not.
        for name in ["backing", "file"] {
            let wanted = options.peek(name).filter(|wanted| !wanted.is_empty());
            if let Some(wanted) = wanted.filter(|_| child(name).is_none()) {
                let found = self.find(wanted).ok_or_else(|| no_node("", wanted))?;
                let (driver, own) = (node.driver(), node.name());
                refuse_cycle(&found, name, &node)?;
                if name == "file" && children.is_empty() {
                    let what = "Cannot set file child to format node without file child";
                    return Err(Error::invalid(what));
                }
                if name == "backing" && filters::filtered(driver).is_some() {
                    return Err(Error::invalid(format!(
                        "'{own}' is a {driver} filter node that does not support a backing child"
                    )));
                }
                if name == "backing" {
                    return Err(Error::invalid(format!(
                        "Driver '{driver}' of node '{own}' does not support backing files"
                    )));
                }
            }
        }
        // The last one that was opened comes first.
        for edge in children.iter().rev() {
            let given = options.take_child(edge.name())?;
            let same = match &given {
                ChildOptions::Node(name) => edge.target().is_some_and(|node| node.name() == name),
                _ => true,
            };
            let fixed = edge.name() == "data-file" || filters::children(&driver).is_some();
            if !same && edge.name() != "file" && fixed {
                return Err(cannot_change(edge.name()));
            }
            let wanted = match given {
                ChildOptions::Absent => continue,
                ChildOptions::Null => None,
                ChildOptions::Node(name) if name.is_empty() => None,
                ChildOptions::Node(name) => {
                    Some(self.find(&name).ok_or_else(|| no_node("", &name))?)
                }
                ChildOptions::Inline(below) => {
                    let child = edge.target();
                    if let Some(child) = child.as_ref().filter(|n| n.was_opened_with(&node)) {
                        described.push((edge.name().to_owned(), child.clone(), below));
                        continue;
                    }
                    if child.is_some_and(|child| says_the_same(&below, &child)) {
                        continue;
                    }
                    let first = below.first().unwrap_or_default();
                    return Err(cannot_change(&format!("{}.{first}", edge.name())));
                }
            };
            if let Some(below) = &wanted {
                refuse_cycle(below, edge.name(), &node)?;
                if node.settings().active && !below.settings().active {
                    return Err(inactive_child(below, edge.name(), node.name()));
                }
            }
            if edge.target().as_ref().map(Arc::as_ptr) != wanted.as_ref().map(Arc::as_ptr) {
                moved.push(edge.clone());
                edges.push((edge.clone(), wanted));
            }
        }
        if let Some(name) = NEVER_CHANGE.into_iter().find(|name| given.has(name)) {
            return Err(cannot_change(name));
        }
        if becomes_inactive {
            return Err(cannot_change("active"));
        }
        if driver != node.driver() {
            return Err(cannot_change("driver"));
        }
        let image = match image {
            Some((format, base)) => {
                refuse_rest(format, &options)?;
                Some(base)
            }
            None => {
                for option in unchangeable(&options) {
                    if node.options().get(&option) != options.get(&option) {
                        return Err(cannot_change(&option));
                    }
                }
                None
            }
        };
        // One that was opened along with the image is opened again along with it.
        let along = children.iter().any(|edge| edge.name() == "data-file");
        if along && !node.options().has("data-file") && !given.has_child("data-file") {
            return Err(cannot_reset("driver"));
        }
        let plan = Planned { node, options: given, settings, edges, image, change, anew: true };
        Ok((plan, described))
    }

    /// What is to become of what was opened with a node: it follows the node where nothing else was said
    /// of it. Those that are `named` have plans of their own.
    fn plan_along(
        &self,
        node: &Arc<Node>,
        settings: Settings,
        named: &[Arc<Node>],
        plans: &mut Vec<Planned>,
    ) -> Result<()> {
        let mut todo = Vec::from([(node.clone(), settings)]);
        while let Some((user, settings)) = todo.pop() {
            let mut below = Vec::new();
            for edge in user.children() {
                let Some(node) = edge.target().filter(|node| node.was_opened_with(&user)) else {
                    continue;
                };
                if named.iter().any(|other| Arc::ptr_eq(other, &node)) {
                    continue;
                }
                refuse_said(&node)?;
                let old = node.settings();
                let mut new = Settings::take(&mut node.options(), settings.of_child(edge.name()))?;
                new.active = old.active;
                // It was found out whether it can be written to.
                new.read_only |= new.auto_read_only && old.read_only;
                if new != old {
                    plans.push(self.plan_settings(&node, new)?);
                }
                below.push((node, new));
            }
            todo.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// A node that is opened again with the options it has.
    fn plan_settings(&self, node: &Arc<Node>, settings: Settings) -> Result<Planned> {
        let (old, how) = (node.settings().inherited(), settings.inherited());
        let is_writable = node.device().capabilities().contains(Capabilities::WRITE);
        let becomes_writable = how.access == Access::ReadWrite && !is_writable;
        let image = match node.image() {
            Some(_) => {
                let format = FormatName::from_str(node.driver())?;
                let mut own = node.own_options()?;
                Some(Builder::new(self).image_options(format, &mut own, settings)?)
            }
            None => None,
        };
        Ok(Planned {
            node: node.clone(),
            options: node.options(),
            settings,
            edges: Vec::new(),
            image,
            change: None,
            anew: becomes_writable || Inherited { access: old.access, ..how } != old,
        })
    }

    /// Opens a node for reading only, or for writing too, and what was opened with it.
    ///
    /// # Errors
    /// `InUse` and `Denied` for permissions that cannot be had, `InvalidInput` for a node that cannot be
    /// opened again, and those of opening: all are as they were then.
    pub(super) async fn set_read_only(&self, node: &Arc<Node>, read_only: bool) -> Result<()> {
        let old = node.settings();
        if old.read_only == read_only {
            return Ok(());
        }
        refuse_said(node)?;
        let new = Settings { read_only, ..old };
        let mut plans = Vec::from([self.plan_settings(node, new)?]);
        self.plan_along(node, new, &[], &mut plans)?;
        let mut drained = Vec::new();
        for plan in &plans {
            drained.push(self.drain(&plan.node).await);
        }
        let on_failed = if read_only { FailedClose::IsTold } else { FailedClose::Ends };
        let result = self.carry_out(plans, on_failed).await;
        drop(drained);
        result
    }

    /// Makes nodes what is planned, or leaves them what they were.
    async fn carry_out(&self, plans: Vec<Planned>, on_failed: FailedClose) -> Result<()> {
        let mut undo = Undo { graph: self, was: Vec::new() };
        let result = self.apply(plans, &mut undo.was, on_failed).await;
        undo.end(result).await?
    }

    /// Gives how images were closed, where that is told.
    async fn apply(
        &self,
        plans: Vec<Planned>,
        undo: &mut Vec<Was>,
        on_failed: FailedClose,
    ) -> Result<Result<()>> {
        for plan in &plans {
            let edges = plan.edges.iter().map(|(edge, _)| (edge.clone(), edge.target())).collect();
            let node = plan.node.clone();
            let settings = node.set_settings(plan.settings);
            let options = node.set_options(plan.options.clone());
            let body = node.body();
            undo.push(Was { node, options, settings, edges, body, closed: false, change: None });
            for (edge, target) in &plan.edges {
                edge.point(target.clone());
            }
        }
        self.refresh().map_err(|error| {
            // Who writes did so before.
            let only_read = plans.iter().find(|plan| plan.settings.read_only);
            match only_read.filter(|_| error.kind() == ErrorKind::Denied) {
                Some(plan) => Error::denied(format!(
                    "Read-only block node '{}' cannot support read-write users",
                    plan.node.name()
                )),
                None => error,
            }
        })?;
        for (was, plan) in undo.iter_mut().zip(&plans) {
            if let (Some(filter), Some(change)) = (&was.body.filter, &plan.change) {
                was.change = filter.change(change)?;
                plan.node.name_filter_again();
            }
        }
        let mut closed = Ok(());
        for was in undo.iter_mut() {
            if let Some(image) = &was.body.image {
                was.closed = true;
                let result = image.close().await;
                match on_failed {
                    FailedClose::Ends => result?,
                    FailedClose::IsTold => closed = closed.and(result),
                }
            }
        }
        // The bodies that images stand on come first.
        for plan in plans.iter().filter(|plan| plan.image.is_none()) {
            self.open_again(plan).await?;
        }
        for plan in plans.iter().rev().filter(|plan| plan.image.is_some()) {
            self.open_again(plan).await?;
            plan.node.name_again().await?;
        }
        Ok(closed)
    }

    async fn open_again(&self, plan: &Planned) -> Result<()> {
        let node = &plan.node;
        match &plan.image {
            Some(base) => {
                let image = Builder::new(self)
                    .open_image(base.clone(), plan.settings, &node.children())
                    .await?;
                node.take_body(image)
            }
            None if plan.anew && self.protocols.has_driver(node.driver()) => {
                self.open_protocol_again(node, plan.options.clone(), plan.settings).await
            }
            None => Ok(()),
        }
    }

    /// Opens what comes from the host again, with the locks that are held.
    pub(super) async fn open_protocol_again(
        &self,
        node: &Arc<Node>,
        mut options: Options,
        settings: Settings,
    ) -> Result<()> {
        options.take_text("node-name");
        options.take_string("driver");
        Settings::take(&mut options, Settings::default())?;
        let (opened, only_read) = self.open_protocol(node.driver(), &mut options, settings).await?;
        let (old, claim) = (node.body(), node.locked());
        if let (Some(old), Some(new)) = (&old.locks, &opened.locks) {
            old.set(Claim::NONE)?;
            if let Err(error) = new.set(claim) {
                old.set(claim)?;
                return Err(error);
            }
        }
        node.set_body(Body {
            device: opened.device,
            image: None,
            locks: opened.locks,
            filter: None,
        });
        node.set_only_read(only_read.as_ref());
        Ok(())
    }

    /// Opens what comes from the host. Where it was to be written to if possible, and that is not,
    /// it is opened for reading, and the error is given as well.
    pub(super) async fn open_protocol(
        &self,
        driver: &str,
        options: &mut Options,
        settings: Settings,
    ) -> Result<(OpenedNode, Option<Error>)> {
        let (how, given) = (settings.inherited(), options.clone());
        match self.protocols.open_node(driver, options, how).await {
            Err(error)
                if settings.auto_read_only
                    && how.access == Access::ReadWrite
                    && error.kind() == ErrorKind::Denied =>
            {
                *options = given;
                let how = Inherited { access: Access::ReadOnly, ..how };
                let opened = self.protocols.open_node(driver, options, how).await?;
                Ok((opened, Some(error)))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// Makes nodes what they were.
    async fn restore(&self, undo: Vec<Was>) -> Result<()> {
        self.put_back(&undo)?;
        for was in undo.iter().rev().filter(|was| was.closed) {
            self.open_image_again(&was.node, was.settings).await?;
        }
        Ok(())
    }

    /// The same without opening anything.
    fn put_back(&self, undo: &[Was]) -> Result<()> {
        for was in undo.iter().rev() {
            was.node.set_settings(was.settings);
            was.node.set_options(was.options.clone());
            for (edge, target) in was.edges.iter().rev() {
                edge.point(target.clone());
            }
        }
        for was in undo {
            let new = was.node.body();
            if let (Some(new), Some(old)) = (&new.locks, &was.body.locks)
                && !Arc::ptr_eq(new, old)
            {
                new.set(Claim::NONE)?;
                old.set(was.node.locked())?;
            }
            if was.body.image.is_none() {
                was.node.set_body(was.body.clone());
            }
            if let (Some(filter), Some(change)) = (&was.body.filter, &was.change) {
                filter.change(change)?;
                was.node.name_filter_again();
            }
        }
        self.refresh()
    }
}

/// The options that a node has, but for what is said anew.
fn said_anew(node: &Node, said: Options) -> Options {
    let mut all = node.options();
    for child in node.children().iter().filter(|child| said.has_child(child.name())) {
        all.remove_child(child.name());
    }
    all.merge(said);
    all
}

/// True where `node` was opened with `user`, or with something that was, and stays below it by what is
/// said of the user.
fn goes_along(node: &Arc<Node>, user: &Arc<Node>, said: &Options) -> bool {
    let mut below = node.clone();
    while let Some(above) = below.opened_with() {
        if Arc::ptr_eq(&above, user) {
            let is_below =
                |edge: &Arc<Edge>| edge.target().is_some_and(|n| Arc::ptr_eq(&n, &below));
            let edge = user.children().into_iter().find(is_below);
            let named = edge.and_then(|edge| Some(said.peek(edge.name())? == below.name()));
            return named == Some(true);
        }
        below = above;
    }
    false
}

/// True where the options say nothing that is not so already.
fn says_the_same(options: &Options, node: &Node) -> bool {
    let now = node.options();
    options.names().all(|name| {
        let same = options.get(name) == now.get(name);
        same || (name == "node-name" && options.peek(name) == Some(node.name()))
            || options.get(name) == default_of(name).as_ref()
    })
}

/// What an option is where it is not given.
fn default_of(name: &str) -> Option<OptionValue> {
    match name {
        "read-only" | "auto-read-only" | "cache.direct" | "cache.no-flush" | "force-share" => {
            Some(OptionValue::Flag(false))
        }
        _ => None,
    }
}

/// The options of what comes from the host or from nowhere that stay what they are.
fn unchangeable(options: &Options) -> Vec<String> {
    let changes = |name: &str| matches!(name, "drop-cache" | "x-check-cache-dropped");
    options.names().filter(|name| !changes(name)).map(ToOwned::to_owned).collect()
}

/// Refuses to leave out what was said of a filter, or of something that comes from the host or from
/// nowhere.
fn refuse_reset(node: &Node, options: &Options) -> Result<()> {
    for name in node.own_options()?.names() {
        if name != "x-check-cache-dropped" && !options.has(name) {
            return Err(cannot_reset(name));
        }
    }
    Ok(())
}

/// Refuses to open a node again, with the options it has, of which somebody said what cannot be said anew.
pub(super) fn refuse_said(node: &Node) -> Result<()> {
    let options = node.options();
    if options.has("active") {
        return Err(cannot_reset("active"));
    }
    if !filters::can_reopen(node.driver()) {
        return Err(cannot_reopen(node));
    }
    match NEVER_CHANGE.into_iter().find(|name| options.has(name)) {
        Some(name) => Err(cannot_change(name)),
        None => Ok(()),
    }
}

fn cannot_reopen(node: &Node) -> Error {
    Error::unsupported(format!(
        "Block format '{}' used by node '{}' does not support reopening files",
        node.driver(),
        node.name()
    ))
}

fn cannot_reset(option: &str) -> Error {
    Error::invalid(format!("Option '{option}' cannot be reset to its default value"))
}

fn cannot_change(option: &str) -> Error {
    Error::invalid(format!("Cannot change the option '{option}'"))
}
