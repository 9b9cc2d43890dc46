//! Colours against torchvision, and what seeds decide. Fixtures: scripts/fixtures/augment.py.

use std::path::Path;

use bifocal_data::transform::colour;
use bifocal_data::{
    Augment, Dataset, Filter, ImageSource, Jitter, Limits, Preprocess, ResizeMode, RgbImage, load_images,
    load_images_augmented,
};
use serde_json::Value;

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect()
}

fn picture() -> RgbImage {
    let mut state = 5u32;
    let value = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    RgbImage::new(16, 10, (0..480).map(value).collect()).unwrap()
}

#[test]
fn colours_equal_torchvision() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/augment.json")).unwrap();
    let cases = fixture["colours"].as_array().unwrap();
    assert_eq!(cases.len(), 26);
    for case in cases {
        let factor = case["factor"].as_f64().unwrap() as f32;
        let name = case["change"].as_str().unwrap();
        let ours = match name {
            "brightness" => colour::brightness(picture(), factor),
            "contrast" => colour::contrast(picture(), factor),
            "saturation" => colour::saturation(picture(), factor),
            "hue" => colour::hue(picture(), factor),
            _ => colour::grey(picture()),
        };
        let theirs = bytes(&case["pixels"]);
        let furthest = ours
            .data()
            .iter()
            .zip(&theirs)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!(
            ours.data().len() == theirs.len() && furthest == 0,
            "{name} by {factor}: {furthest} away"
        );
    }
}

fn photos() -> Vec<ImageSource> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos");
    let samples = Dataset::open(&folder).unwrap().samples;
    samples.into_iter().take(6).map(|s| s.image).collect()
}

fn strong() -> Augment {
    Augment {
        crop_scale: [0.3, 1.0],
        flip: 0.5,
        jitter: Some(Jitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
        }),
        grey: 0.2,
        ..Augment::default()
    }
}

#[test]
fn a_picture_depends_on_its_own_seed_alone() {
    let (photos, preprocess, limits) = (photos(), Preprocess::clip(24), Limits::default());
    let load = |images: &[ImageSource], seeds: &[u64]| {
        load_images_augmented(images, &preprocess, &limits, &strong(), seeds).unwrap()
    };
    let all = load(&photos, &[1, 2, 3, 4, 5, 6]);
    let row = 24 * 24 * 3;
    for (i, pixels) in all.pixels.chunks(row).enumerate() {
        assert_eq!(load(&photos[i..=i], &[i as u64 + 1]).pixels, pixels);
        assert_ne!(load(&photos[i..=i], &[i as u64 + 100]).pixels, pixels);
    }
    // a bad picture moves nobody's changes
    let mut with_bad = photos.clone();
    with_bad.insert(2, ImageSource::None);
    let loaded = load(&with_bad, &[1, 2, 99, 3, 4, 5, 6]);
    assert_eq!((loaded.pixels, loaded.bad[0].index), (all.pixels, 2));
    assert!(load_images_augmented(&photos, &preprocess, &limits, &strong(), &[1]).is_err());
}

#[test]
fn nothing_changes_when_nothing_may() {
    let augment = Augment {
        crop_scale: [1.0, 1.0],
        crop_ratio: [1.0, 1.0],
        ..Augment::default()
    };
    // a square picture is taken whole
    let square = picture();
    let square = bifocal_data::transform::resize(&square, 16, 16, Filter::Bicubic).unwrap();
    let out = augment.apply(&square, &Preprocess::clip(8), 3).unwrap();
    assert_eq!(
        out,
        bifocal_data::transform::resize(&square, 8, 8, Filter::Bicubic).unwrap()
    );
    // flips alone, in about half of all seeds
    let flip = Augment { flip: 0.5, ..augment };
    let flipped = (0..1000)
        .filter(|&seed| flip.apply(&square, &Preprocess::clip(8), seed).unwrap() != out)
        .count();
    assert!((420..580).contains(&flipped), "{flipped}");
    // normalisation is the tower's own
    let images = photos();
    let squash = Preprocess::siglip(16);
    let plain = load_images(&images, &squash, &Limits::default()).unwrap();
    let whole = Augment {
        crop_ratio: [0.01, 100.0],
        ..augment
    };
    let seeds = [0; 6];
    let augmented = load_images_augmented(&images, &squash, &Limits::default(), &whole, &seeds).unwrap();
    assert_eq!(plain.pixels.len(), augmented.pixels.len());
    assert!(augmented.pixels.iter().all(|v| (-1.0..=1.0).contains(v)));
}

#[test]
fn settings_are_checked() {
    let clip = Preprocess::clip(8);
    assert!(strong().validate(&clip).is_ok());
    let jitter = |j: Jitter| Augment {
        jitter: Some(j),
        ..Augment::default()
    };
    let default = Augment::default();
    for bad in [
        Augment {
            crop_scale: [0.0, 1.0],
            ..default
        },
        Augment {
            crop_scale: [0.9, 0.8],
            ..default
        },
        Augment {
            crop_scale: [0.9, 1.1],
            ..default
        },
        Augment {
            crop_ratio: [0.0, 1.0],
            ..default
        },
        Augment {
            crop_ratio: [1.0, f64::INFINITY],
            ..default
        },
        Augment { flip: 1.5, ..default },
        Augment {
            grey: f64::NAN,
            ..default
        },
        Augment {
            jitter_probability: -0.1,
            ..default
        },
        jitter(Jitter {
            hue: 0.6,
            ..Jitter::default()
        }),
        jitter(Jitter {
            contrast: -1.0,
            ..Jitter::default()
        }),
    ] {
        assert!(bad.validate(&clip).is_err(), "{bad:?}");
    }
    let flexible = Preprocess {
        resize: ResizeMode::Patches { patch: 4, most: 12 },
        ..Preprocess::siglip(12)
    };
    assert!(default.validate(&flexible).is_err());
    assert!(serde_json::from_str::<Augment>(r#"{"crop_scale": [0.5, 1], "flop": 1}"#).is_err());
    let parsed: Augment = serde_json::from_str(r#"{"crop_scale": [0.5, 1], "jitter": {"hue": 0.1}}"#).unwrap();
    assert_eq!(parsed.jitter.unwrap().hue, 0.1);
    assert_eq!(
        serde_json::from_str::<Augment>(&serde_json::to_string(&parsed).unwrap()).unwrap(),
        parsed
    );
}
