//! Patches that are left out in training, against open_clip and timm (scripts/fixtures/patch_dropout.py).

mod common;

use bifocal_models::open::open_vision;
use bifocal_models::vision::{ImageBatch, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;
use common::{Numbers, assert_close, edited, fixture};

/// The two of four patches that are kept, as the script numbers the ways to choose them.
const KEPT: [[u32; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
const PICTURES: usize = 2;
const SEEDS: u64 = 12;

/// What the tower's first draw of a scope keeps of each picture.
fn drawn(seed: u64) -> Vec<usize> {
    let chosen = noise::scope(Noise::new(seed), || noise::choices(PICTURES, 4, 2)).unwrap();
    let number = |kept: &[u32]| KEPT.iter().position(|k| k == kept).unwrap();
    chosen.chunks(2).map(number).collect()
}

fn images(expected: &Numbers) -> ImageBatch {
    ImageBatch::square(expected.get("images"), PICTURES, 10).unwrap()
}

#[test]
fn embedding_and_gradient_are_those_of_open_clip_for_the_same_patches() {
    // its settings say that half of the patches were left out in training
    let encoder = open_vision(&fixture("patch-dropout-open-clip")).unwrap();
    let expected = Numbers::open("patch-dropout-open-clip/expected.safetensors");
    let images = images(&expected);
    let tower = encoder.tower.with_patch_dropout(0.5).unwrap();
    let tower = params::set_trainable(tower, |_| true);
    let direction = tensor(expected.get("direction"), [1, 12]).expand([PICTURES, 12]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        let chosen = drawn(seed);
        seen.extend(chosen.clone());
        let of_each = |name: &str, key: &str| {
            let one = |(picture, kept): (usize, &usize)| expected.get(&format!("{name}.{picture}.{kept}{key}"));
            chosen.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let rows = noise::scope(Noise::new(seed), || tower.embed(&images));
        assert_close(&values(rows.clone()), &of_each("embedding", "").concat(), 2e-5, "rows");
        let gradients = Gradients::collect(&tower, (rows * direction.clone()).sum().backward());
        for name in ["positions", "class", "ln_pre.weight"] {
            let each = of_each("gradient", &format!(".{name}"));
            let sum: Vec<f32> = each[0].iter().zip(&each[1]).map(|(a, b)| a + b).collect();
            let size = sum.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            assert_close(&gradients.get(name).unwrap(), &sum, 2e-5 * size, name);
        }
    }
    assert_eq!(seen.len(), KEPT.len(), "a way to choose was never drawn");
}

#[test]
fn rotary_positions_go_with_their_patches_as_in_timm() {
    let folder = "patch-dropout-eva02";
    let stack = StackConfig {
        eps: 1e-6,
        swiglu: true,
        sub_norms: true,
        ..StackConfig::new(16, 2, 2, 32, Gelu::Erf)
    };
    let config = VitConfig {
        family: VitFamily::Eva02,
        ..VitConfig::clip(10, 5, 12, stack)
    };
    let source = SafeTensors::open(&fixture(folder).join("open_clip_model.safetensors")).unwrap();
    let tower = Vit::load(config, &source).unwrap().with_patch_dropout(0.5).unwrap();
    let expected = Numbers::open(&format!("{folder}/expected.safetensors"));
    let images = images(&expected);
    for seed in 0..SEEDS {
        let chosen = drawn(seed).into_iter().enumerate();
        let wanted: Vec<f32> = chosen
            .flat_map(|(picture, kept)| expected.get(&format!("embedding.{picture}.{kept}")))
            .collect();
        let rows = noise::scope(Noise::new(seed), || tower.embed(&images));
        assert_close(&values(rows), &wanted, 2e-5, "rows");
    }
}

/// A tiny tower of a family, that of a checkpoint with five times four patches and two registers where the family has such.
fn tower(family: VitFamily) -> VisionTower {
    let config = VitConfig {
        family,
        registers: if family == VitFamily::DinoV2 { 2 } else { 0 },
        dim: if matches!(family, VitFamily::Clip | VitFamily::Eva02) {
            6
        } else {
            16
        },
        ..VitConfig::clip(25, 5, 6, StackConfig::new(16, 2, 2, 32, Gelu::Erf))
    };
    VisionTower::Vit(Vit::new(config, &mut Rng::new(5)))
}

#[test]
fn a_batch_in_parts_leaves_out_the_same_and_evaluation_nothing() {
    let mut rng = Rng::new(8);
    let pixels: Vec<f32> = (0..4 * 25 * 25 * 3).map(|_| rng.normal()).collect();
    let part = |from: usize, n: usize| {
        let size = 25 * 25 * 3;
        ImageBatch::square(pixels[from * size..(from + n) * size].to_vec(), n, 25).unwrap()
    };
    for family in [VitFamily::Clip, VitFamily::SigLip, VitFamily::DinoV2, VitFamily::Eva02] {
        let whole = tower(family);
        let tower = whole.clone().with_patch_dropout(0.3).unwrap();
        let all = part(0, 4);
        // 25 · 0.7 is 17.5
        let special = whole.tokens(&all) / 4 - 25;
        assert_eq!(tower.tokens(&all), 4 * (special + 17), "{family:?}");
        let run = |images: &ImageBatch, before: usize| {
            let noise = Noise::new(3).after(before * (special + 17), before);
            let rows = noise::scope(noise, || tower.embed(images));
            let patches = noise::scope(noise, || tower.patches(images)).unwrap();
            assert_eq!((patches.1, patches.0.dims()[0]), (17, images.n * 17), "{family:?}");
            (values(rows), values(patches.0))
        };
        let (rows, patches) = run(&all, 0);
        let (first, rest) = (run(&part(0, 1), 0), run(&part(1, 3), 1));
        assert_close(&[first.0, rest.0].concat(), &rows, 1e-5, "rows of parts");
        assert_close(&[first.1, rest.1].concat(), &patches, 1e-5, "patches of parts");
        let evaluated = values(tower.embed(&all));
        assert_eq!(evaluated, values(whole.embed(&all)), "{family:?}: evaluation");
        assert!(
            evaluated.iter().zip(&rows).any(|(a, b)| (a - b).abs() > 1e-3),
            "{family:?}"
        );
    }
}

#[test]
fn as_many_stay_as_in_the_libraries() {
    let VisionTower::Vit(clip) = tower(VitFamily::Clip) else {
        unreachable!("it is one")
    };
    // int(patches * (1 - share)) of Python, and one at least
    for (patches, share, kept) in [
        (10, 0.3, 7),
        (49, 0.5, 24),
        (196, 0.5, 98),
        (196, 0.75, 49),
        (256, 0.9, 25),
        (4, 0.9, 1),
        (1, 0.5, 1),
        (9, 0.0, 9),
    ] {
        let tower = clip.clone().with_patch_dropout(share).unwrap();
        assert_eq!(tower.patches_in_training(patches), kept, "{patches} without {share}");
    }
    for share in [1.0, -0.1, f64::NAN] {
        assert!(clip.clone().with_patch_dropout(share).is_none(), "{share}");
    }
    let resnet = open_vision(&fixture("resnet-open-clip")).unwrap().tower;
    assert!(resnet.with_patch_dropout(0.5).is_none());
}

#[test]
fn settings_that_left_patches_out_are_read_if_they_say_how_many() {
    let said = |what: serde_json::Value| {
        let folder = edited("patch-dropout-open-clip", "open_clip_config.json", |settings| {
            settings["model_cfg"]["vision_cfg"]["patch_dropout"] = what;
        });
        open_vision(folder.path()).map(|_| ())
    };
    said(0.25.into()).unwrap();
    said(0.into()).unwrap();
    let error = said("half".into()).unwrap_err().to_string();
    assert!(error.contains("patch_dropout"), "{error}");
}
