//! The metrics against numpy, scikit-learn and scikit-image (`scripts/fixtures/{retrieval,zero_shot,ridge,picture_similarity}.py`).

use bifocal_eval::{Direction, Lambda, Ridge, class_weights, retrieval, zero_shot};
use serde::Deserialize;

#[derive(Deserialize)]
struct RetrievalCase {
    name: String,
    dim: usize,
    images: Vec<f32>,
    texts: Vec<f32>,
    text_image: Vec<usize>,
    text_to_image: Direction,
    image_to_text: Direction,
}

/// Everything counted is equal; sums of fractions may differ in the last digits.
fn assert_same(found: &Direction, expected: &Direction, what: &str) {
    let counts = |d: &Direction| (d.queries, d.candidates, d.tied, [d.r1, d.r5, d.r10, d.median_rank]);
    assert_eq!(counts(found), counts(expected), "{what}");
    assert!(
        (found.mean_rank - expected.mean_rank).abs() < 1e-9
            && (found.map - expected.map).abs() < 1e-12
            && found.map > 0.0,
        "{what}: {found:?} {expected:?}"
    );
    let chance = |d: &Direction| [d.chance.r1, d.chance.r5, d.chance.r10, d.chance.median_rank];
    for (f, e) in chance(found).iter().zip(chance(expected)) {
        assert!((f - e).abs() < 1e-12, "{what}: chance {f} for {e}");
    }
}

#[test]
fn retrieval_agrees_with_a_full_sort_in_numpy() {
    let cases: Vec<RetrievalCase> = serde_json::from_str(include_str!("fixtures/retrieval.json")).unwrap();
    assert_eq!(cases.len(), 7);
    assert!(
        cases.iter().any(|c| c.text_to_image.tied > 20),
        "the fixture has to hold ties"
    );
    for case in cases {
        let report = retrieval(&case.images, &case.texts, case.dim, &case.text_image).unwrap();
        assert_same(
            &report.text_to_image,
            &case.text_to_image,
            &format!("{}, text to image", case.name),
        );
        assert_same(
            &report.image_to_text,
            &case.image_to_text,
            &format!("{}, image to text", case.name),
        );
    }
}

#[test]
fn retrieval_does_not_depend_on_the_number_of_threads() {
    let cases: Vec<RetrievalCase> = serde_json::from_str(include_str!("fixtures/retrieval.json")).unwrap();
    let case = &cases[0];
    // Enough captions for several tasks.
    let times = 17;
    let texts = case.texts.repeat(times);
    let pairs = case.text_image.repeat(times);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| retrieval(&case.images, &texts, case.dim, &pairs).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(3));
    // Repeating the captions changes neither recall nor rank of text → image.
    assert_eq!(one.text_to_image.r1, case.text_to_image.r1);
    assert_eq!(one.text_to_image.median_rank, case.text_to_image.median_rank);
}

#[derive(Deserialize)]
struct ZeroShotFile {
    cases: Vec<ZeroShotCase>,
    prompts: Prompts,
}

#[derive(Deserialize)]
struct ZeroShotCase {
    dim: usize,
    images: Vec<f32>,
    weights: Vec<f32>,
    labels: Vec<usize>,
    top1: f64,
    top5: f64,
    mean_per_class: f64,
    tied: usize,
}

#[derive(Deserialize)]
struct Prompts {
    per_class: usize,
    dim: usize,
    prompts: Vec<f32>,
    weights: Vec<f32>,
}

#[test]
fn zero_shot_agrees_with_a_full_sort_in_numpy() {
    let file: ZeroShotFile = serde_json::from_str(include_str!("fixtures/zero_shot.json")).unwrap();
    assert_eq!(file.cases.len(), 3);
    for case in file.cases {
        let report = zero_shot(&case.images, &case.weights, case.dim, &case.labels).unwrap();
        assert_eq!(
            (report.top1, report.top5, report.tied),
            (case.top1, case.top5, case.tied)
        );
        assert!((report.mean_per_class - case.mean_per_class).abs() < 1e-12);
    }
    let prompts = file.prompts;
    let weights = class_weights(&prompts.prompts, prompts.per_class, prompts.dim).unwrap();
    assert_eq!(weights.len(), prompts.weights.len());
    for (w, e) in weights.iter().zip(&prompts.weights) {
        assert!((w - e).abs() < 1e-6, "{w} for {e}");
    }
}

#[derive(Deserialize)]
struct RidgeFile {
    din: usize,
    dout: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    fits: Vec<RidgeFit>,
}

#[derive(Deserialize)]
struct RidgeFit {
    lambda: f64,
    weight: Vec<f32>,
    bias: Vec<f32>,
    predicted: Vec<f32>,
}

#[test]
fn ridge_agrees_with_scikit_learn() {
    let file: RidgeFile = serde_json::from_str(include_str!("fixtures/ridge.json")).unwrap();
    assert_eq!(file.fits.len(), 4);
    for fit in file.fits {
        let ridge = Ridge::fit(&file.x, &file.y, file.din, file.dout, Lambda::Fixed(fit.lambda)).unwrap();
        let predicted = ridge.predict(&file.x).unwrap();
        let pairs = [
            ("weight", ridge.weight(), &fit.weight[..]),
            ("bias", ridge.bias(), &fit.bias[..]),
            ("prediction", &predicted[..fit.predicted.len()], &fit.predicted[..]),
        ];
        for (what, found, expected) in pairs {
            assert_eq!(found.len(), expected.len(), "{what}");
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 2e-5, "lambda {}: {what} {f} for {e}", fit.lambda);
            }
        }
    }
}

#[derive(Deserialize)]
struct PictureCase {
    size: [usize; 2],
    a: Vec<u8>,
    b: Vec<u8>,
    psnr: f64,
    ssim: f64,
}

#[test]
fn pictures_are_as_similar_as_scikit_image_says() {
    use bifocal_eval::picture::{psnr, ssim};
    let cases: Vec<PictureCase> = serde_json::from_str(include_str!("fixtures/pictures.json")).unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let found = [
            psnr(&case.a, &case.b).unwrap(),
            ssim(&case.a, &case.b, case.size, 3).unwrap(),
        ];
        for (found, expected) in found.into_iter().zip([case.psnr, case.ssim]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }
}
