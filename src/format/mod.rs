//! Layer 0. Formats on disk and on the wire: structs and codecs, no I/O. `docs/formats.md` describes them once.
