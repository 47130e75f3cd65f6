//! Texts that are all there.

use super::*;
use alloc::string::ToString;
use serde_json::json;

#[test]
fn values_of_every_kind_and_quotes_of_both() {
    let text = r#" {'a': [1, -2, 18446744073709551615, 1.5e1, "x\u00e9\ud83d\ude00\n"], "b" : {}, 'c': [],
        "d": true, "e": null, "f": "it's"} "#;
    let want = json!({
        "a": [1, -2, 18_446_744_073_709_551_615_u64, 15.0, "x\u{e9}\u{1f600}\n"],
        "b": {}, "c": [], "d": true, "e": null, "f": "it's",
    });
    assert_eq!(parse(text).unwrap(), want);
}

#[test]
fn errors_read_as_the_reference_has_them() {
    for (text, want) in [
        ("", "Expecting a JSON value"),
        ("{", "JSON parse error, premature EOI"),
        (r#"{"a":1,"#, "JSON parse error, premature EOI"),
        (r#"{"a":1}}"#, "Expecting at most one JSON value"),
        ("{a:1}", "JSON parse error, invalid keyword 'a'"),
        (r#"{"a" 1}"#, "JSON parse error, missing : in object pair"),
        (r#"{"a":1 "b":2}"#, "JSON parse error, expected separator in dict"),
        (r#"{"a":[1 2]}"#, "JSON parse error, expected separator in list"),
        (r#"{"a":"\x"}"#, "JSON parse error, invalid escape sequence in string"),
        (r#"{"a":01}"#, "JSON parse error, stray '01'"),
        (r#"{"a":1.5e}"#, "JSON parse error, stray '1.5e}'"),
        (r#"{"a":-}"#, "JSON parse error, stray '-}'"),
        (r#"{"a":#}"#, "JSON parse error, stray '#'"),
        (r#"{"a":1,"a":2}"#, "JSON parse error, duplicate key"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(parse(&deep).unwrap_err().to_string().contains("nesting depth limit"));
}
