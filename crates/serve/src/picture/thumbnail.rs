//! Small pictures for display: those of the store, or made from the file and kept in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bifocal_data::transform::resize;
use bifocal_data::{DecodeError, Filter, Limits, RgbImage, decode};
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Pixels of the longer side.
const SIDE: u32 = 320;
const QUALITY: u8 = 82;

/// Thumbnails by what they were made of; the oldest make room.
#[derive(Debug)]
pub(crate) struct Thumbnails {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_name: HashMap<String, Bytes>,
    order: VecDeque<String>,
}

impl Thumbnails {
    pub(crate) fn new(most: usize) -> Self {
        let kept = Mutex::default();
        Self { most, kept }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_name.get(name).cloned()
    }

    pub(crate) fn keep(&self, name: &str, jpeg: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if jpeg.len() > self.most || kept.by_name.contains_key(name) {
            return;
        }
        kept.bytes += jpeg.len();
        kept.by_name.insert(name.to_owned(), jpeg);
        kept.order.push_back(name.to_owned());
        while kept.bytes > self.most {
            let Some(oldest) = kept.order.pop_front() else {
                break;
            };
            if let Some(jpeg) = kept.by_name.remove(&oldest) {
                kept.bytes -= jpeg.len();
            }
        }
    }
}

/// A JPEG of at most 320 pixels a side.
///
/// # Errors
/// What [`decode`] says of the picture.
pub(crate) fn make(bytes: &[u8], limits: &Limits) -> Result<Bytes, DecodeError> {
    let image = decode(bytes, limits)?;
    let longer = image.width().max(image.height());
    let scaled = |length: u32| match longer > SIDE {
        true => (u64::from(length) * u64::from(SIDE) / u64::from(longer)).max(1) as u32,
        false => length,
    };
    let (width, height) = (scaled(image.width()), scaled(image.height()));
    let small: RgbImage = resize(&image, width, height, Filter::Bilinear).unwrap_or(image);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(small.data(), small.width(), small.height(), ExtendedColorType::Rgb8)
        .map_err(|e| DecodeError::Unsupported {
            what: format!("writing a small picture ({e})"),
        })?;
    Ok(jpeg.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let kept = Thumbnails::new(100);
        for name in ["a", "b", "c", "d"] {
            kept.keep(name, Bytes::from(vec![0; 30]));
        }
        kept.keep("huge", Bytes::from(vec![0; 101]));
        let has = ["a", "b", "c", "d", "huge"].map(|name| kept.get(name).is_some());
        assert_eq!(has, [false, true, true, true, false]);
    }

    #[test]
    fn thumbnails_keep_proportions_and_never_grow() {
        for ((width, height), expected) in [((800, 200), (320, 80)), ((10, 1), (10, 1)), ((1000, 1), (320, 1))] {
            let mut png = Vec::new();
            let pixels = vec![90u8; width as usize * height as usize * 3];
            image::codecs::png::PngEncoder::new(&mut png)
                .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
                .unwrap();
            let small = decode(&make(&png, &Limits::default()).unwrap(), &Limits::default()).unwrap();
            assert_eq!((small.width(), small.height()), expected);
        }
    }
}
