//! Real mounts. They need root, /dev/fuse, fio and QEMU's tools, and say so where one is missing.

mod basics;
pub mod control;
pub mod harness;
mod keeper;
mod passthrough;
mod qemu;
mod server;
mod steps;
mod takeover;
