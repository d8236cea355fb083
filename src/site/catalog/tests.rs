//! C1 to C3, with a power loss or the death of the process at each operation.

use super::*;
use crate::seam::{SimDevice, SimStorage};
use serde::Deserialize;

#[derive(Serialize, Deserialize, PartialEq, Eq, Debug, Clone)]
struct Thing {
    name: String,
    content: Vec<u32>,
}

impl Object for Thing {
    const FOLDER: &'static str = "catalog/things";
    fn key(&self) -> String {
        self.name.clone()
    }
}

fn thing(name: &str, seed: u32) -> Thing {
    Thing { name: name.into(), content: (0..400 + seed).map(|n| n * seed).collect() }
}

fn catalog(device: &SimDevice) -> Catalog {
    let storage: SimStorage = device.storage("store");
    Catalog::new(Arc::new(storage))
}

/// What a run of replacements and deletions leaves, whichever operation the crash hits. `replace` puts an object.
/// Returns the seeds and points at which an object was lost, torn or not the newest that was acknowledged.
fn violations(
    crash: impl Fn(&SimDevice, u64),
    replace: impl Fn(&Catalog, &Thing) -> Result<()>,
) -> Vec<String> {
    let full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    let mut wrong = Vec::new();
    for seed in 0..if full { 400 } else { 12 } {
        for at in 1.. {
            let device = SimDevice::new(seed);
            let books = catalog(&device);
            replace(&books, &thing("a", 1)).unwrap();
            crash(&device, at);
            let steps = [Some(2), Some(3), None, Some(4)];
            let (mut done, mut begun) = (Some(1), Some(1));
            for step in steps {
                begun = step;
                let result = match step {
                    Some(version) => replace(&books, &thing("a", version)),
                    None => books.delete::<Thing>("a").map(|_| ()),
                };
                if result.is_err() {
                    break;
                }
                done = step;
            }
            let crashed = !device.crashed_in().is_empty();
            device.power_loss();
            device.power_on();
            let allowed = [done, begun].map(|v| v.map(|v| thing("a", v)));
            match catalog(&device).get::<Thing>("a") {
                Ok(found) if allowed.contains(&found) => {}
                other => wrong.push(format!("seed {seed}, operation {at}: {done:?}, {begun:?}: {other:?}")),
            }
            let again = catalog(&device);
            again.put(&thing("a", 9)).unwrap();
            assert_eq!(again.list::<Thing>().unwrap().0, [thing("a", 9)], "seed {seed}, operation {at}");
            if !crashed {
                break;
            }
        }
    }
    wrong
}

#[test]
fn a_power_loss_at_any_operation_leaves_the_old_or_the_new() {
    let wrong = violations(SimDevice::power_loss_at, Catalog::put::<Thing>);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn so_does_the_death_of_the_process() {
    let wrong = violations(SimDevice::kill_at, Catalog::put::<Thing>);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The controls: without the sync of the file, without that of the directory, or written in place, objects are lost.
#[test]
fn each_rule_left_out_is_caught() {
    let path = Path::new("catalog/things/a.json");
    let careless = |sync_file: bool, sync_dir: bool, in_place: bool| {
        move |catalog: &Catalog, thing: &Thing| {
            let storage = catalog.storage();
            catalog.make_folder(Path::new("catalog/things"))?;
            let temporary = if in_place { path } else { Path::new("catalog/things/a.json.new") };
            let _ = if in_place { Ok(()) } else { storage.remove(temporary) };
            let file = storage
                .open(temporary, Access::Cached)
                .or_else(|_| storage.create(temporary, Access::Cached))?;
            file.set_len(0)?;
            file.write_all_at(&encode(thing)?, 0)?;
            if sync_file {
                file.sync()?;
            }
            if !in_place {
                storage.rename(temporary, path)?;
            }
            if sync_dir { storage.sync_dir(Path::new("catalog/things")) } else { Ok(()) }
        }
    };
    assert!(violations(SimDevice::power_loss_at, careless(true, true, false)).is_empty());
    for (what, file, dir, place) in
        [("file", false, true, false), ("directory", true, false, false), ("place", true, true, true)]
    {
        assert!(!violations(SimDevice::power_loss_at, careless(file, dir, place)).is_empty(), "{what}");
    }
}

/// C2: no single turned bit, and no cut, passes.
#[test]
fn damage_is_found_and_named() {
    let bytes = encode(&thing("a", 1)).unwrap();
    assert_eq!(decode::<Thing>(&bytes).unwrap(), thing("a", 1));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode::<Thing>(&bad).unwrap_err().kind(), Kind::Damaged, "bit {bit}");
    }
    for cut in 0..bytes.len() {
        assert!(decode::<Thing>(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let device = SimDevice::new(1);
    let books = catalog(&device);
    books.put(&thing("a", 1)).unwrap();
    books.put(&thing("b", 1)).unwrap();
    device.flip("store/catalog/things/a.json", 30).unwrap();
    let (good, damaged) = books.list::<Thing>().unwrap();
    assert_eq!(good, [thing("b", 1)]);
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].to_string().contains("catalog/things/a.json"), "{}", damaged[0]);
}

#[test]
fn put_get_list_delete() {
    let books = catalog(&SimDevice::new(1));
    assert_eq!(books.get::<Thing>("a").unwrap(), None);
    assert!(!books.delete::<Thing>("a").unwrap());
    assert_eq!(books.list::<Thing>().unwrap().0, []);
    books.put(&thing("b", 1)).unwrap();
    books.put(&thing("a", 1)).unwrap();
    books.put(&thing("a", 2)).unwrap();
    assert_eq!(books.list::<Thing>().unwrap().0, [thing("a", 2), thing("b", 1)]);
    assert!(books.delete::<Thing>("b").unwrap());
    assert_eq!(books.list::<Thing>().unwrap().0, [thing("a", 2)]);
    assert!(books.get::<Thing>("../a").is_err() && books.put(&thing("", 1)).is_err());
}
