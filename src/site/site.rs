//! A site: its store, its VMs and their groups, and the thread that keeps them.

use crate::group::{Group, GroupParts};
use crate::index::CacheBudget;
use crate::protection::State;
use crate::seam::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::site::Vm;
use crate::site::commands::Replication;
use crate::site::events::{Event, Events};
use crate::site::jobs::{JobHandle, Jobs, Workers};
use crate::site::names::check_vm;
use crate::site::objects::{GroupObject, VmObject};
use crate::site::replication::{Operations, Replication as Engine, ReplicationOptions};
use crate::site::requests::Requests;
use crate::site::start::Openings;
use crate::site::start_wait::StartWait;
use crate::site::store::{Moved, OpenFor, Store};
use crate::site::unlisted;
use crate::vocab::{Error, GroupId, Kind, Result, StoreId, Token, VmId};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Jobs that are worked on at once.
const JOB_THREADS: usize = 4;

/// How to open a site.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// Directory of the store; made where it is absent or empty.
    pub store: PathBuf,
    /// Directory of the journals, if not in the store.
    pub journal: Option<PathBuf>,
    /// What is said about a store that isn't where it was.
    pub moved: Moved,
    /// Name of a new site.
    pub name: String,
    /// Memory of all indexes, in bytes.
    pub index_memory: usize,
}

/// An open site.
pub struct Site {
    pub(super) store: Store,
    requests: Requests,
    pub(super) events: Events,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) parts: GroupParts,
    pub(super) vms: RwLock<BTreeMap<String, Arc<Vm>>>,
    jobs: Arc<Jobs>,
    workers: Mutex<Option<Workers>>,
    replication: OnceLock<Arc<dyn Replication>>,
    commanding: Mutex<()>,
    pub(super) mount: OnceLock<PathBuf>,
    pub(super) openings: OnceLock<Box<Openings>>,
    pub(super) replicating: Mutex<Option<Arc<Engine>>>,
    pub(super) started_ns: u64,
    pub(super) start: Arc<StartWait>,
    stop: AtomicBool,
    keeper: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Site {
    /// Opens a site, or makes one in an empty directory, and starts the thread that keeps its groups. `mount`
    /// names the mount whose requests may be sent again.
    pub fn open(options: &SiteOptions, mount: Token) -> Result<Arc<Self>> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let store = if options.store.join("store.json").exists() {
            Store::open(
                &options.store,
                OpenFor::Writing,
                options.moved,
                options.journal.as_deref(),
                &*entropy,
            )?
        } else {
            Store::create(&options.store, options.journal.as_deref(), &options.name, &*clock, &*entropy)?
        };
        let requests = Requests::open(store.storage(), mount)?;
        let events = Events::open(store.storage())?;
        let parts = GroupParts {
            store: store.storage(),
            journal: store.journal(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            store_id: store.id(),
            boot: boot_id(),
            cache: CacheBudget::new(options.index_memory),
            segment_bytes: crate::journal::SEGMENT_BYTES,
            rooms: store.rooms().clone(),
        };
        store.keep_reserve()?;
        for storage in [&parts.store, &parts.journal] {
            storage.make_dir(std::path::Path::new("groups"))?;
        }
        let (objects, damaged) = store.catalog().list::<VmObject>()?;
        for error in &damaged {
            tracing::error!("{error}");
            events.append(&Event::own(clock.wall_ns(), None, error.to_string()), false)?;
        }
        let damaged_vms = !damaged.is_empty();
        let (jobs, interrupted, damaged) = Jobs::open(store.catalog().clone(), clock.clone())?;
        for error in &damaged {
            tracing::error!("{error}");
        }
        unlisted::delete(&store, &parts, &objects, damaged_vms)?;
        let jobs = Arc::new(jobs);
        let seconds = store.settings()?.start_wait_seconds;
        let start = StartWait::open(store.catalog().clone(), clock.clone(), mount, seconds)?;
        let mut vms = BTreeMap::new();
        for object in objects {
            let vm = Vm::of(&object, &parts, &start);
            let group = store.catalog().get::<GroupObject>(&object.group.to_string());
            match group {
                Ok(group) => *vm.peer.lock() = group.and_then(|g| g.peer),
                Err(error) => tracing::error!("{error}"),
            }
            vms.insert(object.name, Arc::new(vm));
        }
        let started_ns = clock.monotonic_ns();
        let site = Arc::new(Self {
            started_ns,
            start,
            store,
            requests,
            events,
            clock,
            entropy,
            parts,
            vms: RwLock::new(vms),
            workers: Mutex::new(Some(Workers::new(jobs.clone(), JOB_THREADS))),
            jobs,
            replication: OnceLock::new(),
            commanding: Mutex::default(),
            mount: OnceLock::new(),
            openings: OnceLock::new(),
            replicating: Mutex::new(None),
            stop: AtomicBool::new(false),
            keeper: Mutex::new(None),
        });
        site.resume_jobs(&interrupted);
        let _ = site.replication.set(Arc::new(Operations::new(&site)));
        let weak = Arc::downgrade(&site);
        let thread = std::thread::Builder::new()
            .name("upkeep".into())
            .spawn(move || {
                let mut failed = HashMap::new();
                let mut cleaned_ns = None;
                let mut looked_ns = 0;
                while let Some(site) = weak.upgrade() {
                    if site.stop.load(Ordering::Acquire) {
                        return;
                    }
                    site.keep_waits();
                    let more = site.keep_all(&mut failed);
                    site.clean(&mut cleaned_ns);
                    site.look(&mut looked_ns);
                    drop(site);
                    std::thread::sleep(Duration::from_millis(if more { 1 } else { 20 }));
                }
            })
            .map_err(|e| Error::io(e, "can't start the thread that keeps the groups"))?;
        *site.keeper.lock() = Some(thread);
        Ok(site)
    }

    /// Replication, started at the first call as the settings say.
    pub fn replicate(self: &Arc<Self>) -> Result<Arc<Engine>> {
        self.replicate_with(ReplicationOptions::default())
    }

    /// Replication, started at the first call; options of a later call have no effect.
    pub fn replicate_with(self: &Arc<Self>, options: ReplicationOptions) -> Result<Arc<Engine>> {
        let mut replicating = self.replicating.lock();
        if let Some(running) = &*replicating {
            return Ok(Arc::clone(running));
        }
        let started = Engine::start(self, options)?;
        *replicating = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Ends in order: what has no window is drained into its base, the others write a checkpoint.
    pub fn close(&self) -> Result<()> {
        let replication = self.replicating.lock().take();
        if let Some(replication) = replication {
            replication.stop();
        }
        self.stop.store(true, Ordering::Release);
        drop(self.workers.lock().take());
        let thread = self.keeper.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        let mut failed = None;
        for vm in self.vms() {
            vm.leave_held();
            let Some(group) = vm.opened() else { continue };
            let done = self.care_of(&vm).and_then(|care| group.round_with(care)).and_then(|_| group.close());
            if let Err(e) = done {
                tracing::error!(vm = %vm.name(), "not closed in order: {e}");
                failed = Some(e);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers of requests that the kernel may send again.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Clocks.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Jobs.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Works on a job that was admitted; not any more while the site is closed.
    pub(crate) fn work(
        &self,
        job: &str,
        work: impl FnOnce(&JobHandle) -> Result<String> + Send + 'static,
    ) -> Result<()> {
        self.workers.lock().as_ref().map_or(Ok(()), |workers| workers.start(job, work))
    }

    /// One command on the site at a time.
    pub(crate) fn commands_of_site(&self) -> &Mutex<()> {
        &self.commanding
    }

    /// A random value.
    pub(crate) fn random(&self) -> Token {
        Token(self.entropy.random_128())
    }

    /// Who carries out what needs a peer.
    pub(crate) fn replication(&self) -> Option<&Arc<dyn Replication>> {
        self.replication.get()
    }

    /// Random numbers.
    pub(crate) fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// All VMs, by name.
    pub fn vms(&self) -> Vec<Arc<Vm>> {
        self.vms.read().values().cloned().collect()
    }

    /// The VM with this name.
    pub fn vm(&self, name: &str) -> Option<Arc<Vm>> {
        self.vms.read().get(name).cloned()
    }

    /// Makes a VM: a group of one with its genesis, and the catalog's entry, durable when this returns. Its files
    /// are added by the caller.
    ///
    /// # Errors
    /// `Exists` if the name is taken, `Invalid` for names that a VM can't have.
    pub fn create_vm(&self, name: &str, single: bool) -> Result<Arc<Vm>> {
        check_vm(name)?;
        let mut vms = self.vms.write();
        if vms.contains_key(name) {
            return Err(Error::new(Kind::Exists, format!("there is a VM {name} already")));
        }
        let group = GroupId(self.entropy.random_128());
        self.say_unlisted(group)?;
        let group = Group::create(self.parts.clone(), group)?;
        let id = VmId(self.entropy.random_128());
        self.enter_vm(&mut vms, (id, name, single), group, None)
    }

    /// A VM with its group and, at a target, the peer that it comes from: durable, then known.
    pub(super) fn enter_vm(
        &self,
        vms: &mut BTreeMap<String, Arc<Vm>>,
        (id, name, single): (VmId, &str, bool),
        group: Arc<Group>,
        peer: Option<StoreId>,
    ) -> Result<Arc<Vm>> {
        let object = VmObject {
            id,
            name: name.to_owned(),
            single,
            group: group.id(),
            created: self.clock.wall_ns(),
            made_by: None,
        };
        let of_one =
            GroupObject { id: group.id(), name: None, vms: vec![id], peer, role_hint: None, policy: None };
        self.store.catalog().put(&of_one)?;
        self.store.catalog().put(&object)?;
        self.forget_unlisted(group.id())?;
        let vm = Arc::new(Vm::of(&object, &self.parts, &self.start));
        if peer.is_some() {
            *vm.peer.lock() = peer;
            self.start.ended(object.group);
        }
        *vm.group.lock() = Some(group);
        vms.insert(name.to_owned(), vm.clone());
        Ok(vm)
    }

    /// Gives a VM another name; its identity stays.
    ///
    /// # Errors
    /// `Exists`, `Invalid`, and `Refused` while it is protected.
    pub fn rename_vm(&self, vm: &Vm, to: &str) -> Result<()> {
        check_vm(to)?;
        self.refuse_if_protected(vm, "renamed")?;
        let mut vms = self.vms.write();
        if vms.contains_key(to) {
            return Err(Error::new(Kind::Exists, format!("there is a VM {to} already")));
        }
        let from = vm.name();
        let Some(mut object) = self.store.catalog().get::<VmObject>(&vm.id.to_string())? else {
            return Err(Error::new(Kind::NotFound, format!("the VM {from} is gone")));
        };
        object.name = to.to_owned();
        self.store.catalog().put(&object)?;
        if let Some(this) = vms.remove(&from) {
            *this.name.lock() = to.to_owned();
            vms.insert(to.to_owned(), this);
        }
        Ok(())
    }

    /// Whether the VM has a target: then it is neither removed nor renamed, and its disks don't shrink.
    /// One whose history can't be read counts as one that has.
    pub fn is_protected(&self, vm: &Vm) -> bool {
        vm.known().map_or(true, |known| known.state() != State::Unprotected)
    }

    pub(super) fn refuse_if_protected(&self, vm: &Vm, what: &str) -> Result<()> {
        if self.is_protected(vm) {
            return Err(Error::new(Kind::Refused, format!("{} is protected and can't be {what}", vm.name()))
                .advice("`unprotect` it first"));
        }
        Ok(())
    }
}

/// The boot of this machine; zeros where the kernel doesn't say.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.parse::<Token>().map_or([0; 16], |t| t.0)
}
