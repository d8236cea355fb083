//! Recovery points travel as a whole: each site tells the other its set when it has changed, and takes in what it
//! hears by union; deletions are remembered in the set (`protection::points`).
//!
//! R1. A set is merged while no command of that VM is under way: both change the same file.
//! R2. What doesn't arrive because the connection ends is told anew in the next one.

use super::Talk;
use crate::exchange::{About, Frame};
use crate::protection::PointSet;
use crate::site::points;
use crate::site::replication::GroupSlot;
use crate::vocab::{GroupId, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// How often it is looked whether points have changed here, ns.
const LOOK_NS: u64 = 500_000_000;

/// Points of the groups of a connection.
#[derive(Default)]
pub(super) struct Points {
    told: HashMap<GroupId, PointSet>,
    heard: HashMap<GroupId, PointSet>,
    looked_ns: u64,
}

impl Talk<'_> {
    /// The peer's points: taken in at the next look.
    pub(super) fn points_heard(&mut self, group: GroupId, set: &PointSet) {
        self.points.heard.insert(group, set.clone());
        self.points.looked_ns = 0;
    }

    /// A group meets its peer anew: what was told before may not have been heard.
    pub(super) fn points_untold(&mut self, group: GroupId) {
        self.points.told.remove(&group);
    }

    pub(super) fn share_points(&mut self, slots: &[Arc<GroupSlot>], now: u64) -> Result<()> {
        if now.saturating_sub(self.points.looked_ns) < LOOK_NS {
            return Ok(());
        }
        self.points.looked_ns = now;
        let site = self.hub.site()?;
        let catalog = site.store().catalog();
        for slot in slots {
            let group = slot.id();
            let met = slot.running.lock().side.as_ref().is_some_and(|side| side.state().met);
            if !met {
                continue;
            }
            if let Some(heard) = self.points.heard.remove(&group) {
                // R1.
                match slot.vm.commanding.try_lock() {
                    None => drop(self.points.heard.insert(group, heard)),
                    Some(_one) => {
                        let mut set = points::load(catalog, group)?;
                        if points::merge(&mut set, &heard) {
                            points::save(catalog, group, set)?;
                        }
                    }
                }
            }
            let set = points::load(catalog, group)?;
            if self.points.told.get(&group) != Some(&set) {
                self.say(&Frame::about(group, About::Points(set.clone())))?;
                self.points.told.insert(group, set);
            }
        }
        Ok(())
    }
}
