//! Two alternating slots in one file: what a checkpoint is kept in. A slot that is torn leaves the other one.
//!
//! ```text
//! magic 4 | crc32c of what follows 4 | version 2 | 0 2 | length of the body 4 | generation 8 | body (JSON)
//! ```

use crate::format::{FORMAT_VERSION, crc_of};
use crate::vocab::{Error, Kind, Result};

/// Bytes before the body.
pub const SLOT_HEADER_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"SbCk";

/// The bytes of a slot.
pub fn encode_slot(generation: u64, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8];
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(body);
    out[..4].copy_from_slice(&MAGIC);
    let crc = crc_of(&[&out[8..]]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Generation and body, or `None` if the slot is empty, torn or rotten.
///
/// # Errors
/// `Unsupported` if a good slot is of a later version.
pub fn decode_slot(bytes: &[u8]) -> Result<Option<(u64, &[u8])>> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(crc), Some(length)) = (word(4), word(12)) else { return Ok(None) };
    let Some(covered) = bytes.get(8..SLOT_HEADER_BYTES + length as usize) else { return Ok(None) };
    if bytes[..4] != MAGIC || crc_of(&[covered]) != crc {
        return Ok(None);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version != FORMAT_VERSION {
        return Err(Error::new(Kind::Unsupported, format!("checkpoint of format {version}"))
            .advice("Use the version that wrote it, or a later one"));
    }
    let mut generation = [0; 8];
    generation.copy_from_slice(&bytes[16..24]);
    Ok(Some((u64::from_le_bytes(generation), &bytes[SLOT_HEADER_BYTES..SLOT_HEADER_BYTES + length as usize])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_every_flipped_byte_is_seen() {
        let slot = encode_slot(7, b"{\"a\":1}");
        assert_eq!(decode_slot(&slot).unwrap(), Some((7, &b"{\"a\":1}"[..])));
        for at in 0..slot.len() {
            let mut bad = slot.clone();
            bad[at] ^= 4;
            assert_eq!(decode_slot(&bad).unwrap(), None, "byte {at}");
        }
        assert_eq!(decode_slot(&[]).unwrap(), None);
        assert_eq!(decode_slot(&slot[..slot.len() - 1]).unwrap(), None);
    }
}
