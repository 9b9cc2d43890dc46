//! The register tile: a few rows times two registers of columns, summed over k.
use super::Epilogue;
use crate::activation::{apply, apply_near, per_activation};
use crate::simd::Simd;

/// What a tile does with a word of A and a register of words of B.
pub(crate) trait Step<S: Simd>: Copy {
    /// `sum` plus the product of the words.
    fn step(self, s: S, a: S::V, b: S::V, sum: S::V) -> S::V;
}

/// Words are numbers.
#[derive(Clone, Copy)]
pub(crate) struct MultiplyAdd;
impl<S: Simd> Step<S> for MultiplyAdd {
    #[inline(always)]
    fn step(self, s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.fma(a, b, sum)
    }
}

/// `acc[i][j] = Σ_p a(i, p) · b[p·2·LANES + j·LANES ..]`, for one or both registers of columns.
///
/// # Safety
/// All addressed numbers of `a` (`ROWS × k`) and `b` (`k × 2·LANES`) must be readable.
#[inline(always)]
unsafe fn tile<S: Simd, M: Step<S>, const ROWS: usize, const WIDTH: usize>(
    s: S,
    m: M,
    k: usize,
    a: Lhs,
    b: *const f32,
    to: Tile,
) -> [[S::V; WIDTH]; ROWS] {
    let mut acc = [[s.zero(); WIDTH]; ROWS];
    let (
        Lhs {
            ptr: mut x,
            row,
            k: next,
        },
        mut b,
    ) = (a, b);
    macro_rules! step {
        () => {
            // SAFETY: the caller's contract; the pointers advance k times.
            unsafe {
                let mut columns = [s.zero(); WIDTH];
                for j in 0..WIDTH {
                    columns[j] = s.load(b.add(j * S::LANES));
                }
                for i in 0..ROWS {
                    let v = s.splat(*x.add(i * row));
                    for j in 0..WIDTH {
                        acc[i][j] = m.step(s, v, columns[j], acc[i][j]);
                    }
                }
                x = x.wrapping_add(next);
                b = b.wrapping_add(2 * S::LANES);
            }
        };
    }
    // Full tiles bring memory nearer on the way: the rows of C where the sums will go, and a line of `ahead` every four steps, or four.
    let fours = if ROWS == S::MR { k / 4 } else { 0 };
    for i in 0..fours {
        if to.hurry {
            for line in 0..4 {
                s.prefetch(to.ahead.wrapping_add((4 * i + line) * 16));
            }
        } else {
            s.prefetch(to.ahead.wrapping_add(i * 16));
        }
        if i < ROWS {
            s.prefetch(to.c.wrapping_add(i * to.stride));
            s.prefetch(to.c.wrapping_add(i * to.stride + S::LANES));
        }
        for _ in 0..4 {
            step!();
        }
    }
    for _ in fours * 4..k {
        step!();
    }
    acc
}

/// The left operand of a tile: number `(i, p)` is `ptr[i * row + p * k]`.
#[derive(Clone, Copy)]
pub(crate) struct Lhs {
    pub ptr: *const f32,
    pub row: usize,
    pub k: usize,
}

/// Where a tile of C lies.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub c: *mut f32,
    /// Numbers between rows.
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
    /// What will be read soon after this tile; never dereferenced.
    pub ahead: *const f32,
    /// Whether few tiles share the fetching of it.
    pub hurry: bool,
}

/// Sums rows of A times a packed panel of B into a tile of C: overwrites it, or adds to it.
/// Either the rows of `a` or its steps along k must be one number apart.
///
/// # Safety
/// `a` must hold `rows × k` numbers, `b` `k × 2·LANES`, and the tile must be writable (readable too when `add`).
#[inline(always)]
pub(crate) unsafe fn tile_into<S: Simd>(s: S, k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    // SAFETY: the caller's contract.
    unsafe { s.tile(k, a, b, to, add) }
}

/// The body of [`Simd::tile`], which every instruction set compiles once for each kind of step.
///
/// # Safety
/// As [`tile_into`].
#[inline(always)]
pub(crate) unsafe fn any_tile<S: Simd, M: Step<S>>(s: S, m: M, k: usize, a: Lhs, b: *const f32, to: Tile, add: bool) {
    macro_rules! by_rows {
        ($width:literal: $($rows:literal)*) => {
            match to.rows {
                // One of the strides a constant: the addresses of a column of A are then either offsets or one pointer each, and fit the registers.
                // SAFETY: the caller's contract; `rows <= MR`.
                $($rows if $rows <= S::MR && a.row == 1 => unsafe { rows_into::<S, M, $rows, $width>(s, m, k, Lhs { row: 1, ..a }, b, to, add) },)*
                // SAFETY: as above.
                $($rows if $rows <= S::MR => unsafe { rows_into::<S, M, $rows, $width>(s, m, k, Lhs { k: 1, ..a }, b, to, add) },)*
                _ => debug_assert!(false, "a tile has 1 to MR rows"),
            }
        };
    }
    debug_assert!(a.row == 1 || a.k == 1);
    if to.cols > S::LANES {
        by_rows!(2: 14 1 2 3 4 5 6 7 8 9 10 11 12 13);
    } else {
        by_rows!(1: 14 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}

#[inline(always)]
unsafe fn rows_into<S: Simd, M: Step<S>, const ROWS: usize, const WIDTH: usize>(
    s: S,
    m: M,
    k: usize,
    a: Lhs,
    b: *const f32,
    to: Tile,
    add: bool,
) {
    // SAFETY: the caller's contract; of the last register only the tile's columns are read and written.
    unsafe {
        let acc = tile::<S, M, ROWS, WIDTH>(s, m, k, a, b, to);
        let whole = to.cols == WIDTH * S::LANES;
        let rest = to.cols - (WIDTH - 1) * S::LANES;
        for i in 0..ROWS {
            for j in 0..WIDTH {
                let c = to.c.add(i * to.stride + j * S::LANES);
                if whole || j + 1 < WIDTH {
                    s.store(c, if add { s.add(s.load(c), acc[i][j]) } else { acc[i][j] });
                } else {
                    let sum = if add {
                        s.add(s.load_part(c, rest), acc[i][j])
                    } else {
                        acc[i][j]
                    };
                    s.store_part(c, sum, rest);
                }
            }
        }
    }
}

/// Bias, activation and residual over a finished tile, whose sums lie in C, or in rows of `apart.1` numbers at `apart.0`; those are added to what is in C when `add`.
///
/// # Safety
/// The tile must lie inside C; `at` is its offset there, `col` its first column. Sums apart must be readable for all rows of the tile.
#[inline(always)]
pub(super) unsafe fn finish_tile<S: Simd>(
    s: S,
    tile: Tile,
    apart: Option<(*const f32, usize)>,
    add: bool,
    at: usize,
    col: usize,
    e: &Epilogue,
) {
    use crate::activation::Activation;
    if apart.is_none() && e.bias.is_none() && e.act == Activation::Identity && e.residual.is_none() && e.pre.is_none() {
        return;
    }
    let (sums, stride) = apart.unwrap_or((tile.c, tile.stride));
    let add = add && apart.is_some();
    let bias = e.bias.map_or(&[][..], |b| &b[col..col + tile.cols]);
    debug_assert!(tile.cols <= 2 * S::LANES);
    let biases = [0, S::LANES].map(|j| s.get(&bias[j.min(bias.len())..]));
    // Row by row: rows that are a multiple of 4 KiB apart share a set of the first-level cache, and the second half of each would be gone again.
    per_activation!(e.act, act => for i in 0..tile.rows {
        for (j, bias) in [0, S::LANES].into_iter().zip(biases) {
            if j >= tile.cols {
                break;
            }
            let here = (tile.cols - j).min(S::LANES);
            // SAFETY: the row lies inside C, which nobody else touches here; `pre` is as large as C. Sums were written before, those in C too.
            let (mut v, c) = unsafe {
                let c = tile.c.add(i * tile.stride + j);
                let v = s.get(std::slice::from_raw_parts(sums.add(i * stride + j), here));
                (if add { s.add(v, s.get(std::slice::from_raw_parts(c, here))) } else { v }, c)
            };
            // SAFETY: as above.
            let out = |p: *mut f32| unsafe { std::slice::from_raw_parts_mut(p.cast::<std::mem::MaybeUninit<f32>>(), here) };
            if e.bias.is_some() {
                v = s.add(v, bias);
            }
            let at = at + i * tile.stride + j;
            if let Some(pre) = e.pre {
                s.put(out(pre.ptr().wrapping_add(at)), v);
            }
            v = if e.near { apply_near(s, act, v) } else { apply(s, act, v) };
            if let Some(residual) = e.residual {
                v = s.add(v, s.get(&residual[at..][..here]));
            }
            s.put(out(c), v);
        }
    });
}
