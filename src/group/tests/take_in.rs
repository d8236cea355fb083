//! An image that is taken in: whole at every instant, in one place or the other, whatever cuts it short.

use super::model::{id, parts, submit};
use super::space::{DISK, disk, write};
use crate::format::{AddPayload, FileKind};
use crate::group::line::BETWEEN;
use crate::group::{Group, ImportEnd, Op};
use crate::journal::LEFT_OUT;
use crate::seam::{Access, Class, Fault, SimDevice, Storage, TakeIn};
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind, Moment, Result, VmId};
use std::path::Path;
use std::sync::Arc;

const SIZE: u64 = 1 << 20;
const IMAGE: &str = "old.img";

fn add(disk: DiskOrdinal) -> AddPayload {
    AddPayload {
        vm: VmId([3; 16]),
        vm_name: "web01".into(),
        single: false,
        file: DiskId([disk.0 as u8 + 8; 16]),
        path: "b.raw.importing".into(),
        kind: FileKind::File,
        size: 0,
    }
}

fn pattern() -> Vec<u8> {
    (0..300_100_u32).map(|at| if at < 70_000 { 0 } else { (at / 512 % 250) as u8 + 1 }).collect()
}

/// A group with a disk that was written to, and an image outside of its store.
fn before(seed: u64) -> Result<(SimDevice, Arc<Group>)> {
    let device = SimDevice::new(seed);
    let outside = device.storage("");
    let image = outside.create(Path::new(IMAGE), Access::Cached)?;
    image.write_all_at(&pattern()[70_000..], 70_000)?;
    image.sync()?;
    outside.sync_dir(Path::new(""))?;
    let group = Group::create(parts(&device, 1), id())?;
    disk(&group, SIZE)?;
    (1..9).for_each(|tag| assert!(write(&group, tag).seq.0 > 0));
    group.checkpoint()?;
    Ok((device, group))
}

fn take(group: &Group) -> Result<DiskOrdinal> {
    group.take_in("b.raw", add, Path::new("/old.img"), TakeIn::Rename)
}

fn text(e: Error) -> String {
    e.to_string()
}

/// Whether the image is the disk; else it must be where it was. Either way it is whole.
fn found(device: &SimDevice, group: &Group) -> std::result::Result<bool, String> {
    let named = group.names_now(|names| {
        let file = names.find(VmId([3; 16]), "b.raw").map(|disk| (disk, names.files[&disk].size));
        (file, names.find(VmId([3; 16]), "b.raw.importing"))
    });
    let outside = device.storage("");
    let there = outside.exists(Path::new(IMAGE)).map_err(text)?;
    let want = pattern();
    let mut got = vec![9; want.len()];
    match named {
        (Some((disk, size)), None) if !there => {
            if size != want.len() as u64 {
                return Err(format!("{size} bytes instead of {}", want.len()));
            }
            group.read_head(disk, 0, &mut got).map_err(text)?;
        }
        (None, _) if there => {
            let image = outside.open(Path::new(IMAGE), Access::ReadOnly).map_err(text)?;
            image.read_at(&mut got, 0).map_err(text)?;
        }
        _ => return Err(format!("named {named:?}, where it was {there}")),
    }
    let mut block = [0; 4096];
    group.read_head(DISK, 5 * 4096, &mut block).map_err(text)?;
    if let Some(at) = (0..want.len()).find(|at| got[*at] != want[*at]) {
        return Err(format!("byte {at} is {} instead of {}, {named:?}", got[at], want[at]));
    }
    if block != [5; 4096] {
        return Err("the other disk has other bytes".into());
    }
    Ok(!there)
}

/// What upkeep and guests do afterwards changes nothing of it.
fn goes_on(device: &SimDevice, group: &Arc<Group>) -> std::result::Result<bool, String> {
    group.settle_import().map_err(text)?;
    let first = found(device, group)?;
    group.round(None).map_err(text)?;
    let second = found(device, group)?;
    if first != second || group.settle_import().map_err(text)?.is_some() {
        return Err("it doesn't stay ended".into());
    }
    if !first {
        // What was withdrawn can be done again.
        if group.names_now(|names| names.find(VmId([3; 16]), "b.raw.importing").is_none()) {
            take(group).map_err(text)?;
            found(device, group)?;
        }
        return Ok(false);
    }
    let disk = group.names_now(|names| names.find(VmId([3; 16]), "b.raw")).ok_or("gone")?;
    submit(group, disk, Op::Write { offset: 4096, data: &[77; 512] }, true).map_err(text)?;
    group.round(None).map_err(text)?;
    let mut got = [0; 1024];
    group.read_head(disk, 4096, &mut got).map_err(text)?;
    let right = got[..512] == [77; 512] && got[512..] == pattern()[4608..5120];
    right.then_some(true).ok_or_else(|| "a write above it is wrong".into())
}

/// Cut at the `n`th call; `None` once there are fewer.
fn cut_at(n: u64, power: bool) -> std::result::Result<Option<bool>, String> {
    let (device, group) = before(n).map_err(text)?;
    if power {
        device.power_loss_at(n)
    } else {
        device.kill_at(n)
    }
    let done = take(&group).is_ok();
    if done {
        found(&device, &group)?;
        return Ok(None);
    }
    drop(group);
    device.power_on();
    let (group, report) = Group::open(parts(&device, 2), id()).map_err(text)?;
    if let Some(damage) = report.damage {
        return Err(damage);
    }
    goes_on(&device, &group).map(Some)
}

/// Calls at which it came in all the same, and those after which it was where it was.
fn cut_everywhere(power: bool) -> std::result::Result<(usize, usize), String> {
    let (mut came, mut stayed) = (0, 0);
    for n in 1.. {
        match cut_at(n, power).map_err(|e| format!("call {n}: {e}"))? {
            Some(true) => came += 1,
            Some(false) => stayed += 1,
            None => break,
        }
    }
    Ok((came, stayed))
}

#[test]
fn an_image_is_in_one_place_whatever_cuts_it_short() {
    for power in [false, true] {
        let (came, stayed) = cut_everywhere(power).unwrap();
        assert!(came > 5 && stayed > 5, "{came} came, {stayed} stayed");
    }
}

/// Rounds between any two steps, and a failing call that nobody dies of.
#[test]
fn rounds_and_errors_meanwhile_take_nothing() {
    let run = |n: u64| {
        let (device, group) = before(n).map_err(text)?;
        let upkeep = group.clone();
        BETWEEN.with_borrow_mut(|look| {
            *look = Some(Box::new(move |step| {
                if step.starts_with("import: ") {
                    let _ = upkeep.round(None);
                    assert_eq!(upkeep.settle_import().unwrap(), None, "one at a time");
                }
            }));
        });
        let fault = [Class::Write, Class::Sync, Class::Rename, Class::SyncDir][n as usize % 4];
        device.inject(Fault::of(fault).nth(n / 4 + 1));
        let done = take(&group);
        BETWEEN.with_borrow_mut(|look| *look = None);
        device.clear_faults();
        if group.is_poisoned() {
            return Ok(done.is_ok());
        }
        goes_on(&device, &group).map(|_| done.is_ok())
    };
    let failed = (0..120).filter(|n| !run(*n).unwrap_or_else(|e: String| panic!("{n}: {e}"))).count();
    assert!(failed > 8, "{failed} failed");
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["I3: no round touches what is coming"]);
    let caught = (0..120).any(|n| run(n).is_err());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "a round that cuts what is coming must show");
}

#[test]
fn the_file_goes_where_the_image_has_not_come() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["I2: where the image hasn't come the file goes"]);
    let caught = cut_everywhere(false).is_err();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught);
}

#[test]
fn no_moment_before_an_import_is_held() {
    let openable = || {
        let (_device, group) = before(1).unwrap();
        let at: Moment = group.head();
        group.open_moment(at).unwrap();
        take(&group).unwrap();
        let after = group.head();
        group.open_moment(after).unwrap();
        group.open_moment(at)
    };
    assert_eq!(openable().err().map(|e| e.kind()), Some(Kind::NotFound));
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["I4: the base stands behind its file's record"]);
    let found = openable().is_ok();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(found, "the rule is kept elsewhere");
}

#[test]
fn names_that_are_taken_and_files_that_go_are_told() {
    let (device, group) = before(1).unwrap();
    let taken = group.take_in("d.raw", add, Path::new("/old.img"), TakeIn::Rename).unwrap_err();
    assert_eq!((taken.kind(), group.imports()), (Kind::Exists, false));
    let nowhere = group.take_in("b.raw", add, Path::new("/none.img"), TakeIn::Rename).unwrap_err();
    assert_eq!(nowhere.kind(), Kind::NotFound);
    let shared = group.take_in("b.raw", add, Path::new("/old.img"), TakeIn::Reflink).unwrap_err();
    assert_eq!((shared.kind(), group.imports()), (Kind::Unsupported, false));
    assert!(!found(&device, &group).unwrap(), "it is where it was");
    // The name is taken while the image comes: it stays under the other one until there is room for it.
    let other = group.clone();
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |step| {
            if step == "import: the base has its place" {
                let file = AddPayload { path: "b.raw".into(), ..add(DiskOrdinal(99)) };
                other.change(&crate::group::Change::Add(DiskOrdinal(99), file)).unwrap();
            }
        }));
    });
    let late = take(&group).unwrap_err();
    BETWEEN.with_borrow_mut(|look| *look = None);
    assert_eq!((late.kind(), group.imports()), (Kind::Exists, true));
    assert_eq!(take(&group).unwrap_err().kind(), Kind::Busy);
    group.round(None).unwrap();
    assert_eq!(group.settle_import().unwrap_err().kind(), Kind::Exists);
    group.change(&crate::group::Change::Remove(DiskOrdinal(99))).unwrap();
    assert_eq!(group.settle_import().unwrap(), Some(ImportEnd::Named("b.raw".into())));
    assert!(found(&device, &group).unwrap());
}

/// Somebody removes the file while its image comes: the image is never removed for that.
#[test]
fn an_image_whose_file_goes_is_set_aside() {
    let (device, group) = before(1).unwrap();
    let other = group.clone();
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |step| {
            if step == "import: the image has come" {
                other.change(&crate::group::Change::Remove(DiskOrdinal(2))).unwrap();
                assert_eq!(other.without_import(|| Ok(())).unwrap_err().kind(), Kind::Busy, "the VM stays");
            }
        }));
    });
    let gone = take(&group).unwrap_err();
    BETWEEN.with_borrow_mut(|look| *look = None);
    assert_eq!((gone.kind(), group.imports()), (Kind::NotFound, true));
    group.round(None).unwrap();
    let Some(ImportEnd::SetAside(path)) = group.settle_import().unwrap() else { panic!("not set aside") };
    let outside = device.storage("");
    let image = outside.open(Path::new(path.trim_start_matches("sim:/")), Access::ReadOnly).unwrap();
    let mut got = vec![9; pattern().len()];
    image.read_at(&mut got, 0).unwrap();
    assert!(got == pattern());
    group.round(None).unwrap();
    group.without_import(|| Ok(())).unwrap();
}
