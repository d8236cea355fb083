//! QEMU's own way with images: locks, discards, zeroes.

use super::harness::*;

fn tool(name: &str) {
    assert!(
        sh_output(&format!("command -v {name}")).status.success(),
        "these tests need {name} (qemu-utils)"
    );
}

#[test]
fn images_are_locked_as_on_a_local_filesystem() {
    tool("qemu-io");
    let mount = Mount::new();
    let disk = mount.path("disk.qcow2").display().to_string();
    sh(&format!("qemu-img create -f qcow2 {disk} 16M"));
    let mut first = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", &disk])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let second = || sh_output(&format!("qemu-io -f qcow2 {disk} -c 'write 0 4k'"));
    until("a second writer is refused", PATIENCE, || {
        String::from_utf8_lossy(&second().stderr).contains("lock")
    });
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    let output = second();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    mount.stop();
}

#[test]
fn discards_and_zeroes_arrive_as_what_they_are() {
    tool("qemu-io");
    let mount = Mount::new();
    let disk = mount.path("disk.raw").display().to_string();
    sh(&format!("qemu-img create -f raw {disk} 16M"));
    mount.forget_trace();
    sh(&format!(
        "qemu-io -f raw -d unmap -t none {disk} -c 'write -P 5 0 1M' -c 'discard 64k 64k' \
         -c 'write -z 256k 64k' -c 'write -z -u 512k 64k' -c 'flush' -c 'read -P 0 64k 64k' -c 'read -P 5 0 64k'"
    ));
    let trace = mount.trace();
    assert!(trace.contains("1 fallocate 0x3 65536 65536"), "{trace}");
    assert!(trace.contains("1 fallocate 0x10 262144 65536"), "{trace}");
    assert!(trace.contains("1 fallocate 0x3 524288 65536"), "{trace}");
    assert!(trace.contains("1 fsync true"), "{trace}");
    mount.stop();
}

#[test]
fn images_are_made_converted_and_compared() {
    tool("qemu-img");
    let mount = Mount::new();
    let at = mount.options.mount.display();
    sh(&format!(
        "cd {at} && qemu-img create -f qcow2 a.qcow2 64M && qemu-io a.qcow2 -c 'write -P 3 1M 3M' && \
         qemu-img convert -O raw -t none -T none a.qcow2 a.raw && qemu-img compare a.qcow2 a.raw && \
         qemu-img map --output=json a.raw >/dev/null && qemu-img check a.qcow2"
    ));
    for cache in ["-t none -i native", "-t none -i io_uring", "-t none -i threads", "-t writeback"] {
        sh(&format!("qemu-io -f raw {cache} {at}/a.raw -c 'write -P 9 8M 4M' -c 'read -P 9 8M 4M'"));
    }
    mount.stop();
}
