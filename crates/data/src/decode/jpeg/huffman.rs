//! Huffman codes and the bits they are read from (ITU-T T.81, annexes C and F.2.2).

/// Codes up to this length are found in one step.
const LOOK: u32 = 9;

/// A decoding table.
pub(super) struct Huffman {
    /// By the next [`LOOK`] bits: length · 256 + symbol; 0 when the code is longer.
    look: Vec<u16>,
    /// By length: the first code that is too large, aligned to 16 bits.
    limit: [u32; 18],
    /// By length: what to add to a code to get the index of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl Huffman {
    /// `None` when there are more codes of a length than fit.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            look: vec![0; 1 << LOOK],
            limit: [0; 18],
            offset: [0; 17],
            symbols: [0; 256],
        };
        table.symbols.get_mut(..symbols.len())?.copy_from_slice(symbols);
        let (mut code, mut index) = (0u32, 0usize);
        for len in 1..=16u32 {
            let count = u32::from(counts[len as usize - 1]);
            table.offset[len as usize] = index as i32 - code as i32;
            if code + count > 1 << len {
                return None;
            }
            if len <= LOOK {
                for i in 0..count {
                    let first = ((code + i) << (LOOK - len)) as usize;
                    let entry = (len as u16) << 8 | u16::from(symbols[index + i as usize]);
                    table.look[first..first + (1 << (LOOK - len))].fill(entry);
                }
            }
            index += count as usize;
            code += count;
            table.limit[len as usize] = code << (16 - len);
            code <<= 1;
        }
        table.limit[17] = u32::MAX;
        Some(table)
    }
}

/// The bits of a scan, from the first byte of its data. At a marker and at the end of the data, zeros follow without end.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte that is not in `buffer`; never beyond a marker.
    pub at: usize,
    /// The next bits, from the top.
    buffer: u64,
    count: u32,
    /// How many of the bits at the end of `buffer` are no data, or were when they were there.
    invented: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Self {
            data,
            at,
            buffer: 0,
            count: 0,
            invented: 0,
        }
    }

    /// Whether more was taken than there was before the next marker. libjpeg leaves out what follows up to a restart, and so must everybody
    /// whose time is worth something: a small file can promise a large picture in many scans.
    #[inline(always)]
    pub fn starved(&self) -> bool {
        self.invented > self.count
    }

    /// Makes at least 48 bits available.
    #[inline(always)]
    fn refill(&mut self) {
        if self.count >= 48 {
            return;
        }
        if let Some(word) = self.data.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_be_bytes(*word);
            // none of the eight bytes is 0xff
            if !word.wrapping_add(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 == 0 {
                // bits below `count` are those of the bytes that come next, so reading them again changes nothing
                self.buffer |= word >> self.count;
                let bytes = (63 - self.count) / 8;
                self.at += bytes as usize;
                self.count += bytes * 8;
                return;
            }
        }
        self.refill_slowly();
    }

    #[cold]
    #[inline(never)]
    fn refill_slowly(&mut self) {
        while self.count <= 48 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.invented = self.invented.saturating_add(8);
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            // clear what a fast refill may have left below `count`
            self.buffer &= !(u64::MAX.checked_shr(self.count).unwrap_or(0));
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn drop(&mut self, n: u32) {
        self.buffer <<= n;
        self.count -= n;
    }

    /// The next symbol; 0 for a code that does not exist.
    #[inline(always)]
    pub fn symbol(&mut self, table: &Huffman) -> u8 {
        self.refill();
        let entry = table.look[(self.buffer >> (64 - LOOK)) as usize];
        if entry != 0 {
            self.drop(u32::from(entry >> 8));
            return entry as u8;
        }
        let code = (self.buffer >> 48) as u32;
        let mut len = LOOK as usize + 1;
        while code >= table.limit[len] {
            len += 1;
        }
        if len > 16 {
            self.drop(16);
            return 0;
        }
        self.drop(len as u32);
        let index = (code >> (16 - len)) as i32 + table.offset[len];
        table.symbols.get(index as usize).copied().unwrap_or(0)
    }

    /// `n` ≤ 16 bits as a number. At most 32 bits may be taken after [`symbol`](Self::symbol) by this and its relatives together.
    #[inline(always)]
    pub fn take(&mut self, n: u32) -> u32 {
        // two shifts, since one by 64 is not defined
        let value = (self.buffer >> 1 >> (63 - n)) as u32;
        self.drop(n);
        value
    }

    /// `n` ≤ 16 bits as a signed difference (F.2.2.1, EXTEND).
    #[inline(always)]
    pub fn signed(&mut self, n: u32) -> i32 {
        let value = self.take(n) as i32;
        let half = (1i32 << n) >> 1;
        if value < half { value - (1 << n) + 1 } else { value }
    }

    /// One bit, with a refill.
    #[inline(always)]
    pub fn bit(&mut self) -> bool {
        self.refill();
        self.take(1) != 0
    }

    /// Skips to the next restart marker, over whatever is before it; stays at any other marker, and then has nothing to give.
    pub fn restart(&mut self) {
        self.buffer = 0;
        self.count = 0;
        self.invented = 1;
        while let Some(found) = self
            .data
            .get(self.at..)
            .and_then(|rest| rest.iter().position(|&b| b == 0xff))
        {
            self.at += found;
            match self.data.get(self.at + 1) {
                Some(0xd0..=0xd7) => {
                    self.at += 2;
                    self.invented = 0;
                    return;
                }
                Some(0xff) => self.at += 1,
                Some(0) => self.at += 2,
                _ => return,
            }
        }
        self.at = self.data.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` bits, with a refill.
    fn fresh(bits: &mut Bits<'_>, n: u32) -> u32 {
        bits.refill();
        bits.take(n)
    }

    /// The luminance DC table of ITU-T T.81, K.3.
    fn table() -> Huffman {
        Huffman::new(
            &[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        )
        .unwrap()
    }

    #[test]
    fn symbols_and_values() {
        // 00 → 0; 011 → 2, 01 → −2; 1110 → 6, 100000 → 32; 111111110 → 11, 00000000000 → −2047; then ones
        let bits = "00 011 01 1110 100000 111111110 00000000000 1111111".replace(' ', "");
        let data: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|c| c.iter().fold(0, |a, b| a << 1 | (b - b'0')))
            .collect();
        // with a stuffed zero where a byte is 0xff
        let data: Vec<u8> = data
            .iter()
            .flat_map(|&b| if b == 0xff { vec![0xff, 0] } else { vec![b] })
            .collect();
        for padding in [0, 20] {
            let data = [data.clone(), vec![0x55; padding]].concat();
            let (mut b, t) = (Bits::new(&data, 0), table());
            assert_eq!(b.symbol(&t), 0);
            assert_eq!((b.symbol(&t), b.signed(2)), (2, -2));
            assert_eq!((b.symbol(&t), b.signed(6)), (6, 32));
            assert_eq!((b.symbol(&t), b.signed(11)), (11, -2047));
        }
    }

    #[test]
    fn zeros_follow_the_end_and_a_marker() {
        for data in [&[0xab][..], &[0xab, 0xff, 0xd9, 0x77], &[0xab, 0xff]] {
            let mut b = Bits::new(data, 0);
            assert_eq!(fresh(&mut b, 8), 0xab);
            assert!(!b.starved());
            assert_eq!(fresh(&mut b, 1), 0);
            assert!(b.starved());
            for _ in 0..20 {
                assert_eq!(fresh(&mut b, 16), 0);
            }
            assert_eq!(b.at, 1);
        }
    }

    #[test]
    fn a_fast_refill_before_a_slow_one_loses_nothing() {
        let data: Vec<u8> = (1..=40u8)
            .flat_map(|i| if i % 9 == 0 { vec![0xff, 0] } else { vec![i] })
            .collect();
        let want: Vec<u32> = (1..=40u8)
            .map(|i| if i % 9 == 0 { 0xff } else { u32::from(i) })
            .collect();
        let mut b = Bits::new(&data, 0);
        let got: Vec<u32> = (0..40).map(|_| fresh(&mut b, 3) << 5 | fresh(&mut b, 5)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn impossible_tables_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[1, 2, 3]).is_none());
    }
}
