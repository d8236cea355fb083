//! How programs write: each ends in one command, whose refusal reaches the program.

use super::*;
use crate::fuse::harness::{sh, sh_output};

/// Shell commands that write the line `$L` to the file `$F`.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash -c 'echo \"$L\" > \"$F\"'"),
    ("dash", "sh -c 'printf \"%s\\n\" \"$L\" > \"$F\"'"),
    ("append", "bash -c 'echo \"$L\" >> \"$F\"'"),
    ("no line end", "printf %s \"$L\" > \"$F\""),
    ("carriage return", "printf '%s\\r\\n' \"$L\" > \"$F\""),
    ("tee", "set -o pipefail; echo \"$L\" | tee \"$F\" > /dev/null"),
    ("dd", "echo \"$L\" | dd of=\"$F\" 2>/dev/null"),
    ("dd notrunc", "echo \"$L\" | dd of=\"$F\" conv=notrunc bs=4k 2>/dev/null"),
    ("cp", "T=$(mktemp) && echo \"$L\" > $T && cp --no-preserve=all $T \"$F\"; R=$?; rm $T; exit $R"),
    (
        "with open",
        "python3 -c \"import os\nwith open(os.environ['F'], 'w') as f: f.write(os.environ['L'] + '\\n')\"",
    ),
    (
        "write_text",
        "python3 -c \"import os, pathlib; pathlib.Path(os.environ['F']).write_text(os.environ['L'])\"",
    ),
    (
        "flush and close",
        "python3 -c \"import os\nf = open(os.environ['F'], 'w'); f.write(os.environ['L'] + '\\n'); f.flush(); f.close()\"",
    ),
    (
        "os.write",
        "python3 -c \"import os; os.write(os.open(os.environ['F'], os.O_WRONLY), os.environ['L'].encode())\"",
    ),
    ("perl", "perl -e 'open(F, \">\", $ENV{F}) or die; print F \"$ENV{L}\\n\"; close(F) or die \"$!\"'"),
    ("awk", "awk 'BEGIN { print ENVIRON[\"L\"] > ENVIRON[\"F\"]; exit close(ENVIRON[\"F\"]) != 0 }'"),
];

fn run(program: &str, file: &std::path::Path, line: &str) -> std::process::Output {
    sh_output(&format!("export F='{}' L='{line}'; {program}", file.display()))
}

#[test]
fn each_program_gives_one_command() {
    let mount = site();
    let scrub = mount.path("vms/web/control/scrub");
    for (at, (name, program)) in PROGRAMS.iter().enumerate() {
        let done = run(program, &scrub, "scrub latest");
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(jobs(&mount), at + 1, "{name}");
        ended(&mount, &format!("j{}", at + 1));
    }
    mount.stop();
}

#[test]
fn each_program_hears_a_refusal_and_it_is_one_event() {
    let mount = site();
    let pause = mount.path("vms/web/control/pause");
    for (at, (name, program)) in PROGRAMS.iter().enumerate() {
        let done = run(program, &pause, "pause");
        assert!(!done.status.success(), "{name} was not told");
        let events = fs::read_to_string(mount.path("site/events")).unwrap();
        assert_eq!(events.matches("text=pause").count(), at + 1, "{name}:\n{events}");
    }
    mount.stop();
}

#[test]
fn two_lines_in_two_writes_are_one_command_and_an_error() {
    let mount = site();
    let scrub = mount.path("vms/web/control/scrub");
    // bash writes each line by itself, dash all at once.
    let done = run("bash -c 'printf \"scrub\\npause\\n\" > \"$F\"'", &scrub, "");
    assert!(!done.status.success());
    assert_eq!(jobs(&mount), 1, "the first line was accepted before the second came");
    ended(&mount, "j1");
    let done = run("dash -c 'printf \"scrub\\npause\\n\" > \"$F\"'", &scrub, "");
    assert!(!done.status.success());
    assert_eq!(jobs(&mount), 1, "two lines in one write are no command");
    mount.stop();
}

#[test]
fn tools_go_over_the_tree() {
    let mount = site();
    tell(&mount.path("vms/web/control/scrub"), "scrub").job();
    ended(&mount, "j1");
    let at = mount.options.mount.display();
    let out = mount.below("copy");
    let found = sh(&format!("find {at} -type f -name status | sort"));
    assert_eq!(found.lines().count(), 3, "{found}");
    assert!(
        sh(&format!("grep -r not-protected {at}/vms {at}/site {at}/jobs {at}/README | wc -l")).trim() != "0"
    );
    sh(&format!("mkdir {0} && cp -a {at}/vms {at}/site {at}/jobs {at}/README {0}/", out.display()));
    sh(&format!("rsync -a {at}/vms {at}/site {at}/jobs {0}/again/", out.display()));
    for dir in ["", "again/"] {
        let same = sh_output(&format!("cmp {at}/vms/web/policy {0}/{dir}vms/web/policy", out.display()));
        assert!(same.status.success(), "{dir}: {}", String::from_utf8_lossy(&same.stdout));
    }
    let listed = sh(&format!("cd {at}/jobs/j1 && ls && cat status progress log control"));
    assert!(
        listed.contains("kind: scrub\n")
            && listed.contains("command: scrub\n")
            && listed.contains("usage: cancel"),
        "{listed}"
    );
    // `tail -f` sees what comes later.
    let followed = sh_output(&format!(
        "timeout 10 tail -n 0 -f {at}/site/events > {0}/tail & sleep 1; echo pause > {at}/vms/web/control/pause; \
         for n in $(seq 80); do grep -q text=pause {0}/tail && exit 0; sleep 0.1; done; exit 1",
        out.display()
    ));
    assert!(followed.status.success());
    mount.stop();
}

#[test]
fn only_the_owner_and_its_group_may_command() {
    let mount = site();
    let scrub = mount.path("vms/web/control/scrub");
    let shown = sh(&format!("stat -c '%a %U' {}", scrub.display()));
    assert_eq!(shown.trim(), "660 root");
    sh(&format!("chmod 755 {}", mount.options.mount.parent().unwrap().display()));
    let other =
        |command: &str| sh_output(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups {command}"));
    assert!(!other(&format!("sh -c 'echo scrub > {}'", scrub.display())).status.success());
    assert!(!other(&format!("cat {}", scrub.display())).status.success());
    assert!(other(&format!("cat {}", mount.path("vms/web/status").display())).status.success());
    assert_eq!(jobs(&mount), 0);
    mount.stop();
}
