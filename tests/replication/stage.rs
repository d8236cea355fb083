//! Two daemons with a guest at each, a planned failover of which is stopped behind one durable call of either site, and
//! what is checked whatever happens then.
//!
//! 1. No write is accepted at the source that began after one was accepted at the target, but where a person forced it.
//! 2. It ends in one writer, or in a state that has a name and a way out; a person goes it, and then one site writes.
//! 3. Whoever writes in the end has every write that was accepted on its line, and nothing else.

use super::daemons::{Daemon, Two, caught_up, two, wait};
use super::writers::Writer;
use crate::fuse::control::ask;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// Longest time for a run to come to its end once nothing is broken any more.
pub(super) const BOUND: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    Source,
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    SourceKilled,
    TargetKilled,
    LinkCut,
}
pub(super) const FAULTS: [Fault; 3] = [Fault::SourceKilled, Fault::TargetKilled, Fault::LinkCut];

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) at: At,
    pub(super) call: String,
    pub(super) fault: Fault,
    /// What broke comes back by itself; else a person goes the way out first.
    pub(super) mends: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// The target writes, the source is fenced.
    TakenOver,
    /// As if nobody had asked.
    AsBefore,
    /// A person had to decide, and one site writes.
    Decided,
    /// Both sites had been told to write. A person took one decision back, and one site writes.
    SplitBrain,
}

pub(super) struct Stage {
    pub(super) two: Two,
    /// Of the source and of the target.
    pub(super) writers: [Writer; 2],
}

impl Stage {
    pub(super) fn new() -> Self {
        let two = two();
        for daemon in [&two.a, &two.b] {
            daemon.ask(&json!({ "do": "stop-hook", "hook": "/bin/true" }));
        }
        let stage = Self { two, writers: [Writer::new(1), Writer::new(2)] };
        stage.writers[0].go(&stage.disk(At::Source));
        let begun = wait(BOUND, || stage.two.a.command("protect", "to=paris")["refusal"].is_null());
        assert!(begun, "{}", stage.shown());
        assert!(
            wait(BOUND, || stage.states() == ("protected".into(), "standby".into())),
            "{}",
            stage.shown()
        );
        stage.writers[1].go(&stage.disk(At::Target));
        stage
    }

    fn daemon(&self, at: At) -> &Daemon {
        if at == At::Source { &self.two.a } else { &self.two.b }
    }

    /// Each guest has a disk of its own: what it wrote is on the other site's line or isn't.
    fn disk(&self, at: At) -> std::path::PathBuf {
        let name = if at == At::Source { "a.raw" } else { "b.raw" };
        self.daemon(at).mount().path(&format!("disks/web/{name}"))
    }

    /// The target's word first: if it writes, the source, asked after it, must not.
    fn states(&self) -> (String, String) {
        let of = |daemon: &Daemon| daemon.state()["state"].as_str().unwrap_or("none").to_owned();
        let b = of(&self.two.b);
        (of(&self.two.a), b)
    }

    pub(super) fn shown(&self) -> String {
        let of = |daemon: &Daemon| {
            if daemon.mount.is_none() {
                return format!("{} is down\n", daemon.name);
            }
            let jobs = daemon.ask(&json!({ "do": "jobs" }));
            let allowed = self.allowed(daemon);
            format!("{}\n{}\n{jobs}\n{allowed}", daemon.state(), daemon.events())
        };
        let errors: Vec<_> = self.writers.iter().map(|w| (w.accepted(), w.error())).collect();
        format!("{}{}writers: {errors:?}", of(&self.two.a), of(&self.two.b))
    }

    fn allowed(&self, daemon: &Daemon) -> String {
        fs::read_to_string(daemon.mount().path("vms/web/allowed")).unwrap()
    }

    fn kill(&mut self, at: At) {
        self.writers[at as usize].leave();
        match at {
            At::Source => self.two.a.power_off(),
            At::Target => self.two.b.power_off(),
        }
    }

    fn start(&mut self, at: At) {
        match at {
            At::Source => self.two.a.start(),
            At::Target => self.two.b.start(),
        }
        self.writers[at as usize].go(&self.disk(at));
    }

    /// Keeps the fault until [`Self::mend`].
    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::SourceKilled => self.kill(At::Source),
            Fault::TargetKilled => self.kill(At::Target),
            Fault::LinkCut => {
                self.two.proxy.refuse(true);
                self.two.proxy.cut();
            }
        }
    }

    pub(super) fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::SourceKilled => self.start(At::Source),
            Fault::TargetKilled => self.start(At::Target),
            Fault::LinkCut => self.two.proxy.refuse(false),
        }
    }

    /// No write at the source began after one at the target was accepted.
    pub(super) fn one_writer(&self, what: &str) {
        let [a, b] = &self.writers;
        if let (Some(begun), Some(answered)) = (a.last_begun(), b.first_answered()) {
            assert!(begun <= answered, "{what}: both sites accept writes\n{}", self.shown());
        }
    }

    fn jobs_ended(&self) -> bool {
        let jobs = self.two.b.ask(&json!({ "do": "jobs" }));
        jobs.as_array().unwrap().iter().all(|job| job["ended"] == true)
    }

    /// Where it has come to, if it has.
    fn end(&self) -> Option<End> {
        let (a, b) = self.states();
        match (a.as_str(), b.as_str()) {
            ("fenced", "failed-over") if self.jobs_ended() => Some(End::TakenOver),
            ("protected", "standby") if self.jobs_ended() => Some(End::AsBefore),
            _ => None,
        }
    }

    /// The writer's guest is accepted, the other's isn't, and nothing is missing.
    fn whole(&self, writer: At, what: &str) {
        let [a, b] = &self.writers;
        let (here, there) = if writer == At::Source { (a, b) } else { (b, a) };
        let before = here.accepted();
        let accepted = wait(BOUND, || here.accepted() > before + 2);
        assert!(accepted, "{what}: nobody can write at the {writer:?}\n{}", self.shown());
        let other = there.accepted();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(there.accepted(), other, "{what}: both sites accept writes\n{}", self.shown());
        a.pause();
        b.pause();
        let images = self.daemon(writer).live();
        for (writer, image) in self.writers.iter().zip(&images) {
            if let Some(wrong) = writer.wrong(image) {
                panic!("{what}: {wrong}\n{}", self.shown());
            }
        }
    }

    /// Back to a source that is followed.
    fn reset(&self, end: End) {
        let [a, b] = &self.writers;
        if end == End::TakenOver {
            self.two.b.done("rollback", "confirm=web");
            b.forget_blocks();
        }
        let back = wait(BOUND, || caught_up(&self.two) && self.end() == Some(End::AsBefore));
        assert!(back, "{}", self.shown());
        for (at, writer) in [At::Source, At::Target].into_iter().zip([a, b]) {
            if let Some(wrong) = writer.wrong(&self.daemon(at).live()[at as usize]) {
                panic!("taken back: {wrong}\n{}", self.shown());
            }
            writer.forget_times();
            writer.go(&self.disk(at));
        }
        assert!(wait(BOUND, || a.accepted() > 2), "{}", self.shown());
    }

    fn count(&self, hold: Option<(At, &str)>) {
        for at in [At::Source, At::Target] {
            let hold = hold.filter(|(held, _)| *held == at).map(|(_, call)| call);
            self.daemon(at).ask(&json!({ "do": "count-calls", "hold": hold }));
        }
    }

    /// Without a fault: the durable calls of each site from the command to the end.
    pub(super) fn clean(&self) -> [Vec<String>; 2] {
        self.count(None);
        let told = self.two.b.command("failover", "planned");
        assert!(told["refusal"].is_null(), "{told}");
        assert!(wait(BOUND, || self.end() == Some(End::TakenOver)), "{}", self.shown());
        let calls = [&self.two.a, &self.two.b].map(|daemon| {
            let calls = daemon.ask(&json!({ "do": "stop-counting" }));
            serde_json::from_value(calls).unwrap()
        });
        self.one_writer("without a fault");
        self.whole(At::Target, "without a fault");
        self.reset(End::TakenOver);
        calls
    }

    /// False: the call didn't come.
    pub(super) fn hold(&self, case: &Case) -> bool {
        self.count(Some((case.at, &case.call)));
        let socket = self.two.b.socket();
        // Whether it was taken is seen by what becomes of it: the one who types it may be killed.
        let typed = json!({ "do": "command", "vm": "web", "verb": "failover", "text": "planned" });
        std::thread::spawn(move || ask(&socket, &typed));
        let until = Instant::now() + BOUND;
        loop {
            let held = self.daemon(case.at).ask(&json!({ "do": "await-call", "ms": 1500 })) == true;
            // The other site holds no lock for which an answer would wait.
            if held || self.end() == Some(End::TakenOver) {
                return held;
            }
            assert!(Instant::now() < until, "{case:?}\n{}", self.shown());
        }
    }

    /// The fault, and what mends it.
    pub(super) fn run(&mut self, case: &Case) -> Option<End> {
        let what = format!("{case:?}");
        if !self.hold(case) {
            self.daemon(case.at).ask(&json!({ "do": "stop-counting" }));
            self.whole(At::Target, &what);
            self.reset(End::TakenOver);
            return None;
        }
        self.strike(case.fault);
        let lives =
            |at: At| case.fault != if at == At::Source { Fault::SourceKilled } else { Fault::TargetKilled };
        if lives(case.at) {
            // It goes on.
            self.daemon(case.at).ask(&json!({ "do": "stop-counting" }));
        }
        // Time for what must not happen.
        std::thread::sleep(Duration::from_millis(150));
        self.one_writer(&what);
        if !case.mends {
            return Some(self.way_out(case));
        }
        self.mend(case.fault);
        Some(self.ends_by_itself(&what))
    }

    /// The state of a site that is up, once it has seen that it is alone.
    pub(super) fn alone(&self, at: At) -> String {
        let daemon = self.daemon(at);
        assert!(wait(BOUND, || daemon.state()["connected"] == false), "{}", self.shown());
        let state = daemon.state();
        let name = state["state"].as_str().unwrap().to_owned();
        let doubt = state["health"].as_array().unwrap().contains(&json!("handover-in-doubt"));
        assert_eq!(name == "handing-over", doubt, "{}", self.shown());
        name
    }

    /// What `allowed` says of a verb, without `accepted`; none if it is refused.
    fn allows(&self, at: At, verb: &str) -> Option<String> {
        let all = self.allowed(self.daemon(at));
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("{verb}: ")));
        let line = line.unwrap_or_else(|| panic!("{verb} isn't in {all}"));
        line.strip_prefix("accepted").map(|rest| rest.trim_start_matches(" with ").to_owned())
    }

    /// A failover that a person decides here, with what `allowed` asks for. An undecided one is cancelled before.
    pub(super) fn decide(&self, at: At, what: &str) {
        if self.daemon(at).state()["state"] == "failing-over" {
            self.cancel(at, what);
        }
        let Some(with) = self.allows(at, "failover") else {
            panic!("{what}: no failover is allowed\n{}", self.shown())
        };
        self.daemon(at).done("failover", &format!("latest {with}"));
        assert_eq!(self.daemon(at).state()["state"], "failed-over", "{what}: {}", self.shown());
    }

    /// As the refusal of everything else says.
    fn cancel(&self, at: At, what: &str) {
        let all = self.allowed(self.daemon(at));
        let job = all.lines().find_map(|line| line.strip_prefix("failover: refused busy: the job "));
        let Some(job) = job.and_then(|rest| rest.split(' ').next()) else {
            panic!("{what}: no way out of failing-over:\n{all}")
        };
        fs::write(self.daemon(at).mount().path(&format!("jobs/{job}/control")), "cancel\n").unwrap();
        let back = wait(BOUND, || self.daemon(at).state()["state"] == "standby" && self.jobs_ended());
        assert!(back, "{what}: {}", self.shown());
    }

    /// What broke stays broken, and a person sees to it that somebody writes. Then it is mended.
    fn way_out(&mut self, case: &Case) -> End {
        let what = format!("{case:?}");
        let up = |at: At| self.daemon(at).mount.is_some();
        let a = up(At::Source).then(|| self.alone(At::Source));
        let b = up(At::Target).then(|| self.alone(At::Target));
        let decides = match (a.as_deref(), b.as_deref()) {
            // Somebody writes.
            (Some("protected"), _) | (_, Some("failed-over")) => None,
            (None, Some("standby" | "failing-over")) => Some(At::Target),
            (Some("handing-over" | "fenced"), _) => Some(At::Source),
            other => panic!("{what}: came to {other:?}\n{}", self.shown()),
        };
        let Some(decides) = decides else {
            self.mend(case.fault);
            return self.ends_by_itself(&what);
        };
        self.one_writer(&what);
        self.decide(decides, &what);
        let accepted = self.writers[decides as usize].accepted();
        let writes = wait(BOUND, || self.writers[decides as usize].accepted() > accepted + 2);
        assert!(writes, "{what}: nobody can write at the {decides:?}\n{}", self.shown());
        self.mend(case.fault);
        self.decided(decides, &what)
    }

    /// The two meet after a person's decision.
    pub(super) fn decided(&mut self, decides: At, what: &str) -> End {
        let mut states = Default::default();
        let ended = wait(BOUND, || {
            states = self.states();
            let (here, there) =
                if decides == At::Source { (&states.0, &states.1) } else { (&states.1, &states.0) };
            let at_one = matches!(
                (here.as_str(), there.as_str()),
                ("failed-over", "fenced") | ("protected", "standby")
            );
            (at_one || (here == "split-brain" && there == "split-brain")) && self.jobs_ended()
        });
        assert!(ended, "{what} has no end: {states:?}\n{}", self.shown());
        let mut end = End::Decided;
        if states.0 == "split-brain" {
            self.both_lines(what);
            end = End::SplitBrain;
        } else {
            let [a, b] = &self.writers;
            let (here, there) = if decides == At::Source { (a, b) } else { (b, a) };
            let before = (here.accepted(), there.accepted());
            let goes_on = wait(BOUND, || here.accepted() > before.0 + 2);
            assert!(goes_on && there.accepted() == before.1, "{what}: {}", self.shown());
            here.pause();
            let wrong = here.wrong(&self.daemon(decides).live()[decides as usize]);
            assert_eq!(wrong, None, "{what}: {}", self.shown());
        }
        *self = Self::new();
        end
    }

    /// Both sites say that both write; each line has every write that was accepted on it, and none of the other's. A
    /// person takes one of the decisions back, and one site writes.
    fn both_lines(&mut self, what: &str) {
        let [a, b] = &self.writers;
        let before = (a.accepted(), b.accepted());
        let both = wait(BOUND, || a.accepted() > before.0 + 2 && b.accepted() > before.1 + 2);
        assert!(both, "{what}: {}", self.shown());
        a.pause();
        b.pause();
        for at in [At::Source, At::Target] {
            let daemon = self.daemon(at);
            let health = daemon.state()["health"].clone();
            assert!(health.as_array().unwrap().contains(&json!("split-brain")), "{what}: {at:?}: {health}");
            let status = fs::read_to_string(daemon.mount().path("vms/web/status")).unwrap();
            assert!(status.contains("state: split-brain\n"), "{what}: {at:?}:\n{status}");
            let images = daemon.live();
            let own = self.writers[at as usize].wrong(&images[at as usize]);
            assert_eq!(own, None, "{what}: the line of the {at:?}\n{}", self.shown());
            let other = images[1 - at as usize].as_slice();
            if at == At::Source {
                assert!(other.iter().all(|byte| *byte == 0), "{what}: the target's writes are at the source");
            }
        }
        let with = self.allows(At::Target, "rollback");
        let Some(with) = with else { panic!("{what}: no way out of split-brain\n{}", self.shown()) };
        self.two.b.done("rollback", &with);
        for writer in [At::Source, At::Target] {
            self.writers[writer as usize].go(&self.disk(writer));
        }
        let [a, b] = &self.writers;
        let before = (a.accepted(), b.accepted());
        let one = wait(BOUND, || {
            let (a, b) = self.states();
            a == "protected" && b == "standby"
        });
        assert!(one, "{what}: {}", self.shown());
        assert!(
            wait(BOUND, || a.accepted() > before.0 + 2) && b.accepted() == before.1,
            "{what}: {}",
            self.shown()
        );
        a.pause();
        assert_eq!(a.wrong(&self.two.a.live()[0]), None, "{what}: {}", self.shown());
    }

    /// What broke is mended: it comes to an end without anybody.
    fn ends_by_itself(&mut self, what: &str) -> End {
        let begun = Instant::now();
        let mut end = None;
        let ended = wait(BOUND, || {
            self.one_writer(what);
            end = self.end();
            end.is_some()
        });
        assert!(ended, "{what} has no end\n{}", self.shown());
        if begun.elapsed() > Duration::from_secs(5) {
            eprintln!("{what}: {:?} to {end:?}", begun.elapsed());
        }
        let end = end.unwrap();
        self.whole(if end == End::TakenOver { At::Target } else { At::Source }, what);
        self.one_writer(what);
        self.reset(end);
        end
    }
}
