//! Pictures of the kinds that go wrong, decoded, resized and cut as Pillow does it. Fixtures: scripts/fixtures/awkward_pictures.py.

use std::path::PathBuf;

use bifocal_data::{Conventions, ImageSource, Limits, Preprocess, decode, load_images, open};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/awkward")
}

fn rows() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

/// Largest difference that a decoder with arithmetic of its own may have: lossy WebP, JPEG inside TIFF, and BMP of 16 bits, whose 5 bits
/// are rounded to 8 here and cut by Pillow.
fn tolerance(name: &str) -> u8 {
    match name {
        "lossy.webp" | "lossy-alpha.webp" | "jpeg.tiff" => 1,
        "555.bmp" | "565.bmp" => 2,
        _ => 0,
    }
}

#[test]
fn equal_to_pillow_after_resize_and_crop() {
    let clip = Preprocess::clip(12);
    let (mut compared, mut wrong) = (0, Vec::new());
    for row in rows().iter().filter(|r| r["cause"].is_null()) {
        let name = row["name"].as_str().unwrap();
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let upright = if row["upright"].is_null() { "plain" } else { "upright" };
        for (conventions, key) in [(Conventions::default(), upright), (Conventions::pillow(), "plain")] {
            let image = match bifocal_data::decode::decode_with(&bytes, &Limits::default(), conventions) {
                Ok(image) => image,
                Err(e) => {
                    wrong.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let ours = clip.square(&image).unwrap();
            let hex = row[key].as_str().unwrap();
            let theirs = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
            assert_eq!(hex.len(), ours.data().len() * 2);
            let worst = ours
                .data()
                .iter()
                .zip(theirs)
                .map(|(a, b)| a.abs_diff(b))
                .max()
                .unwrap();
            if worst > tolerance(name) {
                wrong.push(format!("{name}, {key}: differs by {worst}"));
            }
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 140);
}

#[test]
fn what_cannot_be_read_is_refused_by_its_cause() {
    let limits = Limits::default();
    let (mut paths, mut causes) = (Vec::new(), Vec::new());
    for row in rows() {
        let Some(cause) = row["cause"].as_str() else { continue };
        let path = folder().join(row["name"].as_str().unwrap());
        let error = open(&path, &limits).unwrap_err();
        assert_eq!(error.cause(), cause, "{}: {error}", path.display());
        paths.push(path);
        causes.push(cause.to_owned());
    }
    assert!(causes.len() >= 8);
    // AVIF is known by name and told from other files of its family
    let avif = std::fs::read(folder().join("picture.avif")).unwrap();
    let message = decode(&avif, &limits).unwrap_err().to_string();
    assert!(message.contains("AVIF") && message.contains("convert"), "{message}");
    // a JPEG inside a TIFF that claims to be larger than the TIFF
    let mut tiff = std::fs::read(folder().join("jpeg.tiff")).unwrap();
    decode(&tiff, &limits).unwrap();
    let frame = tiff.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    tiff[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    let message = decode(&tiff, &limits).unwrap_err().to_string();
    assert!(message.contains("larger than its part"), "{message}");
    // a batch goes on without them
    paths.insert(1, folder().join("420.jpg"));
    let images: Vec<ImageSource> = paths.into_iter().map(ImageSource::from).collect();
    let loaded = load_images(&images, &Preprocess::clip(12), &limits).unwrap();
    assert_eq!(loaded.good, [1]);
    assert_eq!(loaded.bad.iter().map(|b| b.error.cause()).collect::<Vec<_>>(), causes);
}
