//! Operands copied into the order in which a tile reads them.
use super::Mat;
use crate::buffer::as_uninit;
use crate::simd::{Simd, steps};

/// Rows `rows.0..rows.1` of A over `k.0..k.0 + k.1`, as panels of `[k][MR]`; missing rows of the last panel are zeros.
/// `dst` needs room for all panels and `LANES` more (a transposed line may spill past its end until the next line covers it).
#[inline(always)]
pub(super) fn pack_a<S: Simd>(s: S, a: Mat, rows: (usize, usize), (k0, kp): (usize, usize), dst: &mut [f32]) {
    let mr = S::MR;
    let panels = (rows.1 - rows.0).div_ceil(mr);
    assert!(dst.len() >= panels * mr * kp + S::LANES);
    for p in 0..panels {
        let r = rows.0 + p * mr;
        let here = mr.min(rows.1 - r);
        let out = &mut dst[p * mr * kp..][..mr * kp + S::LANES];
        let src = &a.data[(r * a.row_stride + k0 * a.col_stride).min(a.data.len())..];
        if a.col_stride == 1 {
            transposed(s, src, a.row_stride, here, mr, kp, out);
        } else if a.row_stride == 1 {
            copied(s, src, a.col_stride, here, mr, kp, out);
        } else {
            gathered(src, a.row_stride, a.col_stride, here, mr, kp, out);
        }
    }
}

/// Columns `col..col + 2·LANES` of B over `k.0..k.0 + k.1` as one panel `[k][2·LANES]`; missing columns are zeros.
#[inline(always)]
pub(crate) fn pack_b<S: Simd>(s: S, b: Mat, (k0, kp): (usize, usize), col: usize, dst: &mut [f32]) {
    let nr = 2 * S::LANES;
    assert!(dst.len() >= nr * kp);
    let here = nr.min(b.cols - col);
    let src = &b.data[(k0 * b.row_stride + col * b.col_stride).min(b.data.len())..];
    if b.row_stride == 1 {
        transposed(s, src, b.col_stride, here, nr, kp, dst);
    } else if b.col_stride == 1 {
        copied(s, src, b.row_stride, here, nr, kp, dst);
    } else {
        gathered(src, b.col_stride, b.row_stride, here, nr, kp, dst);
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

/// Lines that lie side by side: for each k, `width` neighbours (of which `lines` exist), `stride` apart.
#[inline(always)]
fn copied<S: Simd>(s: S, src: &[f32], stride: usize, lines: usize, width: usize, kp: usize, dst: &mut [f32]) {
    for k in 0..kp {
        let from = &src[k * stride..][..lines];
        let to = &mut as_uninit(&mut dst[k * width..][..width])[..];
        for i in steps::<S>(width) {
            s.put(&mut to[i..], s.get(&from[i.min(lines)..]));
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
