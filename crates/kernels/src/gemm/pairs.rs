//! Pairs of bf16 numbers: packing them, and the register tile of AVX512-BF16.
use super::pack::Lines;
use super::tile::{Lhs, Step, Tile, any_tile};
use crate::simd::avx512::{Avx512, mask, transposed};
use std::arch::x86_64::*;

/// Lines, and words, of a block that is packed at once.
const SIDE: usize = 16;

/// Whether `vdpbf16ps` beats two f32 multiply-adds: on AMD's processors.
pub(super) fn fast() -> bool {
    let id = __cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Lines as panels of `width`, `stride` words apart: word `w` of line `i` at `w·width + i`, or, with `by_lines`, 16 words of each line side by side.
/// Rounds to the nearest bf16; what f32 calls subnormal becomes zero. Numbers from `k` on and missing lines are zeros.
///
/// # Safety
/// The processor must have AVX-512 with BF16, and all lines `k` numbers.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
pub(super) unsafe fn pack(
    from: Lines,
    width: usize,
    k: usize,
    words: usize,
    by_lines: bool,
    dst: &mut [f32],
    stride: usize,
) {
    let panels = from.count.div_ceil(width);
    // A row of words may spill over a panel that is not as wide as whole registers, onto the row that is written next; a panel's stride has room for the last.
    assert!(width <= SIDE || width.is_multiple_of(SIDE));
    assert!(!by_lines || (width.is_multiple_of(SIDE) && words.is_multiple_of(SIDE)));
    assert!(panels == 0 || dst.len() >= (panels - 1) * stride + words * width + width.next_multiple_of(SIDE) - width);
    let mut gathered = [0f32; 2 * SIDE * SIDE];
    for p in 0..panels {
        for w in (0..words).step_by(SIDE) {
            let here = k.saturating_sub(2 * w).min(2 * SIDE);
            for first in (0..width).step_by(SIDE) {
                let line = p * width + first;
                let lines = from.count.saturating_sub(line).min(SIDE).min(width - first);
                let src = from
                    .src
                    .as_ptr()
                    .wrapping_add(line * from.stride + 2 * w * from.k_stride);
                // SAFETY: `lines` lines and `here` numbers of each exist from `src` on; the words end inside `dst`, as asserted.
                unsafe {
                    let (block, along) = if from.k_stride == 1 {
                        (read_along(src, from.stride, lines, here), true)
                    } else if from.stride == 1 {
                        (read_across(src, from.k_stride, lines, here), false)
                    } else {
                        for i in 0..lines {
                            for q in 0..here {
                                gathered[q * SIDE + i] = *src.add(i * from.stride + q * from.k_stride);
                            }
                        }
                        (read_across(gathered.as_ptr(), SIDE, lines, here), false)
                    };
                    let block = if along == by_lines { block } else { transposed(block) };
                    let to = dst.as_mut_ptr().add(p * stride + w * width);
                    let (to, row, count) = if by_lines {
                        (to.add(first * SIDE), SIDE, SIDE)
                    } else {
                        (to.add(first), width, SIDE.min(words - w))
                    };
                    for i in 0..count {
                        _mm512_storeu_ps(to.add(i * row), block[i]);
                    }
                }
            }
        }
    }
}

/// Words of lines that run along k: register `i` holds 16 words of line `i`.
///
/// # Safety
/// `lines` lines, `stride` apart, must have `here` numbers; see [`pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
unsafe fn read_along(src: *const f32, stride: usize, lines: usize, here: usize) -> [__m512; SIDE] {
    let (low, high) = (mask(here.min(SIDE)), mask(here.saturating_sub(SIDE)));
    let mut block = [_mm512_setzero_ps(); SIDE];
    for i in 0..SIDE {
        if i < lines {
            let line = src.wrapping_add(i * stride);
            // SAFETY: masked lanes are not read.
            let (a, b) = unsafe {
                (
                    _mm512_maskz_loadu_ps(low, line),
                    _mm512_maskz_loadu_ps(high, line.wrapping_add(SIDE)),
                )
            };
            block[i] = rounded(a, b);
        }
    }
    block
}

/// Words of lines that lie side by side: register `i` holds word `i` of all lines.
///
/// # Safety
/// `here` rows, `k_stride` apart, must have `lines` numbers; see [`pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
unsafe fn read_across(src: *const f32, k_stride: usize, lines: usize, here: usize) -> [__m512; SIDE] {
    // number 2j from the first register, 2j + 1 from the second
    let mut order = [0u16; 2 * SIDE];
    for j in 0..SIDE {
        (order[2 * j], order[2 * j + 1]) = (j as u16, (SIDE + j) as u16);
    }
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let mut block = [_mm512_setzero_ps(); SIDE];
    for i in 0..SIDE {
        let read = |q: usize| {
            let there = if q < here { lines } else { 0 };
            // SAFETY: masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(mask(there), src.wrapping_add(q * k_stride)) }
        };
        let both = _mm512_castps_si512(rounded(read(2 * i), read(2 * i + 1)));
        block[i] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both));
    }
    block
}

/// The bf16 numbers of two registers, one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(first: __m512, second: __m512) -> __m512 {
    // SAFETY: both are 64 bytes without invalid patterns.
    unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// sum + a₀·b₀ + a₁·b₁ of each pair.
#[derive(Clone, Copy)]
struct Dot;
impl Step<Avx512> for Dot {
    #[inline(always)]
    fn step(self, _: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: `tile` is the only user, and enables the feature; the types are 64 bytes without invalid patterns.
        unsafe {
            let (a, b) = (
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            );
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

/// # Safety
/// As [`any_tile`]; the processor must have the features named here.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
pub(super) unsafe fn tile(k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Avx512::assume(), Dot, k, a, b, to, add) }
}
