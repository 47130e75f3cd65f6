//! The wire types of the block layer's schema: what `--output=json` prints and QMP speaks.
//!
//! One module a schema file. Names are exactly the schema's: types as they are, members and values
//! through serde. Optional members are `Option` and absent from the text when `None`; integers
//! that cannot be negative are unsigned. Members are declared in the order in which QEMU's tools
//! print them, so that [`pretty`] gives the same text, byte for byte.
//!
//! These are plain data: nothing here checks, computes or opens anything.

mod block_core;
mod common;
mod crypto;

pub use block_core::{
    BlockChildInfo, BlockGraphInfo, BlockMeasureInfo, BlockNodeInfo, BlockdevQcow2EncryptionFormat,
    BlockdevQcow2Version, ImageCheck, ImageInfo, ImageInfoSpecific, ImageInfoSpecificFile,
    ImageInfoSpecificKind, ImageInfoSpecificQCow2, ImageInfoSpecificQCow2Encryption, MapEntry,
    PreallocMode, Qcow2BitmapInfo, Qcow2BitmapInfoFlags, Qcow2CompressionType, SnapshotInfo,
};
pub use common::OnOffAuto;
pub use crypto::{
    QCryptoBlockInfoLUKS, QCryptoBlockInfoLUKSSlot, QCryptoCipherAlgo, QCryptoCipherMode,
    QCryptoHashAlgo, QCryptoIVGenAlgo,
};

use crate::{Error, Result};
use alloc::string::String;
use core::fmt::Write as _;
use serde::Serialize;

/// Gives an enumeration of the schema its names as text: `ALL`, `as_str`, `Display`, `FromStr`.
macro_rules! names {
    ($what:literal, $type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in the schema's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as it stands on the wire and in options.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl core::str::FromStr for $type {
            type Err = crate::Error;

            fn from_str(name: &str) -> crate::Result<Self> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(crate::Error::invalid(alloc::format!(
                        "unknown {} '{name}', expected one of: {}",
                        $what,
                        [$($name),+].join(", ")
                    ))),
                }
            }
        }
    };
}
pub(crate) use names;

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
