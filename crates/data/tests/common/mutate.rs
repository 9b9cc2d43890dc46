//! Files with something wrong: what bad disks, bad downloads and bad people do to pictures.

/// xorshift64*; the same mutations for the same seed.
pub struct Random(u64);

impl Random {
    /// Any seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % n.max(1)
    }
}

/// One to four mutations of `file`; parts may come from `other`.
pub fn mutate(random: &mut Random, file: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(4) {
        // headers are short and decide most, so half of all places are near the beginning
        let reach = if random.below(2) == 0 {
            bytes.len().min(128)
        } else {
            bytes.len()
        };
        let at = random.below(reach);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.below(6)],
            2 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            // numbers of two and four bytes at their extremes
            3 => {
                let value = [0u32, 1, 0x7fff, 0xffff, 0x7fff_ffff, u32::MAX, 0x0001_0000][random.below(7)];
                let big = value.to_be_bytes();
                let number = if random.below(2) == 0 { &big[..] } else { &big[2..] };
                for (to, from) in bytes[at..].iter_mut().zip(number) {
                    *to = *from;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let end = (at + 1 + random.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            // a stretch of another file, or of this one, in place of what was there or before it
            6 => {
                let from = if random.below(2) == 0 { other } else { file };
                let start = random.below(from.len());
                let stretch = &from[start..(start + 1 + random.below(60)).min(from.len())];
                let replaced = if random.below(2) == 0 { stretch.len() } else { 0 };
                let end = (at + replaced).min(bytes.len());
                bytes.splice(at..end, stretch.iter().copied());
            }
            _ => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes[at..end].reverse();
            }
        }
    }
    bytes
}
