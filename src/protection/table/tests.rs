use super::*;
use std::collections::BTreeMap;

/// The table a second time, as the specification writes it: two hands must agree. It differs in one cell: an orphan isn't
/// failed over to without `force`, the VM may run at the site that let it go.
const WRITTEN: &str = "\
unprotected|+|na|na|na|na|na|na|na|nf|nf|nf|na|nf|nx|nj
initial-replication|ap|+|+|bz|ir|ir|aa|aa|nf|nf|nf|ap|nf|nx|+
protected|ap|+|+|+|+|+|aa|aa|nf|nf|nf|ap|nf|nx|nj
resync-required|ap|+|+|+|+|+|aa|aa|nf|nf|nf|ap|nf|nx|nj
resyncing|ap|+|+|bz|+|+|aa|aa|nf|nf|nf|ap|nf|nx|+
handing-over|bz|bz|bz|bz|bz|bz|!|bz|nf|nf|nf|bz|nf|nx|ws
fenced|fe|!|fe|fe|fe|+|!|rf|ws|ws|ws|ws|ws|nx|nj
split-brain|sb|+|sb|sb|+|+|aa|sb|sb|+|sb|sb|sb|!|nj
rewound|rw|!|rw|rw|rw|+|!|rw|nf|nf|nf|rw|nf|!|nj
failed-over|ur|+|na|na|+|+|aa|aa|+|+|+|nc|+|nx|nj
committed|ur|+|na|na|+|+|aa|aa|cm|cm|cm|+|+|nx|nj
reprotecting|bz|+|+|bz|+|+|aa|aa|cm|cm|cm|bz|bz|nx|+
receiving|ws|!|ws|ws|ir|ir|ir|ir|nf|nf|nf|ws|nf|nx|ws
standby|ap|!|ws|ws|+|+|+|+|nf|nf|nf|ap|nf|nx|nj
resyncing-target|ap|!|ws|ws|ru|+|m|ru|nf|nf|nf|bz|nf|nx|ws
failing-over|bz|bz|bz|bz|bz|bz|bz|bz|bz|bz|bz|bz|bz|nx|+
orphaned|or|!|or|or|or|+|!|or|nf|nf|nf|or|nf|nx|nj";

#[test]
fn every_cell_is_as_specified() {
    let codes: BTreeMap<&str, Refusal> =
        Refusal::ALL.iter().filter_map(|r| r.code().map(|code| (code, *r))).collect();
    assert_eq!(codes.len(), 18);
    let mut states = Vec::new();
    for line in WRITTEN.lines() {
        let mut words = line.split('|');
        let state: State = words.next().unwrap().parse().unwrap();
        let cells: Vec<&str> = words.collect();
        assert_eq!(cells.len(), Column::ALL.len());
        for (column, word) in Column::ALL.iter().zip(cells) {
            let wanted = match word {
                "+" => Cell::Yes,
                "!" => Cell::Force,
                "m" => Cell::Named(Refusal::ResyncUnfinished),
                code => Cell::No(codes[code]),
            };
            assert_eq!(cell(state, *column), wanted, "{state} × {column}");
        }
        states.push(state);
    }
    assert_eq!(states, State::ALL, "each state once, in order");
}

#[test]
fn each_state_is_in_one_row_and_every_code_is_used() {
    for state in State::ALL {
        assert_eq!(TABLE.iter().filter(|row| row.states.contains(state)).count(), 1, "{state}");
    }
    for refusal in Refusal::ALL.iter().filter(|r| r.code().is_some()) {
        let used = TABLE.iter().flat_map(|row| row.cells).any(|c| c == Cell::No(*refusal));
        assert!(used, "{refusal} has a code and no cell");
    }
}

/// From every state a command leads out, with the peer gone: none waits for a site that may never come back.
#[test]
fn no_state_is_a_dead_end() {
    let ways = [
        Column::Protect,
        Column::Unprotect,
        Column::Failover,
        Column::Commit,
        Column::Rollback,
        Column::Cancel,
    ];
    for &state in State::ALL {
        let out = ways.iter().any(|&column| {
            admit(state, column, Brings { force: true, names_moment: true, migrated: false }).is_ok()
        });
        assert!(out, "{state}");
    }
}

#[test]
fn force_and_moments_are_asked_for() {
    let bare = Brings::default();
    let force = Brings { force: true, ..bare };
    let named = Brings { names_moment: true, ..bare };
    assert_eq!(admit(State::Fenced, Column::Failover, bare), Err(Refusal::ForceNeeded));
    assert_eq!(admit(State::Fenced, Column::Failover, named), Err(Refusal::ForceNeeded));
    assert_eq!(admit(State::Fenced, Column::Failover, force), Ok(()));
    assert_eq!(admit(State::ResyncingTarget, Column::Failover, force), Err(Refusal::ResyncUnfinished));
    assert_eq!(admit(State::ResyncingTarget, Column::Failover, named), Ok(()));
    // Force opens no cell that isn't marked.
    assert_eq!(admit(State::FailingOver, Column::Failover, force), Err(Refusal::Busy));
}

#[test]
fn a_completed_migration_is_named() {
    let migrated = Brings { migrated: true, ..Brings::default() };
    assert_eq!(admit(State::Unprotected, Column::Reprotect, migrated), Err(Refusal::Migrated));
    assert_eq!(admit(State::Orphaned, Column::Planned, migrated), Err(Refusal::Migrated));
    assert_eq!(admit(State::Unprotected, Column::Pause, migrated), Err(Refusal::NotProtected));
    assert_eq!(admit(State::Unprotected, Column::Protect, migrated), Ok(()));
}
