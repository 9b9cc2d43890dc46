//! Small pictures for display.

use ::image::ExtendedColorType;
use ::image::codecs::jpeg::JpegEncoder;

use crate::image::RgbImage;
use crate::transform::{Filter, resize};

/// Longest side in pixels: sharp in a grid, also on screens with two pixels a point.
const SIDE: u32 = 320;
/// JPEG quality, as libjpeg counts it.
const QUALITY: u8 = 80;

/// A JPEG of at most 320 pixels a side and the proportions of the picture; a smaller picture keeps its size.
pub fn jpeg(picture: &RgbImage) -> Option<Vec<u8>> {
    jpeg_within(picture, SIDE)
}

/// As [`jpeg`], with at most `most` pixels a side.
pub fn jpeg_within(picture: &RgbImage, most: u32) -> Option<Vec<u8>> {
    let (width, height) = (picture.width(), picture.height());
    let longest = width.max(height);
    let small = if longest > most {
        let side = |n: u32| (u64::from(n) * u64::from(most)).div_ceil(u64::from(longest)).max(1) as u32;
        &resize(picture, side(width), side(height), Filter::Bilinear)?
    } else {
        picture
    };
    encode(small, QUALITY)
}

/// A picture as JPEG of a quality from 1 to 100, as libjpeg counts it.
pub(crate) fn encode(small: &RgbImage, quality: u8) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(small.data(), small.width(), small.height(), ExtendedColorType::Rgb8)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, decode};

    fn picture(width: u32, height: u32) -> RgbImage {
        let data = (0..width * height).flat_map(|i| [(i % width / 4) as u8, 200, (i / width / 4) as u8]);
        RgbImage::new(width, height, data.collect()).unwrap()
    }

    #[test]
    fn thumbnails_keep_the_proportions_and_the_colours() {
        for ((width, height), expected) in [
            ((640, 480), (320, 240)),
            ((200, 1000), (64, 320)),
            ((5000, 1), (320, 1)),
            ((30, 20), (30, 20)),
        ] {
            let small = decode(&jpeg(&picture(width, height)).unwrap(), &Limits::default()).unwrap();
            assert_eq!((small.width(), small.height()), expected);
            assert!(
                small.data().chunks(3).all(|p| p[1].abs_diff(200) < 12),
                "{width}×{height}"
            );
        }
    }
}
