//! Randomness for identities.

/// A source of random bits.
pub trait Entropy: Send + Sync {
    /// 128 bits that nobody has had before.
    fn random_128(&self) -> [u8; 16];

    /// 64 such bits.
    fn random_64(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.random_128();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The kernel's random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn random_128(&self) -> [u8; 16] {
        let mut out = [0; 16];
        // getrandom(2) without flags can only fail on kernels that this program doesn't run on.
        if let Err(error) = getrandom::fill(&mut out) {
            panic!("the kernel gives no random numbers: {error}");
        }
        out
    }
}
