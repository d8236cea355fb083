//! Durations, sizes and times as they are typed and shown.
//!
//! 1. What is printed can be read back and gives the same value (times: to the nanosecond).
//! 2. No time zone is looked up: times are UTC or carry their offset.

use bytesize::ByteSize;

/// Wall time in nanoseconds since 1970 in UTC, as records carry it. Says nothing of order.
pub type WallTime = i64;

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// A duration such as `30s`, `5min`, `24h`, `14d`, in nanoseconds. `m` means minutes.
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = if unit == "m" { "min" } else { unit };
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*length)
}

/// The shortest exact text of a duration, with at least seconds where it has no fraction: `90s`, `5min`, `24h`, `0s`.
pub fn duration_text(ns: u64) -> String {
    if ns == 0 {
        return "0s".to_owned();
    }
    // Retention is spoken of in hours (`24h`), so days begin at two.
    let (name, length) = UNITS
        .iter()
        .rev()
        .find(|(name, length)| ns.is_multiple_of(*length) && (*name != "d" || ns / length >= 2))
        .unwrap_or(&UNITS[0]);
    format!("{}{name}", ns / length)
}

/// A size such as `64MiB`, `10 GB`, `4096`, in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

/// An exact text of a size in the largest binary unit that divides it: `64MiB`, `4097B`.
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A time in RFC 3339 with a zone, with `:` or `-` between hours, minutes and seconds.
pub fn parse_time(text: &str) -> Option<WallTime> {
    let allowed = |b: u8| b.is_ascii_digit() || b"TtZz:-+.".contains(&b);
    if text.len() < 20 || text.len() > 40 || !text.bytes().all(allowed) {
        return None;
    }
    let (date, clock) = text.split_at(10);
    let mut clock: Vec<char> = clock.chars().collect();
    for at in [3, 6] {
        let c = clock.get_mut(at)?;
        if !matches!(c, '-' | ':') {
            return None;
        }
        *c = ':';
    }
    // The zone: Z, or ±hh:mm, or ±hh-mm.
    let last = clock.len();
    if !matches!(clock[last - 1], 'Z' | 'z') {
        let sign = last.checked_sub(6)?;
        if !matches!(clock[sign], '+' | '-') || !matches!(clock[last - 3], '-' | ':') {
            return None;
        }
        clock[last - 3] = ':';
    }
    let time: jiff::Timestamp = format!("{date}{}", clock.into_iter().collect::<String>()).parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

fn printed(time: WallTime) -> String {
    let fraction = time.rem_euclid(1_000_000_000);
    let digits = match fraction {
        f if f % 1_000_000 == 0 => 3,
        f if f % 1_000 == 0 => 6,
        _ => 9,
    };
    let stamp = jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{stamp:.digits$}")
}

/// A time as messages and status files show it: `2026-11-20T21:33:33.120Z`.
pub fn text_time(time: WallTime) -> String {
    printed(time)
}

/// A time as names of files show it, without colons: `2026-11-20T21-33-33.120Z`.
pub fn file_time(time: WallTime) -> String {
    printed(time).replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ns) in [
            ("0s", 0),
            ("30s", 30_000_000_000),
            ("5min", 300_000_000_000),
            ("24h", 86_400_000_000_000),
            ("14d", 1_209_600_000_000_000),
            ("90s", 90_000_000_000),
            ("250ms", 250_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(ns), "{text}");
            assert_eq!(duration_text(ns), text);
        }
        assert_eq!(parse_duration("5m"), parse_duration("5min"));
        for bad in ["", "5", "s", "5 s", "-5s", "5sec", "5.5s", "99999999999999999999s", "999999999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("8 GiB"), Some(8 << 30));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("10GB"), Some(10_000_000_000));
        for bad in ["", "big", "-1", "12 parsecs"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        for bytes in [0, 1, 4097, 1 << 10, 3 << 20, 5 << 30, 7 << 40] {
            assert_eq!(parse_size(&size_text(bytes)), Some(bytes), "{bytes}");
        }
        assert_eq!(size_text(3 << 20), "3MiB");
    }

    #[test]
    fn times_with_colons_and_without() {
        let time = parse_time("2026-11-20T21:33:33.120Z").unwrap();
        assert_eq!(parse_time("2026-11-20T21-33-33.120Z"), Some(time));
        assert_eq!(parse_time("2026-11-20T22:33:33.12+01:00"), Some(time));
        assert_eq!(parse_time("2026-11-20T20-33-33.12-01-00"), Some(time));
        assert_eq!(file_time(time), "2026-11-20T21-33-33.120Z");
        assert_eq!(text_time(time), "2026-11-20T21:33:33.120Z");
        assert_eq!(text_time(0), "1970-01-01T00:00:00.000Z");
        for bad in [
            "",
            "2026-11-20",
            "2026-11-20T21:33:33",
            "2026-11-20 21:33:33Z",
            "2026-13-20T21:33:33Z",
            "2026-11-20T21:33:33.120Z[Europe/Berlin]",
            "2026-11-20T21.33.33Z",
            "9999-11-20T21:33:33Z",
            "2026-11-20T21:33:33.120000000000000000Z",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn any_time_comes_back() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let time = rng.i64(..) / [1, 1_000, 1_000_000, 1_000_000_000][rng.usize(..4)];
            assert_eq!(parse_time(&text_time(time)), Some(time), "{time}");
            assert_eq!(parse_time(&file_time(time)), Some(time), "{time}");
        }
    }
}
