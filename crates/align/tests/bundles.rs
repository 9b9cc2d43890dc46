//! What a run leaves: it embeds as it was trained, and parts that do not belong together are refused.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use bifocal_align::train::{Options, Silent, run};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::bundle::{BundleError, Model, VisionPart};
use bifocal_models::open::{TextOptions, open_text, open_vision};
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;

/// A finished run of a method on a model of its own.
fn trained(dir: &Path, method: &str, sets: &[&str]) -> PathBuf {
    let model = common::write_clip(dir);
    let recipe = common::recipe(method, &model, &dir.join("cache"), sets);
    let options = Options {
        out: dir.join("run"),
        resume: false,
    };
    run(&recipe, &options, &mut Silent).unwrap().bundle.unwrap()
}

fn pictures(model: &Model, n: usize) -> Vec<f32> {
    let mut paths: Vec<PathBuf> = fs::read_dir(common::photos().join("images"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    let images: Vec<ImageSource> = paths[..n].iter().map(|p| p.as_path().into()).collect();
    let loaded = load_images(&images, model.preprocess().unwrap(), &Limits::default()).unwrap();
    assert_eq!(loaded.good.len(), n);
    loaded.pixels
}

fn is_unit(rows: &[f32], dim: usize) -> bool {
    let length = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
    rows.chunks(dim).all(|row| (length(row) - 1.0).abs() < 1e-5)
}

/// Standardises, multiplies and normalises with plain loops.
fn by_hand(heads: &SafeTensors, side: &str, features: &[f32], width: usize) -> Vec<f32> {
    let get = |name: &str| heads.load(name).unwrap().data;
    let (mean, std) = (get(&format!("{side}.mean")), get(&format!("{side}.std")));
    let weight = get(&format!("{side}_head.linear.weight"));
    let bias = get(&format!("{side}_head.linear.bias"));
    let mut out = Vec::new();
    for row in features.chunks(width) {
        let x: Vec<f64> = (0..width).map(|j| f64::from((row[j] - mean[j]) / std[j])).collect();
        let y: Vec<f64> = (0..bias.len())
            .map(|i| f64::from(bias[i]) + (0..width).map(|j| f64::from(weight[i * width + j]) * x[j]).sum::<f64>())
            .collect();
        let length = y.iter().map(|v| v * v).sum::<f64>().sqrt();
        out.extend(y.into_iter().map(|v| (v / length) as f32));
    }
    out
}

#[test]
fn a_bundle_embeds_as_towers_statistics_and_heads_say() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "image_head.kind=linear",
        "text_head.kind=linear",
        "image_head.standardize_input=true",
        "text_head.standardize_input=true",
        "text.prompt=\"a {} on the street\"",
    ];
    let bundle = trained(dir.path(), "sail", &sets);
    let model = Model::open(&bundle, &TextOptions::default()).unwrap();
    let heads = SafeTensors::open(&bundle.join("heads.safetensors")).unwrap();
    let tower = dir.path().join("tiny-clip");
    let close = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?}\n{b:?}");
    };

    let pixels = pictures(&model, 5);
    let rows = model.embed_images(&pixels, 5).unwrap();
    assert!(rows.len() == 5 * model.dim() && is_unit(&rows, model.dim()));
    let features = open_vision(&tower).unwrap().embed(&pixels, 5).unwrap();
    close(&rows, &by_hand(&heads, "image", &features, 12));

    let texts = ["dog", "two men riding a horse", ""];
    let rows = model.embed_texts(&texts).unwrap();
    assert!(is_unit(&rows, model.dim()));
    let prompted: Vec<String> = texts.iter().map(|t| format!("a {t} on the street")).collect();
    let prompted: Vec<&str> = prompted.iter().map(String::as_str).collect();
    let (features, _) = open_text(&tower, &TextOptions::default())
        .unwrap()
        .embed(&prompted)
        .unwrap();
    close(&rows, &by_hand(&heads, "text", &features, 12));
    // lengths are kept when they are asked for
    assert!(!is_unit(&model.embed_texts_raw(&texts).unwrap(), model.dim()));
}

#[test]
fn a_trained_tower_is_inside_and_a_copied_one_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = trained(dir.path(), "llm2clip", &["run.copy_towers=true"]);
    let model = Model::load(&bundle).unwrap();
    assert!(matches!(model.manifest().unwrap().vision, VisionPart::Trained(_)));
    let pixels = pictures(&model, 3);
    let before = (
        model.embed_images(&pixels, 3).unwrap(),
        model.embed_texts(&["a dog"]).unwrap(),
    );
    // nothing but the bundle, in another place
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&bundle, &elsewhere).unwrap();
    fs::remove_dir_all(dir.path().join("tiny-clip")).unwrap();
    let again = Model::load(&elsewhere).unwrap();
    assert_eq!(
        (
            again.embed_images(&pixels, 3).unwrap(),
            again.embed_texts(&["a dog"]).unwrap()
        ),
        before
    );
    assert_eq!(again.fingerprint(), model.fingerprint());
}

#[test]
fn clip_brings_both_of_its_trained_towers() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = trained(dir.path(), "clip", &["optimizer.lr=0.05"]);
    let model = Model::load(&bundle).unwrap();
    assert!(model.manifest().unwrap().text.trained.is_some());
    // the text tower of the bundle is not the pretrained one
    let pretrained = open_text(&dir.path().join("tiny-clip"), &TextOptions::default()).unwrap();
    let trained = model.text().unwrap();
    assert_ne!(
        trained.embed(&["a dog"]).unwrap().0,
        pretrained.embed(&["a dog"]).unwrap().0
    );
}

/// Pictures of other pixels make other features, and the finished model goes on as it was trained.
#[test]
fn a_model_trained_on_reduced_pictures_goes_on_reading_them_so() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = trained(&dir.path().join("reduced"), "lit", &["vision.reduce_to=16"]);
    let model = Model::load(&bundle).unwrap();
    assert_eq!(model.preprocess().unwrap().conventions.reduce_to, Some(16));
    let whole = trained(&dir.path().join("whole"), "lit", &[]);
    let whole = Model::load(&whole).unwrap();
    assert_eq!(whole.preprocess().unwrap().conventions.reduce_to, None);
    assert_ne!(pictures(&model, 3), pictures(&whole, 3));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = trained(dir.path(), "sail", &[]);
    let manifest = bundle.join("bifocal.json");
    let heads = bundle.join("heads.safetensors");
    let tower = dir.path().join("tiny-clip/model.safetensors");
    let load = || Model::load(&bundle);
    load().unwrap();
    let changed = |path: &Path, change: &dyn Fn(Vec<u8>) -> Vec<u8>, check: &dyn Fn(BundleError)| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, change(bytes.clone())).unwrap();
        check(load().unwrap_err());
        fs::write(path, bytes).unwrap();
        load().unwrap();
    };
    let flip = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let damaged = |error| assert!(matches!(error, BundleError::Damaged { .. }), "{error}");
    changed(&heads, &flip, &damaged);
    changed(&heads, &cut, &damaged);
    changed(&tower, &flip, &|error| {
        assert!(matches!(error, BundleError::OtherTower { .. }), "{error}")
    });
    let edited = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1).into_bytes()
        }
    };
    let described = |error| assert!(matches!(error, BundleError::Manifest { .. }), "{error}");
    changed(&manifest, &edited("\"embed_dim\": 12", "\"embed_dim\": 13"), &described);
    changed(
        &manifest,
        &edited("\"pooling\": \"eos\"", "\"pooling\": \"mean\""),
        &described,
    );
    changed(&manifest, &edited("\"format\": 1", "\"format\": 2"), &described);
    changed(
        &manifest,
        &edited("heads.safetensors", "../heads.safetensors"),
        &described,
    );
    changed(&manifest, &edited("{", "{ \"x\": 1,"), &described);
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    changed(&manifest, &half, &described);

    // where a tower is does not change what a bundle is
    let moved = dir.path().join("moved");
    fs::rename(dir.path().join("tiny-clip"), &moved).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(
        error.contains("BIFOCAL_MODELS") && error.contains("tiny-clip"),
        "{error}"
    );
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("/tiny-clip", "/moved")).unwrap();
    load().unwrap();
}

#[test]
fn a_bundle_replaces_a_bundle_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &[]);
    let out = dir.path().join("run");
    fs::create_dir_all(out.join("model")).unwrap();
    fs::write(out.join("model/notes.txt"), "mine").unwrap();
    let go = |resume| {
        let options = Options {
            out: out.clone(),
            resume,
        };
        run(&recipe, &options, &mut Silent)
    };
    assert!(go(false).unwrap_err().to_string().contains("is not a bundle"));
    assert_eq!(fs::read_to_string(out.join("model/notes.txt")).unwrap(), "mine");
    fs::remove_dir_all(out.join("model")).unwrap();
    // the training was not for nothing
    let first = go(true).unwrap();
    assert_eq!(first.resumed_from, Some(7));
    fs::write(out.join("model/heads.safetensors"), "damaged").unwrap();
    go(true).unwrap();
    Model::load(&out.join("model")).unwrap();
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().starts_with('.')),
        "{names:?}"
    );
}

/// Trains on from a bundle; gives the next one.
fn next(dir: &Path, name: &str, from: &Path, sets: &[&str]) -> PathBuf {
    let sets: Vec<&str> = sets
        .iter()
        .copied()
        .chain(["image_head.pretrained=true", "text_head.pretrained=true"])
        .collect();
    let recipe = common::recipe("clip", from, &dir.join("cache"), &sets);
    let options = Options {
        out: dir.join(name),
        resume: false,
    };
    run(&recipe, &options, &mut Silent).unwrap().bundle.unwrap()
}

#[test]
fn a_run_begins_with_the_bundle_of_a_run_that_began_with_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let text_stays = "freeze=[{ pattern = \"text.*\", frozen = true }]";
    let vision_stays = "freeze=[{ pattern = \"vision.*\", frozen = true }]";
    let mut bundle = trained(dir.path(), "clip", &["optimizer.lr=0.05"]);
    let mut texts = Vec::new();
    for (name, sets) in [
        ("both", &[][..]),
        ("vision", &[text_stays][..]),
        ("vision again", &[text_stays][..]),
        ("text", &[vision_stays][..]),
        ("text again", &[vision_stays, "run.copy_towers=true"][..]),
        ("copied before", &[][..]),
    ] {
        bundle = next(dir.path(), name, &bundle, sets);
        let model = Model::load(&bundle).expect(name);
        texts.push(model.embed_texts(&["a dog"]).unwrap());
    }
    // no head and no tower has begun anew: what stays gives what it gave
    assert_eq!(texts.len(), 6);
    let model = Model::load(&dir.path().join("vision again/model")).unwrap();
    let before = Model::load(&dir.path().join("both/model")).unwrap();
    let features = |model: &Model| model.text().unwrap().embed(&["a dog"]).unwrap().0;
    assert_eq!(features(&model), features(&before));
    let after = Model::load(&dir.path().join("text/model")).unwrap();
    assert_ne!(features(&after), features(&before));
    // each refers to where a tower was trained, or to what was trained first
    assert_eq!(
        model.manifest().unwrap().text.pretrained.path,
        dir.path().join("both/model").display().to_string()
    );
    assert_eq!(
        after.manifest().unwrap().text.pretrained.path,
        dir.path().join("tiny-clip").display().to_string()
    );
}
