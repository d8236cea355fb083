//! What the catalog holds, beside what other rooms define.

use crate::link::{Peer, TokenRecord};
use crate::protection::policy::Policy;
use crate::protection::{PointSet, WallTime};
use crate::site::catalog::Object;
use crate::vocab::{GroupId, StoreId, Token, VmId};
use serde::{Deserialize, Serialize};

/// A VM: one entry of `disks/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmObject {
    /// Its identity.
    pub id: VmId,
    /// Its name in `disks/` and `vms/`.
    pub name: String,
    /// It is a single file, not a directory.
    #[serde(default)]
    pub single: bool,
    /// The group whose journal holds it.
    pub group: GroupId,
    /// Wall time of its creation here.
    pub created: WallTime,
    /// The request that made it, so that it isn't taken for another's when the kernel sends the request again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<RequestId>,
}

impl Object for VmObject {
    const FOLDER: &'static str = "catalog/vms";
    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// A group. Its state is in its history; what is here says how to open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupObject {
    /// Its identity.
    pub id: GroupId,
    /// Its name, if a person made it; a VM alone is a group without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its VMs.
    pub vms: Vec<VmId>,
    /// The site that it replicates to or from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<StoreId>,
    /// What this site was in it when it was last closed: a hint for messages before its history is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_hint: Option<String>,
    /// The name of its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl Object for GroupObject {
    const FOLDER: &'static str = "catalog/groups";
    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// A group that no VM has yet or any more: its directory goes at the next start, if that is still so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlistedObject {
    /// The group.
    pub group: GroupId,
}

impl Object for UnlistedObject {
    const FOLDER: &'static str = "catalog/unlisted";
    fn key(&self) -> String {
        self.group.to_string()
    }
}

/// The recovery points of a group, in one file: a group makes one every few minutes, and a store has hundreds of
/// groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsObject {
    /// The group.
    pub group: GroupId,
    /// Its points, and the ids of deleted ones.
    pub set: PointSet,
}

impl Object for PointsObject {
    const FOLDER: &'static str = "catalog/points";
    fn key(&self) -> String {
        self.group.to_string()
    }
}

impl Object for Policy {
    const FOLDER: &'static str = "catalog/policies";
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Object for Peer {
    const FOLDER: &'static str = "site/peers";
    fn key(&self) -> String {
        self.store.to_string()
    }
}

/// All remembered tokens, in `site/tokens.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Oldest first.
    pub tokens: Vec<TokenRecord>,
}

/// What an administrator chose for the site, in `site/settings.json`. Never shipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The site's name, shown at peers.
    pub name: String,
    /// Where it listens; none: it doesn't. Set by `--listen` and the first `pair create`.
    #[serde(default)]
    pub listen: Option<String>,
    /// Under which addresses peers reach it; empty: the one they see.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Limit of what is sent to all peers together, in bytes a second.
    #[serde(default)]
    pub rate: Option<u64>,
    /// Seconds that a group which was active here waits for its peer after a new mount.
    #[serde(default)]
    pub start_wait_seconds: Option<u64>,
    /// The executable that stops a VM; none: virsh, where it is there.
    #[serde(default)]
    pub stop_hook: Option<String>,
    /// The executable that starts one.
    #[serde(default)]
    pub start_hook: Option<String>,
    /// Seconds that a hook may take.
    #[serde(default)]
    pub hook_timeout_seconds: Option<u64>,
}

/// A request of the kernel: uniques begin anew with each mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// The mount.
    pub mount: Token,
    /// FUSE's number of the request, without the bit that says "sent again".
    pub unique: u64,
}

/// The outcome of a command with an `id=`, kept for [`COMMAND_DAYS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandObject {
    /// The file and the id, as [`CommandObject::key_of`] makes it.
    pub key: String,
    /// The line.
    pub text: String,
    /// Wall time at which it was taken.
    pub time: WallTime,
    /// Its job, if it has one.
    pub job: Option<String>,
    /// What reading the control file shows.
    pub outcome: String,
}

/// How long the outcome of a command with an `id=` is kept, in days.
pub const COMMAND_DAYS: i64 = 30;

impl CommandObject {
    /// The key of an id given to the control file at this path of the mount. A hash: ids are any text.
    pub fn key_of(control_file: &str, id: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(control_file.len() as u64).to_le_bytes()).update(control_file.as_bytes());
        hasher.update(id.as_bytes()).finalize().to_hex()[..32].to_owned()
    }

    /// Whether it may be deleted.
    pub fn is_old(&self, now: WallTime) -> bool {
        now.saturating_sub(self.time) > COMMAND_DAYS * 24 * 3600 * 1_000_000_000
    }
}

impl Object for CommandObject {
    const FOLDER: &'static str = "catalog/commands";
    fn key(&self) -> String {
        self.key.clone()
    }
}
