//! Holds a served site behind a durable call that a test names, so that the test can do something just there.
//!
//! A call is named by the file and by how often it came since the test began to count: `history 2`. A number alone would
//! mean another call in each run: what the guest writes and what the site does in the background come in between.

use serde_json::{Value, json};
use standbyfs::seam::watch_durable;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

#[derive(Default)]
struct Calls {
    counting: bool,
    counts: BTreeMap<String, u64>,
    order: Vec<String>,
    hold_at: Option<String>,
    /// The call that was to be held has come, and nobody goes on before the test says so.
    held: bool,
}

static CALLS: Mutex<Option<Calls>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();
static STORE: OnceLock<String> = OnceLock::new();

/// Counts from here on when it is asked to.
pub fn watch(store: &Path) {
    let store = store.canonicalize().unwrap();
    if STORE.set(store.display().to_string()).is_ok() {
        *CALLS.lock().unwrap() = Some(Calls::default());
        watch_durable(durable);
    }
}

fn durable(path: &Path) {
    let mut guard = CALLS.lock().unwrap();
    let Some(calls) = guard.as_mut().filter(|calls| calls.counting) else { return };
    if !calls.held {
        let name = name_of(path);
        let count = calls.counts.entry(name.clone()).or_default();
        *count += 1;
        let name = format!("{name} {count}");
        calls.held = calls.hold_at.as_ref() == Some(&name);
        calls.order.push(name);
        CHANGED.notify_all();
    }
    // What others made durable meanwhile is so, but nobody acts on it.
    while guard.as_ref().is_some_and(|calls| calls.held) {
        guard = CHANGED.wait(guard).unwrap();
    }
}

/// The path below the store, with `#` for numbers and ids.
fn name_of(path: &Path) -> String {
    let path = path.display().to_string();
    let below = path.strip_prefix(STORE.get().unwrap()).unwrap_or(&path);
    let mut out = String::new();
    for part in below.split_inclusive(['/', '.', '-']) {
        let word = part.trim_end_matches(['/', '.', '-']);
        let digits = word.strip_prefix('j').unwrap_or(word);
        let is_id = word.len() >= 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())) {
            out.push('#');
            out.push_str(&part[word.len()..]);
        } else {
            out.push_str(part);
        }
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

/// What a test asks; none if it isn't about calls. Takes no lock of the site, which may be held.
pub fn answer(asked: &Value) -> Option<Value> {
    let mut guard = CALLS.lock().unwrap();
    match asked["do"].as_str()? {
        // From now on; `hold` names the call to be held, if any.
        "count-calls" => {
            let hold_at = asked["hold"].as_str().map(str::to_owned);
            *guard = Some(Calls { counting: true, hold_at, ..Calls::default() });
            CHANGED.notify_all();
            Some(json!(true))
        }
        "stop-counting" => {
            let calls = guard.replace(Calls::default());
            CHANGED.notify_all();
            Some(json!(calls.map(|calls| calls.order)))
        }
        // Whether it is held, as soon as it is.
        "await-call" => {
            let wait = Duration::from_millis(asked["ms"].as_u64().unwrap_or(0));
            let held = |calls: &mut Option<Calls>| calls.as_ref().is_some_and(|calls| calls.held);
            let (mut guard, _) = CHANGED.wait_timeout_while(guard, wait, |calls| !held(calls)).unwrap();
            Some(json!(held(&mut guard)))
        }
        _ => None,
    }
}
