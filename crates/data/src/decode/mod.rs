//! Pictures from bytes: [`decode`] and [`open`].
//!
//! The format is read from the content, limits are checked before anything is allocated, the camera's orientation is
//! applied, and the result is always 8-bit RGB: grey is repeated, CMYK converted, 16 bits cut to their high byte, and
//! transparency shows white. Of an animation the first frame is taken. Where the reference libraries see something else in a file,
//! [`Conventions`] says whose way is taken.

mod budget;
mod conventions;
mod error;
mod jpeg;
mod pixels;
mod sniff;
mod tiff;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use budget::{Budget, Watched};
pub use conventions::{Conventions, DeepGrey, Transparency, Turning};
pub use error::DecodeError;
use jpeg::JpegError;

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
    /// Longest time of the processor (default none, so that which pictures are read does not depend on the machine). For services:
    /// what can be done to a file of a given size is bounded, but not small.
    pub time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 20_000_000,
            side: 16_384,
            pixels: 64_000_000,
            alloc: 256 << 20,
            time: None,
        }
    }
}

impl Limits {
    /// Checks a size and the bytes that decoding needs, before anything is allocated.
    pub(crate) fn check(
        &self,
        (width, height): (u32, u32),
        needed: u64,
        format: &'static str,
    ) -> Result<(), DecodeError> {
        let over = |what: String| Err(DecodeError::Limit { format, what });
        let count = u64::from(width) * u64::from(height);
        if count == 0 {
            return Err(DecodeError::Damaged {
                format,
                reason: format!("its size is {width}×{height}"),
            });
        }
        if width.max(height) > self.side {
            return over(format!("it is {width}×{height}, a side may have {} pixels", self.side));
        }
        if count > self.pixels {
            return over(format!(
                "it has {count} pixels ({width}×{height}), {} are allowed",
                self.pixels
            ));
        }
        if needed > self.alloc {
            return over(format!(
                "decoding {width}×{height} needs {needed} bytes, {} are allowed",
                self.alloc
            ));
        }
        Ok(())
    }
}

/// Whether the first bytes of a file (32 are enough) begin a picture that [`decode`] reads.
#[must_use]
pub fn is_image(head: &[u8]) -> bool {
    sniff::sniff(head).is_ok()
}

/// More scans than any encoder writes; each one costs a pass over the whole picture.
const MAX_JPEG_SCANS: usize = 64;

/// Decodes a picture in Bifocal's way.
///
/// # Errors
/// [`DecodeError`] says what is wrong; a panic inside a decoder becomes [`DecodeError::Panicked`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeError> {
    decode_with(bytes, limits, Conventions::default())
}

/// Decodes a picture.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(bytes: &[u8], limits: &Limits, conventions: Conventions) -> Result<RgbImage, DecodeError> {
    if bytes.len() as u64 > limits.bytes {
        return Err(DecodeError::TooLarge {
            bytes: bytes.len() as u64,
            limit: limits.bytes,
        });
    }
    let (format, name) = sniff::sniff(bytes)?;
    catch_unwind(AssertUnwindSafe(|| decode_as(bytes, format, name, limits, conventions))).unwrap_or_else(|panic| {
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

/// Reads and decodes a file in Bifocal's way.
///
/// # Errors
/// As [`read_limited`] and [`decode`].
pub fn open(path: &Path, limits: &Limits) -> Result<RgbImage, DecodeError> {
    open_with(path, limits, Conventions::default())
}

/// Reads and decodes a file.
///
/// # Errors
/// As [`read_limited`] and [`decode`].
pub fn open_with(path: &Path, limits: &Limits, conventions: Conventions) -> Result<RgbImage, DecodeError> {
    decode_with(&read_limited(path, limits)?, limits, conventions)
}

/// A picture as its file holds it, before it is turned.
struct Raw {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    orientation: Orientation,
}

fn decode_as(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &Limits,
    conventions: Conventions,
) -> Result<RgbImage, DecodeError> {
    let budget = Budget::new(limits.time);
    let raw = if format == ImageFormat::Jpeg {
        decode_jpeg(bytes, limits, conventions, &budget)?
    } else {
        decode_other(bytes, format, name, limits, conventions, &budget)?
    };
    let odd = || DecodeError::Damaged {
        format: name,
        reason: "its pixels do not match its size".into(),
    };
    let picture = image::RgbImage::from_raw(raw.width, raw.height, raw.rgb).ok_or_else(odd)?;
    let mut picture = DynamicImage::ImageRgb8(picture);
    if conventions.orientation == Turning::Applied || format == ImageFormat::Tiff {
        picture.apply_orientation(raw.orientation);
    }
    let (width, height) = (picture.width(), picture.height());
    // already RGB8, so this moves the buffer
    RgbImage::new(width, height, picture.into_rgb8().into_raw()).ok_or_else(odd)
}

/// JPEG, by the decoder here, whose pixels are libjpeg's.
fn decode_jpeg(bytes: &[u8], limits: &Limits, conventions: Conventions, budget: &Budget) -> Result<Raw, DecodeError> {
    const FORMAT: &str = "JPEG";
    let damaged = |reason: &str| DecodeError::Damaged {
        format: FORMAT,
        reason: reason.into(),
    };
    let facts = jpeg::facts(bytes);
    let Some(size) = facts.size else {
        return Err(if facts.whole {
            damaged("it has no frame")
        } else {
            DecodeError::Truncated { format: FORMAT }
        });
    };
    let orientation = facts
        .exif
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms);
    let count = u64::from(size.0) * u64::from(size.1);
    // samples before they are brought to full resolution, and for a progressive picture their coefficients of 16 bits
    let samples = facts.samples * if facts.progressive { 3 } else { 1 };
    limits.check(size, 3 * count + samples.max(turned(orientation) * count), FORMAT)?;
    if facts.scans > MAX_JPEG_SCANS {
        return Err(DecodeError::Limit {
            format: FORMAT,
            what: format!("it has {} scans, {MAX_JPEG_SCANS} are allowed", facts.scans),
        });
    }
    if !facts.whole {
        return Err(DecodeError::Truncated { format: FORMAT });
    }
    let by = conventions.reduce_to.map_or(1, |least| jpeg::reduction(size, least));
    let rgb = jpeg::decode(bytes, size, by, budget).map_err(|e| match e {
        JpegError::Damaged(reason) => damaged(reason),
        JpegError::Slow => budget.error(FORMAT),
        JpegError::Unsupported(kind) => DecodeError::Unsupported {
            what: format!("a JPEG {kind}"),
        },
    })?;
    let (width, height) = (size.0.div_ceil(by), size.1.div_ceil(by));
    Ok(Raw {
        width,
        height,
        rgb,
        orientation,
    })
}

/// Every other format.
fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &Limits,
    conventions: Conventions,
    budget: &Budget,
) -> Result<Raw, DecodeError> {
    let fail = |e: ImageError| match from_image_error(&e, name) {
        _ if budget.was_spent() => budget.error(name),
        DecodeError::Damaged { .. } if sniff::cut_off(bytes, format) => DecodeError::Truncated { format: name },
        other => other,
    };
    match format {
        ImageFormat::Tiff => tiff::check(bytes, limits.alloc)?,
        ImageFormat::WebP if sniff::cut_off(bytes, format) => return Err(DecodeError::Truncated { format: name }),
        _ => {}
    }
    let mut reader = ImageReader::with_format(Watched::new(bytes, budget), format);
    let mut inner = image::Limits::default();
    inner.max_alloc = Some(limits.alloc);
    reader.limits(inner);
    let mut decoder = reader.into_decoder().map_err(fail)?;

    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let count = u64::from(width) * u64::from(height);
    let needed = count.saturating_mul(bytes_per_pixel(format, color, orientation));
    limits.check((width, height), needed, name)?;
    let total = usize::try_from(decoder.total_bytes()).map_err(|_| DecodeError::Limit {
        format: name,
        what: "it does not fit into memory".into(),
    })?;
    let mut buf = vec![0u8; total];
    decoder.read_image(&mut buf).map_err(fail)?;
    let rgb = pixels::to_rgb8(buf, color, conventions).ok_or_else(|| DecodeError::Unsupported {
        what: format!("a {name} of colour type {color:?}"),
    })?;
    Ok(Raw {
        width,
        height,
        rgb,
        orientation,
    })
}

/// Peak memory for one pixel while decoding, conversion and rotation included.
fn bytes_per_pixel(format: ImageFormat, color: ColorType, orientation: Orientation) -> u64 {
    let scratch = match format {
        // the decoded frame in YUV or RGBA before it is converted
        ImageFormat::WebP => 4,
        // a frame smaller than the screen is decoded beside it
        ImageFormat::Gif => 4,
        _ => 0,
    };
    let convert = if pixels::grows(color) { 3 } else { 0 };
    // scratch is gone when the picture is turned
    u64::from(color.bytes_per_pixel()) + convert.max(scratch).max(turned(orientation))
}

/// Bytes of one pixel for turning the picture.
fn turned(orientation: Orientation) -> u64 {
    let swaps = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    if swaps { 3 } else { 0 }
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
