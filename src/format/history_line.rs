//! One line of a group's history file: `<crc32c of the rest, 8 hex digits> <JSON>\n`.
//!
//! The JSON has the line's number (from 1), the crc of the line before and the event. Behind the last line the
//! preallocated file holds zeros.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine<E> {
    /// Number, from 1, without gap.
    pub n: u64,
    /// crc of the line before; 0 at the first.
    pub prev: u32,
    /// Wall time, ns.
    pub time: i64,
    /// What was decided or suffered.
    pub event: E,
}

/// Why bytes are no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineError {
    /// Nothing was written here: zeros or the end of the file.
    End,
    /// Something is here, but not what was written.
    Bad,
    /// A good line with content that this version doesn't know.
    Unknown(String),
}

impl<E: Serialize + DeserializeOwned> HistoryLine<E> {
    /// The bytes of the line and its crc. `None` if the event can't be written as JSON.
    pub fn encode(&self) -> Option<(Vec<u8>, u32)> {
        let json = serde_json::to_string(self).ok()?;
        let crc = crc32c::crc32c(json.as_bytes());
        Some((format!("{crc:08x} {json}\n").into_bytes(), crc))
    }

    /// Reads the line at the begin of `bytes`: the line, its crc and its length in bytes.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32, usize), LineError> {
        if bytes.first().is_none_or(|b| *b == 0) {
            return Err(LineError::End);
        }
        let end = bytes.iter().position(|b| *b == b'\n').ok_or(LineError::Bad)?;
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| LineError::Bad)?;
        let (crc, json) = text.split_once(' ').ok_or(LineError::Bad)?;
        let crc = u32::from_str_radix(crc, 16).map_err(|_| LineError::Bad)?;
        if crc32c::crc32c(json.as_bytes()) != crc || text.as_bytes().get(8) != Some(&b' ') {
            return Err(LineError::Bad);
        }
        let line = serde_json::from_str(json).map_err(|e| LineError::Unknown(e.to_string()))?;
        Ok((line, crc, end + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_every_flipped_byte_is_seen() {
        let line = HistoryLine { n: 3, prev: 7, time: -5, event: "x".to_owned() };
        let (mut bytes, crc) = line.encode().unwrap();
        bytes.extend_from_slice(&[0; 8]);
        assert_eq!(HistoryLine::decode(&bytes), Ok((line, crc, bytes.len() - 8)));
        for at in 0..bytes.len() - 8 {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                if bad[at].is_ascii_hexdigit() && bad[at].eq_ignore_ascii_case(&bytes[at]) {
                    continue; // the crc in capital letters is the same crc
                }
                assert!(HistoryLine::<String>::decode(&bad).is_err(), "byte {at} bit {bit}");
            }
        }
        assert_eq!(HistoryLine::<String>::decode(&[0; 4]), Err(LineError::End));
        assert_eq!(HistoryLine::<String>::decode(&[]), Err(LineError::End));
        let number = HistoryLine { n: 1, prev: 0, time: 0, event: 5 }.encode().unwrap().0;
        assert!(matches!(HistoryLine::<String>::decode(&number), Err(LineError::Unknown(_))));
    }
}
