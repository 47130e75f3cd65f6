//! Bytes that a peer sent, taken apart with checks.

use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};

/// What is wrong with what the peer sent.
pub(super) fn violation(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt(what).in_format("nbd")
}

/// Takes big-endian numbers and strings from the front of some bytes.
pub(super) struct Fields<'a> {
    left: &'a [u8],
    /// What the bytes are, for messages.
    of: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], of: &'static str) -> Self {
        Self { left: bytes, of }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.left.split_first_chunk().ok_or_else(|| self.short(N as u64))?;
        self.left = rest;
        Ok(*first)
    }

    fn short(&self, wanted: u64) -> Error {
        violation(format!(
            "{} ends {:#x} bytes early: {wanted:#x} wanted, {:#x} left",
            self.of,
            wanted.saturating_sub(self.left.len() as u64),
            self.left.len()
        ))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string of `len` bytes, at most `limit`.
    pub(super) fn text(&mut self, len: usize, limit: usize, what: &str) -> Result<&'a str> {
        if len > limit {
            return Err(violation(format!("{what} of {len:#x} bytes, more than {limit:#x}")));
        }
        let bytes = self.left.get(..len).ok_or_else(|| self.short(len as u64))?;
        self.left = &self.left[len..];
        core::str::from_utf8(bytes).map_err(|_| violation(format!("{what} is not UTF-8")))
    }

    /// A string with its length (32 bits) in front.
    pub(super) fn counted_text(&mut self, limit: usize, what: &str) -> Result<&'a str> {
        let len = self.u32()?;
        self.text(usize::try_from(len).unwrap_or(usize::MAX), limit, what)
    }

    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// All that is left, as a string.
    pub(super) fn rest(&mut self, limit: usize, what: &str) -> Result<String> {
        self.text(self.left.len(), limit, what).map(ToString::to_string)
    }

    /// All that is left, as a string that is only shown: cut and repaired rather than refused.
    pub(super) fn message(&self) -> String {
        let shown = &self.left[..self.left.len().min(super::layout::MAX_STRING)];
        String::from_utf8_lossy(shown)
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        match self.left.len() {
            0 => Ok(()),
            n => Err(violation(format!("{} has {n:#x} bytes too many", self.of))),
        }
    }
}
