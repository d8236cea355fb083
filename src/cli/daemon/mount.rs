//! `standbyfs mount`: the daemon.

use super::args::MountArgs;
use crate::fuse::{MountOptions, run};
use crate::link::{DEFAULT_PORT, Peer};
use crate::site::store::Moved;
use crate::site::{Site, SiteOptions};
use crate::vocab::{Error, Kind, Result};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Less memory for indexes than this is refused, bytes.
const INDEX_MEMORY_MIN: u64 = 8 << 20;
const FILTER: &str = "STANDBYFS_LOG";

/// Mounts and serves; in the background it returns when the mount is usable.
pub fn mount(args: &MountArgs) -> Result<()> {
    // In the background standard error is the log already.
    messages(args.log.as_deref().filter(|_| args.foreground))?;
    note_panics();
    let site = SiteOptions {
        store: args.store.clone(),
        journal: args.journal.clone(),
        moved: match (args.moved, args.copied) {
            (true, _) => Moved::Moved,
            (_, true) => Moved::Copied,
            _ => Moved::Unsaid,
        },
        name: args.name.clone().unwrap_or_else(host_name),
        index_memory: memory(&args.index_memory)?,
    };
    let mut options = MountOptions::new(&args.mount);
    options.background = !args.foreground;
    options.allow_other = !args.private;
    options.log.clone_from(&args.log);
    let listen = args.listen.as_deref().map(address).transpose()?;
    run(&options, |context| {
        let site = Site::open(&site, context.mount_id)?;
        let mount = std::path::absolute(&args.mount).unwrap_or_else(|_| args.mount.clone());
        site.set_mount(mount);
        if let Some(seconds) = args.start_wait {
            site.set_start_wait(seconds)?;
        }
        begin_replication(&site, listen)?;
        context.tree(site)
    })
}

fn memory(text: &str) -> Result<usize> {
    let bytes = crate::protection::parse_size(text).filter(|bytes| *bytes >= INDEX_MEMORY_MIN);
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("--index-memory: `{text}` is no size of at least 8MiB"))
    })
}

/// Nothing listens and nothing dials before a person says so: by `--listen`, by a pairing.
fn begin_replication(site: &Arc<Site>, listen: Option<SocketAddr>) -> Result<()> {
    let mut settings = site.store().settings()?;
    if let Some(address) = listen.map(|a| a.to_string())
        && settings.listen.as_ref() != Some(&address)
    {
        settings.listen = Some(address);
        site.store().set_settings(&settings)?;
    }
    let (peers, _) = site.store().catalog().list::<Peer>()?;
    if settings.listen.is_none() && peers.is_empty() {
        return Ok(());
    }
    // A VM must come up without its standby: that nobody can be reached is told by health.
    if let Err(error) = site.replicate() {
        tracing::error!("replication doesn't run: {error}");
        if listen.is_some() {
            return Err(error);
        }
    }
    Ok(())
}

/// An address to listen on, with or without a port.
fn address(text: &str) -> Result<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip, DEFAULT_PORT);
    text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(at)).map_err(|_| {
        Error::new(Kind::Invalid, format!("`{text}` is no address to listen on"))
            .advice("Give an address, with or without a port: 0.0.0.0:8084, or [::]:8084")
    })
}

fn messages(log: Option<&Path>) -> Result<()> {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    match log {
        None => builder.with_writer(std::io::stderr).init(),
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            let file = file.map_err(|e| Error::io(e, "can't open the log").at(path))?;
            builder.with_writer(std::sync::Mutex::new(file)).init();
        }
    }
    Ok(())
}

/// A panic is a bug: where it was goes to the log before the process ends.
fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!("{info}\n{trace}");
    }));
}

/// The machine's name, as far as it may be a site's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match crate::site::names::check_label(name.trim()) {
        Ok(()) => name.trim().into(),
        Err(_) => "site".into(),
    }
}
