//! Pictures from bytes: [`decode`] and [`open`].
//!
//! The format is read from the content, limits are checked before anything is allocated, the camera's orientation is
//! applied, and the result is always 8-bit RGB: grey is repeated, CMYK converted, 16 bits cut to their high byte, and
//! transparency shows white. Of an animation the first frame is taken.

mod error;
mod jpeg;
mod pixels;
mod sniff;

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

pub use error::DecodeError;

use crate::RgbImage;

/// What a picture may cost. The defaults fit photographs and keep a hostile file from taking the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest file in bytes (default 20 MB).
    pub bytes: u64,
    /// Longest side in pixels (default 16384).
    pub side: u32,
    /// Most pixels (default 64 million).
    pub pixels: u64,
    /// Most memory in bytes that decoding may hold at once, besides the file itself (default 256 MiB).
    pub alloc: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 20_000_000,
            side: 16_384,
            pixels: 64_000_000,
            alloc: 256 << 20,
        }
    }
}

/// Whether the first bytes of a file (32 are enough) begin a picture that [`decode`] reads.
#[must_use]
pub fn is_image(head: &[u8]) -> bool {
    sniff::sniff(head).is_ok()
}

/// More scans than any encoder writes; each one costs a pass over the whole picture.
const MAX_JPEG_SCANS: usize = 64;

/// Decodes a picture.
///
/// # Errors
/// [`DecodeError`] says what is wrong; a panic inside a decoder becomes [`DecodeError::Panicked`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeError> {
    if bytes.len() as u64 > limits.bytes {
        return Err(DecodeError::TooLarge {
            bytes: bytes.len() as u64,
            limit: limits.bytes,
        });
    }
    let (format, name) = sniff::sniff(bytes)?;
    catch_unwind(AssertUnwindSafe(|| decode_as(bytes, format, name, limits))).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no reason given".to_owned());
        Err(DecodeError::Panicked { format: name, reason })
    })
}

/// Reads at most `limits.bytes` of a file.
///
/// # Errors
/// [`DecodeError::Io`] and [`DecodeError::TooLarge`].
pub fn read_limited(path: &Path, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
    let io = |e: std::io::Error| DecodeError::Io {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > limits.bytes {
        return Err(DecodeError::TooLarge {
            bytes: size,
            limit: limits.bytes,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // the size above can lie (a pipe, a file that grows), this cannot
    file.take(limits.bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > limits.bytes {
        return Err(DecodeError::TooLarge {
            bytes: bytes.len() as u64,
            limit: limits.bytes,
        });
    }
    Ok(bytes)
}

/// Reads and decodes a file.
///
/// # Errors
/// As [`read_limited`] and [`decode`].
pub fn open(path: &Path, limits: &Limits) -> Result<RgbImage, DecodeError> {
    decode(&read_limited(path, limits)?, limits)
}

fn decode_as(bytes: &[u8], format: ImageFormat, name: &'static str, limits: &Limits) -> Result<RgbImage, DecodeError> {
    let fail = |e: ImageError| match from_image_error(&e, name) {
        DecodeError::Damaged { .. } if sniff::cut_off(bytes, format) => DecodeError::Truncated { format: name },
        other => other,
    };
    let over = |what: String| DecodeError::Limit { format: name, what };

    let jpeg = (format == ImageFormat::Jpeg).then(|| jpeg::facts(bytes));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut inner = image::Limits::default();
    inner.max_alloc = Some(limits.alloc);
    reader.limits(inner);
    let mut decoder = reader.into_decoder().map_err(fail)?;

    let (width, height) = decoder.dimensions();
    let count = u64::from(width) * u64::from(height);
    if count == 0 {
        return Err(DecodeError::Damaged {
            format: name,
            reason: format!("its size is {width}×{height}"),
        });
    }
    if width.max(height) > limits.side {
        return Err(over(format!(
            "it is {width}×{height}, a side may have {} pixels",
            limits.side
        )));
    }
    if count > limits.pixels {
        return Err(over(format!(
            "it has {count} pixels ({width}×{height}), {} are allowed",
            limits.pixels
        )));
    }
    let color = decoder.color_type();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let needed = count.saturating_mul(bytes_per_pixel(format, color, orientation, jpeg.as_ref()));
    if needed > limits.alloc {
        return Err(over(format!(
            "decoding {width}×{height} needs {needed} bytes, {} are allowed",
            limits.alloc
        )));
    }
    if let Some(facts) = jpeg {
        if facts.scans > MAX_JPEG_SCANS {
            return Err(over(format!(
                "it has {} scans, {MAX_JPEG_SCANS} are allowed",
                facts.scans
            )));
        }
        if !facts.whole {
            return Err(DecodeError::Truncated { format: name });
        }
    }

    let total = usize::try_from(decoder.total_bytes()).map_err(|_| over("it does not fit into memory".into()))?;
    let mut buf = vec![0u8; total];
    decoder.read_image(&mut buf).map_err(fail)?;
    let rgb = pixels::to_rgb8(buf, color).ok_or_else(|| DecodeError::Unsupported {
        what: format!("a {name} of colour type {color:?}"),
    })?;
    let odd = || DecodeError::Damaged {
        format: name,
        reason: "its pixels do not match its size".into(),
    };
    let upright = image::RgbImage::from_raw(width, height, rgb).ok_or_else(odd)?;
    let mut upright = DynamicImage::ImageRgb8(upright);
    upright.apply_orientation(orientation);
    let (width, height) = (upright.width(), upright.height());
    // already RGB8, so this moves the buffer
    RgbImage::new(width, height, upright.into_rgb8().into_raw()).ok_or_else(odd)
}

/// Peak memory for one pixel while decoding, conversion and rotation included.
fn bytes_per_pixel(
    format: ImageFormat,
    color: ColorType,
    orientation: Orientation,
    jpeg: Option<&jpeg::JpegFacts>,
) -> u64 {
    let output = u64::from(color.bytes_per_pixel());
    let scratch = match (format, jpeg) {
        // 16-bit coefficients of every component
        (_, Some(f)) if f.progressive => 2 * u64::from(f.components.max(1)),
        // the decoded frame in YUV or RGBA before it is converted
        (ImageFormat::WebP, _) => 4,
        // a frame smaller than the screen is decoded beside it
        (ImageFormat::Gif, _) => 4,
        _ => 0,
    };
    let convert = if pixels::grows(color) { 3 } else { 0 };
    let turns = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    // scratch is gone when the picture is turned
    output + convert.max(scratch).max(if turns { 3 } else { 0 })
}

fn from_image_error(e: &ImageError, format: &'static str) -> DecodeError {
    if ended_early(e) {
        return DecodeError::Truncated { format };
    }
    match e {
        ImageError::Limits(l) => DecodeError::Limit {
            format,
            what: l.to_string(),
        },
        ImageError::Unsupported(u) => DecodeError::Unsupported {
            what: format!("this kind of {format} ({u})"),
        },
        other => DecodeError::Damaged {
            format,
            reason: other.to_string(),
        },
    }
}

/// Whether an unexpected end of the data is among the causes.
fn ended_early(e: &ImageError) -> bool {
    if let ImageError::Parameter(p) = e {
        return matches!(p.kind(), image::error::ParameterErrorKind::NoMoreData);
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(c) = cause {
        if c.downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof)
        {
            return true;
        }
        cause = c.source();
    }
    false
}
