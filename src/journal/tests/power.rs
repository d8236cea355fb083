use super::{identity, parts};
use crate::format::{Checkpoint, LogState};
use crate::journal::{CheckpointFile, LEFT_OUT, Log, NewRecord, Verdict};
use crate::seam::{Durability, SimDevice};
use crate::vocab::{DiskOrdinal, EpochId, Pos, RecordKind, Seq};
use std::path::Path;

/// What the schedules do beside writing and losing power.
#[derive(Clone, Copy, Default)]
struct Schedule {
    rot: bool,
    forks: bool,
}

struct World {
    device: SimDevice,
    rng: fastrand::Rng,
    seed: u64,
    /// Truth: payload tags in log order.
    appended: Vec<u64>,
    /// Truth: so many were promised to be durable.
    flushed: usize,
    /// Truth: so many does the newest checkpoint call durable.
    checkpointed: usize,
    epochs: u8,
}

struct Open {
    log: Log,
    checkpoints: CheckpointFile,
    durable_mode: bool,
}

fn epoch(n: u8) -> EpochId {
    EpochId([n; 16])
}

impl World {
    fn new(seed: u64) -> (Self, Open) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let device = SimDevice::new(rng.u64(..));
        device.set_fua(rng.bool());
        let parts = parts(&device, rng.u64(..));
        let storage = parts.storage.clone();
        let log = Log::create(parts, identity(), epoch(1)).unwrap();
        let first = Checkpoint { logs: vec![log.checkpoint_state()], ..Default::default() };
        let checkpoints = CheckpointFile::create(&*storage, Path::new("checkpoint"), &first).unwrap();
        storage.sync_dir(Path::new("")).unwrap();
        let world = Self { device, rng, seed, appended: vec![], flushed: 0, checkpointed: 0, epochs: 1 };
        (world, Open { log, checkpoints, durable_mode: false })
    }

    /// One step of a healthy process. False: the device failed, the process is dead.
    fn step(&mut self, open: &mut Open, schedule: Schedule) -> bool {
        let dice = self.rng.u32(..100);
        let result = if dice < 60 {
            self.append(open)
        } else if dice < 72 {
            open.log.sync().map(|_| self.flushed = self.appended.len())
        } else if dice < 80 {
            self.checkpoint(open)
        } else if dice < 84 {
            open.durable_mode = !open.durable_mode;
            Ok(())
        } else if dice < 86 && schedule.forks {
            self.fork(open)
        } else {
            Ok(())
        };
        result.is_ok()
    }

    fn append(&mut self, open: &Open) -> crate::vocab::Result<()> {
        let tags: Vec<u64> = (0..self.rng.usize(1..4)).map(|_| self.rng.u64(1..)).collect();
        let payloads: Vec<Vec<u8>> = tags
            .iter()
            .map(|tag| {
                let length = [8, 600, 4096, 9000][self.rng.usize(..4)];
                tag.to_le_bytes().into_iter().cycle().take(length).collect()
            })
            .collect();
        let records: Vec<NewRecord<'_>> = payloads
            .iter()
            .map(|payload| NewRecord {
                disk: DiskOrdinal(1),
                kind: RecordKind::Write,
                flags: 0,
                offset: 0,
                length: payload.len() as u64,
                payload,
                wall: 1,
            })
            .collect();
        let durability = if open.durable_mode { Durability::Durable } else { Durability::Plain };
        // Truth first: a batch that failed may still have landed.
        self.appended.extend(&tags);
        open.log.append(&records, 0, durability)?;
        if open.durable_mode {
            self.flushed = self.appended.len();
        }
        Ok(())
    }

    fn checkpoint(&mut self, open: &mut Open) -> crate::vocab::Result<()> {
        open.log.sync()?;
        self.flushed = self.appended.len();
        open.log.write_list(false)?;
        let checkpoint = Checkpoint { logs: vec![open.log.checkpoint_state()], ..Default::default() };
        open.checkpoints.write(&checkpoint)?;
        self.checkpointed = self.appended.len();
        Ok(())
    }

    /// An orderly end (J13).
    fn end(&mut self, open: &mut Open) -> crate::vocab::Result<()> {
        open.log.seal()?;
        open.log.sync()?;
        self.flushed = self.appended.len();
        open.log.write_list(true)?;
        let logs = vec![open.log.checkpoint_state()];
        open.checkpoints.write(&Checkpoint { logs, closed: true, ..Default::default() })
    }

    /// A failover at an older moment: seqs go back.
    fn fork(&mut self, open: &Open) -> crate::vocab::Result<()> {
        let back = Seq(self.rng.u64(1..=open.log.next_seq().0));
        self.epochs = self.epochs.wrapping_add(1).max(2);
        open.log.begin_epoch(epoch(self.epochs), back)?;
        self.flushed = self.appended.len();
        Ok(())
    }

    /// The process or the machine dies; opens again until an opening is whole.
    fn restart(&mut self, mut open: Open, schedule: Schedule) -> Result<Option<Open>, String> {
        // What is rotten in a segment that isn't scanned is found by who reads it.
        if !schedule.rot && self.device.has_power() && self.rng.u32(..10) < 4 {
            let _ = self.end(&mut open);
        }
        drop(open);
        if self.rng.u32(..10) < 7 {
            self.device.power_loss();
        }
        self.device.power_on();
        let rotten = schedule.rot && self.rng.bool() && self.rot();
        loop {
            if self.rng.u32(..10) < 3 {
                self.device.power_loss_at(self.rng.u64(1..6));
            }
            let opened = self.open();
            if !self.device.has_power() {
                self.device.power_on();
                continue;
            }
            self.device.power_loss_at(1 << 60);
            let (open, verdict, tags) = opened.map_err(|e| format!("can't open: {e}"))?;
            if let Verdict::Damaged { why, .. } = verdict {
                return if rotten { Ok(None) } else { Err(format!("damaged without rot: {why}")) };
            }
            if tags.len() > self.appended.len() || tags[..] != self.appended[..tags.len()] {
                return Err("a discarded write came back".into());
            }
            if tags.len() < self.flushed {
                return Err(format!("silent loss: {} of {} flushed records", tags.len(), self.flushed));
            }
            self.appended = tags;
            self.flushed = self.appended.len();
            return Ok(Some(open));
        }
    }

    fn open(&mut self) -> crate::vocab::Result<(Open, Verdict, Vec<u64>)> {
        let parts = parts(&self.device, self.rng.u64(..));
        let (checkpoints, checkpoint) =
            CheckpointFile::open(&*parts.storage, Path::new("checkpoint"), false)?;
        let from: &LogState = &checkpoint.logs[0];
        let recovered = Log::recover(parts, identity(), from, checkpoint.closed, false)?;
        let mut tags = Vec::new();
        let mut pos = Pos(0);
        if recovered.found.verdict == Verdict::Whole {
            while let Some(batch) = recovered.log.batch_at(pos)? {
                for r in &batch.records {
                    let payload = recovered.log.payload(&batch, r)?;
                    tags.push(u64::from_le_bytes(payload[..8].try_into().unwrap()));
                }
                pos = batch.end();
            }
        }
        let open = Open { log: recovered.log, checkpoints, durable_mode: false };
        Ok((open, recovered.found.verdict, tags))
    }

    /// Destroys a durable batch that the newest checkpoint covers. False if there is none in the open segment.
    fn rot(&mut self) -> bool {
        let parts = parts(&self.device, 1);
        let Ok((_, checkpoint)) = CheckpointFile::open(&*parts.storage, Path::new("checkpoint"), true) else {
            return false;
        };
        let from = &checkpoint.logs[0];
        let first = from.scan_start.0 + 8192;
        if from.scan_life == 0 || from.durable.0 <= first || self.checkpointed < self.flushed {
            return false;
        }
        let file = parts.storage.list(Path::new("main")).unwrap().into_iter().find(|name| {
            if !name.ends_with(".seg") {
                return false;
            }
            let mut block = crate::seam::AlignedBuf::zeroed(4096);
            let file =
                parts.storage.open(&Path::new("main").join(name), crate::seam::Access::Direct).unwrap();
            file.read_at(&mut block, 0).unwrap();
            let header = crate::format::SegmentHeader::decode(&block).ok().flatten();
            header.is_some_and(|h| h.life == from.scan_life)
        });
        let Some(file) = file else { return false };
        // The first batch of the scan's segment: its header is rotten, all behind it hangs in the air.
        self.device.flip(format!("journal/main/{file}"), 8192 + 20).is_ok()
    }
}

/// Runs a schedule; what was wrong, if something was.
fn run(seed: u64, schedule: Schedule) -> Result<(), String> {
    let (mut world, mut open) = World::new(seed);
    for _ in 0..world.rng.usize(2..7) {
        if world.rng.u32(..10) < 4 {
            world.device.power_loss_at(world.rng.u64(1..40));
        }
        for _ in 0..world.rng.usize(3..40) {
            if !world.step(&mut open, schedule) {
                break;
            }
        }
        match world.restart(open, schedule).map_err(|e| format!("seed {}: {e}", world.seed))? {
            Some(next) => open = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn seeds(full: u64, short: u64) -> u64 {
    if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { full } else { short }
}

#[test]
fn a_prefix_at_or_past_the_last_flush() {
    for seed in 0..seeds(10_000, 300) {
        run(seed, Schedule { forks: true, rot: false }).unwrap();
    }
}

#[test]
fn rot_in_what_was_durable_is_reported() {
    let mut rotten = 0;
    for seed in 0..seeds(4_000, 150) {
        let schedule = Schedule { forks: true, rot: true };
        run(seed, schedule).unwrap();
        let (mut world, mut open) = World::new(seed);
        for _ in 0..30 {
            world.step(&mut open, schedule);
        }
        let last = world.checkpoint(&mut open);
        drop(open);
        if last.is_ok() && world.rot() {
            rotten += 1;
            let (_, verdict, _) = world.open().unwrap();
            assert_ne!(verdict, Verdict::Whole, "seed {seed}: rot was taken for a torn tail");
        }
    }
    assert!(rotten > 20, "only {rotten} schedules had something to rot");
}

/// Each rule left out is caught. What makes the zero above mean something.
#[test]
fn each_rule_left_out_is_caught() {
    let plain = Schedule { forks: true, rot: false };
    let rules: [(&[&'static str], Schedule); 7] = [
        (&["J5: sync when going to durable appends"], plain),
        (&["J3: segment synced before the next"], plain),
        (&["J3: header synced before its first batch"], plain),
        (&["J2: never append to a segment of another process", "link to the batch before"], plain),
        (&["J4: the mark is a place"], plain),
        (&["J13: no segment names it as the one before"], plain),
        (
            &["J4: durable mark in the checkpoint", "J4: durable mark in batches"],
            Schedule { forks: false, rot: true },
        ),
    ];
    for (rules, schedule) in rules {
        LEFT_OUT.with_borrow_mut(|out| *out = rules.to_vec());
        let caught = if schedule.rot {
            (0..400).any(|seed| rot_is_missed(seed, schedule))
        } else {
            (0..3_000).any(|seed| run(seed, schedule).is_err())
        };
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rules:?}");
    }
}

fn rot_is_missed(seed: u64, schedule: Schedule) -> bool {
    let (mut world, mut open) = World::new(seed);
    for _ in 0..30 {
        world.step(&mut open, schedule);
    }
    // The evidence that is left out below must be looked for where it was written.
    LEFT_OUT.with_borrow_mut(Vec::clear);
    let ready = world.checkpoint(&mut open).is_ok();
    drop(open);
    let rotten = ready && world.rot();
    rotten && {
        let parts = parts(&world.device, 1);
        let (mut file, mut checkpoint) =
            CheckpointFile::open(&*parts.storage, Path::new("checkpoint"), false).unwrap();
        checkpoint.logs[0].durable = Pos(0);
        file.write(&checkpoint).unwrap();
        matches!(world.open(), Ok((_, Verdict::Whole, _)))
    }
}
