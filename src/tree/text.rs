//! What the files of a mount say: `key: value` text that a person reads and a script parses, and the same as JSON.
//!
//! 1. Text and JSON come from one [`Sheet`]: neither can say what the other doesn't.
//! 2. One line is one key. A key that stands for several things stands once for each, with `name=value` pairs under
//!    the quoting of control lines. No value spans lines.
//! 3. Keys never change their meaning; new ones may come.

mod control;
mod lists;
mod readme;
mod sheet;
mod status;

pub use control::{allowed_sheet, check_sheet, control_sheet, outcome_sheet};
pub use lists::{gaps_sheet, health_sheet, peer_sheet};
pub use readme::readme;
pub use sheet::{Sheet, Value};
pub use status::{site_sheet, status_sheet};

#[cfg(test)]
mod tests;
