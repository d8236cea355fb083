//! Formats of image files that a raw disk is easily taken for, by their magic numbers.
//!
//! A raw disk has no magic of its own; what begins like one of these is taken for one. Sources: the formats' own
//! descriptions (QEMU `docs/interop/qcow2.rst`, the VMDK, VHD and VHDX specifications, VirtualBox `VDICore.h`).

use crate::seam::File;
use crate::vocab::Result;

/// By offset, magic and name. What lies behind the end of a file isn't there.
const BEGINS: [(u64, &[u8], &str); 6] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
];
/// A dynamic VHD begins with a copy of the footer that every VHD ends with.
const VHD: &[u8] = b"conectix";

/// The format of an image that isn't raw.
pub(super) fn not_raw(image: &dyn File) -> Result<Option<&'static str>> {
    let has = |offset: u64, magic: &[u8]| -> Result<bool> {
        let mut found = vec![0; magic.len()];
        Ok(image.read_at(&mut found, offset)? == magic.len() && found == magic)
    };
    for (offset, magic, name) in BEGINS {
        if has(offset, magic)? {
            return Ok(Some(name));
        }
    }
    let footer = image.len()?.checked_sub(512);
    if has(0, VHD)? || footer.map_or(Ok(false), |at| has(at, VHD))? {
        return Ok(Some("vhd"));
    }
    Ok(None)
}
