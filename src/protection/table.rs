//! States and commands: which command is accepted in which state, and by which name it is refused elsewhere.
//!
//! 1. Every cell of rows × columns is filled: what isn't accepted is refused by a name, with a remedy.
//! 2. The table is data. `docs/states.md` is printed from it, so the page can't differ from what is done.
//! 3. A forced cell is accepted only with both the word `force` and a confirmation (checked by the grammar's users).

use super::{Column, Refusal, State};

/// What a command meets in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// Accepted.
    Yes,
    /// Accepted only with `force` and `confirm=`.
    Force,
    /// Accepted only where the line names a moment; the bare `latest` is refused by this name.
    Named(Refusal),
    /// Refused.
    No(Refusal),
}

/// A row of the table: states in which the same commands are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The states.
    pub states: &'static [State],
    /// As the pages name them.
    pub title: &'static str,
    /// One cell for each column, in the order of [`Column::ALL`].
    pub cells: [Cell; 15],
}

const YES: Cell = Cell::Yes;
const FORCE: Cell = Cell::Force;
const RU_NAMED: Cell = Cell::Named(Refusal::ResyncUnfinished);
const AA: Cell = Cell::No(Refusal::AlreadyActive);
const AP: Cell = Cell::No(Refusal::AlreadyProtected);
const BZ: Cell = Cell::No(Refusal::Busy);
const CM: Cell = Cell::No(Refusal::AlreadyCommitted);
const FE: Cell = Cell::No(Refusal::Fenced);
const IR: Cell = Cell::No(Refusal::InitialReplicationUnfinished);
const NA: Cell = Cell::No(Refusal::NotProtected);
const NC: Cell = Cell::No(Refusal::NotCommitted);
const NF: Cell = Cell::No(Refusal::NotFailedOver);
const NJ: Cell = Cell::No(Refusal::NoJob);
const NX: Cell = Cell::No(Refusal::NothingToResolve);
const OR: Cell = Cell::No(Refusal::Orphaned);
const RF: Cell = Cell::No(Refusal::ReprotectFirst);
const RU: Cell = Cell::No(Refusal::ResyncUnfinished);
const RW: Cell = Cell::No(Refusal::Rewound);
const SB: Cell = Cell::No(Refusal::SplitBrain);
const UR: Cell = Cell::No(Refusal::UseReprotect);
const WS: Cell = Cell::No(Refusal::WrongSite);

const fn row(states: &'static [State], title: &'static str, cells: [Cell; 15]) -> Row {
    Row { states, title, cells }
}

/// The table. Columns: protect, unprotect, pause, resync, point, test, failover, planned, change, rollback, commit,
/// reprotect, migrate, resolve, cancel.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(&[State::Unprotected], "unprotected",
        [YES, NA, NA, NA, NA, NA, NA, NA, NF, NF, NF, NA, NF, NX, NJ]),
    row(&[State::InitialReplication], "initial-replication, source",
        [AP, YES, YES, BZ, IR, IR, AA, AA, NF, NF, NF, AP, NF, NX, YES]),
    row(&[State::Protected, State::ResyncRequired], "protected or resync-required, source",
        [AP, YES, YES, YES, YES, YES, AA, AA, NF, NF, NF, AP, NF, NX, NJ]),
    row(&[State::Resyncing], "resyncing, source",
        [AP, YES, YES, BZ, YES, YES, AA, AA, NF, NF, NF, AP, NF, NX, YES]),
    row(&[State::HandingOver], "handing-over, source, in doubt",
        [BZ, BZ, BZ, BZ, BZ, BZ, FORCE, BZ, NF, NF, NF, BZ, NF, NX, WS]),
    row(&[State::Fenced], "fenced",
        [FE, FORCE, FE, FE, FE, YES, FORCE, RF, WS, WS, WS, WS, WS, NX, NJ]),
    row(&[State::SplitBrain], "split-brain, writable",
        [SB, YES, SB, SB, YES, YES, AA, SB, SB, YES, SB, SB, SB, FORCE, NJ]),
    row(&[State::Rewound], "rewound",
        [RW, FORCE, RW, RW, RW, YES, FORCE, RW, NF, NF, NF, RW, NF, FORCE, NJ]),
    row(&[State::FailedOver], "failed-over",
        [UR, YES, NA, NA, YES, YES, AA, AA, YES, YES, YES, NC, YES, NX, NJ]),
    row(&[State::Committed], "committed",
        [UR, YES, NA, NA, YES, YES, AA, AA, CM, CM, CM, YES, YES, NX, NJ]),
    row(&[State::Reprotecting], "reprotecting, writer",
        [BZ, YES, YES, BZ, YES, YES, AA, AA, CM, CM, CM, BZ, BZ, NX, YES]),
    row(&[State::Receiving], "receiving, no image yet",
        [WS, FORCE, WS, WS, IR, IR, IR, IR, NF, NF, NF, WS, NF, NX, WS]),
    row(&[State::Standby], "standby",
        [AP, FORCE, WS, WS, YES, YES, YES, YES, NF, NF, NF, AP, NF, NX, NJ]),
    row(&[State::ResyncingTarget], "resyncing, older image whole",
        [AP, FORCE, WS, WS, RU, YES, RU_NAMED, RU, NF, NF, NF, BZ, NF, NX, WS]),
    row(&[State::FailingOver], "failing-over",
        [BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, BZ, NX, YES]),
    row(&[State::Orphaned], "orphaned",
        [OR, FORCE, OR, OR, OR, YES, FORCE, OR, NF, NF, NF, OR, NF, NX, NJ]),
];

/// What `column` meets in `state`. A state that were in no row would be refused `busy`; a test shows there is none.
pub fn cell(state: State, column: Column) -> Cell {
    let at = Column::ALL.iter().position(|c| *c == column);
    TABLE
        .iter()
        .find(|row| row.states.contains(&state))
        .and_then(|row| at.and_then(|at| row.cells.get(at)))
        .copied()
        .unwrap_or(Cell::No(Refusal::Busy))
}

/// What a command line brings that the table asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Brings {
    /// The word `force`.
    pub force: bool,
    /// Names a moment; `latest-processed` counts as one, the bare `latest` doesn't.
    pub names_moment: bool,
    /// The migration of this group was completed here or at the peer.
    pub migrated: bool,
}

/// Whether the table accepts, and if not by which name it refuses.
pub fn admit(state: State, column: Column, brings: Brings) -> Result<(), Refusal> {
    match cell(state, column) {
        Cell::Yes => Ok(()),
        Cell::Force if brings.force => Ok(()),
        Cell::Force => Err(Refusal::ForceNeeded),
        Cell::Named(_) if brings.names_moment => Ok(()),
        // A completed migration is the better reason: there is no protection any more because of it.
        Cell::No(Refusal::NotProtected | Refusal::Orphaned)
            if brings.migrated && matches!(column, Column::Reprotect | Column::Planned) =>
        {
            Err(Refusal::Migrated)
        }
        Cell::Named(refusal) | Cell::No(refusal) => Err(refusal),
    }
}

/// The page `docs/states.md`.
pub fn page() -> String {
    let mut out = String::from(
        "# States and commands\n\n\
         Printed from the code. To write it anew: `STANDBYFS_REGENERATE=1 cargo test --test all pages`.\n\n\
         `+` accepted, `!` only with `force` and `confirm=<name>`, `m` only where the line names a moment (a bare \
         `latest` is refused), else the code of the refusal below. A failover, in every form, is typed where the \
         VM shall run.\n\n|state|",
    );
    Column::ALL.iter().for_each(|c| out.push_str(&format!("{c}|")));
    out.push_str(&format!("\n|{}\n", "---|".repeat(Column::ALL.len() + 1)));
    for row in TABLE {
        let cells: Vec<&str> = row
            .cells
            .iter()
            .map(|cell| match cell {
                Cell::Yes => "+",
                Cell::Force => "!",
                Cell::Named(_) => "m",
                Cell::No(refusal) => refusal.code().unwrap_or(refusal.name()),
            })
            .collect();
        out.push_str(&format!("|{}|{}|\n", row.title, cells.join("|")));
    }
    out.push_str("\n## Codes\n\n|code|refusal|\n|---|---|\n");
    for refusal in Refusal::ALL {
        if let Some(code) = refusal.code() {
            out.push_str(&format!("|{code}|[{refusal}](refusals.md#{refusal})|\n"));
        }
    }
    out.push_str("\n## States\n\n|state|meaning|guest writes|\n|---|---|---|\n");
    for state in State::ALL {
        let writes = match state {
            State::Rewound => "if it served already",
            state if state.writable() => "yes",
            _ => "no",
        };
        out.push_str(&format!("|{state}|{}|{writes}|\n", state.says()));
    }
    out.push_str(
        "\n`paused`, `testing` and the reasons in `health` are shown beside the state and don't change it.\n",
    );
    out
}

#[cfg(test)]
mod tests;
