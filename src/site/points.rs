//! Recovery points of a group: made, found and let go.
//!
//! P1. A point is named only after its moment is durable.
//! P2. Age is counted back from the newest record that the group holds; the wall time of records is its clock.

use crate::group::Group;
use crate::history::{Event, Table};
use crate::protection::control::MomentRef;
use crate::protection::preconditions::Facts;
use crate::protection::{Point, PointKind, PointSet, Retention, point_due, text_time};
use crate::site::catalog::Catalog;
use crate::site::objects::PointsObject;
use crate::vocab::{GroupId, Kind, Moment, Result, Seq, Token};
use std::collections::BTreeSet;

/// The points of a group.
pub fn load(catalog: &Catalog, group: GroupId) -> Result<PointSet> {
    Ok(catalog.get::<PointsObject>(&group.to_string())?.map(|object| object.set).unwrap_or_default())
}

/// Those of them whose moments this site has. (The other site's are told as a whole: a copy begins at one moment, and what
/// lies before it, or in a gap, isn't here.)
pub fn shown(catalog: &Catalog, group: &Group) -> Result<PointSet> {
    let mut set = load(catalog, group.id())?;
    let table = group.table();
    // Both sites may have named one moment alike, or a person twice.
    let mut names = BTreeSet::new();
    set.retain(|point| gap(group, &table, point.moment).is_none() && names.insert(point.name()));
    Ok(set)
}

/// Keeps them; durable when this returns.
pub fn save(catalog: &Catalog, group: GroupId, set: PointSet) -> Result<()> {
    catalog.put(&PointsObject { group, set })
}

/// Names a moment that is durable. The same id again changes nothing.
pub fn add(
    catalog: &Catalog,
    group: &Group,
    (id, kind): (Token, PointKind),
    moment: Moment,
    (label, pinned): (Option<String>, bool),
) -> Result<Point> {
    let mut set = load(catalog, group.id())?;
    if let Some(point) = set.get(id) {
        return Ok(point.clone());
    }
    let time = group.time_of(moment)?.unwrap_or_default();
    let point = Point { id, moment, kind, time, label, pinned, age: age(time) };
    set.insert(point.clone());
    save(catalog, group.id(), set)?;
    Ok(point)
}

/// P2.
fn age(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}

/// Takes in the other site's points. Returns whether anything changed.
pub fn merge(set: &mut PointSet, other: &PointSet) -> bool {
    let changed = set.merge(other);
    // P2: the clock is the wall time of records, which is the same at both sites.
    set.fill_ages(age);
    changed
}

/// What is due: a scheduled point, and the end of those outside of the window. Returns whether anything changed.
pub fn keep(
    catalog: &Catalog,
    group: &Group,
    every: Option<u64>,
    window_ns: u64,
    uncommitted: bool,
    id: Token,
) -> Result<bool> {
    let mut set = load(catalog, group.id())?;
    let head = group.head();
    let Some(newest) = group.time_of(head)? else { return Ok(false) };
    let last = set.in_order().into_iter().rfind(|p| p.kind == PointKind::Crash).map(|p| (p.age, p.moment));
    let due = point_due(every, last, age(newest), head);
    let expired = set.expired(Retention { newest: age(newest), window: window_ns, uncommitted });
    if !due && expired.is_empty() {
        return Ok(false);
    }
    if due {
        let moment = group.durable_head()?;
        let time = group.time_of(moment)?.unwrap_or_default();
        let age = age(time);
        set.insert(Point { id, moment, kind: PointKind::Crash, time, label: None, pinned: false, age });
    }
    for id in expired {
        set.remove(id);
    }
    save(catalog, group.id(), set)?;
    Ok(true)
}

/// The moment that a person names, in normal form, as far as it is held; else what stands in the way.
///
/// # Errors
/// Those of reading the index and log.
pub fn resolve(
    group: &Group,
    set: &PointSet,
    named: &MomentRef,
) -> Result<std::result::Result<Moment, Facts>> {
    let table = group.table();
    let head = group.head();
    let unknown = || Facts { unknown_moment: Some(named.to_string()), ..Facts::default() };
    let moment = match named {
        MomentRef::Latest | MomentRef::LatestProcessed => {
            if head.seq == Seq(0) {
                return Ok(Err(Facts { no_point: Some("moment".to_owned()), ..Facts::default() }));
            }
            Some(group.durable_head()?)
        }
        MomentRef::LatestApp => {
            let on_line = |m: Moment| table.is_on_line(m, head).unwrap_or(false);
            match set.latest(PointKind::App, on_line) {
                Some(point) => Some(point.moment),
                None => {
                    let kind = Some("application-consistent point".to_owned());
                    return Ok(Err(Facts { no_point: kind, ..Facts::default() }));
                }
            }
        }
        MomentRef::Time(time) => match group.moment_at(*time)? {
            Some(found) if found.ambiguous => {
                let both = format!("{} and an earlier one", found.moment);
                return Ok(Err(Facts { ambiguous: Some((text_time(*time), both)), ..Facts::default() }));
            }
            Some(found) if found.in_gap => {
                let gap = Some((text_time(*time), "a copy passed over it".to_owned()));
                return Ok(Err(Facts { gap, ..Facts::default() }));
            }
            found => found.map(|f| f.moment),
        },
        MomentRef::Seq(seq) => table.line(head)?.at(Seq(*seq)),
        MomentRef::Epoch(prefix, seq) => {
            prefix.find(table.rows().map(|row| row.epoch)).map(|epoch| Moment { epoch, seq: Seq(*seq) })
        }
        MomentRef::Point(name) => set.find(name).map(|point| point.moment),
    };
    let Some(moment) = moment.and_then(|m| table.norm(m).ok()) else { return Ok(Err(unknown())) };
    if let Some(reason) = gap(group, &table, moment) {
        return Ok(Err(Facts { gap: Some((named.to_string(), reason)), ..Facts::default() }));
    }
    match group.open_moment(moment) {
        Ok(view) => Ok(Ok(view.moment)),
        Err(e) if e.kind() == Kind::NotFound => Ok(Err(unknown())),
        Err(e) => Err(e),
    }
}

/// Why a moment lies inside a jump, if it does.
fn gap(group: &Group, table: &Table, moment: Moment) -> Option<String> {
    group.with_events(|events| {
        events.iter().rev().find_map(|(_, event)| match event {
            Event::Jump(jump)
                if moment.seq < jump.to.seq
                    && jump.from.is_none_or(|from| from.seq < moment.seq)
                    && table.is_on_line(moment, jump.to).unwrap_or(false) =>
            {
                serde_json::to_value(jump.reason).ok()?.as_str().map(str::to_owned)
            }
            _ => None,
        })
    })
}
