//! Help names the options that the reference's help names, and the formats are where scripts look.

use crate::lines::Program;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const VERBS: [&str; 15] = [
    "amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "info",
    "map", "measure", "rebase", "resize", "snapshot",
];

/// What the reference's help names and the reference does not have.
const SLIPS: [(&str, &str); 5] = [
    ("amend", "--progres"),
    ("bench", "--quiet"),
    ("bitmap", "--format"),
    ("check", "-u"),
    ("measure", "-s"),
];

/// Options of convert by names that they do not have, and those that are not there yet.
const OF_CONVERT: [&str; 11] = [
    "--target-format",
    "--source-snapshot",
    "--target-options",
    "--target-cache",
    "--no-create",
    "--compress",
    "--progress",
    "--source-image-opts",
    "--target-image-opts",
    "--bitmaps",
    "--skip-broken-bitmaps",
];

/// Every `-o` and `--option` of a text.
fn options(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    for part in text.split(|c: char| !word(c)) {
        let name = part.trim_start_matches('-');
        let dashes = part.len() - name.len();
        if (1..=2).contains(&dashes) && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            out.insert(part.to_owned());
        }
    }
    out
}

fn help(program: &str, folder: Option<&Path>, words: &[&str], how: &str) -> String {
    let program = folder.map_or_else(|| program.into(), |folder| folder.join(program));
    let output = Command::new(program).args(words).arg(how).output().expect("it starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?} {how}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Compares the help of all commands; `bin` has ours by the names of the reference.
pub(crate) fn compare(bin: &Path) {
    for program in Program::ALL {
        let name = program.name();
        let verbs: Vec<&[&str]> = match program {
            Program::Img => VERBS.chunks(1).chain([&[][..]]).collect(),
            _ => vec![&[]],
        };
        for verb in verbs {
            let theirs = options(&help(name, None, verb, "--help"));
            for how in ["--help", "-h"] {
                let ours = options(&help(name, Some(bin), verb, how));
                let missing: Vec<_> = theirs.difference(&ours).collect();
                let slip =
                    |option: &str| SLIPS.iter().any(|(of, slip)| *verb == [*of] && option == *slip);
                let renamed = |option: &str| *verb == ["convert"] && OF_CONVERT.contains(&option);
                let missing: Vec<_> =
                    missing.into_iter().filter(|o| !slip(o) && !renamed(o)).collect();
                assert!(missing.is_empty(), "{name} {verb:?} {how}: {missing:?}");
            }
        }
        let version = help(name, Some(bin), &[], "--version");
        let first = |text: &str| {
            let line = text.lines().next().unwrap_or_default();
            line.split(" (").next().unwrap_or_default().to_owned()
        };
        assert_eq!(first(&version), first(&help(name, None, &[], "--version")));
        assert_eq!(version, help(name, Some(bin), &[], "-V"));
    }
    let text = help("qemu-img", Some(bin), &[], "--help");
    let formats = text.split_once("Supported image formats:").expect("the list").1;
    let formats: Vec<&str> = formats.split_whitespace().collect();
    assert!(formats.contains(&"qcow2") && formats.contains(&"raw"), "{formats:?}");
}
