//! Frames of the exchange in frames of the link: the link's are shorter than the longest of the exchange.
//!
//! B1. A frame of the exchange lies in consecutive frames of the link; a frame of the link holds bytes of one only.
//! B2. Until a frame is whole its bytes are held: never more than a header and the longest body.

use crate::exchange::Frame;
use crate::exchange::wire::{self, FRAME_HEADER_BYTES, FrameHeader};
use crate::link::FRAME_MAX;
use crate::vocab::{Error, Kind, Result};

/// A frame as pieces that the link takes.
///
/// # Errors
/// `Invalid` for what is longer than the limits.
pub(super) fn pieces(frame: &Frame, compress: Option<i32>) -> Result<Vec<Vec<u8>>> {
    let bytes = wire::encode(frame, compress)?;
    if bytes.len() <= FRAME_MAX {
        return Ok(vec![bytes]);
    }
    Ok(bytes.chunks(FRAME_MAX).map(<[u8]>::to_vec).collect())
}

/// Puts pieces together.
#[derive(Default)]
pub(super) struct Joiner {
    held: Vec<u8>,
}

impl Joiner {
    /// The frame that this piece makes whole, if it does.
    ///
    /// # Errors
    /// `Conflict` or `Unsupported` for what is no frame: the connection is of no more use.
    pub(super) fn push(&mut self, piece: Vec<u8>) -> Result<Option<Frame>> {
        if self.held.is_empty() {
            self.held = piece;
        } else {
            self.held.extend_from_slice(&piece);
        }
        let Some(head) = self.held.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(Error::new(Kind::Conflict, "the peer sent a frame that is shorter than its header"));
        };
        let header = FrameHeader::decode(head)?;
        let whole = FRAME_HEADER_BYTES + header.length as usize;
        if self.held.len() < whole {
            return Ok(None);
        }
        if self.held.len() > whole {
            return Err(Error::new(Kind::Conflict, "the peer sent more than one frame at once"));
        }
        let frame = wire::decode(&header, &self.held[FRAME_HEADER_BYTES..])?;
        self.held = Vec::new();
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{About, Fill};
    use crate::vocab::{Codec, DiskOrdinal, GroupId, Moment, PAYLOAD_MAX, Token};

    #[test]
    fn frames_of_any_length_pass_and_garbage_is_refused() {
        let group = GroupId([3; 16]);
        let fill = Fill {
            group,
            copy: Token([1; 16]),
            at: Moment::default(),
            disk: DiskOrdinal(1),
            offset: 0,
            length: PAYLOAD_MAX,
            codec: Codec::Plain,
            payload: vec![7; PAYLOAD_MAX as usize],
        };
        let frames = [
            Frame::about(group, About::Alive { oldest: None }),
            Frame::Fill(Box::new(fill)),
            Frame::about(group, About::Met),
        ];
        let mut joiner = Joiner::default();
        for frame in &frames {
            for (compress, cut) in [(None, false), (Some(1), false), (None, true)] {
                let mut parts = pieces(frame, compress).unwrap();
                assert!(parts.iter().all(|p| p.len() <= FRAME_MAX));
                if cut && parts[0].len() > FRAME_HEADER_BYTES + 2 {
                    let rest = parts[0].split_off(FRAME_HEADER_BYTES + 1);
                    parts.insert(1, rest);
                }
                let last = parts.len() - 1;
                for (number, part) in parts.into_iter().enumerate() {
                    let got = joiner.push(part).unwrap();
                    assert_eq!(got.as_ref(), (number == last).then_some(frame));
                }
            }
        }
        assert!(Joiner::default().push(vec![0; 64]).is_err(), "no magic");
        assert!(Joiner::default().push(vec![0; 3]).is_err(), "no header");
        let mut two = pieces(&frames[0], None).unwrap().remove(0);
        two.extend(two.clone());
        assert!(Joiner::default().push(two).is_err(), "two at once");
    }
}
