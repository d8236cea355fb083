//! Payloads of records about names: JSON, so that a person can read them in a damaged store.

use crate::vocab::{DiskId, VmId};
use serde::{Deserialize, Serialize};

/// What a name in a VM's directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A disk or a companion.
    File,
    /// A directory.
    Directory,
}

/// `add`: binds the record's ordinal to a file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPayload {
    /// The VM.
    pub vm: VmId,
    /// Its name when the record was written.
    pub vm_name: String,
    /// The VM is a single file: `path` is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub single: bool,
    /// The file.
    pub file: DiskId,
    /// Path inside the VM, with `/`; empty for the VM itself.
    pub path: String,
    /// File or directory.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
}

/// `rename`: the record's ordinal has a new path inside its VM. Of a directory, all below it moves with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenamePayload {
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
}

/// `remove`: the record's ordinal is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovePayload {
    /// The path that it had.
    pub path: String,
}
