//! ggml's "k-quants": super-blocks of 256 elements whose parts have quantised scales of their own.

use super::ggml::half;

/// Two bits: x = (d·scale)·q − (dmin·min), 16 parts of 16 elements.
///
/// Layout: 16 bytes of (scale | min << 4), 64 bytes of q, d, dmin. Two runs of 32 bytes hold 128 elements each: bits 0–1 of a run are
/// its first 32 elements, bits 2–3 the next 32, and so on.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, q) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block, 80), half(block, 82));
    for i in 0..256 {
        let scale = scales[i / 16];
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        out[i] = dl * f32::from(two_bits(q, i)) - ml;
    }
}

/// Element `i` of 256 two-bit numbers in 64 bytes.
fn two_bits(q: &[u8], i: usize) -> u8 {
    let (run, plane, lane) = (i / 128, i % 128 / 32, i % 32);
    (q[run * 32 + lane] >> (2 * plane)) & 3
}

/// Three bits: x = (d·(scale − 32))·(q − 4·[high bit unset]), 16 parts of 16 elements.
///
/// Layout: 32 bytes of high bits (bit k of byte l belongs to element 32k + l), 64 bytes of two low bits, 12 bytes of 6-bit scales, d.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high, q, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    // low four bits of the scales: bytes 0–7, first their low halves, then their high halves; two high bits: bytes 8–11
    let scales: [f32; 16] = std::array::from_fn(|j| {
        let low = (packed[j % 8] >> (4 * (j / 8))) & 15;
        let top = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        d * f32::from((low | top << 4) as i8 - 32)
    });
    for i in 0..256 {
        let unset = (high[i % 32] >> (i / 32)) & 1 == 0;
        out[i] = scales[i / 16] * f32::from(two_bits(q, i) as i8 - if unset { 4 } else { 0 });
    }
}

/// The eight 6-bit scales and minima that Q4_K and Q5_K pack into 12 bytes: bytes 0–3 and 4–7 hold the first four of each in their low
/// six bits; the others have their low half in bytes 8–11 and their top two bits in the top of bytes 0–7.
fn scales_and_minima(packed: &[u8]) -> ([f32; 8], [f32; 8]) {
    let scale = |j: usize| match j {
        0..4 => packed[j] & 63,
        _ => packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
    };
    let minimum = |j: usize| match j {
        0..4 => packed[j + 4] & 63,
        _ => packed[j + 4] >> 4 | packed[j] >> 6 << 4,
    };
    (
        std::array::from_fn(|j| scale(j).into()),
        std::array::from_fn(|j| minimum(j).into()),
    )
}

/// Four bits: x = (d·scale)·q − (dmin·min), 8 parts of 32 elements.
///
/// Layout: d, dmin, 12 bytes of scales and minima, 128 bytes of q: 32 bytes hold one part in their low and the next in their high halves.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let q = &block[16..144];
    for (part, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * scales[part], dmin * minima[part]);
        for (lane, x) in values.iter_mut().enumerate() {
            *x = dl * f32::from(nibble(q, part, lane)) - ml;
        }
    }
}

/// Four-bit number `lane` of part `part`.
fn nibble(q: &[u8], part: usize, lane: usize) -> u8 {
    (q[part / 2 * 32 + lane] >> (4 * (part % 2))) & 15
}

/// Five bits: as Q4_K, with 32 bytes of fifth bits (bit p of byte l belongs to element l of part p) before the q.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let (high, q) = (&block[16..48], &block[48..176]);
    for (part, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * scales[part], dmin * minima[part]);
        for (lane, x) in values.iter_mut().enumerate() {
            *x = dl * f32::from(nibble(q, part, lane) | ((high[lane] >> part) & 1) << 4) - ml;
        }
    }
}

/// Six bits: x = (d·scale)·(q − 32), 16 parts of 16 elements with i8 scales.
///
/// Layout: 128 bytes of low halves, 64 bytes of two high bits, 16 scales, d. Each half of the block (128 elements) uses 64 bytes of low
/// halves: the low nibbles are its first 64 elements, the high nibbles the others.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high) = (&block[..128], &block[128..192]);
    let d = half(block, 208);
    let scales: [f32; 16] = std::array::from_fn(|j| d * f32::from(block[192 + j] as i8));
    for i in 0..256 {
        let (run, within) = (i / 128, i % 128);
        let nibble = (low[run * 64 + within % 64] >> (4 * (within / 64))) & 15;
        let q = nibble | two_bits(high, i) << 4;
        out[i] = scales[i / 16] * f32::from(q as i8 - 32);
    }
}
