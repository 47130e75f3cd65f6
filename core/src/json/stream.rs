//! Values out of bytes as they arrive.
//!
//! A value ends where its brackets are closed, as many as were opened; what stands outside of
//! brackets is a value by itself. What is no word of the language ends the value, and everything
//! up to the next bracket, comma, colon or line is passed over.
//!
//! Invariants: how the bytes are cut into pieces changes nothing; no more than twice
//! [`MAX_SIZE`] bytes are kept.

use super::parse::{MAX_DEPTH, TOO_DEEP, parse};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use serde_json::Value;

/// No word, and no value, has more bytes than this.
pub const MAX_SIZE: usize = 64 << 20;
/// A value has no more words than this.
pub const MAX_TOKENS: usize = 2 << 20;
/// A buffer that has grown larger than this is given back.
const KEPT: usize = 64 << 10;

/// What a stream has next.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A value, and how many bytes it was made of.
    Value(Value, usize),
    /// What is wrong, in the reference's words.
    Broken(String),
}

/// Where in a word the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum At {
    #[default]
    Start,
    /// After something that is no word.
    Recovery,
    Text(u8),
    /// Behind a backslash in a text.
    Escape(u8),
    Minus,
    /// A zero that begins a number.
    Zero,
    Whole,
    Point,
    Fraction,
    /// The `e` of an exponent.
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// What a byte means.
enum Next {
    /// It goes on with the word.
    On(At),
    /// It ends the word, and belongs to it.
    Last,
    /// The word has ended before it.
    Before,
    /// It makes the word none.
    Stray,
    /// It belongs to nothing.
    Skip(At),
}

/// Finds values in a stream of bytes.
#[derive(Debug, Default)]
pub struct Splitter {
    at: At,
    /// The words so far, as they came, with a space after those that need one.
    text: Vec<u8>,
    /// Where the word begins that is under way.
    word: usize,
    tokens: usize,
    braces: isize,
    brackets: isize,
}

impl Splitter {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from `input` until something is found, and tells how many it took.
    pub fn take(&mut self, input: &[u8]) -> (usize, Option<Found>) {
        let mut taken = 0;
        while let Some(&byte) = input.get(taken) {
            let found = match next(self.at, byte) {
                Next::Skip(at) => {
                    self.at = at;
                    taken += 1;
                    None
                }
                Next::On(at) => {
                    self.at = at;
                    taken += 1;
                    self.text.push(byte);
                    match self.text.len() - self.word > MAX_SIZE {
                        true => Some(self.fail("JSON token size limit exceeded".into())),
                        false => None,
                    }
                }
                Next::Last => {
                    taken += 1;
                    self.text.push(byte);
                    self.word_ended(byte)
                }
                Next::Before => {
                    let first = self.text.get(self.word).copied().unwrap_or_default();
                    self.text.push(b' ');
                    self.word_ended(first)
                }
                Next::Stray => {
                    taken += 1;
                    self.text.push(byte);
                    let shown = shown(&self.text[self.word..]);
                    let broken = self.fail(format!("JSON parse error, stray '{shown}'"));
                    self.at = At::Recovery;
                    Some(broken)
                }
            };
            if found.is_some() {
                return (taken, found);
            }
        }
        (taken, None)
    }

    /// A word that ends in (or, where it is longer than a byte, begins with) `mark` is complete.
    fn word_ended(&mut self, mark: u8) -> Option<Found> {
        self.at = At::Start;
        self.tokens += 1;
        // The end of a text is a quote, which is none of these.
        match mark {
            b'{' => self.braces += 1,
            b'}' => self.braces -= 1,
            b'[' => self.brackets += 1,
            b']' => self.brackets -= 1,
            _ => {}
        }
        if self.text.len() > MAX_SIZE {
            return Some(self.fail("JSON token size limit exceeded".into()));
        }
        if self.tokens > MAX_TOKENS {
            return Some(self.fail("JSON token count limit exceeded".into()));
        }
        if self.braces + self.brackets > MAX_DEPTH as isize {
            return Some(self.fail(TOO_DEEP.into()));
        }
        self.word = self.text.len();
        let open = self.braces >= 0 && self.brackets >= 0 && self.braces + self.brackets > 0;
        if open {
            return None;
        }
        let size = self.text.len();
        let found = match parse(&readable(&self.text)) {
            Ok(value) => Found::Value(value, size),
            Err(error) => Found::Broken(error.what().into()),
        };
        self.reset();
        Some(found)
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.text.capacity()
    }

    fn fail(&mut self, why: String) -> Found {
        self.reset();
        Found::Broken(why)
    }

    fn reset(&mut self) {
        self.text.clear();
        if self.text.capacity() > KEPT {
            self.text = Vec::new();
        }
        (self.at, self.word, self.tokens) = (At::Start, 0, 0);
        (self.braces, self.brackets) = (0, 0);
    }
}

fn next(at: At, byte: u8) -> Next {
    let digit = byte.is_ascii_digit();
    match at {
        At::Start => match byte {
            b' ' | b'\t' | b'\r' | b'\n' => Next::Skip(At::Start),
            b'{' | b'}' | b'[' | b']' | b':' | b',' => Next::Last,
            b'"' | b'\'' => Next::On(At::Text(byte)),
            b'-' => Next::On(At::Minus),
            b'0' => Next::On(At::Zero),
            b'1'..=b'9' => Next::On(At::Whole),
            b'a'..=b'z' => Next::On(At::Keyword),
            _ => Next::Stray,
        },
        At::Recovery => match byte {
            b'\r' | b'\n' => Next::Skip(At::Start),
            b'{' | b'}' | b'[' | b']' | b':' | b',' => Next::Last,
            // Bytes by which a client says that it begins anew.
            b'\t' => Next::Skip(At::Recovery),
            0..=0x1f | 0xfe | 0xff => Next::Stray,
            _ => Next::Skip(At::Recovery),
        },
        At::Text(quote) => match byte {
            0..=0x1f | 0xfe | 0xff => Next::Stray,
            b'\\' => Next::On(At::Escape(quote)),
            _ if byte == quote => Next::Last,
            _ => Next::On(at),
        },
        At::Escape(quote) => match byte {
            0..=0x1f | 0xfe | 0xff => Next::Stray,
            _ => Next::On(At::Text(quote)),
        },
        At::Minus => match byte {
            b'0' => Next::On(At::Zero),
            b'1'..=b'9' => Next::On(At::Whole),
            _ => Next::Stray,
        },
        At::Zero if digit => Next::Stray,
        At::Zero | At::Whole => match byte {
            _ if digit => Next::On(at),
            b'.' => Next::On(At::Point),
            b'e' | b'E' => Next::On(At::Exponent),
            _ => Next::Before,
        },
        At::Point if !digit => Next::Stray,
        At::Point | At::Fraction => match byte {
            _ if digit => Next::On(At::Fraction),
            b'e' | b'E' => Next::On(At::Exponent),
            _ => Next::Before,
        },
        At::Exponent if matches!(byte, b'+' | b'-') => Next::On(At::ExponentSign),
        At::Exponent | At::ExponentSign if !digit => Next::Stray,
        At::Exponent | At::ExponentSign | At::ExponentDigits => match digit {
            true => Next::On(At::ExponentDigits),
            false => Next::Before,
        },
        At::Keyword => match byte {
            b'a'..=b'z' => Next::On(at),
            _ => Next::Before,
        },
    }
}

/// Bytes as the text of an error shows them: as far as a C string goes.
fn shown(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let mut out = String::new();
    for chunk in bytes[..end].utf8_chunks() {
        out.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}

/// The words as text. What is not UTF-8 becomes a character that no text may have.
fn readable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        // Writing to a string does not fail.
        let _ = out.write_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            out.push('\u{ffff}');
        }
    }
    out
}
