//! standbyfs keeps a standby of virtual machine disks at a second site.
//!
//! Layers, bottom up; a layer uses only what stands below it (`tests/layers.rs` checks it):
//!
//! | layer | modules | may use |
//! | --- | --- | --- |
//! | 0 pure | vocab, format, history, protection, exchange | nothing with a clock, file, thread or socket |
//! | 1 I/O | seam, journal, index, base, view | 0 |
//! | 2 site | group, link, site | 0, 1 |
//! | 3 edges | tree, fuse, bin | all |

pub mod base;
pub mod cli;
pub mod exchange;
pub mod format;
pub mod fuse;
pub mod group;
pub mod history;
pub mod index;
pub mod journal;
pub mod link;
pub mod protection;
pub mod seam;
pub mod site;
pub mod tree;
pub mod view;
pub mod vocab;
