//! What the tests of models share.
#![allow(dead_code)] // each test uses its part

use std::fs;
use std::path::{Path, PathBuf};

use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Module, Tensor, params};
use serde_json::Value;

/// A file beside the tests.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture's folder, and of the folders in it, with one of its settings files changed.
pub fn edited(folder: &str, file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(folder), dir.path());
    let path = dir.path().join(file);
    let mut settings = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut settings);
    fs::write(&path, settings.to_string()).unwrap();
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else if !path.ends_with("expected.safetensors") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Numbers that a reference library wrote.
pub struct Numbers(SafeTensors);

impl Numbers {
    pub fn open(name: &str) -> Self {
        Self(SafeTensors::open(&fixture(name)).expect("the fixture is readable"))
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        self.0.load(name).expect("the fixture has it").data
    }

    pub fn source(&self) -> &dyn TensorSource {
        &self.0
    }
}

/// Lines of text that are hard on tokenizers and models.
pub fn lines() -> Vec<String> {
    let text = std::fs::read_to_string(fixture("lines.json")).expect("the fixture is readable");
    serde_json::from_str(&text).expect("a list of texts")
}

/// A folder named by a variable; tells what is skipped when it is not set.
pub fn folder(variable: &str, test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: {test}: set {variable} (see CONTRIBUTING.md) to run it");
    }
    folder
}

pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(
            0.0,
            |worst: f32, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) },
        );
    assert!(worst <= tolerance, "{what}: differs by {worst}");
    println!("{what}: largest difference {worst:.1e}");
}

/// The smallest cosine between rows.
pub fn worst_cosine(a: &[f32], b: &[f32], dim: usize) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    a.chunks_exact(dim)
        .zip(b.chunks_exact(dim))
        .map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt())
        .fold(
            1.0,
            |worst, c| if c.is_nan() { f64::NEG_INFINITY } else { worst.min(c) },
        )
}

/// A copy of a CLIP fixture with a tokenizer, which the fixtures do without: 46 words, `<start>` and `<end>`.
pub fn complete(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let path = entry.expect("a file").path();
        if !path.ends_with("expected.safetensors") {
            std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copy");
        }
    }
    let words = (0..47).map(|i| (format!("w{i}"), i));
    let vocabulary: std::collections::BTreeMap<String, u32> = words
        .chain([("<start>".to_owned(), 47), ("<end>".to_owned(), 48)])
        .collect();
    let template = |token: &str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [template("<start>"), {"Sequence": {"id": "A", "type_id": 0}}, template("<end>")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                "<start>": {"id": "<start>", "ids": [47], "tokens": ["<start>"]},
                "<end>": {"id": "<end>", "ids": [48], "tokens": ["<end>"]},
            },
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    });
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(dir.path().join(name), value.to_string()).expect("write");
    };
    write("tokenizer.json", &tokenizer);
    write(
        "tokenizer_config.json",
        &serde_json::json!({"bos_token": "<start>", "eos_token": "<end>", "unk_token": "w0"}),
    );
    dir
}

/// The parameters of a tower, all of which learn, that the gradient of its output in a random direction does not reach.
pub fn unreached<M: Module>(tower: &M, y: Tensor<2>) -> Vec<String> {
    let [n, c] = y.dims();
    // a random direction: sums of normalised values may vanish by symmetry
    let mut rng = Rng::new(2);
    let direction = tensor((0..n * c).map(|_| rng.normal()).collect(), [n, c]);
    let gradients = Gradients::collect(tower, (y * direction).sum().backward());
    let reached = |name: &str| gradients.reach().any(|(found, largest)| found == name && largest > 0.0);
    let all = params::list(tower);
    assert!(!all.is_empty());
    all.into_iter()
        .map(|info| info.name)
        .filter(|name| !reached(name))
        .collect()
}
