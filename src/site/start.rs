//! Stopping and starting the VM of a group, as part of a command.
//!
//! S1. What is started is what lies in the VM's own directory at the head: its domain XML is a companion file.
//! S2. A VM whose disks aren't at their newest moment gets a new generation id.
//! S3. Without hook and without libvirt nothing is claimed.

use crate::site::domain::{Networks, Rendered, Rendering, render, uuid_text};
use crate::site::hooks::{Hooks, Outcome, Target, find_virsh};
use crate::site::{Site, Vm};
use crate::vocab::{Moment, Result, VmId};
use std::path::PathBuf;
use std::time::Duration;

/// The longest domain XML that is looked at, bytes.
const XML_MAX: u64 = 1 << 20;

/// Names a disk of a VM that is open for writing, if there is one.
pub type Openings = dyn Fn(VmId) -> Option<String> + Send + Sync;

impl Site {
    /// Says where the mount is. The first call stays.
    pub fn set_mount(&self, mount: PathBuf) {
        let _ = self.mount.set(mount);
    }

    /// Says who knows what is open. The first call stays.
    pub fn set_openings(&self, openings: Box<Openings>) {
        let _ = self.openings.set(openings);
    }

    /// A disk of this VM that is open for writing; none where nobody knows.
    pub(crate) fn writer_of(&self, vm: VmId) -> Option<String> {
        self.openings.get().and_then(|openings| openings(vm))
    }

    /// What stops and starts VMs here.
    pub(crate) fn hooks(&self) -> Result<Hooks> {
        let settings = self.store.settings()?;
        let timeout = settings.hook_timeout_seconds.map_or(Hooks::default().timeout, Duration::from_secs);
        Ok(Hooks {
            stop: settings.stop_hook.map(PathBuf::from),
            start: settings.start_hook.map(PathBuf::from),
            virsh: find_virsh(),
            timeout,
            ..Hooks::default()
        })
    }

    fn target(&self, vm: &Vm, reason: &str, xml: Option<&Rendered>) -> Target {
        let mount = self.mount.get().cloned().unwrap_or_default();
        Target {
            vm: vm.name(),
            domain: xml.map(|xml| xml.name.clone()),
            dir: mount.join("disks").join(vm.name()),
            reason: reason.to_owned(),
            more: Vec::new(),
        }
    }

    /// S1, S2. None: there is no XML, or it can't be read.
    fn xml_of(&self, vm: &Vm, newest: bool) -> Result<Option<Rendered>> {
        let group = vm.group()?;
        let found = group.names_now(|names| {
            let xml = |path: &str| path.ends_with(".xml") && !path.contains('/');
            names
                .files
                .iter()
                .find(|(_, f)| xml(&f.path) && f.size <= XML_MAX)
                .map(|(disk, f)| (*disk, f.size))
        });
        let Some((disk, size)) = found else { return Ok(None) };
        let mut bytes = vec![0; size as usize];
        group.read_head(disk, 0, &mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let how = Rendering {
            genid: (!newest).then(|| uuid_text(self.random().0)),
            networks: Networks { same_names: true, ..Networks::default() },
            ..Rendering::default()
        };
        match render(&text, &how) {
            Ok(rendered) => Ok(Some(rendered)),
            Err(error) => {
                tracing::warn!(vm = %vm.name(), %error, "the domain XML is passed over");
                Ok(None)
            }
        }
    }

    /// Stops the VM, as far as there are means.
    pub(crate) fn stop_vm(&self, vm: &Vm, reason: &str, log: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let xml = self.xml_of(vm, true)?;
        Ok(self.hooks()?.stop(&self.target(vm, reason, xml.as_ref()), log))
    }

    /// The last step of a takeover, as work of its job: starts the VM. Where there is no means, or nobody wants it, the
    /// job ends at once.
    pub(crate) fn start_vm(
        &self,
        vm: &Vm,
        job: &str,
        at: Moment,
        newest: bool,
        wanted: bool,
        reason: &str,
    ) -> Result<()> {
        let end = |says: String| {
            self.jobs().update(job, |job, now| {
                job.finish(crate::protection::job::JobState::Succeeded, says, None, now)
            })
        };
        if !wanted {
            return end(format!("at {at}: disks-writable, vm-not-started: start=no"));
        }
        let hooks = self.hooks()?;
        let xml = self.xml_of(vm, newest)?;
        if hooks.start.is_none() && (hooks.virsh.is_none() || xml.is_none()) {
            return end(format!("at {at}: {}", Outcome::NoMeans.after_start()));
        }
        let target = self.target(vm, reason, xml.as_ref());
        self.work(job, move |handle| {
            let started = hooks.start(&target, xml.as_ref(), &mut |line| handle.log(line));
            Ok(format!("at {at}: {}", started.after_start()))
        })
    }
}
