//! Who is told of each durable call on a real filesystem: a test that stops a daemon between two of them.
//!
//! W1. It is told behind the call and before anybody acts on it: whoever is stopped here has made this step and
//!     nothing that follows from it.
//! W2. Nobody is told unless the same process asks for it. The programs of this crate never ask; there is no option, no
//!     variable and no file by which they could be made to.

use std::path::Path;
use std::sync::OnceLock;

type Watcher = Box<dyn Fn(&Path) + Send + Sync>;

static WATCHER: OnceLock<Watcher> = OnceLock::new();

/// From now on, for as long as this process lives, `watcher` is called behind each call that made something durable:
/// a sync of a file, a durable write, a sync of a directory. It gets the path of that; what it does holds the caller
/// up. The first one counts; another is not taken.
pub fn watch_durable(watcher: impl Fn(&Path) + Send + Sync + 'static) {
    let _ = WATCHER.set(Box::new(watcher));
}

/// Something has become durable.
pub(super) fn durable(path: &Path) {
    if let Some(watcher) = WATCHER.get() {
        watcher(path);
    }
}
