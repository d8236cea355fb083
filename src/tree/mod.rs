//! Layer 3. The names of a mount and what each answers.
//!
//! | file | holds |
//! | --- | --- |
//! | ops | what a mount asks of a namespace |
//! | tree | the namespace that answers: which node, which part of this room |
//! | host | what it needs of the site and of the mount |
//! | node | what there is, inode numbers, the table of fixed names |
//! | live, names, io | `disks/`: files as they are, changes of names, reading and writing |
//! | handles, once | openings and requests that outlive a process |
//! | attributes | owner, mode, times, extended attributes |
//! | past, moments | `recovery-points/`: files of past moments |
//! | directory | what lies in each directory |
//! | special, text | files that say something |
//! | lines | files of lines that become more: events, logs |
//! | controls, control, owner | what control files need of the site, what writing to one does, who may |

mod attributes;
mod control;
mod controls;
mod directory;
mod handles;
mod host;
mod io;
mod lines;
mod live;
mod moments;
mod names;
mod node;
mod once;
pub mod ops;
mod owner;
mod past;
mod special;
pub mod text;
#[allow(clippy::module_inception, reason = "the room's main concept has the room's name")]
mod tree;

pub use controls::{Checked, Controls, To};
pub use host::{Host, Item, Notices, Numbers};
pub use tree::Tree;

#[cfg(test)]
mod tests;
