//! Images that are taken in without a copy, and what is refused.

use super::site::{WHO, open, outcome};
use crate::format::FileKind;
use crate::protection::job::{JobKind, JobState};
use crate::protection::{Refusal, Refused, Verb};
use crate::site::Site;
use crate::site::commands::import::add;
use crate::site::commands::{Accepted, On};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

type Answer = std::result::Result<Accepted, Refused>;

fn import(site: &Site, text: &str) -> Answer {
    site.command(WHO, On::Site, Verb::Import, text.as_bytes(), None)
}

/// An image with a hole, 5 MiB of data and an odd size, and what it holds.
fn image(dir: &Path, name: &str) -> (PathBuf, Vec<u8>) {
    let path = dir.join(name);
    let bytes: Vec<u8> =
        (0..(9_u32 << 20) + 100).map(|at| if at < 4 << 20 { 0 } else { (at / 997) as u8 }).collect();
    let file = File::create(&path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&bytes[4 << 20..], 4 << 20).unwrap();
    (path, bytes)
}

/// The bytes of a disk as a guest reads them.
fn read(site: &Site, vm: &str, disk: &str) -> Vec<u8> {
    let vm = site.vm(vm).unwrap();
    let group = vm.group().unwrap();
    let found =
        group.names_now(|names| names.find(vm.id(), disk).map(|disk| (disk, names.files[&disk].size)));
    let (disk, size) = found.unwrap();
    let mut bytes = vec![9; size as usize];
    group.read_head(disk, 0, &mut bytes).unwrap();
    bytes
}

fn done(site: &Site, answer: Answer) -> String {
    let job = answer.unwrap().job.unwrap();
    let said = outcome(site, &job);
    let job = site.jobs().get(&job).unwrap();
    assert_eq!(job.progress_text(), format!("{0} of {0} steps", job.steps.len()), "{said}");
    said
}

#[test]
fn an_image_is_moved_in_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (path, bytes) = image(dir.path(), "old.img");
    let said = done(&site, import(&site, &format!("path={} vm=web disk=a.raw how=rename", path.display())));
    assert!(said.starts_with("web/a.raw, ") && said.ends_with(" by rename"), "{said}");
    assert!(!path.exists());
    assert!(read(&site, "web", "a.raw") == bytes);
    // A second one beside it, and after a restart both are there.
    let (path, _) = image(dir.path(), "b.raw");
    done(&site, import(&site, &format!("path={} vm=web how=rename", path.display())));
    site.close().unwrap();
    drop(site);
    let site = open(dir.path());
    assert!(read(&site, "web", "a.raw") == bytes && read(&site, "web", "b.raw") == bytes);
    site.close().unwrap();
}

/// Shares blocks where the filesystem can, and else copies, unless it was asked for by name.
#[test]
fn a_clone_or_a_copy_leaves_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (path, bytes) = image(dir.path(), "old.img");
    let at = path.display();
    let said = done(&site, import(&site, &format!("path={at} vm=web disk=a.raw")));
    assert!(said.contains("of data") || said.contains("by reflink"), "{said}");
    let said = done(&site, import(&site, &format!("path={at} vm=web disk=b.raw how=reflink")));
    let shared = said.contains("by reflink");
    assert!(shared || said.contains("reflink"), "{said}");
    assert!(read(&site, "web", "a.raw") == bytes && std::fs::read(&path).unwrap() == bytes);
    let vm = site.vm("web").unwrap();
    let b = vm.group().unwrap().names_now(|names| names.find(vm.id(), "b.raw").is_some());
    assert_eq!(b, shared, "nothing is left of one that failed");
    site.close().unwrap();
}

#[test]
fn what_would_be_torn_or_misread_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let refused = |text: String| import(&site, &text).map(|_| ()).unwrap_err();
    let (path, bytes) = image(dir.path(), "old.img");
    let at = path.display();
    let writer = File::options().write(true).open(&path).unwrap();
    for how in ["rename", "reflink", "copy"] {
        assert_eq!(refused(format!("path={at} vm=web how={how}")).refusal, Refusal::WritersOpen, "{how}");
    }
    drop(writer);
    let reader = File::open(&path).unwrap();
    assert_eq!(refused(format!("path={at} vm=web how=rename")).refusal, Refusal::WritersOpen);
    drop(reader);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(refused(format!("path={} vm=web", link.display())).to_string().contains("symbolic link"));
    std::fs::remove_file(&link).unwrap();
    std::fs::hard_link(&path, &link).unwrap();
    let said = done(&site, import(&site, &format!("path={at} vm=web how=rename")));
    assert!(said.contains("hard links"), "{said}");
    std::fs::remove_file(&link).unwrap();
    for (magic, at, format) in
        [(&b"QFI\xfb\0\0\0\x03"[..], 0, "qcow2"), (b"vhdxfile", 0, "vhdx"), (b"conectix", 9 << 20, "vhd")]
    {
        let (other, _) = image(dir.path(), "other.img");
        let file = File::options().write(true).open(&other).unwrap();
        file.set_len((9 << 20) + 512).unwrap();
        file.write_all_at(magic, at).unwrap();
        drop(file);
        let said = refused(format!("path={} vm=web", other.display())).to_string();
        assert!(said.contains(&format!("a {format} image")) && said.contains("qemu-img convert"), "{said}");
    }
    // Moments that are kept would be lost.
    done(&site, import(&site, &format!("path={at} vm=web disk=a.raw how=copy")));
    let vm = site.vm("web").unwrap();
    let (policy, settings) = vm.policy(site.store().catalog()).unwrap();
    vm.set_policy(site.store().catalog(), policy, settings).unwrap();
    let said = refused(format!("path={at} vm=web disk=b.raw how=rename")).to_string();
    assert!(said.contains("how=copy"), "{said}");
    let said = done(&site, import(&site, &format!("path={at} vm=web disk=b.raw")));
    assert!(said.contains("of data"), "{said}");
    assert!(std::fs::read(&path).unwrap() == bytes);
    site.close().unwrap();
}

#[test]
fn a_restart_ends_the_job_as_the_disk_says() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (path, _) = image(dir.path(), "old.img");
    let at = path.display();
    done(&site, import(&site, &format!("path={at} vm=web disk=a.raw how=copy")));
    let vm = site.vm("web").unwrap();
    let left = |disk: &str| {
        let line = format!("path={at} vm=web disk={disk}");
        site.jobs().admit(JobKind::Import, "web", None, true, &line, &["copy", "name"]).unwrap().id
    };
    let (came, cut) = (left("a.raw"), left("b.raw"));
    add(&vm.group().unwrap(), &vm, "b.raw.importing", FileKind::File).unwrap();
    site.close().unwrap();
    drop((vm, site));
    let site = open(dir.path());
    let state = |id: &str| site.jobs().get(id).unwrap().state;
    assert_eq!((state(&came), state(&cut)), (JobState::Succeeded, JobState::Failed));
    let vm = site.vm("web").unwrap();
    let left = vm.group().unwrap().names_now(|names| names.find(vm.id(), "b.raw.importing"));
    assert_eq!(left, None);
    site.close().unwrap();
}

#[test]
fn the_stores_own_files_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    for file in ["store.json", "reserve"] {
        let path = site.store().dir().join(file);
        for how in ["copy", "rename"] {
            let refused = import(&site, &format!("path={} vm=web disk=a.raw how={how}", path.display()));
            assert_eq!(refused.unwrap_err().refusal, Refusal::Invalid, "{file}");
        }
        assert!(path.exists());
    }
    site.close().unwrap();
}
