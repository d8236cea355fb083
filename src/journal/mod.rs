//! Layer 1. Logs of a group: append, durable mark, segments, recovery, history file, checkpoint.
