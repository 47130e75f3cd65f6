//! Errors as people read them: texts in qemu-img's shape, and exit codes. The only place.

use super::output::{self, Program};
use crate::storage::os_error;
use clap::error::{ContextKind, ContextValue, ErrorKind as Mistake};
use sectora_core::{Error, ErrorKind};

/// How a command ends: with an exit code, or with something to say.
pub(super) type Outcome = Result<u8, Failure>;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    /// What is said; nothing for a reader that went away.
    text: Option<String>,
    /// What is said after it, each as a message of its own.
    also: Vec<String>,
    /// The command line was wrong: the help is pointed out.
    usage: bool,
    code: u8,
}

impl Failure {
    /// Something went wrong.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), also: Vec::new(), usage: false, code: 1 }
    }

    /// The command line is wrong in a way that the help explains.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(text) }
    }

    /// Something valid that this program does not do.
    pub(super) fn unsupported(what: &str) -> Self {
        Self::new(format!("{what} is not supported"))
    }

    /// Whoever reads our output has gone. That is no error.
    pub(super) fn reader_gone() -> Self {
        Self { text: None, also: Vec::new(), usage: false, code: 0 }
    }

    /// A signal asked to stop.
    pub(super) fn stopped(signal: &str, code: u8) -> Self {
        Self::new(format!("stopped by {signal}")).with_code(code)
    }

    /// The image `name` could not be opened.
    pub(super) fn opening(name: &str, error: &Error) -> Self {
        Self::new(format!("Could not open '{name}': {}", told(error)))
    }

    /// `error` came of `doing` something. The reference says no more than what the operating system
    /// would call it.
    pub(super) fn of(doing: &str, error: &Error) -> Self {
        let why = if output::stands_in() { reason(error) } else { told(error) };
        Self::new(format!("{doing}: {why}"))
    }

    /// The same where the error says by itself what was being done, and its cause why it failed.
    pub(super) fn of_request(error: Error) -> Self {
        let is_gone = crate::storage::is_broken_pipe(&error);
        let has_cause = std::error::Error::source(&error).is_some();
        match output::stands_in() && has_cause && !is_gone {
            true => Self::new(format!("{}: {}", error.what(), reason(&error))),
            false => Self::from(error),
        }
    }

    /// The same with another exit code, where it has something to say.
    #[must_use]
    pub(super) fn with_code(self, code: u8) -> Self {
        let code = if self.text.is_some() { code } else { self.code };
        Self { code, ..self }
    }

    /// The same with words in front.
    #[must_use]
    pub(super) fn context(self, what: &str) -> Self {
        Self { text: self.text.map(|text| format!("{what}: {text}")), ..self }
    }

    /// The same with `new` for `old` at its beginning.
    #[must_use]
    pub(super) fn beginning(self, old: &str, new: &str) -> Self {
        let replaced = |text: String| match text.strip_prefix(old) {
            Some(rest) => format!("{new}{rest}"),
            None => format!("{new}: {text}"),
        };
        Self { text: self.text.map(replaced), ..self }
    }

    /// The same without `words` at its beginning.
    #[must_use]
    pub(super) fn without(self, words: &str) -> Self {
        let cut = |text: String| text.strip_prefix(words).map(ToOwned::to_owned).unwrap_or(text);
        Self { text: self.text.map(cut), ..self }
    }

    /// The same with a line more.
    #[must_use]
    pub(super) fn and(self, line: &str) -> Self {
        Self { text: self.text.map(|text| format!("{text}\n{line}")), ..self }
    }

    /// The same with another message after it.
    #[must_use]
    pub(super) fn and_again(mut self, text: &str) -> Self {
        self.also.push(text.to_owned());
        self
    }

    /// What is said, without the program's name.
    pub(super) fn to_text(&self) -> String {
        self.text.clone().unwrap_or_default()
    }

    /// Says it on standard error; gives the exit code.
    pub(super) fn report(self, program: Program, invoked: &str) -> u8 {
        if let Some(text) = self.text {
            output::complain(&format!("{}: {text}", program.name()));
            for text in self.also {
                output::complain(&format!("{}: {text}", program.name()));
            }
            if self.usage {
                output::complain(&try_help(invoked));
            }
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match crate::storage::is_broken_pipe(&error) {
            true => Self::reader_gone(),
            false => Self::new(told(&error)),
        }
    }
}

/// The text of an engine's error. One that begins with a capital is the reference's own, which names
/// neither format nor place.
pub(super) fn told(error: &Error) -> String {
    let has_cause = std::error::Error::source(error).is_some();
    let inner = error.what().trim_start_matches("Could not open backing file: ");
    if let Some((doing, _)) = error.what().split_once("Preventing invalid write on metadata") {
        // That was told as an event, before the request failed.
        return format!("{doing}Input/output error");
    }
    if !has_cause && inner.starts_with(|c: char| c.is_ascii_uppercase()) {
        let what = error.what();
        // The one of those that names its format.
        return match (what.split_once("Image is corrupt"), error.format()) {
            (Some((below, rest)), Some(format)) => {
                format!("{below}{format}: Image is corrupt{rest}")
            }
            _ => what.to_owned(),
        };
    }
    let text = error.to_string();
    // What could not be opened goes before the name of the format.
    match error.format() {
        Some(format)
            if error.what().starts_with("Could not open backing") && text.starts_with(format) =>
        {
            text[format.len()..].trim_start_matches(": ").to_owned()
        }
        _ => text,
    }
}

/// What the operating system would call an error, as programs print it.
pub(super) fn reason(error: &Error) -> String {
    if os_error(error).is_some() {
        let text = error.to_string();
        return text.rsplit(": ").next().unwrap_or_default().to_owned();
    }
    match error.kind() {
        ErrorKind::Unsupported => "Operation not supported",
        ErrorKind::InvalidInput => "Invalid argument",
        ErrorKind::Denied => "Operation not permitted",
        ErrorKind::NoSpace => "No space left on device",
        ErrorKind::Limit => "File too large",
        ErrorKind::InUse => "Device or resource busy",
        ErrorKind::NotFound => "No such file or directory",
        ErrorKind::Cancelled => "Operation canceled",
        _ => "Input/output error",
    }
    .to_owned()
}

fn try_help(invoked: &str) -> String {
    format!("Try '{invoked} --help' for more info")
}

/// What the parser of the command line found wrong, or the help or version that was asked for.
///
/// `last` is the last word of the command line.
pub(super) fn of_command_line(
    program: Program,
    invoked: &str,
    last: Option<&str>,
    error: &clap::Error,
) -> Outcome {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (named, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    // `--output <FORMAT>` and `-f, --format <FMT>` as the parser words them.
    let option = named.split([' ', '=']).next().unwrap_or_default().trim_end_matches(',');
    let text = match error.kind() {
        Mistake::DisplayHelp | Mistake::DisplayVersion => {
            output::print(&error.render().to_string())?;
            return Ok(0);
        }
        Mistake::MissingSubcommand | Mistake::DisplayHelpOnMissingArgumentOrSubcommand => {
            "Not enough arguments".to_owned()
        }
        Mistake::InvalidSubcommand => {
            format!("Command not found: {}", context(ContextKind::InvalidSubcommand))
        }
        Mistake::UnknownArgument => match option.strip_prefix("--") {
            Some(_) => return of_option(invoked, &format!("unrecognized option '{option}'")),
            None => {
                let letter = option.trim_start_matches('-');
                return of_option(invoked, &format!("invalid option -- '{letter}'"));
            }
        },
        Mistake::InvalidValue if value.is_empty() => {
            // What lacks its argument is the last word, in the spelling it was given in.
            let text = match last.filter(|last| !last.starts_with("--")) {
                Some(last) => {
                    let letter = last.chars().next_back().unwrap_or_default();
                    format!("option requires an argument -- '{letter}'")
                }
                None => format!("option '{option}' requires an argument"),
            };
            return of_option(invoked, &text);
        }
        Mistake::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => {
                let valid: Vec<String> = valid.iter().map(|v| format!("'{v}'")).collect();
                format!("{option} expects {} not '{value}'", valid.join(" or "))
            }
            _ => format!("{option} does not accept '{value}'"),
        },
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    Ok(Failure::usage(text).report(program, invoked))
}

/// A wrong option, as the C library words it.
fn of_option(invoked: &str, text: &str) -> Outcome {
    Ok(option_mistake(invoked, &format!("{invoked}: {text}")))
}

/// Says `text`, which names the program already, and points out the help; gives the exit code.
pub(super) fn option_mistake(invoked: &str, text: &str) -> u8 {
    output::complain(text);
    output::complain(&try_help(invoked));
    1
}
