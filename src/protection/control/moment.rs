//! The ways to name a moment, as the names of directories and on control lines.

use crate::protection::{WallTime, file_time, parse_time};
use crate::vocab::EpochId;
use std::fmt;
use std::str::FromStr;

/// The beginning of an epoch's 32 hexadecimal digits, at least eight of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EpochPrefix(String);

impl EpochPrefix {
    /// Whether the epoch begins with it.
    pub fn matches(&self, epoch: EpochId) -> bool {
        epoch.to_string().starts_with(&self.0)
    }

    /// The one epoch of these that begins with it; none if there are two or none.
    pub fn find(&self, epochs: impl IntoIterator<Item = EpochId>) -> Option<EpochId> {
        let mut found: Option<EpochId> = None;
        for epoch in epochs.into_iter().filter(|e| self.matches(*e)) {
            if found.is_some_and(|first| first != epoch) {
                return None;
            }
            found = Some(epoch);
        }
        found
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<EpochId> for EpochPrefix {
    fn from(epoch: EpochId) -> Self {
        Self(epoch.to_string())
    }
}

impl FromStr for EpochPrefix {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let lower = text.to_ascii_lowercase();
        if (8..=32).contains(&lower.len()) && lower.bytes().all(hex) {
            Ok(Self(lower))
        } else {
            Err(MomentError(text.to_owned()))
        }
    }
}

/// Text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no moment: latest, latest-processed, latest-app-consistent, @<time>, @seq-<n>, @<epoch>-<n> \
     (at least 8 digits of the epoch) or the name of a recovery point does"
)]
pub struct MomentError(pub String);

/// A moment as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MomentRef {
    /// The newest, after all that was received is durable and checked.
    Latest,
    /// The newest that already is.
    LatestProcessed,
    /// The newest point of kind `app`.
    LatestApp,
    /// The greatest moment on the line with a wall time at or before this one.
    Time(WallTime),
    /// A place on the line of the directory.
    Seq(u64),
    /// A place on the line that ends in an epoch.
    Epoch(EpochPrefix, u64),
    /// A recovery point by its name.
    Point(String),
}

impl MomentRef {
    /// Whether it counts as naming a moment where the table asks for one: all but the bare `latest`.
    pub fn names_moment(&self) -> bool {
        *self != Self::Latest
    }
}

impl FromStr for MomentRef {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let wrong = || MomentError(text.to_owned());
        match text {
            "latest" => return Ok(Self::Latest),
            "latest-processed" => return Ok(Self::LatestProcessed),
            "latest-app-consistent" => return Ok(Self::LatestApp),
            _ => {}
        }
        let Some(at) = text.strip_prefix('@') else {
            return if crate::protection::is_point_name(text) {
                Ok(Self::Point(text.to_owned()))
            } else {
                Err(wrong())
            };
        };
        if let Some(time) = parse_time(at) {
            return Ok(Self::Time(time));
        }
        let (head, number) = at.rsplit_once('-').ok_or_else(wrong)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
        if head == "seq" {
            return Ok(Self::Seq(number));
        }
        head.parse().map(|epoch| Self::Epoch(epoch, number)).map_err(|_| wrong())
    }
}

impl fmt::Display for MomentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::LatestProcessed => f.write_str("latest-processed"),
            Self::LatestApp => f.write_str("latest-app-consistent"),
            Self::Time(time) => write!(f, "@{}", file_time(*time)),
            Self::Seq(seq) => write!(f, "@seq-{seq}"),
            Self::Epoch(epoch, seq) => write!(f, "@{}-{seq}", epoch.as_str()),
            Self::Point(name) => f.write_str(name),
        }
    }
}

impl serde::Serialize for MomentRef {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MomentRef {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
