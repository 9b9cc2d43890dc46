//! CLIP against open_clip and transformers, on checkpoints with random weights that they wrote
//! (scripts/fixtures/clip.py).

mod common;

use bifocal_models::text::{ClipText, ClipTextConfig, Pooling, TextConfig, TextTower, TokenBatch};
use bifocal_models::vision::{ImageBatch, VisionConfig, VisionTower, Vit, VitConfig};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::{Gelu, StackConfig, open};
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use bifocal_nn::{Module, Tensor, params};
use common::{Numbers, assert_close, fixture};

fn stack(width: usize, heads: usize, mlp: usize, gelu: Gelu) -> StackConfig {
    StackConfig::new(width, 2, heads, mlp, gelu)
}

fn text_config(mlp: usize, gelu: Gelu) -> ClipTextConfig {
    ClipTextConfig::clip(49, 11, 10, stack(16, 2, mlp, gelu))
}

fn vision_config(mlp: usize, gelu: Gelu) -> VitConfig {
    VitConfig::clip(20, 5, 10, stack(24, 3, mlp, gelu))
}

fn texts() -> TokenBatch {
    let long = [47].into_iter().chain(0..9).chain([48]).collect();
    TokenBatch::pack(&[vec![47, 3, 9, 48], vec![47, 48], long, vec![48]])
}

fn images(numbers: &Numbers) -> ImageBatch {
    ImageBatch::square(numbers.get("images"), 3, 20).expect("three images")
}

/// (folder, weights, width of the feed-forward parts, activation)
const CHECKPOINTS: [(&str, &str, [usize; 2], Gelu); 3] = [
    (
        "clip-open-clip-quick",
        "open_clip_model.safetensors",
        [96, 64],
        Gelu::Quick,
    ),
    ("clip-open-clip-erf", "open_clip_model.safetensors", [96, 64], Gelu::Erf),
    ("clip-hugging-face", "model.safetensors", [40, 40], Gelu::Quick),
];

#[test]
fn embeddings_equal_those_of_the_library_that_wrote_the_checkpoint() {
    for (folder, file, [image_mlp, text_mlp], gelu) in CHECKPOINTS {
        let source = SafeTensors::open(&fixture(folder).join(file)).unwrap();
        let expected = Numbers::open(&format!("{folder}/expected.safetensors"));
        let vision = Vit::load(vision_config(image_mlp, gelu), &source).unwrap();
        let found = values(vision.embed(&images(&expected)));
        assert_close(&found, &expected.get("image_embeddings"), 2e-5, folder);
        let text = TextTower::Clip(ClipText::load(text_config(text_mlp, gelu), &source).unwrap());
        let found = values(text.embed(&texts(), Pooling::Eos));
        assert_close(&found, &expected.get("text_embeddings"), 2e-5, folder);
    }
}

#[test]
fn folders_say_themselves_how_they_are_built() {
    for (folder, ..) in CHECKPOINTS {
        let expected = Numbers::open(&format!("{folder}/expected.safetensors"));
        let encoder = open::open_vision(&fixture(folder)).unwrap();
        let found = encoder.embed(&expected.get("images"), 3).unwrap();
        assert_close(&found, &expected.get("image_embeddings"), 2e-5, folder);
        assert_eq!(encoder.preprocess.size, 20);
        assert_eq!(encoder.preprocess.mean, [0.5, 0.4, 0.3]);
        assert!(encoder.embed(&[0.0; 5], 1).is_err(), "pixels of another size");
    }
}

#[test]
fn the_wrong_activation_is_seen() {
    let (folder, file, [mlp, _], _) = CHECKPOINTS[0];
    let source = SafeTensors::open(&fixture(folder).join(file)).unwrap();
    let expected = Numbers::open(&format!("{folder}/expected.safetensors"));
    let wrong = Vit::load(vision_config(mlp, Gelu::Erf), &source).unwrap();
    let found = values(wrong.embed(&images(&expected)));
    let worst = found
        .iter()
        .zip(expected.get("image_embeddings"))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst > 1e-3, "the fixture does not tell activations apart: {worst}");
}

/// Trains everything and returns the parameters that the gradient does not reach.
fn unreached<M: Module>(module: M, output: impl Fn(&M) -> Tensor<2>) -> Vec<String> {
    let module = params::set_trainable(module, |_| true);
    let y = output(&module);
    common::unreached(&module, y)
}

#[test]
fn every_parameter_gets_a_gradient() {
    let expected = Numbers::open("clip-open-clip-erf/expected.safetensors");
    let images = images(&expected);
    let vision = Vit::new(vision_config(96, Gelu::Quick), &mut Rng::new(3));
    assert_eq!(unreached(vision, |v| v.embed(&images)), Vec::<String>::new());
    let text = TextTower::Clip(ClipText::new(text_config(64, Gelu::Erf), &mut Rng::new(3)));
    assert_eq!(
        unreached(text, |t| t.embed(&texts(), Pooling::Eos)),
        Vec::<String>::new()
    );
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let expected = Numbers::open("clip-hugging-face/expected.safetensors");
    let images = images(&expected);
    let vision = VisionTower::Vit(Vit::new(vision_config(40, Gelu::Quick), &mut Rng::new(5)));
    let again = VisionTower::from_tensors(&vision.config(), &vision.tensors()).unwrap();
    assert_eq!(values(vision.embed(&images)), values(again.embed(&images)));
    let text = TextTower::Clip(ClipText::new(text_config(40, Gelu::Erf), &mut Rng::new(5)));
    let config = text.config().expect("not a language model");
    let again = TextTower::from_tensors(&config, &text.tensors()).unwrap();
    assert_eq!(values(text.hidden(&texts())), values(again.hidden(&texts())));
    for config in [
        serde_json::to_string(&vision.config()).unwrap(),
        serde_json::to_string(&config).unwrap(),
    ] {
        assert!(
            serde_json::from_str::<VisionConfig>(&config).is_ok()
                || serde_json::from_str::<TextConfig>(&config).is_ok()
        );
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let (folder, file, [mlp, text_mlp], gelu) = CHECKPOINTS[0];
    let source = SafeTensors::open(&fixture(folder).join(file)).unwrap();
    let base = vision_config(mlp, gelu);
    for (what, config) in [
        (
            "no patches",
            VitConfig {
                patch: 0,
                ..base.clone()
            },
        ),
        (
            "a patch larger than the image",
            VitConfig {
                patch: 21,
                ..base.clone()
            },
        ),
        (
            "a huge image",
            VitConfig {
                image_size: usize::MAX,
                ..base.clone()
            },
        ),
        (
            "another patch",
            VitConfig {
                patch: 4,
                ..base.clone()
            },
        ),
        (
            "another width",
            VitConfig {
                dim: 11,
                ..base.clone()
            },
        ),
        (
            "heads that do not divide",
            VitConfig {
                stack: StackConfig {
                    heads: 5,
                    ..base.stack.clone()
                },
                ..base.clone()
            },
        ),
        (
            "no heads",
            VitConfig {
                stack: StackConfig {
                    heads: 0,
                    ..base.stack.clone()
                },
                ..base.clone()
            },
        ),
        (
            "too many layers",
            VitConfig {
                stack: StackConfig {
                    layers: 3,
                    ..base.stack.clone()
                },
                ..base.clone()
            },
        ),
    ] {
        let error = Vit::load(config, &source).expect_err(what);
        println!("{what}: {error}");
    }
    let config = ClipTextConfig {
        vocabulary: 50,
        ..text_config(text_mlp, gelu)
    };
    assert!(ClipText::load(config, &source).is_err());
}

#[test]
fn tokens_that_the_tower_does_not_know_are_refused() {
    let text = TextTower::Clip(ClipText::new(text_config(40, Gelu::Erf), &mut Rng::new(5)));
    assert!(text.check(&texts()).is_ok());
    assert!(text.check(&TokenBatch::pack(&[vec![49]])).is_err());
    assert!(text.check(&TokenBatch::pack(&[vec![1; 12]])).is_err());
}
