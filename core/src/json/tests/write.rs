//! What is written.

use super::*;
use serde_json::json;

#[test]
fn texts_are_ascii_and_numbers_come_back() {
    for (text, want) in [
        (r#"{"a":[1,-2,18446744073709551615],"b":{},"c":[]}"#, None),
        (
            r#""\u00e4\ud83d\ude00\"\\\n\u0001\u007f/\b\f\r\t""#,
            Some(r#""\u00E4\uD83D\uDE00\"\\\n\u0001\u007F/\b\f\r\t""#),
        ),
        ("0.1", Some("0.10000000000000001")),
        ("1e300", Some("1.0000000000000001e+300")),
        ("12345678901234567890123", Some("1.2345678901234568e+22")),
        ("-9223372036854775809", Some("-9.2233720368547758e+18")),
        ("1e2", Some("100")),
        ("-0.0", Some("-0")),
        ("1e-7", Some("9.9999999999999995e-08")),
        ("123456789.123456789", Some("123456789.12345679")),
        ("0.0001", Some("0.0001")),
        ("1e16", Some("10000000000000000")),
        ("1e17", Some("1e+17")),
    ] {
        let written = write(&parse(text).unwrap(), Layout::Line);
        let plain = text.replace(':', ": ").replace(',', ", ");
        assert_eq!(written, want.unwrap_or(&plain), "{text}");
    }
}

#[test]
fn pretty_is_a_line_each_member() {
    let value = json!({"a": [1, {}], "b": "x"});
    let want = "{\r\n    \"a\": [\r\n        1,\r\n        {\r\n        }\r\n    ],\r\n    \"b\": \"x\"\r\n}";
    assert_eq!(write(&value, Layout::Pretty), want);
}
