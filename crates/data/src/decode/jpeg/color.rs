//! From components to RGB, by libjpeg's tables of 16 fractional bits (JFIF 1.02: full-range ITU-R BT.601).

use super::frame::{Frame, Tables};
use super::upsample;
use crate::decode::pixels::blend;

/// `x · 2¹⁶`, rounded.
const fn fix(x: f64) -> i32 {
    (x * 65536.0 + 0.5) as i32
}

const HALF: i32 = 1 << 15;

/// The picture, `[height, width, 3]`.
pub(super) fn convert(frame: &Frame, tables: &Tables) -> Vec<u8> {
    let mut out = vec![0; frame.width as usize * frame.height as usize * 3];
    pulp::Arch::new().dispatch(Run(frame, is_plain(frame, tables), &mut out));
    out
}

/// Whether components are red, green and blue, or four inks, already, and not luma and chroma; the rules are libjpeg's.
fn is_plain(frame: &Frame, tables: &Tables) -> bool {
    match (frame.components.len(), tables.adobe) {
        (4, transform) => transform.is_none_or(|t| t == 0),
        _ if tables.jfif => false,
        (_, Some(transform)) => transform == 0,
        (_, None) => frame.components.iter().map(|c| c.id).eq(*b"RGB"),
    }
}

/// A type of its own, so that the loops are compiled for the best instructions of the processor.
struct Run<'a>(&'a Frame, bool, &'a mut [u8]);

impl pulp::WithSimd for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        rows(self.0, self.1, self.2);
    }
}

#[inline(always)]
fn rows(frame: &Frame, plain: bool, out: &mut [u8]) {
    let width = frame.width as usize;
    // upsampling writes whole samples, so a little beyond the width
    let room = frame.mcus_wide * frame.h_max * frame.side;
    let mut lines: Vec<Vec<u8>> = frame.components.iter().map(|_| vec![0; room]).collect();
    let mut sums = vec![0; room];
    for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
        for (c, line) in frame.components.iter().zip(&mut lines) {
            upsample::row(frame, c, y, line, &mut sums);
        }
        let out = out.as_chunks_mut::<3>().0;
        match lines.as_slice() {
            [grey] => {
                for (o, &v) in out.iter_mut().zip(&grey[..width]) {
                    *o = [v; 3];
                }
            }
            [r, g, b] if plain => {
                for (o, ((&r, &g), &b)) in out.iter_mut().zip(r.iter().zip(g).zip(b)) {
                    *o = [r, g, b];
                }
            }
            [luma, cb, cr] => {
                for (o, ((&y, &cb), &cr)) in out.iter_mut().zip(luma.iter().zip(cb).zip(cr)) {
                    *o = pixel(y, cb, cr);
                }
            }
            [c, m, y, k] => {
                for (o, (((&c, &m), &y), &k)) in out.iter_mut().zip(c.iter().zip(m).zip(y).zip(k)) {
                    // inks are stored inverted, by Adobe's habit, which Pillow takes for granted
                    let inks = if plain {
                        [c, m, y].map(|v| 255 - v)
                    } else {
                        pixel(c, m, y)
                    };
                    *o = inks.map(|ink| k - blend(ink, 0, k));
                }
            }
            // a frame has one, three or four components
            _ => {}
        }
    }
}

#[inline(always)]
fn pixel(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let r = y + ((fix(1.40200) * cr + HALF) >> 16);
    let g = y + ((-fix(0.34414) * cb - fix(0.71414) * cr + HALF) >> 16);
    let b = y + ((fix(1.77200) * cb + HALF) >> 16);
    [r, g, b].map(|v| v.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_by_hand() {
        for v in 0..=255 {
            assert_eq!(pixel(v, 128, 128), [v; 3]);
        }
        // the primaries of JFIF come back within rounding
        assert_eq!(pixel(76, 85, 255), [254, 0, 0]);
        assert_eq!(pixel(150, 44, 21), [0, 255, 1]);
        assert_eq!(pixel(29, 255, 107), [0, 0, 254]);
    }
}
