//! Probes, correlations, calibration and rules against scikit-learn, scipy and numpy (`scripts/fixtures/metrics.py`).

use bifocal_eval::calibration::{calibration, decide};
use bifocal_eval::neighbours::nearest;
use bifocal_eval::probe::{Probe, ProbeOptions};
use bifocal_eval::rules::{mmvp, spearman, winoground};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    probe: ProbeCase,
    correlations: Vec<Correlation>,
    calibrated: Calibrated,
    rules: Vec<RuleCase>,
}

#[derive(Deserialize)]
struct ProbeCase {
    dim: usize,
    classes: usize,
    x: Vec<f32>,
    y: Vec<usize>,
    test: Vec<f32>,
    fits: Vec<Fit>,
    neighbours: Vec<Neighbours>,
}

#[derive(Deserialize)]
struct Fit {
    c: f64,
    scores: Vec<f64>,
    predicted: Vec<usize>,
}

#[derive(Deserialize)]
struct Neighbours {
    k: usize,
    predicted: Vec<usize>,
}

#[derive(Deserialize)]
struct Correlation {
    a: Vec<f64>,
    b: Vec<f64>,
    rho: f64,
}

#[derive(Deserialize)]
struct Calibrated {
    dim: usize,
    scale: f32,
    images: Vec<f32>,
    weights: Vec<f32>,
    labels: Vec<usize>,
    decided: Vec<usize>,
    ece: f64,
    confidence: f64,
}

#[derive(Deserialize)]
struct RuleCase {
    s: [[f32; 2]; 2],
    mmvp: bool,
    text: bool,
    image: bool,
}

fn file() -> File {
    serde_json::from_str(include_str!("fixtures/metrics.json")).unwrap()
}

#[test]
fn the_linear_probe_agrees_with_scikit_learn() {
    let case = file().probe;
    assert_eq!(case.fits.len(), 3);
    for fit in case.fits {
        let options = ProbeOptions {
            c: fit.c,
            tolerance: 1e-9,
            ..ProbeOptions::default()
        };
        let probe = Probe::fit(&case.x, &case.y, case.dim, case.classes, &options).unwrap();
        assert!(
            probe.converged && probe.iterations < 200,
            "C {}: {} steps",
            fit.c,
            probe.iterations
        );
        let scores = probe.scores(&case.test).unwrap();
        // scikit-learn's own limit of convergence
        for (f, e) in scores.iter().zip(&fit.scores) {
            assert!((f - e).abs() < 2e-4 * e.abs().max(1.0), "C {}: {f} for {e}", fit.c);
        }
        assert_eq!(scores.len(), fit.scores.len());
        assert_eq!(probe.predict(&case.test).unwrap(), fit.predicted, "C {}", fit.c);
    }
}

#[test]
fn neighbours_agree_with_scikit_learn() {
    let case = file().probe;
    for found in case.neighbours {
        let classes = nearest(&case.x, &case.y, &case.test, case.dim, case.classes, found.k).unwrap();
        assert_eq!(classes, found.predicted, "k {}", found.k);
    }
}

#[test]
fn rank_correlations_agree_with_scipy() {
    let cases = file().correlations;
    assert_eq!(cases.len(), 3);
    for case in cases {
        let found = spearman(&case.a, &case.b).unwrap();
        assert!((found - case.rho).abs() < 1e-12, "{found} for {}", case.rho);
    }
}

#[test]
fn calibration_agrees_with_numpy() {
    let case = file().calibrated;
    let decisions = decide(&case.images, &case.weights, case.dim, &case.labels, case.scale).unwrap();
    assert_eq!(decisions.iter().map(|d| d.class).collect::<Vec<_>>(), case.decided);
    let found = calibration(&decisions, &case.labels).unwrap();
    assert!((found.ece - case.ece).abs() < 1e-5, "{} for {}", found.ece, case.ece);
    assert!((found.confidence - case.confidence).abs() < 1e-5);
}

#[test]
fn rules_agree_with_their_formulas() {
    let cases = file().rules;
    assert!(cases.iter().filter(|c| c.mmvp).count() > 10 && cases.iter().filter(|c| c.text && c.image).count() > 5);
    for case in cases {
        assert_eq!(mmvp(case.s), case.mmvp, "{:?}", case.s);
        let found = winoground(case.s);
        assert_eq!(
            (found.text, found.image, found.group),
            (case.text, case.image, case.text && case.image),
            "{:?}",
            case.s
        );
    }
}
