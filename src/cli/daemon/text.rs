//! What `inspect` found, as text.

use crate::format::FileKind;
use crate::protection::file_time;
use crate::site::inspect::{GroupReport, Proof, Report};
use crate::vocab::LogPlace;
use std::fmt::Write;

/// All of it, damage last, so that it stands above the prompt.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    let _ = render(&mut out, report);
    out
}

fn render(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "store: {}", report.dir)?;
    if let Some(file) = &report.store {
        writeln!(out, "  identity {}, format {}, made {}", file.store, file.format, file_time(file.created))?;
        if let Some(journal) = &file.journal {
            writeln!(out, "  journals in {}", journal.path.display())?;
        }
    }
    if report.beside_daemon {
        writeln!(out, "  a daemon has it open: this is what its files show now")?;
    }
    for vm in &report.vms {
        let kind = if vm.single { "single file" } else { "directory" };
        writeln!(out, "vm: {} ({kind}), {}, group {}", vm.name, vm.id.short(), vm.group.short())?;
    }
    for group in &report.groups {
        render_group(out, group)?;
    }
    if report.verified {
        writeln!(out, "proofs:")?;
    } else {
        writeln!(out, "proofs (more with --verify):")?;
    }
    for proof in &report.proofs {
        let kind = match proof.proof {
            Proof::Checksum => "checksum",
            Proof::Chain => "chain",
            Proof::None => "none",
        };
        writeln!(out, "  [{kind}] {}: {}", proof.about, proof.says)?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for damage in &report.damage {
        write!(out, "damage: {}", damage.path)?;
        if let Some(offset) = damage.offset {
            write!(out, " at offset {offset}")?;
        }
        writeln!(out, ": {}", damage.what)?;
    }
    let verdict = if report.damage.is_empty() { "no damage found" } else { "damaged" };
    writeln!(out, "{verdict}")
}

fn render_group(out: &mut String, group: &GroupReport) -> std::fmt::Result {
    writeln!(out, "group: {} {}", group.id, group.name.as_deref().unwrap_or("(of one VM)"))?;
    if let Some(head) = group.head {
        writeln!(out, "  head: @{}-{}", head.epoch.short(), head.seq)?;
    }
    if let Some((generation, c)) = &group.checkpoint {
        let closed = if c.closed { ", closed in order" } else { "" };
        let drained = if c.drained { ", bases are the plain images" } else { "" };
        writeln!(out, "  checkpoint: number {generation}, {}{closed}{drained}", file_time(c.wall))?;
        for log in &c.logs {
            let (id, durable, scan) = (log.log.short(), log.durable, log.scan_start);
            writeln!(out, "  log {id}: durable to {durable}, scan from {scan}")?;
        }
    }
    for line in &group.recovery {
        writeln!(out, "  recovery: {line}")?;
    }
    for row in &group.epochs {
        writeln!(out, "  epoch: {row}, {}", file_time(row.time_ns))?;
    }
    for s in &group.spans {
        let (epoch, first, last) = (s.epoch.short(), s.first_seq, s.last_seq);
        writeln!(out, "  span: {}..{} of {epoch}, seq {first}..{last}", s.from, s.to)?;
    }
    for s in &group.segments {
        write!(out, "  segment: {} {}", s.file, s.state)?;
        if s.state == "live" {
            write!(out, " {}..{}, seq {}..{}", s.start, s.end, s.first_seq, s.last_seq)?;
            write!(out, "{}", if s.sealed { ", sealed" } else { "" })?;
        }
        if s.batches > 0 {
            write!(out, ", {} batches, {} records, {} payload bytes", s.batches, s.records, s.payload_bytes)?;
        }
        writeln!(out)?;
    }
    let r = &group.ranges;
    if r.records > 0 {
        let coarse = if r.coarse { ", some in coarse granules" } else { "" };
        writeln!(out, "  range log: {} records, {} bytes{coarse}", r.records, r.bytes)?;
    }
    for (name, level, bytes) in &group.runs {
        writeln!(out, "  index: {name}, level {level}, {bytes} bytes")?;
    }
    for base in &group.bases {
        let place = |p: Option<LogPlace>| p.map_or("none".into(), |p| p.pos.to_string());
        write!(out, "  base: file {} at {}, floor {}", base.disk, place(base.base), place(base.floor))?;
        match &base.image {
            Some((path, len, room)) => writeln!(out, ", {len} bytes ({room} on the medium), {path}")?,
            None => writeln!(out, ", nothing written yet")?,
        }
    }
    for (disk, file) in &group.names.files {
        let vm = group.names.vms.get(&file.vm).map_or("?", |v| v.name.as_str());
        match file.kind {
            FileKind::File => writeln!(out, "  file {disk}: {vm}/{}, {} bytes", file.path, file.size)?,
            FileKind::Directory => writeln!(out, "  file {disk}: {vm}/{}/", file.path)?,
        }
    }
    for (time, event) in &group.history {
        writeln!(out, "  history: {} {}", file_time(*time), event.name())?;
    }
    Ok(())
}
