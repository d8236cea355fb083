//! Which MiB a run has small pieces in: a compressed set, so that a look-up reads no page of a run in vain.
//!
//! 65,536 MiB of a disk share a container: a sorted list of 16-bit numbers, or a bitmap once that is shorter.

use crate::format::index_page::u32_at;
use crate::vocab::DiskOrdinal;

const LIST_MAX: usize = 4096;
const MAP_BYTES: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Touched {
    containers: Vec<Container>,
}

#[derive(Debug)]
struct Container {
    disk: DiskOrdinal,
    high: u32,
    low: Low,
}

#[derive(Debug)]
enum Low {
    List(Vec<u16>),
    Map(Box<[u8; MAP_BYTES]>),
}

impl Touched {
    /// Adds a MiB; they come in rising order of (disk, MiB), repeated ones side by side.
    pub(super) fn push(&mut self, disk: DiskOrdinal, mib: u64) {
        let (high, low) = ((mib >> 16) as u32, mib as u16);
        if self.containers.last().is_none_or(|c| (c.disk, c.high) != (disk, high)) {
            self.containers.push(Container { disk, high, low: Low::List(Vec::new()) });
        }
        let Some(container) = self.containers.last_mut() else { return };
        match &mut container.low {
            Low::List(list) if list.last() == Some(&low) => {}
            Low::List(list) if list.len() < LIST_MAX => list.push(low),
            Low::List(list) => {
                let mut map = Box::new([0; MAP_BYTES]);
                list.iter().chain([&low]).for_each(|&low| set(&mut map, low));
                container.low = Low::Map(map);
            }
            Low::Map(map) => set(map, low),
        }
    }

    /// Whether a MiB was added.
    pub(super) fn has(&self, disk: DiskOrdinal, mib: u64) -> bool {
        let (high, low) = ((mib >> 16) as u32, mib as u16);
        let Ok(at) = self.containers.binary_search_by_key(&(disk, high), |c| (c.disk, c.high)) else {
            return false;
        };
        match &self.containers[at].low {
            Low::List(list) => list.binary_search(&low).is_ok(),
            Low::Map(map) => map[usize::from(low) / 8] >> (low % 8) & 1 == 1,
        }
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.containers
            .iter()
            .map(|c| match &c.low {
                Low::List(list) => 48 + 2 * list.capacity(),
                Low::Map(_) => 48 + MAP_BYTES,
            })
            .sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for c in &self.containers {
            out.extend(c.disk.0.to_le_bytes());
            out.extend(c.high.to_le_bytes());
            match &c.low {
                Low::List(list) => {
                    out.extend((list.len() as u32).to_le_bytes());
                    list.iter().for_each(|low| out.extend(low.to_le_bytes()));
                }
                Low::Map(map) => {
                    out.extend(u32::MAX.to_le_bytes());
                    out.extend(&map[..]);
                }
            }
        }
        out
    }

    /// `None` if these bytes can't have been made by `encode`.
    pub(super) fn decode(mut from: &[u8]) -> Option<Self> {
        let mut containers = Vec::new();
        while !from.is_empty() {
            let (head, rest) = from.split_at_checked(12)?;
            let count = u32_at(head, 8);
            let bytes = if count == u32::MAX { MAP_BYTES } else { 2 * count as usize };
            let (body, rest) = rest.split_at_checked(bytes)?;
            let low = if count == u32::MAX {
                Low::Map(Box::new(body.try_into().ok()?))
            } else {
                Low::List(body.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
            };
            containers.push(Container { disk: DiskOrdinal(u32_at(head, 0)), high: u32_at(head, 4), low });
            from = rest;
        }
        Some(Self { containers })
    }
}

fn set(map: &mut [u8; MAP_BYTES], low: u16) {
    map[usize::from(low) / 8] |= 1 << (low % 8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_has_what_was_put_in_and_nothing_else_sparse_and_dense() {
        let mut random = fastrand::Rng::with_seed(2);
        for spread in [10_000u64, 1 << 18, 1 << 40] {
            let set: BTreeSet<(DiskOrdinal, u64)> =
                (0..20_000).map(|_| (DiskOrdinal(random.u32(0..3)), random.u64(0..spread))).collect();
            let mut touched = Touched::default();
            for &(disk, mib) in &set {
                touched.push(disk, mib);
                touched.push(disk, mib);
            }
            let bytes = touched.encode();
            let again = Touched::decode(&bytes).unwrap();
            for (disk, mib) in &set {
                assert!(again.has(*disk, *mib));
                for near in [mib.saturating_sub(1), mib + 1, mib + (1 << 16)] {
                    assert_eq!(again.has(*disk, near), set.contains(&(*disk, near)));
                }
            }
            assert!(Touched::decode(&bytes[..bytes.len() - 1]).is_none());
        }
    }
}
