//! Decoding against Pillow, and against everything that a file can have wrong with it.
//! Fixtures: scripts/fixtures/pillow_decode.py.

use std::path::Path;

use bifocal_data::decode::{DeepGrey, Transparency, Turning, decode_with};
use bifocal_data::{Conventions, DecodeError, Limits, RgbImage, decode, open};
use proptest::prelude::*;
use serde_json::Value;

struct Case {
    name: String,
    file: Vec<u8>,
    size: (u64, u64),
    pixels: Vec<u8>,
    tolerance: u64,
    /// What Pillow's `convert("RGB")` alone gives, where that is another picture.
    plain: Option<(u64, u64, Vec<u8>)>,
}

impl Case {
    /// Asserts that a picture has this size and, within the tolerance, these samples.
    fn assert_like(&self, image: &RgbImage, (width, height): (u64, u64), pixels: &[u8], way: &str) {
        let name = &self.name;
        assert_eq!(
            (u64::from(image.width()), u64::from(image.height())),
            (width, height),
            "{name}, {way}"
        );
        let worst = image.data().iter().zip(pixels).map(|(a, b)| u64::from(a.abs_diff(*b)));
        let worst = worst.max().unwrap();
        let allowed = self.tolerance;
        assert!(worst <= allowed, "{name}, {way}: differs by {worst}, {allowed} allowed");
    }
}

fn hex(v: &Value) -> Vec<u8> {
    let s = v.as_str().unwrap();
    (0..s.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap())
        .collect()
}

fn cases() -> Vec<Case> {
    let all: Vec<Value> = serde_json::from_str(include_str!("fixtures/pillow_decode.json")).unwrap();
    all.iter()
        .map(|c| Case {
            name: c["name"].as_str().unwrap().to_owned(),
            file: hex(&c["file"]),
            size: (c["size"][0].as_u64().unwrap(), c["size"][1].as_u64().unwrap()),
            pixels: hex(&c["pixels"]),
            tolerance: c["tolerance"].as_u64().unwrap(),
            plain: c["plain"].as_object().map(|p| {
                (
                    p["size"][0].as_u64().unwrap(),
                    p["size"][1].as_u64().unwrap(),
                    hex(&p["pixels"]),
                )
            }),
        })
        .collect()
}

fn file(name: &str) -> Vec<u8> {
    cases()
        .into_iter()
        .find(|c| c.name == name)
        .unwrap_or_else(|| panic!("no fixture {name}"))
        .file
}

#[test]
fn every_kind_looks_as_in_pillow() {
    let cases = cases();
    assert!(cases.len() >= 77);
    for case in &cases {
        let image = decode(&case.file, &Limits::default()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        case.assert_like(&image, case.size, &case.pixels, "upright");
        let plain = decode_with(&case.file, &Limits::default(), Conventions::pillow()).unwrap();
        match &case.plain {
            Some((width, height, pixels)) => case.assert_like(&plain, (*width, *height), pixels, "plain"),
            None => assert_eq!(plain, image, "{}", case.name),
        }
    }
    assert!(cases.iter().filter(|c| c.plain.is_some()).count() >= 14);
}

#[test]
fn each_convention_changes_only_its_own_thing() {
    let limits = Limits::default();
    let only = [
        Conventions {
            orientation: Turning::Ignored,
            ..Conventions::default()
        },
        Conventions {
            transparency: Transparency::Dropped,
            ..Conventions::default()
        },
        Conventions {
            deep_grey: DeepGrey::Clipped,
            ..Conventions::default()
        },
    ];
    for (name, its) in [
        ("jpeg-exif-6", Some(0)),
        ("webp-exif-6", Some(0)),
        ("png-rgba", Some(1)),
        ("gif-transparent", Some(1)),
        ("png-grey-16", Some(2)),
        ("tiff-grey-16", Some(2)),
        ("png-rgb-16", None),
        ("jpeg", None),
    ] {
        let file = file(name);
        let ours = decode(&file, &limits).unwrap();
        for (i, conventions) in only.into_iter().enumerate() {
            let image = decode_with(&file, &limits, conventions).unwrap();
            assert_eq!(image != ours, its == Some(i), "{name}, convention {i}");
        }
    }
}

/// What a picture shows at a fraction of its size is what the whole one shows, averaged: within 2 of 255, since colours are interpolated in the whole one alone. Every kind of
/// JPEG comes out at its size.
#[test]
fn reduced_pictures_are_means_of_whole_ones() {
    let limits = Limits::default();
    let reduced = |file: &[u8], least| {
        let conventions = Conventions {
            reduce_to: Some(least),
            ..Conventions::default()
        };
        decode_with(file, &limits, conventions).unwrap()
    };
    for case in cases() {
        let whole = decode(&case.file, &limits).unwrap();
        let tiny = reduced(&case.file, 1);
        if !case.name.starts_with("jpeg") {
            assert_eq!(tiny, whole, "{}", case.name);
        } else {
            let eighth = (whole.width().div_ceil(8), whole.height().div_ceil(8));
            assert_eq!((tiny.width(), tiny.height()), eighth, "{}", case.name);
        }
        assert_eq!(reduced(&case.file, u32::MAX), whole, "{}", case.name);
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos/images");
    let photos = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut photos: Vec<_> = photos
        .filter(|path| path.extension().is_some_and(|e| e == "jpg"))
        .collect();
    photos.sort();
    assert!(photos.len() >= 4);
    for path in photos.iter().take(8) {
        let file = std::fs::read(path).unwrap();
        let whole = decode(&file, &limits).unwrap();
        for by in [2u32, 4, 8] {
            let small = reduced(&file, whole.width().min(whole.height()).div_ceil(by));
            assert_eq!(
                (small.width(), small.height()),
                (whole.width().div_ceil(by), whole.height().div_ceil(by))
            );
            let (mut sum, mut count) = (0.0, 0);
            for y in 0..whole.height() / by {
                for x in 0..whole.width() / by {
                    for c in 0..3 {
                        let at = |x: u32, y: u32, image: &RgbImage| {
                            f64::from(image.data()[((y * image.width() + x) * 3 + c) as usize])
                        };
                        let square = (0..by * by).map(|i| at(x * by + i % by, y * by + i / by, &whole));
                        sum += (square.sum::<f64>() / f64::from(by * by) - at(x, y, &small)).abs();
                        count += 1;
                    }
                }
            }
            let mean = sum / f64::from(count);
            assert!(mean < 2.0, "{path:?} by {by}: {mean}");
        }
    }
}

/// Streams that other programs write and the fixtures lack.
#[test]
fn unusual_jpegs() {
    let jpeg = file("jpeg-restart");
    let whole = decode(&jpeg, &Limits::default()).unwrap();
    // fill bytes before a marker and data behind the end are allowed
    let dqt = jpeg.windows(2).position(|w| w == [0xff, 0xdb]).unwrap();
    let filled = [&jpeg[..dqt], &[0xff, 0xff, 0xff], &jpeg[dqt..], b"trailing data"].concat();
    assert_eq!(decode(&filled, &Limits::default()), Ok(whole.clone()));
    // a damaged stretch stays between its restart markers
    let sos = jpeg.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let first = sos + jpeg[sos..].windows(2).position(|w| w == [0xff, 0xd0]).unwrap();
    let mut hurt = jpeg.clone();
    hurt[first - 3..first].fill(0);
    let image = decode(&hurt, &Limits::default()).unwrap();
    let tail = whole.data().len() - 37 * 3;
    assert_ne!(image, whole);
    assert_eq!(image.data()[tail..], whole.data()[tail..]);
    // without tables nothing can be decoded
    let dht = jpeg.windows(2).position(|w| w == [0xff, 0xc4]).unwrap();
    let mut bare = jpeg.clone();
    bare[dht + 1] = 0xe5;
    let e = decode(&bare, &Limits::default()).unwrap_err();
    assert_eq!(e.cause(), "damaged", "{e}");
}

#[test]
fn the_name_does_not_matter_and_text_is_called_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photo.jpg");
    std::fs::write(&path, file("png")).unwrap();
    open(&path, &Limits::default()).unwrap();
    std::fs::write(&path, "<!DOCTYPE html><title>404</title>").unwrap();
    let e = open(&path, &Limits::default()).unwrap_err();
    assert_eq!(e.cause(), "text");
    assert!(e.to_string().contains("looks like text"), "{e}");
    std::fs::write(&path, "").unwrap();
    assert_eq!(open(&path, &Limits::default()), Err(DecodeError::Empty));
    let e = open(&dir.path().join("absent.jpg"), &Limits::default()).unwrap_err();
    assert_eq!(e.cause(), "unreadable");
    assert!(open(dir.path(), &Limits::default()).is_err());
}

#[test]
fn truncated_pictures_are_errors() {
    for case in cases() {
        let e = decode(&case.file[..case.file.len() / 2], &Limits::default()).expect_err(&case.name);
        // a TIFF keeps its directory behind the pixels, so half of one is not recognisable as half
        let allowed: &[&str] = if case.name.starts_with("tiff") {
            &["truncated", "damaged"]
        } else {
            &["truncated"]
        };
        assert!(allowed.contains(&e.cause()), "{}: {e}", case.name);
    }
    let jpeg = file("jpeg");
    for cut in [1, 2, 3, 50] {
        let e = decode(&jpeg[..jpeg.len() - cut], &Limits::default()).unwrap_err();
        assert_eq!(e, DecodeError::Truncated { format: "JPEG" });
    }
    // the decoder makes up the last bits of a lossy WebP
    for case in cases().iter().filter(|case| case.name.starts_with("webp")) {
        for cut in [2, 3, 8] {
            let e = decode(&case.file[..case.file.len() - cut], &Limits::default()).expect_err(&case.name);
            assert_eq!(
                e,
                DecodeError::Truncated { format: "WebP" },
                "{} without {cut} bytes",
                case.name
            );
        }
    }
    let png = file("png");
    assert_eq!(
        decode(&png[..png.len() - 40], &Limits::default()).unwrap_err().cause(),
        "truncated"
    );
}

/// A PNG header that claims a size; nothing of it may be allocated.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut file = file("png");
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = file[12..29].iter().fold(!0u32, |mut c, &b| {
        c ^= u32::from(b);
        for _ in 0..8 {
            c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
        }
        c
    });
    file[29..33].copy_from_slice(&(!crc).to_be_bytes());
    file
}

#[test]
fn limits_come_before_allocation() {
    // an MCU of 16 × 16 with colour at half the resolution
    const PADDED: u64 = 16 * 16 * 3 / 2;
    let default = Limits::default();
    for (w, h) in [(16_385, 1), (1, 16_385), (16_000, 16_000), (0x7fff_ffff, 0x7fff_ffff)] {
        let e = decode(&png_header(w, h), &default).unwrap_err();
        assert_eq!(e.cause(), "over-limit", "{w}×{h}: {e}");
    }
    // the same file without the lie
    decode(&png_header(13, 9), &default).unwrap();
    let jpeg = file("jpeg");
    for limits in [
        Limits { bytes: 10, ..default },
        Limits { side: 12, ..default },
        Limits {
            pixels: 13 * 9 - 1,
            ..default
        },
        Limits {
            alloc: 13 * 9 * 3 + PADDED - 1,
            ..default
        },
    ] {
        assert_eq!(decode(&jpeg, &limits).unwrap_err().cause(), "over-limit", "{limits:?}");
    }
    decode(
        &jpeg,
        &Limits {
            alloc: 13 * 9 * 3 + PADDED,
            side: 13,
            pixels: 13 * 9,
            bytes: jpeg.len() as u64,
            time: None,
        },
    )
    .unwrap();
    // a progressive picture holds its coefficients too
    let progressive = file("jpeg-progressive");
    assert_eq!(
        decode(
            &progressive,
            &Limits {
                alloc: 13 * 9 * 3 + 3 * PADDED - 1,
                ..default
            }
        )
        .unwrap_err()
        .cause(),
        "over-limit"
    );

    // claimed sizes inside JPEG and GIF headers
    let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let mut huge = jpeg.clone();
    huge[sof + 5..sof + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(decode(&huge, &default).unwrap_err().cause(), "over-limit");
    let mut gif = file("gif");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(decode(&gif, &default).unwrap_err().cause(), "over-limit");
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    if Path::new("/dev/zero").exists() {
        let e = open(
            Path::new("/dev/zero"),
            &Limits {
                bytes: 1 << 20,
                ..Limits::default()
            },
        )
        .unwrap_err();
        assert_eq!(e.cause(), "over-limit");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic(which in 0usize..77, cut in 0.0f64..1.0, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12)) {
        thread_local!(static CASES: Vec<Case> = cases());
        CASES.with(|cases| {
            let mut file = cases[which].file.clone();
            if cut > 0.5 {
                file.truncate((file.len() as f64 * (2.0 * cut - 1.0)) as usize);
            }
            for (at, byte) in &edits {
                if !file.is_empty() {
                    let at = at.index(file.len());
                    file[at] = *byte;
                }
            }
            // the point is that this returns, and that what it returns is consistent
            if let Ok(image) = decode(&file, &Limits { pixels: 1 << 20, ..Limits::default() }) {
                prop_assert_eq!(image.data().len() as u64, u64::from(image.width()) * u64::from(image.height()) * 3);
            }
            Ok(())
        })?;
    }

    #[test]
    fn random_bytes_never_panic(magic in 0usize..7, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let magics: [&[u8]; 7] = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"BM"];
        let file = [magics[magic], &bytes].concat();
        prop_assert!(decode(&file, &Limits::default()).is_err() || !bytes.is_empty());
    }
}
