//! SigLIP 2 NaFlex against transformers, from the picture on (scripts/fixtures/siglip.py).

mod common;

use bifocal_data::{ResizeMode, RgbImage};
use bifocal_models::open::{OpenError, VisionEncoder, open_vision};
use bifocal_models::vision::VisionTower;
use common::{Numbers, assert_close, fixture};

/// The encoder, and its pictures prepared by our own preprocessing.
fn encoder() -> (VisionEncoder, Numbers, Vec<Vec<f32>>) {
    let encoder = open_vision(&fixture("siglip2")).unwrap();
    let numbers = Numbers::open("siglip2/expected.safetensors");
    let pictures = (0..4)
        .map(|i| {
            let name = format!("picture.{i}");
            let shape = numbers.source().shape(&name).unwrap();
            let bytes = numbers.get(&name).into_iter().map(|v| v as u8).collect();
            let picture = RgbImage::new(shape[1] as u32, shape[0] as u32, bytes).unwrap();
            encoder.preprocess.apply(&picture).unwrap()
        })
        .collect();
    (encoder, numbers, pictures)
}

#[test]
fn pictures_of_any_proportions_embed_as_in_the_library_together_and_alone() {
    let (encoder, expected, pictures) = encoder();
    assert_eq!(encoder.preprocess.resize, ResizeMode::Patches { patch: 4, most: 14 });
    for layer in 0..=2 {
        let found = encoder.hidden(&pictures.concat(), 4, layer).unwrap();
        assert_close(&found, &expected.get(&format!("hidden.{layer}")), 1e-4, "hidden");
    }
    let wanted = expected.get("image_embeddings");
    let found = encoder.embed(&pictures.concat(), 4).unwrap();
    assert_close(&found, &wanted, 5e-5, "together");
    for (picture, wanted) in pictures.iter().zip(wanted.chunks(24)) {
        assert_close(&encoder.embed(picture, 1).unwrap(), wanted, 5e-5, "alone");
    }
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let (mut encoder, _, pictures) = encoder();
    let before = encoder.embed(&pictures.concat(), 4).unwrap();
    let (config, tensors) = (encoder.tower.config(), encoder.tower.tensors());
    encoder.tower = VisionTower::from_tensors(&config, &tensors).unwrap();
    assert_eq!(encoder.embed(&pictures.concat(), 4).unwrap(), before);
}

#[test]
fn values_that_are_no_picture_are_refused() {
    let (encoder, _, pictures) = encoder();
    for (at, value) in [(0, 0.0), (0, f32::NAN), (1, 6.0), (1, 4000.0), (0, -4.0)] {
        let mut damaged = pictures[0].clone();
        damaged[at] = value;
        let error = encoder.embed(&damaged, 1).unwrap_err();
        assert!(matches!(error, OpenError::Pixels { .. }), "{value}: {error}");
    }
    assert!(encoder.embed(&pictures[0][1..], 1).is_err());
}
