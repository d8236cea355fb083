//! One simulated file: what readers see, what the medium has, and the changes between the two.
//!
//! 1. `current` is `durable` with all of `pending`, unless a sync failed (`diverged`).
//! 2. A change leaves `pending` for `durable` by a sync, or by being durable itself with nothing pending
//!    before it; never out of order, so that a later change always wins where both are kept.

use super::content::{Change, Content, SECTOR};
use std::borrow::Cow;
use std::mem;

/// What of the unsynced is likely to survive a power loss. Drawn once for each loss, so that some runs lose
/// nearly everything and some nearly nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    keep: f64,
    tear: f64,
}

impl Odds {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let keep = [0.0, 0.1, 0.5, 0.9, 1.0][rng.usize(..5)];
        let tear = [0.0, 0.3, 1.0][rng.usize(..3)];
        Self { keep, tear }
    }

    pub(super) fn kept(self, rng: &mut fastrand::Rng) -> bool {
        rng.f64() < self.keep
    }
}

#[derive(Clone)]
struct Pending {
    change: Change,
    /// Survives a power loss, though an earlier change may not.
    durable: bool,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) current: Content,
    durable: Content,
    pending: Vec<Pending>,
    diverged: bool,
}

impl Inode {
    /// Makes a change; a durable one survives by itself, whatever becomes of those before it.
    pub(super) fn change(&mut self, change: Change, durable: bool) {
        self.current.apply(&change);
        if durable && self.pending.is_empty() {
            self.durable.apply(&change);
        } else {
            self.pending.push(Pending { change, durable });
        }
    }

    pub(super) fn sync(&mut self) {
        for pending in mem::take(&mut self.pending) {
            self.durable.apply(&pending.change);
        }
    }

    /// A sync that fails: some of the changes are forgotten, so that no later sync writes them. Readers see
    /// them or not, as filesystems differ in that too.
    pub(super) fn fail_sync(&mut self, rng: &mut fastrand::Rng) {
        for pending in &mut self.pending {
            if !pending.durable && rng.bool() {
                self.diverged = true;
                pending.change = match &pending.change {
                    Change::Write { offset, data } => Change::Grow(offset + data.len() as u64),
                    Change::Zero { .. } | Change::Punch { .. } => Change::Grow(0),
                    other => other.clone(),
                };
            }
        }
        if self.diverged && rng.bool() {
            self.current = self.medium();
            self.diverged = false;
        }
    }

    /// What a read past the page cache gives.
    pub(super) fn past_cache(&self) -> Cow<'_, Content> {
        if self.diverged { Cow::Owned(self.medium()) } else { Cow::Borrowed(&self.current) }
    }

    fn medium(&self) -> Content {
        let mut medium = self.durable.clone();
        self.pending.iter().for_each(|p| medium.apply(&p.change));
        medium
    }

    pub(super) fn lose_power(&mut self, odds: Odds, rng: &mut fastrand::Rng) {
        for pending in mem::take(&mut self.pending) {
            if pending.durable {
                self.durable.apply(&pending.change);
            } else if rng.f64() < odds.tear {
                tear(&mut self.durable, &pending.change, odds, rng);
            } else if odds.kept(rng) {
                self.durable.apply(&pending.change);
            }
        }
        self.current = self.durable.clone();
        self.diverged = false;
    }

    pub(super) fn flip(&mut self, offset: u64, bits: u8) {
        self.durable.flip(offset, bits);
        self.current.flip(offset, bits);
        for pending in &mut self.pending {
            if let Change::Write { offset: start, data } = &mut pending.change
                && (*start..*start + data.len() as u64).contains(&offset)
            {
                let mut bytes = data.to_vec();
                bytes[(offset - *start) as usize] ^= bits;
                *data = bytes.into();
            }
        }
    }

    pub(super) fn unsynced(&self) -> usize {
        self.pending.iter().filter(|p| !p.durable).count()
    }
}

/// A part of a change: of a write any set of its sectors, of a range one end of it.
fn tear(content: &mut Content, change: &Change, odds: Odds, rng: &mut fastrand::Rng) {
    match change {
        Change::Write { offset, data } => {
            let end = offset + data.len() as u64;
            // The length may be that of before, while all the bytes are lost with it.
            if content.len() < end && rng.bool() {
                content.apply(&Change::Grow(rng.u64(content.len()..=end)));
            }
            let len_before = content.len();
            let mut at = *offset;
            while at < end {
                let stop = ((at / SECTOR + 1) * SECTOR).min(end);
                // Without odds of its own a torn write would be whole at the extremes.
                if rng.f64() < odds.keep * 0.8 + 0.1 {
                    content.write(at, &data[(at - offset) as usize..(stop - offset) as usize]);
                }
                at = stop;
            }
            if rng.bool() && content.len() > len_before {
                content.apply(&Change::SetLen(len_before));
            }
        }
        Change::Zero { offset, len } | Change::Punch { offset, len } => {
            let part = rng.u64(..=*len / SECTOR) * SECTOR;
            let (offset, len) = if rng.bool() { (*offset, part) } else { (offset + part, len - part) };
            content.apply(&match change {
                Change::Zero { .. } => Change::Zero { offset, len },
                _ => Change::Punch { offset, len },
            });
        }
        whole => {
            if odds.kept(rng) {
                content.apply(whole);
            }
        }
    }
}
