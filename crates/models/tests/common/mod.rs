//! What the tests of models share.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};

use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;

/// A file beside the tests.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
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
