//! A value as text: ASCII, escapes and spaces as the reference has them.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use serde_json::{Number, Value};

/// How a value is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// In one line.
    #[default]
    Line,
    /// A line each member, by four spaces a level; lines end in `\r\n`, as on a terminal.
    Pretty,
}

/// The text of `value`, without the end of its last line.
#[must_use]
pub fn write(value: &Value, layout: Layout) -> String {
    let mut out = String::new();
    put(&mut out, value, layout, 0);
    out
}

fn put(out: &mut String, value: &Value, layout: Layout, level: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => put_number(out, number),
        Value::String(text) => put_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(out, layout, level + 1, i == 0);
                put(out, item, layout, level + 1);
            }
            end(out, layout, level);
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (i, (name, member)) in members.iter().enumerate() {
                separate(out, layout, level + 1, i == 0);
                put_text(out, name);
                out.push_str(": ");
                put(out, member, layout, level + 1);
            }
            end(out, layout, level);
            out.push('}');
        }
    }
}

fn separate(out: &mut String, layout: Layout, level: usize, first: bool) {
    match (layout, first) {
        (Layout::Line, true) => {}
        (Layout::Line, false) => out.push_str(", "),
        (Layout::Pretty, true) => new_line(out, level),
        (Layout::Pretty, false) => {
            out.push(',');
            new_line(out, level);
        }
    }
}

fn end(out: &mut String, layout: Layout, level: usize) {
    if layout == Layout::Pretty {
        new_line(out, level);
    }
}

fn new_line(out: &mut String, level: usize) {
    out.push_str("\r\n");
    (0..level).for_each(|_| out.push_str("    "));
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out.push('"');
}

fn put_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(float) if number.is_f64() => out.push_str(&seventeen_digits(float)),
        // Writing to a string does not fail.
        _ => drop(write!(out, "{number}")),
    }
}

/// As C's `%.17g`: every number comes back as it was.
fn seventeen_digits(value: f64) -> String {
    const DIGITS: i32 = 17;
    let scientific = format!("{value:.16e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => String::from(text.trim_end_matches('0').trim_end_matches('.')),
        false => String::from(text),
    };
    match usize::try_from(DIGITS - 1 - exponent) {
        Ok(decimals) if exponent >= -4 => trim(&format!("{value:.decimals$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trim(digits), exponent.abs())
        }
    }
}
