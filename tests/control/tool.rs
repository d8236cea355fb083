//! `standbyctl` on a real mount: words, JSON, exit codes, waiting.

use super::*;

#[test]
fn looking() {
    let mount = site();
    let ok = |arguments: &[&str]| {
        let (code, out, err) = standbyctl(&mount, arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    assert!(ok(&["status"]).contains("unprotected"));
    assert!(ok(&["status", "web"]).contains("\nstate: unprotected\n"));
    assert!(ok(&["status", "web", "--next"]).starts_with("web: "));
    let json: serde_json::Value = serde_json::from_str(&ok(&["status", "--json"])).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["state"]), (&"web".into(), &"unprotected".into()));
    assert_eq!(ok(&["health", "web"]), "ok\n");
    assert!(ok(&["allowed", "web"]).contains("\nscrub: accepted\n"));
    assert!(ok(&["gaps", "web"]).contains("gaps: 0"));
    // Paired with nobody: it can't be protected, and that is said before somebody tries.
    for arguments in [&["check", "web"][..], &["check", "web", "--json"]] {
        let (code, out, err) = standbyctl(&mount, arguments);
        assert!(
            code == 4 && out.contains("no-disk") && out.contains("peer-not-registered"),
            "{code}: {out}{err}"
        );
        if arguments.contains(&"--json") {
            serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|e| panic!("check: {e}: {out}"));
        }
    }
    assert!(ok(&["allowed", "web"]).contains("peer-not-registered"));
    for file in ["health", "allowed", "gaps", "policy", "points", "jobs", "events"] {
        let arguments: &[&str] =
            if matches!(file, "jobs" | "events") { &[file, "--json"] } else { &[file, "web", "--json"] };
        let out = ok(arguments);
        for text in if file == "events" { out.lines().collect() } else { vec![out.as_str()] } {
            serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|e| panic!("{file}: {e}: {out}"));
        }
    }
    ok(&["policy", "web", "window=5h"]);
    assert!(ok(&["policy", "web"]).contains("\nwindow: 5h\n"));
    assert_eq!(standbyctl(&mount, &["policy", "web", "window=never"]).0, 2);
    assert_eq!(standbyctl(&mount, &["status", "nobody"]).0, 3);
    assert_eq!(standbyctl(&mount, &["jobs", "j99"]).0, 3);
    mount.stop();
}

#[test]
fn changing() {
    let mount = site();
    let (code, out, err) = standbyctl(&mount, &["scrub", "web"]);
    assert!(code == 0 && out.starts_with("web: blake3 ") && out.ends_with("(job j1)\n"), "{out}{err}");
    let (code, out, _) = standbyctl(&mount, &["--json", "scrub", "web", "--id", "n1"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["job"]), (0, &"j2".into()));
    let (code, out, _) = standbyctl(&mount, &["--json", "scrub", "web", "--id", "n1"]);
    assert!(code == 0 && out.contains("\"j2\""), "{out}");
    let (code, out, _) = standbyctl(&mount, &["scrub", "web", "--no-wait"]);
    assert_eq!((code, out.as_str()), (0, "web: accepted (job j3)\n"));
    assert_eq!(standbyctl(&mount, &["jobs", "j3", "--wait"]).0, 0);
    let (code, out, _) = standbyctl(&mount, &["scrub", "web", "--dry-run"]);
    assert!(code == 0 && out.contains("1. "), "{out}");
    let (_, out, _) = standbyctl(&mount, &["jobs"]);
    assert_eq!(out.lines().count(), 4, "{out}");
    assert_eq!(standbyctl(&mount, &["jobs", "j1", "--cancel"]).0, 4, "it has ended");

    let code = |arguments: &[&str]| {
        let (code, out, err) = standbyctl(&mount, arguments);
        assert!(out.is_empty() && err.starts_with("standbyctl: "), "{arguments:?}: {out}{err}");
        code
    };
    assert_eq!(code(&["failover", "web"]), 4);
    assert_eq!(code(&["pause", "web"]), 4);
    assert_eq!(code(&["point", "web"]), 4);
    assert_eq!(code(&["commit", "web", "--yes"]), 4);
    assert_eq!(code(&["commit", "web"]), 2, "no terminal to confirm on");
    assert_eq!(code(&["scrub", "web", "@seq-99999"]), 3);
    assert_eq!(code(&["scrub", "web", "--expect-state", "standby"]), 8);
    assert_eq!(code(&["scrub", "web", "nonsense"]), 2);
    assert_eq!(code(&["pair", "accept", "nonsense"]), 4);
    assert_eq!(code(&["import", "/no/such/file", "--vm", "x"]), 3);
    let (code, out, err) = standbyctl(&mount, &["--json", "failover", "web"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["refusal"]), (4, &"not-protected".into()), "{err}");
    let (_, out, _) = standbyctl(&mount, &["events", "web"]);
    assert!(out.contains("text=\"scrub id=n1\"") && out.contains("not-protected"), "{out}");
    assert!(!out.lines().any(|line| line.ends_with(' ')), "{out}");
    let (_, out, _) = standbyctl(&mount, &["events", "--last", "1"]);
    assert_eq!(out.lines().count(), 1, "{out}");
    mount.stop();
}
