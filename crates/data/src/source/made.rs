//! Pictures that are made from what a file holds: raw pixels, and a part of another picture. For whoever wants encoded bytes they are
//! uncompressed BMP files.

use std::sync::Arc;

use image::codecs::bmp::BmpEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::archive::Archive;
use super::picture::{ImageSource, Member};
use crate::RgbImage;
use crate::decode::{Conventions, DecodeError, Limits};
use crate::transform::Rect;

/// A square picture as three planes of bytes, red, green, blue, each in rows from the top: a record of CIFAR's binary files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Planes {
    pub(super) member: Member,
    side: u32,
}

impl Planes {
    /// The pixels at `offset` of an open file; `name` is for messages.
    pub fn new(archive: &Arc<Archive>, name: &str, offset: u64, side: u16) -> Self {
        let side = u32::from(side);
        let member = Member {
            archive: archive.clone(),
            name: name.into(),
            offset,
            length: 3 * u64::from(side * side),
        };
        Self { member, side }
    }

    pub(super) fn open(&self, limits: &Limits) -> Result<RgbImage, DecodeError> {
        let planes = self.member.read(limits)?;
        let pixels = planes.len() / 3;
        let data = (0..3 * pixels).map(|at| planes[at % 3 * pixels + at / 3]).collect();
        RgbImage::new(self.side, self.side, data).ok_or(DecodeError::Empty)
    }
}

/// A rectangle of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Region {
    pub(super) of: ImageSource,
    pub(super) rect: Rect,
}

impl Region {
    /// What of the rectangle lies outside of the picture is black, as Pillow's `crop` does it.
    pub(super) fn open(&self, limits: &Limits, conventions: Conventions) -> Result<RgbImage, DecodeError> {
        let whole = self.of.open(limits, conventions)?;
        let Rect { x, y, width, height } = self.rect;
        limits.check((width, height), 3 * u64::from(width) * u64::from(height), "cropped")?;
        let stride = 3 * width as usize;
        let mut data = vec![0; stride * height as usize];
        let copied = 3 * whole.width().saturating_sub(x).min(width) as usize;
        for row in 0..whole.height().saturating_sub(y).min(height) {
            if copied > 0 {
                let from = 3 * ((y + row) as usize * whole.width() as usize + x as usize);
                let to = row as usize * stride;
                data[to..to + copied].copy_from_slice(&whole.data()[from..from + copied]);
            }
        }
        RgbImage::new(width, height, data).ok_or(DecodeError::Empty)
    }
}

/// The picture as BMP.
pub(super) fn bmp(image: &RgbImage) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    BmpEncoder::new(&mut bytes)
        .write_image(image.data(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| DecodeError::Unsupported {
            what: format!("writing a picture as BMP ({e})"),
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels_and_regions_are_padded_with_black() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("planes.bin");
        std::fs::write(&path, [9, 1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24]).unwrap();
        let archive = Arc::new(Archive::new(&path));
        let limits = Limits::default();
        let planes = ImageSource::Planes(Planes::new(&archive, "0", 1, 2));
        let image = planes.open(&limits, Conventions::default()).unwrap();
        assert_eq!(image.data(), [1, 11, 21, 2, 12, 22, 3, 13, 23, 4, 14, 24]);
        let encoded = planes.read(&limits).unwrap();
        assert_eq!(crate::decode(&encoded, &limits).unwrap(), image);
        let region = |x, y, width, height| {
            let region = ImageSource::region(planes.clone(), Rect { x, y, width, height });
            region.open(&limits, Conventions::default()).map(|i| i.data().to_vec())
        };
        assert_eq!(region(1, 0, 1, 2).unwrap(), [2, 12, 22, 4, 14, 24]);
        assert_eq!(region(1, 1, 2, 1).unwrap(), [4, 14, 24, 0, 0, 0]);
        assert_eq!(region(7, 7, 1, 1).unwrap(), [0, 0, 0]);
        assert!(region(0, 0, 0, 1).is_err());
        assert!(region(0, 0, u32::MAX, u32::MAX).is_err());
        let short = ImageSource::Planes(Planes::new(&archive, "1", 2, 2));
        assert!(matches!(short.read(&limits), Err(DecodeError::Io { .. })));
    }
}
