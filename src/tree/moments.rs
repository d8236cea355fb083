//! Names of moments in `recovery-points/`: of points, `@seq-<n>`, `@<epoch>-<n>`, `@<time>`.

use crate::group::Group;
use crate::protection::PointSet;
use crate::protection::control::MomentRef;
use crate::tree::ops::{Answer, Errno};
use crate::tree::tree::failed;
use crate::vocab::{Moment, Seq};

/// The moment of a group that this name stands for; ENOENT if it names none.
pub(super) fn find(group: &Group, name: &str, points: impl FnOnce() -> Answer<PointSet>) -> Answer<Moment> {
    let name: MomentRef = name.parse().map_err(|_| Errno::ENOENT)?;
    let head = group.head();
    match name {
        MomentRef::Seq(seq) if Seq(seq) <= head.seq => Ok(Moment { epoch: head.epoch, seq: Seq(seq) }),
        MomentRef::Epoch(epoch, seq) => {
            let epoch = epoch.find(group.table().rows().map(|row| row.epoch)).ok_or(Errno::ENOENT)?;
            Ok(Moment { epoch, seq: Seq(seq) })
        }
        MomentRef::Time(time) => {
            // A time that names two moments, or lies in a gap, names none: `gaps` lists both.
            let found = group.moment_at(time).map_err(failed)?.filter(|at| !at.ambiguous && !at.in_gap);
            found.map(|at| at.moment).ok_or(Errno::ENOENT)
        }
        MomentRef::Point(name) => points()?.find(&name).map(|point| point.moment).ok_or(Errno::ENOENT),
        _ => Err(Errno::ENOENT),
    }
}
