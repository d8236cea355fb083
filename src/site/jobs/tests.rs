use super::*;
use crate::seam::{SimClock, SimDevice};

const GROUP: Option<GroupId> = Some(GroupId([1; 16]));

fn jobs(device: &SimDevice) -> (Jobs, Vec<Job>) {
    let catalog = Catalog::new(Arc::new(device.storage("store")));
    let (jobs, open, damaged) = Jobs::open(catalog, Arc::new(SimClock::new(1_000_000_000))).unwrap();
    assert!(damaged.is_empty());
    (jobs, open)
}

fn admit(jobs: &Jobs, exclusive: bool) -> Result<Job> {
    jobs.admit(JobKind::Failover, "web01", GROUP, exclusive, "failover latest", &["stop", "decide", "start"])
}

#[test]
fn one_job_that_changes_a_group_at_a_time_and_an_open_test_is_in_nobodys_way() {
    let (jobs, _) = jobs(&SimDevice::new(1));
    let first = admit(&jobs, true).unwrap();
    let refused = admit(&jobs, true).unwrap_err();
    assert_eq!((refused.kind(), refused.name()), (Kind::Busy, Some("busy")));
    assert!(refused.to_string().contains(&first.id), "{refused}");
    assert_eq!(jobs.at_work_on(GroupId([1; 16])).unwrap().id, first.id);
    admit(&jobs, false).unwrap();
    jobs.admit(JobKind::Failover, "db", Some(GroupId([2; 16])), true, "failover latest", &[]).unwrap();
    jobs.update(&first.id, |job, _| job.set_state(JobState::Testing)).unwrap();
    let second = admit(&jobs, true).unwrap();
    jobs.update(&second.id, |job, now| job.finish(JobState::Failed, "no room", Some(Refusal::NoSpace), now))
        .unwrap();
    admit(&jobs, true).unwrap();
    assert_eq!(jobs.cancel(&second.id).unwrap_err().name(), Some("no-job"));
    assert_eq!(jobs.cancel("j999").unwrap_err().kind(), Kind::NotFound);
}

/// J1, J3, J4 at each operation.
#[test]
fn a_job_that_was_admitted_is_there_after_a_crash_and_ids_are_not_reused() {
    for at in 1.. {
        let device = SimDevice::new(at);
        drop(jobs(&device));
        device.power_loss_at(at);
        let (mut admitted, mut ended) = (None, false);
        let run = || -> Result<()> {
            let catalog = Catalog::new(Arc::new(device.storage("store")));
            let (jobs, ..) = Jobs::open(catalog, Arc::new(SimClock::new(0)))?;
            let id = admit(&jobs, true)?.id;
            admitted = Some(id.clone());
            jobs.update(&id, |job, now| {
                job.next_step(now);
            })?;
            jobs.log(&id, "a line")?;
            jobs.update(&id, |job, now| job.finish(JobState::Succeeded, "done", None, now))?;
            ended = true;
            Ok(())
        };
        let crashed = { run }().is_err();
        device.power_loss();
        device.power_on();
        let (after, open) = jobs(&device);
        if let Some(id) = &admitted {
            let job = after.get(id).unwrap_or_else(|| panic!("operation {at}: {id} is gone"));
            assert!(!ended || job.state == JobState::Succeeded, "operation {at}");
            assert_eq!(open.iter().any(|j| j.id == *id), !job.state.ended(), "operation {at}");
        }
        for job in open {
            after.update(&job.id, |job, now| job.finish(JobState::Failed, "interrupted", None, now)).unwrap();
        }
        let new = admit(&after, true).unwrap();
        assert!(admitted.is_none_or(|id| number_of(&id) < number_of(&new.id)), "operation {at}");
        if !crashed {
            break;
        }
    }
}

#[test]
fn logs_are_lines_without_control_characters() {
    let device = SimDevice::new(1);
    let (jobs, _) = jobs(&device);
    let id = admit(&jobs, true).unwrap().id;
    assert_eq!(jobs.read_log(&id, 0, 100).unwrap(), b"");
    jobs.log(&id, "one\ntwo \u{1b}[31mred").unwrap();
    let text = String::from_utf8(jobs.read_log(&id, 0, 1000).unwrap()).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("Z two  [31mred\n"), "{text}");
    let (again, open) = super::tests::jobs(&device);
    assert_eq!(open.len(), 1);
    assert_eq!(String::from_utf8(again.read_log(&id, 0, 1000).unwrap()).unwrap(), text);
}

#[test]
fn ended_jobs_are_forgotten_in_their_order_and_open_ones_never() {
    let device = SimDevice::new(1);
    let (jobs, _) = jobs(&device);
    let open = admit(&jobs, false).unwrap().id;
    for _ in 0..ENDED_MAX + 5 {
        let id = admit(&jobs, false).unwrap().id;
        jobs.update(&id, |job, now| job.finish(JobState::Succeeded, "", None, now)).unwrap();
    }
    jobs.clean().unwrap();
    let left = jobs.list();
    assert_eq!((left.len(), left[0].id.as_str()), (ENDED_MAX + 1, open.as_str()));
    assert_eq!(left[1].id, "j7");
}

#[test]
fn workers_end_jobs_as_their_work_ends() {
    let device = SimDevice::new(1);
    let jobs = Arc::new(jobs(&device).0);
    let workers = Workers::new(Arc::clone(&jobs), 2);
    let start = |work: workers::Work| {
        let id = admit(&jobs, false).unwrap().id;
        workers.start(&id, work).unwrap();
        id
    };
    let ended = |id: &str| {
        let found = jobs.wait(id, Duration::from_secs(10), |job| job.state.ended().then(|| job.clone()));
        found.unwrap_or_else(|| panic!("{id} hasn't ended"))
    };
    let good = start(Box::new(|job| {
        job.next_step()?;
        job.progress(1, 2, 3);
        job.log("half");
        job.next_step()?;
        Ok("started".into())
    }));
    let refused = start(Box::new(|_| Err(Error::refused("no-space", "full"))));
    let wrong = start(Box::new(|_| panic!("on purpose")));
    assert_eq!((ended(&good).state, ended(&good).outcome.as_str()), (JobState::Succeeded, "started"));
    let refused = ended(&refused);
    assert_eq!((refused.state, refused.refusal), (JobState::Failed, Some(Refusal::NoSpace)));
    assert_eq!(ended(&wrong).state, JobState::Failed);
    // More than there are threads, one of them cancelled.
    let waits: Vec<_> = (0..4)
        .map(|_| {
            start(Box::new(|job| {
                loop {
                    job.pause(Duration::from_millis(20))?
                }
            }))
        })
        .collect();
    waits.iter().for_each(|id| jobs.cancel(id).unwrap());
    for id in &waits {
        let found = jobs.state.lock().jobs[&number_of(id).unwrap()].stored.job.state;
        let until = Instant::now() + Duration::from_secs(10);
        let mut state = found;
        while !state.ended() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            state = jobs.get(id).unwrap().state;
        }
        assert_eq!(state, JobState::Cancelled);
    }
    // A shutdown ends no job.
    let interrupted = start(Box::new(|job| {
        loop {
            job.pause(Duration::from_millis(20))?
        }
    }));
    std::thread::sleep(Duration::from_millis(50));
    drop(workers);
    assert!(!jobs.get(&interrupted).unwrap().state.ended());
    let (_, open) = super::tests::jobs(&device);
    assert_eq!(open.iter().map(|j| j.id.as_str()).collect::<Vec<_>>(), [interrupted.as_str()]);
}
