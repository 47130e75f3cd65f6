//! The engine's error: a small stable kind for code, words and a place for people.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use core::fmt;

/// The result of every fallible call of the engine.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Who is to blame, and so what a caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device below failed.
    Io,
    /// Valid, but this engine does not do it.
    Unsupported,
    /// The image breaks a rule of its format.
    Corrupt,
    /// A limit of the format, of the engine or of the caller's budget is exceeded.
    Limit,
    /// A policy forbids it: an image wanted a file that it was not allowed to open, or a device
    /// is read-only.
    Denied,
    /// Somebody else holds the file or a conflicting permission.
    InUse,
    /// The caller asked for something that cannot be.
    InvalidInput,
    /// No such file, snapshot, bitmap or node.
    NotFound,
    /// The storage is full.
    NoSpace,
    /// The caller gave up.
    Cancelled,
    /// Cannot happen; please report it.
    Bug,
}

impl ErrorKind {
    /// The name that code outside Rust matches on (stable).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "Io",
            Self::Unsupported => "Unsupported",
            Self::Corrupt => "Corrupt",
            Self::Limit => "Limit",
            Self::Denied => "Denied",
            Self::InUse => "InUse",
            Self::InvalidInput => "InvalidInput",
            Self::NotFound => "NotFound",
            Self::NoSpace => "NoSpace",
            Self::Cancelled => "Cancelled",
            Self::Bug => "Bug",
        }
    }
}

/// What went wrong: match on [`kind`](Error::kind), show the [`Display`](fmt::Display) text.
///
/// Texts are lower case, without a full stop, with offsets in hexadecimal, and name the broken
/// rule and the value found.
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    what: Cow<'static, str>,
    format: Option<&'static str>,
    at: Option<u64>,
    source: Option<Box<dyn core::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose text is `what`.
    pub fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Repr { kind, what: what.into(), format: None, at: None, source: None }))
    }

    /// The device below failed.
    pub fn io(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Io, what)
    }

    /// Valid, but this engine does not do it.
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// The image breaks a rule of its format.
    pub fn corrupt(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, what)
    }

    /// A limit is exceeded.
    pub fn limit(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, what)
    }

    /// A policy or a read-only device forbids it.
    pub fn denied(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Denied, what)
    }

    /// The caller asked for something that cannot be.
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, what)
    }

    /// The storage is full.
    pub fn no_space(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NoSpace, what)
    }

    /// A broken invariant of the engine.
    pub fn bug(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Bug, what)
    }

    /// Names the image format whose rule or limit it is.
    #[must_use]
    pub fn in_format(mut self, format: &'static str) -> Self {
        self.0.format = Some(format);
        self
    }

    /// Names the offset in the file (or device) at which the trouble lies.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.at = Some(offset);
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn core::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says what was being done, in front of the text; kind, format and place stay.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.what = Cow::Owned(alloc::format!("{what}: {}", self.0.what));
        self
    }

    /// This error as the cause of one of the same kind that says what was being done.
    #[must_use]
    pub fn during(self, what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(self.kind(), what).because(self)
    }

    /// The kind, for code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text alone, without format, place and cause.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The image format whose rule or limit it is; that of its cause where it has none itself.
    #[must_use]
    pub fn format(&self) -> Option<&'static str> {
        self.0.format.or_else(|| self.cause()?.format())
    }

    /// The offset in the file at which the trouble lies; that of its cause where it has none itself.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.at.or_else(|| self.cause()?.offset())
    }

    /// The cause, where it is of the engine.
    fn cause(&self) -> Option<&Self> {
        self.0.source.as_deref()?.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(format) = self.0.format {
            write!(f, "{format}: ")?;
        }
        f.write_str(&self.0.what)?;
        if let Some(at) = self.0.at {
            write!(f, " (at offset {at:#x})")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_names_format_rule_place_and_cause() {
        let e = Error::corrupt("L1 table is not cluster aligned")
            .in_format("qcow2")
            .at(0x30001)
            .context("cannot open disk.qcow2");
        assert_eq!(
            e.to_string(),
            "qcow2: cannot open disk.qcow2: L1 table is not cluster aligned (at offset 0x30001)"
        );
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        let outer = Error::io("cannot read").because(e);
        assert_eq!((outer.format(), outer.offset()), (Some("qcow2"), Some(0x30001)));
        assert!(outer.to_string().ends_with("(at offset 0x30001)"));
    }
}
