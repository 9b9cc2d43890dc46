//! TokLIP against its authors' code (scripts/fixtures/toklip.py).

mod common;

use std::sync::Arc;

use bifocal_models::vision::{CodeCache, CodesError, ImageBatch, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::weights::{open, strict};
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
