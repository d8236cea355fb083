//! Layer 2. The site link: certificates, pairing, TLS, frames over TCP.
