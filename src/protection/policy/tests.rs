use super::*;

fn edited(text: &str) -> Result<Policy, String> {
    edit(&Policy::default(), &SiteSettings::default(), text).map(|(p, _)| p).map_err(|e| e.to_string())
}

#[test]
fn defaults_are_shown() {
    assert_eq!(
        policy_text(&Policy::default(), &SiteSettings::default()),
        "name: default\n\
         copy-frequency: continuous\n\
         window: 24h\n\
         crash-points: 5min\n\
         flush-points: off\n\
         app-points: off\n\
         compress: on\n\
         points-at-commit: delete\n\
         rpo-threshold: 15min\n\
         delete-replica-on-unprotect: no\n\
         initial: now\n\
         allowance: auto\n\
         rate: unlimited\n"
    );
    let json = policy_json(&Policy::default(), &SiteSettings::default());
    assert_eq!(json["window"], "24h");
    let keys: Vec<&str> = Policy::default().entries().iter().map(|(k, _)| *k).collect();
    assert_eq!(keys, KEYS);
    let keys: Vec<&str> = SiteSettings::default().entries().iter().map(|(k, _)| *k).collect();
    assert_eq!(keys, SITE_KEYS);
}

/// R98, R97: the three values, and nothing edits it.
#[test]
fn the_failback_policy_is_immutable() {
    let failback = Policy::failback();
    assert_eq!(failback.rpo_threshold, parse_duration("15min").unwrap());
    assert_eq!(failback.window_hours, 24);
    assert_eq!(failback.app_points_hours, Some(1));
    let site = SiteSettings::default();
    for line in ["window: 48h", "rpo-threshold: 1min", "app-points: 2h", "name: mine", "compress: off"] {
        assert_eq!(edit(&failback, &site, line), Err(PolicyError::Immutable), "{line}");
    }
    // Writing back what is shown changes nothing, and the site's own settings aren't part of it.
    assert_eq!(edit(&failback, &site, &policy_text(&failback, &site)), Ok((failback.clone(), site)));
    assert_eq!(edit(&failback, &site, "rate: 1MiB/s").unwrap().1.rate, Some(1 << 20));
    assert!(edited("name: failback").unwrap_err().contains("built-in"));
    let refused: Refused = PolicyError::Immutable.into();
    assert_eq!(refused.refusal, Refusal::PolicyImmutable);
}

/// R114: exactly these.
#[test]
fn copy_frequencies() {
    for (text, ns) in [("continuous", 0), ("30s", MINUTE / 2), ("5min", 5 * MINUTE), ("15min", 15 * MINUTE)] {
        assert_eq!(edited(&format!("copy-frequency: {text}")).unwrap().copy_frequency.interval(), ns);
    }
    for bad in ["1min", "30", "10min", "0s", "60s", "5m"] {
        let error = edited(&format!("copy-frequency: {bad}")).unwrap_err();
        assert_eq!(error, format!("copy-frequency: {bad}: expected is continuous, 30s, 5min or 15min"));
    }
}

/// R116, T6: 1 to 12 hours, and less than the retention.
#[test]
fn application_points() {
    for hours in 1..=12 {
        assert_eq!(edited(&format!("app-points: {hours}h")).unwrap().app_points_hours, Some(hours));
    }
    for bad in ["0h", "13h", "90min", "1", "h"] {
        assert!(edited(&format!("app-points: {bad}")).unwrap_err().contains("1h to 12h"), "{bad}");
    }
    assert!(edited("window: 4h\napp-points: 3h").is_ok());
    assert!(edited("app-points: 3h\nwindow: 4h").is_ok());
    let error = edited("window: 4h\napp-points: 4h").unwrap_err();
    assert_eq!(error, "app-points: 4h: expected is less than the window, which is 4h");
    let twelve = edited("app-points: 12h").unwrap();
    assert!(edit(&twelve, &SiteSettings::default(), "window: 6h").is_err(), "the rule holds from both sides");
}

#[test]
fn ranges_are_named() {
    for (line, part) in [
        ("window: 90min", "window: 90min: expected is whole hours from 0h"),
        ("window: 9000h", "to 8784h"),
        ("crash-points: 30s", "1min to 24h, or off"),
        ("flush-points: maybe", "on or off"),
        ("compress: 20", "a level from 1 to 19"),
        ("points-at-commit: some", "delete or keep"),
        ("rpo-threshold: 0s", "1s to 24h"),
        ("delete-replica-on-unprotect: on", "yes or no"),
        ("initial: tomorrow", "now, or at"),
        ("initial: at 22:00", "RFC 3339"),
        ("allowance: 1MiB", "at least 256MiB"),
        ("allowance: 0%", "1% to 1000%"),
        ("rate: 10MiB", "10MiB/s"),
        ("windows: 24h", "`windows` is no key of a policy; name, copy-frequency"),
        ("window", "`window` is no line"),
        ("window: 1h\nwindow: 2h", "`window` stands there twice"),
    ] {
        let error = edit(&Policy::default(), &SiteSettings::default(), line).unwrap_err().to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn edits_are_whole_or_not_at_all() {
    let text = "# what I changed\r\n\nwindow: 72h\r\ncrash-points: off\ncompress: 3\ninitial: at 2026-11-21T22:00:00+01:00\n\
                points-at-commit: keep\nallowance: 30 %\nrate: 10MiB/s\ndelete-replica-on-unprotect: yes\nflush-points: on\n";
    let (policy, site) = edit(&Policy::default(), &SiteSettings::default(), text).unwrap();
    assert_eq!(policy.window_hours, 72);
    assert_eq!((policy.crash_points, policy.compress), (None, Some(3)));
    assert_eq!(policy.initial, Initial::At(parse_time("2026-11-21T21:00:00Z").unwrap()));
    assert_eq!((site.allowance, site.rate), (Allowance::Percent(30), Some(10 << 20)));
    // Shown and written back, as text and as JSON.
    let shown = policy_text(&policy, &site);
    assert_eq!(edit(&Policy::default(), &SiteSettings::default(), &shown).unwrap(), (policy.clone(), site));
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    let failback = serde_json::to_string(&Policy::failback()).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&failback).unwrap(), Policy::failback());
    // A record of a later version.
    let later: Policy = serde_json::from_str(r#"{"name":"x","window":"2h","colour":"blue"}"#).unwrap();
    assert_eq!((later.window_hours, later.crash_points), (2, Some(5 * MINUTE)));
    assert!(serde_json::from_str::<Policy>(r#"{"window":"2 weeks"}"#).is_err());
}

#[test]
fn allowances() {
    const G: u64 = 1 << 30;
    assert_eq!(Allowance::Auto.bytes(100 * G, 1000 * G), 20 * G);
    assert_eq!(Allowance::Auto.bytes(G, 1000 * G), 8 * G, "at least 8 GiB");
    assert_eq!(Allowance::Auto.bytes(100 * G, 40 * G), 10 * G, "at most a quarter of the filesystem");
    assert_eq!(Allowance::Percent(50).bytes(10 * G, 1000 * G), 5 * G);
    assert_eq!(Allowance::Bytes(G).bytes(10 * G, 2 * G), G);
    assert_eq!(Allowance::Auto.bytes(u64::MAX, u64::MAX), u64::MAX / 100 * 20 + 3, "no overflow");
}

#[test]
fn arbitrary_text_never_panics() {
    let shown = policy_text(&Policy::default(), &SiteSettings::default());
    for seed in crate::protection::seeds(3000, 300_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut text: Vec<char> = shown.chars().collect();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..text.len());
            match rng.u8(..3) {
                0 => text[at] = rng.char(..),
                1 => text.insert(at, ['9', '\n', ':', '%', 'h', '-'][rng.usize(..6)]),
                _ => drop(text.remove(at)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok((policy, site)) = edit(&Policy::default(), &SiteSettings::default(), &text) {
            let again = edit(&Policy::default(), &SiteSettings::default(), &policy_text(&policy, &site));
            assert_eq!(again, Ok((policy, site)), "seed {seed}");
        }
    }
}
