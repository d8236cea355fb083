//! Layer 2. A site: store, catalog, jobs, events, status, peers, space.
