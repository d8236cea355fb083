//! standbyctl.

fn main() {}
