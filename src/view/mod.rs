//! Layer 1. The one function that reads a moment.
