//! From one layout to another: the same tensors under other names, and the same embeddings.
//! (scripts/check-convert.py loads what is written with transformers and open_clip.)

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_models::bundle::Model;
use bifocal_models::convert::{Layout, convert};
use bifocal_models::open::{TextOptions, open_vision};
use bifocal_models::weights::{self, HostTensor};
use common::{Numbers, assert_close, complete, fixture};

const HF: &str = "clip-hugging-face";
const OPEN_CLIP: [&str; 2] = ["clip-open-clip-quick", "clip-open-clip-erf"];

fn tensors(folder: &Path) -> BTreeMap<String, HostTensor> {
    let source = weights::open(folder).unwrap();
    let names = source.names().into_iter();
    names.map(|name| (name.clone(), source.load(&name).unwrap())).collect()
}

fn open(folder: &Path) -> Model {
    Model::open(folder, &TextOptions::default()).unwrap()
}

fn embeddings(model: &Model, fixture: &str) -> (Vec<f32>, Vec<f32>) {
    let pixels = Numbers::open(&format!("{fixture}/expected.safetensors")).get("images");
    let images = model.embed_images_raw(&pixels, 3).unwrap();
    let texts = model
        .embed_texts_raw(&["w3 w9", "", "w0 w1 w2 w3 w4 w5 w6 w7 w8"])
        .unwrap();
    (images, texts)
}

/// Both sides compute the same, and give the texts the numbers of the library that wrote the fixture.
fn assert_same(original: &Model, converted: &Model, fixture: &str) {
    let (images, texts) = embeddings(original, fixture);
    let expected = Numbers::open(&format!("{fixture}/expected.safetensors"));
    assert_close(&images, &expected.get("image_embeddings"), 2e-5, fixture);
    assert_close(&texts, &expected.get("text_embeddings")[..texts.len()], 2e-5, fixture);
    assert_eq!((images, texts), embeddings(converted, fixture), "{fixture}");
    assert_eq!(original.logit_scale(), converted.logit_scale());
    let [a, b] = [original, converted].map(|m| m.preprocess().unwrap().clone());
    assert_eq!((a.size, a.resize, a.filter), (b.size, b.resize, b.filter));
    assert_eq!((a.mean, a.std), (b.mean, b.std));
}

#[test]
fn there_and_back_gives_the_same_tensors() {
    for (fixture, home, away) in [
        (HF, Layout::HuggingFace, Layout::OpenClip),
        (OPEN_CLIP[0], Layout::OpenClip, Layout::HuggingFace),
        (OPEN_CLIP[1], Layout::OpenClip, Layout::HuggingFace),
    ] {
        let original = complete(fixture);
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let written = convert(original.path(), &at("away"), away).unwrap();
        convert(&at("away"), &at("back"), home).unwrap();
        assert_same(&open(original.path()), &open(&at("away")), fixture);
        let expected = tensors(original.path());
        assert!(expected == tensors(&at("back")), "{fixture}");
        // HF has three tensors for each of open_clip's packed ones, 2 of them in each of 4 blocks
        let packed = if away == Layout::OpenClip { -16 } else { 16 };
        assert_eq!(written.tensors as i64, expected.len() as i64 + packed, "{fixture}");
    }
}

#[test]
fn a_bundle_keeps_everything_and_gives_it_back() {
    for (fixture, home) in [(HF, Layout::HuggingFace), (OPEN_CLIP[1], Layout::OpenClip)] {
        let original = complete(fixture);
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        convert(original.path(), &at("bundle"), Layout::Bundle).unwrap();
        let before = open(original.path());
        drop(original);
        let bundle = open(&at("bundle"));
        assert!(bundle.manifest().is_some());
        assert_same(&before, &bundle, fixture);
        convert(&at("bundle"), &at("back"), home).unwrap();
        let kept = tensors(&at("bundle/towers"));
        assert!(kept == tensors(&at("back")), "{fixture}");
        assert_same(&before, &open(&at("back")), fixture);
    }
}

/// A bundle and back; open_clip's names have a unit test, since open_clip has no towers as small as this one.
#[test]
fn a_siglip_comes_back_from_a_bundle_and_its_vision_tower_stands_alone() {
    let original = fixture("siglip");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    convert(&original, &at("bundle"), Layout::Bundle).unwrap();
    let written = convert(&at("bundle"), &at("back"), Layout::HuggingFace).unwrap();
    let tensors_of_original = tensors(&original);
    assert_eq!(written.tensors, tensors_of_original.len());
    assert!(tensors(&at("back")) == tensors_of_original);
    let [before, after] = [&original, &at("back")].map(|folder| open(folder));
    let numbers = Numbers::open("siglip/expected.safetensors");
    let pixels = numbers.get("images");
    let texts = ["a photo of a cat", "", "The small RED dog"];
    let images = after.embed_images_raw(&pixels, 3).unwrap();
    assert_close(&images, &numbers.get("image_embeddings"), 2e-5, "pictures");
    assert_eq!(images, before.embed_images_raw(&pixels, 3).unwrap());
    let rows = after.embed_texts_raw(&texts).unwrap();
    assert_close(&rows, &numbers.get("text_embeddings")[..rows.len()], 2e-5, "texts");
    assert_eq!(before.logit_scale(), after.logit_scale());
    assert_eq!(before.preprocess(), after.preprocess());

    let clip = complete(HF);
    for (fixture, folder) in [("siglip", original.as_path()), (HF, clip.path())] {
        let to = at(&format!("vision of {fixture}"));
        convert(folder, &to, Layout::HuggingFaceVision).unwrap();
        assert!(!to.join("tokenizer.json").exists());
        let numbers = Numbers::open(&format!("{fixture}/expected.safetensors"));
        let found = open_vision(&to).unwrap().embed(&numbers.get("images"), 3).unwrap();
        assert_close(&found, &numbers.get("image_embeddings"), 2e-5, fixture);
    }
    let error = convert(&original, &at("open-clip"), Layout::OpenClip)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 blocks of width 24") && error.contains("none of timm's"),
        "{error}"
    );
    assert!(!at("open-clip").exists());
}

#[test]
fn halves_stay_halves() {
    let original = complete(OPEN_CLIP[0]);
    let half: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors(original.path())
        .into_iter()
        .map(|(name, t)| {
            let bytes = t.data.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes());
            (name, (t.shape, bytes.collect()))
        })
        .collect();
    let views = half.iter().map(|(name, (shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let file = original.path().join("open_clip_model.safetensors");
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let written = convert(original.path(), &dir.path().join("hf"), Layout::HuggingFace).unwrap();
    assert_eq!(written.stored_as, "BF16");
    convert(&dir.path().join("hf"), &dir.path().join("back"), Layout::OpenClip).unwrap();
    assert!(tensors(original.path()) == tensors(&dir.path().join("back")));
}

#[test]
fn what_has_no_place_is_told_and_nothing_is_written() {
    let original = complete(OPEN_CLIP[0]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    let refused = |from: &Path, layout: Layout| {
        let error = convert(from, &to, layout).unwrap_err().to_string();
        assert!(!to.exists(), "{error}");
        error
    };
    let edit = |file: &str, pointer: &str, value: serde_json::Value| {
        let path = original.path().join(file);
        let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        settings.pointer_mut(parent).unwrap()[key] = value;
        std::fs::write(&path, settings.to_string()).unwrap();
    };
    edit("open_clip_config.json", "/preprocess_cfg/resize_mode", "squash".into());
    assert!(refused(original.path(), Layout::HuggingFace).contains("squash"));
    edit("open_clip_config.json", "/model_cfg/text_cfg/layers", 3.into());
    let error = refused(original.path(), Layout::OpenClip);
    // everything that the third block would need, at once
    assert!(
        error.contains("12 missing") && error.contains("resblocks.2.attn.in_proj_bias"),
        "{error}"
    );
    edit("open_clip_config.json", "/model_cfg/text_cfg/layers", 1.into());
    let error = refused(original.path(), Layout::OpenClip);
    assert!(
        error.contains("12 not known") && error.contains("resblocks.1.ln_1.weight"),
        "{error}"
    );
    std::fs::create_dir(&to).unwrap();
    let error = convert(original.path(), &to, Layout::Bundle).unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
}

#[test]
fn a_clip_without_a_tokenizer_still_embeds_pictures_and_says_why_not_texts() {
    let original = complete(HF);
    std::fs::remove_file(original.path().join("tokenizer.json")).unwrap();
    let model = open(original.path());
    assert!(model.vision().is_some() && model.text().is_none());
    let error = model.embed_texts(&["w1"]).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
