//! Which instructions multiply bytes.
use super::{PER_WORD, UNIT};
#[cfg(target_arch = "x86_64")]
use crate::gemm::amx;
use crate::gemm::tile::{Lhs, Step, Tile, any_tile};
use crate::simd::{Isa, Simd, isa};
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Ways to multiply bytes without a sign by bytes with one. All give the same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Instructions for numbers of 16 bits, or plain Rust.
    Lanes,
    /// `vpdpbusd` on registers of 32 bytes (AVX-VNNI).
    #[cfg(target_arch = "x86_64")]
    Half,
    /// `vpdpbusd` on registers of 64 bytes (AVX512-VNNI).
    #[cfg(target_arch = "x86_64")]
    Whole,
    /// `tdpbusd` (AMX).
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

/// Ways of this machine, better ones later.
fn available() -> &'static [Unit] {
    static FOUND: OnceLock<Vec<Unit>> = OnceLock::new();
    FOUND.get_or_init(|| {
        #[allow(unused_mut)]
        let mut found = vec![Unit::Lanes];
        #[cfg(target_arch = "x86_64")]
        {
            let sets = crate::simd::available();
            if sets.contains(&Isa::Avx2) && is_x86_feature_detected!("avxvnni") {
                found.push(Unit::Half);
            }
            if sets.contains(&Isa::Avx512) && is_x86_feature_detected!("avx512vnni") {
                found.push(Unit::Whole);
            }
            if sets.contains(&Isa::Avx512) && amx::multiplies_bytes() && amx::available() {
                found.push(Unit::Tiles);
            }
        }
        found
    })
}

#[cfg(test)]
pub(super) static FORCED: std::sync::Mutex<Option<Unit>> = std::sync::Mutex::new(None);

/// Runs `test` with each way to multiply bytes that this machine has on that instruction set.
#[cfg(test)]
pub(super) fn each_unit(test: impl Fn(Unit)) {
    crate::testing::each_isa(|_| {
        for &unit in available() {
            if unit.runs_on(crate::simd::isa()) {
                *FORCED.lock().unwrap() = Some(unit);
                test(unit);
            }
        }
        *FORCED.lock().unwrap() = None;
    });
}

/// What multiplies eight-bit integers on this machine: `"amx"`, `"avx512_vnni"`, `"avx_vnni"`, or `"lanes"` for instructions that every processor of its instruction set has.
///
/// The variable `BIFOCAL_INT8` with one of these names chooses (for tests and for measuring) among those that the machine has.
pub fn int8_unit() -> &'static str {
    Unit::of(isa()).name()
}

/// Runs about that many multiplications and additions of bytes on this thread, in registers; says how many exactly.
pub(crate) fn spin(operations: usize) -> usize {
    let unit = Unit::of(isa());
    #[cfg(target_arch = "x86_64")]
    if unit == Unit::Tiles {
        let _ready = unit.begin();
        let rounds = operations / amx::SPIN;
        // SAFETY: the unit is there and ready.
        unsafe { amx::spin(rounds) };
        return rounds * amx::SPIN;
    }
    struct InCache(Unit, usize);
    impl crate::simd::Task for InCache {
        type Out = usize;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> usize {
            // a tile whose operands stay in the first-level cache: as many loads as products have, and nothing else
            const WORDS: usize = 64;
            let (rows, nr) = (S::MR, 2 * S::LANES);
            let (a, b, mut sums) = ([1f32; 16 * WORDS], [1f32; 32 * WORDS], [0f32; 32 * 32]);
            let one = 2 * PER_WORD * WORDS * rows * nr;
            for _ in 0..self.1 / one {
                // SAFETY: there are at most 16 rows and 32 columns of WORDS words each.
                unsafe {
                    self.0
                        .tile(s, WORDS, (a.as_ptr(), WORDS), rows, b.as_ptr(), sums.as_mut_ptr())
                };
            }
            std::hint::black_box(&sums);
            self.1 / one * one
        }
    }
    crate::simd::dispatch(InCache(unit, operations))
}

impl Unit {
    pub(super) fn of(isa: Isa) -> Self {
        #[cfg(test)]
        if let Some(forced) = *FORCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return if forced.runs_on(isa) { forced } else { Self::Lanes };
        }
        static WANTED: OnceLock<Option<String>> = OnceLock::new();
        let wanted = WANTED.get_or_init(|| std::env::var("BIFOCAL_INT8").ok());
        let mut usable = available().iter().copied().filter(|unit| unit.runs_on(isa));
        let named = usable.clone().find(|unit| wanted.as_deref() == Some(unit.name()));
        named.or(usable.next_back()).unwrap_or(Self::Lanes)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lanes => "lanes",
            #[cfg(target_arch = "x86_64")]
            Self::Half => "avx_vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Whole => "avx512_vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => "amx",
        }
    }

    fn runs_on(self, isa: Isa) -> bool {
        match self {
            Self::Lanes => true,
            #[cfg(target_arch = "x86_64")]
            Self::Half => isa == Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Whole | Self::Tiles => isa == Isa::Avx512,
        }
    }

    /// Rows of a tile; it has `2·LANES` columns.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => amx::ROWS,
            _ => S::MR,
        }
    }

    /// Readies this thread's registers for [`Self::tile`], as long as the answer lives.
    #[inline(always)]
    pub(super) fn begin(self) -> Option<crate::gemm::format::Ready> {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the unit exists only where AMX is available.
            Self::Tiles => Some(unsafe { amx::Ready::new() }),
            _ => None,
        }
    }

    /// Sums `rows` rows of words times a panel into `to`, row after row of `2·LANES` integers in the place of numbers.
    ///
    /// # Safety
    /// The instructions must be there on `S`, and the thread hold [`Self::begin`]; `words` is a multiple of [`UNIT`], `rows` from 1 to [`Self::rows`]. `a` must hold that
    /// many rows, `stride` words apart (of [`Self::Tiles`] 16 or 32 of them), `b` `words × 2·LANES` words; `to` must be writable for a whole tile.
    #[inline(always)]
    pub(super) unsafe fn tile<S: Simd>(
        self,
        s: S,
        words: usize,
        (a, stride): (*const f32, usize),
        rows: usize,
        b: *const f32,
        to: *mut f32,
    ) {
        debug_assert!(words.is_multiple_of(UNIT));
        let lhs = Lhs {
            ptr: a,
            row: stride,
            k: 1,
        };
        let tile = Tile {
            c: to,
            stride: 2 * S::LANES,
            rows,
            cols: 2 * S::LANES,
            ahead: b.wrapping_add(words * 2 * S::LANES),
            hurry: false,
        };
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Self::Lanes => any_tile(s, Emulated, words, lhs, b, tile, false),
                #[cfg(target_arch = "x86_64")]
                Self::Half => half(words, lhs, b, tile),
                #[cfg(target_arch = "x86_64")]
                Self::Whole => whole(words, lhs, b, tile),
                #[cfg(target_arch = "x86_64")]
                Self::Tiles => amx::bytes_tile(words, (a, stride), rows, b, to),
            }
        }
    }
}

/// With what every processor of the instruction set has.
#[derive(Clone, Copy)]
struct Emulated;
impl<S: Simd> Step<S> for Emulated {
    #[inline(always)]
    fn step(self, s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.dot_bytes(a, b, sum)
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Vnni;
#[cfg(target_arch = "x86_64")]
impl Step<Avx512> for Vnni {
    #[inline(always)]
    fn step(self, _: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: `whole` is the only user, and enables the feature.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), a, b))
        }
    }
}
#[cfg(target_arch = "x86_64")]
impl Step<Avx2> for Vnni {
    #[inline(always)]
    fn step(self, _: Avx2, a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: `half` is the only user, and enables the feature.
        unsafe {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(_mm256_castps_si256(sum), a, b))
        }
    }
}

/// # Safety
/// As [`any_tile`]; the processor must have the features named here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
unsafe fn whole(words: usize, a: Lhs, b: *const f32, to: Tile) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Avx512::assume(), Vnni, words, a, b, to, false) }
}

/// # Safety
/// As [`any_tile`]; the processor must have the features named here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
unsafe fn half(words: usize, a: Lhs, b: *const f32, to: Tile) {
    // SAFETY: the caller's contract.
    unsafe { any_tile(Avx2::assume(), Vnni, words, a, b, to, false) }
}
