//! Reading the head and any other moment.
//!
//! V1. A moment is held if every base lies on its path, also those of files that it doesn't have: a line that went on
//!     from there would give their ordinals anew, above bytes of another line.
//! V4. A path ends with its moment's record.
//! V5. A base is read for moments at or above its floor only. Who holds a view while a round passes it is told so.
//! V6. The path of a view is cut where its base stands: what a log still has of that is not looked at.
//! V7. Whoever looks at a file while a round takes it into the base looks again: where a segment was freed between
//!     look-up and read, and where the file had no base and has one by now, for the index forgets what lies in bases.
//! V8. A read of the head that a round begins beside looks again: what was written and destaged since it looked a block up
//!     would be in the base, half of it perhaps. A round that had begun before took nothing that the look-up lacks.

use crate::base::BaseFile;
use crate::format::Span;
use crate::group::Group;
use crate::group::group::{BasePlace, Core};
use crate::group::left_out;
use crate::group::line::{anchored, between, whole_log};
use crate::group::names::Names;
use crate::index::{Interval, Path};
use crate::view::{Sources, read};
use crate::vocab::{DiskOrdinal, Error, Kind, Moment, Pos, Result, Seq};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A moment, opened: its names and its bytes.
pub struct MomentView {
    /// Which moment, in normal form.
    pub moment: Moment,
    /// Names and sizes.
    pub names: Names,
    files: HashMap<DiskOrdinal, (Path, Option<Arc<BaseFile>>)>,
}

impl MomentView {
    pub(crate) fn new(
        moment: Moment,
        names: Names,
        files: HashMap<DiskOrdinal, (Path, Option<Arc<BaseFile>>)>,
    ) -> Self {
        Self { moment, names, files }
    }

    /// The path of a file above its base, and the base.
    pub(crate) fn file(&self, disk: DiskOrdinal) -> Result<&(Path, Option<Arc<BaseFile>>)> {
        self.files.get(&disk).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("file {disk} does not exist at {}", self.moment))
        })
    }
}

/// Tries of a read whose segment was freed between look-up and read. The last one lets no round begin or end beside
/// it: a slow reader must not meet one after the other.
const TRIES: usize = 4;

impl Group {
    /// Reads the head: `buf` is filled from `offset`, with zeros beyond what the file has.
    pub fn read_head(&self, disk: DiskOrdinal, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.at_head(disk, |path, base| {
            let from = Sources { index: &self.index, payloads: self, base: base.as_deref() };
            read(&from, path, disk, offset, buf)
        })
    }

    /// V7. Looks at a file of the head, again where a round overtook the look.
    pub(crate) fn at_head<T>(
        &self,
        disk: DiskOrdinal,
        mut look: impl FnMut(&Path, Option<Arc<BaseFile>>) -> Result<T>,
    ) -> Result<T> {
        for attempt in 1.. {
            let _work = (attempt == TRIES).then(|| self.work.lock());
            let floors = self.floors.load(Ordering::Acquire);
            let live = self.live.read().clone();
            // A file whose first record is not yet under a base: all of it is in the log.
            let (path, base) = match live.files.get(&disk) {
                Some(file) => (&file.path, file.base.clone()),
                None => (&live.path, None),
            };
            if live.beside.contains(&disk) {
                let what = format!("the base of file {disk} stands beside the line that is read");
                return Err(
                    Error::new(Kind::Damaged, what).advice("See `health`; a copy from the peer mends it")
                );
            }
            between("a read has its line");
            let based = base.is_some();
            let found = look(path, base);
            let beside = self.floors.load(Ordering::Acquire) != floors
                && !left_out("V8: a read that a round begins beside looks again");
            if attempt == TRIES || !(beside || self.is_overtaken(&found, disk, based)) {
                return found;
            }
        }
        Err(Error::new(Kind::Io, "the read was overtaken again and again"))
    }

    /// V7.
    fn is_overtaken<T>(&self, found: &Result<T>, disk: DiskOrdinal, based: bool) -> bool {
        let freed = matches!(found, Err(e) if e.kind() == Kind::NotFound);
        let unseen = !based && !left_out("V7: a base that came meanwhile is seen") && self.has_base(disk);
        freed || unseen
    }

    fn has_base(&self, disk: DiskOrdinal) -> bool {
        self.live.read().files.get(&disk).is_some_and(|file| file.base.is_some())
    }

    /// Opens a moment.
    ///
    /// # Errors
    /// `NotFound` if it isn't held: never was, lies in a gap, or the base has passed it.
    pub fn open_moment(&self, moment: Moment) -> Result<MomentView> {
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        let moment = core.table.norm(moment)?;
        let path = self.path_of(&core, moment)?;
        if !left_out("V1: every base lies on the path of a moment") && base_beside(&core, &path).is_some() {
            return Err(passed(moment));
        }
        let names = self.names.lock().at(&path);
        let mut files = HashMap::new();
        for disk in names.files.keys() {
            let place = core.bases.get(disk).copied();
            let cut = match place {
                Some(place) => {
                    let on = |p: Option<crate::vocab::LogPlace>| p.and_then(|p| anchored(&path, p));
                    let unasked = left_out("V5: a base is read at or above its floor only");
                    let floor = if unasked { place.base } else { place.floor };
                    match (on(place.base), on(floor)) {
                        (Some(above), Some(_)) => above,
                        _ => return Err(passed(moment)),
                    }
                }
                None => path.clone(),
            };
            let base = match self.live.read().files.get(disk).and_then(|f| f.base.clone()) {
                Some(base) => Some(base),
                None => self.open_base(*disk)?,
            };
            files.insert(*disk, (cut, base));
        }
        Ok(MomentView { moment, names, files })
    }

    /// Reads a moment.
    pub fn read_moment(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.at_moment(view, disk, |path, base| {
            let from = Sources { index: &self.index, payloads: self, base: base.as_deref() };
            read(&from, path, disk, offset, buf)
        })
    }

    /// V7. Looks at a file of a moment. Where a round has taken into the base what lies below the moment, the moment is
    /// cut above it anew.
    pub(crate) fn at_moment<T>(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        mut look: impl FnMut(&Path, Option<Arc<BaseFile>>) -> Result<T>,
    ) -> Result<T> {
        let mut fresh = None;
        for attempt in 1.. {
            let view = fresh.as_ref().unwrap_or(view);
            let (path, base) = view.file(disk)?;
            let found = look(path, base.clone());
            self.not_passed(view, disk)?;
            if attempt == TRIES || !self.is_overtaken(&found, disk, base.is_some()) {
                return found;
            }
            fresh = Some(self.open_moment(view.moment)?);
        }
        Err(Error::new(Kind::Io, "the read was overtaken again and again"))
    }

    /// A view that is held doesn't keep the base: what was read is right if no round that began by then went
    /// beyond the moment (floors rise before bases are written).
    pub(crate) fn not_passed(&self, view: &MomentView, disk: DiskOrdinal) -> Result<()> {
        let (path, _) = view.file(disk)?;
        let core = self.core.lock();
        if view.moment.seq.0 > 0 && core.spans.of(view.moment).is_none() {
            return Err(passed(view.moment)); // a jump replaced everything
        }
        match core.bases.get(&disk).and_then(|place| place.floor) {
            _ if left_out("V5: a view that a round passed says so") => Ok(()),
            Some(floor) if anchored(path, floor).is_none() => Err(passed(view.moment)),
            _ => Ok(()),
        }
    }

    /// The live path: its last interval takes whatever comes.
    pub(crate) fn head_path(&self, core: &mut Core) -> Result<Path> {
        self.refresh_spans(core);
        let Some(newest) = core.spans.0.last() else {
            return Ok(whole_log(self.log.id()));
        };
        if let Some(head) = self.standing_head(core) {
            return self.path_of(core, head);
        }
        let head = Moment { epoch: newest.epoch, seq: newest.last_seq };
        core.spans.path(&core.table, head, Some(self.log.id()), |span, seq| self.end_of(span, seq))
    }

    pub(crate) fn path_of(&self, core: &Core, moment: Moment) -> Result<Path> {
        core.spans.path(&core.table, moment, None, |span, seq| {
            if left_out("V4: a path ends with its moment") { Ok(span.to) } else { self.end_of(span, seq) }
        })
    }

    /// The place behind a record: between two batches the end of the earlier one, so that a place has one name.
    pub(crate) fn end_of(&self, span: &Span, seq: Seq) -> Result<Pos> {
        let gone = || {
            Error::new(
                Kind::NotFound,
                format!("record {seq} of epoch {} is no longer held", span.epoch.short()),
            )
        };
        let stretch = Interval { log: span.log, from: span.from, to: span.to };
        let row = self.index.batch_of_seq(stretch, seq)?.ok_or_else(gone)?;
        let batch = self.log.batch_at(row.pos)?.ok_or_else(gone)?;
        let at = batch
            .records
            .iter()
            .position(|r| r.entry.seq == seq && r.entry.kind.has_seq())
            .ok_or_else(gone)?;
        if at + 1 == batch.records.len() {
            return Ok(batch.end());
        }
        Ok(Pos(batch.place(&batch.records[at]).0 + 1))
    }
}

/// A file whose base, or what a round began to make of it, doesn't lie on a path.
pub(crate) fn base_beside(core: &Core, path: &Path) -> Option<DiskOrdinal> {
    let beside = |place: &BasePlace| {
        [place.base, place.floor].into_iter().flatten().any(|at| anchored(path, at).is_none())
    };
    core.bases.iter().find(|(_, place)| beside(place)).map(|(disk, _)| *disk)
}

fn passed(moment: Moment) -> Error {
    Error::new(Kind::NotFound, format!("the base has passed {moment}"))
        .advice("`ls recovery-points/` shows what is held; the window is set in `policy`")
}
