//! How a site that is not at the writer's head gets there: replay, delta, tree or full.
//!
//! Y1. *replay*: there is a chain value at c itself, all records after c exist at the writer with no jump among them,
//!     and at the other site the *floor* (not the base) of every disk lies on its path at or below c and all
//!     records from there to c exist. No gap arises.
//! Y2. *delta*: the ranges of both sites reach down to the proved moment, which lies on both paths. What is sent is
//!     the union of both sides' ranges after it: a superset where a path crosses a jump that spans it.
//! Y3. *tree*: both heads are compared and what differs is sent. Always right where there is an image at all; the
//!     only way once chain values differ.
//! Y4. *full*: there is no image.

use crate::history::path::PathPlace;
use crate::history::{Common, Path, Piece, Table, TableError};
use crate::vocab::Moment;
use std::fmt;

/// What one site holds of what its path leads through.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    /// The path to its head.
    pub path: &'a Path,
    /// All records after this moment of the path are held, with payload; `None`: none are.
    pub records_from: Option<Moment>,
    /// All ranges changed after this moment of the path are known; `None`: none are.
    pub ranges_from: Option<Moment>,
}

/// One of the ways, with the reason for which the earlier ones are not possible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// Which.
    pub kind: WayKind,
    /// Why none of the cheaper ways is possible, for the job; empty for replay.
    pub because: Vec<&'static str>,
}

/// The ways, cheapest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayKind {
    /// The records after `from` are appended to the line at `from`.
    Replay {
        /// c.
        from: Moment,
    },
    /// A jump from the target's head with the ranges of both sites after `after`.
    Delta {
        /// The proved moment.
        after: Moment,
    },
    /// A jump from the target's head with what differs.
    Tree,
    /// A jump from nothing.
    Full,
}

impl fmt::Display for WayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replay { from } => write!(f, "replay from {from}"),
            Self::Delta { after } => write!(f, "delta after {after}"),
            Self::Tree => f.write_str("tree"),
            Self::Full => f.write_str("full"),
        }
    }
}

/// The part of a path whose ranges a delta needs from that side, oldest first: of records the ranges that they
/// changed, of jumps those of their staged entries.
pub fn delta_ranges(table: &Table, path: &Path, after: Moment) -> Result<Vec<Piece>, TableError> {
    Ok(path.place(table, after)?.map(|place| path.pieces_after(place)).unwrap_or_default())
}

/// Whether the records of the writer after `from` can be appended by a site that is at `from`: they exist up to its
/// head, and no jump lies among them. Y1, the writer's half; all of what following needs.
pub fn has_records(table: &Table, source: &Holding<'_>, from: Moment) -> Result<bool, TableError> {
    let (Some(at), Some(held)) =
        (source.path.place(table, from)?, place(table, source, source.records_from)?)
    else {
        return Ok(false);
    };
    Ok(held <= at && !source.path.jumps_after(at))
}

/// The first way that is possible. `floors`: the floor of every disk of the target (`None`: a disk without one).
/// `target`: `None` if it has no image.
pub fn choose(
    table: &Table,
    source: &Holding<'_>,
    target: Option<&Holding<'_>>,
    floors: &[Option<Moment>],
    common: Option<Common>,
) -> Result<Way, TableError> {
    let Some(target) = target else {
        return Ok(Way { kind: WayKind::Full, because: vec!["the target has no image"] });
    };
    let Some(common) = common else {
        return Ok(Way { kind: WayKind::Tree, because: vec!["the two histories have no moment in common"] });
    };
    let mut because = Vec::new();
    match no_replay(table, source, target, floors, common)? {
        None => return Ok(Way { kind: WayKind::Replay { from: common.by_rows }, because }),
        Some(reason) => because.push(reason),
    }
    match no_delta(table, source, target, common)? {
        Ok(after) => Ok(Way { kind: WayKind::Delta { after }, because }),
        Err(reason) => {
            because.push(reason);
            Ok(Way { kind: WayKind::Tree, because })
        }
    }
}

fn no_replay(
    table: &Table,
    source: &Holding<'_>,
    target: &Holding<'_>,
    floors: &[Option<Moment>],
    common: Common,
) -> Result<Option<&'static str>, TableError> {
    if !common.agrees() {
        return Ok(Some("the chain values differ"));
    }
    if !common.proved_at_common() {
        return Ok(Some("there is no chain value at the common moment"));
    }
    if !has_records(table, source, common.by_rows)? {
        return Ok(Some("the records after the common moment are gone, or a jump lies among them"));
    }
    let Some(at) = target.path.place(table, common.by_rows)? else {
        return Ok(Some("the common moment is not on the target's path"));
    };
    let held = place(table, target, target.records_from)?;
    for floor in floors {
        let Some(floor) = floor.map(|m| target.path.place(table, m)).transpose()?.flatten() else {
            return Ok(Some("a disk of the target has no floor on its path"));
        };
        if floor > at {
            return Ok(Some("a base of the target has passed the common moment"));
        }
        if floor < at && held.is_none_or(|held| held > floor) {
            return Ok(Some("records of the target between base and common moment are gone"));
        }
    }
    Ok(None)
}

fn no_delta(
    table: &Table,
    source: &Holding<'_>,
    target: &Holding<'_>,
    common: Common,
) -> Result<Result<Moment, &'static str>, TableError> {
    let Some(proved) = common.proved.filter(|_| common.agrees()) else {
        return Ok(Err(if common.agrees() {
            "no common moment is proved"
        } else {
            "the chain values differ"
        }));
    };
    for side in [source, target] {
        let reaches = match (side.path.place(table, proved)?, place(table, side, side.ranges_from)?) {
            (Some(at), Some(from)) => from <= at,
            _ => false,
        };
        if !reaches {
            return Ok(Err("the ranges changed since the proved moment are no longer known"));
        }
    }
    Ok(Ok(proved))
}

fn place(table: &Table, side: &Holding<'_>, moment: Option<Moment>) -> Result<Option<PathPlace>, TableError> {
    Ok(moment.map(|m| side.path.place(table, m)).transpose()?.flatten())
}

#[cfg(test)]
mod tests;
