//! Vision transformers of several families against the libraries that wrote their checkpoints (scripts/fixtures: clip.py, siglip.py,
//! dinov2.py, timm_towers.py), each opened as a folder where a tiny one can be described.

mod common;

use bifocal_data::Preprocess;
use bifocal_models::open::{OpenError, VisionEncoder, open_vision};
use bifocal_models::vision::{ImageBatch, VisionConfig, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use bifocal_nn::params;
use bifocal_nn::precision::{Precision, scope};
use common::{Numbers, assert_close, fixture, worst_cosine};

const TOWERS: [&str; 9] = [
    "clip-open-clip-quick",
    "clip-open-clip-erf",
    "clip-hugging-face",
    "siglip",
    "siglip-vision",
    "siglip-open-clip",
    "dinov2",
    "dinov2-registers",
    "eva02-open-clip",
];

fn open(folder: &str) -> (VisionEncoder, Numbers) {
    let path = fixture(folder);
    // open_clip's settings name timm's towers, and no name is of a tiny one
    let stack = match folder {
        "siglip-open-clip" => Some((VitFamily::SigLip, StackConfig::new(24, 2, 3, 48, Gelu::Tanh))),
        "eva02-open-clip" => Some((VitFamily::Eva02, StackConfig::new(24, 2, 3, 64, Gelu::Erf))),
        _ => None,
    };
    let encoder = match stack {
        None => open_vision(&path).unwrap_or_else(|error| panic!("{folder}: {error}")),
        Some((family, stack)) => {
            let eva = family == VitFamily::Eva02;
            let stack = StackConfig {
                eps: 1e-6,
                swiglu: eva,
                sub_norms: eva,
                ..stack
            };
            let config = VitConfig {
                family,
                antialias: true,
                ..VitConfig::clip(20, 5, if eva { 10 } else { 24 }, stack)
            };
            let source = SafeTensors::open(&path.join("open_clip_model.safetensors")).unwrap();
            VisionEncoder {
                tower: VisionTower::Vit(Vit::load(config, &source).unwrap()),
                preprocess: Preprocess::siglip(20),
                fingerprint: String::new(),
                name: folder.to_owned(),
            }
        }
    };
    (encoder, Numbers::open(&format!("{folder}/expected.safetensors")))
}

fn vit(encoder: &VisionEncoder) -> &Vit {
    match &encoder.tower {
        VisionTower::Vit(tower) => tower,
        _ => panic!("another tower"),
    }
}

#[test]
fn embeddings_equal_those_of_the_library_and_do_not_depend_on_the_batch() {
    for folder in TOWERS {
        let (encoder, expected) = open(folder);
        let images = expected.get("images");
        let found = encoder.embed(&images, 3).unwrap();
        let wanted = expected.get("image_embeddings");
        assert_close(&found, &wanted, 2e-5, folder);
        assert!(worst_cosine(&found, &wanted, encoder.tower.dim()) > 0.999_999);
        let alone: Vec<f32> = images
            .chunks(images.len() / 3)
            .flat_map(|image| encoder.embed(image, 1).unwrap())
            .collect();
        assert_close(&found, &alone, 1e-5, "an image alone");
    }
}

#[test]
fn every_layer_is_that_of_the_library() {
    let mut compared = 0;
    for folder in TOWERS {
        let (encoder, expected) = open(folder);
        let images = expected.get("images");
        let layers = encoder.tower.layers();
        assert_eq!(layers, 2);
        for layer in 0..=layers {
            let name = format!("hidden.{layer}");
            if expected.source().shape(&name).is_none() {
                continue;
            }
            compared += 1;
            let found = encoder.hidden(&images, 3, layer).unwrap();
            let wanted = expected.get(&name);
            assert_close(&found, &wanted, 1e-4, &format!("{folder}, layer {layer}"));
        }
        let error = encoder.hidden(&images, 3, layers + 1).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Layer {
                    layers: 2,
                    layer: 3,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(compared, 4 * 3 + 2 * 2);
}

/// A tower that was made for another size gives what the library gives when it resizes positions, also on the way back.
#[test]
fn other_image_sizes_are_those_of_the_library() {
    let mut compared = 0;
    for folder in TOWERS {
        let (mut encoder, expected) = open(folder);
        let own = encoder.preprocess.size;
        for name in expected.source().names() {
            let Some(side) = name.strip_prefix("images@") else {
                continue;
            };
            compared += 1;
            encoder = encoder.with_image_size(side.parse().unwrap()).unwrap();
            let found = encoder.embed(&expected.get(&name), 1).unwrap();
            let wanted = expected.get(&format!("image_embeddings@{side}"));
            assert_close(&found, &wanted, 5e-5, &format!("{folder} at {side}"));
        }
        encoder = encoder.with_image_size(own).unwrap();
        let found = encoder.embed(&expected.get("images"), 3).unwrap();
        assert_close(&found, &expected.get("image_embeddings"), 2e-5, folder);
        let patch = vit(&encoder).config().patch;
        for side in [0, patch as u32 - 1, 4097, u32::MAX] {
            let (encoder, _) = open(folder);
            let error = encoder.with_image_size(side).map(|_| ()).unwrap_err();
            assert!(matches!(error, OpenError::ImageSize(_)), "{error}");
        }
    }
    assert_eq!(compared, 8 * 2);
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    for folder in TOWERS {
        let (encoder, expected) = open(folder);
        let encoder = encoder.with_image_size(27).unwrap();
        let config = serde_json::to_string(&encoder.tower.config()).unwrap();
        let config: VisionConfig = serde_json::from_str(&config).unwrap();
        let tensors = encoder.tower.tensors();
        let again = VisionTower::from_tensors(&config, &tensors).unwrap();
        let pixels: Vec<f32> = expected.get("images").into_iter().cycle().take(27 * 27 * 3).collect();
        let batch = ImageBatch::square(pixels, 1, 27).unwrap();
        assert_eq!(
            values(encoder.tower.embed(&batch)),
            values(again.embed(&batch)),
            "{folder}"
        );
        for name in tensors.keys() {
            let mut broken = tensors.clone();
            broken.remove(name);
            assert!(
                VisionTower::from_tensors(&config, &broken).is_err(),
                "{folder} without {name}"
            );
        }
    }
}

/// What of a tower the gradient of a random direction does not reach.
fn unreached(tower: VisionTower, side: usize) -> Vec<String> {
    let tower = params::set_trainable(tower, |_| true);
    let mut rng = Rng::new(1);
    let pixels = (0..2 * side * side * 3).map(|_| rng.normal()).collect();
    let y = tower.embed(&ImageBatch::square(pixels, 2, side).unwrap());
    common::unreached(&tower, y)
}

#[test]
fn every_parameter_gets_a_gradient() {
    for folder in TOWERS {
        let (encoder, _) = open(folder);
        let config = vit(&encoder).config().clone();
        let side = config.image_size;
        let tower = VisionTower::Vit(Vit::new(config, &mut Rng::new(3)));
        assert_eq!(unreached(tower, side), Vec::<String>::new(), "{folder}");
    }
}

/// CLIP's residual network (scripts/fixtures/timm_towers.py).
#[test]
fn a_residual_network_is_that_of_open_clip() {
    let encoder = open_vision(&fixture("resnet-open-clip")).unwrap();
    let expected = Numbers::open("resnet-open-clip/expected.safetensors");
    let images = expected.get("images");
    let found = encoder.embed(&images, 2).unwrap();
    assert_close(&found, &expected.get("image_embeddings"), 5e-5, "embeddings");
    let first = encoder.embed(&images[..images.len() / 2], 1).unwrap();
    assert_close(&first, &found[..10], 1e-5, "an image alone");
    assert!(encoder.hidden(&images, 2, 0).is_err());

    let config = serde_json::to_string(&encoder.tower.config()).unwrap();
    let config: VisionConfig = serde_json::from_str(&config).unwrap();
    let tensors = encoder.tower.tensors();
    let again = VisionTower::from_tensors(&config, &tensors).unwrap();
    let batch = ImageBatch::square(images, 2, 64).unwrap();
    assert_eq!(values(encoder.tower.embed(&batch)), values(again.embed(&batch)));
    for name in tensors.keys() {
        let mut broken = tensors.clone();
        broken.remove(name);
        assert!(VisionTower::from_tensors(&config, &broken).is_err(), "without {name}");
    }
    assert_eq!(unreached(again, 64), Vec::<String>::new());
    assert!(encoder.with_image_size(96).is_err());
}

#[test]
fn bf16_is_as_close_to_f32_as_the_autocast_of_pytorch() {
    let (encoder, expected) = open("clip-open-clip-erf");
    let dim = encoder.tower.dim();
    let images = expected.get("images");
    let found = scope(Precision::Bf16, || encoder.embed(&images, 3)).unwrap();
    let (exact, autocast) = (
        expected.get("image_embeddings"),
        Numbers::open("autocast.safetensors").get("image_embeddings"),
    );
    assert!(worst_cosine(&found, &autocast, dim) > 0.9995);
    let error = |numbers: &[f32]| worst_cosine(numbers, &exact, dim);
    // not f32 in disguise, and not worse than PyTorch, which rounds activations as well
    assert!(error(&found) < 0.999_999_9 && 1.0 - error(&found) < 2.0 * (1.0 - error(&autocast)));
}
