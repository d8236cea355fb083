//! Recovery points: named, retained moments. Names, what is due, what retention lets go, two sites' sets as one.
//!
//! 1. Age is counted back from the newest record that the group holds, not from now: a silent source ages nothing.
//! 2. While a failover is not committed, nothing expires.
//! 3. A pinned point expires by no rule; only a command drops it.
//! 4. Merging is a union in which a deletion wins; in whatever order sites exchange their sets, they end equal.

use super::names::words;
use super::{WallTime, file_time, parse_time};
use crate::vocab::{EpochId, Moment, Token};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

words!(
    /// How a point came to be.
    PointKind ("kind of recovery point") {
        /// By schedule or as `latest`: crash-consistent.
        Crash = "crash",
        /// At a flush of the guest.
        Flush = "flush",
        /// With the guest quiesced.
        App = "app",
        /// By a person.
        User = "user",
    }
);

/// One recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its identity: the same at both sites.
    pub id: Token,
    /// The moment that it names.
    pub moment: Moment,
    /// How it came to be.
    pub kind: PointKind,
    /// Wall time of the moment, by the source's clock, in ns.
    pub time: WallTime,
    /// A name given by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Kept until a command drops it.
    #[serde(default)]
    pub pinned: bool,
    /// This site's age clock at the moment, in ns. Neither shipped nor compared between sites.
    #[serde(default)]
    pub age: u64,
}

impl Point {
    /// The name of its directory: `<time>-<kind>[-<label>]`.
    pub fn name(&self) -> String {
        // Names carry milliseconds; what lies below is cut, so that a name never is later than its moment.
        let time = file_time(self.time - self.time.rem_euclid(1_000_000));
        match &self.label {
            Some(label) => format!("{time}-{}-{label}", self.kind),
            None => format!("{time}-{}", self.kind),
        }
    }
}

/// Whether a person may give a point this name.
pub fn is_point_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Time, kind and label of a directory's name; the time may be written with colons.
pub fn parse_point_name(name: &str) -> Option<(WallTime, PointKind, Option<&str>)> {
    let end = name.find('Z')? + 1;
    let time = parse_time(&name[..end])?;
    let rest = name[end..].strip_prefix('-')?;
    let (kind, label) = match rest.split_once('-') {
        Some((kind, label)) => (kind, Some(label)),
        None => (rest, None),
    };
    if label.is_some_and(|label| !is_point_label(label)) {
        return None;
    }
    Some((time, kind.parse().ok()?, label))
}

/// Whether this can be the name of a point's directory.
pub fn is_point_name(name: &str) -> bool {
    parse_point_name(name).is_some()
}

/// Points and the identities of deleted ones.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PointSet {
    points: BTreeMap<Token, Point>,
    gone: BTreeSet<Token>,
}

impl PointSet {
    /// All points, by the place of their moment, the oldest first (meaningful on one line only).
    pub fn in_order(&self) -> Vec<&Point> {
        let mut all: Vec<&Point> = self.points.values().collect();
        all.sort_by_key(|p| (p.moment.seq, p.time, p.id));
        all
    }

    /// The point with this id.
    pub fn get(&self, id: Token) -> Option<&Point> {
        self.points.get(&id)
    }

    /// Ids of deleted points that the peer may not have heard of.
    pub fn gone(&self) -> impl Iterator<Item = Token> {
        self.gone.iter().copied()
    }

    /// The point whose directory has this name, with `:` or `-` in the time. Of several the first made.
    pub fn find(&self, name: &str) -> Option<&Point> {
        let wanted = parse_point_name(name)?;
        self.in_order().into_iter().find(|point| parse_point_name(&point.name()) == Some(wanted))
    }

    /// Adds a point, unless it was deleted.
    pub fn insert(&mut self, point: Point) {
        if !self.gone.contains(&point.id) {
            self.points.insert(point.id, point);
        }
    }

    /// Deletes a point and remembers that. False: there was none.
    pub fn remove(&mut self, id: Token) -> bool {
        self.gone.insert(id);
        self.points.remove(&id).is_some()
    }

    /// Leaves the others out, without remembering them as deleted.
    pub fn retain(&mut self, mut keep: impl FnMut(&Point) -> bool) {
        self.points.retain(|_, point| keep(point));
    }

    /// Forgets that these were deleted: the peer has heard it.
    pub fn forget_gone(&mut self, ids: impl IntoIterator<Item = Token>) {
        ids.into_iter().for_each(|id| {
            self.gone.remove(&id);
        });
    }

    /// Takes in the other site's set. Returns whether anything changed. Invariant 4.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = (self.points.len(), self.gone.len());
        let mut changed = false;
        for id in &other.gone {
            self.remove(*id);
        }
        for point in other.points.values().filter(|p| !self.gone.contains(&p.id)) {
            match self.points.get_mut(&point.id) {
                // A pin at either site counts; everything else of a point never changes.
                Some(own) => {
                    changed |= point.pinned && !own.pinned;
                    own.pinned |= point.pinned;
                }
                // The age clock is each site's own: the caller fills in its own value.
                None => drop(self.points.insert(point.id, Point { age: 0, ..point.clone() })),
            }
        }
        changed || before != (self.points.len(), self.gone.len())
    }

    /// Gives points of the other site a place on this site's age clock.
    pub fn fill_ages(&mut self, age_at: impl Fn(WallTime) -> u64) {
        for point in self.points.values_mut().filter(|p| p.age == 0) {
            point.age = age_at(point.time);
        }
    }

    /// The newest point of this kind on a line.
    pub fn latest(&self, kind: PointKind, on_line: impl Fn(Moment) -> bool) -> Option<&Point> {
        self.in_order().into_iter().rev().find(|p| p.kind == kind && on_line(p.moment))
    }

    /// The points that retention lets go: older than the window, not pinned. Invariants 1 to 3.
    pub fn expired(&self, retention: Retention) -> Vec<Token> {
        let Some(edge) = retention.edge() else { return Vec::new() };
        self.in_order().into_iter().filter(|p| !p.pinned && p.age < edge).map(|p| p.id).collect()
    }

    /// The points that a commit deletes: with `delete` all that are not pinned, with `keep` those above the chosen
    /// moment on the line that was left (retention goes on with the others).
    pub fn ended_by_commit(&self, keep: bool, chosen: Moment, old_line: &[EpochId]) -> Vec<Token> {
        let above = |p: &Point| p.moment.seq > chosen.seq && old_line.contains(&p.moment.epoch);
        let ends = |p: &&Point| !p.pinned && (!keep || above(p));
        self.in_order().into_iter().filter(ends).map(|p| p.id).collect()
    }
}

/// What retention goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The age clock at the newest record that the group holds, in ns.
    pub newest: u64,
    /// How far back every moment is kept, in ns.
    pub window: u64,
    /// A failover is not committed.
    pub uncommitted: bool,
}

impl Retention {
    /// Moments with an age clock below this are outside of the window; none: nothing is.
    pub fn edge(self) -> Option<u64> {
        if self.uncommitted { None } else { self.newest.checked_sub(self.window) }
    }
}

/// Whether a scheduled point is due: there is a record newer than the last one of its kind, and its time has come.
/// `last`: age clock and moment of the last scheduled point; `now` and `head`: of the newest durable record.
pub fn point_due(every: Option<u64>, last: Option<(u64, Moment)>, now: u64, head: Moment) -> bool {
    let Some(every) = every else { return false };
    match last {
        None => head.seq.0 > 0,
        Some((age, moment)) => moment != head && now.saturating_sub(age) >= every,
    }
}

#[cfg(test)]
mod tests;
