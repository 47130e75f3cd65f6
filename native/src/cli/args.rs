//! Options that several verbs have, and what their values mean.

use super::failure::{Failure, told};
use super::objects::Objects;
use crate::storage::{Aio, check_kind, is_device};
use clap::ValueEnum;
use sectora_core::format::FormatName;
use sectora_core::image::{
    CreateOption, OptionKind, OptionSet, SizeError, create_options, parse_size,
};
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// For people
    #[default]
    Human,
    /// For programs
    Json,
}

/// How file operations are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum AioArg {
    /// io_uring, or threads where that is forbidden
    #[default]
    Auto,
    /// A pool of threads
    Threads,
    /// io_uring, or not at all
    #[value(name = "io_uring", alias = "native")]
    IoUring,
}

impl From<AioArg> for Aio {
    fn from(arg: AioArg) -> Self {
        match arg {
            AioArg::Auto => Self::Auto,
            AioArg::Threads => Self::Threads,
            AioArg::IoUring => Self::IoUring,
        }
    }
}

/// What every verb takes.
#[derive(Debug, Default, clap::Args)]
pub(super) struct HostArgs {
    /// How file operations are run
    #[arg(long, value_name = "HOW", value_enum, default_value_t, hide_possible_values = false)]
    pub(super) aio: AioArg,

    /// A secret: secret,id=ID,data=TEXT or file=NAME, format=raw|base64, keyid=ID, iv=BASE64
    #[arg(long, value_name = "OBJDEF", allow_hyphen_values = true)]
    object: Vec<String>,

    /// What `object` says, once it has been checked.
    #[arg(skip)]
    objects: OnceLock<Objects>,

    /// The image is named by options: driver=qcow2,file.filename=NAME,…
    #[arg(long, alias = "source-image-opts")]
    pub(super) image_opts: bool,
}

/// What every verb that looks at one image takes.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// Format of the image; guessed from its contents where it is not given
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(super) format: Option<String>,

    /// Read the image although another program writes to it
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,

    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) output: OutputFormat,

    #[command(flatten)]
    pub(super) host: HostArgs,

    /// The image
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

impl ImageArgs {
    /// The one image.
    pub(super) fn filename(&self) -> Result<&str, Failure> {
        match &self.filenames[..] {
            [filename] => Ok(filename),
            _ => Err(Failure::usage("Expecting one image file name")),
        }
    }
}

impl HostArgs {
    /// The objects; none before [`check`](Self::check).
    pub(super) fn objects(&self) -> Objects {
        self.objects.get().cloned().unwrap_or_default()
    }

    /// Makes the objects, and refuses what is understood but not supported.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.objects.get().is_none() {
            // Whoever comes first sets it.
            let _ = self.objects.set(Objects::new(&self.object)?);
        }
        Ok(())
    }
}

/// What a cache mode means for a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cache {
    /// Around the page cache.
    pub(super) direct: bool,
    /// Nothing is made durable.
    pub(super) no_flush: bool,
}

impl Cache {
    /// The mode of that name. `writethrough` and `directsync` promise that what is reported as
    /// written is durable; a command reports once, at its end, after a flush.
    pub(super) fn parse(mode: &str) -> Option<Self> {
        let (direct, no_flush) = match mode {
            "none" | "off" | "directsync" => (true, false),
            "writeback" | "writethrough" => (false, false),
            "unsafe" => (false, true),
            _ => return None,
        };
        Some(Self { direct, no_flush })
    }

    /// The cache mode of an image that is written.
    pub(super) fn target(mode: &str) -> Result<Self, Failure> {
        Self::parse(mode).ok_or_else(|| Failure::new(format!("Invalid cache option: {mode}")))
    }

    /// The cache mode of a source.
    pub(super) fn source(mode: Option<&str>) -> Result<Self, Failure> {
        let Some(mode) = mode else { return Ok(Self::default()) };
        Self::parse(mode)
            .ok_or_else(|| Failure::new(format!("Invalid source cache option: {mode}")))
    }
}

/// The largest file offset.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;
/// The largest number of requests, and bytes of one.
pub(super) const MAX_INT: u64 = i32::MAX as u64;

/// A number of bytes from the command line, called `what` in messages.
pub(super) fn bytes(what: &str, text: &str) -> Result<u64, Failure> {
    bytes_in(what, text, 0..=MAX_OFFSET)
}

/// A number of bytes within `range`; units may stand behind it.
pub(super) fn bytes_in(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    in_range(what, text, parse_size(text), range)
}

/// A number within `range`, decimal, hexadecimal after `0x` or octal after `0`.
pub(super) fn number(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    in_range(what, text, parse_number(text), range)
}

fn in_range(
    what: &str,
    text: &str,
    parsed: Result<u64, SizeError>,
    range: RangeInclusive<u64>,
) -> Result<u64, Failure> {
    match parsed {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(_) | Err(SizeError::Range) => Err(Failure::new(format!(
            "Invalid {what} specified. Must be between {} and {}.",
            range.start(),
            range.end()
        ))),
        Err(SizeError::Syntax) => Err(Failure::new(format!("Invalid {what} specified: '{text}'."))),
    }
}

/// A number as C's `strtoull` with base 0 takes it; nothing may follow.
pub(super) fn parse_number(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SizeError::Syntax);
    }
    match u64::from_str_radix(digits, radix) {
        Ok(value) if !negative || value == 0 => Ok(value),
        _ => Err(SizeError::Range),
    }
}

/// Protocols that new disks can be made in, which are raw images then.
const PROTOCOLS: [&str; 2] = ["file", "host_device"];

/// True where `name` is a protocol that disks can be made in.
pub(super) fn is_protocol(name: &str) -> bool {
    PROTOCOLS.contains(&name)
}

/// The format called `name`, as one that images can be created in; a protocol's is raw.
pub(super) fn target_format(name: &str) -> Result<FormatName, Failure> {
    if is_protocol(name) {
        return Ok(FormatName::Raw);
    }
    let format = name.parse().map_err(|_| Failure::new(format!("Unknown file format '{name}'")))?;
    if create_options(format).is_none() {
        return Err(Failure::new(format!(
            "Format driver '{name}' does not support image creation"
        )));
    }
    Ok(format)
}

/// Refuses to make an image in protocol `name` of what that protocol does not open.
pub(super) fn check_target(name: &str, filename: &str) -> Result<(), Failure> {
    if name != "host_device" {
        return Ok(());
    }
    let why = match (check_kind(name, filename), is_device(filename)) {
        (Err(error), _) => told(&error),
        (Ok(()), None) => format!("Could not open '{filename}': No such file or directory"),
        (Ok(()), Some(_)) => return Ok(()),
    };
    Err(Failure::new(format!(
        "Protocol driver '{name}' does not support creating new images, so an existing image must \
         be selected as the target; however, opening the given target as an existing image failed: \
         {why}"
    )))
}

/// The creation options of several `-o`, of which each may be a list.
pub(super) fn option_set(format: FormatName, lists: &[String]) -> Result<OptionSet, Failure> {
    let mut set = OptionSet::new(format)?;
    for list in lists {
        check_list(list)?;
        set.add(list)?;
    }
    Ok(set)
}

/// Refuses what is no list of options whatever the format.
pub(super) fn check_list(list: &str) -> Result<(), Failure> {
    let cut_short = list.ends_with(',') && !list.ends_with(",,");
    if list.is_empty() || list.starts_with(',') || cut_short {
        return Err(Failure::new(format!("Invalid option list: {list}")));
    }
    Ok(())
}

/// True where one of the lists asks which options there are.
pub(super) fn wants_option_help(lists: &[String]) -> bool {
    lists.iter().flat_map(|list| list.split(',')).any(|item| matches!(item, "help" | "?"))
}

/// The options of a format; those of the file that holds the image too, where that is `named`.
pub(super) fn option_help(format: FormatName, named: bool) -> String {
    let mut options: Vec<_> = create_options(format).unwrap_or_default().iter().collect();
    options.retain(|option| named || !option.of_file);
    options.sort_by_key(|option| option.name);
    let mut text = match named {
        true => "Supported options:\n".to_owned(),
        false => format!("Supported {format} options:\n"),
    };
    text.push_str(&option_list(options.into_iter()));
    if !named {
        text.push_str(
            "\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.\n",
        );
    }
    text
}

/// Options with what they take and what they mean, a line each.
pub(super) fn option_list<'a>(options: impl Iterator<Item = &'a CreateOption>) -> String {
    let mut text = String::new();
    for option in options {
        let kind: OptionKind = option.kind;
        let usage = format!("{}=<{kind}>", option.name);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {usage:<22} - {}", option.help);
    }
    text
}
