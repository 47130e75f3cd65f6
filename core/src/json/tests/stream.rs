//! Values out of bytes as they arrive.

use super::*;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// All that is found, where the bytes come in pieces of the given lengths, the last one repeated.
fn found(input: &[u8], pieces: &[usize]) -> Vec<String> {
    let (mut splitter, mut out, mut rest) = (Splitter::new(), Vec::new(), input);
    let mut pieces = pieces.iter().copied();
    let mut length = pieces.next().unwrap_or(input.len());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        (rest, length) = (after, pieces.next().unwrap_or(length));
        let mut piece = piece;
        while !piece.is_empty() {
            let (taken, item) = splitter.take(piece);
            piece = &piece[taken..];
            match item {
                Some(Found::Value(value, _)) => out.push(write(&value, Layout::Line)),
                Some(Found::Broken(text)) => out.push(text),
                None => assert!(piece.is_empty(), "something was left without a reason"),
            }
        }
    }
    out
}

/// Inputs and what the reference says to each: `=` stands before a value, `~` for the usual words.
const CASES: &[(&[u8], &[&str])] = &[
    (b"{'a':1} [2]{}", &["={\"a\": 1}", "=[2]", "={}"]),
    (b"1 \"a\" true null ", &["=1", "=\"a\"", "=true", "=null"]),
    (b"}{}", &["~expecting value", "={}"]),
    (b"{\"a\":1]}{}", &["~expected separator in dict", "~expecting value", "={}"]),
    (b"[1}]{}", &["~expected separator in list", "~expecting value", "={}"]),
    (b"[{]}{}", &["~expecting value", "={}"]),
    (b"foo\n{}", &["~invalid keyword 'foo'", "={}"]),
    (b"tr1 {}", &["~invalid keyword 'tr'", "=1", "={}"]),
    (b"AB% 1 2{}", &["~stray 'A'", "={}"]),
    (b"A\n1 {}", &["~stray 'A'", "=1", "={}"]),
    (b"A\r1 {}", &["~stray 'A'", "=1", "={}"]),
    (b"A\t1 {}", &["~stray 'A'", "={}"]),
    (b"A,1 {}", &["~stray 'A'", "~expecting value", "=1", "={}"]),
    (b"A\xff 1{}", &["~stray 'A'", "~stray '\u{fffd}'", "={}"]),
    (b"A\xc3 1{}", &["~stray 'A'", "={}"]),
    (b"A\x001{}", &["~stray 'A'", "~stray ''", "={}"]),
    (b"[A 1 2 B] {}", &["~stray 'A'", "~expecting value", "={}"]),
    (b"{\"a\":\"x\nb\"}\n{}", &["~stray '\"x\n'", "~expecting value", "={}"]),
    (b"[\"\\\x01\"]{}", &["~stray '\"\\\u{1}'", "~expecting value", "={}"]),
    (b"\"a\xffb\"\n{}", &["~stray '\"a\u{fffd}'", "={}"]),
    (b"[\"a\xc3\x28\" 1]{}", &["~invalid UTF-8 sequence in string", "={}"]),
    (b"[1 \"\xc3\x28\"]{}", &["~expected separator in list", "={}"]),
    (b"\"\xef\xbf\xbe\"{}", &["~invalid UTF-8 sequence in string", "={}"]),
    (b"\"\xed\xa0\x80\"{}", &["~invalid UTF-8 sequence in string", "={}"]),
    (b"\"\\u12\"{}", &["~\\u12\" is not a valid Unicode character", "={}"]),
    (b"\"\\ud800\\u0041\"{}", &["~\\ud800 is not a valid Unicode character", "={}"]),
    (b"\"\\ud83f\\udffe\"{}", &["~\\ud83f\\udffe is not a valid Unicode character", "={}"]),
    (b"\"\\u12\xc3\xa4\"{}", &["~\\u12\u{e4} is not a valid Unicode character", "={}"]),
    (b"\"\\u0000\"{}", &["=\"\\u0000\"", "={}"]),
    (b"\"\\x\"{}", &["~invalid escape sequence in string", "={}"]),
    (b"[01]{}", &["~stray '01'", "~expecting value", "={}"]),
    (b"[0123 ,1]{}", &["~stray '01'", "~expecting value", "=1", "~expecting value", "={}"]),
    (b"[1. ]{}", &["~stray '1. '", "~expecting value", "={}"]),
    (b"[1e]{}", &["~stray '1e]'", "={}"]),
    (b"--1{}", &["~stray '--'", "={}"]),
    (b"1.5.5{}", &["=1.5", "~stray '.'", "={}"]),
    (b"1e5e{}", &["=100000", "~invalid keyword 'e'", "={}"]),
    (b"0x10{}", &["=0", "~invalid keyword 'x'", "=10", "={}"]),
    (b"{1:2}{}", &["~key is not a string in object", "={}"]),
    (b"{\"a\":1,}{}", &["~expecting value", "={}"]),
];

fn wanted(want: &[&str]) -> Vec<String> {
    let text = |item: &&str| match item.strip_prefix('~') {
        Some(error) => format!("JSON parse error, {error}"),
        None => item.trim_start_matches('=').to_string(),
    };
    want.iter().map(text).collect()
}

#[test]
fn the_reference_says_the_same() {
    for (input, want) in CASES {
        assert_eq!(found(input, &[]), wanted(want), "{}", String::from_utf8_lossy(input));
    }
}

#[test]
fn pieces_change_nothing() {
    for (input, want) in CASES {
        assert_eq!(found(input, &[1]), wanted(want), "{}", String::from_utf8_lossy(input));
        for cut in 1..input.len() {
            let got = found(input, &[cut, input.len()]);
            assert_eq!(got, wanted(want), "{} at {cut}", String::from_utf8_lossy(input));
        }
    }
}

#[test]
fn depth_ends_at_1024() {
    let deep = |n: usize| ["[".repeat(n), "]".repeat(n)].concat();
    assert_eq!(found(deep(1024).as_bytes(), &[]).len(), 1);
    let got = found(deep(1025).as_bytes(), &[]);
    assert_eq!(got[0], "JSON nesting depth limit exceeded");
    assert_eq!(got.len(), 1026);
}

#[test]
fn words_are_counted() {
    let list = |words: usize| ["[", &"1,".repeat((words - 3) / 2), "1]"].concat();
    let got = found(list(MAX_TOKENS - 1).as_bytes(), &[4096]);
    assert_eq!(got.len(), 1);
    assert!(got[0].starts_with("[1, 1"));
    let got = found(list(MAX_TOKENS + 1).as_bytes(), &[4096]);
    assert_eq!(got, ["JSON token count limit exceeded"]);
}

#[test]
fn no_word_grows_beyond_the_limit() {
    let mut splitter = Splitter::new();
    let piece = vec![b'a'; 1 << 20];
    assert_eq!(splitter.take(b"[\"").1, None);
    let mut broken = 0;
    for _ in 0..100 {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (taken, item) = splitter.take(rest);
            rest = &rest[taken..];
            broken += usize::from(item.is_some());
        }
        assert!(splitter.kept() <= 2 * MAX_SIZE, "{}", splitter.kept());
    }
    assert!(broken >= 1);
}

#[test]
fn spaces_cost_nothing() {
    let mut splitter = Splitter::new();
    let piece = vec![b' '; 1 << 20];
    splitter.take(b"[");
    for _ in 0..100 {
        assert_eq!(splitter.take(&piece), (piece.len(), None));
    }
    assert!(splitter.kept() < 1024);
}
