//! Files that say something: made when they are opened, the same for the whole opening.

use crate::group::Gate;
use crate::tree::node::{Node, SiteFile, VmFile};
use crate::tree::ops::{Answer, Errno};
use crate::tree::text::{Sheet, Value, readme};
use crate::tree::tree::{Tree, failed};
use crate::vocab::VmId;

impl Tree {
    /// The content of a file of this kind.
    pub(super) fn text_of(&self, node: &Node) -> Answer<Vec<u8>> {
        let version = env!("CARGO_PKG_VERSION");
        let text = match node {
            Node::Readme => readme(&self.host.name(), version),
            Node::VmFile(vm, VmFile::Status) => self.vm_sheet(*vm)?.text(),
            Node::VmFile(vm, VmFile::StatusJson) => json(&self.vm_sheet(*vm)?),
            Node::SiteFile(SiteFile::Status) => self.site_sheet().text(),
            Node::SiteFile(SiteFile::StatusJson) => json(&self.site_sheet()),
            _ => return Err(Errno::EISDIR),
        };
        Ok(text.into_bytes())
    }

    /// What is known of a VM by its group alone.
    fn vm_sheet(&self, vm: VmId) -> Answer<Sheet> {
        let item = self.item(vm)?;
        let group = item.group().map_err(failed)?;
        let (head, gate) = (group.head(), group.gate());
        let (writable, files) = (matches!(gate, Gate::Open { .. }), self.vm_files(&*item, &group));
        let mut sheet = Sheet::new();
        sheet
            .set("name", item.name())
            .set("uuid", vm.to_string())
            .set("site", self.host.name())
            .set("writable", writable)
            .set("head", format!("@{}-{}", head.epoch, head.seq))
            .set("head-time", group.time_of(head).ok().flatten().map_or(Value::None, Value::Time))
            .set("durable", group.is_durable())
            .set("used", Value::Bytes(group.journal_bytes()))
            .set("disk", files);
        Ok(sheet)
    }

    fn vm_files(&self, item: &dyn crate::tree::Item, group: &crate::group::Group) -> Vec<Sheet> {
        use crate::format::FileKind;
        use crate::site::names::is_disk;
        let files: Vec<_> = group.names_now(|names| {
            let of = |f: &&crate::group::NamedFile| f.vm == item.id() && f.kind == FileKind::File;
            names.files.values().filter(of).cloned().collect()
        });
        let row = |f: crate::group::NamedFile| {
            let name = if f.path.is_empty() { item.name() } else { f.path.clone() };
            let role = if f.path.is_empty() || is_disk(&f.path) { "disk" } else { "companion" };
            let mut row = Sheet::new();
            row.set("name", name)
                .set("role", role)
                .set("size", Value::Bytes(f.size))
                .set("uuid", f.file.to_string());
            row
        };
        files.into_iter().filter(|f| !f.path.starts_with(crate::tree::live::REMOVED)).map(row).collect()
    }

    fn site_sheet(&self) -> Sheet {
        let space = self.host.catalog().storage().space().unwrap_or_default();
        let mut sheet = Sheet::new();
        sheet
            .set("site", self.host.name())
            .set("version", env!("CARGO_PKG_VERSION"))
            .set("vms", self.host.vms().len() as u64)
            .set("room-free", Value::Bytes(space.free))
            .set("room", Value::Bytes(space.total));
        sheet
    }
}

fn json(sheet: &Sheet) -> String {
    format!("{:#}\n", sheet.json())
}
