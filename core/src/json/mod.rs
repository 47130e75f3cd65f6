//! JSON as QEMU's programs read and write it.
//!
//! They read the standard, and strings in single quotes; they write ASCII. The texts of errors are
//! those of the reference, which scripts know.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `parse` | a value out of a text that is all there |
//! | `stream` | values out of bytes as they arrive |
//! | `write` | a value as text |

mod parse;
mod stream;
#[cfg(test)]
mod tests;
mod write;

pub use parse::parse;
pub use stream::{Found, MAX_SIZE, MAX_TOKENS, Splitter};
pub use write::{Layout, write};
