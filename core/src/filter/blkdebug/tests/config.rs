//! The rules file. The texts of the refusals are those of the reference.

use super::*;

#[test]
fn sections_become_rules() {
    let text = "# comment\n\n[inject-error]\n event = \"write_aio\"\nerrno = \"28\"\nonce = \"on\"\n\
                sector=\"0x10\"\niotype = \"write\"\n[set-state]\nevent = \"l2_load\"\n\
                state = \"1\"\nnew_state = \"2\"\n[inject-error \"id\"]\nevent = \"none\"\n";
    let (errors, changes) = parse_config(text).unwrap();
    let first =
        InjectError { errno: 28, once: true, sector: 16, ..on(WriteAio, BlkdebugIoType::Write) };
    assert_eq!(errors, [first, error(Creation)]);
    assert_eq!(changes, [change(DebugEvent::L2Load, 1, 2)]);
    assert_eq!(parse_config("").unwrap(), (vec![], vec![]));
    let (_, changes) = parse_config("[set-state]\nevent = \"none\"").unwrap();
    assert_eq!(changes, [change(Creation, 0, 0)]);
}

#[test]
fn what_is_no_rule_is_refused() {
    for (text, want) in [
        ("[inject-error]\nevent = \"bogus\"", "invalid parameter value: bogus"),
        ("[inject-error]\nevent = read_aio", "invalid parameter value: "),
        ("[inject-error]\nevent = \"none\"\niotype = \"x\"", "invalid parameter value: x"),
        ("[inject-error]\nerrno = \"28\"", "Missing event name for rule"),
        ("[bogus]\nevent=\"x\"", "There is no option group 'bogus'"),
        ("garbage", "no group defined"),
        ("[inject-error]\nerrno = \"2x\"", "Parameter 'errno' expects a number"),
        ("[set-state]\nnew_state = \"zz\"", "Parameter 'new_state' expects a number"),
        ("[inject-error]\nonce = \"maybe\"", "Parameter 'once' expects 'on' or 'off'"),
        ("[inject-error]\nbogus = \"1\"", "Invalid parameter 'bogus'"),
        ("[inject-error]\nnew_state = \"1\"", "Invalid parameter 'new_state'"),
        ("[inject-error\nevent = \"none\"", "parse error"),
        ("[inject-error]\nevent", "parse error"),
    ] {
        let error = parse_config(text).unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, want), "{text}");
    }
}

#[test]
fn no_text_makes_it_panic() {
    let words = [
        "[inject-error]\nevent = \"none\"\n",
        "[inject-error]",
        "[set-state]",
        "[",
        "]",
        "\"",
        "=",
        "event",
        "errno",
        "once",
        "\n",
        " ",
        "\"none\"",
        "event = \"none\"\n",
        "sector = \"-1\"\n",
        "0x",
        "\"0x\"",
        "ü",
        "#",
        "\u{0}",
        "new_state=\"99999999999999999999\"",
    ];
    let mut rng = crate::io::testing::Rng::new(1);
    let mut rules = 0;
    for _ in 0..20_000 {
        let text: String = (0..rng.between(0, 12)).map(|_| *rng.pick(&words)).collect();
        if let Ok((errors, changes)) = parse_config(&text) {
            rules += errors.len() + changes.len();
        }
    }
    assert!(rules > 0, "some of them are rules");
}
