use super::*;
use crate::protection::admission::Allowed;
use crate::protection::control::Line;
use crate::protection::health::{Health, Reason, Seen, Severity};
use crate::protection::report::*;
use crate::protection::{Column, Flags, Refusal, State, Verb, preconditions};
use crate::vocab::{EpochId, Moment};

const S: i64 = 1_000_000_000;

fn at(seq: u64, seconds: i64) -> At {
    At { moment: Moment::new(EpochId([0x11; 16]), seq), time: seconds * S }
}

fn report() -> StatusReport {
    StatusReport {
        name: "web01".into(),
        uuid: "ab".repeat(16),
        group: None,
        site: "london".into(),
        state: State::Standby,
        flags: Flags { testing: true, ..Flags::default() },
        direction: Some(("paris".into(), "london".into())),
        peer: Some(PeerReport { name: "paris".into(), connected: Ok(5 * S), writing: Some(true) }),
        health: Severity::Ok,
        rpo: Rpo::Age(420_000_000),
        backlog: Lacking::Bytes(0),
        head: Some(at(12, 60)),
        processed: Some(at(12, 60)),
        oldest: None,
        points: (Some("1970-01-01T00-01-00.000Z-crash".into()), 3),
        used: 64 << 20,
        allowance: 8 << 30,
        appended: (120, 30),
        job: None,
        start_wait: None,
        last_test: None,
        disks: vec![DiskReport {
            name: "web01/root disk.raw".into(),
            role: "os",
            uuid: "cd".repeat(16),
            size: 20 << 30,
            allocated: 4096,
        }],
        next: "Nothing needs to be done.".into(),
    }
}

#[test]
fn what_the_peer_lacks_is_said_as_far_as_it_is_known() {
    let shown = |backlog| {
        let sheet = status_sheet(&StatusReport { backlog, ..report() });
        let text = sheet.text();
        text.lines().find_map(|l| l.strip_prefix("backlog: ")).unwrap_or_default().to_owned()
    };
    assert_eq!(shown(Lacking::Bytes(3 << 20)), "3MiB");
    assert_eq!(shown(Lacking::AtLeast(3 << 30)), ">= 3GiB (older was let go)");
    assert_eq!(shown(Lacking::Unknown), "unknown (no contact)");
}

#[test]
fn status() {
    let sheet = status_sheet(&report());
    assert_eq!(
        sheet.text(),
        "name: web01\n\
         uuid: abababababababababababababababab\n\
         site: london\n\
         state: standby\n\
         flags: testing\n\
         protected: yes\n\
         says: follows the source; read-only here\n\
         direction: paris->london\n\
         writable: no\n\
         peer: paris\n\
         peer-link: connected\n\
         peer-since: 1970-01-01T00:00:05.000Z\n\
         peer-writing: yes\n\
         health: ok\n\
         rpo: 0.4s\n\
         backlog: 0B\n\
         head: @11111111111111111111111111111111-12\n\
         head-time: 1970-01-01T00:01:00.000Z\n\
         processed: @11111111111111111111111111111111-12\n\
         processed-time: 1970-01-01T00:01:00.000Z\n\
         oldest: none\n\
         oldest-time: none\n\
         latest-point: 1970-01-01T00-01-00.000Z-crash\n\
         points: 3\n\
         used: 64MiB\n\
         allowance: 8GiB\n\
         records: 120\n\
         batches: 30\n\
         job: none\n\
         last-test: none\n\
         disk: name=\"web01/root disk.raw\" role=os size=20GiB allocated=4KiB uuid=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\n\
         next: Nothing needs to be done.\n"
    );
    let json = sheet.json();
    assert_eq!(json["disks"][0]["size"], 20_u64 << 30);
    assert_eq!(json["flags"], serde_json::json!(["testing"]));
    assert_eq!(json["oldest"], serde_json::Value::Null);
    assert_eq!(json["protected"], true);
}

#[test]
fn unprotected_is_said_loudly_and_no_contact_too() {
    let mut r = report();
    (r.state, r.rpo, r.peer) = (State::Committed, Rpo::AtLeast(312 * S as u64 + 5), None);
    let text = status_sheet(&r).text();
    assert!(text.contains("\nprotected: no\n"), "{text}");
    assert!(text.contains("THIS VM IS NOT PROTECTED"), "{text}");
    assert!(text.contains("\nrpo: >= 312s (no contact)\n"), "{text}");
    assert!(text.contains("\npeer: none\n"), "{text}");
    r.peer = Some(PeerReport { name: "paris".into(), connected: Err(9 * S), writing: None });
    let text = status_sheet(&r).text();
    assert!(
        text.contains(
            "peer-link: unreachable\npeer-since: 1970-01-01T00:00:09.000Z\npeer-writing: unknown\n"
        )
    );
}

/// Whatever names and texts hold, a script that reads line by line isn't misled, and pairs read back.
#[test]
fn nothing_breaks_a_line() {
    let mut r = report();
    r.name = "web\nstate: protected".into();
    r.disks[0].name = "a \"b\"=c\n".into();
    let text = status_sheet(&r).text();
    assert_eq!(text.lines().filter(|l| l.starts_with("state: ")).collect::<Vec<_>>(), ["state: standby"]);
    let disk = text.lines().find_map(|l| l.strip_prefix("disk: ")).unwrap();
    let pairs = Line::parse(disk.as_bytes()).unwrap();
    assert_eq!(pairs.option("name"), Some("a \"b\"=c\n"));
    assert_eq!(pairs.option("size"), Some("20GiB"));
}

#[test]
fn a_control_file() {
    let refused = Refusal::NotCommitted.with("vm", "web01");
    let mut r =
        ControlReport { verb: Verb::Rollback, now: Allowed::No(refused), losses: vec![], outcome: None };
    assert_eq!(
        control_sheet(&r).text(),
        "verb: rollback\n\
         does: take a failover back that is not committed\n\
         usage: rollback confirm=<name>\n\
         now: refused\n\
         refusal: not-committed\n\
         why: the failover of web01 is not committed\n\
         do: Check the VM, then `commit confirm=<name>`, or `rollback`.\n\
         retry: no\n"
    );
    r.now = Allowed::With("confirm=web01".into());
    r.losses = vec![LossReport {
        choice: "latest".into(),
        moment: at(9, 30),
        bytes: Some(1 << 20),
        writes: 17,
        age: 2_500_000_000,
        at_least: true,
    }];
    r.outcome = Some(("rollback confirm=web01".into(), Outcome::Job("j7".into())));
    assert_eq!(
        control_sheet(&r).text(),
        "written: rollback confirm=web01\n\
         outcome: accepted\n\
         outcome-job: j7\n\
         verb: rollback\n\
         does: take a failover back that is not committed\n\
         usage: rollback confirm=<name>\n\
         now: accepted with confirm=web01\n\
         loss: choice=latest moment=@11111111111111111111111111111111-9 last-write=1970-01-01T00:00:30.000Z \
         bytes=1MiB writes=17 time=2.5s at-least=yes\n"
    );
    let json = control_sheet(&r).json();
    assert_eq!(json["losss"], serde_json::Value::Null);
    assert_eq!(json["losses"][0]["bytes"], 1 << 20);
    r.outcome = Some(("x".into(), Outcome::WouldDo { steps: vec!["stop the VM".into()], outage: None }));
    let text = control_sheet(&r).text();
    assert!(
        text.starts_with("written: x\noutcome: dry-run\noutcome-step: does=\"stop the VM\"\noutcome-outage: unknown\nverb: "),
        "{text}"
    );
    r.outcome = Some(("x".into(), Outcome::Refused(Refusal::Busy.plain())));
    assert!(control_sheet(&r).text().contains("outcome: refused\noutcome-refusal: busy\n"));
    r.outcome = Some(("create".into(), Outcome::Done("TOKEN".into())));
    r.losses[0].bytes = None;
    let text = control_sheet(&r).text();
    assert!(text.starts_with("written: create\noutcome: done\noutcome-says: TOKEN\nverb: "), "{text}");
    assert!(text.contains(" bytes=unknown writes=17 "), "{text}");
}

/// What any control file shows, whole or a line of it, is refused when it is written back.
#[test]
fn what_is_shown_written_back_is_refused() {
    for &verb in Verb::ALL {
        let r = ControlReport { verb, now: Allowed::Yes, losses: vec![], outcome: None };
        let text = control_sheet(&r).text();
        for line in text.lines().chain([text.as_str()]) {
            let refused = crate::protection::control::parse(verb, line.as_bytes()).unwrap_err();
            assert_eq!(refused.refusal, Refusal::Invalid, "{verb}: {line}");
        }
    }
}

#[test]
fn allowed_and_check() {
    let verbs = [
        (Verb::Pause, Allowed::Yes),
        (Verb::Commit, Allowed::With("confirm=web01".into())),
        (Verb::Resync, Allowed::No(Refusal::WrongSite.with("peer", "paris"))),
    ];
    assert_eq!(
        allowed_sheet(&verbs).text(),
        "pause: accepted\n\
         commit: accepted with confirm=web01\n\
         resync: refused wrong-site: this is decided at paris. Type it at paris.\n"
    );
    let facts = preconditions::Facts { unreachable: Some("paris".into()), ..Default::default() };
    let rules = preconditions::check(Column::Planned, &facts);
    let text = check_sheet(&[(Column::Planned, None, rules)]).text();
    assert!(text.starts_with("failing: 1\nrule: command=planned name=state result=ok\n"), "{text}");
    let line =
        "rule: command=planned name=peer-unreachable result=fails why=\"paris doesn't answer\" do=\"Look at";
    assert!(text.contains(line), "{text}");
    let by_state = Some(Refusal::NotProtected.plain());
    let text = check_sheet(&[(Column::Planned, by_state, vec![])]).text();
    assert!(text.contains("name=not-protected result=fails"), "{text}");
}

#[test]
fn health_and_gaps() {
    let mut health = Health::default();
    let seen = Seen { reason: Reason::RpoExceeded, figure: Some("312s".into()), limit: Some("15min".into()) };
    health.observe(1, 60 * S, &[seen]);
    let sheet = health_sheet(&HealthReport { severity: health.severity(), reasons: health.standing() });
    let text = sheet.text();
    assert!(
        text.starts_with(
            "health: critical\nreason: name=rpo-exceeded severity=critical since=1970-01-01T00:01:00.000Z \
             figure=312s limit=15min holds=yes says=\"the standby is older than allowed\" do=\"Look at"
        ),
        "{text}"
    );
    assert_eq!(sheet.json()["reasons"][0]["name"], "rpo-exceeded");

    let gaps = [GapReport { from: None, to: at(7, 1), reason: "initial".into() }];
    assert_eq!(
        gaps_sheet(&gaps).text(),
        "gaps: 1\ngap: from=none from-time=none to=@11111111111111111111111111111111-7 \
         to-time=1970-01-01T00:00:01.000Z reason=initial\n"
    );
    assert_eq!(gaps_sheet(&[]).text(), "gaps: 0\n");
}

#[test]
fn the_site_and_its_readme() {
    let r = SiteReport {
        name: "london".into(),
        id: "ef".repeat(16),
        version: "0.1.0".into(),
        started: S,
        store: "/srv/standby".into(),
        listen: None,
        fingerprint: "12:34".into(),
        health: Severity::Warning,
        groups: vec![(State::Standby, 4)],
        room: (1 << 30, 4 << 30),
        peers: vec![PeerReport { name: "paris".into(), connected: Ok(S), writing: None }],
    };
    let text = site_sheet(&r).text();
    assert!(text.contains("listen: none\n") && text.contains("group: state=standby count=4\n"), "{text}");
    assert!(text.contains("peer: peer=paris peer-link=connected "), "{text}");
    assert_eq!(site_sheet(&r).json()["peers"][0]["peer"], "paris");
    let text = readme("london", "0.1.0");
    assert!(text.lines().all(|l| l.len() <= 110), "{text}");
    // Every control file that it names is a verb, and every example line is understood.
    for (verb, line) in [(Verb::Protect, "to=x"), (Verb::Failover, "latest"), (Verb::Commit, "confirm=x")] {
        assert!(text.contains(&format!("control/{verb}")));
        assert!(crate::protection::control::parse(verb, line.as_bytes()).is_ok());
    }
}
