//! The directories of a simulated filesystem.
//!
//! 1. A change of names is volatile until one of its directories is synced; the sync makes durable all
//!    changes before it in that directory, and those that they can't do without: of a rename from one
//!    directory into another both halves survive or neither.
//! 2. At a power loss each directory keeps a prefix of its changes.

use super::inode::{Inode, Odds};
use crate::seam::real::check_path;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(super) type NodeId = u64;
/// What the kernel would say.
pub(super) type Errno = i32;
type Result<T> = std::result::Result<T, Errno>;

const ENOENT: Errno = 2;
const EEXIST: Errno = 17;
const ENOTDIR: Errno = 20;
const EISDIR: Errno = 21;
const EINVAL: Errno = 22;
const ENOTEMPTY: Errno = 39;

pub(super) const ROOT: NodeId = 0;

#[derive(Clone, Default)]
pub(super) struct Folder {
    names: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

#[derive(Clone)]
pub(super) enum Node {
    Folder(Folder),
    File { inode: Inode, handles: usize },
}

/// One atomic change: what each name stands for from now on.
#[derive(Clone)]
struct Renaming(Vec<(NodeId, String, Option<NodeId>)>);

#[derive(Clone)]
pub(super) struct Names {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    pending: Vec<Renaming>,
}

impl Names {
    pub(super) fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]);
        Self { nodes, next: ROOT + 1, pending: Vec::new() }
    }

    /// What a path stands for, below `from`.
    pub(super) fn find(&self, from: NodeId, path: &Path) -> Result<Option<NodeId>> {
        check_path(path).map_err(|_| EINVAL)?;
        let mut at = from;
        for part in path.components() {
            let Some(Node::Folder(folder)) = self.nodes.get(&at) else { return Ok(None) };
            match folder.names.get(&*part.as_os_str().to_string_lossy()) {
                Some(next) => at = *next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn inode(&self, id: NodeId) -> Option<&Inode> {
        match self.nodes.get(&id) {
            Some(Node::File { inode, .. }) => Some(inode),
            _ => None,
        }
    }

    pub(super) fn inode_mut(&mut self, id: NodeId) -> Option<&mut Inode> {
        match self.nodes.get_mut(&id) {
            Some(Node::File { inode, .. }) => Some(inode),
            _ => None,
        }
    }

    pub(super) fn inodes_mut(&mut self) -> impl Iterator<Item = &mut Inode> {
        self.nodes.values_mut().filter_map(|node| match node {
            Node::File { inode, .. } => Some(inode),
            Node::Folder(_) => None,
        })
    }

    pub(super) fn folder(&self, from: NodeId, path: &Path) -> Result<(NodeId, Vec<String>)> {
        let id = self.find(from, path)?.ok_or(ENOENT)?;
        match self.nodes.get(&id) {
            Some(Node::Folder(folder)) => Ok((id, folder.names.keys().cloned().collect())),
            _ => Err(ENOTDIR),
        }
    }

    pub(super) fn add_handle(&mut self, id: NodeId, count: isize) {
        if let Some(Node::File { handles, .. }) = self.nodes.get_mut(&id) {
            *handles = handles.saturating_add_signed(count);
        }
    }

    pub(super) fn forget_handles(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File { handles, .. } = node {
                *handles = 0;
            }
        }
    }

    pub(super) fn create(&mut self, from: NodeId, path: &Path) -> Result<NodeId> {
        self.make(from, path, Node::File { inode: Inode::default(), handles: 0 })
    }

    /// Makes one directory. True if it wasn't there.
    pub(super) fn make_dir(&mut self, from: NodeId, path: &Path) -> Result<bool> {
        match self.find(from, path)? {
            None => self.make(from, path, Node::Folder(Folder::default())).map(|_| true),
            Some(id) if matches!(self.nodes.get(&id), Some(Node::Folder(_))) => Ok(false),
            Some(_) => Err(EEXIST),
        }
    }

    pub(super) fn rename(&mut self, root: NodeId, from: &Path, to: &Path) -> Result<()> {
        let over = self.find(root, to)?;
        let id = self.find(root, from)?.ok_or(ENOENT)?;
        let ((old_dir, old), (new_dir, new)) = (self.split(root, from)?, self.split(root, to)?);
        if over == Some(id) {
            return Ok(());
        }
        let moves_folder = matches!(self.nodes.get(&id), Some(Node::Folder(_)));
        if moves_folder && to.starts_with(from) {
            return Err(EINVAL);
        }
        match over.and_then(|over| self.nodes.get(&over)) {
            Some(Node::Folder(_)) if !moves_folder => return Err(EISDIR),
            Some(Node::Folder(folder)) if !folder.names.is_empty() => return Err(ENOTEMPTY),
            Some(Node::File { .. }) if moves_folder => return Err(ENOTDIR),
            _ => {}
        }
        self.change(Renaming(vec![(old_dir, old, None), (new_dir, new, Some(id))]));
        Ok(())
    }

    pub(super) fn remove(&mut self, root: NodeId, path: &Path, dir: bool) -> Result<()> {
        let id = self.find(root, path)?.ok_or(ENOENT)?;
        match self.nodes.get(&id) {
            Some(Node::Folder(_)) if !dir => return Err(EISDIR),
            Some(Node::File { .. }) if dir => return Err(ENOTDIR),
            Some(Node::Folder(folder)) if !folder.names.is_empty() => return Err(ENOTEMPTY),
            _ => {}
        }
        let (parent, name) = self.split(root, path)?;
        self.change(Renaming(vec![(parent, name, None)]));
        Ok(())
    }

    pub(super) fn sync(&mut self, dir: NodeId) {
        let mut needed = BTreeSet::from([dir]);
        let mut durable = vec![false; self.pending.len()];
        for (at, renaming) in self.pending.iter().enumerate().rev() {
            if renaming.0.iter().any(|(dir, ..)| needed.contains(dir)) {
                durable[at] = true;
                needed.extend(renaming.0.iter().map(|(dir, ..)| *dir));
            }
        }
        let mut left = Vec::new();
        for (renaming, durable) in std::mem::take(&mut self.pending).into_iter().zip(durable) {
            if durable {
                self.make_durable(renaming);
            } else {
                left.push(renaming);
            }
        }
        self.pending = left;
        self.collect_garbage();
    }

    pub(super) fn lose_power(&mut self, odds: Odds, rng: &mut fastrand::Rng) {
        let mut stopped = BTreeSet::new();
        for renaming in std::mem::take(&mut self.pending) {
            let dirs: Vec<NodeId> = renaming.0.iter().map(|(dir, ..)| *dir).collect();
            if dirs.iter().any(|dir| stopped.contains(dir)) || !odds.kept(rng) {
                stopped.extend(dirs);
            } else {
                self.make_durable(renaming);
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::Folder(folder) => folder.names = folder.durable.clone(),
                Node::File { inode, handles } => {
                    inode.lose_power(odds, rng);
                    *handles = 0;
                }
            }
        }
        self.collect_garbage();
    }

    /// Bytes that the files with a name take.
    pub(super) fn used(&self) -> u64 {
        let mut used = 0;
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            match self.nodes.get(&id) {
                Some(Node::Folder(folder)) => todo.extend(folder.names.values()),
                Some(Node::File { inode, .. }) => used += inode.current.allocated(),
                None => {}
            }
        }
        used
    }

    /// Changes of names and of content that a power loss may take.
    pub(super) fn unsynced(&self) -> usize {
        let content: usize = self.nodes.keys().filter_map(|id| self.inode(*id)).map(Inode::unsynced).sum();
        content + self.pending.len()
    }

    fn make(&mut self, from: NodeId, path: &Path, node: Node) -> Result<NodeId> {
        let (parent, name) = self.split(from, path)?;
        if self.find(from, path)?.is_some() {
            return Err(EEXIST);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(Renaming(vec![(parent, name, Some(id))]));
        Ok(id)
    }

    /// The directory that a path lies in, and its last name.
    fn split(&self, from: NodeId, path: &Path) -> Result<(NodeId, String)> {
        check_path(path).map_err(|_| EINVAL)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(EINVAL) };
        let id = self.find(from, parent)?.ok_or(ENOENT)?;
        match self.nodes.get(&id) {
            Some(Node::Folder(_)) => Ok((id, name.to_string_lossy().into_owned())),
            _ => Err(ENOTDIR),
        }
    }

    fn change(&mut self, renaming: Renaming) {
        self.set(&renaming, false);
        self.pending.push(renaming);
    }

    fn make_durable(&mut self, renaming: Renaming) {
        self.set(&renaming, true);
    }

    fn set(&mut self, renaming: &Renaming, durable: bool) {
        for (dir, name, node) in &renaming.0 {
            if let Some(Node::Folder(folder)) = self.nodes.get_mut(dir) {
                let names = if durable { &mut folder.durable } else { &mut folder.names };
                match node {
                    Some(id) => names.insert(name.clone(), *id),
                    None => names.remove(name),
                };
            }
        }
    }

    /// Drops what no name, no pending change and no handle leads to.
    fn collect_garbage(&mut self) {
        let mut reached = BTreeSet::new();
        let mut todo = vec![ROOT];
        todo.extend(
            self.pending.iter().flat_map(|r| r.0.iter().flat_map(|(dir, _, id)| [Some(*dir), *id])).flatten(),
        );
        while let Some(id) = todo.pop() {
            if reached.insert(id)
                && let Some(Node::Folder(folder)) = self.nodes.get(&id)
            {
                todo.extend(folder.names.values().chain(folder.durable.values()));
            }
        }
        self.nodes.retain(|id, node| {
            reached.contains(id) || matches!(node, Node::File { handles, .. } if *handles > 0)
        });
    }
}
