//! The losses of BLIP-2's first stage beside their twins in f64, with their slopes.

use bifocal_align::losses::{hard_negatives, matching, query_contrast, query_similarities, word_losses};
use bifocal_nn::Tensor;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::Rng;

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    most + values.map(|v| (v - most).exp()).sum::<f64>().ln()
}

fn normal(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| scale * rng.normal()).collect()
}

fn gradient<const D: usize>(x: &[f32], shape: [usize; D], loss: impl Fn(Tensor<D>) -> Tensor<1>) -> (f32, Vec<f32>) {
    let leaf = tensor(x.to_vec(), shape).autodiff().require_grad();
    let loss = loss(leaf.clone());
    let grads = loss.backward();
    (scalar(loss), values(leaf.grad(&grads).unwrap()))
}

/// A loss against its twin in f64, and its gradient against the twin's slope.
fn twin<const D: usize>(
    x: &[f32],
    shape: [usize; D],
    loss: impl Fn(Tensor<D>) -> Tensor<1>,
    naive: impl Fn(&[f64]) -> f64,
) {
    let (value, grad) = gradient(x, shape, loss);
    let mut x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let expected = naive(&x);
    assert!(
        (f64::from(value) - expected).abs() < 2e-5 * expected.abs().max(1.0),
        "{value} {expected}"
    );
    for i in 0..x.len() {
        let middle = x[i];
        let mut at = |step: f64| {
            x[i] = middle + step;
            naive(&x)
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        x[i] = middle;
        assert!(
            (f64::from(grad[i]) - slope).abs() < 1e-4 * slope.abs().max(1.0),
            "{i}: {} {slope}",
            grad[i]
        );
    }
}

fn smoothed(row: &[f64], own: usize, smoothing: f64) -> f64 {
    let all = log_sum_exp(row.iter().copied());
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    all - (1.0 - smoothing) * row[own] - smoothing * mean
}

#[test]
fn contrast_equals_its_twin_with_its_slope() {
    let n = 5;
    let naive = |s: &[f64], temperature: f64| {
        let row = |i: usize| (0..n).map(|j| s[i * n + j] / temperature).collect::<Vec<_>>();
        let column = |j: usize| (0..n).map(|i| s[i * n + j] / temperature).collect::<Vec<_>>();
        let both = |i: usize| smoothed(&row(i), i, 0.1) + smoothed(&column(i), i, 0.1);
        (0..n).map(both).sum::<f64>() / (2 * n) as f64
    };
    let s = normal(n * n, 0.5, 1);
    let temperature = || tensor(vec![0.5], [1]);
    twin(&s, [n, n], |s| query_contrast(s, temperature(), 0.1), |s| naive(s, 0.5));
    let fixed: Vec<f64> = s.iter().map(|&v| f64::from(v)).collect();
    let of_temperature = |t: Tensor<1>| query_contrast(tensor(s.clone(), [n, n]), t, 0.1);
    twin(&[0.3], [1], of_temperature, |t| naive(&fixed, t[0]));
}

#[test]
fn the_best_query_counts_and_alone_learns() {
    // two pictures of two queries, two texts, in the plane
    let images = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.6, 0.8];
    let texts = || tensor(vec![1.0, 0.0, 0.0, -1.0], [2, 2]);
    let found = values(query_similarities(tensor(images.to_vec(), [4, 2]), texts(), 2));
    assert_eq!(found, [1.0, 0.0, 0.6, 0.0]);
    let (_, grad) = gradient(&images, [4, 2], |x| {
        query_similarities(x, texts(), 2).slice([1..2, 0..1]).sum()
    });
    assert_eq!(grad, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn matching_and_words_equal_their_twins_with_their_slope() {
    let naive = |x: &[f64]| {
        let row = |i: usize| log_sum_exp(x[2 * i..2 * i + 2].iter().copied()) - x[2 * i + usize::from(i < 2)];
        (0..6).map(row).sum::<f64>() / 6.0
    };
    twin(&normal(12, 2.0, 2), [6, 2], |x| matching(x, 2), naive);
    let next = [(0, 3), (2, 0), (2, 4)];
    let naive = |x: &[f64]| {
        let one = |&(row, word): &(u32, u32)| smoothed(&x[row as usize * 5..][..5], word as usize, 0.1);
        next.iter().map(one).sum::<f64>()
    };
    twin(&normal(15, 2.0, 3), [3, 5], |x| word_losses(x, &next, 0.1).sum(), naive);
}

#[test]
fn huge_logits_stay_finite() {
    for scale in [1e4, -1e4] {
        let finite = |(value, grad): (f32, Vec<f32>)| assert!(value.is_finite() && grad.iter().all(|g| g.is_finite()));
        let x = normal(16, scale, 4);
        finite(gradient(&x, [4, 4], |x| query_contrast(x, tensor(vec![1.0], [1]), 0.1)));
        finite(gradient(&x, [8, 2], |x| matching(x, 3)));
        finite(gradient(&x, [4, 4], |x| word_losses(x, &[(0, 1), (3, 2)], 0.1).sum()));
    }
}

#[test]
fn what_looks_alike_is_drawn_as_often_as_the_softmax_says() {
    let logits = [9.0, 0.0, 1.0, 0.0, 9.0, 2.0, 3.0, 0.0, 9.0];
    let mut counts = [[0usize; 3]; 3];
    let mut rng = Rng::new(5);
    let rounds = 20_000;
    for _ in 0..rounds {
        let draws: Vec<f32> = (0..6).map(|_| rng.unit()).collect();
        let (pictures, texts) = hard_negatives(&logits, &draws);
        assert!(
            pictures
                .iter()
                .chain(&texts)
                .zip([0, 1, 2, 0, 1, 2])
                .all(|(&i, own)| i != own)
        );
        texts
            .iter()
            .enumerate()
            .for_each(|(i, &text)| counts[i][text as usize] += 1);
    }
    // of row 0: e⁰ and e¹
    let share = counts[0][2] as f64 / f64::from(rounds);
    assert!((share - 1f64.exp() / (1.0 + 1f64.exp())).abs() < 0.015, "{share}");
    assert_eq!(hard_negatives(&[1.0], &[0.3, 0.4]), (vec![], vec![]));
    let (pictures, texts) = hard_negatives(&[f32::NAN; 4], &[0.5; 4]);
    assert_eq!((pictures, texts), (vec![1, 0], vec![1, 0]));
}
