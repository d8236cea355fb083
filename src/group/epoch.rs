//! Epochs: each opening that writes, and each decision, begins one.
//!
//! E3. What an epoch forks from is durable before its row; the row is durable before the epoch's next record.
//! E4. Its line in the history is written after; if that fails, before the next checkpoint (K7 of `checkpoint`), or
//!     from the journal at the next opening. The epoch has begun all the same, and that is what its caller hears: who
//!     heard of a failure would take back a decision that stands, or begin one epoch after the other.
//! E5. If what follows from a row that is in the log can't be made known here, the group stops: only an opening
//!     makes one whole of both.

use crate::group::Group;
use crate::group::group::Core;
use crate::group::left_out;
use crate::group::line::between;
use crate::group::names::Names;
use crate::group::queue::Gate;
use crate::history::{ChainValue, Event, Row, RowKind};
use crate::journal::NewRecord;
use crate::seam::Durability;
use crate::vocab::{DiskOrdinal, EpochId, Error, Kind, Moment, Pos, RecordKind, Result, Token};

/// What an epoch is begun for.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    pub(crate) fork: Option<(Moment, ChainValue)>,
    pub(crate) kind: RowKind,
    pub(crate) op: Token,
    pub(crate) overrules: Option<EpochId>,
    /// Names and sizes where it begins, if that is another moment than where the queue stands.
    pub(crate) names: Option<Names>,
}

impl Group {
    /// The epoch of this opening, before its first record.
    pub(crate) fn begin_opening(&self) -> Result<()> {
        let mut core = self.core.lock();
        let (head, end) = self.log.head();
        let at = self.follow_chain(end)?;
        if at.moment != head {
            return Err(Error::new(
                Kind::Damaged,
                format!("the chain ends at {}, the log at {head}", at.moment),
            ));
        }
        // A decision was taken back: what is opened goes on where the head stands, not where the log ends.
        let fork = match self.standing_head(&core) {
            None => Some((head, at.value)),
            Some(standing) => {
                let gone = || Error::new(Kind::Damaged, format!("the chain value of {standing} is gone"));
                Some((standing, self.chain_value(standing)?.ok_or_else(gone)?))
            }
        };
        self.begin_epoch(
            &mut core,
            Begin { fork, kind: RowKind::Open, op: Token::NONE, overrules: None, names: None },
        )?;
        // G3: whoever closed the gate meanwhile waits for this append only.
        let mut queue = self.queue.lock();
        if queue.gate == (Gate::Open { begun: false }) || left_out("G3: a gate that was closed stays closed")
        {
            queue.gate = Gate::Open { begun: true };
        }
        Ok(())
    }

    /// Begins an epoch. The queue must be idle, or the caller its appender.
    pub(crate) fn begin_epoch(&self, core: &mut Core, begin: Begin) -> Result<EpochId> {
        let ((before, _), closed) = (self.entered(), core.closed);
        let begun = self.write_row(core, begin);
        if begun.is_err() && self.entered().0 == before {
            // No room, for instance. What comes next, once a failure is mended, belongs to the epoch before.
            self.log.go_back((before.epoch, before.seq.next()));
            core.closed = closed;
            self.refresh_live(core)?;
        }
        begun
    }

    fn write_row(&self, core: &mut Core, begin: Begin) -> Result<EpochId> {
        let epoch = EpochId(self.parts.entropy.random_128());
        let wall = self.parts.clock.wall_ns();
        let fork = begin.fork.map(|(m, v)| core.table.norm(m).map(|m| (m, v))).transpose()?;
        let row = Row {
            epoch,
            parent: fork.map(|(m, _)| m.epoch),
            fork_seq: fork.map_or(Default::default(), |(m, _)| m.seq),
            fork_chain: fork.map_or(ChainValue::ZERO, |(_, v)| v),
            site: self.parts.store_id,
            kind: begin.kind,
            overrules: begin.overrules,
            op: begin.op,
            time_ns: wall,
        };
        self.close_line(core)?;
        self.log.begin_epoch(epoch, row.first_seq())?;
        let payload = row.to_json();
        let record = NewRecord {
            disk: DiskOrdinal(0),
            kind: RecordKind::Epoch,
            flags: 0,
            offset: 0,
            length: payload.len() as u64,
            payload: &payload,
            wall,
        };
        let batches = self.log.append(&[record], self.parts.clock.boot_ns(), Durability::Durable)?;
        self.enter_index(&[record], &batches)?;
        if let Some((moment, value)) = fork {
            self.keep_mark(moment, value);
        }
        self.row_entered(core, row, begin.names).inspect_err(|e| self.log.poison_torn(&e.to_string()))?;
        match self.record_owed(core) {
            Err(e) if self.is_left() || left_out("E4: an epoch has begun though its line failed") => Err(e),
            Err(e) => {
                tracing::warn!(group = %self.id().short(), "the history lacks the line of an epoch for now: {e}");
                Ok(epoch)
            }
            Ok(()) => Ok(epoch),
        }
    }

    /// E5: the row is in the log and in the index.
    fn row_entered(&self, core: &mut Core, row: Row, names: Option<Names>) -> Result<()> {
        core.table.insert(row.clone())?;
        self.owe(core, Event::Epoch { row, own: true });
        self.refresh_spans(core);
        self.find_parent_ends(core)?;
        between("the row is entered");
        if let Some(names) = names {
            self.queue.lock().names = names;
        }
        core.closed = false;
        self.refresh_line(core)
    }

    /// Remembers where each span leaves the one before it on its line, while that record is still held.
    pub(crate) fn find_parent_ends(&self, core: &mut Core) -> Result<()> {
        for at in 0..core.spans.0.len() {
            let span = &core.spans.0[at];
            if span.parent_end.is_some() || span.jump.is_some() || span.first_seq.0 <= 1 {
                continue;
            }
            let before = core
                .table
                .norm(Moment { epoch: span.epoch, seq: crate::vocab::Seq(span.first_seq.0 - 1) })?;
            let Some(parent) = core.spans.before(at, before) else { continue };
            let parent = &core.spans.0[parent];
            let end =
                if before.seq == parent.last_seq { parent.to } else { self.end_of(parent, before.seq)? };
            core.spans.0[at].parent_end = Some(end);
        }
        Ok(())
    }

    /// Brings the newest span up to what has been entered.
    pub(crate) fn refresh_spans(&self, core: &mut Core) {
        let (head, end) = self.entered();
        // A target without an image has a log and no moment yet.
        if head.epoch.is_none() {
            return;
        }
        let mut segments = self.log.segments();
        let jump = core.spans.0.last().and_then(|s| s.jump.as_ref());
        let begun = jump.map_or(Pos(0), |jump| jump.behind);
        segments.retain(|s| s.start < end && s.start >= begun);
        let Some(newest) = segments.last().filter(|s| s.epoch == head.epoch) else { return };
        match core.spans.0.last_mut() {
            Some(s)
                if s.log == self.log.id()
                    && s.epoch == head.epoch
                    && s.jump.is_none()
                    && head.seq >= s.last_seq =>
            {
                s.to = end;
                s.last_seq = head.seq;
            }
            last => {
                // Several segments may have come since: the span begins with the first of its run.
                let behind = last.filter(|s| s.log == self.log.id()).map_or(Pos(0), |s| s.to);
                let mut first = newest;
                for s in segments.iter().rev().skip(1) {
                    let empty = s.last_seq < s.first_seq;
                    let joins = s.epoch == head.epoch && (empty || s.last_seq.next() == first.first_seq);
                    if !joins || s.end <= behind {
                        break;
                    }
                    if !empty {
                        first = s;
                    }
                }
                if head.seq >= first.first_seq {
                    core.spans.extend(self.log.id(), head.epoch, first.start, end, first.first_seq, head.seq);
                }
            }
        }
    }
}
