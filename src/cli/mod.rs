//! Layer 3. What the two programs share: arguments in, words out.
