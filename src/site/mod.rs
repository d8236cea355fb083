//! Layer 2. A site: store, catalog, jobs, events, peers, hooks.
//!
//! | file | holds |
//! | --- | --- |
//! | store | the store directory: layout, lock, home, features, a separate journal directory |
//! | unlisted | groups that no VM has: one is being made, or was removed |
//! | site, vm, upkeep | the site, its VMs, and what is done for them again and again |
//! | catalog, objects | small objects in files, replaced as a whole |
//! | book | peers and tokens, as the link asks for them |
//! | events, lines | what was commanded and what happened; files of lines |
//! | replication | the link, connections, groups that have a peer |
//! | report | what status and health show |
//! | requests | answers kept for requests that the kernel sends again |
//! | facts | the state of a group, from its history |
//! | commands | what control files take: judged, made durable, carried out |
//! | points, policies | recovery points of a group, its policy |
//! | jobs | job objects that survive a restart, and the threads that work on them |
//! | start_wait | hearing the peer before anything is written after a mount |
//! | hooks, domain, start | stopping and starting VMs; the domain XML for this site |
//! | names | which names are allowed |

pub mod book;
pub mod catalog;
pub mod commands;
pub mod domain;
pub mod events;
pub mod export;
pub mod facts;
pub mod hooks;
pub mod inspect;
pub mod jobs;
pub mod lines;
pub mod names;
pub mod objects;
pub mod points;
pub mod policies;
pub mod replication;
pub mod report;
pub mod requests;
mod room;
#[allow(clippy::module_inception, reason = "the main concept of the room has its name")]
pub mod site;
pub mod start;
pub mod start_wait;
pub mod store;
mod unlisted;
mod upkeep;
mod vm;

pub use site::{Site, SiteOptions};
pub use vm::Vm;
