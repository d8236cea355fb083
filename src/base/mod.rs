//! Layer 1. The base image of each file, and the rounds that move it.
