//! From whatever a decoder gives to 8-bit RGB.

use image::ColorType;

use super::{Conventions, DeepGrey, Transparency};

/// `a·w + b·(255 − w)` over 255 with the rounding that Pillow uses when it pastes through a mask.
#[inline(always)]
pub(super) fn blend(a: u8, b: u8, w: u8) -> u8 {
    let t = u32::from(a) * u32::from(w) + u32::from(b) * (255 - u32::from(w)) + 128;
    // ((t >> 8) + t) >> 8 divides by 255 exactly for every t that can occur, so the result fits
    (((t >> 8) + t) >> 8) as u8
}

fn on_white(v: u8, alpha: u8) -> u8 {
    blend(v, 255, alpha)
}

/// Whether [`to_rgb8`] needs a second buffer for this type.
pub(super) fn grows(color: ColorType) -> bool {
    color.bytes_per_pixel() < 3
}

/// Converts `pixels` samples of type `color` in native byte order to RGB: grey is repeated, 16 bits give their high
/// byte, floats are clipped to 0–1, transparency shows white, all unless `conventions` say otherwise. In place whenever the
/// result is not larger. `None` for a type that the decoders here never give.
pub(super) fn to_rgb8(mut buf: Vec<u8>, color: ColorType, conventions: Conventions) -> Option<Vec<u8>> {
    let on_white = |v: u8, alpha: u8| match conventions.transparency {
        Transparency::OnWhite => on_white(v, alpha),
        Transparency::Dropped => v,
    };
    let deep_grey = |b: &[u8]| {
        let v = u16::from_ne_bytes([b[0], b[1]]);
        match conventions.deep_grey {
            DeepGrey::HighByte => (v >> 8) as u8,
            DeepGrey::Clipped => v.min(255) as u8,
        }
    };
    let high = |b: &[u8], i: usize| (u16::from_ne_bytes([b[2 * i], b[2 * i + 1]]) >> 8) as u8;
    let float = |b: &[u8], i: usize| {
        let v = f32::from_ne_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]);
        // NaN becomes 0 in the cast
        (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8
    };
    match color {
        ColorType::Rgb8 => return Some(buf),
        ColorType::L8 => return Some(buf.iter().flat_map(|&v| [v; 3]).collect()),
        ColorType::La8 => {
            return Some(buf.chunks_exact(2).flat_map(|p| [on_white(p[0], p[1]); 3]).collect());
        }
        ColorType::L16 => return Some(buf.chunks_exact(2).flat_map(|p| [deep_grey(p); 3]).collect()),
        ColorType::Rgba8 => shrink(&mut buf, 4, |p| [0, 1, 2].map(|c| on_white(p[c], p[3]))),
        ColorType::La16 => shrink(&mut buf, 4, |p| [on_white(high(p, 0), high(p, 1)); 3]),
        ColorType::Rgb16 => shrink(&mut buf, 6, |p| [0, 1, 2].map(|c| high(p, c))),
        ColorType::Rgba16 => shrink(&mut buf, 8, |p| [0, 1, 2].map(|c| on_white(high(p, c), high(p, 3)))),
        ColorType::Rgb32F => shrink(&mut buf, 12, |p| [0, 1, 2].map(|c| float(p, c))),
        ColorType::Rgba32F => shrink(&mut buf, 16, |p| [0, 1, 2].map(|c| on_white(float(p, c), float(p, 3)))),
        _ => return None,
    }
    Some(buf)
}

/// Rewrites pixels of `step` ≥ 3 bytes as RGB from the front of the same buffer.
fn shrink(buf: &mut Vec<u8>, step: usize, f: impl Fn(&[u8]) -> [u8; 3]) {
    let n = buf.len() / step;
    for i in 0..n {
        let rgb = f(&buf[i * step..(i + 1) * step]);
        buf[i * 3..i * 3 + 3].copy_from_slice(&rgb);
    }
    buf.truncate(n * 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_rgb8(buf: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
        super::to_rgb8(buf, color, Conventions::default())
    }

    #[test]
    fn blend_is_exact_rounding_for_all_inputs() {
        for v in 0..=255u8 {
            for w in 0..=255u8 {
                let exact = (f64::from(v) * f64::from(w) + 255.0 * f64::from(255 - w)) / 255.0;
                assert!((f64::from(on_white(v, w)) - exact).abs() <= 0.5, "{v} {w}");
            }
        }
        assert_eq!(on_white(7, 255), 7);
        assert_eq!(on_white(7, 0), 255);
    }

    #[test]
    fn sixteen_bits_give_the_high_byte() {
        let px = |v: &[u16]| v.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        assert_eq!(
            to_rgb8(px(&[0x12ff, 0x3400, 0xfeff]), ColorType::Rgb16),
            Some(vec![0x12, 0x34, 0xfe])
        );
        assert_eq!(to_rgb8(px(&[0x80ff]), ColorType::L16), Some(vec![0x80; 3]));
        assert_eq!(to_rgb8(px(&[0x1200, 0]), ColorType::La16), Some(vec![255; 3]));
        let rgba = to_rgb8(
            px(&[1, 2, 3, 0xffff, 0x1000, 0x2000, 0x3000, 0xff00]),
            ColorType::Rgba16,
        );
        assert_eq!(rgba, Some(vec![0, 0, 0, 0x10, 0x20, 0x30]));
    }

    #[test]
    fn floats_are_clipped() {
        let bytes: Vec<u8> = [f32::NAN, -1.0, 2.0, 0.5, 1.0, 0.0]
            .iter()
            .flat_map(|x| x.to_ne_bytes())
            .collect();
        assert_eq!(to_rgb8(bytes, ColorType::Rgb32F), Some(vec![0, 0, 255, 128, 255, 0]));
    }
}
