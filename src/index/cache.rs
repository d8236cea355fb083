//! Memory of a stated size: the budget that all groups share, and the cache of one group.
//!
//! M1. What all caches of a budget hold never exceeds it: a cache makes room from its own before it takes more.
//! M2. A group that does nothing gives way: [`Cache::tidy`], called once a second or so, halves what was not used
//!     since the last time while the budget is nearly spent.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes the caches of all groups may hold together.
#[derive(Debug)]
pub struct CacheBudget {
    limit: usize,
    used: AtomicUsize,
}

impl CacheBudget {
    /// Bytes if nothing else is said.
    pub const DEFAULT_BYTES: usize = 64 << 20;

    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit: bytes, used: AtomicUsize::new(0) })
    }

    /// Bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Bytes that an item costs beside its own.
pub(super) const ITEM_BYTES: usize = 96;
const NONE: u32 = u32::MAX;

/// Least recently used goes first. Keys are made by the caller, all 128 bits of them.
pub(super) struct Cache<V> {
    budget: Arc<CacheBudget>,
    map: HashMap<u128, u32, BuildHasherDefault<Mix>>,
    items: Vec<Item<V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    bytes: usize,
    clock: u64,
    clock_before: u64,
}

struct Item<V> {
    key: u128,
    value: Option<V>,
    bytes: usize,
    newer: u32,
    older: u32,
    used: u64,
}

impl<V> Cache<V> {
    pub(super) fn new(budget: Arc<CacheBudget>) -> Self {
        Self {
            budget,
            map: HashMap::default(),
            items: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            clock: 0,
            clock_before: 0,
        }
    }

    /// Items in it.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value, and it is the newest used from now on.
    pub(super) fn get(&mut self, key: u128) -> Option<&mut V> {
        let at = *self.map.get(&key)?;
        self.touch(at);
        self.items[at as usize].value.as_mut()
    }

    /// The value, which doesn't become newer by that.
    pub(super) fn peek(&mut self, key: u128) -> Option<&mut V> {
        let at = *self.map.get(&key)?;
        self.items[at as usize].value.as_mut()
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = u128> + '_ {
        self.map.keys().copied()
    }

    /// Puts a value in, if there can be room; what had to go is given to `gone`.
    pub(super) fn put(&mut self, key: u128, value: V, bytes: usize, mut gone: impl FnMut(u128, V)) -> bool {
        if let Some(old) = self.remove(key) {
            gone(key, old);
        }
        let bytes = bytes + ITEM_BYTES;
        if !self.make_room(bytes, NONE, &mut gone) {
            gone(key, value);
            return false;
        }
        let item = Item { key, value: Some(value), bytes, newer: NONE, older: NONE, used: self.clock };
        let at = match self.free.pop() {
            Some(at) => {
                self.items[at as usize] = item;
                at
            }
            None => {
                self.items.push(item);
                (self.items.len() - 1) as u32
            }
        };
        self.map.insert(key, at);
        self.link(at);
        true
    }

    /// Notes that a value has grown or shrunk; it may be pushed out by that.
    pub(super) fn resize(&mut self, key: u128, bytes: usize, mut gone: impl FnMut(u128, V)) {
        let Some(&at) = self.map.get(&key) else { return };
        let (old, new) = (self.items[at as usize].bytes, bytes + ITEM_BYTES);
        if new <= old {
            self.items[at as usize].bytes = new;
            self.give_back(old - new);
        } else if self.make_room(new - old, at, &mut gone) {
            self.items[at as usize].bytes = new;
        } else if let Some(value) = self.remove(key) {
            gone(key, value);
        }
    }

    pub(super) fn remove(&mut self, key: u128) -> Option<V> {
        let at = self.map.remove(&key)?;
        self.unlink(at);
        self.free.push(at);
        let bytes = self.items[at as usize].bytes;
        self.give_back(bytes);
        self.items[at as usize].value.take()
    }

    /// M2.
    pub(super) fn tidy(&mut self, mut gone: impl FnMut(u128, V)) {
        let spare = self.budget.limit / 8;
        let (old, mut idle) = (self.clock_before, 0);
        if self.budget.used() + spare > self.budget.limit {
            let mut at = self.oldest;
            while at != NONE && self.items[at as usize].used < old {
                idle += self.items[at as usize].bytes;
                at = self.items[at as usize].newer;
            }
        }
        let keep = self.bytes - idle.div_ceil(2);
        while idle > 0 && self.bytes > keep && self.drop_oldest(NONE, &mut gone) {}
        self.clock_before = self.clock;
        self.clock += 1;
    }

    /// M1: room for this many bytes, from the budget or from items other than `except`.
    fn make_room(&mut self, bytes: usize, except: u32, gone: &mut impl FnMut(u128, V)) -> bool {
        loop {
            let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
            if before + bytes <= self.budget.limit {
                self.bytes += bytes;
                return true;
            }
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            if !self.drop_oldest(except, gone) {
                return false;
            }
        }
    }

    fn drop_oldest(&mut self, except: u32, gone: &mut impl FnMut(u128, V)) -> bool {
        let mut at = self.oldest;
        if at != NONE && at == except {
            at = self.items[at as usize].newer;
        }
        if at == NONE {
            return false;
        }
        let key = self.items[at as usize].key;
        if let Some(value) = self.remove(key) {
            gone(key, value);
        }
        true
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn touch(&mut self, at: u32) {
        self.items[at as usize].used = self.clock;
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
    }

    fn link(&mut self, at: u32) {
        let newest = self.newest;
        let item = &mut self.items[at as usize];
        (item.newer, item.older) = (NONE, newest);
        match newest {
            NONE => self.oldest = at,
            _ => self.items[newest as usize].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.items[at as usize].newer, self.items[at as usize].older);
        match newer {
            NONE => self.newest = older,
            _ => self.items[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            _ => self.items[older as usize].newer = newer,
        }
    }
}

impl<V> Drop for Cache<V> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Hash of a 128-bit key: two folded multiplications.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_and_the_budget_holds() {
        let budget = CacheBudget::new(10 * (ITEM_BYTES + 100));
        let (mut a, mut b) = (Cache::new(Arc::clone(&budget)), Cache::new(Arc::clone(&budget)));
        let mut gone = Vec::new();
        for key in 0..10 {
            assert!(a.put(key, key, 100, |k, _| gone.push(k)));
        }
        assert!(a.get(0).is_some());
        assert!(a.put(10, 10, 100, |k, _| gone.push(k)));
        assert_eq!(gone, [1], "0 was used since");
        assert!(!b.put(1, 1, 100, |_, _| ()), "nothing of its own to give");
        for _ in 0..3 {
            a.tidy(|k, _| gone.push(k));
        }
        assert!(b.put(1, 1, 100, |_, _| ()), "an idle group gave way");
        assert!(budget.used() <= budget.limit());
        a.resize(10, 1_000_000, |k, _| gone.push(k));
        assert!(a.peek(10).is_none(), "what outgrows the budget is dropped");
        drop((a, b));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn random_use_keeps_the_books() {
        let budget = CacheBudget::new(50_000);
        let mut random = fastrand::Rng::with_seed(3);
        let mut cache = Cache::new(Arc::clone(&budget));
        let mut model: HashMap<u128, (u64, usize)> = HashMap::new();
        for round in 0..50_000u64 {
            let key = u128::from(random.u32(0..300)) << 64;
            let (bytes, mut gone) = (random.usize(0..900), Vec::new());
            match random.u32(0..4) {
                0 => {
                    if cache.put(key, round, bytes, |k, _| gone.push(k)) {
                        model.insert(key, (round, bytes));
                    }
                    model.retain(|k, _| *k == key || !gone.contains(k));
                }
                1 => {
                    cache.resize(key, bytes, |k, _| gone.push(k));
                    model.entry(key).and_modify(|v| v.1 = bytes);
                    model.retain(|k, _| !gone.contains(k));
                }
                2 => assert_eq!(cache.remove(key), model.remove(&key).map(|v| v.0)),
                _ => assert_eq!(cache.get(key).copied(), model.get(&key).map(|v| v.0)),
            }
            let bytes: usize = model.values().map(|v| v.1 + ITEM_BYTES).sum();
            assert_eq!(
                (cache.bytes(), cache.len(), budget.used()),
                (bytes, model.len(), bytes),
                "round {round}"
            );
        }
    }
}
