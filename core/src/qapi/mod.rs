//! The types of the block layer's schema: what `--output=json` prints and QMP speaks.
//!
//! One module a schema file, a large one divided by topic. Names are exactly the schema's. Each type
//! is one Rust definition under `#[qapi]` (crate `sectora-derive`), of which are made
//!
//! - its wire form, by serde: optional members are `Option` and absent from the text when `None`;
//! - its description ([`schema::Schema`]), by which [`validate`] refuses arguments with QEMU's words
//!   and by which the schema is told to clients.
//!
//! | here | in the schema |
//! | --- | --- |
//! | a struct with a field `base` | a struct with a base |
//! | an enum of names | an enumeration |
//! | an enum of structs | a union whose base is its tag alone |
//! | a struct with an enum `…Branch` | a union whose base has more; the enum's field is the tag |
//! | `Inet(InetSocketAddress)` with `content` | a branch that the schema wraps in a member `data` |
//! | [`schema::Size`], [`schema::Natural`] | `size`; `int` that is told and never negative |
//!
//! Members are declared in the order of the schema, so that what is wrong is found in QEMU's order;
//! those of types that QEMU's tools print in the order in which they print them, so that [`pretty`]
//! gives the same text, byte for byte. What depends on a condition of the schema (`cond`) is always
//! a part of the Rust type; [`schema::holds`] says whether it is accepted and told.
//!
//! These are plain data: nothing here computes or opens anything.

mod block_core;
mod block_export;
mod char;
mod common;
mod control;
mod crypto;
mod describe;
mod descriptors;
mod introspect;
mod job;
mod machine;
mod qom;
pub mod schema;
mod sockets;
mod tables;
mod transaction;
mod validate;

pub use block_core::*;
pub use block_export::*;
pub use char::*;
pub use common::*;
pub use control::*;
pub use crypto::*;
pub use describe::describe;
pub use descriptors::*;
pub use introspect::*;
pub use job::*;
pub use machine::*;
pub use qom::*;
pub use sockets::*;
pub use tables::{Command, Event, command, commands, event, events, machine_events, types};
pub use transaction::*;
pub use validate::{Invalid, parse, validate};

use crate::{Error, Result};
use alloc::string::String;
use core::fmt::Write as _;
use serde::Serialize;

/// True for what may name a node, a job or an export: a letter, then letters, digits, `-`, `.` and `_`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// JSON over several lines, as QEMU's tools lay it out: four spaces a level, one member or element
/// a line (the closing bracket of an empty one on its own line too), pure ASCII.
///
/// # Errors
/// `Bug` where `value` cannot be JSON; the types of this module always can.
pub fn pretty(value: &impl Serialize) -> Result<String> {
    let compact = serde_json::to_string(value)
        .map_err(|e| Error::bug(alloc::format!("cannot be written as JSON: {e}")))?;
    let mut out = String::with_capacity(compact.len() * 2);
    let (mut level, mut in_string, mut escaped) = (0usize, false, false);
    // Digits of a `\u` escape still to come.
    let mut digits = 0u8;
    for c in compact.chars() {
        if in_string {
            if digits > 0 {
                digits -= 1;
                out.push(c.to_ascii_uppercase());
                continue;
            }
            match c {
                'u' if escaped => (escaped, digits) = (false, 4),
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            push_ascii(&mut out, c);
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                level += 1;
                new_line(&mut out, level);
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                // An empty one has its line already, one level too deep.
                out.truncate(out.trim_end_matches([' ', '\n']).len());
                new_line(&mut out, level);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, level);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    Ok(out)
}

fn new_line(out: &mut String, level: usize) {
    out.push('\n');
    out.extend(core::iter::repeat_n("    ", level));
}

/// A character inside a string: as it is where ASCII, else as UTF-16 escapes.
fn push_ascii(out: &mut String, c: char) {
    if c.is_ascii() && c != '\x7f' {
        return out.push(c);
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{unit:04X}");
    }
}

#[cfg(test)]
mod tests;
