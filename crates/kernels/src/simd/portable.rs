//! Four lanes in plain Rust: NEON and SSE2 come out of the compiler.
use super::Simd;
use crate::gemm::{Lhs, MultiplyAdd, Tile, any_tile};

/// Token of the portable path.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// `mul_add` is one instruction only where FMA is part of the base instruction set; elsewhere it would be a library call.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[inline(always)]
fn each(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    const LANES: usize = 4;
    const MR: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
    type V = [f32; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 4] {
        // SAFETY: the caller's contract.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> [f32; 4] {
        let mut v = [0.0; 4];
        for i in 0..n.min(4) {
            // SAFETY: `i < n`.
            v[i] = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller's contract.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: [f32; 4], n: usize) {
        for i in 0..n.min(4) {
            // SAFETY: `i < n`.
            unsafe { *p.add(i) = v[i] };
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const half::f16) -> [f32; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            [
                (*p).to_f32(),
                (*p.add(1)).to_f32(),
                (*p.add(2)).to_f32(),
                (*p.add(3)).to_f32(),
            ]
        }
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8, upper: bool) -> [f32; 4] {
        let shift = if upper { 4 } else { 0 };
        // SAFETY: the caller's contract.
        unsafe { std::array::from_fn(|i| f32::from(*p.add(i) >> shift & 15)) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(self, p: *const i8) -> [f32; 4] {
        // SAFETY: the caller's contract.
        unsafe { std::array::from_fn(|i| f32::from(*p.add(i))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [f32; 4]) {
        // SAFETY: the caller's contract.
        unsafe { p.cast::<[u8; 4]>().write_unaligned(v.map(|x| x as u8)) }
    }
    #[inline(always)]
    fn dot_bytes(self, a: [f32; 4], b: [f32; 4], sum: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| {
            let (a, b) = (a[i].to_bits(), b[i].to_bits());
            let product = |at: u32| (a >> at & 0xff) as i32 * i32::from((b >> at) as u8 as i8);
            let four = (product(0) + product(8)) + (product(16) + product(24));
            f32::from_bits((sum[i].to_bits() as i32).wrapping_add(four) as u32)
        })
    }
    #[inline(always)]
    fn integers(self, a: [f32; 4]) -> [f32; 4] {
        a.map(|v| v.to_bits() as i32 as f32)
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        each(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        if FUSED {
            [
                a[0].mul_add(b[0], c[0]),
                a[1].mul_add(b[1], c[1]),
                a[2].mul_add(b[2], c[2]),
                a[3].mul_add(b[3], c[3]),
            ]
        } else {
            self.add(self.mul(a, b), c)
        }
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 4]) -> [f32; 4] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: [f32; 4]) -> [f32; 4] {
        // Adding and taking away 1.5·2^23 leaves the nearest integer for |a| < 2^22, which is all that `math` asks for; no library call.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn pow2(self, n: [f32; 4]) -> [f32; 4] {
        n.map(|x| f32::from_bits(((x as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn select_lt(self, a: [f32; 4], b: [f32; 4], yes: [f32; 4], no: [f32; 4]) -> [f32; 4] {
        let mut v = no;
        for i in 0..4 {
            v[i] = if a[i] < b[i] { yes[i] } else { no[i] };
        }
        v
    }
    #[inline(always)]
    fn bf16(self, a: [f32; 4]) -> [f32; 4] {
        a.map(|x| {
            let bits = x.to_bits();
            let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            let kept = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
            let tiny = x.abs() < f32::MIN_POSITIVE;
            f32::from_bits(if tiny { bits & 0x8000_0000 } else { kept & 0xffff_0000 })
        })
    }
    #[inline(always)]
    fn sum(self, a: [f32; 4]) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn max_lane(self, a: [f32; 4]) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, row_stride: usize, rows: usize, dst: *mut f32, dst_stride: usize) {
        let mut r = [[0f32; 4]; 4];
        for i in 0..rows.min(4) {
            // SAFETY: the caller's contract.
            r[i] = unsafe { self.load(src.add(i * row_stride)) };
        }
        for j in 0..4 {
            // SAFETY: the caller's contract.
            unsafe { self.store(dst.add(j * dst_stride), [r[0][j], r[1][j], r[2][j], r[3][j]]) };
        }
    }
    #[inline(always)]
    unsafe fn tile(self, k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
        // SAFETY: the caller's contract.
        unsafe { tile(k, a, b, to, add) }
    }
}

/// # Safety
/// As [`Simd::tile`].
#[inline(never)]
unsafe fn tile(k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Portable, MultiplyAdd, k, a, b, to, add) }
}
