//! Layer 3. The names of a mount and what each answers.

pub mod ops;
pub mod text;
