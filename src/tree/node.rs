//! What there is in the tree, and its inode numbers.
//!
//! N1. An inode number is a function of what it stands for, by identities that never change: the same file has the
//!     same number in every process that serves the mount, under every name, and in every mount.
//! N2. A number is put into the mount's table before it is answered, so that the next process knows it.
//! N3. Numbers of past moments are bounded: the oldest are forgotten. An opening keeps what it stands for itself.

use crate::protection::{Scope, Verb};
use crate::tree::host::Numbers;
use crate::tree::ops::{Answer, Errno, NodeKind, ROOT};
use crate::vocab::{DiskId, Moment, Result, StoreId, VmId};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// In the mount's table: an inode.
pub(super) const KIND_INODE: u8 = 1;
/// In the mount's table: an opening.
pub(super) const KIND_OPEN: u8 = 2;
/// Inodes of past moments that are remembered.
const PAST_MAX: usize = 65_536;
/// Set in every number but the root's, so that none is small.
const MARK: u64 = 1 << 62;

/// A file of a VM's directory in `vms/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum VmFile {
    Status,
    Health,
    Allowed,
    Check,
    Gaps,
    Policy,
}

/// A file of `site/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SiteFile {
    Status,
    Events,
}

/// A file of a job's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum JobFile {
    Status,
    Progress,
    Log,
}

/// Whose `control/` it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Whose {
    Vm(VmId),
    Site,
    Job(String),
}

impl Whose {
    /// The verbs that lie there.
    pub(super) fn verbs(&self) -> impl Iterator<Item = Verb> {
        let scope = match self {
            Self::Vm(_) => Scope::Vm,
            Self::Site => Scope::Site,
            Self::Job(_) => Scope::Job,
        };
        Verb::ALL.iter().copied().filter(move |verb| verb.scope() == scope)
    }
}

/// A symbolic link in `recovery-points/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Latest {
    Received,
    Processed,
    AppConsistent,
}

/// As text, or the same as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    Text,
    Json,
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Node {
    Root,
    Readme,
    /// `disks/`.
    Disks,
    /// A file or directory below `disks/`. `DiskId::NONE`: the VM itself, its directory or its only file.
    Live(VmId, DiskId),
    /// `vms/`.
    Vms,
    /// `vms/<vm>/`.
    Vm(VmId),
    VmFile(VmId, VmFile, Form),
    /// `vms/<vm>/recovery-points/`.
    Points(VmId),
    PointLink(VmId, Latest),
    /// `vms/<vm>/recovery-points/<moment>/`.
    PastRoot(VmId, Moment),
    /// A file or directory of a moment.
    Past(VmId, Moment, DiskId),
    /// `vms/<vm>/branches/`.
    Branches(VmId),
    /// `site/`.
    Site,
    SiteFile(SiteFile, Form),
    /// `site/peers/`.
    Peers,
    /// `site/peers/<name>/`.
    Peer(StoreId),
    PeerStatus(StoreId, Form),
    /// `jobs/`.
    Jobs,
    /// `jobs/<id>/`.
    Job(String),
    JobFile(String, JobFile, Form),
    /// A `control/` directory.
    Control(Whose),
    Verb(Whose, String),
}

/// Names with fixed places: of the root, of each VM's directory, of `site/`, of a job's directory.
pub(super) const ROOT_NAMES: &[(&str, Node)] = &[
    ("README", Node::Readme),
    ("disks", Node::Disks),
    ("jobs", Node::Jobs),
    ("site", Node::Site),
    ("vms", Node::Vms),
];
pub(super) const VM_FILES: &[(&str, VmFile, Form)] = &[
    ("status", VmFile::Status, Form::Text),
    ("status.json", VmFile::Status, Form::Json),
    ("health", VmFile::Health, Form::Text),
    ("health.json", VmFile::Health, Form::Json),
    ("allowed", VmFile::Allowed, Form::Text),
    ("allowed.json", VmFile::Allowed, Form::Json),
    ("check", VmFile::Check, Form::Text),
    ("check.json", VmFile::Check, Form::Json),
    ("gaps", VmFile::Gaps, Form::Text),
    ("gaps.json", VmFile::Gaps, Form::Json),
    ("policy", VmFile::Policy, Form::Text),
    ("policy.json", VmFile::Policy, Form::Json),
];
pub(super) const SITE_FILES: &[(&str, SiteFile, Form)] = &[
    ("status", SiteFile::Status, Form::Text),
    ("status.json", SiteFile::Status, Form::Json),
    ("events", SiteFile::Events, Form::Text),
    ("events.json", SiteFile::Events, Form::Json),
];
pub(super) const JOB_FILES: &[(&str, JobFile, Form)] = &[
    ("status", JobFile::Status, Form::Text),
    ("status.json", JobFile::Status, Form::Json),
    ("progress", JobFile::Progress, Form::Text),
    ("log", JobFile::Log, Form::Text),
];
pub(super) const PEER_FILES: &[(&str, Form)] = &[("status", Form::Text), ("status.json", Form::Json)];
pub(super) const LATEST: &[(&str, Latest)] = &[
    ("latest", Latest::Received),
    ("latest-processed", Latest::Processed),
    ("latest-app-consistent", Latest::AppConsistent),
];
/// The directory of moments in a VM's directory.
pub(super) const POINTS: &str = "recovery-points";
/// The directory of branches in a VM's directory.
pub(super) const BRANCHES: &str = "branches";
/// The directory of verbs of a VM and of the site; of a job it is a file that takes each of its verbs.
pub(super) const CONTROL: &str = "control";
/// The directory of peers in `site/`.
pub(super) const PEERS: &str = "peers";

impl Node {
    /// N1.
    pub(super) fn ino(&self) -> u64 {
        if *self == Self::Root {
            return ROOT;
        }
        let hash = blake3::hash(&self.meaning());
        let mut number = [0; 8];
        number.copy_from_slice(&hash.as_bytes()[..8]);
        (u64::from_le_bytes(number) & (MARK - 1)) | MARK
    }

    fn meaning(&self) -> Vec<u8> {
        // Ids and fixed words can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn is_past(&self) -> bool {
        matches!(self, Self::PastRoot(..) | Self::Past(..))
    }

    /// Of those that have one kind whatever they hold.
    pub(super) fn kind(&self) -> NodeKind {
        match self {
            Self::Readme
            | Self::VmFile(..)
            | Self::SiteFile(..)
            | Self::PeerStatus(..)
            | Self::JobFile(..)
            | Self::Verb(..) => NodeKind::File,
            Self::PointLink(..) => NodeKind::Symlink,
            _ => NodeKind::Directory,
        }
    }

    /// A file that is written to: a verb, or a policy.
    pub(super) fn takes_lines(&self) -> bool {
        matches!(self, Self::Verb(..) | Self::VmFile(_, VmFile::Policy, Form::Text))
    }

    fn vm(&self) -> Option<VmId> {
        match self {
            Self::Live(vm, _)
            | Self::Vm(vm)
            | Self::VmFile(vm, ..)
            | Self::Points(vm)
            | Self::PointLink(vm, _)
            | Self::Branches(vm)
            | Self::Control(Whose::Vm(vm))
            | Self::Verb(Whose::Vm(vm), _)
            | Self::PastRoot(vm, _)
            | Self::Past(vm, ..) => Some(*vm),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Known {
    nodes: HashMap<u64, Node>,
    past: VecDeque<u64>,
}

/// Inode numbers that were answered.
pub(super) struct Nodes {
    numbers: Arc<dyn Numbers>,
    known: RwLock<Known>,
}

impl Nodes {
    /// Those that processes before this one answered are known.
    pub(super) fn new(numbers: Arc<dyn Numbers>) -> Self {
        let mut known = Known::default();
        for (ino, meaning) in numbers.all(KIND_INODE) {
            let Ok(node) = serde_json::from_slice::<Node>(&meaning) else { continue };
            if node.is_past() {
                known.past.push_back(ino);
            }
            known.nodes.insert(ino, node);
        }
        known.nodes.insert(ROOT, Node::Root);
        Self { numbers, known: RwLock::new(known) }
    }

    /// The number of a node that is about to be answered. N2.
    pub(super) fn show(&self, node: &Node) -> Result<u64> {
        let ino = node.ino();
        if self.known.read().nodes.contains_key(&ino) {
            return Ok(ino);
        }
        self.numbers.put(KIND_INODE, ino, &node.meaning())?;
        let mut known = self.known.write();
        if known.nodes.insert(ino, node.clone()).is_none() && node.is_past() {
            known.past.push_back(ino);
            if known.past.len() > PAST_MAX
                && let Some(oldest) = known.past.pop_front()
            {
                known.nodes.remove(&oldest);
                self.numbers.remove(KIND_INODE, oldest)?;
            }
        }
        Ok(ino)
    }

    /// What a number stands for; ESTALE if it isn't known any more: the kernel looks the name up again.
    pub(super) fn node(&self, ino: u64) -> Answer<Node> {
        self.known.read().nodes.get(&ino).cloned().ok_or(Errno::ESTALE)
    }

    /// A file is gone.
    pub(super) fn gone(&self, node: &Node) {
        let ino = node.ino();
        if self.known.write().nodes.remove(&ino).is_some() {
            self.removed(ino);
        }
    }

    /// A VM is gone, with all its nodes.
    pub(super) fn vm_gone(&self, vm: VmId) {
        let mut known = self.known.write();
        let gone: Vec<u64> =
            known.nodes.iter().filter(|(_, node)| node.vm() == Some(vm)).map(|(ino, _)| *ino).collect();
        for ino in gone {
            known.nodes.remove(&ino);
            self.removed(ino);
        }
        let Known { nodes, past } = &mut *known;
        past.retain(|ino| nodes.contains_key(ino));
    }

    fn removed(&self, ino: u64) {
        if let Err(error) = self.numbers.remove(KIND_INODE, ino) {
            tracing::warn!(%error, "the mount's table keeps the number of something that is gone");
        }
    }
}
