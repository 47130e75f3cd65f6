//! Operations as data: generated, run, shrunk, printed, and read back.
//!
//! The text of a [`Plan`] is meant to be pasted from a failure into a test:
//!
//! | text | operation (numbers in hexadecimal, except the tag) |
//! | --- | --- |
//! | `r200+10` | read 0x10 bytes at 0x200 |
//! | `w200+10=7` | write the [`payload`] with tag 7 there; flags follow: `C` compressed, `F` forced (FUA) |
//! | `z200+10` | write zeroes; flags follow: `U` may unmap, `N` no fallback |
//! | `d200+10` | discard |
//! | `f` | flush |
//! | `l1000` | change the length |
//! | `x200+10` | ask for the extents |
//! | `k3` | keep the state of the whole disk under the number 3 (decimal) |
//! | `g3` | go back to it |
//! | `t3` | throw it away |
//! | `o` | close and open again |
//! | `(r0+10 w10+10=8)` | all at the same time |

use super::super::rng::scatter;
use crate::io::{Segments, WriteFlags, ZeroFlags};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::iter::Peekable;
use core::ops::Range;
use core::str::{Chars, FromStr};

/// One operation on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads a range.
    Read(Range<u64>),
    /// Writes [`payload`]`(tag, …)`.
    Write {
        /// Where.
        range: Range<u64>,
        /// Which bytes.
        tag: u32,
        /// How.
        flags: WriteFlags,
    },
    /// Writes zeroes.
    Zero {
        /// Where.
        range: Range<u64>,
        /// How.
        flags: ZeroFlags,
    },
    /// Discards a range.
    Discard(Range<u64>),
    /// Flushes.
    Flush,
    /// Changes the length.
    SetLen(u64),
    /// Asks for all extents of a range.
    Extents(Range<u64>),
    /// Keeps the state of the whole disk under a number.
    Keep(u32),
    /// Goes back to a state that was kept. Where there is none of that number, nothing is done.
    GoBack(u32),
    /// Throws such a state away.
    Throw(u32),
    /// Closes the device and opens it again, where the subject can.
    Reopen,
    /// All of these at the same time. Those that touch a byte that one before them touches are
    /// left out, as are length changes, states, reopening and whatever exceeds the length.
    Batch(Vec<Self>),
}

impl Op {
    /// The bytes it concerns, where it concerns some.
    #[must_use]
    pub fn range(&self) -> Option<&Range<u64>> {
        match self {
            Self::Read(range)
            | Self::Write { range, .. }
            | Self::Zero { range, .. }
            | Self::Discard(range)
            | Self::Extents(range) => Some(range),
            Self::Flush
            | Self::SetLen(_)
            | Self::Keep(_)
            | Self::GoBack(_)
            | Self::Throw(_)
            | Self::Reopen
            | Self::Batch(_) => None,
        }
    }
}

/// The bytes of a write: a function of its tag and its offset, so that a byte tells which write
/// put it there and for which place it was meant. Some tags are data throughout, some have zero
/// segments, bytes that happen to be zero, or nothing else.
#[must_use]
pub fn payload(tag: u32, offset: u64, len: u64) -> Segments {
    let mut data = Vec::with_capacity(len as usize);
    let mut word = [0; 8];
    for position in offset..offset + len {
        if position == offset || position % 8 == 0 {
            word = scatter((u64::from(tag) << 40) ^ (position / 8)).to_le_bytes();
        }
        // Data bytes are never zero: a lost one shows.
        data.push(word[(position % 8) as usize].max(1));
    }
    // Runs with borders that are aligned to nothing.
    let third = (len / 3) as usize;
    let run = third..(2 * third + usize::from(!len.is_multiple_of(3))).min(data.len());
    match tag % 8 {
        0 => Segments::zero(len),
        1 => {
            data[run].fill(0);
            data.into()
        }
        shape @ 2..=4 => {
            let data = Bytes::from(data);
            let mut out = Segments::new();
            let mut at = 0;
            // Zero segments in the middle, in front, or at the end.
            for (part, zero) in
                [(run.start, shape == 3), (run.end, shape == 2), (data.len(), shape == 4)]
            {
                match zero {
                    true => out.push_zero((part - at) as u64),
                    false => out.push_data(data.slice(at..part)),
                }
                at = part;
            }
            out
        }
        _ => data.into(),
    }
}

/// A list of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Op>);

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self {
            Self::Read(_) => 'r',
            Self::Write { .. } => 'w',
            Self::Zero { .. } => 'z',
            Self::Discard(_) => 'd',
            Self::Extents(_) => 'x',
            Self::Flush => return f.write_str("f"),
            Self::Reopen => return f.write_str("o"),
            Self::SetLen(len) => return write!(f, "l{len:x}"),
            Self::Keep(number) => return write!(f, "k{number}"),
            Self::GoBack(number) => return write!(f, "g{number}"),
            Self::Throw(number) => return write!(f, "t{number}"),
            Self::Batch(ops) => return write!(f, "({})", Plan(ops.clone())),
        };
        if let Some(Range { start, end }) = self.range() {
            write!(f, "{letter}{start:x}+{:x}", end - start)?;
        }
        let flag = |f: &mut fmt::Formatter<'_>, set: bool, letter: &str| match set {
            true => f.write_str(letter),
            false => Ok(()),
        };
        match self {
            Self::Write { tag, flags, .. } => {
                write!(f, "={tag}")?;
                flag(f, flags.contains(WriteFlags::COMPRESSED), "C")?;
                flag(f, flags.contains(WriteFlags::FUA), "F")
            }
            Self::Zero { flags, .. } => {
                flag(f, flags.contains(ZeroFlags::MAY_UNMAP), "U")?;
                flag(f, flags.contains(ZeroFlags::NO_FALLBACK), "N")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, op) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{op}")?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, rest: text.chars().peekable() };
        let plan = reader.ops()?;
        match reader.rest.next() {
            None => Ok(Self(plan)),
            Some(c) => Err(format!("'{c}' is not the beginning of an operation in '{text}'")),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn ops(&mut self) -> Result<Vec<Op>, String> {
        let mut ops = Vec::new();
        loop {
            while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
            let Some(letter) = self.rest.next_if(|c| "rwzdxflkgto(".contains(*c)) else {
                return Ok(ops);
            };
            ops.push(match letter {
                'f' => Op::Flush,
                'o' => Op::Reopen,
                'l' => Op::SetLen(self.number(16)?),
                'k' => Op::Keep(self.small()?),
                'g' => Op::GoBack(self.small()?),
                't' => Op::Throw(self.small()?),
                'r' => Op::Read(self.range()?),
                'd' => Op::Discard(self.range()?),
                'x' => Op::Extents(self.range()?),
                'w' => self.write()?,
                'z' => self.zero()?,
                _ => {
                    let batch = self.ops()?;
                    self.expect(')')?;
                    Op::Batch(batch)
                }
            });
        }
    }

    fn write(&mut self) -> Result<Op, String> {
        let range = self.range()?;
        self.expect('=')?;
        let tag = self.small()?;
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::COMPRESSED, self.rest.next_if_eq(&'C').is_some());
        flags.set(WriteFlags::FUA, self.rest.next_if_eq(&'F').is_some());
        Ok(Op::Write { range, tag, flags })
    }

    fn zero(&mut self) -> Result<Op, String> {
        let range = self.range()?;
        let mut flags = ZeroFlags::empty();
        flags.set(ZeroFlags::MAY_UNMAP, self.rest.next_if_eq(&'U').is_some());
        flags.set(ZeroFlags::NO_FALLBACK, self.rest.next_if_eq(&'N').is_some());
        Ok(Op::Zero { range, flags })
    }

    fn range(&mut self) -> Result<Range<u64>, String> {
        let start = self.number(16)?;
        self.expect('+')?;
        let len = self.number(16)?;
        let end = start.checked_add(len);
        Ok(start..end.ok_or_else(|| format!("a range in '{}' exceeds 64 bits", self.text))?)
    }

    fn number(&mut self, radix: u32) -> Result<u64, String> {
        let mut digits = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_digit(radix) && !c.is_ascii_uppercase()) {
            digits.push(c);
        }
        u64::from_str_radix(&digits, radix).map_err(|e| format!("a number in '{}': {e}", self.text))
    }

    fn small(&mut self) -> Result<u32, String> {
        let number = self.number(10)?;
        u32::try_from(number).map_err(|e| format!("the number {number} in '{}': {e}", self.text))
    }

    fn expect(&mut self, want: char) -> Result<(), String> {
        match self.rest.next() {
            Some(c) if c == want => Ok(()),
            other => {
                let found = other.map_or_else(|| "the end".to_string(), |c| format!("'{c}'"));
                Err(format!("{found} stands where '{want}' should in '{}'", self.text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Segment;

    #[test]
    fn the_text_of_a_plan_reads_back() {
        let text = "r0+10 w1ff+3=17 w0+1000=2C w0+1=3F w0+1=4CF z5+5 z5+5U z5+5N z5+5UN \
                    d20+1 f l1000 xc0de+f k1 g1 t12 o (r0+1 w1+1=5 f (z2+1)) ()";
        let plan: Plan = text.parse().expect("a plan");
        assert_eq!(plan.to_string(), text);
        assert_eq!(plan.0.len(), 19);
        assert_eq!(
            plan.0[1],
            Op::Write { range: 0x1ff..0x202, tag: 17, flags: WriteFlags::empty() }
        );
        assert_eq!("\n f\t".parse(), Ok(Plan(alloc::vec![Op::Flush])));
        for bad in [
            "q",
            "r0",
            "r0+",
            "w0+1",
            "w0+1=x",
            "(f",
            "f)",
            "l",
            "r1+ffffffffffffffff",
            "w0+1=99999999999",
        ] {
            assert!(bad.parse::<Plan>().is_err(), "{bad}");
        }
    }

    #[test]
    fn payloads_differ_by_tag_and_place_and_have_every_shape() {
        for len in [0, 1, 2, 3, 7, 64] {
            for tag in 0..16 {
                assert_eq!(payload(tag, 5, len).len(), len);
            }
        }
        let bytes = |tag, offset| payload(tag, offset, 64).to_vec();
        assert_eq!(bytes(5, 9)[1..], bytes(5, 10)[..63], "a byte is a function of its place");
        assert_ne!(bytes(5, 9), bytes(6, 9));
        assert!(bytes(5, 9).iter().all(|b| *b != 0));
        let shape = |tag| -> Vec<bool> {
            let list = payload(tag, 0, 64);
            list.as_slice().iter().map(|s| matches!(s, Segment::Zero(_))).collect()
        };
        assert_eq!(shape(0), [true]);
        assert_eq!(shape(1), [false]);
        assert!(bytes(1, 0).contains(&0));
        assert_eq!(shape(2), [false, true, false]);
        assert_eq!(shape(3), [true, false, false]);
        assert_eq!(shape(4), [false, false, true]);
    }
}
