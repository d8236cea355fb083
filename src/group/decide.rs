//! Decisions at this site: the group goes on from a moment, newest or older, in an epoch of its own.

use crate::group::Group;
use crate::group::epoch::Begin;
use crate::group::queue::Gate;
use crate::history::{RowKind, common_by_rows};
use crate::vocab::{EpochId, Error, Kind, LogPlace, Moment, Pos, Result, Seq, Token};

impl Group {
    /// Closes the gate and waits until what had entered is appended. Nothing enters after it (G3).
    pub fn freeze(&self, gate: Gate) {
        let mut queue = self.queue.lock();
        queue.set_gate(gate);
        while queue.appending {
            self.idle.wait(&mut queue);
        }
    }

    /// Opens the gate for writers; an epoch is begun before their first record.
    pub fn thaw(&self) {
        self.queue.lock().set_gate(Gate::Open { begun: false });
    }

    /// Who may write now.
    pub fn gate(&self) -> Gate {
        self.queue.lock().gate
    }

    /// Who may write now, or will once a failure is mended.
    pub(crate) fn wanted_gate(&self) -> Gate {
        self.queue.lock().wanted()
    }

    /// Goes on from `moment` as a writer: the row is the decision, and it is durable when this returns. What lay
    /// behind the moment is a branch from then on. Disks are writable at once, whatever their size.
    ///
    /// # Errors
    /// `NotFound` if the moment isn't held or the base has passed it. The gate is as before then.
    pub fn decide(
        &self,
        moment: Moment,
        kind: RowKind,
        op: Token,
        overrules: Option<EpochId>,
    ) -> Result<Moment> {
        let _work = self.work.lock();
        let before = self.wanted_gate();
        self.freeze(Gate::Frozen);
        let decided = self.decide_frozen(moment, kind, op, overrules);
        self.queue.lock().set_gate(if decided.is_ok() { Gate::Open { begun: true } } else { before });
        decided
    }

    fn decide_frozen(
        &self,
        moment: Moment,
        kind: RowKind,
        op: Token,
        overrules: Option<EpochId>,
    ) -> Result<Moment> {
        self.log.sync()?;
        let view = self.open_moment(moment)?;
        let value = self.chain_value(view.moment)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the records of {moment} are no longer held"))
        })?;
        let mut core = self.core.lock();
        let fork = Some((view.moment, value));
        let begin = Begin { fork, kind, op, overrules, names: Some(view.names) };
        let epoch = self.begin_epoch(&mut core, begin)?;
        Ok(Moment { epoch, seq: view.moment.seq.next() })
    }

    /// The place behind a moment: where a base stands that has everything up to it.
    pub fn place_behind(&self, moment: Moment) -> Result<LogPlace> {
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        let path = self.path_of(&core, moment)?;
        let last = path.intervals().last();
        last.map(|i| LogPlace { log: i.log, pos: i.to })
            .ok_or_else(|| Error::new(Kind::NotFound, format!("{moment} is before every record")))
    }

    /// The first record of the live line that a site lacks which stands at `held`; none: it has all of them.
    ///
    /// # Errors
    /// `NotFound` if `held` is of an epoch that isn't known here.
    pub fn first_lacking(&self, held: Moment) -> Result<Option<Moment>> {
        let head = self.head();
        let core = self.core.lock();
        let seq = common_by_rows(&core.table, head, held)?.map_or(Seq(1), |common| common.seq.next());
        Ok(if seq > head.seq { None } else { core.table.line(head)?.at(seq) })
    }

    /// Bytes of the journal on the live path behind a moment, and whether these are all. Where the moment isn't held any
    /// more, or isn't on the path, they are what is held of the path.
    ///
    /// # Errors
    /// Reading the spans.
    pub fn bytes_behind(&self, moment: Moment) -> Result<(u64, bool)> {
        let head = self.head();
        if moment == head {
            return Ok((0, true));
        }
        let from = match self.place_behind(moment) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e),
            place => place.ok(),
        };
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        let path = self.path_of(&core, head)?;
        let whole = path.intervals();
        let found = from.and_then(|place| {
            let at =
                whole.iter().position(|i| i.log == place.log && i.from <= place.pos && place.pos <= i.to)?;
            Some((at, place.pos))
        });
        let (first, begin) = found.unwrap_or((0, Pos(0)));
        let held = self.log.segments().first().map_or(Pos(0), |segment| segment.start);
        let bytes = whole.iter().enumerate().skip(first).map(|(at, i)| {
            let from = if at == first { i.from.max(begin) } else { i.from };
            let from = if i.log == self.log.id() { from.max(held) } else { from };
            i.to.0.saturating_sub(from.0)
        });
        Ok((bytes.sum(), found.is_some()))
    }
}
