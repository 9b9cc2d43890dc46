//! Random numbers from the output of a hash: the same in every version and on every machine, which no generator of a library promises.

/// A stream of random numbers.
pub(crate) struct Random {
    stream: blake3::OutputReader,
    block: [u8; BLOCK],
    at: usize,
    end: usize,
}

const BLOCK: usize = 4096;
/// Most streams are asked for a few numbers only.
const FIRST: usize = 64;

impl Random {
    /// A stream for a purpose; each purpose and each list of seeds has one of its own.
    pub fn new(purpose: &'static str, seeds: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        for seed in seeds {
            hasher.update(&seed.to_le_bytes());
        }
        Self {
            stream: hasher.finalize_xof(),
            block: [0; BLOCK],
            at: 0,
            end: 0,
        }
    }

    fn bits(&mut self) -> u32 {
        if self.at == self.end {
            self.end = if self.end == 0 { FIRST } else { BLOCK };
            self.stream.fill(&mut self.block[..self.end]);
            self.at = 0;
        }
        let bytes: [u8; 4] = std::array::from_fn(|i| self.block[self.at + i]);
        self.at += 4;
        u32::from_le_bytes(bytes)
    }

    /// Below `bound`, without bias: Lemire's multiplication with rejection. 0 when `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let bound = u64::from(bound).max(1);
        let reject = (1u64 << 32) % bound;
        loop {
            let product = u64::from(self.bits()) * bound;
            if product & 0xffff_ffff >= reject {
                return (product >> 32) as u32;
            }
        }
    }

    /// From 0 up to but not 1, in steps of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        let high = u64::from(self.bits()) << 21;
        let low = u64::from(self.bits()) >> 11;
        (high | low) as f64 * (-53f64).exp2()
    }
}
