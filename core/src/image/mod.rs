//! Whole-image operations: what `qemu-img` does, as a library.
//!
//! Every operation is a future that reports progress as data and is cancelled by dropping it. An
//! operation writes only to the devices it is given; making the result appear under its final
//! name is the host's last step.

mod amend;
mod bitmap;
#[cfg(test)]
mod chain_tests;
mod check;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod encryption;
mod info;
mod map;
mod measure;
mod options;
mod rate;
mod rebase;
#[cfg(test)]
mod tests;
mod walk;

pub use amend::amend;
pub use bitmap::{BitmapAction, bitmap, copy_bitmaps, persistent_bitmaps};
pub use check::{Check, check};
pub use commit::{CommitChain, CommitOptions, IsBase, commit};
pub use compact::{CompactOptions, Compacted, compact};
pub use compare::{CompareError, CompareOptions, Difference, compare};
pub use convert::{ConvertOptions, convert, stream};
pub use create::{NewImage, OVER_ITSELF, create};
pub use encryption::{NoSecrets, Secrets, amend_encryption, amend_encryption_options, no_secret};
pub use info::{info, info_chain, nested};
pub(crate) use info::{info_of_device, info_of_image};
pub use map::{Mapper, map};
pub use measure::{measure_new, measure_source};
pub use options::{
    CreateOption, OptionKind, OptionSet, SizeError, amend_options, create_options, list_items,
    parse_size,
};
pub use rebase::{RebaseOptions, rebase};

/// Is told how much of an operation is done, and how much there is in all. The unit is bytes of
/// work; the total may change while it runs.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// For callers that do not care.
pub fn no_progress(_: u64, _: u64) {}
