//! Layer 2. A replication group: write path, rounds, shipping, receiving, operations step by step.
