use super::*;

const XML: &str = r#"<?xml version='1.0'?>
<!-- kept: <name>no</name> -->
<domain type='kvm' xmlns:x="urn:x">
  <name>web01</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <metadata><x:owner note="a &amp; b">ops</x:owner></metadata>
  <os><nvram template='/usr/share/OVMF/VARS.fd'>/srv/standby/disks/web01/vars.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/srv/standby/disks/web01/root.raw' index="1"/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file'><source file='/srv/standby-other/x.raw'/><target dev='vdb'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='prod'/><model type='virtio'/></interface>
    <interface type='bridge'><source bridge='br-dmz'></source></interface>
    <interface type='user'/>
  </devices>
</domain>
"#;

fn same() -> Rendering {
    Rendering { networks: Networks { same_names: true, ..Networks::default() }, ..Rendering::default() }
}

#[test]
fn what_is_not_named_is_copied_byte_for_byte() {
    let rendered = render(XML, &same()).unwrap();
    assert_eq!(rendered, Rendered { xml: XML.into(), name: "web01".into(), without: vec![] });
}

#[test]
fn paths_change_at_borders_only() {
    let how = Rendering { paths: vec![("/srv/standby/".into(), "/mnt/b&c".into())], ..same() };
    let xml = render(XML, &how).unwrap().xml;
    let expected = XML
        .replace("'/srv/standby/disks/web01/root.raw'", "\"/mnt/b&amp;c/disks/web01/root.raw\"")
        .replace(">/srv/standby/disks/web01/vars.fd<", ">/mnt/b&amp;c/disks/web01/vars.fd<");
    assert_eq!(xml, expected);
    assert!(xml.contains("/srv/standby-other/x.raw"));
    let back = Rendering { paths: vec![("/mnt/b&c".into(), "/srv/standby".into())], ..same() };
    assert_eq!(render(&xml, &back).unwrap().xml.replace('"', "'"), XML.replace('"', "'"));
    assert_eq!(moved("/srv/standby", &how.paths).as_deref(), Some("/mnt/b&c"));
    assert_eq!(moved("x/srv/standby", &how.paths), None);
    assert_eq!(moved("/srv", &[(String::new(), "/x".into())]), None);
}

#[test]
fn networks_are_mapped_and_an_interface_without_one_is_left_out() {
    let map = BTreeMap::from([("prod".to_owned(), "prod-b".to_owned())]);
    let how =
        Rendering { networks: Networks { map: map.clone(), same_names: false }, ..Rendering::default() };
    let rendered = render(XML, &how).unwrap();
    assert_eq!(rendered.without, ["br-dmz"]);
    assert!(rendered.xml.contains(r#"<source network="prod-b"/><model type='virtio'/>"#), "{}", rendered.xml);
    assert!(rendered.xml.contains("52:54:00:00:00:01") && rendered.xml.contains("<interface type='user'/>"));
    assert!(!rendered.xml.contains("br-dmz"));
    let none = render(XML, &Rendering::default()).unwrap();
    assert_eq!(none.without, ["prod", "br-dmz"]);
    assert!(!none.xml.contains("52:54:00"));
    let both = Networks { map, same_names: true };
    assert_eq!((both.here("prod").as_deref(), both.here("x").as_deref()), (Some("prod-b"), Some("x")));
}

#[test]
fn a_clone_gets_its_own_name_uuid_and_generation() {
    let how = Rendering {
        name: Some("web01-test & <1>".into()),
        uuid: Some(uuid_text([0xff; 16])),
        genid: Some(uuid_text([0; 16])),
        ..same()
    };
    let rendered = render(XML, &how).unwrap();
    assert_eq!(rendered.name, "web01-test & <1>");
    assert!(rendered.xml.contains("<name>web01-test &amp; &lt;1&gt;</name>"), "{}", rendered.xml);
    assert!(rendered.xml.contains("<uuid>ffffffff-ffff-4fff-bfff-ffffffffffff</uuid>"));
    assert_eq!(rendered.xml.matches("<genid>00000000-0000-4000-8000-000000000000</genid>").count(), 1);
    for old in ["<genid/>", "<genid>22222222-2222-4222-8222-222222222222</genid>"] {
        let with = XML.replace("<uuid>", &format!("{old}<uuid>"));
        let xml = render(&with, &how).unwrap().xml;
        assert_eq!(xml.matches("genid>").count(), 2, "{xml}");
        assert!(xml.contains("<genid>00000000-"), "{xml}");
        assert_eq!(render(&with, &same()).unwrap().xml, with);
    }
    let bare = render("<domain><name>a</name></domain>", &how).unwrap().xml;
    assert!(bare.contains("<uuid>ffffffff-") && bare.contains("<genid>0000"), "{bare}");
}

#[test]
fn what_is_no_domain_is_refused() {
    for bad in [
        "",
        "x",
        "<network><name>a</name></network>",
        "<domain><name>a</name>",
        "<domain/>",
        "<domain></domain>",
        "<domain><name>a</nam></domain>",
        "<domain><name>a</name></domain><domain></domain>",
    ] {
        assert!(render(bad, &same()).is_err(), "{bad}");
    }
}
