//! Texts, streams and what is written.

use super::*;

mod parse;
mod stream;
mod write;
