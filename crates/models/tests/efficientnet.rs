//! EfficientNet-Lite0 against the PyTorch port that its weights come with (scripts/fixtures/efficientnet.py). The weights
//! are read from the folder that BIFOCAL_MODELS names, pictures from the one that BIFOCAL_DATA names.

mod common;

use bifocal_data::Limits;
use bifocal_models::open::{VisionEncoder, open_vision};
use bifocal_models::vision::{EfficientNetLite, ImageBatch, VisionTower};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;
use common::{Numbers, assert_close, folder};

fn encoder(test: &str) -> Option<VisionEncoder> {
    let models = folder("BIFOCAL_MODELS", test)?;
    Some(open_vision(&models.join("efficientnet-lite0")).unwrap())
}

fn tower(encoder: &VisionEncoder) -> &EfficientNetLite {
    match &encoder.tower {
        VisionTower::EfficientNetLite(tower) => tower,
        VisionTower::ClipVit(_) => panic!("another tower"),
    }
}

/// The fixture's images by its formula, normalised.
fn synthetic() -> Vec<f32> {
    let mut pixels = Vec::new();
    for i in 0..3i32 {
        for y in 0..224i32 {
            for x in 0..224i32 {
                for c in 0..3i32 {
                    let value = (x * (3 + i) + y * (5 - 2 * i) + c * 85 + ((x * y) >> (3 + i))).rem_euclid(256);
                    pixels.push((value as f32 / 255.0 - 127.0 / 255.0) / (128.0 / 255.0));
                }
            }
        }
    }
    pixels
}

fn best(logits: &[f32]) -> usize {
    logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(class, _)| class)
}

#[test]
fn embeddings_and_logits_equal_those_of_the_port() {
    let Some(encoder) = encoder("EfficientNet parity") else {
        return;
    };
    let expected = Numbers::open("efficientnet.safetensors");
    let found = encoder.embed(&synthetic(), 3).unwrap();
    assert_close(&found, &expected.get("embeddings"), 2e-4, "embeddings");
    let logits = tower(&encoder)
        .logits(tensor(found, [3, 1280]))
        .expect("it has a classifier");
    assert_close(&values(logits), &expected.get("logits"), 2e-4, "logits");
}

/// Decoders differ by a few levels in a few pixels, which may change a close call.
#[test]
fn the_best_class_of_real_pictures_is_that_of_the_port() {
    let Some(encoder) = encoder("EfficientNet on pictures") else {
        return;
    };
    let Some(data) = folder("BIFOCAL_DATA", "EfficientNet on pictures") else {
        return;
    };
    let expected: Vec<usize> =
        serde_json::from_str(&std::fs::read_to_string(common::fixture("efficientnet_top1.json")).unwrap()).unwrap();
    let folder = data.join("imagenet-sample");
    let labels = std::fs::read_to_string(folder.join("labels.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = labels.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), expected.len());
    let (mut agree, mut right) = (0, 0);
    for (rows, expected) in rows.chunks(50).zip(expected.chunks(50)) {
        let paths: Vec<_> = rows
            .iter()
            .map(|row| folder.join(row["image"].as_str().unwrap()))
            .collect();
        let loaded = bifocal_data::load_images(&paths, &encoder.preprocess, &Limits::default()).unwrap();
        assert!(loaded.bad.is_empty());
        let embeddings = encoder.embed(&loaded.pixels, paths.len()).unwrap();
        let logits = tower(&encoder).logits(tensor(embeddings, [paths.len(), 1280])).unwrap();
        for ((logits, row), &expected) in values(logits).chunks(1000).zip(rows).zip(expected) {
            agree += usize::from(best(logits) == expected);
            right += usize::from(Some(best(logits) as u64) == row["class"].as_u64());
        }
    }
    println!("agreement {agree} of {}, right {right}", rows.len());
    assert!(agree * 100 >= rows.len() * 99);
}

#[test]
fn every_parameter_gets_a_gradient() {
    let Some(encoder) = encoder("EfficientNet gradients") else {
        return;
    };
    let tower = params::set_trainable(encoder.tower, |_| true);
    let side = 64; // any size will do for a convolutional tower
    let mut rng = Rng::new(1);
    let pixels = (0..2 * side * side * 3).map(|_| rng.normal()).collect();
    let y = tower.embed(&ImageBatch::square(pixels, 2, side).unwrap());
    let direction = tensor((0..2 * 1280).map(|_| rng.normal()).collect(), [2, 1280]);
    let gradients = Gradients::collect(&tower, (y * direction).sum().backward());
    let reached: Vec<&str> = gradients
        .reach()
        .filter(|(_, largest)| *largest > 0.0)
        .map(|(name, _)| name)
        .collect();
    let all = params::list(&tower);
    let missing: Vec<_> = all
        .iter()
        .filter(|info| !reached.contains(&info.name.as_str()))
        .collect();
    assert!(missing.is_empty() && all.len() > 100, "{missing:?}");
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let Some(encoder) = encoder("EfficientNet saved") else {
        return;
    };
    let tensors = encoder.tower.tensors();
    let again = VisionTower::from_tensors(&encoder.tower.config(), &tensors).unwrap();
    let pixels: Vec<f32> = synthetic().into_iter().take(224 * 224 * 3).collect();
    let batch = ImageBatch::square(pixels, 1, 224).unwrap();
    assert_eq!(values(encoder.tower.embed(&batch)), values(again.embed(&batch)));
    assert_eq!(again.tensors(), tensors);
    let mut broken = tensors;
    broken.remove("blocks.3.filter.var");
    assert!(VisionTower::from_tensors(&again.config(), &broken).is_err());
}
