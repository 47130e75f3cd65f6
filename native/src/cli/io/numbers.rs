//! Numbers of the command language: how they are read, and how results are told.

use sectora_core::image::{SizeError, parse_size};
use std::time::Duration;

/// The longest request in bytes: what fits the schema's 31-bit lengths in whole sectors.
pub(super) const LONGEST: u64 = 2_147_483_136;

/// An offset or a length.
///
/// # Errors
/// What is wrong with it, in words, for `shown`.
pub(super) fn bytes_as(text: &str, shown: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(n) if n <= i64::MAX as u64 => Ok(n),
        Ok(_) | Err(SizeError::Range) => {
            Err(format!("Parsing error: argument too large -- {shown}"))
        }
        Err(SizeError::Syntax) => Err(format!(
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {shown}"
        )),
    }
}

/// An offset or a length that is shown as it was given.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    bytes_as(text, text)
}

/// The byte of a pattern.
pub(super) fn pattern(text: &str) -> Result<u8, String> {
    integer(text)
        .and_then(|n| u8::try_from(n).ok())
        .ok_or_else(|| format!("{text} is not a valid pattern byte"))
}

/// A whole number as the C library reads it with base 0: decimal, octal or hexadecimal. What does
/// not fit is the nearest that does.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let size = i128::from_str_radix(digits, radix).unwrap_or(i128::MAX);
    let value = if negative { -size } else { size };
    Some(i64::try_from(value).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

/// A number of bytes for people: up to three decimals and a unit.
pub(super) fn told(bytes: f64) -> String {
    const UNITS: [(&str, i32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, bits)| bytes >= 2f64.powi(*bits));
    let (number, unit) = match unit {
        Some((unit, bits)) => (format!("{:.3}", bytes / 2f64.powi(*bits)), *unit),
        None => (format!("{bytes:.6}"), "bytes"),
    };
    let whole = number.split_once('.').filter(|(_, part)| part.bytes().all(|b| b == b'0'));
    format!("{} {unit}", whole.map_or(number.as_str(), |(whole, _)| whole))
}

/// What a request did and how long it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// `read`, `wrote` or `discard`.
    pub(super) verb: &'static str,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    /// For programs, in one line.
    pub(super) terse: bool,
}

impl Report {
    pub(super) fn text(&self) -> String {
        // Rates for people: what a float cannot tell apart nobody will miss.
        let (bytes, seconds) = (self.bytes as f64, self.took.as_secs_f64().max(1e-9));
        let time = self.time();
        if self.terse {
            return format!(
                "{},1,{time},{:.3},{:.3}\n",
                self.bytes,
                bytes / seconds,
                1.0 / seconds
            );
        }
        format!(
            "{} {n}/{n} bytes at offset {}\n{}, 1 ops; {time} ({}/sec and {:.4} ops/sec)\n",
            self.verb,
            self.offset,
            told(bytes),
            told(bytes / seconds),
            1.0 / seconds,
            n = self.bytes,
        )
    }

    fn time(&self) -> String {
        let (seconds, hundredths) = (self.took.as_secs(), self.took.subsec_millis() / 10);
        if !self.terse && seconds < 60 {
            return format!("{seconds:02}.{hundredths:02} sec");
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        format!("{hours}:{minutes:02}:{:02}.{hundredths:02}", seconds % 60)
    }
}

/// Bytes as a table: offset, sixteen bytes a line, and what of them is a letter or digit.
pub(super) fn dump(offset: u64, data: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(data.len() * 5);
    for (at, line) in (offset..).step_by(16).zip(data.chunks(16)) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{at:08x}:  ");
        for byte in line {
            let _ = write!(text, "{byte:02x} ");
        }
        text.push(' ');
        text.extend(
            line.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '.' }),
        );
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_c_reads_them() {
        for (text, value) in [
            ("10", Some(10)),
            ("010", Some(8)),
            ("0x10", Some(16)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("99999999999999999999", Some(i64::MAX)),
            ("-99999999999999999999", Some(i64::MIN)),
            ("0x", None),
            ("08", None),
            ("1k", None),
            ("", None),
            ("--1", None),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }

    #[test]
    fn sizes_have_three_decimals_or_none() {
        for (bytes, text) in [
            (0.0, "0 bytes"),
            (111.072137, "111.072137 bytes"),
            (1023.0, "1023 bytes"),
            (1024.0, "1 KiB"),
            (4_063_232.0, "3.875 MiB"),
            (3_211_264.0, "3.062 MiB"),
            (3_145_729.0, "3 MiB"),
            (9.3e18, "8.066 EiB"),
        ] {
            assert_eq!(told(bytes), text);
        }
    }

    #[test]
    fn a_dump_has_sixteen_bytes_a_line() {
        let text = dump(90, b"\0A z09 _-~!\x80\xff\n\tbB");
        assert_eq!(
            text,
            "0000005a:  00 41 20 7a 30 39 20 5f 2d 7e 21 80 ff 0a 09 62  .A.z09.........b\n\
             0000006a:  42  B\n"
        );
    }
}
