//! Operands copied into the order in which a tile reads them.
use super::Mat;
use crate::buffer::as_uninit;
use crate::simd::{Simd, steps};

/// Numbers between packed panels of `width` lines: room for a transposed line that spills past the last one, and an odd number of cache lines, so that the
/// panels do not compete for the same places of the first-level cache.
pub(super) fn panel_stride<S: Simd>(width: usize, kp: usize) -> usize {
    ((width * kp + S::LANES).div_ceil(16) | 1) * 16
}

/// Columns `cols.0..cols.1` of B over `k.0..k.0 + k.1` as panels `[k][2·LANES]`, `stride` numbers apart; missing columns of the last panel are zeros.
#[inline(always)]
pub(crate) fn pack_b<S: Simd>(
    s: S,
    b: Mat,
    (k0, kp): (usize, usize),
    cols: (usize, usize),
    dst: &mut [f32],
    stride: usize,
) {
    let lines = Lines::columns(b, cols, k0);
    pack(s, lines, 2 * S::LANES, kp, dst, stride);
}

/// Rows of A or columns of B: `count` lines, `stride` apart, with steps of `k_stride` along k.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub src: &'a [f32],
    pub stride: usize,
    pub k_stride: usize,
    pub count: usize,
}

impl<'a> Lines<'a> {
    /// Rows of A from column `k0` on.
    #[inline(always)]
    pub fn rows(a: Mat<'a>, rows: (usize, usize), k0: usize) -> Self {
        Self {
            src: &a.data[(rows.0 * a.row_stride + k0 * a.col_stride).min(a.data.len())..],
            stride: a.row_stride,
            k_stride: a.col_stride,
            count: rows.1 - rows.0,
        }
    }

    /// Columns of B from row `k0` on.
    #[inline(always)]
    pub fn columns(b: Mat<'a>, cols: (usize, usize), k0: usize) -> Self {
        Self::rows(b.t(), cols, k0)
    }
}

/// All lines as panels of `width`.
#[inline(always)]
pub(super) fn pack<S: Simd>(s: S, from: Lines, width: usize, kp: usize, dst: &mut [f32], stride: usize) {
    let panels = from.count.div_ceil(width);
    if kp == 0 || panels == 0 {
        return;
    }
    if from.stride == 1 && from.k_stride != 1 {
        // Neighbouring lines lie side by side: each step along k is read once, for all panels.
        for k in 0..kp {
            let row = &from.src[k * from.k_stride..][..from.count];
            for (p, row) in row.chunks(width).enumerate() {
                let to = as_uninit(&mut dst[p * stride + k * width..][..width]);
                for i in steps::<S>(width) {
                    s.put(&mut to[i..], s.get(&row[i.min(row.len())..]));
                }
            }
        }
        return;
    }
    for p in 0..panels {
        let first = p * width;
        let (src, lines) = (&from.src[first * from.stride..], width.min(from.count - first));
        let end = if p + 1 == panels { dst.len() } else { (p + 1) * stride };
        let out = &mut dst[p * stride..end];
        if from.k_stride == 1 {
            transposed(s, src, from.stride, lines, width, kp, out);
        } else {
            gathered(src, from.stride, from.k_stride, lines, width, kp, out);
        }
    }
}

/// `width` lines (of which `lines` exist) that run along k, `stride` apart: `dst[k·width + line]`.
#[inline(always)]
fn transposed<S: Simd>(s: S, src: &[f32], stride: usize, lines: usize, width: usize, kp: usize, dst: &mut [f32]) {
    let whole = kp - kp % S::LANES;
    // A line of LANES numbers may spill over the panel's width only if there is one such line per k; see the constants of `Simd`.
    const { assert!(S::MR <= S::LANES || S::MR % S::LANES == 0) };
    if whole > 0 && lines > 0 {
        assert!((lines - 1) * stride + kp <= src.len());
        let spill = width.next_multiple_of(S::LANES) - width;
        assert!(whole * width + spill <= dst.len());
        for first in (0..width).step_by(S::LANES) {
            let here = lines.saturating_sub(first).min(S::LANES);
            let from = if here == 0 { 0 } else { first * stride };
            let mut k = 0;
            while k < whole {
                // SAFETY: line `first + here - 1` ends inside `src`; the last write ends at `whole·width + spill` at most. Both asserted above.
                unsafe {
                    let (from, to) = (src.as_ptr().add(from + k), dst.as_mut_ptr().add(k * width + first));
                    if here == S::LANES {
                        s.transpose(from, stride, S::LANES, to, width)
                    } else {
                        s.transpose(from, stride, here, to, width)
                    }
                }
                k += S::LANES;
            }
        }
    }
    for k in whole..kp {
        for i in 0..width {
            dst[k * width + i] = if i < lines { src[i * stride + k] } else { 0.0 };
        }
    }
}

/// Any strides.
fn gathered(src: &[f32], line_stride: usize, k_stride: usize, lines: usize, width: usize, kp: usize, dst: &mut [f32]) {
    for k in 0..kp {
        for i in 0..width {
            dst[k * width + i] = if i < lines {
                src[i * line_stride + k * k_stride]
            } else {
                0.0
            };
        }
    }
}
