//! `status` of a VM, of a group and of the site.

use super::sheet::{Sheet, Value};
use crate::protection::admission::moment_name;
use crate::protection::report::{At, DiskReport, Lacking, PeerReport, Rpo, SiteReport, StatusReport};
use crate::protection::{State, size_text};

/// `status` of a VM or group.
pub fn status_sheet(r: &StatusReport) -> Sheet {
    let mut sheet = Sheet::new();
    sheet
        .set("name", r.name.as_str())
        .set("uuid", r.uuid.as_str())
        .set_some("group", r.group.as_deref())
        .set("site", r.site.as_str())
        .set("state", r.state.name())
        .set("flags", Value::Words(r.flags.words().into_iter().map(str::to_owned).collect()))
        .set("protected", matches!(r.state, State::Protected | State::Standby))
        .set("says", r.state.says())
        .set("direction", r.direction.as_ref().map(|(from, to)| format!("{from}->{to}")))
        .set("writable", r.state.writable() && r.start_wait.is_none());
    if let Some(left) = r.start_wait {
        sheet.set("start-wait", format!("{}s", left.div_ceil(1_000_000_000)));
    }
    peer_lines(&mut sheet, r.peer.as_ref());
    sheet.set("health", r.health.name()).set("rpo", rpo_text(r.rpo)).set("backlog", lacking(r.backlog));
    moment_lines(&mut sheet, ["head", "head-time"], r.head);
    moment_lines(&mut sheet, ["processed", "processed-time"], r.processed);
    moment_lines(&mut sheet, ["oldest", "oldest-time"], r.oldest);
    sheet
        .set("latest-point", r.points.0.as_deref())
        .set("points", r.points.1)
        .set("used", Value::Bytes(r.used))
        .set("allowance", Value::Bytes(r.allowance))
        .set("records", r.appended.0)
        .set("batches", r.appended.1)
        .set("job", r.job.as_deref());
    match &r.last_test {
        None => sheet.set("last-test", Value::None),
        Some((time, result)) => {
            sheet.set("last-test", Value::Time(*time)).set("last-test-result", result.as_str())
        }
    };
    sheet.set("disk", r.disks.iter().map(disk).collect::<Vec<_>>()).set("next", r.next.as_str());
    sheet
}

fn disk(d: &DiskReport) -> Sheet {
    let mut row = Sheet::new();
    row.set("name", d.name.as_str())
        .set("role", d.role)
        .set("size", Value::Bytes(d.size))
        .set("allocated", Value::Bytes(d.allocated))
        .set("uuid", d.uuid.as_str());
    row
}

fn moment_lines(sheet: &mut Sheet, [moment, time]: [&'static str; 2], at: Option<At>) {
    sheet.set(moment, at.map(|at| moment_name(at.moment)));
    sheet.set(time, at.map_or(Value::None, |at| Value::Time(at.time)));
}

/// The lines about the other site.
pub(super) fn peer_lines(sheet: &mut Sheet, peer: Option<&PeerReport>) {
    let Some(peer) = peer else {
        sheet.set("peer", Value::None);
        return;
    };
    let (word, since) = match peer.connected {
        Ok(since) => ("connected", since),
        Err(since) => ("unreachable", since),
    };
    let writing = match peer.writing {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    sheet.set("peer", peer.name.as_str()).set("peer-link", word).set("peer-since", Value::Time(since));
    sheet.set("peer-writing", writing);
}

/// `0.4s`, `>= 312s (no contact)` or `none`.
fn rpo_text(rpo: Rpo) -> String {
    let tenths = |ns: u64| format!("{}.{}s", ns / 1_000_000_000, ns / 100_000_000 % 10);
    match rpo {
        Rpo::None => "none".to_owned(),
        Rpo::Age(ns) if ns < 100_000_000_000 => tenths(ns),
        Rpo::Age(ns) => format!("{}s", ns / 1_000_000_000),
        Rpo::AtLeast(ns) => format!(">= {}s (no contact)", ns / 1_000_000_000),
    }
}

fn lacking(lacking: Lacking) -> Value {
    match lacking {
        Lacking::Bytes(bytes) => Value::Bytes(bytes),
        Lacking::AtLeast(bytes) => format!(">= {} (older was let go)", size_text(bytes)).into(),
        Lacking::Unknown => "unknown (no contact)".into(),
    }
}

/// `site/status`.
pub fn site_sheet(r: &SiteReport) -> Sheet {
    let groups = |(state, count): &(State, u64)| {
        let mut row = Sheet::new();
        row.set("state", state.name()).set("count", *count);
        row
    };
    let peers = |peer: &PeerReport| {
        let mut row = Sheet::new();
        peer_lines(&mut row, Some(peer));
        row
    };
    let mut sheet = Sheet::new();
    sheet
        .set("site", r.name.as_str())
        .set("id", r.id.as_str())
        .set("version", r.version.as_str())
        .set("started", Value::Time(r.started))
        .set("store", r.store.as_str())
        .set("listen", r.listen.as_deref())
        .set("fingerprint", r.fingerprint.as_str())
        .set("health", r.health.name())
        .set("room-free", Value::Bytes(r.room.0))
        .set("room", Value::Bytes(r.room.1))
        .set("group", r.groups.iter().map(groups).collect::<Vec<_>>())
        .set("peer", r.peers.iter().map(peers).collect::<Vec<_>>());
    sheet
}
