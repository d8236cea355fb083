//! Pages in `docs/` that are printed from the code are what the code prints.

use standbyfs::protection::{Refusal, refusals_page, states_page};
use std::path::Path;

/// Compares a page with what the code prints; with `STANDBYFS_REGENERATE` set, writes it first.
fn same_as_page(path: &str, printed: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("STANDBYFS_REGENERATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, printed).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == printed,
        "{path} is not what the code prints. Write it anew with: \
         STANDBYFS_REGENERATE=1 cargo test --test all pages"
    );
}

#[test]
fn states() {
    same_as_page("docs/states.md", &states_page());
}

/// R197: no name lacks its entry, no entry lacks a name, and each entry says all four things.
#[test]
fn each_refusal_has_one_entry() {
    same_as_page("docs/refusals.md", &refusals_page());
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/refusals.md")).unwrap();
    let mut entries = page.split("\n## ");
    entries.next();
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.lines().next().unwrap();
        for part in ["- Message: ", "- Cause: ", "- Remedy: ", "- Errno: ", " Retry: "] {
            assert!(entry.contains(part), "{name} lacks {part}");
        }
        names.push(name);
    }
    assert_eq!(names, Refusal::ALL.iter().map(|r| r.name()).collect::<Vec<_>>());
}

/// A name that the sources give to a refusal is one of the list, so that it has its entry too.
#[test]
fn no_refusal_is_made_up_elsewhere() {
    let mut found = 0;
    for file in super::layers::sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        for before in ["refused(\"", ".named(\""] {
            for rest in text.split(before).skip(1) {
                let name = rest.split('"').next().unwrap();
                found += 1;
                assert!(name.parse::<Refusal>().is_ok(), "{}: `{name}` is no refusal", file.display());
            }
        }
    }
    assert!(found > 5, "{found}");
}
