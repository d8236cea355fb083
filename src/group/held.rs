//! Moments that somebody has open.
//!
//! N5. No round passes a moment that is open, however old it gets: whoever copies the oldest one is not outrun by the
//!     window. For want of room only it is passed (P2 of `pressure`), before a writer waits: its reads fail from
//!     then on (V5 of `read`). A moment that was passed holds nothing.

use crate::group::Group;
use crate::group::left_out;
use crate::group::line::anchored;
use crate::vocab::{Kind, LogPlace, Moment, Result};
use std::sync::Arc;

/// An open moment; it is let go when this is dropped.
pub struct HeldMoment {
    group: Arc<Group>,
    moment: Moment,
}

impl Drop for HeldMoment {
    fn drop(&mut self) {
        let mut held = self.group.open_moments.lock();
        if let Some(count) = held.get_mut(&self.moment) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.moment);
            }
        }
    }
}

impl Group {
    /// N5: to be called before the moment is opened; an opening that then succeeds stays readable.
    pub fn hold(self: &Arc<Self>, moment: Moment) -> HeldMoment {
        *self.open_moments.lock().entry(moment).or_insert(0) += 1;
        HeldMoment { group: Arc::clone(self), moment }
    }

    /// The lowest place of the live path that an open moment needs, and how many there are.
    pub(crate) fn held_place(&self) -> Result<(Option<LogPlace>, usize)> {
        let moments: Vec<Moment> = self.open_moments.lock().keys().copied().collect();
        if moments.is_empty() || left_out("N5: no further than an open moment") {
            return Ok((None, 0));
        }
        let (path, floors) = {
            let mut core = self.core.lock();
            let floors: Vec<LogPlace> = core.bases.values().filter_map(|p| p.floor).collect();
            (self.head_path(&mut core)?, floors)
        };
        let (mut lowest, mut count) = (None, 0);
        for moment in moments {
            let place = match self.place_behind(moment) {
                Err(e) if e.kind() == Kind::NotFound => continue,
                place => place?,
            };
            // On a branch it is the fork that counts; what a base has passed can't be read any more.
            let Some(until) = path.until(place.log, place.pos) else { continue };
            if floors.iter().any(|floor| anchored(&until, *floor).is_none()) {
                continue;
            }
            count += 1;
            lowest = Some(lowest.map_or(place, |other| self.earlier(&path, other, place)));
        }
        Ok((lowest, count))
    }
}
