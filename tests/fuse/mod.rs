//! Real mounts. They need root, /dev/fuse, fio and QEMU's tools, and say so where one is missing.

mod basics;
mod harness;
mod keeper;
mod passthrough;
mod qemu;
mod server;
mod takeover;
