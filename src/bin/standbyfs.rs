//! standbyfs.

fn main() {}
