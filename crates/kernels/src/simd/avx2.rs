//! AVX2 with FMA and F16C.
use super::{Simd, Task};
use crate::gemm::{Lhs, MultiplyAdd, Tile, any_tile};
use std::arch::x86_64::*;

/// Token: exists only after AVX2, FMA and F16C were detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
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
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Out {
    task.run(Avx2(()))
}

/// `n` lanes of ones from `MASKS[8 - n..]`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn mask(n: usize) -> __m256i {
    let window = &MASKS[8 - n.min(8)..][..8];
    // SAFETY: the window has eight numbers; only called with the token at hand.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}

// SAFETY (all blocks below): the token is only made by `run`, whose caller vouches for the features; pointers are the caller's contract.
impl Simd for Avx2 {
    const LANES: usize = 8;
    const MR: usize = 6;
    type V = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: see above the `impl`; masked-out lanes are not accessed.
        unsafe { _mm256_maskload_ps(p, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: see above the `impl`; masked-out lanes are not accessed.
        unsafe { _mm256_maskstore_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const half::f16) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, upper: bool) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe {
            let bytes = _mm_loadl_epi64(p.cast());
            let halves = if upper { _mm_srli_epi16::<4>(bytes) } else { bytes };
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_and_si128(halves, _mm_set1_epi8(15))))
        }
    }
    #[inline(always)]
    unsafe fn signed_bytes(self, p: *const i8) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m256) {
        // SAFETY: see above the `impl`.
        unsafe {
            let whole = _mm256_cvtps_epi32(v);
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(halves, halves));
        }
    }
    #[inline(always)]
    fn dot_bytes(self, a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe {
            // bytes become numbers of 16 bits, the even and the odd ones, since sums of products of bytes in one step may not fit 16 bits
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let even = _mm256_madd_epi16(
                _mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
            let four = _mm256_add_epi32(even, odd);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), four))
        }
    }
    #[inline(always)]
    fn integers(self, a: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(a)) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
                _mm256_cvtps_epi32(n),
                _mm256_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn bf16(self, a: __m256) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let kept = _mm256_blendv_ps(_mm256_castsi256_ps(nearest), _mm256_castsi256_ps(quiet), nan);
            let sign = _mm256_set1_ps(-0.0);
            let tiny = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, a), _mm256_set1_ps(f32::MIN_POSITIVE));
            let high = _mm256_and_ps(kept, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000u32 as i32)));
            _mm256_blendv_ps(high, _mm256_and_ps(a, sign), tiny)
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: see above the `impl`.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        // SAFETY: see above the `impl`.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn head(self, v: __m256, n: usize) -> __m256 {
        // SAFETY: see above the `impl`.
        unsafe { _mm256_and_ps(v, _mm256_castsi256_ps(mask(n))) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, row_stride: usize, rows: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: see above the `impl`; rows from `rows` on are not read.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                if i < rows {
                    r[i] = _mm256_loadu_ps(src.add(i * row_stride));
                }
            }
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                for h in 0..2 {
                    let (a, b) = (_mm256_castps_pd(t[4 * i + h]), _mm256_castps_pd(t[4 * i + 2 + h]));
                    r[4 * i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                    r[4 * i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
                }
            }
            for c in 0..4 {
                _mm256_storeu_ps(dst.add(c * dst_stride), _mm256_permute2f128_ps::<0x20>(r[c], r[4 + c]));
            }
            for c in 0..4 {
                _mm256_storeu_ps(
                    dst.add((c + 4) * dst_stride),
                    _mm256_permute2f128_ps::<0x31>(r[c], r[4 + c]),
                );
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
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn tile(k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Avx2(()), MultiplyAdd, k, a, b, to, add) }
}
