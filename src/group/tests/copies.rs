//! A copy over the image that the target has, step by step: what was staged and never counted, what the older image has
//! beyond the new sizes, the log that a round frees afterwards.

use super::model::{difference, head_image, id, submit};
use super::site::{Site, parts_of, store};
use super::sites::{Checked, World, text};
use super::space::{DISK, disk};
use crate::exchange::Settings;
use crate::group::{Driver, Gate, Group, Op};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::vocab::Token;

const KIB: u64 = 1024;
/// The disk: every second block of its first half changes while the sites are apart.
const SIZE: u64 = 256 * KIB;

fn write(w: &World, site: usize, block: u64, tag: u8) -> Checked {
    let data = vec![tag; 4096];
    submit(&w.group(site), DISK, Op::Write { offset: block * 4096, data: &data }, false).map_err(text)
}

fn resize(w: &World, size: u64) -> Checked {
    submit(&w.group(0), DISK, Op::Resize { size }, true).map_err(text)
}

/// Both have one image; then the source goes so far alone that the records in between are gone.
fn apart(seed: u64) -> Result<World, String> {
    let mut w = World::new(seed);
    disk(&w.group(0), SIZE).map_err(text)?;
    for block in 0..SIZE / 4096 {
        write(&w, 0, block, 1)?;
    }
    w.settle()?;
    // Records that the target has in its own log, below the jump to come.
    for block in 8..24 {
        write(&w, 0, block, 2)?;
    }
    w.settle()?;
    w.cut()?;
    for n in 0..100 {
        write(&w, 0, n % 16 * 2, 3 + (n % 50) as u8)?;
    }
    Ok(w)
}

/// The base follows and the log is freed, whatever the peer has.
fn forget(w: &World) -> Checked {
    let source = w.group(0);
    source.set_pin(None);
    source.round(None).map_err(text)?;
    source.checkpoint().map_err(text)?;
    source.round(None).map(|_| ()).map_err(text)
}

fn same(w: &World, what: &str) -> Checked {
    let [a, b] = [0, 1].map(|site| head_image(&w.group(site)).map_err(text));
    difference(&b?, &a?).map_or(Ok(()), |how| Err(format!("{what}: the target has {how}")))
}

/// Whether the path of the target's head goes through a jump over an image.
fn jumped(w: &World) -> bool {
    w.group(1).jumps().values().any(Option::is_some)
}

/// What is on its way arrives.
fn deliver(w: &mut World) -> Checked {
    for site in [1, 0, 1] {
        while w.deliver(site)? {}
    }
    Ok(())
}

/// The process of the target is killed: nothing of what it had begun is made durable first.
fn kill_target(w: &mut World) -> Checked {
    w.linked = false;
    w.sites.iter_mut().for_each(|site| site.inbox.clear());
    let now = w.now;
    let out = w.sites[0].driver.disconnected(now);
    w.handle(0, out)?;
    let group = w.sites[1].open(1, w.rng.clone().u64(..))?;
    w.sites[1].driver = Site::driver(&group, 1);
    w.sites[1].group = group;
    w.sites[1].timer = u64::MAX;
    Ok(())
}

/// A copy is interrupted with records staged behind its progress, and the source leaves the line of those.
fn leaves_the_line(seed: u64) -> Result<bool, String> {
    let mut w = apart(seed)?;
    forget(&w)?;
    // One thing at a time, so that the copy takes a while.
    let source = w.group(0);
    let settings = Settings { window_bytes: 1, ..Driver::settings(&source, store(1), None) };
    w.sites[0].driver = Driver::new(source.clone(), settings);
    w.connect()?;
    let staged = |w: &World| w.group(1).copy_statement().map_err(text);
    let mut begun = None;
    for _ in 0..100 {
        deliver(&mut w)?;
        begun = staged(&w)?.map(|(copy, _)| copy.staged);
        if begun.is_some() {
            break;
        }
    }
    let Some(begun) = begun else { return Ok(false) };
    // Blocks that nothing changed while the sites were apart.
    for block in 40..44 {
        write(&w, 0, block, 101)?;
    }
    source.sync().map_err(text)?;
    for _ in 0..seed % 6 {
        w.tick()?;
        deliver(&mut w)?;
    }
    kill_target(&mut w)?;
    source.decide(begun, RowKind::Failover, Token([8; 16]), None).map_err(text)?;
    for block in 50..52 {
        write(&w, 0, block, 102)?;
    }
    w.settle()?;
    same(&w, "after the source left its line")?;
    Ok(jumped(&w))
}

/// While the sites are apart the disk gets shorter; it grows again once the target has followed.
fn shrinks_and_grows(seed: u64) -> Result<bool, String> {
    let mut w = apart(seed)?;
    resize(&w, SIZE / 4)?;
    forget(&w)?;
    w.settle()?;
    resize(&w, SIZE)?;
    w.settle()?;
    same(&w, "after it grew again")?;
    Ok(jumped(&w))
}

/// The target's base follows beyond the jump, and its power fails at each call of that.
fn frees_the_copy(seed: u64) -> Result<bool, String> {
    let mut w = apart(seed)?;
    forget(&w)?;
    w.settle()?;
    same(&w, "after the copy")?;
    write(&w, 0, 60, 103)?;
    w.settle()?;
    let expected = head_image(&w.group(0)).map_err(text)?;
    for call in 1.. {
        let device = w.sites[1].device.fork(seed + call);
        let open = || -> Result<std::sync::Arc<Group>, String> {
            let (group, report) =
                Group::open(parts_of(&device, &w.sites[1].clock, call, 1), id()).map_err(text)?;
            report.damage.map_or(Ok(()), Err)?;
            group.freeze(Gate::Target);
            Ok(group)
        };
        let group = open()?;
        device.power_loss_at(call);
        let done = group.round(None);
        let whole = device.has_power();
        if whole {
            done.map_err(text)?;
            let got = head_image(&group).map_err(text)?;
            difference(&got, &expected).map_or(Ok(()), |how| Err(format!("after the round: {how}")))?;
            device.power_loss();
        }
        device.power_on();
        drop(group);
        let got = head_image(&*open()?).map_err(|e| format!("call {call}: {e}"))?;
        difference(&got, &expected).map_or(Ok(()), |how| Err(format!("power loss at call {call}: {how}")))?;
        if whole {
            break;
        }
    }
    Ok(jumped(&w))
}

type Schedule = fn(u64) -> Result<bool, String>;

fn holds(run: Schedule) {
    let full = super::is_full();
    for seed in 0..if full { 300 } else { 6 } {
        assert!(run(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}")), "seed {seed}: there was no copy");
    }
}

fn is_caught(rule: &'static str, run: Schedule) {
    LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
    let caught = (0..6).any(|seed| run(seed).is_err());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "nothing noticed that this was left out: {rule}");
}

#[test]
fn what_was_staged_behind_the_progress_is_void() {
    holds(leaves_the_line);
    is_caught("G3: what was staged behind the progress is void", leaves_the_line);
}

#[test]
fn what_the_older_image_has_beyond_the_sizes_is_gone() {
    holds(shrinks_and_grows);
    is_caught("G4: what the older image has beyond the sizes is gone", shrinks_and_grows);
}

#[test]
fn the_log_of_a_copy_is_freed_at_no_bad_instant() {
    holds(frees_the_copy);
    is_caught("V6: a view is cut where its base stands", frees_the_copy);
    is_caught("P6: a path goes on where its jump came from", frees_the_copy);
}
