//! Names of nodes over others: what they would be opened from by themselves.

use super::edge::Edge;
use super::filters::is_protocol;
use super::node::Node;
use super::options::{OptionValue, Options, is_flat};
use crate::Result;
use crate::format::Layer;
use crate::io::combine_path;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

/// The name of a node over its children: that of the file where that says everything, else one with
/// `json:` in front. `named` is what the image says is below it.
pub(super) fn name_of(
    driver: &str,
    children: &[Arc<Edge>],
    given: &Options,
    named: Option<&str>,
) -> String {
    let target = |name| children.iter().find(|edge| edge.name() == name)?.target();
    let strong = strong_options(driver, given);
    let below = target("backing").map(|node| node.filename());
    let overridden = below.as_deref() != named;
    if let Some(file) = target("file")
        && (file.children().is_empty() || is_protocol(file.driver()))
        && !file.filename().starts_with("json:")
        && strong.is_empty()
        && !overridden
    {
        return file.filename();
    }
    full_options(driver, children, strong, overridden).to_json_name()
}

/// The name of what an image says is below it.
pub(super) async fn named_below(image: &Layer) -> Result<Option<String>> {
    let backing = image.driver().describe().await?.backing;
    Ok(backing.map(|backing| combine_path(image.filename(), &backing.name)))
}

/// The name of a filter: a plain one where the driver has such names and they say everything.
pub(super) fn filter_name(driver: &str, children: &[Arc<Edge>], given: &Options) -> String {
    let strong = strong_options(driver, given);
    let plain = |name: &str| {
        let target = children.iter().find(|edge| edge.name() == name)?.target()?;
        Some(target.filename()).filter(|filename| !filename.starts_with("json:"))
    };
    match driver {
        // They show their file under its own name.
        "copy-before-write" | "snapshot-access" => {
            let file = children.first().and_then(|edge| edge.target());
            file.map(|file| file.filename()).unwrap_or_default()
        }
        "null-co" | "null-aio" if strong.is_empty() => format!("{driver}://"),
        "blkverify" => match (plain("raw"), plain("test")) {
            (Some(raw), Some(test)) => format!("blkverify:{raw}:{test}"),
            _ => full_options(driver, children, strong, false).to_json_name(),
        },
        "blkdebug" => match plain("image") {
            Some(image) if strong.names().all(|name| name == "config") => {
                let config = given.peek("config").unwrap_or_default();
                format!("blkdebug:{config}:{image}")
            }
            _ => full_options(driver, children, strong, false).to_json_name(),
        },
        _ => full_options(driver, children, strong, false).to_json_name(),
    }
}

/// Options that change what is read.
fn strong_options(driver: &str, given: &Options) -> Options {
    let mut out = Options::default();
    let names: &[&str] = match driver {
        "raw" => &["offset", "size"],
        "null-co" | "null-aio" => &["size", "read-zeroes"],
        "blklogwrites" => &["log-append", "log-sector-size"],
        "quorum" => &["vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern"],
        "replication" => &["mode", "top-id"],
        "throttle" => &["throttle-group"],
        "blkdebug" => &[
            "config",
            "align",
            "max-transfer",
            "opt-write-zero",
            "max-write-zero",
            "opt-discard",
            "max-discard",
        ],
        _ => &[],
    };
    let rules = |name: &str| driver == "blkdebug" && is_flat(name);
    for name in given.names().filter(|name| names.contains(name) || rules(name)) {
        if let Some(value) = given.get(name) {
            out.set(name, value.clone());
        }
    }
    out
}

fn full_options(
    driver: &str,
    children: &[Arc<Edge>],
    strong: Options,
    with_backing: bool,
) -> Options {
    let mut out = strong;
    out.set("driver", OptionValue::Text(driver.to_string()));
    for (i, edge) in children.iter().enumerate() {
        match (edge.name(), edge.target()) {
            ("backing", _) if !with_backing => {}
            // A quorum's are a list, whichever of them are left.
            (_, Some(node)) if driver == "quorum" => {
                out.add_child(&format!("children.{i}"), options_to_open(&node));
            }
            (name, Some(node)) => out.add_child(name, options_to_open(&node)),
            (name, None) => out.set(name, OptionValue::Null),
        }
    }
    out
}

/// The options by which a node can be opened again.
fn options_to_open(node: &Node) -> Options {
    let given = node.options();
    let children = node.children();
    if matches!(node.driver(), "null-co" | "null-aio") {
        return full_options(node.driver(), &[], strong_options(node.driver(), &given), false);
    }
    if children.is_empty() {
        return of_protocol(&given);
    }
    let strong = strong_options(node.driver(), &given);
    let overridden = node.filename().starts_with("json:");
    full_options(node.driver(), &children, strong, overridden)
}

/// Of the options of a protocol, those that say what is opened; the others say how.
pub(super) fn of_protocol(given: &Options) -> Options {
    let mut own = Options::default();
    for name in given.names() {
        let general = name == "node-name"
            || name.starts_with("cache.")
            || matches!(
                name,
                "read-only"
                    | "auto-read-only"
                    | "discard"
                    | "detect-zeroes"
                    | "force-share"
                    | "active"
                    | "aio"
                    | "aio-max-batch"
                    | "drop-cache"
                    | "locking"
                    | "pr-manager"
                    | "x-check-cache-dropped"
            );
        if let Some(value) = given.get(name).filter(|_| !general) {
            own.set(name, value.clone());
        }
    }
    own
}
