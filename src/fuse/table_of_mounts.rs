//! The kernel's table of mounts of this process, /proc/self/mountinfo.

use crate::vocab::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountLine {
    /// Names the mount as long as it is there; another one may have it right after.
    pub id: u64,
    /// Number of its device: of a FUSE mount no other has it as long as the connection behind it lives.
    pub device: String,
    /// Where it is.
    pub point: PathBuf,
    /// Its type, such as `ext4` or `fuse.standbyfs`.
    pub kind: String,
}

/// All mounts, those made later behind those made earlier.
pub fn all() -> Result<Vec<MountLine>> {
    let text = std::fs::read(TABLE).map_err(|e| Error::io(e, "can't read the table of mounts").at(TABLE))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mount that is seen at `point`: the last one made exactly there.
pub fn top(point: &Path) -> Result<Option<MountLine>> {
    Ok(all()?.into_iter().rfind(|line| line.point == point))
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda rw`
fn parse(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut rest = fields.skip_while(|field| *field != b"-");
    let kind = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    Some(MountLine { id, device, point, kind })
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|d| matches!(d, b'0'..=b'7')));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let line = parse(b"36 35 0:52 / /srv/a\\040b rw,nosuid shared:7 master:1 - fuse.standbyfs one rw");
        let kind = "fuse.standbyfs".into();
        let expected = MountLine { id: 36, device: "0:52".into(), point: "/srv/a b".into(), kind };
        assert_eq!(line, Some(expected));
        assert_eq!(parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw").map(|l| l.kind), Some("ext4".into()));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"garbage"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(top(Path::new("/")).unwrap().is_some());
    }
}
