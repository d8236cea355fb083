//! Layer 1. Which record holds a byte at a moment: runs on disk, merged regions in memory.
