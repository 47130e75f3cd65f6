//! What nodes tell without being asked: the events of `block-core.json` that are about nodes.

use super::edge::User;
use super::filters::Filter;
use super::node::Node;
use crate::filter::{QuorumEvent, QuorumOpType as Op};
use crate::format::DriverEvent;
use crate::qapi::{
    BlockImageCorrupted, BlockWriteThreshold, QuorumFailure, QuorumOpType, QuorumReportBad,
};
use alloc::string::{String, ToString};
use alloc::sync::Arc;

impl Node {
    /// The name of the device that uses it, or an empty one.
    #[must_use]
    pub fn device_name(&self) -> String {
        let named = self.parents().iter().find_map(|edge| match edge.user() {
            User::Root(root) => root.upgrade().filter(|root| !root.name().is_empty()),
            User::Node(_) | User::Coming { .. } => None,
        });
        named.map(|root| root.name().to_string()).unwrap_or_default()
    }

    /// Tells what its body tells from now on, and what it has told nobody yet.
    pub(super) fn listen(self: &Arc<Self>) {
        let body = self.body();
        if let Some(image) = &body.image {
            let node = Arc::downgrade(self);
            image.driver().listen(Arc::new(move |event| {
                if let Some(node) = node.upgrade() {
                    node.tell_of_image(event);
                }
            }));
        }
        if let Some(Filter::Quorum(quorum)) = &body.filter {
            let node = Arc::downgrade(self);
            quorum.on_event(Arc::new(move |event| {
                if let Some(node) = node.upgrade() {
                    node.tell_of_vote(event);
                }
            }));
        }
    }

    fn tell_of_image(&self, event: &DriverEvent) {
        if let DriverEvent::Corrupted(found) = event {
            let told = BlockImageCorrupted {
                device: self.device_name(),
                node_name: Some(self.name().to_string()),
                msg: found.msg.clone(),
                offset: found.offset,
                size: found.size,
                fatal: found.fatal,
            };
            self.events().tell("BLOCK_IMAGE_CORRUPTED", &told);
        }
    }

    fn tell_of_vote(&self, event: QuorumEvent) {
        match event {
            QuorumEvent::Failure { sector_num, sectors_count } => {
                let device = self.device_name();
                let reference = if device.is_empty() { self.name().to_string() } else { device };
                let told = QuorumFailure { reference, sector_num, sectors_count };
                self.events().tell("QUORUM_FAILURE", &told);
            }
            QuorumEvent::ReportBad { op, error, node_name, sector_num, sectors_count } => {
                let told = QuorumReportBad {
                    r#type: match op {
                        Op::Read => QuorumOpType::Read,
                        Op::Write => QuorumOpType::Write,
                        Op::Flush => QuorumOpType::Flush,
                    },
                    error,
                    node_name,
                    sector_num,
                    sectors_count,
                };
                self.events().tell("QUORUM_REPORT_BAD", &told);
            }
        }
    }

    /// A write went `exceeded` bytes past the threshold.
    pub(super) fn tell_of_threshold(&self, exceeded: u64, threshold: u64) {
        let told = BlockWriteThreshold {
            node_name: self.name().to_string(),
            amount_exceeded: exceeded,
            write_threshold: threshold,
        };
        self.events().tell("BLOCK_WRITE_THRESHOLD", &told);
    }
}
