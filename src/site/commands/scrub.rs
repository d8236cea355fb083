//! The work of a `scrub`: with the peer where it can be spoken to, else a hash that can be compared by hand.

use crate::protection::admission::moment_name;
use crate::protection::size_text;
use crate::site::Vm;
use crate::site::jobs::JobHandle;
use crate::site::replication::Replication;
use crate::vocab::{Error, Kind, Moment, Result};

/// Reads and compares a moment; what it says becomes the job's outcome.
///
/// # Errors
/// `Damaged`: the sites differ; where, is said. Those of reading, and of a peer that goes away.
pub(super) fn run(
    vm: &Vm,
    engine: Option<&Replication>,
    moment: Moment,
    handle: &JobHandle,
) -> Result<String> {
    let group = vm.group()?;
    let Some(engine) = engine else {
        let view = group.open_moment(moment)?;
        let total: u64 = view.names.files.values().map(|f| f.size).sum();
        let mut read = 0;
        let (hash, bytes) = group.hash_moment(&view, |more| {
            read += more;
            handle.progress(read, total, 0);
            handle.check()
        })?;
        let moment = moment_name(view.moment);
        return Ok(format!("blake3 {hash} over {bytes} bytes of {moment}, this site only"));
    };
    let compared = engine.scrub(vm, moment, handle)?;
    let moment = moment_name(moment);
    if compared.differs.is_empty() {
        return Ok(format!("{} of {moment} are equal at both sites", size_text(compared.bytes)));
    }
    engine.note_corruption(group.id());
    let place = |range: &crate::exchange::DiskRange| {
        let name = group.names_now(|names| names.files.get(&range.disk).map(|f| f.path.clone()));
        format!("{}/{} {}+{}", vm.name(), name.unwrap_or_default(), range.offset, range.length)
    };
    let places: Vec<String> = compared.differs.iter().map(place).collect();
    let what = format!(
        "the sites differ at {moment} in {} bytes: {} (file, offset, length)",
        compared.differing,
        places.join(", ")
    );
    handle.log(&what);
    Err(Error::new(Kind::Damaged, what)
        .advice("Compare both sites' images with a backup; send what is wrong again with `resync`"))
}
