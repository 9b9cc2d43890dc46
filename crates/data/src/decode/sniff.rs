//! What a file is, by its first bytes and never by its name.

use image::ImageFormat;

use super::DecodeError;

/// The format of a picture that can be decoded here.
///
/// # Errors
/// [`DecodeError::Empty`], [`DecodeError::LooksLikeText`], [`DecodeError::Unsupported`] for a known format without a
/// decoder, [`DecodeError::Unknown`] for everything else.
pub(super) fn sniff(bytes: &[u8]) -> Result<(ImageFormat, &'static str), DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if starts(&[0xff, 0xd8, 0xff]) {
        Ok((ImageFormat::Jpeg, "JPEG"))
    } else if starts(b"\x89PNG\r\n\x1a\n") {
        Ok((ImageFormat::Png, "PNG"))
    } else if starts(b"RIFF") && at(8, b"WEBP") {
        Ok((ImageFormat::WebP, "WebP"))
    } else if starts(b"GIF87a") || starts(b"GIF89a") {
        Ok((ImageFormat::Gif, "GIF"))
    } else if starts(b"II\x2a\0") || starts(b"MM\0\x2a") || starts(b"II\x2b\0") || starts(b"MM\0\x2b") {
        Ok((ImageFormat::Tiff, "TIFF"))
    } else if starts(b"BM") && at(14 + 1, &[0, 0, 0]) {
        // "BM" alone also begins words; the size of the info header, four bytes at 14, is always below 256
        Ok((ImageFormat::Bmp, "BMP"))
    } else if let Some(what) = foreign(bytes) {
        Err(DecodeError::Unsupported { what: what.into() })
    } else if let Some(begin) = text(bytes) {
        Err(DecodeError::LooksLikeText { begin })
    } else {
        let begin = bytes
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect::<Vec<_>>()
            .join(" ");
        Err(DecodeError::Unknown { begin })
    }
}

/// Names of formats that people do put into picture folders and that have no decoder here.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let brand = |b: &[&[u8]]| bytes.get(4..8) == Some(b"ftyp") && bytes.get(8..12).is_some_and(|x| b.contains(&x));
    let head = &bytes[..bytes.len().min(1024)];
    // the general brands of the family are followed by the list of those that the file satisfies
    let avif = || {
        head.get(16..64)
            .is_some_and(|list| list.chunks_exact(4).any(|b| b == b"avif"))
    };
    if brand(&[b"avif", b"avis"]) || brand(&[b"mif1", b"msf1"]) && avif() {
        Some("AVIF")
    } else if brand(&[b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Some("HEIC")
    } else if bytes.get(4..8) == Some(b"ftyp") {
        Some("a video (MP4 or QuickTime)")
    } else if bytes.starts_with(&[0xff, 0x0a]) || bytes.starts_with(b"\0\0\0\x0cJXL \r\n\x87\n") {
        Some("JPEG XL")
    } else if bytes.starts_with(b"\0\0\0\x0cjP  \r\n\x87\n") || bytes.starts_with(&[0xff, 0x4f, 0xff, 0x51]) {
        Some("JPEG 2000")
    } else if bytes.starts_with(b"%PDF") {
        Some("PDF")
    } else if bytes.starts_with(b"8BPS") {
        Some("a Photoshop document")
    } else if bytes.starts_with(b"PK\x03\x04") {
        Some("a zip archive")
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        Some("gzip data")
    } else if std::str::from_utf8(head).is_ok_and(|s| s.contains("<svg")) {
        Some("SVG (drawn by shapes)")
    } else {
        None
    }
}

/// The beginning of the file when all of its first 512 bytes are readable text.
fn text(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(512)];
    let s = match std::str::from_utf8(head) {
        Ok(s) => s,
        // a character cut in two by the end of the window is no contradiction
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let readable = !s.is_empty()
        && s.chars()
            .all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}'));
    readable.then(|| s.chars().take(40).collect())
}

/// Whether the frame around the pixels says that bytes are missing at the end. Asked once a decoder has failed, to name
/// the cause: decoders differ in what they call it. That of WebP does not fail where only the last bits are missing, and is asked before.
pub(super) fn cut_off(bytes: &[u8], format: ImageFormat) -> bool {
    let declared = |at: usize, extra: u64| {
        bytes
            .get(at..at + 4)
            .is_none_or(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) + extra > bytes.len() as u64)
    };
    match format {
        ImageFormat::Png => !bytes.windows(4).any(|w| w == b"IEND"),
        ImageFormat::Gif => bytes.iter().rev().find(|&&b| b != 0) != Some(&0x3b),
        ImageFormat::WebP => webp_cut_off(bytes),
        ImageFormat::Bmp => declared(2, 0),
        _ => false,
    }
}

/// Whether a WebP file ends before what it says that it holds, as libwebp sees it: the first part of a simple file has to be whole, and in an
/// extended one (`VP8X`) all parts up to the end that the file gives in its head. A missing byte of padding is nothing.
fn webp_cut_off(bytes: &[u8]) -> bool {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let Some(end) = number(4).map(|size| size.saturating_add(8)) else {
        return true;
    };
    let mut at = 12;
    loop {
        let Some(content) = number(at + 4).map(|size| (at + 8).saturating_add(size)) else {
            return true;
        };
        if content > bytes.len() {
            return true;
        }
        let is_extended = bytes.get(12..16) == Some(b"VP8X");
        at = content + content % 2;
        if !is_extended || at >= end {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webp_file_is_whole_to_the_end_that_it_gives() {
        let part = |kind: &[u8; 4], size: u32| {
            [
                &kind[..],
                &size.to_le_bytes(),
                &vec![7; size as usize + size as usize % 2],
            ]
            .concat()
        };
        let riff = |parts: Vec<u8>| [&b"RIFF"[..], &(parts.len() as u32 + 4).to_le_bytes(), b"WEBP", &parts].concat();
        let simple = riff([part(b"VP8 ", 31), part(b"XMP ", 8)].concat());
        // 12 bytes of head, 8 of the part's, 31 of content, one of padding: what comes after them is not looked at
        for len in 0..=simple.len() {
            assert_eq!(webp_cut_off(&simple[..len]), len < 51, "{len}");
        }
        let extended = riff([part(b"VP8X", 10), part(b"VP8L", 20), part(b"EXIF", 5)].concat());
        for len in 0..=extended.len() {
            assert_eq!(webp_cut_off(&extended[..len]), len < extended.len() - 1, "{len}");
        }
    }

    #[test]
    fn text_is_told_apart_from_pictures() {
        let Err(DecodeError::LooksLikeText { begin }) = sniff(b"<html><body>404 not found</body></html>") else {
            panic!("text not recognised");
        };
        assert!(begin.starts_with("<html>"));
        // the window ends inside a two-byte character
        let mut long = "a".repeat(511).into_bytes();
        long.extend("é".as_bytes());
        assert!(matches!(sniff(&long), Err(DecodeError::LooksLikeText { .. })));
        assert!(matches!(
            sniff(b"BMW is a car maker from Munich"),
            Err(DecodeError::LooksLikeText { .. })
        ));
        assert!(matches!(sniff(&[0, 1, 2, 3]), Err(DecodeError::Unknown { .. })));
        assert_eq!(sniff(&[]), Err(DecodeError::Empty));
    }

    #[test]
    fn known_strangers_are_named() {
        let svg = b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"/>";
        let general = [&b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf"[..], &[0; 40]].concat();
        let cases: [(&[u8], &str); 6] = [
            (b"\0\0\0\x18ftypheic\0\0", "HEIC"),
            (&general, "AVIF"),
            (b"\0\0\0\x18ftypavif\0\0", "AVIF"),
            (b"%PDF-1.7", "PDF"),
            (b"PK\x03\x04....", "zip"),
            (svg, "SVG"),
        ];
        for (bytes, name) in cases {
            let Err(DecodeError::Unsupported { what }) = sniff(bytes) else {
                panic!("{name} not recognised")
            };
            assert!(what.contains(name), "{what}");
        }
    }
}
