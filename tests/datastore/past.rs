//! `vms/` and past moments.

use super::datastore;
use std::fs;

#[test]
fn a_mount_says_what_it_is() {
    let mount = datastore();
    fs::create_dir(mount.path("disks/web")).unwrap();
    fs::write(mount.path("disks/web/d.raw"), vec![1; 4096]).unwrap();
    let readme = fs::read_to_string(mount.path("README")).unwrap();
    assert!(readme.contains("site here"), "{readme}");
    let status = fs::read_to_string(mount.path("vms/web/status")).unwrap();
    assert!(status.contains("\nwritable: yes\n") && status.contains("name=web/d.raw"), "{status}");
    let json = fs::read_to_string(mount.path("vms/web/status.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["name"], &json["disks"][0]["size"]), (&"web".into(), &4096.into()));
    assert!(fs::read_to_string(mount.path("site/status")).unwrap().starts_with("site: here\n"));
    assert!(fs::write(mount.path("vms/web/status"), "x").is_err());
    mount.stop();
}
