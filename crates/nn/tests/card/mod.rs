//! The graphics card of the tests, and how far from the CPU it may be.

use std::sync::OnceLock;

use bifocal_nn::{Device, engine};

/// Of the largest value of what is compared, which counts as 1 at least.
const TOLERANCE: f32 = 1e-3;

/// The first card; `None`, after saying so, where there is none: then nothing is compared.
pub fn card() -> Option<Device> {
    static CARD: OnceLock<Option<Device>> = OnceLock::new();
    let found = CARD.get_or_init(|| match engine::gpu() {
        Ok(device) => {
            println!("computing on {}", engine::name(&device));
            Some(device)
        }
        Err(error) => {
            println!("SKIPPED: {error}");
            None
        }
    });
    found.clone()
}

/// The largest difference, relative to the largest value (at least 1).
pub fn distance(name: &str, found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "{name}: lengths");
    let scale = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let mut most = 0.0f32;
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= TOLERANCE * scale,
            "{name}[{i}]: {a} against {b} of the CPU"
        );
        most = most.max((a - b).abs() / scale);
    }
    most
}
