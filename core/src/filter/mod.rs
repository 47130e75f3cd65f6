//! Filters: devices that change what happens on the way, not what is stored.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `copy_on_read` | what is read from a backing file is kept in the image above it |

mod copy_on_read;

pub use copy_on_read::CopyOnRead;
