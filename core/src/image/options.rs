//! Creation options as text: `cluster_size=1M,compat=v3`.
//!
//! Names, kinds, defaults and their order are those of QEMU's tools, so that what people know from
//! there means the same here. An option that is known but that this engine cannot fulfil is
//! refused when it is used, never ignored.

use super::encryption::encryption_options;
use super::{NewImage, NoSecrets, Secrets};
use crate::codec::Compression;
use crate::format::qcow2::{self, DataFileOptions, Version};
use crate::format::{Amendment, BackingRef, FormatName, raw};
use crate::io::Preallocation;
use crate::{Error, Result};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// Any text.
    Text,
    /// `on` or `off`.
    Flag,
    /// A whole number.
    Number,
    /// A number of bytes; see [`parse_size`].
    Size,
}

impl fmt::Display for OptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "str",
            Self::Flag => "bool (on/off)",
            Self::Number => "num",
            Self::Size => "size",
        })
    }
}

/// One option of a format, or of the files that hold images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOption {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: OptionKind,
    /// What it means, in a line.
    pub help: &'static str,
    /// What holds where it is not given, if that is a value.
    pub default: Option<&'static str>,
    /// True where the file that holds the image has it, not the format.
    pub of_file: bool,
}

const fn option(name: &'static str, kind: OptionKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None, of_file: false }
}

const fn with_default(option: CreateOption, default: &'static str) -> CreateOption {
    CreateOption { default: Some(default), ..option }
}

const fn of_file(option: CreateOption) -> CreateOption {
    CreateOption { of_file: true, ..option }
}

use OptionKind::{Flag, Number, Size, Text};

const SIZE: CreateOption = option("size", Size, "Virtual disk size");
const NOCOW: CreateOption =
    of_file(option("nocow", Flag, "Turn off copy-on-write (valid only on btrfs)"));
const EXTENT_SIZE_HINT: CreateOption =
    of_file(option("extent_size_hint", Size, "Extent size hint for the image file, 0 to disable"));

/// In the order in which a set of them is shown.
static RAW: [CreateOption; 4] = [
    SIZE,
    NOCOW,
    of_file(option(
        "preallocation",
        Text,
        "Preallocation mode (allowed values: off, falloc, full)",
    )),
    EXTENT_SIZE_HINT,
];

static QCOW2: [CreateOption; 23] = [
    option(
        "encryption",
        Flag,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    option("encrypt.format", Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    option("encrypt.key-secret", Text, "ID of secret providing qcow AES key or LUKS passphrase"),
    option("encrypt.cipher-alg", Text, "Name of encryption cipher algorithm"),
    option("encrypt.cipher-mode", Text, "Name of encryption cipher mode"),
    option("encrypt.ivgen-alg", Text, "Name of IV generator algorithm"),
    option("encrypt.ivgen-hash-alg", Text, "Name of IV generator hash algorithm"),
    option("encrypt.hash-alg", Text, "Name of encryption hash algorithm"),
    option("encrypt.iter-time", Number, "Time to spend in PBKDF in milliseconds"),
    with_default(option("cluster_size", Size, "qcow2 cluster size"), "65536"),
    with_default(option("extended_l2", Flag, "Extended L2 tables"), "off"),
    option(
        "preallocation",
        Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    with_default(
        option("compression_type", Text, "Compression method used for image cluster compression"),
        "zlib",
    ),
    SIZE,
    option("compat", Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("backing_file", Text, "File name of a base image"),
    option("backing_fmt", Text, "Image format of the base image"),
    option("data_file", Text, "File name of an external data file"),
    option("data_file_raw", Flag, "The external data file must stay valid as a raw image"),
    with_default(option("lazy_refcounts", Flag, "Postpone refcount updates"), "off"),
    with_default(option("refcount_bits", Number, "Width of a reference count entry in bits"), "16"),
    NOCOW,
    EXTENT_SIZE_HINT,
];

/// What can be changed of an image, in the order of the help.
static QCOW2_AMEND: [CreateOption; 13] = [
    option("backing_file", Text, "File name of a base image"),
    option("backing_fmt", Text, "Image format of the base image"),
    option("compat", Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("data_file", Text, "File name of an external data file"),
    option("data_file_raw", Flag, "The external data file must stay valid as a raw image"),
    option("encrypt.iter-time", Number, "Time to spend in PBKDF in milliseconds"),
    option("encrypt.keyslot", Number, "Select a single keyslot to modify explicitly"),
    option(
        "encrypt.new-secret",
        Text,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    option("encrypt.old-secret", Text, "Select all keyslots that match this password"),
    option("encrypt.state", Text, "Select new state of affected keyslots (active/inactive)"),
    option("lazy_refcounts", Flag, "Postpone refcount updates"),
    option("refcount_bits", Number, "Width of a reference count entry in bits"),
    SIZE,
];

/// The options that can be changed of an existing image of `format`; `None` where that is nothing.
#[must_use]
pub fn amend_options(format: FormatName) -> Option<&'static [CreateOption]> {
    match format {
        FormatName::Qcow2 => Some(&QCOW2_AMEND),
        _ => None,
    }
}

/// The options for creating images of `format`, in the order in which a set of them is shown;
/// `None` where this engine does not create them.
#[must_use]
pub fn create_options(format: FormatName) -> Option<&'static [CreateOption]> {
    match format {
        FormatName::Raw => Some(&RAW),
        FormatName::Qcow2 => Some(&QCOW2),
        _ => None,
    }
}

/// Why a text is no number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It is not one at all.
    Syntax,
    /// It is negative or does not fit into 64 bits.
    Range,
}

/// A number of bytes: `1536`, `0x600`, `1.5k`, `10G`. The units `k`, `M`, `G`, `T`, `P` and `E`
/// are powers of 1024, in either case; `b` is a byte. A fraction needs a unit and is rounded down.
///
/// # Errors
/// Says whether the text or its value is wrong.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if let Some(positive) = text.strip_prefix('-') {
        return match parse_size(positive) {
            Ok(_) | Err(SizeError::Range) => Err(SizeError::Range),
            syntax => syntax,
        };
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SizeError::Syntax);
        }
        return u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.as_bytes() {
        [] | [b'b' | b'B'] => 0,
        [unit] => match unit.to_ascii_lowercase() {
            b'k' => 10,
            b'm' => 20,
            b'g' => 30,
            b't' => 40,
            b'p' => 50,
            b'e' => 60,
            _ => return Err(SizeError::Syntax),
        },
        _ => return Err(SizeError::Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(SizeError::Syntax);
    }
    let fraction = fraction.trim_end_matches('0');
    if shift == 0 && !fraction.is_empty() {
        return Err(SizeError::Syntax);
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| SizeError::Range)?,
    };
    let whole = whole.checked_mul(1 << shift).ok_or(SizeError::Range)?;
    // Eighteen digits are more than any unit can tell apart from a rounded value.
    let (mut part, mut scale) = (0u128, 1u128);
    for digit in fraction.bytes().take(18) {
        part = part * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    let part = u64::try_from((part << shift) / scale).map_err(|_| SizeError::Range)?;
    whole.checked_add(part).ok_or(SizeError::Range)
}

/// The options given for one new image: names that its format has, values of the right kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionSet {
    format: FormatName,
    known: &'static [CreateOption],
    /// By position in `known`.
    values: Vec<Option<String>>,
}

impl OptionSet {
    /// The defaults of `format`.
    ///
    /// # Errors
    /// `Unsupported` where this engine creates no such images.
    pub fn new(format: FormatName) -> Result<Self> {
        let known = create_options(format).ok_or_else(|| {
            Error::unsupported(format!("Format driver '{format}' does not support image creation"))
        })?;
        let values = known.iter().map(|o| o.default.map(ToOwned::to_owned)).collect();
        Ok(Self { format, known, values })
    }

    /// No option of what can be changed of an image of `format`.
    ///
    /// # Errors
    /// `Unsupported` where that is nothing.
    pub fn for_amending(format: FormatName) -> Result<Self> {
        let known = amend_options(format).ok_or_else(|| {
            Error::unsupported(format!(
                "Format driver '{format}' does not support option amendment"
            ))
        })?;
        Ok(Self { format, known, values: alloc::vec![None; known.len()] })
    }

    /// The change that the options of a set [for amending](Self::for_amending) describe.
    #[must_use]
    pub fn amendment(&self) -> Amendment {
        let flag = |name| self.get(name).map(|value| value == "on");
        let text = |name| self.get(name).map(ToOwned::to_owned);
        let number = |name| self.get(name).map(|n| n.parse().unwrap_or(u64::MAX));
        let encryption = self.known.iter().filter_map(|o| {
            let name = o.name.strip_prefix("encrypt.")?;
            Some((name.to_owned(), self.get(o.name)?.to_owned()))
        });
        Amendment {
            compat: text("compat"),
            lazy_refcounts: flag("lazy_refcounts"),
            refcount_bits: number("refcount_bits"),
            size: self.size(),
            data_file: text("data_file"),
            data_file_raw: flag("data_file_raw"),
            backing: self.get("backing_file").or(self.get("backing_fmt")).map(|_| BackingRef {
                name: text("backing_file").unwrap_or_default(),
                format: text("backing_fmt"),
            }),
            encryption: encryption.collect(),
        }
    }

    /// Takes a list `name=value,…`. A comma within a value is written twice; a flag alone is on,
    /// and off with `no` in front. A later value replaces an earlier one.
    ///
    /// # Errors
    /// `InvalidInput` for a name the format does not have or a value of the wrong kind.
    pub fn add(&mut self, list: &str) -> Result<()> {
        for item in list_items(list) {
            match item.split_once('=') {
                Some((name, value)) => self.set(name, value)?,
                None => self.set_flag(&item)?,
            }
        }
        Ok(())
    }

    fn set_flag(&mut self, item: &str) -> Result<()> {
        let is_flag = |name| self.known.iter().any(|o| o.name == name && o.kind == Flag);
        match item.strip_prefix("no") {
            Some(name) if is_flag(name) && !is_flag(item) => self.set(name, "off"),
            _ => self.set(item, "on"),
        }
    }

    /// Sets one option.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let index = self.index(name)?;
        let value = match self.known[index].kind {
            Text => value.to_owned(),
            Flag => match value {
                "on" | "off" => value.to_owned(),
                _ => {
                    return Err(Error::invalid(format!(
                        "Parameter '{name}' expects 'on' or 'off'"
                    )));
                }
            },
            Number => value
                .parse::<u64>()
                .map_err(|_| Error::invalid(format!("Parameter '{name}' expects a number")))?
                .to_string(),
            Size => match parse_size(value) {
                Ok(size) => size.to_string(),
                Err(SizeError::Range) => {
                    return Err(Error::invalid(format!(
                        "Value '{value}' is out of range for parameter '{name}'"
                    )));
                }
                Err(SizeError::Syntax) => {
                    return Err(Error::invalid(format!(
                        "Parameter '{name}' expects a non-negative number below 2^64\n\
                         Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, \
                         peta-\nand exabytes, respectively."
                    )));
                }
            },
        };
        self.values[index] = Some(value);
        Ok(())
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.known
            .iter()
            .position(|o| o.name == name)
            .ok_or_else(|| Error::invalid(format!("Invalid parameter '{name}'")))
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> FormatName {
        self.format
    }

    /// The value of an option, given or by default.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.index(name).ok().and_then(|i| self.values[i].as_deref())
    }

    /// The size, where one was given.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.get("size").and_then(|size| size.parse().ok())
    }

    /// Whether blocks of the file are to stay where they are when they are written again. Like
    /// [`extent_size_hint`](Self::extent_size_hint) it is for whoever makes the file.
    #[must_use]
    pub fn nocow(&self) -> bool {
        self.is_on("nocow")
    }

    /// The unit in which the file system is to allocate, in bytes; 0 leaves that to it.
    #[must_use]
    pub fn extent_size_hint(&self) -> Option<u64> {
        self.get("extent_size_hint").and_then(|hint| hint.parse().ok())
    }

    fn is_on(&self, name: &str) -> bool {
        self.get(name) == Some("on")
    }

    /// [`image_with`](Self::image_with) where there are no secrets.
    ///
    /// # Errors
    /// As there.
    pub fn image(&self) -> Result<NewImage> {
        self.image_with(&NoSecrets)
    }

    /// The new image that the options describe; its size is 0 where none was given. `secrets` has
    /// what options name by its ID.
    ///
    /// # Errors
    /// `InvalidInput` for values that the format does not have, and secrets that there are not;
    /// `Unsupported` for what this engine cannot do.
    pub fn image_with(&self, secrets: &dyn Secrets) -> Result<NewImage> {
        let size = self.size().unwrap_or(0);
        match self.format {
            FormatName::Raw => {
                let preallocation = self.preallocation()?;
                if preallocation == Preallocation::Metadata {
                    return Err(Error::invalid("Unsupported preallocation mode: metadata"));
                }
                Ok(NewImage::Raw(raw::CreateOptions { size, preallocation }))
            }
            _ => Ok(NewImage::Qcow2(self.qcow2(size, secrets)?)),
        }
    }

    fn qcow2(&self, size: u64, secrets: &dyn Secrets) -> Result<qcow2::CreateOptions> {
        let version = match self.get("compat") {
            None | Some("1.1" | "v3") => Version::V3,
            Some("0.10" | "v2") => Version::V2,
            Some(other) => return Err(not_accepted("version", other)),
        };
        let compression_type = match self.get("compression_type") {
            None | Some("zlib") => Compression::Deflate,
            Some("zstd") => Compression::Zstd,
            Some(other) => return Err(not_accepted("compression-type", other)),
        };
        let name = self.get("backing_file").filter(|name| !name.is_empty());
        let format = self.get("backing_fmt").map(ToOwned::to_owned);
        if name.is_none() && format.is_some() {
            return Err(Error::invalid("Backing format cannot be used without backing file"));
        }
        let is_driver = |name: &str| {
            name.parse::<FormatName>().is_ok() || ["file", "host_device", "nbd"].contains(&name)
        };
        if let Some(other) = format.as_deref().filter(|name| !is_driver(name)) {
            return Err(not_accepted("backing-fmt", other));
        }
        let backing = name.map(|name| BackingRef { name: name.to_owned(), format });
        let raw = self.is_on("data_file_raw");
        let data_file = self.get("data_file").map(|n| DataFileOptions { name: n.to_owned(), raw });
        if raw && data_file.is_none() {
            return Err(Error::invalid("data-file-raw requires data-file"));
        }
        Ok(qcow2::CreateOptions {
            size,
            version,
            cluster_size: self.number("cluster_size", 64 << 10),
            refcount_bits: self.number("refcount_bits", 16),
            compression_type,
            extended_l2: self.is_on("extended_l2"),
            lazy_refcounts: self.is_on("lazy_refcounts"),
            preallocation: self.preallocation()?,
            backing,
            data_file,
            encryption: encryption_options(|name| self.get(name), secrets)?,
        })
    }

    /// A number that need not fit: the format refuses the largest as it refuses what is beyond.
    fn number(&self, name: &str, default: u32) -> u32 {
        let number = self.get(name).map(|text| text.parse::<u64>().unwrap_or(u64::MAX));
        number.map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn preallocation(&self) -> Result<Preallocation> {
        match self.get("preallocation") {
            None | Some("off") => Ok(Preallocation::Off),
            Some("metadata") => Ok(Preallocation::Metadata),
            Some("falloc") => Ok(Preallocation::Falloc),
            Some("full") => Ok(Preallocation::Full),
            // The file that holds a raw image is asked, not a format.
            Some(other) if self.format == FormatName::Raw => {
                Err(Error::invalid(format!("invalid parameter value: {other}")))
            }
            Some(other) => Err(not_accepted("preallocation", other)),
        }
    }
}

/// The options as a list that [`OptionSet::add`] takes again, separated by spaces.
impl fmt::Display for OptionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (option, value) in self.known.iter().zip(&self.values) {
            if let Some(value) = value {
                write!(f, "{between}{}={}", option.name, value.replace(',', ",,"))?;
                between = " ";
            }
        }
        Ok(())
    }
}

fn not_accepted(name: &str, value: &str) -> Error {
    Error::invalid(format!("Parameter '{name}' does not accept value '{value}'"))
}

/// The items of a list such as `-o` takes; a doubled comma is a comma of the item.
#[must_use]
pub fn list_items(list: &str) -> Vec<String> {
    let mut items = Vec::from([String::new()]);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_fractions_and_limits() {
        use SizeError::{Range, Syntax};
        for (text, want) in [
            ("0", Ok(0)),
            ("1536", Ok(1536)),
            ("010", Ok(10)),
            ("0x600", Ok(1536)),
            (" 10", Ok(10)),
            ("10b", Ok(10)),
            ("1.5k", Ok(1536)),
            (".5K", Ok(512)),
            ("1.k", Ok(1024)),
            ("1.0", Ok(1)),
            ("1.0000001k", Ok(1024)),
            ("7E", Ok(7 << 60)),
            ("16E", Err(Range)),
            ("18446744073709551616", Err(Range)),
            ("-1", Err(Range)),
            ("-x", Err(Syntax)),
            ("0.3", Err(Syntax)),
            ("1e3", Err(Syntax)),
            ("0x10k", Err(Syntax)),
            ("1kk", Err(Syntax)),
            ("1Q", Err(Syntax)),
            (".", Err(Syntax)),
            ("k", Err(Syntax)),
            ("", Err(Syntax)),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }

    #[test]
    fn a_list_becomes_an_image_and_a_list_again() {
        let mut set = OptionSet::new(FormatName::Qcow2).unwrap();
        set.add("cluster_size=1M,lazy_refcounts,backing_file=a,,b,size=3G").unwrap();
        set.add("noextended_l2,backing_fmt=raw,cluster_size=128k").unwrap();
        let text = "cluster_size=131072 extended_l2=off compression_type=zlib size=3221225472 \
                    backing_file=a,,b backing_fmt=raw lazy_refcounts=on refcount_bits=16";
        assert_eq!(set.to_string(), text);
        let NewImage::Qcow2(image) = set.image().unwrap() else { panic!("not qcow2") };
        assert_eq!((image.size, image.cluster_size), (3 << 30, 128 << 10));
        assert_eq!(image.backing.unwrap().name, "a,b");
        assert!(image.lazy_refcounts && !image.extended_l2);
    }

    #[test]
    fn wrong_and_impossible_options_are_refused() {
        for (list, text) in [
            ("foo=1", "Invalid parameter 'foo'"),
            ("", "Invalid parameter ''"),
            ("cluster_size=x", "Parameter 'cluster_size' expects a non-negative number"),
            ("size=-1", "Value '-1' is out of range for parameter 'size'"),
            ("lazy_refcounts=maybe", "Parameter 'lazy_refcounts' expects 'on' or 'off'"),
            ("refcount_bits=x", "Parameter 'refcount_bits' expects a number"),
            ("compat=3", "Parameter 'version' does not accept value '3'"),
            ("compression_type=lz4", "Parameter 'compression-type' does not accept value 'lz4'"),
            ("preallocation=x", "Parameter 'preallocation' does not accept value 'x'"),
            ("backing_fmt=raw", "Backing format cannot be used without backing file"),
            ("data_file_raw=on", "data-file-raw requires data-file"),
            ("encrypt.format=foo", "Parameter 'format' does not accept value 'foo'"),
            ("encrypt.key-secret=s", "Parameter 'encrypt.format' is missing"),
            ("encrypt.format=luks,encrypt.key-secret=s", "No secret with id 's'"),
            ("encrypt.format=luks,encrypt.cipher-alg=x", "Parameter 'cipher-alg' does not accept"),
            ("encrypt.format=aes,encrypt.iter-time=1", "'encrypt.iter-time' is unexpected"),
            ("encryption=on,encrypt.format=aes", "can't be used at the same time"),
        ] {
            let mut set = OptionSet::new(FormatName::Qcow2).unwrap();
            let error = set.add(list).and_then(|()| set.image()).unwrap_err();
            assert!(error.to_string().contains(text), "{list}: {error}");
        }
        assert!(OptionSet::new(FormatName::Vmdk).is_err());
    }
}
