//! What the keeper and its workers share about one mount: a page of memory that lives as long as the mount.
//!
//! 1. The identity and the INIT request are written once, before the first worker starts.
//! 2. The INIT answer is stored before it is sent: whether it was sent can be found out by sending it again.
//! 3. `answered` is the number of the newest worker that has answered a request; it never goes back.
//!
//! The same memory holds the handle table (table.rs) from [`TABLE_AT`] on.

use crate::vocab::{Error, Kind, Result, Token};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Where the handle table begins in the shared memory, in bytes.
pub const TABLE_AT: u64 = 4096;

const MAGIC: &[u8; 8] = b"sbfsmnt1";
const ID_AT: u64 = 8;
const ANSWERED_AT: u64 = 24;
const REQUEST_AT: u64 = 64;
const REPLY_AT: u64 = 1024;
const INIT_MAX: usize = 512;

/// The shared page of a mount.
#[derive(Debug)]
pub struct MountRecord {
    memory: File,
    id: Token,
}

impl MountRecord {
    /// Shared memory for a new mount, with the INIT request that the kernel sent for it.
    pub fn create(id: Token, init: &[u8]) -> Result<Self> {
        let memory = rustix::fs::memfd_create("standbyfs-mount", MemfdFlags::CLOEXEC)
            .map_err(|e| failed("can't make shared memory", e))?;
        let record = Self { memory: File::from(memory), id };
        record.write(ID_AT, &id.0)?;
        record.write_block(REQUEST_AT, init)?;
        record.write(0, MAGIC)?;
        Ok(record)
    }

    /// The shared memory that was handed over.
    pub fn open(memory: OwnedFd) -> Result<Self> {
        let mut record = Self { memory: File::from(memory), id: Token::NONE };
        let mut magic = [0; 8];
        record.read(0, &mut magic)?;
        if &magic != MAGIC {
            return Err(Error::new(
                Kind::Unsupported,
                "the shared memory of the mount is of another version",
            )
            .advice("Unmount and mount again instead of upgrading"));
        }
        let mut id = [0; 16];
        record.read(ID_AT, &mut id)?;
        record.id = Token(id);
        Ok(record)
    }

    /// Names the mount: unique ids of requests are those of this mount only.
    pub fn id(&self) -> Token {
        self.id
    }

    /// The INIT request.
    pub fn init_request(&self) -> Result<Vec<u8>> {
        self.read_block(REQUEST_AT)?
            .ok_or_else(|| Error::new(Kind::Damaged, "the shared memory of the mount holds no INIT request"))
    }

    /// The INIT answer, once there is one.
    pub fn init_reply(&self) -> Result<Option<Vec<u8>>> {
        self.read_block(REPLY_AT)
    }

    /// Stores the INIT answer.
    pub fn set_init_reply(&self, reply: &[u8]) -> Result<()> {
        self.write_block(REPLY_AT, reply)
    }

    /// The number of the newest worker that has answered a request; 0 if none has.
    pub fn answered(&self) -> Result<u64> {
        let mut word = [0; 8];
        self.read(ANSWERED_AT, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Says that worker number `start` has answered a request.
    pub fn set_answered(&self, start: u64) -> Result<()> {
        self.write(ANSWERED_AT, &start.to_ne_bytes())
    }

    /// A second reference to the same memory.
    pub fn try_clone(&self) -> Result<Self> {
        let memory =
            self.memory.try_clone().map_err(|e| Error::io(e, "can't share the memory of the mount"))?;
        Ok(Self { memory, id: self.id })
    }

    /// The memory itself.
    pub fn memory(&self) -> &File {
        &self.memory
    }

    fn write_block(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || bytes.len() > INIT_MAX {
            return Err(Error::new(Kind::Unsupported, "an INIT exchange of a length that isn't known"));
        }
        let mut block = Vec::with_capacity(8 + bytes.len());
        block.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
        block.extend_from_slice(&crc32c::crc32c(bytes).to_ne_bytes());
        block.extend_from_slice(bytes);
        self.write(at, &block)
    }

    fn read_block(&self, at: u64) -> Result<Option<Vec<u8>>> {
        let mut head = [0; 8];
        self.read(at, &mut head)?;
        let [a, b, c, d, sum @ ..] = head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if length == 0 || length > INIT_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        self.read(at + 8, &mut bytes)?;
        // A torn block is none: its writer died in it, before anything depended on it.
        Ok((crc32c::crc32c(&bytes) == u32::from_ne_bytes(sum)).then_some(bytes))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write_all_at(bytes, at).map_err(|e| Error::io(e, "can't write shared memory"))
    }

    /// Reads; what was never written is zeros.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.memory.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => {
                    bytes[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(e, "can't read shared memory")),
            }
        }
        Ok(())
    }
}

impl AsFd for MountRecord {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn failed(what: &str, errno: rustix::io::Errno) -> Error {
    Error::io(errno.into(), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopen(record: &MountRecord) -> Result<MountRecord> {
        MountRecord::open(record.memory().try_clone().unwrap().into())
    }

    #[test]
    fn what_one_process_stores_the_next_reads() {
        let record = MountRecord::create(Token([9; 16]), b"init").unwrap();
        assert_eq!(record.init_reply().unwrap(), None);
        assert_eq!(record.answered().unwrap(), 0);
        record.set_init_reply(b"reply").unwrap();
        record.set_answered(3).unwrap();
        let next = reopen(&record).unwrap();
        assert_eq!(next.id(), Token([9; 16]));
        assert_eq!(next.init_request().unwrap(), b"init");
        assert_eq!(next.init_reply().unwrap().as_deref(), Some(&b"reply"[..]));
        assert_eq!(next.answered().unwrap(), 3);
    }

    #[test]
    fn a_torn_answer_is_none_and_foreign_memory_is_refused() {
        let record = MountRecord::create(Token([9; 16]), b"init").unwrap();
        record.set_init_reply(b"reply").unwrap();
        record.memory().write_all_at(b"x", REPLY_AT + 10).unwrap();
        assert_eq!(record.init_reply().unwrap(), None);
        record.memory().write_all_at(b"x", 0).unwrap();
        assert_eq!(reopen(&record).unwrap_err().kind(), Kind::Unsupported);
    }
}
