//! The few vector operations that the kernels are written in, and the choice of the instruction set at run time.
//!
//! A kernel is a [`Task`]: generic code marked `#[inline(always)]`. [`dispatch`] compiles it once per instruction set inside a function that enables the features.
//! A value of an instruction-set type (a *token*) exists only where its features were detected, which is what makes its operations sound.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod portable;

use crate::gemm::{Lhs, Tile};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Vector operations of one instruction set.
///
/// `min` and `max` return their second operand when either is NaN, as x86 does: put the data second and NaN survives a clamp.
pub(crate) trait Simd: Copy + Send + Sync {
    /// `f32` numbers in one register.
    const LANES: usize;
    /// Rows of a matrix-product tile (its columns are `2 * LANES`): as many as leave registers for the operands.
    const MR: usize;
    /// One register.
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// The first `n < LANES` numbers, then zeros.
    /// # Safety
    /// `p` must be readable for `n` numbers.
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `p` must be writable for `LANES` numbers.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores the first `n < LANES` numbers.
    /// # Safety
    /// `p` must be writable for `n` numbers.
    unsafe fn store_part(self, p: *mut f32, v: Self::V, n: usize);
    /// `LANES` half-precision numbers, widened.
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load_f16(self, p: *const half::f16) -> Self::V;
    /// The lower halves of `LANES` bytes as numbers, or the upper ones.
    /// # Safety
    /// `p` must be readable for `LANES` bytes.
    unsafe fn nibbles(self, p: *const u8, upper: bool) -> Self::V;
    /// `LANES` bytes with a sign as numbers.
    /// # Safety
    /// `p` must be readable for `LANES` bytes.
    unsafe fn signed_bytes(self, p: *const i8) -> Self::V;
    /// Stores `LANES` integral numbers from 0 to 255 as bytes.
    /// # Safety
    /// `p` must be writable for `LANES` bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: Self::V);
    /// `sum` plus the products of the four bytes of each word, those of `a` without a sign, those of `b` with one. Words and sums are integers of 32 bits in the place of
    /// numbers.
    fn dot_bytes(self, a: Self::V, b: Self::V, sum: Self::V) -> Self::V;
    /// Integers of 32 bits in the place of numbers, as numbers.
    fn integers(self, a: Self::V) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integer, halves to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for integral `-126 <= n <= 127`; any value for other `n`.
    fn pow2(self, n: Self::V) -> Self::V;
    /// `a < b ? yes : no` per lane (`no` when unordered).
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The nearest bf16, halves to even, as processors round on their way to a bf16 product: what f32 calls subnormal is zero there.
    fn bf16(self, a: Self::V) -> Self::V;
    /// Sum of the lanes, always in the same order.
    fn sum(self, a: Self::V) -> f32;
    /// Largest lane.
    fn max_lane(self, a: Self::V) -> f32;
    /// Reads `LANES` numbers of each of `rows <= LANES` rows (`row_stride` apart) and writes them transposed: number `j` of row `i` to `dst[j * dst_stride + i]`.
    /// All `LANES` columns of each written line are overwritten; those from `rows` on are zero.
    /// # Safety
    /// The rows must be readable; `dst` must be writable for `(LANES - 1) * dst_stride + LANES` numbers.
    unsafe fn transpose(self, src: *const f32, row_stride: usize, rows: usize, dst: *mut f32, dst_stride: usize);
    /// Asks for the cache line at `p`, which may be any address.
    fn prefetch(self, p: *const f32);
    /// [`crate::gemm::tile_into`], compiled once per instruction set: inlining it everywhere would cost minutes of build.
    /// # Safety
    /// As [`crate::gemm::tile_into`].
    unsafe fn tile(self, k: usize, a: Lhs, b: *const f32, to: Tile, add: bool);

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
    /// The first `LANES` numbers of `x`; zeros where it is shorter.
    #[inline(always)]
    fn get(self, x: &[f32]) -> Self::V {
        // SAFETY: the branch makes sure that only numbers inside the slice are read.
        unsafe {
            if x.len() >= Self::LANES {
                self.load(x.as_ptr())
            } else {
                self.load_part(x.as_ptr(), x.len())
            }
        }
    }
    /// Writes the first `min(LANES, out.len())` numbers.
    #[inline(always)]
    fn put(self, out: &mut [MaybeUninit<f32>], v: Self::V) {
        let (p, n) = (out.as_mut_ptr().cast::<f32>(), out.len());
        // SAFETY: the branch makes sure that only memory inside the slice is written.
        unsafe {
            if n >= Self::LANES {
                self.store(p, v)
            } else {
                self.store_part(p, v, n)
            }
        }
    }
    /// As [`Simd::put`], over numbers that are initialised already.
    #[inline(always)]
    fn set(self, out: &mut [f32], v: Self::V) {
        let (p, n) = (out.as_mut_ptr(), out.len());
        // SAFETY: as in `put`.
        unsafe {
            if n >= Self::LANES {
                self.store(p, v)
            } else {
                self.store_part(p, v, n)
            }
        }
    }
    /// Keeps the first `n` lanes, zeros in the others.
    #[inline(always)]
    fn head(self, v: Self::V, n: usize) -> Self::V {
        if n >= Self::LANES {
            return v;
        }
        let mut lanes = [0f32; 16];
        // SAFETY: no instruction set here has more than 16 lanes; `n < LANES` numbers are read back.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            self.load_part(lanes.as_ptr(), n)
        }
    }
}

/// A kernel body that runs on any instruction set.
pub(crate) trait Task {
    /// What it returns.
    type Out;
    /// The body; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Instruction sets that can be chosen, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The instruction sets of this machine, best last.
pub(crate) fn available() -> &'static [Isa] {
    static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
    FOUND.get_or_init(|| {
        #[allow(unused_mut)]
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Isa::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
            {
                found.push(Isa::Avx512);
            }
        }
        found
    })
}

/// The instruction set that the kernels use on this machine: `"avx512"`, `"avx2"` or `"portable"`.
///
/// The variable `BIFOCAL_ISA` with one of these names lowers the choice (for tests and for measuring); a set that the machine lacks is never chosen.
pub fn instruction_set() -> &'static str {
    name(isa())
}

fn name(isa: Isa) -> &'static str {
    match isa {
        Isa::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => "avx2",
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => "avx512",
    }
}

#[cfg(test)]
pub(crate) static FORCED: std::sync::Mutex<Option<Isa>> = std::sync::Mutex::new(None);

/// The instruction set in use.
#[inline]
pub(crate) fn isa() -> Isa {
    #[cfg(test)]
    if let Some(forced) = *FORCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return forced;
    }
    static CHOSEN: OnceLock<Isa> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("BIFOCAL_ISA").ok();
        let found = available();
        found
            .iter()
            .copied()
            .find(|&i| wanted.as_deref() == Some(name(i)))
            .unwrap_or(found[found.len() - 1])
    })
}

/// Runs `task` on the instruction set in use.
#[inline]
pub(crate) fn dispatch<T: Task>(task: T) -> T::Out {
    dispatch_on(isa(), task)
}

/// Runs `task` on `isa`, which must come from [`isa`]: kernels of several tasks that share packed data ask once.
#[inline]
pub(crate) fn dispatch_on<T: Task>(isa: Isa, task: T) -> T::Out {
    match isa {
        Isa::Portable => task.run(portable::Portable),
        // SAFETY: `isa` returned it, and it returns only instruction sets whose features were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::run(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(task) },
    }
}

/// Offsets `0, LANES, 2·LANES…` below `n`.
#[inline(always)]
pub(crate) fn steps<S: Simd>(n: usize) -> std::iter::StepBy<std::ops::Range<usize>> {
    (0..n).step_by(S::LANES)
}
