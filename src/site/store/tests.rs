use super::*;
use crate::link::{Fingerprint, Peer};
use crate::seam::{SystemClock, SystemEntropy};

fn create(dir: &Path, journal: Option<&Path>) -> Result<Store> {
    Store::create(dir, journal, "london", &SystemClock, &SystemEntropy)
}

fn open(dir: &Path) -> Result<Store> {
    open_as(dir, Moved::Unsaid, None)
}

fn open_as(dir: &Path, moved: Moved, journal: Option<&Path>) -> Result<Store> {
    Store::open(dir, OpenFor::Writing, moved, journal, &SystemEntropy)
}

fn name<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => panic!("wasn't refused"),
        Err(error) => error.name().unwrap_or_else(|| panic!("no name: {error}")),
    }
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").args(["-a"]).arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn made_locked_opened_again() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().join("a/store");
    assert_eq!(open(&dir).err().unwrap().kind(), Kind::NotFound);
    let mut store = create(&dir, None).unwrap();
    let (id, key) = (store.id(), store.identity().unwrap().fingerprint());
    assert_eq!(store.settings().unwrap().name, "london");
    assert!(!store.probe().unwrap().filesystem.is_empty());
    assert_eq!(name(open(&dir)), "store-in-use");
    assert_eq!(open(&dir).err().unwrap().kind(), Kind::Busy);
    assert_eq!(name(create(&dir, None)), "store-exists");
    let reader = Store::open(&dir, OpenFor::Reading, Moved::Unsaid, None, &SystemEntropy).unwrap();
    assert!(reader.beside_writer());
    drop((store, reader));
    let reader = Store::open(&dir, OpenFor::Reading, Moved::Unsaid, None, &SystemEntropy).unwrap();
    assert!(!reader.beside_writer());
    assert_eq!(name(open(&dir)), "store-in-use", "a tool reads");
    drop(reader);
    let again = open(&dir).unwrap();
    assert_eq!((again.id(), again.identity().unwrap().fingerprint()), (id, key));
    let mut settings = again.settings().unwrap();
    settings.listen = Some("[::]:8084".into());
    again.set_settings(&settings).unwrap();
    assert_eq!(again.settings().unwrap(), settings);
}

#[test]
fn only_an_empty_directory_becomes_a_store() {
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("thesis.tex"), "x").unwrap();
    assert_eq!(name(create(room.path(), None)), "not-empty");
    assert_eq!(name(open(room.path())), "no-store");
    std::fs::remove_file(room.path().join("thesis.tex")).unwrap();
    // What a crash while making one leaves.
    std::fs::create_dir_all(room.path().join("site/peers")).unwrap();
    Identity::create(&room.path().join("site")).unwrap();
    std::fs::write(room.path().join("store.json.new"), "torn").unwrap();
    create(room.path(), None).unwrap();
    let journal = tempfile::tempdir().unwrap();
    std::fs::write(journal.path().join("foreign"), "x").unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(name(create(dir.path(), Some(journal.path()))), "not-empty");
    assert_eq!(name(open(dir.path())), "no-store", "nothing was made");
    std::fs::create_dir_all(dir.path().join("groups/0123")).unwrap();
    assert_eq!(
        name(create(dir.path(), None)),
        "not-empty",
        "a store that lost its store.json isn't overwritten"
    );
    assert!(Store::create(room.path(), None, "a b", &SystemClock, &SystemEntropy).is_err());
}

#[test]
fn a_moved_store_keeps_its_identity_and_a_copy_takes_a_new_one() {
    let room = tempfile::tempdir().unwrap();
    let (original, copied) = (room.path().join("original"), room.path().join("copy"));
    let store = create(&original, None).unwrap();
    let (id, key) = (store.id(), store.identity().unwrap().fingerprint());
    let fingerprint = Fingerprint([1; 32]);
    let peer = Peer { store: StoreId([1; 16]), name: "b".into(), fingerprint, addresses: vec![], port: 1 };
    store.catalog().put(&peer).unwrap();
    drop(store);
    copy(&original, &copied);
    assert_eq!(name(open(&copied)), "store-moved");
    assert!(open(&original).is_ok());
    let reader = Store::open(&copied, OpenFor::Reading, Moved::Unsaid, None, &SystemEntropy).unwrap();
    assert_eq!(reader.id(), id, "reading a copy needs no decision");
    drop(reader);
    let as_copy = open_as(&copied, Moved::Copied, None).unwrap();
    assert_ne!(as_copy.id(), id);
    assert_eq!(as_copy.file().former, [id]);
    assert_ne!(as_copy.identity().unwrap().fingerprint(), key);
    assert_eq!(as_copy.catalog().list::<Peer>().unwrap().0, []);
    let new = as_copy.id();
    drop(as_copy);
    assert_eq!(open(&copied).unwrap().id(), new, "the decision is kept");
    assert_eq!(open_as(&copied, Moved::Copied, None).unwrap().id(), new, "and isn't taken twice");
    // Moved: the inode changes on another filesystem; here a copy whose original is gone.
    let moved = room.path().join("moved");
    copy(&original, &moved);
    std::fs::remove_dir_all(&original).unwrap();
    let as_moved = open_as(&moved, Moved::Moved, None).unwrap();
    assert_eq!((as_moved.id(), as_moved.identity().unwrap().fingerprint()), (id, key));
    assert_eq!(as_moved.catalog().list::<Peer>().unwrap().0, [peer]);
    // Too late: by the other word it has become the store that it was copied from.
    drop(as_moved);
    let late = open_as(&moved, Moved::Copied, None).err().unwrap();
    assert_eq!(late.kind(), Kind::Invalid, "{late}");
    let as_moved = open(&moved).unwrap();
    // A rename keeps inode and birth time: nothing to say.
    drop(as_moved);
    std::fs::rename(&moved, room.path().join("renamed")).unwrap();
    assert_eq!(open(&room.path().join("renamed")).unwrap().id(), id);
}

#[test]
fn a_separate_journal_directory_is_the_right_one_or_refused() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let store = create(&at("a"), Some(&at("ja"))).unwrap();
    store.journal().make_dir(Path::new("groups")).unwrap();
    assert!(at("ja/groups").is_dir() && store.storage().exists(Path::new("groups")).unwrap());
    assert_eq!(name(create(&at("c"), Some(&at("ja")))), "store-exists");
    drop(store);
    drop(create(&at("b"), Some(&at("jb"))).unwrap());
    drop(open(&at("a")).unwrap());
    assert_eq!(name(open_as(&at("a"), Moved::Unsaid, Some(&at("jb")))), "wrong-journal");
    assert_eq!(name(open_as(&at("a"), Moved::Unsaid, Some(&at("nothing")))), "wrong-journal");
    std::fs::rename(at("ja"), at("elsewhere")).unwrap();
    assert_eq!(name(open(&at("a"))), "wrong-journal");
    drop(open_as(&at("a"), Moved::Unsaid, Some(&at("elsewhere"))).unwrap());
    drop(open(&at("a")).unwrap());
    // A copy of the store alone must not use the original's journals.
    copy(&at("a"), &at("copy"));
    assert_eq!(name(open_as(&at("copy"), Moved::Copied, None)), "journal-not-copied");
    copy(&at("elsewhere"), &at("jcopy"));
    let as_copy = open_as(&at("copy"), Moved::Copied, Some(&at("jcopy"))).unwrap();
    assert_ne!(as_copy.id(), open(&at("a")).unwrap().id());
    drop(as_copy);
    drop(open(&at("copy")).unwrap());
    assert_eq!(name(open_as(&at("copy"), Moved::Unsaid, Some(&at("elsewhere")))), "wrong-journal");
    assert_eq!(name(open_as(&at("a"), Moved::Unsaid, Some(&at("jcopy")))), "wrong-journal");
    drop(create(&at("plain"), None).unwrap());
    assert_eq!(name(open_as(&at("plain"), Moved::Unsaid, Some(&at("jb")))), "wrong-journal");
}

#[test]
fn features_decide_what_may_be_done() {
    let room = tempfile::tempdir().unwrap();
    let store = create(room.path(), None).unwrap();
    let (catalog, file) = (store.catalog().clone(), store.file().clone());
    drop(store);
    let read = || Store::open(room.path(), OpenFor::Reading, Moved::Unsaid, None, &SystemEntropy);
    let with = |edit: &dyn Fn(&mut StoreFile)| {
        let mut changed = file.clone();
        edit(&mut changed);
        catalog.put_at(Path::new(STORE_FILE), &changed).unwrap();
    };
    with(&|f| f.features.compatible.push("colour".into()));
    assert!(read().is_ok());
    assert!(open(room.path()).is_ok());
    with(&|f| f.features.read_only_compatible.push("cursors".into()));
    assert!(read().is_ok());
    assert_eq!(name(open(room.path())), "unknown-features");
    with(&|f| f.features.incompatible.push("sealed".into()));
    assert_eq!((name(read()), name(open(room.path()))), ("unknown-features", "unknown-features"));
    let said = open(room.path()).err().unwrap().to_string();
    assert!(said.contains("sealed"), "{said}");
    with(&|f| f.format = FORMAT + 1);
    assert_eq!((name(read()), name(open(room.path()))), ("unknown-features", "unknown-features"));
    with(&|_| {});
    assert!(open(room.path()).is_ok());
    std::fs::write(room.path().join(STORE_FILE), "{}").unwrap();
    assert_eq!(open(room.path()).err().unwrap().kind(), Kind::Damaged);
}
