//! In what form a product's operands are packed, and which instructions multiply them.
use super::pack::{Lines, pack, panel_stride};
use super::{Lhs, Mat, Tile, tile_into};
#[cfg(target_arch = "x86_64")]
use super::{amx, pairs};
use crate::simd::{Isa, Simd, steps};
use std::sync::OnceLock;

/// What numbers are multiplied; sums are f32, or exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to the nearest bf16 (eight significant bits) while they are packed. A product of two of them is exact in f32.
    Bf16,
    /// For inference: eight-bit integers with a step for each 128 numbers along k of a column of the right operand and of a row of the left one, which is found when it comes
    /// (`gemm/int8/`). Gradients are not multiplied so: what a backward pass needs stays f32, and so do products that add to what is there.
    Int8,
}

impl Precision {
    /// `f32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The precision of products that a backward pass belongs to: rounding to eight bits has no gradient, and that of the unrounded product would not be the one of what
    /// was computed.
    #[must_use]
    pub fn recorded(self) -> Self {
        match self {
            Self::F32 | Self::Int8 => Self::F32,
            Self::Bf16 => Self::Bf16,
        }
    }
}

/// Most panels of columns with which A is read where it lies.
const PANELS_IN_PLACE: usize = 8;

/// How panels of operands look. A *word* is 32 bits of a panel, and what a step along k takes of each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A word is a number.
    Plain,
    /// As [`Self::Plain`], numbers rounded to bf16: the same products, on machines that do not multiply bf16, or not faster.
    Rounded,
    /// A word is two bf16 numbers along k: AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// As [`Self::Pairs`]; sixteen words of a row of A lie side by side: AMX.
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

/// Ways to multiply bf16 on this machine, the one in use last.
///
/// AVX512-BF16 is left behind on Intel's processors: measured on a Sapphire Rapids, `vdpbf16ps` does half as many operations per second as `vfmadd` does in f32.
/// On AMD's it does twice as many.
fn available() -> &'static [Format] {
    static FOUND: OnceLock<Vec<Format>> = OnceLock::new();
    FOUND.get_or_init(|| {
        #[allow(unused_mut)]
        let mut found = vec![Format::Rounded];
        #[cfg(target_arch = "x86_64")]
        if crate::simd::available().contains(&Isa::Avx512) && is_x86_feature_detected!("avx512bf16") {
            found.insert(if pairs::fast() { 1 } else { 0 }, Format::Pairs);
            if amx::available() {
                found.push(Format::Tiles);
            }
        }
        found
    })
}

#[cfg(test)]
pub(super) static FORCED: std::sync::Mutex<Option<Format>> = std::sync::Mutex::new(None);

/// Runs `test` with each way to multiply bf16 that this machine has on that instruction set.
#[cfg(test)]
pub(super) fn each_bf16(test: impl Fn(Format)) {
    crate::testing::each_isa(|_| {
        for &format in available() {
            if format.runs_on(crate::simd::isa()) {
                *FORCED.lock().unwrap() = Some(format);
                test(format);
            }
        }
        *FORCED.lock().unwrap() = None;
    });
}

/// What multiplies bf16 on this machine: `"amx"`, `"avx512_bf16"`, or `"f32"` for f32 products of rounded numbers.
///
/// The variable `BIFOCAL_BF16` with one of these names chooses (for tests and for measuring) among those that the machine has.
pub fn bf16_unit() -> &'static str {
    Format::of(Precision::Bf16, crate::simd::isa()).name()
}

impl Format {
    /// Int8's products have a way of their own; where that does not serve, they are f32.
    pub(super) fn of(precision: Precision, isa: Isa) -> Self {
        if precision.recorded() == Precision::F32 {
            return Self::Plain;
        }
        #[cfg(test)]
        if let Some(forced) = *FORCED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return if forced.runs_on(isa) { forced } else { Self::Rounded };
        }
        static CHOSEN: OnceLock<Format> = OnceLock::new();
        let chosen = *CHOSEN.get_or_init(|| {
            let wanted = std::env::var("BIFOCAL_BF16").ok();
            let found = available();
            let named = found.iter().find(|format| wanted.as_deref() == Some(format.name()));
            *named.unwrap_or(&found[found.len() - 1])
        });
        if chosen.runs_on(isa) { chosen } else { Self::Rounded }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain | Self::Rounded => "f32",
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => "avx512_bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => "amx",
        }
    }

    fn runs_on(self, isa: Isa) -> bool {
        match self {
            Self::Plain | Self::Rounded => true,
            #[cfg(target_arch = "x86_64")]
            Self::Pairs | Self::Tiles => isa == Isa::Avx512,
        }
    }

    /// Numbers along k in a word.
    fn per_word(self) -> usize {
        match self {
            Self::Plain | Self::Rounded => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Pairs | Self::Tiles => 2,
        }
    }

    /// Words that stay together when k is divided.
    pub(super) fn unit(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => amx::WORDS,
            _ => 1,
        }
    }

    /// Words of a line of `k` numbers.
    pub(super) fn words(self, k: usize) -> usize {
        k.div_ceil(self.per_word()).next_multiple_of(self.unit())
    }

    /// Rows of a tile.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => amx::ROWS,
            _ => S::MR,
        }
    }

    /// Numbers and columns of a tile whose sums are kept apart from C until they are complete; `None` where they are not.
    #[inline(always)]
    pub(super) fn apart(self) -> Option<(usize, usize)> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => Some((amx::TILE, amx::COLS)),
            _ => None,
        }
    }

    /// Whether A is read where it lies by a task that has that many panels of columns: to pack it would take longer than what so few of them gain by it.
    /// Rows that are a multiple of 4 KiB apart are packed still: more of them than the first-level cache has ways would fall into one of its sets.
    #[inline(always)]
    pub(super) fn reads_in_place(self, a: Mat, panels: usize) -> bool {
        const ROWS_APART: usize = 1024;
        self == Self::Plain
            && a.col_stride == 1
            && panels <= PANELS_IN_PLACE
            && !a.row_stride.is_multiple_of(ROWS_APART)
    }

    /// Rows `rows.0..rows.1` of A over the words `words.0..words.0 + words.1`, as panels [`panel_stride`] apart; missing rows of the last panel are zeros.
    #[inline(always)]
    pub(super) fn pack_a<S: Simd>(self, s: S, a: Mat, rows: (usize, usize), words: (usize, usize), dst: &mut [f32]) {
        let (k0, kp) = self.numbers(words, a.cols);
        let lines = Lines::rows(a, rows, k0);
        let width = self.rows::<S>();
        let stride = panel_stride::<S>(width, words.1);
        self.pack(s, lines, width, (kp, words.1), true, dst, stride);
    }

    /// Columns `cols.0..cols.1` of B, as panels of `2·LANES`, `stride` words apart; missing columns of the last panel are zeros.
    #[inline(always)]
    pub(super) fn pack_b<S: Simd>(
        self,
        s: S,
        b: Mat,
        words: (usize, usize),
        cols: (usize, usize),
        dst: &mut [f32],
        stride: usize,
    ) {
        let (k0, kp) = self.numbers(words, b.rows);
        let lines = Lines::columns(b, cols, k0);
        self.pack(s, lines, 2 * S::LANES, (kp, words.1), false, dst, stride);
    }

    /// First number of k and how many there are in some words; the last words may reach beyond k.
    fn numbers(self, (first, count): (usize, usize), k: usize) -> (usize, usize) {
        let from = (first * self.per_word()).min(k);
        (from, ((first + count) * self.per_word()).min(k) - from)
    }

    #[inline(always)]
    fn pack<S: Simd>(
        self,
        s: S,
        lines: Lines,
        width: usize,
        (k, words): (usize, usize),
        left: bool,
        dst: &mut [f32],
        stride: usize,
    ) {
        match self {
            Self::Plain => pack(s, lines, width, k, dst, stride),
            Self::Rounded => {
                pack(s, lines, width, k, dst, stride);
                for i in steps::<S>(dst.len()) {
                    let v = s.bf16(s.get(&dst[i..]));
                    s.set(&mut dst[i..], v);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Pairs | Self::Tiles => {
                let by_lines = left && self == Self::Tiles;
                // SAFETY: these formats exist only where AVX512-BF16 was detected; `Plan` checked the lines.
                unsafe { pairs::pack(lines, width, k, words, by_lines, dst, stride) }
            }
        }
    }

    /// Where the words of a panel of A from step `q` on lie, relative to the panel.
    #[inline(always)]
    pub(super) fn lhs<S: Simd>(self, panel: *const f32, q: usize) -> Lhs {
        let mr = self.rows::<S>();
        Lhs {
            ptr: panel.wrapping_add(q * mr),
            row: 1,
            k: mr,
        }
    }

    /// As [`tile_into`], of words.
    ///
    /// # Safety
    /// As [`tile_into`]; for [`Self::Tiles`] the thread must hold [`Self::begin`], `words` be a multiple of [`Self::unit`], all rows of the panel of A be readable, and `to.c`
    /// be the place of a whole tile ([`Self::apart`]).
    #[inline(always)]
    pub(super) unsafe fn tile<S: Simd>(self, s: S, words: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
        // SAFETY: the caller's contract; the formats exist only where their instructions were detected.
        unsafe {
            match self {
                Self::Plain | Self::Rounded => tile_into(s, words, a, b, to, add),
                #[cfg(target_arch = "x86_64")]
                Self::Pairs => pairs::tile(words, a, b, to, add),
                #[cfg(target_arch = "x86_64")]
                Self::Tiles => amx::tile(words, a.ptr, b, to.ahead, to.c, add),
            }
        }
    }

    /// Readies this thread's registers for [`Self::tile`], as long as the answer lives.
    #[inline(always)]
    pub(super) fn begin(self) -> Option<Ready> {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the format exists only where AMX is available.
            Self::Tiles => Some(unsafe { Ready::new() }),
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use amx::Ready;
/// Nothing to make ready.
#[cfg(not(target_arch = "x86_64"))]
pub(super) struct Ready;
