//! Random schedules against a list of all versions, with rules left out as negative controls.

mod files;
mod model;
mod schedule;
mod volume;

use crate::format::index_page::Piece;
use crate::vocab::Pos;
use std::cell::Cell;

/// A rule that a negative control leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    None,
    /// Runs keep all versions.
    AllVersions,
    /// Only versions on the path are seen.
    PathFilter,
    /// The later interval ranks first.
    IntervalFirst,
    /// What was inserted is entered into regions that are being built or cached.
    PaintOnInsert,
}

thread_local! {
    static LEFT_OUT: Cell<Rule> = const { Cell::new(Rule::None) };
}

pub(super) fn left_out(rule: Rule) -> bool {
    LEFT_OUT.get() == rule
}

/// Runs `check` without a rule.
fn without(rule: Rule, check: impl FnOnce()) {
    LEFT_OUT.set(rule);
    check();
    LEFT_OUT.set(Rule::None);
}

pub(super) fn leave_out_path_filter(
    mut list: Vec<(u32, Pos, Pos)>,
    from: Pos,
    to: Pos,
) -> Vec<(u32, Pos, Pos)> {
    if left_out(Rule::PathFilter) {
        list.truncate(1);
        list.iter_mut().for_each(|seen| (seen.1, seen.2) = (from, to));
    }
    list
}

pub(super) fn leave_out_old_versions(pieces: &mut Vec<Piece>) {
    if left_out(Rule::AllVersions) {
        pieces.dedup_by(|old, new| {
            (old.level, old.disk, old.start, old.len) == (new.level, new.disk, new.start, new.len)
        });
    }
}
