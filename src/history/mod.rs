//! Layer 0. Epochs, lines, decisions, the common moment of two histories, ways of reprotect.
