//! Commands on one group, with the power cut in every call that changes the disk.

mod branches;
mod copies;
mod crash;
mod import;
mod site;
