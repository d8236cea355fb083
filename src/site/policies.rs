//! The policy of a group as it is kept here: the text that its `policy` file shows.
//!
//! A group without one has the default: a window of 24 h where it is protected, none where nothing leaves the site.

use crate::protection::policy::{Policy, SiteSettings, edit, policy_text};
use crate::site::catalog::{Catalog, Object};
use crate::vocab::{GroupId, Result};
use serde::{Deserialize, Serialize};

/// What was written to a group's `policy` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// The group.
    pub group: GroupId,
    /// All lines of the file.
    pub text: String,
}

impl Object for GroupPolicy {
    const FOLDER: &'static str = "catalog/group-policies";
    fn key(&self) -> String {
        self.group.to_string()
    }
}

/// The policy of a group; `None`: nothing was written, the default holds.
pub fn stored(catalog: &Catalog, group: GroupId) -> Result<Option<(Policy, SiteSettings)>> {
    let Some(object) = catalog.get::<GroupPolicy>(&group.to_string())? else { return Ok(None) };
    let read = edit(&Policy::default(), &SiteSettings::default(), &object.text);
    Ok(Some(read.map_err(crate::protection::Refused::from)?))
}

/// Keeps a policy; durable when this returns.
pub fn store(catalog: &Catalog, group: GroupId, policy: &Policy, site: &SiteSettings) -> Result<()> {
    catalog.put(&GroupPolicy { group, text: policy_text(policy, site) })
}
