//! Which names VMs, their files, sites and peers may have. Pure.
//!
//! N1. A name that is accepted is one component of a path, is printed as it is on one line, and is none of the
//!     names that the tree of a mount uses itself.

use crate::vocab::{Error, Kind, Result};

/// Longest component of a path, in bytes, as on any Linux filesystem.
pub const NAME_MAX: usize = 255;
/// Longest path inside a VM, in bytes.
pub const PATH_MAX: usize = 1024;
/// Deepest path inside a VM, in components.
pub const DEPTH_MAX: usize = 32;
/// Longest name of a VM, group or site, in bytes: names of points, clones and temporary files are made from it.
pub const LABEL_MAX: usize = 128;

fn refused(what: String) -> Error {
    Error::new(Kind::Invalid, what)
}

/// One component of a path: not empty, `.` or `..`, no `/`, no control character, at most [`NAME_MAX`] bytes.
pub fn check_component(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(refused(format!("`{name}` is no name")));
    }
    if name.len() > NAME_MAX {
        return Err(refused(format!(
            "the name is {} bytes long, at most {NAME_MAX} are allowed",
            name.len()
        )));
    }
    match name.chars().find(|c| *c == '/' || c.is_control()) {
        Some(c) => Err(refused(format!("a name can't contain {c:?}"))),
        None => Ok(()),
    }
}

/// A VM: an entry of `disks/` and `vms/`.
pub fn check_vm(name: &str) -> Result<()> {
    check_component(name)?;
    if name.len() > LABEL_MAX {
        return Err(refused(format!("a VM's name has at most {LABEL_MAX} bytes")));
    }
    if name.starts_with('.') {
        // Editors, `cp` and `rsync` make such names for a moment; as a VM each would get a group.
        return Err(refused(format!("`{name}`: a VM's name can't begin with a dot")));
    }
    if name.trim() != name {
        return Err(refused(format!("`{name}`: a VM's name can't begin or end with a blank")));
    }
    Ok(())
}

/// A path inside a VM, with `/` between components.
pub fn check_path(path: &str) -> Result<()> {
    if path.len() > PATH_MAX || path.split('/').count() > DEPTH_MAX {
        return Err(refused(format!("a path has at most {PATH_MAX} bytes and {DEPTH_MAX} components")));
    }
    path.split('/').try_for_each(check_component)
}

/// The name of a site, a peer or a group: it is typed in commands (`to=london`) and is a directory's name.
pub fn check_label(name: &str) -> Result<()> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > LABEL_MAX || !name.chars().all(fits) || name.starts_with(['.', '-']) {
        return Err(refused(format!(
            "`{}` can't be this name: letters, digits, `.`, `_`, `-`, at most {LABEL_MAX} bytes, first a letter or digit",
            name.escape_debug()
        )));
    }
    Ok(())
}

/// Whether a file in a VM's own directory is a disk by its name; every other one is a companion.
pub fn is_disk(path: &str) -> bool {
    const ENDINGS: &[&str] = &["raw", "img", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhd", "vhdx", "vpc"];
    let name = path.rsplit_once('.').filter(|(stem, _)| !stem.is_empty());
    !path.contains('/') && name.is_some_and(|(_, end)| ENDINGS.iter().any(|e| end.eq_ignore_ascii_case(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_and_refused() {
        for good in ["web01", "Büro PC 2", "a", "db:1", "x".repeat(LABEL_MAX).as_str()] {
            assert!(check_vm(good).is_ok(), "{good}");
        }
        let long = "x".repeat(LABEL_MAX + 1);
        for bad in ["", ".", "..", ".web01.swp", "a/b", "a\nb", "a\0b", " a", "a ", "a\u{7f}", &long] {
            assert!(check_vm(bad).is_err(), "{bad:?}");
        }
        for good in ["disk.raw", "nvram/vars.fd", ".hidden", "a/b/c", "a b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        let deep = vec!["d"; DEPTH_MAX + 1].join("/");
        for bad in ["", "/a", "a/", "a//b", "a/../b", "./a", "a/\n", &deep, &"x".repeat(NAME_MAX + 1)] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        for good in ["london", "site-2", "서울", "a.b_c"] {
            assert!(check_label(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "a=b", "a\"", "a\u{1b}[2J", &long] {
            assert!(check_label(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disks_and_companions() {
        for disk in ["a.raw", "a.b.QCOW2", "x.img"] {
            assert!(is_disk(disk), "{disk}");
        }
        for companion in ["a.xml", "raw", ".raw", "sub/a.raw", "a.raw.bak", ""] {
            assert!(!is_disk(companion), "{companion}");
        }
    }
}
