//! Resampling that equals Pillow's to the bit, for 8-bit channels.
//!
//! Pillow resamples in two passes, as a rule the horizontal one first, with an 8-bit picture between them. Each output sample is a sum of
//! input samples weighted by the filter, which widens with the scale when a picture shrinks; weights are normalised
//! in double precision and then fixed to 22 fractional bits. Integer sums have no order, so the loops here are free to run over
//! sixteen rows at a time, whatever the processor has.

use serde::{Deserialize, Serialize};

use super::Rect;
use crate::RgbImage;

/// Resampling filter, by Pillow's names and definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The pixel under the centre; nothing is averaged.
    Nearest,
    /// Mean of the covered pixels.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming window over a sinc of one lobe.
    Hamming,
    /// Keys' cubic with a = −0.5.
    Bicubic,
    /// Sinc windowed by three lobes of itself.
    Lanczos,
}

impl Filter {
    /// Reach to either side of the centre, in pixels of the smaller grid.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        use std::f64::consts::PI;
        let sinc = |x: f64| {
            if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
        };
        match self {
            // half open, so that a sample on the border counts once
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    let x = x * PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

/// Fractional bits of a weight: 32 less 8 for the sample and 2 for the overshoot of negative lobes.
const BITS: u32 = 32 - 8 - 2;

/// For each output sample of a range the input samples that it sums and their weights.
struct Taps {
    /// Where each output sample's weights begin in `weights`, and one end.
    offsets: Vec<usize>,
    /// First input sample of each output sample.
    starts: Vec<usize>,
    weights: Vec<i32>,
}

impl Taps {
    fn new(input: u32, output: u32, filter: Filter, first: u32, count: u32) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let stretch = scale.max(1.0);
        let radius = filter.support() * stretch;
        let mut taps = Self {
            offsets: vec![0],
            starts: Vec::with_capacity(count as usize),
            weights: Vec::new(),
        };
        let mut row = Vec::new();
        for i in first..first + count {
            let center = (f64::from(i) + 0.5) * scale;
            // casts truncate and saturate at 0, as the original's do after its clamps
            let start = (center - radius + 0.5) as usize;
            let end = ((center + radius + 0.5) as usize).min(input as usize);
            row.clear();
            row.extend((start..end).map(|j| filter.weight((j as f64 - center + 0.5) * (1.0 / stretch))));
            let sum: f64 = row.iter().sum();
            let fixed = |w: f64| {
                let w = if sum == 0.0 { w } else { w / sum } * f64::from(1u32 << BITS);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
            };
            taps.weights.extend(row.iter().map(|&w| fixed(w)));
            taps.starts.push(start);
            taps.offsets.push(taps.weights.len());
        }
        taps
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    /// First input sample and weights of output sample `i`.
    #[inline(always)]
    fn get(&self, i: usize) -> (usize, &[i32]) {
        (self.starts[i], &self.weights[self.offsets[i]..self.offsets[i + 1]])
    }

    /// Input samples that anything reads, as start and end.
    fn reach(&self) -> (usize, usize) {
        let start = self.starts.iter().copied().min().unwrap_or(0);
        let end = (0..self.len())
            .map(|i| self.starts[i] + self.get(i).1.len())
            .max()
            .unwrap_or(0);
        (start, end.max(start))
    }
}

/// Sums `N` neighbouring samples at once: sample `t` of lane `j` is `samples[t · stride + j]`.
#[inline(always)]
fn weigh<const N: usize>(weights: &[i32], samples: &[u8], stride: usize) -> [u8; N] {
    let mut acc = [1i32 << (BITS - 1); N];
    for (t, &w) in weights.iter().enumerate() {
        let lanes = &samples[t * stride..t * stride + N];
        for j in 0..N {
            // |weights| sum to less than 2 · 2²², so this never wraps; wrapping only spares the check
            acc[j] = acc[j].wrapping_add(w.wrapping_mul(i32::from(lanes[j])));
        }
    }
    acc.map(|v| (v >> BITS).clamp(0, 255) as u8)
}

/// Rows that the horizontal pass takes at once.
const STRIP: usize = 16;
/// Bytes that the vertical pass takes at once; rows between the passes are padded to a multiple of it.
const LANES: usize = 64;

/// A part of a picture: the pixel at column `x` and row `y` of the whole begins at byte
/// `(y − top) · stride + (x − left) · 3`.
struct View<'a> {
    data: &'a [u8],
    stride: usize,
    left: usize,
    top: usize,
}

/// The same, owned, with rows padded so that the vertical pass may read whole lanes.
struct Rows {
    data: Vec<u8>,
    stride: usize,
    left: usize,
    top: usize,
}

impl Rows {
    fn new(width: usize, height: usize, left: usize, top: usize) -> Self {
        let stride = (width * 3).next_multiple_of(LANES);
        Self {
            data: vec![0; stride * height],
            stride,
            left,
            top,
        }
    }

    /// Columns and rows `start..end` of `src`.
    fn copy(src: &RgbImage, columns: (usize, usize), rows: (usize, usize)) -> Self {
        let mut to = Self::new(columns.1 - columns.0, rows.1 - rows.0, columns.0, rows.0);
        let row = (columns.1 - columns.0) * 3;
        for (y, to) in (rows.0..rows.1).zip(to.data.chunks_exact_mut(to.stride)) {
            let at = (y * src.width() as usize + columns.0) * 3;
            to[..row].copy_from_slice(&src.data()[at..at + row]);
        }
        to
    }

    fn view(&self) -> View<'_> {
        View {
            data: &self.data,
            stride: self.stride,
            left: self.left,
            top: self.top,
        }
    }
}

/// Whether Pillow runs the vertical pass first. Up to version 12 it never did (but for pictures a hundred times as high as
/// wide); from 13 on it does when the height loses more than twice what the width loses. The order shows in the last bit,
/// since the picture between the passes has 8 bits.
fn vertical_first(src: &RgbImage, width: u32, height: u32) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (across, down) = (lost(src.width(), width), lost(src.height(), height));
    down > 0 && down > 2 * across
}

/// Resizes to exactly `width` × `height`.
///
/// # Shapes
/// `[h, w, 3]` to `[height, width, 3]`; `None` when a side is 0.
#[must_use]
pub fn resize(src: &RgbImage, width: u32, height: u32, filter: Filter) -> Option<RgbImage> {
    resize_region(
        src,
        width,
        height,
        filter,
        Rect {
            x: 0,
            y: 0,
            width,
            height,
        },
    )
}

/// The part `region` of what [`resize`] to `width` × `height` gives, without computing the rest.
///
/// `None` when a side is 0 or the region is not inside.
#[must_use]
pub fn resize_region(src: &RgbImage, width: u32, height: u32, filter: Filter, region: Rect) -> Option<RgbImage> {
    let inside = |start: u32, len: u32, of: u32| len > 0 && start.checked_add(len).is_some_and(|end| end <= of);
    if !inside(region.x, region.width, width) || !inside(region.y, region.height, height) {
        return None;
    }
    let Rect {
        x: left,
        y: top,
        width: out_width,
        height: out_height,
    } = region;
    let all_columns = (left as usize, (left + out_width) as usize);
    let all_rows = (top as usize, (top + out_height) as usize);
    let row = out_width as usize * 3;
    let mut out = vec![0u8; row * out_height as usize];
    if filter == Filter::Nearest {
        let columns = nearest(src.width(), width, all_columns);
        for (to, y) in out.chunks_exact_mut(row).zip(nearest(src.height(), height, all_rows)) {
            for (to, x) in to.chunks_exact_mut(3).zip(&columns) {
                let at = (y * src.width() as usize + x) * 3;
                to.copy_from_slice(&src.data()[at..at + 3]);
            }
        }
        return RgbImage::new(out_width, out_height, out);
    }
    // a direction that keeps its size is not resampled at all
    let across = (src.width() != width).then(|| Taps::new(src.width(), width, filter, left, out_width));
    let down = (src.height() != height).then(|| Taps::new(src.height(), height, filter, top, out_height));
    let columns = across.as_ref().map_or(all_columns, Taps::reach);
    let rows = down.as_ref().map_or(all_rows, Taps::reach);

    let whole = View {
        data: src.data(),
        stride: src.width() as usize * 3,
        left: 0,
        top: 0,
    };
    match (across, down) {
        (None, None) => {
            for (to, y) in out.chunks_exact_mut(row).zip(all_rows.0..) {
                let at = y * whole.stride + all_columns.0 * 3;
                to.copy_from_slice(&src.data()[at..at + row]);
            }
        }
        (Some(across), None) => dispatch(Horizontal(&whole, &across, rows, &mut out, row)),
        (None, Some(down)) => {
            let from = Rows::copy(src, columns, rows);
            dispatch(Vertical(&from.view(), &down, row, &mut out, row));
        }
        (Some(across), Some(down)) if vertical_first(src, width, height) => {
            let from = Rows::copy(src, columns, rows);
            let mut between = Rows::new(columns.1 - columns.0, out_height as usize, columns.0, 0);
            let (stride, used) = (between.stride, (columns.1 - columns.0) * 3);
            dispatch(Vertical(&from.view(), &down, used, &mut between.data, stride));
            dispatch(Horizontal(
                &between.view(),
                &across,
                (0, out_height as usize),
                &mut out,
                row,
            ));
        }
        (Some(across), Some(down)) => {
            let mut between = Rows::new(out_width as usize, rows.1 - rows.0, 0, rows.0);
            let stride = between.stride;
            dispatch(Horizontal(&whole, &across, rows, &mut between.data, stride));
            dispatch(Vertical(&between.view(), &down, row, &mut out, row));
        }
    }
    RgbImage::new(out_width, out_height, out)
}

/// The input sample under the centre of each output sample of a range; steps are added up, as Pillow does, so that the rounding is its own.
fn nearest(input: u32, output: u32, range: (usize, usize)) -> Vec<usize> {
    let step = f64::from(input) / f64::from(output);
    let mut at = step * 0.5;
    let mut places = Vec::with_capacity(range.1 - range.0);
    for i in 0..range.1 {
        if i >= range.0 {
            places.push((at as usize).min(input as usize - 1));
        }
        at += step;
    }
    places
}

/// Runs a pass compiled for the best instructions that the processor has.
fn dispatch(pass: impl pulp::WithSimd<Output = ()>) {
    pulp::Arch::new().dispatch(pass);
}

/// Arguments of [`horizontal`]. A type of its own because a closure might not be inlined into the dispatched function, and would
/// then be compiled for the oldest processor.
struct Horizontal<'a>(&'a View<'a>, &'a Taps, (usize, usize), &'a mut [u8], usize);

impl pulp::WithSimd for Horizontal<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        horizontal(self.0, self.1, self.2, self.3, self.4);
    }
}

/// Arguments of [`vertical`].
struct Vertical<'a>(&'a View<'a>, &'a Taps, usize, &'a mut [u8], usize);

impl pulp::WithSimd for Vertical<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        vertical(self.0, self.1, self.2, self.3, self.4);
    }
}

/// Resamples the rows `start..end` of `from` into the rows of `out`, `stride` bytes each. Sixteen rows are turned on their side
/// first, so that the samples that share a weight lie beside each other.
#[inline(always)]
fn horizontal(from: &View<'_>, taps: &Taps, rows: (usize, usize), out: &mut [u8], stride: usize) {
    const N: usize = STRIP * 3;
    let (left, right) = taps.reach();
    let mut strip = vec![0u8; (right - left) * N];
    for (out, y) in out.chunks_mut(stride * STRIP).zip((rows.0..rows.1).step_by(STRIP)) {
        let count = out.len() / stride;
        for r in 0..count {
            let at = (y + r - from.top) * from.stride;
            let line = &from.data[at + (left - from.left) * 3..at + (right - from.left) * 3];
            for (pixel, column) in line.chunks_exact(3).zip(strip.chunks_exact_mut(N)) {
                column[r * 3..r * 3 + 3].copy_from_slice(pixel);
            }
        }
        for x in 0..taps.len() {
            let (start, weights) = taps.get(x);
            let samples = &strip[(start - left) * N..(start - left + weights.len()) * N];
            let sums = weigh::<N>(weights, samples, N);
            for r in 0..count {
                let at = r * stride + x * 3;
                out[at..at + 3].copy_from_slice(&sums[r * 3..r * 3 + 3]);
            }
        }
    }
}

/// Sums rows of `from`, which are padded to whole lanes, into the first `used` bytes of the rows of `out`.
#[inline(always)]
fn vertical(from: &View<'_>, taps: &Taps, used: usize, out: &mut [u8], stride: usize) {
    for (y, out) in out.chunks_exact_mut(stride).enumerate() {
        let (start, weights) = taps.get(y);
        let rows = &from.data[(start - from.top) * from.stride..][..weights.len() * from.stride];
        for (i, out) in out[..used].chunks_mut(LANES).enumerate() {
            let sums = weigh::<LANES>(weights, &rows[i * LANES..], from.stride);
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey_row(values: &[u8]) -> RgbImage {
        RgbImage::new(values.len() as u32, 1, values.iter().flat_map(|&v| [v; 3]).collect()).unwrap()
    }

    #[test]
    fn one_row_by_hand() {
        // values by Pillow, bicubic
        let cases: [(&[u8], &[u8]); 3] = [
            (&[0, 50, 100, 150, 200, 250, 255, 255], &[27, 123, 225, 255]),
            (&[0, 255, 0, 255], &[0, 54, 216, 215, 40, 39, 201, 255]),
            (&[10, 200, 30, 40, 90, 120, 255, 0, 77, 13], &[77, 112, 71]),
        ];
        for (input, output) in cases {
            let out = resize(&grey_row(input), output.len() as u32, 1, Filter::Bicubic).unwrap();
            assert_eq!(out, grey_row(output));
            // the same on its side
            let tall = RgbImage::new(1, input.len() as u32, grey_row(input).into_data()).unwrap();
            let out = resize(&tall, 1, output.len() as u32, Filter::Bicubic).unwrap();
            assert_eq!(out.data(), grey_row(output).data());
        }
    }

    #[test]
    fn weights_by_hand() {
        let taps = Taps::new(8, 4, Filter::Bicubic, 1, 1);
        let weights = [-145748, 469632, 1797559, 1797559, 469632, -145748, -48583];
        assert_eq!(taps.get(0), (0, &weights[..]));
    }

    #[test]
    fn a_region_is_a_part_of_the_whole() {
        let src = RgbImage::new(61, 37, (0..61 * 37 * 3).map(|i| (i * 7919 % 251) as u8).collect()).unwrap();
        for (w, h) in [(23, 19), (100, 80), (61, 20), (30, 37), (61, 37), (60, 9)] {
            let whole = resize(&src, w, h, Filter::Bicubic).unwrap();
            let rect = Rect {
                x: w / 5,
                y: h / 3,
                width: w / 2,
                height: h / 2,
            };
            let part = resize_region(&src, w, h, Filter::Bicubic, rect).unwrap();
            for y in 0..rect.height {
                for x in 0..rect.width {
                    let at = |img: &RgbImage, x: u32, y: u32| {
                        let i = (y * img.width() + x) as usize * 3;
                        img.data()[i..i + 3].to_vec()
                    };
                    assert_eq!(
                        at(&part, x, y),
                        at(&whole, x + rect.x, y + rect.y),
                        "{w}×{h} at {x},{y}"
                    );
                }
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let src = grey_row(&[1, 2, 3]);
        assert!(resize(&src, 0, 1, Filter::Bilinear).is_none());
        let outside = Rect {
            x: 2,
            y: 0,
            width: 2,
            height: 1,
        };
        assert!(resize_region(&src, 3, 1, Filter::Bilinear, outside).is_none());
        let overflow = Rect {
            x: u32::MAX,
            y: 0,
            width: 2,
            height: 1,
        };
        assert!(resize_region(&src, 3, 1, Filter::Bilinear, overflow).is_none());
    }
}
