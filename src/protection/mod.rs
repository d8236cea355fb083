//! Layer 0. States, commands, preconditions, refusals, policies, control lines, retention.
