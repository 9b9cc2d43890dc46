//! Element types of GGUF tensors and their expansion to f32.
//!
//! Blocks of 32 (this file) and of 256 elements ([`super::kquants`]). Every product and sum is rounded separately, in the order of the
//! reference (ggml's `dequantize_row_*`), so that results are equal to the bit.

use half::f16;

use super::{Element, kquants};

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, non_camel_case_types)] // the names are ggml's own
pub enum GgmlType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl GgmlType {
    /// The type of a number in a file, or its name if it is known but not read.
    ///
    /// # Errors
    /// The name of a type that is not read, `unknown` for a number without one.
    pub fn from_code(code: u32) -> Result<Self, &'static str> {
        Ok(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            24 => Self::I8,
            25 => Self::I16,
            26 => Self::I32,
            27 => Self::I64,
            28 => Self::F64,
            30 => Self::BF16,
            9 => return Err("Q8_1"),
            15 => return Err("Q8_K"),
            16 => return Err("IQ2_XXS"),
            17 => return Err("IQ2_XS"),
            18 => return Err("IQ3_XXS"),
            19 => return Err("IQ1_S"),
            20 => return Err("IQ4_NL"),
            21 => return Err("IQ3_S"),
            22 => return Err("IQ2_S"),
            23 => return Err("IQ4_XS"),
            29 => return Err("IQ1_M"),
            34 => return Err("TQ1_0"),
            35 => return Err("TQ2_0"),
            39 => return Err("MXFP4"),
            _ => return Err("unknown"),
        })
    }

    fn plain(self) -> Option<Element> {
        Some(match self {
            Self::F64 => Element::F64,
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::BF16 => Element::Bf16,
            Self::I64 => Element::I64,
            Self::I32 => Element::I32,
            Self::I16 => Element::I16,
            Self::I8 => Element::I8,
            _ => return None,
        })
    }

    /// Elements in a block; 1 for types that are not quantised. A row is a whole number of blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            _ => 1,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 => 1,
        }
    }

    /// Appends the elements of all whole blocks in `bytes` to `out`.
    ///
    /// # Shapes
    /// `bytes`: n × [`GgmlType::block_bytes`]; `out` grows by n × [`GgmlType::block_len`].
    pub fn dequantize(self, bytes: &[u8], out: &mut Vec<f32>) {
        if let Some(element) = self.plain() {
            return element.decode(bytes, out);
        }
        match self {
            Self::Q8_0 => blocks::<34, 32>(bytes, out, q8_0),
            Self::Q4_0 => blocks::<18, 32>(bytes, out, q4_0),
            Self::Q4_1 => blocks::<20, 32>(bytes, out, q4_1),
            Self::Q5_0 => blocks::<22, 32>(bytes, out, q5_0),
            Self::Q5_1 => blocks::<24, 32>(bytes, out, q5_1),
            Self::Q2_K => blocks::<84, 256>(bytes, out, kquants::q2_k),
            Self::Q3_K => blocks::<110, 256>(bytes, out, kquants::q3_k),
            Self::Q4_K => blocks::<144, 256>(bytes, out, kquants::q4_k),
            Self::Q5_K => blocks::<176, 256>(bytes, out, kquants::q5_k),
            Self::Q6_K => blocks::<210, 256>(bytes, out, kquants::q6_k),
            // all others are plain and were decoded above
            _ => {}
        }
    }
}

/// Expands blocks of `B` bytes to `N` values each.
fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut Vec<f32>, expand: impl Fn(&[u8; B], &mut [f32; N])) {
    let blocks = bytes.as_chunks::<B>().0;
    out.reserve(blocks.len() * N);
    let mut values = [0.0; N];
    for block in blocks {
        expand(block, &mut values);
        out.extend_from_slice(&values);
    }
}

/// The half-precision number at byte `at` of a block.
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// x = d·q, q in −128…127.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(q as i8) * d;
    }
}

/// x = d·(q − 8). Element i is the low half of byte i, element i + 16 the high half.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        out[i] = f32::from((q & 15) as i8 - 8) * d;
        out[i + 16] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

/// x = d·q + m.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for i in 0..16 {
        let q = block[4 + i];
        out[i] = f32::from(q & 15) * d + m;
        out[i + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The 32 fifth bits of a block of 5-bit numbers, each already in place (0 or 16).
fn fifth_bits(word: &[u8]) -> [u8; 32] {
    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    std::array::from_fn(|i| (((word >> i) & 1) << 4) as u8)
}

/// x = d·(q − 16).
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half(block, 0), fifth_bits(&block[2..6]));
    for i in 0..16 {
        let q = block[6 + i];
        out[i] = f32::from((q & 15 | high[i]) as i8 - 16) * d;
        out[i + 16] = f32::from((q >> 4 | high[i + 16]) as i8 - 16) * d;
    }
}

/// x = d·q + m.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (half(block, 0), half(block, 2), fifth_bits(&block[4..8]));
    for i in 0..16 {
        let q = block[8 + i];
        out[i] = f32::from(q & 15 | high[i]) * d + m;
        out[i + 16] = f32::from(q >> 4 | high[i + 16]) * d + m;
    }
}
