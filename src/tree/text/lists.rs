//! `health`, `gaps`, `events` and a peer's `status`.

use super::sheet::{Sheet, Value};
use crate::protection::admission::moment_name;
use crate::protection::report::{At, GapReport, HealthReport, PeerReport};

/// `health`.
pub fn health_sheet(r: &HealthReport) -> Sheet {
    let rows = r.reasons.iter().map(|s| {
        let mut row = Sheet::new();
        row.set("name", s.reason.name())
            .set("severity", s.severity.name())
            .set("since", Value::Time(s.since))
            .set_some("figure", s.figure.as_deref())
            .set_some("limit", s.limit.as_deref())
            .set("holds", s.holds)
            .set("says", s.message)
            .set("do", s.remedy);
        row
    });
    let mut sheet = Sheet::new();
    sheet.set("health", r.severity.name()).set("reason", rows.collect::<Vec<_>>());
    sheet
}

/// `gaps`.
pub fn gaps_sheet(gaps: &[GapReport]) -> Sheet {
    let name = |at: At| moment_name(at.moment);
    let rows = gaps.iter().map(|gap| {
        let mut row = Sheet::new();
        row.set("from", gap.from.map(name))
            .set("from-time", gap.from.map_or(Value::None, |at| Value::Time(at.time)))
            .set("to", name(gap.to))
            .set("to-time", Value::Time(gap.to.time))
            .set("reason", gap.reason.as_str());
        row
    });
    let mut sheet = Sheet::new();
    sheet.set("gaps", gaps.len() as u64).set("gap", rows.collect::<Vec<_>>());
    sheet
}

/// `site/peers/<name>/status`.
pub fn peer_sheet(peer: &PeerReport) -> Sheet {
    let mut sheet = Sheet::new();
    super::status::peer_lines(&mut sheet, Some(peer));
    sheet
}
