//! Policies: how a group is replicated, what is kept, and what a site grants. Read from and shown as `key: value`.
//!
//! 1. A policy that exists is valid: every way to make or change one checks every key and the rules between keys.
//! 2. What is shown can be written back and gives the same policy.
//! 3. The policy `failback` is built in: RPO threshold 15 min, retention 24 h, application points every 60 min. It
//!    can't be edited and its name can't be taken.
//! 4. An error names the key, the value and what is expected.
//! 5. What belongs to a site (allowance, rate) is apart: it is never shipped.

use super::control::PointsAtCommit;
use super::names::words;
use super::{
    Refusal, Refused, WallTime, duration_text, parse_duration, parse_size, parse_time, size_text, text_time,
};
use std::collections::BTreeMap;

/// The name of the built-in policy of the way back.
pub const FAILBACK: &str = "failback";

const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;
/// The longest window, in hours.
pub const WINDOW_HOURS_MAX: u32 = 8_784;

words!(
    /// How often what is new is sent.
    CopyFrequency ("copy-frequency") {
        /// As soon as it is durable.
        Continuous = "continuous",
        /// Every 30 seconds.
        Seconds30 = "30s",
        /// Every five minutes.
        Minutes5 = "5min",
        /// Every fifteen minutes.
        Minutes15 = "15min",
    }
);

impl CopyFrequency {
    /// The time between two sendings in ns; 0: none.
    pub fn interval(self) -> u64 {
        match self {
            Self::Continuous => 0,
            Self::Seconds30 => MINUTE / 2,
            Self::Minutes5 => 5 * MINUTE,
            Self::Minutes15 => 15 * MINUTE,
        }
    }
}

/// When the first copy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// At once.
    Now,
    /// Not before this wall time.
    At(WallTime),
}

/// How a group is replicated and what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// How often what is new is sent.
    pub copy_frequency: CopyFrequency,
    /// How far back every moment is kept, in hours; 0: no window.
    pub window_hours: u32,
    /// A crash-consistent point every so many ns; none: no scheduled points.
    pub crash_points: Option<u64>,
    /// A point at flushes of the guest.
    pub flush_points: bool,
    /// An application-consistent point every so many hours, 1 to 12.
    pub app_points_hours: Option<u32>,
    /// The zstd level on the wire, 1 to 19; none: not compressed.
    pub compress: Option<i32>,
    /// What a commit does with recovery points where its line doesn't say.
    pub points_at_commit: PointsAtCommit,
    /// The age of the standby that health calls too old, in ns.
    pub rpo_threshold: u64,
    /// Whether `unprotect` deletes the replica where its line doesn't say.
    pub delete_replica_on_unprotect: bool,
    /// When the first copy begins.
    pub initial: Initial,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            copy_frequency: CopyFrequency::Continuous,
            window_hours: 24,
            crash_points: Some(5 * MINUTE),
            flush_points: false,
            app_points_hours: None,
            compress: Some(1),
            points_at_commit: PointsAtCommit::Delete,
            rpo_threshold: 15 * MINUTE,
            delete_replica_on_unprotect: false,
            initial: Initial::Now,
        }
    }
}

/// What a site grants a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SiteSettings {
    /// Room for logs, index and holds.
    pub allowance: Allowance,
    /// The highest rate at which the group is shipped, in bytes a second; none: unlimited.
    pub rate: Option<u64>,
}

/// How much room a group may take beside its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Allowance {
    /// 20 % of its disks' sizes, at least 8 GiB, at most a quarter of the filesystem.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// So many percent of its disks' sizes, without other bounds than a quarter of the filesystem.
    Percent(u32),
}

/// A share of a small disk isn't less than this, bytes: some segments, or nothing could be written.
const ALLOWANCE_MIN: u64 = 32 << 20;

impl Allowance {
    /// The bytes for a group with disks of `disks` bytes on a filesystem of `filesystem` bytes.
    pub fn bytes(self, disks: u64, filesystem: u64) -> u64 {
        let percent = |p: u32| (u128::from(disks) * u128::from(p) / 100).min(u128::from(u64::MAX)) as u64;
        match self {
            Self::Auto => percent(20).max(8 << 30).min(filesystem / 4),
            Self::Percent(p) => percent(p).max(ALLOWANCE_MIN).min(filesystem / 4),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// A line that no policy can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A key that there isn't.
    #[error("`{key}` is no key of a policy; {known} are")]
    UnknownKey {
        /// The key.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// A key twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// A value that the key can't have.
    #[error("{key}: {value}: expected is {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A line without a colon.
    #[error("`{0}` is no line of a policy: `key: value` is expected")]
    NoColon(String),
    /// A built-in one.
    #[error("the policy `{FAILBACK}` is built in and can't be edited")]
    Immutable,
}

impl From<PolicyError> for Refused {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Immutable => Refusal::PolicyImmutable.with("policy", FAILBACK),
            error => Refusal::Invalid.with("what", error),
        }
    }
}

/// The keys of a policy, in the order in which they are shown; those of the site come last.
pub const KEYS: &[&str] = &[
    "name",
    "copy-frequency",
    "window",
    "crash-points",
    "flush-points",
    "app-points",
    "compress",
    "points-at-commit",
    "rpo-threshold",
    "delete-replica-on-unprotect",
    "initial",
];
/// The keys of a site's settings for a group.
pub const SITE_KEYS: &[&str] = &["allowance", "rate"];

impl Policy {
    /// The built-in policy of the way back.
    pub fn failback() -> Self {
        Self { name: FAILBACK.to_owned(), app_points_hours: Some(1), ..Self::default() }
    }

    /// Whether it can't be edited.
    pub fn is_built_in(&self) -> bool {
        self.name == FAILBACK
    }

    /// Key and value of every line.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let every = |ns: Option<u64>| ns.map_or("off".to_owned(), duration_text);
        vec![
            ("name", self.name.clone()),
            ("copy-frequency", self.copy_frequency.to_string()),
            ("window", format!("{}h", self.window_hours)),
            ("crash-points", every(self.crash_points)),
            ("flush-points", on_off(self.flush_points)),
            ("app-points", every(self.app_points_hours.map(|h| u64::from(h) * HOUR))),
            (
                "compress",
                match self.compress {
                    None => "off".to_owned(),
                    Some(1) => "on".to_owned(),
                    Some(level) => level.to_string(),
                },
            ),
            ("points-at-commit", self.points_at_commit.to_string()),
            ("rpo-threshold", duration_text(self.rpo_threshold)),
            (
                "delete-replica-on-unprotect",
                if self.delete_replica_on_unprotect { "yes" } else { "no" }.to_owned(),
            ),
            (
                "initial",
                match self.initial {
                    Initial::Now => "now".to_owned(),
                    Initial::At(time) => format!("at {}", text_time(time)),
                },
            ),
        ]
    }

    fn set(&mut self, key: &'static str, value: &str) -> Result<(), PolicyError> {
        let wrong = |expected: &str| PolicyError::Value {
            key,
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        match key {
            "name" => {
                let ok = super::is_point_label(value) && value != FAILBACK;
                self.name = ok.then(|| value.to_owned()).ok_or_else(|| {
                    wrong("1 to 64 letters, digits, `.`, `_` and `-`, other than the built-in `failback`")
                })?;
            }
            "copy-frequency" => {
                self.copy_frequency = value.parse().map_err(|_| wrong("continuous, 30s, 5min or 15min"))?;
            }
            "window" => {
                let hours = parse_duration(value).filter(|ns| ns % HOUR == 0).map(|ns| ns / HOUR);
                let hours = hours.and_then(|h| u32::try_from(h).ok()).filter(|h| *h <= WINDOW_HOURS_MAX);
                self.window_hours = hours.ok_or_else(|| wrong("whole hours from 0h (none) to 8784h"))?;
            }
            "crash-points" => {
                let ok = |ns: &u64| (MINUTE..=24 * HOUR).contains(ns);
                let parsed = or_off(value, |v| parse_duration(v).filter(ok));
                self.crash_points = parsed.ok_or_else(|| wrong("1min to 24h, or off"))?;
            }
            "flush-points" => {
                self.flush_points = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(wrong("on or off")),
                }
            }
            "app-points" => {
                let ok = |ns: &u64| ns.is_multiple_of(HOUR) && (HOUR..=12 * HOUR).contains(ns);
                let parsed = or_off(value, |v| parse_duration(v).filter(ok));
                let parsed = parsed.ok_or_else(|| wrong("whole hours from 1h to 12h, or off"))?;
                self.app_points_hours = parsed.map(|ns| (ns / HOUR) as u32);
            }
            "compress" => {
                let level = |v: &str| match v {
                    "on" => Some(1),
                    v => v.parse().ok().filter(|l| (1..=19).contains(l)),
                };
                self.compress =
                    or_off(value, level).ok_or_else(|| wrong("on, off or a level from 1 to 19"))?;
            }
            "points-at-commit" => {
                self.points_at_commit = value.parse().map_err(|_| wrong("delete or keep"))?;
            }
            "rpo-threshold" => {
                let ok = |ns: &u64| (1_000_000_000..=24 * HOUR).contains(ns);
                self.rpo_threshold = parse_duration(value).filter(ok).ok_or_else(|| wrong("1s to 24h"))?;
            }
            "delete-replica-on-unprotect" => {
                self.delete_replica_on_unprotect = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(wrong("yes or no")),
                }
            }
            _ => {
                let at = |v: &str| v.strip_prefix("at ").and_then(|t| parse_time(t.trim()));
                self.initial = match value {
                    "now" => Initial::Now,
                    v => {
                        Initial::At(at(v).ok_or_else(|| wrong("now, or at <time in RFC 3339 with a zone>"))?)
                    }
                };
            }
        }
        Ok(())
    }

    /// The rules between keys.
    fn checked(self) -> Result<Self, PolicyError> {
        match self.app_points_hours {
            Some(hours) if hours >= self.window_hours => Err(PolicyError::Value {
                key: "app-points",
                value: format!("{hours}h"),
                expected: format!("less than the window, which is {}h", self.window_hours),
            }),
            _ => Ok(self),
        }
    }
}

impl SiteSettings {
    /// Key and value of every line.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let allowance = match self.allowance {
            Allowance::Auto => "auto".to_owned(),
            Allowance::Bytes(bytes) => size_text(bytes),
            Allowance::Percent(percent) => format!("{percent}%"),
        };
        let rate = self.rate.map_or("unlimited".to_owned(), |rate| format!("{}/s", size_text(rate)));
        vec![("allowance", allowance), ("rate", rate)]
    }

    fn set(&mut self, key: &'static str, value: &str) -> Result<(), PolicyError> {
        let wrong = |expected: &str| PolicyError::Value {
            key,
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        if key == "allowance" {
            let percent = |v: &str| v.parse().ok().filter(|p| (1..=1000).contains(p)).map(Allowance::Percent);
            let bytes = |v: &str| parse_size(v).filter(|b| *b >= 256 << 20).map(Allowance::Bytes);
            let parsed = match (value, value.strip_suffix('%')) {
                ("auto", _) => Some(Allowance::Auto),
                (_, Some(number)) => percent(number.trim()),
                (text, None) => bytes(text),
            };
            self.allowance =
                parsed.ok_or_else(|| wrong("auto, 1% to 1000%, or a size of at least 256MiB"))?;
        } else {
            let rate = |v: &str| v.strip_suffix("/s").and_then(parse_size).filter(|r| *r >= 4096);
            self.rate = match value {
                "unlimited" => None,
                v => Some(
                    rate(v).ok_or_else(|| wrong("unlimited, or a rate such as 10MiB/s, at least 4KiB/s"))?,
                ),
            };
        }
        Ok(())
    }
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// `Some(None)` for `off`, else what the value is, or `None` if it is nothing.
fn or_off<T>(value: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if value == "off" { Some(None) } else { parse(value).map(Some) }
}

/// A group's `policy` file.
pub fn policy_text(policy: &Policy, site: &SiteSettings) -> String {
    let lines = policy.entries().into_iter().chain(site.entries());
    lines.map(|(key, value)| format!("{key}: {value}\n")).collect()
}

/// The file as JSON: the same keys and values.
pub fn policy_json(policy: &Policy, site: &SiteSettings) -> serde_json::Value {
    let lines = policy.entries().into_iter().chain(site.entries());
    lines.map(|(key, value)| (key.to_owned(), serde_json::Value::String(value))).collect()
}

/// What was written to the `policy` file: some or all of its lines. Blank lines and those that begin with `#` don't
/// count. Nothing is changed unless every line is good.
pub fn edit(policy: &Policy, site: &SiteSettings, text: &str) -> Result<(Policy, SiteSettings), PolicyError> {
    let (mut policy, mut site) = (policy.clone(), *site);
    let built_in = policy.is_built_in();
    let mut seen = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(':').ok_or_else(|| PolicyError::NoColon(line.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        let find = |keys: &[&'static str]| keys.iter().copied().find(|k| *k == key);
        if seen.contains(&key) {
            return Err(PolicyError::Twice(key.to_owned()));
        }
        seen.push(key);
        match (find(KEYS), find(SITE_KEYS)) {
            (Some(known), _) => {
                // Writing back what is shown is no edit.
                if policy.entries().iter().any(|(k, v)| *k == known && v == value) {
                    continue;
                }
                if built_in {
                    return Err(PolicyError::Immutable);
                }
                policy.set(known, value)?;
            }
            (None, Some(known)) => site.set(known, value)?,
            (None, None) => {
                let known = [KEYS, SITE_KEYS].concat().join(", ");
                return Err(PolicyError::UnknownKey { key: key.to_owned(), known });
            }
        }
    }
    Ok((policy.checked()?, site))
}

impl serde::Serialize for Policy {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.entries())
    }
}

impl<'de> serde::Deserialize<'de> for Policy {
    /// From a record: keys of a later version are passed over, missing ones have their defaults.
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(d)?;
        if map.get("name").is_some_and(|name| name == FAILBACK) {
            return Ok(Self::failback());
        }
        let mut policy = Self::default();
        for key in KEYS {
            if let Some(value) = map.get(*key) {
                policy.set(key, value).map_err(serde::de::Error::custom)?;
            }
        }
        policy.checked().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
