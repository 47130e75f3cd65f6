//! The words of a `qemu-img` command line, taken in the order in which they are given.
//!
//! That tool finds mistakes while it reads: the first one it meets is the one it tells of, whether
//! an option does not exist or a number is none. The parser that the verbs are declared with looks
//! at the line as a whole, so under the name `qemu-img` the words go through here first. What comes
//! out are the same options in one spelling, each with a value that has been looked at.
//!
//! The tables come from the installed tool, which tells the names of all options, in their order,
//! for `--=`. Source: qemu-img(1), and runs of version 10.0.2.

use super::args::{MAX_INT, MAX_OFFSET, bytes, bytes_in, check_list, number};
use super::compare::NOT_OPENED;
use super::convert::{parse_parallel, parse_sparse_size};
use super::failure::{Failure, option_mistake};
use super::io::getopt::{Found, Long, Options, Value};
use super::objects::Objects;
use super::output::{complain, warn};
use super::snapshot::SnapshotParam;
use crate::storage::OsError;
use clap::{Arg, Command};
use std::ffi::OsString;

/// The options of a verb: letters as `getopt` has them, and long names: `name` alone, `name:` with a
/// value, and a letter behind it where it means the same.
pub(super) struct Table {
    pub(super) verb: &'static str,
    pub(super) letters: &'static str,
    pub(super) long: &'static str,
}

/// Before the verb.
const STANDARD: Table = Table { verb: "", letters: "hT:V", long: "help=h version=V trace:=T" };

pub(super) const TABLES: [Table; 15] = [
    Table {
        verb: "amend",
        letters: "f:ho:pqt:",
        long: "help=h quiet=q progress=p object: format:=f cache:=t options:=o image-opts force",
    },
    Table {
        verb: "bench",
        letters: "c:d:f:hi:no:qs:t:wS:U",
        long: "help=h format:=f image-opts cache:=t count:=c depth:=d offset:=o buffer-size:=s \
               step-size:=S aio:=i native=n write=w pattern: flush-interval: no-drain force-share=U",
    },
    Table {
        verb: "bitmap",
        letters: "b:f:g:hF:",
        long: "help=h object: image-opts add remove clear enable disable merge: granularity:=g \
               source-file:=b source-format:=F",
    },
    Table {
        verb: "check",
        letters: "f:hqr:T:U",
        long: "help=h quiet=q format:=f cache:=T repair:=r output: object: image-opts force-share=U",
    },
    Table {
        verb: "commit",
        letters: "b:df:hpqr:t:",
        long: "help=h quiet=q object: format:=f image-opts cache:=t drop=d base:=b progress=p rate:=r",
    },
    Table {
        verb: "compare",
        letters: "f:hpqsF:T:U",
        long: "help=h quiet=q object: cache:=T image-opts a-format:=f left-format:=f b-format:=F \
               right-format:=F force-share=U strict=s progress=p",
    },
    Table {
        verb: "convert",
        letters: "cf:hl:m:no:pqr:t:B:CF:O:S:T:UW",
        long: "help=h quiet=q object: image-opts source-image-opts source-format:=f \
               source-cache:=T snapshot:=l sparse-size:=S output-format:=O options:=o \
               output-cache:=t backing:=B backing-format:=F force-share=U target-image-opts salvage \
               target-is-zero bitmaps skip-broken-bitmaps rate:=r parallel:=m oob-writes=W \
               copy-range-offloading=C",
    },
    Table {
        verb: "create",
        letters: "b:f:ho:quF:",
        long: "help=h quiet=q object: format:=f backing:=b backing-format:=F backing-unsafe=u \
               options:=o",
    },
    Table {
        verb: "dd",
        letters: "f:hO:U",
        long: "help=h object: format:=f output-format:=O image-opts force-share=U",
    },
    Table {
        verb: "info",
        letters: "bf:hU",
        long: "help=h format:=f output: backing-chain=b object: image-opts force-share=U",
    },
    Table {
        verb: "map",
        letters: "f:hl:s:U",
        long: "help=h format:=f output: object: image-opts force-share=U start-offset:=s \
               max-length:=l",
    },
    Table {
        verb: "measure",
        letters: "f:hl:o:O:U",
        long: "help=h target-format:=O format:=f image-opts options:=o snapshot:=l object: output: \
               size: force-share=U",
    },
    Table {
        verb: "rebase",
        letters: "b:cf:hpqt:uF:T:U",
        long: "help=h quiet=q progress=p object: image-opts force-share=U format:=f cache:=t \
               compress=c backing:=b backing-format:=F backing-cache:=T backing-unsafe=u",
    },
    Table {
        verb: "resize",
        letters: "f:hq",
        long: "help=h quiet=q object: format:=f image-opts preallocation: shrink",
    },
    Table {
        verb: "snapshot",
        letters: "a:c:d:f:hlqU",
        long: "help=h quiet=q object: format:=f image-opts force-share=U list=l apply=a create=c \
               delete=d",
    },
];

/// The options of `qemu-nbd`.
const NBD: Table = Table {
    verb: "",
    letters: "b:c:de:f:hk:l:no:p:rstvx:AB:D:LT:V",
    long: "help=h version=V bind:=b port:=p socket:=k offset:=o read-only=r allocation-depth=A \
           bitmap:=B connect:=c disconnect=d list=L snapshot=s load-snapshot:=l nocache=n cache: \
           aio: discard: detect-zeroes: shared:=e format:=f persistent=t verbose=v object: \
           export-name:=x description:=D handshake-limit: tls-creds: tls-hostname: tls-authz: \
           image-opts trace:=T fork pid-file: selinux-label:",
};

/// Where the letters of options that have none begin: past all that can be typed.
const UNLETTERED: u32 = 0xf_0000;

impl Table {
    /// The long names in order; what has no letter gets one that cannot be typed.
    pub(super) fn long(&self) -> Vec<Long> {
        let parse = |(at, text): (u32, &'static str)| {
            let (name, letter) = text.split_once('=').unwrap_or((text, ""));
            let letter = letter.chars().next();
            let letter = letter.or_else(|| char::from_u32(UNLETTERED + at)).unwrap_or_default();
            match name.strip_suffix(':') {
                Some(name) => Long { name, value: Value::Required, letter },
                None => Long { name, value: Value::None, letter },
            }
        };
        (0..).zip(self.long.split_ascii_whitespace()).map(parse).collect()
    }
}

/// What comes of the words.
pub(super) enum Words {
    /// The line in one spelling, for the parser.
    Line(Vec<OsString>),
    /// All has been said: the exit code.
    Ended(u8),
    /// What there is was asked for, of one verb or of them all.
    Help(Option<&'static Table>),
}

/// Goes through the words of `qemu-img`, of which the first is its name.
///
/// # Errors
///
/// What a value is wrong with.
pub(super) fn in_order(args: &[OsString]) -> Result<Words, Failure> {
    let given: Option<Vec<&str>> = args.iter().skip(1).map(|word| word.to_str()).collect();
    // Names in another encoding are the parser's business.
    let Some(given) = given else { return Ok(Words::Line(args.to_vec())) };
    let mut line: Vec<OsString> = args.iter().take(1).cloned().collect();
    // Standard options end where the verb begins.
    let standard = standard_words(&given);
    let (before, rest) = given.split_at(standard);
    let long = STANDARD.long();
    for option in Options::new("qemu-img", STANDARD.letters, &long, before) {
        match option {
            Err(text) => return Ok(Words::Ended(option_mistake("qemu-img", &text))),
            Ok(Found { letter: 'T', value }) => {
                if trace(&value.unwrap_or_default())? {
                    return Ok(Words::Ended(0));
                }
            }
            Ok(Found { letter: 'h', .. }) => return Ok(Words::Help(None)),
            // The version ends the line.
            Ok(Found { letter, .. }) => {
                line.push(format!("-{letter}").into());
                return Ok(Words::Line(line));
            }
        }
    }
    let Some((verb, rest)) = rest.split_first() else { return Ok(Words::Line(line)) };
    line.push((*verb).into());
    // What the tool does not have is not there under its name.
    let Some(table) = TABLES.iter().find(|table| table.verb == *verb) else {
        let text = format!("qemu-img: Command not found: {verb}");
        return Ok(Words::Ended(option_mistake("qemu-img", &text)));
    };
    let program = format!("qemu-img {verb}");
    let long = table.long();
    let mut options = Options::new(&program, table.letters, &long, rest);
    let mut seen = Seen::default();
    let mut unnamed = false;
    for option in options.by_ref() {
        let Found { letter, value } = match option {
            Ok(found) => found,
            Err(text) => return Ok(Words::Ended(option_mistake(&program, &text))),
        };
        if letter == 'h' {
            return Ok(Words::Help(Some(table)));
        }
        if *verb == "snapshot" && value.is_none() && matches!(letter, 'a' | 'c' | 'd') {
            unnamed = true;
        }
        let word = spelled(&long, letter, value.as_deref());
        if let Some(value) = &value {
            let name = word.split('=').next().unwrap_or_default();
            seen.check(verb, name, value)?;
        }
        seen.mix(verb, letter)?;
        line.push(word.into());
    }
    let operands = options.operands();
    // The long names take no argument in that version, which ends it with a memory fault.
    if unnamed {
        return Err(match operands.len() {
            1 => Failure::usage("Name the snapshot with -a, -c or -d"),
            _ => Failure::usage("Expecting one image file name"),
        });
    }
    line.push("--".into());
    line.extend(operands.into_iter().map(OsString::from));
    Ok(Words::Line(line))
}

/// What images can be in, and be on.
const FORMATS: &str = "blkdebug blklogwrites blkverify compress copy-before-write copy-on-read\n  \
    file host_cdrom host_device nbd null-aio null-co preallocate qcow2 quorum raw\n  \
    replication snapshot-access throttle";

/// The help of `command`, or of one of its verbs, with the options that there are under this name,
/// called as they are here.
pub(super) fn help(mut command: Command, table: Option<&'static Table>) -> String {
    let Some(table) = table else {
        let names = command.get_subcommands().map(|verb| verb.get_name().to_owned());
        let own: Vec<String> =
            names.filter(|name| TABLES.iter().all(|table| table.verb != name)).collect();
        for name in own {
            command = command.mut_subcommand(name, |verb| verb.hide(true));
        }
        let trace = Arg::new("trace").short('T').long("trace").value_name("TRACE");
        let trace = trace.help("Trace events: [[enable=]PATTERN][,events=FILE]; there are none");
        command = command.arg(trace);
        command = command.after_help(format!("Supported image formats:\n\n  {FORMATS}"));
        return command.render_help().to_string();
    };
    let long = table.long();
    let adapt = |arg: Arg| {
        let letter = arg.get_short();
        let by_letter = long.iter().find(|long| letter == Some(long.letter));
        let by_name = || long.iter().find(|long| arg.get_long() == Some(long.name));
        match by_letter.or_else(by_name) {
            Some(found) if letter == Some(found.letter) => arg.long(found.name),
            Some(found) => arg.short(None::<char>).long(found.name),
            None if arg.is_positional() => arg,
            None => {
                let lettered = arg.get_short().is_some_and(|s| table.letters.contains(s));
                arg.long(None::<&'static str>).hide(!lettered)
            }
        }
    };
    command.build();
    let Some(verb) = command.find_subcommand(table.verb) else { return String::new() };
    verb.clone().mut_args(adapt).render_long_help().to_string()
}

/// Goes through the words of `qemu-nbd`, of which the first is its name. `check` looks at the line
/// as far as it has been read, after each option with a value.
///
/// # Errors
///
/// Those of `check`.
pub(super) fn of_nbd(
    args: &[OsString],
    check: impl Fn(&[OsString]) -> Result<(), Failure>,
) -> Result<Words, Failure> {
    let given: Option<Vec<&str>> = args.iter().skip(1).map(|word| word.to_str()).collect();
    let Some(given) = given else { return Ok(Words::Line(args.to_vec())) };
    let mut line: Vec<OsString> = args.iter().take(1).cloned().collect();
    let long = NBD.long();
    let mut options = Options::new("qemu-nbd", NBD.letters, &long, &given);
    for option in options.by_ref() {
        let Found { letter, value } = match option {
            Ok(found) => found,
            Err(text) => {
                complain(&text);
                return Err(Failure::new("Try `qemu-nbd --help' for more information."));
            }
        };
        if letter == 'T' {
            // A daemon's parent has said it.
            let told = std::env::var_os(super::background::CHILD).is_some();
            if !told && trace(&value.unwrap_or_default())? {
                return Ok(Words::Ended(0));
            }
            continue;
        }
        line.push(spelled(&long, letter, value.as_deref()).into());
        if matches!(letter, 'h' | 'V') {
            return Ok(Words::Line(line));
        }
        if value.is_some() || letter == 'n' {
            check(&line)?;
        }
    }
    line.push("--".into());
    line.extend(options.operands().into_iter().map(OsString::from));
    Ok(Words::Line(line))
}

/// An option as one word, by its letter where it has one.
fn spelled(long: &[Long], letter: char, value: Option<&str>) -> String {
    let lettered = u32::from(letter) < UNLETTERED;
    let name = match long.iter().find(|long| !lettered && long.letter == letter) {
        Some(long) => format!("--{}", long.name),
        None => format!("-{letter}"),
    };
    match value {
        Some(value) => format!("{name}={value}"),
        None => name,
    }
}

/// How many words stand before the verb.
pub(super) fn standard_words(words: &[&str]) -> usize {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match *word {
            "--" => return at + 1,
            "-" => return at,
            // The value of an option that has one may be the next word.
            "-T" | "--t" | "--tr" | "--tra" | "--trac" | "--trace" => at += 2,
            word if word.starts_with('-') => at += 1,
            _ => return at,
        }
    }
    words.len()
}

/// What has been seen of a line.
#[derive(Default)]
struct Seen {
    objects: Vec<String>,
    actions: u32,
}

impl Seen {
    /// Looks at a value as soon as it is met, where the reference does.
    fn check(&mut self, verb: &str, name: &str, value: &str) -> Result<(), Failure> {
        let any = MAX_INT;
        match (verb, name) {
            (_, "--object") => {
                self.objects.push(value.to_owned());
                let made = Objects::new(&self.objects);
                made.map_err(|f| if verb == "compare" { f.with_code(NOT_OPENED) } else { f })?;
            }
            (_, "--output") if !matches!(value, "human" | "json") => {
                return Err(Failure::usage(format!(
                    "--output expects 'human' or 'json' not '{value}'"
                )));
            }
            ("bench", "-c") => _ = number("request count", value, 1..=any)?,
            ("bench", "-d") => _ = number("queue depth", value, 1..=any)?,
            ("bench", "-o") => _ = bytes_in("offset", value, 0..=MAX_OFFSET)?,
            ("bench", "-s") => _ = bytes_in("buffer size", value, 1..=any)?,
            ("bench", "-S") => _ = bytes_in("step size", value, 0..=any)?,
            ("bench", "--pattern") => _ = number("pattern byte", value, 0..=0xff)?,
            ("bench", "--flush-interval") => _ = number("flush interval", value, 0..=any)?,
            ("bench", "-i") if !matches!(value, "threads" | "native" | "io_uring") => {
                return Err(Failure::new(format!("Invalid aio option: {value}")));
            }
            ("bench", "-t") if super::args::Cache::parse(value).is_none() => {
                return Err(Failure::new("Invalid cache mode"));
            }
            ("bitmap", "-g") => _ = bytes("granularity", value)?,
            ("check", "-r") if !matches!(value, "leaks" | "all") => {
                return Err(Failure::usage(format!(
                    "--repair (-r) expects 'leaks' or 'all' not '{value}'"
                )));
            }
            ("convert" | "commit", "-r") => _ = bytes("rate limit", value)?,
            ("convert", "-S") => _ = parse_sparse_size(value)?,
            ("convert", "-m") => _ = parse_parallel(value)?,
            ("convert" | "create" | "measure" | "amend", "-o") => check_list(value)?,
            ("convert" | "measure", "-l") => _ = SnapshotParam::parse(value)?,
            ("measure", "--size") => _ = bytes("image size", value)?,
            ("map", "-s") => _ = bytes("start offset", value)?,
            ("map", "-l") => _ = bytes("max length", value)?,
            ("resize", "--preallocation")
                if !matches!(value, "off" | "metadata" | "falloc" | "full") =>
            {
                return Err(Failure::new(format!("Invalid preallocation mode '{value}'")));
            }
            _ => {}
        }
        Ok(())
    }

    /// The actions of `snapshot` exclude each other.
    fn mix(&mut self, verb: &str, letter: char) -> Result<(), Failure> {
        if verb == "snapshot" && matches!(letter, 'l' | 'a' | 'c' | 'd') {
            self.actions += 1;
            if self.actions > 1 {
                return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'"));
            }
        }
        Ok(())
    }
}

/// What `--trace` asks for: `[[enable=]PATTERN][,events=FILE][,file=FILE]`. There are no trace
/// events here, so none that is named exists, and patterns fit nothing. True where they were to be
/// listed, and nothing else done.
///
/// # Errors
///
/// What the tool refuses.
pub(super) fn trace(text: &str) -> Result<bool, Failure> {
    let mut names: Vec<String> = Vec::new();
    let mut file = None;
    for (at, item) in text.split(',').filter(|item| !item.is_empty()).enumerate() {
        match item.split_once('=') {
            None if at == 0 => names.push(item.to_owned()),
            Some(("enable", name)) => names.push(name.to_owned()),
            Some(("events", file)) => {
                let list = std::fs::read_to_string(file)
                    .map_err(|error| Failure::new(format!("{file}: {}", OsError::from(error))))?;
                let lines = list.lines().map(str::trim);
                names
                    .extend(lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(Into::into));
            }
            Some(("file", name)) => file = Some(name),
            Some((key, _)) => return Err(Failure::new(format!("Invalid parameter '{key}'"))),
            None => {
                warn(&format!(
                    "short-form boolean option '{item}' deprecated\nPlease use {item}=on instead"
                ));
                return Err(Failure::new(format!("Invalid parameter '{item}'")));
            }
        }
    }
    if names.iter().any(|name| matches!(name.as_str(), "help" | "?")) {
        return Ok(true);
    }
    for name in names {
        // A minus in front switches it off.
        let name = name.strip_prefix('-').unwrap_or(&name);
        if !name.contains('*') {
            warn(&format!("trace event '{name}' does not exist"));
        }
    }
    if let Some(name) = file {
        // The file is there, and nothing comes to stand in it.
        let made = std::fs::File::create(name).map_err(OsError::from);
        made.map_err(|error| Failure::new(format!("Error opening logfile {name}: {error}")))?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn line(words: &[&str]) -> Result<Words, Failure> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        in_order(&words)
    }

    #[test]
    fn every_option_of_the_tables_is_known_to_the_parser() {
        let command = crate::cli::Img::command();
        for table in &TABLES {
            let verb = command.find_subcommand(table.verb).expect(table.verb);
            let letters = table.letters.chars().filter(|letter| !matches!(letter, ':' | 'h'));
            for letter in letters {
                let mut args = verb.get_arguments();
                assert!(args.any(|a| a.get_short() == Some(letter)), "{} -{letter}", table.verb);
            }
            for long in table.long().iter().filter(|long| u32::from(long.letter) >= UNLETTERED) {
                let is = |arg: &Arg| {
                    let aliases = arg.get_all_aliases().unwrap_or_default();
                    arg.get_long() == Some(long.name) || aliases.contains(&long.name)
                };
                let mut args = verb.get_arguments();
                assert!(args.any(is), "{} --{}", table.verb, long.name);
            }
        }
    }

    #[test]
    fn a_line_comes_out_in_one_spelling() {
        let given = ["qemu-img", "map", "--out", "json", "a b", "-Us4k", "--format=raw"];
        let Ok(Words::Line(words)) = line(&given) else { panic!("it is right") };
        assert_eq!(
            words,
            ["qemu-img", "map", "--output=json", "-U", "-s=4k", "-f=raw", "--", "a b"]
        );
        let Ok(Words::Line(words)) = line(&["qemu-img", "create", "--", "-f"]) else {
            panic!("it is right")
        };
        assert_eq!(words, ["qemu-img", "create", "--", "-f"]);
    }

    #[test]
    fn the_first_mistake_is_the_one_that_is_told() {
        for given in [
            &["qemu-img", "map", "-s", "x", "-Z"][..],
            &["qemu-img", "bench", "-c", "0", "--count=x"],
            &["qemu-img", "snapshot", "-l", "-a", "x", "-Z"],
            &["qemu-img", "info", "--object", "foo", "--output", "x"],
        ] {
            assert!(line(given).is_err(), "{given:?}");
        }
        for given in
            [&["qemu-img", "map", "-Z", "-s", "x"][..], &["qemu-img", "-T"], &["qemu-img", ""]]
        {
            assert!(matches!(line(given), Ok(Words::Ended(1))), "{given:?}");
        }
    }

    #[test]
    fn help_names_what_there_is() {
        let table = TABLES.iter().find(|table| table.verb == "convert");
        let text = help(crate::cli::Img::command(), table);
        for option in ["--output-format", "--snapshot", "--target-is-zero", "-W"] {
            assert!(text.contains(option), "{option}: {text}");
        }
        assert!(!text.contains("--aio "), "{text}");
        let text = help(crate::cli::Img::command(), None);
        assert!(text.contains("Supported image formats:") && text.contains("qcow2"), "{text}");
        assert!(text.contains("--trace") && !text.contains("compact"), "{text}");
    }
}
