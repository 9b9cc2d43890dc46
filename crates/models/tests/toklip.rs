//! TokLIP against its authors' code (scripts/fixtures/toklip.py).

mod common;

use std::sync::Arc;

use bifocal_models::vision::{CodeCache, CodeOptions, CodesError, ImageBatch, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::vq::{Codec, Latents, Tiny, VqConfig, VqModel};
use bifocal_models::weights::{HostTensor, open, strict};
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use bifocal_nn::params;
use common::{Numbers, assert_close, fixture, unreached};

/// Of what the authors' code leaves in its files without use.
const UNREAD: [&str; 1] = ["visual.trunk.patch_embed."];
const SIDE: usize = 12;
const CODES: usize = 36;
const WIDTH: usize = 24;

fn sizes() -> VitConfig {
    let stack = StackConfig {
        eps: 1e-6,
        ..StackConfig::new(WIDTH, 2, 3, 40, Gelu::Tanh)
    };
    VitConfig {
        family: VitFamily::TokLip,
        antialias: true,
        ..VitConfig::clip(SIDE, 2, WIDTH, stack)
    }
}

fn tower(config: VitConfig) -> Vit {
    let source = open(&fixture("toklip/model.pt")).unwrap();
    strict(&*source, &UNREAD, |source| Vit::load(config, source)).unwrap()
}

fn numbers() -> Numbers {
    Numbers::open("toklip/expected.safetensors")
}

fn images() -> ImageBatch {
    ImageBatch::square(numbers().get("images"), 3, SIDE).unwrap()
}

#[test]
fn it_equals_the_code_of_its_authors() {
    let (tower, numbers) = (tower(sizes()), numbers());
    assert_close(
        &values(tower.features(&images()).unwrap()),
        &numbers.get("features"),
        5e-5,
        "codes",
    );
    assert_close(
        &values(tower.embed(&images())),
        &numbers.get("image_embeddings"),
        5e-5,
        "pictures",
    );
    let config = VitConfig {
        bidirectional: true,
        ..sizes()
    };
    let found = values(self::tower(config).embed(&images()));
    assert_close(
        &found,
        &numbers.get("bidirectional"),
        5e-5,
        "with codes that see all others",
    );
}

#[test]
fn code_by_code_is_the_same_as_all_at_once() {
    let (tower, numbers) = (tower(sizes()), numbers());
    let codes: Vec<u32> = numbers.get("codes").iter().map(|&code| code as u32).collect();
    let whole = values(tower.features(&images()).unwrap());
    for (codes, whole) in codes.chunks_exact(CODES).zip(whole.chunks_exact(CODES * WIDTH)) {
        let mut cache = CodeCache::default();
        let (first, rest) = codes.split_at(7);
        let mut rows = values(tower.extend(first, &mut cache).unwrap());
        for code in rest {
            rows.extend(values(tower.extend(&[*code], &mut cache).unwrap()));
        }
        assert_close(&rows, whole, 5e-5, "code by code");
        let error = tower.extend(&[1], &mut cache).unwrap_err();
        assert!(error.to_string().contains("37 codes"), "{error}");
    }
}

#[test]
fn codes_that_cannot_be_are_refused() {
    let tower = tower(sizes());
    let mut cache = CodeCache::default();
    let error = tower.extend(&[64], &mut cache).unwrap_err();
    assert!(error.to_string().contains("below 64"), "{error}");
    assert!(tower.extend(&[63], &mut cache).is_ok());
    let looks_ahead = self::tower(VitConfig {
        bidirectional: true,
        ..sizes()
    });
    assert_eq!(
        looks_ahead.extend(&[1], &mut cache).unwrap_err(),
        CodesError::LooksAhead
    );
    // a code of two pixels is not one of three
    let config = VitConfig { patch: 3, ..sizes() };
    let source = open(&fixture("toklip/model.pt")).unwrap();
    let error = Vit::load(config, &*source).unwrap_err();
    assert!(error.to_string().contains("stands for 2 pixels"), "{error}");
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let tower = VisionTower::Vit(tower(sizes()));
    let again = VisionTower::from_tensors(&tower.config(), &tower.tensors()).unwrap();
    assert_eq!(values(tower.embed(&images())), values(again.embed(&images())));
}

#[test]
fn the_autoencoder_stays_and_all_else_learns() {
    let codec = Arc::clone(tower(sizes()).codec().unwrap());
    let new = Vit::of_codes(sizes(), codec, &mut Rng::new(3)).unwrap();
    let new = params::set_trainable(new, |_| true);
    let names: Vec<String> = params::list(&new).into_iter().map(|info| info.name).collect();
    assert!(names.contains(&"patches.table.weight".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("codec")), "{names:?}");
    let y = new.embed(&images());
    assert_eq!(unreached(&new, y), Vec::<String>::new());
}

/// A network with codes on a tiny autoencoder of random weights: a code stands for 16 pixels.
fn on_tiny() -> Codec {
    let file = |part: &str| fixture(&format!("vq/pooled_{part}.safetensors"));
    let tiny = Tiny::open(&["encoder", "decoder"].map(file)).unwrap();
    let channels = tiny.channels();
    let config = VqConfig {
        channels,
        widths: vec![32, 32],
        blocks: 1,
        attention: false,
        z_channels: 8,
        codes: 24,
        code_dim: 4,
    };
    Codec::OnTiny {
        tiny,
        vq: VqModel::new(config, &mut Rng::new(8)).unwrap(),
        latents: Latents {
            shift: (0..channels).map(|c| 0.1 * c as f32).collect(),
            scale: (0..channels).map(|c| 1.0 + 0.1 * c as f32).collect(),
        },
        size: 48,
    }
}

/// A SigLIP for pictures of 3 × 3 patches.
fn teacher(patch: usize) -> Vit {
    let config = VitConfig {
        family: VitFamily::SigLip,
        ..VitConfig::clip(3 * patch, patch, WIDTH, sizes().stack)
    };
    Vit::new(config, &mut Rng::new(4))
}

fn squares(side: usize) -> ImageBatch {
    let mut rng = Rng::new(6);
    let pixels = (0..2 * side * side * 3).map(|_| 2.0 * rng.unit() - 1.0).collect();
    ImageBatch::square(pixels, 2, side).unwrap()
}

#[test]
fn a_tower_on_a_tiny_autoencoder_is_saved_with_it() {
    let options = CodeOptions {
        bidirectional: false,
        lookup: true,
    };
    let tower = teacher(16)
        .on_codes(Arc::new(on_tiny()), options, &mut Rng::new(5))
        .unwrap();
    let tower = VisionTower::Vit(tower);
    let tensors = tower.tensors();
    let again = strict(&tensors, &[], |source| {
        VisionTower::from_tensors(&tower.config(), source)
    })
    .unwrap();
    assert_eq!(values(tower.embed(&squares(48))), values(again.embed(&squares(48))));
    let codec = |tower: &VisionTower| match tower {
        VisionTower::Vit(vit) => Arc::clone(vit.codec().unwrap()),
        other => panic!("{other:?}"),
    };
    let (before, after) = (codec(&tower), codec(&again));
    assert_eq!(before.size(), after.size());
    let codes = [3, 1, 4, 1, 5, 9, 2, 6, 5];
    assert_eq!(
        before.decode(&codes, [3, 3]).unwrap(),
        after.decode(&codes, [3, 3]).unwrap()
    );
    // files of another autoencoder, or a scale of zero, are not put together
    for (name, value, problem) in [
        ("patches.codec.latents.shift", vec![0.0; 2], "[2]"),
        (
            "patches.codec.latents.scale",
            vec![0.0; channels(&before)],
            "scales above 0",
        ),
    ] {
        let mut tensors = tensors.clone();
        let shape = vec![value.len()];
        tensors.insert(name.to_owned(), HostTensor { shape, data: value });
        let error = VisionTower::from_tensors(&tower.config(), &tensors).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

fn channels(codec: &Codec) -> usize {
    codec.tensors()["latents.shift"].data.len()
}

#[test]
fn a_token_encoder_begins_as_its_teacher() {
    let kept = |tower: &Vit| {
        let mut tensors = VisionTower::Vit(tower.clone()).tensors();
        tensors.retain(|name, _| !name.starts_with("patches."));
        tensors
    };
    let teacher = teacher(8);
    let options = CodeOptions::default();
    let student = teacher
        .clone()
        .on_codes(Arc::new(on_tiny()), options, &mut Rng::new(5))
        .unwrap();
    // 3 × 3 codes of 16 pixels in place of as many patches of 8
    assert_eq!((student.config().image_size, student.config().patch), (48, 16));
    assert_eq!(kept(&student), kept(&teacher));
    let clip = Vit::new(VitConfig::clip(48, 16, WIDTH, sizes().stack), &mut Rng::new(4));
    let error = clip
        .on_codes(Arc::new(on_tiny()), options, &mut Rng::new(5))
        .unwrap_err();
    assert!(error.to_string().contains("take a SigLIP"), "{error}");
    let Codec::OnTiny { tiny, .. } = on_tiny() else {
        unreachable!()
    };
    let error = teacher
        .on_codes(Arc::new(Codec::Tiny(tiny)), options, &mut Rng::new(5))
        .unwrap_err();
    assert!(error.to_string().contains("recipes/vq.toml"), "{error}");
}

#[test]
fn a_picture_is_its_codes() {
    let tower = teacher(16)
        .on_codes(Arc::new(on_tiny()), CodeOptions::default(), &mut Rng::new(5))
        .unwrap();
    let images = squares(48);
    let codes = tower.codes(&images).unwrap();
    let [pooled, features] = tower.embed_codes(&codes).unwrap();
    assert_eq!(values(pooled), values(tower.embed(&images)));
    assert_eq!(values(features), values(tower.features(&images).unwrap()));
    for (codes, problem) in [
        (vec![24; 9], "below 24"),
        (vec![1; 10], "not pictures of 9"),
        (vec![], "not pictures"),
    ] {
        let error = tower.embed_codes(&codes.into()).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    let error = teacher(16).embed_codes(&codes).unwrap_err();
    assert_eq!(error, CodesError::NoCodes);
}
