//! Layer 3. The mount: adapter, keeper, takeover.
