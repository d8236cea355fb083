//! Layer 0. Replication between two sites as step functions: events in, effects out.
