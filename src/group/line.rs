//! What readers of the newest state see: one line, replaced as a whole.
//!
//! L1. The name of the head, names and sizes, bytes and generation come from one [`Live`], which is replaced in one
//!     step. A reader that takes it once sees one moment.
//! L2. `entered` is the newest moment that index, table of batches and facts of names know. The log's own head runs
//!     ahead of it, and nobody but the appender asks for that.
//! L3. Where a site follows, and while it passes to another line, the line is *closed*: its path ends at the head that
//!     was published. What comes behind is seen by nobody until it is durable, in index, names, spans and bases; then
//!     all of it at once.
//! L4. Where a site writes the line is open: its last interval takes what comes, in the order of seqs. It is opened
//!     by the row of an epoch, and by nothing else.

use crate::base::BaseFile;
use crate::group::group::{Core, Group};
use crate::group::left_out;
use crate::group::names::Names;
use crate::group::read::MomentView;
use crate::index::{Interval, Path};
use crate::vocab::{DiskOrdinal, LogPlace, Moment, Pos, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// One file of the live disk: what a read needs and nothing else.
#[derive(Clone)]
pub(crate) struct LiveFile {
    /// The live path above the file's base.
    pub(crate) path: Path,
    pub(crate) base: Option<Arc<BaseFile>>,
}

/// What reads of the head use (L1).
pub(crate) struct Live {
    pub(crate) path: Path,
    pub(crate) files: HashMap<DiskOrdinal, LiveFile>,
    /// Files whose bases stand beside the path: they can't be read on it.
    pub(crate) beside: Vec<DiskOrdinal>,
    /// Where the line is closed: its head and the names there.
    pub(crate) closed: Option<(Moment, Arc<Names>)>,
    /// Changes with each epoch and each jump.
    pub(crate) generation: u64,
}

impl Live {
    /// Before anything is known.
    pub(crate) fn empty(path: Path) -> Self {
        Self { path, files: HashMap::new(), beside: Vec::new(), closed: None, generation: 0 }
    }
}

impl Group {
    /// The newest moment, durable or not; where the line is closed, the one that was published.
    pub fn head(&self) -> Moment {
        self.live.read().closed.as_ref().map_or_else(|| self.entered().0, |(head, _)| *head)
    }

    /// Names and sizes at the head; where this site writes, those of requests that are still queued included.
    pub fn names_now<T>(&self, look: impl FnOnce(&Names) -> T) -> T {
        let closed = self.live.read().closed.as_ref().map(|(_, names)| names.clone());
        match closed {
            Some(names) => look(&names),
            None => look(&self.queue.lock().names),
        }
    }

    /// F1 of `content`.
    pub fn generation(&self) -> u64 {
        self.live.read().generation
    }

    /// The head as a moment that stays: its names and bytes are of one instant, whatever is received meanwhile.
    pub fn open_head(&self) -> Result<MomentView> {
        let live = self.live.read().clone();
        let Some((moment, names)) = &live.closed else { return self.open_moment(self.head()) };
        let file = |disk: &DiskOrdinal| match live.files.get(disk) {
            Some(file) => (file.path.clone(), file.base.clone()),
            None => (live.path.clone(), None),
        };
        let files = names.files.keys().map(|disk| (*disk, file(disk))).collect();
        Ok(MomentView::new(*moment, Names::clone(names), files))
    }

    /// The head, and the place that must be durable so that it is.
    pub(crate) fn standing(&self) -> (Moment, Pos) {
        let (entered, end) = self.entered();
        let closed = self.live.read().closed.as_ref().map(|(head, _)| *head);
        (closed.unwrap_or(entered), end)
    }

    /// L2, with the place behind it.
    pub(crate) fn entered(&self) -> (Moment, Pos) {
        *self.entered.lock()
    }

    pub(crate) fn set_entered(&self) {
        let head = self.log.head();
        *self.entered.lock() = head;
    }

    /// The live path and files anew, after a fork or when a base has moved.
    pub(crate) fn refresh_live(&self, core: &mut Core) -> Result<()> {
        self.publish(core, None, false)
    }

    /// The live path anew after its line has changed: with an epoch, begun here or received, or a jump.
    pub(crate) fn refresh_line(&self, core: &mut Core) -> Result<()> {
        self.publish(core, None, true)
    }

    /// L3: from here on readers stay at what has been published.
    pub(crate) fn close_line(&self, core: &mut Core) -> Result<()> {
        if core.closed || left_out("L3: a line that is followed is closed") {
            return Ok(());
        }
        core.closed = true;
        self.publish(core, None, false)
    }

    /// L1. `names`: those at the head, where the caller knows them.
    pub(crate) fn publish(&self, core: &mut Core, names: Option<Arc<Names>>, another: bool) -> Result<()> {
        self.refresh_spans(core);
        let head = self.standing_head(core).or_else(|| core.closed.then(|| self.entered().0));
        let path = match head {
            Some(head) if core.spans.0.is_empty() => {
                debug_assert_eq!(head.seq.0, 0);
                Path::new([])
            }
            Some(head) => self.path_of(core, head)?,
            None => self.head_path(core)?,
        };
        let old = self.live.read().clone();
        let (mut files, mut beside) = (HashMap::new(), Vec::new());
        for (disk, place) in &core.bases {
            let Some(stands) = place.base else { continue };
            let Some(above) = anchored(&path, stands) else {
                beside.push(*disk);
                continue;
            };
            let base = match old.files.get(disk).and_then(|f| f.base.clone()) {
                Some(file) => Some(file),
                None => self.open_base(*disk)?,
            };
            files.insert(*disk, LiveFile { path: above, base });
        }
        let closed = head.map(|head| (head, names.unwrap_or_else(|| Arc::new(self.names.lock().at(&path)))));
        let mut live = self.live.write();
        let generation = live.generation + u64::from(another);
        *live = Arc::new(Live { path, files, beside, closed, generation });
        Ok(())
    }

    /// The next head of a closed line: `names` are those there. Bases stay where they are.
    pub(crate) fn publish_next(&self, core: &mut Core, names: Arc<Names>) -> Result<()> {
        self.refresh_spans(core);
        let head = self.entered().0;
        let path = self.path_of(core, head)?;
        let old = self.live.read().clone();
        let (mut files, mut beside) = (HashMap::with_capacity(old.files.len()), Vec::new());
        for (disk, place) in &core.bases {
            let Some(stands) = place.base else { continue };
            let Some(above) = anchored(&path, stands) else {
                beside.push(*disk);
                continue;
            };
            let base = old.files.get(disk).and_then(|f| f.base.clone());
            files.insert(*disk, LiveFile { path: above, base });
        }
        let mut live = self.live.write();
        let generation = live.generation;
        *live = Arc::new(Live { path, files, beside, closed: Some((head, names)), generation });
        Ok(())
    }
}

/// What a path has above a base that stands here; `None` if that place isn't on the path. Every path begins at place
/// 0: there stands a base that nothing was written to, and one of a first copy, of whose moment no log has anything.
pub(crate) fn anchored(path: &Path, base: LogPlace) -> Option<Path> {
    if base.pos == Pos(0) {
        return Some(path.clone());
    }
    let above = path.above(base.log, base.pos)?;
    Some(if left_out("V6: a view is cut where its base stands") { path.clone() } else { above })
}

/// The path of a group without a record: whatever comes.
pub(crate) fn whole_log(log: crate::vocab::LogId) -> Path {
    Path::new([Interval { log, from: Pos(0), to: Pos(u64::MAX) }])
}

/// Steps between which a test looks at what readers see. Nothing outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn between(_step: &'static str) {}

/// What a test does between two steps.
#[cfg(test)]
pub(crate) type Look = Box<dyn FnMut(&'static str)>;

#[cfg(test)]
thread_local! {
    pub(crate) static BETWEEN: std::cell::RefCell<Option<Look>> = const { std::cell::RefCell::new(None) };
}

#[cfg(test)]
pub(crate) fn between(step: &'static str) {
    let look = BETWEEN.with_borrow_mut(Option::take);
    if let Some(mut look) = look {
        look(step);
        BETWEEN.with_borrow_mut(|place| *place = Some(look));
    }
}
