//! A JPEG decoder whose pixels are those of libjpeg-turbo, and so of Pillow, OpenCV and browsers, to the bit.
//!
//! The standard leaves the inverse transform and the upsampling of colour to the decoder, and they differ: with common decoders in Rust
//! a photo with halved colour resolution (nearly every photo) differs in one sample of six, by up to 15 of 255, which moves an embedding
//! by more than all other differences between two implementations together. Here are the integer transform, the triangle
//! filters and the conversion tables that libjpeg-turbo uses by default.
//!
//! At a half, a quarter or an eighth of the size a block becomes 4 × 4, 2 × 2 or one sample, the means of its samples; colours that are stored at half resolution are kept
//! at that, as far as both directions allow, as libjpeg does.
//!
//! Baseline, extended and progressive Huffman streams of 8 bits with one, three or four components; the rest is [`JpegError::Unsupported`].

mod block;
mod color;
mod facts;
mod frame;
mod huffman;
mod idct;
mod scan;
mod upsample;

pub(super) use facts::facts;

use super::budget::Budget;
use frame::{Frame, Tables};

/// Why a stream could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JpegError {
    /// A kind of JPEG that is rarely seen.
    Unsupported(&'static str),
    /// The stream contradicts itself.
    Damaged(&'static str),
    /// It takes longer than it may.
    Slow,
}

/// The largest of 1, 2, 4 and 8 by which a picture of that size can be divided so that its shorter side keeps at least `least` pixels.
pub(super) fn reduction((width, height): (u32, u32), least: u32) -> u32 {
    let fits = |by: &u32| width.min(height).div_ceil(*by) >= least;
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// Decodes a picture of a known size to RGB, `[height / by, width / by, 3]`, rounded up; `by` is a [`reduction`]. What the stream lacks is taken as zero, as libjpeg does; whether it is whole is for the caller to
/// check, with [`facts`].
pub(super) fn decode(bytes: &[u8], size: (u32, u32), by: u32, budget: &Budget) -> Result<Vec<u8>, JpegError> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut at = 2; // after SOI
    while let Some((marker, body, next)) = next_segment(bytes, at) {
        at = next;
        match marker {
            0xc0..=0xc2 => {
                if frame.is_some() {
                    return Err(JpegError::Damaged("it has two frames"));
                }
                frame = Some(Frame::parse(marker, body, size, by)?);
            }
            0xc4 => tables.huffman(body)?,
            0xc9..=0xcf => return Err(JpegError::Unsupported("with arithmetic coding")),
            0xc3 | 0xc5..=0xc8 => return Err(JpegError::Unsupported("without loss or with several frames")),
            0xda => {
                let frame = frame
                    .as_mut()
                    .ok_or(JpegError::Damaged("a scan comes before the frame"))?;
                at = scan::decode(frame, &tables, body, bytes, next, budget)?;
            }
            0xdb => tables.quantisation(body)?,
            0xdd => tables.restart_interval(body)?,
            0xe0 => tables.jfif |= body.starts_with(b"JFIF\0"),
            0xee if body.starts_with(b"Adobe") => tables.adobe = body.get(11).copied(),
            _ => {}
        }
    }
    let mut frame = frame.ok_or(JpegError::Damaged("it has no frame"))?;
    if !frame.any_scan {
        return Err(JpegError::Damaged("it has no scan"));
    }
    frame.finish(&tables)?;
    Ok(color::convert(&frame, &tables))
}

/// The next marker from `at` on with its body and the position behind it; `None` at the end of the image or of the data.
fn next_segment(bytes: &[u8], mut at: usize) -> Option<(u8, &[u8], usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xff)?;
        let marker = *bytes.get(at + 1)?;
        match marker {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            0xd9 => return None,
            _ => {
                let len = bytes.get(at + 2..at + 4)?;
                let len = usize::from(u16::from_be_bytes([len[0], len[1]])).max(2);
                let end = at + 2 + len;
                return Some((marker, bytes.get(at + 4..end)?, end));
            }
        }
    }
}
