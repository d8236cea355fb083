use crate::format::{AddPayload, FileKind};
use crate::group::{Change, Group, GroupParts, Op};
use crate::index::CacheBudget;
use crate::seam::{Rooms, SimClock, SimDevice, SimEntropy};
use crate::vocab::{DiskId, DiskOrdinal, Error, GroupId, Moment, Result, StoreId, VmId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Longest file of the model, in bytes.
pub(crate) const SIZE_MAX: u64 = 80 << 10;

pub(crate) type Image = BTreeMap<DiskOrdinal, Arc<Vec<u8>>>;

/// The files of a group at every moment that was ever made.
pub(crate) struct Model {
    pub(crate) now: Image,
    pub(crate) moments: HashMap<Moment, Image>,
    /// Moments in the order in which they were made.
    pub(crate) order: Vec<Moment>,
}

pub(crate) fn parts(device: &SimDevice, seed: u64) -> GroupParts {
    GroupParts {
        store: Arc::new(device.storage("store")),
        journal: Arc::new(device.storage("store")),
        clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
        entropy: Arc::new(SimEntropy::new(seed)),
        store_id: StoreId([1; 16]),
        boot: [4; 16],
        cache: CacheBudget::new(1 << 20),
        segment_bytes: (96 << 10, 96 << 10),
        rooms: Rooms::of_one(Arc::new(device.storage("store"))),
    }
}

pub(crate) fn id() -> GroupId {
    GroupId([2; 16])
}

/// Submits and waits: in these tests every answer comes within the call.
pub(crate) fn submit(group: &Group, disk: DiskOrdinal, op: Op<'_>, sync: bool) -> Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    group.submit(disk, op, sync, Box::new(move |result| send.send(result).unwrap_or(())));
    receive.recv().unwrap_or_else(|_| Err(Error::new(crate::vocab::Kind::Io, "no answer")))
}

pub(crate) fn flush(group: &Group) -> Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    group.flush(Box::new(move |result| send.send(result).unwrap_or(())));
    receive.recv().unwrap_or_else(|_| Err(Error::new(crate::vocab::Kind::Io, "no answer")))
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { now: Image::new(), moments: HashMap::new(), order: Vec::new() }
    }

    /// The group stands at a moment that shows what the model has now.
    pub(crate) fn note(&mut self, moment: Moment) {
        self.moments.insert(moment, self.now.clone());
        self.order.push(moment);
    }

    pub(crate) fn add(&mut self, group: &Group, rng: &mut fastrand::Rng) -> Result<()> {
        let mut given = DiskOrdinal(0);
        let file = DiskId(rng.u128(..).to_le_bytes());
        let path = format!("d{}.raw", rng.u64(..));
        let result = group.change_with(|names| {
            given = DiskOrdinal(names.last.0 + 1);
            let add = AddPayload {
                vm: VmId([3; 16]),
                vm_name: "web01".into(),
                single: false,
                file,
                path,
                kind: FileKind::File,
                size: 0,
            };
            Ok(Change::Add(given, add))
        });
        // What failed may have landed.
        if given.0 > 0 {
            self.now.insert(given, Arc::default());
        }
        result
    }

    /// A random operation on a random file, on the group and on the model. The model changes first: what fails
    /// may still have landed, and then its moment has this image.
    pub(crate) fn operate(&mut self, group: &Group, rng: &mut fastrand::Rng, shrink: bool) -> Result<()> {
        let disks: Vec<DiskOrdinal> = self.now.keys().copied().collect();
        if disks.is_empty() {
            return Ok(()); // a failover to before the first file
        }
        let disk = disks[rng.usize(..disks.len())];
        let file = Arc::make_mut(self.now.get_mut(&disk).unwrap());
        let size = file.len() as u64;
        let offset = if rng.bool() { rng.u64(..SIZE_MAX) / 4096 * 4096 } else { rng.u64(..SIZE_MAX) };
        let length = [1, 512, 4096, 4096, 8192, 20_000][rng.usize(..6)].min(SIZE_MAX - offset);
        let range = |size: u64| (offset.min(size) as usize)..((offset + length).min(size) as usize);
        let sync = rng.u8(..10) == 0;
        match rng.u8(..12) {
            0 => {
                file[range(size)].fill(0);
                submit(group, disk, Op::Discard { offset, length }, sync)
            }
            1 => {
                let grow = rng.bool();
                if grow {
                    file.resize((offset + length).max(size) as usize, 0);
                }
                let size = file.len() as u64;
                file[range(size)].fill(0);
                submit(group, disk, Op::Zero { offset, length, grow }, sync)
            }
            2 => {
                let to = if shrink { offset } else { offset.max(size) };
                file.resize(to as usize, 0);
                submit(group, disk, Op::Resize { size: to }, sync)
            }
            _ => {
                let data: Vec<u8> = if rng.u8(..8) == 0 {
                    vec![0; length as usize]
                } else {
                    let tag = rng.u64(..).to_le_bytes();
                    tag.into_iter().cycle().take(length as usize).collect()
                };
                file.resize((offset + length).max(size) as usize, 0);
                file[offset as usize..(offset + length) as usize].copy_from_slice(&data);
                submit(group, disk, Op::Write { offset, data: &data }, sync)
            }
        }
    }
}

/// What a group shows at its head.
pub(crate) fn head_image(group: &Group) -> Result<Image> {
    let sizes: Vec<(DiskOrdinal, u64)> =
        group.names_now(|names| names.files.iter().map(|(disk, f)| (*disk, f.size)).collect());
    let mut out = Image::new();
    for (disk, size) in sizes {
        let mut bytes = vec![0xee; size as usize];
        group.read_head(disk, 0, &mut bytes)?;
        out.insert(disk, Arc::new(bytes));
    }
    Ok(out)
}

/// What it shows at any moment.
pub(crate) fn moment_image(group: &Group, moment: Moment) -> Result<Image> {
    let view = group.open_moment(moment)?;
    let mut out = Image::new();
    for (disk, file) in &view.names.files {
        let mut bytes = vec![0xee; file.size as usize];
        group.read_moment(&view, *disk, 0, &mut bytes)?;
        out.insert(*disk, Arc::new(bytes));
    }
    Ok(out)
}

/// Where two images differ, in words.
pub(crate) fn difference(got: &Image, expected: &Image) -> Option<String> {
    if got.keys().ne(expected.keys()) {
        return Some(format!("files {:?} instead of {:?}", got.keys(), expected.keys()));
    }
    for (disk, bytes) in got {
        let other = &expected[disk];
        if bytes.len() != other.len() {
            return Some(format!("file {disk}: {} bytes instead of {}", bytes.len(), other.len()));
        }
        if let Some(at) = bytes.iter().zip(other.iter()).position(|(a, b)| a != b) {
            return Some(format!(
                "file {disk} differs at {at}: {:#x} instead of {:#x}",
                bytes[at], other[at]
            ));
        }
    }
    None
}
