//! Changes of colour as Pillow makes them, which torchvision calls for pictures of 8 bits.

use crate::RgbImage;

/// Luma of ITU-R 601 in Pillow's fixed point.
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// `from + factor · (to − from)`; Pillow cuts the fraction off.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    // the cast saturates, and turns NaN into 0
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

fn map(image: RgbImage, change: impl Fn(&mut [u8])) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let mut data = image.into_data();
    data.chunks_exact_mut(3).for_each(change);
    match RgbImage::new(width, height, data) {
        Some(image) => image,
        None => unreachable!("the number of pixels did not change"),
    }
}

/// Times `factor`: 0 is black, 1 the picture.
#[must_use]
pub fn brightness(image: RgbImage, factor: f32) -> RgbImage {
    map(image, |pixel| pixel.iter_mut().for_each(|v| *v = blend(0, *v, factor)))
}

/// Away from the picture's mean grey: 0 is all grey, 1 the picture.
#[must_use]
pub fn contrast(image: RgbImage, factor: f32) -> RgbImage {
    let sum: u64 = image.data().chunks_exact(3).map(|p| u64::from(luma(p))).sum();
    let pixels = image.data().len() / 3;
    let mean = (sum as f64 / pixels as f64 + 0.5) as u8;
    map(image, |pixel| {
        pixel.iter_mut().for_each(|v| *v = blend(mean, *v, factor))
    })
}

/// Away from each pixel's grey: 0 is a grey picture, 1 the picture.
#[must_use]
pub fn saturation(image: RgbImage, factor: f32) -> RgbImage {
    map(image, |pixel| {
        let grey = luma(pixel);
        pixel.iter_mut().for_each(|v| *v = blend(grey, *v, factor));
    })
}

/// Grey in all three channels.
#[must_use]
pub fn grey(image: RgbImage) -> RgbImage {
    map(image, |pixel| pixel.fill(luma(pixel)))
}

/// Turns the hue by `turn` of the whole circle, −0.5…0.5, through 8-bit HSV.
#[must_use]
pub fn hue(image: RgbImage, turn: f32) -> RgbImage {
    // cut towards 0, then it wraps
    let steps = (f64::from(turn) * 255.0) as i32 as u8;
    map(image, |pixel| {
        let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&from_hsv([h.wrapping_add(steps), s, v]));
    })
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [rc, gc, bc] = [r, g, b].map(|c| f32::from(most - c) / range);
    let sixth = if r == most {
        bc - gc
    } else if g == most {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let turn = ((f64::from(sixth) / 6.0 + 1.0) % 1.0) as f32;
    [
        (f64::from(turn) * 255.0) as u8,
        (f64::from(saturation) * 255.0) as u8,
        most,
    ]
}

fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixth = f32::from(h) * 6.0 / 255.0;
    let floor = sixth.floor();
    let (rest, s, value) = (sixth - floor, f32::from(s) / 255.0, f32::from(v));
    let shade = |by: f32| (value * (1.0 - by)).round() as u8;
    let (p, q, t) = (shade(s), shade(s * rest), shade(s * (1.0 - rest)));
    match floor as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
