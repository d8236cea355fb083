//! What goes over a link below the protocol: frames, the hello with version and features, the verdict. No I/O.
//!
//! W1. A frame's crc covers kind, length and content; a frame with another crc, an unknown kind or a length
//!     over the limit ends the connection, and nothing of it is used. Room is made only for allowed lengths.
//! W2. The layout of frames and the fields of the hello that are read here never change: any two versions can
//!     tell each other why they don't get along.
//! W3. Both sides work out version and features from the same two hellos and come to the same result.

use crate::vocab::{Error, Kind, Result, StoreId};
use serde::{Deserialize, Serialize};

/// Longest content of a frame, in bytes.
pub const FRAME_MAX: usize = 2 << 20;
/// The oldest protocol that this version speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest one.
pub const PROTOCOL_MAX: u16 = 1;
/// Longest content of a frame before two sites know each other, in bytes.
pub(super) const EARLY_MAX: usize = 64 << 10;
pub(super) const HEADER: usize = 12;
const MAGIC: &str = "standbyfs";

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum FrameKind {
    /// JSON, before anything else.
    Early = 1,
    /// Of the protocol above.
    Data = 2,
    /// Says that the sender lives.
    Alive = 3,
    /// Asks for `Alive` at once.
    Probe = 4,
    /// The end; the content is the reason, as text.
    Close = 5,
}

impl FrameKind {
    fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Early,
            2 => Self::Data,
            3 => Self::Alive,
            4 => Self::Probe,
            5 => Self::Close,
            _ => return None,
        })
    }
}

/// The twelve bytes before a frame's content: length, crc, kind, three zeros; little endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub kind: FrameKind,
    pub length: usize,
    crc: u32,
}

fn crc(kind: u8, length: u32, content: &[u8]) -> u32 {
    let [a, b, c, d] = length.to_le_bytes();
    crc32c::crc32c_append(crc32c::crc32c(&[kind, a, b, c, d]), content)
}

impl Header {
    pub(super) fn encode(kind: FrameKind, content: &[u8]) -> [u8; HEADER] {
        let length = content.len() as u32;
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&length.to_le_bytes());
        out[4..8].copy_from_slice(&crc(kind as u8, length, content).to_le_bytes());
        out[8] = kind as u8;
        out
    }

    /// `Damaged` for what can't be a header; `length_max` bounds the content.
    pub(super) fn decode(bytes: [u8; HEADER], length_max: usize) -> Result<Self> {
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind, 0, 0, 0] = bytes else {
            return Err(Error::new(Kind::Damaged, "a frame's header has bits that are never set"));
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > length_max {
            let what = format!("a frame of {length} bytes, at most {length_max} are allowed");
            return Err(Error::new(Kind::Damaged, what));
        }
        let kind = FrameKind::from_u8(kind)
            .ok_or_else(|| Error::new(Kind::Damaged, format!("a frame of the unknown kind {kind}")))?;
        Ok(Self { kind, length, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    pub(super) fn check(&self, content: &[u8]) -> Result<()> {
        if crc(self.kind as u8, self.length as u32, content) == self.crc {
            return Ok(());
        }
        Err(Error::new(Kind::Damaged, "a frame's checksum is wrong"))
    }
}

/// Why a connection is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Purpose {
    Pair,
    Link,
}

/// The first thing that each side says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    magic: String,
    pub protocol_min: u16,
    pub protocol_max: u16,
    /// What this side can do.
    pub features: Vec<String>,
    /// What the other side must be able to do.
    pub required: Vec<String>,
    /// The program's version, for messages.
    pub version: String,
    pub store: StoreId,
    pub name: String,
    pub purpose: Purpose,
}

/// What two sites have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Agreed {
    pub protocol: u16,
    pub features: Vec<String>,
}

impl Hello {
    pub(super) fn new(
        store: StoreId,
        name: &str,
        features: &[String],
        required: &[String],
        purpose: Purpose,
    ) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            features: features.to_vec(),
            required: required.to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store,
            name: name.to_owned(),
            purpose,
        }
    }

    /// What both can do, or the refusal `version-mismatch` that names both versions.
    pub(super) fn agree(&self, other: &Self) -> Result<Agreed> {
        let mismatch = |why: String| {
            let what = format!(
                "{why} (here standbyfs {}, at `{}` standbyfs {})",
                self.version, other.name, other.version
            );
            Error::refused("version-mismatch", what).advice("Update the older of the two sites")
        };
        if other.magic != MAGIC {
            return Err(Error::new(Kind::Invalid, "the other side doesn't speak this protocol"));
        }
        let protocol = self.protocol_max.min(other.protocol_max);
        if protocol < self.protocol_min.max(other.protocol_min) {
            return Err(mismatch(format!(
                "no common protocol: {}..={} here, {}..={} there",
                self.protocol_min, self.protocol_max, other.protocol_min, other.protocol_max
            )));
        }
        for (wanting, having, who) in [(self, other, "the other site"), (other, self, "this site")] {
            if let Some(missing) = wanting.required.iter().find(|f| !having.features.contains(f)) {
                return Err(mismatch(format!("{who} lacks the feature `{missing}`")));
            }
        }
        let mut features: Vec<_> =
            self.features.iter().filter(|f| other.features.contains(f)).cloned().collect();
        features.sort();
        features.dedup();
        Ok(Agreed { protocol, features })
    }
}

/// A named refusal as the other site says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub name: String,
    pub text: String,
}

impl Refusal {
    pub(super) fn of(error: &Error) -> Self {
        let name = error.name().unwrap_or(FALLBACK);
        let text = error.to_string();
        let text =
            text.strip_prefix(name).and_then(|t| t.strip_prefix(": ")).map_or(text.clone(), str::to_owned);
        Self { name: name.to_owned(), text }
    }

    pub(super) fn into_error(self) -> Error {
        let name = NAMES.iter().find(|n| **n == self.name).copied().unwrap_or(FALLBACK);
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(500).collect();
        Error::refused(name, text)
    }
}

const FALLBACK: &str = "peer-refused";
/// Refusals that a site may send on a link.
const NAMES: &[&str] = &[
    FALLBACK,
    "already-paired",
    "duplicate-connection",
    "identity-conflict",
    "name-taken",
    "not-paired",
    "self-pairing",
    "token-expired",
    "token-revoked",
    "token-unknown",
    "token-used",
    "token-wrong",
    "version-mismatch",
];

/// The listening side's last word before frames of the protocol: taken or refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub refused: Option<Refusal>,
}

/// What the accepting side of a pairing sends after the hellos.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PairRequest {
    pub token: crate::vocab::Token,
    pub proof: String,
    pub addresses: Vec<String>,
    pub port: u16,
}

/// The answer: a proof of the other side, or the refusal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PairReply {
    pub proof: Option<String>,
    pub refused: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W1: every single bit that turns on the way is found.
    #[test]
    fn a_turned_bit_anywhere_in_a_frame_is_found() {
        let content = b"thirty-one bytes of some content";
        let header = Header::encode(FrameKind::Data, content);
        let whole: Vec<u8> = header.iter().chain(content).copied().collect();
        let accepted = |bytes: &[u8]| {
            let (head, rest) = bytes.split_first_chunk::<HEADER>().unwrap();
            let decoded = Header::decode(*head, FRAME_MAX)?;
            if decoded.length != rest.len() {
                return Err(Error::new(Kind::Damaged, "length"));
            }
            decoded.check(rest)
        };
        assert!(accepted(&whole).is_ok());
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(accepted(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_room_is_made_for_a_length_over_the_limit() {
        let mut header = Header::encode(FrameKind::Data, b"");
        header[..4].copy_from_slice(&(FRAME_MAX as u32 + 1).to_le_bytes());
        assert_eq!(Header::decode(header, FRAME_MAX).unwrap_err().kind(), Kind::Damaged);
        header[..4].copy_from_slice(&(FRAME_MAX as u32).to_le_bytes());
        assert!(Header::decode(header, FRAME_MAX).is_ok());
        assert!(Header::decode(header, EARLY_MAX).is_err());
    }

    fn hello(min: u16, max: u16, features: &[&str], required: &[&str]) -> Hello {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let mut hello = Hello::new(StoreId([1; 16]), "a", &own(features), &own(required), Purpose::Link);
        (hello.protocol_min, hello.protocol_max) = (min, max);
        hello
    }

    /// W3, over all small ranges and sets of features.
    #[test]
    fn both_sides_come_to_the_same_result() {
        let sets: [&[&str]; 4] = [&[], &["zstd"], &["tree"], &["tree", "zstd"]];
        let mut hellos = Vec::new();
        for min in 1..4 {
            for max in min..4 {
                for features in sets {
                    for required in sets {
                        hellos.push(hello(min, max, features, required));
                    }
                }
            }
        }
        for a in &hellos {
            for b in &hellos {
                match (a.agree(b), b.agree(a)) {
                    (Ok(one), Ok(other)) => {
                        assert_eq!(one, other);
                        assert!(
                            a.required.iter().all(|f| one.features.contains(f) || !a.features.contains(f))
                        );
                        assert!((a.protocol_min..=a.protocol_max).contains(&one.protocol));
                        assert!((b.protocol_min..=b.protocol_max).contains(&one.protocol));
                    }
                    (Err(one), Err(other)) => {
                        assert_eq!(
                            (one.name(), other.name()),
                            (Some("version-mismatch"), Some("version-mismatch"))
                        );
                    }
                    _ => panic!("{a:?} and {b:?} don't come to the same result"),
                }
            }
        }
        let text = hello(1, 2, &[], &[]).agree(&hello(3, 4, &[], &[])).unwrap_err().to_string();
        assert!(text.contains("1..=2 here, 3..=4 there"), "{text}");
    }

    #[test]
    fn a_refusal_keeps_its_name_over_the_wire_and_strangers_can_invent_none() {
        let error = Error::refused("token-used", "another site has used this token").advice("Make one");
        let back = Refusal::of(&error).into_error();
        assert_eq!((back.name(), back.to_string()), (Some("token-used"), error.to_string()));
        let made_up = Refusal { name: "all-fine".into(), text: "x\u{1b}[2Jy".into() }.into_error();
        assert_eq!(made_up.to_string(), "peer-refused: x[2Jy");
    }
}
