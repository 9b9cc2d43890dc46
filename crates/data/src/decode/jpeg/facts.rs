//! Facts about a JPEG stream that must be known before it is decoded: a lenient decoder paints the missing part of a
//! truncated picture grey and says nothing, and a progressive one holds all coefficients at once.

/// What the markers of a JPEG stream say (ITU-T T.81, annex B).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::decode) struct JpegFacts<'a> {
    /// Width and height; `None` when no frame header was found.
    pub size: Option<(u32, u32)>,
    /// The camera's notes, from their byte order on.
    pub exif: Option<&'a [u8]>,
    /// The frame is progressive (SOF2 and its kin): all coefficients are kept until the last scan.
    pub progressive: bool,
    /// Number of colour components of the frame; 0 when no frame header was found.
    pub components: u8,
    /// Samples of all components, padded to whole MCUs.
    pub samples: u64,
    /// Number of scans.
    pub scans: usize,
    /// The stream goes on to its end-of-image marker.
    pub whole: bool,
}

/// Walks the markers; linear in the length, allocates nothing.
pub(in crate::decode) fn facts(bytes: &[u8]) -> JpegFacts<'_> {
    let mut f = JpegFacts::default();
    let mut at = 2; // after SOI
    let mut in_scan = false;
    loop {
        // find 0xff followed by something that is neither fill (ff), a stuffed zero nor, in a scan, a restart marker
        let Some(&first) = bytes.get(at) else {
            return f;
        };
        if first != 0xff {
            at += 1;
            continue;
        }
        let Some(&marker) = bytes.get(at + 1) else {
            return f;
        };
        match marker {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            0xd9 => {
                f.whole = in_scan;
                return f;
            }
            _ => {
                let Some(len) = bytes.get(at + 2..at + 4) else {
                    return f;
                };
                let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
                match marker {
                    0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                        f.progressive |= matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
                        if let (None, Some(&[h1, h0, w1, w0])) =
                            (f.size, bytes.get(at + 5..).and_then(|b| b.first_chunk::<4>()))
                        {
                            let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
                            f.size = Some((side(w1, w0), side(h1, h0)));
                        }
                        f.components = f.components.max(bytes.get(at + 9).copied().unwrap_or(0));
                        let padded = samples(
                            f.size.unwrap_or_default(),
                            bytes.get(at + 10..).unwrap_or(&[]),
                            f.components,
                        );
                        f.samples = f.samples.max(padded);
                    }
                    0xe1 if f.exif.is_none() => {
                        let body = bytes.get(at + 4..at + 2 + len.max(2));
                        f.exif = body.and_then(|body| body.strip_prefix(b"Exif\0\0"));
                    }
                    0xda => {
                        f.scans += 1;
                        in_scan = true;
                    }
                    _ => {}
                }
                at += 2 + len.max(2);
            }
        }
    }
}

/// From the size and the list of components in a frame header (id, factors, table).
fn samples((width, height): (u32, u32), list: &[u8], components: u8) -> u64 {
    let factors = || {
        let list = list.chunks_exact(3).take(components.into());
        list.map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15)))
    };
    let (h_max, v_max) = factors().fold((1, 1), |(h, v), f| (f.0.max(h), f.1.max(v)));
    let mcus = u64::from(width).div_ceil(8 * h_max) * u64::from(height).div_ceil(8 * v_max);
    mcus * 64 * factors().map(|(h, v)| h * v).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_marker_inside_a_segment_does_not_count() {
        // SOI, an APP1 segment that contains an end marker (a thumbnail does), SOS with data, no end
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 1, 2];
        bytes.extend([0xff, 0xda, 0, 3, 1, 0x12, 0xff, 0x00, 0x34, 0xff, 0xd3, 0x56]);
        assert_eq!(
            facts(&bytes),
            JpegFacts {
                scans: 1,
                ..JpegFacts::default()
            }
        );
        bytes.extend([0xff, 0xd9, 7, 7, 7]);
        assert!(facts(&bytes).whole);
    }

    #[test]
    fn frame_header_is_read() {
        let bytes = [
            0xff, 0xd8, 0xff, 0xe1, 0, 11, b'E', b'x', b'i', b'f', 0, 0, 1, 2, 3, 0xff, 0xc2, 0, 17, 8, 0, 16, 1, 2, 4,
            0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let f = facts(&bytes);
        assert!(f.progressive);
        assert_eq!(f.size, Some((258, 16)));
        assert_eq!(f.exif, Some(&[1, 2, 3][..]));
        assert_eq!(f.components, 4);
        assert!(!f.whole);
        let halved = [1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1];
        assert_eq!(samples((17, 16), &halved, 3), 2 * 6 * 64);
        assert_eq!(samples((17, 16), &halved, 1), 2 * 4 * 64);
        assert_eq!(samples((65535, 65535), &[1, 0xff, 0], 1), 547 * 547 * 225 * 64);
        assert_eq!(samples((9, 9), &[1, 0, 0], 1), 0);
    }

    #[test]
    fn ends_on_every_prefix() {
        let bytes = [0xff, 0xd8, 0xff, 0xff, 0xff, 0xda, 0, 0, 0xff, 0xff, 0xd9];
        for n in 0..bytes.len() {
            assert!(!facts(&bytes[..n]).whole);
        }
        assert!(facts(&bytes).whole);
    }
}
