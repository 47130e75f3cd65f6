//! Filters and test drivers for who opens one image: each is the top of a graph of its own.

use super::build;
use super::filters::{self, Filter};
use super::live::Graph;
use super::node::Node;
use super::open::{Inherited, MAX_DEPTH, OpenedNode, Protocols};
use super::options::{ChildOptions, Options};
use super::permission::{Claim, Role};
use super::root::Root;
use crate::crypto::Secret;
use crate::filter::forward::forward;
use crate::filter::{Blkdebug, ThrottleGroup};
use crate::format::Env;
use crate::io::{
    Access, BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Growing, Opened,
};
use crate::monitor::Events;
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

/// The name of the node on top where its options give none.
const TOP: &str = "top";

/// The protocols of a host, and beside them every filter and test driver, as if it were one.
pub struct WithFilters {
    env: Env,
    protocols: Arc<dyn Protocols>,
    graphs: Mutex<Vec<Arc<Graph>>>,
}

impl fmt::Debug for WithFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithFilters").field("graphs", &*self.graphs.lock()).finish_non_exhaustive()
    }
}

impl WithFilters {
    /// The filters over what `protocols` open.
    #[must_use]
    pub fn new(env: Env, protocols: Arc<dyn Protocols>) -> Arc<Self> {
        Arc::new(Self { env, protocols, graphs: Mutex::default() })
    }

    /// The first `blkdebug` of what was opened, for breakpoints.
    #[must_use]
    pub fn blkdebug(&self) -> Option<Arc<Blkdebug>> {
        self.nodes().iter().find_map(|node| match node.body().filter {
            Some(Filter::Blkdebug(blkdebug)) => Some(blkdebug),
            _ => None,
        })
    }

    /// The names of the images below filters whose contents say nothing of their format.
    #[must_use]
    pub fn guessed_raw(&self) -> Vec<String> {
        let nodes = self.nodes();
        let images = nodes.iter().filter_map(|node| node.image());
        images.filter(|image| image.guessed_raw()).map(|image| image.filename().into()).collect()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.graphs.lock().iter().flat_map(|graph| graph.nodes()).collect()
    }

    /// True for a name that stands for a filter or a test driver: `blkdebug:CONFIG:IMAGE`,
    /// `blkverify:RAW:IMAGE`, `null-co://`, `null-aio://`.
    #[must_use]
    pub fn is_name(filename: &str) -> bool {
        filename.split_once(':').is_some_and(|(driver, _)| filters::is_protocol(driver))
    }

    /// Opens a filter as the top of a graph.
    async fn mount(&self, driver: &str, options: Options, how: Inherited) -> Result<Opened> {
        let mut options = options;
        options.set_default("driver", driver);
        options = self.complete(options, 0)?;
        options.set_default("node-name", TOP);
        let flags = [
            ("read-only", how.access == Access::ReadOnly),
            ("cache.direct", how.direct),
            ("cache.no-flush", how.no_flush),
            ("force-share", how.force_share),
        ];
        options.set_default("discard", "unmap");
        for (name, _) in flags.iter().filter(|(_, on)| *on) {
            options.set_default(name, "on");
        }
        let events = Events::new(self.env.runtime.clone());
        let graph = Graph::new(self.env.clone(), self.protocols.clone(), events);
        let node = graph.add(options).await?;
        let inner = graph.attach("", &node, Claim::image(how.access)).await?;
        self.graphs.lock().push(graph.clone());
        let mounted = Mounted { graph, inner };
        let grows = mounted.capabilities().contains(Capabilities::GROW);
        let device: Device = match grows || !build::grows(&node) {
            true => Arc::new(mounted),
            false => Arc::new(Growing::along(Arc::new(mounted))),
        };
        Ok(Opened { device, filename: node.filename() })
    }

    /// The options of a node and of all below it, with what stands in them only as a name said.
    fn complete(&self, mut options: Options, depth: usize) -> Result<Options> {
        if depth >= MAX_DEPTH {
            return Err(Error::limit(format!("nodes nest deeper than {MAX_DEPTH}")));
        }
        let driver = options.peek("driver").unwrap_or_default();
        let mut names: Vec<String> = Vec::new();
        match filters::children(driver) {
            Some(children) => {
                for (name, role) in children {
                    match role {
                        Role::Copy => {
                            let count = filters::take_list(&mut options.clone(), name)?.len();
                            names.extend((0..count).map(|i| format!("{name}.{i}")));
                        }
                        _ => names.push((*name).into()),
                    }
                }
            }
            None if self.protocols.has_driver(driver) => {}
            None => names.extend(["file", "backing", "data-file"].map(String::from)),
        }
        for name in names {
            // What stands in a list is an image: a name alone does not say which.
            let is_image = name.contains('.') || name == "backing";
            if !options.has(&name)
                && let ChildOptions::Inline(below) = options.take_child(&name)?
            {
                let below = match is_image {
                    true => below,
                    false => self.located(below)?,
                };
                options.add_child(&name, self.complete(below, depth + 1)?);
            }
        }
        Ok(options)
    }
}

impl Protocols for WithFilters {
    fn has_driver(&self, driver: &str) -> bool {
        // Nothing is recorded or replayed by who opens one image: QEMU's tools have no such driver.
        let is_filter = filters::children(driver).is_some() && driver != "blkreplay";
        is_filter || self.protocols.has_driver(driver)
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let Some((driver, rest)) = filename.split_once(':').filter(|_| Self::is_name(filename))
        else {
            return self.protocols.parse_filename(filename);
        };
        let mut options = Options::default();
        options.set_default("driver", driver);
        match (driver, rest.split_once(':')) {
            ("null-co" | "null-aio", _) => match rest {
                "//" => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "The only allowed filename for this driver is '{driver}://'"
                    )));
                }
            },
            ("blkdebug", None) => {
                return Err(Error::invalid("blkdebug requires both config file and image path"));
            }
            ("blkdebug", Some((config, image))) => {
                if !config.is_empty() {
                    options.set_default("config", config);
                }
                options.add_child("image", self.parse_filename(image)?);
            }
            (_, None) => {
                return Err(Error::invalid("blkverify requires raw copy and original image path"));
            }
            (_, Some((raw, test))) => {
                options.add_child("raw", self.parse_filename(raw)?);
                let mut image = Options::default();
                image.add_child("file", self.parse_filename(test)?);
                options.add_child("test", image);
            }
        }
        Ok(options)
    }

    fn secret(&self, id: &str) -> Result<Secret> {
        self.protocols.secret(id)
    }

    fn open<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<Opened>> {
        match self.protocols.has_driver(driver) {
            true => self.protocols.open(driver, options, how),
            false => Box::pin(self.mount(driver, core::mem::take(options), how)),
        }
    }

    fn throttle_group(&self, id: &str) -> Result<Arc<ThrottleGroup>> {
        self.protocols.throttle_group(id)
    }

    fn read_text(&self, filename: &str) -> Result<String> {
        self.protocols.read_text(filename)
    }

    fn open_node<'a>(
        &'a self,
        driver: &'a str,
        options: &'a mut Options,
        how: Inherited,
    ) -> BoxFuture<'a, Result<OpenedNode>> {
        self.protocols.open_node(driver, options, how)
    }
}

/// A filter, with the graph whose top it is.
#[derive(Debug)]
struct Mounted {
    graph: Arc<Graph>,
    inner: Arc<Root>,
}

impl BlockDevice for Mounted {
    forward!(len limits capabilities read write write_zeroes discard flush set_len extents event);

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            let info = self.inner.info().await?;
            let Some(node) = self.inner.node() else { return Ok(info) };
            let driver = filters::known(node.driver()).map_or(info.driver, |(name, _)| name);
            Ok(DeviceInfo { driver, filename: node.filename(), ..info })
        })
    }

    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&*self.inner)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.graph.close())
    }
}
