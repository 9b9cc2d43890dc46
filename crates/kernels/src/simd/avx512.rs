//! AVX-512 (F, VL, DQ, BW).
use super::{Simd, Task};
use crate::gemm::{Lhs, MultiplyAdd, Tile, any_tile};
use std::arch::x86_64::*;

/// Token: exists only after AVX-512 was detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// For functions that enable the features themselves.
    ///
    /// # Safety
    /// The processor must have the features that [`run`] names.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// # Safety
/// The processor must have the features named here.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Out {
    task.run(Avx512(()))
}

#[inline(always)]
pub(crate) fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// Rows become columns: number `j` of register `i` goes to number `i` of register `j`.
///
/// # Safety
/// The processor must have AVX-512 F.
#[inline(always)]
pub(crate) unsafe fn transposed(mut r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut t = r;
        // 32-bit pairs, 64-bit pairs, then 128-bit blocks twice.
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            for h in 0..2 {
                let (a, b) = (_mm512_castps_pd(t[4 * i + h]), _mm512_castps_pd(t[4 * i + 2 + h]));
                r[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                r[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        // r[4i + c] holds, in its four 128-bit blocks, columns c, c+4, c+8, c+12 of rows 4i..4i+4.
        for c in 0..4 {
            let lo01 = _mm512_shuffle_f32x4::<0x88>(r[c], r[4 + c]);
            let hi01 = _mm512_shuffle_f32x4::<0xdd>(r[c], r[4 + c]);
            let lo23 = _mm512_shuffle_f32x4::<0x88>(r[8 + c], r[12 + c]);
            let hi23 = _mm512_shuffle_f32x4::<0xdd>(r[8 + c], r[12 + c]);
            t[c] = _mm512_shuffle_f32x4::<0x88>(lo01, lo23);
            t[c + 8] = _mm512_shuffle_f32x4::<0xdd>(lo01, lo23);
            t[c + 4] = _mm512_shuffle_f32x4::<0x88>(hi01, hi23);
            t[c + 12] = _mm512_shuffle_f32x4::<0xdd>(hi01, hi23);
        }
        t
    }
}

// SAFETY (all blocks below): the token is only made by `run`, whose caller vouches for the features; pointers are the caller's contract.
impl Simd for Avx512 {
    const LANES: usize = 16;
    const MR: usize = 14;
    type V = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: see above the `impl`; masked-out lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: see above the `impl`; masked-out lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const half::f16) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, upper: bool) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            let halves = if upper { _mm_srli_epi16::<4>(bytes) } else { bytes };
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(halves, _mm_set1_epi8(15))))
        }
    }
    #[inline(always)]
    unsafe fn signed_bytes(self, p: *const i8) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m512) {
        // SAFETY: see above the `impl`.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    fn dot_bytes(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe {
            // as in AVX2; processors with VNNI have an instruction for it, which products use where it is there
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let even = _mm512_madd_epi16(
                _mm512_and_si512(a, _mm512_set1_epi16(0xff)),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b));
            let four = _mm512_add_epi32(even, odd);
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), four))
        }
    }
    #[inline(always)]
    fn integers(self, a: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(a)) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
                _mm512_cvtps_epi32(n),
                _mm512_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    fn bf16(self, a: __m512) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let kept = _mm512_mask_or_epi32(nearest, nan, bits, _mm512_set1_epi32(0x0040_0000));
            let tiny = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(a), _mm512_set1_ps(f32::MIN_POSITIVE));
            let high = _mm512_and_si512(kept, _mm512_set1_epi32(0xffff_0000u32 as i32));
            _mm512_castsi512_ps(_mm512_mask_and_epi32(high, tiny, bits, _mm512_set1_epi32(i32::MIN)))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn head(self, v: __m512, n: usize) -> __m512 {
        // SAFETY: see above the `impl`.
        unsafe { _mm512_maskz_mov_ps(mask(n.min(16)), v) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, row_stride: usize, rows: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: see above the `impl`; rows from `rows` on are not read.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for i in 0..16 {
                if i < rows {
                    r[i] = _mm512_loadu_ps(src.add(i * row_stride));
                }
            }
            let t = transposed(r);
            for j in 0..16 {
                _mm512_storeu_ps(dst.add(j * dst_stride), t[j]);
            }
        }
    }
    #[inline(always)]
    unsafe fn tile(self, k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
        // SAFETY: the caller's contract; the token vouches for the features.
        unsafe { tile(k, a, b, to, add) }
    }
}

/// # Safety
/// As [`Simd::tile`]; the processor must have the features named here.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
#[inline(never)]
unsafe fn tile(k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Avx512(()), MultiplyAdd, k, a, b, to, add) }
}
