//! Who reads at a target while it receives sees moments, and nothing between them: name, names, sizes and bytes of the
//! head are always of one moment that the source had.

use super::model::{Image, difference, head_image};
use super::sites::World;
use crate::group::Group;
use crate::group::line::BETWEEN;
use crate::journal::LEFT_OUT;
use crate::vocab::Moment;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Seen = Vec<(&'static str, Moment, Result<Image, String>)>;

/// What the source shows at a moment; the moment of a row shows what the one before it shows.
fn expected<'a>(group: &Group, moments: &'a HashMap<Moment, Image>, at: Moment) -> Option<&'a Image> {
    let table = group.table();
    let row = table.row(at.epoch).is_some_and(|row| row.first_seq() == at.seq);
    let before = table.below(at).ok().flatten().filter(|_| row);
    moments.get(&at).or_else(|| before.and_then(|before| moments.get(&before)))
}

/// A source that has written, ready to be followed.
pub(super) fn written(seed: u64, operations: usize) -> World {
    let mut w = World::new(seed);
    let source = w.sites[0].group.clone();
    w.model.note(source.head());
    for at in 0..operations {
        if at % 9 == 0 {
            w.model.add(&source, &mut w.rng).unwrap();
        } else {
            w.model.operate(&source, &mut w.rng, true).unwrap();
        }
        w.model.note(source.head());
    }
    w
}

/// Looks between any two steps of receiving; what is wrong.
fn looked_between(seed: u64) -> Result<usize, String> {
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let mut w = written(seed, 12);
    let (target, log) = (w.sites[1].group.clone(), seen.clone());
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |step| {
            let image = head_image(&target).map_err(|e| e.to_string());
            log.borrow_mut().push((step, target.head(), image));
        }));
    });
    let done = follow_and_write(&mut w);
    BETWEEN.with_borrow_mut(|look| *look = None);
    done?;
    let target = &w.sites[1].group;
    let seen = seen.borrow();
    for (step, head, image) in seen.iter() {
        let image = image.as_ref().map_err(|e| format!("{step}, {head}: {e}"))?;
        if head.seq.0 == 0 {
            if !image.is_empty() {
                return Err(format!("{step}: files before there is an image"));
            }
            continue;
        }
        let known = expected(target, &w.model.moments, *head);
        let known = known.ok_or_else(|| format!("{step}: {head} is no moment that the source had"))?;
        if let Some(what) = difference(image, known) {
            return Err(format!("{step}, head {head}: {what}"));
        }
    }
    Ok(seen.len())
}

fn follow_and_write(w: &mut World) -> Result<(), String> {
    w.settle()?;
    for _ in 0..20 {
        let source = w.sites[0].group.clone();
        for _ in 0..w.rng.usize(1..6) {
            w.model.operate(&source, &mut w.rng, true).map_err(|e| e.to_string())?;
            w.model.note(source.head());
        }
        w.settle()?;
    }
    Ok(())
}

#[test]
fn between_any_two_steps_the_head_is_a_moment_of_the_source() {
    let full = super::is_full();
    let mut looked = 0;
    for seed in 0..if full { 300 } else { 10 } {
        looked += looked_between(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    assert!(looked > 100, "looked {looked} times only");
}

/// What makes the zero above mean something.
#[test]
fn a_line_that_changes_in_two_steps_is_seen() {
    for rule in ["L1: a line is published in one step", "L3: a line that is followed is closed"] {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let caught = (0..20).any(|seed| looked_between(seed).is_err());
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rule}");
    }
}

/// The same with threads that read all the time.
#[test]
fn threads_that_read_while_it_receives_see_moments() {
    let mut w = written(7, 300);
    let moments = Arc::new(w.model.moments.clone());
    let (stop, looked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let wrong: Arc<Mutex<Option<String>>> = Arc::default();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (target, moments, stop) = (w.sites[1].group.clone(), moments.clone(), stop.clone());
            let (looked, wrong) = (looked.clone(), wrong.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    if let Err(e) = look_once(&target, &moments, &looked) {
                        wrong.lock().unwrap().get_or_insert(e);
                    }
                }
            })
        })
        .collect();
    let done = w.settle();
    // The copy may be over before a thread has looked once: then they look at its outcome.
    while looked.load(Ordering::Acquire) < 20 && wrong.lock().unwrap().is_none() {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Release);
    readers.into_iter().for_each(|r| r.join().unwrap());
    done.unwrap();
    assert_eq!(wrong.lock().unwrap().take(), None);
}

fn look_once(target: &Group, moments: &HashMap<Moment, Image>, looked: &AtomicUsize) -> Result<(), String> {
    let head = target.head();
    if head.seq.0 == 0 {
        return Ok(());
    }
    let view = target.open_head().map_err(|e| format!("the head can't be opened: {e}"))?;
    let mut image = Image::new();
    for (disk, file) in &view.names.files {
        let mut bytes = vec![0xee; file.size as usize];
        target.read_moment(&view, *disk, 0, &mut bytes).map_err(|e| e.to_string())?;
        image.insert(*disk, Arc::new(bytes));
    }
    let known = expected(target, moments, view.moment);
    let known = known.ok_or_else(|| format!("{} is no moment that the source had", view.moment))?;
    looked.fetch_add(1, Ordering::AcqRel);
    difference(&image, known).map_or(Ok(()), |what| Err(format!("head {}: {what}", view.moment)))
}
