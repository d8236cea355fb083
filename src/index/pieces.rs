//! Versions into pieces: see `format::index_page`, X1.

use crate::format::index_page::{Content, LEVEL_MAX, POS_MAX, Piece, cell_shift};
use crate::index::Entry;
use crate::vocab::{Error, Kind, PAYLOAD_MAX, Result};

/// Bytes of a region of the cache: a cell of level 0.
pub(super) const MIB: u64 = 1 << 20;
/// Highest end of a version, in bytes.
const END_MAX: u64 = 1 << 63;

/// Refuses a version that the index can't hold.
pub(super) fn check(entry: &Entry) -> Result<()> {
    let end = entry.offset.checked_add(entry.len);
    let fits = entry.len > 0
        && end.is_some_and(|end| end <= END_MAX)
        && entry.pos.0 <= POS_MAX
        && (entry.content != Content::Data || entry.len <= PAYLOAD_MAX);
    if fits {
        return Ok(());
    }
    let Entry { disk, offset, len, pos, .. } = entry;
    Err(Error::new(
        Kind::Invalid,
        format!("disk {disk}: a record of {len} bytes at {offset}, position {pos}"),
    ))
}

/// Calls `take` with each piece of a checked version.
pub(super) fn split(entry: &Entry, mut take: impl FnMut(Piece)) {
    let (start, end) = (entry.offset, entry.offset + entry.len);
    let piece = |level: u8, from: u64, to: u64| Piece {
        level,
        disk: entry.disk,
        start: from,
        len: to - from,
        pos: entry.pos,
        content: entry.content,
        skip: 0,
        whole: to - from,
        crc: entry.crc,
    };
    if entry.content == Content::Data {
        let edge = (start / MIB + 1) * MIB;
        let whole = entry.len;
        take(Piece { whole, ..piece(0, start, end.min(edge)) });
        if edge < end {
            take(Piece { whole, skip: (edge - start) as u32, ..piece(0, edge, end) });
        }
        return;
    }
    let (mut from, mut to) = (start, end);
    for level in 0..LEVEL_MAX {
        let cell = 1 << cell_shift(level);
        let (up, down) = (from.next_multiple_of(cell), to / cell * cell);
        if up > down {
            take(piece(level, from, to));
            return;
        }
        if from < up {
            take(piece(level, from, up));
        }
        if down < to {
            take(piece(level, down, to));
        }
        (from, to) = (up, down);
        if from == to {
            return;
        }
    }
    take(piece(LEVEL_MAX, from, to));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{DiskOrdinal, Pos};

    fn pieces(offset: u64, len: u64, content: Content) -> Vec<Piece> {
        let entry = Entry { disk: DiskOrdinal(1), offset, len, pos: Pos(9), content, crc: 5 };
        check(&entry).unwrap();
        let mut out = Vec::new();
        split(&entry, |piece| out.push(piece));
        out
    }

    #[test]
    fn pieces_cover_their_version_once_and_stay_in_their_cells() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..20_000 {
            let bits = random.u32(1..=62);
            let len = random.u64(1..=1 << bits);
            let offset = random.u64(0..END_MAX - len) >> random.u32(0..30);
            let (content, len) = match random.bool() {
                true => (Content::Data, len.min(PAYLOAD_MAX)),
                false => (Content::Discard, len),
            };
            let mut all = pieces(offset, len, content);
            assert!(all.len() <= if content == Content::Data { 2 } else { 24 }, "round {round}");
            all.sort_by_key(|p| p.start);
            let mut at = offset;
            for p in &all {
                assert_eq!(p.start, at, "round {round}");
                at += p.len;
                let shift = cell_shift(p.level);
                if shift < 64 {
                    assert_eq!(p.start >> shift, (at - 1) >> shift, "round {round}: {p:?} leaves its cell");
                }
                if p.level > 0 {
                    assert_eq!((p.start | p.len) % (1 << cell_shift(p.level - 1)), 0, "round {round}");
                }
                if content == Content::Data {
                    assert_eq!((u64::from(p.skip), p.whole), (p.start - offset, len));
                }
                let (region, slot) = crate::format::index_page::Slot::pack(p);
                assert_eq!(slot.unpack(p.level, p.disk, region), Some(*p));
            }
            assert_eq!(at, offset + len, "round {round}");
        }
    }

    #[test]
    fn ordinary_versions_are_one_piece_and_a_whole_disk_few() {
        assert_eq!(pieces(4096, 4096, Content::Data).len(), 1);
        assert_eq!(pieces(0, MIB, Content::Zero).len(), 1);
        assert_eq!(pieces(MIB - 4096, 8192, Content::Data).len(), 2);
        assert_eq!(pieces(0, 64 << 40, Content::Discard).len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good =
            Entry { disk: DiskOrdinal(1), offset: 0, len: 1, pos: Pos(0), content: Content::Data, crc: 0 };
        check(&good).unwrap();
        for bad in [
            Entry { len: 0, ..good },
            Entry { len: PAYLOAD_MAX + 1, ..good },
            Entry { offset: u64::MAX, ..good },
            Entry { offset: END_MAX, ..good },
            Entry { pos: Pos(POS_MAX + 1), ..good },
        ] {
            assert_eq!(check(&bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }
}
