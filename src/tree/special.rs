//! Files that say something: made when they are opened, the same for the whole opening.

use crate::protection::report::PeerReport;
use crate::site::replication::PeerStatus;
use crate::tree::node::{Form, JobFile, Node, SiteFile, VmFile};
use crate::tree::ops::{Answer, Errno};
use crate::tree::text::{
    Sheet, Value, allowed_sheet, check_sheet, gaps_sheet, health_sheet, peer_sheet, readme, site_sheet,
    status_sheet,
};
use crate::tree::tree::{Tree, failed};
use crate::vocab::StoreId;

/// The length of such a file is found anew after this, ns.
const LENGTH_NS: u64 = 1_000_000_000;

impl Tree {
    /// The content of a file of this kind.
    pub(super) fn text_of(&self, node: &Node) -> Answer<Vec<u8>> {
        let controls = self.host.controls();
        let text = match node {
            Node::Readme => readme(&self.host.name(), env!("CARGO_PKG_VERSION")),
            Node::VmFile(vm, file, form) => {
                let vm = &*self.item(*vm)?;
                let sheet = match file {
                    VmFile::Status => controls.status(vm).map(|r| status_sheet(&r)),
                    VmFile::Health => controls.health(vm).map(|r| health_sheet(&r)),
                    VmFile::Allowed => controls.allowed(vm).map(|r| allowed_sheet(&r)),
                    VmFile::Check => controls.check(vm).map(|r| check_sheet(&r)),
                    VmFile::Gaps => controls.gaps(vm).map(|r| gaps_sheet(&r)),
                    VmFile::Policy => {
                        let (text, json) = controls.policy(vm).map_err(failed)?;
                        let text = if *form == Form::Json { format!("{json:#}\n") } else { text };
                        return Ok(text.into_bytes());
                    }
                };
                said(&sheet.map_err(failed)?, *form)
            }
            Node::SiteFile(SiteFile::Status, form) => {
                said(&site_sheet(&controls.site_status().map_err(failed)?), *form)
            }
            Node::PeerStatus(store, form) => {
                let (report, status) = self.peer(|_, s| s.peer.store == *store)?;
                said(&peer_lines(&report, &status), *form)
            }
            Node::JobFile(id, file, form) => {
                let job = self.job(id)?;
                match (file, form) {
                    (JobFile::Progress, _) => job.progress_text(),
                    (_, Form::Json) => format!("{:#}\n", job.json()),
                    (_, Form::Text) => job.status_text(),
                }
            }
            _ => return Err(Errno::EISDIR),
        };
        Ok(text.into_bytes())
    }

    /// The length of the file as it would be opened now, or was a moment ago: finding it means making it.
    pub(super) fn length_of(&self, node: &Node) -> Answer<u64> {
        if matches!(node, Node::SiteFile(SiteFile::Events, _) | Node::JobFile(_, JobFile::Log, _)) {
            return self.length_of_lines(&self.lines_of(node)?);
        }
        let (ino, now) = (node.ino(), self.host.clock().monotonic_ns());
        let known = self.lengths.lock().get(&ino).copied();
        if let Some((length, found)) = known
            && now.saturating_sub(found) < LENGTH_NS
        {
            return Ok(length);
        }
        let text = if node.takes_lines() { self.control_text(node)? } else { self.text_of(node)? };
        let length = text.len() as u64;
        let mut lengths = self.lengths.lock();
        lengths.retain(|_, (_, found)| now.saturating_sub(*found) < LENGTH_NS);
        lengths.insert(ino, (length, now));
        Ok(length)
    }

    /// A job that is kept.
    pub(super) fn job(&self, id: &str) -> Answer<crate::protection::job::Job> {
        self.host.controls().job(id).ok_or(Errno::ENOENT)
    }

    /// The peer that is meant.
    pub(super) fn peer(
        &self,
        wanted: impl Fn(&PeerReport, &PeerStatus) -> bool,
    ) -> Answer<(PeerReport, PeerStatus)> {
        let peers = self.host.controls().peers();
        peers.into_iter().find(|(report, status)| wanted(report, status)).ok_or(Errno::ENOENT)
    }

    /// A peer by its name.
    pub(super) fn peer_named(&self, name: &str) -> Answer<StoreId> {
        self.peer(|report, _| report.name == name).map(|(_, status)| status.peer.store)
    }
}

fn said(sheet: &Sheet, form: Form) -> String {
    match form {
        Form::Text => sheet.text(),
        Form::Json => format!("{:#}\n", sheet.json()),
    }
}

fn peer_lines(report: &PeerReport, status: &PeerStatus) -> Sheet {
    let mut sheet = peer_sheet(report);
    sheet
        .set("id", status.peer.store.to_string())
        .set("same-host", status.same_host)
        .set("groups", status.groups as u64)
        .set("sent", Value::Bytes(status.sent_bytes))
        .set("received", Value::Bytes(status.received_bytes));
    if let Some((name, text)) = &status.refusal {
        sheet.set("refusal", name.as_str()).set("why", text.as_str());
    }
    sheet
}
