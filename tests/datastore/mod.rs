//! The datastore on real mounts: what programs do with disk images and the files beside them.

mod files;
mod images;
mod past;
mod space;
mod takeover;

use crate::fuse::harness::Mount;

/// A mount of a new store.
fn datastore() -> Mount {
    Mount::with(|options| options.store = Some(options.root.join("store")))
}

/// A mount of a new store at this place.
fn datastore_in(store: &std::path::Path) -> Mount {
    Mount::with(|options| options.store = Some(store.to_owned()))
}
