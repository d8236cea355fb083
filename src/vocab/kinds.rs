//! Kinds of records and codecs of payloads: the numbers are part of the formats.

/// What a record does. The number is on disk, on the wire and in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// Bytes of a file.
    Write = 1,
    /// A range that reads as zeros from now on and stays allocated.
    Zero = 2,
    /// A range that reads as zeros from now on and needs no room.
    Discard = 3,
    /// A new size of a file; `offset` is the new size, `length` the old one.
    Resize = 4,
    /// The first record of an epoch; its payload is the epoch's row.
    Epoch = 5,
    /// Binds an ordinal to a file or directory; the payload says to which.
    Add = 6,
    /// A new path of a file or directory.
    Rename = 7,
    /// A file or directory is gone.
    Remove = 8,
    /// A new policy.
    Config = 9,
    /// Staging only: a range as it is at the moment of the newest record before it. Has no seq.
    Fill = 32,
    /// Holds only: a range of the base before a round overwrites it. Has no seq. Reserved.
    PreImage = 33,
}

impl RecordKind {
    /// The kind with this number, if this version knows it.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Write,
            2 => Self::Zero,
            3 => Self::Discard,
            4 => Self::Resize,
            5 => Self::Epoch,
            6 => Self::Add,
            7 => Self::Rename,
            8 => Self::Remove,
            9 => Self::Config,
            32 => Self::Fill,
            33 => Self::PreImage,
            _ => return None,
        })
    }

    /// Whether records of this kind change bytes of a file's content, so that the index has them.
    pub fn is_content(self) -> bool {
        matches!(self, Self::Write | Self::Zero | Self::Discard | Self::Fill | Self::PreImage)
    }

    /// Whether records of this kind have a place on a line.
    pub fn has_seq(self) -> bool {
        !matches!(self, Self::Fill | Self::PreImage)
    }
}

/// How a payload is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Plain = 0,
    /// All zeros: nothing is stored.
    Zeros = 1,
    /// One zstd frame. On the wire only.
    Zstd = 2,
}

impl Codec {
    /// The codec with this number, if this version knows it.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Plain,
            1 => Self::Zeros,
            2 => Self::Zstd,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable() {
        for number in 0..=255 {
            if let Some(kind) = RecordKind::from_u8(number) {
                assert_eq!(kind as u8, number);
            }
            if let Some(codec) = Codec::from_u8(number) {
                assert_eq!(codec as u8, number);
            }
        }
    }
}
