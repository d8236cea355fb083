//! All integration tests in one binary: one link, one list.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control;
mod datastore;
mod fuse;
mod golden;
mod inspect;
mod layers;
mod link;
mod pages;
mod replication;
mod support;
