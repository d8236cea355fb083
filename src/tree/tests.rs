//! The tree without a kernel, over a simulated store.
