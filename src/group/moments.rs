//! Past moments as a filesystem shows them: holes and room.

use crate::base::{BaseFile, unallocated_about};
use crate::group::content::{Below, STAT_RANGES_MAX, overlaid};
use crate::group::{Group, MomentView};
use crate::vocab::{DiskOrdinal, Result};
use std::sync::Arc;

impl Group {
    /// SEEK_DATA in a file of `size` bytes of a past moment.
    pub fn next_data_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        let (path, base) = view.file(disk)?;
        let found = self.seek_data(path, base.clone(), disk, offset, size);
        self.not_passed(view, disk)?;
        found
    }

    /// SEEK_HOLE likewise.
    pub fn next_hole_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        let (path, base) = view.file(disk)?;
        let found = self.seek_hole(path, base.clone(), disk, offset, size);
        self.not_passed(view, disk)?;
        found
    }

    /// Bytes that a file of a past moment takes.
    pub fn allocated_of(&self, view: &MomentView, disk: DiskOrdinal, size: u64) -> Result<u64> {
        let (path, base) = view.file(disk)?;
        let journaled = self.index.scan(path, disk, 0, size)?.filter_map(overlaid);
        let more = unallocated_about(journaled, &Below(base.clone()), size, STAT_RANGES_MAX)?;
        Ok(more + base.as_ref().map_or(Ok(0), |base: &Arc<BaseFile>| base.allocated())?)
    }
}
