//! One error type: a kind to branch on, what was tried, where, and what the user can do.

use std::fmt;
use std::path::{Path, PathBuf};

/// What callers branch on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The operating system refused or failed; the errno is kept.
    Io,
    /// Bytes that were durable can't be read back as they were written.
    Damaged,
    /// A format of a later version, or one with features that this version doesn't know.
    Unsupported,
    /// No room within the allowance or on the filesystem.
    NoSpace,
    /// An earlier sync failed; nothing is accepted until recovery has run.
    Poisoned,
    /// Refused here and now: fenced, frozen, read-only.
    ReadOnly,
    /// The thing named isn't there.
    NotFound,
    /// It is there already.
    Exists,
    /// A handle or expectation from another history.
    Stale,
    /// In use.
    Busy,
    /// Input that makes no sense.
    Invalid,
    /// Not permitted by a rule.
    Refused,
    /// The peer can't be reached.
    Unreachable,
    /// The peer, or a file, says something that contradicts what is known.
    Conflict,
}

/// The result of most functions here.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, on which path, at which offset, why, and what can be done.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    name: Option<&'static str>,
    what: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    source: Option<std::io::Error>,
    advice: Option<String>,
}

impl Error {
    /// An error of this kind; `what` says what was tried or found, without a full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, name: None, what: what.into(), path: None, offset: None, source: None, advice: None }
    }

    /// An error of the operating system, met while doing `what`.
    pub fn io(source: std::io::Error, what: impl Into<String>) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc_errno::ENOSPC | libc_errno::EDQUOT) => Kind::NoSpace,
            Some(libc_errno::ENOENT) => Kind::NotFound,
            Some(libc_errno::EEXIST) => Kind::Exists,
            _ => Kind::Io,
        };
        Self { source: Some(source), ..Self::new(kind, what) }
    }

    /// A refusal with a name that stays the same over versions, so that scripts, tests and the page of
    /// remedies can refer to it: lower case, hyphens, shown before the text.
    pub fn refused(name: &'static str, what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what).named(name)
    }

    /// Gives the refusal a name (see [`Error::refused`]).
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Adds the path.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    /// Adds the offset in bytes.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What the user can do, if it is known.
    pub fn remedy(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// What failed, without name, place and advice.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What callers branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of the refusal, if it has one.
    pub fn name(&self) -> Option<&'static str> {
        self.name
    }

    /// The errno to answer with: the system's own where there is one.
    pub fn errno(&self) -> i32 {
        if let Some(errno) = self.source.as_ref().and_then(std::io::Error::raw_os_error) {
            return errno;
        }
        match self.kind {
            Kind::Io | Kind::Damaged | Kind::Poisoned | Kind::Conflict => libc_errno::EIO,
            Kind::Unsupported => libc_errno::EOPNOTSUPP,
            Kind::NoSpace => libc_errno::ENOSPC,
            Kind::ReadOnly => libc_errno::EROFS,
            Kind::NotFound => libc_errno::ENOENT,
            Kind::Exists => libc_errno::EEXIST,
            Kind::Stale => libc_errno::ESTALE,
            Kind::Busy => libc_errno::EBUSY,
            Kind::Invalid => libc_errno::EINVAL,
            Kind::Refused => libc_errno::EPERM,
            Kind::Unreachable => libc_errno::ENOTCONN,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name {
            write!(f, "{name}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(path) = &self.path {
            write!(f, ": {}", path.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, ". {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// Linux's numbers; this layer doesn't use libc.
mod libc_errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const EINVAL: i32 = 22;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ENOTCONN: i32 = 107;
    pub const ESTALE: i32 = 116;
    pub const EDQUOT: i32 = 122;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_why_and_what_to_do() {
        let e = Error::io(std::io::Error::from_raw_os_error(28), "can't append")
            .at("/srv/store/seg-1")
            .offset(4096)
            .advice("Free some space");
        assert_eq!(e.kind(), Kind::NoSpace);
        assert_eq!(e.errno(), 28);
        let text = e.to_string();
        assert!(text.starts_with("can't append: /srv/store/seg-1 at offset 4096: "), "{text}");
        assert!(text.ends_with(". Free some space"), "{text}");
    }

    #[test]
    fn a_refusal_shows_its_name_first() {
        let e = Error::refused("name-taken", "`web01` exists there").advice("Choose another with as=<name>");
        assert_eq!((e.kind(), e.name(), e.errno()), (Kind::Refused, Some("name-taken"), 1));
        assert_eq!(e.to_string(), "name-taken: `web01` exists there. Choose another with as=<name>");
    }
}
