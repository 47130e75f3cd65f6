//! The command line: words to options, in two passes.
//!
//! The first pass finds what the line itself has wrong, `--help` and `--version`; only then is
//! anything carried out.

use crate::cli::failure::Failure;

/// What an option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AddFd,
    Help,
    Version,
    Trace,
    Blockdev,
    Chardev,
    Daemonize,
    Device,
    Export,
    Monitor,
    NbdServer,
    Object,
    PidFile,
    /// A word that belongs to no option.
    Stray,
}

/// An option as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) kind: Kind,
    pub(super) value: String,
    /// The words it was given by, which errors begin with.
    pub(super) words: String,
}

const LONG: [(&str, Kind, bool); 13] = [
    ("add-fd", Kind::AddFd, true),
    ("blockdev", Kind::Blockdev, true),
    ("chardev", Kind::Chardev, true),
    ("daemonize", Kind::Daemonize, false),
    ("device", Kind::Device, true),
    ("export", Kind::Export, true),
    ("help", Kind::Help, false),
    ("monitor", Kind::Monitor, true),
    ("nbd-server", Kind::NbdServer, true),
    ("object", Kind::Object, true),
    ("pidfile", Kind::PidFile, true),
    ("trace", Kind::Trace, true),
    ("version", Kind::Version, false),
];

/// What the first pass found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Help,
    Version,
    Options(Vec<Given>),
}

/// Reads the words behind the program's name.
pub(super) fn read(words: &[String]) -> Result<Line, Failure> {
    let mut options = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut given = match word.strip_prefix("--") {
            Some("") => break,
            Some(long) => of_long(word, long)?,
            None => match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                Some(letters) => of_letters(word, letters)?,
                None => Given { kind: Kind::Stray, value: word.clone(), words: word.clone() },
            },
        };
        if given.words.is_empty() {
            let missing = || match word.strip_prefix("--") {
                Some(_) => Failure::new(format!("option '--{}' requires an argument", given.value)),
                None => Failure::new(format!("option requires an argument -- '{}'", given.value)),
            };
            let value = words.next().ok_or_else(missing)?;
            given.words = format!("{word} {value}");
            given.value.clone_from(value);
        }
        match given.kind {
            Kind::Help => return Ok(Line::Help),
            Kind::Version => return Ok(Line::Version),
            _ => options.push(given),
        }
    }
    Ok(Line::Options(options))
}

/// An option by its long name or an unambiguous beginning of it. One that lacks its value has no
/// words yet, and its name for a value.
fn of_long(word: &str, long: &str) -> Result<Given, Failure> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    let mut found = LONG.iter().filter(|(known, ..)| known.starts_with(name));
    let (Some((known, kind, takes)), None) = (found.next(), found.next()) else {
        return Err(Failure::new(format!("unrecognized option '--{name}'")));
    };
    match (takes, value) {
        (true, Some(value)) => Ok(Given { kind: *kind, value: value.into(), words: word.into() }),
        (true, None) => Ok(Given { kind: *kind, value: (*known).into(), words: String::new() }),
        (false, None) => Ok(Given { kind: *kind, value: String::new(), words: word.into() }),
        (false, Some(_)) => {
            Err(Failure::new(format!("option '--{known}' doesn't allow an argument")))
        }
    }
}

/// An option by its letter: `-h` and `-V` end the line, so nothing can follow them.
fn of_letters(word: &str, letters: &str) -> Result<Given, Failure> {
    let given = |kind, value: &str| Ok(Given { kind, value: value.into(), words: word.into() });
    let mut chars = letters.chars();
    match (chars.next(), chars.as_str()) {
        (Some('h'), _) => given(Kind::Help, ""),
        (Some('V'), _) => given(Kind::Version, ""),
        (Some('T'), "") => Ok(Given { kind: Kind::Trace, value: "T".into(), words: String::new() }),
        (Some('T'), value) => given(Kind::Trace, value),
        (letter, _) => {
            let letter = letter.unwrap_or_default();
            Err(Failure::new(format!("invalid option -- '{letter}'")))
        }
    }
}
