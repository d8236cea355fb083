use super::*;
use crate::protection::{Refusal, State, Verb};

fn ok(verb: Verb, text: &str) -> Command {
    parse(verb, text.as_bytes()).unwrap_or_else(|e| panic!("{verb}: {text}: {e}"))
}

fn wrong(verb: Verb, text: &str) -> String {
    let refused = parse(verb, text.as_bytes()).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Invalid, "{text}");
    refused.message()
}

#[test]
fn words_options_and_quotes() {
    let line = Line::parse(b" latest\tname=\"a b\" \"x\\\"y\" note=\"\\x01\\n\\\\\"\r\n").unwrap();
    assert_eq!(line.words, ["latest", "x\"y"]);
    assert_eq!(line.option("name"), Some("a b"));
    assert_eq!(line.option("note"), Some("\u{1}\n\\"));
    assert_eq!(line.option("other"), None);
    assert_eq!(Line::parse(b"a=b=c").unwrap().option("a"), Some("b=c"));
    assert_eq!(Line::parse(b"k=").unwrap().option("k"), Some(""));
}

#[test]
fn what_is_no_line() {
    use LineError::*;
    let wrong = |bytes: &[u8]| Line::parse(bytes).unwrap_err();
    assert_eq!(wrong(b""), Empty);
    assert_eq!(wrong(b" \r\n\n"), Empty);
    assert_eq!(wrong(b"pause\nresume"), TwoLines);
    assert_eq!(wrong(b"pause\0"), ControlCharacter(5));
    assert_eq!(wrong(b"\xff"), NotText);
    assert_eq!(wrong(b"a=1 a=2"), Twice("a".into()));
    assert_eq!(wrong(b"A=1"), BadKey("A".into()));
    assert_eq!(wrong(b"=1"), BadKey(String::new()));
    assert_eq!(wrong(b"\"open"), Quotes("\"open".into()));
    assert_eq!(wrong(b"\"a\"b"), Quotes("\"a\"b".into()));
    assert_eq!(wrong(b"a\"b\""), Quotes("a\"b\"".into()));
    assert_eq!(wrong(b"k=v\"b\""), Quotes("k=v\"b\"".into()));
    assert_eq!(wrong(b"\"\\q\""), Escape("q".into()));
    assert_eq!(wrong(b"\"\\x41\""), Escape("x41".into()));
    assert_eq!(wrong(b"usage: pause"), Shown("usage:".into()));
    assert_eq!(wrong(&[b'a'; LINE_MAX]), TooLong);
    assert!(Line::parse(&[b'a'; LINE_MAX - 1]).is_ok());
    assert_eq!(parse(Verb::Pause, &[b'a'; LINE_MAX]).unwrap_err().refusal, Refusal::TooLong);
}

#[test]
fn moments() {
    let epoch = "00112233445566778899aabbccddeeff";
    for (text, shown) in [
        ("latest", "latest"),
        ("latest-processed", "latest-processed"),
        ("latest-app-consistent", "latest-app-consistent"),
        ("@2026-11-20T21:33:33.12Z", "@2026-11-20T21-33-33.120Z"),
        ("@2026-11-20T21-33-33Z", "@2026-11-20T21-33-33.000Z"),
        ("@seq-42", "@seq-42"),
        ("@00112233-7", "@00112233-7"),
        ("@0011223344AA-7", "@0011223344aa-7"),
        ("2026-11-20T21-33-33.120Z-crash", "2026-11-20T21-33-33.120Z-crash"),
        ("2026-11-20T21-33-33.120Z-user-before-upgrade", "2026-11-20T21-33-33.120Z-user-before-upgrade"),
    ] {
        let moment: MomentRef = text.parse().unwrap();
        assert_eq!(moment.to_string(), shown);
        assert_eq!(shown.parse::<MomentRef>().unwrap(), moment);
    }
    assert_eq!(format!("@{epoch}-1").parse::<MomentRef>().unwrap().to_string(), format!("@{epoch}-1"));
    for bad in [
        "",
        "@",
        "newest",
        "@seq-",
        "@seq-x",
        "@seq-+1",
        "@0011223-7",
        "@00112233",
        "@2026-11-20",
        "@001122334455667788990011223344556-7",
        "@00112233-99999999999999999999",
    ] {
        assert!(bad.parse::<MomentRef>().is_err(), "{bad}");
    }
    assert!(!MomentRef::Latest.names_moment());
    assert!(MomentRef::LatestProcessed.names_moment());
}

#[test]
fn a_prefix_must_be_unique() {
    use crate::vocab::EpochId;
    let (mut a, mut b) = (EpochId([0x11; 16]), EpochId([0x11; 16]));
    (a.0[15], b.0[15]) = (1, 2);
    let short: EpochPrefix = "11111111".parse().unwrap();
    assert_eq!(short.find([a]), Some(a));
    assert_eq!(short.find([a, a]), Some(a));
    assert_eq!(short.find([a, b]), None);
    assert_eq!(short.find([]), None);
    assert_eq!(EpochPrefix::from(b).find([a, b]), Some(b));
}

#[test]
fn typed_lines() {
    let c = ok(Verb::Protect, "to=london as=\"web 01\" id=job-1 expect-state=unprotected");
    assert_eq!(
        c.action,
        Action::Protect { to: Some("london".into()), as_name: Some("web 01".into()), policy: None }
    );
    assert_eq!((c.id.as_deref(), c.expect.state), (Some("job-1"), Some(State::Unprotected)));
    assert!(!c.needs_confirm());

    assert_eq!(ok(Verb::Pause, "pause\n").action, Action::Pause);
    let c = ok(Verb::Failover, "latest-processed force confirm=web01 source=leave start=no");
    assert!(c.force && c.needs_confirm());
    assert_eq!(c.confirm.as_deref(), Some("web01"));
    assert_eq!(
        c.action,
        Action::Failover {
            moment: Some(MomentRef::LatestProcessed),
            planned: false,
            source: Some(Source::Leave),
            start: Some(false)
        }
    );
    let c = ok(Verb::Failover, "planned expect-direction=paris->london expect-head=@0011223344556677-12");
    assert!(matches!(c.action, Action::Failover { planned: true, moment: None, .. }));
    assert_eq!(c.expect.direction, Some(("paris".into(), "london".into())));
    assert_eq!(c.expect.head.unwrap().1, 12);
    assert!(ok(Verb::Commit, "confirm=web01 points=keep").needs_confirm());
    assert!(!ok(Verb::Commit, "commit dry-run=yes").needs_confirm());
    assert!(ok(Verb::Unprotect, "delete").needs_confirm());
    assert!(!ok(Verb::Unprotect, "unprotect").needs_confirm());
    assert_eq!(
        ok(Verb::TestFailover, "cleanup name=t1 notes=\"all fine\"").action,
        Action::TestCleanup { name: "t1".into(), notes: Some("all fine".into()) }
    );
    assert_eq!(
        ok(Verb::Import, "path=/srv/a.raw vm=web01 how=reflink").action,
        Action::Import {
            path: "/srv/a.raw".into(),
            vm: "web01".into(),
            disk: None,
            how: Some(ImportHow::Reflink)
        }
    );
    assert_eq!(ok(Verb::Pair, "accept abc").action, Action::Pair(Pairing::Accept("abc".into())));
    assert!(matches!(
        ok(Verb::Drop, "branch=00112233 confirm=00112233").action,
        Action::Drop(DropWhat::Branch(_))
    ));
}

#[test]
fn what_is_wrong_is_named() {
    assert!(
        wrong(Verb::Pause, "confirn=web01").contains("`pause` doesn't know `confirn=`; it knows confirm=")
    );
    assert!(wrong(Verb::Pause, "please").contains("doesn't know the word `please`"));
    assert!(wrong(Verb::Failover, "newest").contains("`newest` names no moment"));
    assert!(wrong(Verb::Failover, "latest latest-processed").contains("`latest-processed`"));
    assert!(wrong(Verb::Failover, "source=kill").contains("source=kill: `kill` is no value of source="));
    assert!(wrong(Verb::Commit, "points=some").contains("one of delete, keep"));
    assert!(wrong(Verb::Commit, "dry-run=perhaps").contains("dry-run=perhaps: yes or no"));
    assert!(wrong(Verb::Protect, "to=../x").contains("to=../x"));
    assert!(wrong(Verb::Import, "path=a.raw vm=x").contains("an absolute path"));
    assert!(wrong(Verb::Import, "vm=x").contains("path= is missing"));
    assert!(wrong(Verb::Drop, "confirm=x").contains("one of branch=, seed= and clone="));
    assert!(wrong(Verb::ChangeRecoveryPoint, "start=no").contains("the moment to go to is missing"));
    assert!(wrong(Verb::Unprotect, "delete keep").contains("exclude"));
    assert!(wrong(Verb::Pause, "expect-head=latest").contains("expect-head=latest"));
    assert!(wrong(Verb::Pause, "expect-direction=here").contains("expect-direction=here"));
    assert!(wrong(Verb::Pause, "id=\"a b\"").contains("id=a b"));
    assert!(wrong(Verb::Pause, "refused: busy").contains("what this file shows"));
}

/// Strings that are hard on quoting.
fn text(rng: &mut fastrand::Rng) -> String {
    const PIECES: &[&str] =
        &["a", "web", " ", "\"", "\\", "=", "\t", "\n", "é", "\u{a0}", "\u{85}", "-", ":", "1"];
    (0..rng.usize(1..6)).map(|_| PIECES[rng.usize(..PIECES.len())]).collect()
}

#[test]
fn what_is_printed_reads_back() {
    for seed in crate::protection::seeds(3000, 500_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut line = Line::default();
        for _ in 0..rng.usize(1..4) {
            line.words.push(text(&mut rng));
        }
        for key in ["a", "key-2", "notes"] {
            if rng.bool() {
                line.options.push((key.to_owned(), text(&mut rng)));
            }
        }
        if line.words[0].ends_with(':') {
            continue;
        }
        let printed = line.to_string();
        assert_eq!(Line::parse(printed.as_bytes()), Ok(line), "seed {seed}: {printed}");
    }
}

#[test]
fn commands_read_back() {
    let lines = [
        (Verb::Protect, "to=x as=\"a b\" policy=gold"),
        (Verb::Unprotect, "keep"),
        (Verb::Unprotect, "delete force confirm=x"),
        (Verb::Resume, "resume id=7"),
        (Verb::Resync, "resync"),
        (Verb::RecoveryPoint, "pin name=before"),
        (Verb::TestFailover, "@seq-9 name=t start=no"),
        (Verb::TestFailover, "cleanup name=t notes=\"ok \\\"x\\\"\""),
        (Verb::Failover, "failover"),
        (Verb::Failover, "@00112233-7 planned source=shutdown expect-direction=a->b expect-head=@00112233-7"),
        (Verb::Failback, "latest start=yes"),
        (Verb::ChangeRecoveryPoint, "@2026-11-20T21-33-33.120Z dry-run=yes"),
        (Verb::Rollback, "confirm=x expect-state=failed-over"),
        (Verb::Commit, "points=delete confirm=x"),
        (Verb::Reprotect, "to=x"),
        (Verb::CompleteMigration, "complete-migration"),
        (Verb::Resolve, "force confirm=x"),
        (Verb::Adopt, "to=x"),
        (Verb::Drop, "seed=s confirm=s"),
        (Verb::Drop, "clone=s confirm=s"),
        (Verb::Drop, "branch=0011223344 confirm=s"),
        (Verb::Scrub, "latest-processed"),
        (Verb::Enrol, "path=/a to=x"),
        (Verb::AssignNewUuid, "disk=a.raw"),
        (Verb::ExportSeed, "path=/a"),
        (Verb::ImportSeed, "path=/a"),
        (Verb::Join, "vm=a"),
        (Verb::Leave, "vm=a"),
        (Verb::Pair, "create"),
        (Verb::Pair, "accept token=abc="),
        (Verb::Accept, "site=a"),
        (Verb::Forget, "site=a force confirm=a"),
        (Verb::Import, "path=/a vm=b disk=c.raw how=copy"),
        (Verb::ExportConfig, "path=/a"),
        (Verb::ImportConfig, "path=/a"),
        (Verb::Cancel, "cancel"),
        (Verb::Done, "done"),
        (Verb::Pause, "pause"),
    ];
    for &verb in Verb::ALL {
        assert!(lines.iter().any(|(v, _)| *v == verb), "{verb}");
        assert!(!usage(verb).is_empty());
    }
    for (verb, text) in lines {
        let command = ok(verb, text);
        let printed = command.line().to_string();
        assert_eq!(ok(verb, &printed), command, "{printed}");
    }
}

/// Arbitrary bytes, and lines with something changed, never panic.
#[test]
fn arbitrary_bytes_never_panic() {
    let lines: &[&[u8]] = &[
        b"latest force confirm=\"web 01\" source=leave",
        b"@2026-11-20T21-33-33.120Z start=no",
        b"@2026-11-20T21-33-33.12-01-00 dry-run=yes",
        b"2026-11-20T21-33-33.120Z-user-x id=1",
        b"cleanup name=t notes=\"\\x07\\\"\"",
    ];
    let mut accepted = 0;
    for seed in crate::protection::seeds(20_000, 2_000_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes: Vec<u8> = if rng.bool() {
            lines[rng.usize(..lines.len())].to_vec()
        } else {
            (0..rng.usize(..60)).map(|_| rng.u8(..)).collect()
        };
        for _ in 0..rng.usize(..4) {
            if !bytes.is_empty() {
                let at = rng.usize(..bytes.len());
                match rng.u8(..3) {
                    0 => bytes[at] = rng.u8(..),
                    1 => bytes.insert(at, b"\"\\= @-\xc3\r"[rng.usize(..8)]),
                    _ => drop(bytes.remove(at)),
                }
            }
        }
        let verb = Verb::ALL[rng.usize(..Verb::ALL.len())];
        accepted += usize::from(parse(verb, &bytes).is_ok());
        accepted += usize::from(parse(Verb::Failover, &bytes).is_ok());
    }
    assert!(accepted > 100, "{accepted}");
}
