//! A socket beside a served site, for what tests ask of it: commands as a control file would give them, and facts.

use serde_json::{Value, json};
use standbyfs::protection::Verb;
use standbyfs::protection::report::Rpo;
use standbyfs::site::Site;
use standbyfs::site::commands::{Caller, On};
use standbyfs::site::replication::ReplicationOptions;
use standbyfs::vocab::{Moment, Seq};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Serves it at `path`; the file of an earlier process is replaced. Replication runs from here on.
pub fn serve(site: &Arc<Site>, path: &Path, listen: Option<&str>) {
    let options = ReplicationOptions {
        listen: listen.map(|at| at.parse().unwrap()),
        retry_first: Duration::from_millis(50),
        retry_longest: Duration::from_millis(500),
        keepalive: Duration::from_millis(300),
        dead_after: Duration::from_secs(3),
        ..ReplicationOptions::default()
    };
    let replication = site.replicate_with(options).unwrap();
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    super::steps::watch(site.store().dir());
    let weak = Arc::downgrade(site);
    drop(replication);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), Some(site)) = (stream, weak.upgrade()) else { return };
            std::thread::spawn(move || {
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                if reader.read_line(&mut line).is_err() {
                    return;
                }
                let answer = match serde_json::from_str::<Value>(&line) {
                    Ok(asked) => answer(&site, &asked),
                    Err(error) => json!({ "error": error.to_string() }),
                };
                let _ = writeln!(&stream, "{answer}");
            });
        }
    });
}

fn answer(site: &Arc<Site>, asked: &Value) -> Value {
    if let Some(answer) = super::steps::answer(asked) {
        return answer;
    }
    let text = |key: &str| asked[key].as_str().unwrap_or_default();
    let vm = site.vm(text("vm"));
    match (text("do"), vm) {
        ("command", vm) => {
            let on = match &vm {
                Some(vm) => On::Vm(vm),
                None if text("vm").is_empty() => On::Site,
                None => return json!({ "error": "no such VM" }),
            };
            let verb: Verb = text("verb").parse().unwrap();
            let who = Caller { uid: 0, gid: 0, pid: 1 };
            match site.command(who, on, verb, text("text").as_bytes(), None) {
                Ok(done) => json!({ "job": done.job, "says": done.says }),
                Err(refused) => json!({ "refusal": refused.refusal.name(), "error": refused.to_string() }),
            }
        }
        ("pair", _) => {
            let addresses = vec![text("address").to_owned()];
            json!(site.replicate().unwrap().pair_create(addresses).unwrap())
        }
        ("listening", _) => json!(site.replicate().unwrap().listening().map(|at| at.to_string())),
        ("job", _) => match site.jobs().get(text("id")) {
            Some(job) => {
                json!({ "ended": job.state.ended(), "state": job.state.name(), "outcome": job.outcome })
            }
            None => Value::Null,
        },
        ("jobs", _) => {
            let jobs = site.jobs().list();
            let shown = |job: standbyfs::protection::job::Job| json!({ "id": job.id, "kind": job.kind.name(), "ended": job.state.ended(), "state": job.state.name(), "outcome": job.outcome });
            json!(jobs.into_iter().map(shown).collect::<Vec<_>>())
        }
        ("stop-hook", _) => {
            let mut settings = site.store().settings().unwrap();
            settings.stop_hook = Some(text("hook").to_owned());
            site.store().set_settings(&settings).unwrap();
            json!(true)
        }
        ("events", _) => {
            let events = site.events().last(200).unwrap();
            json!(
                events
                    .into_iter()
                    .map(|e| format!("{} {} {:?}", e.time, e.text, e.outcome))
                    .collect::<Vec<_>>()
            )
        }
        ("state", Some(vm)) => {
            // First the age, then everything else: it must have been true at this time.
            let age = site.standby_age(&vm).unwrap();
            let (rpo, at_least) = match age {
                Rpo::None => (None, false),
                Rpo::Age(ns) => (Some(ns), false),
                Rpo::AtLeast(ns) => (Some(ns), true),
            };
            let status = site.status_of(&vm).unwrap();
            let health = site.health_of(&vm).unwrap();
            let head = vm.group().unwrap().head();
            let acknowledged =
                site.replicate().unwrap().group(vm.group_id()).and_then(|g| g.state.acknowledged);
            json!({
                "state": status.state.name(),
                "rpo": rpo,
                "at_least": at_least,
                "head": format!("@{}-{}", head.epoch, head.seq),
                "head_seq": head.seq.0,
                "acknowledged_seq": acknowledged.map(|m| m.seq.0),
                "connected": status.peer.is_some_and(|p| p.connected.is_ok()),
                "health": health.reasons.iter().filter(|r| r.holds).map(|r| r.reason.name()).collect::<Vec<_>>(),
            })
        }
        // `@<epoch>-<seq>`
        ("chain", Some(vm)) => {
            let (epoch, seq) = text("moment")[1..].split_once('-').unwrap();
            let moment = Moment { epoch: epoch.parse().unwrap(), seq: Seq(seq.parse().unwrap()) };
            json!(vm.group().unwrap().chain_value(moment).unwrap().map(|value| format!("{value:?}")))
        }
        (_, None) => json!({ "error": "no such VM" }),
        (other, _) => json!({ "error": format!("what is {other}?") }),
    }
}

/// Asks; none while no process serves.
pub fn ask(path: &Path, asked: &Value) -> Option<Value> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    writeln!(stream, "{asked}").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}
