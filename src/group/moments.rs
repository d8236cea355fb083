//! Past moments as a filesystem shows them: holes and room.

use crate::group::content::PAST_PIECES_MAX;
use crate::group::{Group, MomentView};
use crate::vocab::{DiskOrdinal, Result};

impl Group {
    /// SEEK_DATA in a file of `size` bytes of a past moment.
    pub fn next_data_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        self.seek_of(view, disk, (offset, size), false)
    }

    /// SEEK_HOLE likewise.
    pub fn next_hole_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        self.seek_of(view, disk, (offset, size), true)
    }

    fn seek_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        range: (u64, u64),
        hole: bool,
    ) -> Result<Option<u64>> {
        self.at_moment(view, disk, |path, base| self.seek_in(path, base, disk, range, hole))
    }

    /// Bytes that a file of a past moment takes.
    pub fn allocated_of(&self, view: &MomentView, disk: DiskOrdinal, size: u64) -> Result<u64> {
        self.at_moment(view, disk, |path, base| self.allocated_in(path, base, disk, (size, PAST_PIECES_MAX)))
    }
}
