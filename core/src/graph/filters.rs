//! Nodes whose driver is a filter or a test driver: their children and options, and what their bodies
//! do besides answering requests.

use super::edge::Edge;
use super::live::Graph;
use super::node::Node;
use super::options::{ChildOptions, Options};
use super::permission::{Claim, Permissions, Role};
use super::point_in_time::PointInTime;
use crate::filter::{
    Blkdebug, BlkdebugOptions, Blklogwrites, BlklogwritesOptions, Blkreplay, Blkverify, Compress,
    CopyBeforeWrite, CopyBeforeWriteOptions, CopyOnRead, InjectError, Null, NullDriver,
    NullOptions, OnCbwError, Preallocate, PreallocateOptions, Quorum, QuorumOptions,
    QuorumReadPattern, Replication, ReplicationMode, SetState, Throttle, ThrottleGroup,
    blkdebug_event, parse_config,
};
use crate::io::Device;
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The most elements of a list of options.
const MAX_ITEMS: usize = 1024;

/// A filter's body, for what is done to it besides requests.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Injects errors and stops requests.
    Blkdebug(Arc<Blkdebug>),
    /// Logs changes.
    Blklogwrites(Arc<Blklogwrites>),
    /// Keeps what its file was.
    CopyBeforeWrite(Arc<CopyBeforeWrite>),
    /// Keeps nothing.
    Null(Arc<Null>),
    /// Grows its file ahead.
    Preallocate(Arc<Preallocate>),
    /// Lets its children vote.
    Quorum(Arc<Quorum>),
    /// Keeps a disk in step on two machines.
    Replication(Arc<Replication>),
    /// Keeps within the limits of a group.
    Throttle(Arc<Throttle>),
}

impl Filter {
    /// Lets requests go that it holds back (`true`), for as long as somebody drains; every call is
    /// taken back by one with `false`.
    pub(super) fn release(&self, release: bool) {
        match self {
            Self::Blkdebug(filter) => filter.release(release),
            Self::Null(filter) => filter.release(release),
            Self::Throttle(filter) => filter.release(release),
            Self::Blklogwrites(_)
            | Self::CopyBeforeWrite(_)
            | Self::Preallocate(_)
            | Self::Quorum(_)
            | Self::Replication(_) => {}
        }
    }

    /// Ends what it keeps between requests.
    pub(super) async fn close(&self) -> Result<()> {
        match self {
            Self::Blklogwrites(filter) => filter.close().await,
            Self::Preallocate(filter) => filter.quiesce().await,
            Self::Blkdebug(_)
            | Self::CopyBeforeWrite(_)
            | Self::Null(_)
            | Self::Quorum(_)
            | Self::Replication(_)
            | Self::Throttle(_) => Ok(()),
        }
    }
}

/// Children by name, and what each is to its user.
type Children = &'static [(&'static str, Role)];

/// Filters and test drivers with their children; those of a quorum are a list.
const DRIVERS: [(&str, Children); 14] = [
    ("blkdebug", &[("image", Role::Filtered)]),
    ("blklogwrites", &[("file", Role::Filtered), ("log", Role::Metadata)]),
    ("blkreplay", &[("image", Role::Filtered)]),
    ("blkverify", &[("raw", Role::Filtered), ("test", Role::Data)]),
    ("compress", &[("file", Role::Filtered)]),
    ("copy-before-write", &[("file", Role::CopiedBeforeWrite), ("target", Role::CopyTarget)]),
    ("copy-on-read", &[("file", Role::CopiedOnRead)]),
    ("null-aio", &[]),
    ("null-co", &[]),
    ("preallocate", &[("file", Role::Filtered)]),
    ("quorum", &[("children", Role::Copy)]),
    ("replication", &[("file", Role::Replicated)]),
    ("snapshot-access", &[("file", Role::PointInTime)]),
    ("throttle", &[("file", Role::Filtered)]),
];

/// A driver's name as it is known to the program, and its children; `None` for what is no filter.
pub(super) fn known(driver: &str) -> Option<(&'static str, Children)> {
    DRIVERS.into_iter().find(|(name, _)| *name == driver)
}

/// The children of a filter; `None` for a driver that is none.
pub(super) fn children(driver: &str) -> Option<Children> {
    known(driver).map(|(_, children)| children)
}

/// True for a driver that QEMU takes for a protocol: its place is below a format.
pub(super) fn is_protocol(driver: &str) -> bool {
    matches!(driver, "blkdebug" | "blkverify" | "null-aio" | "null-co")
}

/// The child whose contents a filter shows; `None` for what is no filter.
pub(super) fn filtered(driver: &str) -> Option<&'static str> {
    Some(match driver {
        "blkdebug" | "blkreplay" => "image",
        "blkverify" => "raw",
        "blklogwrites" | "compress" | "copy-before-write" | "copy-on-read" | "preallocate"
        | "replication" | "throttle" => "file",
        _ => return None,
    })
}

/// Takes the elements of a list of options.
pub(super) fn take_list(options: &mut Options, name: &str) -> Result<Vec<ChildOptions>> {
    let mut out = Vec::new();
    loop {
        match options.take_child(&format!("{name}.{}", out.len()))? {
            ChildOptions::Absent => return Ok(out),
            _ if out.len() >= MAX_ITEMS => {
                return Err(Error::limit(format!("more than {MAX_ITEMS} elements in '{name}'")));
            }
            item => out.push(item),
        }
    }
}

/// Refuses options that make no sense before any child but the file is opened.
pub(super) fn check(graph: &Graph, driver: &str, options: &Options) -> Result<()> {
    let mut options = options.clone();
    match driver {
        "blkdebug" => blkdebug(graph, &mut options).map(drop),
        "quorum" => {
            let count = take_list(&mut options, "children")?.len();
            quorum(&mut options)?.check(count).map(drop)
        }
        _ => Ok(()),
    }
}

/// Makes the body of a filter over its children, and takes its options.
pub(super) async fn open(
    graph: &Graph,
    driver: &str,
    options: &mut Options,
    children: &[Arc<Edge>],
) -> Result<(Device, Option<Filter>)> {
    let runtime = || graph.env.runtime.clone();
    let child = |name: &str| -> Result<Device> {
        let found = children.iter().find(|edge| edge.name() == name).cloned();
        found.map(|edge| edge as Device).ok_or_else(|| Error::bug(format!("'{name}' is missing")))
    };
    Ok(match driver {
        "null-co" | "null-aio" => {
            let kind = if driver == "null-co" { NullDriver::Co } else { NullDriver::Aio };
            let old = NullOptions::default();
            let new = NullOptions {
                size: options.take_size("size")?.unwrap_or(old.size),
                latency_ns: options.take_number("latency-ns")?.unwrap_or(old.latency_ns),
                read_zeroes: options.take_flag("read-zeroes")?.unwrap_or(old.read_zeroes),
            };
            let null = Arc::new(Null::new(kind, &new, runtime())?);
            (null.clone(), Some(Filter::Null(null)))
        }
        "blkdebug" => {
            let (options, image) = (blkdebug(graph, options)?, child("image")?);
            let blkdebug = Arc::new(Blkdebug::new(image, options)?);
            (blkdebug.clone(), Some(Filter::Blkdebug(blkdebug)))
        }
        "blkreplay" => (Arc::new(Blkreplay::new(child("image")?)), None),
        "blklogwrites" => {
            let old = BlklogwritesOptions::default();
            let size = options.take_number("log-sector-size")?;
            let size = size.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            let interval = options.take_number("log-super-update-interval")?;
            let new = BlklogwritesOptions {
                log_sector_size: size.or(old.log_sector_size),
                log_append: options.take_flag("log-append")?.unwrap_or(old.log_append),
                log_super_update_interval: interval.unwrap_or(old.log_super_update_interval),
            };
            let log = Blklogwrites::new(child("file")?, child("log")?, new).await?;
            let log = Arc::new(log);
            (log.clone(), Some(Filter::Blklogwrites(log)))
        }
        "blkverify" => (Arc::new(Blkverify::new(child("test")?, child("raw")?)), None),
        "compress" => {
            let below = children.first().and_then(|edge| edge.target());
            let driver = below.map(|node| node.driver().to_string()).unwrap_or_default();
            (Arc::new(Compress::new(child("file")?, &driver)?), None)
        }
        "preallocate" => {
            let filter = Arc::new(Preallocate::new(child("file")?, preallocate(options)?)?);
            (filter.clone(), Some(Filter::Preallocate(filter)))
        }
        "copy-before-write" => {
            let new = copy_before_write(graph, options)?;
            let (file, target) = (child("file")?, child("target")?);
            let filter = Arc::new(CopyBeforeWrite::new(file, target, &new, runtime())?);
            (filter.clone(), Some(Filter::CopyBeforeWrite(filter)))
        }
        "snapshot-access" => {
            let edge = children.first().cloned();
            let edge = edge.ok_or_else(|| Error::bug("'file' is missing"))?;
            (Arc::new(PointInTime::new(edge)), None)
        }
        "copy-on-read" => {
            let file = child("file")?;
            let filter = match options.take_text("bottom") {
                Some(bottom) => {
                    let top = children.first().and_then(|edge| edge.target());
                    CopyOnRead::down_to(file, depth_of(graph, top, &bottom)?)
                }
                None => CopyOnRead::new(file),
            };
            (Arc::new(filter), None)
        }
        "throttle" => {
            let id = options.take_text("throttle-group");
            let id = id.ok_or_else(|| Error::invalid("Please specify a throttle group"))?;
            let group = graph.protocols.throttle_group(&id)?;
            let throttle = Arc::new(Throttle::new(child("file")?, group));
            (throttle.clone(), Some(Filter::Throttle(throttle)))
        }
        "quorum" => {
            let new = quorum(options)?;
            let voters = children.iter().map(|edge| {
                let name = edge.target().map(|node| node.name().to_string()).unwrap_or_default();
                (edge.clone() as Device, name)
            });
            let quorum = Arc::new(Quorum::new(voters.collect(), new, runtime())?);
            (quorum.clone(), Some(Filter::Quorum(quorum)))
        }
        "replication" => {
            let filter = Arc::new(Replication::new(child("file")?, replication(options)?));
            (filter.clone(), Some(Filter::Replication(filter)))
        }
        other => return Err(Error::invalid(format!("Unknown driver '{other}'"))),
    })
}

/// How many images lie above the node `bottom` in the chain that begins with `top`.
fn depth_of(graph: &Graph, top: Option<Arc<Node>>, bottom: &str) -> Result<u32> {
    if graph.is_coming(bottom) {
        return Err(Error::invalid(format!("Bottom node '{bottom}' is a filter")));
    }
    let found = graph.find(bottom);
    let wanted =
        found.ok_or_else(|| Error::invalid(format!("Bottom node '{bottom}' not found")))?;
    if filtered(wanted.driver()).is_some() {
        return Err(Error::invalid(format!("Bottom node '{bottom}' is a filter")));
    }
    let (mut next, mut depth) = (top, 0);
    while let Some(node) = next {
        if Arc::ptr_eq(&node, &wanted) {
            return Ok(depth);
        }
        depth += u32::from(filtered(node.driver()).is_none());
        next = node.below();
    }
    Err(Error::invalid(format!("Bottom node '{bottom}' is not in the chain below the filter")))
}

/// What a filter claims of its children beyond what its users want: `blkdebug` as it is told, a quorum to
/// write where it rewrites what has lost a vote.
pub(super) fn claim_more(driver: &str, options: &mut Options) -> Result<Claim> {
    let mut claim = Claim::NONE;
    if driver == "quorum" {
        let options = quorum(&mut options.clone())?;
        let votes = options.read_pattern == QuorumReadPattern::Quorum;
        claim.taken.set(Permissions::WRITE, options.rewrite_corrupted && votes);
    }
    if driver != "blkdebug" {
        return Ok(claim);
    }
    for (name, set, take) in [
        ("take-child-perms", &mut claim.taken, true),
        ("unshare-child-perms", &mut claim.shared, false),
    ] {
        for i in 0..MAX_ITEMS {
            let Some(word) = options.take_text(&format!("{name}.{i}")) else { break };
            let named = Permissions::of_name(&word);
            let what = || Error::invalid(format!("Parameter '{name}' does not accept '{word}'"));
            set.set(named.ok_or_else(what)?, take);
        }
    }
    Ok(claim)
}

fn copy_before_write(graph: &Graph, options: &mut Options) -> Result<CopyBeforeWriteOptions> {
    let old = CopyBeforeWriteOptions::default();
    let bitmap = match (options.take_text("bitmap.node"), options.take_text("bitmap.name")) {
        (Some(node), Some(name)) => {
            let found = graph.find(&node);
            let node = found.ok_or_else(|| Error::invalid(format!("Node '{node}' not found")))?;
            let found = node.bitmaps().get(&name);
            let what = || Error::invalid(format!("Dirty bitmap '{name}' not found"));
            Some(found.ok_or_else(what)?)
        }
        _ => None,
    };
    let on_cbw_error = options.take_word("on-cbw-error", |word| match word {
        "break-guest-write" => Some(OnCbwError::BreakGuestWrite),
        "break-snapshot" => Some(OnCbwError::BreakSnapshot),
        _ => None,
    })?;
    let timeout = options.take_number("cbw-timeout")?;
    let timeout = timeout.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
    Ok(CopyBeforeWriteOptions {
        bitmap,
        on_cbw_error: on_cbw_error.unwrap_or(old.on_cbw_error),
        cbw_timeout: timeout.unwrap_or(old.cbw_timeout),
        min_cluster_size: options.take_size("min-cluster-size")?.unwrap_or(old.min_cluster_size),
    })
}

/// True where a node of that driver can be opened again.
pub(super) fn can_reopen(driver: &str) -> bool {
    matches!(driver, "blkdebug" | "null-aio" | "null-co" | "preallocate" | "throttle")
        || children(driver).is_none()
}

/// The options of a filter that may change while it is used, ready to be taken.
#[derive(Debug)]
pub(super) enum Change {
    Group(Arc<ThrottleGroup>),
    Preallocate(PreallocateOptions),
}

/// Takes the options that may change of a filter that is opened again.
pub(super) fn take_change(
    graph: &Graph,
    driver: &str,
    options: &mut Options,
) -> Result<Option<Change>> {
    Ok(match driver {
        "throttle" => {
            let id = options.take_text("throttle-group").unwrap_or_default();
            Some(Change::Group(graph.protocols.throttle_group(&id)?))
        }
        "preallocate" => Some(Change::Preallocate(preallocate(options)?)),
        _ => None,
    })
}

impl Filter {
    /// Takes other options; gives those it had.
    pub(super) fn change(&self, change: &Change) -> Result<Option<Change>> {
        Ok(match (self, change) {
            (Self::Throttle(filter), Change::Group(group)) => {
                let old = filter.group();
                filter.set_group(group.clone());
                Some(Change::Group(old))
            }
            (Self::Preallocate(filter), Change::Preallocate(options)) => {
                Some(Change::Preallocate(filter.reopen(*options)?))
            }
            _ => None,
        })
    }
}

fn preallocate(options: &mut Options) -> Result<PreallocateOptions> {
    let old = PreallocateOptions::default();
    let new = PreallocateOptions {
        prealloc_align: options.take_size("prealloc-align")?.unwrap_or(old.prealloc_align),
        prealloc_size: options.take_size("prealloc-size")?.unwrap_or(old.prealloc_size),
    };
    new.check().map(|()| new)
}

fn quorum(options: &mut Options) -> Result<QuorumOptions> {
    let threshold = options.take_number("vote-threshold")?.unwrap_or_default();
    let mut new = QuorumOptions::new(i64::from_ne_bytes(threshold.to_ne_bytes()));
    new.blkverify = options.take_flag("blkverify")?.unwrap_or(new.blkverify);
    new.rewrite_corrupted =
        options.take_flag("rewrite-corrupted")?.unwrap_or(new.rewrite_corrupted);
    let pattern = options.take_word("read-pattern", |word| match word {
        "quorum" => Some(QuorumReadPattern::Quorum),
        "fifo" => Some(QuorumReadPattern::Fifo),
        _ => None,
    })?;
    new.read_pattern = pattern.unwrap_or(new.read_pattern);
    Ok(new)
}

/// `BlockdevOptionsReplication`. What `top-id` names is looked for when it is started.
fn replication(options: &mut Options) -> Result<ReplicationMode> {
    let mode = options.take_word("mode", |word| match word {
        "primary" => Some(ReplicationMode::Primary),
        "secondary" => Some(ReplicationMode::Secondary),
        _ => None,
    })?;
    match (mode, options.take_text("top-id")) {
        (None, _) => Err(Error::invalid("Missing the option mode")),
        (Some(ReplicationMode::Primary), Some(_)) => {
            Err(Error::invalid("The primary side does not support option top-id"))
        }
        (Some(ReplicationMode::Secondary), None) => {
            Err(Error::invalid("Missing the option top-id"))
        }
        (Some(mode), _) => Ok(mode),
    }
}

fn blkdebug(graph: &Graph, options: &mut Options) -> Result<BlkdebugOptions> {
    let mut new = BlkdebugOptions::default();
    if let Some(path) = options.take_text("config") {
        let (errors, changes) = parse_config(&graph.protocols.read_text(&path)?)?;
        (new.inject_error, new.set_state) = (errors, changes);
    }
    for item in take_list(options, "inject-error")? {
        let ChildOptions::Inline(mut item) = item else { continue };
        let mut rule = InjectError::new(blkdebug_event(&word(&mut item, "event"))?);
        rule.state = signed(&mut item, "state")?.unwrap_or(rule.state);
        rule.iotype = item.take_text("iotype").map(|word| word.parse()).transpose()?;
        rule.errno = signed(&mut item, "errno")?.unwrap_or(rule.errno);
        rule.sector = signed(&mut item, "sector")?.unwrap_or(rule.sector);
        rule.once = item.take_flag("once")?.unwrap_or(rule.once);
        rule.immediately = item.take_flag("immediately")?.unwrap_or(rule.immediately);
        new.inject_error.push(rule);
    }
    for item in take_list(options, "set-state")? {
        let ChildOptions::Inline(mut item) = item else { continue };
        new.set_state.push(SetState {
            event: blkdebug_event(&word(&mut item, "event"))?,
            state: signed(&mut item, "state")?.unwrap_or_default(),
            new_state: signed(&mut item, "new_state")?.unwrap_or_default(),
        });
    }
    for (name, place) in [
        ("align", &mut new.align),
        ("max-transfer", &mut new.max_transfer),
        ("opt-write-zero", &mut new.opt_write_zero),
        ("max-write-zero", &mut new.max_write_zero),
        ("opt-discard", &mut new.opt_discard),
        ("max-discard", &mut new.max_discard),
    ] {
        *place = options.take_size(name)?.unwrap_or(*place);
    }
    Ok(new)
}

fn word(options: &mut Options, name: &str) -> String {
    options.take_text(name).unwrap_or_default()
}

fn signed(options: &mut Options, name: &str) -> Result<Option<i64>> {
    Ok(options.take_number(name)?.map(|number| i64::from_ne_bytes(number.to_ne_bytes())))
}
