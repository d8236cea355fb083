//! Directories: what lies in each, and the attributes of what isn't an image.
//!
//! D1. A name that is listed is found, and what is found by a listed name is what the listing meant.

use crate::format::FileKind;
use crate::protection::control::{EpochPrefix, MomentRef};
use crate::tree::live::children;
use crate::tree::names::is_removed_vm;
use crate::tree::node::*;
use crate::tree::ops::*;
use crate::tree::tree::{Tree, failed, text};
use crate::vocab::{DiskId, Moment, VmId};
use std::ffi::OsStr;
use std::sync::atomic::Ordering;

impl Tree {
    pub(super) fn attributes_of(&self, node: &Node) -> Answer<Attributes> {
        match node {
            Node::Live(vm, file) => return self.live_attributes(&*self.live(*vm, *file)?),
            Node::PastRoot(..) | Node::Past(..) => return self.past_attributes(node),
            Node::Vm(vm) | Node::VmFile(vm, ..) | Node::Points(vm) | Node::Branches(vm) => {
                self.item(*vm)?;
            }
            Node::Job(id) => {
                self.job(id)?;
            }
            _ => {}
        }
        let kind = node.kind();
        let (mut mode, mut uid, mut gid) = (if kind == NodeKind::File { 0o444 } else { 0o555 }, 0, 0);
        let mut times = [self.started; 3];
        if *node == Node::Disks {
            let own = self.disks_attributes()?;
            (mode, uid, gid) = own.owner();
            times = [&own.atime, &own.mtime, &own.ctime].map(|t| t.load(Ordering::Relaxed));
        }
        if node.takes_lines() {
            // Everybody may look at a policy.
            mode = if matches!(node, Node::Verb(..)) { 0o660 } else { 0o664 };
            (uid, gid) = self.keepers;
        }
        let (size, blocks, nlink) = match node {
            Node::PointLink(vm, latest) => {
                mode = 0o777;
                (self.point_link(*vm, *latest)?.len() as u64, 0, 1)
            }
            node if kind == NodeKind::File => (self.length_of(node)?, 0, 1),
            _ => (4096, 8, 2),
        };
        let [atime, mtime, ctime] = times;
        Ok(Attributes { ino: node.ino(), size, blocks, atime, mtime, ctime, kind, mode, nlink, uid, gid })
    }

    /// Where a link in `recovery-points/` leads; ENOENT while there is no such moment.
    pub(super) fn point_link(&self, vm: VmId, latest: Latest) -> Answer<String> {
        let name = match latest {
            Latest::Received => MomentRef::Latest,
            Latest::Processed => MomentRef::LatestProcessed,
            Latest::AppConsistent => MomentRef::LatestApp,
        };
        let moment = self.host.controls().resolve(&*self.item(vm)?, &name).map_err(failed)?;
        moment.map(crate::protection::admission::moment_name).ok_or(Errno::ENOENT)
    }

    pub(super) fn child(&self, parent: &Node, name: &OsStr) -> Answer<Node> {
        let name = text(name).map_err(|_| Errno::ENOENT)?;
        let found = match parent {
            Node::Root => ROOT_NAMES.iter().find(|(n, _)| *n == name).map(|(_, node)| node.clone()),
            Node::Site => match name {
                CONTROL => Some(Node::Control(Whose::Site)),
                PEERS => Some(Node::Peers),
                _ => {
                    let found = SITE_FILES.iter().find(|(n, ..)| *n == name);
                    found.map(|(_, file, form)| Node::SiteFile(*file, *form))
                }
            },
            Node::Vms => self.host.vm(name).filter(|_| !is_removed_vm(name)).map(|vm| Node::Vm(vm.id())),
            Node::Vm(vm) => match name {
                POINTS => Some(Node::Points(*vm)),
                BRANCHES => Some(Node::Branches(*vm)),
                CONTROL => Some(Node::Control(Whose::Vm(*vm))),
                _ => {
                    let found = VM_FILES.iter().find(|(n, ..)| *n == name);
                    found.map(|(_, file, form)| Node::VmFile(*vm, *file, *form))
                }
            },
            Node::Points(vm) => match LATEST.iter().find(|(n, _)| *n == name) {
                Some((_, latest)) => Some(Node::PointLink(*vm, *latest)),
                None => Some(Node::PastRoot(*vm, self.moment_named(*vm, name)?)),
            },
            Node::Branches(vm) => {
                let prefix: EpochPrefix = name.parse().map_err(|_| Errno::ENOENT)?;
                let ends = self.branch_ends(*vm)?;
                let epoch = prefix.find(ends.iter().map(|end| end.epoch));
                let end = ends.into_iter().find(|end| Some(end.epoch) == epoch);
                end.map(|end| Node::PastRoot(*vm, end))
            }
            Node::Control(whose) => {
                let known = whose.verbs().find(|verb| verb.name() == name);
                known.map(|verb| Node::Verb(whose.clone(), verb.name().to_owned()))
            }
            Node::Jobs => self.job(name).ok().map(|job| Node::Job(job.id)),
            Node::Job(id) if name == CONTROL => Some(Node::Verb(Whose::Job(id.clone()), CONTROL.to_owned())),
            Node::Job(id) => {
                let found = JOB_FILES.iter().find(|(n, ..)| *n == name);
                found.map(|(_, file, form)| Node::JobFile(id.clone(), *file, *form))
            }
            Node::Peers => self.peer_named(name).ok().map(Node::Peer),
            Node::Peer(store) => {
                PEER_FILES.iter().find(|(n, _)| *n == name).map(|(_, form)| Node::PeerStatus(*store, *form))
            }
            Node::PastRoot(vm, moment) => {
                let past = self.past(*vm, *moment)?;
                past.child("", name).map(|f| Node::Past(*vm, *moment, f.file))
            }
            Node::Past(vm, moment, file) => {
                let past = self.past(*vm, *moment)?;
                let (_, dir) = past.named(*file).ok_or(Errno::ESTALE)?;
                past.child(&dir.path, name).map(|f| Node::Past(*vm, *moment, f.file))
            }
            _ => None,
        };
        found.ok_or(Errno::ENOENT)
    }

    /// The last moments of the branches of a VM's group.
    fn branch_ends(&self, vm: VmId) -> Answer<Vec<Moment>> {
        let group = self.item(vm)?.group().map_err(failed)?;
        Ok(group.kept_branches().map_err(failed)?.into_iter().map(|branch| branch.last).collect())
    }

    /// Number, kind and name of everything in a directory.
    pub(super) fn names_in(&self, node: &Node) -> Answer<Vec<(u64, NodeKind, String)>> {
        let kind_of = |kind: FileKind| match kind {
            FileKind::File => NodeKind::File,
            FileKind::Directory => NodeKind::Directory,
        };
        let row = |node: Node, kind: NodeKind, name: &str| (node.ino(), kind, name.to_owned());
        let plain = |node: Node, name: &str| (node.ino(), node.kind(), name.to_owned());
        let (file, dir) = (NodeKind::File, NodeKind::Directory);
        Ok(match node {
            Node::Root => ROOT_NAMES.iter().map(|(name, node)| plain(node.clone(), name)).collect(),
            Node::Site => SITE_FILES
                .iter()
                .map(|(name, file, form)| plain(Node::SiteFile(*file, *form), name))
                .chain([plain(Node::Control(Whose::Site), CONTROL), plain(Node::Peers, PEERS)])
                .collect(),
            Node::Vm(vm) => VM_FILES
                .iter()
                .map(|(name, file, form)| plain(Node::VmFile(*vm, *file, *form), name))
                .chain([
                    plain(Node::Points(*vm), POINTS),
                    plain(Node::Branches(*vm), BRANCHES),
                    plain(Node::Control(Whose::Vm(*vm)), CONTROL),
                ])
                .collect(),
            Node::Points(vm) => {
                let points = self.host.controls().points(&*self.item(*vm)?).map_err(failed)?;
                let links = LATEST.iter().filter(|(_, latest)| self.point_link(*vm, *latest).is_ok());
                let links = links.map(|(name, latest)| plain(Node::PointLink(*vm, *latest), name));
                let held = points.in_order().into_iter();
                held.map(|p| plain(Node::PastRoot(*vm, p.moment), &p.name())).chain(links).collect()
            }
            Node::Branches(vm) => {
                let ends = self.branch_ends(*vm)?.into_iter();
                ends.map(|end| plain(Node::PastRoot(*vm, end), &end.epoch.to_string())).collect()
            }
            Node::Control(whose) => whose
                .verbs()
                .map(|verb| plain(Node::Verb(whose.clone(), verb.name().to_owned()), verb.name()))
                .collect(),
            Node::Jobs => {
                let jobs = self.host.controls().jobs();
                jobs.into_iter().map(|job| plain(Node::Job(job.id.clone()), &job.id)).collect()
            }
            Node::Job(id) => JOB_FILES
                .iter()
                .map(|(name, file, form)| plain(Node::JobFile(id.clone(), *file, *form), name))
                .chain([plain(Node::Verb(Whose::Job(id.clone()), CONTROL.to_owned()), CONTROL)])
                .collect(),
            Node::Peers => {
                let peers = self.host.controls().peers().into_iter();
                peers.map(|(report, status)| plain(Node::Peer(status.peer.store), &report.name)).collect()
            }
            Node::Peer(store) => {
                PEER_FILES.iter().map(|(name, form)| plain(Node::PeerStatus(*store, *form), name)).collect()
            }
            Node::Disks | Node::Vms => {
                let in_disks = *node == Node::Disks;
                let shown = self.host.vms().into_iter().filter(|item| !is_removed_vm(&item.name()));
                shown
                    .map(|item| match in_disks {
                        true if item.single() => row(Node::Live(item.id(), DiskId::NONE), file, &item.name()),
                        true => row(Node::Live(item.id(), DiskId::NONE), dir, &item.name()),
                        false => row(Node::Vm(item.id()), dir, &item.name()),
                    })
                    .collect()
            }
            Node::Live(vm, id) => {
                let live = self.live(*vm, *id)?;
                if !live.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                let named = live.named()?;
                live.group.names_now(|names| {
                    children(names, *vm, &named.path)
                        .map(|(_, f)| {
                            let name = crate::tree::live::split(&f.path).1;
                            row(Node::Live(*vm, f.file), kind_of(f.kind), name)
                        })
                        .collect()
                })
            }
            Node::PastRoot(vm, moment) | Node::Past(vm, moment, _) => {
                let past = self.past(*vm, *moment)?;
                let path = match node {
                    Node::Past(.., id) => past.named(*id).ok_or(Errno::ESTALE)?.1.path.clone(),
                    _ => String::new(),
                };
                let name = |f: &crate::group::NamedFile| match f.path.is_empty() {
                    true => past.item.name(),
                    false => crate::tree::live::split(&f.path).1.to_owned(),
                };
                past.names_in(&path)
                    .map(|f| row(Node::Past(*vm, *moment, f.file), kind_of(f.kind), &name(f)))
                    .collect()
            }
            _ => return Err(Errno::ENOTDIR),
        })
    }
}
