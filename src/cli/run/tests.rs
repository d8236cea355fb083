//! Commands against a fake mount: a directory with plain files, and a control that answers like a daemon.

use super::*;
use crate::cli::mount::{Control, Exchange};
use clap::Parser;
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// What the fake daemon heard.
type Heard = Rc<RefCell<Vec<(String, String)>>>;

/// Answers as the first entry says whose file it is; else with a job `j1`.
struct Fake {
    root: std::path::PathBuf,
    heard: Heard,
    answers: Vec<(&'static str, i32, &'static str)>,
}

impl Control for Fake {
    fn exchange(&self, path: &Path, line: &str) -> io::Result<Exchange> {
        let file = path.strip_prefix(&self.root).unwrap().display().to_string();
        self.heard.borrow_mut().push((file.clone(), line.to_owned()));
        let (_, errno, shown) = self.answers.iter().find(|(name, ..)| *name == file).copied().unwrap_or((
            "",
            0,
            "outcome: accepted\noutcome-job: j1\n",
        ));
        let written = if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
        Ok(Exchange { written, shown: shown.to_owned() })
    }
}

struct Types(Option<String>);

impl Ask for Types {
    fn ask(&self, _: &str) -> Option<String> {
        self.0.clone()
    }
}

/// A fake mount and what came of one command.
struct Case {
    dir: tempfile::TempDir,
    answers: Vec<(&'static str, i32, &'static str)>,
    typed: Option<String>,
}

#[derive(Debug)]
struct Ran {
    exit: Exit,
    out: String,
    failure: String,
    heard: Vec<(String, String)>,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("site/status", "site: london\n");
        put(
            "vms/web01/status",
            "name: web01\nstate: standby\ndirection: paris->london\nhealth: ok\nrpo: 0.4s\n\
             backlog: 0B\nlatest-point: none\njob: none\nflags: none\nnext: Nothing needs to be done.\n",
        );
        put("vms/web01/status.json", "{\"name\":\"web01\",\"state\":\"standby\"}\n");
        put(
            "vms/web01/health",
            "health: critical\nreason: name=split-brain severity=critical since=x do=\"Decide.\"\n",
        );
        put(
            "vms/web01/check",
            "failing: 1\nrule: command=planned name=peer-unreachable result=fails why=\"a b\" do=c\n",
        );
        put("vms/web01/policy", "window: 24h\n");
        put(
            "vms/web01/control/commit",
            "verb: commit\nloss: choice=points bytes=4MiB writes=9 time=0.0s at-least=no\n",
        );
        for point in ["2026-11-20T21-33-33.120Z-crash", "2026-11-20T22-00-00.000Z-user-before", "latest"] {
            fs::create_dir_all(dir.path().join("vms/web01/recovery-points").join(point)).unwrap();
        }
        put("vms/db 02/status", "name: \"db 02\"\nstate: protected\n");
        put(
            "jobs/j1/status",
            "job: j1\nkind: failover\nsubject: web01\nstate: succeeded\noutcome: disks-writable\n",
        );
        put(
            "site/events",
            "2026-11-20T21:33:33.120Z site=london subject=web01 kind=state text=standby\n\
             2026-11-20T21:33:34.120Z site=london subject=db kind=state text=protected\n\
             2026-11-20T21:33:35.120Z site=london subject=web01 kind=job text=\"half a line",
        );
        Self { dir, answers: Vec::new(), typed: None }
    }

    fn run(&self, args: &str) -> Ran {
        self.run_args(&args.split_whitespace().collect::<Vec<_>>())
    }

    fn run_args(&self, args: &[&str]) -> Ran {
        let cli = Cli::try_parse_from([&["standbyctl"], args].concat()).unwrap();
        let heard = Heard::default();
        let root = self.dir.path().to_owned();
        let fake = Fake { root: root.clone(), heard: Rc::clone(&heard), answers: self.answers.clone() };
        let mount = Mount::new(root, Box::new(fake));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ask = Types(self.typed.clone());
        let mut around = Surroundings {
            out: &mut out,
            err: &mut err,
            ask: &ask,
            progress: false,
            id: &|| "ID".to_owned(),
        };
        let result = run(&cli, &mount, &mut around);
        let (exit, failure) = match result {
            Ok(exit) => (exit, String::new()),
            Err(failure) => (failure.exit, failure.message),
        };
        let heard = heard.borrow().clone();
        Ran { exit, out: String::from_utf8(out).unwrap(), failure, heard }
    }
}

fn heard(ran: &Ran) -> Vec<(&str, &str)> {
    ran.heard.iter().map(|(file, line)| (file.as_str(), line.as_str())).collect()
}

#[test]
fn status_as_table_text_json_and_next_step() {
    let case = Case::new();
    let ran = case.run("status");
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("NAME   STATE      DIRECTION"), "{}", ran.out);
    assert!(lines[1].starts_with("db 02  protected  -"), "{}", ran.out);
    assert!(lines[2].starts_with("web01  standby    paris->london  ok      0.4s  0B"), "{}", ran.out);
    assert!(case.run("status web01").out.starts_with("name: web01\nstate: standby\n"));
    assert_eq!(case.run("status web01 --json").out, "[{\"name\":\"web01\",\"state\":\"standby\"}]\n");
    assert_eq!(case.run("status web01 --next").out, "web01: Nothing needs to be done.\n");
    let missing = case.run("status nobody");
    assert_eq!(missing.exit, Exit::NotFound);
    assert_eq!(missing.failure, "there is no VM or group `nobody`; known: db 02, web01");
    assert_eq!(case.run("status ../site").exit, Exit::NotFound);
}

#[test]
fn what_only_reads() {
    let case = Case::new();
    let points = case.run("points web01");
    assert_eq!(
        points.out,
        "TIME                      KIND   LABEL   NAME\n\
         2026-11-20T21:33:33.120Z  crash          2026-11-20T21-33-33.120Z-crash\n\
         2026-11-20T22:00:00.000Z  user   before  2026-11-20T22-00-00.000Z-user-before\n"
    );
    assert!(case.run("points web01 --json").out.contains("\"kind\":\"user\",\"label\":\"before\""));
    let check = case.run("check web01");
    assert_eq!(check.exit, Exit::Refused);
    assert!(check.out.contains("planned  peer-unreachable  fails   a b  c"), "{}", check.out);
    assert!(case.run("health web01").out.starts_with("critical\nSEVERITY"));
    let jobs = case.run("jobs").out;
    assert!(jobs.contains("j1   failover  web01    succeeded  -     -         disks-writable"), "{jobs}");
    assert!(case.run("jobs j1").out.starts_with("job: j1\n"));
    assert_eq!(case.run("jobs j9").exit, Exit::NotFound);
    let events = case.run("events web01").out;
    assert_eq!(events.lines().count(), 1, "the last line isn't whole yet: {events}");
    assert!(case.run("events --last 1").out.contains("subject=db"));
    assert!(case.run("completion bash").out.contains("_standbyctl()"));
}

#[test]
fn a_command_is_one_line_and_its_job_is_waited_for() {
    let case = Case::new();
    let ran = case.run("failover web01 latest-processed --leave-source --start no --expect-state standby");
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let line = "latest-processed source=leave start=no expect-state=standby id=ID";
    assert_eq!(heard(&ran), [("vms/web01/control/failover", line)]);
    assert_eq!(ran.out, "web01: disks-writable (job j1)\n");
    let ran = case.run("protect web01 --to paris --no-wait --json --id mine");
    assert_eq!(heard(&ran), [("vms/web01/control/protect", "protect to=paris id=mine")]);
    assert_eq!(ran.out, "{\"job\":\"j1\",\"name\":\"web01\",\"outcome\":\"accepted\"}\n");
    let ran = case.run_args(&["pause", "web01", "db 02"]);
    assert_eq!(ran.heard.len(), 2);
    let ran = case.run("import images/a.raw --vm web01 --how reflink");
    let (file, line) = &ran.heard[0];
    assert_eq!(file, "site/control/import");
    assert!(
        line.starts_with("import path=/") && line.ends_with("/images/a.raw vm=web01 how=reflink id=ID"),
        "{line}"
    );
    assert_eq!(heard(&case.run("jobs j1 --cancel")), [("jobs/j1/control", "cancel")]);
    assert_eq!(case.run("jobs j1 --wait").out, "web01: disks-writable (job j1)\n");
}

#[test]
fn data_goes_away_only_after_the_name_was_typed() {
    let mut case = Case::new();
    let ran = case.run("commit web01");
    assert_eq!((ran.exit, ran.heard.len()), (Exit::Usage, 0), "no terminal: {ran:?}");
    case.typed = Some("yes\n".into());
    assert_eq!(case.run("commit web01").exit, Exit::Refused);
    case.typed = Some("web01\n".into());
    let ran = case.run("commit web01 --points keep");
    assert_eq!(heard(&ran), [("vms/web01/control/commit", "commit points=keep confirm=web01 id=ID")]);
    case.typed = None;
    let ran = case.run("rollback web01 --yes");
    assert_eq!(heard(&ran), [("vms/web01/control/rollback", "rollback confirm=web01 id=ID")]);
    let ran = case.run("failover web01 --force --yes");
    assert_eq!(heard(&ran), [("vms/web01/control/failover", "force confirm=web01 id=ID")]);
    assert_eq!(case.run("unprotect web01 --delete").exit, Exit::Usage);
    assert_eq!(case.run("unprotect web01").heard.len(), 1);
    case.answers = vec![(
        "vms/web01/control/commit",
        0,
        "outcome: dry-run\noutcome-step: does=\"delete 3 points\"\noutcome-outage: 0.0s\n",
    )];
    let ran = case.run("commit web01 --dry-run");
    assert_eq!(heard(&ran), [("vms/web01/control/commit", "commit dry-run=yes")]);
    assert_eq!(ran.out, "1. delete 3 points\nexpected outage: 0.0s\n");
}

/// What the loss of a verb looks like to a person who is asked.
#[test]
fn the_loss_is_shown_before_the_question() {
    let case = Case::new();
    let sheet = crate::cli::sheet::Sheet::parse(
        &fs::read_to_string(case.dir.path().join("vms/web01/control/commit")).unwrap(),
    );
    let text = super::look::losses(&sheet);
    assert!(text.contains("CHOICE") && text.contains("points") && text.contains("4MiB"), "{text}");
}

#[test]
fn refusals_have_their_exit_codes() {
    let shown = |refusal: &'static str| -> &'static str {
        Box::leak(
            format!(
                "outcome: refused\noutcome-refusal: {refusal}\noutcome-why: because\noutcome-do: Wait.\n"
            )
            .into_boxed_str(),
        )
    };
    for (refusal, errno, exit) in [
        ("busy", libc::EBUSY, Exit::Refused),
        ("wrong-site", libc::EPERM, Exit::Refused),
        ("point-not-found", libc::ENOENT, Exit::NotFound),
        ("peer-unreachable", libc::ENOTCONN, Exit::Unreachable),
        ("expectation-failed", libc::ESTALE, Exit::Stale),
        ("fenced", libc::EPERM, Exit::Stale),
        ("invalid", libc::EINVAL, Exit::Usage),
        ("not-durable", libc::EIO, Exit::Failed),
    ] {
        let mut case = Case::new();
        case.answers = vec![("vms/web01/control/resync", errno, shown(refusal))];
        let ran = case.run("resync web01");
        assert_eq!(ran.exit, exit, "{refusal}");
        assert_eq!(ran.failure, format!("{refusal}: because. Wait."));
        assert_eq!(ran.out, "");
    }
    // A slip is told before anything is written.
    let ran = Case::new().run("failover web01 newest");
    assert_eq!((ran.exit, ran.heard.len()), (Exit::Usage, 0));
    assert!(ran.failure.contains("`newest` names no moment"), "{}", ran.failure);
    // One of several is refused: the others are done, and the failure decides.
    let mut case = Case::new();
    case.answers = vec![("vms/db 02/control/pause", libc::EPERM, shown("not-protected"))];
    let ran = case.run_args(&["pause", "db 02", "web01"]);
    assert_eq!((ran.exit, ran.heard.len()), (Exit::Refused, 2));
    assert_eq!(ran.out, "web01: disks-writable (job j1)\n");
}

#[test]
fn pairing_and_policies() {
    let mut case = Case::new();
    case.answers = vec![("site/control/pair", 0, "outcome: done\noutcome-says: TOKEN\n")];
    let ran = case.run("pair create");
    assert_eq!((ran.out.as_str(), heard(&ran)), ("TOKEN\n", vec![("site/control/pair", "create id=ID")]));
    let ran = case.run("pair accept abc=");
    assert_eq!(heard(&ran), [("site/control/pair", "accept token=\"abc=\" id=ID")]);
    let ran = case.run("policy web01 window=48h compress=off");
    assert_eq!(heard(&ran), [("vms/web01/policy", "window: 48h\ncompress: off")]);
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Ok, "window: 24h\n"));
    assert_eq!(case.run("policy web01 window").exit, Exit::Usage);
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    for bad in [
        "drop web01",
        "drop web01 --branch a --seed b",
        "jobs --cancel",
        "unprotect a --keep --delete",
        "protect",
    ] {
        let args = std::iter::once("standbyctl").chain(bad.split_whitespace());
        assert!(Cli::try_parse_from(args).is_err(), "{bad}");
    }
}
